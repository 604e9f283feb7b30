"""The curated shards: the documents that were kept, in order, compacted to parts of the target size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.select.decide import KEPT
from pipeline.select.narrow import AlignedPart, NarrowSource
from pipeline.table.errors import ConservationError
from pipeline.table.schema import TEXT
from pipeline.table.shards import (
    ROW_GROUP_BYTES,
    ROW_GROUP_ROWS,
    Group,
    Identity,
    Part,
    PartWriter,
    Tally,
    Work,
    aligned,
    read_batches,
)

RowGroup = tuple[pa.Table, bool]
"""Rows of one row group, and whether a part ends after it."""


@dataclass(frozen=True, slots=True)
class CuratedJob:
    """One source's curated shards to be made."""

    narrow: NarrowSource
    outcomes: tuple[Part, ...]
    """The parts of outcomes, in the order of the source's parts."""
    identity: Identity
    part_bytes: int
    """UTF-8 bytes of text at which a part is full."""


def write_curated(job: CuratedJob, check: Callable[[], None]) -> list[Part]:
    """Write the kept documents in the order of documents parts and rows, and return the parts.

    The bytes depend on the kept documents and their order alone: row groups and parts are cut by rows and text bytes,
    not by how the documents were cut. Memory holds one row group read and one written. `check` is called
    after each part, and may raise to stop.

    Raises: ConservationError when outcomes and documents do not match.
    """
    groups = row_groups(_kept(job), job.part_bytes)
    parts: list[Part] = []
    while (first := next(groups, None)) is not None:
        parts.append(_write_part(job, len(parts), first, groups))
        check()
    return parts


def _write_part(job: CuratedJob, number: int, first: RowGroup, groups: Iterator[RowGroup]) -> Part:
    """Write row groups until one ends the part."""
    group = Group(job.narrow.storage, f"{job.narrow.source}/curated")
    rows = 0
    with PartWriter(group, Work(f"part-{number:05d}", job.identity, ()), job.narrow.documents) as writer:
        for table, ends in chain([first], groups):
            writer.write(table)
            rows += table.num_rows
            if ends:
                break
    return writer.finish(Tally(rows_in=rows))


def _kept(job: CuratedJob) -> Iterator[pa.Table]:
    """Yield the documents that were kept, a row group of documents at a time."""
    for part, outcomes in zip(job.narrow.parts, job.outcomes, strict=True):
        yield from _kept_of_part(job.narrow, part, outcomes)


def _kept_of_part(narrow: NarrowSource, part: AlignedPart, outcomes: Part) -> Iterator[pa.Table]:
    ledger = Group(narrow.storage, f"{narrow.source}/outcomes")
    decided = pa.concat_tables(read_batches(ledger, outcomes.name, ["doc_id", "outcome"]))
    keep = pc.equal(decided["outcome"], KEPT)
    documents = Group(narrow.storage, f"{narrow.source}/documents")
    where, start = f"{ledger.folder}/{outcomes.name}", 0
    for table in read_batches(documents, part.documents.name):
        rows = table.num_rows
        aligned(table, decided.slice(start, rows), where)
        chosen = table.filter(keep.slice(start, rows))
        start += rows
        if chosen.num_rows:
            yield chosen.select(narrow.documents.names).cast(narrow.documents)
    if start != decided.num_rows:
        raise ConservationError(f"{where}: {decided.num_rows} outcomes for {start} documents; delete it and run again")


def row_groups(tables: Iterator[pa.Table], part_bytes: int) -> Iterator[RowGroup]:
    """Cut kept rows into row groups and parts. Cuts depend on the rows alone, not on the tables they come in."""
    pending: list[pa.Table] = []
    group_bytes = group_rows = whole_bytes = 0
    for table in tables:
        sizes = np.cumsum(pc.binary_length(table[TEXT]).to_numpy().astype(np.int64))
        start = before = 0
        while start < table.num_rows:
            room = min(ROW_GROUP_BYTES - group_bytes, part_bytes - whole_bytes)
            by_bytes = int(np.searchsorted(sizes, before + room)) + 1
            end = min(by_bytes, start + ROW_GROUP_ROWS - group_rows, table.num_rows)
            taken = int(sizes[end - 1]) - before
            pending.append(table.slice(start, end - start))
            group_bytes, group_rows, whole_bytes = group_bytes + taken, group_rows + end - start, whole_bytes + taken
            start, before = end, int(sizes[end - 1])
            ends = whole_bytes >= part_bytes
            if ends or group_bytes >= ROW_GROUP_BYTES or group_rows >= ROW_GROUP_ROWS:
                yield pa.concat_tables(pending).combine_chunks(), ends
                pending, group_bytes, group_rows = [], 0, 0
                whole_bytes = 0 if ends else whole_bytes
    if pending:
        yield pa.concat_tables(pending).combine_chunks(), False
