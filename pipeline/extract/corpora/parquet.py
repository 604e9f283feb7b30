"""Existing corpora as Parquet to documents and rejects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.extract.config import COLUMNS, ExtractLimits, KeepColumn
from pipeline.extract.corpora.cells import values
from pipeline.extract.corpora.column_types import check_columns, find_type, natural_type, open_parquet, paths, shown
from pipeline.extract.corpora.rows import MAX_NAMED, NOTHING_KEPT, UNREADABLE, CorpusFile, find, to_fields
from pipeline.extract.members import UNIT_BYTES, DamagedMember, RawInput
from pipeline.extract.units import Document, Entry
from pipeline.inputs.parquet import FLAT_BYTES, read_group
from pipeline.table.errors import InputError


def read_parquet(
    stream: BinaryIO,
    file: str,
    start: int,
    columns: Mapping[str, str],
    limits: ExtractLimits,
    keep: Mapping[str, KeepColumn] = NOTHING_KEPT,
) -> Iterator[Entry]:
    """Yield one entry for every row from the row number `start` on, in batches of bounded size; none can drop.

    Rows of a row group that cannot be read are one damaged stretch, whose detail says which.

    Raises: InputError when the file is no Parquet, lacks a mapped column or text, or has two of that name.
    """
    corpus = CorpusFile(file, columns, limits, keep)
    parquet, tree = open_parquet(stream, file)
    check_columns(corpus, tree, list(paths(tree)))
    _, kind = find_type(tree, corpus.path("text"))
    if natural_type(kind) != "text" or pa.types.is_fixed_size_binary(kind):
        what = f"column {corpus.path('text')!r} is {shown(kind)}, not text"
        raise InputError(f"{file}: {what}; map another one: `columns: {{text: NAME}}`")
    raw = RawInput(stream)
    first, row = 0, start
    try:
        for group in range(parquet.num_row_groups):
            end = first + parquet.metadata.row_group(group).num_rows
            for entry in _read_group(corpus, parquet, raw, group, range(first, end), start) if end > start else ():
                row = entry.offset + 1
                yield entry
                raw.spend(len(entry.result.text) if isinstance(entry.result, Document) else 0)
            first = end
    except DamagedMember as error:
        yield corpus.damage(row, error, f"rows from {row} on: the file {error}")


def _read_group(
    corpus: CorpusFile, parquet: pq.ParquetFile, raw: RawInput, group: int, rows: range, start: int
) -> Iterator[Entry]:
    row = rows.start
    try:
        asked = [*map(corpus.path, COLUMNS), *(column.path for column in corpus.keep.values())]
        left_out, batches = read_group(parquet, raw.stream, group, asked)
        text_path = corpus.path("text")
        if any(f"{text_path}.".startswith(f"{path}.") for path in left_out):
            raise OSError(f"column {text_path!r} has pages of over {FLAT_BYTES >> 20} MiB; write it with smaller ones")
        for batch in batches:
            raw.spend(batch.nbytes + UNIT_BYTES * batch.num_rows)
            skipped = min(max(0, start - row), batch.num_rows)
            yield from _batch_items(corpus, row + skipped, batch.slice(skipped), left_out)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reached = max(row, start)
        lost = f"rows {reached} to {rows.stop - 1} (row group {group}) cannot be read: {error}"
        yield corpus.damage(reached, DamagedMember(lost, 0))


def _batch_items(corpus: CorpusFile, row: int, batch: pa.RecordBatch, left_out: Sequence[str]) -> Iterator[Entry]:
    names, text_path = batch.schema.names, corpus.path("text")
    whole = dict.fromkeys(path if (top := path.split(".", 1)[0]) in names else top for path in left_out)
    unread = [(name, UNREADABLE) for name in islice(whole, MAX_NAMED)]
    unread += [(f"{len(whole) - MAX_NAMED} more columns", UNREADABLE)] if len(whole) > MAX_NAMED else []
    for number, cells in enumerate(zip(*(values(column) for column in batch.columns), strict=True), row):
        fields = to_fields([*zip(names, cells, strict=True), *unread])
        keys, text = find(fields, text_path)
        if text is None and keys != ():
            yield corpus.refuse(number, "empty", f"column {text_path!r} is null")
        else:
            yield corpus.entry(number, fields)
