"""Existing corpora as Parquet or CSV to documents and rejects."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.extract.cells import values
from pipeline.extract.config import ExtractLimits, KeepColumn
from pipeline.extract.lines import BOM, Line, read_lines
from pipeline.extract.rows import (
    NOTHING_KEPT,
    Keys,
    RowItem,
    find,
    row_damage,
    row_reject,
    to_fields,
    to_item,
)
from pipeline.table.errors import InputError, nearest
from pipeline.table.schema import KeptType
from pipeline.table.storage import InputFile

BATCH_ROWS = 256
MAX_OPENED = 100
"""Files of a source that are opened to see which types its columns have."""
RETRY_BYTES = 1 << 30  # of lines parsed again behind a quote that nothing closes
MAX_ROW_LINES = 100_000
_NATURAL: Mapping[KeptType, str] = {
    "text": r"(large_)?(string|binary)(_view)?|fixed_size_binary\[\d+\]",
    "int": r"u?int\d+",
    "float": r"halffloat|float|double",
    "bool": r"bool",
    "date": r"(timestamp|date\d+)\[.*\]",
}
"""What Arrow calls the types of columns that are kept as ours."""
_LISTS: Mapping[KeptType, KeptType] = {
    "text": "text[]",
    "int": "int[]",
    "float": "float[]",
    "bool": "bool[]",
    "date": "date[]",
}
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
    parquet = _open(stream, file)
    tree = _tree(list(parquet.schema_arrow))
    _check_columns(corpus, tree, list(_leaves(tree)))
    _check_text_type(corpus, tree)
    first = 0
    for group in range(parquet.num_row_groups):
        end = first + parquet.metadata.row_group(group).num_rows
        if end > start:
            yield from _read_group(corpus, parquet, group, range(first, end), start)
        first = end


def _read_group(corpus: _Corpus, parquet: pq.ParquetFile, group: int, rows: range, start: int) -> Iterator[RowItem]:
    row = rows.start
    try:
        for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[group]):
            skipped = min(max(0, start - row), batch.num_rows)
            yield from _batch_items(corpus, row + skipped, batch.slice(skipped))
            row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        reached = max(row, start)
        lost = f"rows {reached} to {rows.stop - 1} (row group {group}) cannot be read: {error}"
        yield row_damage(corpus.file, reached, lost)


def _open(stream: BinaryIO, file: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file: {error}") from error


def _batch_items(corpus: _Corpus, row: int, batch: pa.RecordBatch) -> Iterator[RowItem]:
    names = batch.schema.names
    for number, cells in enumerate(zip(*(values(column) for column in batch.columns), strict=True), row):
        fields = to_fields(list(zip(names, cells, strict=True)))
        keys, text = find(fields, corpus.text)
        if text is None and keys != ():
            yield row_reject(corpus.file, number, "empty", f"column {corpus.text!r} is null")
        else:
            yield corpus.item(number, fields)


def _tree(fields: Sequence[pa.Field]) -> dict[str, object]:
    """Return types by name, those of structs as trees; so that `find` finds a column as it finds a row's field."""
    return to_fields([(field.name, _subtree(field.type)) for field in fields])


def _subtree(kind: pa.DataType) -> object:
    if pa.types.is_map(kind):
        return _MapTypes(_subtree(kind.item_type))
    return _tree([kind.field(i) for i in range(kind.num_fields)]) if pa.types.is_struct(kind) else kind


class _MapTypes(dict[str, object]):
    """The types in a map: that of its values, whatever the name."""

    def __init__(self, kind: object) -> None:
        super().__init__()
        self._kind = kind

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> object:
        return self._kind

    def get(self, name: str, default: object = None) -> object:
        return self._kind


def _find_type(tree: Mapping[str, object], path: str) -> tuple[Keys | None, object]:
    """Return the keys that lead to `path`, and its type; that in a text, which may hold JSON, is text."""
    keys, kind = find(tree, path)
    end = path.rfind(".")
    while keys is None and end > 0:
        outer, kind = find(tree, path[:end])
        if outer and _natural_type(kind) == "text":
            return (*outer, path[end + 1 :]), pa.string()
        end = path.rfind(".", 0, end)
    return keys, kind if keys else None


def _leaves(tree: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def _check_text_type(corpus: _Corpus, tree: Mapping[str, object]) -> None:
    _, kind = _find_type(tree, corpus.text)
    if _natural_type(kind) != "text" or pa.types.is_fixed_size_binary(kind):
        hint = "map another one: `columns: {text: NAME}`"
        raise InputError(f"{corpus.file}: column {corpus.text!r} is {_shown(kind)}, not text; {hint}")


def _shown(kind: object) -> str:
    return "a struct or map" if isinstance(kind, Mapping) else str(kind)[:100]


def _check_columns(corpus: _Corpus, tree: Mapping[str, object], known: Sequence[str]) -> None:
    mapped = {"text": "text", **corpus.columns, **{name: column.path for name, column in corpus.keep.items()}}
    for ours, theirs in mapped.items():
        keys, _ = _find_type(tree, theirs)
        if keys is None and ours not in corpus.keep:  # a kept column is null in a file that lacks it
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            hint = "" if ours in corpus.columns else "; map one: `columns: {text: NAME}`"
            raise InputError(f"{corpus.file}: no column {theirs!r}{nearest(theirs, known)}; it has {listed}{hint}")
        if keys == ():
            raise InputError(f"{corpus.file}: several columns are called {theirs!r}; rename all but one in the file")


def settle_types(
    keep: Mapping[str, KeepColumn], inputs: Sequence[InputFile], where: str, is_parquet: bool
) -> dict[str, KeepColumn]:
    """Return a source's kept columns, in the order of their names, each with its type.

    That is the declared one, or else that of the first Parquet file that has the column, or else text. So it does not
    depend on the order of the inputs, nor on what is in the rows.

    Raises: InputError when a file's type is none that can be kept, or when every input is Parquet and none has it.
    """
    settled: dict[str, KeepColumn] = {}
    known: dict[str, None] = {}
    empty: set[str] = set()
    all_read = is_parquet and bool(keep)
    for file in sorted(inputs, key=lambda file: file.name)[:MAX_OPENED] if is_parquet else ():
        if len(settled) == len(keep):
            break
        try:
            with file.open() as stream:
                tree = _tree(list(_open(stream, file.name).schema_arrow))
        except (InputError, OSError):  # told of when its rows are read
            all_read = False
            continue
        known.update(dict.fromkeys(_leaves(tree)))
        for name, column in keep.items():
            keys, kind = _find_type(tree, column.path)
            if kind == pa.null():  # a column of nothing has no type: another file may tell
                empty.add(name)
            elif name not in settled and keys:
                settled[name] = _settled(column, kind, f"{where}.{name}", file.name)
    for name, column in keep.items():
        if all_read and name not in settled and name not in empty:
            hint = nearest(column.path, known)
            raise InputError(f"{where}.{name}: no column {column.path!r}{hint} in {inputs[0].name} or its like")
    typed = {name: column.model_copy(update={"type": column.type or "text"}) for name, column in keep.items()}
    return dict(sorted({**typed, **settled}.items()))


def _settled(column: KeepColumn, kind: object, where: str, file: str) -> KeepColumn:
    natural = _natural_type(kind)
    if column.type is None and natural is not None:
        return column.model_copy(update={"type": natural})
    if isinstance(kind, Mapping):
        fix = f"name one of its fields, such as {next(_leaves(kind, f'{column.path}.'), f'{column.path}.NAME')}"
    elif column.type is None:
        fix = "give it a type, such as `type: text`"
    elif _may_fit(natural, column.type):
        return column
    else:
        fix = f"as `type: {column.type}` all of it would be null; leave the type out"
    raise InputError(f"{where}: column {column.path!r} of {file} is {_shown(kind)}; {fix}")


def _may_fit(natural: str | None, declared: str) -> bool:
    """Tell whether any value of a column's own type can be one of the declared type."""
    if natural is None:
        return True
    if natural.endswith("[]") != declared.endswith("[]"):
        return False
    ours, theirs = declared.removesuffix("[]"), natural.removesuffix("[]")
    return theirs in (ours, "text") or (theirs in ("int", "float") and ours in ("int", "float", "date"))


def _natural_type(kind: object) -> KeptType | None:
    """Return what a column of an Arrow type is kept as unless told otherwise; None when nothing suggests itself."""
    if isinstance(kind, pa.BaseExtensionType):
        named: dict[str, KeptType] = {"arrow.uuid": "text", "arrow.bool8": "bool"}
        return named.get(kind.extension_name) or _natural_type(kind.storage_type)
    if isinstance(kind, pa.DictionaryType):
        return _natural_type(kind.value_type)
    if hasattr(kind, "value_type"):
        inner = _natural_type(kind.value_type)
        return _LISTS.get(inner) if inner else None
    return next((kept for kept, pattern in _NATURAL.items() if re.fullmatch(pattern, str(kind))), None)


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
