"""From slices of curated text to a mixture: swarm, proxies, regression, proposal, token shards."""
