"""What an optimum promises too much, measured on halves of the runs, where the truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.mix.config import ProposeConfig
from pipeline.mix.types import Floats, RunSpec
from pipeline.mix.weights.objective import Problem
from pipeline.mix.weights.optimism import Halves, Means, measure_halves, split_rows
from pipeline.mix.weights.proposal import Kept
from pipeline.mix.weights.propose import propose
from pipeline.mix.weights.search import TrustRegion
from pipeline.mix.weights.space import Constraints
from tests.mix_law import Linear, swarm

K, TASKS = 4, ("t0", "t1")
SLOPE = np.array([[0.02, -0.02, 0.01, -0.01], [0.01, -0.03, 0.02, 0.0]])
NAMES = tuple(f"s{i}" for i in range(K))


def problem(runs: int = 80) -> Problem:
    limits = Constraints(NAMES, np.zeros(K), np.ones(K))
    return Problem(limits, np.full(K, 1 / K), swarm(K, runs), dict.fromkeys(TASKS, 1.0), dict.fromkeys(TASKS, "all"))


def noisy(noise: float, pairs: int, seed: int = 0) -> list[tuple[Means, Means]]:
    """Return fits of halves: the truth, each slope off by `noise`."""
    rng = np.random.default_rng(seed)

    def fit() -> Means:
        return Linear(SLOPE + rng.normal(0, noise, SLOPE.shape)).mean

    return [(fit(), fit()) for _ in range(pairs)]


def halves(noise: float, kls: tuple[float, ...], pairs: int = 40) -> Halves:
    asked = problem()
    return measure_halves(noisy(noise, pairs), asked, TrustRegion.of(asked.constraints, asked.runs), kls, 1)


def true_gain(chosen: Floats) -> float:
    return float(-(chosen - 1 / K) @ SLOPE.mean(0))


def test_without_noise_everything_promised_is_kept_and_no_penalty_is_best() -> None:
    found = halves(0.0, (0.0, 0.01, 0.1), pairs=2)
    for record in found.kept:
        assert record.promised == pytest.approx(record.kept, abs=1e-12)
        assert record.optimism == 0.0
    assert found.best_kl == 0.0
    assert np.abs(found.weight_sd).max() < 1e-9


def test_what_noise_promises_is_not_kept_and_a_penalty_keeps_more() -> None:
    found = halves(0.1, (0.0, 0.01, 0.05, 0.2, 1.0))
    by_kl = {record.kl: record for record in found.kept}
    # Without a penalty a half runs after its own errors, and what it promises is mostly those.
    assert by_kl[0.0].promised > 3 * max(by_kl[0.0].kept, 1e-3)
    assert found.best_kl > 0
    assert by_kl[found.best_kl].kept > by_kl[0.0].kept
    optimism = [record.optimism for record in found.kept]
    assert optimism == sorted(optimism, reverse=True)  # the more penalty, the less there is to promise
    assert (np.diff(found.weight_sd.max(axis=1)) < 0).all()


def test_a_proposal_is_free_of_the_optimism_that_was_measured() -> None:
    asked = problem()
    truth, pairs = Linear(SLOPE, spread=0.02), noisy(0.03, 12)
    plain = propose(truth, asked, ProposeConfig(kl=0.02), 1)
    honest = propose(truth, asked, ProposeConfig(kl=0.02), 1, pairs)
    (record,) = honest.halves
    assert plain.weights == honest.weights
    assert honest.optimism == record.optimism > 0
    assert honest.metric.value == pytest.approx(plain.metric.value + honest.optimism)
    assert honest.improvement.value == pytest.approx(plain.improvement.value - honest.optimism)
    assert honest.improvement.low < plain.improvement.low - honest.optimism
    assert all(a.weight.low <= a.weight.value <= a.weight.high for a in honest.slices.values())


def test_the_penalty_is_chosen_where_none_is_given() -> None:
    asked = problem()
    chosen = propose(Linear(SLOPE), asked, ProposeConfig(), 1, noisy(0.1, 12))
    assert chosen.kl == max(chosen.halves, key=lambda record: (record.kept, record.kl)).kl
    assert propose(Linear(SLOPE), asked, ProposeConfig(), 1).kl == 0.05


def test_optimism_is_never_below_zero_and_half_of_what_halves_show() -> None:
    assert Kept(0.0, promised=0.5, kept=0.3).optimism == pytest.approx(0.1)
    assert Kept(0.0, promised=0.3, kept=0.5).optimism == 0.0


def runs(seeds: int, count: int = 24) -> list[RunSpec]:
    mixtures = swarm(K, count)
    made = [RunSpec(f"n{s}", "natural", np.full(K, 1 / K), s) for s in range(seeds)]
    made += [RunSpec(f"c{i}", "corner", np.eye(K)[i], 0) for i in range(K)]
    return made + [RunSpec(f"r{i}", "swarm", row, i % seeds) for i, row in enumerate(mixtures)]


def test_halves_share_no_seed_and_no_mixture() -> None:
    made = runs(8)
    splits = split_rows(made, 5, 1)
    assert len(splits) == 5
    for first, second in splits:
        assert sorted([*first, *second]) == list(range(len(made)))
        drawn = [{made[i].seed for i in rows if made[i].kind != "corner"} for rows in (first, second)]
        assert not drawn[0] & drawn[1]
        assert len(drawn[0]) == len(drawn[1]) == 4
    assert any(a.tolist() != b.tolist() for (a, _), (b, _) in itertools.pairwise(splits))


def test_with_few_seeds_mixtures_are_dealt_and_with_few_runs_nothing_is() -> None:
    made = runs(1)
    for first, second in split_rows(made, 3, 1):
        weights = [{made[i].weights.round(9).tobytes() for i in rows} for rows in (first, second)]
        assert not weights[0] & weights[1]
    assert split_rows(made[:7], 3, 1) == []
