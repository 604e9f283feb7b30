"""Which model each metric gets, and how well it predicts runs that neither fitting nor choosing saw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.regression.laws import Data
from pipeline.mix.regression.models import Single, fit_models
from pipeline.mix.regression.seeds import SeedEffects
from pipeline.mix.types import Floats

Ints = NDArray[np.int64]

LAWFUL: tuple[Single, ...] = ("effective_data", "gp")
"""The models that other candidates have to beat clearly."""
RUNS_A_SLICE = 5
"""So many, and a metric's own runs count as much for its choice as those of all metrics together."""
_FOLDS = 8, 5  # with fewer runs than _MANY_RUNS, and with more
_MANY_RUNS = 200
_Z90 = 1.6448536269514722
_SHARED_RUNS = 30.0  # runs' worth of belief that a metric's interval is as far off as all metrics' together
_PLAIN_RUNS = 5.0  # runs' worth of belief that intervals need no stretch


@dataclass(frozen=True)
class ChosenModels:
    """The model of each metric, and predictions (n, m) of runs that were held out from it, with their variance.

    `fold` (n,) is the part that each run was held out with; `measured` (n, m) is what it measured, less its seed's
    offset as the other parts know it. `rmse` has each candidate's own cross-validated error, (m,); `kernels` (m, k + 2)
    are what a process may start from.
    """

    names: tuple[Single, ...]
    mean: Floats
    variance: Floats
    fold: Ints
    measured: Floats
    rmse: dict[Single, Floats]
    kernels: Floats | None


def choose(
    candidates: tuple[Single, ...], data: Data, effects: SeedEffects, seed: int, progress: Callable[[str], None]
) -> ChosenModels:
    """Return the candidate that each metric gets, and honest predictions of every run.

    Candidates are fitted without each part of the runs in turn. What a part is predicted with is chosen by the errors
    on the other parts; what metrics get in the end, by those on all.
    """
    n, m = data.values.shape
    fold = split(data.weights, _FOLDS[n >= _MANY_RUNS], seed)
    count = int(fold.max()) + 1
    mean, variance = np.empty((2, len(candidates), n, m))
    measured = np.empty((n, m))
    kernels = None
    for i in range(count):
        held = fold == i
        part = replace(data, values=data.values - effects.offsets(~held))
        measured[held] = part.values[held]
        models = fit_models(candidates, part.rows(~held), kernels)
        for c, name in enumerate(candidates):
            mean[c, held], variance[c, held] = models[name].moments(data.weights[held])
            if (process := models[name].process) is not None:
                kernels = process.kernels
        progress(f"{i + 1} of {count} parts of the runs predicted from the others")
    gone = (mean - measured) ** 2
    picked = np.stack([_best(candidates, gone[:, fold != i], data) for i in range(count)])[fold]
    runs, columns = np.arange(n)[:, None], np.arange(m)
    final = _best(candidates, gone, data)
    rmse = {name: np.sqrt(square.mean(0)) for name, square in zip(candidates, gone, strict=True)}
    names = tuple(candidates[i] for i in final)
    held_mean, held_variance = (x[picked, runs, columns] for x in (mean, variance + data.extra))
    return ChosenModels(names, held_mean, held_variance, fold, measured, rmse, kernels)


def _best(candidates: tuple[Single, ...], gone: Floats, data: Data) -> Ints:
    """Return the candidate of each metric (m,) by squared errors (candidates, runs, m).

    The better of the law and the process stays unless another beats it by a standard error of the runs' paired
    differences. With few runs a metric's own errors are a matter of luck, so those of all metrics count as well.
    """
    own = gone.shape[1] / (gone.shape[1] + RUNS_A_SLICE * data.weights.shape[1])
    scaled = gone / np.maximum(data.values.var(0), 1e-300)
    scaled = own * scaled + (1 - own) * scaled.mean(2, keepdims=True)
    error = scaled.mean(1)
    lawful = [i for i, name in enumerate(candidates) if name in LAWFUL]
    if not lawful:
        return np.zeros(error.shape[1], np.int64)
    best = np.array(lawful)[error[lawful].argmin(0)]
    home = np.take_along_axis(scaled, best[None, None], 0)[0]
    for i in range(len(candidates)):
        if i in lawful:
            continue
        gain = home - scaled[i]
        clear = gain.mean(0) > gain.std(0) / np.sqrt(len(gain))
        best = np.where(clear & (error[i] < np.take_along_axis(error, best[None], 0)[0]), i, best)
    return np.asarray(best, np.int64)


def split(weights: Floats, count: int, seed: int) -> Ints:
    """Return each row's fold, (n,): at most `count` of about equal size, rows of one mixture in the same fold."""
    _, group = np.unique(np.round(weights, 12), axis=0, return_inverse=True)
    group = group.reshape(-1)
    if group.max() < 2:  # too few different mixtures to hold one out: what is measured then is the runs' own noise
        group = np.arange(len(weights))
    order = np.random.default_rng(np.random.SeedSequence([seed, 1])).permutation(int(group.max()) + 1)
    folds: Ints = (order % min(count, len(order)))[group]
    return folds


def calibrate(choice: ChosenModels) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what intervals are stretched by (m,), and which runs lie in intervals that did not know them, (n, m).

    The stretch makes 90 % of the held-out runs lie in their intervals; a metric's own count is drawn towards that of
    all metrics. For the second result, each fold's stretch comes from the other folds alone.
    """
    missed = np.abs(choice.measured - choice.mean) / np.sqrt(np.maximum(choice.variance, 1e-300))
    covered = np.empty(missed.shape, bool)
    for i in range(int(choice.fold.max()) + 1):
        inside = choice.fold == i
        known = missed[~inside] if (~inside).any() else missed
        covered[inside] = missed[inside] <= _Z90 * _stretch(known)
    return _stretch(missed), covered


def _stretch(missed: Floats) -> Floats:
    n = len(missed)
    level = min(1.0, 0.9 * (1 + 1 / n))
    own = np.log(np.maximum(np.quantile(missed, level, axis=0), 1e-3) / _Z90)
    common = np.log(max(float(np.quantile(missed, 0.9)), 1e-3) / _Z90)
    stretch: Floats = np.exp((n * own + _SHARED_RUNS * common) / (n + _SHARED_RUNS + _PLAIN_RUNS))
    return np.clip(stretch, 0.2, 100.0)


def scores(predicted: Floats, measured: Floats, covered: NDArray[np.bool_]) -> list[dict[str, float | int | None]]:
    """Return a dictionary a metric of `predicted` and `measured` (n, m): errors, correlations and coverage.

    `covered` (n, m) says which runs lay in their interval. What is not defined (a correlation with a constant) is null.
    """
    return [_one(predicted[:, j], measured[:, j], covered[:, j]) for j in range(measured.shape[1])]


def spearman(left: Floats, right: Floats) -> float | None:
    """Return the rank correlation of two vectors, ties at their mean rank, or None where one is constant."""
    return pearson(ranks(left), ranks(right))


def pearson(left: Floats, right: Floats) -> float | None:
    """Return the correlation of two vectors, or None where one is constant."""
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / scale if scale > 1e-300 else None


def ranks(values: Floats) -> Floats:
    """Return ranks from 0, equal values sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    shared: Floats = middle[inverse]
    return shared


def _one(predicted: Floats, measured: Floats, covered: NDArray[np.bool_]) -> dict[str, float | int | None]:
    square = float(((predicted - measured) ** 2).mean())
    variance = float(measured.var())
    return {
        "runs": len(measured),
        "rmse": square**0.5,
        "mse": square,
        "r2": 1 - square / variance if variance > 0 else None,
        "spearman": spearman(predicted, measured),
        "pearson": pearson(predicted, measured),
        "coverage": float(covered.mean()),
    }
