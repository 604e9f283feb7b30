"""Dumps of MediaWiki sites to documents: their XML, and what their markup means."""
