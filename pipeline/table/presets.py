"""Presets that the `configs` package ships: found in a checkout and in an installed wheel alike."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Literal

PresetKind = Literal["rules", "classifiers", "prompts", "mixes", "suites"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def preset_path(kind: PresetKind, name: str) -> Path | None:
    """Return the file of a preset, or None when there is none of that name."""
    if not _NAME.fullmatch(name):
        return None
    path = _folder(kind) / f"{name}.yaml"
    return path if path.is_file() else None


def preset_names(kind: PresetKind) -> list[str]:
    """Return the names of all presets of a kind, sorted."""
    folder = _folder(kind)
    return sorted(path.stem for path in folder.glob("*.yaml")) if folder.is_dir() else []


def _folder(kind: PresetKind) -> Path:
    return Path(str(importlib.resources.files("configs"))) / kind
