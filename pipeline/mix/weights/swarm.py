"""Which mixtures the proxies train on: baselines, then draws around the natural proportions that fill the space.

Every weight vector sums to 1 within 1e-12 and lies inside the constraints: minimum, maximum and fixed weights, and what
`max_epochs` allows at the budget of the *target* run. Draws come in batches, one a mixture, each from its own seed, and
the choice from a batch looks at earlier choices only: a larger swarm starts with the smaller one, run for run.

A Dirichlet draw around natural proportions leaves a slice of half a percent out of nearly every mixture, and what was
never seen cannot be fitted. So each slice that fewer than nine in twenty draws hold more than the least of is put into
as many as that, at weights spread evenly over the logarithms of its range of interest: up to eight times its natural
share, or a twentieth, within its cap. Which runs get which slice at which weight is dealt in blocks of eight runs,
each slice by itself, so that small swarms have them too. The rest of the mixture keeps its ratios.

Runs are dealt over `replicates` seeds in turn, so that the noise of seeds is among the differences between runs; the
natural mixture is trained with all seeds, uniform and two corners with two each, since noise depends on the mixture.

The choice keeps the density of the draws. The farthest point of a batch would collect mixtures at the corners; instead
the next mixture is the candidate that brings the chosen set's energy distance to the distribution of draws down most
(greedy support points), in Hellinger coordinates (square roots of weights), in which a weight of zero is no special
case.

Source: RegMix (arXiv 2407.01492, section 3.1: Dirichlet around the natural proportions over a range of strengths);
UniMax (arXiv 2304.09151, algorithm 1); Mak and Joseph, Support points (Annals of Statistics 46, 2018).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.config import SwarmConfig
from pipeline.mix.types import Floats, RunKind, RunSpec
from pipeline.mix.weights.space import Constraints, Space, project, reduced_bounds, whole_space
from pipeline.table.errors import ConfigError

logger = logging.getLogger(__name__)

_REFERENCE = 2048
"""Draws that stand for the distribution that the chosen mixtures shall look like."""
_CHOSEN_FROM = 4096
"""Later mixtures are taken as drawn: among so many the choice no longer matters, and it takes time."""
_ATTEMPTS = 16
"""Batches without a new mixture before the space counts as used up."""
_APART = 0.05
"""Hellinger distance (times the root of 2) below which a candidate is chosen only when all are that near."""
_PRESENT = 0.45
"""The share of the mixtures that hold more than the least of a slice, at least."""
_BLOCK = 8
"""So many runs share what is dealt evenly."""
_MOST_DEALT = 0.1, 0.6
"""The share of a mixture that slices which are put in take at most, all together, is spread over runs between these."""
_GOLDEN = (5**0.5 - 1) / 2
"""The fractional parts of its multiples spread evenly, however many there are."""
_LEAST_LEVELS = 5
"""Different weights that a curve is seen with."""
_DIGITS = 9
"""Mixtures that agree to so many decimals are one."""
_LEAST_ALPHA = 1e-3
"""NumPy's Dirichlet draws underflow to nothing when every parameter is smaller."""


def unimax(bounds: Constraints) -> Floats:
    """Return UniMax's mixture, (k,): equal weights, but none above what its slice's epoch limit allows at the budget.

    Source: UniMax (arXiv 2304.09151), algorithm 1; here other bounds hold as well.
    """
    left, weights = 1.0, np.zeros(len(bounds.names))
    order = np.argsort(bounds.upper, kind="stable")
    for done, i in enumerate(order):
        weights[i] = min(left / (len(order) - done), bounds.upper[i])
        left -= weights[i]
    mixture: Floats = project(weights[None], bounds, np.ones_like(weights) / weights.size)[0]
    return mixture


def corner(i: int, natural: Floats, bounds: Constraints) -> Floats:
    """Return the mixture (k,) with as much of slice i as its bounds and the others' allow, the rest natural."""
    others = np.arange(natural.size) != i
    most = min(bounds.upper[i], 1 - bounds.lower[others].sum())
    edge = max(most, 1 - bounds.upper[others].sum())
    lower, upper = bounds.lower.copy(), bounds.upper.copy()
    lower[i] = upper[i] = edge
    mixture: Floats = project(natural[None], Constraints(bounds.names, lower, upper), natural)[0]
    return mixture


def mixture_id(names: Sequence[str], weights: Floats) -> str:
    """Return 32 hex digits for a mixture: its slices with weight, by name, to nine decimals, in any order."""
    parts = [f"{n}={round(float(w), _DIGITS):.{_DIGITS}f}" for n, w in zip(names, weights, strict=True)]
    kept = sorted(part for part in parts if not part.endswith("=" + f"{0:.{_DIGITS}f}"))
    return hashlib.blake2b("\n".join(kept).encode(), digest_size=16).hexdigest()


def run_id(names: Sequence[str], weights: Floats, seed: int) -> str:
    """Return 32 hex digits for a mixture and a seed, whatever the order of the slices; slices of weight 0 are left out.

    What the slices hold and how a proxy is trained are not in it: a run's key needs those besides.
    """
    return hashlib.blake2b(f"{mixture_id(names, weights)}\nseed={seed}".encode(), digest_size=16).hexdigest()


def draw_swarm(natural: Floats, bounds: Constraints, config: SwarmConfig, space: Space | None = None) -> list[RunSpec]:
    """Return the runs of a swarm, baselines first; the same on every machine, and a larger swarm starts with these.

    Natural proportions with each of the `replicates` seeds (`seed` and those after it), uniform with two, UniMax,
    corners (those of the largest and the smallest natural share with two), then `runs` draws. What is trained once has
    the next seed in turn. A baseline equal to an earlier one is left out: where nothing but epochs bounds the weights,
    UniMax is uniform. `natural` and `bounds` are (k,), of all slices. With a `space` everything is drawn in its
    coordinates, the baselines too, so that a frozen block keeps its ratios in every run.

    Fewer draws come back, and the log says so, when bounds leave fewer distinct mixtures.

    Raises: ConfigError for strengths or temperatures that cannot be drawn from, or bounds that no mixture meets.
    """
    _check(config)
    space = space or whole_space(bounds.names)
    inner = reduced_bounds(bounds, space)
    centre = natural @ space.reduce
    runs: list[RunSpec] = []
    known: set[bytes] = set()

    def add(kind: RunKind, inner_weights: Floats, seeds: Sequence[int]) -> None:
        weights = inner_weights @ space.expand
        for number in seeds:
            seed = config.seed + number % config.replicates
            runs.append(RunSpec(run_id(bounds.names, weights, seed), kind, weights, seed))

    for number, (kind, weights, seeds) in enumerate(baselines(centre, inner, config)):
        if _key(weights) not in known:
            known.add(_key(weights))
            add(kind, weights, range(number, number + seeds))
    found = 0
    for weights in _choose(centre, inner, config, known):
        add("swarm", weights, [found])
        found += 1
    if found < config.runs:
        logger.warning("swarm.runs: the bounds leave %d distinct mixtures of the %d asked for", found, config.runs)
    return runs


def baselines(natural: Floats, bounds: Constraints, config: SwarmConfig) -> Iterator[tuple[RunKind, Floats, int]]:
    """Yield the kind, the weights (k,) and the number of seeds of each baseline, inside the bounds."""
    yield "natural", project(natural[None], bounds, natural)[0], config.replicates
    yield "uniform", project(np.ones((1, natural.size)), bounds, natural)[0], 2
    yield "unimax", unimax(bounds), 1
    free = np.flatnonzero(bounds.lower < bounds.upper)
    if config.corners and free.size:
        shares = natural[free]
        twice = {int(free[np.argmax(shares)]), int(free[np.argmin(shares)])}
        for i in free.tolist():
            yield "corner", corner(i, natural, bounds), 2 if i in twice else 1


def unjudged_slices(runs: Sequence[RunSpec], bounds: Constraints, space: Space | None = None) -> dict[str, str]:
    """Return the slices of which these runs cannot show what more or less of them does, each with the reason.

    A slice needs five weights above zero that differ by a twentieth or more, and weights that differ by a factor of two
    or by two points; one whose weight is fixed, or a fixed share of a frozen block, has no curve of its own.
    """
    weights = np.array([run.weights for run in runs]).reshape(len(runs), len(bounds.names))
    frozen = set() if space is None else set(np.flatnonzero(space.expand[space.expand.astype(bool).sum(1) > 1].any(0)))
    reasons: dict[str, str] = {}
    for i, (name, column) in enumerate(zip(bounds.names, weights.T, strict=True)):
        levels = _levels(column[column > 0])
        low, high = (levels[0], levels[-1]) if levels else (0.0, 0.0)
        if bounds.upper[i] - bounds.lower[i] <= 1e-9:
            reasons[name] = f"its weight is fixed at {bounds.lower[i]:.4g}"
        elif i in frozen:
            reasons[name] = "it is frozen: only its block as a whole varies"
        elif len(levels) < _LEAST_LEVELS:
            count = int((column > 0).sum())
            reasons[name] = (
                f"{count} of {len(column)} runs hold it, at {len(levels)} different weights; "
                f"{_LEAST_LEVELS} show a curve: raise swarm.runs"
            )
        elif high < 2 * low and high - low < 0.02:
            reasons[name] = f"its weight only varies from {low:.4g} to {high:.4g}; loosen its bounds"
    return reasons


def _levels(weights: Floats) -> list[float]:
    """Return the weights, rising, that differ from the one before by a twentieth of it or more."""
    levels: list[float] = []
    for weight in np.sort(weights).tolist():
        if not levels or weight >= 1.05 * levels[-1]:
            levels.append(weight)
    return levels


def _check(config: SwarmConfig) -> None:
    low, high = config.strengths
    if not (0 < low <= high < np.inf):
        raise ConfigError(f"swarm.strengths {config.strengths}: give a least and a largest strength above 0")
    if not all(0 <= t <= 10 for t in config.temperatures):
        raise ConfigError(f"swarm.temperatures {config.temperatures}: each must be between 0 and 10")


@dataclass(frozen=True)
class _Deal:
    """What is put into mixtures of slices that draws hold too little of.

    `weights` (n, k) by run; zero is nothing. `most` (n, 1): how much of a mixture they take at most, unless each is at
    its `floor` (k,). A draw that has no more of a slice than its `least` (k,) gets what is dealt.
    """

    weights: Floats
    most: Floats
    floor: Floats
    least: Floats

    def apply(self, draws: Floats, rows: slice) -> Floats:
        """Return draws (q, k) with what `rows` (one, or q) were dealt; the rest of each keeps its ratios."""
        added = np.where(draws <= self.least, self.weights[rows], 0.0)
        share = np.maximum(added.sum(axis=1, keepdims=True), 1e-12)
        added = np.where(added > 0, np.maximum(added * np.minimum(1.0, self.most[rows] / share), self.floor), 0.0)
        left = np.maximum(1 - added.sum(axis=1, keepdims=True), 0.1)
        return np.where(added > 0, added, draws * left)


def _deal(count: int, draws: Floats, natural: Floats, bounds: Constraints, config: SwarmConfig) -> _Deal:
    """Return what `count` runs get of slices that fewer than `_PRESENT` of `draws` hold more than the least of.

    Whether a run gets a slice is a Latin hypercube over blocks of runs; the weights are the golden ratio's multiples
    in the logarithm, from a start of each slice's own, so that any few in a row are spread over the range.
    """
    threshold = np.where(bounds.lower > 0, bounds.lower, np.minimum(config.min_weight, bounds.upper / 2))
    least = np.where(bounds.lower > 0, bounds.lower * (1 + 1e-6), 0.0)
    present = (draws > least).mean(axis=0)
    usual = np.maximum(natural, bounds.lower)
    high = np.minimum(bounds.upper, np.maximum(0.05, 8 * usual))
    low = np.maximum(np.maximum(threshold, np.minimum(usual / 2, high / 8)), 1e-6)
    wanted = np.where((high > low) & (present < _PRESENT), (_PRESENT - present) / (1 - np.minimum(present, 0.9)), 0.0)
    wanted *= min(1.0, _MOST_DEALT[1] / max(float(wanted @ threshold), 1e-9))  # not more than there is room for
    rng = _generator(config.seed, 0, 1)
    start = rng.uniform(size=natural.size)
    blocks = [_block(rng, natural.size) for _ in range(-(-count // _BLOCK))]
    given: NDArray[np.bool_] = np.concatenate(blocks)[:count] < wanted
    levels = (start + _GOLDEN * given.cumsum(axis=0)) % 1
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(given, low * (high / low) ** levels, 0.0)
    shares = (start[:1] + _GOLDEN * np.arange(count)) % 1
    most = _MOST_DEALT[0] + (_MOST_DEALT[1] - _MOST_DEALT[0]) * shares[:, None]
    return _Deal(weights, most, 1.01 * threshold, least)  # not just under it after rounding


def _block(rng: np.random.Generator, k: int) -> Floats:
    """Return numbers between 0 and 1, (_BLOCK, k): of each slice one in every eighth, in a random order."""
    order = rng.permuted(np.tile(np.arange(_BLOCK)[:, None], k), axis=0)
    numbers: Floats = (order + rng.uniform(size=order.shape)) / _BLOCK
    return numbers


def _draw(rng: np.random.Generator, count: int, natural: Floats, bounds: Constraints, config: SwarmConfig) -> Floats:
    """Return `count` mixtures (count, k), a strength, a temperature and a Dirichlet draw each, inside the bounds."""
    low, high = np.log(config.strengths)
    strengths = np.exp(rng.uniform(low, high, count))
    temperatures = np.array(config.temperatures)[rng.integers(len(config.temperatures), size=count)]
    powers = np.where(natural > 0, natural, 1.0) ** temperatures[:, None] * (natural > 0)
    centres = powers / powers.sum(axis=1, keepdims=True)
    alphas = np.where(natural > 0, np.maximum(strengths[:, None] * centres, _LEAST_ALPHA), 0.0)
    draws = np.zeros(alphas.shape)
    for row, alpha in enumerate(alphas):
        draws[row, natural > 0] = rng.dirichlet(alpha[natural > 0])
    draws = np.where(np.isfinite(draws), draws, 0.0)
    draws[draws.sum(axis=1) == 0] = natural
    return project(draws, bounds, natural, config.min_weight)


def _choose(natural: Floats, bounds: Constraints, config: SwarmConfig, seen: set[bytes]) -> Iterator[Floats]:
    """Yield up to `runs` distinct mixtures (k,) not in `seen`, each the best of its own batch, given those before."""
    drawn = _draw(_generator(config.seed, 0, 0), _REFERENCE, natural, bounds, config)
    deal = _deal(max(config.runs, _REFERENCE), drawn, natural, bounds, config)

    def dealt(draws: Floats, rows: slice) -> Floats:
        return project(deal.apply(draws, rows), bounds, natural, config.min_weight)

    reference = np.sqrt(dealt(drawn, slice(_REFERENCE)))
    chosen = np.zeros((min(config.runs, _CHOSEN_FROM), natural.size))
    for number in range(config.runs):
        for attempt in range(_ATTEMPTS):
            rng = _generator(config.seed, number + 1, attempt)
            drawn = _draw(rng, config.candidates, natural, bounds, config)
            candidates = dealt(drawn, slice(number, number + 1))
            keys = [_key(c) for c in candidates]
            fresh = [i for i, key in enumerate(keys) if key not in seen]
            if fresh:
                break
        else:
            return
        best = fresh[0]
        if number < _CHOSEN_FROM:
            points = np.sqrt(candidates[fresh])
            between = _distances(points, chosen[:number])
            energy = _distances(points, reference).mean(axis=1) - between.sum(axis=1) / (number + 1)
            energy += between.min(axis=1, initial=_APART) < _APART  # 1 is more than energies differ by
            best = fresh[int(np.argmin(energy))]
            chosen[number] = np.sqrt(candidates[best])
        seen.add(keys[best])
        yield candidates[best]


def _key(weights: Floats) -> bytes:
    return np.round(weights, _DIGITS).tobytes()


def _distances(left: Floats, right: Floats) -> Floats:
    """Return Euclidean distances, (n_left, n_right)."""
    squared = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1) - 2 * left @ right.T
    distances: Floats = np.sqrt(np.maximum(squared, 0.0))
    return distances


def _generator(seed: int, number: int, attempt: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([seed, number, attempt]))
