"""What holds for `select` on any documents, however they are cut into parts."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.select.curated import row_groups
from pipeline.select.policy import doc_ids, judge, matches, present
from pipeline.select.wide_table import rechunked
from pipeline.table.catalog import Catalog
from pipeline.table.shards import Group
from pipeline.table.storage import Storage
from tests.select_workspace import doc_id, ledger, request, row, select, write

RULES = {
    "words": "word_count between 2 and 6",
    "language": "language = 'en' and language_score >= 0.5",
    "best": "top_share(quality_score, 0.4)",
}
SLOW = settings(max_examples=12, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
"""Each example writes and selects a workspace or more: shrinking one would take minutes."""
FEW_SCORES = st.sampled_from([None, 0.0, 0.25, 0.5, 0.75, 1.0, float("nan")])


@st.composite
def documents(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Documents in components of one to four, in any order."""
    count = draw(st.integers(1, 25))
    owners = draw(st.lists(st.integers(0, count // 2), min_size=count, max_size=count))
    rows = []
    for number in range(count):
        members = [other for other in range(count) if owners[other] == owners[number]]
        rows.append(
            row(
                number,
                word_count=draw(st.one_of(st.none(), st.integers(0, 8))),
                language=draw(st.sampled_from(["en", "de", None])),
                language_score=draw(FEW_SCORES),
                score=draw(FEW_SCORES),
                text_length=draw(st.integers(0, 3)),
                component_id=doc_id(members[0]),
                component_size=len(members),
                text_hash=draw(st.integers(0, 2)),
            )
        )
    return draw(st.permutations(rows))


def outcomes(parts: dict[str, Sequence[dict[str, Any]]], rules: dict[str, str], **more: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.at(folder)
        write(storage, "web", parts)
        select(request(storage, rules, **more))
        contents = [part.content for part in Group(storage, "web/curated").parts()]
        return {"ledger": ledger(storage), "curated": contents}


@SLOW
@given(documents(), st.integers(0, 25))
def test_the_ledger_is_complete_and_consistent(rows: list[dict[str, Any]], cut: int) -> None:
    found = outcomes({"a": rows[:cut], "b": rows[cut:]}, RULES)["ledger"]
    assert found.keys() == {item["doc_id"] for item in rows}
    keepers: dict[str, str] = {}
    for name, item in found.items():
        assert (item["outcome"] == "kept") == (not item["failed"])
        assert item["outcome"] in {"kept", "dropped"}
        if item["outcome"] == "kept":
            assert keepers.setdefault(item["component_id"], name) == name
            assert item["duplicate_of"] is None
    for name, item in found.items():
        keeper = keepers.get(item["component_id"])
        assert item["duplicate_of"] == (keeper if keeper != name else None)
        built_in = {"near_duplicate", "exact_duplicate"} & item["failed"].keys()
        assert len(built_in) == (item["duplicate_of"] is not None)
        if item["duplicate_of"]:
            same = item["text_hash"] == found[item["duplicate_of"]]["text_hash"]
            assert built_in == {"exact_duplicate" if same else "near_duplicate"}


@SLOW
@given(documents(), st.integers(0, 25), st.randoms(use_true_random=False))
def test_neither_cuts_nor_threads_nor_the_order_of_rows_matter(
    rows: list[dict[str, Any]], cut: int, random: Any
) -> None:
    whole = outcomes({"a": rows}, RULES)
    parts = outcomes({"a": rows[:cut], "b": rows[cut:]}, RULES, workers=2)
    assert repr(parts["ledger"]) == repr(whole["ledger"])  # in text, not-a-number equals itself
    assert parts["curated"] == whole["curated"]
    shuffled = list(rows)
    random.shuffle(shuffled)
    assert _decisions(outcomes({"a": shuffled}, RULES)) == _decisions(whole)


def _decisions(result: dict[str, Any]) -> dict[str, Any]:
    return {name: (item["outcome"], item["failed"].keys()) for name, item in result["ledger"].items()}


@settings(SLOW, max_examples=8)
@given(documents(), documents(), st.integers(0, 25), st.booleans())
def test_what_would_be_decided_is_what_is_written(
    web: list[dict[str, Any]], forum: list[dict[str, Any]], cut: int, is_joint: bool
) -> None:
    rules = RULES | {"middling": "quality_score <= quantile(quality_score, 0.9) or word_count = 3"}
    forum = [item | {"doc_id": f"f{item['doc_id'][1:]}"} for item in forum]
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.at(folder)
        write(storage, "web", {"a": web[:cut], "a-b": web[cut:]})
        write(storage, "forum", {"c": forum})
        sources = ("web", "forum") if is_joint else ("web",)
        asked = request(storage, rules, sources=sources)
        (told,) = judge(storage, asked.selection)
        select(asked)
        for judged in told:
            found, ids = ledger(storage, judged.source), doc_ids(judged).to_pylist()
            assert sorted(ids) == sorted(found)
            written = {name: found[name] for name in ids}
            for rows, failed in judged.blocks():
                for fails, item in zip(failed, list(written.values())[rows], strict=True):
                    assert {judged.rules[number] for number in np.flatnonzero(fails)} == item["failed"].keys()
            kept = [item["outcome"] == "kept" for item in written.values()]
            assert (judged.first() < 0).tolist() == kept
            (source,) = (each for each in Catalog.read(storage).sources if each.name == judged.source)
            read = present(storage, source)
            assert read is not None
            assert read.tokens is not None
            assert judged.tokens is not None
            assert (read.words == judged.words).all()
            assert (read.tokens == judged.tokens).all()
            assert (matches(judged, read) == np.arange(len(written))).all()


@SLOW
@given(
    st.lists(st.tuples(FEW_SCORES, st.booleans(), st.integers(0, 9)), min_size=1, max_size=30),
    st.sampled_from(["0.1", "0.25", "0.3", "0.5", "0.7", "1"]),
    st.booleans(),
)
def test_shares_equal_the_naive_count_with_ties(
    items: list[tuple[float | None, bool, int]], share: str, by_tokens: bool
) -> None:
    rows = [
        row(number, score=score, word_count=int(passes), estimated_tokens=tokens / 4)
        for number, (score, passes, tokens) in enumerate(items)
    ]
    function = "top_token_share" if by_tokens else "top_share"
    rules = {"words": "word_count = 1", "best": f"{function}(quality_score, {share})"}
    found = outcomes({"a": rows[::2], "b": rows[1::2]}, rules)["ledger"]
    kept = {name for name, item in found.items() if item["outcome"] == "kept"}
    passing = [(score, Fraction(tokens, 4) if by_tokens else Fraction(1)) for score, passes, tokens in items if passes]
    wanted = Fraction(share) * sum(weight for _, weight in passing)
    threshold = _naive_threshold(passing, wanted if by_tokens else Fraction(ceil(wanted)))
    expected = {
        doc_id(number)
        for number, (score, passes, _) in enumerate(items)
        if passes and threshold is not None and score is not None and score >= threshold
    }
    assert kept == expected


def _naive_threshold(passing: list[tuple[float | None, Fraction]], wanted: Fraction) -> float | None:
    """Return the score at which the best documents hold what is wanted; the least score when they never do."""
    scores = sorted({score for score, _ in passing if score is not None and score == score}, reverse=True)
    for score in scores:
        if sum(weight for other, weight in passing if other is not None and other >= score) >= wanted:
            return score
    return scores[-1] if scores else None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=40), st.lists(st.integers(1, 10), min_size=1, max_size=40))
def test_row_groups_do_not_depend_on_the_tables_they_come_in(sizes: list[int], cuts: list[int]) -> None:
    table = pa.table({"text": pa.array(["x" * size for size in sizes], pa.string())})
    whole = list(row_groups(iter([table]), 100))
    offsets = np.cumsum([0, *cuts])
    pieces = [table.slice(start, cut) for start, cut in zip(offsets, cuts, strict=False) if start < len(sizes)]
    pieces.append(table.slice(int(offsets[-1])))
    cut = list(row_groups((piece for piece in pieces if piece.num_rows), 100))
    assert [(rows.to_pylist(), ends) for rows, ends in cut] == [(rows.to_pylist(), ends) for rows, ends in whole]
    joined = [text for rows, _ in whole for text in rows["text"].to_pylist()]
    assert joined == table["text"].to_pylist()
    assert all(ends for _, ends in whole[:-1])


@given(st.lists(st.integers(0, 12), max_size=10), st.integers(1, 9))
def test_rechunking_keeps_rows(sizes: list[int], rows: int) -> None:
    starts = np.cumsum([0, *sizes])
    tables = [pa.table({"x": np.arange(start, start + size)}) for start, size in zip(starts, sizes, strict=False)]
    chunks = list(rechunked(iter(tables), rows))
    assert [value for chunk in chunks for value in chunk["x"].to_pylist()] == list(range(sum(sizes)))
    assert all(chunk.num_rows == rows for chunk in chunks[:-1])
