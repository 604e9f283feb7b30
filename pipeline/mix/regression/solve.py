"""Penalised least squares by Levenberg and Marquardt, for many small problems at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.regression.laws import Law
from pipeline.mix.types import Floats

_CHUNK_NUMBERS = 4_000_000  # of the largest array, so that many problems take no more memory than a few
_LONGEST_STEP = 2.0
_GIVEN_UP = 1e7


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread, for the whole process while inside; a decorator as well.

    Small matrices gain nothing from more: on a busy machine BLAS's threads wait for one another, spinning.
    """
    import scipy.linalg  # noqa: F401  # it brings a BLAS of its own, which only a loaded library lets be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


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
