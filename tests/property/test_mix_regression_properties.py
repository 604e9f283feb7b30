"""What holds of any fit: order, scale and names of the input do not matter, and what is predicted is finite."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mix.regression.choice import ranks, spearman
from pipeline.mix.regression.fitting import fit
from pipeline.table.errors import InputError


def runs(seed: int, n: int, k: int, m: int, sparse: bool) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(k, 0.3), n)
    if sparse:
        weights[weights < weights.max(1, keepdims=True) / 2] = 0
    values = random.normal(0, 10.0 ** random.integers(-6, 6), (n, m)) + random.normal(0, 100, m)
    return weights, values


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(3, 14),
    st.integers(1, 6),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(["linear", "log_linear", "effective_data", "gp"]),
)
def test_any_runs_give_finite_predictions_in_order(seed, n, k, m, sparse, model):
    weights, values = runs(seed, n, k, m, sparse)
    fitted = fit(weights, values, model=model, bootstrap=8)
    new, _ = runs(seed + 1, 7, k, m, False)
    predicted = fitted.predict(new)
    for part in vars(predicted).values():
        assert part.shape == (7, m)
        assert np.isfinite(part).all()
    assert (predicted.low <= predicted.mean_low + 1e-9 * np.abs(predicted.mean)).all()
    assert (predicted.mean_high <= predicted.high + 1e-9 * np.abs(predicted.mean)).all()
    assert np.array_equal(predicted.mean, fitted.mean(new))
    assert np.isfinite(fitted.draws(new)).all()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
def test_rows_are_normalised_whatever_their_scale(seed, scale):
    weights, values = runs(seed, 8, 3, 1, False)
    factors = scale * np.arange(1, 9)[:, None]
    plain, scaled = (fit(w, values, bootstrap=8) for w in (weights, weights * factors))
    np.testing.assert_allclose(scaled.mean(weights), plain.mean(weights), rtol=1e-6, atol=1e-6 * np.ptp(values))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**31))
def test_a_mixture_is_predicted_alike_alone_and_among_others(seed):
    weights, values = runs(seed, 12, 4, 2, False)
    fitted = fit(weights, values, bootstrap=8, model="gp")
    new, _ = runs(seed + 1, 300, 4, 2, True)
    together, alone = fitted.predict(new), fitted.predict(new[7:8])
    np.testing.assert_allclose(alone.mean[0], together.mean[7], rtol=1e-9)
    np.testing.assert_allclose(alone.high[0], together.high[7], rtol=1e-4)


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=30))
def test_ranks_are_shared_by_ties(values):
    array = np.array(values, float)
    expected = [np.mean(np.flatnonzero(np.sort(array) == x)) for x in array]
    np.testing.assert_allclose(ranks(array), expected)
    if len(set(values)) > 1:
        assert spearman(array, array**3) == pytest.approx(1)
        assert spearman(array, -array) == pytest.approx(-1)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3))
def test_weights_are_taken_or_refused_but_never_nan(row):
    fitted = _FIT
    ok = all(np.isfinite(row)) and min(row) >= 0 and max(row) > 0
    if not ok:
        with pytest.raises(InputError, match="mixture 0"):
            fitted.predict(np.array([row]))
    else:
        assert np.isfinite(fitted.predict(np.array([row])).high).all()


_FIT = fit(*runs(0, 6, 3, 1, False), bootstrap=8)
