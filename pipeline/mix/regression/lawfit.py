"""A law fitted to every metric: outliers weighted down, uncertainty by perturbed refits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.regression.laws import LAWS, Array, Law, LawName
from pipeline.mix.regression.solve import Problems, minimise
from pipeline.mix.types import Floats

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
