"""Synthetic rephrasing: documents of one source rewritten by a language model into documents of another."""
