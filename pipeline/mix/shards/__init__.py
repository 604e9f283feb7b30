"""Token shards drawn from the slices by a mixture's weights."""
