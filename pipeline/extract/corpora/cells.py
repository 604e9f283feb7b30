"""Arrow arrays to Python values, exactly: what no type of Python's holds comes as text, and nothing comes as nothing.

PyArrow's own conversion asks a time zone database for every name that a file may hold, and gives up on nanoseconds, on
years beyond 9999, on text that is not UTF-8 and on structs with two fields of one name. So it is asked only for what
cannot fail. Points in time with a zone are given in UTC, whatever the zone is called.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import numpy as np
import pyarrow as pa

from pipeline.extract.corpora.rows import MAX_DEPTH, UNREADABLE, to_fields

_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1)
_DAY = timedelta(days=1)


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
    if types.is_timestamp(kind):
        zone = UTC if kind.tz else None
        return _each(array, lambda number: _moment(number, kind.unit, zone))
    if types.is_duration(kind):
        return _each(array, lambda number: _duration(number, kind.unit))
    if types.is_time(kind):
        return _each(array, lambda number: _time(number, kind.unit))
    if types.is_date32(kind):
        return _each(array, lambda number: _date(number))
    if types.is_date64(kind):
        return _each(array, lambda number: _date(number // 86_400_000))
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


def _each(array: pa.Array, convert: Callable[[int], object]) -> list[object]:
    whole = pa.int32() if array.type.bit_width == 32 else pa.int64()
    return [convert(number) if number is not None else None for number in array.view(whole).to_pylist()]


def _microseconds(number: int, unit: str) -> tuple[timedelta, int]:
    """Return so many units as whole microseconds, and the nanoseconds that are left. Raises: OverflowError."""
    nanoseconds = number * (_PER_SECOND["ns"] // _PER_SECOND[unit])
    return timedelta(microseconds=nanoseconds // 1000), nanoseconds % 1000


def _moment(number: int, unit: str, zone: object) -> object:
    try:
        since, rest = _microseconds(number, unit)
        moment = _EPOCH + since
    except OverflowError:
        return f"{np.array(number).astype(f'datetime64[{unit}]')}" + ("+00:00" if zone else "")
    if rest:
        return f"{moment.isoformat(timespec='microseconds')}{rest:03d}" + ("+00:00" if zone else "")
    return moment.replace(tzinfo=UTC) if zone else moment


def _date(days: int) -> object:
    try:
        return date(1970, 1, 1) + timedelta(days=days)
    except OverflowError:
        return f"{np.array(days).astype('datetime64[D]')}"


def _time(number: int, unit: str) -> object:
    since, rest = _microseconds(number, unit)
    if not timedelta(0) <= since < _DAY:
        return f"{number} {unit}"
    clock = (_EPOCH + since).time()
    return f"{clock.isoformat(timespec='microseconds')}{rest:03d}" if rest else clock


def _duration(number: int, unit: str) -> object:
    try:
        length, rest = _microseconds(number, unit)
    except OverflowError:
        return f"{number} {unit}"
    return f"{number} {unit}" if rest else length
