"""Swarms inside any bounds."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.mix.config import SliceConfig, SwarmConfig
from pipeline.mix.weights.space import natural_weights, weight_bounds
from pipeline.mix.weights.swarm import draw_swarm, run_id
from pipeline.table.errors import ConfigError


@st.composite
def problems(draw):
    count = draw(st.integers(1, 7))
    tokens = draw(st.lists(st.integers(0, 10**6), min_size=count, max_size=count).filter(any))
    loosest = draw(st.integers(0, count - 1))  # one may take whatever the others leave: most problems have an answer
    slices = {}
    for i in range(count):
        low = draw(st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.2]))
        high = draw(st.sampled_from([1.0, 1.0, 0.5, 0.25]))
        fixed = draw(st.sampled_from([None, None, None, 0.1, 0.0]))
        epochs = draw(st.sampled_from([0.5, 4.0, 100.0]))
        if i == loosest:
            low, high, fixed, tokens[i], epochs = 0.0, 1.0, None, 10**6, 100.0
        slices[f"s{i}"] = SliceConfig(where="true", min_weight=low, max_weight=high, weight=fixed, max_epochs=epochs)
    return slices, tokens, draw(st.integers(1000, 10**7))


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 5), st.sampled_from([0.0, 0.002, 0.1]))
def test_every_run_is_a_mixture_inside_the_bounds(problem, seed, least):
    slices, tokens, budget = problem
    natural = natural_weights(tokens)
    try:
        bounds = weight_bounds(slices, tokens, budget)
    except ConfigError:
        assume(False)
    runs = draw_swarm(natural, bounds, SwarmConfig(runs=3, candidates=4, seed=seed, min_weight=least))
    for run in runs:
        assert np.all(np.isfinite(run.weights))
        assert abs(run.weights.sum() - 1) < 1e-12
        assert np.all(run.weights >= bounds.lower)
        assert np.all(run.weights <= bounds.upper)
        assert run.run_id == run_id(bounds.names[::-1], run.weights[::-1], run.seed)
        for i, part in enumerate(slices.values()):
            assert run.weights[i] * budget <= part.max_epochs * tokens[i] * (1 + 1e-9)
            assert part.weight is None or run.weights[i] == part.weight
    assert len({run.run_id for run in runs}) == len(runs)


@settings(max_examples=12, deadline=None)
@given(st.integers(2, 6), st.integers(0, 9), st.floats(0.01, 0.2))
def test_small_weights_are_zero_when_nothing_bounds_them(count, seed, least):
    tokens = np.arange(1, count + 1) * 1000
    slices = {f"s{i}": SliceConfig(where="true", max_epochs=1000) for i in range(count)}
    bounds = weight_bounds(slices, tokens, 1000)
    runs = draw_swarm(natural_weights(tokens), bounds, SwarmConfig(runs=6, candidates=4, seed=seed, min_weight=least))
    for run in runs:
        if run.kind == "swarm":
            assert np.all((run.weights == 0) | (run.weights >= least * (1 - 1e-9)))
