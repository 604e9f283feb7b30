"""Parts, manifests and indexes: the one shape of shard work.

    expected parts -> those without a matching manifest -> work -> part -> manifest, written last -> index replaced

A part is one Parquet file. Its manifest (`<part>.json`, beside it) says what it was made from and proves that it is
complete. A group's `_index.json` lists its current parts and is what every reader reads; a part that no index lists
does not exist. A part's name is `<stem>-<first 8 digits of its key>`: the stem comes from the part's origin and is the
same in every group that is row-aligned with it, and no part is ever overwritten by one that means something else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.table.errors import ConservationError, SchemaError, ShardError
from pipeline.table.schema import DOC_ID
from pipeline.table.storage import Storage

INDEX = "_index.json"
ROW_GROUP_BYTES = 16 << 20
"""Uncompressed bytes a row group aims at: a reader of one group stays small, and statistics still prune."""
ROW_GROUP_ROWS = 64_000


class Part(BaseModel):
    """One line of an index: a part, what it was made for, and what it holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    key: str
    rows: int
    bytes: int
    content: str
    """128-bit BLAKE2b of the file, so that what is made from it is keyed by its content."""
    ids: str = ""
    """The same of its `doc_id`s in order. An id is a hash of the text, too: what is made from texts is keyed by these,
    and stays when another column of the documents changes."""

    @property
    def stem(self) -> str:
        """The name without its key: equal in all groups that are row-aligned with one another."""
        return self.name.rsplit("-", 1)[0]


class Manifest(BaseModel):
    """The proof that a part is complete: identity of inputs, resolved config, versions, counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    part: Part
    stage: str
    version: str
    inputs: list[dict[str, Any]]
    config: dict[str, Any]
    libraries: dict[str, str]
    rows_in: int
    rows_out: int
    rejects: int = 0
    counts: dict[str, int] = {}
    details: dict[str, Any] = {}
    """What later steps need to know of this part and no table holds (where the next part of a file begins, say)."""


class Index(BaseModel):
    """The current parts of a group, in name order, and what the stage found out about the group as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str = ""
    """Identity of the whole group, for stages that look at all parts at once."""
    parts: list[Part] = []
    counts: dict[str, int] = {}
    details: dict[str, Any] = {}


@dataclass(frozen=True)
class Identity:
    """What decides a stage's output besides its input: name, version, resolved config, libraries and models."""

    stage: str
    version: str
    config: Mapping[str, Any] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)

    def key(self, inputs: Sequence[Mapping[str, Any]]) -> str:
        """Return the manifest key for `inputs`: 32 hex digits."""
        return digest(
            {
                "stage": self.stage,
                "version": self.version,
                "config": dict(self.config),
                "libraries": dict(self.libraries),
                "inputs": [dict(item) for item in inputs],
            }
        )


@dataclass(frozen=True)
class Work:
    """One part to be made: its stem, what decides its content, and what it is made from."""

    stem: str
    identity: Identity
    inputs: tuple[Mapping[str, Any], ...]

    @cached_property
    def key(self) -> str:
        """The key that the part's manifest must carry."""
        return self.identity.key(self.inputs)

    @property
    def name(self) -> str:
        return f"{self.stem}-{self.key[:8]}"


@dataclass(frozen=True)
class Tally:
    """A part's row counts, checked for conservation when its manifest is written."""

    rows_in: int
    rejects: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A folder of parts, such as `web/documents`."""

    storage: Storage
    folder: str

    def path(self, name: str) -> str:
        """Return the path of a part inside the storage."""
        return f"{self.folder}/{name}.parquet"

    def index(self) -> Index | None:
        """Return the index, or None when the group was never completed.

        Raises: ShardError when it is unreadable.
        """
        try:
            return Index.model_validate_json(self.storage.read_bytes(f"{self.folder}/{INDEX}"))
        except FileNotFoundError:
            return None
        except ValidationError as error:
            where = self.storage.sql_path(f"{self.folder}/{INDEX}")
            raise ShardError(f"{where} is damaged ({error.error_count()} errors); delete it and run again") from error

    def parts(self) -> list[Part]:
        """Return the current parts in name order; none when the group was never completed."""
        index = self.index()
        return list(index.parts) if index else []

    def manifest(self, name: str) -> Manifest | None:
        """Return a part's manifest, or None when it is absent or unreadable: then the part is not done."""
        try:
            return Manifest.model_validate_json(self.storage.read_bytes(f"{self.folder}/{name}.json"))
        except (FileNotFoundError, ValidationError):
            return None

    def present(self) -> dict[str, Part]:
        """Return the listed parts that lie there with their manifests, by name: files may have been lost or deleted."""
        names = self.storage.names(self.folder)
        return {part.name: part for part in self.parts() if {f"{part.name}.parquet", f"{part.name}.json"} <= names}

    def is_complete(self, key: str) -> bool:
        """Tell whether the group as a whole was made for `key`, and every part that it lists is still there."""
        index = self.index()
        return index is not None and index.key == key and len(self.present()) == len(index.parts)

    def complete(self, parts: Iterable[Part], index: Index) -> None:
        """Replace the index by one that lists `parts`: from now on readers see exactly these."""
        listed = sorted(parts, key=lambda part: part.name)
        text = index.model_copy(update={"parts": listed}).model_dump_json(indent=1)
        self.storage.write_bytes(f"{self.folder}/{INDEX}", text.encode())


@dataclass(frozen=True)
class RowMap:
    """How a part of `target` follows from a part of another group, row for row."""

    target: Group
    work: Work
    schema: pa.Schema
    columns: Sequence[str]
    """Columns of the source that `function` needs, `doc_id` among them."""
    function: Callable[[pa.Table], pa.Table]


def made_from(part: Part) -> dict[str, Any]:
    """Return the identity of a part of ours as an input: its stem and content, never its folder."""
    return {"part": part.stem, "content": part.content}


def made_from_texts(part: Part) -> dict[str, Any]:
    """Return the identity of a documents part as an input of what reads nothing of it but `doc_id` and `text`."""
    return {"part": part.stem, "ids": part.ids} if part.ids else made_from(part)


def finished(group: Group, works: Sequence[Work]) -> dict[str, Part]:
    """Return the parts of `works` that are already made, by stem: a matching manifest means done."""
    present = group.storage.names(group.folder)
    index = group.index()
    listed = {part.name: part for part in index.parts} if index else {}
    done: dict[str, Part] = {}
    for work in works:
        if f"{work.name}.parquet" not in present or f"{work.name}.json" not in present:
            continue
        part = listed.get(work.name)
        if part is None or part.key != work.key:
            manifest = group.manifest(work.name)
            part = manifest.part if manifest else None
        if part is not None and part.key == work.key:
            done[work.stem] = part
    return done


class PartWriter:
    """Writes one part in row groups of bounded size. Use as a context manager; `finish` writes the manifest.

    The schema is fixed and every table given must conform to it.
    """

    def __init__(self, group: Group, work: Work, schema: pa.Schema) -> None:
        self.group, self.work, self.name, self.schema = group, work, work.name, schema
        self.rows = 0
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0
        self._pending_rows = 0
        self._context = group.storage.create(group.path(work.name))
        self._written: tuple[int, str] | None = None
        self._ids = hashlib.blake2b(digest_size=16) if DOC_ID in schema.names else None

    def __enter__(self) -> PartWriter:
        with ExitStack() as stack:
            self._file = stack.enter_context(self._context)
            self._writer = pq.ParquetWriter(self._file, self.schema, **write_options(self.schema))
            stack.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is not None:
            self._writer.is_open = False  # closing would write a footer to a file that is thrown away
            self._context.__exit__(kind, error, traceback)
            return
        with ExitStack() as stack:  # the last rows can fail as any others: that, too, must throw the file away
            stack.push(self._context)
            stack.callback(setattr, self._writer, "is_open", False)
            self._flush()
            self._writer.close()
            self._written = _size_and_content(self._file)

    def write(self, table: pa.Table) -> None:
        """Append rows in order.

        Raises: SchemaError when the table's schema is another.
        """
        if not table.schema.equals(self.schema):
            raise SchemaError(f"{self.group.folder}/{self.name}: got schema {table.schema}, expected {self.schema}")
        if self._ids:
            self._ids.update("\n".join([*table[DOC_ID].to_pylist(), ""]).encode())
        self._pending.append(table)
        self._pending_bytes += table.nbytes
        self._pending_rows += table.num_rows
        self.rows += table.num_rows
        if self._pending_bytes >= ROW_GROUP_BYTES or self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()

    def finish(self, tally: Tally) -> Part:
        """Write the manifest, last of all, and return the part.

        Raises: ConservationError when `rows_in` differs from rows written plus rejects.
        """
        if self._written is None:
            raise ShardError(f"{self.group.folder}/{self.name}: finish() before the part was closed")
        size, content = self._written
        ids = self._ids.hexdigest() if self._ids else ""
        part = Part(name=self.name, key=self.work.key, rows=self.rows, bytes=size, content=content, ids=ids)
        write_manifest(self.group, part, self.work, tally)
        return part

    def _flush(self) -> None:
        if not self._pending_rows:
            return
        # One chunk a column: row groups must not depend on how rows arrived.
        table = pa.concat_tables(self._pending).combine_chunks()
        self._writer.write_table(table, row_group_size=max(table.num_rows, 1))
        self._pending, self._pending_bytes, self._pending_rows = [], 0, 0


def write_manifest(group: Group, part: Part, work: Work, tally: Tally) -> None:
    """Write a part's manifest beside it.

    Raises: ConservationError when `rows_in` differs from the part's rows plus rejects.
    """
    if tally.rows_in != part.rows + tally.rejects:
        raise ConservationError(
            f"{group.folder}/{part.name}: {tally.rows_in} rows in, but {part.rows} out and {tally.rejects} rejected; "
            "this is a bug in Gristmill, the part was not counted as done"
        )
    manifest = Manifest(
        part=part,
        stage=work.identity.stage,
        version=work.identity.version,
        inputs=[dict(item) for item in work.inputs],
        config=dict(work.identity.config),
        libraries=dict(work.identity.libraries),
        rows_in=tally.rows_in,
        rows_out=part.rows,
        rejects=tally.rejects,
        counts=dict(tally.counts),
        details=dict(tally.details),
    )
    text = manifest.model_dump_json(indent=1)
    group.storage.write_bytes(f"{group.folder}/{part.name}.json", text.encode())


def write_options(schema: pa.Schema) -> dict[str, Any]:
    """Return the Parquet settings of every part: Zstandard, and dictionaries where values repeat."""
    repeating = [f.name for f in schema if f.name in {"source", "reason", "language", "licence", "method", "outcome"}]
    return {"compression": "zstd", "compression_level": 3, "use_dictionary": repeating, "write_statistics": True}


def read_batches(group: Group, name: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield a part's rows in order, a row group at a time; at least one table, so that an empty part has a schema.

    Raises: ShardError when the part cannot be read.
    """
    try:
        with group.storage.open(group.path(name)) as stream, pq.ParquetFile(stream) as file:
            if not file.num_row_groups:
                yield file.read(columns=columns)
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=columns, use_threads=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(group, name, error) from error


def read_rows(group: Group, name: str, rows: NDArray[np.int64], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the given rows (ascending) of a part in order; row groups that hold none of them are not read.

    Raises: ShardError when the part cannot be read.
    """
    first = 0
    try:
        with group.storage.open(group.path(name)) as stream, pq.ParquetFile(stream) as file:
            for number in range(file.num_row_groups):
                after = first + file.metadata.row_group(number).num_rows
                begin, end = np.searchsorted(rows, [first, after])
                if begin < end:
                    table = file.read_row_group(number, columns=columns, use_threads=False)
                    yield table.take(pa.array(rows[begin:end] - first))
                first = after
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(group, name, error) from error


def _unreadable(group: Group, name: str, error: Exception) -> ShardError:
    where = group.storage.sql_path(group.path(name))
    return ShardError(f"{where} cannot be read: {error}; delete it and run again, it will be made anew")


def map_part(
    source: Group, part: Part, row_maps: Sequence[RowMap], tell: Callable[[int], None] = lambda rows: None
) -> list[Part]:
    """Make a part of each target from one part of `source`, in one pass; rows neither drop nor move.

    `tell` gets the number of rows of each batch as it is done.

    Raises: ConservationError when a function returns other rows than it was given.
    """
    columns = list(dict.fromkeys(column for row_map in row_maps for column in row_map.columns))
    with ExitStack() as stack:
        writers = [stack.enter_context(PartWriter(m.target, m.work, m.schema)) for m in row_maps]
        for table in read_batches(source, part.name, columns):
            for row_map, writer in zip(row_maps, writers, strict=True):
                result = row_map.function(table)
                aligned(table, result, f"{row_map.target.folder}/{row_map.work.name}")
                writer.write(result)
            tell(table.num_rows)
    return [writer.finish(Tally(rows_in=part.rows)) for writer in writers]


def aligned(left: pa.Table, right: pa.Table, where: str) -> None:
    """Check that two row-aligned tables hold the same `doc_id`s in the same order.

    Raises: ConservationError naming the part.
    """
    if not left["doc_id"].equals(right["doc_id"]):
        raise ConservationError(f"{where}: doc_ids differ from those of the documents; delete the part and run again")


def digest(value: Any) -> str:
    """Return 32 hex digits that identify a JSON-serialisable value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _size_and_content(file: Any) -> tuple[int, str]:
    file.flush()
    file.seek(0)
    content = hashlib.blake2b(digest_size=16)
    size = 0
    while chunk := file.read(1 << 20):
        content.update(chunk)
        size += len(chunk)
    return size, content.hexdigest()
