"""Early stopping on generated learning curves: compute saved, share of the best fifth lost, and calibration.

    python tests/bench/bench_curves.py [--swarms 40] [--runs 64]

A swarm's final losses have spread `spread` (1 by definition; everything is relative to it). Each run follows
E + B (t/T)^-b: B is 1.5 to 8 spreads on average, varies by 30 % between runs and correlates with the final loss at 0.6
or not at all; b is 0.2 to 0.6, its logarithm varies by `own` between runs. On top come a common cooling at the end, a
tenth of the fall, and noise at every point, correlated at 0.5 with the point before.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from pipeline.mix.config import EarlyStopping
from pipeline.mix.curves import LearningCurves, measured_shares, replay


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swarms", type=int, default=20)
    parser.add_argument("--runs", type=int, default=64)
    options = parser.parse_args()
    print("noise  own  corr   saved   lost  off by  rank error  CPU s a replay")
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
        print(
            f"{noise:>5.2f} {own:>4.2f} {correlation:>5.1f} {saved:>7.3f} {lost:>6.3f} {off:>7.2f} {rank:>11.4f}"
            f" {seconds:>15.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
