"""Does a proposal hold what was predicted? Statistics over fresh proxies of the proposal and of the baselines.

Every mixture is trained with the same fresh seeds, none of which the fit has seen. The standard deviation over seeds is
pooled over all mixtures of a size. The proposal wins when it beats the natural and the uniform mixture by more than
three of those, and is not worse than the best run of the swarm beyond noise: the 90 % t interval of their difference
does not lie wholly on the wrong side. Being measured anew, the best run has lost the luck that made it the best.

Where a larger size was measured, it decides: it is nearer to the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from pydantic import TypeAdapter, ValidationError

from pipeline.mix.proposal import Estimate
from pipeline.table.errors import InputError, WorkspaceError

WINS_BY_SD = 3.0
_LEVEL = 0.90
_NO_NOISE = 1e-12

Decision = Literal["proposal", "fallback"]


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
class Difference:
    """The proposal minus another mixture, in the weighted metric: below zero, the proposal is better.

    The interval is 90 %. `in_sd` is the difference in pooled seed standard deviations; null where seeds make none.
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
    """What one size measured. `mean` is each mixture's weighted metric, `tasks` the same for each task."""

    size: float
    seeds: dict[str, tuple[int, ...]]
    mean: dict[str, float]
    tasks: dict[str, dict[str, float]]
    pooled_sd: float
    degrees_of_freedom: int
    differences: dict[str, Difference]
    wins: bool
    why: str


@dataclass(frozen=True)
class Verification:
    """The verdict: `mixture` is what to use, and `why` says so in one sentence."""

    decision: Decision
    mixture: str
    why: str
    sizes: tuple[SizeResult, ...]
    held: dict[str, Held]
    task_weights: dict[str, float]
    notes: tuple[str, ...] = ()

    @property
    def wins(self) -> bool:
        """Whether the proposal won at the size that decides."""
        return self.decision == "proposal"

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
        return "\n".join([*_size_lines(self.sizes), *_held_lines(self.held), *self.notes, self.why])


@cache
def _adapter() -> TypeAdapter[Verification]:
    return TypeAdapter(Verification)


def verify_proposal(
    replicates: Sequence[Replicate],
    task_weights: Mapping[str, float],
    predicted: Mapping[str, Estimate],
    metric: Estimate | None = None,
) -> Verification:
    """Return the verdict on the mixture named `proposal`.

    `task_weights`: as the suite writes them. `predicted`: the proposal's tasks, and `metric` the weighted metric, at
    the proxies' own size, with intervals of a new run.

    Raises: InputError when the proposal or the natural mixture is missing at a size, a task was not measured or is no
    finite number, a seed is given twice, or no mixture has two runs.
    """
    sizes = sorted({r.size for r in replicates})
    if not sizes:
        raise InputError("verify: no run was measured")
    _check(replicates, task_weights)
    results = tuple(_size_result([r for r in replicates if r.size == size], task_weights) for size in sizes)
    last = results[-1]
    held = _held([r for r in replicates if r.size == 1.0 and r.mixture == "proposal"], task_weights, predicted, metric)
    total = sum(task_weights.values())
    mixture = "proposal" if last.wins else _best_observed(last)
    why = last.why if last.wins else f"{last.why} Falls back to the best observed mixture: {mixture}."
    return Verification(
        decision="proposal" if last.wins else "fallback",
        mixture=mixture,
        why=why,
        sizes=results,
        held=held,
        task_weights={task: weight / total for task, weight in task_weights.items()},
        notes=_notes(results),
    )


def _check(replicates: Sequence[Replicate], task_weights: Mapping[str, float]) -> None:
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
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise InputError("verify: task weights must be finite and not negative, and one of them above zero")


def _weighted(run: Replicate, task_weights: Mapping[str, float]) -> float:
    return math.fsum(run.tasks[t] * w for t, w in task_weights.items()) / math.fsum(task_weights.values())


def _size_result(runs: Sequence[Replicate], task_weights: Mapping[str, float]) -> SizeResult:
    size = runs[0].size
    values: dict[str, list[float]] = {}
    for run in runs:
        values.setdefault(run.mixture, []).append(_weighted(run, task_weights))
    others = [name for name in values if name != "proposal"]
    if "proposal" not in values or "natural" not in values:
        raise InputError(f"verify: size {size:g} needs runs of `proposal` and of `natural`, found {sorted(values)}")
    sd, df = pooled_sd(list(values.values()))
    if df == 0:
        raise InputError(f"verify: size {size:g} has one seed of each mixture; noise needs two, see verify.seeds")
    differences = {name: _difference(values["proposal"], values[name], sd, df) for name in others}
    wins, why = _verdict(differences, sd)
    mean = {name: float(np.mean(v)) for name, v in values.items()}
    tasks = {
        name: {t: float(np.mean([r.tasks[t] for r in runs if r.mixture == name])) for t in task_weights}
        for name in values
    }
    seeds = {name: tuple(sorted(r.seed for r in runs if r.mixture == name)) for name in values}
    return SizeResult(size, seeds, mean, tasks, sd, df, differences, wins, why)


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


def _difference(proposal: Sequence[float], other: Sequence[float], sd: float, df: int) -> Difference:
    from scipy.stats import t  # a second of imports that no other command needs

    value = math.fsum(proposal) / len(proposal) - math.fsum(other) / len(other)
    error = sd * math.sqrt(1 / len(proposal) + 1 / len(other))
    half = float(t.ppf((1 + _LEVEL) / 2, df)) * error
    return Difference(value, error, value - half, value + half, value / sd if sd > 0 else None)


def _verdict(differences: Mapping[str, Difference], sd: float) -> tuple[bool, str]:
    """Return whether the proposal wins, and why, in one sentence."""
    must = [name for name in ("natural", "uniform") if name in differences]
    failed = [name for name in must if not _beats(differences[name])]
    if failed:
        said = ", ".join(f"{name} ({_margin(differences[name])})" for name in failed)
        asked = f"by more than {WINS_BY_SD:g} seed standard deviations" if sd > 0 else "at all"
        return False, f"The proposal does not beat {said} {asked}."
    best = differences.get("best_seen")
    if best is not None and best.low > 0:
        return False, f"The proposal is worse than the best run seen ({_margin(best)})."
    said = " and ".join(f"{name} ({_margin(differences[name])})" for name in must)
    beside = f", and is not worse than the best run seen ({_margin(best)})" if best is not None else ""
    return True, f"The proposal beats {said}{beside}."


def _beats(difference: Difference) -> bool:
    if difference.in_sd is None:
        return difference.value < 0
    return difference.in_sd < -WINS_BY_SD


def _margin(difference: Difference) -> str:
    in_sd = f", {difference.in_sd:+.1f} sd" if difference.in_sd is not None else ""
    return f"{difference.value:+.4f}{in_sd}"


def _best_observed(result: SizeResult) -> str:
    """Return the baseline with the least mean; of equals the best run seen, then the natural mixture."""
    order = ("best_seen", "natural", "uniform")
    return min(result.differences, key=lambda n: (result.mean[n], order.index(n) if n in order else len(order), n))


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
        columns["weighted"] = [_weighted(run, task_weights) for run in runs]
        told["weighted"] = metric
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
    if len({result.wins for result in results}) > 1:
        said = ", ".join(f"{'wins' if r.wins else 'does not win'} at {r.size:g}x" for r in results)
        notes.append(f"Sizes disagree: the proposal {said}; the largest decides.")
    return tuple(notes)


def _size_lines(results: Sequence[SizeResult]) -> list[str]:
    lines = []
    for result in results:
        lines.append(f"size {result.size:g}x, seed sd {result.pooled_sd:.5f} ({result.degrees_of_freedom} df)")
        lines.append(
            f"  {'mixture':<12} {'seeds':>5} {'metric':>9} {'proposal minus it':>18} {'90 % interval':>21} {'sd':>7}"
        )
        for name in sorted(result.mean, key=lambda n: (result.mean[n], n)):
            row = f"  {name:<12} {len(result.seeds[name]):>5} {result.mean[name]:>9.5f}"
            if name in result.differences:
                d = result.differences[name]
                in_sd = f"{d.in_sd:>+7.1f}" if d.in_sd is not None else f"{'none':>7}"
                row += f" {d.value:>+18.5f} {f'{d.low:+.5f} to {d.high:+.5f}':>21} {in_sd}"
            lines.append(row)
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
