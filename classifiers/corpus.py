"""Reading the texts of a class: Parquet, JSON lines, or SQL over a workspace. Strict: a bad record is an error."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from classifiers.config import Corpus
from pipeline.inputs.files import InputFile, resolve
from pipeline.inputs.parquet import read_group
from pipeline.table.errors import InputError, QueryError, ShardError, nearest
from pipeline.table.kept import json_lines

RunSql = Callable[[str, str], Iterator[pa.RecordBatch]]
"""Runs a statement over a workspace: (workspace, sql) -> record batches."""

BATCH_ROWS = 1_000
BATCH_BYTES = 32 << 20
MAX_LINE_BYTES = 64 << 20
_SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".jsonl.zst")


def read(corpus: Corpus, where: str, run_sql: RunSql) -> Iterator[pa.Array]:
    """Yield the texts of `corpus` as string arrays, in order; every row counts, nulls included.

    `where` is the config key for messages.

    Raises: InputError for a missing file, an unknown format, a missing text column, or a damaged record.
    """
    if corpus.path is not None:
        for file in resolve([corpus.path], where):
            yield from _read_file(file, corpus, where)
        return
    if corpus.workspace is None or corpus.sql is None:
        raise InputError(f"{where}: give either `path`, or `workspace` and `sql`")
    try:
        for batch in run_sql(corpus.workspace, corpus.sql):
            yield _column(batch, corpus.text, f"{where}: {corpus.describe()}")
    except QueryError as error:
        raise QueryError(f"{where}.sql: {error}") from error


def _read_file(file: InputFile, corpus: Corpus, where: str) -> Iterator[pa.Array]:
    name = (file.url.split("?", 1)[0] if "://" in file.url else file.url).lower()
    place = f"{where}: {file.shown_url}"
    if not name.endswith(_SUFFIXES):
        raise InputError(f"{place}: its name must end in {', '.join(_SUFFIXES)}")
    try:
        with file.open() as stream:
            if name.endswith(".parquet"):
                yield from _read_parquet(stream, corpus.text, place)
            else:
                yield from _read_jsonl(stream, name, corpus.text, place)
    except ShardError as error:
        raise InputError(f"{place}: {error}") from error
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(f"{place}: damaged or not what its name says ({error}); replace the file") from error


def _read_parquet(stream: BinaryIO, column: str, place: str) -> Iterator[pa.Array]:
    file = pq.ParquetFile(stream)
    names = file.schema_arrow.names
    if column not in names:
        raise InputError(_no_column(column, names, place))
    for group in range(file.num_row_groups):
        left_out, batches = read_group(file, stream, group, [column], only=True)
        if column in left_out:
            raise InputError(
                f"{place}: column {column!r} has pages that take too much memory; write it with smaller ones"
            )
        for batch in batches:
            yield _column(batch, column, place)


def _column(batch: pa.RecordBatch, column: str, place: str) -> pa.Array:
    if column not in batch.schema.names:
        raise InputError(_no_column(column, batch.schema.names, place))
    texts = batch.column(column)
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        raise InputError(f"{place}: column {column!r} is {texts.type}, not text; name another with `text:`")
    return texts


def _no_column(column: str, names: list[str], place: str) -> str:
    found = nearest(column, names) or f" (there are: {', '.join(names[:20])})"
    return f"{place}: there is no column {column!r}{found}; name the text column with `text:`"


def _read_jsonl(stream: BinaryIO, name: str, column: str, place: str) -> Iterator[pa.Array]:
    texts: list[str | None] = []
    size = 0
    for where, record in json_lines(_decompressed(stream, name), place, MAX_LINE_BYTES, f"an object with {column!r}"):
        if column not in record:
            raise InputError(_no_column(column, list(record), where))
        text = record[column]
        if text is not None and not isinstance(text, str):
            raise InputError(f"{where}: {column!r} is {type(text).__name__}, not text")
        # JSON may name half of a surrogate pair, which is no character and cannot be written as UTF-8.
        texts.append(None if text is None else text.encode("utf-8", "replace").decode("utf-8"))
        size += len(text or "")
        if len(texts) == BATCH_ROWS or size > BATCH_BYTES:
            yield pa.array(texts, pa.large_string())
            texts, size = [], 0
    if texts:
        yield pa.array(texts, pa.large_string())


def _decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if name.endswith(".zst"):
        reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, reader), 1 << 20))
    return stream
