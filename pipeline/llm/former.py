"""What is taken over into a store: segment files, in which former versions kept answers, and damaged databases.

A segment begins with `gristmill-llm-1\\n`. What follows are frames, one after the other: a header of 32 bytes

    magic 4 bytes, crc32 of all that follows in the frame (u32), payload length (u32), kind (u32), key (16 bytes)

little-endian, and a payload. The magic has a byte that no ASCII has, and payloads are JSON in ASCII, so after damage
the next frame is found by looking for it.
"""

from __future__ import annotations

import mmap
import sqlite3
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_START = b"gristmill-llm-1\n"
_MAGIC = b"\xf5GM\xfa"
_HEADER = struct.Struct("<4sII4x16s")
_MAX_PAYLOAD_BYTES = 1 << 30
_LONGEST_STEP = 1 << 10
_ROWS = "SELECT id, key, result, checksum FROM answers WHERE id > ? ORDER BY id"

Row = tuple[bytes, bytes]
"""A record's key and its result as JSON."""


def segment_rows(path: Path, damage: list[str]) -> Iterator[Row]:
    """Yield every whole record of a segment in order, and note what is none.

    Raises: OSError; ValueError when the file is longer than its start and does not begin like a segment.
    """
    with path.open("rb") as file:
        start = file.read(len(_START) + 1)
        if not _START.startswith(start[: len(_START)]):
            raise ValueError("is no file of answers, or one of a newer version")
        if len(start) <= len(_START):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = len(_START)
            while at < len(data):
                frame = _frame_at(data, at)
                if frame is not None:
                    yield frame
                    at += _HEADER.size + len(frame[1])
                    continue
                begin, at = at, data.find(_MAGIC, at + 1)
                while at >= 0 and _frame_at(data, at) is None:
                    at = data.find(_MAGIC, at + 1)
                at = at if at >= 0 else len(data)
                lost = f"{at - begin} bytes at {begin} are damaged or half written"
                damage.append(f"{path}: {lost}; what they held is asked again")


def _frame_at(data: mmap.mmap, at: int) -> Row | None:
    head = data[at : at + _HEADER.size]
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        return None
    _, checksum, length, key = _HEADER.unpack(head)
    if length > min(_MAX_PAYLOAD_BYTES, len(data) - at - _HEADER.size):
        return None
    payload = data[at + _HEADER.size : at + _HEADER.size + length]
    return (key, payload) if zlib.crc32(payload, zlib.crc32(head[8:])) == checksum else None


def database_rows(path: Path, damage: list[str]) -> Iterator[Row]:
    """Yield every record of a database, in order, that can be read and has its checksum; note what cannot."""
    lost, last, step = 0, 0, 1
    most = sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))  # of ids: a row has several bytes
    connection = sqlite3.connect(path)
    connection.text_factory = bytes
    try:
        while last < most:
            try:
                for number, key, result, checksum in connection.execute(_ROWS, [last]):
                    last, step = max(last, number), 1
                    if is_whole(key, result, checksum):
                        yield key, result
                    else:
                        lost += 1
                break
            except sqlite3.DatabaseError:
                last, step, lost = last + step, min(2 * step, _LONGEST_STEP), lost + step
    finally:
        connection.close()
    if lost:
        damage.append(f"{path}: about {min(lost, most)} records are damaged; they are asked again")


def checksum_of(key: bytes, result: bytes) -> int:
    """Return what shows that a record is as it was written."""
    return zlib.crc32(result, zlib.crc32(key))


def is_whole(key: object, result: object, checksum: object) -> bool:
    """Tell whether a row is as it was written."""
    return isinstance(key, bytes) and isinstance(result, bytes) and checksum == checksum_of(key, result)
