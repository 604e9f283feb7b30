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
from pipeline.mix.types import Floats, SliceTokens
from pipeline.table.errors import ConfigError, InputError


@dataclass(frozen=True)
class Space:
    """The coordinates that a swarm is drawn in, v of them: a frozen block of slices is one.

    `expand` (v, k): weights (n, v) @ expand are weights of all slices. `reduce` (k, v) sums the block up again.
    """

    names: tuple[str, ...]
    expand: Floats
    reduce: Floats


def natural_weights(n_tokens: Sequence[int] | NDArray[np.int64]) -> Floats:
    """Return each slice's share of all tokens, (k,).

    Raises: InputError when there are no tokens at all.
    """
    tokens = np.asarray(n_tokens, np.float64)
    if tokens.size == 0 or not np.all(np.isfinite(tokens)) or tokens.min() < 0 or tokens.sum() == 0:
        raise InputError(f"slices: token counts {tokens.tolist()} leave nothing to mix; check their `where`")
    weights: Floats = tokens / tokens.sum()
    return weights


def weight_bounds(
    slices: Mapping[str, SliceConfig],
    n_tokens: Sequence[int] | NDArray[np.int64],
    budget_tokens: int,
    groups: Mapping[str, GroupBounds] | None = None,
) -> Constraints:
    """Return the constraints at target scale: at most `max_epochs` * tokens / budget of each slice, and as configured.

    Raises: ConfigError when no mixture fits; the message names the largest budget that does.
    """
    tokens = np.asarray(n_tokens, np.float64)
    available = np.array([s.max_epochs for s in slices.values()]) * tokens
    asked_upper = np.array([s.max_weight if s.weight is None else s.weight for s in slices.values()])
    asked_lower = np.array([s.min_weight if s.weight is None else s.weight for s in slices.values()])
    _require_feasible(list(slices), asked_lower, asked_upper, available, budget_tokens)
    caps = np.minimum(1.0, available / budget_tokens)
    return constraints_of(slices, dict(zip(slices, caps.tolist(), strict=True)), groups or {})


def _require_feasible(
    names: Sequence[str], lower: Floats, upper: Floats, available: Floats, budget_tokens: int
) -> None:
    """Raise unless weights between `lower` and `upper` use no more than `available` tokens of any slice."""
    if lower.sum() > 1 + 1e-9:
        raise ConfigError(f"slices: fixed and least weights add up to {lower.sum():.6g}, more than 1; lower some")
    if upper.sum() < 1 - 1e-9:
        raise ConfigError(f"slices: fixed and largest weights add up to {upper.sum():.6g}, less than 1; raise some")
    largest = _largest_budget(lower, upper, available)
    if budget_tokens <= largest:
        return
    short = lower * budget_tokens > available
    if short.any():
        i = int(np.argmax(short))
        why = f"slices.{names[i]}: weight {lower[i]:g} needs more than its {available[i]:,.0f} tokens with repetition"
    else:
        why = f"the slices have {available.sum():,.0f} tokens with repetition within their largest weights"
    raise ConfigError(
        f"budget_tokens {budget_tokens:,}: {why}; the largest budget that fits is {largest:,}: "
        "lower the budget, or raise max_epochs or max_weight"
    )


def _largest_budget(lower: Floats, upper: Floats, available: Floats) -> int:
    """Return the largest budget B with lower * B <= available and sum(min(upper, available / B)) >= 1."""
    fits, fails = 0, int(available.sum()) + 2  # at B > sum(available) the second can't hold
    while fails - fits > 1:
        budget = (fits + fails) // 2
        enough = np.minimum(upper, available / budget).sum() >= 1 - 1e-12
        if enough and np.all(lower * budget <= available * (1 + 1e-12)):
            fits = budget
        else:
            fails = budget
    return fits


def pool_tokens(
    n_tokens: Sequence[int] | NDArray[np.int64], budget_tokens: int, proxy_tokens: int, match: bool
) -> NDArray[np.int64]:
    """Return how many of each slice's first tokens a proxy draws from, int64 (k,).

    With `match`, round(tokens * proxy_tokens / budget_tokens): a proxy then repeats a slice as often as the target run
    would at the same weight. At least 1 (of a slice that has any) and at most all: a proxy as large as the target run
    sees whole slices. Without `match`, whole slices.

    Limits: tokens of a tiny slice round to few documents, so that its proxies see chance rather than the slice; and a
    pool is never larger than its slice, so that a proxy larger than the target run repeats more than the target would.
    """
    tokens = np.asarray(n_tokens, np.int64)
    if not match or proxy_tokens >= budget_tokens:
        return tokens.copy()
    pools = np.array([(2 * int(t) * proxy_tokens + budget_tokens) // (2 * budget_tokens) for t in tokens], np.int64)
    return np.clip(pools, np.minimum(tokens, 1), tokens)


def whole_documents(slices: Sequence[SliceTokens], pools: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return `pools` (k,) enlarged to the end of the document that each ends in: at least one document.

    Raises: InputError when a slice's documents do not cover its pool.
    """
    import pyarrow.parquet as pq

    out = np.zeros(len(slices), np.int64)
    for i, (part, pool) in enumerate(zip(slices, pools, strict=True)):
        if pool <= 0:
            continue
        table = pq.read_table(part.documents_path, columns=["start", "tokens"])
        ends = np.sort(table["start"].to_numpy() + table["tokens"].to_numpy().astype(np.int64))
        at = int(np.searchsorted(ends, pool, side="left"))
        if at == ends.size:
            raise InputError(f"slice {part.name}: its documents end before token {pool:,}; make the slices again")
        out[i] = ends[at]
    return out


def whole_space(names: Sequence[str]) -> Space:
    """Return the space in which every slice is a coordinate."""
    return Space(tuple(names), np.eye(len(names)), np.eye(len(names)))


def frozen_space(names: Sequence[str], earlier: Mapping[str, float], frozen: Sequence[str] = ()) -> Space:
    """Return the space in which the slices of an earlier mixture keep their ratios: one coordinate, named `frozen`.

    `earlier` maps slice names to weights. `frozen` names the slices that stay; by default all of `earlier` that are
    still there. Every other slice is a coordinate of its own.

    Raises: ConfigError when a frozen slice is unknown, or all of them have no weight.
    """
    block = list(frozen) or [name for name in names if name in earlier]
    for name in block:
        if name not in names or name not in earlier:
            where = "in `slices`" if name not in names else "in the earlier mixture"
            raise ConfigError(f"swarm.reuse.frozen: {name!r} is not {where}; name slices that both have")
    ratios = np.array([earlier[name] for name in block], np.float64)
    if not np.all(np.isfinite(ratios)) or ratios.size == 0 or ratios.min() < 0 or ratios.sum() <= 0:
        raise ConfigError(
            f"swarm.reuse: the frozen slices {block} have no weight in the earlier mixture; freeze others"
        )
    others = [name for name in names if name not in block]
    expand = np.zeros((1 + len(others), len(names)))
    expand[0, [list(names).index(name) for name in block]] = ratios / ratios.sum()
    for row, name in enumerate(others, 1):
        expand[row, list(names).index(name)] = 1
    reduce = np.zeros((len(names), 1 + len(others)))
    for row, name in enumerate(names):
        reduce[row, 1 + others.index(name) if name in others else 0] = 1
    return Space(("frozen", *others), expand, reduce)


def reduced_bounds(bounds: Constraints, space: Space) -> Constraints:
    """Return the bounds of a space's coordinates: the tightest that its slices set.

    Raises: ConfigError when frozen ratios cannot be kept within them.
    """
    inside = space.expand > 0
    ratios = np.where(inside, space.expand, 1.0)
    upper = np.where(inside, bounds.upper / ratios, np.inf).min(axis=1)
    lower = np.where(inside, bounds.lower / ratios, 0.0).max(axis=1)
    dropped = ~inside.any(axis=0)
    if np.any(dropped & (bounds.lower > 0)):
        name = bounds.names[int(np.argmax(dropped & (bounds.lower > 0)))]
        raise ConfigError(f"slices.{name}: its weight is frozen at 0 but must be more; do not freeze it")
    if np.any(lower > upper + 1e-12) or lower.sum() > 1 + 1e-9 or upper.sum() < 1 - 1e-9:
        raise ConfigError(
            f"swarm.reuse: frozen ratios do not fit the slices' bounds (least {lower.round(6).tolist()}, largest "
            f"{upper.round(6).tolist()} for {list(space.names)}); freeze fewer slices or lower budget_tokens"
        )
    return Constraints(space.names, lower, np.minimum(np.maximum(upper, lower), 1.0))


def project(weights: Floats, bounds: Constraints, natural: Floats, least: float = 0.0) -> Floats:
    """Return the weights (n, k) inside the bounds with equal proportions among those that no bound holds; sums are 1.

    That is clip(t * w, lower, upper) with the t that makes the sum 1: the nearest point by Kullback-Leibler
    divergence. Weights under `least` become zero (under half its cap, where a slice's cap is less than twice `least`).
    Where what is left cannot sum to 1, slices of weight zero get the rest by their natural proportions: bounds come
    before `least`.
    """
    keep = np.ones(weights.shape, np.bool_)
    threshold = np.minimum(least, bounds.upper / 2) * (bounds.lower == 0)
    out = _fill(weights, bounds, natural)
    for _ in range(weights.shape[1]):
        small = (out < threshold) & (out > 0) & keep
        small &= out * (out > 0).sum(axis=1, keepdims=True) < 1  # where all are small, those under the mean go first
        if not small.any():
            break
        keep &= ~small
        out = _fill(np.where(keep, weights, 0.0), bounds, natural)
    return out


def _fill(weights: Floats, bounds: Constraints, natural: Floats) -> Floats:
    """Return clip(t * weights, lower, upper) with sums of 1, by bisection and an exact last step."""
    lower, upper = bounds.lower, bounds.upper
    short = np.where(weights > 0, upper, lower).sum(axis=1) < 1
    # However small a weight is: where no other may have any, the factor must bring it to 1.
    scaled = np.where(weights > 0, np.maximum(weights / weights.max(axis=1, keepdims=True), 2.0**-100), 0.0)
    scaled[short] += 1e-6 * np.where(upper > 0, np.maximum(natural, 1e-6), 0.0)
    low = np.full((len(weights), 1), -80.0)
    high = np.full((len(weights), 1), 120.0)
    for _ in range(64):
        middle = (low + high) / 2
        under = np.clip(np.exp2(middle) * scaled, lower, upper).sum(axis=1, keepdims=True) < 1
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    out: Floats = np.clip(np.exp2(high) * scaled, lower, upper)
    nothing = (out < 1e-12) & (lower == 0)  # the bisection's end, where one slice takes all
    out[nothing] = scaled[nothing] = 0.0
    for _ in range(3):  # the first step leaves rounding alone, which the others take
        rest = 1 - out.sum(axis=1, keepdims=True)
        room = np.where(rest > 0, upper - out, out - lower) * ((scaled > 0) | (out > lower))
        share = np.divide(room, room.sum(axis=1, keepdims=True), out=np.zeros_like(room), where=room > 0)
        out = np.clip(out + rest * share, lower, upper)
    return out


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
        return _shifted(self, lambda shift: np.clip(points + shift, self.lower, self.upper), len(points), spread)

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
            filled = _shifted(
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
    bounds = reduced_bounds(limits, space)
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


def _shifted(limits: Constraints, place: Callable[[Floats], Floats], q: int, spread: float) -> Floats:
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
