"""Early stopping: chances, extrapolations and what a replay reports."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.mix.config import EarlyStopping
from pipeline.mix.proxies.curves import (
    LearningCurves,
    chance_among_best,
    extrapolated,
    measured_shares,
    stop_decisions,
)
from pipeline.table.errors import InputError
from tests.bench.bench_curves import generate, replay

CONFIG = EarlyStopping()


def until(curves: LearningCurves, share: float) -> LearningCurves:
    """Return the curves as they are known at a share of the tokens."""
    later = curves.tokens > share * curves.final_tokens * 1.0001
    return replace(curves, losses=np.where(later, np.nan, curves.losses))


def swarm(seed: int = 1, noise: float = 0.05, runs: int = 64) -> LearningCurves:
    return generate(runs, noise, 0.15, 0.3, seed)


def test_runs_are_measured_before_the_first_rung():
    assert measured_shares(CONFIG) == (0.0625, 0.125, 0.25, 0.5, 0.75)


def test_chances_add_up_to_the_number_of_the_best():
    chances = chance_among_best(until(swarm(), 0.25), 0.2, draws=500)
    assert chances.sum() == pytest.approx(13)
    assert ((chances >= 0) & (chances <= 1)).all()


def test_the_same_seed_gives_the_same_chances():
    curves = until(swarm(), 0.25)
    first, again, other = (chance_among_best(curves, 0.2, seed) for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)


def test_chances_are_calibrated():
    """Among runs of many swarms, those with a chance of about p are among the best in about a share p."""
    said, true = [], []
    for seed in range(12):
        curves = swarm(seed, noise=0.2)
        final = curves.losses[:, -1]
        said.append(chance_among_best(until(curves, 0.25), 0.2, draws=1000))
        true.append(final <= np.sort(final)[12])
    chances, hits = np.concatenate(said), np.concatenate(true)
    for low, high in ((0.0, 0.05), (0.05, 0.3), (0.3, 0.7), (0.7, 1.01)):
        here = (chances >= low) & (chances < high)
        assert here.sum() >= 20
        error = 4 * np.sqrt(chances[here].mean() * (1 - chances[here].mean()) / here.sum())
        assert abs(hits[here].mean() - chances[here].mean()) < error + 0.03


def test_a_steeper_run_that_is_behind_keeps_its_chance():
    """Rank at the rung is not the forecast: of two equal losses the one that falls faster ends lower."""
    shares = np.array([0.0625, 0.125, 0.25])
    rng = np.random.default_rng(3)
    slopes = 2 + rng.standard_normal(40)
    losses = 10 + 0.3 * rng.standard_normal((40, 1)) + slopes[:, None] * (shares**-0.4 - 0.25**-0.4)
    losses[0], losses[1] = 10 + 4 * (shares**-0.4 - 0.25**-0.4), 10 + 0.5 * (shares**-0.4 - 0.25**-0.4)
    curves = LearningCurves(shares * 1e6, losses + 1e-3 * rng.standard_normal(losses.shape), 1e6)
    mean, sd = extrapolated(curves)
    chances = chance_among_best(curves, 0.2)
    assert mean[0] < mean[1] - 2 * sd[0]
    assert chances[0] > 0.9
    assert chances[1] < 0.1


def test_a_finished_run_keeps_its_loss_and_needs_no_extrapolation():
    curves = swarm()
    losses = until(curves, 0.5).losses
    losses[:10] = curves.losses[:10]
    mean, sd = extrapolated(replace(curves, losses=losses))
    np.testing.assert_array_equal(mean[:10], curves.losses[:10, -1])
    assert (sd[:10] == 0).all()
    assert (sd[10:] > 0).all()


def test_extrapolations_are_off_by_about_what_they_say():
    off = []
    for seed in range(10):
        curves = swarm(seed, noise=0.1)
        losses = until(curves, 0.5).losses
        losses[:13] = curves.losses[:13]
        mean, sd = extrapolated(replace(curves, losses=losses))
        off.append(((mean - curves.losses[:, -1])[13:] / sd[13:]) ** 2)
    assert 0.7 < np.sqrt(np.mean(off)) < 1.4


def test_scale_and_level_of_the_loss_do_not_matter():
    curves = until(swarm(), 0.25)
    other = replace(curves, losses=1e-3 * curves.losses, noise=1e-3 * curves.noise)
    np.testing.assert_array_equal(stop_decisions(curves, 0.25, CONFIG), stop_decisions(other, 0.25, CONFIG))


def test_the_worst_stop_and_the_best_go_on():
    curves = swarm()
    stops = stop_decisions(until(curves, 0.25), 0.25, CONFIG)
    final = curves.losses[:, -1]
    assert 10 < stops.sum() < 51
    assert final[stops].mean() > final[~stops].mean()
    chances = chance_among_best(until(curves, 0.25), 0.2)
    assert chances[stops].sum() <= CONFIG.threshold * 13 / 3


def test_a_run_that_stopped_before_is_not_stopped_again():
    curves = swarm()
    first = stop_decisions(until(curves, 0.25), 0.25, CONFIG)
    losses = until(curves, 0.5).losses
    losses[np.ix_(first, curves.tokens > 0.26e7)] = np.nan
    second = stop_decisions(replace(curves, losses=losses), 0.5, CONFIG)
    assert second.any()
    assert not (first & second).any()


def test_nothing_stops_where_nothing_can_be_told():
    curves = swarm()
    one_point = np.full_like(curves.losses, np.nan)
    one_point[:, 2] = curves.losses[:, 2]
    assert not stop_decisions(replace(curves, losses=one_point), 0.25, CONFIG).any()
    assert (chance_among_best(replace(curves, losses=one_point), 0.2) == 0.2).all()
    few = until(replace(curves, losses=curves.losses[:7]), 0.25)
    assert not stop_decisions(few, 0.25, CONFIG).any()


def test_equal_runs_all_go_on():
    curves = swarm()
    same = replace(curves, losses=np.repeat(curves.losses[:1], 64, axis=0))
    assert not stop_decisions(until(same, 0.25), 0.25, CONFIG).any()
    mean, sd = extrapolated(until(same, 0.25))
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()


def test_a_replay_saves_half_and_loses_few_of_the_best():
    reports = [replay(swarm(seed), CONFIG) for seed in range(4)]
    assert np.mean([report.saved_compute for report in reports]) > 0.45
    assert np.mean([report.best_lost for report in reports]) <= 0.06  # 3 of 52
    for report in reports:
        assert report.saved_compute == pytest.approx(1 - report.stopped_at.mean())
        assert set(report.stopped_at) <= {0.25, 0.5, 0.75, 1.0}
        assert report.rank_error < 0.1


def test_a_replay_counts_what_it_lost():
    """Runs that turn at the end: no forecast can know them, and the report says that they were lost."""
    curves = swarm()
    losses = curves.losses.copy()
    losses[:, -1] = -losses[:, -1]
    report = replay(replace(curves, losses=losses), CONFIG)
    assert report.best_lost > 0.5
    assert report.off_by > 3


def test_a_run_without_a_measure_or_with_an_infinite_one_is_named():
    curves = swarm()
    for value, said in ((np.nan, "run 3 was not measured"), (np.inf, "run 3 has an infinite loss")):
        losses = curves.losses.copy()
        losses[3] = value
        with pytest.raises(InputError, match=said):
            extrapolated(replace(curves, losses=losses))


@pytest.mark.parametrize("rungs", [(0.0, 0.5), (0.5, 2.0), (float("nan"),), ()])
def test_rungs_are_shares_of_the_tokens(rungs):
    with pytest.raises(ValidationError, match="rungs"):
        EarlyStopping(rungs=rungs)
