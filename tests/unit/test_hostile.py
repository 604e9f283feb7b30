"""Inputs made to take memory, time or the terminal: each ends as rejects or as one line, in bounds."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from flows.cli import _limited_memory
from pipeline.extract import members
from pipeline.extract.config import ExtractLimits, KeepColumn
from pipeline.extract.corpora.parquet import read_parquet
from pipeline.extract.corpora.rows import CorpusFile
from pipeline.extract.corpora.text import read_jsonl
from pipeline.extract.units import Document, Reject
from pipeline.extract.warc.archive import read_warc
from pipeline.inputs import parquet
from pipeline.table import config
from pipeline.table.errors import ConfigError, UsageError, escaped, guard
from pipeline.table.format import Result, write
from pipeline.table.kept import read_yaml
from pipeline.table.storage import read_file

LIMITS = ExtractLimits()
TEXT = "The quick brown fox jumps over the lazy dog."
LONG = "a" * 5_000_000


@pytest.fixture
def tight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of memory and of expansion, a hundred times lower, so that small attacks meet them."""
    for name in ("FLAT_BYTES", "HONEST_BYTES", "NESTED_BYTES", "_BATCH_BYTES"):
        monkeypatch.setattr(parquet, name, getattr(parquet, name) // 100)
    monkeypatch.setattr(members, "EXPANSION_BYTES", members.EXPANSION_BYTES // 100)


def record(number: int, body: bytes = b"<html><p>a</html>", length: int | None = None) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
    size = len(block) if length is None else length
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:%d>\r\nContent-Length: %d\r\n\r\n" % (number, size)
    return head + block + b"\r\n\r\n"


def counted(items: Iterator[Any]) -> Counter[str]:
    return Counter(item.result.reason if isinstance(item.result, Reject) else item.record_type for item in items)


def warc(data: bytes) -> Counter[str]:
    return counted(read_warc(io.BytesIO(data), "f", 0, LIMITS))


def rows(table: pa.Table, keep: Mapping[str, KeepColumn] | None = None, **options: Any) -> list[Any]:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", **options)
    peak = pa.default_memory_pool().max_memory()
    found = [item.result for item in read_parquet(sink, 0, CorpusFile("f", {}, LIMITS, keep or {}))]
    assert pa.default_memory_pool().max_memory() - peak < 64 << 20, "memory is bounded"
    return found


def words(count: int, word: str = LONG) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([word]))


# ---- compressed files


@pytest.mark.parametrize("claimed", [1 << 40, None])
def test_a_dictionary_that_claims_or_unpacks_to_gigabytes(claimed: int | None) -> None:
    size = zstandard.ZstdCompressor(write_content_size=False)
    bomb = size.compress(bytes(64 << 20))
    if claimed is not None:  # a frame's header alone
        bomb = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", claimed) + b"\x01\x00\x00"
    data = b"\x5d\x2a\x4d\x18" + struct.pack("<I", len(bomb)) + bomb + zstandard.compress(record(1))
    assert warc(data) == {"response": 1}


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_members_that_hold_nothing(compress: Callable[[bytes], bytes]) -> None:
    data = compress(record(1)) + compress(b"") * 20_000 + compress(record(2))
    assert warc(data) == {"response": 2}


def test_a_record_that_claims_any_length_costs_no_other() -> None:
    parts = [record(number, length=10**14 if number == 2 else None) for number in range(6)]
    found = warc(b"".join(map(gzip.compress, parts)))
    assert found == {"response": 5, "damaged": 1}


@pytest.mark.usefixtures("tight")
@pytest.mark.parametrize("line", [b"{}\n", b"\n", b" ", b'{"text": "a"}\n', b"[", b"{"])
def test_kilobytes_that_stand_for_hours_are_given_up(line: bytes) -> None:
    data = zstandard.compress(b'{"text": "first"}\n' + line * (100_000_000 // len(line)))
    found = counted(read_jsonl(io.BytesIO(data), 0, CorpusFile("f", {}, LIMITS)))
    assert found["damaged"] >= 1 or found["truncated_input"] == 1
    assert sum(found.values()) < 10_000


@pytest.mark.parametrize("header", [b"\x1f\x8b\x08\x08", b"\x1f\x8b\x08\x04\0\0\0\0\0\3\xff\xff", b"\x1f\x8b\x08\xff"])
def test_what_looks_like_members_everywhere(header: bytes) -> None:
    found = warc(gzip.compress(record(1)) + header * 20_000 + gzip.compress(record(2)))
    assert found["response"] == 2


# ---- Parquet


@pytest.mark.usefixtures("tight")
def test_a_long_word_in_every_row() -> None:
    found = rows(pa.table({"text": words(400, LONG[:3_000_000])}), dictionary_pagesize_limit=1 << 30)
    assert isinstance(found[-1], Reject)
    assert "times its size" in found[-1].detail
    assert len(found) < 200


@pytest.mark.usefixtures("tight")
def test_columns_that_nobody_asked_for() -> None:
    lists = pa.ListArray.from_arrays(pa.array(range(0, 410, 10), pa.int32()), words(400))
    nulls = pa.ListArray.from_arrays(
        pa.array(range(0, 4_100_000, 100_000), pa.int32()), pa.nulls(4_000_000, pa.int64())
    )
    table = pa.table({"text": [TEXT] * 40, "word": words(40), "lists": lists, "nulls": nulls, "small": range(40)})
    found = rows(table, dictionary_pagesize_limit=1 << 30)
    assert {type(document) for document in found} == {Document}
    assert found[7].metadata == {"small": 7, "_omitted": ["lists", "nulls", "word"]}


@pytest.mark.usefixtures("tight")
def test_values_that_repeat_what_is_before_them() -> None:
    table = pa.table({"text": [TEXT] * 40, "x": [LONG] * 40})
    found = rows(table, use_dictionary=False, column_encoding={"x": "DELTA_BYTE_ARRAY"})
    assert {type(document) for document in found} == {Document}


@pytest.mark.usefixtures("tight")
def test_a_page_that_cannot_be_bounded_is_damage_when_it_is_the_text() -> None:
    (found,) = rows(pa.table({"text": [LONG] * 4}), use_dictionary=False)
    assert isinstance(found, Reject)
    assert "pages of over" in found.detail


@pytest.mark.usefixtures("tight")
def test_a_page_of_long_books_is_read() -> None:
    """PyArrow puts 1,024 values in a page, however long they are; the file is as large as they are."""
    books = [random.Random(number).randbytes(110_000).hex() for number in range(42)]
    assert sum(map(len, books)) > parquet.FLAT_BYTES
    found = rows(pa.table({"text": books}), use_dictionary=False)
    assert [document.text for document in found] == books


def test_more_columns_than_are_read() -> None:
    table = pa.table({**{f"c{number}": [1] for number in range(parquet.MAX_COLUMNS + 5)}, "text": [TEXT], "kept": [3]})
    (found,) = rows(table, {"kept": KeepColumn(path="kept", type="int")})
    assert isinstance(found, Document)
    assert (found.text, found.kept) == (TEXT, {"kept": 3})


def test_lists_and_words_are_read_as_before() -> None:
    lists = [["a", None], None, [], ["b" * 5000] * 3] * 100
    table = pa.table({"text": [f"{TEXT} {number % 3}" for number in range(400)], "tags": lists, "more": lists})
    for options in ({}, {"use_dictionary": False}, {"data_page_version": "2.0"}, {"row_group_size": 7}):
        found = rows(table, {"tags": KeepColumn(path="tags", type="text[]")}, **options)
        assert [document.text for document in found] == table["text"].to_pylist()
        assert [document.kept["tags"] for document in found] == lists
        assert [document.metadata.get("more") for document in found] == lists


# ---- small files and YAML


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder", "large", "not UTF-8"])
def test_a_configuration_is_a_regular_file_of_bounded_size(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    elif name == "folder":
        path.mkdir()
    elif name != "/dev/zero":
        path.write_bytes(b"a: b\n" * 1_000_000 if name == "large" else b"a: \xff\n")
    with pytest.raises(ConfigError, match=name.replace("/dev/", "")):
        read_yaml(path)


def test_a_file_may_not_grow_beyond_its_limit(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_file(tmp_path / "f", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_file(tmp_path / "f", 4)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "0x_",
            "0b_",
            "!!int a",
            "!!float ''",
            "!!timestamp x",
            "!!timestamp 2001-99-99",
            "!!bool maybe",
            "!!binary é",
        ),
        *(
            "!!python/name:os.system",
            "!!python/object/apply:os.system [ls]",
            "9" * 5000,
            "0x" + "f" * 5000,
            "!!null [x]",
        ),
        *("1" + ":59" * 9999, "=", "[" * 100_000, "*a", "&a [*a]", '"\\ud800"', "!!omap [[1]]"),
    ],
)
def test_a_value_that_yaml_cannot_construct_is_one_line(value: str) -> None:
    for read in (lambda: config.parse_yaml(f"a: {value}", "f"), lambda: config.override({}, f"a={value}")):
        with pytest.raises(ConfigError) as raised:
            read()
        assert len(str(raised.value)) < 600
        assert "\n" not in str(raised.value)


def test_a_deep_or_undecodable_assignment() -> None:
    for assignment in ("a" + ".a" * 50_000 + "=1", "a=\udcff"):
        with pytest.raises(ConfigError, match=r"deeper|not UTF-8"):
            config.override({}, assignment)


# ---- terminal


def test_nothing_that_a_terminal_obeys_is_left() -> None:
    assert escaped("a\x1b[31m\u202eb\u200b\x9b\u2028\t\U000e0041\n") == (
        "a\\u001b[31m\\u202eb\\u200b\\u009b\\u2028\\u0009\\udb40\\udc41\n"
    )
    assert escaped("Grüße, 漢字 🙂 e\u0301") == "Grüße, 漢字 🙂 e\u0301"


def test_errors_are_escaped_and_data_in_a_file_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = {
        name: io.TextIOWrapper(io.BytesIO(), "ascii" if name == "stderr" else "utf-8") for name in ("stdout", "stderr")
    }
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    with guard():
        for stream in (sys.stdout, sys.stderr):
            stream.write("é\x1b[31m\u202e\udcff")
    written = {name: (stream.flush(), stream.buffer.getvalue())[1] for name, stream in streams.items()}
    assert written["stdout"] == "é\x1b[31m\u202e\\udcff".encode()
    assert written["stderr"] == rb"\u00e9\u001b[31m\u202e\udcff"
    assert sys.stderr is streams["stderr"]


def test_csv_can_be_defused() -> None:
    def result() -> Result:
        return Result(
            ["@a", "b"], ["VARCHAR", "INTEGER"], iter([("=1+1", -5), ("\tx", 1), ("-", 2), ("plain", 3), (None, 4)])
        )

    safe, exact = io.StringIO(), io.StringIO()
    assert write(result(), "csv", safe, defuse=True) == write(result(), "csv", exact) == 5
    assert safe.getvalue().split("\r\n") == ["'@a,b", "'=1+1,-5", "'\tx,1", "'-,2", "plain,3", ",4", ""]
    assert exact.getvalue().startswith("@a,b\r\n=1+1,-5\r\n")
    with pytest.raises(UsageError, match="--format csv"):
        write(result(), "json", io.StringIO(), defuse=True)


def test_a_query_cannot_take_the_machines_memory() -> None:
    with _limited_memory(), pytest.raises(MemoryError):
        bytearray(3 << 30)
    assert len(bytearray(1 << 20)) == 1 << 20
