"""Scaling laws in files: a CSV of runs becomes a folder with `fit.json`; predictions and allocations read that."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.scaling import allocate as allocation
from pipeline.mix.scaling.allocate import Allocation
from pipeline.mix.scaling.law import NAMES, ScalingLaw, ScalingRuns, check_identifiable, fit_law, predict
from pipeline.report.drawing import can_draw
from pipeline.table.errors import InputError, ShardError, UsageError, nearest
from pipeline.table.kept import read_json, write_file
from pipeline.table.storage import read_file

FIT, PLOT = "fit.json", "isoflop.png"
COLUMNS = {
    "parameters": ("parameters", "params", "n", "n_params", "num_params", "n_parameters", "model_size"),
    "tokens": ("tokens", "d", "n_tokens", "num_tokens", "training_tokens", "train_tokens"),
    "loss": ("loss", "l", "final_loss", "val_loss", "validation_loss", "eval_loss"),
}
FAR = 10.0
"""A prediction so many times beyond the largest (or below the smallest) fitted value is called an extrapolation."""

_MAX_BYTES, _MAX_RUNS, _MAX_BOOTSTRAP = 32 << 20, 20_000, 10_000
_FORMAT, _VERSION = "gristmill scaling law", 1


def read_runs(path: str | Path) -> ScalingRuns:
    """Read runs from CSV: columns `parameters`, `tokens`, `loss` (or N, D, L, in any case); others are ignored.

    Raises: InputError with the line of a value that is no finite number above zero, or the column that is missing.
    """
    text = _text(path)
    rows = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip() for name in next(rows, [])]
        places = _places(header, path)
        values = [_row(row, places, rows.line_num, path) for row in rows if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num}: {error}; give a CSV with a header") from error
    if len(values) > _MAX_RUNS:
        raise InputError(f"{path}: {len(values)} runs; at most {_MAX_RUNS} are fitted")
    table = np.array(values, np.float64).reshape(-1, 3)
    return ScalingRuns(table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy())


def fit_file(path: str | Path, out_dir: str | Path, bootstrap: int = 200, seed: int = 1) -> str:
    """Fit the law to a CSV of runs, write `fit.json` and `isoflop.png` to a folder, and return the report's text.

    Raises: InputError (see `read_runs`, `check_identifiable`); UsageError for a number of draws out of range.
    """
    if not 8 <= bootstrap <= _MAX_BOOTSTRAP:
        raise UsageError(f"bootstrap is {bootstrap}; give 8 to {_MAX_BOOTSTRAP}")
    runs = read_runs(path)
    try:
        check_identifiable(runs)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    law = fit_law(runs, bootstrap, seed)
    if can_draw():
        isoflop_plot(law, runs, Path(out_dir, PLOT))
    save(law, out_dir, {"runs_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(), "seed": seed})
    return describe(law)


def predict_file(fit_dir: str | Path, parameters: float, tokens: float) -> tuple[dict[str, float], str]:
    """Predict a loss from a folder that `fit_file` wrote; return `Predicted` as numbers, and a text with notes.

    Raises: InputError when the fit cannot be read; UsageError for values that are not finite and above zero.
    """
    law = load(fit_dir)
    for name, value in (("parameters", parameters), ("tokens", tokens)):
        if not (np.isfinite(value) and value > 0):
            raise UsageError(f"{name}: {value:g}; give finite numbers above zero")
    found = asdict(predict(law, np.array([parameters]), np.array([tokens])))
    values = {name: float(number[0]) for name, number in found.items()}
    said = (
        f"parameters {parameters:.4g}, tokens {tokens:.4g}: loss {values['loss']:.4f} "
        f"(90 % interval {values['lo']:.4f} to {values['hi']:.4f}; "
        f"of a single run {values['run_lo']:.4f} to {values['run_hi']:.4f})"
    )
    return values, "\n".join([said, *(f"  note: {note}" for note in extrapolation(law, parameters, tokens))])


def allocate(fit_dir: str | Path, flops: float, served_tokens: float = 0) -> dict[str, Allocation]:
    """Return what to train: `compute_optimal`, and with tokens to be served `same_loss` and `same_budget`.

    `same_loss` reaches the compute-optimal model's loss at the least cost of training plus serving; `same_budget` has
    the least loss whose training plus serving takes `flops`.

    Raises: UsageError for numbers out of range.
    """
    law = load(fit_dir)
    found = {"compute_optimal": allocation.compute_optimal(law, flops)}
    if served_tokens:
        found["same_loss"] = allocation.serving_same_loss(law, flops, served_tokens)
        found["same_budget"] = allocation.serving_budget(law, flops, served_tokens)
    return found


def describe_allocations(fit_dir: str | Path, found: dict[str, Allocation], served_tokens: float = 0) -> str:
    """Return the text of allocations: what each is, its values with 90 % intervals, and what is extrapolated."""
    law = load(fit_dir)
    titles = {
        "compute_optimal": "compute-optimal training",
        "same_loss": f"the same loss at the least cost of training and serving {served_tokens:.4g} tokens",
        "same_budget": f"the least loss, if the budget pays for training and serving {served_tokens:.4g} tokens",
    }
    lines = []
    for name, one in found.items():
        lines.append(f"{titles[name]}:")
        for key, numbers in one.plain().items():
            value, lo, hi = (format(number, ".4f" if key == "loss" else ".4g") for number in numbers.values())
            lines.append(f"  {key:<11}{value}" + (f" (90 % interval {lo} to {hi})" if lo != hi else ""))
        lines.append(f"  tokens a parameter {one.tokens.value / one.parameters.value:.3g}")
        lines += [f"  note: {note}" for note in extrapolation(law, one.parameters.value, one.tokens.value)]
    return "\n".join(lines)


def extrapolation(law: ScalingLaw, parameters: float, tokens: float) -> list[str]:
    """Return a sentence for each of both values that lies more than ten times outside the fitted range."""
    notes = []
    ranges = (("parameters", parameters, law.parameters_range), ("tokens", tokens, law.tokens_range))
    for name, value, (least, most) in ranges:
        if value > FAR * most:
            notes.append(
                f"{name} {value:.4g} is {value / most:.3g} times the largest fitted ({most:.4g}): extrapolation"
            )
        elif value < least / FAR:
            notes.append(
                f"{name} {value:.4g} is 1/{least / value:.3g} of the smallest fitted ({least:.4g}): extrapolation"
            )
    return notes


def describe(law: ScalingLaw) -> str:
    """Return the report of a fit: the law's values with 90 % intervals, its noise, ranges and notes."""
    intervals = law.intervals()
    lines = [f"loss = E + A / parameters^alpha + B / tokens^beta, fitted to {law.n_runs} runs"]
    for name, value, (lo, hi) in zip(NAMES, law.theta, intervals, strict=True):
        lines.append(f"  {name:<6}{value:<10.4g} 90 % interval {lo:.4g} to {hi:.4g}")
    lines.append(f"  noise of one run's loss {law.noise:.2%}; Huber delta {law.delta:.3g} on the log loss")
    for name, (least, most) in (("parameters", law.parameters_range), ("tokens", law.tokens_range)):
        lines.append(f"  {name} from {least:.4g} to {most:.4g}")
    return "\n".join(lines + [f"  note: {note}" for note in law.notes])


def save(law: ScalingLaw, out_dir: str | Path, provenance: dict[str, Any]) -> None:
    """Write a law to `fit.json` in a folder, at once or not at all.

    Raises: ShardError when the folder cannot be written.
    """
    values = zip(NAMES, law.theta.tolist(), law.intervals().tolist(), strict=True)
    content = {
        "format": _FORMAT,
        "version": _VERSION,
        "values": {name: {"value": value, "lo": lo, "hi": hi} for name, value, (lo, hi) in values},
        "noise": law.noise,
        "delta": law.delta,
        "n_runs": law.n_runs,
        "parameters_range": law.parameters_range,
        "tokens_range": law.tokens_range,
        "notes": law.notes,
        "provenance": provenance,
        "draws": law.draws.tolist(),
    }
    data = json.dumps(content, indent=1, allow_nan=False).encode()
    write_file(Path(out_dir, FIT), data + b"\n")


def load(fit_dir: str | Path) -> ScalingLaw:
    """Read a law from `fit.json` in a folder.

    Raises: InputError when the file is absent or not what `save` writes.
    """
    path = Path(fit_dir, FIT)
    try:
        content = read_json(path)
    except (OSError, ShardError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if content is None:
        raise InputError(f"{path} is not there; make it with `gristmill scaling fit`")
    try:
        if (content["format"], content["version"]) != (_FORMAT, _VERSION):
            raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
        theta = np.array([content["values"][name]["value"] for name in NAMES], np.float64)
        draws = np.array(content["draws"], np.float64)
        if draws.ndim != 2 or draws.shape[1] != len(NAMES) or not len(draws):
            raise ValueError(f"draws have shape {draws.shape}")
        if not all(np.isfinite(numbers).all() and (numbers > 0).all() for numbers in (theta, draws)):
            raise ValueError("values are not finite and above zero")
        numbers = float(content["noise"]), float(content["delta"]), int(content["n_runs"])
        (least, most), (fewest, longest) = content["parameters_range"], content["tokens_range"]
        ranges = (float(least), float(most)), (float(fewest), float(longest))
        return ScalingLaw(theta, draws, *numbers, *ranges, notes=tuple(map(str, content["notes"])))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a scaling law of this version ({error}); run `gristmill scaling fit`"
        ) from error


def isoflop_plot(law: ScalingLaw, runs: ScalingRuns, path: str | Path) -> None:
    """Write a PNG of loss by parameters: the runs, and the law at five compute budgets with its optimum on each.

    The same law and runs give the same bytes with one version of matplotlib.

    Raises: ShardError when the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=120)
    axes = figure.add_subplot()
    compute = np.log10(6 * runs.parameters * runs.tokens)
    span = float(compute.min()), float(compute.max()) + 1e-9
    budgets = np.linspace(*span, 5)
    points = axes.scatter(runs.parameters, runs.loss, c=compute, vmin=span[0], vmax=span[1], s=16, cmap="viridis")
    for budget in budgets:
        colour = points.cmap(points.norm(budget))
        _isoflop(axes, law, runs, 10**budget, colour)
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("loss")
    axes.set_title("Loss at equal training compute; crosses are optima")
    figure.colorbar(points, label="log10 of training FLOPs (6 N D)")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_file(path, buffer.getvalue())


def _isoflop(axes: Any, law: ScalingLaw, runs: ScalingRuns, flops: float, colour: Any) -> None:
    best = allocation.compute_optimal(law, flops)
    least = min(float(runs.parameters.min()), best.parameters.value) / 2
    most = max(float(runs.parameters.max()), best.parameters.value) * 2
    sizes = np.geomspace(least, most, 200)
    predicted = predict(law, sizes, flops / 6 / sizes)
    shown = predicted.loss <= 1.3 * float(runs.loss.max())
    axes.plot(sizes[shown], predicted.loss[shown], color=colour, lw=1)
    axes.fill_between(sizes[shown], predicted.lo[shown], predicted.hi[shown], color=colour, alpha=0.15, lw=0)
    axes.plot([best.parameters.value], [best.loss.value], "x", color=colour, ms=8)


# Files ----------------------------------------------------------------------------------------------------------------


def _text(path: str | Path) -> str:
    try:
        return read_file(path, _MAX_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start}); give a CSV in UTF-8") from error


def _places(header: list[str], path: str | Path) -> list[int]:
    """Return the places of parameters, tokens and loss; the exact name wins over an alias."""
    lowered = [name.lower() for name in header]
    places = []
    for column, aliases in COLUMNS.items():
        found = next((alias for alias in aliases if alias in lowered), None)
        if found is None:
            close = nearest(column, lowered)
            known = ", ".join(repr(name) for name in header[:20]) or "none"
            raise InputError(f"{path}: no column {column!r}{close}; columns are {known}. Name it {aliases[0]!r}")
        if lowered.count(found) > 1:
            raise InputError(f"{path}: {lowered.count(found)} columns are named {found!r}; keep one")
        places.append(lowered.index(found))
    return places


def _row(row: list[str], places: list[int], line: int, path: str | Path) -> list[float]:
    values = []
    for column, place in zip(COLUMNS, places, strict=True):
        cell = row[place].strip() if place < len(row) else ""
        try:
            value = float(cell)
        except ValueError:
            value = np.nan
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{path}, line {line}: {column} is {cell[:40]!r}; give a finite number above zero")
        values.append(value)
    return values
