"""Fuzzing of every parser that reads what others wrote: WARC, JSON, CSV, Parquet, YAML, rules, answers of models.

A target takes a sound input with some damage, or none at all, and holds that nothing but the project's own errors
comes out, that it ends, and that no record is lost. `make test` runs some examples of each; `make fuzz` (or
`python -m tests.fuzz.test_fuzz SECONDS`) new ones until the time is over, and prints how many.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from flows.config import RunConfig
from pipeline.extract.config import ExtractLimits, KeepColumn
from pipeline.extract.content import identify
from pipeline.extract.corpora.parquet import read_parquet
from pipeline.extract.corpora.rows import CorpusFile
from pipeline.extract.corpora.text import read_csv, read_jsonl
from pipeline.extract.units import Page, Reject
from pipeline.extract.warc.archive import read_warc
from pipeline.llm.answers import BadAnswer, read_answer
from pipeline.llm.types import Request
from pipeline.select.rules import check_rules, load_rules
from pipeline.table.config import override, parse_yaml, validate
from pipeline.table.errors import GristmillError, InputError

LIMITS = ExtractLimits()
KEEP = {"stars": KeepColumn(path="meta.stars", type="int"), "tags": KeepColumn(path="tags", type="text[]")}
QUICK = 25
MAX_S = 5.0
"""CPU seconds that one example may take."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """`whole` with up to four stretches replaced, cut out or doubled."""
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(whole)))
        last = min(len(whole), first + draw(st.sampled_from([0, 1, 2, 8, 64, 5000])))
        put = draw(st.one_of(st.binary(max_size=16), st.just(whole[first:last] * 2), st.sampled_from(_TOKENS)))
        whole = whole[:first] + put + whole[last:]
    return whole


_TOKENS = [
    *(
        b"\0",
        b"\r\n\r\n",
        b"\n",
        b"WARC/1.0\r\n",
        b"Content-Length: 99999999999999\r\n",
        b"\x1f\x8b\x08",
        b'"',
        b"[",
        b"}",
    ),
    *(b"\x28\xb5\x2f\xfd", b"PAR1", b"\xff\xfe", b"\xef\xbb\xbf", b"{", b"\xff" * 8, b"9" * 5000, b"\\ud800", b"NaN"),
]


def _record(number: int) -> bytes:
    kinds = [b"Content-Encoding: gzip\r\n", b"Transfer-Encoding: chunked\r\n", b"", b"Content-Encoding: zstd, br\r\n"]
    page = b"<html><p>page %d</html>" % number
    body = [gzip.compress(page, mtime=0), b"5\r\n<p>ab\r\n0\r\n\r\n", page, zstandard.compress(page)][number % 4]
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n%s\r\n%s" % (kinds[number % 4], body)
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:%d>\r\nContent-Type: application/http\r\n" % number
    return b"%sContent-Length: %d\r\n\r\n%s\r\n\r\n" % (head, len(block), block)


_RECORDS = [_record(number) for number in range(6)]
_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


@st.composite
def archives(draw: st.DrawFn) -> tuple[bytes, set[str]]:
    """An archive of which one member, or any stretch, is damaged; and the ids of the records that must be found."""
    members = [draw(st.sampled_from(sorted(_CODECS)))] * len(_RECORDS)
    parts = [_CODECS[codec](record) for codec, record in zip(members, _RECORDS, strict=True)]
    if members[0] == "plain" or draw(st.booleans()):
        return draw(damaged(b"".join(parts))), set()
    bad = draw(st.integers(1, len(parts) - 1))
    parts[bad] = draw(damaged(parts[bad]))
    return b"".join(parts), {f"urn:{number}" for number in range(len(parts)) if number not in (bad, bad - 1)}


def warc(given_: tuple[bytes, set[str]]) -> None:
    data, intact = given_
    identify(io.BytesIO(data), "a.warc", {})
    try:
        items = list(read_warc(io.BytesIO(data), "a", 0, LIMITS))
    except InputError:
        return
    results = [item.result for item in items if item.result is not None]
    assert all(isinstance(item.result, (Page, Reject)) for item in items if item.is_unit)
    assert intact <= {(result.origin.record_id or "").split("@")[0] for result in results}, "a record is lost"


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("2021-03-04"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
_FIELDS = st.sampled_from(["text", "url", "date", "id", "meta", "tags", "licence", "meta.stars", "title"])
_OBJECTS = st.dictionaries(_FIELDS | st.text(max_size=8), _VALUES, max_size=6).map(
    lambda value: json.dumps(value).encode()
)
_LINES = st.lists(_OBJECTS | _OBJECTS.flatmap(damaged) | st.binary(max_size=40), max_size=8).map(
    lambda lines: b"\n".join([b'{"text": "first"}', *lines])
)


def jsonl(data: bytes) -> None:
    identify(io.BytesIO(data), "a.jsonl", {})
    items = list(read_jsonl(io.BytesIO(data), 0, CorpusFile("a", {}, LIMITS, KEEP)))
    assert len(items) == sum(not line.isspace() and line != b"" for line in data.split(b"\n")), "a line is lost"


def anything(data: bytes) -> None:
    """No format is known beforehand: arrays, wide encodings, compressed files and garbage."""
    identify(io.BytesIO(data), "a", {})
    for read in (read_jsonl, read_csv):
        try:
            list(read(io.BytesIO(data), 0, CorpusFile("a", {}, LIMITS, KEEP)))
        except InputError:
            continue


def csv(data: bytes) -> None:
    try:
        items = list(read_csv(io.BytesIO(b"text,a,meta\n" + data), 0, CorpusFile("a", {}, LIMITS)))
    except InputError:
        return
    assert b'"' in data or len(items) == sum(bool(line.strip(b"\r")) for line in data.split(b"\n")), "a row is lost"


def _parquet() -> list[bytes]:
    table = pa.table(
        {
            "text": [f"text {number % 7}" for number in range(40)],
            "meta": [{"stars": number, "note": "x"} for number in range(40)],
            "tags": [["a", None, "b" * number] for number in range(40)],
            "when": pa.array(range(40), pa.timestamp("us", "UTC")),
        }
    )
    made = []
    for options in ({}, {"use_dictionary": False, "data_page_version": "2.0"}, {"compression": "zstd"}):
        sink = io.BytesIO()
        pq.write_table(table, sink, row_group_size=16, **options)
        made.append(sink.getvalue())
    return made


def parquet(data: bytes) -> None:
    try:
        items = list(read_parquet(io.BytesIO(data), 0, CorpusFile("a", {}, LIMITS, KEEP)))
        rows = pq.ParquetFile(io.BytesIO(data)).metadata.num_rows
    except (InputError, OSError, pa.ArrowException):
        return
    assert any(item.record_type != "row" for item in items) or len(items) == rows, "a row is lost"


_YAML_PIECES = (
    *(
        "a",
        ": ",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "*a",
        "&a ",
        "0x_",
        "0o9",
        "1:9",
        "'",
        '"',
        "|",
        "? ",
        "#",
        "<<",
        "~",
    ),
    *(
        ".nan",
        "9" * 60,
        "\t",
        "---",
        "%YAML 1.1",
        "=",
        "\x85",
        "\u2028",
        "é",
        "\ud800",
        "workspace",
        "sources",
        "inputs",
    ),
    *("!!int ", "!!timestamp ", "!!binary ", "!!python/name:os.system ", "!!set ", "!!omap ", "select", "rules"),
)
_YAML = st.lists(st.sampled_from(_YAML_PIECES) | st.text(max_size=6), max_size=30).map("".join)


def yaml(text: str) -> None:
    for load in (lambda: parse_yaml(text, "f"), lambda: override({"a": {}}, f"a.b={text}"), lambda: override({}, text)):
        try:
            load()
        except GristmillError:
            continue
    try:
        value, lines = parse_yaml(f"workspace: w\nsources: {{s: {{inputs: [i]}}}}\n{text}", "f")
        validate(RunConfig, value, "f", lines)
    except GristmillError:
        return


_SQL_PIECES = (
    *(
        "word_count",
        "text",
        "url",
        "language",
        "=",
        "<",
        ">",
        "(",
        ")",
        "1",
        "'en'",
        " and ",
        " or ",
        "not ",
        "in (1)",
        ",",
        ";",
    ),
    *(
        "top_share(word_count, 0.1)",
        "between 1 and 2",
        "is null",
        "case when",
        "end",
        "--",
        "/*",
        "'",
        '"',
        "$1",
        "select",
    ),
    *("from", "read_csv('/etc/passwd')", "regexp_matches(text, '", "(a+)+$", "repeat('x', 99999999999)", "lambda x:"),
    *(
        "getenv('HOME')",
        "list_transform",
        "unnest",
        "::int",
        "1e999",
        "interval '1' day",
        "*",
        "exists (",
        " desc",
        "[1]",
    ),
)
_SQL = st.lists(st.sampled_from(_SQL_PIECES) | st.text(max_size=4), max_size=8).map(" ".join)
_COLUMNS = {
    "doc_id": "VARCHAR",
    "url": "VARCHAR",
    "text_length": "BIGINT",
    "word_count": "BIGINT",
    "language": "VARCHAR",
}


def rules(texts: tuple[str, str]) -> None:
    predicate, keep = texts
    for spec, order in (({"r": predicate}, None), ({"r": "word_count > 1"}, keep)):
        try:
            check_rules(load_rules(spec, "rules", order), _COLUMNS)
        except GristmillError:
            continue


_REQUEST = Request(b"k" * 16, "0", b"{}", 40, 1, 10)
_ANSWER = {
    "id": "gristmill-1",
    "model": "m",
    "choices": [{"message": {"content": "hello \ud83d\ude00", "role": "assistant"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2},
}
_ANSWERS = st.dictionaries(st.sampled_from(sorted(_ANSWER)), _VALUES, max_size=2).map(lambda part: _ANSWER | part)


def answer(body: bytes) -> None:
    try:
        read_answer(body, _REQUEST, "http://a", frozenset({"m"}))
    except BadAnswer as error:
        _check_length(error)


def _check_length(error: BadAnswer) -> None:
    assert len(error.detail) < 1000, "it is printed"


_DEEP = st.sampled_from(
    [b"[" * 100_000, b'{"text":' * 50_000, b'{"text": "a", "m": ' + b"[" * 3000 + b"]" * 3000 + b"}"]
)
_ANYTHING = (
    st.binary(max_size=200) | _DEEP | _LINES.map(gzip.compress) | _LINES.map(zstandard.compress).flatmap(damaged)
)
_ANYTHING |= _LINES.map(lambda data: b"[" + data.replace(b"\n", b",") + b"]").flatmap(damaged)
_ANYTHING |= _LINES.map(lambda data: data.decode(errors="replace").encode("utf-16")).flatmap(damaged)

TARGETS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "warc": (warc, archives()),
    "jsonl": (jsonl, _LINES),
    "anything": (anything, _ANYTHING),
    "csv": (csv, st.binary(max_size=80) | st.text('",;\n\ra\t', max_size=60).map(str.encode)),
    "parquet": (parquet, st.sampled_from(_parquet()).flatmap(damaged)),
    "yaml": (yaml, _YAML),
    "rules": (rules, st.tuples(_SQL, _SQL)),
    "answer": (answer, _ANSWERS.map(lambda value: json.dumps(value).encode()).flatmap(damaged)),
}


def run(name: str, examples: int, number: int) -> int:
    """Run a target on so many examples of a seed; return on how many it was run."""
    target, strategy = TARGETS[name]
    count = 0

    @seed(number)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(value: Any) -> None:
        nonlocal count
        count += 1
        started = time.process_time()
        target(value)
        assert time.process_time() - started < MAX_S, "it takes too long"

    one()
    return count


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_hostile_input_ends_as_the_projects_own_error(name: str) -> None:
    run(name, QUICK, 1)


def main(seconds: float) -> None:
    """Run all targets in turn, with new seeds, until the time is over."""
    ends, counts, number = time.monotonic() + seconds, dict.fromkeys(TARGETS, 0), int(time.time())
    while time.monotonic() < ends:
        for name in TARGETS:
            counts[name] += run(name, 200, number)
        number += 1
    print(f"last seed {number - 1}; examples:", ", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main(float(sys.argv[1]))
