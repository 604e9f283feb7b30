"""The bytes of a file that is plain or a row of compressed members (gzip, lz4, zstd), each byte with its raw place.

Web archives compress every record as a member of its own, which is what lets a reader start at any record. So a reader
must know where members begin and end, notice when one does not end, and be able to go back into the raw bytes.
Everything here streams: memory does not grow with a member, whatever it inflates to.

FastWARC inflates 1.6 times faster than zlib, so it does that for every small sound gzip member. But its readers do not
say where in their output a member ended, nor that the last one was cut, and they drop what they had inflated before an
error. So each member is given to it alone and checked against its trailer; all others are decoded step by step here.

Source: RFC 1952 (gzip), the LZ4, Zstandard and xz formats, "WARC file compression with Zstandard" (IIPC).
"""

from __future__ import annotations

import bz2
import codecs
import io
import json
import lzma
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Literal, Protocol

import lz4.frame
import zstandard
from fastwarc.stream_io import GzipReader

from pipeline.extract.media import CODECS, Codec

BLOCK_BYTES = 1 << 20  # raw bytes held at a time
PIECE_BYTES = 256 << 10  # decoded bytes handed on at a time
FEED_BYTES, ZSTD_FEED_BYTES = 32 << 10, 1 << 10  # given to a decoder: 4 bytes of Zstandard can stand for 128 KiB
WHOLE_RAW_BYTES = 1 << 20  # gzip members up to here, and up to the next in decoded bytes, are decoded at once
WHOLE_BYTES = 4 << 20
GZIP_FRAME_BYTES = 18  # header and trailer
BZ2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")  # what follows "BZh" and a digit: a block, or the end of an empty file
MAX_ZSTD_WINDOW = 1 << 27  # what the zstd command accepts without asking
LONG_ZSTD_WINDOW = 1 << 31  # of archives of whole months, whose readers are told so
MAX_XZ_BYTES = 160 << 20  # of memory: twice what `xz -9` needs
MAX_DICTIONARY_BYTES = 16 << 20
EXPANSION, EXPANSION_BYTES = 8192, 1 << 30
"""An input may decode to so many times its size, and so many bytes more, each unit counted as `UNIT_BYTES`: an honest
one stays far below, while some kilobytes of Zstandard, bzip2 or Parquet can stand for hours of work."""
UNIT_BYTES = 4096
_HEAD_ALLOWANCE = 64 << 20
_DICTIONARY_MAGIC = b"\x5d\x2a\x4d\x18"
BOM = codecs.BOM_UTF8
HEAD_BYTES = 64 << 10  # of the content, by which it is known what a file is
_WIDE = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class DamagedMember(Exception):
    """A compressed member cannot be decoded, or input ends within it. Never leaves the readers: it becomes a reject."""

    def __init__(self, message: str, reached: int, *, cut: bool = False) -> None:
        super().__init__(message)
        self.reached = reached  # raw offset up to which bytes were tried
        self.cut = cut

    @property
    def reason(self) -> Literal["truncated_input", "damaged"]:
        """Why what cannot be read is rejected."""
        return "truncated_input" if self.cut else "damaged"


class RawInput:
    """Raw bytes by position over a seekable stream, read in blocks; to see how it begins, or `whole`.

    `window` is how far back Zstandard may look, which is memory once so much is decoded: not to see how it begins.
    """

    def __init__(self, stream: BinaryIO, *, whole: bool = True, window: int = MAX_ZSTD_WINDOW) -> None:
        self.stream = stream
        self.window = window if whole else LONG_ZSTD_WINDOW
        self._block = b""
        self._start = 0
        self.size = stream.seek(0, 2)
        self._allowance = EXPANSION * self.size + EXPANSION_BYTES if whole else _HEAD_ALLOWANCE

    def spend(self, size: int) -> None:
        """Count decoded bytes. Raises: DamagedMember, from then on, when they are too many for the input's size."""
        self._allowance -= size
        if self._allowance < 0:
            raise DamagedMember(f"decodes to over {EXPANSION} times its size; the rest is not read", self.size)

    def at(self, position: int, size: int) -> bytes:
        """Return up to `size` bytes from `position`; fewer only at a block's border, none only at the end."""
        index = position - self._start
        if not 0 <= index < len(self._block):
            self._load(position)
            index = 0
        return self._block[index : index + size]

    def _load(self, position: int) -> None:
        self.stream.seek(position)
        block = self.stream.read(BLOCK_BYTES)
        while len(block) < BLOCK_BYTES and (more := self.stream.read(BLOCK_BYTES - len(block))):
            block += more
        self._start, self._block = position, block

    def exactly(self, position: int, size: int) -> bytes:
        """Return `size` bytes from `position`, fewer only at the end of the input."""
        data = self.at(position, size)
        while len(data) < size and (more := self.at(position + len(data), size - len(data))):
            data += more
        return data

    def find(self, needle: bytes, position: int, stop: int | None = None) -> int:
        """Return the first place of `needle` at or after `position`, or -1; it is not looked for far behind `stop`."""
        while (stop is None or position < stop) and self.at(position, 1):
            index = self._block.find(needle, position - self._start)
            if index >= 0:
                return self._start + index
            end = self._start + len(self._block)
            if end >= self.size:
                return -1
            position = end - len(needle) + 1
            self._load(position)
        return -1


class _Decoder(Protocol):
    """A member's decoder as Python's own for xz and bzip2 are: it holds input back to stay within a length."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...


class _Gzip:
    def __init__(self) -> None:
        self._object = zlib.decompressobj(31)
        self._error: zlib.error | None = None

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        if self._error is not None:
            raise self._error
        before, data = self._object.copy(), self._object.unconsumed_tail + data
        try:
            return self._object.decompress(data, max_length)
        except zlib.error as error:
            self._error = error
        decoded = bytearray()  # the library drops what it had decoded: once more, byte by byte
        try:
            for index in range(len(data)):
                decoded += before.decompress(data[index : index + 1])
        except zlib.error:
            pass
        return bytes(decoded)

    @property
    def needs_input(self) -> bool:
        return self._error is None and not self._object.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


class _Zstd:
    needs_input = True  # the library has no limit on output

    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None, window: int) -> None:
        self._object = zstandard.ZstdDecompressor(dictionary, max_window_size=window).decompressobj()

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._object.decompress(data) if data else b""

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data


@dataclass(frozen=True, slots=True)
class Compression:
    """How a file is stored; decided once from its beginning, so that it does not depend on where reading starts."""

    codec: Codec
    dictionary: zstandard.ZstdCompressionDict | None = None


def detect(raw: RawInput) -> Compression:
    """Return the format by content, never by name; what has no known magic number is plain."""
    head = raw.exactly(0, 10)
    if head.startswith(_DICTIONARY_MAGIC):
        return Compression("zstd", _read_dictionary(raw))
    behind = raw.exactly(_skip_skippable(raw, 0), 10)
    for codec, magic in CODECS.items():
        if head.startswith(magic) or behind.startswith(magic):
            # Three letters could begin a text: bzip2 counts with what must follow them.
            return Compression(codec) if codec != "bz2" or head[4:] in BZ2_BLOCKS else Compression("plain")
    return Compression("plain")


def _read_dictionary(raw: RawInput) -> zstandard.ZstdCompressionDict | None:
    size = int.from_bytes(raw.exactly(4, 4), "little")
    if size > MAX_DICTIONARY_BYTES:
        return None
    content = raw.exactly(8, size)
    if content.startswith(CODECS["zstd"]):
        # In one go the library allocates whatever the frame claims.
        reader = zstandard.ZstdDecompressor(max_window_size=MAX_ZSTD_WINDOW).stream_reader(io.BytesIO(content))
        try:
            content = reader.read(MAX_DICTIONARY_BYTES + 1)
        except zstandard.ZstdError:
            return None
    return zstandard.ZstdCompressionDict(content) if len(content) <= MAX_DICTIONARY_BYTES else None


def _skip_skippable(raw: RawInput, position: int) -> int:
    """Return the offset behind the skippable frames (of lz4 and zstd) at `position`."""
    while True:
        head = raw.exactly(position, 8)
        if len(head) < 8 or head[1:4] != b"\x2a\x4d\x18" or head[0] >> 4 != 5:
            return position
        position += 8 + int.from_bytes(head[4:8], "little")


_DECODING_ERRORS = (zlib.error, zstandard.ZstdError, lzma.LZMAError, RuntimeError, EOFError, MemoryError, OSError)


class Member:
    """One compressed member, or the rest of a plain file, decoded piece by piece."""

    def __init__(self, raw: RawInput, form: Compression, start: int) -> None:
        self.start = start
        self.end: int | None = None  # raw offset behind the member, once it is known
        self._raw, self._form = raw, form
        self._fed = start if form.codec in ("plain", "gzip") else _skip_skippable(raw, start)
        self._decoder: _Decoder | None = _open_decoder(form, raw.window)

    def read(self, feed_bytes: int | None = None) -> bytes:
        """Return the next decoded piece, empty at the member's proper end.

        Raises: DamagedMember.
        """
        if self._decoder is None:
            return self._read_plain()
        feed_bytes = feed_bytes or (ZSTD_FEED_BYTES if self._form.codec == "zstd" else FEED_BYTES)
        while self.end is None:
            hungry = self._decoder.needs_input
            data = self._raw.at(self._fed, feed_bytes) if hungry else b""
            self._fed += len(data)
            try:
                piece = self._decoder.decompress(data, PIECE_BYTES)
            except _DECODING_ERRORS as error:
                raise DamagedMember(f"{self._form.codec} member cannot be decoded: {error}", self._fed) from error
            if self._decoder.eof:
                self.end = self._fed - len(self._decoder.unused_data or b"")
            if piece:
                self._raw.spend(len(piece))
                return piece
            if hungry and not data and self.end is None:
                raise DamagedMember(f"input ends within a {self._form.codec} member", self._fed, cut=True)
        return b""

    def read_whole(self) -> bytes:
        """Return all content of a small sound gzip member, leaving it at its end; else nothing, leaving it unread."""
        if self._form.codec != "gzip":
            return b""
        stop = self.start + WHOLE_RAW_BYTES
        end = self._raw.find(CODECS["gzip"], self.start + GZIP_FRAME_BYTES, stop)  # most likely the next member
        end = self._raw.size if end < 0 else end
        if end > stop:
            return b""
        data = self._raw.exactly(self.start, end - self.start)
        try:
            content = bytes(GzipReader(io.BytesIO(data)).read(WHOLE_BYTES))
        except OSError:
            return b""
        trailer = zlib.crc32(content).to_bytes(4, "little") + len(content).to_bytes(4, "little")
        if not data.endswith(trailer):
            return b""
        self.end = end
        self._raw.spend(len(content))
        return content

    def skip(self, size: int) -> int:
        """Return how many of `size` decoded bytes could be skipped without reading them (plain files only)."""
        if self._decoder is not None:
            return 0
        skipped = max(0, min(size, self._raw.size - self._fed))
        self._fed += skipped
        return skipped

    def _read_plain(self) -> bytes:
        data = self._raw.at(self._fed, PIECE_BYTES)
        self._fed += len(data)
        if not data:
            _check_whole(self._raw, self._fed)
            self.end = self._fed
        return data


def _open_decoder(form: Compression, window: int) -> _Decoder | None:
    match form.codec:
        case "plain":
            return None
        case "gzip":
            return _Gzip()
        case "zstd":
            return _Zstd(form.dictionary, window)
        case "lz4":
            return lz4.frame.LZ4FrameDecompressor()  # type: ignore[no-any-return]
        case "xz":
            return lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES)
        case "bz2":
            return bz2.BZ2Decompressor()


def _check_whole(raw: RawInput, end: int) -> None:
    """Raise DamagedMember when the input ends before the size that it had when it was opened."""
    if end < raw.size:
        raise DamagedMember(f"the file shrank from {raw.size} to {end} bytes while it was read", end, cut=True)


def _skip_padding(raw: RawInput, form: Compression, position: int) -> int:
    """Return the offset behind the NUL bytes that may pad the streams of an xz file; elsewhere they are damage."""
    while form.codec == "xz" and (data := raw.at(position, BLOCK_BYTES)):
        rest = data.lstrip(b"\0")
        position += len(data) - len(rest)
        if rest:
            break
    return position


class DecodedStream:
    """The decoded bytes from one raw offset on, across members, with the place of the next byte.

    `pull` stops at the end of each member; `cross` goes on to the next and says whether a record starts there. A member
    that does not start a record carries on with the bytes of the one before (some tools cut members by size).
    """

    def __init__(self, raw: RawInput, form: Compression, start: int, starts_record: Callable[[bytes], bool]) -> None:
        self._raw, self._form, self._starts_record = raw, form, starts_record
        self._member: Member | None = None
        self._pending = b""
        self._position = 0  # decoded bytes handed out
        # Decoded position and raw offset of the members since the record's start.
        self._marks: deque[tuple[int, int]] = deque()
        self.member_start = start  # raw offset of the member last opened, or tried
        self.failure: DamagedMember | None = None  # met while peeking: due when the bytes before it are used up

    def pull(self) -> bytes:
        """Return the next decoded bytes of this member, empty at its end.

        Raises: DamagedMember.
        """
        piece, self._pending = self._pending, b""
        if not piece and self.failure is not None:
            raise self.failure
        if not piece and self._member is not None:
            piece = self._member.read()
        self._position += len(piece)
        return piece

    def push(self, data: bytes) -> None:
        """Give back bytes that were pulled last."""
        self._pending = data + self._pending if self._pending else data
        self._position -= len(data)

    def peek(self, size: int) -> bytes:
        """Return at least `size` bytes of this member, fewer at its end or before damage, and leave them unread.

        Raises: DamagedMember, when not one byte can be decoded.
        """
        data = self.pull()
        try:
            while len(data) < size and (piece := self.pull()):
                data += piece
        except DamagedMember as error:
            self.failure = error
        self.push(data)
        return data

    def skip(self, size: int) -> int:
        """Pass over up to `size` bytes of this member in constant memory; return how many there were.

        Raises: DamagedMember.
        """
        left = size
        while left and (piece := self.pull()):
            if len(piece) > left:
                self.push(piece[left:])
                return size
            left -= len(piece)
            jumped = self._member.skip(left) if self._member is not None else 0
            self._position += jumped
            left -= jumped
        return size - left

    def cross(self) -> Literal["record", "more", "end"]:
        """Go on to the next member that holds anything, and say what its first bytes are.

        Raises: DamagedMember, when that member cannot be decoded; `place` is then its start.
        """
        while not self._pending:
            start = self.member_start
            if self._member is not None:
                assert self._member.end is not None
                start = _skip_padding(self._raw, self._form, self._member.end)
            if not self._raw.at(start, 1):
                _check_whole(self._raw, start)
                return "end"
            self._raw.spend(UNIT_BYTES)
            self.member_start, self._member = start, None
            member = Member(self._raw, self._form, start)
            self._pending = member.read_whole() or member.read()
            self._member = member
            if self._marks and self._marks[-1][0] == self._position:
                self._marks.pop()  # its member held nothing
            self._marks.append((self._position, start))
        return "record" if self._starts_record(self._pending) else "more"

    def place(self) -> tuple[int, int]:
        """Return the raw offset of the member of the next byte, and how many decoded bytes of it come before."""
        if self._member is None and not self._pending:
            return self.member_start, 0
        while len(self._marks) > 1 and self._marks[1][0] <= self._position:
            self._marks.popleft()
        position, start = self._marks[0]
        inner = self._position - position
        return (start + inner, 0) if self._form.codec == "plain" else (start, inner)


def candidates(raw: RawInput, form: Compression, start: int, starts_record: Callable[[bytes], bool]) -> Iterator[int]:
    """Yield raw offsets at or after `start` of members whose first decoded bytes start a record."""
    magic = CODECS[form.codec]
    position = raw.find(magic, start)
    while position >= 0:
        if (form.codec != "gzip" or _is_gzip(raw, position)) and starts_record(_first_bytes(raw, form, position)):
            yield position
        position = raw.find(magic, position + 1)


def _is_gzip(raw: RawInput, position: int) -> bool:
    """Whether a gzip member can begin here: each place that seems so would be searched for the end of a long name."""
    head = raw.exactly(position, 512)
    flags = head[3] if len(head) > 3 else 0
    is_named = flags & 24 == 0 or b"\0" in head[10:]
    return flags < 32 and is_named and (flags & 4 == 0 or head[11:12] < b"\x10")


def _first_bytes(raw: RawInput, form: Compression, position: int) -> bytes:
    """Return up to about 16 KiB of what a member at `position` decodes to, from at most 64 KiB of input."""
    member = Member(raw, form, position)
    head = b""
    try:
        for _ in range(128):
            piece = member.read(512)
            head += piece
            if not piece or len(head) >= 16 << 10:
                break
    except DamagedMember:
        pass
    return head


def read_head(raw: RawInput, size: int = HEAD_BYTES) -> tuple[bytes, bool]:
    """Return the first `size` bytes of the content, without a byte order mark, and whether that is all of it.

    Of a damaged file it is what can be decoded, which is never all.
    """
    head = b""
    pieces = content(raw, 0)
    try:
        while len(head) < size:
            piece = next(pieces, None)
            if piece is None:
                return head.removeprefix(BOM), True
            head += piece
    except DamagedMember:
        pass
    return head[:size].removeprefix(BOM), False


def content(raw: RawInput, start: int) -> Iterator[bytes]:
    """Yield the content from its byte `start` on, decompressed and in UTF-8. Raises: DamagedMember."""
    stream = DecodedStream(raw, detect(raw), 0, lambda _: False)
    head = b""
    try:
        while len(head) < 4 and stream.cross() != "end":  # the first members may be of a byte each
            while len(head) < 4 and (piece := stream.pull()):
                head += piece
    except DamagedMember as error:
        stream.failure = error
    stream.push(head)
    encoding = _wide_encoding(head)
    if encoding is None:
        yield from _pieces(stream, start)
        return
    for piece in _in_utf8(_pieces(stream, 0), encoding):
        if start < len(piece):
            yield piece[start:]
        start = max(0, start - len(piece))


def _pieces(stream: DecodedStream, skip: int) -> Iterator[bytes]:
    while True:
        if skip:
            skip -= stream.skip(skip)
        while not skip and (piece := stream.pull()):
            yield piece
        if stream.cross() == "end":
            return


def _wide_encoding(head: bytes) -> str | None:
    """Return the encoding of content in UTF-16 or UTF-32: by its mark, or by how JSON begins in it."""
    for mark, encoding in _WIDE.items():
        if head.startswith(mark):
            return encoding
    if b"\0" in head[:4] and head[:4].strip(b"\0")[:1] in (b"{", b"["):
        return json.detect_encoding(head[:4])
    return None


def _in_utf8(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield text of another encoding in UTF-8 without its mark; half a surrogate pair becomes bytes that are none."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
    first = True
    read = 0
    try:
        for piece in pieces:
            text = decoder.decode(piece)
            read += len(piece)
            if text:
                yield (text.removeprefix("\ufeff") if first else text).encode(errors="surrogatepass")
                first = False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        cut = "truncated" in error.reason
        raise DamagedMember(f"no {encoding.upper()} from here on: {error.reason}", read, cut=cut) from error


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line without its newline. `data` is None when it is over the limit; with `damage` the file ends in it."""

    offset: int
    data: bytes | None
    damage: DamagedMember | None = None


def read_lines(raw: RawInput, start: int, limit: int, mark: bytes = b"\n") -> Iterator[RawLine]:
    r"""Yield the lines of an input from the byte `start` of its content on; none can drop.

    Lines end at "\n" alone, or another `mark`. When the compressed file is damaged, the line that it ends in comes
    last, with `damage`.
    """
    offset, size = start, 0  # of the line that has not ended
    held: list[bytes] = []  # of it, while it is within the limit
    damage: DamagedMember | None = None
    try:
        for piece in content(raw, start):
            raw.spend(UNIT_BYTES * piece.count(mark))
            *ends, rest = piece.split(mark)
            for end in ends:
                size += len(end)
                yield RawLine(offset, b"".join([*held, end]) if size <= limit else None)
                offset, size, held = offset + size + 1, 0, []
            size += len(rest)
            held = [*held, rest] if size <= limit else []
    except DamagedMember as error:
        damage = error
    if size or damage is not None:
        yield RawLine(offset, b"".join(held) if size <= limit else None, damage)
