"""Lines, or the elements of a JSON array, of a plain or compressed file with their byte offsets.

Memory does not grow with a line or an element. Offsets count the bytes of the decompressed content in UTF-8: a file in
UTF-16 or UTF-32 is turned into that first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO, Literal

from pipeline.extract.members import UNIT_BYTES, DamagedMember, RawInput, RawLine, content, read_head

_BEGINNING_BYTES = 1024
_SPACE = b" \t\r\n"


def read_elements(stream: BinaryIO, start: int, limit: int) -> Iterator[RawLine]:
    """Yield the elements of a JSON array, or objects of several lines each, as `read_lines` yields lines.

    A broken element ends at the newline in one of its strings, or where an object begins that can be no part of it;
    the next one is then sought at the beginning of a line. Else the rest of the file is part of it. When input ends
    before the array does, what it ends in comes last, with `damage`.
    """
    raw = RawInput(stream)
    is_array = read_head(RawInput(stream, whole=False), _BEGINNING_BYTES)[0].lstrip(_SPACE).startswith(b"[")
    elements = _Elements(start, limit, in_array=start > 0 and is_array)
    try:
        for piece in content(raw, start):
            for element in elements.feed(piece):
                raw.spend(UNIT_BYTES)
                yield element
        yield from elements.end(None)
    except DamagedMember as error:
        yield from elements.end(error)


def is_json_array(stream: BinaryIO) -> bool:
    """Whether the content is a JSON array, or JSON objects that take several lines each: by how it begins."""
    head = read_head(RawInput(stream, whole=False), _BEGINNING_BYTES)[0].lstrip(_SPACE)
    return head.startswith(b"[") or head.split(b"\n", 1)[0].rstrip(_SPACE) == b"{" != head


_GAP = re.compile(rb"[\s,\xef\xbb\xbf]*+")  # with the bytes of a byte order mark, which no JSON value begins with
_MARK = re.compile(rb'["{}\[\]]')
_STRING = re.compile(rb'(?:[^"\\\n]++|\\.)*+', re.DOTALL)
_SCALAR = re.compile(rb'[^"\[\]{,\s]*+')
_LINE_START = re.compile(rb"[ \t\r,]*+")
_KNOWN_DEPTH = 256
"""Levels of an element of which it is known what opened them: enough for any but hostile ones."""


class _Elements:
    """Finds the elements of a JSON array in bytes that come in pieces; holds at most `limit` bytes of one."""

    def __init__(self, offset: int, limit: int, *, in_array: bool) -> None:
        self._offset, self._limit = offset, limit  # of the next piece
        self._in_array = in_array
        self._lost = False  # behind a broken element, where only the beginning of a line can be trusted
        self._at_line_start = False
        self._reset()

    def _reset(self) -> None:
        self._begin: int | None = None  # None: between two elements
        self._parts: list[bytes] = []
        self._size = 0
        self._depth = 0
        self._opened = bytearray()  # what the outer levels were opened with
        self._mode: Literal["structure", "string", "escape", "scalar"] = "structure"

    def feed(self, piece: bytes) -> Iterator[RawLine]:
        """Yield the elements that end in the next bytes."""
        position = 0
        while position < len(piece):
            if self._begin is None:
                position = self._between(piece, position)
                continue
            end, is_over = self._inside(piece, position)
            self._size += end - position
            self._parts = [*self._parts, piece[position:end]] if self._size <= self._limit else []
            position = end
            if is_over:
                yield RawLine(self._begin, self._held())
                self._reset()
        self._offset += len(piece)

    def end(self, error: DamagedMember | None) -> Iterator[RawLine]:
        """Yield what is left at the end of the input, or where it is damaged."""
        if error is None and self._mode == "scalar" and self._begin is not None:
            yield RawLine(self._begin, self._held())
            self._reset()
        if error is None and (self._begin is not None or self._in_array):
            error = DamagedMember("input ends within a JSON array or object", self._offset, cut=True)
        if error is not None:
            yield RawLine(self._offset if self._begin is None else self._begin, self._held(), error)

    def _held(self) -> bytes | None:
        return b"".join(self._parts) if self._size <= self._limit else None

    def _between(self, piece: bytes, position: int) -> int:
        """Return the place of the next element, which begins there, or of anything else to go on from."""
        if self._lost:
            return self._find_line(piece, position)
        position = _GAP.match(piece, position).end()  # type: ignore[union-attr]
        first = piece[position : position + 1]
        if not first:
            return position
        if first == b"]" or (first == b"[" and not self._in_array):
            self._in_array = first == b"["
            return position + 1
        self._begin = self._offset + position
        self._mode = "structure" if first in b'{["' else "scalar"
        return position

    def _find_line(self, piece: bytes, position: int) -> int:
        """Return the place of the first line that begins with an object, or the end of the array."""
        while position < len(piece):
            if self._at_line_start:
                position = _LINE_START.match(piece, position).end()  # type: ignore[union-attr]
                self._at_line_start = position == len(piece)
                if piece[position : position + 1] in (b"{", b"]"):
                    self._lost = False
                    break
            newline = piece.find(b"\n", position)
            self._at_line_start = self._at_line_start or newline >= 0
            position = newline + 1 if newline >= 0 else len(piece)
        return position

    def _inside(self, piece: bytes, position: int) -> tuple[int, bool]:
        """Return how far the element goes in this piece, and whether it is over."""
        while position < len(piece):
            if self._mode == "escape":
                position, self._mode = position + 1, "string"
            elif self._mode == "scalar":
                position = _SCALAR.match(piece, position).end()  # type: ignore[union-attr]
                return position, position < len(piece)
            elif self._mode == "string":
                position, is_over = self._string(piece, position)
                if is_over:
                    return position, True
            else:
                mark = _MARK.search(piece, position)
                if mark is None:
                    break
                position, is_over = self._structure(piece, mark.start())
                if is_over:
                    return position, True
        return len(piece), False

    def _string(self, piece: bytes, position: int) -> tuple[int, bool]:
        """Go to the end of a string; one with a newline in it, which JSON forbids, ends its element."""
        position = _STRING.match(piece, position).end()  # type: ignore[union-attr]
        character = piece[position : position + 1]
        if character == b"\n":
            self._lost = self._at_line_start = True
            return position + 1, True
        if character:
            self._mode = "structure" if character == b'"' else "escape"
        return position + 1, character == b'"' and self._depth == 0

    def _structure(self, piece: bytes, position: int) -> tuple[int, bool]:
        """Take a quote or bracket; what cannot stand there ends the element."""
        character = piece[position : position + 1]
        outer = self._opened[-1:] if len(self._opened) == self._depth else b""
        if character == b'"':
            self._mode = "string"
        elif character in (b"{", b"["):
            if character == b"{" == outer and _before(piece, position) not in (b":", b""):
                return position, True  # a closing brace is missing: this is the next element
            self._opened += character if len(self._opened) == self._depth < _KNOWN_DEPTH else b""
            self._depth += 1
        else:
            self._depth -= 1
            del self._opened[self._depth :]
            return position + 1, self._depth <= 0 or outer + character in (b"{]", b"[}")
        return position + 1, False


def _before(piece: bytes, position: int) -> bytes:
    """Return the last byte before `position` that is no white space; nothing when it is in another piece."""
    while position and piece[position - 1 : position] in (b" ", b"\t", b"\r", b"\n"):
        position -= 1
    return piece[position - 1 : position] if position else b""
