"""How much an optimum promises that it does not keep, and which KL penalty keeps most: measured on halves of the runs.

A fit of one half proposes; a fit of the other half, which has seen neither its runs nor their seeds, says what that is
worth. What the first promises beyond that is optimism: the best of many predictions is best by luck in part. A proposal
from all runs has half the variance of one from half of them, and so about half the optimism.

How far the two halves' proposals lie apart says, without any model of the noise, how far another set of runs and seeds
would have moved the weights: the difference of two independent halves has twice the standard deviation of the whole.

Source: sample splitting; Smith and Winkler, The optimizer's curse (Management Science 52, 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.mix.types import Floats, RunSpec
from pipeline.mix.weights.objective import Problem
from pipeline.mix.weights.proposal import Kept
from pipeline.mix.weights.search import Ints, TrustRegion

Means = Callable[[Floats], Floats]
"""A fit of some runs: mixtures (q, k) to expected metrics (q, m)."""
KLS = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
DEFAULT_KL = 0.05
"""Where nothing was measured: the penalty whose trained optimum was best in a published series."""
_LEAST_RUNS, _LEAST_SEEDS = 8, 4
_POOL = 4096
_NEAR = 1024


@dataclass(frozen=True)
class Halves:
    """Every KL penalty's record, and how far weights vary: standard deviations (kls, k) of a proposal from all runs."""

    kept: tuple[Kept, ...]
    weight_sd: Floats

    @property
    def best_kl(self) -> float:
        """The penalty that kept the largest gain; the larger of equals."""
        return max(self.kept, key=lambda one: (one.kept, one.kl)).kl

    def at(self, kl: float) -> tuple[Kept, Floats]:
        """Return the record of a penalty and the weights' standard deviations (k,)."""
        row = next(i for i, one in enumerate(self.kept) if one.kl == kl)
        return self.kept[row], self.weight_sd[row]


def measure_halves(
    pairs: Sequence[tuple[Means, Means]], problem: Problem, region: TrustRegion, kls: Sequence[float], seed: int
) -> Halves:
    """Return what proposals from one half keep in the other's eyes; `pairs` are fits of both halves of some splits.

    Proposals are the best of a pool of mixtures, which is refined around each of them: near enough, as the pool is the
    same for all.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x68616C66]))
    k = len(problem.natural)
    natural = problem.constraints.rescale(problem.natural[None])
    centres = np.concatenate([np.full((_POOL // 2, k), 1 / k), np.repeat(problem.natural[None], _POOL // 2, 0)])
    points = problem.constraints.sample(rng, centres, np.exp(rng.uniform(0, np.log(300), _POOL)))
    points = region.repaired(np.concatenate([natural, region.anchors, points]))
    penalties = sorted(set(kls))
    fits = [fit for pair in pairs for fit in pair]
    scores = np.stack([fit(points) @ problem.weights for fit in fits])  # (halves, q)

    def best() -> Ints:
        penalty = np.outer(penalties, problem.divergence(points))
        return np.asarray((scores[:, None] + penalty).argmin(2), np.int64)  # (halves, kls)

    for _ in range(2):
        found = points[np.unique(best())]
        strengths = np.exp(rng.uniform(np.log(30), np.log(3000), _NEAR))
        near = region.repaired(problem.constraints.sample(rng, found[np.arange(_NEAR) % len(found)], strengths))
        points = np.concatenate([points, near])
        scores = np.concatenate([scores, np.stack([fit(near) @ problem.weights for fit in fits])], axis=1)
    chosen = best()
    base = np.stack([fit(natural) @ problem.weights for fit in fits])  # (halves, 1)
    own = base - np.take_along_axis(scores, chosen, 1)
    other = np.arange(len(fits)) ^ 1  # the halves of a split stand side by side
    kept = base[other] - np.take_along_axis(scores[other], chosen, 1)
    apart = points[chosen[::2]] - points[chosen[1::2]]  # (splits, kls, k)
    records = zip(penalties, own.mean(0).tolist(), kept.mean(0).tolist(), strict=True)
    return Halves(tuple(Kept(*record) for record in records), np.sqrt((apart**2).mean(0)) / 2)


def split_rows(runs: Sequence[RunSpec], splits: int, seed: int) -> list[tuple[Ints, Ints]]:
    """Return `splits` random halves of the runs, as rows; none of fewer than eight runs.

    With four seeds or more, the swarm and the natural mixture are dealt by seed, so that a half has not seen the
    other's; other baselines, most of which have the first seed alone, and everything else by mixture.
    """
    if len(runs) < _LEAST_RUNS:
        return []
    mixture = np.unique(np.round([run.weights for run in runs], 9), axis=0, return_inverse=True)[1].reshape(-1)
    seeds = np.array([run.seed for run in runs])
    dealt = np.array([run.kind in ("swarm", "natural") for run in runs])
    blocks = np.unique(seeds[[run.kind == "swarm" for run in runs]])
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x73706C74]))
    found = []
    for _ in range(splits):
        first = rng.permutation(mixture.max() + 1)[mixture] % 2 == 0
        if len(blocks) >= _LEAST_SEEDS:
            first[dealt] = np.isin(seeds[dealt], rng.permutation(blocks)[: len(blocks) // 2])
        found.append((np.flatnonzero(first), np.flatnonzero(~first)))
    return found
