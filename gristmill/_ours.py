"""What `import gristmill` does first: see that the packages which it stands on are ours."""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path


def import_ours() -> None:
    """Import the packages that this one stands on from where it lies itself, whatever folders are called alike.

    Raises: ImportError when another package of such a name is imported already.
    """
    home, names = Path(__file__).resolve().parent.parent, ("pipeline", "classifiers", "flows", "configs")
    sys.path.insert(0, str(home))
    try:
        for name in names:
            spec = importlib.import_module(name).__spec__
            lies = Path((spec and spec.origin) or "/").resolve()
            if lies != home / name / "__init__.py":
                raise ImportError(f"{lies} is imported as {name!r}, which hides Gristmill's package; rename it")
    finally:
        sys.path.remove(str(home))
    for folder in {Path(entry or ".").resolve() for entry in sys.path} - {home}:
        for name in names:
            if (folder / name / "__init__.py").is_file() or (folder / f"{name}.py").is_file():
                said = f"{folder / name}: `import {name}` gives Gristmill's package of that name; rename yours"
                warnings.warn(said, stacklevel=4)


import_ours()
