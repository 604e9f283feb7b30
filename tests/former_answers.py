"""Segment files, in which former versions stored answers."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable

from pipeline.llm.cache import encode
from pipeline.llm.types import Answer, Failure

START = b"gristmill-llm-1\n"


def frame(record: Answer | Failure) -> bytes:
    """Return a record as those versions wrote it."""
    payload = encode(record)
    checked = struct.pack("<II16s", len(payload), int(isinstance(record, Failure)), record.key)
    checksum = zlib.crc32(payload, zlib.crc32(checked))
    return b"\xf5GM\xfa" + checksum.to_bytes(4, "little") + checked + payload


def segment(records: Iterable[Answer | Failure]) -> bytes:
    """Return a whole segment of records."""
    return START + b"".join(map(frame, records))
