"""Damage in a web archive costs only the records that it touches; reading can begin at any record."""

from __future__ import annotations

import gzip
import io
import random

import lz4.frame
import pytest
import zstandard
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.extract.config import ExtractLimits
from pipeline.extract.units import Entry, Page, Reject
from pipeline.extract.warc.archive import read_warc

LIMITS = ExtractLimits()
CODECS = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "lz4": lambda data: lz4.frame.compress(data, content_checksum=True),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
    "plain": lambda data: data,
}


def record(number: int, body: bytes, *, length: int | None = None) -> bytes:
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + body
    size = len(block) if length is None else length
    return (
        b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:%d>\r\nWARC-Target-URI: http://a.example/%d\r\n"
        b"Content-Type: application/http\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (number, number, size, block)
    )


def body(seed: int, size: int) -> bytes:
    """A page that names its number and compresses badly, so that members have some length."""
    return b"<html><p>%02d%s</html>" % (seed, random.Random(seed).randbytes(size // 2).hex().encode())


def members(codec: str, sizes: list[int]) -> list[bytes]:
    return [CODECS[codec](record(number, body(number, size))) for number, size in enumerate(sizes)]


def read(data: bytes, start: int = 0) -> list[Entry]:
    return list(read_warc(io.BytesIO(data), "f", start, LIMITS))


def pages(items: list[Entry]) -> list[int]:
    """The numbers of the records that became pages."""
    return [int(item.result.payload[9:11]) for item in items if isinstance(item.result, Page)]


def starts(parts: list[bytes]) -> list[int]:
    return [sum(map(len, parts[:index])) for index in range(len(parts) + 1)]


SIZES = st.lists(st.sampled_from([0, 40, 300, 3000, 40_000]), min_size=2, max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(CODECS)), SIZES, st.data())
def test_a_damaged_stretch_costs_no_record_outside_it(codec: str, sizes: list[int], data: st.DataObject) -> None:
    parts = members(codec, sizes)
    whole = b"".join(parts)
    first = data.draw(st.integers(0, len(whole) - 1))
    noise = data.draw(st.binary(min_size=1, max_size=400))
    last = min(len(whole), first + len(noise))
    damaged = whole[:first] + noise[: last - first] + whole[last:]
    begins = starts(parts)
    intact = [number for number in range(len(parts)) if damaged[begins[number] : begins[number + 1]] == parts[number]]
    items = read(damaged)
    found = [item.result.payload for item in items if isinstance(item.result, Page)]
    originals = [body(number, size) for number, size in enumerate(sizes)]
    assert {originals[number] for number in intact} <= set(found)
    assert len(set(found)) == len(found)
    if codec != "plain":  # which has no checksum: a changed body cannot be seen
        assert set(found) <= set(originals)
    assert [item.offset for item in items] == sorted(item.offset for item in items)
    if len(found) < len(parts):
        # A damaged WARC-Type makes a sound record of an unknown type, which is counted.
        assert any(isinstance(item.result, Reject) or not item.is_unit for item in items)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(CODECS)), SIZES, st.data())
def test_a_cut_end_is_one_reject_behind_the_whole_records(codec: str, sizes: list[int], data: st.DataObject) -> None:
    parts = members(codec, sizes)
    begins = starts(parts)
    cut = data.draw(st.integers(len(parts[0]), begins[-1] - 1))
    items = read(b"".join(parts)[:cut])
    separators = 4 if codec == "plain" else 0
    whole = [number for number in range(len(parts)) if begins[number + 1] - separators <= cut]
    assert pages(items) == whole
    rejects = [item.result for item in items if isinstance(item.result, Reject)]
    if cut in begins or (codec == "plain" and len(whole) == len([b for b in begins[:-1] if b < cut])):
        assert rejects == []
    else:
        assert [reject.origin.offset for reject in rejects] == [begins[len(whole)]]
        assert {reject.reason for reject in rejects} <= {"truncated_input", "damaged"}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(CODECS)), SIZES, st.binary(min_size=0, max_size=60), st.data())
def test_reading_from_any_item_gives_the_same_rest(
    codec: str, sizes: list[int], garbage: bytes, data: st.DataObject
) -> None:
    parts = members(codec, sizes)
    parts.insert(data.draw(st.integers(1, len(parts))), garbage)
    whole = b"".join(parts)
    items = read(whole)
    for index, item in enumerate(items):
        assert item.resumable
        assert read(whole, item.offset) == items[index:]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["gzip", "plain"]), SIZES, st.integers(-400, 70_000), st.data())
def test_a_wrong_content_length_costs_one_record(codec: str, sizes: list[int], error: int, data: st.DataObject) -> None:
    wrong = data.draw(st.integers(0, len(sizes) - 1))
    later = [len(record(number, body(number, sizes[number]))) for number in range(wrong + 1, len(sizes))]
    # A block that ends where a later record ends may as well be a record that holds others: nothing tells them apart.
    assume(codec != "plain" or not any(0 <= error - sum(later[:count]) <= 4 for count in range(1, len(later) + 1)))
    check_wrong_length(codec, sizes, error, wrong)


@pytest.mark.parametrize("error", [147, 191, 360, 404])  # each ends before a blank line inside a later record
def test_a_length_that_ends_before_a_blank_line_swallows_no_record(error: int) -> None:
    check_wrong_length("plain", [40, 0, 0], error, 0)


def check_wrong_length(codec: str, sizes: list[int], error: int, wrong: int) -> None:
    parts = members(codec, sizes)
    right = 44 + len(body(wrong, sizes[wrong]))
    length = max(0, right + error)
    parts[wrong] = CODECS[codec](record(wrong, body(wrong, sizes[wrong]), length=length))
    items = read(b"".join(parts))
    assert [number for number in pages(items) if number != wrong] == [n for n in range(len(parts)) if n != wrong]
    assert len([item for item in items if item.is_unit]) == len(parts)
