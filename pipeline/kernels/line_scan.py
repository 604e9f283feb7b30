"""One line of text: its words, counts, hashes and the things that C4's rules look for."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.kernels.character_classes import (
    DIGIT,
    LINE_BREAK,
    PHRASE,
    SPACE,
    SPLITTING,
    TERMINAL,
    UPPER,
    character_classes,
)
from pipeline.kernels.jit import inlined, inner
from pipeline.kernels.repetition import Elements, Grams, Table, new_elements, new_grams, new_table
from pipeline.kernels.word_split import (
    HASH_SEED,
    TOKENS,
    Bytes,
    Classes,
    Ints,
    Words,
    add_word,
    decode,
    hash_join,
    hash_step,
    new_words,
    split_chunk,
)

PHRASES: Final = (
    ("javascript", "j"),
    ("lorem ipsum", "p"),
    ("terms of use", "f"),
    ("privacy policy", "v"),
    ("cookie policy", "k"),
    ("uses cookies", "k"),
    ("use of cookies", "k"),
    ("use cookies", "k"),
)  # each with the rare letter at which its search begins
JAVASCRIPT, LOREM_IPSUM, POLICY = 0b1, 0b10, 0b11111100  # bits in the order of PHRASES
FULL, STRIPPED, JOINED = 0, 1, 2  # indices into `Scratch.hashes`

_DOT, _HASH, _COLON, _SLASH, _BRACKET, _BRACKET_END = 0x2E, 0x23, 0x3A, 0x2F, 0x5B, 0x5D
_CURLY, _ELLIPSIS, _EXCLAMATION, _QUESTION = 0x7B, 0x2026, 0x21, 0x3F
_DOUBLE_QUOTE, _APOSTROPHE, _ZERO, _NINE = 0x22, 0x27, 0x30, 0x39


class Line(IntEnum):
    """What `scan_line` leaves about a line in `Scratch.line`; positions are byte offsets."""

    length = 0  # code points, without the line break
    stripped_length = 1
    first = 2  # where the first chunk begins
    last = 3  # where the last chunk ends; equal to `first` on a blank line
    chunks = 4  # words by str.split()
    longest = 5  # code points of the longest chunk
    phrases = 6  # bits in the order of PHRASES
    brackets = 7
    curly = 8
    tokens_before = 9
    spaces = 10
    digits = 11
    capitals = 12
    hashes = 13
    ellipses = 14
    urls = 15


class Joined(IntEnum):
    """The line between newlines that `Scratch.joined` gathers from lines by str.splitlines()."""

    begin = 0  # byte offset
    length = 1  # code points
    chunks = 2


class Scratch(NamedTuple):
    """Working memory for documents up to a size, allocated once a call."""

    classes: Classes
    words: Words
    counts: Ints  # the document's
    line: Ints  # indexed by Line
    joined: Ints  # indexed by Joined
    hashes: npt.NDArray[np.uint64]  # of the line, of the line stripped, of the line between newlines
    text_lines: Elements
    blank_lines: Elements
    kept_lines: Elements
    table: Table
    grams: Grams
    edited: Bytes  # one line without citations
    edited_view: Bytes  # the same memory read-only, as texts are, so that the kernels compile once


def _phrase_table() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the phrases' bytes, padded with zeros, their lengths, and where in each its rare letter stands."""
    lengths = np.array([len(phrase) for phrase, _ in PHRASES])
    table = np.zeros((len(PHRASES), lengths.max()), np.uint8)
    for row, (phrase, _) in enumerate(PHRASES):
        table[row, : len(phrase)] = list(phrase.encode())
    return table, lengths, np.array([phrase.index(letter) for phrase, letter in PHRASES])


_PHRASE_BYTES, _PHRASE_LENGTHS, _PHRASE_OFFSETS = _phrase_table()
_EDIT = np.frombuffer(b"edit]", np.uint8)
_CITATION_NEEDED = np.frombuffer(b"citation needed]", np.uint8)


def new_scratch(max_bytes: int, num_counts: int) -> Scratch:
    """Return working memory for documents of at most `max_bytes` bytes with `num_counts` numbers each.

    Large arrays cost address space alone until their pages are touched.
    """
    n = max_bytes + 1
    edited = np.empty(n, np.uint8)
    edited_view = edited.view()
    edited_view.flags.writeable = False
    return Scratch(
        classes=character_classes(),
        words=new_words(n),
        counts=np.zeros(num_counts, np.int64),
        line=np.zeros(len(Line), np.int64),
        joined=np.zeros(len(Joined), np.int64),
        hashes=np.zeros(3, np.uint64),
        text_lines=new_elements(n),
        blank_lines=new_elements(n),
        kept_lines=new_elements(n),
        table=new_table(n),
        grams=new_grams(n),
        edited=edited,
        edited_view=edited_view,
    )


@inner
def scan_line(text: Bytes, start: int, end: int, s: Scratch) -> int:
    """Scan from `start` to the next line break of str.splitlines(), or `end`, and return where it stands.

    Appends the line's words to `s.words` and describes it in `s.line` and `s.hashes`.
    """
    line = s.line
    line[:] = 0
    line[Line.tokens_before] = s.words.sums[TOKENS]
    s.words.sums[1:] = 0
    full = stripped = lead = HASH_SEED
    leading = length = stripped_length = spaces = 0
    first = last = -1
    pos = start
    while pos < end:
        code, following = decode(text, pos, end)
        flags = s.classes[code]
        if flags & LINE_BREAK:
            break
        if flags & SPACE:
            spaces += 1
            length += 1
            pos = following
            if first < 0:
                leading += 1
                lead = hash_step(lead, code)
            else:
                full = hash_join(full, np.uint64(code))
            continue
        if first < 0:
            first = pos
        last, chunk_hash, chars = _scan_chunk(text, pos, end, s)
        length += chars
        stripped_length = length - leading
        stripped = full = hash_join(full, chunk_hash)
        pos = last
    if leading:
        full = hash_join(full, lead)
    s.hashes[FULL] = full
    s.hashes[STRIPPED] = stripped
    line[Line.length] = length
    line[Line.stripped_length] = stripped_length
    line[Line.first] = max(first, start)
    line[Line.last] = max(last, start)
    line[Line.spaces] = spaces
    return pos


@inlined
def _scan_chunk(text: Bytes, start: int, end: int, s: Scratch) -> tuple[int, np.uint64, int]:
    """Take in the run of non-whitespace at `start`; return where it ends, its hash and its code points."""
    state = HASH_SEED
    any_flags = chars = digits = capitals = 0
    pos = start
    while pos < end:
        code, following = decode(text, pos, end)
        flags = np.int64(s.classes[code])
        if flags & SPACE:
            break
        state = hash_step(state, code)
        any_flags |= flags
        digits += (flags // DIGIT) & 1
        capitals += (flags // UPPER) & 1
        chars += 1
        pos = following
    line = s.line
    line[Line.chunks] += 1
    line[Line.longest] = max(line[Line.longest], chars)
    line[Line.digits] += digits
    line[Line.capitals] += capitals
    if any_flags & PHRASE:
        line[Line.phrases] |= _phrases_in(text, start, pos, end, s.classes)
    if any_flags & SPLITTING:
        split_chunk(text, start, pos, s.classes, s.words)
        _count_marks(s.words.codes, chars, line)
    else:
        add_word(s.words, state, chars, any_flags, 0)
    return pos, state, chars


@inlined
def _count_marks(codes: npt.NDArray[np.int32], size: int, line: Ints) -> None:
    """Count number signs, ellipses, addresses and brackets among a chunk's code points."""
    dots = 0
    for k in range(size):
        code = codes[k]
        if code != _DOT:
            line[Line.ellipses] += dots // 3
            dots = 0
        if code == _DOT:
            dots += 1
        elif code == _HASH:
            line[Line.hashes] += 1
        elif code == _ELLIPSIS:
            line[Line.ellipses] += 1
        elif code == _BRACKET:
            line[Line.brackets] += 1
        elif code == _CURLY:
            line[Line.curly] += 1
        elif code == _COLON and k + 2 < size and codes[k + 1] == _SLASH and codes[k + 2] == _SLASH:
            line[Line.urls] += 1
    line[Line.ellipses] += dots // 3


@inner
def _phrases_in(text: Bytes, start: int, stop: int, end: int, classes: Classes) -> int:
    """Return the bits of the phrases whose rare letter stands in `text[start:stop]`."""
    bits = 0
    for at in range(start, stop):
        if text[at] < 0x80 and classes[text[at]] & PHRASE:
            bits |= _phrases_at(text, at, end)
    return bits


@inlined
def _phrases_at(text: Bytes, at: int, end: int) -> int:
    """Return the bits of the phrases whose rare letter stands at `at`, without regard to the case of ASCII letters."""
    bits = 0
    for row in range(len(_PHRASE_LENGTHS)):
        begin = at - _PHRASE_OFFSETS[row]
        if begin >= 0 and begin + _PHRASE_LENGTHS[row] <= end and _has_phrase(text, begin, row):
            bits |= 1 << row
    return bits


@inlined
def _has_phrase(text: Bytes, begin: int, row: int) -> bool:
    for k in range(_PHRASE_LENGTHS[row]):
        byte = text[begin + k]
        if 0x41 <= byte <= 0x5A:
            byte |= 0x20
        if byte != _PHRASE_BYTES[row, k]:
            return False
    return True


@inner
def without_citations(text: Bytes, start: int, end: int, edited: Bytes) -> int:
    """Copy `text[start:end]` without "[1]", "[]", "[edit]" and "[citation needed]"; return the bytes copied."""
    size = 0
    pos = start
    while pos < end:
        stop = _citation_end(text, pos, end) if text[pos] == _BRACKET else pos
        if stop == pos:
            edited[size] = text[pos]
            size += 1
            stop += 1
        pos = stop
    return size


@inlined
def _citation_end(text: Bytes, pos: int, end: int) -> int:
    """Return where the citation that the bracket at `pos` opens ends, or `pos` when it opens none."""
    stop = pos + 1
    while stop < end and _ZERO <= text[stop] <= _NINE:
        stop += 1
    if stop < end and text[stop] == _BRACKET_END:
        return stop + 1
    if _matches(text, pos + 1, end, _EDIT):
        return pos + 1 + len(_EDIT)
    if _matches(text, pos + 1, end, _CITATION_NEEDED):
        return pos + 1 + len(_CITATION_NEEDED)
    return pos


@inlined
def _matches(text: Bytes, pos: int, end: int, wanted: Bytes) -> bool:
    if pos + len(wanted) > end:
        return False
    for k in range(len(wanted)):  # noqa: SIM110 - Numba has no all() over a generator
        if text[pos + k] != wanted[k]:
            return False
    return True


@inlined
def ends_in_dots(text: Bytes, start: int, end: int) -> bool:
    """Say whether `text[start:end]` ends in three full stops."""
    return end - start >= 3 and text[end - 1] == _DOT and text[end - 2] == _DOT and text[end - 3] == _DOT


@inlined
def ends_in_ellipsis(text: Bytes, start: int, end: int) -> bool:
    """Say whether `text[start:end]` ends in three full stops or an ellipsis character."""
    return ends_in_dots(text, start, end) or last_code(text, start, end) == _ELLIPSIS


@inlined
def ends_in_c4_punctuation(text: Bytes, start: int, end: int) -> bool:
    """Say whether `text[start:end]` ends in one of . ? ! \" ' but not in three full stops."""
    if end <= start:
        return False
    byte = text[end - 1]
    if byte == _DOT:
        return not ends_in_dots(text, start, end)
    return byte in (_EXCLAMATION, _QUESTION, _DOUBLE_QUOTE, _APOSTROPHE)


@inlined
def ends_in_terminal(text: Bytes, start: int, end: int, classes: Classes) -> bool:
    """Say whether the last character of `text[start:end]` ends a sentence in any script."""
    return end > start and classes[last_code(text, start, end)] & TERMINAL != 0


@inlined
def last_code(text: Bytes, start: int, end: int) -> int:
    """Return the last code point of `text[start:end]`, 0 when it is empty."""
    pos = end - 1
    while pos > start and text[pos] & 0xC0 == 0x80:
        pos -= 1
    return decode(text, pos, end)[0] if pos >= start else 0
