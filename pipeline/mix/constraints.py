"""Which mixtures are allowed: the simplex, a range for each slice, and ranges for the sums of disjoint groups.

A slice's range is [min_weight, min(max_weight, cap)], its cap being the share of the budget at which the target run has
repeated it `max_epochs` times. A fixed weight is a range of one value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.config import GroupBounds, SliceConfig
from pipeline.mix.swarm_space import Bounds, Space, reduced_bounds
from pipeline.mix.types import Floats
from pipeline.table.errors import ConfigError

TOLERANCE = 1e-9
_TINY = 1e-12
_BISECTIONS = 64


@dataclass(frozen=True)
class GroupLimit:
    """A range for the sum of the weights of some slices; `members` are their positions. Groups share no slice."""

    name: str
    members: tuple[int, ...]
    lower: float
    upper: float


@dataclass(frozen=True)
class Constraints:
    """The allowed mixtures of `names`: `lower` and `upper` have shape (k,).

    Raises: ConfigError, when made, if no mixture is allowed; the message names the keys that contradict each other.
    """

    names: tuple[str, ...]
    lower: Floats
    upper: Floats
    groups: tuple[GroupLimit, ...] = ()

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_ranges(self)

    @classmethod
    def capped(cls, names: Sequence[str], caps: Floats) -> Constraints:
        """Return the constraints that caps (k,) alone make."""
        upper = np.minimum(np.asarray(caps, np.float64), 1.0)
        return cls(tuple(names), np.zeros(len(upper)), upper)

    def violation(self, points: Floats) -> Floats:
        """Return by how much each of `points` (q, k) breaks its worst constraint, (q,); zero when none is."""
        worst = np.abs(points.sum(1) - 1.0)
        worst = np.maximum(worst, np.maximum(self.lower - points, points - self.upper).max(1))
        for group in self.groups:
            total = points[:, list(group.members)].sum(1)
            worst = np.maximum(worst, np.maximum(group.lower - total, total - group.upper))
        return np.asarray(np.maximum(worst, 0.0), np.float64)

    def allows(self, points: Floats) -> NDArray[np.bool_]:
        """Tell which of `points` (q, k) are inside, (q,); `rescale` moves the others inside."""
        return np.asarray(self.violation(points) <= TOLERANCE)

    def spans(self) -> tuple[Floats, Floats]:
        """Return the least and the largest weight that each slice has in any allowed mixture, both (k,)."""
        far = 2 * np.eye(len(self.names))  # from so far only the slice itself matters
        return np.diag(self.project(-far)).copy(), np.diag(self.project(far)).copy()

    def require_choice(self) -> None:
        """Raise a ConfigError where only one mixture is allowed: there is nothing to choose."""
        low, high = self.spans()
        if (high - low > TOLERANCE).any():
            return
        only = ", ".join(f"{name} {weight:.4g}" for name, weight in zip(self.names[:8], low, strict=False))
        raise ConfigError(
            f"slices: fixed weights and bounds leave one mixture ({only}{', ...' if len(self.names) > 8 else ''}) and "
            "nothing to choose; free a `weight`, or loosen min_weight, max_weight, max_epochs or propose.groups"
        )

    def project(self, points: Floats) -> Floats:
        """Return the allowed mixture nearest to each of `points` (q, k) by Euclidean distance, exact to about 1e-14.

        The optimum is `clip(point + shift, lower, upper)` with one shift for all slices, and one of its own for each
        group whose range binds.
        """
        spread = 1.0 + float(np.abs(points).max(initial=0.0))
        return _fill(self, lambda shift: np.clip(points + shift, self.lower, self.upper), len(points), spread)

    def rescale(self, points: Floats) -> Floats:
        """Return for each of `points` (q, k, not negative) the allowed mixture that keeps its ratios best.

        The result is `clip(factor * point, lower, upper)`: the projection by KL divergence. Zeros stay zero unless a
        bound forbids it.
        """
        points = points / np.maximum(points.sum(1, keepdims=True), _TINY)
        wrong = np.flatnonzero(self.violation(points) > TOLERANCE)
        if wrong.size:
            logs = np.log(np.maximum(points[wrong], _TINY))
            exponent = -2.0 * np.log(_TINY)
            filled = _fill(
                self, lambda shift: np.clip(np.exp(logs + shift), self.lower, self.upper), wrong.size, exponent
            )
            points[wrong] = np.where((filled < 1e-10) & (self.lower == 0), 0.0, filled)
        return points

    def sample(self, rng: np.random.Generator, centres: Floats, strengths: Floats) -> Floats:
        """Return one allowed Dirichlet draw around each of `centres` (q, k) with total strength `strengths` (q,).

        Draws that break a constraint are rescaled. A uniform centre with strength k is uniform over the simplex; where
        bounds bind, their faces get the draws from beyond them.
        """
        shapes = np.maximum(centres * strengths[:, None], 1e-3)
        return self.rescale(rng.standard_gamma(shapes) + _TINY)


def constraints_of(
    slices: Mapping[str, SliceConfig], caps: Mapping[str, float], groups: Mapping[str, GroupBounds]
) -> Constraints:
    """Return the constraints of a mix: `slices` in their order, each one's cap (share of the budget), group ranges.

    Raises: ConfigError when no mixture is allowed.
    """
    lower, upper = [], []
    for name, config in slices.items():
        cap = float(caps[name])
        if config.weight is None:
            lower.append(config.min_weight)
            upper.append(min(config.max_weight, cap, 1.0))
        elif config.weight > cap + TOLERANCE:
            raise ConfigError(
                f"slices.{name}.weight = {config.weight:g} is above its cap {cap:.4g} ({config.max_epochs:g} epochs of "
                "its tokens); lower it, or raise max_epochs"
            )
        else:
            lower.append(config.weight)
            upper.append(config.weight)
    members = {g: tuple(i for i, s in enumerate(slices.values()) if s.group == g) for g in groups}
    limits = tuple(GroupLimit(g, members[g], bounds.min_weight, bounds.max_weight) for g, bounds in groups.items())
    return Constraints(tuple(slices), np.array(lower, np.float64), np.array(upper, np.float64), limits)


def reduced_constraints(limits: Constraints, space: Space) -> Constraints:
    """Return the constraints of a space's coordinates; a frozen block has the tightest that its slices' bounds set.

    Raises: ConfigError when frozen ratios allow no mixture, or a group holds a part of the block and other slices.
    """
    if space.names == limits.names:
        return limits
    bounds = reduced_bounds(Bounds(limits.names, limits.lower, limits.upper), space)
    lower, upper = bounds.lower.copy(), bounds.upper.copy()
    groups = []
    for group in limits.groups:
        shares = space.expand[:, list(group.members)].sum(axis=1)
        inside = np.flatnonzero(shares > TOLERANCE)
        if (shares[inside] > 1 - TOLERANCE).all():
            groups.append(GroupLimit(group.name, tuple(inside.tolist()), group.lower, group.upper))
        elif inside.size == 1:  # a part of the block alone: a bound on the block
            lower[inside] = np.maximum(lower[inside], group.lower / shares[inside])
            upper[inside] = np.minimum(upper[inside], group.upper / shares[inside])
        else:
            raise ConfigError(
                f"propose.groups.{group.name}: holds some of the slices that swarm.reuse freezes, and others; "
                "freeze all of the group's slices or none, or leave the group out"
            )
    try:
        return Constraints(space.names, lower, upper, tuple(groups))
    except ConfigError as error:
        raise ConfigError(f"swarm.reuse: with frozen ratios: {error}") from error


def _check_shapes(limits: Constraints) -> None:
    k = len(limits.names)
    if k == 0 or limits.lower.shape != (k,) or limits.upper.shape != (k,):
        raise ConfigError(f"bounds of shapes {limits.lower.shape} and {limits.upper.shape} for {k} slices")
    if not (np.isfinite(limits.lower).all() and np.isfinite(limits.upper).all()):
        raise ConfigError("slices: a bound is not a finite number")
    seen: set[int] = set()
    for group in limits.groups:
        if seen & set(group.members) or not set(group.members) <= set(range(k)):
            raise ConfigError(f"propose.groups.{group.name}: a slice belongs to one group at most")
        seen |= set(group.members)


def _check_ranges(limits: Constraints) -> None:
    for name, low, high in zip(limits.names, limits.lower, limits.upper, strict=True):
        if low > high + TOLERANCE or low < 0:
            raise ConfigError(
                f"slices.{name}: min_weight {low:g} is above what its max_weight or its cap by max_epochs allows "
                f"({high:.4g}); lower it, or raise them"
            )
    low, high = 0.0, 0.0
    grouped = {i for group in limits.groups for i in group.members}
    for group in limits.groups:
        least, most = _reach(limits, group)
        if least > most + TOLERANCE:
            raise ConfigError(_group_message(limits, group))
        low, high = low + least, high + most
    rest = [i for i in range(len(limits.names)) if i not in grouped]
    low, high = low + float(limits.lower[rest].sum()), high + float(limits.upper[rest].sum())
    through = [f"propose.groups.{group.name}" for group in limits.groups]
    if low > 1 + TOLERANCE:
        blamed = [f"slices.{n}" for n, value in zip(limits.names, limits.lower, strict=True) if value > 0]
        raise ConfigError(
            f"{', '.join([*blamed, *through])}: least weights add up to {low:.4g}, more than 1; "
            "lower min_weight or weight"
        )
    if high < 1 - TOLERANCE:
        blamed = [f"slices.{n}" for n, value in zip(limits.names, limits.upper, strict=True) if value < 1]
        raise ConfigError(
            f"{', '.join([*blamed, *through])}: largest weights add up to {high:.4g}, less than 1; raise max_epochs or "
            "max_weight, add slices, or lower budget_tokens"
        )


def _reach(limits: Constraints, group: GroupLimit) -> tuple[float, float]:
    """Return the least and the largest sum that a group can have."""
    inside = list(group.members)
    least = max(group.lower, float(limits.lower[inside].sum()))
    return least, min(group.upper, float(limits.upper[inside].sum()))


def _group_message(limits: Constraints, group: GroupLimit) -> str:
    inside = list(group.members)
    keys = ", ".join(f"slices.{limits.names[i]}" for i in inside)
    low, high = float(limits.lower[inside].sum()), float(limits.upper[inside].sum())
    return (
        f"propose.groups.{group.name} asks for {group.lower:g} to {group.upper:g}, but the bounds of {keys} allow "
        f"{low:.4g} to {high:.4g}; change one of them"
    )


def _fill(limits: Constraints, place: Callable[[Floats], Floats], q: int, spread: float) -> Floats:
    """Return `place(shift)` (q, k), rising in its shift (q, 1), at the shift where it is a mixture.

    Groups whose sum would leave its range get the shift at which they reach the range's end.
    """
    ranges = [(list(group.members), *_reach(limits, group)) for group in limits.groups]

    def excess(shift: Floats) -> Floats:
        values = place(shift)
        total = values.sum(1)
        for inside, least, most in ranges:
            found = values[:, inside].sum(1)
            total += np.clip(found, least, most) - found
        return np.asarray(total - 1.0, np.float64)

    shift = _bisect(excess, q, spread)
    result = place(shift)
    for inside, least, most in ranges:
        found = result[:, inside].sum(1)
        target = np.clip(found, least, most)
        if np.abs(target - found).max(initial=0.0) > _TINY:
            own = _bisect(lambda s, i=inside, t=target: place(s)[:, i].sum(1) - t, q, spread)  # type: ignore[misc]
            changed = np.abs(target - found) > _TINY
            result[np.ix_(changed, inside)] = place(own)[np.ix_(changed, inside)]
    return result


def _bisect(excess: Callable[[Floats], Floats], q: int, spread: float) -> NDArray[np.float64]:
    """Return (q, 1): where a rising function of it becomes zero, between -spread and spread."""
    low, high = np.full(q, -spread), np.full(q, spread)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = excess(middle[:, None]) > 0
        high = np.where(above, middle, high)
        low = np.where(above, low, middle)
    return np.asarray((low + high)[:, None] / 2, np.float64)
