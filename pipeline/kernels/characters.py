"""What all kernels know of text: one decoder of UTF-8, and one table of what each code point is.

The table is built from the interpreter's `unicodedata`, so it is the same for one Unicode version (`UNICODE_VERSION`).
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.kernels import inlined

Bytes = npt.NDArray[np.uint8]
Classes = npt.NDArray[np.uint16]

UNICODE_VERSION: Final = unicodedata.unidata_version

# Bit flags of a code point.
SPACE: Final = 1 << 0  # str.isspace(): what str.split() and str.strip() cut at
LINE_BREAK: Final = 1 << 1  # what str.splitlines() cuts at
LETTER: Final = 1 << 2  # category L*: str.isalpha()
UPPER: Final = 1 << 3  # Lu, Lt
DIGIT: Final = 1 << 4  # Nd
MARK: Final = 1 << 5  # M*: stays with the character before it
NUMBER: Final = 1 << 6  # N*
PUNCTUATION: Final = 1 << 7  # P*
SYMBOL: Final = 1 << 8  # P* and S*: may be split from a word
IDEOGRAPH: Final = 1 << 9  # Han, kana, bopomofo: a word of its own
TERMINAL: Final = 1 << 10  # ends a sentence, by Unicode's Sentence_Terminal
PICTOGRAPH: Final = 1 << 11  # So without the degree sign: splits a word wherever it stands
LOWER: Final = 1 << 12  # a letter that is not upper case (also of scripts without case)
PHRASE: Final = 1 << 13  # ASCII letters at which a search for one of C4's phrases begins
QUOTE: Final = 1 << 14
UNASSIGNED: Final = 1 << 15  # Cn: another Unicode may know it

CONTENT: Final = LETTER | MARK | NUMBER  # makes a word more than a symbol
SPLITTING: Final = SYMBOL | IDEOGRAPH  # a run of characters with none of these is one word

# Unicode 15's Sentence_Terminal and three Khmer signs: what FineWeb counts as the end of a line.
_TERMINALS: Final = (
    "0021 002E 003F 0589 061D-061F 06D4 0700-0702 07F9 0837 0839 083D-083E 0964-0965 104A-104B 1362 1367-1368 166E "
    "1735-1736 17D4-17D6 17D9-17DA 1803 1809 1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F "
    "203C-203D 2047-2049 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3 A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 "
    "AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57 10F55-10F59 10F86-10F89 11047-11048 "
    "110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C 112A9 1144B-1144C 115C2-115C3 "
    "115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42 11EF7-11EF8 11F43-11F44 "
    "16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88"
)
_LINE_BREAKS: Final = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_QUOTES: Final = "'\"`´‘’‚‛“”„‟«»‹›「」『』"
_PHRASE_LETTERS: Final = "jkvfpJKVFP"
_IDEOGRAPHS: Final = (  # Han with its iteration marks, hiragana, katakana, bopomofo; the letters among them
    "3005-3007 3031-3035 303B-303C 3041-309F 30A1-30FF 3105-312F 31A0-31BF 31F0-31FF 3400-4DBF 4E00-9FFF F900-FAFF "
    "FF66-FF9F 1AFF0-1B16F 20000-323AF"
)
_CODE_POINTS: Final = 0x110000
_LAST_SPACE: Final = 0x3000
_PRIVATE: Final = 0xF0000  # and all after it
_ASSIGNED: Final = (range(0x40000), range(0xE0000, 0xE1000))  # all else before the private planes is unassigned


def _category_flags(category: str) -> int:
    """Return the flags that follow from a general category alone."""
    major = category[0]
    flags = LETTER * (major == "L") | MARK * (major == "M") | NUMBER * (major == "N") | DIGIT * (category == "Nd")
    flags |= UPPER * (category in ("Lu", "Lt")) | LOWER * (category in ("Ll", "Lm", "Lo"))
    flags |= PUNCTUATION * (major == "P") | SYMBOL * (major in "PS") | PICTOGRAPH * (category == "So")
    return flags | UNASSIGNED * (category == "Cn")


def _code_points(ranges: str) -> list[int]:
    codes: list[int] = []
    for item in ranges.split():
        first, _, last = item.partition("-")
        codes.extend(range(int(first, 16), int(last or first, 16) + 1))
    return codes


@functools.cache
def character_classes() -> npt.NDArray[np.uint16]:
    """Return the flags of every code point, shape (0x110000,), read-only; built once a process in about 0.1 s."""
    table = np.full(_CODE_POINTS, UNASSIGNED, np.uint16)
    table[_PRIVATE:] = 0
    flags_of = functools.cache(_category_flags)
    for block in _ASSIGNED:
        table[block.start : block.stop] = [flags_of(unicodedata.category(chr(code))) for code in block]
    ideographs = np.array(_code_points(_IDEOGRAPHS))
    table[ideographs[table[ideographs] & LETTER != 0]] |= IDEOGRAPH
    table[_code_points(_TERMINALS)] |= TERMINAL
    table[[code for code in range(_LAST_SPACE + 1) if chr(code).isspace()]] |= SPACE
    for chars, flag in ((_LINE_BREAKS, LINE_BREAK), (_QUOTES, QUOTE), (_PHRASE_LETTERS, PHRASE)):
        table[[ord(char) for char in chars]] |= flag
    table[ord("°")] &= ~np.uint16(PICTOGRAPH)
    table.flags.writeable = False
    return table


_REPLACEMENT: Final = 0xFFFD


@inlined
def decode(text: Bytes, pos: int, end: int) -> tuple[int, int]:
    """Return the code point at `pos` and the position behind it; damaged UTF-8 gives U+FFFD, one byte at a time."""
    first = np.int64(text[pos])
    if first < 0x80:
        return first, pos + 1
    width = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
    if first < 0xC2 or pos + width > end:
        return _REPLACEMENT, pos + 1
    code = first & (0x7F >> width)
    for k in range(1, width):
        code = (code << 6) | (np.int64(text[pos + k]) & 0x3F)
    if code >= _CODE_POINTS:
        return _REPLACEMENT, pos + 1
    return code, pos + width


def frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a read-only view: Arrow's buffers can be writable or not, and one type means one compilation a kernel."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
