"""Gristmill: pre-training data curation as plain functions on tables. Nothing below here imports Prefect."""

import os
from pathlib import Path

HOME = str(Path(__file__).resolve().parent.parent)
PACKAGES = ("pipeline", "classifiers", "flows", "configs")
"""Our top-level packages. Their names are plain words: a user may well have folders that are called so."""
OURS_FIRST = f"import sys; sys.path.insert(0, {HOME!r}); import {', '.join(PACKAGES)}; del sys.path[0]; "
"""Begins what a Python process of ours runs: from here on these names are our packages, whatever its path has."""

EXTRAS = {
    "ocr": "PDF pages that are read from their picture: RapidOCR with its models, ONNX Runtime. Without it, and "
    "without the program `tesseract`, those pages fail",
    "tiktoken": "`annotate.tokenizer` with a tiktoken file",
    "proxy": "`proxy: {kind: transformer}`: PyTorch",
    "lightgbm": "`fit: {model: lightgbm}`",
    "plots": "the plots of `mix report`, `scaling fit`, and `--html` of `classifier report` and `sweep`: matplotlib. "
    "Without it they are left out, and a line says so",
    "s3": "inputs and workspaces at `s3://`",
}
"""Our extras for `pip install 'gristmill[NAME]'`, and what each is for."""

ENVIRONMENT = {
    "PREFECT_API_URL": "use this Prefect server and start none",
    "XDG_CACHE_HOME": "where the folder `gristmill` lies that holds compiled kernels, Prefect's database and the "
    "copies of remote mixes that are at work (default `~/.cache`; a relative path is ignored); it may be deleted "
    "at any time when nothing runs",
    "NUMBA_CACHE_DIR": "another place for compiled kernels",
    "TMPDIR": "scratch space of `sql` and `extract`, and of runs on a remote workspace; a local workspace has its own "
    "in `_tmp`",
    "AWS_*": "credentials for `s3://`, as s3fs reads them",
    "FSSPEC_*": "configuration of what reads other addresses, as fsspec reads it: "
    """`FSSPEC_HTTPS='{"client_kwargs": {"headers": {"Authorization": "..."}}}'`""",
}
"""The environment variables that change what we do, beside those that `api_key_env` names, and how."""


def user_cache() -> Path:
    """Return this user's folder for what may be deleted; a relative one, for nobody to write to, without a home."""
    configured = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says to ignore a relative path.
    return Path(configured) if os.path.isabs(configured) else Path(os.path.expanduser("~")) / ".cache"
