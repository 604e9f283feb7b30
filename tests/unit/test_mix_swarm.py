"""Bounds, baselines, draws and seed noise of a swarm."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.mix.config import SliceConfig, SwarmConfig
from pipeline.mix.types import RunSpec, SliceTokens
from pipeline.mix.weights.noise import measure_noise
from pipeline.mix.weights.space import (
    Constraints,
    frozen_space,
    natural_weights,
    pool_tokens,
    project,
    reduced_bounds,
    weight_bounds,
    whole_documents,
)
from pipeline.mix.weights.swarm import draw_swarm, mixture_id, run_id, unimax, unjudged_slices
from pipeline.table.errors import ConfigError, InputError

NAMES = ("web", "wiki", "code", "books")
NATURAL = np.array([0.6, 0.2, 0.15, 0.05])
FREE = Constraints(NAMES, np.zeros(4), np.ones(4))


def slices(**changes: dict[str, object]) -> dict[str, SliceConfig]:
    return {name: SliceConfig(where="true", **changes.get(name, {})) for name in NAMES}


# Bounds ---------------------------------------------------------------------------------------------------------------


def test_a_cap_is_what_epochs_allow_at_the_target_budget():
    bounds = weight_bounds(slices(code={"max_epochs": 6}, web={"max_weight": 0.5}), [1000, 100, 100, 50], 2000)
    np.testing.assert_allclose(bounds.upper, [0.5, 0.2, 0.3, 0.1])
    np.testing.assert_array_equal(bounds.lower, 0)


def test_a_fixed_weight_bounds_from_both_sides():
    bounds = weight_bounds(slices(wiki={"weight": 0.1}), [1000, 100, 100, 50], 2000)
    assert (bounds.lower[1], bounds.upper[1]) == (0.1, 0.1)


def test_the_largest_budget_that_fits_is_named_and_fits():
    with pytest.raises(ConfigError, match=r"budget_tokens 6,000.*largest budget that fits is 5,000"):
        weight_bounds(slices(), [1000, 100, 100, 50], 6000)
    weight_bounds(slices(), [1000, 100, 100, 50], 5000)
    with pytest.raises(ConfigError):
        weight_bounds(slices(), [1000, 100, 100, 50], 5001)


def test_the_largest_budget_respects_largest_weights():
    # web may be half at most: the others' 250 * 4 = 1000 tokens must be the other half.
    with pytest.raises(ConfigError, match="largest budget that fits is 2,000:"):
        weight_bounds(slices(web={"max_weight": 0.5}), [1000, 100, 100, 50], 2001)


def test_a_fixed_weight_that_epochs_do_not_allow_is_named():
    with pytest.raises(ConfigError, match=r"slices\.books: weight 0\.5 needs more.*fits is 400"):
        weight_bounds(slices(books={"weight": 0.5}), [1000, 100, 100, 50], 2000)


def test_weights_that_cannot_sum_to_one():
    half = {"max_weight": 0.2}
    with pytest.raises(ConfigError, match=r"add up to 0\.8, less than 1"):
        weight_bounds(slices(web=half, wiki=half, code=half, books=half), [10**9] * 4, 2000)
    most = {"min_weight": 0.6}
    with pytest.raises(ConfigError, match=r"add up to 1\.2, more than 1"):
        weight_bounds(slices(web=most, wiki=most), [10**9] * 4, 2000)


def test_no_tokens_leave_nothing_to_mix():
    with pytest.raises(InputError):
        natural_weights([0, 0])


# Pools ----------------------------------------------------------------------------------------------------------------


def test_a_pool_repeats_as_often_as_the_target_would():
    tokens, budget, proxy = np.array([10**9, 3 * 10**7]), 2 * 10**9, 10**7
    pools = pool_tokens(tokens, budget, proxy, True)
    weight = 0.25
    np.testing.assert_allclose(weight * proxy / pools, weight * budget / tokens, rtol=1e-4)


def test_pools_have_limits():
    np.testing.assert_array_equal(pool_tokens([100, 0, 7], 10**9, 10, True), [1, 0, 1])
    np.testing.assert_array_equal(pool_tokens([100, 0, 7], 10, 10**9, True), [100, 0, 7])
    np.testing.assert_array_equal(pool_tokens([100, 0, 7], 10**9, 10, False), [100, 0, 7])


def test_a_pool_ends_with_a_document(tmp_path):
    path = tmp_path / "documents.parquet"
    pq.write_table(
        pa.table({"start": pa.array([0, 5, 12], pa.int64()), "tokens": pa.array([5, 7, 3], pa.int32())}), path
    )
    part = SliceTokens("web", tmp_path / "none.npy", path, 3, 15, 60)
    found = [int(whole_documents([part], np.array([pool]))[0]) for pool in (0, 1, 5, 6, 15)]
    assert found == [0, 5, 5, 12, 15]
    with pytest.raises(InputError, match="slice web"):
        whole_documents([part], np.array([16]))


# Baselines and draws --------------------------------------------------------------------------------------------------


def test_unimax_spreads_what_small_slices_cannot_take():
    bounds = Constraints(NAMES, np.zeros(4), np.array([1.0, 0.4, 0.1, 0.05]))
    np.testing.assert_allclose(unimax(bounds), [0.45, 0.4, 0.1, 0.05])


def test_baselines_come_first_and_differ():
    bounds = Constraints(NAMES, np.zeros(4), np.array([1.0, 1.0, 0.3, 0.1]))
    runs = draw_swarm(NATURAL, bounds, SwarmConfig(runs=5, seed=10, replicates=3))
    # Corners in the slices' order: those of the largest and the smallest natural share have two seeds.
    kinds = ["natural"] * 3 + ["uniform"] * 2 + ["corner"] * 6 + ["swarm"] * 5
    assert [run.kind for run in runs] == kinds
    assert [run.seed for run in runs] == [10, 11, 12, 11, 12, 10, 11, 11, 12, 10, 11, 10, 11, 12, 10, 11]
    np.testing.assert_allclose(runs[0].weights, NATURAL)
    np.testing.assert_allclose(runs[3].weights, [0.3, 0.3, 0.3, 0.1])
    np.testing.assert_allclose(runs[8].weights, [0.7 * 0.6 / 0.85, 0.7 * 0.2 / 0.85, 0.3, 0.7 * 0.05 / 0.85])
    np.testing.assert_array_equal(runs[9].weights, runs[10].weights)
    assert len({run.run_id for run in runs}) == len(runs)


def test_every_seed_is_a_block_of_the_design():
    runs = draw_swarm(NATURAL, FREE, SwarmConfig(runs=64, seed=3))
    swarm = [run for run in runs if run.kind == "swarm"]
    assert [run.seed for run in swarm] == [3 + number % 8 for number in range(64)]
    assert sorted(run.seed for run in runs if run.kind == "natural") == list(range(3, 11))
    by_mixture = {}
    for run in runs:
        by_mixture.setdefault(mixture_id(NAMES, run.weights), set()).add(run.seed)
    assert sorted(map(len, by_mixture.values()), reverse=True)[:5] == [8, 2, 2, 2, 1]
    # The mean mixture of a seed's runs says nothing of the seed.
    means = np.array([np.mean([run.weights for run in swarm if run.seed == 3 + n], axis=0) for n in range(8)])
    assert means.std(axis=0).max() < 0.2


def test_a_corner_holds_nothing_else():
    corners = [run.weights for run in draw_swarm(NATURAL, FREE, SwarmConfig(runs=2)) if run.kind == "corner"]
    assert sorted(map(int, np.count_nonzero(corners, axis=1))) == [1] * 6


def test_no_corners_when_not_asked_for():
    kinds = [run.kind for run in draw_swarm(NATURAL, FREE, SwarmConfig(runs=2, corners=False, replicates=2))]
    assert kinds == ["natural", "natural", "uniform", "uniform", "swarm", "swarm"]


# What a swarm shows of each slice -------------------------------------------------------------------------------------

# (natural shares, largest weights)
SHARES = [
    pytest.param([0.9, 0.0995, 0.0005], 1.0, id="three, one of 0.05 %"),
    pytest.param([0.5, 0.3, 0.196, 0.004], 1.0, id="four, one of 0.4 %"),
    pytest.param([0.6, *[0.02] * 19, 0.0195, 0.0005], 1.0, id="22, many small"),
    pytest.param([1 / 60] * 60, 1.0, id="sixty alike"),
    pytest.param([0.9, *[0.0995 / 58] * 58, 0.0005], 20.0, id="sixty, capped"),
]


@pytest.mark.parametrize("count", [8, 64])
@pytest.mark.parametrize(("shares", "cap"), SHARES)
def test_every_slice_is_seen_at_several_weights(shares, cap, count):
    natural = np.array(shares)
    upper = np.minimum(1.0, cap * natural) if cap > 1 else np.ones(natural.size)
    bounds = Constraints(tuple(f"s{i}" for i in range(natural.size)), np.zeros(natural.size), upper)
    runs = draw_swarm(natural, bounds, SwarmConfig(runs=count, candidates=2))
    assert len(unjudged_slices(runs, bounds)) <= (natural.size // 10 if count == 8 else 0)
    swarm = np.array([run.weights for run in runs if run.kind == "swarm"])
    np.testing.assert_allclose(swarm.sum(axis=1), 1, atol=1e-12)
    assert (swarm <= upper + 1e-12).all()
    present = (swarm > 0).mean(axis=0)
    assert present.min() >= (0.25 if count == 8 else 0.33), present
    if count == 64:
        for share, most, column in zip(natural, upper, swarm.T, strict=True):
            kept = np.sort(column[column > 0])
            assert len(np.unique(np.round(np.log(kept), 1))) >= 8
            assert kept[-1] > min(0.6 * most, max(0.02, 2 * share))


def test_more_least_weights_than_there_is_room_for():
    bounds = Constraints(tuple(f"s{i}" for i in range(40)), np.zeros(40), np.ones(40))
    runs = draw_swarm(np.full(40, 1 / 40), bounds, SwarmConfig(runs=32, candidates=4, min_weight=0.1))
    swarm = np.array([run.weights for run in runs if run.kind == "swarm"])
    assert len(swarm) == 32
    assert np.isfinite(swarm).all()
    assert swarm[swarm > 0].min() >= 0.1
    alike = project(np.full((1, 40), 1.0), bounds, np.full(40, 1 / 40), 0.1)
    np.testing.assert_allclose(alike, 1 / 40)


def test_presence_of_a_large_swarm():
    natural = np.array([0.5, 0.3, 0.196, 0.004])
    swarm = [r.weights for r in draw_swarm(natural, FREE, SwarmConfig(runs=256, candidates=1)) if r.kind == "swarm"]
    rare = np.array(swarm)[:, 3]
    assert 0.38 < (rare > 0).mean() < 0.6
    counts, _ = np.histogram(np.log(rare[rare > 0]), np.log([0.002, 0.0045, 0.01, 0.022, 0.051]))
    assert counts.min() > 16  # evenly over the logarithms of its range


def test_a_slice_with_a_least_weight_rises_above_it():
    bounds = Constraints(NAMES, np.array([0.0, 0.0, 0.0, 0.02]), np.ones(4))
    natural = np.array([0.7, 0.2, 0.099, 0.001])
    runs = draw_swarm(natural, bounds, SwarmConfig(runs=24))
    rare = np.array([run.weights[3] for run in runs if run.kind == "swarm"])
    assert rare.min() >= 0.02
    assert 0.33 <= (rare > 0.021).mean() <= 0.6
    assert unjudged_slices(runs, bounds) == {}


def test_what_a_swarm_cannot_judge_is_said():
    weights = np.zeros((6, 5))
    weights[:, 1] = 0.1
    weights[:, 2] = [0.1, 0.102, 0.1, 0, 0, 0]
    weights[:, 3] = [0.2, 0.205, 0.21, 0.215, 0.219, 0.2]
    weights[:, 4] = [0.1, 0.11, 0.12, 0.13, 0.14, 0.15]
    weights[:, 0] = 1 - weights.sum(axis=1)
    bounds = Constraints(("a", "b", "c", "d", "e"), np.array([0, 0.1, 0, 0.2, 0]), np.array([1, 0.1, 1, 0.22, 1]))
    runs = [RunSpec(str(i), "swarm", row, 0) for i, row in enumerate(weights)]
    found = unjudged_slices(runs, bounds)
    assert set(found) == {"a", "b", "c", "d"}
    assert found["b"] == "its weight is fixed at 0.1"
    assert found["c"].startswith("3 of 6 runs hold it, at 1 different weights")
    assert "d" in found


def test_frozen_slices_have_no_curve_of_their_own():
    space = frozen_space(NAMES, {"web": 0.5, "wiki": 0.3})
    runs = draw_swarm(NATURAL, FREE, SwarmConfig(runs=24), space)
    assert set(unjudged_slices(runs, FREE, space)) == {"web", "wiki"}


def test_a_larger_swarm_starts_with_the_smaller_one():
    few = draw_swarm(NATURAL, FREE, SwarmConfig(runs=6))
    many = draw_swarm(NATURAL, FREE, SwarmConfig(runs=20))
    assert [run.run_id for run in few] == [run.run_id for run in many[: len(few)]]


def test_a_seed_gives_the_same_swarm_and_another_seed_another():
    first, again, other = (draw_swarm(NATURAL, FREE, SwarmConfig(runs=8, seed=s)) for s in (1, 1, 2))
    assert [run.run_id for run in first] == [run.run_id for run in again]
    assert not {r.run_id for r in first if r.kind == "swarm"} & {r.run_id for r in other if r.kind == "swarm"}


def test_choosing_is_nearer_to_the_distribution_than_drawing():
    config = SwarmConfig(runs=48, candidates=32, strengths=(2.0, 20.0))
    points = {}
    for candidates in (1, 32):
        runs = draw_swarm(NATURAL, FREE, config.model_copy(update={"candidates": candidates}))
        points[candidates] = np.sqrt([run.weights for run in runs if run.kind == "swarm"])
    many = draw_swarm(NATURAL, FREE, config.model_copy(update={"runs": 400, "candidates": 1, "seed": 9}))
    whole = np.sqrt([run.weights for run in many if run.kind == "swarm"])

    def energy(some):
        def apart(a, b):
            return np.linalg.norm(a[:, None] - b, axis=2).mean()

        return 2 * apart(some, whole) - apart(some, some) - apart(whole, whole)

    assert energy(points[32]) < energy(points[1]) / 2
    gaps = np.linalg.norm(points[32][:, None] - points[32], axis=2) + 9 * np.eye(48)
    assert gaps.min() > 0.04


def test_fewer_distinct_mixtures_than_asked_for_are_said(caplog):
    tight = Constraints(("a", "b"), np.array([0.5, 0.5]), np.array([0.5, 0.5]))
    runs = draw_swarm(np.array([0.5, 0.5]), tight, SwarmConfig(runs=4, candidates=2))
    assert [run.kind for run in runs] == ["natural"] * 8
    assert "0 distinct mixtures of the 4" in caplog.text


def test_strengths_out_of_order_are_refused():
    with pytest.raises(ConfigError, match=r"swarm\.strengths"):
        draw_swarm(NATURAL, FREE, SwarmConfig(strengths=(5.0, 0.1)))
    with pytest.raises(ConfigError, match=r"swarm\.temperatures"):
        draw_swarm(NATURAL, FREE, SwarmConfig(temperatures=(-1.0,)))


def test_projection_keeps_proportions_where_no_bound_holds():
    bounds = Constraints(NAMES, np.array([0.0, 0.0, 0.2, 0.0]), np.array([0.5, 1.0, 1.0, 1.0]))
    out = project(np.array([[0.8, 0.1, 0.05, 0.05]]), bounds, NATURAL)[0]
    np.testing.assert_allclose(out, [0.5, 0.2, 0.2, 0.1], atol=1e-12)


def test_bounds_come_before_the_least_weight():
    bounds = Constraints(NAMES, np.zeros(4), np.array([0.9, 0.0, 0.0, 0.1]))
    out = project(np.array([[1.0, 0.0, 0.0, 0.0]]), bounds, NATURAL, least=0.2)[0]
    np.testing.assert_allclose(out, [0.9, 0, 0, 0.1], atol=1e-12)


# Identity and reuse ---------------------------------------------------------------------------------------------------


def test_a_run_id_ignores_the_order_of_slices_and_those_without_weight():
    left = run_id(("a", "b", "new"), np.array([0.25, 0.75, 0.0]), 3)
    assert left == run_id(("b", "a"), np.array([0.75, 0.25]), 3)
    assert left != run_id(("a", "b"), np.array([0.75, 0.25]), 3)
    assert left != run_id(("b", "a"), np.array([0.75, 0.25]), 4)
    assert len(left) == 32
    assert int(left, 16) >= 0


def test_frozen_slices_keep_their_ratios_in_every_run():
    earlier = {"web": 0.5, "wiki": 0.3, "gone": 0.2}
    space = frozen_space(NAMES, earlier)
    assert space.names == ("frozen", "code", "books")
    runs = draw_swarm(NATURAL, FREE, SwarmConfig(runs=8), space)
    weights = np.array([run.weights for run in runs])
    np.testing.assert_allclose(weights[:, 0] * 0.3, weights[:, 1] * 0.5, atol=1e-12)
    np.testing.assert_allclose(weights @ space.reduce @ space.expand, weights, atol=1e-12)
    assert np.linalg.matrix_rank(weights[-8:] - weights[-1]) == 2
    corner = next(run for run in runs if run.kind == "corner")
    assert mixture_id(NAMES, corner.weights) == mixture_id(("web", "wiki"), np.array([5 / 8, 3 / 8]))


def test_a_frozen_block_is_capped_by_its_tightest_slice():
    space = frozen_space(NAMES, {"web": 0.5, "wiki": 0.5})
    bounds = reduced_bounds(Constraints(NAMES, np.zeros(4), np.array([1.0, 0.2, 1.0, 1.0])), space)
    np.testing.assert_allclose(bounds.upper, [0.4, 1.0, 1.0])


def test_what_cannot_be_frozen_is_refused():
    with pytest.raises(ConfigError, match="'nothing' is not in `slices`"):
        frozen_space(NAMES, {"web": 1.0}, ["nothing"])
    with pytest.raises(ConfigError, match="'code' is not in the earlier mixture"):
        frozen_space(NAMES, {"web": 1.0}, ["code"])
    with pytest.raises(ConfigError, match="no weight"):
        frozen_space(NAMES, {"web": 1.0, "wiki": 0.0}, ["wiki"])
    space = frozen_space(NAMES, {"web": 1.0, "wiki": 0.0})
    with pytest.raises(ConfigError, match=r"slices\.wiki: its weight is frozen at 0"):
        reduced_bounds(Constraints(NAMES, np.array([0.0, 0.1, 0.0, 0.0]), np.ones(4)), space)


# Noise ----------------------------------------------------------------------------------------------------------------


def simulated(rng, signal, noise, replicates=3, mixtures=64):
    """A swarm whose metrics have these standard deviations between mixtures and between seeds."""
    weights = rng.dirichlet(np.ones(4), mixtures)
    runs = [RunSpec(f"r{i}", "natural", NATURAL, i) for i in range(replicates)]
    runs += [RunSpec(f"s{i}", "swarm", row, 0) for i, row in enumerate(weights)]
    means = np.concatenate([np.zeros((replicates, len(signal))), rng.normal(size=(mixtures, len(signal))) * signal])
    return runs, 5 + means + rng.normal(size=means.shape) * noise


def test_noise_is_pooled_over_mixtures():
    runs = [RunSpec(str(i), "natural", w, i) for i, w in enumerate([NATURAL, NATURAL, FREE.upper / 4, FREE.upper / 4])]
    noise = measure_noise(runs, np.array([[1.0], [3.0], [10.0], [14.0]]), ["m"])
    assert noise.degrees[0] == 2
    np.testing.assert_allclose(noise.seed_std, np.sqrt((2 + 8) / 2))


def test_a_noisy_metric_is_flagged_and_weighted_down():
    runs, values = simulated(np.random.default_rng(1), np.array([10.0, 1.0]), np.ones(2), replicates=30)
    noise = measure_noise(runs, values, ["clear", "noisy"])
    assert noise.flagged.tolist() == [False, True]
    np.testing.assert_allclose(noise.ratio, [10, 1], rtol=0.4)
    assert noise.factor[0] == 1
    assert noise.factor[1] == pytest.approx((noise.ratio_hi[1] / 3) ** 2)
    assert [row["flagged"] for row in noise.rows()] == [False, True]


def test_the_interval_of_the_ratio_covers():
    rng = np.random.default_rng(5)
    runs, values = simulated(rng, np.full(400, 2.0), np.ones(400), replicates=4, mixtures=32)
    noise = measure_noise(runs, values, [f"m{i}" for i in range(400)])
    covered = np.mean((noise.ratio_lo <= 2.0) & (noise.ratio_hi >= 2.0))
    assert 0.86 < covered < 0.94


def test_seeds_that_change_nothing_and_no_seeds_at_all():
    runs, values = simulated(np.random.default_rng(1), np.ones(1), np.zeros(1))
    row = measure_noise(runs, values, ["m"]).rows()[0]
    assert (row["seed_std"], row["ratio"], row["factor"], row["flagged"]) == (0.0, None, 1.0, False)
    row = measure_noise(runs[2:], values[2:], ["m"]).rows()[0]
    assert (row["seed_std"], row["ratio"], row["degrees"], row["factor"]) == (None, None, 0, 1.0)


def test_unmeasured_values_are_left_out():
    runs, values = simulated(np.random.default_rng(1), np.ones(1), np.ones(1))
    values[[0, 5]] = np.nan
    noise = measure_noise(runs, values, ["m"])
    assert (noise.degrees[0], noise.mixtures[0]) == (1, 63)
    with pytest.raises(InputError):
        measure_noise(runs, values, ["m", "n"])
