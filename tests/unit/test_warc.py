"""What becomes of each kind of record, of HTTP messages, and of files that are no archives."""

from __future__ import annotations

import gzip
import io
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter

from pipeline.extract.config import ExtractLimits
from pipeline.extract.units import Entry, Page, Reject
from pipeline.extract.warc import http, records
from pipeline.extract.warc.archive import parse_date, read_warc
from pipeline.table.errors import InputError
from tests.local_run import run_all

LIMITS = ExtractLimits(payload_bytes=100_000)
HTML = b"<!DOCTYPE html><html><p>Hello</p></html>"


def packed(data: bytes, level: int = 9) -> bytes:
    """Return gzip without the time of day: it is in tests' names, which two processes must agree on."""
    return gzip.compress(data, level, mtime=0)


def brotli(data: bytes) -> bytes:
    sink = io.BytesIO()
    writer = BrotliWriter(sink)
    writer.write(data)
    writer.close()
    return sink.getvalue()


def record(
    block: bytes, record_type: str = "response", fields: str = "", content_type: str = "application/http"
) -> bytes:
    lines = f"WARC/1.1\r\nWARC-Type: {record_type}\r\nWARC-Target-URI: http://a.example/\r\n"
    if content_type:
        lines += f"Content-Type: {content_type}\r\n"
    return f"{lines}{fields}Content-Length: {len(block)}\r\n\r\n".encode("latin-1") + block + b"\r\n\r\n"


def answer(body: bytes = HTML, fields: str = "Content-Type: text/html\r\n", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode("latin-1") + body


def read(data: bytes, start: int = 0, earlier: Iterable[tuple[str, int]] = ()) -> list[Entry]:
    return list(read_warc(io.BytesIO(data), "f.warc", start, LIMITS, earlier))


def only(data: bytes) -> Page | Reject:
    (item,) = read(data)
    assert item.is_unit
    assert item.result is not None
    return item.result


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (
            record(answer(status="301 Moved", fields="Location: http://b.example/\r\n")),
            "redirect",
            "301 http://b.example/",
        ),
        (record(answer(status="404 Not Found")), "http_status", "404"),
        (record(answer(status="999")), "http_status", "999"),
        (record(answer(status="2000 OK")), "http_status", "2000"),
        (record(b"HTTP/1.1 100 Continue\r\n\r\n"), "http_status", "100"),
        (record(b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000), "http_status", "100"),
        (record(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(status="404 Not Found")), "http_status", "404"),
        (record(answer(fields="Content-Type: Image/PNG; x=y\r\n")), "not_html", "image/png"),
        (record(answer(b"\n%PDF-1.4 ...")), "not_html", "application/pdf, declared as text/html"),
        (record(answer(b"just words", fields="")), "not_html", "no media type is declared"),
        (record(answer(b"<?xml version='1.0'?><rss>", fields="")), "not_html", "no media type is declared"),
        (record(answer(b"")), "empty", "the body is empty"),
        (record(answer(b" \r\n\0\0")), "empty", "the body is empty"),
        (record(answer(b"x" * 100_001)), "oversize", "over 100000 bytes"),
        (record(answer(b"x" * 3_000_000)), "oversize", "the limit is 100000"),
        (
            record(answer(packed(b"x" * 9_000_000), "Content-Encoding: gzip\r\n")),
            "oversize",
            "over 100000 bytes",
        ),
        (record(answer(brotli(b"x" * 9_000_000), "Content-Encoding: br\r\n")), "oversize", "over 100000 bytes"),
        (
            record(answer(b"\0\1\2\3", "Content-Encoding: gzip\r\nContent-Type: text/html\r\n")),
            "damaged",
            "content coding",
        ),
        (record(answer(b"\0\1\2\3", "Content-Encoding: rot13\r\n")), "damaged", "unknown content coding 'rot13'"),
        (record(answer(b"x", "Content-Encoding: br, br, br, br, br\r\n")), "damaged", "5 content codings"),
        (record(b"", "revisit", "WARC-Refers-To: <urn:1>\r\n"), "empty", "revisit of urn:1"),
        (record(b"", "revisit"), "empty", "revisit of a record that it does not name"),
        (record(b"body{}", "resource", content_type="text/css"), "not_html", "text/css"),
        (record(b"10 0 R", "conversion", content_type="application/json"), "not_html", "application/json"),
        (record(b"dns answer", content_type="text/dns"), "not_html", "text/dns"),
    ],
)
def test_rejects(data: bytes, reason: str, detail: str) -> None:
    result = only(data)
    assert isinstance(result, Reject)
    assert (result.reason, result.url) == (reason, "http://a.example/")
    assert detail in result.detail


@pytest.mark.parametrize(
    ("data", "payload", "media_type", "charset"),
    [
        (record(answer()), HTML, "text/html", None),
        (record(answer(fields='content-TYPE: TEXT/HTML; Charset="UTF-8"\r\n')), HTML, "text/html", "utf-8"),
        (record(answer(fields="")), HTML, None, None),
        (record(answer(fields="Content-Type: unknown/unknown; charset=x-sjis\r\n")), HTML, None, "x-sjis"),
        (record(answer(fields="Content-Type: text/html, text/html; charset=gbk\r\n")), HTML, "text/html", "gbk"),
        (record(answer(fields="Content-Type:\r\n\ttext/html;\r\n charset=utf-8\r\n")), HTML, "text/html", "utf-8"),
        (record(b"HTTP/1.0 200\nContent-Type: text/html\n\n" + HTML), HTML, "text/html", None),
        (
            record(b"HTTP/2 203 x\r\nX: \xff\xfe\r\nno colon\r\nContent-Type: text/html\r\n\r\n" + HTML),
            HTML,
            "text/html",
            None,
        ),
        (record(HTML), HTML, None, None),  # HTTP/0.9
        (record(b"ICY 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML), HTML, "text/html", None),
        (record(b"HTTP/0.9 200 OK\r\n\r\n" + HTML), HTML, None, None),
        (record(b"http/1.0  0200OK\r\nContent-Type: text/html\r\n\r\n" + HTML), HTML, "text/html", None),
        (record(b"HTTP 200 OK\nContent-Type: text/html\n\n" + HTML), HTML, "text/html", None),
        (record(b"HTTP/1.1 OK\r\nContent-Type: text/html\r\n\r\n" + HTML), HTML, "text/html", None),
        (record(b"HTTP/1.1\r\nContent-Type: text/html\r\n\r\n" + HTML), HTML, "text/html", None),
        (record(b"\r\n\n" + answer()), HTML, "text/html", None),
        (record(b"\xef\xbb\xbf" + answer()), HTML, "text/html", None),
        (record(answer().replace(b"\r\n", b"\r\r\n")), HTML, "text/html", None),
        (record(answer().replace(b"\r\n", b"\r")), HTML, "text/html", None),
        (record(b"HTTP/1.0 200 OK\r\nContent-Type: text/html\r\n" + HTML), HTML, "text/html", None),
        (record(b"HTTP/1.0 200 OK\n" + HTML + b"\n\n<p>more"), HTML + b"\n\n<p>more", None, None),
        (record(b"HTTP/1.1 100 Continue\r\n\r\n" + answer()), HTML, "text/html", None),
        (
            record(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" * 2 + answer()),
            HTML,
            "text/html",
            None,
        ),
        (record(b"HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\n" + answer()), HTML, "text/html", None),
        (
            record(b"HTTP/1.1 407 Who?\r\n\r\nHTTP/1.1 200 Connected\r\n\r\nHTTP/1.1 100 Go\n\n\n" + answer()),
            HTML,
            "text/html",
            None,
        ),
        (record(answer(b"<p>HTTP/1.1 404 Not Found\r\n\r\n")), b"<p>HTTP/1.1 404 Not Found\r\n\r\n", "text/html", None),
        (record(HTML, "resource", content_type="text/html; charset=utf-8"), HTML, "text/html", "utf-8"),
        (record(HTML, "resource", content_type=""), HTML, None, None),
        (record(answer(), "resource"), HTML, "text/html", None),
        (record("Plain ü".encode(), "conversion", content_type="text/plain"), "Plain ü".encode(), "text/plain", None),
        (record(answer(b"plain words, declared as HTML")), b"plain words, declared as HTML", "text/html", None),
        (record(answer("<html>ü".encode("utf-16"), fields="")), "<html>ü".encode("utf-16"), None, None),
    ],
)
def test_pages(data: bytes, payload: bytes, media_type: str | None, charset: str | None) -> None:
    result = only(data)
    assert isinstance(result, Page)
    assert (result.payload, result.media_type, result.charset) == (payload, media_type, charset)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", packed(HTML)),
        ("x-gzip", packed(HTML)),
        ("gzip", packed(HTML[:10]) + packed(HTML[10:])),
        ("gzip", packed(HTML) + b"trailing"),
        ("gzip", packed(HTML)[:-8]),
        ("gzip", packed(HTML)[:-3]),
        ("gzip", packed(HTML)[:-8] + b"\0" * 8),
        ("gzip", packed(HTML[:10])[:-8] + packed(HTML[10:])[:-8] + b"\0" * 8),
        ("gzip", packed(HTML)[:3] + b"\x1e" + packed(HTML)[4:10] + b"\x04\0abcdname\0words\0hc" + packed(HTML)[10:-8]),
        ("gzip", zlib.compress(HTML)),
        ("br", packed(HTML)),
        ("deflate", zlib.compress(HTML)[:-4]),
        ("deflate", zlib.compress(HTML)[:-4] + b"\0" * 4),
        ("br", brotli(HTML)[:-1]),
        ("br", brotli(HTML) + b"trailing"),
        ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress(HTML)[:-4]),
        ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress(HTML)[:-4] + b"\0" * 4),
        ("zstd", zstandard.compress(HTML[:10]) + zstandard.compress(HTML[10:]) + b"trailing"),
        ("", packed(HTML)),
        ("deflate", zlib.compress(HTML)),
        ("deflate", zlib.compress(HTML, wbits=-15)),
        ("br", brotli(HTML)),
        ("zstd", zstandard.compress(HTML)),
        ("deflate, gzip", packed(zlib.compress(HTML))),
        ("identity", HTML),
        ("gzip", HTML),
        ("br", HTML),
        ("utf-8", HTML),
    ],
)
def test_content_codings_are_undone_or_the_html_beneath_is_taken(coding: str, body: bytes) -> None:
    result = only(record(answer(body, f"Content-Type: text/html\r\nContent-Encoding: {coding}\r\n")))
    assert isinstance(result, Page)
    assert result.payload == HTML


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"5\nhello\n0\n\n", b"hello"),
        (b"  5 \r\nhello\r\n0\r\nTrailer: x\r\n\r\n", b"hello"),
        (b"<html>not chunked", b"<html>not chunked"),
        (b"ff\r\ncut", b"cut"),
        (b"3\r\nabc\r\nzz\r\nrest", b"abczz\r\nrest"),
        (b"2\r\nabXXX", b"abXXX"),
        (b"fffffffffffffff\r\nhuge", b"huge"),
        (b"", b""),
    ],
)
def test_chunked_transfer_coding(body: bytes, expected: bytes) -> None:
    assert http.unchunk(body)[0] == expected


def test_a_cut_page_remains_a_page() -> None:
    cut = packed(HTML * 1000)[:-30]
    fields = "Content-Type: text/html\r\nContent-Encoding: gzip\r\n"
    page = only(record(answer(cut, fields), fields="WARC-Truncated: Length\r\n"))
    assert isinstance(page, Page)
    assert page.truncated == "length"
    assert page.payload.startswith(HTML)
    reject = only(record(answer(cut, fields)))
    assert isinstance(reject, Reject)
    assert (reject.reason, "ends within" in reject.detail) == ("damaged", True)


def flushed(data: bytes) -> bytes:
    coder = zlib.compressobj(wbits=31)
    return coder.compress(data) + coder.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    ("body", "fields", "status", "truncated"),
    [
        (b"<p>part", "Content-Length: 7\r\n", "200", None),
        (b"<p>part", "Content-Length: 9\r\n", "200", "disconnect"),
        (HTML + b"<!-- x -->\n", "Content-Length: 99\r\n", "200", None),  # a wrong length
        (HTML, "Content-Length: 5\r\n", "200", None),
        (HTML, "Content-Length: 99\r\nContent-Encoding: gzip\r\n", "200", None),
        (b"5\r\n<p>pa\r\n", "Transfer-Encoding: chunked\r\n", "200", "disconnect"),
        (b"5\r\n<p>pa\r\n0\r\n\r\n", "Transfer-Encoding: chunked\r\n", "200", None),
        (b"<p>not in chunks", "Transfer-Encoding: chunked\r\n", "200", None),
        (flushed(b"<p>part"), "Content-Encoding: gzip\r\n", "200", "disconnect"),
        (flushed(HTML), "Content-Encoding: gzip\r\n", "200", None),
        (packed(b"<p>part" * 99)[:-12], "Content-Encoding: gzip\r\nContent-Length: 999\r\n", "200", "disconnect"),
        (packed(b"<p>part")[:-8], "Content-Encoding: gzip\r\nContent-Length: 999\r\n", "200", None),
        (b"<p>part", "Content-Range: bytes 0-6/100\r\n", "206 Partial Content", "range"),
        (b"<p>part", "Content-Range: bytes 93-99/100\r\n", "206 Partial Content", "range"),
        (b"<p>whole", "Content-Range: bytes 0-7/8\r\n", "206 Partial Content", None),
        (b"<p>part", "", "206", "range"),
    ],
)
def test_a_part_of_a_body_is_marked(body: bytes, fields: str, status: str, truncated: str | None) -> None:
    page = only(record(answer(body, f"Content-Type: text/html\r\n{fields}", status)))
    assert isinstance(page, Page)
    assert page.truncated == truncated


def segment(
    block: bytes, number: int, total: int | None = None, *, of: str = "<urn:1>", kind: str = "continuation"
) -> bytes:
    fields = f"WARC-Segment-Number: {number}\r\nWARC-Segment-Origin-ID: {of}\r\n"
    fields += f"WARC-Segment-Total-Length: {total}\r\n" if total is not None else ""
    return record(block, kind, fields, content_type="")


BLOCK = answer(b"<p>one two three four</html>")
FIRST = record(BLOCK[:60], fields="WARC-Record-ID: <urn:1>\r\nWARC-Segment-Number: 1\r\n")
OTHER = record(answer(), fields="WARC-Record-ID: <urn:9>\r\n")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([FIRST, segment(BLOCK[60:], 2, len(BLOCK))], ["whole", None]),
        ([FIRST, segment(BLOCK[60:65], 2), segment(BLOCK[65:], 3, len(BLOCK))], ["whole", None, None]),
        ([FIRST, segment(BLOCK[65:], 3, len(BLOCK)), segment(BLOCK[60:65], 2)], ["whole", None, None]),
        ([FIRST, OTHER, segment(BLOCK[60:], 2, len(BLOCK)), OTHER], ["whole", "page", None, "duplicate_record"]),
        ([FIRST.replace(b"WARC-Segment-Number: 1\r\n", b""), segment(BLOCK[60:], 2, len(BLOCK))], ["whole", None]),
        ([FIRST], ["segment"]),
        ([FIRST, segment(BLOCK[60:65], 2)], ["segment", None]),
        ([FIRST, segment(BLOCK[65:], 3, len(BLOCK))], ["segment", None]),
        ([FIRST, segment(BLOCK[60:], 2, 5)], ["segment", None]),
        (
            [FIRST, *[OTHER] * 9, segment(BLOCK[60:], 2, len(BLOCK))],
            ["segment", "page", *["duplicate_record"] * 8, "truncated_input"],
        ),
        ([segment(BLOCK[60:], 2, len(BLOCK)), FIRST], ["truncated_input", "segment"]),
        ([segment(BLOCK[60:], 2, len(BLOCK), kind="response"), OTHER], ["truncated_input", "page"]),
        ([FIRST, segment(BLOCK[60:], 2, len(BLOCK), of="<urn:2>")], ["segment", "truncated_input"]),
        ([FIRST, segment(b"x" * 2_000_000, 2, len(BLOCK[:60]) + 2_000_000)], ["oversize", None]),
    ],
)
@pytest.mark.parametrize("member", [bytes, packed], ids=["plain", "gzip"])
def test_segments_are_joined_or_marked(data: list[bytes], expected: list[str | None], member: object) -> None:
    assert callable(member)
    whole = b"".join(map(member, data))
    items = read(whole)
    assert [_outcome(item) for item in items] == expected
    for index, item in enumerate(items):
        if item.resumable:
            assert read(whole, item.offset, places(items[:index])) == items[index:]


def _outcome(item: Entry) -> str | None:
    if isinstance(item.result, Page):
        return item.result.truncated or ("whole" if item.result.payload == b"<p>one two three four</html>" else "page")
    return item.result and item.result.reason


def places(items: list[Entry]) -> list[tuple[str, int]]:
    """Return what `read_warc` wants to know of the units before the one that it begins with."""
    origins = [item.result.origin for item in items if item.result is not None]
    return [(origin.record_id, origin.offset) for origin in origins if origin.record_id]


def test_a_repeated_id_is_another_record_when_url_or_payload_differ() -> None:
    same = "WARC-Record-ID: <urn:same>\r\n"
    other_url = record(answer(), fields=same).replace(b"http://a.example/", b"http://b.example/")
    parts = [
        record(answer(), fields=same),
        record(answer(b"<p>other"), fields=same),
        other_url,
        record(answer(fields="Content-Type: text/html\r\nDate: later\r\n"), fields=same),
        record(answer(b"x" * 1_200_000), fields=same),
        record(answer(b"x" * 1_200_001), fields=same),
        record(answer(b"x" * 1_200_000), fields=same),
        record(b"", "revisit", same),
    ]
    expected = ["page", "page", "page", "duplicate_record", "oversize", "oversize", "duplicate_record", "empty"]
    for data in (
        b"".join(parts),
        b"".join(map(packed, parts)),
        packed(b"".join(parts)),
        packed(parts[0]) + packed(b"".join(parts[1:])),
    ):
        items = read(data)
        assert [getattr(item.result, "reason", "page") for item in items] == expected
        assert len({item.result.origin for item in items if item.result is not None}) == len(items)
        for index, item in enumerate(items):
            if item.resumable:
                assert read(data, item.offset, places(items[:index])) == items[index:]


def test_header_quirks() -> None:
    fields = (
        "WARC-Target-URI: second\r\nWARC-Date: 2008-10-294T05:21:46-0700\r\nWARC-Record-ID: <urn:x>\r\n"
        "X-\xff: \xe9\r\nnonsense\r\n: empty\r\n"
    )
    data = record(answer(fields="Content-Type: text/html\r\nLast-Modified: x\r\nSet-Cookie: y\r\n"), fields=fields)
    page = only(data.replace(b"http://a.example/", b"<http://a.example/a b>"))
    assert isinstance(page, Page)
    assert page.url == "http://a.example/a b"
    assert page.origin.record_id == "urn:x"
    assert page.captured is None
    assert page.headers == {"last-modified": "x"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2020-02-03T04:05:06Z", datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("2020-02-03T04:05:06.123456Z", datetime(2020, 2, 3, 4, 5, 6, 123456, tzinfo=UTC)),
        ("2020-02-03T04:05:06+02:00", datetime(2020, 2, 3, 2, 5, 6, tzinfo=UTC)),
        ("2020-02-03", datetime(2020, 2, 3, tzinfo=UTC)),
        ("20200203040506", datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("201404010000000000", datetime(2014, 4, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("2008-10-294T05:21:46-0700", None),
        ("²⁰²⁰", None),
        ("", None),
    ],
)
def test_dates(value: str, expected: datetime | None) -> None:
    assert parse_date(value) == expected


def test_other_records_are_counted_and_ids_are_unique() -> None:
    same = "WARC-Record-ID: <urn:same>\r\n"
    data = b"".join(
        [
            record(b"software: x", "warcinfo"),
            record(b"GET / HTTP/1.1\r\n\r\n", "request", same),
            record(answer(), fields=same),
            record(answer(), fields=same),
            record(answer()),
            record(answer()),
            record(b"{}", "MetaData"),
            record(b"?", "frobnicate"),
        ]
    )
    items = read(data)
    kinds = [(item.record_type, getattr(item.result, "reason", item.result and "page")) for item in items]
    assert kinds == [
        ("warcinfo", None),
        ("request", None),
        ("response", "page"),
        ("response", "duplicate_record"),
        ("response", "page"),
        ("response", "page"),
        ("metadata", None),
        ("frobnicate", None),
    ]
    assert [item.is_unit for item in items] == [False, False, True, True, True, True, False, False]


def test_a_resumed_run_tells_repetitions_like_one_that_was_not_stopped(tmp_path: Path) -> None:
    def of(number: int, url: int) -> bytes:
        body = b"<html><article><p>%s</article>" % (b"Page %d tells what happened in the town. " % number * 800)
        same = record(answer(body), fields="WARC-Record-ID: <urn:same>\r\n")
        return same.replace(b"http://a.example/", b"http://a.example/%d" % url)

    parts = [of(number, number) for number in range(7)] + [of(0, 0), of(1, 99), of(4, 4), of(6, 6)]
    data = packed(parts[0]) + packed(b"".join(parts[1:4])) + b"".join(map(packed, parts[4:]))
    (tmp_path / "in.warc.gz").write_bytes(data)
    source = {"format": "warc", "inputs": [str(tmp_path / "in.warc.gz")]}
    config = {"workspace": str(tmp_path / "ws"), "sources": {"a": source}, "extract": {"part_bytes": 1 << 16}}
    (report,) = run_all({**config, "engine": {"workers": 1}}, until="extract")
    assert (report.rows_out, report.notes) == (8, "duplicate_record 3")
    made = {path: path.read_bytes() for path in (tmp_path / "ws").rglob("*.parquet")}
    later = [path for path in made if "-00000-" not in path.name]
    assert len(later) >= 4
    for path in [*later, *(tmp_path / "ws").rglob("_index.json")]:
        path.unlink()
    run_all({**config, "engine": {"workers": 1}}, until="extract")
    assert {path: path.read_bytes() for path in (tmp_path / "ws").rglob("*.parquet")} == made


def test_records_in_one_member_keep_their_origins_apart() -> None:
    items = read(packed(record(answer()) * 3))
    assert [item.offset for item in items] == [0, 0, 0]
    assert [item.resumable for item in items] == [True, False, False]
    assert len({item.result.origin for item in items if item.result is not None}) == 3


ARC_HEAD = (
    b"filedesc://x.arc 0.0.0.0 20140216050221 text/plain 76\n"
    b"1 0 X\nURL IP-address Archive-date Content-type Archive-length\n"
)
WHOLE_ARC_HEAD = ARC_HEAD.replace(b"76", b"%d" % len(ARC_HEAD.split(b"\n", 1)[1])) + b"\n"


def arc_record(url: str, body: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML) -> bytes:
    return f"{url} 1.2.3.4 20140216050221 text/html {len(body)}\n".encode() + body + b"\n"


@pytest.mark.parametrize("member", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_arc(member: object) -> None:
    assert callable(member)
    parts = [
        WHOLE_ARC_HEAD,
        arc_record("http://a.example/x y"),
        arc_record("http://b.example/"),
        arc_record("http://c.example/"),
    ]
    items = read(b"".join(member(part) for part in parts))
    assert [item.record_type for item in items] == ["filedesc", "arc", "arc", "arc"]
    pages = [item.result for item in items if isinstance(item.result, Page)]
    assert [page.url for page in pages] == ["http://a.example/x y", "http://b.example/", "http://c.example/"]
    assert pages[0].payload == HTML
    assert pages[0].captured == datetime(2014, 2, 16, 5, 2, 21, tzinfo=UTC)
    broken = [parts[0], parts[1], parts[2][:-20], parts[3]]
    data = b"".join(member(part) for part in broken)
    results = [item.result for item in read(data) if item.is_unit]
    assert [getattr(result, "reason", "page") for result in results] == ["page", "damaged", "page"]


LOG_PAGE = b"<html><pre>log:\nhttp://b.example/x 10.0.0.1 20200101120000 GET %d\n</pre></html>"
HEADER_PAGE = b"<html><pre>\nWARC/1.0\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\nhello\r\n</pre></html>"


@pytest.mark.parametrize("length", [5, 60, 4_000, 10**9])
@pytest.mark.parametrize("junk", [b"junk\r\n", b"\0" * 100], ids=["text", "NULs"])
@pytest.mark.parametrize("pack", [bytes, packed], ids=["plain", "gzip"])
@pytest.mark.parametrize("padding", [0, 2 << 20])
def test_a_page_that_quotes_a_header_is_sound_whatever_follows_it(
    length: int, junk: bytes, pack: Callable[[bytes], bytes], padding: int
) -> None:
    page = HEADER_PAGE % length + b"x" * padding
    check_sound(pack(record(answer(page)) + junk) + pack(record(answer())), padding)
    page = answer(LOG_PAGE % length + b"x" * padding)
    check_sound(
        pack(WHOLE_ARC_HEAD + arc_record("http://a.example/", page) + junk) + pack(arc_record("http://c.example/")),
        padding,
    )


def check_sound(data: bytes, padding: int) -> None:
    results = [item.result for item in read(data) if item.is_unit]
    assert [getattr(result, "reason", "page") for result in results] == ["oversize" if padding else "page", "page"]


@pytest.mark.parametrize("limit", [LIMITS.payload_bytes, 1])  # of what is over the limit only the beginning is kept
def test_an_arc_length_that_ends_behind_another_header_swallows_no_record(limit: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    first = arc_record("http://a.example/", head + b"x" * (1 << 20))
    parts = [
        WHOLE_ARC_HEAD,
        first,
        *map(arc_record, ("http://b.example/", "http://c.example/")),
    ]
    length = len(first.split(b"\n", 1)[1]) - 1
    for wrong in (length + 1 + parts[2].index(b"\n"), length + 1 + parts[2].index(b"\r\n\r\n")):
        damaged = [parts[0], first.replace(b" %d\n" % length, b" %d\n" % wrong), *parts[2:]]
        entries = list(read_warc(io.BytesIO(b"".join(damaged)), "f", 0, ExtractLimits(payload_bytes=limit)))
        results = [item.result for item in entries if item.is_unit]
        assert [getattr(result, "url", "") for result in results] == [f"http://{name}.example/" for name in "abc"]
        assert getattr(results[0], "reason", "page") == "damaged"


@pytest.mark.parametrize("hostile", [b"http:", b"http: 1 ", b"\nab:", b"<a href='http://x/a b'>", b"http: 1 20200101 "])
def test_no_text_takes_the_search_for_arc_headers_long(hostile: bytes) -> None:
    began = time.process_time()
    assert not list(records._ARC_SEARCH.finditer(hostile * ((1 << 19) // len(hostile))))
    assert time.process_time() - began < 5  # a search from each scheme takes twice that


def test_an_arc_that_ends_within_a_record() -> None:
    results = [item.result for item in read((ARC_HEAD + b"\n" + arc_record("http://a.example/"))[:-30]) if item.is_unit]
    assert [getattr(result, "reason", "page") for result in results] == ["truncated_input"]


@pytest.mark.parametrize(
    "data",
    [b"hello", b"\0" * 5000, HTML, packed(HTML), zstandard.compress(HTML), b"\r\n\r\n", b"\x1f\x8c"],
)
def test_what_is_no_archive_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError, match=r"f\.warc: not a WARC or ARC file \(starts with b"):
        read(data)


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (b"", ["truncated_input"]),
        (record(answer())[:20], ["truncated_input"]),
        (record(answer())[:-30], ["truncated_input"]),
        (packed(record(answer()))[:15], ["truncated_input"]),
        (packed(record(answer()))[:-3], ["truncated_input"]),
        (b"garbage" + packed(record(answer())), ["damaged", "page"]),
        (
            b"\x04\x22\x4d\x18" + packed(record(answer()))[4:] + packed(record(answer())),
            ["damaged", "page"],
        ),
        (packed(b"") + packed(record(answer())), ["page"]),
        (b"garbage\r\n" + record(answer()), ["damaged", "page"]),
        (packed(HTML) + packed(record(answer())), ["damaged", "page"]),
        (record(answer()) + b"WARC/1.0\r\nContent-Length: -5\r\n\r\n" + record(answer()), ["page", "damaged", "page"]),
        (record(answer()) + b"WARC/1.0\r\n\r\n" + record(answer()), ["page", "damaged", "page"]),
        (record(answer()) + b"WARC/1.0\r\n" + b"x" * 300_000 + record(answer()), ["page", "damaged", "page"]),
        (record(answer()) + b"GARBAGE" + record(answer()), ["page", "damaged", "page"]),
        (record(answer())[:60] + record(answer()), ["damaged", "page"]),
        (record(answer())[:-4] + b"GARBAGE" + record(answer()), ["damaged", "page"]),
        (record(answer())[:-4] + record(answer())[:-4], ["page", "page"]),
        (packed(record(answer())) + b"\0" * 900, ["page", "damaged"]),
        (packed(record(answer())) + packed(b"") + packed(record(answer())), ["page", "page"]),
    ],
)
def test_damage(data: bytes, reasons: list[str]) -> None:
    assert [getattr(item.result, "reason", "page") for item in read(data)] == reasons


def test_a_dictionary_for_zstandard() -> None:
    samples = [record(answer(b"<html>%d %d" % (number, number * 7919))) for number in range(2000)]
    dictionary = zstandard.train_dictionary(2000, samples)
    compress = zstandard.ZstdCompressor(dict_data=dictionary).compress
    raw = dictionary.as_bytes()
    head = b"\x5d\x2a\x4d\x18" + len(raw).to_bytes(4, "little") + raw
    data = head + compress(samples[1]) + compress(samples[2])
    items = read(data)
    assert [getattr(item.result, "reason", "page") for item in items] == ["page", "page"]
    assert items[1:] == list(read_warc(io.BytesIO(data), "f.warc", items[1].offset, LIMITS))


@pytest.mark.parametrize("member", [bytes, lambda data: packed(data, 1)], ids=["plain", "gzip"])
def test_a_huge_record_streams_past(member: object) -> None:
    assert callable(member)
    huge = member(record(answer(b"x" * 150_000_000)))
    data = io.BytesIO(huge + member(record(answer())))
    del huge
    tracemalloc.start()
    results = [item.result for item in read_warc(data, "f.warc", 0, LIMITS)]
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [getattr(result, "reason", "page") for result in results] == ["oversize", "page"]
    assert peak_bytes < 10_000_000
