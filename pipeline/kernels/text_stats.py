"""The counts behind all text statistics of a document, by one pass over UTF-8 bytes.

The kernel counts in exact integers (`Count` has one member a number); ratios are made from them in
`pipeline.signals.text_stats`, which also holds the definitions. No Python object is made for a document.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.kernels.character_classes import SPACE
from pipeline.kernels.jit import entry, inlined, inner
from pipeline.kernels.line_scan import (
    FULL,
    JAVASCRIPT,
    JOINED,
    LOREM_IPSUM,
    POLICY,
    STRIPPED,
    Joined,
    Line,
    Scratch,
    ends_in_c4_punctuation,
    ends_in_ellipsis,
    ends_in_terminal,
    last_code,
    new_scratch,
    scan_line,
    without_citations,
)
from pipeline.kernels.repetition import Elements, contains_word, duplicate_totals, ngram_counts, number_words
from pipeline.kernels.word_split import (
    ALPHA_WORDS,
    HASH_SEED,
    SENTENCES,
    TOKENS,
    WORD_CHARS,
    WORDS,
    Bytes,
    Ints,
    decode,
    hash_join,
    hash_of,
    hash_step,
)

STOP_WORDS: Final = ("the", "be", "to", "of", "and", "that", "have", "with")

_MAX_WORD_CHARS: Final = 1000
_MIN_WORDS_PER_LINE: Final = 3
_SHORT_LINE_CHARS: Final = 30
_LF, _CR, _HYPHEN, _BULLET = 0x0A, 0x0D, 0x2D, 0x2022


class Count(IntEnum):
    """The numbers of one document, in the order of the rows of `count_texts`'s result."""

    text_length = 0
    text_bytes = 1
    spaces = 2
    digits = 3
    capitals = 4
    hashes = 5
    ellipses = 6
    urls = 7
    tokens = 8
    words = 9
    word_chars = 10
    alpha_words = 11
    sentences = 12
    stop_words = 13
    lines = 14  # by str.splitlines()
    bullet_lines = 15
    ellipsis_lines = 16
    punctuated_lines = 17
    few_word_lines = 18
    long_word_lines = 19
    javascript_lines = 20
    policy_lines = 21
    lorem_ipsum_lines = 22
    curly_bracket_lines = 23
    newlines = 24  # "\n"
    text_lines = 25  # between newlines, not blank
    blank_lines = 26  # between newlines, whitespace alone, not empty
    terminal_lines = 27
    short_lines = 28
    text_line_duplicate_chars = 29
    run_lines = 30  # between runs of newlines, empty ones at the ends included
    run_line_duplicates = 31
    run_line_duplicate_chars = 32
    paragraphs = 33
    paragraph_duplicates = 34
    paragraph_duplicate_chars = 35
    c4_lines = 36
    c4_sentences = 37
    c4_lorem_ipsum_lines = 38
    c4_curly_bracket_lines = 39
    fineweb_lines = 40
    fineweb_sentences = 41
    fineweb_lorem_ipsum_lines = 42
    fineweb_curly_bracket_lines = 43
    fineweb_text_lines = 44
    fineweb_terminal_lines = 45
    fineweb_short_lines = 46
    fineweb_duplicate_chars = 47
    fineweb_chars = 48
    fineweb_tokens = 49
    top_2gram_chars = 50
    top_3gram_chars = 51
    top_4gram_chars = 52
    duplicate_5gram_chars = 53
    duplicate_6gram_chars = 54
    duplicate_7gram_chars = 55
    duplicate_8gram_chars = 56
    duplicate_9gram_chars = 57
    duplicate_10gram_chars = 58
    lookups = 59  # hash-table look-ups for n-grams: the work that a repetitive page costs


def count_texts(data: Bytes, offsets: Ints) -> Ints:
    """Return all counts of n texts, shape (len(Count), n), for the Arrow buffers of a string column; no row can drop.

    `data` has UTF-8 bytes, `offsets` the n + 1 byte positions between texts. Releases the GIL.
    """
    data = data.view()
    data.flags.writeable = False  # as the scratch's view of an edited line: one type, compiled once
    sizes = np.diff(offsets)
    scratch = new_scratch(int(sizes.max(initial=0)), len(Count))
    stop_words = np.array([hash_of(word) for word in STOP_WORDS], np.uint64)
    counts = np.zeros((len(Count), len(sizes)), np.int64)
    _count_all(data, offsets, stop_words, scratch, counts)
    return counts


@entry
def _count_all(data: Bytes, offsets: Ints, stop_words: npt.NDArray[np.uint64], s: Scratch, counts: Ints) -> None:
    """Fill `counts`, one column a document."""
    out = s.counts
    for row in range(counts.shape[1]):
        out[:] = 0
        start, end = offsets[row], offsets[row + 1]
        s.words.sums[:] = 0
        _count_lines(data, start, end, s, out)
        _count_words(stop_words, s, out)
        _count_line_repeats(data, start, end, s, out)
        _count_paragraphs(data, start, end, s, out)
        for k in range(len(out)):
            counts[k, row] = out[k]


@inner
def _count_lines(text: Bytes, start: int, end: int, s: Scratch, out: Ints) -> None:
    """Go through the lines by str.splitlines() and, joining them again, those between newlines."""
    out[Count.text_bytes] = end - start
    _open_joined(start, s)
    pos = start
    while pos < end:
        pos = scan_line(text, pos, end, s)
        _join(s, s.hashes[FULL], s.line[Line.length], s.line[Line.chunks])
        _add_line(text, s, out)
        _apply_c4(text, s, out)
        if pos < end:
            pos = _take_line_break(text, pos, end, s, out)
    _close_joined(text, end, s, out)


@inlined
def _take_line_break(text: Bytes, pos: int, end: int, s: Scratch, out: Ints) -> int:
    """Take in the line break at `pos` and return where it ends: a newline ends the joined line, others belong to it."""
    code, following = decode(text, pos, end)
    _add_break(out)
    if code != _LF:
        _join(s, np.uint64(code), 1, 0)
        if code != _CR or following == end or text[following] != _LF:
            return following
        _add_break(out)
        pos, following = following, following + 1
    out[Count.newlines] += 1
    _close_joined(text, pos, s, out)
    _open_joined(following, s)
    return following


@inlined
def _add_break(out: Ints) -> None:
    out[Count.text_length] += 1
    out[Count.spaces] += 1


@inlined
def _open_joined(begin: int, s: Scratch) -> None:
    s.hashes[JOINED] = HASH_SEED
    s.joined[:] = 0
    s.joined[Joined.begin] = begin


@inlined
def _join(s: Scratch, item: np.uint64, length: int, chunks: int) -> None:
    s.hashes[JOINED] = hash_join(s.hashes[JOINED], item)
    s.joined[Joined.length] += length
    s.joined[Joined.chunks] += chunks


@inlined
def _close_joined(text: Bytes, end: int, s: Scratch, out: Ints) -> None:
    """Count the line between newlines that ends at `end`; an empty one is no line."""
    begin, length = s.joined[Joined.begin], s.joined[Joined.length]
    if begin == end:
        return
    if s.joined[Joined.chunks] == 0:
        _append(s.blank_lines, out[Count.blank_lines], s.hashes[JOINED], length)
        out[Count.blank_lines] += 1
        return
    _append(s.text_lines, out[Count.text_lines], s.hashes[JOINED], length)
    out[Count.text_lines] += 1
    out[Count.short_lines] += length <= _SHORT_LINE_CHARS
    out[Count.terminal_lines] += ends_in_terminal(text, begin, end, s.classes)


@inlined
def _append(elements: Elements, n: int, state: np.uint64, length: int) -> None:
    elements.hashes[n] = state
    elements.lengths[n] = length


@inlined
def _add_line(text: Bytes, s: Scratch, out: Ints) -> None:
    """Add what `scan_line` found to the document's counts."""
    line, sums = s.line, s.words.sums
    first, last = line[Line.first], line[Line.last]
    out[Count.text_length] += line[Line.length]
    out[Count.spaces] += line[Line.spaces]
    out[Count.digits] += line[Line.digits]
    out[Count.capitals] += line[Line.capitals]
    out[Count.hashes] += line[Line.hashes]
    out[Count.ellipses] += line[Line.ellipses]
    out[Count.urls] += line[Line.urls]
    out[Count.tokens] = sums[TOKENS]
    out[Count.words] += sums[WORDS]
    out[Count.word_chars] += sums[WORD_CHARS]
    out[Count.alpha_words] += sums[ALPHA_WORDS]
    out[Count.sentences] += sums[SENTENCES]
    out[Count.lines] += 1
    if first == last:
        return
    start_code = decode(text, first, last)[0]
    out[Count.bullet_lines] += start_code in (_HYPHEN, _BULLET)
    out[Count.ellipsis_lines] += ends_in_ellipsis(text, first, last)
    out[Count.punctuated_lines] += ends_in_c4_punctuation(text, first, last)
    out[Count.few_word_lines] += line[Line.chunks] < _MIN_WORDS_PER_LINE
    out[Count.long_word_lines] += line[Line.longest] > _MAX_WORD_CHARS
    out[Count.javascript_lines] += line[Line.phrases] & JAVASCRIPT != 0
    out[Count.policy_lines] += line[Line.phrases] & POLICY != 0
    out[Count.lorem_ipsum_lines] += line[Line.phrases] & LOREM_IPSUM != 0
    out[Count.curly_bracket_lines] += line[Line.curly] > 0


@inner
def _apply_c4(text: Bytes, s: Scratch, out: Ints) -> None:
    """Decide whether C4 keeps the line, with and without its rule on terminal punctuation, and count what it keeps."""
    line = s.line
    if line[Line.chunks] < _MIN_WORDS_PER_LINE or line[Line.longest] > _MAX_WORD_CHARS:
        return
    first, last = line[Line.first], line[Line.last]
    state, length = s.hashes[STRIPPED], line[Line.stripped_length]
    tokens_before, tokens = line[Line.tokens_before], s.words.sums[TOKENS]
    if line[Line.brackets]:
        last = without_citations(text, first, last, s.edited)
        first = 0
        text = s.edited_view
        scan_line(text, 0, last, s)  # its words go behind the document's and are forgotten below
        state, length = s.hashes[FULL], line[Line.length]
        tokens_before = tokens
    tokens_after = s.words.sums[TOKENS]
    s.words.sums[TOKENS] = tokens
    punctuated = ends_in_c4_punctuation(text, first, last)
    phrases = line[Line.phrases]
    if phrases & LOREM_IPSUM:
        out[Count.fineweb_lorem_ipsum_lines] += 1
        out[Count.c4_lorem_ipsum_lines] += punctuated
    if phrases & JAVASCRIPT:
        return
    if line[Line.curly]:
        out[Count.fineweb_curly_bracket_lines] += 1
        out[Count.c4_curly_bracket_lines] += punctuated
    if phrases & POLICY:
        return
    out[Count.c4_lines] += punctuated
    out[Count.c4_sentences] += punctuated * s.words.sums[SENTENCES]
    out[Count.fineweb_lines] += 1
    out[Count.fineweb_sentences] += s.words.sums[SENTENCES]
    out[Count.fineweb_tokens] += tokens_after - tokens_before
    out[Count.fineweb_chars] += length
    if line[Line.chunks]:
        _append(s.kept_lines, out[Count.fineweb_text_lines], state, length)
        out[Count.fineweb_text_lines] += 1
        out[Count.fineweb_short_lines] += length <= _SHORT_LINE_CHARS
        out[Count.fineweb_terminal_lines] += ends_in_terminal(text, first, last, s.classes)


@inner
def _count_words(stop_words: npt.NDArray[np.uint64], s: Scratch, out: Ints) -> None:
    """Count the stop words that occur, and repeated n-grams."""
    n = out[Count.tokens]
    number_words(s.table, s.words.hashes, n, s.grams)
    if n == 0:
        return
    for stop_word in stop_words:
        out[Count.stop_words] += contains_word(s.table, n, stop_word)
    ngrams = out[Count.top_2gram_chars : Count.duplicate_10gram_chars + 1]
    out[Count.lookups] = ngram_counts(s.table, s.grams, s.words.lengths, n, ngrams)


@inner
def _count_line_repeats(text: Bytes, start: int, end: int, s: Scratch, out: Ints) -> None:
    """Count repeated lines: between newlines as FineWeb does, between runs of newlines as Gopher's rules do."""
    duplicates, chars = duplicate_totals(s.table, s.text_lines, out[Count.text_lines])
    blank_duplicates, blank_chars = duplicate_totals(s.table, s.blank_lines, out[Count.blank_lines])
    out[Count.text_line_duplicate_chars] = chars
    out[Count.fineweb_duplicate_chars] = duplicate_totals(s.table, s.kept_lines, out[Count.fineweb_text_lines])[1]
    empty = 1
    if end > start:
        empty = int(text[start] == _LF) + int(text[end - 1] == _LF)
    # A text of newlines alone splits into two empty lines, however many newlines it has.
    out[Count.run_lines] = out[Count.text_lines] + out[Count.blank_lines] + empty
    out[Count.run_line_duplicates] = duplicates + blank_duplicates + max(empty - 1, 0)
    out[Count.run_line_duplicate_chars] = chars + blank_chars


@inner
def _count_paragraphs(text: Bytes, start: int, end: int, s: Scratch, out: Ints) -> None:
    """Count the paragraphs, between two or more newlines, of the stripped text, and those that repeat."""
    out[Count.paragraphs] = 1
    if out[Count.newlines] < out[Count.text_lines] + out[Count.blank_lines]:
        return  # no two newlines in a row
    start, end = _strip(text, start, end, s)
    state = HASH_SEED
    n = length = 0
    pos = start
    while pos < end:
        if text[pos] == _LF and text[pos + 1] == _LF:
            _append(s.kept_lines, n, state, length)
            n += 1
            state = HASH_SEED
            length = 0
            while text[pos] == _LF:
                pos += 1
            continue
        state = hash_step(state, int(text[pos]))
        length += text[pos] & 0xC0 != 0x80
        pos += 1
    _append(s.kept_lines, n, state, length)
    out[Count.paragraphs] = n + 1
    duplicates, chars = duplicate_totals(s.table, s.kept_lines, n + 1)
    out[Count.paragraph_duplicates] = duplicates
    out[Count.paragraph_duplicate_chars] = chars


@inlined
def _strip(text: Bytes, start: int, end: int, s: Scratch) -> tuple[int, int]:
    """Return the bounds of `text[start:end]` without whitespace at its ends."""
    while start < end:
        code, following = decode(text, start, end)
        if not s.classes[code] & SPACE:
            break
        start = following
    while end > start and s.classes[last_code(text, start, end)] & SPACE:
        end -= 1
        while end > start and text[end] & 0xC0 == 0x80:
            end -= 1
    return start, end
