"""Golden vectors, slicing, hostile texts and the rule presets of the text statistics."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline.kernels.statistics.text_stats import Count, count_texts, new_scratch, scan_line
from pipeline.kernels.statistics.word_split import TOKENS, hash_of
from pipeline.signals.text_stats import COLUMNS, text_stats
from pipeline.table.errors import SchemaError

RULES = Path(__file__).resolve().parents[2] / "configs" / "rules"

FOUR_LINES = "The cat sat.\nA dog ran.\nThe cat sat.\nIt was late."
SHOP = "• Buy now...\n- Read more…\nContact us at http://a.example/x or use C4's #1 shop!\n\n\nContact"
C4_PAGE = (
    "A heading\n"
    "This page uses cookies to help you.\n"
    "Please enable JavaScript to see it.\n"
    "Oslo is the capital of Norway.[1] It is old.[citation needed]\n"
    'He asked "is it cold?"\n'
    "And so on and on...\n"
    "No full stop here\n"
)

GOLDEN: list[tuple[str, dict[str, object]]] = [
    ("", dict.fromkeys(COLUMNS, 0)),
    (
        FOUR_LINES,
        {
            "text_length": 49,
            "text_bytes": 49,
            "estimated_tokens": 12.25,
            "word_count": 12,
            "word_and_symbol_count": 16,
            "mean_word_length": 34 / 12,
            "alpha_word_ratio": 0.75,
            "stop_word_count": 0,
            "sentence_count": 4,
            "line_count": 4,
            "duplicate_line_fraction": 0.25,
            "duplicate_line_char_fraction": 12 / 49,
            "duplicate_paragraph_fraction": 0.0,
            "top_2gram_char_fraction": 2 * len("The cat") / 49,
            "top_3gram_char_fraction": 2 * len("The cat sat") / 49,
            "top_4gram_char_fraction": 2 * len("The cat sat .") / 49,
            "duplicate_5gram_char_fraction": 0.0,
            "line_punct_ratio": 1.0,
            "short_line_ratio": 1.0,
            "duplicate_line_char_ratio": 12 / 46,
            "newline_word_ratio": 3 / 16,
            "terminal_punctuation_line_ratio": 1.0,
            "c4_line_count": 4,
            "c4_sentence_count": 4,
        },
    ),
    (
        SHOP,
        {
            "line_count": 6,
            "bullet_line_ratio": 2 / 6,
            "ellipsis_line_ratio": 2 / 6,
            "terminal_punctuation_line_ratio": 1 / 6,
            "few_word_line_count": 1,
            "url_count": 1,
            # • Buy now ... | - Read more … | Contact us at http://a.example/x or use C4 's # 1 shop ! | Contact
            "word_and_symbol_count": 21,
            "word_count": 15,
            "hash_word_ratio": 1 / 21,
            "ellipsis_word_ratio": 2 / 21,
            "duplicate_line_fraction": 0.0,
            "duplicate_paragraph_fraction": 0.0,
            "newline_word_ratio": 5 / 21,
        },
    ),
    (
        C4_PAGE,
        {
            "javascript_line_count": 1,
            "policy_line_count": 1,
            "few_word_line_count": 1,
            "c4_line_count": 2,
            "c4_sentence_count": 3,
            "fineweb_line_count": 4,
            "fineweb_sentence_count": 5,
            "fineweb_line_punct_ratio": 2 / 4,  # a quotation mark ends no sentence, three full stops do
            "fineweb_short_line_ratio": 3 / 4,
            # Oslo is the capital of Norway . It is old . | He asked " is it cold ? " | And so on and on ... | No ...
            "fineweb_newline_word_ratio": 3 / 29,
        },
    ),
    ("one\n\ntwo\n\none", {"duplicate_paragraph_fraction": 1 / 3, "duplicate_paragraph_char_fraction": 3 / 13}),
    ("of terms oft erms " * 2, {"top_4gram_char_fraction": 2 * 17 / 36, "duplicate_5gram_char_fraction": 0.0}),
    ("a b c d e a b c d e", {"duplicate_5gram_char_fraction": 5 / 19, "duplicate_6gram_char_fraction": 0.0}),
    ("of terms and of x y oft erms and of x", {"duplicate_5gram_char_fraction": 0.0}),  # equal once joined
    ("x y", {"top_2gram_char_fraction": 0.0}),  # seen once is not repeated
    ("\n\n", {"duplicate_line_fraction": 0.5, "line_count": 2, "duplicate_line_char_fraction": 0.0}),
    ("漢字かな。ｶﾅ", {"word_and_symbol_count": 7, "word_count": 6, "sentence_count": 2}),
    ("lorem ipsum {", {"has_lorem_ipsum": True, "has_curly_bracket": True, "fineweb_lorem_ipsum": True}),
    ("LOREM Ipsum", {"has_lorem_ipsum": True, "fineweb_lorem_ipsum": False, "c4_lorem_ipsum": False}),
]

WORDS = [
    ("It's \"well-known\" (isn't it?).", "It 's \" well - known \" ( is n't it ? ) ."),
    ("Mr. J. Doe, of the U.S. Co. e.g. here.", "Mr. J. Doe , of the U.S. Co. e.g. here ."),
    ("wait...what… end.Start", "wait ... what … end . Start"),
    ("http://a.com/x-y?z=1. www.x-y.org/a:b", "http://a.com/x-y?z=1 . www.x-y.org/a:b"),
    ("C++ +44 50+ $5 20% @user #tag a|b 3-4 1,000", "C++ +44 50 + $ 5 20 % @user # tag a|b 3 - 4 1,000"),
    ("中文ab🙂c é!", "中 文 ab 🙂 c é !"),
]


def table(texts: list[str]) -> pa.Table:
    return pa.table({"doc_id": [f"{i:032x}" for i in range(len(texts))], "text": texts})


@pytest.mark.parametrize(("text", "expected"), GOLDEN)
def test_golden(text: str, expected: dict[str, object]) -> None:
    row = text_stats(table([text])).to_pylist()[0]
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize(("text", "words"), WORDS)
def test_words_are_split_as_documented(text: str, words: str) -> None:
    data = np.frombuffer(text.encode(), np.uint8)
    scratch = new_scratch(len(data), len(Count))
    with np.errstate(over="ignore"):  # inner kernels run as plain Python here
        assert scan_line(data, 0, len(data), scratch) == len(data)
    expected = [hash_of(word) for word in words.split()]
    assert scratch.words.hashes[: scratch.words.sums[TOKENS]].tolist() == expected


def test_table_has_the_documented_columns() -> None:
    stats = text_stats(table(["a b c"]))
    assert stats.column_names == ["doc_id", *COLUMNS]
    assert [field.type for field in stats.schema][1:] == [column.type for column in COLUMNS.values()]
    assert all(column.null_count == 0 for column in stats.columns)


def test_no_documents() -> None:
    empty = table(["x"]).slice(0, 0)
    assert text_stats(empty).num_rows == 0
    assert text_stats(pa.table({"doc_id": pa.chunked_array([], pa.string()), "text": empty["text"]})).num_rows == 0


@pytest.mark.parametrize("text_type", [pa.string(), pa.large_string()])
def test_slices_and_chunks_change_nothing(text_type: pa.DataType) -> None:
    whole = table([text for text, _ in GOLDEN] * 3)
    whole = whole.set_column(1, "text", whole["text"].cast(text_type))
    expected = text_stats(whole)
    for cut in (1, 7, 20):
        assert text_stats(whole.slice(cut)).equals(expected.slice(cut))
        chunks = pa.concat_tables([whole.slice(0, cut), whole.slice(cut, 5), whole.slice(cut + 5)])
        assert chunks["text"].num_chunks == 3
        assert text_stats(chunks).equals(expected)


def test_null_is_empty() -> None:
    nulls = pa.table({"doc_id": ["a", "b"], "text": pa.array([None, "x y"])})
    assert text_stats(nulls)["text_length"].to_pylist() == [0, 3]


def test_other_types_are_refused() -> None:
    with pytest.raises(SchemaError, match="int64"):
        text_stats(pa.table({"doc_id": ["a"], "text": [1]}))
    with pytest.raises(SchemaError, match="'text' is missing"):
        text_stats(pa.table({"doc_id": ["a"]}))


@pytest.mark.parametrize("unit", ["a b ", "a b\n", ",", "a", " ", "\n", "…", "[1]"])
def test_a_repetitive_megabyte_costs_a_few_look_ups_a_word(unit: str) -> None:
    text = (unit * (1_000_000 // len(unit))).encode()
    counts = count_texts(np.frombuffer(text, np.uint8), np.array([0, len(text)]))
    assert counts[Count.text_bytes, 0] == len(text)
    assert counts[Count.lookups, 0] <= 9 * counts[Count.tokens, 0]


def test_damaged_utf8_is_survived() -> None:
    data = bytes(range(256)) * 3 + b"\xf0\x9f\x98\xe4\xb8\xff\xf4\xff\xff\xff\xc2"
    for end in range(len(data) - 16, len(data) + 1):
        counts = count_texts(np.frombuffer(data[:end], np.uint8), np.array([0, end]))
        assert counts[Count.text_bytes, 0] == end


@pytest.mark.parametrize("preset", ["gopher", "c4", "fineweb"])
def test_presets_bind_and_name_their_source(preset: str) -> None:
    text = (RULES / f"{preset}.yaml").read_text()
    assert "# Source: " in text
    assert "# Date: " in text
    stats = text_stats(table([FOUR_LINES])).append_column("language", pa.array(["en"]))
    connection = duckdb.connect()
    connection.register("narrow", stats.append_column("language_score", pa.array([0.9])))
    rules = yaml.safe_load(text)["rules"]
    for name, predicate in rules.items():
        assert connection.sql(f"select ({predicate}) as {name} from narrow").types == ["BOOLEAN"]


@pytest.mark.parametrize(
    ("preset", "rule", "text"),
    [
        ("gopher", "gopher_words", "too few words " * 10),
        ("gopher", "gopher_duplicate_lines", "one line here\n" * 20),
        ("gopher", "gopher_hashes", "# a # b # c " * 30),
        ("c4", "c4_sentences", "No sentence ends here\n" * 9),
        ("c4", "c4_curly_bracket", "if (x) { return y; } is code. "),
        ("fineweb", "fineweb_short_lines", "".join(f"Line number {i} is short.\n" for i in range(30))),
        ("fineweb", "fineweb_newlines", "".join(f"is {i} short.\n" for i in range(30)).replace(".", "")),
    ],
)
def test_presets_drop_what_they_are_for(preset: str, rule: str, text: str) -> None:
    rules = yaml.safe_load((RULES / f"{preset}.yaml").read_text())["rules"]
    connection = duckdb.connect()
    connection.register("narrow", text_stats(table([text])))
    assert connection.execute(f"select ({rules[rule]}) from narrow").fetchone() == (False,)
