"""Repositories of code to documents: the parent's side (`reader`), the worker's (`source`), and their licences."""
