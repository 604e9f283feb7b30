"""What reaches a terminal: nothing that it would obey, whatever is in data, file names, paths and messages.

The command line puts `guard` around its streams once, so that no place that prints has to think of it.
"""

from __future__ import annotations

import codecs
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PLAIN = re.compile(r"[\n -~]*+")
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control, formatting (writing direction, zero width, tags), halves of surrogate pairs, line and paragraph ends."""
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that show as nothing."""


def escaped(text: str) -> str:
    r"""Return `text` with all but line feeds escaped that a terminal would obey or show as nothing, as `\u001b`.

    In JSON, where such characters can only be inside strings, it stays the same value.
    """
    if _PLAIN.fullmatch(text):
        return text
    return "".join(_escape(c) if c != "\n" and _is_obeyed(c) else c for c in text)


def _is_obeyed(character: str) -> bool:
    return unicodedata.category(character) in _OBEYED or character in _INVISIBLE


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


class _Guarded:
    """A text stream that escapes what is written to it."""

    def __init__(self, stream: Any) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        self.raw.write(escaped(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextmanager
def guard() -> Iterator[None]:
    """Escape what is printed: on stderr always, on stdout when it is a terminal; data in a file or pipe stays exact.

    What a stream's encoding cannot hold (`LC_ALL=C`) is escaped, too, and ends no command.
    """
    codecs.register_error("gristmill", _escape_unencodable)
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gristmill")
    sys.stderr = _Guarded(sys.stderr)
    if sys.stdout.isatty():
        sys.stdout = _Guarded(sys.stdout)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def raw(stream: Any) -> Any:
    """Return the stream behind a guard, for who draws bars with escape sequences and escapes the text itself."""
    return getattr(stream, "raw", stream)
