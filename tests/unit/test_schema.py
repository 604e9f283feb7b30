"""Ids, and the checks that hold tables to their schemas."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.table import schema
from pipeline.table.errors import SchemaError

TEXT = st.text(st.characters(), max_size=8)  # surrogates are among them
PARTS = st.tuples(TEXT, TEXT, st.integers(0, 2**40), TEXT, TEXT)


@given(PARTS, PARTS)
def test_two_documents_have_one_id_only_if_they_are_one(
    left: tuple[str, str, int, str, str], right: tuple[str, str, int, str, str]
) -> None:
    assert (schema.doc_id(*left) == schema.doc_id(*right)) == (left == right)


@given(st.text(max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_moving_a_border_between_parts_changes_the_id(text: str, first: int, second: int) -> None:
    ids = {schema.doc_id("web", text[:cut], 0, None, text[cut:]) for cut in (first, second)}
    assert len(ids) == len({min(first, len(text)), min(second, len(text))})


def test_the_id_is_fixed() -> None:
    """Workspaces hold these ids: another value here means that every workspace must be made anew."""
    assert schema.doc_id("web", "a.warc.gz", 7, "<urn:1>", "text") == "4ba8b9e31e8f3b2cbcdd066225bbb0a6"
    assert schema.doc_id("web", "a.warc.gz", 7, None, "") == schema.doc_id("web", "a.warc.gz", 7, "", "")


DOCUMENTS = pa.table({"doc_id": ["a", "b"], "text": ["one", "two"]})


def test_signals_stand_beside_their_documents() -> None:
    found = schema.signals(DOCUMENTS, length=pa.array([3, 3], pa.int32()), word=pa.array(["one", None]))
    assert found.to_pylist() == [
        {"doc_id": "a", "length": 3, "word": "one"},
        {"doc_id": "b", "length": 3, "word": None},
    ]
    assert not found.schema.field("doc_id").nullable


@pytest.mark.parametrize("values", [[], [1], [1, 2, 3]])
def test_signals_of_another_length_are_refused(values: list[int]) -> None:
    with pytest.raises(SchemaError, match=f"'length' has {len(values)} values for 2 documents"):
        schema.signals(DOCUMENTS, length=pa.array(values, pa.int32()))


def test_signals_of_no_documents() -> None:
    found = schema.signals(DOCUMENTS.slice(0, 0), length=pa.array([], pa.int32()))
    assert found.num_rows == 0
    assert found.schema.field("length").type == pa.int32()


TARGET = pa.schema([pa.field("doc_id", pa.string(), nullable=False), ("n", pa.int32())])


def test_conform_orders_casts_and_drops_columns() -> None:
    given_table = pa.table({"n": pa.array([1, None], pa.int64()), "more": [1, 2], "doc_id": ["a", "b"]})
    found = schema.conform(given_table, TARGET)
    assert found.schema.equals(TARGET)
    assert found.to_pylist() == [{"doc_id": "a", "n": 1}, {"doc_id": "b", "n": None}]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"doc_id": ["a"]}, "column 'n' is missing; the table has doc_id"),
        ({"doc_id": ["a"], "n": [2**40]}, "does not fit"),
        ({"doc_id": ["a"], "n": ["many"]}, "does not fit"),
        ({"doc_id": ["a"], "n": [1.5]}, "does not fit"),
        ({"doc_id": pa.array([None], pa.string()), "n": [1]}, "doc_id"),
    ],
)
def test_what_does_not_conform(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        schema.conform(pa.table(columns), TARGET)


def test_require_names_what_is_missing_and_what_is_there() -> None:
    schema.require(DOCUMENTS, "doc_id", "text")
    with pytest.raises(SchemaError, match="column 'url' is missing; the table has doc_id, text"):
        schema.require(DOCUMENTS, "doc_id", "url")
