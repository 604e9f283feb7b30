"""What a proposal minimises, over any regression that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.mix.config import ProposeConfig
from pipeline.mix.types import Estimate, Floats, Prediction
from pipeline.mix.weights.space import Constraints
from pipeline.table.errors import ConfigError

UPPER_Z = 1.645
"""Standard deviations above the mean at which a normal 90 % interval ends."""
_ROWS = 2048


class Predictor(Protocol):
    """A fitted regression of all m metrics on mixtures (q, k)."""

    def mean(self, weights: Floats) -> Floats:
        """Return the expected metrics, (q, m), without intervals, which a search never looks at."""
        ...

    def predict(self, weights: Floats) -> Prediction:
        """Return what new runs would measure."""
        ...

    def total(self, weights: Floats, metric_weights: Floats) -> Prediction:
        """Return what new runs would measure of the sum of the metrics, weighted (m,), as one metric (q, 1)."""
        ...

    def draws(self, weights: Floats) -> Floats:
        """Return draws of the expected metrics, (d, q, m): the same d fits at every call."""
        ...


@dataclass(frozen=True)
class Problem:
    """What is proposed for: k slices, m tasks, and the n runs that the regression has seen.

    `natural` (k,): proportions of the slices' tokens. `runs` (n, k): mixtures. `task_weights` and `task_groups`: each
    task's weight as written (below zero where larger is better) and its group, in the order of the predictor's metrics.
    `seed_sd`: standard deviation of the weighted metric over seeds, where it is known.

    Raises: ConfigError, when made, if shapes or values do not fit together.
    """

    constraints: Constraints
    natural: Floats
    runs: Floats
    task_weights: Mapping[str, float]
    task_groups: Mapping[str, str]
    seed_sd: float | None = None

    def __post_init__(self) -> None:
        k = len(self.constraints.names)
        if self.natural.shape != (k,) or self.runs.ndim != 2 or self.runs.shape[1] != k or len(self.runs) == 0:
            raise ConfigError(f"natural {self.natural.shape} and runs {self.runs.shape} do not fit {k} slices")
        for name, values in (("natural", self.natural[None]), ("runs", self.runs)):
            if not np.isfinite(values).all() or (values < 0).any() or np.abs(values.sum(1) - 1).max() > 1e-6:
                raise ConfigError(f"{name}: not mixtures: weights must be finite, not negative, and sum to 1")
        empty = (self.natural <= 0) & (self.constraints.upper > 0)
        if empty.any():
            name = self.constraints.names[int(np.flatnonzero(empty)[0])]
            raise ConfigError(f"slices.{name} holds no tokens, so nothing can be drawn from it; remove it")
        weights = np.array(list(self.task_weights.values()), np.float64)
        if not np.isfinite(weights).all() or not weights.any():
            raise ConfigError("tasks: weights must be finite, and one of them not zero")
        for task in self.task_weights:
            if task not in self.task_groups:
                raise ConfigError(f"task {task!r} has no group")

    def divergence(self, points: Floats) -> Floats:
        """Return KL(point || natural) in nats, (q,)."""
        logs = np.log(np.maximum(points, 1e-300)) - np.log(np.maximum(self.natural, 1e-300))
        return np.asarray((points * logs).sum(1), np.float64)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, in order."""
        return tuple(self.task_weights)

    @property
    def weights(self) -> Floats:
        """The tasks' weights (m,), their sizes summing to 1."""
        weights = np.array(list(self.task_weights.values()), np.float64)
        return np.asarray(weights / np.abs(weights).sum(), np.float64)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of tasks with any weight, in order of their first task."""
        return tuple(dict.fromkeys(self.task_groups[t] for t, w in self.task_weights.items() if w))

    @property
    def group_weights(self) -> Floats:
        """Each group's weights of tasks (g, m), the sizes of every row summing to 1."""
        inside = np.array([[self.task_groups[t] == g for t in self.tasks] for g in self.groups])
        weights = inside * self.weights
        return np.asarray(weights / np.abs(weights).sum(1, keepdims=True), np.float64)


class Objective:
    """The function that is minimised, and its parts. Calls are split so that memory does not grow with q."""

    def __init__(self, predictor: Predictor, problem: Problem, config: ProposeConfig) -> None:
        self.problem, self.config, self.predictor = problem, config, predictor
        self.kl = config.kl or 0.0

    def means(self, points: Floats) -> Floats:
        """Return the expected metrics, (q, m)."""
        return np.concatenate([self._checked(self.predictor.mean(block)) for block in _blocks(points, _ROWS)])

    def metric(self, points: Floats) -> Floats:
        """Return the weighted metric that is minimised, without the penalty, (q,): a mean or an upper bound."""
        if self.config.objective == "expected":
            return np.asarray(self.means(points) @ self.problem.weights, np.float64)
        draws = self.draws(points)
        return np.asarray(draws.mean(0) + UPPER_Z * draws.std(0), np.float64)

    def __call__(self, points: Floats) -> Floats:
        """Return the objective, (q,)."""
        return self.metric(points) + self.kl * self.problem.divergence(points)

    def draws(self, points: Floats) -> Floats:
        """Return draws of the expected weighted metric, (d, q)."""
        parts = [self._checked(self.predictor.draws(b)) @ self.problem.weights for b in _blocks(points, _ROWS // 4)]
        return np.concatenate(parts, axis=1)

    def predict(self, points: Floats) -> tuple[dict[str, Estimate], list[Estimate]]:
        """Return the first point's tasks, and every point's weighted metric, with 90 % intervals of a new run."""
        each, whole = self.predictor.predict(points), self.predictor.total(points, self.problem.weights)
        ends = np.stack([self._checked(v) for v in (each.mean, each.low, each.high)], axis=-1)[0].tolist()
        tasks = {task: Estimate(*end) for task, end in zip(self.problem.tasks, ends, strict=True)}
        totals = np.stack([whole.mean, whole.low, whole.high], axis=-1)[:, 0].tolist()
        return tasks, [Estimate(*end) for end in totals]

    def _checked(self, values: Floats) -> Floats:
        if values.shape[-1] != len(self.problem.tasks):
            raise ConfigError(f"the fit predicts {values.shape[-1]} metrics, the suite has {len(self.problem.tasks)}")
        if not np.isfinite(values).all():
            raise ConfigError("the fit predicts values that are not finite; choose another `fit.model`")
        return values


def _blocks(points: Floats, rows: int) -> list[Floats]:
    return [points[start : start + rows] for start in range(0, max(len(points), 1), rows)]
