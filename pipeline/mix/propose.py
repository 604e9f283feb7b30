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
from pipeline.mix.constraints import Constraints
from pipeline.mix.objective import UPPER_Z, Objective, Predicted, Predictor, Problem, owner_free
from pipeline.mix.optimism import DEFAULT_KL, KLS, Halves, Means, measure_halves
from pipeline.mix.proposal import Active, Estimate, Proposal, Trust
from pipeline.mix.proposal_answers import Found, expected_difference, group_metrics, pareto_front, slice_answers
from pipeline.mix.rounding import round_weights
from pipeline.mix.search import Space, TrustRegion, compass, polish
from pipeline.mix.types import Floats
from pipeline.mix.verify import WEIGHTED, Belief
from pipeline.table.errors import ConfigError

CANDIDATES = 16_384
_UPPER_CANDIDATES = 4_096
_STARTS = 3
_BINDS = 5e-4
_REACH = 2.353  # of 90 % with three degrees of freedom: splits of the same eight seeds are few independent ones


@dataclass(frozen=True)
class _Cloud:
    points: Floats
    values: Floats


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
    space = Space.of(problem.constraints, problem.runs)
    measured, kl = None, config.kl
    if halves:
        measured = measure_halves(halves, problem, space, KLS if kl is None else (kl,), seed)
        kl = measured.best_kl if kl is None else kl
    objective = Objective(predictor, problem, config.model_copy(update={"kl": DEFAULT_KL if kl is None else kl}))
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x70726F70]))
    cloud = _cloud(objective, space, rng)
    best = _refined(objective, space, cloud)
    weights = round_weights(best, problem.constraints)
    proposal = _described(objective, space, Found(weights, cloud.points, cloud.values), rng)
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

    def belief(name: str, told: Predicted, column: int, apart: Floats, off: Floats | float) -> Belief:
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


def _cloud(objective: Objective, space: Space, rng: np.random.Generator) -> _Cloud:
    """Return candidates of the space, with their scores: anchors, draws everywhere, then draws around the best."""
    problem = objective.problem
    count = CANDIDATES if objective.config.objective == "expected" else _UPPER_CANDIDATES
    k = len(problem.natural)
    fixed = np.stack([*baselines(problem).values()])
    half = count // 2
    centres = np.concatenate(
        [
            np.full((half // 4, k), 1.0 / k),
            np.repeat(problem.natural[None], half // 4, 0),
            _rows(space.anchors, half // 2),
        ]
    )
    points = space.constraints.sample(rng, centres, _strengths(rng, len(centres), 1.0, 300.0))
    points, fits = space.repair(np.concatenate([space.anchors, fixed, points]))
    points = points[fits]
    if len(points) == 0:
        raise ConfigError(
            "propose: no mixture inside the bounds is near a run that was trained; "
            "run the swarm again under these bounds, or loosen them"
        )
    values = objective(points)
    top = points[np.argsort(values, kind="stable")[:32]]
    near = space.constraints.sample(rng, _rows(top, half), _strengths(rng, half, 10.0, 3000.0))
    near, fits = space.repair(near)
    points = np.concatenate([points, near[fits]])
    values = np.concatenate([values, objective(near[fits])]) if fits.any() else values
    order = np.argsort(values, kind="stable")
    return _Cloud(points[order], values[order])


def _strengths(rng: np.random.Generator, count: int, least: float, most: float) -> Floats:
    return np.asarray(np.exp(rng.uniform(np.log(least), np.log(most), count)), np.float64)


def _rows(points: Floats, count: int) -> Floats:
    """Return `count` rows: those of `points` over and over."""
    return np.asarray(points[np.arange(count) % len(points)], np.float64)


def _refined(objective: Objective, space: Space, cloud: _Cloud) -> Floats:
    """Return the best mixture that local searches from a few good and different candidates reach."""
    score = owner_free(objective)
    chosen: list[int] = []
    balls, _ = space.region.nearest(cloud.points[:2048])
    for row, ball in enumerate(balls):
        if len(chosen) < _STARTS and ball not in balls[chosen]:
            chosen.append(row)
    starts = np.stack([polish(cloud.points[row], score, space) for row in chosen])
    points, values = compass(starts, score, space, step=0.02)
    return np.asarray(points[int(values.argmin())], np.float64)


def _described(objective: Objective, space: Space, found: Found, rng: np.random.Generator) -> Proposal:
    problem = objective.problem
    weights, kl = found.weights, objective.kl
    others = baselines(problem)
    seen = objective.means(problem.runs) @ problem.weights
    others["best_predicted_run"] = problem.runs[int(seen.argmin())]
    tasks, totals = objective.predict(np.stack([weights, *others.values()]))
    region = space.region
    nearest, distance = (part[0] for part in region.nearest(weights[None]))
    slices, tolerance = slice_answers(objective, space, found, rng)
    groups = group_metrics(objective, np.stack([weights, others["natural"]]))
    return Proposal(
        weights=_named(problem.constraints.names, weights),
        slices=slices,
        objective=objective.config.objective,
        kl=kl,
        metric=totals[0],
        tasks=tasks[0],
        task_weights=_named(problem.tasks, problem.weights),
        groups=_named(problem.groups, groups[0]),
        baselines=dict(zip(others, totals[1:], strict=True)),
        natural_tasks=tasks[1],
        natural_groups=_named(problem.groups, groups[1]),
        improvement=expected_difference(objective, others["natural"], weights),
        optimism=0.0,
        halves=(),
        pareto=pareto_front(objective, space, found),
        active=_active(problem.constraints, region, weights, float(distance)),
        trust=Trust(float(distance), region.radius, int(nearest)),
        kl_to_natural=float(objective.divergence(weights[None])[0]),
        flat_tolerance=tolerance,
        candidates=len(found.points),
        notes=_notes(problem, region),
    )


def _named(names: tuple[str, ...], values: Floats) -> dict[str, float]:
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _active(limits: Constraints, region: TrustRegion, weights: Floats, distance: float) -> tuple[Active, ...]:
    """Return the constraints that bind, up to what rounding moves."""
    found = []
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
    if distance >= region.radius * 0.98:
        found.append(Active("trust_region", "", region.radius))
    return tuple(found)


def _notes(problem: Problem, region: TrustRegion) -> tuple[str, ...]:
    usual = TrustRegion.around(problem.runs).radius
    if region.radius <= usual * (1 + 1e-9):
        return ()
    return (
        f"No mixture inside the bounds lies within {usual:.3f} of a trained run, so up to {region.radius:.3f} was "
        "allowed; predictions are less sure than their intervals say. Run the swarm again under these bounds.",
    )
