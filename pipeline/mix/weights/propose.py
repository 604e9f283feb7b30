"""From fitted regressions to a proposed mixture, and to how far each part of it can be believed.

What is minimised: the suite metric plus `kl` times KL(mixture || natural), in bits per byte and nats. The suite metric
is the mean of the tasks' bits per byte weighted as the suite says, the weights normalised to sum 1. Tasks are not
scaled by their spread: a bit is a bit, and a task counts more by a larger weight only. `expected` minimises the
predicted mean, `upper` the mean plus 1.645 standard deviations over the fit's draws, the upper end of a 90 % interval.

The search is over the constraints and the trust region of `search`: a cloud of candidates, SLSQP from the best of
them, then moves of single weights, which also serve models without gradients. Same input and seed, same proposal.
Weights are rounded to four places before anything is said about them, so what is verified is what is written.

An optimum of predictions is optimistic, so what is said of a proposal is corrected by what `optimism` measures; so are
the intervals of its weights. That also chooses `kl` where the configuration gives none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.mix.config import ProposeConfig
from pipeline.mix.types import Estimate, Floats, Prediction
from pipeline.mix.weights.objective import UPPER_Z, Objective, Predictor, Problem
from pipeline.mix.weights.optimism import DEFAULT_KL, KLS, Halves, Means, measure_halves
from pipeline.mix.weights.proposal import Active, ParetoPoint, Proposal, SliceAnswer
from pipeline.mix.weights.rounding import round_weights
from pipeline.mix.weights.search import Ints, TrustRegion, compass, polish, set_weight, usual_radius
from pipeline.mix.weights.verify import WEIGHTED, Belief
from pipeline.table.errors import ConfigError

CANDIDATES = 16_384
_UPPER_CANDIDATES = 4_096
_STARTS = 3
_BINDS = 5e-4
_REACH = 2.353  # of 90 % with three degrees of freedom: splits of the same eight seeds are few independent ones


@dataclass(frozen=True)
class SeedNoise:
    """What seeds do to a single run: `sd` by task and of the weighted metric, each with its degrees of freedom.

    `seeds`: how many the swarm was trained with.
    """

    sd: Mapping[str, tuple[float, int]]
    seeds: int


def propose(
    predictor: Predictor,
    problem: Problem,
    config: ProposeConfig,
    seed: int,
    halves: Sequence[tuple[Means, Means]] = (),
) -> Proposal:
    """Return the best mixture found for `problem`, with intervals, sensitivities and the front between task groups.

    `halves` are fits of both halves of some splits of the runs; without them nothing is corrected for optimism.

    Raises: ConfigError when the fit does not match the problem or predicts values that are not finite.
    """
    region = TrustRegion.of(problem.constraints, problem.runs)
    measured, kl = None, config.kl
    if halves:
        measured = measure_halves(halves, problem, region, KLS if kl is None else (kl,), seed)
        kl = measured.best_kl if kl is None else kl
    objective = Objective(predictor, problem, config.model_copy(update={"kl": DEFAULT_KL if kl is None else kl}))
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x70726F70]))
    candidates = _cloud(objective, region, rng)
    weights = round_weights(_refined(objective, region, candidates), problem.constraints)
    proposal = _described(objective, region, weights, candidates, rng)
    return proposal if measured is None else _corrected(proposal, measured)


def _corrected(proposal: Proposal, halves: Halves) -> Proposal:
    """Return the proposal with its optimism taken off, and with the weights' intervals that halves of the runs show.

    The correction is about as unsure as it is large. Draws of the fit are not asked for the weights: their optima lie
    apart by what a process that wriggles makes of them, twice as far as those of other runs and seeds.
    """
    kept, weight_sd = halves.at(proposal.kl)
    off = kept.optimism

    def moved(estimate: Estimate, by: float) -> Estimate:
        value = estimate.value + by
        low, high = (np.hypot(end - estimate.value, UPPER_Z * off) for end in (estimate.low, estimate.high))
        return Estimate(value, float(value - low), float(value + high))

    slices = {}
    for (name, answer), sd in zip(proposal.slices.items(), weight_sd.tolist(), strict=True):
        value, reach = answer.weight.value, _REACH * sd
        weight = Estimate(value, max(value - reach, answer.lower), min(value + reach, answer.upper))
        slices[name] = replace(answer, weight=weight)
    return replace(
        proposal,
        slices=slices,
        metric=moved(proposal.metric, off),
        improvement=moved(proposal.improvement, -off),
        optimism=off,
        halves=halves.kept,
    )


def beliefs(
    predictor: Predictor,
    problem: Problem,
    points: Mapping[str, Floats],
    optimism: float,
    noise: SeedNoise,
) -> dict[str, Belief]:
    """Return what the fit expects of the mixtures `points` (k,), by task and of the weighted metric, for verification.

    Errors of a mixture's expected metric: the fit's own (its draws, as wide as its intervals are), what runs differ
    from it by beyond the noise of seeds, and the luck of the swarm's seeds, which is common to all mixtures. The
    mixture `proposal` has its `optimism` taken off, in the weighted metric.
    """
    at, weights = np.stack(list(points.values())), problem.weights
    each, whole, draws = predictor.predict(at), predictor.total(at, weights), predictor.draws(at)
    off = np.array([optimism if name == "proposal" else 0.0 for name in points])

    def belief(name: str, told: Prediction, column: int, apart: Floats, off: Floats | float) -> Belief:
        """`apart` (d, c): how draws differ from their mean."""
        sd, degrees = noise.sd.get(name, (0.0, 0))
        of_seeds, spread = sd**2 / noise.seeds, apart.std(0)  # the verdict knows better what seeds do to each
        sure = _variance(told.mean_low, told.mean_high, column)
        left = np.maximum(_variance(told.low, told.high, column) - sure - sd**2, 0.0)
        own = np.sqrt(np.maximum(sure - of_seeds, 0.0))
        apart = apart * np.divide(own, spread, out=np.ones_like(own), where=spread > 0)
        covariance = apart.T @ apart / len(apart) + np.diag(left + np.square(off))
        return Belief(tuple(points), told.mean[:, column] + off, covariance, sd, degrees, noise.seeds)

    apart = draws - draws.mean(0)  # (d, c, m)
    found = {task: belief(task, each, i, apart[:, :, i], 0.0) for i, task in enumerate(problem.tasks)}
    return found | {WEIGHTED: belief(WEIGHTED, whole, 0, apart @ weights, off)}


def _variance(low: Floats, high: Floats, column: int) -> Floats:
    """Return the variance (q,) that 90 % intervals stand for."""
    return np.asarray(((high - low)[:, column] / 2 / UPPER_Z) ** 2, np.float64)


def baselines(problem: Problem) -> dict[str, Floats]:
    """Return the natural and the uniform mixture, each as near to it as the constraints allow."""
    k = len(problem.natural)
    rescaled = problem.constraints.rescale(np.stack([problem.natural, np.full(k, 1.0 / k)]))
    return {"natural": rescaled[0], "uniform": rescaled[1]}


def _cloud(objective: Objective, region: TrustRegion, rng: np.random.Generator) -> Floats:
    """Return candidates (q, k) of the region, the best first: anchors, draws everywhere, then around the best."""
    problem = objective.problem
    count = CANDIDATES if objective.config.objective == "expected" else _UPPER_CANDIDATES
    k = len(problem.natural)
    fixed = np.stack([*baselines(problem).values()])
    half = count // 2
    centres = np.concatenate(
        [
            np.full((half // 4, k), 1.0 / k),
            np.repeat(problem.natural[None], half // 4, 0),
            _rows(region.anchors, half // 2),
        ]
    )
    points = region.constraints.sample(rng, centres, _strengths(rng, len(centres), 1.0, 300.0))
    points = region.repaired(np.concatenate([region.anchors, fixed, points]))
    if len(points) == 0:
        raise ConfigError(
            "propose: no mixture inside the bounds is near a run that was trained; "
            "run the swarm again under these bounds, or loosen them"
        )
    values = objective(points)
    top = points[np.argsort(values, kind="stable")[:32]]
    near = region.constraints.sample(rng, _rows(top, half), _strengths(rng, half, 10.0, 3000.0))
    near = region.repaired(near)
    values = np.concatenate([values, objective(near)]) if len(near) else values
    return np.asarray(np.concatenate([points, near])[np.argsort(values, kind="stable")], np.float64)


def _strengths(rng: np.random.Generator, count: int, least: float, most: float) -> Floats:
    return np.asarray(np.exp(rng.uniform(np.log(least), np.log(most), count)), np.float64)


def _rows(points: Floats, count: int) -> Floats:
    """Return `count` rows: those of `points` over and over."""
    return np.asarray(points[np.arange(count) % len(points)], np.float64)


def _refined(objective: Objective, region: TrustRegion, candidates: Floats) -> Floats:
    """Return the best mixture that local searches from a few good and different candidates reach."""

    def score(points: Floats, _owner: Ints) -> Floats:
        return objective(points)

    chosen: list[int] = []
    balls, _ = region.nearest(candidates[:2048])
    for row, ball in enumerate(balls):
        if len(chosen) < _STARTS and ball not in balls[chosen]:
            chosen.append(row)
    starts = np.stack([polish(candidates[row], score, region) for row in chosen])
    points, values = compass(starts, score, region, step=0.02)
    return np.asarray(points[int(values.argmin())], np.float64)


def _described(
    objective: Objective, region: TrustRegion, weights: Floats, candidates: Floats, rng: np.random.Generator
) -> Proposal:
    problem = objective.problem
    others = baselines(problem)
    seen = objective.means(problem.runs) @ problem.weights
    others["best_predicted_run"] = problem.runs[int(seen.argmin())]
    tasks, totals = objective.predict(np.stack([weights, *others.values()]))
    tolerance = _tolerance(objective, weights)
    groups = group_metrics(objective, np.stack([weights, others["natural"]]))
    return Proposal(
        weights=_named(problem.constraints.names, weights),
        slices=slice_answers(objective, region, weights, candidates, tolerance, rng),
        objective=objective.config.objective,
        kl=objective.kl,
        metric=totals[0],
        tasks=tasks,
        task_weights=_named(problem.tasks, problem.weights),
        groups=_named(problem.groups, groups[0]),
        baselines=dict(zip(others, totals[1:], strict=True)),
        natural_groups=_named(problem.groups, groups[1]),
        improvement=expected_difference(objective, others["natural"], weights),
        optimism=0.0,
        halves=(),
        pareto=pareto_front(objective, region, np.concatenate([weights[None], candidates[: 4 * _POOL]])),
        active=_active(region, weights),
        flat_tolerance=tolerance,
        notes=_notes(problem, region),
    )


def _named(names: tuple[str, ...], values: Floats) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _active(region: TrustRegion, weights: Floats) -> tuple[Active, ...]:
    """Return the constraints that bind, up to what rounding moves."""
    found, limits = [], region.constraints
    for name, weight, low, high in zip(limits.names, weights, limits.lower, limits.upper, strict=True):
        if high - low <= 1e-9:
            found.append(Active("fixed", name, float(low)))
        elif weight - low <= _BINDS:
            found.append(Active("lower" if low > 0 else "zero", name, float(low)))
        elif high - weight <= _BINDS:
            found.append(Active("upper", name, float(high)))
    for group in limits.groups:
        total = float(weights[list(group.members)].sum())
        if total - group.lower <= _BINDS and group.lower > 0:
            found.append(Active("group_lower", group.name, group.lower))
        elif group.upper - total <= _BINDS and group.upper < 1:
            found.append(Active("group_upper", group.name, group.upper))
    if region.nearest(weights[None])[1][0] >= region.radius * 0.98:
        found.append(Active("trust_region", "", region.radius))
    return tuple(found)


def _notes(problem: Problem, region: TrustRegion) -> tuple[str, ...]:
    usual = usual_radius(problem.runs)
    if region.radius <= usual * (1 + 1e-9):
        return ()
    return (
        f"No mixture inside the bounds lies within {usual:.3f} of a trained run, so up to {region.radius:.3f} was "
        "allowed; predictions are less sure than their intervals say. Run the swarm again under these bounds.",
    )


STEP = 0.05
"""Five points of the weights, for what less and more of a slice does."""
_FLAT_SHARE = 0.01
_FLAT_SD = 0.5
_GRID = 200
_POOL = 1024
_DRAWS = 64
_STEP = 1e-4
_FRONT = 24
_SAME = 1e-6


def slice_answers(
    objective: Objective,
    region: TrustRegion,
    weights: Floats,
    candidates: Floats,
    tolerance: float,
    rng: np.random.Generator,
) -> dict[str, SliceAnswer]:
    """Return the answer for each slice; the objective may be worse by `tolerance` in the flat region."""
    problem, limits = objective.problem, region.constraints
    low, high = _optima(objective, region, weights, candidates, rng)
    less, more, pulls = _changes(objective, weights)
    flat = _flat(objective, weights, tolerance)
    answers = {}
    for i, name in enumerate(limits.names):
        value = float(weights[i])
        answers[name] = SliceAnswer(
            weight=Estimate(value, min(float(low[i]), value), max(float(high[i]), value)),
            natural=float(problem.natural[i]),
            lower=float(limits.lower[i]),
            upper=float(limits.upper[i]),
            less=less[i],
            more=more[i],
            flat_low=flat[i][0],
            flat_high=flat[i][1],
            pulls=dict(zip(problem.tasks, pulls[i].tolist(), strict=True)),
        )
    return answers


def expected_difference(objective: Objective, base: Floats, weights: Floats) -> Estimate:
    """Return by how much `weights` is expected to be better than `base`, both (k,), paired draw by draw.

    Tasks' errors are taken as shared: a law errs on them together, but its draws are made task by task.
    """
    by_task = objective.predictor.draws(np.stack([base, weights]))
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


def pareto_front(objective: Objective, region: TrustRegion, pool: Floats) -> tuple[ParetoPoint, ...]:
    """Return mixtures that trade the groups of tasks against one another, none beaten by another in every group.

    Each minimises the groups' expected metrics under another importance, the penalty included. One group has no front.
    """
    groups = objective.problem.groups
    if len(groups) < 2:
        return ()
    importance = _importances(len(groups), objective)
    pool, kl = region.repaired(np.concatenate([pool, region.anchors])), objective.kl

    def score(points: Floats, owner: Ints) -> Floats:
        values = (group_metrics(objective, points) * importance[owner]).sum(1)
        return np.asarray(values + kl * objective.problem.divergence(points), np.float64)

    table = importance @ group_metrics(objective, pool).T + kl * objective.problem.divergence(pool)
    points, _ = compass(pool[table.argmin(1)], score, region, step=0.04, least=2e-3, rounds=24)
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


def _optima(
    objective: Objective, region: TrustRegion, weights: Floats, candidates: Floats, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return the 5 % and 95 % quantiles (k,) of where each draw has its optimum.

    Every draw chooses from one pool: good candidates, mixtures near the optimum, and steps along each draw's own slope.
    """
    pool = [weights[None], candidates[:_POOL], _around(region, weights[None], 512, rng)]
    points, fits = region.repair(np.concatenate([*pool, region.anchors[:_POOL]]))
    points[0], fits[0] = weights, True
    points = points[fits]
    scores = _draw_scores(objective, points)
    more = _downhill(objective, weights, scores.shape[0])
    for _ in range(3):
        more = region.repaired(more)
        if len(more):
            points = np.concatenate([points, more])
            scores = np.concatenate([scores, _draw_scores(objective, more)], axis=1)
        more = _around(region, points[scores.argmin(1)], 256, rng)
    low, high = np.quantile(points[scores.argmin(1)], [0.05, 0.95], axis=0)
    return low, high


def _draw_scores(objective: Objective, points: Floats) -> Floats:
    """Return the objective of each draw, (d, q); draws beyond a number are left out."""
    return np.asarray(
        objective.draws(points)[:_DRAWS] + objective.kl * objective.problem.divergence(points), np.float64
    )


def _around(region: TrustRegion, points: Floats, count: int, rng: np.random.Generator) -> Floats:
    strengths = _strengths(rng, count, 30.0, 3000.0)
    return region.constraints.sample(rng, _rows(points, count), strengths)


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


def _changes(objective: Objective, weights: Floats) -> tuple[list[float | None], list[float | None], Floats]:
    """Return what five points less and more of each slice do to the metric, where there is such a mixture.

    And what five points more, or what is left to all of it, do to the weighted metric through each task, (k, m).
    """
    k = len(weights)
    value = np.concatenate([weights - STEP, weights + STEP])
    points = set_weight(np.tile(weights, (2 * k, 1)), np.tile(np.arange(k), 2), np.clip(value, 0, 1))
    points = np.concatenate([weights[None], points])
    metric, means = objective.metric(points), objective.means(points)
    exists = (value >= -1e-12) & (value <= 1 + 1e-12)
    change = [float(c) if e else None for c, e in zip(metric[1:] - metric[0], exists, strict=True)]
    return change[:k], change[k:], np.asarray((means[1 + k :] - means[0]) * objective.problem.weights, np.float64)


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
