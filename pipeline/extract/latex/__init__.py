"""Papers in LaTeX to documents: the parent's side (`reader`) and the worker's (`papers` and what it needs)."""
