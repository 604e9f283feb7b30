"""What is known of a source's documents but their text, as one wide table: documents, signals, duplicates, scores."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.table.errors import ConservationError, SchemaError, WorkspaceError
from pipeline.table.query import column_types
from pipeline.table.schema import DOC_ID, DOCUMENTS, DUPLICATES, KEEP_COLUMNS, documents_schema
from pipeline.table.shards import THREADS, Group, Part, aligned, read_batches, read_rows
from pipeline.table.storage import Storage

DOCUMENT_COLUMNS = (DOC_ID, "url", "source", "title", "date", "licence", "parent_id")
"""What rules may read of any source's `documents`: everything but the text, its metadata and where it came from."""
CHUNK_ROWS = 32_768
"""Rows judged at a time: some 30 MB with eighty columns."""
HELD_ROWS, HELD_BYTES = 4_096, 64 << 20
"""Rows of a part, and bytes of all parts of a scope, that are held from pass to pass: larger ones are worth opening."""

AlignedParts = Mapping[str, Part]
"""Parts that are row-aligned with one another, by folder; `documents` is the first."""


class Held:
    """What was read or written of small parts of a scope, for the passes after: most of those would be opening files.

    Threads may use it at once.
    """

    def __init__(self, most_bytes: int = HELD_BYTES) -> None:
        self._left, self._lock = most_bytes, threading.Lock()
        self.is_full = False
        self._tables: dict[tuple[str, str], list[pa.Table]] = {}

    def get(self, folder: str, stem: str) -> list[pa.Table] | None:
        return self._tables.get((folder, stem))

    def keep(self, folder: str, stem: str, tables: list[pa.Table]) -> None:
        """Keep what a part has below `folder`, if there is room."""
        size = sum(table.nbytes for table in tables)
        with self._lock:
            self.is_full = size > self._left
            if not self.is_full and (folder, stem) not in self._tables:
                self._left -= size
                self._tables[folder, stem] = tables

    def drop(self, folder: str, stem: str) -> None:
        """Make room for others."""
        with self._lock:
            self._left += sum(table.nbytes for table in self._tables.pop((folder, stem), ()))
            self.is_full = False


@dataclass(frozen=True, slots=True)
class WideTable:
    """The groups of one source side by side, row by row; parts in the order of their stems."""

    storage: Storage
    source: str
    schema: pa.Schema
    """`doc_id`, `url`, `source`, then every other column in the order of the groups."""
    stored: Mapping[str, tuple[str, str]]
    """Of each column the folder of its group (none: it is null everywhere), and its name there."""
    parts: tuple[AlignedParts, ...]
    rows: int
    documents: pa.Schema = DOCUMENTS
    """Of the source's documents, with the corpus's own columns."""
    held: Held = field(default_factory=Held, repr=False, compare=False)
    """Shared by the sources of a scope."""


def planned_columns(groups: Mapping[str, pa.Schema], kept: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the DuckDB type of every column that a source's wide table will have, from the schemas of its groups.

    So rules can be checked before a workspace exists. Keys are folders, as for `wide_table`; `kept` are the corpus's
    own columns and their types.

    Raises: SchemaError when two groups have a column of one name.
    """
    return column_types(_columns("the plan", groups, documents_schema(kept))[0])


def wide_table(storage: Storage, source: str, folders: Sequence[str], held: Held | None = None) -> WideTable:
    """Return the source's wide table; `folders` are the groups beside `documents` (`signals/x`, `duplicates`).

    The corpus's own columns of `documents` are among its columns. Without duplicates theirs are there, all null.

    Raises: WorkspaceError when a group lacks a part, SchemaError when two groups have a column of one name,
    ConservationError when row counts differ.
    """
    groups = {folder: Group(storage, f"{source}/{folder}") for folder in dict.fromkeys(["documents", *folders])}
    listed = {folder: {part.stem: part for part in group.parts()} for folder, group in groups.items()}
    parts = []
    for stem, documents in sorted(listed["documents"].items()):
        for folder, found in listed.items():
            if stem not in found:
                raise WorkspaceError(f"{source}/{folder} has no part for {stem}; run the stage that makes it first")
            if found[stem].rows != documents.rows:
                raise ConservationError(
                    f"{source}/{folder}/{found[stem].name}: {found[stem].rows} rows for {documents.rows} documents; "
                    "delete the part and run again"
                )
        parts.append({folder: found[stem] for folder, found in listed.items()})
    schemas: dict[str, pa.Schema] = {}
    for folder, group in groups.items():
        example = next(iter(listed[folder].values()), None)
        if example is not None and folder != "documents":
            with storage.open(group.path(example.name)) as stream:
                schemas[folder] = pq.read_schema(stream)
    index = groups["documents"].index()
    documents_columns = documents_schema(index.details.get(KEEP_COLUMNS, {}) if index else {})
    columns, stored = _columns(source, schemas, documents_columns)
    rows = sum(part["documents"].rows for part in parts)
    return WideTable(storage, source, columns, stored, tuple(parts), rows, documents_columns, held or Held())


def _columns(
    where: str, schemas: Mapping[str, pa.Schema], documents: pa.Schema
) -> tuple[pa.Schema, dict[str, tuple[str, str]]]:
    """Return the schema of the wide table of these groups, and where each column is stored."""
    own = [name for name in documents.names if name not in DOCUMENTS.names]
    groups = {"documents": pa.schema([documents.field(name) for name in (*DOCUMENT_COLUMNS, *own)]), **schemas}
    if "duplicates" not in groups:
        groups[""] = DUPLICATES
    fields: list[pa.Field] = []
    stored: dict[str, tuple[str, str]] = {}
    seen: dict[str, str] = {}
    for folder, schema in groups.items():
        prefix = f"{folder.removeprefix('scores/')}_" if folder.startswith("scores/") else ""
        for item in schema:
            name = f"{prefix}{item.name}"
            if item.name == DOC_ID and folder != "documents":
                continue
            if name.lower() in seen:
                raise SchemaError(f"{where}: both {seen[name.lower()]} and {folder} have a column {name!r}")
            seen[name.lower()] = folder
            fields.append(item if folder == "documents" else pa.field(name, item.type))
            stored[name] = folder, item.name
    return pa.schema(fields), stored


def read_wide(table: WideTable, part: AlignedParts, only: Collection[str] | None = None) -> Iterator[pa.Table]:
    """Yield a part's rows in order, `CHUNK_ROWS` at a time and at least one table; with `only`, `doc_id` and those
    columns alone.

    Raises: ConservationError when the groups' ids differ, SchemaError when a part has other columns than the first.
    """
    names = [name for name in table.schema.names if only is None or name in {DOC_ID, *only}]
    documents, held = part["documents"], table.held
    read = held.get(table.source, documents.stem)
    if read is None and (documents.rows > HELD_ROWS or held.is_full):
        yield from _read(table, part, names)
        return
    if read is None:
        read = list(_read(table, part, table.schema.names))
        held.keep(table.source, documents.stem, read)
    yield from (rows.select(names) for rows in read)


def _read(table: WideTable, part: AlignedParts, names: Sequence[str]) -> Iterator[pa.Table]:
    documents = part["documents"]
    stored: dict[str, list[str]] = {"documents": [DOC_ID]}
    for folder, name in (table.stored[name] for name in names if name != DOC_ID):
        if folder:  # equal digests of ids, in manifests that were proven, need not be proven again
            is_aligned = documents.ids != "" and part[folder].ids == documents.ids
            stored.setdefault(folder, [] if is_aligned else [DOC_ID]).append(name)
    others = [folder for folder in stored if folder != "documents"]
    if others and stored["documents"] == [DOC_ID] and not any(DOC_ID in stored[folder] for folder in others):
        del stored["documents"]  # any other group's ids are the same: a file less to open
        stored[others[0]].append(DOC_ID)
    streams = []
    for folder, columns in stored.items():
        batches = read_batches(Group(table.storage, f"{table.source}/{folder}"), part[folder].name, columns)
        streams.append(rechunked(batches, CHUNK_ROWS))
    schema = pa.schema([table.schema.field(name) for name in names])
    for tables in zip(*streams, strict=True):
        groups = dict(zip(stored, tables, strict=True))
        groups.setdefault("documents", tables[0])
        for folder, group in groups.items():
            if DOC_ID in stored.get(folder, ()):
                aligned(groups["documents"], group, f"{table.source}/{folder}/{part[folder].name}")
        yield _side_by_side(groups, table, schema, f"{table.source}/{part['documents'].stem}")


def rows_at(table: WideTable, rows: NDArray[np.int64], names: Collection[str]) -> pa.Table:
    """Return `doc_id` and these columns of some documents, by their numbers, in the order given.

    Raises: ConservationError when the groups' ids differ, ShardError when a part cannot be read.
    """
    chosen = [name for name in table.schema.names if name in {DOC_ID, *names}]
    stored: dict[str, list[str]] = {"documents": [DOC_ID]}
    for folder, name in (table.stored[name] for name in chosen if name != DOC_ID):
        if folder:
            stored.setdefault(folder, [DOC_ID]).append(name)
    groups = {}
    for folder, columns in stored.items():
        parts = [part[folder] for part in table.parts]
        groups[folder] = rows_of(Group(table.storage, f"{table.source}/{folder}"), parts, rows, columns)
        aligned(groups["documents"], groups[folder], f"{table.source}/{folder}")
    return _side_by_side(groups, table, pa.schema([table.schema.field(name) for name in chosen]), table.source)


def rows_of(group: Group, parts: Sequence[Part], rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    """Return some rows of a group, by their numbers among all rows of `parts`, in the order given.

    Raises: ShardError when a part cannot be read.
    """
    ends = np.cumsum([part.rows for part in parts])
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    owners = np.searchsorted(ends, ascending, side="right")

    def read(owner: int) -> list[pa.Table]:
        part = parts[owner]
        return list(read_rows(group, part.name, ascending[owners == owner] - (ends[owner] - part.rows), columns))

    with ThreadPoolExecutor(THREADS) as pool:
        found = [table for tables in pool.map(read, np.unique(owners).tolist()) for table in tables]
    if not found:
        found = [
            table.slice(0, 0) for part in parts[:1] for table in islice(read_batches(group, part.name, columns), 1)
        ]
    return pa.concat_tables(found).take(pa.array(np.argsort(order, kind="stable")))


def _side_by_side(groups: Mapping[str, pa.Table], table: WideTable, schema: pa.Schema, where: str) -> pa.Table:
    columns = {folder: dict(zip(group.column_names, group.columns, strict=True)) for folder, group in groups.items()}
    arrays = []
    for item in schema:
        folder, name = table.stored[item.name]
        if not folder:
            arrays.append(pa.nulls(groups["documents"].num_rows, item.type))
        elif name not in columns[folder]:
            raise SchemaError(f"{where}: {folder} has no column {name!r}; delete the part and run again")
        else:
            arrays.append(columns[folder][name])
    try:
        return pa.Table.from_arrays(arrays, schema=schema)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{where}: {error}; delete the part and run again") from error


def rechunked(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of exactly `rows`, the last one shorter; one without rows if there are none."""
    pending: list[pa.Table] = []
    count, is_told = 0, False
    for table in tables:
        pending.append(table)
        count += table.num_rows
        if count < rows:
            continue
        joined, start, is_told = pa.concat_tables(pending), 0, True
        while count - start >= rows:
            yield joined.slice(start, rows)
            start += rows
        pending, count = [joined.slice(start)], count - start
    if count or (pending and not is_told):
        yield pa.concat_tables(pending)
