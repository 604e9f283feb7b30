"""Shards, manifests, schema and SQL: what every stage stands on."""
