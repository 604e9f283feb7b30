"""Existing corpora to documents: files of lines, of columns, and the one path from a row to a document."""
