"""A fit on disk: `fit.json` says what it is and names the one `.npz` with its numbers. Nothing in it is code."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.regression.fitting import Fit, HeldOut
from pipeline.mix.regression.laws import LAWS, Array, LawFit
from pipeline.mix.regression.models import Model, TreesFit
from pipeline.mix.regression.process import ProcessFit
from pipeline.table.errors import InputError
from pipeline.table.kept import write_file
from pipeline.table.storage import read_file

FORMAT = "gristmill-mix-fit-2"
_JSON = "fit.json"
_MAX_BYTES = 1 << 31
_OWN = ("centre", "spread", "noise")
_WHOLE = ("constants", "stretch", "seed_sd")
_HELD = tuple(f.name for f in fields(HeldOut))
_LAW = tuple(f.name for f in fields(LawFit) if f.name != "law")
_PROCESS = tuple(f.name for f in fields(ProcessFit))

Arrays = dict[str, Array]


def save_fit(fit: Fit, folder: str | Path) -> None:
    """Write a fit. Its JSON, which names the file of numbers by their hash, comes last; older numbers go then."""
    folder = Path(folder)
    arrays: Arrays = {name: getattr(fit, name) for name in _WHOLE}
    if fit.held_out is not None:
        arrays |= {f"held_out.{name}": getattr(fit.held_out, name) for name in _HELD}
    models = [_pack(i, model, columns, arrays) for i, (model, columns) in enumerate(fit.models)]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    data = buffer.getvalue()
    name = f"fit-{hashlib.sha256(data).hexdigest()[:32]}.npz"
    about = {
        "format": FORMAT,
        "slices": list(fit.slice_names),
        "metrics": list(fit.metric_names),
        "arrays": name,
        "models": models,
        "seeds": [fit.seed_degrees, fit.seed_count],
        "report": fit.report,
    }
    text = json.dumps(about, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_file(folder / name, data)
    write_file(folder / _JSON, text.encode())
    for old in folder.glob("fit-*.npz"):
        if old.name != name:
            old.unlink(missing_ok=True)


def load_fit(folder: str | Path) -> Fit:
    """Return the fit in a folder.

    Raises: InputError when there is none, it was written by another version, or it is damaged.
    """
    folder = Path(folder)
    path = folder / _JSON
    try:
        about = json.loads(read_file(path, _MAX_BYTES))
        if about.get("format") != FORMAT:
            raise InputError(f"{path} has format {about.get('format')!r}, expected {FORMAT!r}; run `mix fit` again")
        return _unpack(folder, about)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder} holds no fit ({Path(error.filename).name} is missing); run `mix fit` first"
        ) from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        RecursionError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path} is damaged ({error!r}); run `mix fit` again") from error


def _pack(number: int, model: Model, columns: tuple[int, ...], arrays: Arrays) -> dict[str, Any]:
    for name in _OWN:
        arrays[f"{number}.{name}"] = getattr(model, name)
    for kind, part, names in (("law", model.law, _LAW), ("process", model.process, _PROCESS)):
        if part is not None:
            arrays |= {f"{number}.{kind}.{name}": getattr(part, name) for name in names}
    texts = model.trees.texts if model.trees else ()
    for i, own in enumerate(texts):
        for j, text in enumerate(own):
            arrays[f"{number}.tree{i}.{j}"] = np.frombuffer(text.encode(), np.uint8)
    return {
        "name": model.name,
        "columns": list(columns),
        "law": model.law.law if model.law else None,
        "process": model.process is not None,
        "trees": [len(own) for own in texts],
    }


def _unpack(folder: Path, about: dict[str, Any]) -> Fit:
    name = str(about["arrays"])
    if Path(name).name != name:
        raise ValueError(f"arrays are in {name!r}, not a file of the folder")
    data = read_file(folder / name, _MAX_BYTES)
    if name != f"fit-{hashlib.sha256(data).hexdigest()[:32]}.npz":
        raise ValueError(f"{name} is not what was written")
    with np.load(io.BytesIO(data), allow_pickle=False) as stored:
        arrays: Arrays = {key: stored[key] for key in stored.files}
    models = tuple(_model(i, one, arrays) for i, one in enumerate(about["models"]))
    names = tuple(about["slices"]), tuple(about["metrics"])
    held = HeldOut(*(arrays[f"held_out.{name}"] for name in _HELD)) if "held_out.mean" in arrays else None
    degrees, count = map(int, about["seeds"])
    constants, stretch, seed_sd = (arrays[name] for name in _WHOLE)
    return Fit(*names, models, constants, stretch, seed_sd, degrees, count, about["report"], held)


def _model(number: int, about: dict[str, Any], arrays: Arrays) -> tuple[Model, tuple[int, ...]]:
    def read(kind: str, names: tuple[str, ...]) -> Arrays:
        return {name: arrays[f"{number}.{kind}{name}"] for name in names}

    if about["law"] is not None and about["law"] not in LAWS:
        raise ValueError(f"law {about['law']!r} is unknown")
    law = LawFit(about["law"], **read("law.", _LAW)) if about["law"] is not None else None
    process = ProcessFit(**read("process.", _PROCESS)) if about["process"] else None
    texts = tuple(
        tuple(arrays[f"{number}.tree{i}.{j}"].tobytes().decode() for j in range(count))
        for i, count in enumerate(about["trees"])
    )
    model = Model(about["name"], law=law, process=process, trees=TreesFit(texts) if texts else None, **read("", _OWN))
    return model, tuple(about["columns"])
