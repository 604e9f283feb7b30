"""Gristmill: pre-training data curation as plain functions on tables. Nothing below here imports Prefect."""

from pathlib import Path

HOME = str(Path(__file__).resolve().parent.parent)
PACKAGES = ("pipeline", "classifiers", "flows", "configs")
"""Our top-level packages. Their names are plain words: a user may well have folders that are called so."""
OURS_FIRST = f"import sys; sys.path.insert(0, {HOME!r}); import {', '.join(PACKAGES)}; del sys.path[0]; "
"""Begins what a Python process of ours runs: from here on these names are our packages, whatever its path has."""
