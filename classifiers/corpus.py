"""Reading texts: Parquet, JSON lines, CSV, or SQL over a workspace. Strict: a bad record is an error."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from pyarrow import csv

from classifiers.config import Corpus
from pipeline.inputs.files import resolve
from pipeline.inputs.parquet import read_group
from pipeline.table.errors import InputError, QueryError, ShardError, nearest
from pipeline.table.kept import json_lines

RunSql = Callable[[str, str], Iterator[pa.RecordBatch]]
"""Runs a statement over a workspace: (workspace, sql) -> record batches."""

BATCH_ROWS = 1_000
BATCH_BYTES = 32 << 20
MAX_LINE_BYTES = 64 << 20
SUFFIXES = (".parquet", *(f"{kind}{packed}" for kind in (".jsonl", ".csv") for packed in ("", ".gz", ".zst")))


def read(corpus: Corpus, where: str, run_sql: RunSql) -> Iterator[pa.Array]:
    """Yield the texts of `corpus` as string arrays, in order; every row counts, nulls included.

    `where` is the config key for messages.

    Raises: InputError for a missing file, an unknown format, a missing text column, or a damaged record.
    """
    if corpus.path is not None:
        yield from (batch["text"] for batch in read_files(corpus.path, {"text": corpus.text}, where))
        return
    if corpus.workspace is None or corpus.sql is None:
        raise InputError(f"{where}: give either `path`, or `workspace` and `sql`")
    try:
        for batch in run_sql(corpus.workspace, corpus.sql):
            yield _column(batch, corpus.text, f"{where}: {corpus.describe()}")
    except QueryError as error:
        raise QueryError(f"{where}.sql: {error}") from error


def read_files(path: str, columns: Mapping[str, str], where: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of files in order: `text`, and as text whatever else of `columns` (ours to theirs) a file has.

    A value of another column that is no text is there as JSON writes it (`true`, `1`).

    Raises: InputError as `read`.
    """
    for file in resolve([path], where):
        name = (file.url.split("?", 1)[0] if "://" in file.url else file.url).lower()
        place = f"{where}: {file.shown_url}"
        if not name.endswith(SUFFIXES):
            raise InputError(f"{place}: its name must end in {', '.join(SUFFIXES)}")
        try:
            with file.open() as stream:
                if name.endswith(".parquet"):
                    yield from _read_parquet(stream, columns, place)
                elif ".csv" in name[-8:]:
                    yield from _read_csv(stream, name, columns, place)
                else:
                    yield from _read_jsonl(stream, name, columns, place)
        except ShardError as error:
            raise InputError(f"{place}: {error}") from error
        except (pa.ArrowException, OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise InputError(f"{place}: damaged or not what its name says ({error}); replace the file") from error


def _read_parquet(stream: BinaryIO, columns: Mapping[str, str], place: str) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(stream)
    found = _found(columns, file.schema_arrow.names, place)
    for group in range(file.num_row_groups):
        left_out, batches = read_group(file, stream, group, list(found.values()), only=True)
        if found["text"] in left_out:
            raise InputError(
                f"{place}: column {found['text']!r} has pages that take too much memory; write it with smaller ones"
            )
        for batch in batches:
            arrays = {"text": _column(batch, found["text"], place)}
            for ours, theirs in found.items():
                kind = batch[theirs].type if ours != "text" and theirs in batch.schema.names else pa.null()
                if not (pa.types.is_null(kind) or pa.types.is_nested(kind) or pa.types.is_binary(kind)):
                    arrays[ours] = batch[theirs].cast(pa.string())
            yield pa.RecordBatch.from_pydict(arrays)


def _read_csv(stream: BinaryIO, name: str, columns: Mapping[str, str], place: str) -> Iterator[pa.RecordBatch]:
    read, parse = csv.ReadOptions(use_threads=False, block_size=BATCH_BYTES), csv.ParseOptions(newlines_in_values=True)
    found = _found(columns, csv.open_csv(_decompressed(stream, name), read, parse).schema.names, place)
    types = dict.fromkeys(found.values(), pa.large_string())
    convert = csv.ConvertOptions(include_columns=list(types), column_types=types, strings_can_be_null=True)
    convert.null_values = [""]
    stream.seek(0)
    for batch in csv.open_csv(_decompressed(stream, name), read, parse, convert):
        yield pa.RecordBatch.from_arrays([batch[theirs] for theirs in found.values()], list(found))


def _found(columns: Mapping[str, str], names: list[str], place: str) -> dict[str, str]:
    """Return which of `columns` a file has. Raises: InputError when the text is not among them."""
    if columns["text"] not in names:
        raise InputError(_no_column(columns["text"], names, place))
    return {ours: theirs for ours, theirs in columns.items() if theirs in names}


def _column(batch: pa.RecordBatch, column: str, place: str) -> pa.Array:
    if column not in batch.schema.names:
        raise InputError(_no_column(column, batch.schema.names, place))
    texts = batch.column(column)
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise InputError(
            f"{place}: column {column!r} is {texts.type}, not text; name another with `text: NAME` or --columns "
            "text=NAME"
        )
    return texts


def _no_column(column: str, names: list[str], place: str) -> str:
    found = nearest(column, names) or f" (there are: {', '.join(names[:20])})"
    return (
        f"{place}: there is no column {column!r}{found}; name the text column with `text: NAME` or --columns text=NAME"
    )


def _read_jsonl(stream: BinaryIO, name: str, columns: Mapping[str, str], place: str) -> Iterator[pa.RecordBatch]:
    rows: list[list[str | None]] = []
    size = 0
    text_column = columns["text"]
    for where, record in json_lines(
        _decompressed(stream, name), place, MAX_LINE_BYTES, f"an object with {text_column!r}"
    ):
        text = record.get(text_column)
        if text is None and text_column not in record:
            raise InputError(_no_column(text_column, list(record), where))
        if text is not None and not isinstance(text, str):
            raise InputError(f"{where}: {text_column!r} is {type(text).__name__}, not text")
        values = [record.get(theirs) for theirs in columns.values()]
        rows.append([None if value is None else _as_text(value) for value in values])
        size += len(text or "")
        if len(rows) == BATCH_ROWS or size > BATCH_BYTES:
            yield _batch(rows, columns)
            rows, size = [], 0
    if rows:
        yield _batch(rows, columns)


def _as_text(value: Any) -> str:
    """Return a value of JSON as text; it may name half of a surrogate pair, which cannot be written as UTF-8."""
    return (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace").decode("utf-8")


def _batch(rows: list[list[str | None]], columns: Mapping[str, str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(c, pa.large_string()) for c in zip(*rows, strict=True)], list(columns))


def _decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if name.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader), 1 << 20))
    return stream
