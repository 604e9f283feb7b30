"""Inputs to documents: shards, the workers that keep a hostile page to itself, and a room for each kind of input."""
