"""The shapes that a metric may take as a function of the mixture, with derivatives, for many problems at once.

A law has `n_shape` parameters of its own (first) and one a slice (last). Metrics come standardised (mean 0, spread
1), so one prior serves any metric: it keeps every law determined however few the runs, and its width is what an unused
slice's uncertainty shows.

Shapes: B problems, n mixtures, k slices, p = n_shape + k parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

LawName = Literal["linear", "log_linear", "effective_data"]

_LOG_ZERO = -1e3  # logarithm of a weight of zero: its powers vanish, and no product with it is NaN
_EXPONENT = 50.0

Array = NDArray[Any]
"""float64, or float32 where only the spread of draws is wanted."""
Values = tuple[Array, Array | None]


@dataclass(frozen=True)
class Law:
    """One law: its function, where its prior stands, and how wide it is.

    `centre` and `spread` are those of the shape parameters, `slice_centre` and `slice_spread` those of the slices'.
    `signed` laws serve rising and falling metrics alike; the others are also tried on the negated metric. `linear` laws
    are linear once their shape is fixed, as it is when they are refitted: draws of them are then one product.
    """

    name: LawName
    evaluate: Callable[[Array, Array, bool], Values]
    centre: tuple[float, ...]
    spread: tuple[float, ...]
    slice_centre: float
    slice_spread: float
    signed: bool
    linear: bool

    @property
    def n_shape(self) -> int:
        """Parameters that are no slice's."""
        return len(self.centre)


def log_weights(weights: Array) -> Array:
    """Return the logarithms of weights (n, k), a large negative number for zero."""
    return np.log(weights, out=np.full_like(weights, _LOG_ZERO), where=weights > 0)


def _linear(theta: Array, weights: Array, derive: bool) -> Values:
    """c + sum_i t_i h_i."""
    value = theta[:, :1] + theta[:, 1:] @ weights.T
    if not derive:
        return value, None
    jacobian = np.empty((*value.shape, theta.shape[1]), theta.dtype)
    jacobian[:, :, 0] = 1
    jacobian[:, :, 1:] = weights
    return value, jacobian


def _log_linear(theta: Array, weights: Array, derive: bool) -> Values:
    """c + exp(u + sum_i t_i h_i)."""
    power = np.exp(np.minimum(theta[:, 1:2] + theta[:, 2:] @ weights.T, _EXPONENT))
    value = theta[:, :1] + power
    if not derive:
        return value, None
    jacobian = np.empty((*value.shape, theta.shape[1]), theta.dtype)
    jacobian[:, :, 0] = 1
    jacobian[:, :, 1] = power
    jacobian[:, :, 2:] = power[:, :, None] * weights
    return value, jacobian


def _effective_data(theta: Array, weights: Array, derive: bool) -> Values:
    """E + (sum_i a_i h_i^b + e)^-g, with the logarithms of g, b, e and a as parameters."""
    g, b, e = (np.exp(theta[:, i])[:, None] for i in (1, 2, 3))
    logs = log_weights(weights)
    terms = np.exp(b[:, :, None] * logs)
    terms *= np.exp(theta[:, None, 4:])
    data = terms.sum(2) + e
    log_data = np.log(data)
    excess = np.exp(np.minimum(-g * log_data, _EXPONENT))
    value = theta[:, :1] + excess
    if not derive:
        return value, None
    slope = -g * excess / data
    jacobian = np.empty((*value.shape, theta.shape[1]), theta.dtype)
    jacobian[:, :, 0] = 1
    jacobian[:, :, 1] = -g * log_data * excess
    jacobian[:, :, 2] = slope * b * (terms * np.maximum(logs, -_EXPONENT)).sum(2)
    jacobian[:, :, 3] = slope * e
    jacobian[:, :, 4:] = slope[:, :, None] * terms
    return value, jacobian


# A slice that helps a metric stands far out of its prior (Student's t lets it); most slices do next to nothing. Centres
# were chosen by prediction of held-out training runs of RegMix's 1M-parameter swarm.
LAWS: dict[LawName, Law] = {
    "linear": Law("linear", _linear, (0.0,), (2.0,), 0.0, 3.0, True, True),
    "log_linear": Law("log_linear", _log_linear, (-2.0, 0.5), (1.5, 1.0), 0.0, 2.0, False, False),
    "effective_data": Law(
        "effective_data", _effective_data, (-2.5, -0.7, -0.8, -2.0), (1.0, 0.5, 0.2, 1.0), -6.0, 1.5, False, False
    ),
}
