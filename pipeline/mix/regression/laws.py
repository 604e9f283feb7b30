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

from pipeline.mix.types import Array, Floats

_CHUNK_NUMBERS = 4_000_000  # of the largest array, so that many problems take no more memory than a few
_LONGEST_STEP = 2.0
_GIVEN_UP = 1e7


@dataclass(frozen=True)
class Problems:
    """B problems on the same mixtures: minimise sum_n w (y - f(theta))^2 + sum_p precision (theta - centre)^2.

    `values` and `row_weights` have shape (B, n), `centre` and `precision` (B, p), `weights` (n, k).
    """

    law: Law
    weights: Floats
    values: Floats
    row_weights: Floats
    centre: Floats
    precision: Floats

    def only(self, chosen: slice | NDArray[np.int64]) -> Problems:
        """Return some of the problems."""
        parts = (self.values, self.row_weights, self.centre, self.precision)
        return Problems(self.law, self.weights, *(part[chosen] for part in parts))

    def loss(self, theta: Floats) -> Floats:
        """Return what is minimised, (B,)."""
        residual = self.values - self.law.evaluate(theta, self.weights, False)[0]
        away = theta - self.centre
        loss: Floats = (self.row_weights * residual**2).sum(1) + (self.precision * away**2).sum(1)
        return np.where(np.isfinite(loss), loss, np.inf)

    def normal(self, theta: Floats) -> tuple[Floats, Floats]:
        """Return the data's Gauss-Newton matrix (B, p, p), without the prior, and the descent direction (B, p)."""
        root, descent = self._rooted(theta)
        return np.matmul(root.transpose(0, 2, 1), root), descent

    def moves(self, theta: Floats, damping: Floats) -> Floats:
        """Return the damped Gauss-Newton steps (B, p); `damping` (B,) stretches the diagonal."""
        root, descent = self._rooted(theta)
        held = self.precision * (1 + damping[:, None]) + damping[:, None] * (root**2).sum(1) + 1e-10
        turned = root.transpose(0, 2, 1)
        if root.shape[1] >= root.shape[2]:
            matrix = np.matmul(turned, root)
            diagonal = np.arange(matrix.shape[1])
            matrix[:, diagonal, diagonal] += held
            return np.asarray(np.linalg.solve(matrix, descent[:, :, None])[:, :, 0], np.float64)
        # Fewer runs than parameters: the same step by Woodbury's identity, from a matrix of runs by runs.
        light = descent / held
        matrix = np.matmul(root, turned / held[:, :, None])
        diagonal = np.arange(matrix.shape[1])
        matrix[:, diagonal, diagonal] += 1
        seen = np.linalg.solve(matrix, np.matmul(root, light[:, :, None]))
        return np.asarray(light - np.matmul(turned, seen)[:, :, 0] / held, np.float64)

    def _rooted(self, theta: Floats) -> tuple[Floats, Floats]:
        """Return the Jacobian, rows times the roots of their weights (B, n, p), and the descent direction (B, p)."""
        value, jacobian = self.law.evaluate(theta, self.weights, True)
        assert jacobian is not None
        roots = np.sqrt(self.row_weights)
        jacobian *= roots[:, :, None]
        pull = np.matmul(((self.values - value) * roots)[:, None], jacobian)[:, 0]
        return jacobian, pull - self.precision * (theta - self.centre)


def minimise(problems: Problems, start: Floats, iterations: int, tolerance: float = 1e-7) -> Floats:
    """Return the parameters (B, p) that descending from `start` (B, p) leads to."""
    n, width = problems.values.shape[1], start.shape[1]
    size = n * width
    step = max(1, _CHUNK_NUMBERS // max(1, size))
    parts = (slice(at, at + step) for at in range(0, len(start), step))
    return np.concatenate([_minimise(problems.only(p), start[p], iterations, tolerance) for p in parts])


def _minimise(problems: Problems, start: Floats, iterations: int, tolerance: float) -> Floats:
    theta = start.copy()
    loss = problems.loss(theta)
    damping = np.full(len(theta), 1e-2)
    active = np.arange(len(theta))
    for _ in range(iterations):
        now = problems.only(active)
        move = now.moves(theta[active], damping[active])
        longest = np.abs(move).max(1)
        move *= np.minimum(1, _LONGEST_STEP / np.maximum(longest, 1e-9))[:, None]
        tried = theta[active] + move
        new = now.loss(tried)
        better = new < loss[active]
        gain = (loss[active] - new) / np.maximum(loss[active], 1e-12)
        theta[active[better]] = tried[better]
        loss[active[better]] = new[better]
        damping[active] = np.clip(np.where(better, damping[active] * 0.3, damping[active] * 5), 1e-9, 1e9)
        active = active[~((better & (gain < tolerance)) | (damping[active] > _GIVEN_UP))]
        if not active.size:
            break
    return theta


LawName = Literal["linear", "log_linear", "effective_data"]

_LOG_ZERO = -1e3  # logarithm of a weight of zero: its powers vanish, and no product with it is NaN
_EXPONENT = 50.0

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


_ROUNDS = 5
_TAIL = 4.0  # degrees of freedom of Student's t, for runs and for the slices' parameters
_NOISE, _NOISE_RUNS = 0.01, 4.0  # prior of a run's variance around the law, and how many runs it is worth
_LEAST_VARIANCE = 1e-5  # of a metric's own variance


@dataclass(frozen=True)
class Data:
    """What a model is fitted to: mixtures `weights` (n, k), standardised `values` (n, m), and what is known of noise.

    `extra` (n, m) is variance that a row has on top of the common noise (a run that was stopped early), in units of the
    standardised metric. `higher` (m,) says that larger is better; of the other metrics the runs tell.
    """

    weights: Floats
    values: Floats
    extra: Floats
    higher: NDArray[np.bool_]

    def rows(self, chosen: NDArray[np.bool_]) -> Data:
        """Return some of the rows."""
        return Data(self.weights[chosen], self.values[chosen], self.extra[chosen], self.higher)

    def columns(self, chosen: NDArray[np.int64]) -> Data:
        """Return some of the metrics."""
        return Data(self.weights, self.values[:, chosen], self.extra[:, chosen], self.higher[chosen])


@dataclass(frozen=True)
class LawFit:
    """A law's parameters for m metrics (m, p), those of perturbed refits (m, d, p), and what the intervals need.

    `sign` (m,) is -1 where the law describes the negated metric. `noise` (m,) is the variance of a run around the law,
    `covariance` (m, p, p) that of the parameters, `row_weights` (m, n) how far each run was believed (1 at most).
    """

    law: LawName
    theta: Floats
    sign: Floats
    noise: Floats
    covariance: Floats
    row_weights: Floats
    refits: Floats

    def mean(self, weights: Floats) -> Floats:
        """Return the metrics (q, m) at mixtures (q, k)."""
        return (LAWS[self.law].evaluate(self.theta, weights, False)[0] * self.sign[:, None]).T

    def moments(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the metrics (q, m) and the variance of their means, linearised, both (q, m)."""
        value, jacobian = LAWS[self.law].evaluate(self.theta, weights, True)
        assert jacobian is not None
        variance = np.einsum("mqp,mqp->qm", np.matmul(jacobian, self.covariance), jacobian)
        return (value * self.sign[:, None]).T, np.maximum(variance, 0)

    def draws(self, weights: Floats) -> Floats:
        """Return each refit's metrics (d, q, m)."""
        return self._draws(weights, np.float64)

    def quick(self, weights: Floats) -> tuple[Floats, Array]:
        """Return the metrics (q, m), and each refit's (d, q, m) in float32, at a third of the time."""
        return self.mean(weights), self._draws(weights, np.float32)

    def _draws(self, weights: Floats, kind: type[np.floating[Any]]) -> Array:
        law = LAWS[self.law]
        if law.linear:
            value, jacobian = law.evaluate(self.theta, weights, True)
            assert jacobian is not None
            moved = np.matmul(jacobian, (self.refits - self.theta[:, None]).transpose(0, 2, 1))
            straight: Array = ((value[:, :, None] + moved) * self.sign[:, None, None]).transpose(2, 1, 0)
            return straight
        metrics, count, width = self.refits.shape
        theta = self.refits.astype(kind).reshape(-1, width)
        value, _ = law.evaluate(theta, weights.astype(kind), False)
        shaped = value.reshape(metrics, count, len(weights)) * self.sign[:, None, None].astype(kind)
        turned: Array = shaped.transpose(1, 2, 0)
        return turned


@dataclass
class _State:
    """What alternates while a law is fitted: parameters, noise, how far slices are let out, outliers' weights."""

    theta: Floats
    centre: Floats
    spread: Floats
    heavy: Floats
    noise: Floats
    row_weights: Floats


def fit_law(name: LawName, data: Data) -> LawFit:
    """Return the law fitted to every metric, without refits."""
    law = LAWS[name]
    sign = _signs(law, data)
    values = (data.values * sign).T
    state = _start(law, data, values)
    for turn in range(_ROUNDS):
        problems = _problems(law, data, values, state)
        state.theta = minimise(problems, state.theta, 80 if turn == _ROUNDS - 1 else 25)
        covariance = _update(law, data, problems, state)
    empty = np.empty((len(values), 0, state.theta.shape[1]))
    return LawFit(name, state.theta, sign, state.noise, covariance, state.row_weights, empty)


def refit(fitted: LawFit, data: Data, count: int, random: np.random.Generator) -> LawFit:
    """Return the fit with `count` refits, each to values and a prior that were perturbed by their own uncertainty.

    Source: parametric bootstrap with a perturbed prior (randomise-then-optimise, Bardsley et al. 2014): for a linear
    law the refits are draws from the posterior; where runs say nothing, they are draws from the prior.
    """
    law = LAWS[fitted.law]
    state = _start(law, data, (data.values * fitted.sign).T)
    state.theta, state.noise, state.row_weights = fitted.theta, fitted.noise, fitted.row_weights
    _loosen(law, state, fitted.covariance)
    values = law.evaluate(fitted.theta, data.weights, False)[0]
    if law.linear:
        state.centre[:, 1 : law.n_shape], state.spread[:, 1 : law.n_shape] = fitted.theta[:, 1 : law.n_shape], 1e-6
    exact = _problems(law, data, (data.values * fitted.sign).T, state)
    metrics, n = values.shape
    spread = np.sqrt(fitted.noise[:, None] / exact.row_weights)
    heard = exact.values[:, None] + spread[:, None] * random.standard_normal((metrics, count, n))
    prior = np.sqrt(fitted.noise[:, None] / np.maximum(exact.precision, 1e-12))
    centre = exact.centre[:, None] + prior[:, None] * random.standard_normal((metrics, count, exact.centre.shape[1]))
    repeated = [np.repeat(x, count, axis=0) for x in (exact.row_weights, exact.precision, fitted.theta)]
    flat = Problems(
        law, data.weights, heard.reshape(-1, n), repeated[0], centre.reshape(len(repeated[1]), -1), repeated[1]
    )
    theta = minimise(flat, repeated[2], 15, 1e-4).reshape(metrics, count, -1)
    return LawFit(fitted.law, fitted.theta, fitted.sign, fitted.noise, fitted.covariance, fitted.row_weights, theta)


def _start(law: Law, data: Data, values: Floats) -> _State:
    metrics, n = values.shape
    k = data.weights.shape[1]
    centre = np.tile(np.r_[np.array(law.centre), np.full(k, law.slice_centre)], (metrics, 1))
    spread = np.tile(np.r_[np.array(law.spread), np.full(k, law.slice_spread)], (metrics, 1))
    return _State(centre.copy(), centre, spread, np.ones((metrics, k)), np.full(metrics, 0.02), np.ones((metrics, n)))


def _problems(law: Law, data: Data, values: Floats, state: _State) -> Problems:
    precision = state.noise[:, None] / state.spread**2
    precision[:, law.n_shape :] *= state.heavy
    believed = state.row_weights * (state.noise[:, None] / (state.noise[:, None] + data.extra.T))
    return Problems(law, data.weights, values, believed, state.centre, precision)


def _signs(law: Law, data: Data) -> Floats:
    """Return -1 for metrics where larger is better, said to be so or fitted clearly better upside down, else 1."""
    sign = np.ones(data.values.shape[1])
    if law.signed:
        return sign
    if data.higher.all():
        return -sign
    losses = []
    for turned in (data.values, -data.values):
        state = _start(law, data, turned.T)
        problems = _problems(law, data, turned.T, state)
        losses.append(problems.loss(minimise(problems, state.theta, 25)))
    sign[data.higher | (losses[1] < 0.7 * losses[0] - 4 * 0.02)] = -1
    return sign


def _update(law: Law, data: Data, problems: Problems, state: _State) -> Floats:
    """Re-estimate noise, and outliers' weights among runs and slices; return the parameters' covariance (m, p, p)."""
    matrix, _ = problems.normal(state.theta)
    full = matrix.copy()
    diagonal = np.arange(matrix.shape[1])
    full[:, diagonal, diagonal] += problems.precision
    inverse = np.linalg.inv(full)
    free = np.einsum("mij,mji->m", inverse, matrix)
    residual = problems.values - law.evaluate(state.theta, data.weights, False)[0]
    # A law with more parameters than runs leaves nothing over: without the prior its noise would fall to none, and with
    # it what holds the parameters.
    left = np.maximum(residual.shape[1] - free, 0)
    square = ((problems.row_weights * residual**2).sum(1) + _NOISE_RUNS * _NOISE) / (left + _NOISE_RUNS)
    square = np.maximum(square, _LEAST_VARIANCE)
    # Half way to what the metrics share: with few runs a metric's own estimate is a matter of luck.
    logs = np.log(square)
    state.noise = np.exp(0.5 * logs + 0.5 * logs.mean())
    expected = state.noise[:, None] + data.extra.T
    state.row_weights = np.minimum(1.0, (_TAIL + 1) / (_TAIL + residual**2 / expected))
    covariance: Floats = inverse * state.noise[:, None, None]
    _loosen(law, state, covariance)
    return covariance


def _loosen(law: Law, state: _State, covariance: Floats) -> None:
    """Let a slice that stands out of the prior do so: the weights of Student's t, in expectation."""
    away = state.theta[:, law.n_shape :] - state.centre[:, law.n_shape :]
    variance = np.einsum("mpp->mp", covariance)[:, law.n_shape :]
    spread = state.spread[:, law.n_shape :]
    state.heavy = (_TAIL + 1) / (_TAIL + (away**2 + variance) / spread**2)
