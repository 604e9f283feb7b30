"""Verdicts, their columns, and the file of pairs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.rephrase.verify import (
    MAX_LINE_BYTES,
    SCHEMA,
    Expectations,
    Pair,
    Verdicts,
    verdict_row,
    verdict_table,
    verify,
    verify_file,
)
from pipeline.table.errors import InputError

SOURCE = (
    "The bridge was opened on 12 March 1998 and is 205 metres long. Engineers did not use any cables, said Ann Solberg."
)


def test_every_verdict_is_a_column_in_order() -> None:
    assert SCHEMA.names == list(Verdicts.__slots__)
    table = verdict_table([Pair(SOURCE, SOURCE), Pair(SOURCE, "The bridge is 300 metres long.")])
    assert table.schema.equals(SCHEMA)
    assert table["faithful"].to_pylist() == [True, False]
    assert table["unsupported"].to_pylist()[1][0]["kind"] == "number"


def test_no_pairs_are_an_empty_table() -> None:
    assert verdict_table([]).schema.equals(SCHEMA)


@pytest.mark.parametrize(
    ("text", "refusal", "meta"),
    [
        ("I'm sorry, but I can't help with that.", True, False),
        ("I cannot rephrase this text.", True, False),
        ("As an AI language model, I do not have opinions.", True, True),
        ("Sure, the bridge was opened in 1998.", False, True),
        ("Here is the rephrased text:\n\nThe bridge was opened in 1998.", False, True),
        ("Here's a summary of the passage. The bridge was opened.", False, True),
        ("The bridge was opened in 1998.\n\nLet me know if you need anything else!", False, True),
        ("The bridge was opened in 1998.", False, False),
        ("Here the river is wide. The bridge was opened in 1998.", False, False),
        ("The mayor said he was sorry that he could not attend the opening.", False, False),
        ("\"I'm sorry, I can't come,\" said Ann Solberg.", False, False),
        ("Of course Solberg's bridge was opened in 1998.", False, False),
        ("", False, False),
    ],
)
def test_refusals_and_meta_phrases(text: str, refusal: bool, meta: bool) -> None:
    verdicts = verify(SOURCE, text)
    assert (verdicts.refusal, verdicts.meta_phrase) == (refusal, meta)


def test_a_refusal_and_an_empty_text_are_not_faithful() -> None:
    assert not verify(SOURCE, "I'm sorry, but I can't help with that.").faithful
    assert not verify(SOURCE, " \n").faithful


def test_expectations_decide_their_verdicts_and_are_null_otherwise() -> None:
    plain = verify(SOURCE, SOURCE)
    assert (plain.finish_reason_ok, plain.marker_found, plain.length_ok, plain.same_language) == (None,) * 4
    expected = Expectations(0.9, 1.1, "<done>", SOURCE + "<done>", "length", "en", lambda text: "de")
    full = verify(SOURCE, SOURCE, expected)
    assert (full.finish_reason_ok, full.marker_found, full.length_ok, full.same_language) == (False, True, True, False)
    assert verify(SOURCE, SOURCE, Expectations(max_length_ratio=0.5)).length_ok is False
    assert verify("", "x", Expectations(max_length_ratio=0.5)).length_ratio is None


def test_copying_and_repetition_are_shares_of_eight_grams() -> None:
    words = [f"word{k}" for k in range(24)]
    half = " ".join(words[:16] + [f"other{k}" for k in range(8)])
    assert verify(" ".join(words), half).copied_8gram_share == pytest.approx(9 / 17)
    assert verify("a b", "one two " * 20).repeated_8gram_share == pytest.approx(31 / 33)
    assert verify("a b", "seven words are not enough for any").copied_8gram_share == 0


def python_copy_share(source: str, text: str) -> float:
    def grams(words: list[str]) -> list[tuple[str, ...]]:
        return [tuple(words[k : k + 8]) for k in range(len(words) - 7)]

    known = set(grams(source.lower().split()))
    own = grams(text.lower().split())
    return sum(gram in known for gram in own) / len(own) if own else 0.0


def test_the_kernel_agrees_with_plain_python() -> None:
    source = "The quick brown fox jumps over the lazy dog while the small cat sleeps on the warm mat near the fire"
    text = "Today the QUICK brown fox jumps over the lazy dog while the tall cat sleeps on the warm mat near the fire"
    assert verify(source, text).copied_8gram_share == pytest.approx(python_copy_share(source, text))


@pytest.mark.parametrize("language", ["de", "deu_Latn", "ja", "zh-Hans"])
def test_what_a_language_does_not_allow_to_judge_is_null(language: str) -> None:
    verdicts = verify(
        "Die Brücke ist 205 Meter lang.", "Die Anlage ist 205 Meter lang.", Expectations(language=language)
    )
    assert (verdicts.unsupported_names, verdicts.negation_flips, verdicts.role_swaps) == (None, None, None)
    assert verdicts.faithful
    assert not verify(
        "Die Brücke ist 205 Meter lang.", "Sie ist 250 Meter lang.", Expectations(language=language)
    ).faithful


def test_other_languages_keep_names_and_digits() -> None:
    source = "Le pont de Normandie fut ouvert le 20 janvier 1995 par Jacques Chirac."
    french = Expectations(language="fr")
    assert verify(source, "Jacques Chirac a ouvert le pont de Normandie le 20 janvier 1995.", french).faithful
    assert verify(source, "Jacques Chirac a ouvert le pont en 1996.", french).unsupported_dates == 1
    assert verify(source, "Le pont fut ouvert par Lionel Jospin.", french).unsupported_names == 1


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_file_of_pairs_gives_one_row_a_line(tmp_path: Path) -> None:
    pairs = [
        {"id": "a", "source": SOURCE, "rephrased": SOURCE},
        {"id": 7, "source": SOURCE, "rephrased": "Opened in 1989."},
    ]
    path = write(tmp_path / "pairs.jsonl", *(json.dumps(pair).encode() for pair in pairs), b"", b"  ")
    rows = list(verify_file(path))
    assert [(row["id"], row["faithful"]) for row in rows] == [("a", True), (7, False)]
    assert list(rows[0]) == ["id", *SCHEMA.names]
    assert [json.loads(json.dumps(row)) for row in rows] == rows
    assert rows[1] == {"id": 7, **verdict_row(verify(SOURCE, "Opened in 1989."))}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "a list, not an object"),
        (b'{"id": 1, "source": "x"}', "`rephrased` is missing"),
        (b'{"id": 1, "source": 3, "rephrased": "x"}', "`source` is int"),
        (b'{"source": "x", "rephrased": "x"}', "`id` is missing"),
        (b'{"id": true, "source": "x", "rephrased": "x"}', "`id` is missing"),
        (b'{"id": 1, "source": "x", "rephrased": "x", "marker": 3}', "`marker` is int"),
        (b'{"id": 1, "source": "\xff", "rephrased": "x"}', "not JSON"),
        (b"x" * (MAX_LINE_BYTES + 10), "longer than"),
    ],
)
def test_a_bad_line_is_one_error_with_its_number(tmp_path: Path, line: bytes, message: str) -> None:
    good = json.dumps({"id": 1, "source": "x", "rephrased": "x"}).encode()
    rows = verify_file(write(tmp_path / "pairs.jsonl", good, line))
    assert next(rows)["id"] == 1
    with pytest.raises(InputError, match=message) as caught:
        next(rows)
    assert "pairs.jsonl:2" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        list(verify_file(tmp_path / "none.jsonl"))
