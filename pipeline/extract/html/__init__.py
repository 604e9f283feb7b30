"""Pages of HTML to documents: the worker's side (`text` and what it needs) and the parent's (`pages`)."""
