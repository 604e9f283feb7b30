"""The records of a web archive (WARC and ARC), one after the other, with whatever is damaged between them.

Each record, and each stretch that is none, comes exactly once, in file order, with the raw offset at which it begins.
What follows damage is found again: inside a readable member, or in a plain file, at the next text that looks like a
record's header; in compressed files at the next magic number whose member decodes to the start of a record.

Source: ISO 28500 (WARC 1.0, 1.1); "ARC File Compression", Internet Archive, 1996.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from pipeline.extract.members import UNIT_BYTES, Compression, DamagedMember, DecodedStream, RawInput, candidates

HEADER_BYTES = 256 << 10  # longer headers are damage
PREFIX_BYTES = 1 << 20  # kept of a block that is over the limit: enough for the HTTP header
LINE_BYTES = 16 << 10  # longest ARC header line
RETRY_BYTES = 4 << 30  # bytes that may be read again after damage, beyond eight times the file: hostile files only

_WARC_START = re.compile(rb"\s*WARC/\d{1,2}\.\d{1,3}[ \t]*\r?\n")
_WARC_SEARCH = re.compile(rb"WARC/\d{1,2}\.\d{1,3}[ \t]*\r?\n[A-Za-z][A-Za-z0-9-]{0,80}[ \t]*:")
# URL (may hold spaces), IP address, date, then media type and length, with up to five more fields in version 2.
_ARC_REST = rb" [0-9A-Fa-f.:-]{1,45}+ \d{8,20}+ [^\r\n]{1,4096}+\r?\n"
_ARC_LINE = rb"[A-Za-z][A-Za-z0-9+.-]{1,20}:[^\r\n]{0,8192}?" + _ARC_REST
_ARC_START = re.compile(rb"\s*" + _ARC_LINE)
_ARC_WHOLE_LINE = re.compile(rb"(?<=\n)" + _ARC_LINE)
# A cut record ends within a line. There the last scheme counts, so that no text is searched from each scheme in it.
_ARC_WITHIN = rb"(?:https?|ftp|dns):(?:(?!https?:|ftp:|dns:)[^\r\n]){0,8192}?" + _ARC_REST
_ARC_SEARCH = re.compile(_ARC_WHOLE_LINE.pattern + b"|" + _ARC_WITHIN)
_ARC_FIELDS = re.compile(r"(?P<url>\S.*?) (?P<ip>[0-9A-Fa-f.:-]{1,45}) (?P<date>\d{8,20}) (?P<rest>.+)")
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_NEWLINES = re.compile(rb"[\r\n]*")
_FOLD = re.compile(rb"\r?\n[ \t]+")

Kind = Literal["warc", "arc", "damage"]
FILE_HEADER = "filedesc:"


@dataclass(slots=True)
class Record:
    """One record, or a stretch of bytes that is none (`kind` is "damage").

    `offset` is the raw offset of the record, or of the member that holds it; `inner` counts the decoded bytes of that
    member before the record. Reading can begin at `offset` when `inner` is 0. `block` is the whole content when
    `complete`, otherwise its beginning. `damage` says what is wrong; `cut` that input ends within. `is_joined` are
    segments that the record before them holds, and `is_resumable` those at which reading can begin again.
    """

    offset: int
    inner: int
    kind: Kind
    headers: dict[str, str] = field(default_factory=dict)  # lower-case names, the first of repeated ones
    block: bytes = b""
    length: int = 0
    complete: bool = True
    damage: str | None = None
    cut: bool = False
    is_joined: bool = False
    is_resumable: bool = True

    @property
    def url(self) -> str:
        """What the record is of, empty when it does not say."""
        return self.headers.get("warc-target-uri", "").strip("<> \t").replace("\0", "")

    @property
    def identifier(self) -> str:
        """The record's own id, empty without one."""
        return self.headers.get("warc-record-id", "").strip("<> \t")

    @property
    def type(self) -> str:
        """The WARC type in lower case, "arc", "filedesc" (an ARC file's own header), "unknown", or "damage"."""
        if self.kind == "arc":
            return "filedesc" if self.url.startswith(FILE_HEADER) else "arc"
        if self.kind == "damage":
            return "damage"
        return self.headers.get("warc-type", "").strip().lower()[:40] or "unknown"


def starts_warc(data: bytes) -> bool:
    """Say whether `data` begins with a WARC record's version line."""
    return _WARC_START.match(data, 0, 256) is not None


def starts_arc(data: bytes) -> bool:
    """Say whether `data` begins with an ARC record's header line."""
    return _ARC_START.match(data, 0, LINE_BYTES) is not None


class RecordReader:
    """Iterates the records of `raw` from the offset `start` on; holds at most `block_bytes` of one."""

    def __init__(self, raw: RawInput, form: Compression, kind: Literal["warc", "arc"], block_bytes: int) -> None:
        self._raw, self._form, self._kind, self._block_bytes = raw, form, kind, block_bytes
        self._starts = starts_warc if kind == "warc" else starts_arc
        self._parse = parse_header if kind == "warc" else _parse_arc_line
        self._search = _WARC_SEARCH if kind == "warc" else _ARC_SEARCH
        self._separator_lines = 2 if kind == "warc" else 1
        self._stream = self._open(0)
        self._block_read_bytes = 0  # of the record last read, which may claim any length
        self._retried_bytes = 0
        self._ended = False

    def records(self, start: int) -> Iterator[Record]:
        """Yield every record and every damaged stretch from the raw offset `start` on."""
        self._stream = self._open(start)
        while (record := self._next()) is not None:
            yield record

    def find(self, position: int) -> int | None:
        """Return the raw offset of the first record at or after the raw offset `position`."""
        if self._form.codec != "plain":
            return next(candidates(self._raw, self._form, position, self._starts), None)
        self._stream = self._open(position)
        return self._stream.place()[0] if self._stream.cross() == "record" or self._seek_record() else None

    def _open(self, start: int) -> DecodedStream:
        return DecodedStream(self._raw, self._form, start, self._starts)

    def _next(self) -> Record | None:
        if self._ended:
            return None
        place = self._stream.place()
        try:
            self._raw.spend(UNIT_BYTES)
            if not self._to_next_byte():
                return None
            place = self._stream.place()
            if not self._starts(self._stream.peek(LINE_BYTES)):
                return self._damaged(Record(*place, "damage"), "no record begins here")
        except DamagedMember as error:
            return self._lost(Record(*self._stream.place(), "damage"), error)
        return self._read(place)

    def _to_next_byte(self) -> bool:
        """Go to the next byte that is no newline, into further members if need be; False at the end of the input."""
        while True:
            while piece := self._stream.pull():
                newlines = len(_NEWLINES.match(piece)[0])  # type: ignore[index]
                if newlines < len(piece):
                    self._stream.push(piece[newlines:] if newlines else piece)
                    return True
            if self._stream.cross() == "end":
                return False

    def _read(self, place: tuple[int, int]) -> Record:
        found = Record(*place, "damage")
        try:
            headers, size = self._read_header()
            if not headers:
                return self._damaged(found, "unreadable record header", cut=size == 0)
            found = Record(*place, self._kind, headers)
            length = whole_number(headers.get("content-length", ""))
            if length is None:
                record = self._damaged(found, f"content length is {headers.get('content-length')!r}")
                # Some writers leave the length of the file's own header open.
                return replace(record, damage=None) if record.url.startswith(FILE_HEADER) else record
            keep = length <= self._block_bytes
            block, got = self._read_block(length, length if keep else PREFIX_BYTES)
            found = Record(*place, self._kind, headers, block, length, keep)
            if got < length:
                return self._damaged(found, f"content length is {length}, only {got} bytes follow", size, cut=True)
        except DamagedMember as error:
            return self._lost(found, error)
        return self._check_end(found, size)

    def _check_end(self, record: Record, header_bytes: int) -> Record:
        """Judge by what follows it whether the record's length is right."""
        try:
            rest = self._stream.peek(LINE_BYTES)
        except DamagedMember as error:
            self._stream.failure, rest = error, b""
        newlines = _NEWLINES.match(rest)[0]  # type: ignore[index]
        if len(newlines) == len(rest):
            # Damage right behind the record is most likely its own member's: a wrong checksum, or a cut end.
            is_own = self._stream.failure is not None and record.inner == 0
            return self._lost(record, self._stream.failure) if is_own else record  # type: ignore[arg-type]
        if self._starts(rest):
            return record
        if record.inner == 0 and self._form.codec != "plain":
            rest = self._stream.peek(PREFIX_BYTES)  # nonsense behind the record may be the record's own bad data
            if self._stream.failure is not None:
                return self._lost(record, self._stream.failure)
        if newlines.count(b"\n") >= self._separator_lines and not self._cuts_another(record, newlines):
            return record
        wrong = f"content length {record.length} is wrong: {rest[:16]!r} follows"
        return self._damaged(record, wrong, header_bytes)

    def _cuts_another(self, record: Record, newlines: bytes) -> bool:
        """Say whether the record's length ends before some blank line of another that it has swallowed.

        The last header in the block is then that of a record that ends behind the block, at the next one or the end of
        the file. A header that a sound page quotes, or of which more than `PREFIX_BYTES` follow, tells nothing.
        """
        if self._form.codec != "plain":
            return False
        end = self._stream.place()[0]
        block = record.block if record.complete else self._raw.exactly(end - PREFIX_BYTES, PREFIX_BYTES)
        data = block + newlines
        last = deque((_WARC_SEARCH if self._kind == "warc" else _ARC_WHOLE_LINE).finditer(data), 1)
        header = last and (_BLANK_LINE.search(data, last[0].start()) if self._kind == "warc" else last[0])
        if not header:
            return False
        text = data[last[0].start() : header.end()]
        length = whole_number(self._parse(text).get("content-length", ""))
        other_end = end - len(block) + header.end() + (length or 0)
        rest = self._raw.exactly(other_end, LINE_BYTES).lstrip(b"\r\n")
        return end < other_end <= self._raw.size and (not rest or self._starts(rest))

    def _read_header(self) -> tuple[dict[str, str], int]:
        """Read the header of the record that starts here; return it and its size in bytes. Empty when it has no end."""
        data = b""
        while True:
            piece = self._stream.pull()
            data += piece
            match = _BLANK_LINE.search(data) if self._kind == "warc" else _ARC_START.match(data)
            end = match.end() if match else None
            following = _glued_header(data[:end]) if end is not None and self._kind == "warc" else None
            if following is not None:
                self._stream.push(data[following:])
                return {}, following
            if end is not None and end <= HEADER_BYTES:
                self._stream.push(data[end:])
                return self._parse(data[:end]), end
            if len(data) > HEADER_BYTES or (not piece and self._stream.cross() != "more"):
                # Everything but its first byte may still hold the next record.
                self._stream.push(data[1:])
                return {}, len(data) - HEADER_BYTES if len(data) > HEADER_BYTES else 0

    def _read_block(self, length: int, keep_bytes: int) -> tuple[bytes, int]:
        """Read up to `length` bytes and keep the first `keep_bytes`; return those and how many there were."""
        parts: list[bytes] = []
        got = 0
        while got < length:
            if got >= keep_bytes:
                step = self._stream.skip(length - got)
            else:
                piece = self._stream.pull()
                if len(piece) > keep_bytes - got:
                    self._stream.push(piece[keep_bytes - got :])
                    piece = piece[: keep_bytes - got]
                parts.append(piece)
                step = len(piece)
            got += step
            if not step and self._stream.cross() != "more":
                break
        self._block_read_bytes = got
        return b"".join(parts), got

    def _damaged(self, record: Record, message: str, header_bytes: int = 0, *, cut: bool = False) -> Record:
        """Go from a bad record, whose bytes can be decoded, to the next one, looking into its content as well.

        `cut` says that the end of a plain file would explain the damage, if no further record is found.
        """
        try:
            if record.complete:
                self._retried_bytes += len(record.block)
                self._stream.push(record.block)
            else:
                self._rewind(record, header_bytes)
            is_last = not self._seek_record()
        except DamagedMember as error:
            is_last = False
            self._rescan(self._stream.member_start, error)
        return self._as_damage(record, message, cut=cut and is_last and self._form.codec == "plain")

    def _lost(self, record: Record, error: DamagedMember) -> Record:
        """Go from a record whose member cannot be decoded to the next member that starts one."""
        self._rescan(record.offset, error)
        return self._as_damage(record, str(error), cut=error.cut and self._ended)

    def _as_damage(self, record: Record, message: str, *, cut: bool) -> Record:
        if self._retried_bytes > RETRY_BYTES + 8 * self._raw.size:
            self._ended = True
            message += "; too much damage, the rest of the file was given up"
        return Record(
            record.offset, record.inner, record.kind, record.headers, length=record.length, damage=message, cut=cut
        )

    def _rewind(self, record: Record, header_bytes: int) -> None:
        """Stand behind the record's header again."""
        self._retried_bytes += 0 if self._form.codec == "plain" else record.inner + self._block_read_bytes
        self._stream = self._open(record.offset)
        self._stream.cross()
        self._stream.skip(record.inner + header_bytes)

    def _rescan(self, failed: int, error: DamagedMember) -> None:
        self._retried_bytes += max(0, error.reached - failed)
        found = next(candidates(self._raw, self._form, failed + 1, self._starts), None)
        if found is None:
            self._ended = True
        else:
            self._stream = self._open(found)

    def _seek_record(self) -> bool:
        """Go to the next text that looks like a record's header, or to the next member that starts with one.

        False at the end of the input.
        """
        tail = b"\n"  # so that a header line directly here counts
        overlap = 128 if self._kind == "warc" else LINE_BYTES
        while True:
            piece = self._stream.pull()
            if not piece:
                kind = self._stream.cross()
                if kind != "more":
                    return kind == "record"
                continue
            window = tail + piece
            if match := self._search.search(window):
                self._stream.push(window[match.start() :])
                return True
            tail = window[-overlap:]


def _glued_header(header: bytes) -> int | None:
    """Return where in a header, whose own end is lost, the next record's complete header begins."""
    match = _WARC_SEARCH.search(header, 1)
    if match is None:
        return None
    fields = parse_header(header[match.start() :])
    return match.start() if "content-length" in fields and "warc-type" in fields else None


def parse_header(data: bytes) -> dict[str, str]:
    """Return the fields of a WARC or HTTP header without its first line: names in lower case, folded lines joined.

    The first of repeated fields counts. Bytes that are not UTF-8 are read as Latin-1.
    """
    unfolded = _FOLD.sub(b" ", data) if b"\n " in data or b"\n\t" in data else data
    try:
        lines = unfolded.decode().split("\n")[1:]
    except UnicodeDecodeError:  # line by line, so that one bad byte does not spoil the others
        lines = [to_text(line) for line in unfolded.split(b"\n")[1:]]
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip().lower(), value.strip())
    return fields


def to_text(data: bytes) -> str:
    """Decode header bytes: UTF-8, or Latin-1 where they are not."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _parse_arc_line(line: bytes) -> dict[str, str]:
    match = _ARC_FIELDS.fullmatch(to_text(line).strip())
    if match is None:
        return {}
    rest = match["rest"].split(" ")
    media_type = rest[0] if len(rest) > 1 else ""
    return {
        "warc-target-uri": match["url"],
        "warc-ip-address": match["ip"],
        "warc-date": match["date"],
        "content-type": media_type,
        "content-length": rest[-1],
    }


def whole_number(value: str) -> int | None:
    """Return a header's number of bytes, None when it is no plausible one."""
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 15 else None
