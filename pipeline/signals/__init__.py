"""Measurements beside the documents: language, text statistics, token counts."""
