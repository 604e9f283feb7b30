"""Existing corpora as Parquet to documents and rejects: which columns there are, of what types, and what is in them.

PyArrow's own conversion to Python asks a time zone database for every name that a file may hold, and gives up on
nanoseconds, on years beyond 9999, on text that is not UTF-8 and on structs with two fields of one name. So it is asked
only for what cannot fail: what no type of Python's holds comes as text, and nothing comes as nothing. Points in time
with a zone are given in UTC, whatever the zone is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import BinaryIO
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.extract.config import COLUMNS, KeepColumn
from pipeline.extract.corpora.rows import (
    MAX_DEPTH,
    MAX_NAMED,
    UNREADABLE,
    CorpusFile,
    Keys,
    find,
    to_fields,
)
from pipeline.extract.members import UNIT_BYTES, DamagedMember, RawInput
from pipeline.extract.units import Document, Entry
from pipeline.inputs.files import InputFile
from pipeline.inputs.parquet import FLAT_BYTES, read_group
from pipeline.table.errors import InputError, nearest
from pipeline.table.schema import KeptType

MAX_OPENED = 100
"""Files of a source that are opened to see which types its columns have."""
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
_NANOSECONDS = {"D": 86_400 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_EPOCH = datetime(1970, 1, 1)
_DAY = timedelta(days=1)


def read_parquet(stream: BinaryIO, start: int, corpus: CorpusFile) -> Iterator[Entry]:
    """Yield one entry for every row from the row number `start` on, in batches of bounded size; none can drop.

    Rows of a row group that cannot be read are one damaged stretch, whose detail says which.

    Raises: InputError when the file is no Parquet, lacks a mapped column or text, or has two of that name.
    """
    parquet, tree = open_parquet(stream, corpus.file)
    corpus.check(list(paths(tree)), lambda path: find_type(tree, path)[0])
    _, kind = find_type(tree, corpus.path("text"))
    if natural_type(kind) != "text" or pa.types.is_fixed_size_binary(kind):
        what = f"column {corpus.path('text')!r} is {shown(kind)}, not text"
        raise InputError(f"{corpus.file}: {what}; map another one: `columns: {{text: NAME}}`")
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


# Columns and their types


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
                _, tree = open_parquet(stream, file.name)
        except (InputError, OSError):  # told of when its rows are read
            all_read = False
            continue
        known.update(dict.fromkeys(paths(tree)))
        for name, column in keep.items():
            keys, kind = find_type(tree, column.path)
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
    natural = natural_type(kind)
    if column.type is None and natural is not None:
        return column.model_copy(update={"type": natural})
    if isinstance(kind, Mapping):
        fix = f"name one of its fields, such as {next(paths(kind, f'{column.path}.'), f'{column.path}.NAME')}"
    elif column.type is None:
        fix = "give it a type, such as `type: text`"
    elif _may_fit(natural, column.type):
        return column
    else:
        fix = f"as `type: {column.type}` all of it would be null; leave the type out"
    raise InputError(f"{where}: column {column.path!r} of {file} is {shown(kind)}; {fix}")


def _may_fit(natural: str | None, declared: str) -> bool:
    """Tell whether any value of a column's own type can be one of the declared type."""
    if natural is None:
        return True
    if natural.endswith("[]") != declared.endswith("[]"):
        return False
    ours, theirs = declared.removesuffix("[]"), natural.removesuffix("[]")
    return theirs in (ours, "text") or (theirs in ("int", "float") and ours in ("int", "float", "date"))


def natural_type(kind: object) -> KeptType | None:
    """Return what a column of an Arrow type is kept as unless told otherwise; None when nothing suggests itself."""
    if isinstance(kind, pa.BaseExtensionType):
        named: dict[str, KeptType] = {"arrow.uuid": "text", "arrow.bool8": "bool"}
        return named.get(kind.extension_name) or natural_type(kind.storage_type)
    if isinstance(kind, pa.DictionaryType):
        return natural_type(kind.value_type)
    if hasattr(kind, "value_type"):
        inner = natural_type(kind.value_type)
        return _LISTS.get(inner) if inner else None
    return next((kept for kept, pattern in _NATURAL.items() if re.fullmatch(pattern, str(kind))), None)


def open_parquet(stream: BinaryIO, file: str) -> tuple[pq.ParquetFile, dict[str, object]]:
    """Return the file and the types of its columns by name; those of structs are trees, as a row's fields are.

    Raises: InputError when the file is no Parquet.
    """
    try:
        parquet = pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False)
        return parquet, _tree(list(parquet.schema_arrow))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file: {error}") from error


def _tree(fields: Sequence[pa.Field]) -> dict[str, object]:
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


def find_type(tree: Mapping[str, object], path: str) -> tuple[Keys | None, object]:
    """Return the keys that lead to `path`, and its type; that in a text, which may hold JSON, is text."""
    keys, kind = find(tree, path)
    end = path.rfind(".")
    while keys is None and end > 0:
        outer, kind = find(tree, path[:end])
        if outer and natural_type(kind) == "text":
            return (*outer, path[end + 1 :]), pa.string()
        end = path.rfind(".", 0, end)
    return keys, kind if keys else None


def paths(tree: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the path of every column that is no struct."""
    for name, inner in tree.items():
        if isinstance(inner, Mapping):
            yield from paths(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def shown(kind: object) -> str:
    """Return a type for a message."""
    return "a struct or map" if isinstance(kind, Mapping) else str(kind)[:100]


# Values


def values(array: pa.Array, depth: int = 1) -> list[object]:
    """Return an array's values, in order.

    Structs, and maps with text as keys, are dictionaries; binary is bytes, and so is text that is not UTF-8. What lies
    deeper than `MAX_DEPTH` and types that PyArrow cannot convert are `UNREADABLE`.
    """
    kind, types = array.type, pa.types
    if depth > MAX_DEPTH + 1:
        return [UNREADABLE] * len(array)
    if isinstance(kind, pa.BaseExtensionType):
        return _of_extension(kind.extension_name, values(array.storage, depth))
    if types.is_dictionary(kind):
        # Each word once: copied to every row, a long one may take any amount of memory.
        used = array.indices.drop_null().unique()
        words = dict(zip(used.to_pylist(), values(array.dictionary.take(used), depth), strict=True))
        return [words.get(index) for index in array.indices.to_pylist()]
    if types.is_struct(kind):
        return _structs(array, depth)
    if types.is_list(kind) or types.is_large_list(kind):
        ends = array.offsets.to_pylist()  # all at once: a word that repeats in lists is converted once
        items = values(array.values.slice(ends[0], ends[-1] - ends[0]), depth + 1)
        rows = zip(array.is_valid().to_pylist(), ends, ends[1:], strict=False)
        return [items[start - ends[0] : end - ends[0]] if valid else None for valid, start, end in rows]
    if types.is_nested(kind) and not types.is_union(kind):
        return [_items(scalar, depth) for scalar in array]
    if types.is_temporal(kind) and not types.is_interval(kind):
        convert = _temporal(kind)
        numbers = array.view(pa.int32() if kind.bit_width == 32 else pa.int64()).to_pylist()
        return [convert(number) if number is not None else None for number in numbers]
    try:
        plain: list[object] = array.to_pylist()
        return plain
    except (UnicodeDecodeError, ValueError, OverflowError, KeyError, pa.ArrowException):
        return [_cell(scalar) for scalar in array]


def _cell(scalar: pa.Scalar) -> object:
    try:
        plain: object = scalar.as_py()
        return plain
    except UnicodeDecodeError:
        return bytes(scalar.as_buffer())
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return UNREADABLE


def _of_extension(name: str, stored: list[object]) -> list[object]:
    """Return the values of an extension type by what they are stored as; PyArrow's own canonical types by meaning."""
    if name == "arrow.uuid":
        return [UUID(bytes=item) if isinstance(item, bytes) else item for item in stored]
    if name == "arrow.bool8":
        return [bool(item) if item is not None else None for item in stored]
    return stored


def _structs(array: pa.StructArray, depth: int) -> list[object]:
    names = [field.name for field in array.type]
    columns = [values(child, depth + 1) for child in array.flatten()]
    rows = zip(*columns, strict=True) if columns else [()] * len(array)
    valid = array.is_valid().to_pylist()
    return [
        to_fields(list(zip(names, row, strict=True))) if there else None for there, row in zip(valid, rows, strict=True)
    ]


def _items(scalar: pa.Scalar, depth: int) -> object:
    """Return one list, or one map."""
    if not scalar.is_valid:
        return None
    if not pa.types.is_map(scalar.type):
        return values(scalar.values, depth + 1)
    keys, items = (values(child, depth + 1) for child in scalar.values.flatten())
    pairs = list(zip(keys, items, strict=True))
    if all(isinstance(key, str) for key in keys):
        return to_fields([(str(key), item) for key, item in pairs])
    return [list(pair) for pair in pairs]


def _temporal(kind: pa.DataType) -> Callable[[int], object]:
    """Return what makes dates, times, points in time or lengths of it of numbers; text of what Python's do not hold."""
    types = pa.types
    is_date, is_time, is_length = types.is_date(kind), types.is_time(kind), types.is_duration(kind)
    unit = "D" if types.is_date32(kind) else "ms" if types.is_date64(kind) else kind.unit
    zone = "+00:00" if types.is_timestamp(kind) and kind.tz else ""

    def convert(number: int) -> object:
        microseconds, rest = divmod(number * _NANOSECONDS[unit], 1000)
        try:
            since = timedelta(microseconds=microseconds)
            if (is_length and rest) or (is_time and not timedelta(0) <= since < _DAY):
                return f"{number} {unit}"
            moment = since if is_length else _EPOCH + since
        except OverflowError:
            beyond = np.array(number).astype(f"datetime64[{unit}]")
            return f"{number} {unit}" if is_length else f"{beyond.astype('datetime64[D]') if is_date else beyond}{zone}"
        if not isinstance(moment, datetime):
            return moment
        if is_date:
            return moment.date()
        found = moment.time() if is_time else moment
        if rest:
            return f"{found.isoformat(timespec='microseconds')}{rest:03d}{zone}"
        return moment.replace(tzinfo=UTC) if zone else found

    return convert
