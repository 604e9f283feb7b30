"""A Gaussian process on what a law leaves over: one lengthscale a slice, learned by marginal likelihood.

The kernel is Matérn 3/2 on weights to the power 0.3, which tells 0 from 0.01 as well as 0.2 from 0.5. Where runs say
nothing about the residual, its amplitude falls and the law is what remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.mix.types import Array, Floats

_POWER = 0.3
_FREQUENCIES = 128
_LENGTH = (np.log(1.5), 1.0)  # centre and spread of the logarithm of a lengthscale
_LEVEL_SPREAD = 2.0  # of the logarithms of amplitude and noise
_ITERATIONS = 20, 5  # from the prior's centre, and from the kernel of nearly the same runs
_TUNED_RUNS = 512  # lengthscales show as well in so many; a likelihood takes the cube of their number
_JITTER = 1e-8


@dataclass(frozen=True)
class ProcessFit:
    """Processes of m metrics on n mixtures, and draws of them.

    `lengths` (m, k), `amplitude` and `noise` (m,) are the kernels'; `coefficients` (m, n) give the mean. A draw is
    random waves (`frequencies` (s, k), `phases` (s,), `waves` (m, d, s)) corrected to the runs (`corrections`
    (m, d, n)).

    Source: Wilson et al. 2020 (arXiv 2002.09309), pathwise conditioning.
    """

    features: Floats
    lengths: Floats
    amplitude: Floats
    noise: Floats
    row_noise: Floats
    coefficients: Floats
    frequencies: Floats
    phases: Floats
    waves: Floats
    corrections: Floats

    @property
    def kernels(self) -> Floats:
        """Log lengthscales, log amplitude and log noise, (m, k + 2): what another fit may start from."""
        return np.asarray(np.c_[self.lengths, np.log(self.amplitude), np.log(self.noise)], np.float64)

    def mean(self, weights: Floats) -> Floats:
        """Return the residual's mean (q, m) at mixtures (q, k)."""
        at = to_features(weights)
        metrics = range(len(self.lengths))
        return np.stack([self._between(i, at) @ self.coefficients[i] for i in metrics], axis=1)

    def moments(self, weights: Floats) -> tuple[Floats, Floats]:
        """Return the residual's mean and variance, both (q, m)."""
        at = to_features(weights)
        mean, variance = np.empty((2, len(weights), len(self.lengths)))
        for i in range(len(self.lengths)):
            between = self._between(i, at)
            inside = _covariance(self, i)
            mean[:, i] = between @ self.coefficients[i]
            variance[:, i] = self.amplitude[i] - np.einsum("qn,nq->q", between, np.linalg.solve(inside, between.T))
        return mean, np.maximum(variance, 0)

    def draws(self, weights: Floats) -> Floats:
        """Return draws of the residual (d, q, m)."""
        return self._both(weights, np.float64)[1]

    def quick(self, weights: Floats) -> tuple[Floats, Array]:
        """Return the mean (q, m), and draws (d, q, m) in float32."""
        return self._both(weights, np.float32)

    def _both(self, weights: Floats, kind: type[np.floating[Any]]) -> tuple[Floats, Array]:
        at = to_features(weights)
        mean = np.empty((len(weights), len(self.lengths)))
        draws = np.empty((self.waves.shape[1], *mean.shape), kind)
        for i in range(len(self.lengths)):
            between = self._between(i, at)
            mean[:, i] = between @ self.coefficients[i]
            near = between.astype(kind, copy=False) @ self.corrections[i].T.astype(kind)
            far = _waves(self, i, at.astype(kind, copy=False)) @ self.waves[i].T.astype(kind)
            draws[:, :, i] = (near + far).T
        return mean, draws

    def _between(self, metric: int, at: Array) -> Array:
        scale = np.exp(-self.lengths[metric]).astype(at.dtype)
        return matern(at * scale, self.features.astype(at.dtype) * scale, self.amplitude[metric])


def to_features(weights: Floats) -> Floats:
    """Return what distances are measured on, (n, k)."""
    features: Floats = weights**_POWER
    return features


def matern(left: Array, right: Array, amplitude: float) -> Array:
    """Return the Matérn 3/2 kernel (p, q) between scaled points (p, k) and (q, k), in their own precision."""
    root = scaled_distance(left, right)
    kernel: Array = np.negative(root)
    np.exp(kernel, out=kernel)
    root += 1
    kernel *= root
    kernel *= kernel.dtype.type(amplitude)
    return kernel


def scaled_distance(left: Array, right: Array) -> Array:
    """Return the square root of three times the distances (p, q) between points (p, k) and (q, k)."""
    # The sums of squares ride along in the product: every further pass over (p, q) costs as much as the product.
    ones = np.ones((len(left), 1), left.dtype), np.ones((len(right), 1), right.dtype)
    wide = np.hstack([-6 * left, 3 * (left**2).sum(1, keepdims=True), ones[0]])
    square = wide @ np.hstack([right, ones[1], 3 * (right**2).sum(1, keepdims=True)]).T
    np.maximum(square, 0, out=square)
    distance: Array = np.sqrt(square, out=square)
    return distance


def fit_process(weights: Floats, residual: Floats, row_noise: Floats, kernels: Floats | None = None) -> ProcessFit:
    """Return processes fitted to residuals (n, m); a row's noise is the common one times `row_noise` (n, m).

    Kernels are looked for from those of `kernels` (m, k + 2), where given, which takes a quarter of the time.
    """
    features = to_features(weights)
    starts = kernels if kernels is not None else [None] * residual.shape[1]
    few = np.linspace(0, len(features) - 1, min(len(features), _TUNED_RUNS)).astype(int)
    found = [
        _maximise(features[few], z[few], v[few], start)
        for z, v, start in zip(residual.T, row_noise.T, starts, strict=True)
    ]
    k = features.shape[1]
    lengths, amplitude, noise = (
        np.array([f[:k] for f in found]),
        np.exp([f[k] for f in found]),
        np.exp([f[k + 1] for f in found]),
    )
    none = np.empty((len(found), 0, 0))
    blank = ProcessFit(
        features, lengths, amplitude, noise, row_noise.T, none, np.empty((0, k)), np.empty(0), none, none
    )
    solved = [np.linalg.solve(_covariance(blank, i), z) for i, z in enumerate(residual.T)]
    return _replace(blank, coefficients=np.array(solved))


def draw_process(fit: ProcessFit, residuals: Floats, random: np.random.Generator) -> ProcessFit:
    """Return the fit with one draw for each of `residuals` (m, d, n): what each refit of the law leaves over."""
    metrics, count, n = residuals.shape
    k = fit.features.shape[1]
    # The spectrum of a Matérn 3/2 kernel is Student's t with three degrees of freedom.
    frequencies = random.standard_normal((_FREQUENCIES, k)) / np.sqrt(random.chisquare(3, (_FREQUENCIES, 1)) / 3)
    phases = random.uniform(0, 2 * np.pi, _FREQUENCIES)
    waves = random.standard_normal((metrics, count, _FREQUENCIES))
    ready = _replace(fit, frequencies=frequencies, phases=phases, waves=waves)
    corrections = np.empty((metrics, count, n))
    for i in range(metrics):
        noise = np.sqrt(fit.noise[i] * fit.row_noise[i]) * random.standard_normal((count, n))
        target = residuals[i] - waves[i] @ _waves(ready, i, fit.features).T - noise
        corrections[i] = np.linalg.solve(_covariance(fit, i), target.T).T
    return _replace(ready, corrections=corrections)


def _replace(fit: ProcessFit, **changed: Floats) -> ProcessFit:
    return ProcessFit(**{**vars(fit), **changed})


def _waves(fit: ProcessFit, metric: int, at: Array) -> Array:
    """Return random waves (q, s) whose covariance is the kernel's."""
    kind = at.dtype.type
    turned = (fit.frequencies * np.exp(-fit.lengths[metric])).T.astype(at.dtype)
    angle: Array = at @ turned
    angle += fit.phases.astype(at.dtype)
    np.cos(angle, out=angle)
    angle *= kind(np.sqrt(2 * fit.amplitude[metric] / max(1, len(fit.phases))))
    return angle


def _covariance(fit: ProcessFit, metric: int) -> Floats:
    scaled = fit.features * np.exp(-fit.lengths[metric])
    inside = matern(scaled, scaled, fit.amplitude[metric])
    rows = np.arange(len(inside))
    inside[rows, rows] += fit.noise[metric] * fit.row_noise[metric] + _JITTER
    return inside


def _maximise(features: Floats, residual: Floats, row_noise: Floats, start: Floats | None) -> Floats:
    """Return log lengthscales, log amplitude and log noise (k + 2,) of the largest penalised marginal likelihood."""
    from scipy.optimize import minimize

    k = features.shape[1]
    level = float(np.log(max(residual.var(), 1e-8) / 2))
    centre = np.r_[np.full(k, _LENGTH[0]), level, level]
    precision = np.r_[np.full(k, _LENGTH[1] ** -2), np.full(2, _LEVEL_SPREAD**-2)]
    bounds = [(-4.0, 4.0)] * k + [(level - 8, level + 5)] * 2

    def objective(point: Floats) -> tuple[float, Floats]:
        loss, slope = _evidence(point, features, residual, row_noise)
        away = point - centre
        return loss + 0.5 * float(precision @ away**2), slope + precision * away

    first = centre if start is None else np.clip(start, *np.transpose(bounds))
    options = {"maxiter": _ITERATIONS[start is not None]}
    result: Any = minimize(objective, first, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    found: Floats = result.x
    return found


def _evidence(point: Floats, features: Floats, residual: Floats, row_noise: Floats) -> tuple[float, Floats]:
    """Return the negative log marginal likelihood and its gradient.

    Source: Rasmussen and Williams 2006, equations 2.30 and 5.9.
    """
    from scipy.linalg import LinAlgError, cholesky
    from scipy.linalg.lapack import dpotri

    n, k = features.shape
    amplitude, noise = np.exp(point[k]), np.exp(point[k + 1])
    scaled = features * np.exp(-point[:k])
    distance = scaled_distance(scaled, scaled)
    steepness = np.exp(-distance)
    kernel = (1 + distance) * steepness
    kernel *= amplitude
    inside = kernel.copy()
    rows = np.arange(n)
    inside[rows, rows] += noise * row_noise + _JITTER
    try:
        factor = cholesky(inside, lower=True, check_finite=False)
    except LinAlgError:
        return 1e12, np.zeros_like(point)
    inverse, _ = dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    solved = inverse @ residual
    loss = 0.5 * residual @ solved + np.log(np.diag(factor)).sum()
    pull = np.outer(solved, solved) - inverse
    slope = np.empty_like(point)
    slope[k] = -0.5 * (pull * kernel).sum()
    slope[k + 1] = -0.5 * noise * (np.diag(pull) * row_noise).sum()
    near = pull * steepness * (3 * amplitude)
    slope[:k] = (scaled * (near @ scaled)).sum(0) - (scaled**2 * near.sum(1)[:, None]).sum(0)
    return float(loss), slope
