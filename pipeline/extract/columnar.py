"""Existing corpora as Parquet or CSV to documents and rejects."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.extract.cells import values
from pipeline.extract.column_types import find_type, natural_type, open_parquet, paths, shown
from pipeline.extract.config import ExtractLimits, KeepColumn
from pipeline.extract.lines import BOM, Line, read_lines
from pipeline.extract.members import UNIT_BYTES, DamagedMember, RawInput
from pipeline.extract.rows import (
    MAX_NAMED,
    NOTHING_KEPT,
    UNREADABLE,
    RowItem,
    find,
    row_damage,
    row_reject,
    to_fields,
    to_item,
)
from pipeline.extract.units import Document
from pipeline.inputs.parquet import FLAT_BYTES, read_group
from pipeline.table.errors import InputError, nearest

RETRY_BYTES = 1 << 30  # of lines parsed again behind a quote that nothing closes
MAX_ROW_LINES = 100_000
_DELIMITERS = (",", "\t", ";", "|")


@dataclass(frozen=True, slots=True)
class _Corpus:
    file: str
    columns: Mapping[str, str]
    limits: ExtractLimits
    keep: Mapping[str, KeepColumn]

    @property
    def text(self) -> str:
        return self.columns.get("text", "text")

    @property
    def asked(self) -> list[str]:
        """The paths of all columns that are more than metadata."""
        ours = ("text", "url", "title", "date", "licence", "id")
        return [*(self.columns.get(name, name) for name in ours), *(column.path for column in self.keep.values())]

    def item(self, offset: int, fields: Mapping[str, object]) -> RowItem:
        return to_item(self.file, offset, fields, self.columns, self.limits.record_bytes, self.keep)


def read_parquet(
    stream: BinaryIO,
    file: str,
    start: int,
    columns: Mapping[str, str],
    limits: ExtractLimits,
    keep: Mapping[str, KeepColumn] = NOTHING_KEPT,
) -> Iterator[RowItem]:
    """Yield one item for every row from the row number `start` on, in batches of bounded size; none can drop.

    Rows of a row group that cannot be read are one damaged stretch, whose detail says which.

    Raises: InputError when the file is no Parquet, lacks a mapped column or text, or has two of that name.
    """
    corpus = _Corpus(file, columns, limits, keep)
    parquet, tree = open_parquet(stream, file)
    _check_columns(corpus, tree, list(paths(tree)))
    _check_text_type(corpus, tree)
    raw = RawInput(stream)
    first, row = 0, start
    try:
        for group in range(parquet.num_row_groups):
            end = first + parquet.metadata.row_group(group).num_rows
            for item in _read_group(corpus, parquet, raw, group, range(first, end), start) if end > start else ():
                row = item.offset + 1
                yield item
                raw.spend(len(item.result.text) if isinstance(item.result, Document) else 0)
            first = end
    except DamagedMember as error:
        yield row_damage(file, row, f"rows from {row} on: the file {error}")


def _read_group(
    corpus: _Corpus, parquet: pq.ParquetFile, raw: RawInput, group: int, rows: range, start: int
) -> Iterator[RowItem]:
    row = rows.start
    try:
        left_out, batches = read_group(parquet, raw.stream, group, corpus.asked)
        if any(f"{corpus.text}.".startswith(f"{path}.") for path in left_out):
            raise OSError(
                f"column {corpus.text!r} has pages of over {FLAT_BYTES >> 20} MiB; write it with smaller ones"
            )
        for batch in batches:
            raw.spend(batch.nbytes + UNIT_BYTES * batch.num_rows)
            skipped = min(max(0, start - row), batch.num_rows)
            yield from _batch_items(corpus, row + skipped, batch.slice(skipped), left_out)
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reached = max(row, start)
        lost = f"rows {reached} to {rows.stop - 1} (row group {group}) cannot be read: {error}"
        yield row_damage(corpus.file, reached, lost)


def _batch_items(corpus: _Corpus, row: int, batch: pa.RecordBatch, left_out: Sequence[str]) -> Iterator[RowItem]:
    names = batch.schema.names
    whole = dict.fromkeys(path if (top := path.split(".", 1)[0]) in names else top for path in left_out)
    unread = [(name, UNREADABLE) for name in islice(whole, MAX_NAMED)]
    unread += [(f"{len(whole) - MAX_NAMED} more columns", UNREADABLE)] if len(whole) > MAX_NAMED else []
    for number, cells in enumerate(zip(*(values(column) for column in batch.columns), strict=True), row):
        fields = to_fields([*zip(names, cells, strict=True), *unread])
        keys, text = find(fields, corpus.text)
        if text is None and keys != ():
            yield row_reject(corpus.file, number, "empty", f"column {corpus.text!r} is null")
        else:
            yield corpus.item(number, fields)


def _check_text_type(corpus: _Corpus, tree: Mapping[str, object]) -> None:
    _, kind = find_type(tree, corpus.text)
    if natural_type(kind) != "text" or pa.types.is_fixed_size_binary(kind):
        hint = "map another one: `columns: {text: NAME}`"
        raise InputError(f"{corpus.file}: column {corpus.text!r} is {shown(kind)}, not text; {hint}")


def _check_columns(corpus: _Corpus, tree: Mapping[str, object], known: Sequence[str]) -> None:
    mapped = {"text": "text", **corpus.columns, **{name: column.path for name, column in corpus.keep.items()}}
    for ours, theirs in mapped.items():
        keys, _ = find_type(tree, theirs)
        if keys is None and ours not in corpus.keep:  # a kept column is null in a file that lacks it
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            hint = "" if ours in corpus.columns else "; map one: `columns: {text: NAME}`"
            raise InputError(f"{corpus.file}: no column {theirs!r}{nearest(theirs, known)}; it has {listed}{hint}")
        if keys == ():
            raise InputError(f"{corpus.file}: several columns are called {theirs!r}; rename all but one in the file")


class _LineFeed:
    """Lines for the CSV parser, which pulls them as a row needs them; remembers those of the current row."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self._again: list[Line] = []
        self._retried_bytes = 0
        self.taken: list[Line] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_ROW_LINES:
            raise csv.Error(f"a row of over {MAX_ROW_LINES} lines")
        line = self._again.pop() if self._again else next(self._lines)
        self.taken.append(line)
        if line.data is None or line.damage is not None:
            raise _BadLineError
        return line.data.decode(errors="replace") + "\n"

    def retry_after_first(self) -> bool:
        """Let all lines of the row but its first come again: a stray quote must not cost more than its line.

        False when there is none, or when that has been done too often: in hostile files only.
        """
        again = self.taken[1:]
        self._retried_bytes += sum(len(line.data or b"") for line in again)
        if not again or self._retried_bytes > RETRY_BYTES:
            return False
        self._again.extend(reversed(again))
        return True


class _BadLineError(Exception):
    """The next line is over the limit, or the file is damaged there."""


def read_csv(
    stream: BinaryIO,
    file: str,
    start: int,
    columns: Mapping[str, str],
    limits: ExtractLimits,
    keep: Mapping[str, KeepColumn] = NOTHING_KEPT,
) -> Iterator[RowItem]:
    """Yield one item for every row from the byte `start` of the decompressed file on; none can drop.

    The first row names the columns; commas, tabs, semicolons or bars separate, whichever the first row has most of. A
    row with more or fewer fields than that, or with bytes that are not UTF-8, is rejected.

    Raises: InputError when the file is of another format, has no first row or lacks a mapped column.
    """
    corpus = _Corpus(file, columns, limits, keep)
    csv.field_size_limit(limits.record_bytes)
    names, delimiter, body = _read_head(stream, file, limits)
    _check_columns(corpus, to_fields([(name, pa.string()) for name in names]), names)
    feed = _LineFeed(read_lines(stream, file, max(start, body), limits.record_bytes))
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.taken = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (_BadLineError, csv.Error) as error:
            yield _broken(corpus, feed, error)
            reader = csv.reader(feed, delimiter=delimiter, strict=True)  # the old one may hold half a row
            continue
        if cells:
            yield _row(corpus, feed.taken, names, cells)


def _read_head(stream: BinaryIO, file: str, limits: ExtractLimits) -> tuple[list[str], str, int]:
    """Return the columns' names, the delimiter and the offset of the first row behind them."""
    feed = _LineFeed(read_lines(stream, file, 0, limits.record_bytes))
    try:
        first = next(feed).removeprefix(BOM.decode())
        delimiter = max(_DELIMITERS, key=first.count)
        rest = _LineFeed(iter([Line(0, first.removesuffix("\n").encode())]))
        names = next(csv.reader(_chain(rest, feed), delimiter=delimiter, strict=True))
    except (StopIteration, _BadLineError, csv.Error) as error:
        raise InputError(f"{file}: no first row with the columns' names can be read: {error}") from error
    return names, delimiter, sum(len(line.data or b"") + 1 for line in feed.taken)


def _chain(first: Iterator[str], second: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from second


def _broken(corpus: _Corpus, feed: _LineFeed, error: Exception) -> RowItem:
    """Return the reject of the row that the parser gave up on; the lines behind its first come again."""
    offset, last = feed.taken[0].offset, feed.taken[-1]
    if feed.retry_after_first() or isinstance(error, csv.Error):
        return row_reject(
            corpus.file, offset, "damaged", f"invalid CSV: {error}" if str(error) else "a quote stays open"
        )
    if last.damage is not None:
        return row_damage(corpus.file, offset, str(last.damage), cut=last.damage.cut)
    return row_reject(corpus.file, offset, "oversize", f"a line of over {corpus.limits.record_bytes} bytes")


def _row(corpus: _Corpus, lines: Sequence[Line], names: Sequence[str], cells: Sequence[str]) -> RowItem:
    offset = lines[0].offset
    if len(cells) != len(names):
        detail = f"{len(cells)} fields where the first row has {len(names)}"
        return row_reject(corpus.file, offset, "damaged", detail)
    if any("\ufffd" in cell for cell in cells) and not _are_utf8(lines):
        return row_reject(corpus.file, offset, "damaged", "invalid UTF-8")
    return corpus.item(offset, to_fields(list(zip(names, cells, strict=True))))


def _are_utf8(lines: Sequence[Line]) -> bool:
    try:
        return all((line.data or b"").decode() is not None for line in lines)
    except UnicodeDecodeError:
        return False
