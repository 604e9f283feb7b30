"""Words of a UTF-8 text for duplicate detection: split and normalised through one table of code points.

What a word is here (the text statistics have another definition, that of the filters they serve):

- Every code point is replaced by a single one: compatibility forms by what they stand for, letters with diacritics by
  their base (NFKD, combining diacritical marks removed), then case is folded. Where a step would give several code
  points (a ligature, "½", "ß") the code point stays as it is.
- A word is a maximal run of letters, numbers and "_" (as `\\w`). Combining marks of other scripts extend a word and
  never begin one. Combining diacritical marks, variation selectors and format characters (soft hyphen, zero-width
  joiner) are skipped, so that composed and decomposed text give the same words.
- Scripts written without spaces (Han, kana, bopomofo, Yi, Thai, Lao, Khmer, Myanmar and the Tai scripts): every letter
  is a word of its own, with the marks that follow it.
- Everything else, ZERO WIDTH SPACE included, separates words.

The table follows the `unicodedata` of the running Python (`characters.UNICODE_VERSION`).
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import inlined, inner
from pipeline.kernels.characters import decode

SEPARATOR, WORD, SINGLE, MARK, SKIPPED = range(5)

CLASS_SHIFT = 21
_CLASSES = np.uint32(7)
_LETTER = 1 << 24  # set for whatever can be in a word but the digits 0 to 9
_CODE_POINTS = 0x110000
_LAST_MIXED_PLANE_END = 0x20000  # beyond: Han, tags, variation selectors, private use
_HAN_COMPATIBILITY = range(0x2F800, 0x2FA20)
_TAGS = range(0xE0000, 0xE0200)  # tags and the supplementary variation selectors
_ZERO_WIDTH_SPACE = 0x200B
_DIACRITICS = (range(0x300, 0x370), range(0x1AB0, 0x1B00), range(0x1DC0, 0x1E00), range(0x20D0, 0x2100))
_VARIATION_SELECTORS = (range(0xFE00, 0xFE10), range(0x180B, 0x180E), range(0xE0100, 0xE01F0))
_UNSPACED = (
    range(0x0E00, 0x0F00),  # Thai, Lao
    range(0x1000, 0x10A0),  # Myanmar
    range(0x1780, 0x1800),  # Khmer
    range(0x1950, 0x19E0),  # Tai Le, New Tai Lue
    range(0x1A20, 0x1AB0),  # Tai Tham
    range(0x3005, 0x3008),  # iteration mark, closing mark, zero
    range(0x3021, 0x302A),  # Hangzhou numerals
    range(0x3040, 0x3130),  # Hiragana, Katakana, Bopomofo
    range(0x31A0, 0x31C0),  # Bopomofo extended
    range(0x31F0, 0x3200),  # Katakana extended
    range(0x3400, 0x4DC0),  # Han extension A
    range(0x4E00, 0xA4D0),  # Han, Yi
    range(0xA9E0, 0xAA00),  # Myanmar extended B
    range(0xAA60, 0xAAE0),  # Myanmar extended A, Tai Viet
    range(0xF900, 0xFB00),  # Han compatibility
    range(0x1AFF0, 0x1B170),  # kana supplements
    range(0x20000, 0x40000),  # Han, planes 2 and 3
)

_WHOLE_BLOCKS = (
    (range(0x3400, 0x4DC0), SINGLE),
    (range(0x4E00, 0xA000), SINGLE),
    (range(0x20000, 0x2F800), SINGLE),
    (range(0x30000, 0x3FFFE), SINGLE),
    (range(0xAC00, 0xD7A4), WORD),
)
_NEVER_WORDS = frozenset(("Cn", "Cc", "Cs", "Co", "Zs", "Zl", "Zp"))

_WORD_SEED = np.uint64(0x9E3779B97F4A7C15)
_WORD_PRIME = np.uint64(0x9FB21C651E98DF25)


@lru_cache(maxsize=1)
def class_table() -> NDArray[np.uint32]:
    """Return the table of all code points: normalised code point in the low 21 bits, class in the three above them.

    Bit 24 is set for all that can be in a word but the digits 0 to 9.

    Built once a process (about a fifth of a second); read-only. Han and Hangul syllables are filled in whole blocks,
    unassigned places included: that is quicker, and what Unicode assigns there later will be of their kind.
    """
    table = np.zeros(_CODE_POINTS, np.uint32)
    for block, kind in _WHOLE_BLOCKS:
        table[block.start : block.stop] = np.arange(block.start, block.stop) | kind << CLASS_SHIFT
    unspaced, diacritics = _marked(_UNSPACED), _marked(_DIACRITICS)
    for code in (*range(_LAST_MIXED_PLANE_END), *_HAN_COMPATIBILITY, *_TAGS):
        if not table[code]:
            table[code] = _entry(code, unspaced, diacritics)
    normalised = table & np.uint32((1 << CLASS_SHIFT) - 1)
    table[(table != SEPARATOR) & ((normalised < ord("0")) | (normalised > ord("9")))] |= np.uint32(_LETTER)
    table.flags.writeable = False
    return table


def _entry(code: int, unspaced: bytes, diacritics: bytes) -> int:
    character = chr(code)
    category = unicodedata.category(character)
    if category in _NEVER_WORDS or code == _ZERO_WIDTH_SPACE:
        return SEPARATOR
    if category == "Cf" or diacritics[code] or any(code in each for each in _VARIATION_SELECTORS):
        return SKIPPED << CLASS_SHIFT
    mapped = _normalised(character, diacritics)
    category = unicodedata.category(mapped)
    if category[0] == "M":
        return MARK << CLASS_SHIFT | ord(mapped)
    if category[0] not in "LN" and mapped != "_":
        return SEPARATOR
    kind = SINGLE if unspaced[ord(mapped)] and category != "Nd" else WORD
    return kind << CLASS_SHIFT | ord(mapped)


def _normalised(character: str, diacritics: bytes) -> str:
    """Return the one code point that stands for `character`."""
    decomposed = unicodedata.normalize("NFKD", character)
    if decomposed != character:
        base = "".join(each for each in decomposed if not diacritics[ord(each)])
        composed = unicodedata.normalize("NFKC", character)
        # A spacing diacritic (U+037A) decomposes into a space and a mark: it stays itself.
        character = next((form for form in (base, composed) if len(form) == 1 and form != " "), character)
    folded = character.casefold()
    return folded if len(folded) == 1 else character


def _marked(ranges: tuple[range, ...]) -> bytes:
    """Return one byte a code point: 1 inside `ranges`."""
    marks = np.zeros(_CODE_POINTS, np.uint8)
    for each in ranges:
        marks[each.start : each.stop] = 1
    return marks.tobytes()


@inlined
def mix64(value):  # type: ignore[no-untyped-def]
    """Return `value` (uint64) through MurmurHash3's 64-bit finaliser, a bijection that spreads every bit over all."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@inner
def next_words(data, position, end, table, out, filled):  # type: ignore[no-untyped-def]
    """Write the hashes of the words from `position` on into `out[filled:]`; return the fill and where to go on.

    `data` uint8, `table` from `class_table`, `out` uint64. Stops at `end`, or where the word that filled `out` closed
    (then the fill is `out.size`): the next call goes on there. The hash of a word is a multiplicative hash of its
    normalised code points, mixed; its lowest bit is 0 for a number, made of the digits 0 to 9 alone, otherwise 1.
    """
    begin = filled
    state = SEPARATOR
    value = _WORD_SEED
    letters = np.uint64(0)
    while position < end and filled < out.size:
        if state != SINGLE and data[position] < 0x80:
            reached = _ascii_words(data, position, end, table, out, (filled, value, state, letters))
            position, filled, value, state, letters = reached
            continue
        code, following = decode(data, position, end)
        entry = table[code]
        kind = (entry >> np.uint32(21)) & _CLASSES
        if kind == SKIPPED or (kind == MARK and state == SEPARATOR):
            position = following
            continue
        if state != SEPARATOR and kind != MARK and not (kind == WORD and state == WORD):
            out[filled] = _flagged(value, letters)
            filled += 1
            state = SEPARATOR
            value = _WORD_SEED
            letters = np.uint64(0)
            continue  # looks at the same code point again, unless `out` is full
        if kind != SEPARATOR:
            value = (value ^ np.uint64(entry)) * _WORD_PRIME
            letters |= np.uint64(entry >> np.uint32(24))
            state = kind if state == SEPARATOR else state
        position = following
    if state != SEPARATOR:
        out[filled] = _flagged(value, letters)
        filled += 1
    for i in range(begin, filled):
        out[i] = (mix64(out[i]) & ~np.uint64(1)) | (out[i] & np.uint64(1))
    return filled, position


@inlined
def _flagged(value, letters):  # type: ignore[no-untyped-def]
    """Return the hash of a word with its lowest bit set if it holds a letter."""
    return (value & ~np.uint64(1)) | letters


@inlined
def _ascii_words(data, position, end, table, out, reached):  # type: ignore[no-untyped-def]
    """Go on through ASCII bytes without a branch for where words end: mispredicting those costs more than all else.

    Each byte overwrites `out[filled]`, and the byte after a word moves on. Two bytes give one word at most, which
    bounds the stretch so that it never writes past `out`.
    """
    filled, value, state, letters = reached
    inside = np.int64(state)
    stop = min(end, position + 2 * (out.size - filled) - 1)
    while position < stop:
        byte = data[position]
        if byte >= 0x80:
            break
        entry = table[byte]
        word = np.int64(entry >> np.uint32(21)) & 1
        out[filled] = _flagged(value, letters)
        filled += inside & ~word
        value = (value ^ np.uint64(entry)) * _WORD_PRIME if word else _WORD_SEED
        letters = (letters | np.uint64(entry >> np.uint32(24))) & np.uint64(word)
        inside = word
        position += 1
    return position, filled, value, inside, letters
