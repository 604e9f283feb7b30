"""Token-weighted ranks against a plain reference."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifiers.ranks import apply_thresholds, rank_thresholds, ranks
from pipeline.table.errors import SchemaError

score = st.one_of(st.none(), st.floats(width=32, allow_infinity=False), st.sampled_from([0.0, -0.0, 0.5, 1.0]))
rows = st.lists(st.tuples(score, st.one_of(st.none(), st.integers(-3, 10**12))), max_size=60)


def columns(pairs):
    return pa.array([s for s, _ in pairs], pa.float32()), pa.array([t for _, t in pairs], pa.int64())


def reference(pairs):
    valid = [(s, max(1, 1 if t is None else t)) for s, t in pairs if s is not None and s == s]
    total = sum(t for _, t in valid)

    def rank(value):
        if value is None or value != value:
            return None
        below = sum(t for s, t in valid if s < value)
        same = sum(t for s, t in valid if s == value)
        return min(19, int((below + Fraction(same, 2)) * 20 / total))

    return [rank(s) for s, _ in pairs]


@settings(max_examples=300, deadline=None)
@given(rows)
def test_ranks_equal_the_reference(pairs):
    assert ranks(*columns(pairs)).to_pylist() == reference(pairs)


@settings(max_examples=100, deadline=None)
@given(rows, st.integers(1, 7))
def test_parts_and_their_order_do_not_matter(pairs, size):
    parts = [columns(pairs[i : i + size]) for i in range(0, len(pairs), size)]
    whole = rank_thresholds(lambda: [columns(pairs)])
    assert np.array_equal(rank_thresholds(lambda: reversed(parts)), whole)
    pieces = [apply_thresholds(scores, whole).to_pylist() for scores, _ in parts]
    assert [rank for piece in pieces for rank in piece] == reference(pairs)


def test_ranks_by_hand():
    even = ranks(pa.array(np.arange(40, dtype=np.float32)), pa.array([3] * 40))
    assert even.to_pylist() == [i // 2 for i in range(40)]
    assert ranks(pa.array([0.5] * 5, pa.float32()), pa.array([1] * 5)).to_pylist() == [10] * 5
    heavy = ranks(pa.array([0.1, 0.2, 0.3], pa.float32()), pa.array([1, 1, 998]))
    assert heavy.to_pylist() == [0, 0, 10]
    nothing = ranks(pa.array([None, float("nan")], pa.float32()), pa.array([5, 5]))
    assert nothing.to_pylist() == [None, None]
    assert ranks(pa.array([], pa.float32()), pa.array([], pa.int64())).type == pa.int8()


def test_ranks_of_a_large_even_set_hold_a_twentieth_each():
    rng = np.random.default_rng(1)
    scores, tokens = rng.random(200_000, np.float32), rng.integers(1, 2_000, 200_000)
    found = ranks(pa.array(scores), pa.array(tokens)).to_numpy()
    shares = np.bincount(found, weights=tokens, minlength=20) / tokens.sum()
    assert np.abs(shares - 0.05).max() < 1e-4


def test_wrong_types_are_named():
    with pytest.raises(SchemaError, match="scores are double, expected float32"):
        ranks(pa.array([0.5]), pa.array([1]))
    with pytest.raises(SchemaError, match="tokens are double, expected whole numbers"):
        ranks(pa.array([0.5], pa.float32()), pa.array([1.5]))
    with pytest.raises(SchemaError, match="1 scores for 2 token counts"):
        ranks(pa.array([0.5], pa.float32()), pa.array([1, 2]))
