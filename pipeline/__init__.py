"""Gristmill: pre-training data curation as plain functions on tables. Nothing below here imports Prefect."""
