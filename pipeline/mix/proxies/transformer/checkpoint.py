"""What a run leaves in its folder: `checkpoint.npz` while it trains, `model.npz` when it is done. No pickle.

    checkpoint.npz   parameters, both moments of AdamW, sequences taken of each slice, and `about`
    model.npz        each matrix by its name, and `about`

`about` is JSON: what decides the run (a checkpoint of anything else is not resumed), the step, and what it cost so far.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.types import TrainedRun
from pipeline.table.errors import ShardError
from pipeline.table.kept import write_file

CHECKPOINT = "checkpoint.npz"
MODEL = "model.npz"
_DAMAGED = (ValueError, KeyError, OSError, zipfile.BadZipFile, EOFError)


@dataclass
class Progress:
    """How far a run is. `pending` is the summed loss and the tokens since the curve's last point."""

    step: int
    tokens: int
    cpu_s: float
    flops: float
    curve: list[tuple[int, float]]
    pending: tuple[float, int]

    def trained(self) -> TrainedRun:
        """Return what is told about the run."""
        return TrainedRun(self.tokens, self.step, self.cpu_s, self.flops, tuple(self.curve))


def new_progress() -> Progress:
    """Return the progress of a run that has not begun."""
    return Progress(0, 0, 0.0, 0.0, [], (0.0, 0))


def save(path: Path, decides: Mapping[str, Any], progress: Progress, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file of a run atomically."""
    about = json.dumps({"decides": decides, **vars(progress)}, allow_nan=False)
    buffer = io.BytesIO()
    np.savez(buffer, about=np.array(about), **dict(arrays))  # type: ignore[arg-type]
    write_file(path, buffer.getvalue())


def load(path: Path, decides: Mapping[str, Any]) -> tuple[Progress, dict[str, NDArray[Any]]] | None:
    """Return what a file of this run holds; None when it is absent or belongs to something else.

    Raises: ShardError when it is damaged.
    """
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            if about.pop("decides") != decides:
                return None
            arrays = {name: file[name] for name in file.files if name != "about"}
    except FileNotFoundError:
        return None
    except _DAMAGED as error:
        raise ShardError(f"{path} is damaged ({error}); delete it and the run starts anew") from error
    curve = [(int(tokens), float(loss)) for tokens, loss in about["curve"]]
    return Progress(**{**about, "curve": curve, "pending": tuple(about["pending"])}), arrays


def peek(path: Path, decides: Mapping[str, Any]) -> Progress | None:
    """Return how far a file of this run says it is; None when it is absent or belongs to something else.

    Raises: ShardError when it is damaged.
    """
    loaded = load(path, decides)
    return None if loaded is None else loaded[0]
