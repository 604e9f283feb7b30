"""What constraints allow: the range of each weight, whether there is a choice, frozen blocks, moving inside."""

import numpy as np
import pytest
from hypothesis import given, settings

from pipeline.mix.config import GroupBounds, SliceConfig
from pipeline.mix.weights.rounding import round_weights
from pipeline.mix.weights.space import (
    Constraints,
    GroupLimit,
    constraints_of,
    frozen_space,
    reduced_constraints,
    whole_space,
)
from pipeline.table.errors import ConfigError
from tests.property.test_mix_propose_properties import limits

NAMES = ("web", "wiki", "code", "books")


def of(lower, upper, *groups):
    names = NAMES[: len(lower)]
    return Constraints(names, np.array(lower, float), np.array(upper, float), groups)


# (lower, upper, groups, least and largest weights)
SPANS = [
    ([0, 0], [1, 1], [], [0, 0], [1, 1]),
    ([0.2, 0, 0], [1, 0.3, 1], [], [0.2, 0, 0], [1, 0.3, 0.8]),
    ([0, 0, 0], [1, 1, 1], [GroupLimit("g", (0, 1), 0.0, 0.2)], [0, 0, 0.8], [0.2, 0.2, 1]),
    ([0, 0.1, 0, 0], [1, 1, 0.3, 1], [GroupLimit("g", (2, 3), 0.6, 0.7)], [0, 0.1, 0, 0.3], [0.3, 0.4, 0.3, 0.7]),
]


@pytest.mark.parametrize(("lower", "upper", "groups", "least", "largest"), SPANS)
def test_the_range_of_each_weight(lower, upper, groups, least, largest):
    low, high = of(lower, upper, *groups).spans()
    np.testing.assert_allclose(low, least, atol=1e-9)
    np.testing.assert_allclose(high, largest, atol=1e-9)


@given(limits())
@settings(max_examples=40, deadline=None)
def test_no_allowed_mixture_leaves_the_ranges(case):
    allowed, inside, rng = case
    low, high = allowed.spans()
    drawn = allowed.sample(rng, np.full((20, len(inside)), 1 / len(inside)), np.full(20, 1.0))
    assert allowed.allows(drawn).all()
    assert (drawn >= low - 1e-8).all()
    assert (drawn <= high + 1e-8).all()


ONE_POINT = [
    ([0.6, 0], [0.6, 1], []),
    ([0.5, 0.5], [1, 1], []),
    ([0, 0, 0.4], [1, 0.3, 0.4], [GroupLimit("g", (0,), 0.3, 0.3)]),
]


@pytest.mark.parametrize(("lower", "upper", "groups"), ONE_POINT)
def test_one_mixture_alone_leaves_nothing_to_choose(lower, upper, groups):
    with pytest.raises(ConfigError, match=r"leave one mixture \(web .*nothing to choose"):
        of(lower, upper, *groups).require_choice()
    of([0, 0, 0], [0.5, 0.5, 0.5], GroupLimit("g", (0,), 0.2, 0.2)).require_choice()


def test_groups_and_bounds_that_contradict_each_other_are_named():
    slices = {name: SliceConfig(where="true", group="g") for name in ("a", "b")}
    with pytest.raises(ConfigError, match=r"^propose\.groups\.g: largest weights add up to 0\.5, less than 1"):
        constraints_of(slices, {"a": 1.0, "b": 1.0}, {"g": GroupBounds(max_weight=0.5)})
    slices["c"] = SliceConfig(where="true")
    with pytest.raises(ConfigError, match=r"slices\.c, propose\.groups\.g: largest weights add up to 0\.7"):
        constraints_of(slices, {"a": 1.0, "b": 1.0, "c": 0.2}, {"g": GroupBounds(max_weight=0.5)})


def test_what_breaks_a_group_bound_is_moved_inside_and_can_be_written():
    limits = of([0, 0, 0], [1, 1, 1], GroupLimit("g", (0, 1), 0.0, 0.2))
    runs = np.array([[0.6, 0.3, 0.1], [1.0, 0, 0], [0.1, 0.05, 0.85]])
    np.testing.assert_array_equal(limits.allows(runs), [False, False, True])
    moved = limits.rescale(runs.copy())
    assert limits.allows(moved).all()
    np.testing.assert_allclose(moved[0], [0.2 * 2 / 3, 0.2 / 3, 0.8], atol=1e-9)
    for row in moved:
        assert limits.allows(round_weights(row, limits)[None]).all()


def test_a_frozen_block_keeps_group_bounds():
    space = frozen_space(NAMES, {"web": 0.75, "wiki": 0.25})
    free = np.zeros(4), np.ones(4)
    whole = reduced_constraints(Constraints(NAMES, *free, (GroupLimit("g", (0, 1, 2), 0.1, 0.6),)), space)
    assert whole.groups == (GroupLimit("g", (0, 1), 0.1, 0.6),)
    part = reduced_constraints(Constraints(NAMES, *free, (GroupLimit("g", (1,), 0.1, 0.2),)), space)
    np.testing.assert_allclose([part.lower[0], part.upper[0]], [0.4, 0.8])
    both = (GroupLimit("g", (0,), 0.0, 0.3), GroupLimit("h", (1,), 0.0, 0.2))
    assert reduced_constraints(Constraints(NAMES, *free, both), space).upper[0] == pytest.approx(0.4)
    same = Constraints(NAMES, *free)
    assert reduced_constraints(same, whole_space(NAMES)) is same


def test_a_group_of_frozen_and_free_slices_is_refused():
    space = frozen_space(NAMES, {"web": 0.75, "wiki": 0.25})
    with pytest.raises(ConfigError, match=r"propose\.groups\.g: holds some of the slices that swarm\.reuse freezes"):
        reduced_constraints(Constraints(NAMES, np.zeros(4), np.ones(4), (GroupLimit("g", (1, 2), 0, 0.2),)), space)
    tight = Constraints(NAMES, np.zeros(4), np.ones(4), (GroupLimit("g", (0,), 0.7, 0.9),))
    np.testing.assert_allclose(reduced_constraints(tight, space).lower[0], 0.7 / 0.75)
    lower, group = np.array([0, 0, 0.5, 0]), GroupLimit("g", (0,), 0.45, 0.9)
    with pytest.raises(ConfigError, match=r"swarm\.reuse: with frozen ratios"):
        reduced_constraints(Constraints(NAMES, lower, np.ones(4), (group,)), space)
