"""The narrow columns of a source as one wide table: documents without their text, signals, duplicates, scores."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.table.errors import ConservationError, SchemaError, WorkspaceError
from pipeline.table.query import column_types
from pipeline.table.schema import DOC_ID, DOCUMENTS, DUPLICATES, KEEP_COLUMNS, documents_schema
from pipeline.table.shards import Group, Part, aligned, read_batches
from pipeline.table.storage import Storage

DOCUMENT_COLUMNS = (DOC_ID, "url", "source", "title", "date", "licence", "parent_id")
"""What rules may read of any source's `documents`: everything but the text, its metadata and where it came from."""
DUPLICATE_COLUMNS = tuple(name for name in DUPLICATES.names if name != DOC_ID)
CHUNK_ROWS = 32_768
"""Rows judged at a time: some 30 MB with eighty columns."""

_SCORES = "scores/"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a group under the name that rules and outcomes give it."""

    folder: str
    stored: str
    field: pa.Field


@dataclass(frozen=True, slots=True)
class AlignedPart:
    """A documents part and the parts that are row-aligned with it, by folder; `documents` is the first."""

    source: str
    parts: tuple[tuple[str, Part], ...]

    @property
    def documents(self) -> Part:
        return self.parts[0][1]


@dataclass(frozen=True, slots=True)
class NarrowSource:
    """The narrow columns and aligned parts of one source, parts in the order of their stems."""

    storage: Storage
    source: str
    columns: tuple[Column, ...]
    parts: tuple[AlignedPart, ...]
    documents: pa.Schema = DOCUMENTS
    """Of the source's documents, with the corpus's own columns."""

    @property
    def schema(self) -> pa.Schema:
        """The wide table: `doc_id`, `url`, `source`, then every other column in the order of the groups."""
        return pa.schema([column.field for column in self.columns])

    @property
    def rows(self) -> int:
        return sum(part.documents.rows for part in self.parts)


def planned_columns(groups: Mapping[str, pa.Schema], kept: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """Return the DuckDB type of every narrow column that a source will have, from the schemas of the groups to come.

    So rules can be checked before a workspace exists. Keys are folders, as for `narrow_source`; `kept` are the corpus's
    own columns and their types.

    Raises: SchemaError when two groups have a column of one name.
    """
    fields = [column.field for column in _columns("the plan", groups, documents_schema(kept))]
    return column_types(pa.schema(fields))


def narrow_source(storage: Storage, source: str, folders: Sequence[str]) -> NarrowSource:
    """Return the source's narrow columns; `folders` are the groups beside `documents` (`signals/x`, `duplicates`).

    The corpus's own columns of `documents` are among them. Without duplicates their columns are there, all null.

    Raises: WorkspaceError when a group lacks a part, SchemaError when two groups have a column of one name,
    ConservationError when row counts differ.
    """
    names = ("documents", *(folder for folder in folders if folder != "documents"))
    listed = {folder: {part.stem: part for part in Group(storage, f"{source}/{folder}").parts()} for folder in names}
    parts = tuple(_aligned_part(source, stem, listed) for stem in sorted(listed["documents"]))
    schemas: dict[str, pa.Schema] = {}
    for folder in names[1:]:
        example = next(iter(listed[folder].values()), None)
        if example is not None:
            group = Group(storage, f"{source}/{folder}")
            with storage.open(group.path(example.name)) as stream:
                schemas[folder] = pq.read_schema(stream)
    index = Group(storage, f"{source}/documents").index()
    documents = documents_schema(index.details.get(KEEP_COLUMNS, {}) if index else {})
    return NarrowSource(storage, source, tuple(_columns(source, schemas, documents)), parts, documents)


def _columns(where: str, schemas: Mapping[str, pa.Schema], documents: pa.Schema) -> list[Column]:
    """Return every narrow column; those of duplicates are there in any case, in no folder when there are none."""
    own = [name for name in documents.names if name not in DOCUMENTS.names]
    columns = [Column("documents", name, documents.field(name)) for name in (*DOCUMENT_COLUMNS, *own)]
    for folder, schema in schemas.items():
        prefix = f"{folder.removeprefix(_SCORES)}_" if folder.startswith(_SCORES) else ""
        stored = [item for item in schema if item.name != DOC_ID]
        columns += [Column(folder, item.name, pa.field(f"{prefix}{item.name}", item.type)) for item in stored]
    if "duplicates" not in schemas:
        columns += [Column("", name, pa.field(name, DUPLICATES.field(name).type)) for name in DUPLICATE_COLUMNS]
    seen: dict[str, str] = {}
    for column in columns:
        name = column.field.name
        if name.lower() in seen:
            raise SchemaError(f"{where}: both {seen[name.lower()]} and {column.folder} have a column {name!r}")
        seen[name.lower()] = column.folder
    return columns


def _aligned_part(source: str, stem: str, listed: Mapping[str, Mapping[str, Part]]) -> AlignedPart:
    documents = listed["documents"][stem]
    for folder, parts in listed.items():
        if stem not in parts:
            raise WorkspaceError(f"{source}/{folder} has no part for {stem}; run the stage that makes it first")
        if parts[stem].rows != documents.rows:
            raise ConservationError(
                f"{source}/{folder}/{parts[stem].name}: {parts[stem].rows} rows for {documents.rows} documents; "
                "delete the part and run again"
            )
    return AlignedPart(source, tuple((folder, parts[stem]) for folder, parts in listed.items()))


def read_narrow(narrow: NarrowSource, part: AlignedPart, only: Collection[str] | None = None) -> Iterator[pa.Table]:
    """Yield a part's narrow rows in order, `CHUNK_ROWS` at a time; with `only`, `doc_id` and those columns alone.

    Raises: ConservationError when the groups' ids differ, SchemaError when a part has other columns than the first.
    """
    wanted = [column for column in narrow.columns if only is None or column.field.name in {DOC_ID, *only}]
    folders = dict.fromkeys(["documents", *(column.folder for column in wanted if column.folder)])
    parts = dict(part.parts)
    streams = []
    for folder in folders:
        stored = list(dict.fromkeys([DOC_ID, *(column.stored for column in wanted if column.folder == folder)]))
        group = Group(narrow.storage, f"{narrow.source}/{folder}")
        streams.append(rechunked(read_batches(group, parts[folder].name, stored), CHUNK_ROWS))
    for tables in zip(*streams, strict=True):
        by_folder = dict(zip(folders, tables, strict=True))
        for folder, table in by_folder.items():
            aligned(by_folder["documents"], table, f"{narrow.source}/{folder}/{parts[folder].name}")
        yield _wide(by_folder, wanted, f"{narrow.source}/{part.documents.stem}")


def _wide(tables: Mapping[str, pa.Table], wanted: Sequence[Column], where: str) -> pa.Table:
    arrays = []
    for column in wanted:
        if not column.folder:
            arrays.append(pa.nulls(tables["documents"].num_rows, column.field.type))
        elif column.stored not in tables[column.folder].column_names:
            raise SchemaError(
                f"{where}: {column.folder} has no column {column.stored!r}; delete the part and run again"
            )
        else:
            arrays.append(tables[column.folder][column.stored])
    try:
        return pa.Table.from_arrays(arrays, schema=pa.schema([column.field for column in wanted]))
    except (TypeError, ValueError) as error:
        raise SchemaError(f"{where}: {error}; delete the part and run again") from error


def rechunked(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of exactly `rows`, the last one shorter; none when there are no rows."""
    pending: list[pa.Table] = []
    count = 0
    for table in tables:
        pending.append(table)
        count += table.num_rows
        if count < rows:
            continue
        joined, start = pa.concat_tables(pending), 0
        while count - start >= rows:
            yield joined.slice(start, rows)
            start += rows
        pending, count = [joined.slice(start)], count - start
    if count:
        yield pa.concat_tables(pending)
