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

import numpy as np

from pipeline.mix.types import Difference, Estimate, Evidence, Floats
from pipeline.table.errors import InputError

CONFIRMED_SD = 3.0
"""Pooled standard deviations of a single run over seeds by which a confirmed mixture beats natural and uniform."""
WEIGHTED = "suite metric"
"""Names the weighted metric among tasks' names, none of which has a space."""
_LEVEL = 0.90
_Z = 1.6448536269514722
_NO_NOISE = 1e-12


@dataclass(frozen=True)
class Fresh:
    """What fresh runs measured at one size: `values` (c, s, m) of c candidates with the same s seeds on m tasks.

    `names` are of `proposal`, `natural`, `uniform` and `best_seen`, the first two always. `size` is 1 for the proxies'
    own size, and the multiple for larger ones.
    """

    size: float
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    values: Floats


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
class Held:
    """A prediction held against fresh runs: `inside` of `runs` fell into its 90 % interval for a new run."""

    predicted: Estimate
    measured: float
    inside: int
    runs: int


@dataclass(frozen=True)
class SizeResult:
    """What one size measured. `mean` is each mixture's weighted metric; the best minus each other is in `differences`.

    `expected` is what is expected of each after it, with the 90 % interval of the mean over seeds; `best` the least.
    """

    size: float
    seeds: dict[str, tuple[int, ...]]
    mean: dict[str, float]
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
    notes: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """Return a table for a terminal: mixtures at each size, predictions against measurements, the verdict."""
        return "\n".join([*_size_lines(self.sizes, self.mixture), *_held_lines(self.held), *self.notes, self.why])


def verify_proposal(
    measured: Sequence[Fresh],
    task_weights: Mapping[str, float],
    predicted: Mapping[str, Estimate],
    metric: Estimate | None = None,
    beliefs: Mapping[str, Belief] | None = None,
) -> Verification:
    """Return which of the measured mixtures to write, and how sure that is. Sizes rise, the proxies' own is the first.

    `task_weights`: as the suite writes them, below zero where larger is better. `predicted`: the proposal's tasks, and
    `metric` the weighted metric, at the proxies' own size, with intervals of a new run. `beliefs`: what the regression
    expects, by task and of `WEIGHTED`; without it the measurement alone decides.

    Raises: InputError when a measured value is no finite number.
    """
    known, names = beliefs or {}, measured[0].names
    tables = [_by_metric(fresh, task_weights) for fresh in measured]
    belief, results = known.get(WEIGHTED), []
    for fresh, table in zip(measured, tables, strict=True):
        posterior = _update(belief, fresh.names, table[WEIGHTED])
        results.append(_size_result(fresh, table[WEIGHTED], posterior))
        belief = _transferred(posterior)
    mixture, (evidence, why) = results[-1].best, _evidence(results[-1])
    updated = {key: _update(known.get(key), names, values) for key, values in tables[0].items()}
    told = {**predicted, **({WEIGHTED: metric} if metric else {})}
    held = {
        key: Held(told[key], float(own.mean()), int(((told[key].low <= own) & (own <= told[key].high)).sum()), own.size)
        for key, own in ((key, values[names.index("proposal")]) for key, values in tables[0].items())
        if key in told
    }
    return Verification(
        mixture=mixture,
        evidence=evidence,
        why=why,
        sizes=tuple(results),
        written={key: _new_run(posterior, mixture) for key, posterior in updated.items()},
        natural=_new_run(updated[WEIGHTED], "natural"),
        gain=_gain(updated[WEIGHTED], mixture),
        held=held,
        notes=_notes(results),
    )


def normalised(task_weights: Mapping[str, float]) -> dict[str, float]:
    """Return weights whose sizes add up to 1, signs kept."""
    total = math.fsum(abs(weight) for weight in task_weights.values())
    return {task: weight / total for task, weight in task_weights.items()}


def _by_metric(fresh: Fresh, task_weights: Mapping[str, float]) -> dict[str, Floats]:
    """Return the measured values (c, s) of each task, and of the weighted metric."""
    for c, s, m in np.argwhere(~np.isfinite(fresh.values))[:1]:
        name, seed, task = fresh.names[c], fresh.seeds[s], list(task_weights)[m]
        raise InputError(f"verify: {name} with seed {seed} has no finite {task!r} ({fresh.values[c, s, m]})")
    values = dict(zip(task_weights, np.moveaxis(fresh.values, 2, 0), strict=True))
    weighted = np.sum([values[task] * share for task, share in normalised(task_weights).items()], axis=0)
    return values | {WEIGHTED: weighted}


@dataclass(frozen=True)
class _Posterior:
    """What is known of the candidates' means: `mean` (c,), `covariance` (c, c); single runs vary by `sd` (c,)."""

    names: tuple[str, ...]
    mean: Floats
    covariance: Floats
    sd: Floats
    degrees: int


def _update(belief: Belief | None, names: tuple[str, ...], values: Floats) -> _Posterior:
    """Return the posterior of one metric, from what was expected and the means over seeds of `values` (c, s)."""
    c, s = values.shape
    means = values.mean(1)
    left = values - means[:, None] - values.mean(0) + values.mean()
    error = float((left**2).sum()) / ((s - 1) * max(c - 1, 1))
    sd, degrees = _seed_sd(belief, names, values)
    offset = np.sqrt(np.maximum(sd**2 - error, 0.0))
    measured = (error * np.eye(c) + np.outer(offset, offset)) / s
    if belief is None:
        return _Posterior(names, means, measured, sd, degrees)
    order = [belief.names.index(name) for name in names]
    mean, covariance = belief.mean[order], belief.covariance[np.ix_(order, order)]
    if belief.seeds:
        covariance = covariance + np.outer(sd, sd) / belief.seeds
    ridge = 1e-12 * max(float(np.trace(covariance + measured)), 1e-300) * np.eye(c)
    gain = np.linalg.solve(covariance + measured + ridge, covariance).T
    return _Posterior(names, mean + gain @ (means - mean), covariance - gain @ covariance, sd, degrees)


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


def _size_result(fresh: Fresh, values: Floats, posterior: _Posterior) -> SizeResult:
    names, sd = fresh.names, pooled_sd(values)
    order = ("natural", "proposal", "uniform", "best_seen")  # of equals
    best = min(
        range(len(names)),
        key=lambda i: (posterior.mean[i], order.index(names[i]) if names[i] in order else len(order), names[i]),
    )
    half = _Z * np.sqrt(np.maximum(np.diag(posterior.covariance), 0.0))
    means = posterior.mean
    return SizeResult(
        size=fresh.size,
        seeds=dict.fromkeys(names, fresh.seeds),
        mean={name: float(row.mean()) for name, row in zip(names, values, strict=True)},
        pooled_sd=sd,
        degrees_of_freedom=len(names) * (len(fresh.seeds) - 1),
        expected={
            name: Estimate(float(means[i]), float(means[i] - half[i]), float(means[i] + half[i]))
            for i, name in enumerate(names)
        },
        best=names[best],
        differences={name: _difference(values[best] - values[i], sd) for i, name in enumerate(names) if i != best},
    )


def pooled_sd(values: Floats) -> float:
    """Return the standard deviation over seeds within the rows of `values` (c, s), pooled."""
    sd = math.sqrt(float(values.var(axis=1, ddof=1).mean()))
    return sd if sd > _NO_NOISE * float(np.abs(values).max()) else 0.0  # below that it is the arithmetic of the mean


def _difference(paired: Floats, sd: float) -> Difference:
    """Return the mean of differences seed by seed (s,), with its paired t interval."""
    value = float(paired.mean())
    spread = float(paired.std(ddof=1))
    error = spread / math.sqrt(len(paired)) if spread > _NO_NOISE * float(np.abs(paired).max()) else 0.0
    half = t_quantile(len(paired) - 1) * error
    return Difference(value, value - half, value + half, value / sd if sd > 0 else None)


def t_quantile(degrees: float) -> float:
    """Return how many standard errors a 90 % interval reaches to either side."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + _LEVEL) / 2))


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
