"""Web archives (WARC, ARC, WET; gzip, lz4, zstd or plain) to pages and rejects.

Units are the response, resource, conversion and revisit records, and every ARC record but the file's own header. Each
ends as exactly one `Page` or one `Reject`; other records are only counted, and damage that belongs to no unit is a
reject apart. A record in segments is whole where its first one stands; what lacks some is marked as truncated.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import BinaryIO, Literal, get_args

from pipeline.extract.config import ExtractLimits, PdfConfig
from pipeline.extract.media import (
    ANY_TYPES,
    PDF_TYPES,
    TEXT_TYPE,
    Codec,
    is_pdf,
    looks_like_html,
    refuse_body,
    refuse_type,
)
from pipeline.extract.members import Compression, DamagedMember, Member, RawInput, detect
from pipeline.extract.units import DAMAGE, MAX_DETAIL, UNIT_TYPES, Document, Entry, Origin, Page, Raw, Reject
from pipeline.extract.warc import http
from pipeline.extract.warc.records import Record, RecordReader, starts_arc, starts_warc
from pipeline.table.errors import InputError
from pipeline.table.schema import RejectReason

HEADER_ALLOWANCE_BYTES = 1 << 20  # of a block, on top of the payload's limit
SOUND_PIECES = 4
KEPT_HEADERS = frozenset(
    {"last-modified", "date", "content-language", "content-location", "content-disposition", "link", "x-robots-tag"}
)
MAX_HEADER_CHARACTERS = 4096
SEGMENT_GAP = 8  # records that may stand between two segments of one
_PLACE = re.compile(r"@\d+$")


def read_warc(
    stream: BinaryIO,
    file: str,
    start: int,
    limits: ExtractLimits,
    earlier: Iterable[tuple[str, int]] = (),
    pdf: PdfConfig | None = None,
) -> Iterator[Entry]:
    """Yield every record of a seekable web archive from the raw offset `start` on, in file order; none can drop.

    `start` is 0 or the `offset` of a resumable item: then exactly the items from there on come. For that, `earlier` has
    the record id and offset of each unit before `start`: a unit that repeats id, URL and payload of one before is
    rejected (`duplicate_record`). A file of no bytes is one reject (`truncated_input`). Memory does not grow with a
    record: what is over the limit streams past.

    Raises: InputError when the file holds no record and nothing that could be a damaged one.
    """
    raw = RawInput(stream)
    if raw.size == 0:
        empty = Record(0, 0, "damage", damage="the file is empty", cut=True)
        yield Entry(0, _broken(Origin(file, 0), empty), DAMAGE)
        return
    form, kind = _identify(raw)
    block_bytes = limits.payload_bytes + HEADER_ALLOWANCE_BYTES
    records = RecordReader(raw, form, kind, block_bytes).records(start)
    first = list(islice(records, 1))
    if start == 0 and (not first or first[0].kind == "damage"):
        first += islice(records, 1)
        if len(first) < 2 and not _is_broken_archive(raw, form):
            head = raw.exactly(0, 24)
            raise InputError(f"{file}: not a WARC or ARC file (starts with {head!r}); correct `inputs` or `format`")

    def reread(offset: int) -> Iterator[Record]:
        return _join_segments(RecordReader(RawInput(stream), form, kind, block_bytes).records(offset), block_bytes)

    known = _Known(reread)
    for record_id, offset in earlier:
        known.places.setdefault(_PLACE.sub("", record_id), []).append(offset)
    for record in _join_segments(chain(first, records), block_bytes):
        yield _to_entry(file, record, limits, known, pdf)


def _join_segments(records: Iterator[Record], block_bytes: int) -> Iterator[Record]:
    """Yield every record; one in segments comes whole as the first, before the others, which are then `is_joined`."""
    waiting: deque[Record] = deque()
    while (record := waiting.popleft() if waiting else next(records, None)) is not None:
        record.is_resumable &= record.inner == 0
        if record.damage is None and _segment_of(record) is None:
            record = _join(record, _find_segments(record, waiting, records, block_bytes), block_bytes)
        yield record


def _find_segments(first: Record, waiting: deque[Record], records: Iterator[Record], block_bytes: int) -> list[Record]:
    """Return the further segments of a record from among those that follow; what is read to find them is `waiting`."""
    identifier = first.identifier
    gap = SEGMENT_GAP if "warc-segment-number" in first.headers else 1
    parts: list[Record] = []
    index, last, held_bytes = 0, -1, 0
    while index - last <= gap and held_bytes <= block_bytes and not (parts and _is_whole(first, parts)):
        if index == len(waiting):
            waiting.extend(islice(records, 1))
        if index == len(waiting):
            break
        other = waiting[index]
        held_bytes += len(other.block)
        if identifier and not other.is_joined and _segment_of(other) == identifier:
            other.is_joined, last = True, index
            parts.append(other)
        index += 1
    for other in islice(waiting, last + 1):
        other.is_resumable = False
    return parts


def _segment_of(record: Record) -> str | None:
    """Return the id of the record whose second or later segment this is, None when it is none."""
    if record.headers.get("warc-type", "").strip().lower() != "continuation" and _segment_number(record) < 2:
        return None
    return record.headers.get("warc-segment-origin-id", "").strip("<> \t")


def _segment_number(record: Record) -> int:
    number = record.headers.get("warc-segment-number", "1")
    return int(number) if re.fullmatch(r"[0-9]{1,9}", number) else 0


def _is_whole(first: Record, parts: list[Record]) -> bool:
    segments = sorted([first, *parts], key=_segment_number)
    numbers = [_segment_number(segment) for segment in segments]
    total = segments[-1].headers.get("warc-segment-total-length", "")
    return numbers == list(range(1, len(numbers) + 1)) and total == str(sum(segment.length for segment in segments))


def _join(first: Record, parts: list[Record], block_bytes: int) -> Record:
    """Return the record that segments make up, marked as truncated when it is not all of it."""
    if not parts and "warc-segment-number" not in first.headers:
        return first
    segments = sorted([first, *parts], key=_segment_number)
    cut = next(filter(None, (segment.headers.get("warc-truncated") for segment in segments)), None)
    if cut is None and not _is_whole(first, parts):
        cut = "segment"
    length = sum(segment.length for segment in segments)
    complete = length <= block_bytes and all(segment.complete for segment in segments)
    block = b"".join(segment.block for segment in segments) if complete else first.block
    headers = first.headers if cut is None else first.headers | {"warc-truncated": cut}
    return replace(first, headers=headers, block=block, length=length, complete=complete)


@dataclass(slots=True)
class _Known:
    """The units so far, by which a repeated record is told from another one under the same id.

    `places` has the ids of units that an earlier run has read, and where. They are read again when their id returns.
    """

    reread: Callable[[int], Iterator[Record]]
    places: dict[str, list[int]] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    contents: set[bytes] = field(default_factory=set)

    def has(self, identifier: str) -> bool:
        """Say whether a unit of this id occurred."""
        for offset in self.places.pop(_PLACE.sub("", identifier), ()):
            for record in self.reread(offset):
                if record.offset != offset:
                    break
                if record.damage is None and not record.is_joined and record.type in UNIT_TYPES:
                    self.add(record, _message(record))
        return identifier in self.ids

    def add(self, record: Record, message: http.Message) -> bool:
        """Enter a unit; return whether it was new."""
        self.ids.add(record.identifier)
        length = b"" if record.complete else b"%d" % record.length
        content = hashlib.sha256(f"{record.identifier}\0{record.url}\0".encode() + length + b"\0" + message.body)
        before = len(self.contents)
        self.contents.add(content.digest())
        return len(self.contents) > before


def _identify(raw: RawInput) -> tuple[Compression, Literal["warc", "arc"]]:
    """Return how the file is stored and which kind of records it has, from its beginning."""
    form, head = detect(raw), b""
    with contextlib.suppress(DamagedMember):
        head = Member(raw, form, 0).read()
    if starts_arc(head):
        return form, "arc"
    return (form, "warc") if starts_warc(head) else _identify_damaged(raw, form)


def _identify_damaged(raw: RawInput, seeming: Compression) -> tuple[Compression, Literal["warc", "arc"]]:
    """Do the same for a file that begins with garbage: by the first record to be found in it."""
    found: list[tuple[int, Compression, Literal["warc", "arc"]]] = []
    for codec in get_args(Codec):
        form = seeming if codec == seeming.codec else Compression(codec)
        for kind in ("warc", "arc"):
            offset = RecordReader(raw, form, kind, 0).find(0)
            if offset is not None:
                found.append((offset, form, kind))
    return min(found, key=lambda place: place[0])[1:] if found else (seeming, "warc")


def _is_broken_archive(raw: RawInput, form: Compression) -> bool:
    """Whether a file without any whole record may have been an archive: by what can be read of its beginning.

    When that can be decoded and is none, it is a compressed file of something else.
    """
    member, head, is_sound = Member(raw, form, 0), b"", True
    try:
        for _ in range(SOUND_PIECES):
            head += member.read()
    except DamagedMember:
        is_sound = form.codec == "plain"
    return starts_warc(head) or starts_arc(head) or not is_sound


def _to_entry(file: str, record: Record, limits: ExtractLimits, known: _Known, pdf: PdfConfig | None) -> Entry:
    record_type = record.type
    result: Page | Raw | Reject | None = None
    if record.damage is not None:
        record_type = record_type if record_type in UNIT_TYPES else DAMAGE
        result = _broken(_origin(file, record), record)
    elif not record.is_joined and (whole := _segment_of(record)) is not None:
        lone = (
            f"segment {_segment_number(record)} of {whole or 'a record that it does not name'}, which is not before it"
        )
        result = Reject(_origin(file, record), record.url or None, "truncated_input", lone[:MAX_DETAIL])
    elif not record.is_joined and record_type in UNIT_TYPES:
        result = _to_result(file, record, limits, known, pdf)
    return Entry(record.offset, result, record_type, record.is_resumable)


def _broken(origin: Origin, record: Record) -> Reject:
    reason: RejectReason = "truncated_input" if record.cut else "damaged"
    kind = record.headers.get("warc-type")
    detail = f"{kind} record: {record.damage}" if kind else str(record.damage)
    return Reject(origin, record.url or None, reason, detail[:MAX_DETAIL])


def _origin(file: str, record: Record, *, is_repeated: bool = False) -> Origin:
    record_id = record.identifier
    if record.inner and (is_repeated or not record_id):
        record_id += f"@{record.inner}"  # records of one member share its offset: this keeps their origins apart
    return Origin(file, record.offset, record_id or None)


def _to_result(
    file: str, record: Record, limits: ExtractLimits, known: _Known, pdf: PdfConfig | None
) -> Page | Raw | Reject:
    identifier, url = record.identifier, record.url or None
    origin = _origin(file, record, is_repeated=known.has(identifier))
    message = _message(record)
    if identifier and not known.add(record, message):
        detail = f"the record id {identifier} occurred before, with the same URL and content"
        return Reject(origin, url, "duplicate_record", detail[:MAX_DETAIL])
    if record.type == "revisit":
        return Reject(origin, url, "empty", _refers_to(record))
    refused = _refuse_by_header(message, record.type, PDF_TYPES | ANY_TYPES if pdf is not None else frozenset())
    if refused is None and not record.complete:
        refused = ("oversize", f"{record.length} bytes, the limit is {limits.payload_bytes}")
    if refused is not None:
        return Reject(origin, url, refused[0], refused[1][:MAX_DETAIL])
    return _to_page(origin, url, record, message, limits, pdf)


def _refers_to(record: Record) -> str:
    wanted = ("warc-refers-to", "warc-refers-to-target-uri", "warc-refers-to-date", "warc-payload-digest")
    known = [record.headers[name].strip("<> ") for name in wanted if record.headers.get(name)]
    return f"revisit of {' '.join(known) or 'a record that it does not name'}"[:MAX_DETAIL]


def _message(record: Record) -> http.Message:
    """Return the HTTP response of a record; one without is given status 200 and the record's own Content-Type."""
    content_type = record.headers.get("content-type", "")
    is_http = record.type in ("response", "arc") or content_type.lower().startswith("application/http")
    message = http.parse_message(record.block) if is_http else None
    if message is not None:
        return message
    if content_type.lower().startswith("application/http"):
        content_type = ""
    return http.Message(200, {"content-type": content_type}, record.block)


def _refuse_by_header(message: http.Message, record_type: str, too: frozenset[str]) -> tuple[RejectReason, str] | None:
    """Return why a response is no page; bodies of the types in `too` are looked at."""
    if not 200 <= message.status < 300:
        location = message.headers.get("location", "")
        if 300 <= message.status < 400:
            return "redirect", f"{message.status} {location}".strip()
        return "http_status", str(message.status)
    media_type, _ = http.media_type(message.headers.get("content-type"))
    other = TEXT_TYPE if media_type == TEXT_TYPE and record_type != "conversion" else refuse_type(media_type)
    return ("not_html", other) if other and other not in too else None


def _to_page(
    origin: Origin,
    url: str | None,
    record: Record,
    message: http.Message,
    limits: ExtractLimits,
    pdf: PdfConfig | None,
) -> Page | Raw | Reject:
    """Return the page, the PDF where `pdf` says that those are read, or the reject that its body calls for."""
    truncated = record.headers.get("warc-truncated", "").strip().lower()[:40] or None
    body = http.decode_body(message, limits.payload_bytes, was_cut=truncated is not None)
    if body.problem is not None:
        return Reject(origin, url, body.problem, body.detail[:MAX_DETAIL])
    if not body.data.strip(b"\0\t\n\r "):
        return Reject(origin, url, "empty", "the body is empty")
    media_type, charset = http.media_type(message.headers.get("content-type"))
    captured = parse_date(record.headers.get("warc-date", ""))
    cut = truncated or body.cut
    if pdf is not None and (media_type in PDF_TYPES or is_pdf(body.data)):
        metadata = {"media_type": media_type, "captured": captured.isoformat() if captured else None, "truncated": cut}
        said: dict[str, object] = {name: value for name, value in metadata.items() if value is not None}
        facts = pdf.facts(limits) | {"is_cut": cut is not None, "captured": metadata["captured"]}
        return Raw(Document(origin, url, "", metadata=said), body.data, facts)
    other = refuse_body(media_type, body.data) or refuse_type(media_type)
    if other is None and media_type is None and not looks_like_html(body.data):
        other = "no media type is declared, and the content does not begin like HTML"
    if other is not None:
        return Reject(origin, url, "not_html", other)
    headers = {name: message.headers[name][:MAX_HEADER_CHARACTERS] for name in KEPT_HEADERS & message.headers.keys()}
    return Page(origin, url, body.data, media_type, charset, captured, cut, dict(sorted(headers.items())))


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
