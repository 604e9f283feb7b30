"""One named model, fitted to all metrics that are to use it: a law, a process on what a law leaves over, or trees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from pipeline.mix.regression.laws import Data, LawFit, LawName, fit_law, refit
from pipeline.mix.regression.process import ProcessFit, draw_process, fit_process
from pipeline.mix.types import Array, Floats
from pipeline.table.errors import MissingDependencyError

_ROUNDS = 300
_PARAMETERS = {
    "objective": "regression",
    "learning_rate": 0.06,
    "num_leaves": 8,
    "min_data_in_leaf": 5,
    "min_data_in_bin": 1,
    "lambda_l2": 1.0,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass(frozen=True)
class TreesFit:
    """Boosted trees of m metrics as LightGBM's text, those of all runs first and then those of resampled runs."""

    texts: tuple[tuple[str, ...], ...]

    def mean(self, weights: Floats) -> Floats:
        """Return the metrics (q, m) at mixtures (q, k)."""
        return np.stack([_predict(texts[0], weights) for texts in self.texts], axis=1)

    def draws(self, weights: Floats) -> Floats:
        """Return what each resampled model says, (d, q, m)."""
        return np.stack([[_predict(text, weights) for text in texts[1:]] for texts in self.texts], axis=2)


def fit_trees(weights: Floats, values: Floats, row_weights: Floats, resamples: int, seed: int) -> TreesFit:
    """Return trees fitted to `values` (n, m), each row counted by `row_weights` (n, m), and to resampled rows.

    Raises: MissingDependencyError without LightGBM.
    """
    random = np.random.default_rng(seed)
    n = len(values)
    counts = [np.ones(n), *random.multinomial(n, np.full(n, 1 / n), resamples).astype(float)]
    texts = [
        tuple(_train(weights, values[:, j], row_weights[:, j] * count, seed) for count in counts)
        for j in range(values.shape[1])
    ]
    return TreesFit(tuple(texts))


def _train(weights: Floats, values: Floats, row_weights: Floats, seed: int) -> str:
    lightgbm = _lightgbm()
    kept = row_weights > 0
    data = lightgbm.Dataset(weights[kept], values[kept], weight=row_weights[kept])
    text: str = lightgbm.train({**_PARAMETERS, "seed": seed % 2**31}, data, _ROUNDS).model_to_string()
    return text


def _predict(text: str, weights: Floats) -> Floats:
    predicted: Floats = _booster(text).predict(weights, num_threads=1)
    return predicted


@lru_cache(maxsize=1024)
def _booster(text: str) -> Any:
    return _lightgbm().Booster(model_str=text)


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise MissingDependencyError(
            "model `lightgbm` needs an extra: pip install 'gristmill[lightgbm]' (or choose another --model)"
        ) from error
    return lightgbm


Single = Literal["linear", "log_linear", "effective_data", "gp", "lightgbm"]

_LAWS: dict[Single, LawName] = {
    "linear": "linear", "log_linear": "log_linear", "effective_data": "effective_data", "gp": "effective_data",
}  # fmt: skip
_TREE_RESAMPLES = 8  # a boosted model takes as long as all refits of a law
_TREE_NOISE = 0.02  # of a metric's variance; calibration turns it into what held-out runs show


@dataclass(frozen=True)
class Model:
    """A fitted model of m metrics. `centre` and `spread` (m,) undo the standardising; `noise` (m,) is a run's variance.

    Law, process and trees are in standard units. A model is a law, a law and a process, or trees alone.
    """

    name: Single
    centre: Floats
    spread: Floats
    noise: Floats
    law: LawFit | None
    process: ProcessFit | None
    trees: TreesFit | None

    def mean(self, weights: Floats) -> Floats:
        """Return the metrics (q, m) at mixtures (q, k)."""
        parts = (self.trees, self.law, self.process)
        total: Floats = np.sum([part.mean(weights) for part in parts if part is not None], axis=0)
        return self.centre + self.spread * total

    def moments(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the metrics and the variance of a new run's value, without refits, both (q, m)."""
        variance = np.tile(self.noise, (len(weights), 1))
        if self.trees is not None:
            return self.mean(weights), variance * self.spread**2
        mean = np.zeros_like(variance)
        for part in self._parts():
            part_mean, part_variance = part.moments(weights)
            mean += part_mean
            variance += part_variance
        return self.centre + self.spread * mean, variance * self.spread**2

    def draws(self, weights: Floats) -> Floats:
        """Return what each refit says the metrics are, (d, q, m)."""
        if self.trees is not None:
            return self.centre + self.spread * self.trees.draws(weights)
        total = np.sum([part.draws(weights) for part in self._parts()], axis=0)
        return np.asarray(self.centre + self.spread * total, np.float64)

    def quick(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the metrics and the variance that refits show of them, both (q, m), the variance in less precision.

        Trees have none to show: resampled ones are slow, and a run's noise was set so that it stands for all.
        """
        if self.trees is not None:
            return self.mean(weights), np.zeros((len(weights), len(self.centre)))
        mean = np.zeros((len(weights), len(self.centre)))
        draws: Array = np.zeros((1, 1, 1), np.float32)
        for part in self._parts():
            part_mean, part_draws = part.quick(weights)
            mean += part_mean
            draws = draws + part_draws
        return self.centre + self.spread * mean, draws.var(0, dtype=np.float64) * self.spread**2

    def few_draws(self, most: int) -> Model:
        """Return the model with at most so many of its refits."""
        law, process = self.law, self.process
        return replace(
            self,
            law=law and replace(law, refits=law.refits[:, :most]),
            process=process
            and replace(process, waves=process.waves[:, :most], corrections=process.corrections[:, :most]),
        )

    def _parts(self) -> list[LawFit | ProcessFit]:
        return [part for part in (self.law, self.process) if part is not None]


def fit_models(names: Sequence[Single], data: Data, kernels: Floats | None = None) -> dict[Single, Model]:
    """Return models fitted to every metric of `data` (raw units), without refits.

    What several share (the law under a process) is fitted once. `kernels` (m, k + 2) are another process's, of nearly
    the same runs, for this one's to start from. Raises: MissingDependencyError when `lightgbm` is asked for and not
    installed.
    """
    centre, spread = data.values.mean(0), data.values.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    standard = _standardise(data, centre, spread)
    laws = {law: fit_law(law, standard) for law in dict.fromkeys(_LAWS[name] for name in names if name in _LAWS)}
    models: dict[Single, Model] = {}
    for name in names:
        if name == "lightgbm":
            trees = fit_trees(data.weights, standard.values, _tree_weights(standard), 0, 0)
            models[name] = Model(name, centre, spread, np.full(len(centre), _TREE_NOISE), None, None, trees)
            continue
        law = laws[_LAWS[name]]
        process = _process(law, standard, kernels) if name == "gp" else None
        models[name] = Model(name, centre, spread, (process or law).noise, law, process, None)
    return models


def with_refits(model: Model, data: Data, count: int, seed: int) -> Model:
    """Return the model with `count` refits (for trees at most a few), which its draws come from."""
    standard = _standardise(data, model.centre, model.spread)
    if model.law is None:
        resamples = min(count, _TREE_RESAMPLES)
        trees = fit_trees(data.weights, standard.values, _tree_weights(standard), resamples, seed)
        return replace(model, trees=trees)
    first, second = (np.random.default_rng(stream) for stream in np.random.SeedSequence(seed).spawn(2))
    law, process = refit(model.law, standard, count, first), model.process
    if process is not None:
        left = standard.values.T[:, None] - law.draws(data.weights).transpose(2, 0, 1)
        process = draw_process(process, left, second)
    return replace(model, law=law, process=process)


def _process(law: LawFit, data: Data, kernels: Floats | None) -> ProcessFit:
    # A run that the law weighted down as an outlier, or that was stopped early, counts for less here as well.
    noise = 1 / law.row_weights.T + data.extra / law.noise
    return fit_process(data.weights, data.values - law.mean(data.weights), noise, kernels)


def _standardise(data: Data, centre: Floats, spread: Floats) -> Data:
    return replace(data, values=(data.values - centre) / spread, extra=data.extra / spread**2)


def _tree_weights(data: Data) -> Floats:
    return np.asarray(_TREE_NOISE / (_TREE_NOISE + data.extra))
