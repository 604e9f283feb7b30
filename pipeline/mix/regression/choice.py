"""Which model each metric gets, and how well it predicts runs that neither fitting nor choosing saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.regression.lawfit import Data
from pipeline.mix.regression.models import Single, fit_models
from pipeline.mix.types import Floats

Ints = NDArray[np.int64]

FEW_RUNS_A_SLICE = 5
"""Below it, choosing by cross-validation picks by luck, and the effective-data law is what predicts best."""
_FOLDS_TO_CHOOSE = 4, 5  # with fewer runs than _MANY_RUNS, where a choice shall take seconds, and with more
_FOLDS_OF_ONE = 8
_MANY_RUNS = 200
_Z90 = 1.6448536269514722
_SHARED_RUNS = 30.0  # runs' worth of belief that a metric's interval is as far off as all metrics' together
_PLAIN_RUNS = 5.0  # runs' worth of belief that intervals need no stretch


@dataclass(frozen=True)
class Choice:
    """The model of each metric, and predictions (n, m) of runs that were held out from it, with their variance.

    `fold` (n,) is the part that each run was held out with.
    """

    names: tuple[Single, ...]
    mean: Floats
    variance: Floats
    fold: Ints


def choose(candidates: tuple[Single, ...], data: Data, seed: int) -> Choice:
    """Return the candidate that each metric gets, and honest predictions of every run.

    With several candidates it is nested cross-validation: for each fold the choice is made by folds inside the rest,
    so that the fold's predictions come from a choice that never saw it.
    """
    count = _FOLDS_OF_ONE if len(candidates) == 1 else _FOLDS_TO_CHOOSE[len(data.values) >= _MANY_RUNS]
    fold = split(data.weights, count, seed)
    count = int(fold.max()) + 1
    held = _Held(candidates, data, fold)
    whole = [held.moments((i,), i) for i in range(count)]
    mean, variance = np.empty(data.values.shape), np.empty(data.values.shape)
    for i in range(count):
        picked = np.zeros(data.values.shape[1], np.int64)
        if len(candidates) > 1 and count > 2:
            others = [j for j in range(count) if j != i]
            picked = held.best(others, [held.moments(tuple(sorted((i, j))), j) for j in others])
        columns = np.arange(len(picked))
        mean[fold == i] = whole[i][0][picked, :, columns].T
        variance[fold == i] = whole[i][1][picked, :, columns].T
    final = held.best(list(range(count)), whole) if len(candidates) > 1 else np.zeros(data.values.shape[1], np.int64)
    return Choice(tuple(candidates[i] for i in final), mean, variance + data.extra, fold)


class _Held:
    """Candidates fitted without some folds, and what they predict for one of them; fitted once, kept."""

    def __init__(self, candidates: tuple[Single, ...], data: Data, fold: Ints) -> None:
        self.candidates, self.data, self.fold = candidates, data, fold
        self._kept: dict[tuple[tuple[int, ...], int], tuple[Floats, Floats]] = {}

    def moments(self, without: tuple[int, ...], of: int) -> tuple[Floats, Floats]:
        """Return means and variances (candidates, rows of the fold, m)."""
        if (without, of) not in self._kept:
            models = fit_models(self.candidates, self.data.rows(~np.isin(self.fold, without)))
            for held in without:
                at = self.data.weights[self.fold == held]
                parts = [models[name].moments(at) for name in self.candidates]
                self._kept[without, held] = (np.array([p[0] for p in parts]), np.array([p[1] for p in parts]))
        return self._kept[without, of]

    def best(self, folds: list[int], moments: list[tuple[Floats, Floats]]) -> Ints:
        """Return the candidate of least mean square for each metric, (m,)."""
        square = np.zeros((len(self.candidates), self.data.values.shape[1]))
        for i, (mean, _) in zip(folds, moments, strict=True):
            square += ((mean - self.data.values[self.fold == i]) ** 2).sum(1)
        return np.asarray(square.argmin(0), np.int64)


def split(weights: Floats, count: int, seed: int) -> Ints:
    """Return each row's fold, (n,): at most `count` of about equal size, rows of one mixture in the same fold."""
    _, group = np.unique(np.round(weights, 12), axis=0, return_inverse=True)
    group = group.reshape(-1)
    if group.max() < 2:  # too few different mixtures to hold one out: what is measured then is the runs' own noise
        group = np.arange(len(weights))
    order = np.random.default_rng(np.random.SeedSequence([seed, 1])).permutation(int(group.max()) + 1)
    folds: Ints = (order % min(count, len(order)))[group]
    return folds


def calibrate(choice: Choice, values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what intervals are stretched by (m,), and which runs lie in intervals that did not know them, (n, m).

    The stretch makes 90 % of the held-out runs lie in their intervals; a metric's own count is drawn towards that of
    all metrics. For the second result, each fold's stretch comes from the other folds alone.
    """
    missed = np.abs(values - choice.mean) / np.sqrt(np.maximum(choice.variance, 1e-300))
    covered = np.empty(values.shape, bool)
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
