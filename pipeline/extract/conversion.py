"""Content of any kind to text in isolated workers: both ends of what is said between a reader's process and theirs.

Light on purpose: a worker imports this module, so neither pyarrow nor the schema is imported at its head. What comes
back is read with care, because hostile content may have taken the worker over: JSON whose every field is checked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.table.errors import GristmillError

if TYPE_CHECKING:
    from pipeline.extract.isolation import WorkerPool
    from pipeline.extract.units import Document, Page, Raw, Reject
    from pipeline.table.schema import KeptType, RejectReason

_LENGTH = struct.Struct("<I")
ROUTES = frozenset({"text", "ocr", "vlm", "blank", "failed"})
_SCALARS: dict[str, tuple[type, ...]] = {"text": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


class RefusedError(GristmillError):
    """Content of which no text can be made; the unit becomes a reject."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Converted:
    """What a worker made of content; what is None, or not named, stays as the reader said. `date` is in UTC."""

    text: str
    title: str | None = None
    date: datetime | None = None
    licence: str | None = None
    metadata: dict[str, object] = field(default_factory=dict)
    kept: dict[str, object] = field(default_factory=dict)
    """Values of the format's own columns."""
    pages: list[tuple[int, int, str, float | None]] | None = None
    """Of each page where its text begins and ends, its route and confidence (`units.PageText`)."""
    pictures: list[str] = field(default_factory=list)


Convert = Callable[[bytes, Mapping[str, Any]], Converted]
"""Makes text of a payload and its facts, in a worker. Raises: RefusedError."""


def handler(convert: Convert) -> Callable[[bytes], bytes]:
    """Return what a worker does with each request. A reader's `make_handler` returns it."""

    def handle(message: bytes) -> bytes:
        (length,) = _LENGTH.unpack_from(message)
        facts = json.loads(message[_LENGTH.size : _LENGTH.size + length])
        try:
            found = asdict(convert(message[_LENGTH.size + length :], facts))
        except RefusedError as error:
            return json.dumps({"reason": error.reason, "detail": error.detail}).encode()
        found["date"] = found["date"].isoformat() if found["date"] else None
        return json.dumps(found, ensure_ascii=False).encode("utf-8", "replace")

    return handle


def converted(
    pool: WorkerPool, units: Iterable[Page | Raw | Document | Reject], columns: Mapping[str, KeptType]
) -> Iterator[Page | Document | Reject]:
    """Yield one document or reject for each unit, in order; none can drop. What is no `Raw` passes through,
    pages to their own workers.

    `pool` runs the format's handler; `columns` are the format's own. `units` is read lazily, a bounded number ahead.

    Raises: GristmillError when workers cannot be started.
    """
    from pipeline.extract.isolation import WorkerFailure
    from pipeline.extract.units import MAX_DETAIL, Raw, Reject

    def requests() -> Iterator[tuple[Page | Raw | Document | Reject, bytes | None]]:
        for unit in units:
            if isinstance(unit, Raw):
                head = json.dumps(dict(unit.facts)).encode()
                yield replace(unit, payload=b""), b"".join((_LENGTH.pack(len(head)), head, unit.payload))
            else:
                yield unit, None

    for unit, answer in pool.imap(requests()):
        if not isinstance(unit, Raw):
            yield unit
            continue
        known = unit.document
        try:
            if isinstance(answer, WorkerFailure):
                raise RefusedError(answer.reason, answer.detail)
            assert answer is not None, "each request has an answer"
            yield _joined(known, _read(answer), columns)
        except RefusedError as refused:
            yield Reject(known.origin, known.url, refused.reason, refused.detail[:MAX_DETAIL])


def _read(answer: bytes) -> Converted:
    """Return what a worker's answer says. Raises: RefusedError: what it refused, or an answer that none writes."""
    from pipeline.table.schema import REJECT_REASONS

    try:
        text = answer.decode("utf-8")
        fields = json.loads(text)
        if "\\u" in text:  # an escaped lone surrogate fails here, not in Arrow
            json.dumps(fields, ensure_ascii=False).encode()
        if fields.keys() == {"reason", "detail"} and fields["reason"] in REJECT_REASONS:
            raise RefusedError(fields["reason"], str(fields["detail"]))
        fields["date"] = datetime.fromisoformat(fields["date"]) if fields["date"] else None
        found = Converted(**fields)
        is_sound = isinstance(found.text, str) and isinstance(found.metadata, dict) and isinstance(found.kept, dict)
        if not is_sound or any(not isinstance(each, (str, type(None))) for each in (found.title, found.licence)):
            raise TypeError("a field of a wrong type")
        if found.pages is not None and not _are_pages(found.pages, len(found.text)):
            raise TypeError("pages that are none")
        if not isinstance(found.pictures, list) or any(not isinstance(each, str) for each in found.pictures):
            raise TypeError("pictures that are none")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RefusedError("crash", f"a worker's answer is none: {error}") from error
    return found


def _joined(known: Document, found: Converted, columns: Mapping[str, KeptType]) -> Document:
    from pipeline.extract.units import PageText

    for name, value in found.kept.items():
        if name not in columns or not _fits(value, columns[name]):
            raise RefusedError("crash", f"a worker's answer has a column {name!r} of a wrong type")
    return replace(
        known,
        text=found.text,
        title=found.title if found.title is not None else known.title,
        date=found.date or known.date,
        licence=found.licence or known.licence,
        metadata=known.metadata | {name: value for name, value in found.metadata.items() if value is not None},
        kept=known.kept | found.kept,
        pages=None if found.pages is None else tuple(PageText(*page) for page in found.pages),
        pictures=tuple(found.pictures),
    )


def _are_pages(pages: list[Any], length: int) -> bool:
    """Whether these follow one another in a text of `length` characters."""
    end = 0
    for first, last, route, sure in pages:
        is_placed = type(first) is int and type(last) is int and end <= first <= last <= length
        if not is_placed or route not in ROUTES or not (sure is None or 0 <= sure <= 1):
            return False
        end = last
    return True


def _fits(value: object, kind: str) -> bool:
    if value is None:
        return True
    if kind.endswith("[]"):
        return isinstance(value, list) and all(_fits(each, kind[:-2]) for each in value)
    return isinstance(value, _SCALARS.get(kind, ())) and isinstance(value, bool) <= (kind == "bool")
