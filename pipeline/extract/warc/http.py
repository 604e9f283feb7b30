"""HTTP messages as crawlers store them: the header read leniently, the body with its codings undone.

Crawlers often store a decoded body under the header of the encoded one. So a coding that cannot be undone is only
believed when the body does not look like HTML as it is. Output is limited while decoding: no bomb is held in memory.
As in browsers, content counts, and checksums and lengths behind it do not: servers leave them out or get them wrong.

Source: RFC 9110 and 9112; unknown media types as in the WHATWG MIME Sniffing Standard, section 7.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import zstandard
from fastwarc.stream_io import BrotliReader

from pipeline.extract.media import CODECS, looks_like_markup
from pipeline.extract.members import MAX_ZSTD_WINDOW
from pipeline.extract.warc.records import parse_header, whole_number

MAX_CODINGS = 4
MAX_RESPONSES = 16  # in one record: interim ones, then the one proper
GZIP_HEADER_BYTES, GZIP_TRAILER_BYTES = 10, 8
_SAYS_NOTHING = frozenset({"", "unknown/unknown", "application/unknown", "*/*", "no-type", "application/x-unknown"})
_STEP_BYTES = 64 << 10
_INPUT_BYTES = 1 << 10  # fed at a time: Zstandard's library has no limit on output, and each member copies what is left
_FLUSH = b"\0\0\xff\xff"
_SNIFF_BYTES = 4096

_VERSION = rb"HTTP/\d{1,3}(?:\.\d{1,3})?"
# A line without a code counts when a field or the body follows it: 200, as in browsers.
_STATUS_LINE = re.compile(
    rb"[\s\0\xef\xbb\xbf]{0,64}(?:(?:" + _VERSION + rb"|HTTP|ICY)[ \t]+(\d{1,9})"
    rb"|" + _VERSION + rb"(?![ \t]*\d)[^\r\n]{0,300}(?=\r{0,2}\n(?:[\w-]{1,80}[ \t]*:|\r{0,2}\n)))",
    re.IGNORECASE,
)
# A blank line; some servers end their lines with CR alone, or leave the blank line before the HTML out.
_HEADER_END = re.compile(
    rb"\r{0,2}\n(?:\r{0,2}\n|(?=<(?:!doctype|\?xml|html|head|title|body)\b))|\r\r(?![\r\n])", re.IGNORECASE
)
_CONTENT_RANGE = re.compile(r"bytes\s+0-(\d{1,15})/(\d{1,15})$", re.IGNORECASE)
_HTML_END = re.compile(rb"</html\s*>(?:\s|<!--(?:(?!-->).){0,4096}-->)*\Z", re.IGNORECASE | re.DOTALL)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.+-]{1,40})", re.IGNORECASE)
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+*-]{1,80}/[a-z0-9!#$&^_.+*-]{1,80}")
_CHUNK_LINE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")


@dataclass(frozen=True, slots=True)
class Message:
    """An HTTP response: status, header fields (lower-case names, the first of repeated ones) and raw body."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded body, or why there is none: `oversize`, or `damaged` with what is wrong in `detail`.

    `cut` says that it is but a part of what the server has: "range" was asked for, or the connection ended early.
    """

    data: bytes = b""
    problem: Literal["oversize", "damaged"] | None = None
    detail: str = ""
    cut: Literal["range", "disconnect"] | None = None


class _TooLargeError(Exception):
    """The decoded body is over the limit."""


class _CodingError(Exception):
    """A body does not have the coding that its header claims, or ends within it; `flushed`: where a server flushed."""

    def __init__(self, message: str, partial: bytes = b"", *, flushed: bool = False) -> None:
        super().__init__(message)
        self.partial = partial
        self.flushed = flushed


def parse_message(block: bytes) -> Message | None:
    """Return the HTTP response in `block`, or None when it does not begin with a status line.

    Responses that precede the one proper are passed over: 1xx, and what a proxy answers before the tunnel stands.
    """
    message, position = None, 0
    for _ in range(MAX_RESPONSES):
        status = _STATUS_LINE.match(block, position) if message is None or _is_interim(message) else None
        if status is None:
            break
        found = _HEADER_END.search(block, status.end())
        end = found.end() if found else len(block)
        head = block[position:end].lstrip(b"\xef\xbb\xbf\0 \t\r\n")
        head = head if b"\n" in head else head.replace(b"\r", b"\n")
        message, position = Message(int(status[1] or 200), parse_header(head), b""), end
    return None if message is None else replace(message, body=block[position:])


def _is_interim(message: Message) -> bool:
    """Whether a response that another follows was not the one proper."""
    no_content = message.status in range(200, 300) and "content-type" not in message.headers
    return message.status < 200 or message.status == 407 or no_content


def media_type(content_type: str | None) -> tuple[str | None, str | None]:
    """Return media type and charset of a Content-Type field, lower case; None for what it does not say."""
    value = (content_type or "").strip().lower()
    charset = _CHARSET.search(value)
    name = _MEDIA_TYPE.match(value)
    said = name[0] if name else ""
    return (None if said in _SAYS_NOTHING else said), (charset[1] if charset else None)


def decode_body(message: Message, limit: int, *, was_cut: bool) -> Body:
    """Undo transfer and content codings of `message`, up to `limit` bytes.

    `was_cut` says that the crawler cut the record. Then, or when the body is shorter than its header says, what can be
    decoded of it is enough.
    """
    try:
        length = whole_number(message.headers.get("content-length", ""))
        encoded, is_short = message.body, length is not None and len(message.body) < length
        if "chunked" in message.headers.get("transfer-encoding", "").lower():
            encoded, is_short = unchunk(encoded)
        data = encoded
        try:
            codings = _codings(message.headers.get("content-encoding", ""), encoded)
            for coding in codings:
                data = _decode(coding, data, limit)
            is_short = is_short and not codings  # a coding that came to its end is whole
        except _CodingError as error:
            is_plain = looks_like_markup(encoded)
            data = encoded if is_plain else error.partial
            enough = is_plain or was_cut or is_short or error.flushed or _ends_like_html(data)
            if not data or not enough:
                return Body(problem="damaged", detail=str(error))
            is_short = not is_plain  # else any length is that of the encoded body
        if len(data) > limit:
            raise _TooLargeError
    except _TooLargeError:
        return Body(problem="oversize", detail=f"decoded body is over {limit} bytes")
    whole = _CONTENT_RANGE.match(message.headers.get("content-range", ""))
    if message.status == 206 and not (whole and int(whole[1]) + 1 == int(whole[2])):
        return Body(data, cut="range")
    return Body(data, cut="disconnect" if is_short and not _ends_like_html(data) else None)


def _ends_like_html(body: bytes) -> bool:
    return _HTML_END.search(body[-_SNIFF_BYTES:]) is not None


def unchunk(body: bytes) -> tuple[bytes, bool]:
    """Undo the chunked transfer coding; return the bytes and whether they end within it.

    From the first wrong chunk on, bytes are kept as they are.
    """
    parts: list[bytes] = []
    position = 0
    while match := _CHUNK_LINE.match(body, position):
        size = int(match[1], 16)
        if size == 0:
            return b"".join(parts), False
        parts.append(body[match.end() : match.end() + size])
        position = match.end() + size
        if position >= len(body):
            return b"".join(parts), True
        newline = body[position : position + 2]
        position += 2 if newline == b"\r\n" else int(newline[:1] == b"\n")
    return b"".join([*parts, body[position:]]), bool(parts) and position == len(body)


def _codings(header: str, body: bytes) -> list[str]:
    """Return the content codings to undo, outermost first; gzip is seen without a header, too."""
    names = [name.strip().removeprefix("x-") for name in header.lower().split(",")]
    names = [name for name in names if name not in ("", "identity", "none")]
    if not names and body.startswith(CODECS["gzip"]):
        return ["gzip"]
    if len(names) > MAX_CODINGS:
        raise _CodingError(f"{len(names)} content codings, one inside the other")
    return names[::-1]


def _decode(coding: str, data: bytes, limit: int) -> bytes:
    """Undo one coding; gzip is known by its beginning, whatever the header calls it."""
    if not data:
        return data
    if coding in ("gzip", "deflate") or data.startswith(CODECS["gzip"]):
        pieces = _inflate(data, coding)
    elif coding == "br":
        pieces = _brotli(data)
    elif coding == "zstd":
        pieces = _zstd(bytearray(data))
    else:
        raise _CodingError(f"unknown content coding {coding[:40]!r}")
    parts: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            parts.append(piece)
            size += len(piece)
            if size > limit:
                raise _TooLargeError
    except (OSError, zlib.error, zstandard.ZstdError) as error:
        raise _CodingError(f"content coding cannot be undone: {error}", b"".join(parts)) from error
    except EOFError as error:
        flushed = data.endswith(_FLUSH)  # Some servers never end the stream, all of which they have sent.
        raise _CodingError("body ends within its content coding", b"".join(parts), flushed=flushed) from error
    return b"".join(parts)


def _deflate_start(data: bytes, coding: str, position: int = 0) -> int:
    """Return where deflated content begins: behind the header of gzip or zlib, or at once, as many servers send it."""
    if data.startswith(CODECS["gzip"], position):
        flags, start = data[position + 3 : position + 4].ljust(1)[0], position + GZIP_HEADER_BYTES
        if flags & 4:
            start += 2 + int.from_bytes(data[start : start + 2], "little")
        for flag in (8, 16):
            start = data.find(b"\0", start) + 1 if flags & flag else start
        return start + 2 if flags & 2 else start
    if data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0:
        return 2
    if coding == "gzip":
        raise _CodingError("content coding cannot be undone: this is no gzip")
    return 0


def _inflate(data: bytes, coding: str) -> Iterator[bytes]:
    """Inflate a stream, of gzip all members; what else follows is ignored. Raises: EOFError when it has no end."""
    position = _deflate_start(data, coding)
    while True:
        decoder, rest = zlib.decompressobj(-15), b""
        while not decoder.eof:
            if not rest:
                rest = data[position : position + _INPUT_BYTES]
                position += len(rest)
            at_end = not rest
            piece = decoder.decompress(rest, _STEP_BYTES)
            rest = decoder.unconsumed_tail
            yield piece
            if at_end and not piece and not decoder.eof:
                raise EOFError
        position -= len(decoder.unused_data)
        # The trailer may be missing.
        following = data.find(CODECS["gzip"], position, position + GZIP_TRAILER_BYTES + len(CODECS["gzip"]))
        if following < 0 or not data.startswith(CODECS["gzip"]):
            return
        position = _deflate_start(data, "gzip", following)


def _brotli(data: bytes) -> Iterator[bytes]:
    """Decode all of a stream, or as much as comes before its error."""
    reader, size = BrotliReader(io.BytesIO(data)), 0
    try:
        while piece := reader.read(_STEP_BYTES):
            size += len(piece)
            yield piece
    except OSError:
        # The reader drops what it had decoded of a step: once more, in steps of a byte.
        reader = BrotliReader(io.BytesIO(data))
        while size:
            size -= len(reader.read(min(size, _STEP_BYTES)))
        while piece := reader.read(1):
            yield piece


def _zstd(data: bytearray) -> Iterator[bytes]:
    """Decode all frames; what follows them is ignored. Raises: EOFError when the last has no end."""
    decompressor, position = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW), 0
    while data.startswith(CODECS["zstd"], position) or not position:
        descriptor = position + 4
        checksum_bytes = 4 if len(data) > descriptor and data[descriptor] & 4 else 0
        if checksum_bytes:
            data[descriptor] &= ~4  # the decoder is not to look for it
        decoder = decompressor.decompressobj()
        while not decoder.eof:
            step = bytes(data[position : position + _INPUT_BYTES])
            if not step:
                raise EOFError
            yield decoder.decompress(step)
            position += len(step)
        position += checksum_bytes - len(decoder.unused_data)
