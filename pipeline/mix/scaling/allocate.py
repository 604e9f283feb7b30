"""How to spend compute, given a scaling law: parameters N and tokens D of the model to train, with 90 % intervals.

Training costs 6 N D floating-point operations, serving 2 N a token. Both answers with serving are of convex problems in
log N, so a golden-section search finds them, for the law and every bootstrap draw at once.

Source: Hoffmann et al. 2022 (arXiv 2203.15556), section 3.3; Sardana et al. 2023 (arXiv 2401.00448), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.mix.scaling.law import ScalingLaw, quantiles
from pipeline.mix.types import Estimate, Floats
from pipeline.table.errors import UsageError

_GOLDEN = (np.sqrt(5) - 1) / 2
_SPAN = 12.0 * float(np.log(10))  # twelve decades of parameters


@dataclass(frozen=True)
class Allocation:
    """A model to train: parameters, training tokens, loss, and all FLOPs, those of serving included.

    Each is the law's value with the 90 % interval of the bootstrap draws'.
    """

    parameters: Estimate
    tokens: Estimate
    loss: Estimate
    flops: Estimate

    def plain(self) -> dict[str, dict[str, float]]:
        """Return each value and the ends of its interval under the names that are printed: `value`, `lo`, `hi`."""
        return {name: {"value": each.value, "lo": each.low, "hi": each.high} for name, each in vars(self).items()}


def compute_optimal(law: ScalingLaw, flops: float) -> Allocation:
    """Return the model of least loss whose training takes `flops` (6 N D): the closed form of Hoffmann et al. 2022."""
    _check("flops", flops)
    theta = _all(law)
    log_n = _log_optimum(theta, flops)
    log_d = np.log(flops / 6) - log_n
    return _allocation(log_n, log_d, _loss(theta, log_n, log_d), np.full(len(theta), flops))


def serving_budget(law: ScalingLaw, flops: float, served_tokens: float) -> Allocation:
    """Return the model of least loss whose training and serving together take `flops`: 6 N D + 2 N served_tokens."""
    _check("flops", flops)
    _check("served_tokens", served_tokens, least=0)
    theta = _all(law)
    start = _log_optimum(theta, flops)
    most = np.log(flops / 2 / max(served_tokens, flops * 1e-30)) - 1e-9  # here nothing is left to train on

    def log_tokens(log_n: Floats) -> Floats:
        return np.log(np.maximum(flops / 6 / np.exp(log_n) - served_tokens / 3, 1e-300))

    hi = np.minimum(start + _SPAN, most)
    lo = np.minimum(start, most) - _SPAN
    log_n = _golden(lambda u: _loss(theta, u, log_tokens(u)), lo, hi)
    return _allocation(log_n, log_tokens(log_n), _loss(theta, log_n, log_tokens(log_n)), np.full(len(theta), flops))


def serving_same_loss(law: ScalingLaw, flops: float, served_tokens: float) -> Allocation:
    """Return what reaches the loss that is compute-optimal at `flops` of training, at the least cost with serving.

    Each bootstrap draw aims for its own compute-optimal loss, so every draw has an answer.
    """
    _check("flops", flops)
    _check("served_tokens", served_tokens, least=0)
    theta = _all(law)
    e, a, alpha, b, beta = theta.T
    start = _log_optimum(theta, flops)
    loss = _loss(theta, start, np.log(flops / 6) - start)
    gap = loss - e
    least = (np.log(a) - np.log(gap)) / alpha  # a smaller model cannot reach the loss with any number of tokens

    def log_tokens(log_n: Floats) -> Floats:
        left = gap - np.exp(np.log(a) - alpha * log_n)
        needed: Floats = (np.log(b) - np.log(np.maximum(left, 1e-300))) / beta
        return needed

    def log_cost(log_n: Floats) -> Floats:
        return log_n + np.logaddexp(log_tokens(log_n), np.log(max(served_tokens, 1e-300) / 3))

    log_n = _golden(log_cost, least, least + _SPAN)
    log_d = log_tokens(log_n)
    return _allocation(log_n, log_d, loss, 6 * np.exp(log_n) * (np.exp(log_d) + served_tokens / 3))


def _check(name: str, value: float, least: float | None = None) -> None:
    if not np.isfinite(value) or value < (least or 0) or (least is None and value == 0):
        raise UsageError(
            f"{name} is {value:g}; give a finite number {'above zero' if least is None else 'of 0 or more'}"
        )
    if value > 1e40:
        raise UsageError(f"{name} is {value:g}; give at most 1e40")


def _all(law: ScalingLaw) -> Floats:
    """Return the law's values, and below them those of the draws."""
    return np.vstack([law.theta, law.draws])


def _log_optimum(theta: Floats, flops: float) -> Floats:
    """Return log N of the compute-optimal models: N = G (C / 6)^(beta / (alpha + beta))."""
    _, a, alpha, b, beta = theta.T
    log_g = (np.log(alpha) + np.log(a) - np.log(beta) - np.log(b)) / (alpha + beta)
    best: Floats = log_g + beta / (alpha + beta) * np.log(flops / 6)
    return best


def _loss(theta: Floats, log_n: Floats, log_d: Floats) -> Floats:
    e, a, alpha, b, beta = theta.T
    exponent_n, exponent_d = np.log(a) - alpha * log_n, np.log(b) - beta * log_d
    loss: Floats = e + np.exp(np.minimum(exponent_n, 600)) + np.exp(np.minimum(exponent_d, 600))
    return loss


def _golden(objective: Callable[[Floats], Floats], lo: Floats, hi: Floats) -> Floats:
    """Return where convex functions are least between `lo` and `hi`, each (m,)."""
    lo, hi = lo.copy(), hi.copy()
    for _ in range(90):
        width = _GOLDEN * (hi - lo)
        left, right = hi - width, lo + width
        rises = objective(left) < objective(right)
        hi, lo = np.where(rises, right, hi), np.where(rises, lo, left)
    middle: Floats = (lo + hi) / 2
    return middle


def _allocation(log_n: Floats, log_d: Floats, loss: Floats, flops: Floats) -> Allocation:
    """Gather answers whose first is the law's and the others the draws'."""
    values = np.exp(np.minimum(np.column_stack([log_n, log_d, np.log(loss), np.log(flops)]), 700))
    ends = quantiles(values[1:] if len(values) > 1 else values)
    lo, hi = np.minimum(ends[0], values[0]), np.maximum(ends[1], values[0])
    return Allocation(*(Estimate(*map(float, each)) for each in zip(values[0], lo, hi, strict=True)))
