"""What the seeds of runs do to their metrics: offsets that runs of one seed share, and how far seeds spread.

A run is y = f(mixture) + offset[seed] + e. Runs of one seed share its offset, so what a law leaves over of them does
not show it: a run with a fresh seed is further off than that, by the spread of the seeds. Offsets are random effects: a
law is fitted, what it leaves over is averaged a seed, shrunk, taken off the runs, and the law is fitted again.

Without seeds, runs of one mixture are taken to have a seed each, and all other runs to share one, so far as they lie
closer to the law than repeated runs lie to one another.

Source: one-way random effects by unweighted means (Searle, Casella and McCulloch 1992).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.regression.laws import Data, fit_law
from pipeline.mix.types import Floats

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_TURNS = 3
_NOISE_RUNS = 4.0  # how many runs the law's own noise is worth, where parameters leave few runs over


@dataclass(frozen=True)
class SeedEffects:
    """Seeds' spread `sd` (m,), and how many degrees of freedom and seeds it was estimated from.

    `left` (n, m) is what a law left over of the runs, offsets included, and `noise` (m,) its variance within a seed.
    `group` (n,) is each run's seed. `own` (n,) marks the repeated runs that tell the spread where seeds are not given.
    """

    sd: Floats
    degrees: int
    count: int
    left: Floats
    noise: Floats
    group: Ints
    own: Bools

    def offsets(self, known: Bools) -> Floats:
        """Return each run's offset (n, m), from those of the runs that are `known` (n,)."""
        if not self.sd.any():
            return np.zeros_like(self.left)
        if self.own.any():
            told = self.own & known
            away = self.left[told].mean(0) if told.any() else np.zeros(len(self.sd))
            return np.where(self.own[:, None] | (self.sd == 0), 0.0, -away)
        level, variance = self._levels(known)
        precision = 1 / (self.sd**2 + np.maximum(variance, 1e-300))
        middle = (np.where(np.isfinite(variance), level, 0) * precision).sum(0) / precision.sum(0)
        shrunk = np.where(np.isfinite(variance), self.sd**2 * precision * (level - middle), 0)
        return np.asarray(shrunk[self.group], np.float64)

    def _levels(self, known: Bools) -> tuple[Floats, Floats]:
        """Return each seed's mean residual and that mean's variance (seeds, m), infinite where no run is known."""
        runs = np.bincount(self.group[known], minlength=int(self.group.max()) + 1)[:, None]
        total = np.zeros((len(runs), len(self.sd)))
        np.add.at(total, self.group[known], self.left[known])
        return total / np.maximum(runs, 1), np.where(runs > 0, self.noise / np.maximum(runs, 1), np.inf)


def seed_effects(data: Data, seeds: Ints | None) -> SeedEffects:
    """Return what the seeds (n,) of the runs of `data` do, or without seeds what repeated runs tell of them."""
    n, m = data.values.shape
    none = np.zeros(n, np.int64)
    blank = SeedEffects(np.zeros(m), 0, 0, np.zeros((n, m)), np.ones(m), none, np.zeros(n, bool))
    if seeds is not None:
        group = np.unique(seeds, return_inverse=True)[1].reshape(-1).astype(np.int64)
        count = int(group.max()) + 1
        return _shared(data, replace(blank, group=group, count=count, degrees=count - 1)) if 2 <= count < n else blank
    _, group = np.unique(np.round(data.weights, 12), axis=0, return_inverse=True)
    group = group.reshape(-1).astype(np.int64)
    runs = np.bincount(group)
    own = runs[group] > 1
    if (~own).sum() < 2 or not own.any():
        return blank
    return _repeated(data, replace(blank, group=group, count=int(runs.max()), degrees=int((runs - 1).sum()), own=own))


def _shared(data: Data, effects: SeedEffects) -> SeedEffects:
    """Return the effects of seeds that are known; `effects` says which."""
    every = np.ones(len(data.values), bool)
    for _ in range(_TURNS):
        offsets = effects.offsets(every)
        left, free = _left_over(replace(data, values=data.values - offsets))
        effects = replace(effects, left=left + offsets, noise=np.ones(left.shape[1]))
        level, share = effects._levels(every)
        inside = effects.left - level[effects.group]
        noise = _pooled(inside, np.maximum(free - effects.count + 1, 0), left)
        between, chance = level.var(0, ddof=1), noise * share.mean(0)
        effects = replace(effects, noise=noise, sd=np.sqrt(np.maximum(between - chance, 0)))
    return effects


def _repeated(data: Data, effects: SeedEffects) -> SeedEffects:
    """Return the effects of seeds that repeated runs tell; `effects` says which those are."""
    own, group = effects.own, effects.group
    runs = np.bincount(group)
    mean = np.zeros((len(runs), data.values.shape[1]))
    np.add.at(mean, group, data.values)
    apart = data.values - (mean / runs[:, None])[group]
    between = (apart**2).sum(0) / effects.degrees
    left, free = _left_over(replace(data, extra=data.extra + own[:, None] * between))
    within = _pooled(left[~own], free * (~own).mean(), left[~own])
    return replace(effects, left=left, noise=within, sd=np.sqrt(np.maximum(between - within, 0)))


def _left_over(data: Data) -> tuple[Floats, Floats]:
    """Return what the effective-data law leaves over (n, m), and how many runs its parameters leave free (m,)."""
    centre, spread = data.values.mean(0), np.maximum(data.values.std(0), 1e-300)
    standard = replace(data, values=(data.values - centre) / spread, extra=data.extra / spread**2)
    law = fit_law("effective_data", standard)
    mean, variance = law.moments(data.weights)
    heard = 1 / (1 / law.row_weights.T + standard.extra / law.noise)
    free = np.maximum(1 - variance * heard / law.noise, 0).sum(0)
    return (standard.values - mean) * spread, free


def _pooled(left: Floats, free: Floats, typical: Floats) -> Floats:
    """Return the variance (m,) of what is left over, by degrees of freedom `free` (m,), few of them made some more."""
    prior = np.median(typical**2, axis=0) / 0.4549  # the median of a squared normal variable
    return np.asarray(((left**2).sum(0) + _NOISE_RUNS * prior) / (free + _NOISE_RUNS), np.float64)
