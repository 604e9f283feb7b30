"""Existing corpora: every line or row ends as one document or reject, and reading can begin at any of them."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract import members
from pipeline.extract.config import ExtractLimits, KeepColumn
from pipeline.extract.corpora.parquet import read_parquet, settle_types
from pipeline.extract.corpora.rows import UNFIT, CorpusFile, fit, to_date
from pipeline.extract.corpora.text import read_csv, read_jsonl
from pipeline.extract.units import Document, Entry, Reject
from pipeline.inputs.files import InputFile, resolve
from pipeline.table.errors import InputError

LIMITS = ExtractLimits(record_bytes=10_000)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "members": lambda data: b"".join(gzip.compress(data[i : i + 7]) for i in range(0, len(data), 7)),
    "zstd": zstandard.compress,
    "lz4": lz4.frame.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
    "bz2": lambda data: bz2.compress(data, 1),
}
Reader = Callable[[BinaryIO, str, int, Mapping[str, str], ExtractLimits], Iterator[Entry]]


def jsonl(data: bytes, start: int = 0, **columns: str) -> list[Entry]:
    return list(read_jsonl(io.BytesIO(data), start, CorpusFile("f", columns, LIMITS)))


def table(data: bytes, start: int = 0, **columns: str) -> list[Entry]:
    return list(read_csv(io.BytesIO(data), start, CorpusFile("f", columns, LIMITS)))


def parquet(rows: pa.Table, start: int = 0, *, group_rows: int = 2, **columns: str) -> list[Entry]:
    sink = io.BytesIO()
    pq.write_table(rows, sink, row_group_size=group_rows)
    return list(read_parquet(sink, start, CorpusFile("f", columns, LIMITS)))


def outcomes(items: list[Entry]) -> list[str]:
    return [item.result.reason if isinstance(item.result, Reject) else item.result.text for item in items]


def only(items: list[Entry]) -> Document:
    (item,) = items
    assert isinstance(item.result, Document)
    return item.result


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"{", "damaged", "invalid JSON"),
        (b"[1]", "damaged", "a JSON list, not an object"),
        (b"null", "damaged", "a JSON NoneType, not an object"),
        (b"{}", "damaged", "there is no field 'text'"),
        (b'{"texts": "x"}', "damaged", "there is no field 'text' (nearest: 'texts')"),
        (b'{"text": 3}', "damaged", "is int, not a string"),
        (b'{"text": null}', "damaged", "is NoneType, not a string"),
        (b'{"text": ""}', "empty", "is empty"),
        (b'{"text": " \\n\\u2028"}', "empty", "is empty"),
        (b'{"text": "\\u0000\\u0000"}', "damaged", "NUL"),
        (b"\0\0\0", "damaged", "invalid JSON"),
        (b'{"text": "\xff"}', "damaged", "invalid UTF-8"),
        ('{"text": "x"}'.encode("utf-16"), "damaged", "invalid"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"}", "damaged", "invalid JSON"),
        (b'{"text": "x", "n": ' + b"[" * 5000, "too_deep", "nested"),
        (b'{"text": "x", "n": ' + b"[" * 80 + b"]" * 80 + b"}", "too_deep", "nested"),
        (b'{"text": "' + b"x" * 10_000 + b'"}', "oversize", "over 10000 bytes"),
    ],
)
def test_a_bad_line_is_one_reject(line: bytes, reason: str, detail: str) -> None:
    items = jsonl(b'{"text": "before"}\n' + line + b'\n{"text": "behind"}\n')
    if line[:2] == b"\xff\xfe":  # its newlines are no newlines
        assert set(outcomes(items)[1:-1]) == {reason}
        return
    assert outcomes(items) == ["before", reason, "behind"]
    assert detail in items[1].result.detail if isinstance(items[1].result, Reject) else False
    assert [item.offset for item in items] == [0, 19, 20 + len(line)]


def test_the_fields_of_a_line() -> None:
    line = {
        "body": "T\ud800",
        "link": "http://a.example/",
        "text": "mine",
        "title": 7,
        "when": "2020-01-02T03:04:05+01:00",
        "date": "someday",
        "id": 12,
        "nan": float("nan"),
        "huge": 1e308 * 10,
        "nested": {"a": [1, None, "\udfff"]},
        "big": "x" * 70_000,
        "none": None,
    }
    data = json.dumps(line).encode()
    limits = ExtractLimits(record_bytes=1_000_000)
    columns = {"text": "body", "url": "link", "date": "when"}
    document = only(list(read_jsonl(io.BytesIO(data), 0, CorpusFile("f", columns, limits))))
    assert (document.text, document.url, document.title) == ("T\ufffd", "http://a.example/", None)
    assert document.date == datetime(2020, 1, 2, 2, 4, 5, tzinfo=UTC)
    assert document.origin.record_id == "12"
    assert document.metadata == {
        "text": "mine",
        "title": 7,
        "date": "someday",
        "nested": {"a": [1, None, "\ufffd"]},
        "huge": "Infinity",
        "_omitted": ["big"],
    }
    json.dumps(document.metadata, allow_nan=False).encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2020-01-02", datetime(2020, 1, 2, tzinfo=UTC)),
        ("2020-01-02T03:04:05Z", datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (" 2020-01-02 03:04:05.123456 ", datetime(2020, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)),
        ("2020-05", datetime(2020, 5, 1, tzinfo=UTC)),
        ("2020", datetime(2020, 1, 1, tzinfo=UTC)),
        (1577934245, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("1577934245", datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (1577934245.5, datetime(2020, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)),
        (1577934245000, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (1577934245000000, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (1577934245000000000, datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("1577934245.5", datetime(2020, 1, 2, 3, 4, 5, 500000, tzinfo=UTC)),
        (946684800, datetime(2000, 1, 1, tzinfo=UTC)),
        (946684800000, datetime(2000, 1, 1, tzinfo=UTC)),
        (-631152000, datetime(1950, 1, 1, tzinfo=UTC)),
        (1612010112, datetime(2021, 1, 30, 12, 35, 12, tzinfo=UTC)),  # no hour of 1612
        (2020, datetime(2020, 1, 1, tzinfo=UTC)),
        (2020.0, datetime(2020, 1, 1, tzinfo=UTC)),
        ("2020.0", datetime(2020, 1, 1, tzinfo=UTC)),
        (1789, datetime(1789, 1, 1, tzinfo=UTC)),
        (202005, datetime(2020, 5, 1, tzinfo=UTC)),
        (20200502, datetime(2020, 5, 2, tzinfo=UTC)),
        ("20200502", datetime(2020, 5, 2, tzinfo=UTC)),
        (20200502.0, datetime(2020, 5, 2, tzinfo=UTC)),
        (202005020304, datetime(2020, 5, 2, 3, 4, tzinfo=UTC)),
        (20200502030405, datetime(2020, 5, 2, 3, 4, 5, tzinfo=UTC)),
        ("20200502030405", datetime(2020, 5, 2, 3, 4, 5, tzinfo=UTC)),
        (2020050203, None),  # an hour, or a second of 2034
        (20201302, None),
        (202013, None),
        (2020.5, None),
        ("2020.05", None),
        (20200502030460, None),
        (9999, None),
        (0, None),
        (-2020, None),
        (43952, None),  # a spreadsheet's day
        (86_400_000, None),
        ("2020-13", None),
        ("yesterday", None),
        ("", None),
        (True, None),
        (float("nan"), None),
        (1e300, None),
        (10**400, None),
        ([], None),
        (None, None),
    ],
)
def test_dates(value: object, expected: datetime | None) -> None:
    assert to_date(value) == expected


def test_lines_end_at_newlines_alone_and_blank_ones_do_not_count() -> None:
    data = '\ufeff{"text": "a\u2028b"}\r\n\n  \n{"text": "c\x85d"}'.encode()
    items = jsonl(data)
    assert outcomes(items) == ["a\u2028b", "c\x85d"]
    assert outcomes(jsonl(b"")) == outcomes(jsonl(b"\n\n")) == []


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(COMPRESS)),
    st.lists(st.sampled_from(['{"text": "ä"}', "", "nonsense", '{"text": ""}', '{"text": "%s"}' % ("y" * 11_000)])),
    st.booleans(),
)
def test_reading_from_any_line_gives_the_same_rest(codec: str, lines: list[str], ends: bool) -> None:
    data = COMPRESS[codec](("\n".join(lines) + "\n" * ends).encode())
    items = jsonl(data)
    assert len(items) == len([line for line in lines if line])
    for index, item in enumerate(items):
        assert item.resumable
        assert jsonl(data, item.offset) == items[index:]


@pytest.mark.parametrize("codec", ["gzip", "zstd", "xz"])
def test_a_cut_file_keeps_its_whole_lines(codec: str) -> None:
    lines = [json.dumps({"text": f"{number} {number**50}"}) for number in range(3000)]
    data = COMPRESS[codec]("\n".join(lines).encode())
    items = jsonl(data[: len(data) // 2])
    assert outcomes(items)[-1] == "truncated_input"
    assert items[-1].record_type == "damage"
    assert not items[-1].is_unit
    assert len(items) > 1
    assert outcomes(items)[:-1] == [json.loads(line)["text"] for line in lines[: len(items) - 1]]


def test_a_huge_line_streams_past() -> None:
    data = gzip.compress(b'{"text": "' + b"x" * 200_000_000 + b'"}\n{"text": "behind"}', compresslevel=1)
    tracemalloc.start()
    assert outcomes(jsonl(data)) == ["oversize", "behind"]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8_000_000


def test_a_file_of_another_format_is_an_input_error() -> None:
    with pytest.raises(InputError, match="not a readable Parquet file"):
        list(read_parquet(io.BytesIO(b"text,url\n"), 0, CorpusFile("f", {}, LIMITS)))
    with pytest.raises(InputError, match="no first row"):
        table(b"")


CSV = b'text,url,date\nplain,http://a/,2020\n"two\nlines, ""quoted""",,\n\nlast,,soon'


@pytest.mark.parametrize("codec", sorted(COMPRESS))
def test_csv(codec: str) -> None:
    data = COMPRESS[codec](CSV)
    items = table(data)
    assert outcomes(items) == ["plain", 'two\nlines, "quoted"', "last"]
    assert [item.offset for item in items] == [14, 35, 62]
    for index, item in enumerate(items):
        assert table(data, item.offset) == items[index:]
    documents = [item.result for item in items if isinstance(item.result, Document)]
    assert [document.url for document in documents] == ["http://a/", None, None]
    assert documents[0].date == datetime(2020, 1, 1, tzinfo=UTC)
    assert documents[2].metadata == {"date": "soon"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (b"a,b\nc\nd,e,f\ng,h\n", ["a", "damaged", "damaged", "g"]),
        (b'"a"x,b\nc,d\n', ["damaged", "c"]),
        (b'"open,b\nc,d\ne,f\n', ["damaged", "c", "e"]),
        (b'a,b\n"open', ["a", "damaged"]),
        (b"\xff,b\nc,\xff\ne,f\n", ["damaged", "damaged", "e"]),
        ("\ufffd,b\n".encode(), ["\ufffd"]),
        (b",b\n\0,b\nc,d\n", ["empty", "damaged", "c"]),
        (b"x" * 11_000 + b",b\nc,d\n", ["oversize", "c"]),
        (b'"' + b"x\n" * 8000 + b"c,d\n", ["damaged"] * 8000 + ["c"]),
        (b'"a,b\n' + b"x" * 11_000 + b"\nc,d\n", ["damaged", "oversize", "c"]),
        (b'a,b\r\n"c\r\nd",e\r\n', ["a", "c\r\nd"]),
    ],
)
def test_broken_csv_rows_cost_themselves_alone(rows: bytes, expected: list[str]) -> None:
    assert outcomes(table(b"text,url\n" + rows)) == expected


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_csv_delimiters(delimiter: str) -> None:
    data = "\ufefftext,url,more\na,b,c\n".replace(",", delimiter).encode()
    document = only(table(data))
    assert (document.text, document.url, document.metadata) == ("a", "b", {"more": "c"})


def test_a_missing_column_is_an_input_error_that_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"f: no column 'bodyy' \(nearest: 'body'\); it has body, url"):
        table(b"body,url\n", text="bodyy")
    with pytest.raises(InputError, match=r"no column 'text'.*columns: \{text: NAME\}"):
        table(b"body,url\n")
    rows = pa.table({"body": ["x"], "n": [1]})
    with pytest.raises(InputError, match=r"no column 'boddy' \(nearest: 'body'\)"):
        parquet(rows, text="boddy")
    with pytest.raises(InputError, match="no column 'link'"):
        parquet(rows, text="body", url="link")
    with pytest.raises(InputError, match="column 'n' is int64, not text"):
        parquet(rows, text="n")


def test_parquet() -> None:
    rows = pa.table(
        {
            "body": pa.array(["a", None, "", "d", "e" * 10_001], pa.large_string()),
            "url": pa.array(["http://a/", None, None, None, None]).dictionary_encode(),
            "date": pa.array([1, 2, 3, 1_600_000_000_000_000_001, None], pa.timestamp("ns")),
            "id": pa.array([5, 6, 7, 8, 9]),
            "extra": pa.array([{"x": [1.5, float("nan")]}, None, None, None, None]),
            "blob": pa.array([b"\xff", None, None, None, None]),
        }
    )
    items = parquet(rows, text="body")
    assert outcomes(items) == ["a", "empty", "empty", "d", "oversize"]
    assert [item.offset for item in items] == [0, 1, 2, 3, 4]
    for index in range(5):
        assert parquet(rows, index, text="body") == items[index:]
    first = items[0].result
    assert isinstance(first, Document)
    assert (first.url, first.date, first.origin.record_id) == ("http://a/", datetime(1970, 1, 1, tzinfo=UTC), "5")
    assert first.metadata == {"extra": {"x": [1.5, None]}, "blob": "0xff"}
    fourth = items[3].result
    assert isinstance(fourth, Document)
    assert fourth.date == datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC)


def test_invalid_utf8_in_parquet_costs_its_row() -> None:
    raw = pa.array([b"good", b"\xff\xfe", b"fine"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    items = parquet(pa.table({"text": text}), group_rows=10)
    assert outcomes(items) == ["good", "damaged", "fine"]


def test_a_damaged_row_group_costs_its_rows() -> None:
    sink = io.BytesIO()
    rows = pa.table({"text": [f"row {number} {number**40}" for number in range(3000)]})
    pq.write_table(rows, sink, row_group_size=1000, compression="zstd", use_dictionary=False)
    data = bytearray(sink.getvalue())
    middle = pq.ParquetFile(sink).metadata.row_group(1).column(0).data_page_offset + 2000
    data[middle : middle + 400] = bytes(400)
    items = list(read_parquet(io.BytesIO(bytes(data)), 0, CorpusFile("f", {}, LIMITS)))
    damage = [item for item in items if not item.is_unit]
    assert [item.offset for item in damage] == [1000]
    assert (
        "rows 1000 to 1999 (row group 1)" in damage[0].result.detail if isinstance(damage[0].result, Reject) else False
    )
    assert len(items) == 2001


# A corpus's own columns ------------------------------------------------------------------------------------------


def kept(row: Mapping[str, object], **keep: str | dict[str, str]) -> Document:
    """Return the document of one line of JSON with columns kept: a path each, or path and type."""
    columns = {name: KeepColumn(**{"path": item} if isinstance(item, str) else item) for name, item in keep.items()}
    return only(
        list(read_jsonl(io.BytesIO(json.dumps(row).encode()), 0, CorpusFile("f", {"text": "t"}, LIMITS, columns)))
    )


@pytest.mark.parametrize(
    ("row", "path", "value", "left"),
    [
        ({"lang": "en"}, "lang", "en", {}),
        ({"meta": {"lang": "en"}}, "meta.lang", "en", {}),
        ({"meta": {"lang": "en", "b": 1}}, "meta.lang", "en", {"meta": {"b": 1}}),
        ({"a": {"b": {"c": "en", "d": {}}}}, "a.b.c", "en", {"a": {"b": {"d": {}}}}),
        ({"meta.lang": "en", "meta": {"lang": "de"}}, "meta.lang", "en", {"meta": {"lang": "de"}}),
        ({"a.b": {"c": "en"}, "a": {"b": {"c": "de"}}}, "a.b.c", "en", {"a": {"b": {"c": "de"}}}),
        ({"a.b": {"d": "x"}, "a": {"b.c": "en"}}, "a.b.c", "en", {"a.b": {"d": "x"}}),
        ({"a": {"b": 5}, "a.b": "x"}, "a.b.c", None, {"a": {"b": 5}, "a.b": "x"}),
        ({"meta": [{"lang": "en"}]}, "meta.lang", None, {"meta": [{"lang": "en"}]}),
        ({"meta": '{"lang": "en", "n": 1}'}, "meta.lang", "en", {"meta": '{"lang": "en", "n": 1}'}),
        ({"meta": {"in": '{"a": {"lang": "en"}}'}}, "meta.in.a.lang", "en", {"meta": {"in": '{"a": {"lang": "en"}}'}}),
        ({"meta": "{lang"}, "meta.lang", None, {"meta": "{lang"}),
        ({"meta": "[" * 5000}, "meta.lang", None, {"meta": "[" * 5000}),
        ({"meta": '{"a":' * 999}, "meta.lang", None, {"meta": '{"a":' * 999}),
        ({"meta": {"lang": None}}, "meta.lang", None, {}),
        ({"meta": None}, "meta.lang", None, {}),
        ({}, "meta..lang.", None, {}),
    ],
)
def test_a_path_is_a_name_or_names_inside_one_another(
    row: dict[str, object], path: str, value: str | None, left: dict[str, object]
) -> None:
    document = kept({"t": "text", **row}, lang=path)
    assert (document.kept, document.metadata) == ({"lang": value}, left)


def test_mapped_columns_are_paths_too_and_leave_the_metadata() -> None:
    row = {"doc": {"body": "long", "n": 1}, "meta": {"url": "http://a/", "ts": 1577934245, "id": "x"}, "url": "mine"}
    data = json.dumps(row).encode()
    columns = {"text": "doc.body", "url": "meta.url", "date": "meta.ts", "id": "meta.id"}
    document = only(list(read_jsonl(io.BytesIO(data), 0, CorpusFile("f", columns, LIMITS))))
    assert (document.text, document.url, document.origin.record_id) == ("long", "http://a/", "x")
    assert document.date == datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert document.metadata == {"doc": {"n": 1}, "url": "mine"}
    (reject,) = jsonl(data, text="doc.boddy")
    assert isinstance(reject.result, Reject)
    assert "no field 'doc.boddy' (nearest: 'doc.body')" in reject.result.detail


NEVER = "does not fit"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("text", "x", "x"),
        ("text", "", ""),
        ("text", 5, NEVER),
        ("text", True, NEVER),
        ("text", ["x"], NEVER),
        ("text", "x" * 70_000, NEVER),
        ("text", UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("text", Decimal("1.50"), "1.50"),
        ("text", b"\x01\x02", NEVER),
        ("int", 5, 5),
        ("int", "5", 5),
        ("int", " -5 ", -5),
        ("int", "", None),
        ("int", 5.0, 5),
        ("int", "5.0", 5),
        ("int", 5.5, NEVER),
        ("int", "5e3", NEVER),
        ("int", "1,000", NEVER),
        ("int", "many", NEVER),
        ("int", "٣", NEVER),
        ("int", True, NEVER),
        ("int", 2**63, NEVER),
        ("int", -(2**63), -(2**63)),
        ("int", 1e300, NEVER),
        ("int", 2.0**60, NEVER),
        ("int", float("inf"), NEVER),
        ("int", float("nan"), None),
        ("int", Decimal(7), 7),
        ("int", {"n": 5}, NEVER),
        ("float", 5, 5.0),
        ("float", 2**53 + 1, NEVER),
        ("float", 10**400, NEVER),
        ("float", "1e-3", 0.001),
        ("float", "1e999", NEVER),
        ("float", "nan", NEVER),
        ("float", "1_0", NEVER),
        ("float", Decimal("0.5"), 0.5),
        ("float", False, NEVER),
        ("bool", True, True),
        ("bool", "False", False),
        ("bool", 1, NEVER),
        ("date", "2020-01-02", datetime(2020, 1, 2, tzinfo=UTC)),
        ("date", "soon", NEVER),
        ("date", True, NEVER),
        ("text[]", ["a", None, "b"], ["a", None, "b"]),
        ("text[]", "a", NEVER),
        ("int[]", [1, "2"], [1, 2]),
        ("int[]", [1, "two"], NEVER),
        ("int", None, None),
    ],
)
def test_a_kept_value_is_exact_or_null(kind: str, value: object, expected: object) -> None:
    found = fit(value, kind)
    assert found is UNFIT if expected is NEVER else (found == expected and type(found) is type(expected))


def test_a_value_that_does_not_fit_is_named_and_stays_in_the_metadata() -> None:
    row = {"t": "text", "meta": {"stars": "many", "lang": "en"}, "_unfit": "theirs"}
    document = kept(row, lang="meta.lang", stars={"path": "meta.stars", "type": "int"})
    assert (document.kept, document.unfit) == ({"lang": "en"}, ("stars",))
    assert document.metadata == {"meta": {"stars": "many"}, "_unfit": ["stars"], "_unfit_2": "theirs"}


def test_names_that_occur_twice_lose_no_value() -> None:
    items = jsonl(b'{"text": "a", "x": 1, "x": 2, "x_2": 3, "x": 4, "in": {"y": 1, "y": 2}, "url": "u", "url": "v"}\n')
    document = only(items)
    assert document.metadata == {
        "x": 1,
        "x_2": 3,
        "x_3": 2,
        "x_4": 4,
        "in": {"y": 1, "y_2": 2},
        "url": "u",
        "url_2": "v",
    }
    assert document.url is None
    assert outcomes(jsonl(b'{"text": "a", "text": "b"}\n{"text": "c"}')) == ["damaged", "c"]
    assert kept({"t": "x", "n": 1}, n={"path": "n", "type": "int"}).kept == {"n": 1}
    assert only(table(b"text,x,x\na,1,2\n")).metadata == {"x": "1", "x_2": "2"}
    with pytest.raises(InputError, match="f: several columns are called 'text'"):
        table(b"text,text\na,b\n")
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array([1]), pa.array([2])], names=["text", "n", "n"])
    assert only(parquet(twice)).metadata == {"n": 1, "n_2": 2}
    with pytest.raises(InputError, match="f: several columns are called 'text'"):
        parquet(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]))
    with pytest.raises(InputError, match="f: several columns are called 'n'"):
        parquet(twice, title="n")


BIG, SMALL = 1_600_000_000_123_456_789, 1_600_000_000_123_456_000
HARD: dict[str, tuple[pa.Array, object]] = {
    "zone by a name of its own": (pa.array([0], pa.timestamp("us", "tzutc()")), "1970-01-01T00:00:00+00:00"),
    "zone by hours": (pa.array([3_600_000], pa.timestamp("ms", "GMT+02:00")), "1970-01-01T01:00:00+00:00"),
    "a real zone": (pa.array([0], pa.timestamp("s", "Asia/Tokyo")), "1970-01-01T00:00:00+00:00"),
    "no zone": (pa.array([0], pa.timestamp("s")), "1970-01-01T00:00:00"),
    "nanoseconds": (pa.array([BIG], pa.timestamp("ns")), "2020-09-13T12:26:40.123456789"),
    "whole microseconds": (pa.array([SMALL], pa.timestamp("ns", "PST")), "2020-09-13T12:26:40.123456+00:00"),
    "year 20000": (pa.array([568_971_820_800], pa.timestamp("s")), "20000-01-01T00:00:00.000"),
    "nested": (pa.array([[BIG]], pa.list_(pa.timestamp("ns"))), ["2020-09-13T12:26:40.123456789"]),
    "deeper": (
        pa.array([{"at": [{"x": 5}]}], pa.struct([("at", pa.list_(pa.struct([("x", pa.duration("us"))])))])),
        {"at": [{"x": "0:00:00.000005"}]},
    ),
    "duration": (pa.array([1500], pa.duration("ns")), "1500 ns"),
    "long duration": (pa.array([2**62], pa.duration("s")), f"{2**62} s"),
    "time": (pa.array([1500], pa.time64("ns")), "00:00:00.000001500"),
    "short time": (pa.array([61_000], pa.time32("ms")), "00:01:01"),
    "day": (pa.array([18_262], pa.date32()), "2020-01-01"),
    "far day": (pa.array([10_000_000], pa.date32()), "29349-01-26"),
    "day in milliseconds": (pa.array([18_262 * 86_400_000], pa.date64()), "2020-01-01"),
    "uuid": (pa.array([UUID(int=1).bytes], pa.uuid()), "00000000-0000-0000-0000-000000000001"),
    "hash": (pa.array([b"\x01\xff"]), "0x01ff"),
    "readable": (pa.array([b"caf\xc3\xa9"], pa.large_binary()), "café"),
    "view": (pa.array([b"\x00"], pa.binary_view()), "0x00"),
    "fixed": (pa.array([b"\x00\x01"], pa.binary(2)), "0x0001"),
    "decimal": (pa.array([Decimal("1.50")], pa.decimal128(5, 2)), "1.50"),
    "half": (pa.array([1.5], pa.float16()), 1.5),
    "infinite": (pa.array([float("-inf")]), "-Infinity"),
    "unsigned": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
    "map": (pa.array([[("a", 1), ("b", 2)]], pa.map_(pa.string(), pa.int64())), {"a": 1, "b": 2}),
    "map of repeats": (pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64())), {"a": 1, "a_2": 2}),
    "map of numbers": (pa.array([[(1, "x")]], pa.map_(pa.int64(), pa.string())), [[1, "x"]]),
    "dictionary of times": (
        pa.array([BIG], pa.timestamp("ns", "X")).dictionary_encode(),
        "2020-09-13T12:26:40.123456789+00:00",
    ),
    "large list": (pa.array([["a", None]], pa.large_list(pa.string_view())), ["a", None]),
    "fixed list": (pa.array([[1, 2]], pa.list_(pa.int64(), 2)), [1, 2]),
    "list view": (pa.array([[1]], pa.list_view(pa.int64())), [1]),
    "bool8": (pa.array([1], pa.bool8()), True),
    "json": (pa.array(['{"a": 1}'], pa.json_()), '{"a": 1}'),
    "struct with one name twice": (
        pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"]),
        {"x": 1, "x_2": 2},
    ),
}


@pytest.mark.parametrize("name", HARD)
def test_no_value_of_a_parquet_file_disappears(name: str) -> None:
    array, expected = HARD[name]
    with_nulls = pa.concat_arrays([pa.nulls(1, array.type), array, pa.nulls(1, array.type)])
    rows = pa.table({"text": ["a", "b", "c"], "value": with_nulls})
    items = parquet(rows, group_rows=3)
    documents = [item.result for item in items if isinstance(item.result, Document)]
    assert [document.metadata for document in documents] == [{}, {"value": expected}, {}]
    assert parquet(rows, 1, group_rows=3) == items[1:]


def test_what_json_cannot_hold_is_named() -> None:
    raw = pa.array([b"\xff", b"ok"])
    rows = pa.table(
        {
            "text": pa.array([b"one", b"\xff"]),
            "url": pa.array([b"http://a/", b"http://b/"]),
            "id": pa.array([UUID(int=n).bytes for n in range(2)], pa.uuid()),
            "title": pa.Array.from_buffers(pa.string(), 2, raw.buffers()),
            "image": pa.array([{"bytes": b"\xff" * 70_000}] * 2),
        }
    )
    items = parquet(rows)
    assert outcomes(items) == ["one", "damaged"]
    first = items[0].result
    assert isinstance(first, Document)
    assert (first.url, first.title, first.origin.record_id) == ("http://a/", None, str(UUID(int=0)))
    assert first.metadata == {"title": "0xff", "_omitted": ["image"]}


def written(tmp_path: Path, **tables: pa.Table) -> list[InputFile]:
    tmp_path.mkdir(exist_ok=True)
    for name, rows in tables.items():
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    return resolve([str(tmp_path)], "inputs")


def settle(keep: Mapping[str, dict[str, str]], files: list[InputFile]) -> dict[str, str | None]:
    columns = {name: KeepColumn(**item) for name, item in keep.items()}
    return {name: column.type for name, column in settle_types(columns, files, "keep", True).items()}


def test_parquet_knows_the_types_of_what_is_kept(tmp_path: Path) -> None:
    meta = pa.array(
        [{"lang": "en", "stars": 5, "tags": ["a"], "at": 0, "price": Decimal("1.5"), "ok": True, "score": 0.5}],
        pa.struct(
            [
                ("lang", pa.string()),
                ("stars", pa.int32()),
                ("tags", pa.list_(pa.string())),
                ("at", pa.timestamp("ns", "PST")),
                ("price", pa.decimal128(5, 2)),
                ("ok", pa.bool_()),
                ("score", pa.float32()),
            ]
        ),
    )
    labels = pa.array([[("topic", "x")]], pa.map_(pa.string(), pa.string()))
    files = written(tmp_path, b=pa.table({"text": ["x"], "meta": meta, "labels": labels}), a=pa.table({"text": ["y"]}))
    paths = {name: {"path": f"meta.{name}"} for name in ("stars", "lang", "tags", "at", "ok", "score")}
    expected = {"at": "date", "lang": "text", "ok": "bool", "score": "float", "stars": "int", "tags": "text[]"}
    found = settle(paths, files)
    nothing = written(tmp_path / "nothing", a=pa.table({"text": ["x"], "meta": pa.nulls(1), "n": pa.nulls(1)}))
    assert settle({"n": {"path": "n"}}, nothing) == {"n": "text"}
    assert settle({"n": {"path": "n"}}, [*nothing, *written(tmp_path / "n", b=pa.table({"n": [1]}))]) == {"n": "int"}
    assert (found, list(found)) == (expected, sorted(expected))
    assert settle({"n": {"path": "meta.stars", "type": "float"}}, files) == {"n": "float"}
    assert settle({"n": {"path": "meta.price", "type": "text"}}, files) == {"n": "text"}
    assert settle({"n": {"path": "labels.topic"}}, files) == {"n": "text"}
    assert settle({"n": {"path": "text.n", "type": "int"}, "m": {"path": "meta.lang.m"}}, files) == {
        "m": "text",
        "n": "int",
    }
    for path, kind, message in [
        ("meta.lagn", None, "keep.n: no column 'meta.lagn' \\(nearest: 'meta.lang'\\)"),
        ("meta", None, "is a struct or map; name one of its fields, such as meta.lang"),
        ("meta.price", None, "is decimal128\\(5, 2\\); give it a type, such as `type: text`"),
        ("meta.stars", "text", "is int32; as `type: text` all of it would be null; leave the type out"),
        ("meta.tags", "text", "leave the type out"),
    ]:
        with pytest.raises(InputError, match=message):
            settle({"n": {"path": path, **({"type": kind} if kind else {})}}, files)
    columns = settle_types(
        {"at": KeepColumn(path="meta.at"), "topic": KeepColumn(path="labels.topic")}, files, "", True
    )
    with files[1].open() as stream:
        document = only(list(read_parquet(stream, 0, CorpusFile("f", {}, LIMITS, columns))))
    assert document.kept == {"at": datetime(1970, 1, 1, tzinfo=UTC), "topic": "x"}
    assert not {"at", "labels"} & set(document.metadata)
    with files[0].open() as stream:  # a file without the column has nulls
        assert only(list(read_parquet(stream, 0, CorpusFile("f", {}, LIMITS, columns)))).kept == {
            "at": None,
            "topic": None,
        }


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\\\{}[],: \n\u00e9\U0001f600'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({"text": st.text(min_size=1, max_size=9), "more": VALUES}), min_size=1, max_size=5),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-16", "utf-32-be"]),
    st.sampled_from([1, 3, 1 << 18]),
)
def test_an_array_gives_what_its_lines_give(
    rows: list[dict[str, object]], indent: int | str | None, ascii_only: bool, encoding: str, piece_bytes: int
) -> None:
    lines = jsonl("\n".join(json.dumps(row) for row in rows).encode())
    data = json.dumps(rows, indent=indent, ensure_ascii=ascii_only).encode(encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "PIECE_BYTES", piece_bytes)
        items = jsonl(data)
        assert outcomes(items) == outcomes(lines)
        for index, item in enumerate(items):
            assert jsonl(data, item.offset) == items[index:]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ('[{"text": "a"} {"text": "b"}]', ["a", "b"]),
        ('[{"text": "a"}]\n[{"text": "b"}]', ["a", "b"]),
        ('{\n "text": "a"\n}\n{\n "text": "b"\n}', ["a", "b"]),
        ("[]", []),
        ('[1, "x", null, [{"text": "a"}], {"text": "b"}]', ["damaged"] * 4 + ["b"]),
        ('[{"text": "a", {"text": "b"}, {"text": "c"}]', ["damaged", "b", "c"]),
        ('[{"text": ["a"}, {"text": "b"}]', ["damaged", "b"]),
        (
            '[\n{"text": "a\n{"text": "b"},\n  words, {"text": 1}\n{"text": "c"}\n]',
            ["damaged", "b", "damaged", "damaged", "c"],
        ),
        ('[{"text": "' + "x" * 11_000 + '"}, {"text": "b"}]', ["oversize", "b"]),
        ('[{"text": ' + "[" * 4000 + "]" * 4000 + '}, {"text": "b"}]', ["too_deep", "b"]),
        ("[" * 4000, ["truncated_input"]),
        ('[{"text": "a"}, {"text": "b', ["a", "truncated_input"]),
        ('[{"text": "a"},', ["a", "truncated_input"]),
    ],
)
def test_a_broken_element_costs_itself_alone(data: str, expected: list[str]) -> None:
    assert outcomes(jsonl(data.encode())) == expected


def test_a_huge_element_streams_past() -> None:
    data = gzip.compress(b'[{"text": "' + b"x" * 50_000_000 + b'"}, {"text": "behind"}]', compresslevel=1)
    tracemalloc.start()
    assert outcomes(jsonl(data)) == ["oversize", "behind"]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 8_000_000
