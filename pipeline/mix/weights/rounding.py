"""Weights as short decimals whose sum is exactly 1, however they are added up."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.types import Floats
from pipeline.mix.weights.space import TOLERANCE, Constraints
from pipeline.table.errors import ConfigError

MAX_DIGITS = 9
_LAST_DIGITS = 12
_LAST_UNITS = 4
"""Where bounds leave no such decimals at all (two caps that sum to exactly 1), each may be missed by so many 1e-12."""
_ALL_PAIRS = 96
_BATCHES = 64
_ROWS = 2048
_SEED = 20_240_229


def sums_to_one(weights: Floats) -> bool:
    """Tell whether floats add up to exactly 1.0: in order, sorted, by `math.fsum` and by `numpy.sum`."""
    plain = [float(w) for w in weights]
    rising = sorted(plain)
    return math.fsum(plain) == 1.0 and sum(plain) == 1.0 and sum(rising) == 1.0 and float(np.sum(weights)) == 1.0


def round_weights(weights: Floats, limits: Floats | Constraints, digits: int = 4) -> Floats:
    """Return `weights` (k,) as decimals of `digits` places that stay inside `limits` and sum to exactly 1.0.

    Units left over by rounding down go to the largest remainders. Where the floats of those decimals do not add up to
    1.0 (`sums_to_one`), the fewest units move from one slice to another. A zero stays zero. `limits` are caps (k,) or
    whole constraints. Digits are added, up to 9, where limits allow no mixture of so few; where bounds sum to 1 as no
    decimals do, twelve digits miss a bound by up to 4e-12.

    Raises: ConfigError when the weights are no mixture inside the limits.
    """
    if not isinstance(limits, Constraints):
        limits = Constraints.capped([f"slice_{i}" for i in range(len(weights))], np.asarray(limits, np.float64))
    weights = np.asarray(weights, np.float64)
    if weights.shape != limits.upper.shape or not np.isfinite(weights).all():
        raise ConfigError(f"{weights.size} weights, some not finite perhaps, for {len(limits.names)} slices")
    violation = float(limits.violation(weights[None])[0])
    if violation > 1e-6:
        raise ConfigError(f"weights to be rounded break a bound or their sum by {violation:.3g}")
    for places in range(digits, MAX_DIGITS + 1):
        found = _rounded(weights, limits, places)
        if found is not None:
            return found
    last = _rounded(weights, limits, _LAST_DIGITS, _LAST_UNITS)
    if last is not None:
        return last
    raise ConfigError(
        f"no decimals of up to {_LAST_DIGITS} places sum to 1 inside the caps and bounds; "
        "round `weight`, `min_weight` and `max_weight`"
    )


def _rounded(weights: Floats, limits: Constraints, digits: int, slack: int = 0) -> Floats | None:
    scale = 10**digits
    grid = _Grid(limits, weights > 0, scale, slack)
    units = _largest_remainder(weights, grid)
    if units is None:
        return None
    for batch in _moves(units, grid):
        values = batch / scale
        in_order = np.cumsum(values, axis=1)[:, -1] == 1.0
        rising = np.cumsum(np.sort(values[in_order], axis=1), axis=1)[:, -1] == 1.0
        for row in np.flatnonzero(in_order)[rising]:
            if grid.allows(batch[row]) and sums_to_one(values[row]):
                return np.asarray(values[row], np.float64)
    return None


class _Grid:
    """The limits in whole units of 1 / scale: `lower` and `upper` (k,), and (members, least, most) of each group."""

    def __init__(self, limits: Constraints, present: NDArray[np.bool_], scale: int, slack: int) -> None:
        self.scale = scale
        self.lower = np.array([max(_up(low, scale) - slack, 0) for low in limits.lower])
        upper = np.array([_down(high, scale) + slack for high in limits.upper])
        # A weight fixed with more digits than there are keeps the nearest unit below it.
        self.lower = np.minimum(self.lower, np.where(limits.lower == limits.upper, upper, self.lower))
        self.upper = np.where(present, upper, 0)
        self.groups = [
            (list(g.members), _up(g.lower, scale) - slack, _down(g.upper, scale) + slack) for g in limits.groups
        ]

    def allows(self, units: NDArray[np.int64]) -> bool:
        """Tell whether every range holds."""
        inside = bool((units >= self.lower).all() and (units <= self.upper).all())
        return inside and all(least <= units[members].sum() <= most for members, least, most in self.groups)


def _down(value: float, scale: int) -> int:
    units = round(value * scale) + 1
    while units > 0 and units / scale > value:
        units -= 1
    return units


def _up(value: float, scale: int) -> int:
    units = max(round(value * scale) - 1, 0)
    while units / scale < value - TOLERANCE:
        units += 1
    return units


def _largest_remainder(weights: Floats, grid: _Grid) -> NDArray[np.int64] | None:
    exact = weights * grid.scale
    units = np.clip(np.floor(exact + 1e-6).astype(np.int64), grid.lower, grid.upper)
    while (missing := grid.scale - int(units.sum())) != 0:
        step = 1 if missing > 0 else -1
        open_ = (units < grid.upper) if step > 0 else (units > grid.lower)
        first = np.zeros(len(units), bool)  # groups below their least sum come first
        for members, least, most in grid.groups:
            total = int(units[members].sum())
            open_[members] &= (total < most) if step > 0 else (total > least)
            first[members] = (total < least) if step > 0 else (total > most)
        if not open_.any():
            return None
        remainder = np.where(open_, (exact - units) * step + first * 1e12, -np.inf)
        units[int(np.argmax(remainder))] += step
    return units if grid.allows(units) else None


def _moves(units: NDArray[np.int64], grid: _Grid) -> Iterator[NDArray[np.int64]]:
    """Yield `units` (1, k), then batches (b, k) of mixtures that differ by few units; always the same ones."""
    yield units[None]
    free = np.flatnonzero((units > 0) & (grid.lower < grid.upper))
    if free.size < 2:
        return
    if free.size <= _ALL_PAIRS:
        giver, taker = (part.ravel() for part in np.meshgrid(free, free, indexing="ij"))
        for step in range(1, 4):
            yield _moved(units, grid, np.stack([giver, taker])[..., None], step)
    rng = np.random.default_rng(_SEED)
    for tried in range(_BATCHES):
        moves = 2 + tried // 8
        yield _moved(units, grid, rng.choice(free, (2, min(_ROWS, 16 * free.size**2), moves)), 1)


def _moved(units: NDArray[np.int64], grid: _Grid, pairs: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """Return copies of `units`, each with `step` of them moved along its pairs (2: giver and taker, b, moves).

    A move that would leave a slice's range or empty it is left out.
    """
    givers, takers = pairs
    moved = np.repeat(units[None], givers.shape[0], axis=0)
    rows = np.arange(len(moved))
    least = np.maximum(grid.lower, 1)
    for giver, taker in zip(givers.T, takers.T, strict=True):
        able = moved[rows, giver] - step >= least[giver]
        able &= (moved[rows, taker] + step <= grid.upper[taker]) & (giver != taker)
        moved[rows, giver] -= step * able
        moved[rows, taker] += step * able
    return moved
