"""Web archives (WARC, ARC, WET; gzip, lz4, zstd or plain) to pages and rejects.

Units are the response, resource, conversion and revisit records, and every ARC record but the file's own header. Each
ends as exactly one `Page` or one `Reject`; other records are only counted, and damage that belongs to no unit is a
reject apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Literal

from pipeline.extract import http
from pipeline.extract.config import ExtractLimits
from pipeline.extract.members import MAGIC, DamagedMember, Format, Member, RawInput, candidates, detect
from pipeline.extract.records import Record, RecordReader, starts_arc, starts_warc
from pipeline.extract.units import Origin, Page, Reject
from pipeline.table.errors import InputError
from pipeline.table.schema import RejectReason

UNIT_TYPES = frozenset({"response", "resource", "conversion", "revisit", "arc"})
DAMAGE = "damage"
HEADER_ALLOWANCE_BYTES = 1 << 20  # of a block, on top of the payload's limit
MAX_DETAIL = 300
SOUND_PIECES = 4
KEPT_HEADERS = frozenset(
    {"last-modified", "date", "content-language", "content-location", "content-disposition", "link", "x-robots-tag"}
)
MAX_HEADER_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class WarcItem:
    """One record, or one damaged stretch, of a web archive.

    `offset` is the raw byte at which it begins (for records that share a compressed member: at which that member does).
    `record_type` is the WARC type in lower case, "arc", "filedesc", "unknown", or "damage" for what is no unit.
    `result` is None for records that are only counted. When `resumable`, reading may begin again at `offset`.
    """

    offset: int
    resumable: bool
    record_type: str
    result: Page | Reject | None

    @property
    def is_unit(self) -> bool:
        """Whether this has to end as a document or a reject, and is not damage or a record that is only counted."""
        return self.record_type in UNIT_TYPES


def read_warc(
    stream: BinaryIO, file: str, start: int, limits: ExtractLimits, seen: set[str] | None = None
) -> Iterator[WarcItem]:
    """Yield every record of a seekable web archive from the raw offset `start` on, in file order; none can drop.

    `start` is 0 or the `offset` of a resumable item: then exactly the items from there on come, but for record ids.
    Those of the units are added to `seen`; a unit whose id is already there is rejected (`duplicate_record`). A file of
    no bytes is one reject (`truncated_input`). Memory does not grow with a record: what is over the limit streams past.

    Raises: InputError when the file holds no record and nothing that could be a damaged one.
    """
    raw = RawInput(stream)
    seen = set() if seen is None else seen
    if raw.size == 0:
        yield _damage(file, Record(0, 0, "damage", damage="the file is empty", cut=True))
        return
    form, kind = _identify(raw)
    records = RecordReader(raw, form, kind, limits.payload_bytes + HEADER_ALLOWANCE_BYTES).records(start)
    first = next(records, None)
    if start == 0 and (first is None or first.kind == "damage"):
        second = next(records, None) if first is not None else None
        if second is None and not _is_broken_archive(raw, form):
            head = raw.exactly(0, 24)
            raise InputError(f"{file}: not a WARC or ARC file (starts with {head!r}); correct `inputs` or `format`")
        if first is not None:
            yield _to_item(file, first, limits, seen)
        first = second
    if first is not None:
        yield _to_item(file, first, limits, seen)
    for record in records:
        yield _to_item(file, record, limits, seen)


def _identify(raw: RawInput) -> tuple[Format, Literal["warc", "arc"]]:
    """Return how the file is stored and which kind of records it has, from its beginning."""
    form = detect(raw)
    head = _head(raw, form, 0)
    if starts_arc(head):
        return form, "arc"
    return (form, "warc") if starts_warc(head) else _identify_damaged(raw, form)


def _identify_damaged(raw: RawInput, seeming: Format) -> tuple[Format, Literal["warc", "arc"]]:
    """Do the same for a file that begins with garbage: by the first record to be found in it."""
    plain = Format("plain")
    found: list[tuple[int, Format, Literal["warc", "arc"]]] = []
    for kind in ("warc", "arc"):
        offset = RecordReader(raw, plain, kind, 0).find(0)
        found += [] if offset is None else [(offset, plain, kind)]
    for codec in MAGIC:
        form = seeming if codec == seeming.codec else Format(codec)
        offset = next(candidates(raw, form, 0, lambda head: starts_warc(head) or starts_arc(head)), None)
        if offset is not None:
            found.append((offset, form, "arc" if starts_arc(_head(raw, form, offset)) else "warc"))
    return min(found, key=lambda place: place[0])[1:] if found else (seeming, "warc")


def _head(raw: RawInput, form: Format, position: int) -> bytes:
    try:
        return Member(raw, form, position).read()
    except DamagedMember:
        return b""


def _is_broken_archive(raw: RawInput, form: Format) -> bool:
    """Whether a file without any whole record may have been an archive: by what can be read of its beginning."""
    head = _head(raw, form, 0)
    return starts_warc(head) or starts_arc(head) or (form.codec != "plain" and not _is_sound(raw, form))


def _is_sound(raw: RawInput, form: Format) -> bool:
    """Whether the beginning of the first member can be decoded: then it is a compressed file of something else."""
    member = Member(raw, form, 0)
    try:
        return all(member.read() or member.end is not None for _ in range(SOUND_PIECES))
    except DamagedMember:
        return False


def _to_item(file: str, record: Record, limits: ExtractLimits, seen: set[str]) -> WarcItem:
    record_type = _record_type(record)
    result: Page | Reject | None = None
    if record.damage is not None:
        if record_type not in UNIT_TYPES:
            return _damage(file, record)
        result = _broken(file, record)
    elif record_type in UNIT_TYPES:
        result = _to_result(file, record, record_type, limits, seen)
    return WarcItem(record.offset, record.inner == 0, record_type, result)


def _record_type(record: Record) -> str:
    if record.kind == "arc":
        return "filedesc" if record.headers.get("warc-target-uri", "").startswith("filedesc:") else "arc"
    if record.kind == "damage":
        return DAMAGE
    return record.headers.get("warc-type", "").strip().lower()[:40] or "unknown"


def _damage(file: str, record: Record) -> WarcItem:
    return WarcItem(record.offset, record.inner == 0, DAMAGE, _broken(file, record))


def _broken(file: str, record: Record) -> Reject:
    reason: RejectReason = "truncated_input" if record.cut else "damaged"
    kind = record.headers.get("warc-type")
    detail = f"{kind} record: {record.damage}" if kind else str(record.damage)
    return Reject(_origin(file, record), _url(record), reason, detail[:MAX_DETAIL])


def _origin(file: str, record: Record) -> Origin:
    record_id = record.headers.get("warc-record-id", "").strip("<> \t") or None
    if record_id is None and record.inner:
        record_id = f"@{record.inner}"  # records of one member share its offset: this keeps their origins apart
    return Origin(file, record.offset, record_id)


def _url(record: Record) -> str | None:
    return record.headers.get("warc-target-uri", "").strip("<> \t").replace("\0", "") or None


def _to_result(file: str, record: Record, record_type: str, limits: ExtractLimits, seen: set[str]) -> Page | Reject:
    origin, url = _origin(file, record), _url(record)
    identifier = record.headers.get("warc-record-id", "").strip("<> \t")
    if identifier and identifier in seen:
        return Reject(origin, url, "duplicate_record", f"the record id {identifier} occurred before"[:MAX_DETAIL])
    if identifier:
        seen.add(identifier)
    if record_type == "revisit":
        return Reject(origin, url, "empty", _refers_to(record))
    message = _message(record, record_type)
    refused = _refuse_by_header(message, record_type)
    if refused is None and not record.complete:
        refused = ("oversize", f"{record.length} bytes, the limit is {limits.payload_bytes}")
    if refused is not None:
        return Reject(origin, url, refused[0], refused[1][:MAX_DETAIL])
    return _to_page(origin, url, record, message, limits)


def _refers_to(record: Record) -> str:
    wanted = ("warc-refers-to", "warc-refers-to-target-uri", "warc-refers-to-date", "warc-payload-digest")
    known = [record.headers[name].strip("<> ") for name in wanted if record.headers.get(name)]
    return f"revisit of {' '.join(known) or 'a record that it does not name'}"[:MAX_DETAIL]


def _message(record: Record, record_type: str) -> http.Message:
    """Return the HTTP response of a record; one without is given status 200 and the record's own Content-Type."""
    content_type = record.headers.get("content-type", "")
    is_http = record_type in ("response", "arc") or content_type.lower().startswith("application/http")
    message = http.parse_message(record.block) if is_http else None
    if message is not None:
        return message
    if content_type.lower().startswith("application/http"):
        content_type = ""
    return http.Message(200, {"content-type": content_type}, record.block)


def _refuse_by_header(message: http.Message, record_type: str) -> tuple[RejectReason, str] | None:
    if not 200 <= message.status < 300:
        location = message.headers.get("location", "")
        if 300 <= message.status < 400:
            return "redirect", f"{message.status} {location}".strip()
        return "http_status", str(message.status)
    media_type, _ = http.media_type(message.headers.get("content-type"))
    if media_type is None or media_type in http.HTML_TYPES:
        return None
    if media_type == "text/plain" and record_type == "conversion":
        return None
    return "not_html", media_type


def _to_page(
    origin: Origin, url: str | None, record: Record, message: http.Message, limits: ExtractLimits
) -> Page | Reject:
    """Return the page, or the reject that its body calls for."""
    truncated = record.headers.get("warc-truncated", "").strip().lower()[:40] or None
    body = http.decode_body(message, limits.payload_bytes, was_cut=truncated is not None)
    if body.problem is not None:
        return Reject(origin, url, body.problem, body.detail[:MAX_DETAIL])
    if not body.data.strip(b"\0\t\n\r "):
        return Reject(origin, url, "empty", "the body is empty")
    media_type, charset = http.media_type(message.headers.get("content-type"))
    other = http.sniff_binary(body.data)
    if other is not None:
        return Reject(origin, url, "not_html", f"{other}, declared as {media_type}" if media_type else other)
    if media_type is None and not http.looks_like_html(body.data):
        return Reject(origin, url, "not_html", "no media type is declared, and the content does not begin like HTML")
    headers = {name: message.headers[name][:MAX_HEADER_CHARACTERS] for name in KEPT_HEADERS & message.headers.keys()}
    captured = parse_date(record.headers.get("warc-date", ""))
    return Page(origin, url, body.data, media_type, charset, captured, truncated, dict(sorted(headers.items())))


def parse_date(value: str) -> datetime | None:
    """Return a WARC (ISO 8601) or ARC (digits) date in UTC, or None when it is neither."""
    value = value.strip()
    try:
        if value.isascii() and value.isdigit():
            return datetime.strptime(value[:14].ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
        date = datetime.fromisoformat(value)
        return date.astimezone(UTC) if date.tzinfo else date.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
