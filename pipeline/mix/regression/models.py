"""One named model, fitted to all metrics that are to use it: a law, a process on a law, trees, or several of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from pipeline.mix.regression.lawfit import Data, LawFit, fit_law, refit
from pipeline.mix.regression.laws import Array, LawName
from pipeline.mix.regression.process import ProcessFit, draw_process, fit_process
from pipeline.mix.regression.trees import TreesFit, fit_trees
from pipeline.mix.types import Floats

Single = Literal["linear", "log_linear", "additive", "effective_data", "gp", "lightgbm", "ensemble"]

_LAWS: dict[Single, tuple[LawName, ...]] = {
    "linear": ("linear",),
    "log_linear": ("log_linear",),
    "additive": ("additive",),
    "effective_data": ("effective_data",),
    "gp": ("effective_data",),
    "ensemble": ("effective_data", "additive"),
    "lightgbm": (),
}
_WITH_PROCESS: tuple[Single, ...] = ("gp", "ensemble")
_SHARPNESS = 3.0  # of the shares of an ensemble's members, by the mean squares that they miss left-out runs by
_TREE_RESAMPLES = 8  # a boosted model takes as long as all refits of a law
_TREE_NOISE = 0.02  # of a metric's variance; calibration turns it into what held-out runs show


@dataclass(frozen=True)
class Model:
    """A fitted model of m metrics. `centre` and `spread` (m,) undo the standardising; `noise` (m,) is a run's variance.

    Laws, processes and trees are in standard units. `shares` (members, m) is what each law, with its
    process, counts for.
    """

    name: Single
    centre: Floats
    spread: Floats
    noise: Floats
    laws: tuple[LawFit, ...]
    processes: tuple[ProcessFit, ...]
    shares: Floats
    trees: TreesFit | None

    def mean(self, weights: Floats) -> Floats:
        """Return the metrics (q, m) at mixtures (q, k)."""
        return self.centre + self.spread * self._standard(weights)

    def moments(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the metrics and the variance of a new run's value, without refits, both (q, m)."""
        variance = np.tile(self.noise, (len(weights), 1))
        if self.trees is not None:
            return self.mean(weights), variance * self.spread**2
        mean = np.zeros_like(variance)
        for share, part in self._parts():
            part_mean, part_variance = part.moments(weights)
            mean += share * part_mean
            variance += share * part_variance
        return self.centre + self.spread * mean, variance * self.spread**2

    def draws(self, weights: Floats) -> Floats:
        """Return what each refit says the metrics are, (d, q, m)."""
        if self.trees is not None:
            return self.centre + self.spread * self.trees.draws(weights)
        total: Floats = self.centre[None, None]
        for share, part in self._parts():
            total = total + share * self.spread * part.draws(weights)
        return total

    def quick(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the metrics and the variance that refits show of them, both (q, m), the variance in less precision.

        Trees have none to show: resampled ones are slow, and a run's noise was set so that it stands for all.
        """
        if self.trees is not None:
            return self.mean(weights), np.zeros((len(weights), len(self.centre)))
        mean = np.zeros((len(weights), len(self.centre)))
        draws: Array = np.zeros((1, 1, 1), np.float32)
        for share, part in self._parts():
            part_mean, part_draws = part.quick(weights)
            mean += share * part_mean
            draws = draws + share.astype(np.float32) * part_draws
        return self.centre + self.spread * mean, draws.var(0, dtype=np.float64) * self.spread**2

    def few_draws(self, most: int) -> Model:
        """Return the model with at most so many of its refits."""
        laws = tuple(replace(law, refits=law.refits[:, :most]) for law in self.laws)
        parts = tuple(replace(p, waves=p.waves[:, :most], corrections=p.corrections[:, :most]) for p in self.processes)
        return replace(self, laws=laws, processes=parts)

    def _standard(self, weights: Floats) -> Floats:
        if self.trees is not None:
            return self.trees.mean(weights)
        total: Floats = np.sum([share * part.mean(weights) for share, part in self._parts()], axis=0)
        return total

    def _parts(self) -> list[tuple[Floats, LawFit | ProcessFit]]:
        return [*zip(self.shares, self.laws, strict=True), *zip(self.shares, self.processes, strict=False)]


def fit_models(names: tuple[Single, ...], data: Data) -> dict[Single, Model]:
    """Return models fitted to every metric of `data` (raw units), without refits.

    What several share (the law under a process) is fitted once. Raises: MissingDependencyError when `lightgbm` is asked
    for and not installed.
    """
    centre, spread = data.values.mean(0), data.values.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    standard = _standardise(data, centre, spread)
    laws = {law: fit_law(law, standard) for law in dict.fromkeys(law for name in names for law in _LAWS[name])}
    on = dict.fromkeys(law for name in names if name in _WITH_PROCESS for law in _LAWS[name])
    processes = {law: _process(laws[law], standard) for law in on}
    models = {}
    for name in names:
        members = tuple(laws[law] for law in _LAWS[name])
        residuals = tuple(processes[law] for law in _LAWS[name]) if name in _WITH_PROCESS else ()
        trees = None
        if name == "lightgbm":
            trees = fit_trees(data.weights, standard.values, _tree_weights(standard), 0, 0)
        shares, noise = _shares(members, residuals, standard)
        models[name] = Model(name, centre, spread, noise, members, residuals, shares, trees)
    return models


def _shares(laws: tuple[LawFit, ...], processes: tuple[ProcessFit, ...], data: Data) -> tuple[Floats, Floats]:
    """Return what each member counts for (members, m), and a run's variance (m,): the better a member, the more."""
    if not laws:
        return np.empty((0, data.values.shape[1])), np.maximum(_TREE_NOISE, data.floor)
    if not processes:
        return np.ones((1, data.values.shape[1])), laws[0].noise
    missed = np.array([np.maximum(process.left_out, 1e-12) for process in processes])
    shares = (missed.min(0) / missed) ** _SHARPNESS
    shares /= shares.sum(0)
    noise = (shares * [process.noise for process in processes]).sum(0)
    return shares, np.maximum(noise, data.floor)


def with_refits(model: Model, data: Data, count: int, seed: int) -> Model:
    """Return the model with `count` refits (for trees at most a few), which its draws come from."""
    standard = _standardise(data, model.centre, model.spread)
    if model.trees is not None:
        resamples = min(count, _TREE_RESAMPLES)
        trees = fit_trees(data.weights, standard.values, _tree_weights(standard), resamples, seed)
        return replace(model, trees=trees)
    streams = np.random.SeedSequence(seed).spawn(2 * len(model.laws))
    laws, processes = [], []
    for i, law in enumerate(model.laws):
        laws.append(refit(law, standard, count, np.random.default_rng(streams[2 * i])))
        if model.processes:
            left = standard.values.T[:, None] - laws[-1].draws(data.weights).transpose(2, 0, 1)
            random = np.random.default_rng(streams[2 * i + 1])
            processes.append(draw_process(model.processes[i], left, random))
    return replace(model, laws=tuple(laws), processes=tuple(processes))


def _process(law: LawFit, data: Data) -> ProcessFit:
    # A run that the law weighted down as an outlier, or that was stopped early, counts for less here as well.
    noise = 1 / law.row_weights.T + data.extra / law.noise
    return fit_process(data.weights, data.values - law.mean(data.weights), noise)


def _standardise(data: Data, centre: Floats, spread: Floats) -> Data:
    return Data(data.weights, (data.values - centre) / spread, data.extra / spread**2, data.floor / spread**2)


def _tree_weights(data: Data) -> Floats:
    return np.asarray(_TREE_NOISE / (_TREE_NOISE + data.extra))
