"""Gradient-boosted trees (LightGBM, an extra), one model a metric."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from pipeline.mix.types import Floats
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
