"""Early stopping on generated learning curves: compute saved, share of the best fifth lost, and calibration.

    python tests/bench/bench_curves.py [--swarms 40] [--runs 64]

A swarm's final losses have spread `spread` (1 by definition; everything is relative to it). Each run follows
E + B (t/T)^-b: B is 1.5 to 8 spreads on average, varies by 30 % between runs and correlates with the final loss at 0.6
or not at all; b is 0.2 to 0.6, its logarithm varies by `own` between runs. On top come a common cooling at the end, a
tenth of the fall, and noise at every point, correlated at 0.5 with the point before.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.config import EarlyStopping
from pipeline.mix.proxies.curves import LearningCurves, best_count, extrapolated, measured_shares, stop_decisions
from pipeline.mix.types import Floats
from tests.bench.tables import Table, bench_parser


def generate(
    runs: int, noise: float, own: float, correlation: float, seed: int, shares: tuple[float, ...] = ()
) -> LearningCurves:
    """Return a swarm's full curves, measured at the shares that early stopping asks for and at the end."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    points = np.array(shares or [*measured_shares(EarlyStopping()), 1.0])
    end = rng.standard_normal(runs)
    slope = rng.uniform(1.5, 8)
    fall = slope * (1 + 0.3 * (correlation * end + np.sqrt(1 - correlation**2) * rng.standard_normal(runs)))
    exponent = rng.uniform(0.2, 0.6) * np.exp(own * rng.standard_normal(runs))
    curve = end[:, None] + fall[:, None] * (points ** -exponent[:, None] - 1) + 50
    curve -= 0.1 * slope * np.clip((points - 0.8) / 0.2, 0, 1)
    errors = rng.standard_normal(curve.shape)
    for j in range(1, points.size):
        errors[:, j] = 0.5 * errors[:, j - 1] + np.sqrt(0.75) * errors[:, j]
    return LearningCurves(points * 1e7, curve + noise * errors, 1e7, noise)


@dataclass(frozen=True)
class ReplayReport:
    """What early stopping would have done to runs that were trained to the end.

    `saved_compute`: share of all training tokens not trained. `best_lost`: share of the truly best runs that stopped.
    `stopped_at` (n,): share of its tokens at which each run stopped, 1 for those that did not. `off_by` : root mean
    square of (extrapolated minus true final loss) over its stated standard deviation, of stopped runs (about 1 when the
    stated uncertainty is right; null when none stopped). `rank_error`: one minus the Spearman correlation of final
    losses, extrapolated where stopped, with the true ones.
    """

    runs: int
    best: int
    saved_compute: float
    best_lost: float
    stopped_at: Floats
    off_by: float | None
    rank_error: float


def replay(full: LearningCurves, config: EarlyStopping, seed: int = 1) -> ReplayReport:
    """Replay early stopping on curves of runs that were all trained to the end, and report what it saves and loses."""
    final = full.losses[:, -1]
    shares = full.tokens / full.final_tokens
    stopped_at = np.ones(len(final))
    for rung in sorted(config.rungs):
        seen = seen_until(full, stopped_at, rung)
        stopped_at[stop_decisions(seen, rung, config, seed)] = rung
    end = seen_until(full, stopped_at, float(shares[-1]))
    mean, sd = extrapolated(end)
    best = best_count(config.best_share, len(final))
    stopped = stopped_at < 1
    order = np.argsort(final, kind="stable")
    return ReplayReport(
        runs=len(final),
        best=best,
        saved_compute=float(1 - stopped_at.mean()),
        best_lost=float(stopped[order[:best]].mean()),
        stopped_at=stopped_at,
        off_by=float(np.sqrt(np.mean(((mean - final)[stopped] / sd[stopped]) ** 2))) if stopped.any() else None,
        rank_error=float(1 - np.corrcoef(ranks_of(mean), ranks_of(final))[0, 1]),
    )


def seen_until(full: LearningCurves, stopped_at: Floats, until: float) -> LearningCurves:
    """Return the curves as they are known at a share of the tokens, each up to where it stopped."""
    shares = full.tokens / full.final_tokens
    reached = shares[None] <= np.minimum(stopped_at, until)[:, None] + 1e-9
    return replace(full, losses=np.where(reached, full.losses, np.nan))


def ranks_of(values: Floats) -> NDArray[np.intp]:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--swarms", type=int, default=20)
    parser.add_argument("--runs", type=int, default=64)
    options = parser.parse_args()
    columns = "noise own correlation saved_compute best_lost off_by rank_error cpu_s_a_replay"
    table = Table("curves", options.csv, columns)
    for noise, own, correlation in itertools.product((0.03, 0.1, 0.3), (0.0, 0.15, 0.3), (0.0, 0.6)):
        start = time.process_time()
        reports = [
            replay(generate(options.runs, noise, own, correlation, seed), EarlyStopping())
            for seed in range(options.swarms)
        ]
        seconds = (time.process_time() - start) / options.swarms
        off = np.sqrt(np.mean([report.off_by**2 for report in reports if report.off_by is not None] or [np.nan]))
        saved, lost, rank = (
            np.mean([getattr(report, name) for report in reports])
            for name in ("saved_compute", "best_lost", "rank_error")
        )
        table.row(noise, own, correlation, *map(float, (saved, lost, off, rank)), seconds)


if __name__ == "__main__":
    main()
