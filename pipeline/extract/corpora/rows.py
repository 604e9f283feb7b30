"""One row of an existing corpus (a line of JSONL, a row of CSV or Parquet) to a document or a reject."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from uuid import UUID

from pipeline.extract.config import ExtractLimits, KeepColumn
from pipeline.extract.members import DamagedMember
from pipeline.extract.units import DAMAGE, Document, Entry, Origin, Reject, refuse
from pipeline.table.errors import InputError, nearest
from pipeline.table.schema import RejectReason

METADATA_BYTES = 64 << 10  # JSON of the other fields of a row
KEPT_CHARACTERS = 64 << 10  # of one value that becomes a column: what rules read is narrow
MAX_DEPTH = 64  # nesting of a row's fields
TOO_DEEP = f"fields are nested over {MAX_DEPTH} deep"
MAX_NAMED = 100
"""Names in `_omitted`; behind them stands how many more there are."""
UNREADABLE = object()
"""A value that is there and cannot be read."""
UNFIT = object()
"""What `fit` returns of a value that the type cannot hold."""
Keys = tuple[str, ...]
"""The names that lead to a field, from the outermost in."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_INTEGER = re.compile(r"[+-]?[0-9]{1,19}(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")
_PART_OF_A_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?")
_DIGITS = re.compile(r"-?[1-9][0-9]{3,18}(?:\.[0-9]{1,9})?")
_UNITS_PER_SECOND = {9: 1, 10: 1, 12: 10**3, 13: 10**3, 15: 10**6, 16: 10**6, 18: 10**9, 19: 10**9}  # by digits


class _TooDeepError(Exception):
    """A field is nested deeper than MAX_DEPTH."""


class _UnknownValueError(Exception):
    """A field holds what cannot be said in JSON."""


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of an existing corpus, and how its rows are read.

    `columns` maps our names (text, url, title, date, licence, id) to paths of theirs, and names that it lacks are the
    same. `keep` are fields that become columns of their own.
    """

    file: str
    columns: Mapping[str, str]
    limits: ExtractLimits
    keep: Mapping[str, KeepColumn] = field(default_factory=dict)

    def path(self, name: str) -> str:
        """Return the path of the field that becomes our column `name`."""
        return self.columns.get(name, name)

    def check(self, known: Sequence[str], lookup: Callable[[str], Keys | None]) -> None:
        """Raise InputError when a file of the columns `known` lacks a mapped one or text, or has several of that name.

        `lookup` finds a path, as `find` does.
        """
        mapped = {"text": "text", **self.columns, **{name: column.path for name, column in self.keep.items()}}
        for ours, theirs in mapped.items():
            keys = lookup(theirs)
            if keys is None and ours not in self.keep:  # a kept column is null in a file that lacks it
                listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
                hint = "" if ours in self.columns else "; map one: `columns: {text: NAME}`"
                raise InputError(f"{self.file}: no column {theirs!r}{nearest(theirs, known)}; it has {listed}{hint}")
            if keys == ():
                raise InputError(f"{self.file}: several columns are called {theirs!r}; rename all but one in the file")

    def entry(self, offset: int, fields: Mapping[str, object]) -> Entry:
        """Return the document in a row's fields, or the reject that it calls for.

        Fields that are not ours go to `metadata`, and so do ours whose values do not fit (a number as title, an
        unreadable date). Those of `keep` become the document's own columns; where a value does not fit its type the
        column is null, the value goes to `metadata`, and `_unfit` names the column. Halves of surrogate pairs become
        U+FFFD.
        """
        text_keys, text = find(fields, self.path("text"))
        text = as_text(text, readable=False)
        used = {text_keys} if text_keys else set()
        url, title, licence = (_string(fields, self.path(name), used) for name in ("url", "title", "licence"))
        keys, identifier = find(fields, self.path("id"))
        record_id = _identifier(as_text(identifier))
        if keys and record_id is not None:
            used.add(keys)
        keys, named = find(fields, self.path("date"))
        when = to_date(as_text(named))
        if keys and (when is not None or named is None):
            used.add(keys)
        origin = Origin(self.file, offset, record_id)
        refused = _refuse(text, self.path("text"), text_keys, fields, self.limits.record_bytes)
        if refused is not None:
            return Entry(offset, Reject(origin, url, *refused))
        assert isinstance(text, str)
        kept, unfit = _keep(fields, self.keep, used)
        try:
            metadata = _metadata(_without(fields, used), unfit)
        except _TooDeepError:
            return Entry(offset, Reject(origin, url, "too_deep", TOO_DEEP))
        return Entry(offset, Document(origin, url, _clean(text), title, when, licence, metadata, kept, tuple(unfit)))

    def refuse(self, offset: int, reason: RejectReason, detail: str) -> Entry:
        """Return a row that cannot be read."""
        return refuse(self.file, offset, reason, detail)

    def damage(self, offset: int, error: DamagedMember, detail: str = "") -> Entry:
        """Return a stretch that cannot be read, and may have held any number of rows."""
        return refuse(self.file, offset, error.reason, detail or str(error), DAMAGE)


def _string(fields: Mapping[str, object], path: str, used: set[Keys]) -> str | None:
    """Return the text at `path`, and add its place to `used`; None when it is empty, absent or no text."""
    keys, value = find(fields, path)
    value = as_text(value)
    if keys and (value is None or isinstance(value, str)):
        used.add(keys)
    return _clean(value) if isinstance(value, str) and value else None


class Repeating(dict[str, object]):
    """Fields of which some have one name: the later ones are called `name_2`, `name_3`. `repeated` are their names."""

    def __init__(self, pairs: Sequence[tuple[str, object]]) -> None:
        super().__init__()
        taken = {name for name, _ in pairs}
        seen: Counter[str] = Counter()
        for name, value in pairs:
            seen[name] += 1
            free = name
            while seen[name] > 1 and (free := f"{name}_{seen[name]}") in taken:
                seen[name] += 1
            taken.add(free)
            self[free] = value
        self.repeated = frozenset(name for name, times in seen.items() if times > 1)


def to_fields(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Return an object's fields; none is lost when two have one name."""
    fields = dict(pairs)
    return fields if len(fields) == len(pairs) else Repeating(pairs)


def find(fields: Mapping[str, object], path: str) -> tuple[Keys | None, object]:
    """Return the keys that lead to `path`, and the value: of a field of that very name, or inside others (`meta.url`).

    Text that is a JSON object counts as one: corpora in Parquet often have their metadata so.
    The keys are None when nothing is there, and empty when several fields have the name: nobody can say which is meant.
    """
    repeated = fields.repeated if isinstance(fields, Repeating) else ()
    if path in fields:
        return ((path,), fields[path]) if path not in repeated else ((), None)
    end = path.rfind(".")
    while end > 0:
        inner = fields.get(path[:end])
        if isinstance(inner, str) and inner.startswith("{"):
            inner = _json_object(inner)
        rest, value = find(inner, path[end + 1 :]) if isinstance(inner, Mapping) else (None, None)
        if rest is not None:
            return ((path[:end], *rest), value) if rest and path[:end] not in repeated else ((), None)
        end = path.rfind(".", 0, end)
    return None, None


@lru_cache(maxsize=2)  # several columns come from one field of a row
def _json_object(text: str) -> Mapping[str, object] | None:
    try:
        found = json.loads(text, object_pairs_hook=to_fields)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, Mapping) else None


def _without(fields: Mapping[str, object], used: Collection[Keys]) -> dict[str, object]:
    """Return the fields but for those at `used`, and for what held nothing else."""
    left = {name: value for name, value in fields.items() if (name,) not in used}
    for name in sorted({keys[0] for keys in used if len(keys) > 1}):
        inner = left.get(name)
        if isinstance(inner, Mapping):
            left[name] = _without(inner, {keys[1:] for keys in used if keys[0] == name and len(keys) > 1})
            if not left[name]:
                del left[name]
    return left


def _keep(
    fields: Mapping[str, object], keep: Mapping[str, KeepColumn], used: set[Keys]
) -> tuple[dict[str, object], list[str]]:
    """Return the kept columns' values and the columns whose value does not fit; the others' places go to `used`."""
    kept: dict[str, object] = {}
    unfit: list[str] = []
    for name, column in keep.items():
        keys, value = find(fields, column.path)
        fitted = fit(value, column.type or "text") if keys != () else UNFIT
        if fitted is UNFIT:
            unfit.append(name)
            continue
        kept[name] = fitted
        if keys and (fitted is not None or value is None):
            used.add(keys)
    return kept, unfit


def _refuse(
    text: object, name: str, keys: Keys | None, fields: Mapping[str, object], limit: int
) -> tuple[RejectReason, str] | None:
    if keys == ():
        return "damaged", f"there are several fields {name!r}"
    if not isinstance(text, str):
        if keys is None:
            return "damaged", f"there is no field {name!r}{nearest(name, _paths(fields))}"[:300]
        if isinstance(text, bytes):
            return "damaged", f"field {name!r} holds invalid UTF-8"
        return "damaged", f"field {name!r} is {type(text).__name__}, not a string"
    if not text or text.isspace():
        return "empty", f"field {name!r} is empty"
    if not text.strip("\0 \t\r\n"):
        return "damaged", f"field {name!r} holds nothing but NUL characters"
    if len(text) > limit:
        return "oversize", f"field {name!r} has {len(text)} characters, the limit is {limit}"
    return None


def to_date(value: object) -> datetime | None:
    """Return a point in time in UTC from ISO 8601 text or from a number, as such or as text; else None.

    Times without a zone are taken as UTC, a year or a month alone as its first day. A number is read by its digits:
    2021, 202103, 20210304 and on to the second, or seconds, milli-, micro- or nanoseconds since 1970 of the years from
    1973 to 2286. What may be both, or is neither, is no date.
    """
    try:
        if isinstance(value, datetime):
            return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, str):
            return _date_of_text(value.strip())
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return _date_of_number(value)
    except (ValueError, OverflowError):
        return None
    return None


def _date_of_text(value: str) -> datetime | None:
    if _DIGITS.fullmatch(value):
        return _date_of_number(float(value) if "." in value else int(value))
    if match := _PART_OF_A_DATE.fullmatch(value):
        return datetime(int(match[1]), int(match[2] or 1), 1, tzinfo=UTC)
    return to_date(datetime.fromisoformat(value))


def _date_of_number(value: float) -> datetime | None:
    digits = str(abs(int(value)))
    if value == int(value) > 0 and (written := _calendar_date(digits)):
        return None if len(digits) == 10 else written  # which may as well be a second of the years from 2030 to 2036
    units = _UNITS_PER_SECOND.get(len(digits))
    return _EPOCH + timedelta(seconds=value / units) if units else None


def _calendar_date(digits: str) -> datetime | None:
    """Return what digits mean as year, month and so on. Of ten or twelve, early years are rather times since 1970."""
    earliest = 1900 if len(digits) in (10, 12) else 1000
    if len(digits) not in (4, 6, 8, 10, 12, 14) or not earliest <= int(digits[:4]) <= 2100:
        return None
    month, day, hour, minute, second = (int(digits[place : place + 2] or place < 8) for place in range(4, 14, 2))
    try:
        return datetime(int(digits[:4]), month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def _identifier(value: object) -> str | None:
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 128):
        return str(value)
    return _clean(value) if isinstance(value, str) and 0 < len(value) <= 1024 else None


def _clean(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def as_text(value: object, readable: bool = True) -> object:
    """Return bytes that are UTF-8 as text, anything else as it is: old writers of Parquet mark no text as such.

    With `readable`, nothing in it but line ends and tabs may be a control character: a hash of few bytes can be UTF-8.
    """
    if not isinstance(value, bytes):
        return value
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return value
    return value if readable and _CONTROL.search(text) else text


def _paths(fields: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the paths of some fields, for a message: two floors, so many of each."""
    for name, value in islice(fields.items(), 100):
        yield prefix + name
        if isinstance(value, Mapping) and not prefix:
            yield from _paths(value, f"{name}.")


def _metadata(fields: Mapping[str, object], unfit: Sequence[str]) -> dict[str, object]:
    """Return the fields as JSON can hold them. What it cannot, or what is over the size limit, is named in `_omitted`.

    Nulls are left out; `_unfit` names the kept columns whose values did not fit.
    """
    kept: list[tuple[str, object]] = []
    omitted: list[str] = []
    size = 0
    for name, value in fields.items():
        try:
            if _room_left(value, METADATA_BYTES - size) < 0:
                raise _UnknownValueError
            plain = _plain(value, 1)
        except _UnknownValueError:
            omitted.append(_clean(name)[:100])
            continue
        if plain is None:
            continue
        cost = len(name) * 4 + (len(plain) if isinstance(plain, str) else len(json.dumps(plain)))
        if size + cost > METADATA_BYTES:
            omitted.append(_clean(name)[:100])
            continue
        size += cost
        kept.append((_clean(name), plain))
    notes: list[tuple[str, object]] = [("_unfit", list(unfit))] if unfit else []
    if omitted:
        more = [f"and {len(omitted) - MAX_NAMED} more"] if len(omitted) > MAX_NAMED else []
        notes.append(("_omitted", sorted(omitted)[:MAX_NAMED] + more))
    return to_fields([*notes, *kept])


def _room_left(value: object, room: int, depth: int = 1) -> int:
    """Return how much of `room` characters a value leaves at most, less than none as soon as that is known.

    A list of a Parquet file can name a long word any number of times.
    """
    if isinstance(value, str):
        return room - len(value)
    if isinstance(value, (Mapping, list)) and depth <= MAX_DEPTH:
        for item in value.values() if isinstance(value, Mapping) else value:
            room = _room_left(item, room - 1, depth + 1)
            if room < 0:
                break
    return room


def _plain(value: object, depth: int) -> object:
    """Return `value` with nothing in it that JSON or Parquet lacks: NaN is null, bytes and infinities are text.

    Raises: _TooDeepError; _UnknownValueError when something in it cannot be said.
    """
    if depth > MAX_DEPTH:
        raise _TooDeepError
    if isinstance(value, str):
        return _clean(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        infinity = "Infinity" if value > 0 else "-Infinity"
        return value if math.isfinite(value) else None if math.isnan(value) else infinity
    if isinstance(value, Mapping):
        return to_fields([(_clean(key), _plain(item, depth + 1)) for key, item in value.items()])
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes) and len(value) <= METADATA_BYTES:
        text = as_text(value)
        return text if isinstance(text, str) else f"0x{value.hex()}"
    if isinstance(value, (Decimal, timedelta, UUID)):
        return str(value)
    raise _UnknownValueError


def fit(value: object, kind: str) -> object:
    """Return `value` as a kept column of type `kind` holds it: exactly, or None for no value, or `UNFIT`.

    Text that reads as a number, a date, `true` or `false` is one, since CSV has nothing but text; a number is no text.
    Whole floats are integers, dates are what `to_date` reads.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind.endswith("[]"):
        is_short = isinstance(value, list) and _room_left(value, 8 * KEPT_CHARACTERS) >= 0
        items = [fit(item, kind[:-2]) for item in value] if is_short and isinstance(value, list) else [UNFIT]
        size = sum(len(item) if isinstance(item, str) else 8 for item in items)
        return items if all(item is not UNFIT for item in items) and size <= KEPT_CHARACTERS else UNFIT
    value = as_text(value)
    if kind == "text":
        if isinstance(value, (UUID, Decimal, timedelta, time)):
            return str(value)
        return _clean(value) if isinstance(value, str) and len(value) <= KEPT_CHARACTERS else UNFIT
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return None
    match kind:
        case "int":
            return _to_int(value)
        case "float":
            return _to_float(value)
        case "date":
            return to_date(value) or UNFIT
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), UNFIT)
    return value if isinstance(value, bool) else UNFIT


def _to_int(value: object) -> object:
    number: int | None = None
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        number = int(value.partition(".")[0])
    elif isinstance(value, (float, Decimal)) and -(1 << 53) <= value <= 1 << 53 and value == int(value):
        number = int(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        number = value
    if number is None or not -(1 << 63) <= number < 1 << 63:
        return UNFIT
    return number


def _to_float(value: object) -> object:
    if isinstance(value, float):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        return UNFIT
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return UNFIT
    try:
        number = float(value)
    except OverflowError:
        return UNFIT
    exact = math.isfinite(number) and (not isinstance(value, int) or int(number) == value)
    return number if exact else UNFIT
