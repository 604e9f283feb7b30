"""Which mixture to train with: what the regression expected and what fresh proxies measured, put together.

Candidates (the proposal, the natural and the uniform mixture, the best run seen) train with the same fresh seeds, none
of which the fit has seen. A run measures theta[candidate] + offset[seed] + error. The offset is common to a seed, so
candidates are compared within seeds, paired. What the regression expects of each theta is the prior (for the proposal
with its optimism taken off), the means over seeds are measured, and the normal posterior follows: whoever was picked,
or measured best, by luck is drawn back as far as the measurement is noisy. The candidate of the least expected metric
is written; all are held to the same arithmetic, the natural mixture too.

Where a larger size was measured, it decides: it is nearer to the target. Its prior is what was known of the candidates
at the proxies' size, of which each may turn out as far from it as it was from their mean.

Source: the normal linear model (Gelman et al., Bayesian Data Analysis, section 14); paired t intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pipeline.mix.types import Estimate, Floats
from pipeline.table.errors import InputError, WorkspaceError

CONFIRMED_SD = 3.0
"""Pooled standard deviations of a single run over seeds by which a confirmed mixture beats natural and uniform."""
WEIGHTED = "suite metric"
"""Names the weighted metric among tasks' names, none of which has a space."""
_LEVEL = 0.90
_Z = 1.6448536269514722
_NO_NOISE = 1e-12
Evidence = Literal["confirmed", "likely", "none"]


@dataclass(frozen=True)
class Replicate:
    """One fresh run: which mixture (`proposal`, `natural`, `uniform`, `best_seen`), its seed, and each task's metric.

    `size` is 1 for the proxies' own size, and the multiple for larger ones.
    """

    mixture: str
    seed: int
    tasks: Mapping[str, float]
    size: float = 1.0


@dataclass(frozen=True)
class Belief:
    """What the regression expects of c candidates in one metric: `mean` (c,), `covariance` (c, c) of its errors.

    `seed_sd` is the standard deviation of a single run of the natural mixture over seeds, with `seed_degrees` of
    freedom; 0 when not measured. The luck of the `seeds` that the fit has seen is not in `covariance`.
    """

    names: tuple[str, ...]
    mean: Floats
    covariance: Floats
    seed_sd: float = 0.0
    seed_degrees: int = 0
    seeds: int = 0


@dataclass(frozen=True)
class Difference:
    """The written mixture minus another, paired by seed, in the weighted metric: below zero, what is written is better.

    The interval is 90 %. `in_sd` is the difference in pooled standard deviations of a single run over seeds; null where
    seeds make none.
    """

    value: float
    standard_error: float
    low: float
    high: float
    in_sd: float | None


@dataclass(frozen=True)
class Held:
    """A prediction held against fresh runs: `inside` of `runs` fell into its 90 % interval for a new run."""

    predicted: Estimate
    measured: float
    inside: int
    runs: int


@dataclass(frozen=True)
class SizeResult:
    """What one size measured. `mean` is each mixture's weighted metric, `tasks` the same for each task.

    `expected` is what is expected of each after it, with the 90 % interval of the mean over seeds; `best` the least.
    """

    size: float
    seeds: dict[str, tuple[int, ...]]
    mean: dict[str, float]
    tasks: dict[str, dict[str, float]]
    pooled_sd: float
    degrees_of_freedom: int
    expected: dict[str, Estimate]
    best: str
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Verification:
    """The verdict: `mixture` is what to write, `evidence` how sure it is to be better, and `why` says so in a sentence.

    `written`: what a new run of it will measure (90 %), for each task and the suite's metric; `natural`: the suite's
    metric of a new run of the natural mixture; `gain`: by how much the first is expected to be better.
    """

    mixture: str
    evidence: Evidence
    why: str
    sizes: tuple[SizeResult, ...]
    written: dict[str, Estimate]
    natural: Estimate
    gain: Estimate
    held: dict[str, Held]
    task_weights: dict[str, float]
    notes: tuple[str, ...] = field(default=())

    @property
    def decision(self) -> Literal["proposal", "fallback"]:
        """Whether the proposal itself is written."""
        return "proposal" if self.mixture == "proposal" else "fallback"

    def to_json(self) -> dict[str, Any]:
        """Return plain values for a JSON file; none is NaN or infinite."""
        plain: dict[str, Any] = _adapter().dump_python(self, mode="json")
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "verification") -> Verification:
        """Undo `to_json`. Raises: WorkspaceError when `value`, read from `where`, is no verification."""
        try:
            return _adapter().validate_python(dict(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"]))
            raise WorkspaceError(f"{where}: {key}: {first['msg']}; run `gristmill mix verify` again") from error

    def text(self) -> str:
        """Return a table for a terminal: mixtures at each size, predictions against measurements, the verdict."""
        return "\n".join([*_size_lines(self.sizes, self.mixture), *_held_lines(self.held), *self.notes, self.why])


@cache
def _adapter() -> TypeAdapter[Verification]:
    return TypeAdapter(Verification)


def verify_proposal(
    replicates: Sequence[Replicate],
    task_weights: Mapping[str, float],
    predicted: Mapping[str, Estimate],
    metric: Estimate | None = None,
    beliefs: Mapping[str, Belief] | None = None,
) -> Verification:
    """Return which of the measured mixtures to write, and how sure that is.

    `task_weights`: as the suite writes them, below zero where larger is better. `predicted`: the proposal's tasks, and
    `metric` the weighted metric, at the proxies' own size, with intervals of a new run. `beliefs`: what the regression
    expects, by task and of `WEIGHTED`; without it the measurement alone decides.

    Raises: InputError when the proposal or the natural mixture is missing at a size, a task was not measured or is no
    finite number, a seed is given twice or is missing for a mixture, or there is one seed only.
    """
    _check(replicates, task_weights)
    sizes = sorted({run.size for run in replicates})
    tables = [_Table.of([r for r in replicates if r.size == size], task_weights) for size in sizes]
    known, results, posterior = beliefs or {}, [], None
    for size, table in zip(sizes, tables, strict=True):
        if posterior is None:
            posterior = _update(known.get(WEIGHTED), table, WEIGHTED)
        else:
            posterior = _update(_transferred(posterior), table, WEIGHTED)
        results.append(_size_result(size, table, posterior))
    last, mixture = results[-1], results[-1].best
    evidence, why = _evidence(last)
    first = tables[0]
    whole = _update(known.get(WEIGHTED), first, WEIGHTED)
    tasks = {task: _new_run(_update(known.get(task), first, task), mixture) for task in task_weights}
    return Verification(
        mixture=mixture,
        evidence=evidence,
        why=why,
        sizes=tuple(results),
        written=tasks | {WEIGHTED: _new_run(whole, mixture)},
        natural=_new_run(whole, "natural"),
        gain=_gain(whole, mixture),
        held=_held(
            [r for r in replicates if r.size == 1.0 and r.mixture == "proposal"], task_weights, predicted, metric
        ),
        task_weights=normalised(task_weights),
        notes=_notes(results),
    )


def normalised(task_weights: Mapping[str, float]) -> dict[str, float]:
    """Return weights whose sizes add up to 1, signs kept."""
    total = math.fsum(abs(weight) for weight in task_weights.values())
    return {task: weight / total for task, weight in task_weights.items()}


def _check(replicates: Sequence[Replicate], task_weights: Mapping[str, float]) -> None:
    if not replicates:
        raise InputError("verify: no run was measured")
    seen: set[tuple[str, int, float]] = set()
    for run in replicates:
        if (run.mixture, run.seed, run.size) in seen:
            raise InputError(f"verify: {run.mixture} with seed {run.seed} at size {run.size:g} is given twice")
        seen.add((run.mixture, run.seed, run.size))
        for task in task_weights:
            value = run.tasks.get(task)
            if value is None or not math.isfinite(value):
                raise InputError(f"verify: {run.mixture} with seed {run.seed} has no finite {task!r} ({value})")
    weights = list(task_weights.values())
    if not all(math.isfinite(weight) for weight in weights) or not any(weights):
        raise InputError("verify: task weights must be finite, and one of them not zero")


@dataclass(frozen=True)
class _Table:
    """Measured values (c, s) by metric; candidates in order, the natural mixture first of equals, and the seeds."""

    names: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Mapping[str, Floats]

    @classmethod
    def of(cls, runs: Sequence[Replicate], task_weights: Mapping[str, float]) -> _Table:
        by_key = {(run.mixture, run.seed): run for run in runs}
        names, seeds = dict.fromkeys(run.mixture for run in runs), sorted({run.seed for run in runs})
        size = runs[0].size
        for name in ("proposal", "natural"):
            if name not in names:
                raise InputError(
                    f"verify: size {size:g} needs runs of `proposal` and of `natural`, found {list(names)}"
                )
        for name in names:
            lacking = [seed for seed in seeds if (name, seed) not in by_key]
            if lacking:
                raise InputError(f"verify: {name} at size {size:g} lacks seed {lacking[0]}, which others have")
        if len(seeds) < 2:
            raise InputError(f"verify: size {size:g} has one seed of each mixture; noise needs two, see verify.seeds")
        values = {
            task: np.array([[by_key[name, seed].tasks[task] for seed in seeds] for name in names])
            for task in task_weights
        }
        shares = normalised(task_weights)
        weighted = np.sum([values[task] * share for task, share in shares.items()], axis=0)
        return cls(tuple(names), tuple(seeds), values | {WEIGHTED: weighted})


@dataclass(frozen=True)
class _Posterior:
    """What is known of the candidates' means: `mean` (c,), `covariance` (c, c); single runs vary by `sd` (c,)."""

    names: tuple[str, ...]
    mean: Floats
    covariance: Floats
    sd: Floats
    degrees: int


def _update(belief: Belief | None, table: _Table, key: str) -> _Posterior:
    """Return the posterior of one metric, from what was expected and the table's means over seeds."""
    values = table.values[key]
    c, s = values.shape
    means = values.mean(1)
    left = values - means[:, None] - values.mean(0) + values.mean()
    error = float((left**2).sum()) / ((s - 1) * max(c - 1, 1))
    sd, degrees = _seed_sd(belief, table.names, values)
    offset = np.sqrt(np.maximum(sd**2 - error, 0.0))
    measured = (error * np.eye(c) + np.outer(offset, offset)) / s
    if belief is None:
        return _Posterior(table.names, means, measured, sd, degrees)
    order = [belief.names.index(name) for name in table.names]
    mean, covariance = belief.mean[order], belief.covariance[np.ix_(order, order)]
    if belief.seeds:
        covariance = covariance + np.outer(sd, sd) / belief.seeds
    ridge = 1e-12 * max(float(np.trace(covariance + measured)), 1e-300) * np.eye(c)
    gain = np.linalg.solve(covariance + measured + ridge, covariance).T
    return _Posterior(table.names, mean + gain @ (means - mean), covariance - gain @ covariance, sd, degrees)


def _seed_sd(belief: Belief | None, names: Sequence[str], values: Floats) -> tuple[Floats, int]:
    """Return the standard deviation (c,) of a single run of each candidate over seeds, and its degrees of freedom.

    That of the natural mixture is known best. How much noisier another is than that shows better than how noisy it is,
    since both were trained with the same seeds; few seeds tell no ratio beyond two, though.
    """
    s = values.shape[1]
    own = values.var(1, ddof=1)
    if belief is None or belief.seed_degrees == 0:
        return np.sqrt(own), s - 1
    natural = float(own[names.index("natural")])
    degrees = belief.seed_degrees + s - 1
    pooled = (belief.seed_degrees * belief.seed_sd**2 + (s - 1) * natural) / degrees
    ratio = np.sqrt(own / natural) if natural > 0 else np.ones_like(own)
    return np.sqrt(pooled) * np.clip(ratio, 0.5, 2.0), degrees


def _transferred(known: _Posterior) -> Belief:
    """Return what one size lets expect of the next: differences, as unsure as they are large; nothing of the level."""
    level = float(np.abs(known.mean).max()) ** 2
    own = np.diag((known.mean - known.mean.mean()) ** 2)
    return Belief(known.names, known.mean, known.covariance + own + level)


def _size_result(size: float, table: _Table, posterior: _Posterior) -> SizeResult:
    values, names = table.values[WEIGHTED], table.names
    sd, degrees = pooled_sd(values.tolist())
    order = ("natural", "proposal", "uniform", "best_seen")  # of equals
    best = min(
        range(len(names)),
        key=lambda i: (posterior.mean[i], order.index(names[i]) if names[i] in order else len(order), names[i]),
    )
    half = _Z * np.sqrt(np.maximum(np.diag(posterior.covariance), 0.0))
    means = posterior.mean
    return SizeResult(
        size=size,
        seeds=dict.fromkeys(names, table.seeds),
        mean={name: float(row.mean()) for name, row in zip(names, values, strict=True)},
        tasks={
            name: {task: float(v[i].mean()) for task, v in table.values.items() if task != WEIGHTED}
            for i, name in enumerate(names)
        },
        pooled_sd=sd,
        degrees_of_freedom=degrees,
        expected={
            name: Estimate(float(means[i]), float(means[i] - half[i]), float(means[i] + half[i]))
            for i, name in enumerate(names)
        },
        best=names[best],
        differences={name: _difference(values[best] - values[i], sd) for i, name in enumerate(names) if i != best},
    )


def pooled_sd(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the standard deviation within groups, pooled, and its degrees of freedom; groups of one add nothing."""
    squares, degrees = 0.0, 0
    for group in groups:
        mean = math.fsum(group) / len(group)
        squares += math.fsum((value - mean) ** 2 for value in group)
        degrees += len(group) - 1
    sd = math.sqrt(squares / degrees) if degrees else 0.0
    scale = max((abs(value) for group in groups for value in group), default=0.0)
    return (sd if sd > _NO_NOISE * scale else 0.0), degrees  # below that it is the arithmetic of the mean


def _difference(paired: Floats, sd: float) -> Difference:
    """Return the mean of differences seed by seed (s,), with its paired t interval."""
    value = float(paired.mean())
    spread = float(paired.std(ddof=1))
    error = spread / math.sqrt(len(paired)) if spread > _NO_NOISE * float(np.abs(paired).max()) else 0.0
    half = t_quantile(len(paired) - 1) * error
    return Difference(value, error, value - half, value + half, value / sd if sd > 0 else None)


def t_quantile(degrees: float) -> float:
    """Return how many standard errors a 90 % interval reaches to either side."""
    from scipy.stats import t  # a second of imports that no other command needs

    return float(t.ppf((1 + _LEVEL) / 2, degrees))


def _evidence(result: SizeResult) -> tuple[Evidence, str]:
    """Return how sure it is that what is written is better than the natural mixture, and say so in a sentence."""
    if result.best == "natural":
        return "none", "Nothing is expected to be better than the natural mixture, so that is written."
    against = {name: result.differences[name] for name in ("natural", "uniform") if name in result.differences}
    subject = "The proposal" if result.best == "proposal" else f"Expected to be best is {result.best}: it"
    said = " and ".join(f"{name} ({_margin(difference)})" for name, difference in against.items())
    if result.best != "uniform" and all(_surely(difference) for difference in against.values()):
        return "confirmed", f"{subject} beats {said}, each by more than {CONFIRMED_SD:g} seed standard deviations."
    natural = against["natural"]
    if natural.high < 0 or (natural.in_sd is None and natural.value < 0):
        return "likely", f"{subject} beats natural in paired runs ({_interval(natural)}); against {said}."
    return "none", f"{subject} does not surely beat natural ({_interval(natural)}); against {said}."


def _surely(difference: Difference) -> bool:
    if difference.in_sd is None:
        return difference.value < 0
    return difference.in_sd < -CONFIRMED_SD


def _interval(difference: Difference) -> str:
    return f"{difference.value:+.4f}, 90 % {difference.low:+.4f} to {difference.high:+.4f}"


def _margin(difference: Difference) -> str:
    in_sd = f", {difference.in_sd:+.1f} sd" if difference.in_sd is not None else ""
    return f"{difference.value:+.4f}{in_sd}"


def _new_run(known: _Posterior, name: str) -> Estimate:
    """Return what one more run of a candidate will measure, with another seed."""
    i = known.names.index(name)
    half = t_quantile(known.degrees) * math.sqrt(max(float(known.covariance[i, i]), 0.0) + float(known.sd[i]) ** 2)
    value = float(known.mean[i])
    return Estimate(value, value - half, value + half)


def _gain(known: _Posterior, name: str) -> Estimate:
    """Return by how much a candidate is expected to be better than the natural mixture."""
    contrast = np.zeros(len(known.names))
    contrast[known.names.index("natural")] += 1
    contrast[known.names.index(name)] -= 1
    value = float(contrast @ known.mean)
    half = t_quantile(known.degrees) * math.sqrt(max(float(contrast @ known.covariance @ contrast), 0.0))
    return Estimate(value, value - half, value + half)


def _held(
    runs: Sequence[Replicate],
    task_weights: Mapping[str, float],
    predicted: Mapping[str, Estimate],
    metric: Estimate | None,
) -> dict[str, Held]:
    """Return each task's prediction beside its measurements, and `weighted` for the whole; empty without such runs."""
    if not runs:
        return {}
    columns = {task: [run.tasks[task] for run in runs] for task in task_weights}
    told = {task: predicted[task] for task in task_weights if task in predicted}
    if metric is not None:
        shares = normalised(task_weights)
        columns[WEIGHTED] = [math.fsum(run.tasks[t] * share for t, share in shares.items()) for run in runs]
        told[WEIGHTED] = metric
    return {
        name: Held(
            estimate,
            float(np.mean(columns[name])),
            sum(estimate.low <= value <= estimate.high for value in columns[name]),
            len(runs),
        )
        for name, estimate in told.items()
    }


def _notes(results: Sequence[SizeResult]) -> tuple[str, ...]:
    notes = []
    if any(result.pooled_sd == 0 for result in results):
        notes.append(
            "Seeds make no difference to this proxy: differences are exact for it, and say nothing of the noise of a "
            "trained model."
        )
    if len({result.best for result in results}) > 1:
        said = ", ".join(f"{r.best} is best at {r.size:g}x" for r in results)
        notes.append(f"Sizes disagree: {said}; the largest decides.")
    return tuple(notes)


def _size_lines(results: Sequence[SizeResult], written: str) -> list[str]:
    lines = []
    for result in results:
        lines.append(f"size {result.size:g}x, seed sd {result.pooled_sd:.5f} ({result.degrees_of_freedom} df)")
        lines.append(
            f"  {'mixture':<12} {'seeds':>5} {'measured':>9} {'expected':>9} {result.best + ' minus it':>20} "
            f"{'paired 90 %':>21} {'sd':>7}"
        )
        for name in sorted(result.mean, key=lambda n: (result.expected[n].value, n)):
            row = f"  {name:<12} {len(result.seeds[name]):>5} {result.mean[name]:>9.5f} "
            row += f"{result.expected[name].value:>9.5f}"
            if name in result.differences:
                d = result.differences[name]
                in_sd = f"{d.in_sd:>+7.1f}" if d.in_sd is not None else f"{'none':>7}"
                row += f" {d.value:>+20.5f} {f'{d.low:+.5f} to {d.high:+.5f}':>21} {in_sd}"
            lines.append(row + (" (written)" if name == written and result is results[-1] else ""))
    return lines


def _held_lines(held: Mapping[str, Held]) -> list[str]:
    if not held:
        return []
    width = max(12, *(len(name) for name in held))
    lines = [f"  {'task':<{width}} {'predicted':>9} {'90 % interval':>19} {'measured':>9}  runs inside"]
    for name, item in held.items():
        p = item.predicted
        interval = f"{p.low:.5f} to {p.high:.5f}"
        lines.append(
            f"  {name:<{width}} {p.value:>9.5f} {interval:>19} {item.measured:>9.5f}  {item.inside} of {item.runs}"
        )
    return lines
