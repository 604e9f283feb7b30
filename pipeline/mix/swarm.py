"""Which mixtures the proxies train on: baselines, then draws around the natural proportions that fill the space.

Every weight vector sums to 1 within 1e-12 and lies inside `Bounds`: minimum, maximum and fixed weights, and what
`max_epochs` allows at the budget of the *target* run. Draws come in batches, one a mixture, each from its own seed, and
the choice from a batch looks at earlier choices only: a larger swarm starts with the smaller one, run for run.

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

import numpy as np

from pipeline.mix.config import SwarmConfig
from pipeline.mix.swarm_space import Bounds, Space, project, reduced_bounds, whole_space
from pipeline.mix.types import Floats, RunKind, RunSpec
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
_DIGITS = 9
"""Mixtures that agree to so many decimals are one."""
_LEAST_ALPHA = 1e-3
"""NumPy's Dirichlet draws underflow to nothing when every parameter is smaller."""


def unimax(bounds: Bounds) -> Floats:
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


def corner(i: int, natural: Floats, bounds: Bounds) -> Floats:
    """Return the mixture (k,) with as much of slice i as its bounds and the others' allow, the rest natural."""
    others = np.arange(natural.size) != i
    most = min(bounds.upper[i], 1 - bounds.lower[others].sum())
    edge = max(most, 1 - bounds.upper[others].sum())
    lower, upper = bounds.lower.copy(), bounds.upper.copy()
    lower[i] = upper[i] = edge
    mixture: Floats = project(natural[None], Bounds(bounds.names, lower, upper), natural)[0]
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


def draw_swarm(
    natural: Floats, bounds: Bounds, config: SwarmConfig, space: Space | None = None, seed: int = 0
) -> list[RunSpec]:
    """Return the runs of a swarm, baselines first; the same on every machine, and a larger swarm starts with these.

    Natural proportions with `replicates` seeds (`seed` and those after; every other run has `seed`), uniform, UniMax,
    corners, `runs` draws. A baseline equal to an earlier one is left out: where nothing but epochs bounds the weights,
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
    seen: set[str] = set()

    def add(kind: RunKind, inner_weights: Floats, run_seed: int) -> bool:
        weights = inner_weights @ space.expand
        key = run_id(bounds.names, weights, run_seed)
        if key not in seen:
            seen.add(key)
            runs.append(RunSpec(key, kind, weights, run_seed))
            return True
        return False

    for kind, weights in baselines(centre, inner, config.corners):
        for replicate in range(config.replicates if kind == "natural" else 1):
            add(kind, weights, seed + replicate)
    known = {_key(weights) for _, weights in baselines(centre, inner, config.corners)}
    found = sum(add("swarm", weights, seed) for weights in _choose(centre, inner, config, known))
    if found < config.runs:
        logger.warning("swarm.runs: the bounds leave %d distinct mixtures of the %d asked for", found, config.runs)
    return runs


def baselines(natural: Floats, bounds: Bounds, corners: bool) -> Iterator[tuple[RunKind, Floats]]:
    """Yield the kind and weights (k,) of each baseline, inside the bounds."""
    yield "natural", project(natural[None], bounds, natural)[0]
    yield "uniform", project(np.ones((1, natural.size)), bounds, natural)[0]
    yield "unimax", unimax(bounds)
    if corners:
        for i in range(natural.size):
            if bounds.lower[i] < bounds.upper[i]:
                yield "corner", corner(i, natural, bounds)


def _check(config: SwarmConfig) -> None:
    low, high = config.strengths
    if not (0 < low <= high < np.inf):
        raise ConfigError(f"swarm.strengths {config.strengths}: give a least and a largest strength above 0")
    if not all(0 <= t <= 10 for t in config.temperatures):
        raise ConfigError(f"swarm.temperatures {config.temperatures}: each must be between 0 and 10")


def _draw(rng: np.random.Generator, count: int, natural: Floats, bounds: Bounds, config: SwarmConfig) -> Floats:
    """Return `count` mixtures (count, k): a strength, a temperature and a Dirichlet draw each, inside the bounds."""
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


def _choose(natural: Floats, bounds: Bounds, config: SwarmConfig, seen: set[bytes]) -> Iterator[Floats]:
    """Yield up to `runs` distinct mixtures (k,) not in `seen`, each the best of its own batch, given those before."""
    reference = np.sqrt(_draw(_generator(config.seed, 0, 0), _REFERENCE, natural, bounds, config))
    chosen = np.zeros((min(config.runs, _CHOSEN_FROM), natural.size))
    for number in range(config.runs):
        for attempt in range(_ATTEMPTS):
            rng = _generator(config.seed, number + 1, attempt)
            candidates = _draw(rng, config.candidates, natural, bounds, config)
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
