"""Exact and MinHash duplicates: signatures, bands, components. Nothing is dropped here."""
