"""The files in an input that is a tar (plain or compressed), a zip, or one file: one at a time, and never on disk.

Nothing is followed or unpacked to anywhere: a path is a name. What a hostile archive may claim (sizes, names, headers,
the same bytes a thousand times) is bounded here, so memory does not grow with the archive nor with a file in it. Like
everything that reads raw inputs this streams: `zipfile` would hold the whole directory and `tarfile` recurses into
headers and holds them, so of the latter only the header's own parser is used.

Source: POSIX pax, GNU tar manual ("Basic Tar Format"), PKWARE APPNOTE 6.3.10.
"""

from __future__ import annotations

import bz2
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import BinaryIO

from fsspec.utils import glob_translate

from pipeline.extract.members import UNIT_BYTES, DamagedMember, DecodedStream, RawInput, detect
from pipeline.table.schema import RejectReason
from pipeline.table.storage import printable

_BLOCK = 512
_MAX_HEADER_BYTES = 1 << 20  # of names and other fields that a tar keeps in files of their own
_MAX_PATH = 4096
_LINK, _FOLDER = "a link, which is not followed", "a folder"
_KINDS = {
    tarfile.LNKTYPE: _LINK,
    tarfile.SYMTYPE: _LINK,
    tarfile.CHRTYPE: "a device, which is no file",
    tarfile.BLKTYPE: "a device, which is no file",
    tarfile.FIFOTYPE: "a named pipe, which is no file",
    tarfile.DIRTYPE: _FOLDER,
    b"V": _FOLDER,  # a volume's label
    b"D": _FOLDER,  # of an incremental backup, with its listing
    b"M": "the rest of a file of another volume; join the volumes",
    tarfile.GNUTYPE_SPARSE: "a sparse file; pack it as an ordinary one",
}
_HEADERS = (b"L", b"K", b"x", b"g", b"X")  # GNU's long names, pax, and Sun's pax
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ([^=\n]{1,200})=")
_NAME = re.compile(r"\.(?:zip|tgz|tbz2?|txz|tar(?:\.(?:gz|bz2|xz|zst|lz4))?)$", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(gz|bz2|xz|zst|lz4)$", re.IGNORECASE)
_CENTRAL = struct.Struct("<4s2B5H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LAST_YEAR_S = 253_402_300_800  # behind the last second of the year 9999


@dataclass(frozen=True, slots=True)
class ArchivedFile:
    """A file of an input, or what cannot be read of it: then `data` is empty and `problem` says why.

    `number` counts these, from 0; reading can begin again at each. `path` is relative, with `/`, and in UTF-8; of an
    input that is one file it is its name without the compression's suffix. `comment` is what the archive says of
    itself: the commit, where git wrote it. With `is_damage` a stretch of the archive is lost, and no file is known.
    """

    number: int
    path: str
    data: bytes = b""
    modified: datetime | None = None
    comment: str | None = None
    problem: tuple[RejectReason, str] | None = None
    is_damage: bool = False

    def refusal(self) -> tuple[int, RejectReason, str, str]:
        """Return what `Given.refuse` has to know of a file that cannot be read."""
        assert self.problem is not None, "only what has a problem is refused"
        reason, detail = self.problem
        return (
            self.number,
            reason,
            f"{self.path}: {detail}" if self.path else detail,
            "damage" if self.is_damage else "row",
        )


def is_archive(name: str) -> bool:
    """Whether an input is an archive by its name. Reading never depends on it, only what is read beside what."""
    return _NAME.search(name) is not None


def read_files(stream: BinaryIO, name: str, start: int, limit: int) -> Iterator[ArchivedFile]:
    """Yield each file from number `start` on of a seekable input called `name`, those that cannot be read as well.

    Folders are no files. `limit` is what a file may hold in bytes. After damage what can be found again is read.
    """
    raw = RawInput(stream)
    codec = detect(raw).codec
    if codec == "plain" and raw.exactly(0, 4) in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        yield from _files_of_zip(raw, stream, start, limit)
        return
    flow = _Flow(raw)
    head, data = b"", b""
    problem: tuple[RejectReason, str] | None = None
    try:
        head = flow.take(_BLOCK)
        if not _is_tar(head):
            data = head + flow.take(limit + 1 - len(head))
            problem = _over(limit) if len(data) > limit else None
    except DamagedMember as error:
        problem = error.reason, str(error)
    if _is_tar(head):
        yield from _files_of_tar(flow, head, start, limit)
    elif start == 0:
        path = _SUFFIX.sub("", name) if codec != "plain" else name
        yield ArchivedFile(0, path, b"" if problem else data, problem=problem)


def matches(path: str, globs: tuple[str, ...]) -> bool:
    """Whether a file's path, or its name where the glob has no `/`, is one of those that `globs` mean."""
    name = path.rpartition("/")[2]
    return any(_pattern(glob).fullmatch(path if "/" in glob else name) is not None for glob in globs)


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(glob_translate(glob), re.IGNORECASE)


def _over(limit: int) -> tuple[RejectReason, str]:
    return "oversize", f"a file of over {limit} bytes"


def _unsafe(path: str) -> str | None:
    """Return why no archive of files that belong together has such a path, None when it is one."""
    if len(path) > _MAX_PATH:
        return f"a path of over {_MAX_PATH} characters"
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[/\\]", path):
        return "an absolute path"
    return "a path that leads out of the archive" if ".." in re.split(r"[/\\]", path) else None


def _tidy(path: str) -> str:
    """Return a path as documents carry it."""
    return printable("/".join(part for part in path[:_MAX_PATH].split("/") if part not in ("", ".")))


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < _LAST_YEAR_S else None


class _Flow:
    """The decompressed bytes of an input, taken in order."""

    def __init__(self, raw: RawInput) -> None:
        self.raw = raw
        self._stream = DecodedStream(raw, detect(raw), 0, lambda _: False)
        self._piece, self._at = b"", 0
        self._is_over = False

    def take(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end. Raises: DamagedMember."""
        parts: list[bytes] = []
        while size > 0 and self._fill():
            part = self._piece[self._at : self._at + size]
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        """Pass over up to `size` bytes in constant memory; return how many there were. Raises: DamagedMember."""
        left = size - min(size, len(self._piece) - self._at)
        self._at += size - left
        while left and not self._is_over:
            left -= (step := self._stream.skip(left))
            self._is_over = not step and self._stream.cross() == "end"
        return size - left

    def _fill(self) -> bool:
        while self._at == len(self._piece) and not self._is_over:
            self._piece, self._at = self._stream.pull(), 0
            self._is_over = not self._piece and self._stream.cross() == "end"
        return self._at < len(self._piece)


# tar ------------------------------------------------------------------------------------------------------------------


def _header(block: bytes) -> tarfile.TarInfo | None:
    """Return what a block says as a header, None when it is none."""
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError, OverflowError):
        return None
    return header if header.size >= 0 else None


def _is_tar(head: bytes) -> bool:
    is_known = head.startswith(b"ustar", 257) or not head.strip(b"\0") or _header(head) is not None
    return len(head) == _BLOCK and is_known


@dataclass(slots=True)
class _Fields:
    """What the headers before a file's own say of it, as pax names it; `problem` is why they cannot be trusted."""

    of_all: dict[str, str]
    of_next: dict[str, str]
    problem: tuple[RejectReason, str] | None = None

    def read(self, kind: bytes, data: bytes) -> None:
        """Take a header's body."""
        if kind in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            if kind == tarfile.GNUTYPE_LONGNAME:
                self.of_next["path"] = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            return
        target = self.of_all if kind == tarfile.XGLTYPE else self.of_next
        position = 0
        while match := _RECORD.match(data, position):
            end = position + int(match[1])
            if end <= match.end():
                break
            key = "sparse" if match[2].startswith(b"GNU.sparse.") else match[2].decode("ascii", "replace")
            if key in ("path", "size", "mtime", "comment", "sparse"):
                target[key] = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
            position = end

    def number(self, name: str, otherwise: float) -> float:
        """Return a field's number."""
        said = self.of_next.get(name, self.of_all.get(name, ""))
        return float(said) if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{0,18})?", said) else otherwise


def _files_of_tar(flow: _Flow, block: bytes, start: int, limit: int) -> Iterator[ArchivedFile]:
    """Yield the files of a tar, whose first block has been read; archives may follow one another."""
    number, fields, is_lost, is_blank = 0, _Fields({}, {}), False, True
    try:
        while block:
            flow.raw.spend(UNIT_BYTES)
            header = _header(block) if len(block) == _BLOCK else None
            is_blank = is_blank and not block.strip(b"\0")
            if header is None and (block.strip(b"\0") or len(block) < _BLOCK):
                if not is_lost and number >= start:  # once, until a header is found again
                    reason: RejectReason = "damaged" if len(block) == _BLOCK else "truncated_input"
                    yield ArchivedFile(number, "", problem=(reason, "no file's header in the tar"), is_damage=True)
                number, is_lost, fields = number + (not is_lost), True, _Fields(fields.of_all, {})
            elif header is not None:
                is_lost = False
                found = _next_of_tar(flow, block, header, fields, limit if number >= start else 0)
                if found is not None:
                    if number >= start:
                        yield replace(found, number=number)
                    number, fields = number + 1, _Fields(fields.of_all, {})
                elif header.type in _KINDS:
                    fields = _Fields(fields.of_all, {})
            block = flow.take(_BLOCK)
        if is_blank and start == 0:
            yield ArchivedFile(0, "", problem=("empty", "a tar without files, or nothing but NUL bytes"))
    except DamagedMember as error:
        if number >= start:
            yield ArchivedFile(number, "", problem=(error.reason, str(error)), is_damage=True)


def _next_of_tar(
    flow: _Flow, block: bytes, header: tarfile.TarInfo, fields: _Fields, limit: int
) -> ArchivedFile | None:
    """Return the file behind a header, read to its end; None for a folder, or a header of the file that follows."""
    size = header.size
    if header.type in _HEADERS:
        if size > _MAX_HEADER_BYTES:
            fields.problem = "oversize", f"a header of over {_MAX_HEADER_BYTES} bytes"
            _skip_whole(flow, size, "a header")
        else:
            fields.read(header.type, flow.take(size))
            flow.skip(-size % _BLOCK)
        return None
    path = fields.of_next.get("path", header.name)
    kind = _KINDS.get(header.type)
    is_sparse = header.type == tarfile.GNUTYPE_SPARSE or "sparse" in fields.of_next
    if header.type == tarfile.GNUTYPE_SPARSE:
        goes_on = block[482:483]  # in further blocks
        while goes_on.strip(b"\0"):
            goes_on = flow.take(_BLOCK)[504:505]
    size = int(fields.number("size", size))
    if kind is not None and kind != _FOLDER and not is_sparse:
        size = 0  # whatever it says
    if kind == _FOLDER or (header.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and path.endswith("/")):
        _skip_whole(flow, size, _tidy(path))
        return None
    unsafe = _unsafe(path)
    problem: tuple[RejectReason, str] | None = fields.problem
    if unsafe or kind or is_sparse:
        problem = "unsupported", unsafe or kind or _KINDS[tarfile.GNUTYPE_SPARSE]
    elif size > limit:
        problem = _over(limit)
    modified = _moment(fields.number("mtime", header.mtime))
    found = ArchivedFile(0, _tidy(path), b"", modified, fields.of_all.get("comment"), problem)
    if problem is not None:
        _skip_whole(flow, size, found.path)
        return found
    data = flow.take(size)
    if len(data) < size:
        raise DamagedMember(f"the tar ends within {found.path}", flow.raw.size, cut=True)
    flow.skip(-size % _BLOCK)
    return replace(found, data=data)


def _skip_whole(flow: _Flow, size: int, what: str) -> None:
    if flow.skip(size) < size:
        raise DamagedMember(f"the tar ends within {what}", flow.raw.size, cut=True)
    flow.skip(-size % _BLOCK)


# zip ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Zipped:
    """What a zip says of a file: `offset` is that of its local header, `packed` its size there."""

    path: str
    flags: int
    method: int
    crc: int | None
    packed: int
    offset: int
    is_link: bool = False
    modified: datetime | None = None


def _files_of_zip(raw: RawInput, stream: BinaryIO, start: int, limit: int) -> Iterator[ArchivedFile]:
    """Yield the files that the directory of a zip names; without one, those whose own headers are found."""
    number, left = 0, raw.size
    directory = _directory(raw)
    comment = directory[1].decode("utf-8", "replace").strip() or None if directory else None
    listed = _by_directory(RawInput(stream), directory[0]) if directory else _by_headers(raw)
    try:
        for file in listed:
            raw.spend(UNIT_BYTES)
            if file.path.endswith("/"):
                continue
            left -= file.packed
            if left < 0:
                raise DamagedMember("files of the zip share their bytes; the rest is not read", raw.size)
            if number >= start:
                found = ArchivedFile(number, _tidy(file.path), b"", file.modified, comment)
                try:
                    yield replace(found, data=_unzip(raw, file, limit))
                except _UnreadError as error:
                    yield replace(found, problem=error.problem)
            number += 1
    except DamagedMember as error:
        if number >= start:
            yield ArchivedFile(number, "", problem=(error.reason, str(error)), is_damage=True)
    else:
        if directory is None and number >= start:
            cut: tuple[RejectReason, str] = "truncated_input", "the zip ends before its directory"
            yield ArchivedFile(number, "", problem=cut, is_damage=True)


class _UnreadError(Exception):
    """A file of a zip cannot be read; the others can."""

    def __init__(self, reason: RejectReason, detail: str) -> None:
        super().__init__(detail)
        self.problem = reason, detail


def _directory(raw: RawInput) -> tuple[int, bytes] | None:
    """Return where the directory of a zip begins, and the zip's comment; None where it has none."""
    begin = max(0, raw.size - _END.size - 0xFFFF)
    tail = raw.exactly(begin, raw.size - begin)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        return None
    *_, offset, comment_size = _END.unpack_from(tail, at)
    comment = tail[at + _END.size : at + _END.size + comment_size]
    if (locator := raw.exactly(max(0, begin + at - 20), 20)).startswith(b"PK\x06\x07"):
        record = raw.exactly(int.from_bytes(locator[8:16], "little"), _END64.size)
        if len(record) == _END64.size and record.startswith(b"PK\x06\x06"):
            *_, offset = _END64.unpack(record)
    return (offset, comment) if raw.exactly(offset, 2) == b"PK" else None


def _by_directory(raw: RawInput, position: int) -> Iterator[_Zipped]:
    """Yield what a directory lists, in its order. Raises: DamagedMember where it ends amiss."""
    while (head := raw.exactly(position, _CENTRAL.size)).startswith(b"PK\x01\x02"):
        if len(head) < _CENTRAL.size:
            break
        _, _, system, _, flags, method, _, _, crc, packed, size, *rest = _CENTRAL.unpack(head)
        name_size, extra_size, comment_size, _, _, mode, offset = rest
        position += _CENTRAL.size
        body = raw.exactly(position, name_size + extra_size)
        position += name_size + extra_size + comment_size
        extra = _extra(body[name_size:])
        size, packed, offset = _wide(extra, size, packed, offset)
        is_link = system == 3 and mode >> 28 == 0o12
        path = _zip_name(body[:name_size], flags)
        yield _Zipped(path, flags, method, crc, packed, offset, is_link, _stamp(extra))
    if head[:4] not in (b"PK\x05\x06", b"PK\x06\x06", b"PK\x05\x05"):
        raise DamagedMember("the zip's directory cannot be read to its end", raw.size)


def _by_headers(raw: RawInput) -> Iterator[_Zipped]:
    """Yield the files whose own headers are found, in the order of their places: all that a cut zip has."""
    position = raw.find(b"PK\x03\x04", 0)
    while position >= 0:
        head = raw.exactly(position, _LOCAL.size)
        if len(head) < _LOCAL.size:
            return
        _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(head)
        body = raw.exactly(position + _LOCAL.size, name_size + extra_size)
        extra = _extra(body[name_size:])
        _, packed = _wide(extra, size, packed)
        begin = position + _LOCAL.size + name_size + extra_size
        if flags & 8 and not packed:  # its size stands behind it
            end = raw.find(b"PK\x07\x08", begin)
            packed = (end if end >= 0 else raw.size) - begin
        path = _zip_name(body[:name_size], flags)
        checksum = None if flags & 8 else crc
        yield _Zipped(path, flags, method, checksum, packed, position, modified=_stamp(extra))
        position = raw.find(b"PK\x03\x04", begin + packed)


def _zip_name(name: bytes, flags: int) -> str:
    """Return a name; those of before Unicode are in code page 437, unless they are valid UTF-8 all the same."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape") if flags & 0x800 else name.decode("cp437")
    return text.replace("\\", "/")


def _wide(extra: dict[int, bytes], *numbers: int) -> list[int]:
    """Return numbers of which those that do not fit into 32 bits stand in a field of their own, in the same order."""
    wide, found = extra.get(1, b""), []
    for number in numbers:
        if number == 0xFFFFFFFF and len(wide) >= 8:
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        found.append(number)
    return found


def _extra(data: bytes) -> dict[int, bytes]:
    """Return the extra fields of a file by their ids."""
    fields: dict[int, bytes] = {}
    while len(data) >= 4:
        identifier, size = struct.unpack_from("<2H", data)
        fields.setdefault(identifier, data[4 : 4 + size])
        data = data[4 + size :]
    return fields


def _stamp(extra: dict[int, bytes]) -> datetime | None:
    """Return when a file was changed: the usual field is in a time zone that nobody knows, Info-ZIP's own in UTC."""
    stamp = extra.get(0x5455, b"")
    return _moment(int.from_bytes(stamp[1:5], "little")) if len(stamp) >= 5 and stamp[0] & 1 else None


def _unzip(raw: RawInput, file: _Zipped, limit: int) -> bytes:
    """Return what a file holds. Raises: _UnreadError; DamagedMember when the whole archive decodes to too much."""
    unsafe = _unsafe(file.path)
    if unsafe or file.is_link:
        raise _UnreadError("unsupported", unsafe or _LINK)
    if file.flags & 1:
        raise _UnreadError("encrypted", "encrypted; unpack it with its password")
    head = raw.exactly(file.offset, _LOCAL.size)
    if len(head) < _LOCAL.size or not head.startswith(b"PK\x03\x04"):
        raise _UnreadError("damaged", "the zip has no file where its directory says")
    position = file.offset + _LOCAL.size + sum(_LOCAL.unpack(head)[-2:])
    end = position + file.packed
    decode: Callable[[bytes, int], bytes] | None = None
    if file.method == 8:
        decode = zlib.decompressobj(-15).decompress
    elif file.method == 12:
        decode = bz2.BZ2Decompressor().decompress
    elif file.method != 0:
        raise _UnreadError("unsupported", f"compressed by method {file.method}; pack it again with deflate")
    parts: list[bytes] = []
    size = 0
    while position < end and size <= limit and (data := raw.at(position, min(1 << 16, end - position))):
        position += len(data)
        try:
            part = decode(data, limit + 1 - size) if decode is not None else data
        except (zlib.error, OSError, EOFError) as error:
            raise _UnreadError("damaged", f"cannot be decompressed: {error}") from error
        raw.spend(len(part))
        parts.append(part)
        size += len(part)
    if size > limit:
        raise _UnreadError(*_over(limit))
    whole = b"".join(parts)
    if position < end:
        raise _UnreadError("truncated_input", "the zip ends within it")
    if file.crc is not None and zlib.crc32(whole) != file.crc:
        raise _UnreadError("damaged", "its checksum is wrong")
    return whole
