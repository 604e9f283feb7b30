"""Lines of a plain or compressed file with their byte offsets, in memory that does not grow with a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.extract.members import DamagedMember, DecodedStream, RawInput, detect
from pipeline.extract.records import starts_warc
from pipeline.table.errors import InputError

BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its newline. `data` is None when it is over the limit; with `damage` the file ends in it."""

    offset: int
    data: bytes | None
    damage: DamagedMember | None = None


def read_lines(stream: BinaryIO, file: str, start: int, limit: int) -> Iterator[Line]:
    r"""Yield the lines of a seekable stream from the byte `start` of its decompressed content on; none can drop.

    Lines end at "\n" alone. When the compressed file is damaged, the line that it ends in comes last, with `damage`.

    Raises: InputError when the file is a Parquet file or a web archive.
    """
    raw = RawInput(stream)
    form = detect(raw)
    if form.codec == "plain":
        _check_content(raw.exactly(0, 256), file)
        source = DecodedStream(raw, form, min(start, raw.size), lambda _: False)
    else:
        source = DecodedStream(raw, form, 0, lambda _: False)
    offset = start
    parts: list[bytes] = []
    size = 0
    pieces = _pieces(source, 0 if form.codec == "plain" else start)
    while True:
        try:
            piece = next(pieces, None)
        except DamagedMember as error:
            yield Line(offset, b"".join(parts) if size <= limit else None, error)
            return
        if piece is None:
            break
        first = piece.find(b"\n")
        if first < 0:
            size += len(piece)
            parts = [*parts, piece] if size <= limit else []
            continue
        *whole, last = piece.split(b"\n")
        size += len(whole[0])
        whole[0] = b"".join([*parts, whole[0]])
        yield Line(offset, whole[0] if size <= limit else None)
        offset += size + 1
        for line in whole[1:]:
            yield Line(offset, line if len(line) <= limit else None)
            offset += len(line) + 1
        parts, size = [last], len(last)
    if size:
        yield Line(offset, b"".join(parts) if size <= limit else None)


def _pieces(source: DecodedStream, skip: int) -> Iterator[bytes]:
    while True:
        if skip:
            skip -= source.skip(skip)
        while not skip and (piece := source.pull()):
            yield piece
        if source.cross() == "end":
            return


def _check_content(head: bytes, file: str) -> None:
    if head.startswith(b"PAR1"):
        raise InputError(f"{file}: this is a Parquet file; set `format: parquet`")
    if starts_warc(head):
        raise InputError(f"{file}: this is a WARC file; set `format: warc`")
