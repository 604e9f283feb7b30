"""Segment files: frames appended one after the other, each with a checksum, so that a torn or damaged one shows.

A file begins with `gristmill-llm-1\\n`. A frame is a header of 32 bytes and a payload (JSON in ASCII):

    magic 4 bytes, crc32 of all that follows in the frame (u32), payload length (u32), kind (u32), key (16 bytes)

little-endian. The magic has a byte that no ASCII has, so after damage the next frame is found by looking for it.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

START = b"gristmill-llm-1\n"
MAGIC = b"\xf5GM\xfa"
HEADER = struct.Struct("<4sIII16s")
_CHECKED = struct.Struct("<II16s")  # the header's part under the checksum
MAX_PAYLOAD_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20

ANSWER, FAILURE = 0, 1


@dataclass(frozen=True, slots=True)
class Found:
    """A frame that is whole."""

    offset: int
    kind: int
    key: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are no frame. `is_tail`: nothing whole comes after them, as where a write was cut off."""

    path: Path
    offset: int
    length: int
    is_tail: bool


def frame(kind: int, key: bytes, payload: bytes) -> bytes:
    """Return the bytes of one frame."""
    checked = _CHECKED.pack(len(payload), kind, key)
    return b"".join((MAGIC, zlib.crc32(payload, zlib.crc32(checked)).to_bytes(4, "little"), checked, payload))


def scan(path: Path) -> Iterator[Found | Damage]:
    """Yield every whole frame of a segment in order, and what lies between them as damage.

    Raises: OSError; ValueError when the file is longer than its start and does not begin like a segment.
    """
    size = path.stat().st_size
    with path.open("rb", buffering=_CHUNK_BYTES) as file:
        start = file.read(len(START))
        if start != START:
            if not START.startswith(start):
                raise ValueError("is no file of answers, or one of a newer version")
            if start:
                yield Damage(path, 0, len(start), True)
            return
        offset = len(START)
        while offset < size:
            found = _frame_at(file, offset)
            if found is None:
                begin, offset = offset, _next_frame(file, offset + 1, size)
                yield Damage(path, begin, offset - begin, offset >= size)
                continue
            kind, key, payload = found
            yield Found(offset, kind, key)
            offset += HEADER.size + len(payload)


def read_frame(handle: int, offset: int) -> tuple[int, bytes, bytes] | None:
    """Return (kind, key, payload) of the frame at `offset` of an open file, or none when it is damaged."""
    head = os.pread(handle, HEADER.size, offset)
    length = _length(head)
    return None if length is None else _checked(head, os.pread(handle, length, offset + HEADER.size), length)


def read_key(handle: int, offset: int) -> bytes:
    """Return the key of the frame at `offset`, unchecked."""
    return os.pread(handle, 16, offset + HEADER.size - 16)


def _frame_at(file: BinaryIO, offset: int) -> tuple[int, bytes, bytes] | None:
    if file.tell() != offset:
        file.seek(offset)
    head = file.read(HEADER.size)
    length = _length(head)
    return None if length is None else _checked(head, file.read(length), length)


def _length(head: bytes) -> int | None:
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        return None
    length = int.from_bytes(head[8:12], "little")
    return length if length <= MAX_PAYLOAD_BYTES else None


def _checked(head: bytes, payload: bytes, length: int) -> tuple[int, bytes, bytes] | None:
    _, checksum, _, kind, key = HEADER.unpack(head)
    if len(payload) != length or zlib.crc32(payload, zlib.crc32(head[8:])) != checksum:
        return None
    return kind, key, payload


def _next_frame(file: BinaryIO, offset: int, size: int) -> int:
    """Return the offset of the first whole frame at or after `offset`, or `size`."""
    while offset < size:
        file.seek(offset)
        chunk = file.read(_CHUNK_BYTES)
        at = chunk.find(MAGIC)
        if at < 0:
            offset += max(1, len(chunk) - len(MAGIC) + 1)
            continue
        if _frame_at(file, offset + at) is not None:
            return offset + at
        offset += at + 1
    return size
