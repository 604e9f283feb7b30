"""Any slices, weights, budget and shard size: counts, epochs and every token are as promised."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mix.config import SampleConfig
from pipeline.mix.shards.plan import borders
from pipeline.mix.shards.sample import sample
from pipeline.table.errors import ConfigError
from tests.mix_sample_stores import EOS, documents_of, make_slice, shard_tokens, trace

LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 2_500)), min_size=1, max_size=25)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(LENGTHS, min_size=1, max_size=4),
    parts=st.lists(st.integers(0, 20), min_size=4, max_size=4),
    budget=st.integers(1_000, 20_000),
    epochs=st.floats(0.3, 40),
    form=st.sampled_from(["npy", "megatron", "parquet"]),
    seed=st.integers(0, 100),
)
def test_what_is_written_is_what_was_asked(
    lengths: list[list[int]], parts: list[int], budget: int, epochs: float, form: str, seed: int
) -> None:
    weights = np.array(parts[: len(lengths)], float)
    if not weights.sum():
        weights[0] = 1
    weights /= weights.sum()
    with tempfile.TemporaryDirectory() as folder:
        stores = [make_slice(Path(folder) / "in", f"s{i}", n) for i, n in enumerate(lengths)]
        limits = np.array([int(store.n_tokens * epochs) for store in stores])
        config = SampleConfig.model_validate({"format": form, "shard_tokens": 1_000, "seed": seed})
        options = {"max_epochs": np.full(len(stores), epochs), "vocabulary": 1000, "eos": EOS, "key": ""}
        if (weights * budget > limits + 2).any():
            with pytest.raises(ConfigError, match="tokens asked"):
                sample(stores, weights, budget, Path(folder) / "out", config, **options)  # type: ignore[arg-type]
            return
        try:
            report = sample(stores, weights, budget, Path(folder) / "out", config, **options)  # type: ignore[arg-type]
        except ConfigError:
            assert (weights * budget > limits - 2).any()
            return
        originals = documents_of(stores)
        counts: Counter[str] = Counter()
        begun: Counter[tuple[str, int]] = Counter()
        for number in range(report.shards):
            tokens = shard_tokens(Path(report.folder), number, form, "<u2")
            rows = trace(Path(report.folder), number)
            assert 0 < tokens.size <= 1_000
            assert [0, *(row["end"] for row in rows)] == [*(row["start"] for row in rows), tokens.size]
            for row in rows:
                piece = tokens[row["start"] : row["end"]]
                assert np.array_equal(piece, originals[row["doc_id"]][row["document_start"] :][: piece.size])
                counts[row["slice"]] += piece.size
                is_end = row["document_start"] + piece.size == originals[row["doc_id"]].size
                begun[row["doc_id"], row["epoch"]] += is_end
        assert counts.total() == budget
        for i, store in enumerate(stores):
            assert abs(counts[store.name] - weights[i] * budget) < 2
            assert report.slices[i].tokens == counts[store.name]
        assert set(begun.values()) == {1}
        assert max(epoch for _, epoch in begun) < math.ceil(epochs)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 60))
def test_borders_keep_documents_whole(lengths: list[int], limit: int) -> None:
    starts = np.concatenate([[0], np.cumsum(lengths)])
    cuts = borders(starts, limit)
    assert (cuts[0], cuts[-1]) == (0, starts[-1])
    assert (np.diff(cuts) > 0).all()
    assert (np.diff(cuts) <= limit).all()
    for cut in set(cuts.tolist()) - set(starts.tolist()):
        inside = int(np.searchsorted(starts, cut)) - 1
        assert lengths[inside] > limit
