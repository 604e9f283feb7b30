"""The reader of each input format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from pipeline.extract.shard import ExtractJob, Item
from pipeline.extract.warc import read_warc


def read(stream: BinaryIO, job: ExtractJob, start: int, seen: set[str]) -> Iterator[Item]:
    """Return the items of a raw input from `start` on, by its source's format."""
    name, limits = job.input.name, job.config.limits
    return read_warc(stream, name, start, limits, seen)
