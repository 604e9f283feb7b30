"""A regression whose truth is known: what proposals are tested with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.mix.types import Floats, Prediction
from pipeline.mix.weights.space import Constraints


def whole(each: Prediction, metric_weights: Floats) -> Prediction:
    """Return the weighted sum as one metric; errors are shared."""
    mean, sizes = each.mean @ metric_weights, np.abs(metric_weights)
    ends = [mean + (end - each.mean) @ sizes for end in (each.low, each.high, each.mean_low, each.mean_high)]
    return Prediction(mean[:, None], *(end[:, None] for end in ends))


@dataclass(frozen=True)
class PowerLaw:
    """E + sum over slices of a_i (h_i + 0.01)^-b for each task; draws differ in `a` by `spread`, runs by `noise`.

    `a` has shape (m, k). Without a spread every draw is the mean.
    """

    a: Floats
    b: float = 0.3
    spread: float = 0.0
    noise: float = 0.0
    draw_count: int = 64

    def mean(self, weights: Floats) -> Floats:
        return self._at(weights, self.a)

    def predict(self, weights: Floats) -> Prediction:
        mean = self.mean(weights)
        sure = self.draws(weights).var(0)
        half, half_mean = 1.645 * np.sqrt(self.noise**2 + sure), 1.645 * np.sqrt(sure)
        return Prediction(mean, mean - half, mean + half, mean - half_mean, mean + half_mean)

    def total(self, weights: Floats, metric_weights: Floats) -> Prediction:
        return whole(self.predict(weights), metric_weights)

    def draws(self, weights: Floats) -> Floats:
        factors = np.exp(np.random.default_rng(5).normal(0, self.spread, (self.draw_count, *self.a.shape)))
        return np.stack([self._at(weights, self.a * f) for f in factors])

    def optimum(self, task_weights: Floats) -> Floats:
        """The best mixture on the simplex alone: (a_i / lambda)^(1 / (1 + b)) - 0.01 where that is above zero."""
        a = task_weights @ self.a
        low, high = 1e-9, 1e9
        for _ in range(400):
            middle = np.sqrt(low * high)
            h = np.maximum((a / middle) ** (1 / (1 + self.b)) - 0.01, 0)
            low, high = (middle, high) if h.sum() > 1 else (low, middle)
        return np.asarray(h, np.float64)

    def _at(self, weights: Floats, a: Floats) -> Floats:
        return np.asarray(0.5 + (weights + 0.01) ** -self.b @ a.T, np.float64)


@dataclass(frozen=True)
class Linear:
    """A linear regression: its optimum is a corner."""

    slope: Floats
    spread: float = 0.0

    def mean(self, weights: Floats) -> Floats:
        return np.asarray(1.0 + weights @ self.slope.T, np.float64)

    def predict(self, weights: Floats) -> Prediction:
        mean = self.mean(weights)
        return Prediction(mean, mean - 0.01, mean + 0.01, mean - 0.005, mean + 0.005)

    def total(self, weights: Floats, metric_weights: Floats) -> Prediction:
        return whole(self.predict(weights), metric_weights)

    def draws(self, weights: Floats) -> Floats:
        noise = np.random.default_rng(5).normal(0, self.spread, (32, *self.slope.shape))
        return np.stack([1.0 + weights @ (self.slope + n).T for n in noise])


def swarm(k: int, n: int, seed: int = 0) -> Floats:
    """Return (n, k): Dirichlet draws of several strengths, as a swarm has them."""
    rng = np.random.default_rng(seed)
    strengths = np.exp(rng.uniform(0, 3, n))
    runs = rng.standard_gamma(np.maximum(strengths[:, None] * np.ones(k) * k / 4, 0.05)) + 1e-9
    return np.asarray(runs / runs.sum(1, keepdims=True), np.float64)


def capped(*caps: float) -> Constraints:
    """Return constraints of slices s0, s1 ... whose weights have a cap each, and nothing else."""
    return Constraints(tuple(f"s{i}" for i in range(len(caps))), np.zeros(len(caps)), np.array(caps, np.float64))
