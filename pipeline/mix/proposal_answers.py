"""How sure a proposal is: where the optimum may lie, what each slice is worth, what the groups of tasks ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.mix.objective import Objective
from pipeline.mix.proposal import Estimate, Move, ParetoPoint, SliceAnswer
from pipeline.mix.search import Ints, Space, compass, set_weight
from pipeline.mix.types import Floats

MOVES = (-0.05, -0.01, 0.01, 0.05)
PULL = 0.05
_FLAT_SHARE = 0.01
_FLAT_SD = 0.5
_GRID = 200
_POOL = 1024
_DRAWS = 64
_STEP = 1e-4
_FRONT = 24
_SAME = 1e-6


@dataclass(frozen=True)
class Found:
    """A search's answer: `weights` (k,), and the candidates (q, k) with their scores (q,), the best first."""

    weights: Floats
    points: Floats
    values: Floats


def slice_answers(
    objective: Objective, space: Space, found: Found, rng: np.random.Generator
) -> tuple[dict[str, SliceAnswer], float]:
    """Return the answer for each slice, and the flat region's tolerance."""
    low, high = _optima(objective, space, found, rng)
    limits, weights = objective.problem.constraints, found.weights
    tolerance = _tolerance(objective, weights)
    moves, derivative, pulls = _moves(objective, weights), _derivatives(objective, weights), _pulls(objective, weights)
    flat = _flat(objective, weights, tolerance)
    answers = {}
    for i, name in enumerate(limits.names):
        value = float(weights[i])
        answers[name] = SliceAnswer(
            weight=Estimate(value, min(float(low[i]), value), max(float(high[i]), value)),
            natural=float(objective.problem.natural[i]),
            lower=float(limits.lower[i]),
            upper=float(limits.upper[i]),
            derivative=float(derivative[i]),
            moves=moves[i],
            flat_low=flat[i][0],
            flat_high=flat[i][1],
            pulls=dict(zip(objective.problem.tasks, pulls[i].tolist(), strict=True)),
        )
    return answers, tolerance


def expected_difference(objective: Objective, base: Floats, weights: Floats) -> Estimate:
    """Return by how much `weights` is expected to be better than `base`, both (k,), paired draw by draw.

    Tasks' errors are taken as shared: a law errs on them together, but its draws are made task by task.
    """
    by_task = objective.task_draws(np.stack([base, weights]))
    apart = by_task[:, 0] - by_task[:, 1]
    paired = apart @ objective.problem.weights
    alone = float(paired.std())
    together = float(apart.std(0) @ np.abs(objective.problem.weights))
    paired = paired.mean() + (paired - paired.mean()) * max(1.0, together / alone if alone > 0 else 1.0)
    means = objective.means(np.stack([base, weights])) @ objective.problem.weights
    value = float(means[0] - means[1])
    low, high = (float(v) for v in np.quantile(paired, [0.05, 0.95]))
    return Estimate(value, min(low, value), max(high, value))


def group_metrics(objective: Objective, points: Floats) -> Floats:
    """Return the expected metric of each group of tasks, (q, g)."""
    return np.asarray(objective.means(points) @ objective.problem.group_weights.T, np.float64)


def pareto_front(objective: Objective, space: Space, found: Found) -> tuple[ParetoPoint, ...]:
    """Return mixtures that trade the groups of tasks against one another, none beaten by another in every group.

    Each minimises the groups' expected metrics under another importance, the penalty included. One group has no front.
    """
    groups = objective.problem.groups
    if len(groups) < 2:
        return ()
    importance = _importances(len(groups), objective)
    pool = np.concatenate([found.weights[None], found.points[: 4 * _POOL], space.anchors])
    pool, fits = space.repair(pool)
    pool = pool[fits]
    kl = objective.kl

    def score(points: Floats, owner: Ints) -> Floats:
        values = (group_metrics(objective, points) * importance[owner]).sum(1)
        return np.asarray(values + kl * objective.divergence(points), np.float64)

    table = importance @ group_metrics(objective, pool).T + kl * objective.divergence(pool)
    points, _ = compass(pool[table.argmin(1)], score, space, step=0.04, least=2e-3, rounds=24)
    metrics = group_metrics(objective, points)
    names = objective.problem.constraints.names
    return tuple(
        ParetoPoint(
            dict(zip(groups, map(float, importance[row]), strict=True)),
            dict(zip(names, map(float, points[row]), strict=True)),
            dict(zip(groups, map(float, metrics[row]), strict=True)),
        )
        for row in undominated(metrics)
    )


def undominated(metrics: Floats) -> list[int]:
    """Return the rows of `metrics` (q, g) that no other row beats, in the order of the first column; equals once."""
    kept: list[int] = []
    for row in np.lexsort(metrics.T[::-1]):
        others = metrics[kept]
        if not (others <= metrics[row] + _SAME).all(1).any():
            kept.append(int(row))
    return kept


def _importances(groups: int, objective: Objective) -> Floats:
    """Return rows of group importances summing to 1: the suite's own first, then evenly spread ones."""
    problem = objective.problem
    of = np.array([[problem.task_groups[task] == group for task in problem.tasks] for group in problem.groups])
    own = of @ np.abs(problem.weights)
    if groups == 2:
        share = np.linspace(0.02, 0.98, _FRONT)
        spread = np.stack([share, 1 - share], axis=1)
    else:
        pairs = [(i, j) for i in range(groups) for j in range(i)]
        rows = np.eye(groups) * 0.96 + 0.04 / groups
        mixed = np.array([(np.eye(groups)[i] + np.eye(groups)[j]) / 2 for i, j in pairs[:_FRONT]])
        drawn = np.random.default_rng(groups).dirichlet(np.ones(groups), _FRONT)
        spread = np.concatenate([rows, mixed, drawn])
    return np.concatenate([own[None], spread])


def _tolerance(objective: Objective, weights: Floats) -> float:
    sd = objective.problem.seed_sd
    if sd is not None and np.isfinite(sd) and sd > 0:
        return _FLAT_SD * float(sd)
    return _FLAT_SHARE * abs(float(objective.metric(weights[None])[0]))


def _optima(objective: Objective, space: Space, found: Found, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return the 5 % and 95 % quantiles (k,) of where each draw has its optimum.

    Every draw chooses from one pool: good candidates, mixtures near the optimum, and steps along each draw's own slope.
    """
    pool = [found.weights[None], found.points[:_POOL], _around(space, found.weights[None], 512, rng)]
    points, fits = space.repair(np.concatenate([*pool, space.anchors[:_POOL]]))
    points[0], fits[0] = found.weights, True
    points = points[fits]
    scores = _draw_scores(objective, points)
    more = _downhill(objective, found.weights, scores.shape[0])
    for _ in range(3):
        more, fits = space.repair(more)
        if fits.any():
            points = np.concatenate([points, more[fits]])
            scores = np.concatenate([scores, _draw_scores(objective, more[fits])], axis=1)
        more = _around(space, points[scores.argmin(1)], 256, rng)
    low, high = np.quantile(points[scores.argmin(1)], [0.05, 0.95], axis=0)
    return low, high


def _draw_scores(objective: Objective, points: Floats) -> Floats:
    """Return the objective of each draw, (d, q); draws beyond a number are left out."""
    return np.asarray(objective.draws(points)[:_DRAWS] + objective.kl * objective.divergence(points), np.float64)


def _around(space: Space, points: Floats, count: int, rng: np.random.Generator) -> Floats:
    strengths = np.exp(rng.uniform(np.log(30.0), np.log(3000.0), count))
    return space.constraints.sample(rng, points[np.arange(count) % len(points)], strengths)


def _downhill(objective: Objective, weights: Floats, draws: int) -> Floats:
    """Return mixtures (draws * 8, k): from `weights`, exponentiated steps of several lengths down each draw's slope."""
    k = len(weights)
    towards = (1 - _STEP) * weights + _STEP * np.eye(k)
    scores = _draw_scores(objective, np.concatenate([weights[None], towards]))
    slope = (scores[:draws, 1:] - scores[:draws, :1]) / _STEP
    slope /= np.maximum(np.abs(slope).max(1, keepdims=True), 1e-12)
    lengths = np.array([0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2])
    start = np.maximum(weights, 1e-3)
    moved = start * np.exp(-lengths[None, :, None] * slope[:, None, :])
    return np.asarray(moved.reshape(-1, k), np.float64)


def _moves(objective: Objective, weights: Floats) -> list[dict[str, Move | None]]:
    """Return what moving each weight by each of `MOVES` costs."""
    k = len(weights)
    index = np.repeat(np.arange(k), len(MOVES))
    value = weights[index] + np.tile(MOVES, k)
    exists = (value >= -1e-12) & (value <= 1 + 1e-12)
    points = set_weight(np.repeat(weights[None], len(index), 0), index, np.clip(value, 0, 1))
    points = np.concatenate([weights[None], points])
    metric, penalty = objective.metric(points), objective.kl * objective.divergence(points)
    change, whole = metric[1:] - metric[0], (metric + penalty)[1:] - (metric + penalty)[0]
    found = [Move(float(c), float(w)) if e else None for c, w, e in zip(change, whole, exists, strict=True)]
    return [{f"{move:+g}": found[i * len(MOVES) + j] for j, move in enumerate(MOVES)} for i in range(k)]


def _pulls(objective: Objective, weights: Floats) -> Floats:
    """Return what `PULL` more of each slice adds to the weighted metric through each task, (k, m)."""
    index = np.arange(len(weights))
    more = set_weight(np.repeat(weights[None], len(weights), 0), index, np.minimum(weights + PULL, 1.0))
    means = objective.means(np.concatenate([weights[None], more]))
    return np.asarray((means[1:] - means[0]) * objective.problem.weights, np.float64)


def _derivatives(objective: Objective, weights: Floats) -> Floats:
    """Return the derivative (k,) of the metric by each weight, the others keeping their ratios."""
    k = len(weights)
    index = np.arange(k)
    up = np.minimum(weights + _STEP, 1.0)
    down = np.maximum(weights - _STEP, 0.0)
    both = np.concatenate([up, down])
    points = set_weight(np.repeat(weights[None], 2 * k, 0), np.concatenate([index, index]), both)
    values = objective.metric(points)
    return np.asarray((values[:k] - values[k:]) / (up - down), np.float64)


def _flat(objective: Objective, weights: Floats, tolerance: float) -> list[tuple[float, float]]:
    """Return for each slice the range of weights around its own within which the objective loses no more than that."""
    limits, k = objective.problem.constraints, len(weights)
    grid = np.linspace(0, 1, _GRID // 2 if k <= 64 else 20)
    values = np.concatenate(
        [
            weights[:, None] + (limits.lower - weights)[:, None] * grid,
            weights[:, None] + (limits.upper - weights)[:, None] * grid,
        ],
        axis=1,
    )
    values = np.clip(values, 0, 1)
    index = np.repeat(np.arange(k), values.shape[1])
    points = set_weight(np.repeat(weights[None], len(index), 0), index, values.ravel())
    scores = objective(np.concatenate([weights[None], points]))
    good = (scores[1:] <= scores[0] + tolerance).reshape(k, 2, grid.size)
    reach = np.cumprod(good, axis=2).sum(2)  # how many grid points in a row, from the weight outwards
    values = values.reshape(k, 2, grid.size)
    ends = values[np.arange(k)[:, None], np.arange(2), np.maximum(reach - 1, 0)]
    return [(float(min(low, w)), float(max(high, w))) for (low, high), w in zip(ends, weights, strict=True)]
