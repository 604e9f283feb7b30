"""Evaluation items in training text: what is shared is found, and nothing else."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import ngram_hits
from pipeline.mix.material import contamination
from pipeline.mix.material.contamination import contaminated_documents, contaminated_items, index_items, shared_runs
from pipeline.mix.types import Item, Task

SENTENCE = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"


def task(name: str, *texts: str) -> Task:
    return Task(name, f"key-{name}", tuple(Item(str(i), text, "") for i, text in enumerate(texts)))


def words(count: int, start: int = 0) -> str:
    return " ".join(SENTENCE.split()[start : start + count])


def test_thirteen_words_are_shared_and_twelve_are_not():
    index = index_items([task("t", SENTENCE)], 13)
    texts = [f"Well, {words(13, 1)} said he.", f"Well, {words(12, 1)} said he.", "", "Nothing of it."]
    assert contaminated_documents(pa.array(texts), index) == {0: ("t",)}


def test_the_run_may_cross_from_prompt_to_continuation():
    item = Item("a", words(7), " " + words(8, 7))
    index = index_items([Task("t", "k", (item,))], 13)
    assert contaminated_documents(pa.array([words(13, 1)]), index) == {0: ("t",)}


def test_case_punctuation_diacritics_and_spacing_do_not_hide_a_copy():
    index = index_items([task("t", words(13).replace("five", "café"))], 13)
    copied = "ONE, two -- Three\n\nfour: (CAFE\u0301) six/seven\teight; nine... ten eleven *twelve* thirteen"
    assert contaminated_documents(pa.array([copied]), index) == {0: ("t",)}


def test_items_of_eight_words_count_as_a_whole_and_shorter_ones_are_reported():
    tasks = [task("short", words(8), words(7), ""), task("long", SENTENCE)]
    index = index_items(tasks, 13)
    assert index.unchecked == {"short": 2}
    texts = [f"x {words(8)} y", words(7), f"{words(7)} y", words(13)]
    assert contaminated_documents(pa.array(texts), index) == {0: ("short",), 3: ("short", "long")}


def test_a_short_item_must_match_to_its_last_word():
    index = index_items([task("t", words(10))], 13)
    assert contaminated_documents(pa.array([words(9), words(10), words(9) + " other"]), index) == {1: ("t",)}


def test_items_are_named_by_task_and_position():
    tasks = [task("a", words(13), "unrelated " * 20), task("b", words(13, 2))]
    index = index_items(tasks, 13)
    batches = [pa.array(["nothing"]), pa.array([SENTENCE, SENTENCE])]
    assert contaminated_items(batches, index) == {"a": frozenset({0}), "b": frozenset({0})}
    assert contaminated_items([], index) == {"a": frozenset(), "b": frozenset()}
    assert contaminated_items([pa.array([words(13)])], index) == {"a": frozenset({0}), "b": frozenset()}


def test_no_tasks_no_texts_and_nulls():
    assert contaminated_documents(pa.array([SENTENCE]), index_items([], 13)) == {}
    index = index_items([task("t", SENTENCE)], 13)
    assert contaminated_documents(pa.array([], pa.string()), index) == {}
    assert contaminated_documents(pa.array([None, SENTENCE]).slice(0), index) == {1: ("t",)}
    assert contaminated_documents(pa.array(["x", SENTENCE]).slice(1), index) == {0: ("t",)}


def test_equal_hashes_of_other_words_are_no_hit(monkeypatch):
    """Every word is given one hash: then hashes find all, and the spelling alone decides."""

    def flat(data, offsets):
        _, word_offsets = plain(data, offsets)
        return np.full(word_offsets[-1], 6, np.uint64), word_offsets

    def scan(data, offsets, hashes, n_items, tables):
        rows = [(document, 0, 0, 0, 13) for document in range(offsets.size - 1)]
        return np.array(rows, np.int64)

    plain = ngram_hits.hash_words
    monkeypatch.setattr(contamination.ngram_hits, "hash_words", flat)
    monkeypatch.setattr(contamination.ngram_hits, "scan", scan)
    index = index_items([task("t", SENTENCE)], 13)
    texts = pa.array(["x " * 13, SENTENCE, words(13).replace("two", "to")])
    assert shared_runs(texts, index).tolist() == [[1, 0]]


def test_a_text_that_repeats_one_run_follows_it_once():
    repeated = "a " * 200_000
    tasks = [task("t", *["a " * 40] * 2000)]
    found = contaminated_items([pa.array([repeated])], index_items(tasks, 13))
    assert len(found["t"]) == 2000


def test_more_hits_than_fit_at_once_are_all_there():
    items = [f"{words(12)} item{i}" for i in range(300)]
    texts = pa.array([" . ".join(items)] * 40)
    assert len(shared_runs(texts, index_items([task("t", *items)], 13))) == 300 * 40


def naive(texts: list[str], items: list[str], width: int) -> list[list[int]]:
    def runs(text: str) -> set[tuple[str, ...]]:
        found = text.split()
        return {tuple(found[i : i + width]) for i in range(len(found) - width + 1)}

    return [[d, i] for d, text in enumerate(texts) for i, item in enumerate(items) if runs(text) & runs(item)]


LETTERS = st.lists(st.sampled_from("abc"), max_size=40).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=6), st.lists(LETTERS, max_size=6), st.integers(5, 8))
def test_as_comparing_all_runs(texts, items, width):
    found = shared_runs(pa.array(texts), index_items([task("t", *items)], width))
    assert sorted(found.tolist()) == naive(texts, items, width)


@settings(deadline=None)
@given(st.text())
def test_spelling_has_the_words_that_hashes_have(text):
    data = np.frombuffer(text.encode(), np.uint8)
    hashes, _ = ngram_hits.hash_words(data, np.array([0, data.size]))
    codes, offsets = ngram_hits.spell(text.encode())
    assert offsets.size - 1 == hashes.size
    spelled = [codes[a:b].tobytes() for a, b in pairwise(offsets)]
    assert len(set(spelled)) == len(set(hashes.tolist()))


@pytest.mark.parametrize("width", [5, 100])
def test_other_widths(width):
    text = " ".join(f"w{i}" for i in range(100))
    index = index_items([task("t", text)], width)
    shorter = " ".join(text.split()[: width - 1])
    assert contaminated_documents(pa.array([text, shorter]), index) == {0: ("t",)}
