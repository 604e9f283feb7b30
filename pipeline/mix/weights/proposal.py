"""What a proposal says: the mixture, what it is expected to reach, and how sure each part of the answer is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.mix.types import Estimate, Floats


@dataclass(frozen=True)
class SliceAnswer:
    """The answer for one slice.

    `weight` has the 90 % interval of where the optimum lies, from optimising each draw of the fit. `lower` and `upper`
    are what is allowed. `less` and `more`: how five points less or more change the weighted metric (above zero is
    worse), also beyond a cap; None where there is no such mixture. `pulls`: what five points more do to it through each
    task; below zero, the task asks for more of the slice. From `flat_low` to `flat_high` the objective stays within
    `Proposal.flat_tolerance` of the optimum. In all of these the other weights keep their ratios.
    """

    weight: Estimate
    natural: float
    lower: float
    upper: float
    less: float | None
    more: float | None
    flat_low: float
    flat_high: float
    pulls: dict[str, float]


@dataclass(frozen=True)
class ParetoPoint:
    """A mixture that no other one found beats in every group; `importance` of each group is what led to it."""

    importance: dict[str, float]
    weights: dict[str, float]
    metrics: dict[str, float]


@dataclass(frozen=True)
class Active:
    """A constraint that binds: `name` is a slice or a group of slices (empty for the trust region)."""

    kind: Literal["zero", "lower", "upper", "fixed", "group_lower", "group_upper", "trust_region"]
    name: str
    limit: float


@dataclass(frozen=True)
class Kept:
    """What proposals with a KL penalty keep: their gain over the natural mixture, on average over halves of the runs.

    `promised`: as the half that proposed sees it; `kept`: as the other half does. Both in bits per byte.
    """

    kl: float
    promised: float
    kept: float

    @property
    def optimism(self) -> float:
        """What a proposal from all runs is expected to promise too much, never below zero."""
        return max(self.promised - self.kept, 0.0) / 2


@dataclass(frozen=True)
class Proposal:
    """A proposed mixture. Metrics are the suite's, weighted by `task_weights`, whose sizes sum to 1.

    Smaller is better, but for tasks of a weight below zero.

    `metric`, `tasks` and `baselines` have the 90 % interval of a new run. `improvement` (natural minus proposal, above
    zero is better) has that of the expected difference, both from the same draws of the fit. `optimism` is what
    choosing the best of a fit's predictions overstates it by, as `halves` measured it; `metric` and `improvement` are
    free of it.
    """

    weights: dict[str, float]
    slices: dict[str, SliceAnswer]
    objective: str
    kl: float
    metric: Estimate
    tasks: dict[str, Estimate]
    task_weights: dict[str, float]
    groups: dict[str, float]
    baselines: dict[str, Estimate]
    natural_groups: dict[str, float]
    improvement: Estimate
    optimism: float
    halves: tuple[Kept, ...]
    pareto: tuple[ParetoPoint, ...]
    active: tuple[Active, ...]
    flat_tolerance: float
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The slices, in order."""
        return tuple(self.weights)

    @property
    def vector(self) -> Floats:
        """The weights, float64 (k,)."""
        return np.array(list(self.weights.values()), np.float64)
