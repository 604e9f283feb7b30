"""What is taken over into a store: segment files, in which former versions kept answers, and damaged databases.

A segment begins with `gristmill-llm-1\\n`. What follows are frames, one after the other: a header of 32 bytes

    magic 4 bytes, crc32 of all that follows in the frame (u32), payload length (u32), kind (u32), key (16 bytes)

little-endian, and a payload. The magic has a byte that no ASCII has, and payloads are JSON in ASCII, so after damage
the next frame is found by looking for it.

Of a damaged database every page is read that holds rows, without SQLite, which finds them through other pages alone. A
row's checksum decides, so stale pages and halves of pages do no harm. Source: sqlite.org/fileformat2.html, 1.6, 2.1, 4.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

PAGE_BYTES = 4096
"""Of a store's database."""

_START = b"gristmill-llm-1\n"
_MAGIC = b"\xf5GM\xfa"
_HEADER = struct.Struct("<4sII4x16s")
_MAX_PAYLOAD_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 20

_ROWS_PAGE = b"\x0d"  # a leaf of a table's tree
_PAGE_HEAD_BYTES = 8
_LINK_BYTES = 4  # at the end of a row's first part and the beginning of each page that goes on with it
_MAX_LOCAL = PAGE_BYTES - 35
_MIN_LOCAL = (PAGE_BYTES - 12) * 32 // 255 - 23
_COLUMNS = 4  # none, for the id; a blob; a text; an integer
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}  # bytes of each type; the last two are the numbers 0 and 1
_LOG_HEAD_BYTES = 32
_FRAME_HEAD = struct.Struct(">II8s8x")  # page number; pages of the database where it commits, else 0; salts

Row = tuple[bytes, bytes]
"""A record's key and its result as JSON."""
_Frame = tuple[int, int, int, bool]
"""Of a log: which one it is, from 1; the page's number; where the page is; whether it ends a transaction."""


# Segments -------------------------------------------------------------------------------------------------------------


def segment_rows(path: Path, damage: list[str]) -> Iterator[Row]:
    """Yield every whole record of a segment in order, and note what is none.

    Raises: OSError; ValueError when the file is longer than its start and does not begin like a segment.
    """
    with path.open("rb", buffering=0) as file:
        if not _START.startswith(_read(file, 0, len(_START))):
            raise ValueError("is no file of answers, or one of a newer version")
        at, size = len(_START), file.seek(0, io.SEEK_END)
        while at < size:
            frame = _frame_at(file, at, size)
            if frame is not None:
                yield frame
                at += _HEADER.size + len(frame[1])
                continue
            begin, at = at, next((at for at in _magics(file, at + 1) if _frame_at(file, at, size)), size)
            lost = f"{at - begin} bytes at {begin} are damaged or half written"
            damage.append(f"{path}: {lost}; what they held is asked again")


def _frame_at(file: BinaryIO, at: int, size: int) -> Row | None:
    head = _read(file, at, _HEADER.size)
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        return None
    _, checksum, length, key = _HEADER.unpack(head)
    if length > min(_MAX_PAYLOAD_BYTES, size - at - _HEADER.size):
        return None
    payload = _read(file, at + _HEADER.size, length)
    return (key, payload) if zlib.crc32(payload, zlib.crc32(head[8:])) == checksum else None


def _magics(file: BinaryIO, at: int) -> Iterator[int]:
    """Yield where the magic stands, from `at` on."""
    while len(chunk := _read(file, at, _CHUNK_BYTES)) >= len(_MAGIC):
        found = chunk.find(_MAGIC)
        while found >= 0:
            yield at + found
            found = chunk.find(_MAGIC, found + 1)
        at += len(chunk) - len(_MAGIC) + 1


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    """Return so many bytes, fewer at the file's end. Not mapped: a file that is cut short meanwhile kills nobody."""
    file.seek(at)
    return file.read(size)


# Damaged databases ----------------------------------------------------------------------------------------------------


def database_rows(path: Path, is_whole: Callable[[bytes, bytes, int], bool]) -> Iterator[Row]:
    """Yield every record of a database and of the log beside it that `is_whole` (key, result, checksum).

    Older pages come first, as far as one can tell, and a record comes once for each copy of it. Either file may be
    absent.

    Raises: OSError.
    """
    with ExitStack() as stack:
        main, log = (
            stack.enter_context(file.open("rb", buffering=0)) if file.exists() else io.BytesIO()
            for file in (path, _log_of(path))
        )
        pages = -(-main.seek(0, io.SEEK_END) // PAGE_BYTES)
        stale, current = _frames(log)

        def page_of(number: int, in_log: dict[int, int]) -> bytes:
            if number in in_log:
                return _read(log, in_log[number], PAGE_BYTES)
            return _read(main, (number - 1) * PAGE_BYTES, PAGE_BYTES) if number else b""

        # Other pages of a row are the log's newest, or the database's where a transaction that never ended wrote them
        # to the log, or the log's from before where nobody knows any more what is new.
        versions: list[dict[int, int]] = [{}]
        if current:
            versions.insert(0, {number: at for _, number, at, _ in current})
        if stale:
            versions.append({number: at for _, number, at, _ in [*stale, *current]})
        for page in chain(
            (_read(log, at, PAGE_BYTES) for _, _, at, _ in stale),
            (page_of(number, {}) for number in range(2, pages + 1)),  # the first one holds the schema
            (_read(log, at, PAGE_BYTES) for _, _, at, _ in current),
        ):
            if page.startswith(_ROWS_PAGE):
                for at in _cells(page):
                    found = (_row(page, at, partial(page_of, in_log=in_log)) for in_log in versions)
                    row = next((row for row in found if row and is_whole(*row)), None)
                    if row:
                        yield row[:2]


def committed_frames(database: Path) -> int:
    """Return up to which frame the log beside a database was committed. Raises: OSError."""
    path = _log_of(database)
    if not path.exists():
        return 0
    with path.open("rb", buffering=0) as log:
        return max((place for place, _, _, is_commit in _frames(log)[1] if is_commit), default=0)


def _log_of(database: Path) -> Path:
    return database.with_name(f"{database.name}-wal")


def _frames(log: BinaryIO) -> tuple[list[_Frame], list[_Frame]]:
    """Return the frames from before the log was last begun anew, and the others.

    Salts tell them apart: SQLite writes from the beginning again once everything is in the database.
    """
    frames: list[tuple[bytes, _Frame]] = []
    at = _LOG_HEAD_BYTES
    while len(head := _read(log, at, _FRAME_HEAD.size)) == _FRAME_HEAD.size:
        number, pages, salts = _FRAME_HEAD.unpack(head)
        at += _FRAME_HEAD.size
        frames.append((salts, (len(frames) + 1, number, at, pages > 0)))
        at += PAGE_BYTES
    all_salts = {salts for salts, _ in frames}
    newest = _read(log, 16, 8)
    newest = newest if newest in all_salts or not frames else frames[0][0]
    return [frame for salts, frame in frames if salts != newest], [frame for salts, frame in frames if salts == newest]


def _cells(page: bytes) -> Iterable[int]:
    """Return where the rows of a page begin, as far as it tells."""
    page = page.ljust(PAGE_BYTES, b"\0")
    count = min(int.from_bytes(page[3:5], "big"), (PAGE_BYTES - _PAGE_HEAD_BYTES) // 2)
    return struct.unpack_from(f">{count}H", page, _PAGE_HEAD_BYTES)


def _row(page: bytes, at: int, view: Callable[[int], bytes]) -> tuple[bytes, bytes, int] | None:
    """Return (key, result, checksum) of what begins at `at`; none where that is no row. `view` gives numbered pages."""
    try:
        size, at = _number(page, at)
        _, at = _number(page, at)  # its id
        head, begin = _number(page, at)
        types = []
        while begin < at + head:
            value, begin = _number(page, begin)
            types.append(value)
    except IndexError:
        return None
    if len(types) != _COLUMNS or types[0] or types[1] < 12 or types[1] % 2 or types[2] < 13 or not types[2] % 2:
        return None
    result_at = head + (types[1] - 12) // 2
    checksum_at = result_at + (types[2] - 13) // 2
    if size > _MAX_PAYLOAD_BYTES or size - checksum_at != _INTEGERS.get(types[3]):
        return None
    local = size
    if size > _MAX_LOCAL:
        local = _MIN_LOCAL + (size - _MIN_LOCAL) % (PAGE_BYTES - _LINK_BYTES)
        local = local if local <= _MAX_LOCAL else _MIN_LOCAL
    row, link = bytearray(page[at : at + local]), page[at + local : at + local + _LINK_BYTES]
    while len(row) < size:
        page = view(int.from_bytes(link, "big"))
        if len(page) <= _LINK_BYTES:
            return None
        row += page[_LINK_BYTES : _LINK_BYTES + size - len(row)]
        link = page[:_LINK_BYTES]
    checksum = int.from_bytes(row[checksum_at:], "big", signed=True) if size > checksum_at else types[3] - 8
    return bytes(row[head:result_at]), bytes(row[result_at:checksum_at]), checksum


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of SQLite's variable length and where it ends. Raises: IndexError where the data ends before."""
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9
