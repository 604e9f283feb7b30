"""The curated shards: the documents that were kept, in order, compacted to parts of the target size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.select.decide import KEPT
from pipeline.select.wide_table import WideTable
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


def write_curated(
    table: WideTable, outcomes: Sequence[Part], identity: Identity, part_bytes: int, check: Callable[[], None]
) -> list[Part]:
    """Write the kept documents of a source in the order of its parts and rows, and return the curated parts.

    `outcomes` are the parts of outcomes in the order of the source's; a part is full at `part_bytes` UTF-8 bytes of
    text. The bytes depend on the kept documents and their order alone: row groups and parts are cut by rows and text
    bytes, not by how the documents were cut. Memory holds one row group read and one written. `check` is called after
    each part, and may raise to stop.

    Raises: ConservationError when outcomes and documents do not match.
    """
    group = Group(table.storage, f"{table.source}/curated")
    groups = row_groups(_kept(table, outcomes), part_bytes)
    parts: list[Part] = []
    for first in groups:
        with PartWriter(group, Work(f"part-{len(parts):05d}", identity, ()), table.documents) as writer:
            for rows, ends in chain([first], groups):
                writer.write(rows)
                if ends:
                    break
        parts.append(writer.finish(Tally(rows_in=writer.rows)))
        check()
    return parts


def _kept(table: WideTable, outcomes: Sequence[Part]) -> Iterator[pa.Table]:
    """Yield the documents that were kept, a row group of documents at a time."""
    ledger, documents = (Group(table.storage, f"{table.source}/{folder}") for folder in ("outcomes", "documents"))
    for part, outcome in zip(table.parts, outcomes, strict=True):
        columns = ["doc_id", "outcome"]
        written = table.held.get(ledger.folder, outcome.stem)
        decided = pa.concat_tables(written or read_batches(ledger, outcome.name, columns))
        where, start = f"{ledger.folder}/{outcome.name}", 0
        for rows in read_batches(documents, part["documents"].name):
            decisions = decided.slice(start, rows.num_rows)
            aligned(rows, decisions, where)
            start += rows.num_rows
            chosen = rows.filter(pc.equal(decisions["outcome"], KEPT))
            if chosen.num_rows:
                yield chosen.select(table.documents.names).cast(table.documents)
        if start != decided.num_rows:
            raise ConservationError(
                f"{where}: {decided.num_rows} outcomes for {start} documents; delete it and run again"
            )


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
