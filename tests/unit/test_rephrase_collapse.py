"""Template collapse: what is measured, against plain counting."""

from __future__ import annotations

import random
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.rephrase.collapse import _bodies, as_text, collapse, distinct, openings, self_similarity
from pipeline.table.shards import Group, Identity, Index, PartWriter, Tally, Work
from pipeline.table.storage import Storage

WORDS = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(400)]


def text(seed: int, words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def exact(texts: list[str]) -> float:
    sets = [{tuple(words[i : i + 4]) for i in range(len(words) - 3)} for words in (t.split() for t in texts)]
    pairs = list(combinations(sets, 2))
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs)


def test_self_similarity_is_the_mean_jaccard_of_all_pairs() -> None:
    shared = text(0, 40)
    mixed = [f"{shared} {text(n, 30)}" if n % 2 else text(n) for n in range(1, 60)]
    assert self_similarity(mixed) == pytest.approx(exact(mixed), abs=0.02)
    assert self_similarity([text(n) for n in range(50)]) == pytest.approx(0, abs=0.001)
    assert self_similarity([shared] * 5) == 1


@pytest.mark.parametrize("texts", [[], ["one"], ["", "  "], ["one", "..."]])
def test_without_a_pair_there_is_no_similarity(texts: list[str]) -> None:
    assert self_similarity(texts) is None


def test_openings_are_counted_with_their_shares() -> None:
    texts = ["The cat sat down.", "the CAT sat up!", "A dog ran off.", "Hm."]
    first, second = openings(texts, 3)
    assert (first.text, first.texts, first.share) == ("the cat sat", 2, 0.5)
    assert second.text == "a dog ran"
    assert openings([], 3) == []


def test_distinct_is_different_ngrams_per_ngram() -> None:
    assert distinct(["a b a b"], 1) == 0.5
    assert distinct(["a b a b"], 2) == pytest.approx(2 / 3)
    assert distinct(["a", ""], 2) is None
    assert distinct(["a b c"] * 1000, 1, words=3) == 1, "no more words are read than asked for"


def test_styles_are_measured_apart_and_in_any_order() -> None:
    rows = [("list", f"{n:032x}", f"In this text we {text(n)}") for n in range(30)]
    rows += [("qa", f"{n:032x}", text(n + 100)) for n in range(30)]
    measured = collapse(rows)
    assert measured == collapse(random.Random(1).sample(rows, len(rows)))
    one, two = measured
    assert (one.style, one.texts, one.top_opening_share) == ("list", 30, 1.0)
    assert two.top_opening_share == pytest.approx(1 / 30)
    assert "100.0 %  in this text ..." in as_text(measured)


def test_a_sample_does_not_depend_on_the_order() -> None:
    rows = [("s", f"{n:032x}", text(n)) for n in range(200)]
    (forward,), (backward,) = collapse(rows, sample=20), collapse(rows[::-1], sample=20)
    assert forward == backward
    assert (forward.texts, forward.sampled) == (200, 20)
    assert collapse(rows, seed=2, sample=20) != [forward]


def test_nothing_gives_nothing() -> None:
    assert collapse([]) == []
    (empty,) = collapse([("s", "0", "")])
    assert (empty.openings, empty.top_opening_share, empty.self_similarity, empty.distinct_1) == ((), None, None, None)
    assert as_text([empty]) == "s: 1 texts (1 sampled), self-similarity -, distinct 1/2/3 - / - / -"


def test_metadata_of_any_kind_counts(tmp_path: Path) -> None:
    """Every row is a text of the style that its metadata names, from where they say that the model's own begins."""
    group = Group(Storage.at(str(tmp_path)), "web_rephrased/documents")
    schema = pa.schema([("doc_id", pa.string()), ("text", pa.string()), ("metadata", pa.string())])
    told = {
        '{"style": "qa", "body_start": 8}': ("qa", "own words"),
        '{"style": "qa"}': ("qa", "segment own words"),
        '{"style": "qa", "body_start": Infinity}': ("qa", "segment own words"),
        '{"style": "qa", "body_start": -3}': ("qa", "segment own words"),
        '{"style": 7, "body_start": 8}': ("", "own words"),
        "[" * 100_000: ("", "segment own words"),
        "[]": ("", "segment own words"),
        "": ("", "segment own words"),
    }
    rows = [{"doc_id": f"{n}", "text": "segment own words", "metadata": one} for n, one in enumerate([*told, None])]
    with PartWriter(group, Work("a", Identity("rephrase", "1"), ()), schema) as writer:
        writer.write(pa.Table.from_pylist(rows, schema))
    group.complete([writer.finish(Tally(len(rows)))], Index(stage="rephrase"))
    found = [(style, text) for style, _, text in _bodies(group)]
    assert found == [*told.values(), ("", "segment own words")]
