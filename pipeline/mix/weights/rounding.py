"""Weights as decimals, short ones where there are such, whose sum is exactly 1, however they are added up."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.types import Floats
from pipeline.mix.weights.space import TOLERANCE, Constraints
from pipeline.table.errors import ConfigError

MAX_DIGITS = 9
_LAST_DECIMALS, _EXACT, _SLACK = 10**12, 2**40, 4
"""Where no short decimals do, twelve places miss a bound by up to four units, and where those do not either (hundreds
of slices), 40 binary digits: sums of multiples of 2^-40 are exact in every order."""
_ALL_PAIRS, _TRIES = 96, 1024


def sums_to_one(weights: Floats) -> bool:
    """Tell whether floats add up to exactly 1.0: in order, sorted, by `math.fsum` and by `numpy.sum`."""
    plain = [float(w) for w in weights]
    return sum(plain) == sum(sorted(plain)) == math.fsum(plain) == float(np.sum(weights)) == 1.0


def round_weights(weights: Floats, limits: Constraints, digits: int = 4) -> Floats:
    """Return `weights` (k,) as decimals of `digits` places that stay inside `limits` and sum to exactly 1.0.

    Units left over by rounding down go to the largest remainders. Where the floats of those decimals do not add up to
    1.0 (`sums_to_one`), up to 32 units move from slices to others, at most three of any one. A zero stays zero.

    Digits are added, up to 9, where limits and sum allow no mixture of so few. Where those do not do either, decimals
    of 12 places miss a bound by up to 4e-12; and last, multiples of 2^-40, which are written with up to 22 characters.

    Raises: ConfigError when the weights are no mixture inside the limits.
    """
    if weights.shape != limits.upper.shape or not np.isfinite(weights).all():
        raise ConfigError(f"{weights.size} weights, some not finite perhaps, for {len(limits.names)} slices")
    violation = float(limits.violation(weights[None])[0])
    if violation > 1e-6:
        raise ConfigError(f"weights to be rounded break a bound or their sum by {violation:.3g}")
    short = [(10**places, 0) for places in range(digits, MAX_DIGITS + 1)]
    for scale, slack in (*short, (_LAST_DECIMALS, _SLACK), (_EXACT, _SLACK)):
        found = _on_grid(weights, limits, scale, slack)
        if found is not None:
            return found
    raise ConfigError(
        "no weights sum to 1 inside the caps and bounds, to 12 digits; round `weight`, `min_weight` and `max_weight`"
    )


def _on_grid(weights: Floats, limits: Constraints, scale: int, slack: int) -> Floats | None:
    """Return the weights in units of 1 / scale, or None where there are none inside the limits that sum to 1."""

    def inside(lower: Floats, upper: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        least, most = np.maximum(np.ceil(lower * scale) - 1, 0), np.floor(upper * scale) + 1
        for _ in range(2):
            least, most = least + (least / scale < lower - TOLERANCE), most - (most / scale > upper)
        return np.maximum(least - slack, 0).astype(np.int64), (most + slack).astype(np.int64)

    lower, upper = inside(limits.lower, limits.upper)
    lower = np.where(limits.lower == limits.upper, np.minimum(lower, upper), lower)  # fixed with more digits than these
    upper = np.where(weights > 0, upper, 0)
    ends = np.array([[group.lower, group.upper] for group in limits.groups]).reshape(-1, 2)
    groups = list(zip((list(group.members) for group in limits.groups), *inside(*ends.T), strict=True))

    def allows(units: NDArray[np.int64]) -> bool:
        each = bool((units >= lower).all() and (units <= upper).all())
        return each and all(least <= units[members].sum() <= most for members, least, most in groups)

    exact = weights * scale
    units = np.clip(np.floor(exact + 1e-6).astype(np.int64), lower, upper)
    while (missing := scale - int(units.sum())) != 0:
        step = 1 if missing > 0 else -1
        free = (units < upper) if step > 0 else (units > lower)
        first = np.zeros(len(units), bool)  # groups below their least sum come first
        for members, least, most in groups:
            total = int(units[members].sum())
            free[members] &= (total < most) if step > 0 else (total > least)
            first[members] = (total < least) if step > 0 else (total > most)
        if not free.any():
            return None
        remainder = np.where(free, (exact - units) * step + first * 1e12, -np.inf)
        units[int(np.argmax(remainder))] += step
    if not allows(units):
        return None
    if sums_to_one(units / scale):
        return np.asarray(units / scale, np.float64)
    for moves in _few_moves(np.flatnonzero((units > 0) & (lower < upper))):
        moved, rows = np.repeat(units[None], len(moves), 0), np.arange(len(moves))[:, None]
        np.subtract.at(moved, (rows, moves[:, :, 0]), 1)
        np.add.at(moved, (rows, moves[:, :, 1]), 1)
        values = moved / scale
        for row in np.flatnonzero((moved > 0)[:, units > 0].all(axis=1) & (values.cumsum(axis=1)[:, -1] == 1.0)):
            if allows(moved[row]) and sums_to_one(values[row]):
                return np.asarray(values[row], np.float64)
    return None


def _few_moves(slices: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Yield batches of moves (b, units, 2) of single units from one slice to another, few units first."""
    if slices.size < 2:
        return
    if slices.size <= _ALL_PAIRS:
        pairs = np.stack(np.meshgrid(slices, slices, indexing="ij"), axis=-1).reshape(-1, 1, 2)
        yield from (pairs.repeat(step, axis=1) for step in (1, 2, 3))
    rng = np.random.default_rng(20_240_229)
    for units in (2, 3, 4, 6, 8, 12, 16, 24, 32):
        if 2 * units <= slices.size:  # a slice takes part once: no weight moves far
            order = rng.permuted(np.tile(slices, (_TRIES, 1)), axis=1)
            yield order[:, : 2 * units].reshape(_TRIES, units, 2)
