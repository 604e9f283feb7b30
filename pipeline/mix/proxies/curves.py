"""Early stopping: which partly trained runs will not end among the best, and how each will end.

Runs are curves of a loss over training tokens. Run i at tokens t is taken to be

    m(t) + F_i + B_i g(t) + C_i h(t) + noise,    g(t) = (t / T)^-b - 1,    h = dg / d log b

with T the final tokens, so that F_i is where it ends relative to the others. m is common to all runs and free at every
measured point: the learning-rate schedule is in it. F_i and B_i are correlated between runs; C_i lets a run's exponent
differ from the common b. All of it is estimated from the curves of all runs (empirical Bayes, by EM) for a grid of b,
weighted by the likelihood; runs that stopped early stay in, so that the ones left do not look average.

Source: Domhan et al. 2015 and Swersky et al. 2014 (arXiv 1406.3896) extrapolate single curves so; sharing m, b and the
spread between runs is ours, since a proxy run has only a few points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.config import EarlyStopping
from pipeline.mix.types import Floats, one_blas_thread
from pipeline.table.errors import InputError

MIN_RUNS = 8
"""With fewer runs nothing stops: the spread between runs would be a guess."""

_EXPONENTS = np.geomspace(0.1, 1.2, 7)
_EXPONENT_PRIOR = (np.log(0.35), 0.7)
_OWN_EXPONENT = 0.25
"""Prior standard deviation of a run's own log exponent around the common one."""

_CAUTION = 1.4
"""Extrapolations miss by more than the model says, since noise at one point is still there at the next: measured on
generated curves (tests/bench/bench_curves.py), their variance is so much larger."""

_ROUNDS = 60
_CLOSE = 1e-9


@dataclass(frozen=True)
class LearningCurves:
    """Losses (n, r) of n runs at `tokens` (r,), rising, up to `final_tokens`; NaN where a run was not measured, though
    each was somewhere.

    `noise` is the standard deviation of one run's loss that seeds alone make, if known: it bounds the measured noise.
    """

    tokens: Floats
    losses: Floats
    final_tokens: float
    noise: float | None = None


@dataclass(frozen=True)
class _Extrapolation:
    """For one exponent: each run's final loss without the common part, its variance, the common part and its spread."""

    weight: float
    own: Floats
    variance: Floats
    common: float
    common_sd: float


def measured_shares(config: EarlyStopping) -> tuple[float, ...]:
    """Return the shares of the tokens at which runs are best measured: the rungs, and two points before the first.

    One point cannot tell a slow start from a bad mixture; measuring is cheap beside training.
    """
    first = min(config.rungs)
    return tuple(sorted({first / 4, first / 2, *config.rungs}))


@one_blas_thread()
def chance_among_best(curves: LearningCurves, best_share: float, seed: int = 1, draws: int = 4000) -> Floats:
    """Return each run's chance (n,) to end among the best share, by Monte Carlo over the fitted curves.

    A finished run competes with its measured loss. With a single measured point, nobody's chance can be told: all get
    `best_share`.
    """
    n = len(curves.losses)
    if not _tells(curves):
        return np.full(n, best_share)
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    posteriors = _extrapolations(curves)
    counts = rng.multinomial(draws, [one.weight for one in posteriors])
    hits = np.zeros(n)
    known = _finals(curves)
    best = best_count(best_share, n)
    for one, count in zip(posteriors, counts, strict=True):
        common = one.common + one.common_sd * rng.standard_normal((count, 1))
        final = common + one.own + np.sqrt(one.variance) * rng.standard_normal((count, n))
        final = np.where(np.isnan(known), final, known)
        places = np.argpartition(final, best - 1, axis=1)[:, :best]
        hits += np.bincount(places.ravel(), minlength=n)
    chances: Floats = hits / draws
    return chances


@one_blas_thread()
def extrapolated(curves: LearningCurves) -> tuple[Floats, Floats]:
    """Return the final loss of every run and its standard deviation, both (n,); a finished run's is 0."""
    known = _finals(curves)
    posteriors = _extrapolations(curves)
    weights = np.array([one.weight for one in posteriors])
    means = np.array([one.common + one.own for one in posteriors])
    variances = np.array([one.variance + one.common_sd**2 for one in posteriors])
    mean = weights @ means
    sd = np.sqrt(weights @ (variances + (means - mean) ** 2))
    return np.where(np.isnan(known), mean, known), np.where(np.isnan(known), sd, 0.0)


def stop_decisions(curves: LearningCurves, rung: float, config: EarlyStopping, seed: int = 1) -> NDArray[np.bool_]:
    """Return which runs (n,) stop at a rung (a share of the tokens): unlikely to be among the best.

    A run stops when its chance is below `threshold`, and as long as the chances of all stopped runs, those of earlier
    rungs among them, add up to less than that share of the best: a hundred small chances are a loss, too. Only runs
    that were measured at the rung can stop.
    """
    at = np.flatnonzero(np.abs(curves.tokens / curves.final_tokens - rung) < _CLOSE + 1e-3 * rung)
    here = ~np.isnan(curves.losses[:, at[-1]]) & np.isnan(_finals(curves))
    if not _tells(curves):
        return np.zeros(len(here), np.bool_)
    chances = chance_among_best(curves, config.best_share, seed)
    rungs = sorted(config.rungs)
    spent_share = sum(1 for one in rungs if one <= rung + _CLOSE) / len(rungs)
    allowed = config.threshold * best_count(config.best_share, len(here)) * spent_share
    gone = ~here & np.isnan(_finals(curves))
    order = np.argsort(np.where(here, chances, np.inf), kind="stable")
    total = chances[gone].sum() + np.cumsum(np.where(here, chances, np.inf)[order])
    stops = np.zeros(len(here), np.bool_)
    stops[order] = (total <= allowed) & (chances[order] < config.threshold)
    return stops & here


def best_count(share: float, n: int) -> int:
    """Return how many runs a share of the best is."""
    return min(n, max(1, round(share * n)))


def _finals(curves: LearningCurves) -> Floats:
    """Return each run's measured final loss (n,), NaN where it has none."""
    at_end = np.abs(curves.tokens / curves.final_tokens - 1) < _CLOSE
    if not at_end.any():
        return np.full(len(curves.losses), np.nan)
    found: Floats = curves.losses[:, int(np.flatnonzero(at_end)[-1])]
    return found


def _tells(curves: LearningCurves) -> bool:
    """Whether there is enough to judge by: eight runs, and two points of most of them."""
    points = (~np.isnan(curves.losses)).sum(axis=1)
    return len(points) >= MIN_RUNS and int(np.median(points)) >= 2


# The fit --------------------------------------------------------------------------------------------------------------


@dataclass
class _Fit:
    """State of the EM: the common part at each point (r,), covariance (3, 3) and noise variance."""

    basis: Floats
    common: Floats
    covariance: Floats
    noise: float


def _extrapolations(curves: LearningCurves) -> list[_Extrapolation]:
    """Return the posterior of every exponent on the grid, weights adding up to 1.

    Raises: InputError naming a run that was measured nowhere, or has an infinite loss.
    """
    seen = ~np.isnan(curves.losses)
    for is_bad, said in (
        (~seen.any(axis=1), "was not measured"),
        (np.isinf(curves.losses).any(axis=1), "has an infinite loss"),
    ):
        if is_bad.any():
            raise InputError(f"curves: run {np.argmax(is_bad)} {said}")
    used = seen.any(axis=0)
    tokens, losses, seen = curves.tokens[used], curves.losses[:, used], seen[:, used]
    scale = _spread(losses, seen)
    noise = None if curves.noise is None else curves.noise / scale
    logs, found = [], []
    for exponent in _EXPONENTS.tolist():
        fit, log_likelihood = _fit(tokens / curves.final_tokens, losses / scale, seen, exponent, noise)
        own, spread = _conditional(fit, losses / scale, seen)
        common, common_sd = _common_end(fit, tokens / curves.final_tokens, seen, exponent)
        logs.append(log_likelihood - 0.5 * ((np.log(exponent) - _EXPONENT_PRIOR[0]) / _EXPONENT_PRIOR[1]) ** 2)
        variance = _CAUTION * (spread[:, 0, 0] + fit.noise) * scale**2
        found.append((own[:, 0] * scale, variance, common * scale, common_sd * scale))
    weights = np.exp(np.array(logs) - max(logs))
    return [_Extrapolation(w, *each) for w, each in zip((weights / weights.sum()).tolist(), found, strict=True)]


def _spread(losses: Floats, seen: NDArray[np.bool_]) -> float:
    """Return the largest standard deviation between runs at any point, the unit of everything below."""
    spreads = [float(losses[seen[:, j], j].std()) for j in range(losses.shape[1]) if seen[:, j].sum() > 1]
    level = float(np.abs(losses[seen]).max())
    return max([*spreads, 1e-9 * level, 1e-300])


def _basis(shares: Floats, exponent: float) -> Floats:
    """Return 1, g and h at shares of the final tokens, (r, 3)."""
    power = shares**-exponent
    return np.column_stack([np.ones_like(shares), power - 1, -exponent * np.log(shares) * power])


def _fit(
    shares: Floats, losses: Floats, seen: NDArray[np.bool_], exponent: float, noise: float | None
) -> tuple[_Fit, float]:
    """Estimate common part, covariance and noise for an exponent; return them and the log likelihood.

    The noise has a prior worth five measurements: a tenth of the spread between runs, or half of what seeds make.
    """
    prior_noise = min(0.1, 0.5 * noise) ** 2 if noise else 0.1**2
    basis = _basis(shares, exponent)
    common = np.array([losses[seen[:, j], j].mean() for j in range(shares.size)])
    slope = float(abs(np.polyfit(basis[:, 1], common, 1)[0])) if common.size > 1 else 0.3  # of the fall over g
    fit = _Fit(
        basis, common, np.diag([1.0, max(0.3 * slope, 0.1) ** 2, (_OWN_EXPONENT * slope) ** 2 + 1e-6]), prior_noise
    )
    n = len(losses)
    for _ in range(_ROUNDS):
        mean, spread = _conditional(fit, losses, seen)
        residual = np.where(seen, losses - mean @ basis.T, 0.0)
        fit.common = residual.sum(axis=0) / seen.sum(axis=0)
        left = np.where(seen, residual - fit.common, 0.0)
        uncertain = np.einsum("rk,nkl,rl->nr", basis, spread, basis)
        squares = (left**2).sum() + uncertain[seen].sum()
        fit.noise = float((squares + 5 * prior_noise) / (seen.sum() + 5))
        second = np.einsum("nk,nl->kl", mean, mean) + spread.sum(axis=0)
        fit.covariance[:2, :2] = (second[:2, :2] + 2 * np.diag(np.diag(fit.covariance)[:2])) / (n + 2)
    return fit, _log_likelihood(fit, losses, seen)


def _information(fit: _Fit, losses: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return each run's posterior precision (n, 3, 3) and the product of basis and residuals (n, 3)."""
    weights = seen / fit.noise
    precision = np.einsum("nr,rk,rl->nkl", weights, fit.basis, fit.basis) + np.linalg.inv(fit.covariance)
    return precision, np.where(seen, losses - fit.common, 0.0) / fit.noise @ fit.basis


def _conditional(fit: _Fit, losses: Floats, seen: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return mean (n, 3) and covariance (n, 3, 3) of F, B, C of each run, given its measured points."""
    precision, score = _information(fit, losses, seen)
    spread = np.asarray(np.linalg.inv(precision), np.float64)
    mean: Floats = np.einsum("nkl,nl->nk", spread, score)
    return mean, spread


def _log_likelihood(fit: _Fit, losses: Floats, seen: NDArray[np.bool_]) -> float:
    precision, score = _information(fit, losses, seen)
    residual = np.where(seen, losses - fit.common, 0.0)
    explained = np.einsum("nk,nk->", score, np.linalg.solve(precision, score[:, :, None])[:, :, 0])
    determinant = np.linalg.slogdet(precision)[1].sum() + len(losses) * np.linalg.slogdet(fit.covariance)[1]
    return float(-0.5 * ((residual**2).sum() / fit.noise - explained + determinant + seen.sum() * np.log(fit.noise)))


def _common_end(fit: _Fit, shares: Floats, seen: NDArray[np.bool_], exponent: float) -> tuple[float, float]:
    """Return the common part at the end and its standard deviation.

    Where runs have finished it is known from them. Otherwise the power law through the common part at the last two
    points is taken, give or take half of what is still to fall: a schedule may cool the learning rate down.
    """
    if abs(shares[-1] - 1) < _CLOSE:
        finished = int(seen[:, -1].sum())
        return float(fit.common[-1]), float(np.sqrt(fit.noise / finished))
    if shares.size < 2:
        return float(fit.common[-1]), 1.0
    g = _basis(shares[-2:], exponent)[:, 1]
    slope = float((fit.common[-2] - fit.common[-1]) / (g[0] - g[1]))
    fall = slope * float(g[1])
    return float(fit.common[-1]) - fall, 0.5 * abs(fall)
