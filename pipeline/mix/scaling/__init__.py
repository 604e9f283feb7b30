"""Scaling laws fitted to runs, and compute allocated by them."""
