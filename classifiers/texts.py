"""Distinct training texts on disk, found again by a keyed hash: the order of inputs and their repeats cannot matter."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import pyarrow as pa

from pipeline.table.schema import text_buffers


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Where a line lies in the spill file."""

    offset: int
    size: int


Spans = dict[bytes, Span]
"""Distinct lines by digest."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """The distinct lines of a corpus and what was counted on the way."""

    spans: Spans
    rows: int
    empty: int
    duplicates: int

    @property
    def content(self) -> str:
        """A hash over the distinct lines, whatever their order."""
        digest = hashlib.blake2b(digest_size=16)
        for key in sorted(self.spans):
            digest.update(key)
        return digest.hexdigest()


def digests(lines: pa.LargeStringArray, seed: int) -> Iterator[bytes]:
    """Yield the 128-bit hash of each line, keyed with `seed`: the number that decides sample, split and order."""
    return (digest for digest, _ in _hashed(lines, seed))


def _hashed(lines: pa.LargeStringArray, seed: int) -> Iterator[tuple[bytes, memoryview]]:
    data, offsets = text_buffers(lines)
    view, key = memoryview(data.data), seed.to_bytes(8, "little")
    borders = offsets.tolist()
    for start, end in pairwise(borders):
        line = view[start:end]
        yield hashlib.blake2b(line, digest_size=16, key=key).digest(), line


def gather(batches: Iterable[pa.LargeStringArray], spill: BinaryIO, seed: int, limit: int | None) -> Gathered:
    """Append the distinct lines of `batches` to `spill`; with `limit` the lines of the smallest hashes, an even sample.

    Lines without a word and repeats are counted and left out.
    """
    spans: Spans = {}
    rows, empty, duplicates = 0, 0, 0
    ceiling = b"\xff" * 16
    for lines in batches:
        rows += len(lines)
        for digest, line in _hashed(lines, seed):
            if not bytes(line).strip():
                empty += 1
            elif digest in spans:
                duplicates += 1
            elif digest <= ceiling:
                spans[digest] = Span(spill.tell(), len(line))
                spill.write(line)
        if limit is not None and len(spans) >= 2 * limit:
            spans = _smallest(spans, limit)
            ceiling = max(spans)
    return Gathered(spans if limit is None else _smallest(spans, limit), rows, empty, duplicates)


def _smallest(spans: Spans, limit: int) -> Spans:
    return {digest: spans[digest] for digest in sorted(spans)[:limit]}
