"""One row of an existing corpus (a line of JSONL, a row of CSV or Parquet) to a document or a reject."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

from pipeline.extract.units import Document, Origin, Reject
from pipeline.table.errors import nearest
from pipeline.table.schema import RejectReason

OUR_COLUMNS = ("text", "url", "title", "date", "licence", "id")
METADATA_BYTES = 64 << 10  # JSON of the other fields of a row
MAX_DEPTH = 64  # nesting of a row's fields
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SURROGATE = re.compile("[\ud800-\udfff]")
_PART_OF_A_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?")


@dataclass(frozen=True, slots=True)
class RowItem:
    """One row, or a stretch that cannot be read. `offset` is where reading may begin again: a byte of the decompressed
    file, for Parquet a row number. `record_type` is "row", or what is no unit: "damage" for a stretch, "file" for a
    whole input that cannot be read.
    """

    offset: int
    result: Document | Reject
    record_type: str = "row"
    resumable: bool = True

    @property
    def is_unit(self) -> bool:
        """Whether this has to end as a document or a reject, and is not mere damage."""
        return self.record_type == "row"


class _TooDeepError(Exception):
    """A field is nested deeper than MAX_DEPTH."""


def row_reject(file: str, offset: int, reason: RejectReason, detail: str) -> RowItem:
    """Return a row that could not be parsed."""
    return RowItem(offset, Reject(Origin(file, offset), None, reason, detail[:300]))


def row_damage(file: str, offset: int, detail: str, *, cut: bool = False) -> RowItem:
    """Return a stretch that cannot be read, and may have held any number of rows."""
    reason: RejectReason = "truncated_input" if cut else "damaged"
    return RowItem(offset, Reject(Origin(file, offset), None, reason, detail[:300]), "damage")


def file_reject(file: str, reason: RejectReason, detail: str) -> RowItem:
    """Return the one reject of an input that cannot be read at all."""
    return RowItem(0, Reject(Origin(file, 0), None, reason, detail[:300]), "file")


def to_item(file: str, offset: int, fields: Mapping[str, object], columns: Mapping[str, str], limit: int) -> RowItem:
    """Return the document in `fields`, or the reject that it calls for; `columns` maps our names to theirs.

    Fields that are not ours go to `metadata`, and so do ours whose values do not fit (a number as title, an unreadable
    date). Halves of surrogate pairs become U+FFFD, numbers that JSON lacks become null.
    """
    theirs = {ours: columns.get(ours, ours) for ours in OUR_COLUMNS}
    text = fields.get(theirs["text"])
    identifier = fields.get(theirs["id"])
    used = {theirs["text"]}
    record_id = _identifier(identifier)
    if record_id is not None:
        used.add(theirs["id"])
    strings: dict[str, str | None] = {}
    for ours in ("url", "title", "licence"):
        value = fields.get(theirs[ours])
        strings[ours] = _clean(value) if isinstance(value, str) and value else None
        if value is None or isinstance(value, str):
            used.add(theirs[ours])
    when = to_date(fields.get(theirs["date"]))
    if when is not None or fields.get(theirs["date"]) is None:
        used.add(theirs["date"])
    origin = Origin(file, offset, record_id)
    refused = _refuse(text, theirs["text"], fields, limit)
    if refused is not None:
        return RowItem(offset, Reject(origin, strings["url"], *refused))
    assert isinstance(text, str)
    try:
        metadata = _metadata({name: value for name, value in fields.items() if name not in used})
    except _TooDeepError:
        return RowItem(offset, Reject(origin, strings["url"], "too_deep", f"fields are nested over {MAX_DEPTH} deep"))
    document = Document(
        origin, strings["url"], _clean(text), strings["title"], when, strings["licence"], metadata=metadata
    )
    return RowItem(offset, document)


def _refuse(text: object, name: str, fields: Mapping[str, object], limit: int) -> tuple[RejectReason, str] | None:
    if not isinstance(text, str):
        if name not in fields:
            return "damaged", f"there is no field {name!r}{nearest(name, fields)}"[:300]
        return "damaged", f"field {name!r} is {type(text).__name__}, not a string"
    if not text or text.isspace():
        return "empty", f"field {name!r} is empty"
    if not text.strip("\0 \t\r\n"):
        return "damaged", f"field {name!r} holds nothing but NUL characters"
    if len(text) > limit:
        return "oversize", f"field {name!r} has {len(text)} characters, the limit is {limit}"
    return None


def to_date(value: object) -> datetime | None:
    """Return a point in time in UTC from ISO 8601 text, or seconds, milli- or microseconds since 1970; else None.

    Times without a zone are taken as UTC, a year or a month alone as its first day.
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
    if value.isascii() and value.isdigit() and 9 <= len(value) <= 16:
        return _date_of_number(int(value))
    if match := _PART_OF_A_DATE.fullmatch(value):
        return datetime(int(match[1]), int(match[2] or 1), 1, tzinfo=UTC)
    return to_date(datetime.fromisoformat(value))


def _date_of_number(value: float) -> datetime | None:
    if not math.isfinite(value):
        return None
    size = abs(value)
    seconds = value / 1e6 if size >= 1e14 else value / 1e3 if size >= 1e11 else value
    return _EPOCH + timedelta(seconds=seconds)


def _identifier(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 128:
        return str(value)
    return _clean(value) if isinstance(value, str) and 0 < len(value) <= 1024 else None


def _clean(text: str) -> str:
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _metadata(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields as JSON can hold them; what is over the size limit is left out and named in `_omitted`."""
    kept: dict[str, object] = {}
    omitted: list[str] = []
    size = 0
    for name, value in fields.items():
        plain = _plain(value, 1)
        if plain is None:
            continue
        cost = len(name) * 4 + (len(plain) if isinstance(plain, str) else len(json.dumps(plain)))
        if size + cost > METADATA_BYTES:
            omitted.append(_clean(name)[:100])
            continue
        size += cost
        kept[_clean(name)] = plain
    if omitted:
        kept["_omitted"] = sorted(omitted)[:100]
    return kept


def _plain(value: object, depth: int) -> object:
    """Return `value` with nothing in it that JSON or Parquet lacks; bytes are left out."""
    if depth > MAX_DEPTH:
        raise _TooDeepError
    if isinstance(value, str):
        return _clean(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_clean(str(key)): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    return str(value) if isinstance(value, (Decimal, timedelta)) else None
