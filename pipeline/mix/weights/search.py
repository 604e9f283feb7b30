"""Where a proposal may lie, and how its optimum is found there.

The trust region is what keeps a regression honest: the optimum of a linear fit is a corner, and every model is wrong
far from its runs. It is the union of balls around the runs' mixtures, in Hellinger distance (the square roots of the
weights as coordinates, in which sampling noise is about even, and a weight's change from 0 to 0.01 counts more than one
from 0.50 to 0.51). Their radius is the third quartile of the runs' distances to their nearest neighbours: so a proposal
is as near to a run as most runs are to another, and at such distances leaving runs out has measured the fit's error.
Runs on one slice alone do not count for the radius, since they are far from everything by design. A convex hull was
not chosen: with such runs it is the whole simplex, and in many dimensions without them it is almost empty. A ball
around one run is convex (`sum sqrt(h s) >= c`), which the local search uses.

Source: Gill and Hansen's SLSQP (Kraft 1988) through SciPy; compass search (Kolda, Lewis and Torczon 2003).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.types import Floats
from pipeline.mix.weights.space import Constraints

Ints = NDArray[np.int64]
Score = Callable[[Floats, Ints], Floats]
"""(mixtures (q, k), which point each belongs to (q,)) to what is minimised (q,)."""

FALLBACK_RADIUS = 0.1
"""Of fewer than three different mixtures of several slices."""
_QUANTILE = 0.75
_ALONE = 0.95
_ROWS = 1024
_PULLS = 30
_SLACK = 1e-7
_STEP = 1e-5
_BALLS = 6
_GAIN = 1e-7


@dataclass(frozen=True)
class TrustRegion:
    """The mixtures that may be proposed: allowed by the constraints, and within `radius` (Hellinger) of one of `runs`.

    `runs` and `anchors` have shape (n, k); anchors are the runs, made to fit the constraints.
    """

    constraints: Constraints
    runs: Floats
    radius: float
    anchors: Floats

    @classmethod
    def of(cls, constraints: Constraints, runs: Floats) -> TrustRegion:
        """Return the region that `runs` support. Where no allowed mixture is near a run, it grows until one is."""
        radius, anchors = usual_radius(runs), constraints.rescale(runs.copy())
        least = float(_nearest(anchors, runs)[1].min())
        return cls(constraints, runs, radius if least <= radius else least + radius, anchors)

    def nearest(self, points: Floats) -> tuple[Ints, Floats]:
        """Return for each of `points` (q, k) its nearest run and its distance to it, both (q,)."""
        return _nearest(points, self.runs)

    def repair(self, points: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Return `points` (q, k) moved into the region, and which of them could be.

        They are rescaled into the constraints, then pulled straight towards the nearest run's anchor.
        """
        points = self.constraints.rescale(points)
        index, distance = self.nearest(points)
        out = np.flatnonzero(distance > self.radius)
        if out.size:
            anchor, start = self.anchors[index[out]], points[out]
            run = np.sqrt(self.runs[index[out]])
            low, high = np.zeros((out.size, 1)), np.ones((out.size, 1))
            for _ in range(_PULLS):
                middle = (low + high) / 2
                there = np.sqrt(anchor + middle * (start - anchor))
                fits = ((there - run) ** 2).sum(1, keepdims=True) <= self.radius**2
                low, high = np.where(fits, middle, low), np.where(fits, high, middle)
            points[out] = anchor + low * (start - anchor)
        near = self.nearest(points)[1] <= self.radius + 1e-6
        return points, near & (self.constraints.violation(points) < 1e-7)

    def repaired(self, points: Floats) -> Floats:
        """Return those of `points` that could be moved into the region, as `repair` does."""
        points, fits = self.repair(points)
        return points[fits]


def usual_radius(runs: Floats) -> float:
    """Return the third quartile of the distances of `runs` (n, k), each taken once, to their nearest neighbours."""
    unique = np.unique(runs, axis=0)
    mixed = unique[unique.max(1) < _ALONE]
    if len(mixed) < 3:
        return FALLBACK_RADIUS
    return max(float(np.quantile(_nearest(mixed, mixed, skip_self=True)[1], _QUANTILE)), 1e-3)


def _nearest(points: Floats, runs: Floats, skip_self: bool = False) -> tuple[Ints, Floats]:
    roots, targets = np.sqrt(points), np.sqrt(runs)
    index, squared = np.empty(len(points), np.int64), np.empty(len(points))
    for start in range(0, len(points), _ROWS):
        block = slice(start, start + _ROWS)
        near = roots[block] @ targets.T  # of unit vectors: the squared distance is 2 - 2 cos
        if skip_self:
            rows = np.arange(len(near))
            near[rows, rows + start] = -np.inf
        index[block] = near.argmax(1)
        squared[block] = ((roots[block] - targets[index[block]]) ** 2).sum(1)
    return index, np.sqrt(squared)


def compass(
    points: Floats, score: Score, region: TrustRegion, step: float = 0.05, least: float = 5e-4, rounds: int = 40
) -> tuple[Floats, Floats]:
    """Return `points` (s, k), each improved by moves of one weight up or down, and their scores (s,).

    All moves of all points are scored in one call. Needs no derivatives; a point whose moves all fail halves its step.
    """
    s, k = points.shape
    values = score(points, np.arange(s))
    steps = np.full(s, step)
    for _ in range(rounds):
        live = np.flatnonzero(steps >= least)
        if live.size == 0:
            break
        owners = np.repeat(live, 2 * k)
        signs = np.concatenate([np.eye(k), -np.eye(k)])  # each weight up, then down; the others keep their ratios
        target = np.clip(points[live][:, None] + signs * steps[live][:, None, None], 0.0, 1.0)
        index = np.tile(np.arange(k), 2)
        new = target[:, np.arange(2 * k), index].ravel()
        moved, fits = region.repair(set_weight(points[owners], np.tile(index, len(live)), new))
        found = np.full(len(moved), np.inf)
        if fits.any():
            found[fits] = score(moved[fits], owners[fits])
        best = found.reshape(len(live), 2 * k).argmin(1) + np.arange(len(live)) * 2 * k
        better = found[best] < values[live] - _GAIN
        points = points.copy()
        points[live[better]], values[live[better]] = moved[best[better]], found[best[better]]
        steps[live[~better]] /= 2
    return points, values


def set_weight(points: Floats, index: Ints, value: Floats) -> Floats:
    """Return `points` (q, k) with weight `index` (q,) set to `value` (q,); the others keep their ratios."""
    rows = np.arange(len(points))
    rest = points.copy()
    rest[rows, index] = 0.0
    total = rest.sum(1)
    alone = total <= 1e-12
    if alone.any():  # nothing to keep the ratios of: the others share evenly
        rest[alone] = 1.0
        rest[rows[alone], index[alone]] = 0.0
        total = rest.sum(1)
    points = rest * ((1.0 - value) / np.maximum(total, 1e-300))[:, None]
    points[rows, index] = value
    return points


def polish(point: Floats, score: Score, region: TrustRegion) -> Floats:
    """Return `point` (k,) improved by SLSQP inside the ball of its nearest run, then inside those that it borders on.

    Gradients are forward differences along the simplex, each one batch. On a score without gradients it does nothing.
    """
    zero = np.zeros(1, np.int64)
    best, value = point, float(score(point[None], zero)[0])
    visited: set[int] = set()
    for _ in range(_BALLS):
        near = _reachable(best, region)
        ball = next((run for run in near if run not in visited), None)
        if ball is None:
            break
        visited.add(ball)
        found, fits = region.repair(_in_ball(best, ball, score, region)[None])
        reached = float(score(found, zero)[0]) if fits[0] else np.inf
        if reached < value - _GAIN:
            best, value = found[0], reached
    return best


def _reachable(point: Floats, region: TrustRegion) -> list[int]:
    """Return the runs whose balls hold `point`, the nearest first."""
    distance = np.sqrt(((np.sqrt(region.runs) - np.sqrt(point)) ** 2).sum(1))
    order = np.argsort(distance, kind="stable")
    return [int(i) for i in order[: 4 * _BALLS] if distance[i] <= region.radius + 1e-6]


def _in_ball(point: Floats, ball: int, score: Score, region: TrustRegion) -> Floats:
    from scipy.optimize import minimize  # a second of imports that no other command needs

    limits, run = region.constraints, np.sqrt(region.runs[ball])
    floor = 1e-10

    def both(h: Floats) -> tuple[float, Floats]:
        h = np.maximum(h, 0.0)
        h = h / h.sum()
        batch = np.concatenate([h[None], (1 - _STEP) * h + _STEP * np.eye(len(h))])
        values = score(batch, np.zeros(len(batch), np.int64))
        return float(values[0]), (values[1:] - values[0]) / _STEP

    # sum sqrt(h s) >= (1 + |s|^2 - radius^2) / 2 says |sqrt h - sqrt s| <= radius; so written it is concave and smooth.
    least = 1.0 - region.radius**2 / 2 + _SLACK
    rules = [
        {"type": "eq", "fun": lambda h: h.sum() - 1.0, "jac": lambda h: np.ones_like(h)},
        {
            "type": "ineq",
            "fun": lambda h: (np.sqrt(np.maximum(h, floor)) * run).sum() - least,
            "jac": lambda h: 0.5 * run / np.sqrt(np.maximum(h, floor)),
        },
    ]
    for group in limits.groups:
        inside = np.zeros(len(point))
        inside[list(group.members)] = 1.0
        rules.append(
            {"type": "ineq", "fun": lambda h, g=inside, u=group.upper: u - g @ h, "jac": lambda h, g=inside: -g}
        )
        rules.append(
            {"type": "ineq", "fun": lambda h, g=inside, low=group.lower: g @ h - low, "jac": lambda h, g=inside: g}
        )
    bounds = list(zip(limits.lower, limits.upper, strict=True))
    options = {"maxiter": 40, "ftol": 1e-7}
    found = minimize(both, point, jac=True, bounds=bounds, constraints=rules, method="SLSQP", options=options).x
    found = np.clip(np.nan_to_num(found, nan=0.0), limits.lower, limits.upper)
    return np.asarray(found if found.sum() > 0 else point, np.float64)
