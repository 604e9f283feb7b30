"""What the mix report shows: plain immutable values, filled from the files that the steps of a mix leave.

Shapes: `n` runs, `k` slices in the report's order. A metric is always a loss: smaller is better, a negative change is
a gain. Everything that a later step makes is optional: what is not there yet is left out of the report, by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number with its 90 % interval; NaN where none is known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Slice:
    """A slice: `natural` is its share of all tokens, `max_weight` the largest weight within its cap at the target."""

    name: str
    natural: float
    documents: int | None = None
    tokens: int | None = None
    max_epochs: float | None = None
    max_weight: float | None = None


@dataclass(frozen=True)
class Task:
    """A task of the suite: its weight as used, and the regression that predicts it."""

    name: str
    group: str = "all"
    weight: float = 1.0
    model: str | None = None


@dataclass(frozen=True)
class Mixture:
    """Weights (k,) of a proposal or a baseline; `low` and `high` (k,) where intervals are known."""

    name: str
    weights: Floats
    low: Floats | None = None
    high: Floats | None = None

    @property
    def interval(self) -> tuple[Floats, Floats] | None:
        """Both ends, where both are known."""
        return None if self.low is None or self.high is None else (self.low, self.high)


@dataclass(frozen=True)
class Change:
    """Predicted metric of the proposal minus that of the natural mixture, for the suite, a group or a task."""

    name: str
    difference: Estimate
    natural: float | None = None


@dataclass(frozen=True)
class Verified:
    """What fresh proxies on one mixture measured: mean and standard deviation over seeds."""

    mixture: str
    seeds: int
    mean: float
    sd: float | None
    predicted: Estimate | None = None
    expected: Estimate | None = None
    """After prediction and measurement are put together."""


@dataclass(frozen=True)
class Verification:
    """Candidates held against one another at one size; the first of `mixtures` is expected to be best.

    `evidence` that it is better than the natural mixture: confirmed, likely or none. `differences`: the first minus
    each other, paired by seed.
    """

    label: str
    mixtures: Sequence[Verified]
    verdict: str
    evidence: str
    pooled_sd: float | None = None
    differences: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Predicted:
    """A metric's measured values (n,) and predictions (n,) from fits that did not see the run, with intervals (n,)."""

    metric: str
    measured: Floats
    predicted: Floats
    low: Floats | None = None
    high: Floats | None = None


@dataclass(frozen=True)
class FitQuality:
    """How well a metric is predicted on runs that neither the fit nor its choice saw. `coverage` is a share."""

    metric: str
    model: str
    n: int
    r2: float | None = None
    spearman: float | None = None
    rmse: float | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class SignalToNoise:
    """Standard deviation over mixtures (signal) and over seeds (noise) of a metric; `kept` is the share of its weight
    that is left after it was weighted down."""

    metric: str
    signal: float
    noise: float
    ratio: float
    flagged: bool
    kept: float | None = None


@dataclass(frozen=True)
class Sensitivity:
    """Predicted change of the weighted metric when the proposal's weight of a slice is lowered or raised by the
    0.05; `flat` is the range of weights that the prediction cannot tell from the proposal."""

    slice: str
    less: Estimate | None = None
    more: Estimate | None = None
    flat: tuple[float, float] | None = None


@dataclass(frozen=True)
class KlRecord:
    """What proposals from half of the runs promised with a KL penalty, and what the other half says they keep."""

    kl: float
    promised: float
    kept: float
    chosen: bool


@dataclass(frozen=True)
class Pareto:
    """Predicted metrics (points, groups) of mixtures that no other improves in all groups; rows of the same columns
    for the proposal, the natural mixture and measured runs."""

    groups: Sequence[str]
    points: Floats
    proposal: Floats | None = None
    natural: Floats | None = None
    observed: Floats | None = None


@dataclass(frozen=True)
class Curve:
    """Training loss (nats a token) of a run over tokens seen; `kind` as in `Cost`."""

    run: str
    kind: str
    tokens: Floats
    loss: Floats


@dataclass(frozen=True)
class Cost:
    """What a run cost. `kind`: swarm, corner, natural, uniform, unimax, best_seen or proposal."""

    run: str
    kind: str
    cpu_s: float
    tokens: int
    flops: float


@dataclass(frozen=True)
class Sampled:
    """What was written to token shards: tokens of each slice (k,), counted afterwards."""

    tokens: Floats
    asked: Floats


@dataclass(frozen=True)
class MixReport:
    """Everything that the report of one mix shows. Only name and slices are needed.

    `basis` are labelled facts (suite, its hash, proxy, versions), shown in this order. The proposal's weights and those
    of `baselines` are in the order of `slices`.
    """

    name: str
    slices: Sequence[Slice]
    basis: Mapping[str, str] = field(default_factory=dict)
    tasks: Sequence[Task] = ()
    budget_tokens: int | None = None
    runs: int | None = None
    proposal: Mixture | None = None
    baselines: Sequence[Mixture] = ()
    changes: Sequence[Change] = ()
    """The suite's change first, then the groups', then tasks'."""
    verifications: Sequence[Verification] = ()
    predictions: Sequence[Predicted] = ()
    quality: Sequence[FitQuality] = ()
    noise: Sequence[SignalToNoise] = ()
    sensitivity: Sequence[Sensitivity] = ()
    pulls: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What five points more of each slice do to the weighted metric through each task; below zero, it asks for more."""
    kl_records: Sequence[KlRecord] = ()
    optimism: float | None = None
    """What the proposal's prediction was lowered by."""
    pareto: Pareto | None = None
    curves: Sequence[Curve] = ()
    costs: Sequence[Cost] = ()
    sampled: Sampled | None = None
    warnings: Sequence[str] = ()


def epochs(report: MixReport, weights: Floats) -> Floats | None:
    """Return how often a target run of the budget repeats each slice (k,); NaN where a slice's tokens are unknown."""
    if report.budget_tokens is None:
        return None
    tokens = np.array([s.tokens or np.nan for s in report.slices], np.float64)
    return weights * report.budget_tokens / tokens


def natural_weights(report: MixReport) -> Floats:
    """Return the slices' natural shares (k,)."""
    return np.array([s.natural for s in report.slices], np.float64)


def all_warnings(report: MixReport) -> list[str]:
    """Return the report's warnings, and those that follow from its values, so that none can be forgotten."""
    found = list(report.warnings)
    if report.proposal and not report.verifications:
        found.append("The proposal is not verified: every gain below is a prediction of the regression.")
    unsure = [v for v in report.verifications if v.evidence == "none"]
    found += [f"{v.label}: no evidence that it is better than the natural mixture; see verification." for v in unsure]
    flagged = [n.metric for n in report.noise if n.flagged]
    if flagged:
        found.append(f"Mostly seed noise, and weighted down: {_some(flagged)}.")
    if report.predictions and not report.noise:
        found.append("Seed noise was not measured: small differences between mixtures may be chance.")
    found += _cap_warnings(report)
    off = _sampled_off(report)
    if off > 0.001:
        found.append(f"Sampled proportions are up to {off:.4f} away from those asked for.")
    return list(dict.fromkeys(found))


def _cap_warnings(report: MixReport) -> list[str]:
    if report.proposal is None:
        return []
    repeated = epochs(report, report.proposal.weights)
    if repeated is None:
        return []
    over = [
        s.name
        for s, count in zip(report.slices, repeated, strict=True)
        if s.max_epochs is not None and count > s.max_epochs * 1.0001
    ]
    return [f"The proposal repeats more often than max_epochs allows: {_some(over)}."] if over else []


def _sampled_off(report: MixReport) -> float:
    if report.sampled is None or not report.sampled.tokens.sum() > 0:
        return 0.0
    realised = report.sampled.tokens / report.sampled.tokens.sum()
    return float(np.abs(realised - report.sampled.asked).max(initial=0.0))


def _some(names: Sequence[str], most: int = 8) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest:,} more" if rest > 0 else "")
