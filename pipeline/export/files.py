"""Rows to files: Parquet or JSON lines, cut by the size that they have when written, in one folder or in Hive's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.table.format import encode
from pipeline.table.shards import ROW_GROUP_BYTES, ROW_GROUP_ROWS, write_options
from pipeline.table.storage import Storage

MIN_SHARD_BYTES = 1 << 16
PENDING_BYTES = 128 << 20
"""What may wait for a row group of its own in all folders together: then the folder with the most writes one."""
MAX_OPEN = 200
"""Files that are open at once: of more folders than that, some get several files below the asked size."""
MAX_HELD_TABLES = 32
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_HIVE_ESCAPED = frozenset("\"#%'*/:=?\\{[]^\x7f") | {chr(code) for code in range(32)}


@dataclass(frozen=True, slots=True)
class Written:
    """One finished file, by its path below the export's folder."""

    path: str
    rows: int
    bytes: int
    sha256: str


class Encoder(Protocol):
    """Writes tables of one schema to an open file; after each, all of it is there but what ends a file."""

    def write(self, table: pa.Table) -> None: ...

    def close(self, is_whole: bool) -> None: ...


Encoding = Callable[[BinaryIO, pa.Schema], Encoder]


class ParquetRows:
    """Parquet as our own parts are; a table is a row group."""

    def __init__(self, target: BinaryIO, columns: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(target, columns, **write_options(columns))

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table, row_group_size=table.num_rows)

    def close(self, is_whole: bool) -> None:
        try:
            if is_whole:
                self._writer.close()
        finally:
            self._writer.is_open = False  # or it would write a footer when it is forgotten


class JsonLines:
    """A JSON object a line, as one frame of Zstandard: points in time in ISO 8601, `metadata` as the object it is."""

    def __init__(self, target: BinaryIO, columns: pa.Schema) -> None:
        compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._stream = compressor.stream_writer(target, closefd=False)

    def write(self, table: pa.Table) -> None:
        self._stream.write("".join(_lines(table)).encode())
        self._stream.flush(zstandard.FLUSH_BLOCK)

    def close(self, is_whole: bool) -> None:
        if is_whole:
            self._stream.close()  # type: ignore[no-untyped-call]


def _lines(table: pa.Table) -> Iterator[str]:
    names = (json.dumps(name, ensure_ascii=False).replace("%", "%%") for name in table.column_names)
    line = "{" + ", ".join(f"{name}: %s" for name in names) + "}\n"
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        as_text = _timeless(field.type)
        values = column.cast(as_text).to_pylist()
        if as_text != field.type:
            values = [_iso(value) for value in values]
        columns.append(map(_encoder(field), values))
    return (line % row for row in zip(*columns, strict=True))


def _timeless(kind: pa.DataType) -> pa.DataType:
    """Return a type with text for points in time: Python knows none before the year 1 or after 9999."""
    if pa.types.is_list(kind):
        return pa.list_(pa.field(kind.value_field.name, _timeless(kind.value_type)))
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _iso(value: Any) -> Any:
    if isinstance(value, list):
        return [_iso(item) for item in value]
    return value.replace(" ", "T", 1) if value is not None else None


def _encoder(field: pa.Field) -> Callable[[Any], str]:
    if field.name == "metadata":
        return _object
    return _string if pa.types.is_string(field.type) else _any


def _any(value: Any) -> str:
    try:
        return _plain(value)
    except (TypeError, ValueError):  # bytes, decimals, NaN
        return encode(value)


def _string(value: str | None) -> str:
    return "null" if value is None else json.encoder.encode_basestring(value)


def _object(text: str | None) -> str:
    """Return an object's JSON as it is, on one line; text that is none as a string."""
    try:
        if isinstance(json.loads(text or "", parse_constant=int), dict):  # int refuses NaN and infinity
            return str(text).replace("\n", " ").replace("\r", " ")
    except (ValueError, RecursionError):
        pass
    return _string(text)


class _File:
    """One file that is being written; it has its name once it is closed."""

    def __init__(self, storage: Storage, path: str, encoding: Encoding, columns: pa.Schema) -> None:
        self._path, self._rows, self.bytes = path, 0, 0
        with ExitStack() as stack:
            self._target = stack.enter_context(storage.create(path, is_beside=True))
            self._encoder = encoding(self._target, columns)
            self._stack = stack.pop_all()

    def write(self, table: pa.Table) -> None:
        self._encoder.write(table)
        self._rows, self.bytes = self._rows + table.num_rows, self._target.tell()

    def close(self) -> Written:
        with self._stack:
            self._encoder.close(is_whole=True)
            self._target.flush()
            size = self._target.seek(0, 2)
            self._target.seek(0)
            digest = hashlib.file_digest(cast(Any, self._target), "sha256").hexdigest()
        return Written(self._path, self._rows, size, digest)

    def abandon(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Throw the file away because of an error."""
        self._encoder.close(is_whole=False)
        self._stack.__exit__(kind, error, trace)


class _Folder:
    """What waits for the next row group of a folder."""

    def __init__(self) -> None:
        self.files = self.rows = self.bytes = 0
        self._tables: list[pa.Table] = []

    def hold(self, table: pa.Table) -> None:
        self._tables.append(table)
        self.rows, self.bytes = self.rows + table.num_rows, self.bytes + table.nbytes
        if len(self._tables) >= MAX_HELD_TABLES:  # a table of few rows takes far more memory than they do
            self._tables = [pa.concat_tables(self._tables).combine_chunks()]

    def take(self) -> pa.Table:
        # One chunk a column: the bytes must not depend on how rows arrived.
        table = pa.concat_tables(self._tables).combine_chunks()
        self._tables, self.rows, self.bytes = [], 0, 0
        return table


class Shards:
    """The files of one export: `add` rows in their order. Use `shards`, which finishes them or throws them away."""

    def __init__(self, storage: Storage, name: str, encoding: Encoding, columns: pa.Schema, shard_bytes: int) -> None:
        self._storage, self._name, self._encoding, self._columns = storage, name, encoding, columns
        self._shard_bytes, self._group_bytes = shard_bytes, min(ROW_GROUP_BYTES, max(MIN_SHARD_BYTES, shard_bytes // 8))
        self._folders: dict[str, _Folder] = {}
        self._pending_bytes = 0
        self.open: dict[str, _File] = {}
        """By folder; the one that was written longest ago first."""
        self.written: list[Written] = []

    def add(self, table: pa.Table, folder: str) -> None:
        """Append rows to a folder, a path that ends in `/`; memory holds `PENDING_BYTES` of them at most."""
        place = self._folders.setdefault(folder, _Folder())
        step = min(ROW_GROUP_ROWS, max(1, int(table.num_rows * self._group_bytes // max(table.nbytes, 1))))
        for start in range(0, table.num_rows, step):
            before = place.bytes
            place.hold(table.slice(start, step))
            self._pending_bytes += place.bytes - before
            if place.bytes >= self._group_bytes or place.rows >= ROW_GROUP_ROWS:
                self._flush(folder)
        while self._pending_bytes > PENDING_BYTES:
            self._flush(max(self._folders, key=lambda name: self._folders[name].bytes))

    def finish(self) -> None:
        """Write what waits, and close every file."""
        for folder in self._folders:
            self._flush(folder)
            self._close(folder)

    def _flush(self, folder: str) -> None:
        """Write what waits for a folder as one row group."""
        place = self._folders[folder]
        if not place.rows:
            return
        file = self.open.pop(folder, None)
        if file is None:
            if len(self.open) >= MAX_OPEN:
                self._close(next(iter(self.open)))
            path = folder + self._name.format(place.files)
            file, place.files = _File(self._storage, path, self._encoding, self._columns), place.files + 1
        self.open[folder] = file
        before = file.bytes
        self._pending_bytes -= place.bytes
        file.write(place.take())
        if 2 * file.bytes - before > self._shard_bytes:  # another row group like this one would be too much
            self._close(folder)

    def _close(self, folder: str) -> None:
        if folder in self.open:
            self.written.append(self.open.pop(folder).close())


@contextmanager
def shards(storage: Storage, name: str, encoding: Encoding, columns: pa.Schema, shard_bytes: int) -> Iterator[Shards]:
    """Give the block the files of an export, whose names are `name` with their number; a file has at most some
    `shard_bytes`. However the block ends, no file is open then.

    Raises: ShardError when a file cannot be written.
    """
    made = Shards(storage, name, encoding, columns, shard_bytes)
    try:
        yield made
        made.finish()
    except BaseException:
        with ExitStack() as stack:
            for file in made.open.values():
                stack.push(file.abandon)
            raise


def hive_folder(by: str, value: str | None) -> str:
    """Return the folder of the rows that have a value, as Hive writes it: no value leads anywhere else."""
    return f"{_hive_escaped(by)}={HIVE_NULL if value is None else _hive_escaped(value)}/"


def _hive_escaped(text: str) -> str:
    return "".join(f"%{ord(character):02X}" if character in _HIVE_ESCAPED else character for character in text)


def by_value(table: pa.Table, by: str) -> Iterator[tuple[str | None, pa.Table]]:
    """Yield each value of a column, as text, with a copy of its rows in their order and without the column."""
    values = table[by].cast(pa.string()).combine_chunks().dictionary_encode(null_encoding="encode")
    codes = values.indices.to_numpy(zero_copy_only=False)
    order, rest = np.argsort(codes, kind="stable"), table.drop_columns([by])
    ends = np.searchsorted(codes[order], np.arange(len(values.dictionary) + 1))
    for number, value in enumerate(values.dictionary.to_pylist()):
        # A copy: a slice of few rows would hold all of them in memory until it is written.
        yield value, rest.take(pa.array(order[ends[number] : ends[number + 1]]))
