"""How far predictions are from what was measured, a metric at a time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.types import Floats


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
