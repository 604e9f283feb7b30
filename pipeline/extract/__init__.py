"""Inputs to documents: one module an input kind, and the workers that keep a hostile page to itself."""
