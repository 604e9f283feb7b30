"""HTTP messages as crawlers store them: the header read leniently, the body with its codings undone.

Crawlers often store a decoded body under the header of the encoded one. So a coding that cannot be undone is only
believed when the body does not look like HTML as it is. Output is limited while decoding: no bomb is held in memory.

Source: RFC 9110 and 9112; unknown media types as in the WHATWG MIME Sniffing Standard, section 7.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import zstandard
from fastwarc.stream_io import BrotliReader

from pipeline.extract.members import MAX_ZSTD_WINDOW
from pipeline.extract.records import parse_header

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})
MAX_CODINGS = 4
_SAYS_NOTHING = frozenset({"", "unknown/unknown", "application/unknown", "*/*", "no-type", "application/x-unknown"})
_STEP_BYTES = 64 << 10
_SNIFF_BYTES = 4096

_STATUS_LINE = re.compile(rb"(?:HTTP/\d(?:\.\d)?|ICY)[ \t]+(\d{3})(?!\d)")
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.+-]{1,40})", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+*-]{1,80}/[a-z0-9!#$&^_.+*-]{1,80}")
_CHUNK_LINE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")
_HTML = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|title|meta|link|script|style|div|p|br|a|b|h[1-6]|table|font|iframe|span|ul|img"
    rb"|center|article|section|main|header|nav|form)[\s>/]|<!--",
    re.IGNORECASE,
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LEAD = re.compile(rb"(?:\xef\xbb\xbf|\s|<!--.*?-->|<\?.*?\?>)*", re.DOTALL)

# What a body declared to be HTML sometimes is instead.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "application/pdf"),
    (b"%!PS", "application/postscript"),
    (b"\x89PNG\r\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"PK\x03\x04", "application/zip"),
    (b"Rar!\x1a", "application/vnd.rar"),
    (b"\xd0\xcf\x11\xe0", "application/msword"),
    (b"{\\rtf", "application/rtf"),
    (b"OggS", "application/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"wOFF", "font/woff"),
    (b"wOF2", "font/woff2"),
)


@dataclass(frozen=True, slots=True)
class Message:
    """An HTTP response: status, header fields (lower-case names, the first of repeated ones) and raw body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded body, or why there is none: `oversize`, or `damaged` with what is wrong in `detail`."""

    data: bytes = b""
    problem: Literal["oversize", "damaged"] | None = None
    detail: str = ""


@dataclass(slots=True)
class _Limited:
    """Collects decoded pieces up to a limit."""

    limit: int
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, piece: bytes) -> None:
        self.parts.append(piece)
        self.size += len(piece)
        if self.size > self.limit:
            raise _TooLargeError


class _TooLargeError(Exception):
    """The decoded body is over the limit."""


class _CodingError(Exception):
    """A body does not have the coding that its header claims."""

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial


def parse_message(block: bytes) -> Message | None:
    """Return the HTTP response in `block`, or None when it does not begin with a status line."""
    status = _STATUS_LINE.match(block)
    if status is None:
        return None
    end = _HEADER_END.search(block)
    head, body = (block[: end.end()], block[end.end() :]) if end else (block, b"")
    return Message(int(status[1]), parse_header(head), body)


def media_type(content_type: str | None) -> tuple[str | None, str | None]:
    """Return media type and charset of a Content-Type field, lower case; None for what it does not say."""
    value = (content_type or "").strip().lower()
    charset = _CHARSET.search(value)
    name = _MEDIA_TYPE.match(value)
    said = name[0] if name else ""
    return (None if said in _SAYS_NOTHING else said), (charset[1] if charset else None)


def looks_like_html(body: bytes) -> bool:
    """Say whether the beginning of `body` is HTML, in any charset that keeps ASCII readable or in UTF-16."""
    head = _head(body)
    return _HTML.match(head, _LEAD.match(head).end()) is not None  # type: ignore[union-attr]


def looks_like_markup(body: bytes) -> bool:
    """Say whether the beginning of `body` is text with an HTML tag: enough where its header says that it is HTML."""
    head = _head(body)
    return _HTML.search(head) is not None and _CONTROL.search(head, 0, 1024) is None


def sniff_binary(body: bytes) -> str | None:
    """Return the media type of a body that is certainly no HTML by its first bytes, or None."""
    head = body[:64].lstrip(b"\xef\xbb\xbf \t\r\n\0")
    return next((name for magic, name in _SIGNATURES if head.startswith(magic)), None)


def _head(body: bytes) -> bytes:
    head = body[:_SNIFF_BYTES]
    return head.replace(b"\0", b"").lstrip(b"\xff\xfe") if b"\0" in head[:64] else head


def decode_body(message: Message, limit: int, *, was_cut: bool) -> Body:
    """Undo transfer and content codings of `message`, up to `limit` bytes.

    `was_cut` says that the crawler cut the record: then what can be decoded of it is enough.
    """
    try:
        data = message.body
        if "chunked" in message.headers.get("transfer-encoding", "").lower():
            data = unchunk(data)
        encoded = data
        try:
            for coding in _codings(message.headers.get("content-encoding", ""), encoded):
                data = _decode(coding, data, limit)
        except _CodingError as error:
            if looks_like_markup(encoded):
                data = encoded
            elif was_cut and error.partial:
                data = error.partial
            else:
                return Body(problem="damaged", detail=str(error))
        if len(data) > limit:
            raise _TooLargeError
    except _TooLargeError:
        return Body(problem="oversize", detail=f"decoded body is over {limit} bytes")
    return Body(data)


def unchunk(body: bytes) -> bytes:
    """Undo the chunked transfer coding; from the first wrong chunk on, bytes are kept as they are."""
    parts: list[bytes] = []
    position = 0
    while match := _CHUNK_LINE.match(body, position):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(body[match.end() : match.end() + size])
        position = match.end() + size
        if position >= len(body):
            return b"".join(parts)
        newline = body[position : position + 2]
        position += 2 if newline == b"\r\n" else int(newline[:1] == b"\n")
    parts.append(body[position:])
    return b"".join(parts)


def _codings(header: str, body: bytes) -> list[str]:
    """Return the content codings to undo, outermost first; gzip is seen without a header, too."""
    names = [name.strip().removeprefix("x-") for name in header.lower().split(",")]
    names = [name for name in names if name not in ("", "identity", "none")]
    if not names and body.startswith(b"\x1f\x8b\x08"):
        return ["gzip"]
    if len(names) > MAX_CODINGS:
        raise _CodingError(f"{len(names)} content codings, one inside the other")
    return names[::-1]


def _decode(coding: str, data: bytes, limit: int) -> bytes:
    if not data:
        return data
    if coding == "gzip":
        return _inflate(data, limit, 31)
    if coding == "deflate":
        try:
            return _inflate(data, limit, 15)
        except _CodingError as error:
            if error.partial:
                raise
            return _inflate(data, limit, -15)  # many servers leave the zlib wrapping out
    if coding == "br":
        return _collect(_brotli(data), limit)
    if coding == "zstd":
        return _collect(_zstd(data), limit)
    raise _CodingError(f"unknown content coding {coding[:40]!r}")


def _inflate(data: bytes, limit: int, wbits: int) -> bytes:
    """Inflate all members of `data`; what follows the last is ignored, as browsers do."""
    out = _Limited(limit)
    while data:
        decoder = zlib.decompressobj(wbits)
        try:
            while not decoder.eof:
                piece = decoder.decompress(data, _STEP_BYTES)
                data = decoder.unconsumed_tail
                out.add(piece)
                if not piece and not data:
                    break
        except zlib.error as error:
            raise _CodingError(f"content coding cannot be undone: {error}", b"".join(out.parts)) from error
        if not decoder.eof:
            raise _CodingError("body ends within its content coding", b"".join(out.parts))
        data = decoder.unused_data if wbits == 31 and decoder.unused_data.startswith(b"\x1f\x8b") else b""
    return b"".join(out.parts)


def _brotli(data: bytes) -> Iterator[bytes]:
    reader = BrotliReader(io.BytesIO(data))
    while piece := reader.read(_STEP_BYTES):
        yield piece


def _zstd(data: bytes) -> Iterator[bytes]:
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW)
    with decoder.stream_reader(data, read_across_frames=True) as reader:
        while piece := reader.read(_STEP_BYTES):
            yield piece


def _collect(pieces: Iterator[bytes], limit: int) -> bytes:
    out = _Limited(limit)
    try:
        for piece in pieces:
            out.add(piece)
    except (OSError, zstandard.ZstdError) as error:
        raise _CodingError(f"content coding cannot be undone: {error}", b"".join(out.parts)) from error
    return b"".join(out.parts)
