"""From runs to a fit: models chosen, refitted for uncertainty, intervals calibrated; and what the fit predicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.config import MAX_SLICES, ModelName
from pipeline.mix.regression.choice import FEW_RUNS_A_SLICE, Choice, calibrate, choose
from pipeline.mix.regression.lawfit import Data
from pipeline.mix.regression.models import Model, Single, fit_models, with_refits
from pipeline.mix.regression.scores import scores
from pipeline.mix.regression.trees import has_lightgbm
from pipeline.mix.types import Floats
from pipeline.table.errors import InputError

LEAST_RUNS, MOST_RUNS = 3, 100_000
MOST_RUNS_OF_A_PROCESS = 2000
LEAST_RUNS_OF_TREES = 200  # with fewer, boosted trees lose to any law, and take longer than all of them
_CANDIDATES: tuple[Single, ...] = (
    "effective_data", "ensemble", "gp", "additive", "log_linear", "linear", "lightgbm",
)  # fmt: skip
_Z90 = 1.6448536269514722
_DRAWS_OF_INTERVALS = 128
_THREADS = 8
_BLOCKS_A_THREAD = 8
_BLOCK = 128  # mixtures at once: their arrays stay in the cache


_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Prediction:
    """Metrics of new runs at q mixtures, each (q, m).

    `low` and `high` end the 90 % interval of a new run (what it would measure, its noise included); `mean_low` and
    `mean_high` that of the mean over runs (the fit's own uncertainty alone). Trees do not tell the two apart.
    """

    mean: Floats
    low: Floats
    high: Floats
    mean_low: Floats
    mean_high: Floats


@dataclass(frozen=True)
class HeldOut:
    """What was predicted of the fitted runs (n, m) by fits that had not seen them; `half`: half of the interval."""

    mean: Floats
    half: Floats

    @property
    def low(self) -> Floats:
        return self.mean - self.half

    @property
    def high(self) -> Floats:
        return self.mean + self.half


@dataclass(frozen=True)
class Fit:
    """A regression of m metrics on the weights of k slices.

    `models` pairs each model with the columns (metrics) that use it; a metric that none uses is constant, at
    `constants` (m,). `stretch` (m,) is what calibration made of the intervals. `report` is JSON-serialisable.
    """

    slice_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    models: tuple[tuple[Model, tuple[int, ...]], ...]
    constants: Floats
    stretch: Floats
    report: Mapping[str, Any]
    held_out: HeldOut | None = None

    def save(self, folder: str | Path) -> None:
        """Write the fit (`fit.json` and one `.npz`): the same fit gives the same bytes, and a kill leaves the old."""
        from pipeline.mix.regression.stored import save

        save(self, Path(folder))

    @staticmethod
    def load(folder: str | Path) -> Fit:
        """Return a fit that was saved.

        Raises: InputError when the folder has none, or it is damaged.
        """
        from pipeline.mix.regression.stored import load

        return load(Path(folder))

    def mean(self, weights: Floats) -> Floats:
        """Return the expected metrics (q, m) at mixtures (q, k), without intervals."""
        weights = checked_weights(weights, len(self.slice_names))
        out = np.tile(self.constants, (len(weights), 1))
        for model, columns in self.models:
            for at in range(0, len(weights), _BLOCK):
                out[at : at + _BLOCK, columns] = model.mean(weights[at : at + _BLOCK])
        return out

    def refitted(self, weights: Floats, values: Floats) -> Callable[[Floats], Floats]:
        """Return the expected metrics as a function (q, k) to (q, m), had the same models seen these runs alone."""
        parts = []
        for model, columns in self.models:
            own = values[:, list(columns)]
            data = Data(checked_weights(weights), own, np.zeros_like(own), np.zeros(len(columns)))
            parts.append((fit_models((model.name,), data)[model.name], columns))
        return replace(self, models=tuple(parts), constants=values.mean(0)).mean

    def draws(self, weights: Floats) -> Floats:
        """Return draws of the expected metrics, (d, q, m): the same d fits at every call, in the order of `mean`.

        A model with fewer refits than another repeats them.
        """
        weights = checked_weights(weights, len(self.slice_names))
        parts = [(model.draws(weights), columns) for model, columns in self.models]
        count = max((len(part) for part, _ in parts), default=1)
        out = np.tile(self.constants, (count, len(weights), 1))
        for part, columns in parts:
            out[:, :, columns] = part[np.arange(count) % len(part)]
        return out

    def predict(self, weights: Floats) -> Prediction:
        """Return metrics at mixtures (q, k) with 90 % intervals.

        Raises: InputError when a mixture has the wrong shape, a negative or infinite weight, or only zeros.
        """
        weights = checked_weights(weights, len(self.slice_names))
        mean = np.tile(self.constants, (len(weights), 1))
        sure, noise, alike = np.zeros_like(mean), np.zeros(mean.shape[1]), np.zeros(mean.shape[1])
        for model, columns in self.models:
            noise[list(columns)] = model.noise * model.spread**2
            alike[list(columns)] = model.trees is not None
            few = model.few_draws(_DRAWS_OF_INTERVALS)
            blocks = [slice(at, at + _BLOCK) for at in range(0, len(weights), _BLOCK)]
            for block, found in zip(blocks, _map(few.quick, [weights[block] for block in blocks]), strict=True):
                mean[block, columns], sure[block, columns] = found
        half = _Z90 * self.stretch * np.sqrt(sure + noise)
        half_mean = _Z90 * self.stretch * np.sqrt(sure + noise * alike)
        return Prediction(mean, mean - half, mean + half, mean - half_mean, mean + half_mean)


def fit(
    weights: Floats,
    values: Floats,
    *,
    slice_names: Sequence[str] | None = None,
    metric_names: Sequence[str] | None = None,
    model: ModelName = "auto",
    bootstrap: int = 64,
    seed: int = 1,
    noise: Floats | None = None,
    run_variance: Floats | None = None,
) -> Fit:
    """Return the regression of `values` (n, m) on `weights` (n, k), rows of which are normalised.

    `noise` (m,) is each metric's variance between seeds, where it is known; rows of one mixture tell it as well.
    `run_variance`, (n,) or (n, m), is variance that a run has on top of it (one stopped early).

    Raises: InputError when shapes, numbers or the number of runs cannot be fitted. MissingDependencyError when
    `lightgbm` is asked for and not installed.
    """
    weights, values = checked_weights(weights), np.asarray(values, np.float64)
    slice_names = _names(slice_names, weights.shape[1], "slice")
    _check_values(weights, values, model)
    metric_names = _names(metric_names, values.shape[1], "metric")
    data = _data(weights, values, noise, run_variance)
    moving = np.flatnonzero(np.ptp(values, axis=0) > 1e-12 * np.maximum(1e-300, np.abs(values).max(0)))
    used = Data(weights, values[:, moving], data.extra[:, moving], data.floor[moving])
    stretch = np.ones(values.shape[1])
    models: tuple[tuple[Model, tuple[int, ...]], ...] = ()
    rows: list[dict[str, Any]] = []
    held = HeldOut(values.copy(), np.zeros_like(values))
    if moving.size:
        choice = choose(candidates(model, *weights.shape), used, seed)
        models = _final(choice, used, moving, bootstrap, seed)
        stretch[moving], covered = calibrate(choice, used.values)
        held.mean[:, moving] = choice.mean
        held.half[:, moving] = _Z90 * stretch[moving] * np.sqrt(choice.variance)
        rows = [dict(row) for row in scores(choice.mean, used.values, covered)]
        for row, name in zip(rows, choice.names, strict=True):
            row["model"] = name
    report = _report(metric_names, moving, rows, weights, model)
    return Fit(slice_names, metric_names, models, values.mean(0), stretch, report, held)


def candidates(model: ModelName, n_runs: int, n_slices: int) -> tuple[Single, ...]:
    """Return what a metric's model is chosen from: for `auto` with few runs the effective-data law alone.

    Raises: InputError when a process is asked for on more runs than it can take.
    """
    many = n_runs > MOST_RUNS_OF_A_PROCESS
    if model != "auto":
        if many and model in ("gp", "ensemble"):
            raise InputError(f"model {model!r} takes at most {MOST_RUNS_OF_A_PROCESS} runs, not {n_runs}; use a law")
        return (model,)
    if n_runs < FEW_RUNS_A_SLICE * n_slices:
        return ("effective_data",)
    left_out = {"gp", "ensemble"} if many else set()
    if n_runs < LEAST_RUNS_OF_TREES or not has_lightgbm():
        left_out.add("lightgbm")
    return tuple(name for name in _CANDIDATES if name not in left_out)


def checked_weights(weights: Floats, n_slices: int | None = None) -> Floats:
    """Return mixtures (q, k) with rows that sum to 1.

    Raises: InputError when the shape is wrong, a weight is negative or not finite, or a row has only zeros.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 2 or (n_slices is not None and weights.shape[1] != n_slices):
        raise InputError(f"mixtures have shape {weights.shape}, expected (mixtures, {n_slices or 'slices'})")
    if not 1 <= weights.shape[1] <= MAX_SLICES:
        raise InputError(f"{weights.shape[1]} slices; expected 1 to {MAX_SLICES}")
    wrong = ~(np.isfinite(weights) & (weights >= 0)).all(1) | ~(weights > 0).any(1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"mixture {row} is {weights[row].tolist()[:8]}; weights are finite, not negative, not all zero"
        )
    scaled = weights / weights.max(1, keepdims=True) if len(weights) else weights
    normalised: Floats = scaled / scaled.sum(1, keepdims=True)
    return normalised


def _map(function: Callable[[Floats], _Found], blocks: Sequence[Floats]) -> list[_Found]:
    """Return the function of each block. NumPy leaves the other cores to threads; their number changes no result."""
    workers = min(os.cpu_count() or 1, _THREADS, len(blocks) // _BLOCKS_A_THREAD)
    if workers < 2:
        return [function(block) for block in blocks]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, blocks))


def _final(
    choice: Choice, data: Data, moving: NDArray[np.int64], bootstrap: int, seed: int
) -> tuple[tuple[Model, tuple[int, ...]], ...]:
    """Fit each chosen model on all runs, for the metrics that chose it."""
    models = []
    for name in dict.fromkeys(choice.names):
        own = [j for j, chosen in enumerate(choice.names) if chosen == name]
        part = Data(data.weights, data.values[:, own], data.extra[:, own], data.floor[own])
        model = with_refits(fit_models((name,), part)[name], part, bootstrap, seed)
        models.append((model, tuple(int(moving[j]) for j in own)))
    return tuple(models)


def _check_values(weights: Floats, values: Floats, model: ModelName) -> None:
    if values.ndim != 2 or len(values) != len(weights) or values.shape[1] < 1:
        raise InputError(f"metrics have shape {values.shape}, expected ({len(weights)}, metrics)")
    if not np.isfinite(values).all():
        row, column = (int(i[0]) for i in np.nonzero(~np.isfinite(values)))
        raise InputError(f"metric {column} of run {row} is {values[row, column]}; metrics are finite numbers")
    if len(values) > MOST_RUNS:
        raise InputError(f"{len(values):,} runs; at most {MOST_RUNS:,} can be fitted")
    if len(values) < LEAST_RUNS:
        raise InputError(f"{len(values)} runs are too few to fit {model!r}; at least {LEAST_RUNS} are needed")


def _names(names: Sequence[str] | None, count: int, kind: str) -> tuple[str, ...]:
    chosen = tuple(names) if names is not None else tuple(f"{kind}_{i}" for i in range(count))
    if len(chosen) != count or len(set(chosen)) != count:
        raise InputError(f"{len(set(chosen))} different {kind} names for {count} columns; each needs its own")
    return chosen


def _data(weights: Floats, values: Floats, noise: Floats | None, run_variance: Floats | None) -> Data:
    n, m = values.shape
    extra = np.zeros((n, m))
    if run_variance is not None:
        given = np.asarray(run_variance, np.float64)
        extra = extra + (given[:, None] if given.ndim == 1 else given)
    floor = seed_variance(weights, values) if noise is None else np.broadcast_to(np.asarray(noise, np.float64), (m,))
    for name, given in (("run_variance", extra), ("noise", floor)):
        if not (np.isfinite(given) & (given >= 0)).all():
            raise InputError(f"{name} has a negative or infinite variance")
    return Data(weights, values, extra, floor)


def seed_variance(weights: Floats, values: Floats) -> Floats:
    """Return each metric's variance (m,) between runs of one mixture, drawn to zero when they are few."""
    _, group = np.unique(np.round(weights, 12), axis=0, return_inverse=True)
    group = group.reshape(-1)
    count = np.bincount(group)
    free = len(values) - len(count)
    if free < 1:
        return np.zeros(values.shape[1])
    means = np.zeros((len(count), values.shape[1]))
    np.add.at(means, group, values)
    square = ((values - (means / count[:, None])[group]) ** 2).sum(0)
    variance: Floats = square / (free + 4)
    return variance


def _report(
    names: tuple[str, ...], moving: NDArray[np.int64], rows: list[dict[str, Any]], weights: Floats, model: ModelName
) -> dict[str, Any]:
    place = {int(column): row for column, row in zip(moving, rows, strict=True)}
    metrics = [{"metric": name, **place.get(j, {"model": "constant"})} for j, name in enumerate(names)]
    return {"asked": model, "runs": len(weights), "slices": weights.shape[1], "metrics": metrics}
