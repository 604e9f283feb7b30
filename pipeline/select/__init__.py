"""Decisions in SQL: rules, one keeper a component, the ledger of outcomes, the curated shards."""
