"""From a raw score to a calibrated probability: Platt scaling with balanced classes.

`probability = 1 / (1 + exp(-(slope * logit(score) + intercept)))`, fitted on held-out texts that take no part in the
AUC. Both classes weigh the same, so that the probability is that of a world in which both are equally frequent: what
share of a crawl is good cannot be learnt from a training set that somebody put together.

Source: Platt 1999, with the targets and Newton's method of Lin, Lin and Weng 2007.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.table.config import StageConfig

_LARGEST_LOGIT = 30.0
_STEPS = 100

Floats = NDArray[np.float64]


class Calibration(StageConfig):
    """`identity` where the held-out texts show no rising relation between score and class."""

    method: Literal["platt", "identity"]
    slope: float = Field(gt=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)


IDENTITY = Calibration(method="identity", slope=1.0, intercept=0.0)


def calibrate(calibration: Calibration, scores: Floats) -> Floats:
    """Return the calibrated probability of each score, both in [0, 1]; the order of scores is kept."""
    return _sigmoid(calibration.slope * _logit(scores) + calibration.intercept)


def fit(positives: Floats, negatives: Floats) -> Calibration:
    """Return the calibration that fits the scores of held-out positives and negatives (one of each at least)."""
    x = _logit(np.concatenate([positives, negatives]))
    n, m = positives.size, negatives.size
    target = np.concatenate([np.full(n, (n + 1) / (n + 2)), np.full(m, 1 / (m + 2))])
    weight = np.concatenate([np.full(n, 0.5 / n), np.full(m, 0.5 / m)])
    slope, intercept = 0.0, 0.0
    for _ in range(_STEPS):
        p = _sigmoid(slope * x + intercept)
        error, curve = weight * (p - target), weight * p * (1 - p)
        hessian = np.array([[curve @ (x * x), curve @ x], [curve @ x, curve.sum()]]) + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, np.array([error @ x, error.sum()]))
        size = 1.0
        before = _loss(slope, intercept, x, target, weight)
        while size > 1e-6 and _loss(slope - size * step[0], intercept - size * step[1], x, target, weight) > before:
            size /= 2
        slope, intercept = float(slope - size * step[0]), float(intercept - size * step[1])
        if float(np.abs(size * step).max()) < 1e-10:
            break
    if slope <= 0:
        return IDENTITY
    # Rounded, so that the last bits of a linear algebra library do not show in the artefact.
    return Calibration(method="platt", slope=float(f"{slope:.6g}"), intercept=float(f"{intercept:.6g}"))


def _loss(slope: float, intercept: float, x: Floats, target: Floats, weight: Floats) -> float:
    z = slope * x + intercept
    return float(weight @ (np.logaddexp(0.0, z) - target * z))


def _logit(scores: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        logits = np.log(scores) - np.log1p(-scores)
    return np.asarray(np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT), np.float64)


def _sigmoid(z: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * z)), np.float64)
