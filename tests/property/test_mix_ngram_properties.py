"""N-gram counts against plain Python, and probabilities that sum to one."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.ngram import NgramProxy
from pipeline.mix.proxies.ngram_tasks import build_trie, count_nodes, followed
from pipeline.mix.types import ProxyData, SliceTokens, TokenItem, TokenTask

VOCABULARY, END, ORDER, BLOCKS = 5, 0, 4, 8
tokens = st.lists(st.integers(0, VOCABULARY - 1), max_size=60)
items = st.lists(st.tuples(st.lists(st.integers(0, VOCABULARY - 1), max_size=8), st.integers(0, 8)), max_size=6)


def task(rows, name="t"):
    made = [TokenItem(np.array(row, np.int32), min(start, len(row)), 3) for row, start in rows]
    return TokenTask(name, name, tuple(made))


def grams(trie):
    """The n-gram of each node, as a tuple."""
    out = []
    for node in range(trie.prefix.size):
        before = out[trie.prefix[node]] if trie.prefix[node] >= 0 else ()
        out.append((*before, int(trie.token[node])))
    return out


@settings(max_examples=80, deadline=None)
@given(tokens, items)
def test_counts_equal_the_reference(stream, rows):
    trie = build_trie([task(rows)], ORDER, VOCABULARY)
    counted = count_nodes(trie, np.array(stream, np.uint16), END, VOCABULARY, "s")
    block = np.cumsum([0, *(t == END for t in stream)])  # the document that a token is in
    names = grams(trie)
    assert len(set(names)) == len(names)
    seen, contexts, pairs, documents = Counter(), Counter(), set(), set()
    for i in range(len(stream)):
        for n in range(1, ORDER + 1):
            if i >= n - 1:
                gram = tuple(stream[i - n + 1 : i + 1])
                seen[gram, int(block[i]) % BLOCKS] += 1
                documents.add((gram, int(block[i])))
                if i + 1 < len(stream):
                    contexts[gram, int(block[i + 1]) % BLOCKS] += 1
                    pairs.add((gram, stream[i + 1]))
    found = {(names[r], int(b)): int(c) for r, b, c in zip(counted.rows, counted.blocks, counted.counts, strict=True)}
    assert found == {key: count for key, count in seen.items() if key[0] in names}
    rows_, blocks, numbers = followed(counted, trie, END)
    found = {(names[r], int(b)): int(c) for r, b, c in zip(rows_, blocks, numbers, strict=True) if c}
    assert found == {key: count for key, count in contexts.items() if key[0] in names}
    per_node = {names[n]: int(d) for n, d in zip(counted.nodes, counted.documents, strict=True)}
    assert per_node == {g: sum(d[0] == g for d in documents) for g in names if any(d[0] == g for d in documents)}
    for node, types in zip(counted.nodes, counted.types, strict=True):
        if node in trie.prefix:
            assert types == sum(pair[0] == names[node] for pair in pairs)  # exact: the five have their own registers
    assert counted.totals.sum() == len(stream)
    assert counted.vocabulary == len(set(stream))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40), min_size=1, max_size=3),
    st.lists(st.integers(0, VOCABULARY - 1), max_size=6),
    st.lists(st.integers(0, 5), min_size=3, max_size=3),
    st.integers(0, 3),
)
def test_probabilities_sum_to_one(streams, context, parts, seed):
    with TemporaryDirectory() as folder:
        slices = []
        for i, stream in enumerate(streams):
            np.save(Path(folder) / f"{i}.npy", np.array(stream, np.uint16))
            slices.append(SliceTokens(f"s{i}", Path(folder) / f"{i}.npy", Path(folder), 1, len(stream), len(stream)))
        sizes = np.array([part.n_tokens for part in slices], np.int64)
        weights = np.array(parts[: len(slices)], np.float64) + np.eye(len(slices))[0]
        weights /= weights.sum()
        # So many tokens that every slice that is read is read whole, once or several times over.
        proxy = NgramProxy(ProxyConfig(tokens=1000), ProxyData(tuple(slices), sizes, VOCABULARY, END))
        rows = [([*context, word], len(context)) for word in range(VOCABULARY)]
        bits = proxy.measure_mixtures(weights[None], [task([row], f"w{i}") for i, row in enumerate(rows)], seed)
    # Bits per byte of one item of three bytes.
    np.testing.assert_allclose(np.exp2(-3 * bits).sum(), 1, rtol=1e-9)
