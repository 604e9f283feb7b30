"""The kernels equal the plain-Python oracles on any Unicode, exactly."""

from __future__ import annotations

import math
import sys
import unicodedata
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recipe_stats_oracle import dolma3_drops, recipe_stats_oracle
from text_stats_oracle import TERMINALS, text_stats_oracle

from pipeline.kernels import characters as classes
from pipeline.kernels.statistics.recipe_stats import IS_ALNUM, IS_DIGIT, IS_UPPER, character_kinds
from pipeline.select.rules import load_rules
from pipeline.signals import recipe_stats
from pipeline.signals.text_stats import COLUMNS, text_stats

SHARED = Path(__file__).resolve().parents[2].parent / "shared"

CHARS = "abZ .,-'’1\n\r\u2028\x85\u0301\u200d中ーカ🙂é°+*/:wW|#…\"[](){}\tR\u00a0ſİK١_=<>@~^\\$%—–;!?。\x00"
PIECES = [
    *(
        "lorem ipsum ",
        "Javascript",
        "use cookies",
        "privacy policy",
        "terms of use",
        "[1]",
        "[edit]",
        "[citation needed]",
    ),
    *("don't", "you’ll", "Mr.", "e.g.", "U.S.", "the of.", "{", "• ", "- ", "...", "http://a.b/c-d?e:f", "www.x-y.z"),
    *("3 likes", "1.2K followers!", "Read more...", "items in cart ", "Sign-in ", ". . .", "● ", "* ", "12", "AB CD"),
    *("a b c d.", "\n", "\r\n", " ", "\n\n", "中文", "Foo-bar/baz:qux,Quux", "x=1+2", "C++", "50+"),
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    st.text(st.sampled_from(CHARS), max_size=80),
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from(["a", "b", "of", "terms", "oft", "erms"]), max_size=60).map(" ".join),
)


def table(texts: list[str]) -> pa.Table:
    return pa.table({"doc_id": [str(i) for i in range(len(texts))], "text": pa.array(texts, pa.string())})


def assert_equals_oracle(texts: list[str]) -> None:
    recipes = (recipe_stats.recipe_stats, recipe_stats_oracle, recipe_stats.COLUMNS)
    for measure, oracle, columns in ((text_stats, text_stats_oracle, COLUMNS), recipes):
        for text, row in zip(texts, measure(table(texts)).to_pylist(), strict=True):
            expected = oracle(text)
            assert set(expected) == set(columns)
            difference = {name: (row[name], value) for name, value in expected.items() if row[name] != value}
            assert not difference, text


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=8))
@example(["", "word", "\n\n\n", "\u2028", "\u0301\u0301", "中文", "🙂❤️", "a" * 1001 + " b c", "x" * 1000 + " y z."])
def test_kernel_equals_oracle(texts: list[str]) -> None:
    assert_equals_oracle(texts)


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.integers(1, 400))
def test_repeating_a_text_keeps_the_oracle(texts: list[str], copies: int) -> None:
    assert_equals_oracle([(text * copies)[:3000] for text in texts])


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_shares_are_shares(text: str) -> None:
    row = text_stats(table([text])).to_pylist()[0]
    for name in COLUMNS:
        assert math.isfinite(row[name])
        assert row[name] >= 0
        if name.startswith("duplicate_") or name.endswith("_line_ratio"):
            assert row[name] <= 1


def test_character_classes_agree_with_python() -> None:
    table = classes.character_classes()
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        flags = int(table[code])
        assert bool(flags & classes.SPACE) == char.isspace()
        assert bool(flags & classes.LETTER) == char.isalpha()
        assert bool(flags & classes.TERMINAL) == (char in TERMINALS)
        assert bool(flags & classes.SYMBOL) == (unicodedata.category(char)[0] in "PS")
        kinds = int(character_kinds()[code])
        if flags & classes.UNASSIGNED == 0:
            assert bool(kinds & IS_ALNUM) == char.isalnum()
            assert bool(kinds & IS_DIGIT) == char.isdigit()
            assert bool(kinds & IS_UPPER) == char.isupper()
    breaks = [code for code in range(sys.maxunicode + 1) if len(f"a{chr(code)}b".splitlines()) == 2]
    assert np.flatnonzero(table & classes.LINE_BREAK).tolist() == breaks


def real_texts(start: int, count: int) -> list[str]:
    path = SHARED / "peers" / "datatrove" / "texts" / "00000.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    texts: list[str] = pq.read_table(path, columns=["text"])["text"].slice(start, count).to_pylist()
    return texts


@pytest.mark.realdata
def test_kernel_equals_oracle_on_real_pages() -> None:
    assert_equals_oracle(real_texts(5000, 40))


@pytest.mark.realdata
def test_dolma3_web_decides_as_datamap_rs_does_on_real_pages() -> None:
    texts = real_texts(2000, 100)
    connection = duckdb.connect()
    stats = recipe_stats.recipe_stats(table(texts))
    connection.register("wide", stats.append_column("text_length", text_stats(table(texts))["text_length"]))
    rules = [
        f"coalesce({rule.sql}, false)" for rule in load_rules("dolma3-web", "test").rules if rule.name != "language"
    ]
    kept = [row[0] for row in connection.execute(f"SELECT {' AND '.join(rules)} FROM wide").fetchall()]
    assert sum(keeps == (not dolma3_drops(text)) for keeps, text in zip(kept, texts, strict=True)) >= 99
    assert 30 < sum(kept) < 99
