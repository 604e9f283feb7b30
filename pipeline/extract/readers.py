"""The reader of each input format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from pipeline.extract.columnar import read_csv, read_parquet
from pipeline.extract.jsonl import read_jsonl
from pipeline.extract.shard import ExtractJob, Item
from pipeline.extract.warc import read_warc

_CORPORA = {"jsonl": read_jsonl, "parquet": read_parquet, "csv": read_csv}


def read(stream: BinaryIO, job: ExtractJob, start: int, seen: set[str]) -> Iterator[Item]:
    """Return the items of a raw input from `start` on, by its source's format; record ids of a WARC go into `seen`.

    Raises: InputError when the input is not what the format says.
    """
    name, limits = job.input.name, job.config.limits
    if job.format == "warc":
        return read_warc(stream, name, start, limits, seen)
    return _CORPORA[job.format](stream, name, start, job.columns, limits, job.keep)
