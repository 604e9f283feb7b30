"""The counts behind all text statistics of a document, by one pass over UTF-8 bytes.

The kernel counts in exact integers (`Count` has one member a number); ratios are made from them in
`pipeline.signals.text_stats`, which also holds the definitions. No Python object is made for a document.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.kernels import entry, inlined, inner
from pipeline.kernels.characters import (
    DIGIT,
    LINE_BREAK,
    PHRASE,
    SPACE,
    SPLITTING,
    TERMINAL,
    UPPER,
    Bytes,
    Classes,
    character_classes,
    decode,
)  # fmt: skip
from pipeline.kernels.statistics.repetition import (
    DATATROVE,
    Elements,
    SeenTable,
    WordGrams,
    contains_word,
    duplicate_totals,
    new_elements,
    new_grams,
    new_seen_table,
    ngram_counts,
    number_words,
)  # fmt: skip
from pipeline.kernels.statistics.word_split import (
    HASH_SEED,
    SENTENCES,
    TOKENS,
    WORDS,
    Ints,
    Words,
    add_word,
    hash_join,
    hash_of,
    hash_step,
    new_words,
    split_chunk,
)  # fmt: skip

STOP_WORDS: Final = ("the", "be", "to", "of", "and", "that", "have", "with")

_MAX_WORD_CHARS: Final = 1000
_MIN_WORDS_PER_LINE: Final = 3
_SHORT_LINE_CHARS: Final = 30
_LF, _CR, _HYPHEN, _BULLET = 0x0A, 0x0D, 0x2D, 0x2022


Count = IntEnum(
    "Count",
    """text_length spaces digits capitals hashes ellipses urls
    words word_chars alpha_words sentences
    text_bytes tokens stop_words
    lines bullet_lines ellipsis_lines punctuated_lines few_word_lines long_word_lines javascript_lines policy_lines
    lorem_ipsum_lines curly_bracket_lines
    newlines text_lines blank_lines terminal_lines short_lines text_line_duplicate_chars
    run_lines run_line_duplicates run_line_duplicate_chars
    paragraphs paragraph_duplicates paragraph_duplicate_chars
    c4_lines c4_sentences c4_lorem_ipsum_lines c4_curly_bracket_lines
    fineweb_lines fineweb_sentences fineweb_lorem_ipsum_lines fineweb_curly_bracket_lines fineweb_text_lines
    fineweb_terminal_lines fineweb_short_lines fineweb_duplicate_chars fineweb_chars fineweb_tokens
    top_2gram_chars top_3gram_chars top_4gram_chars duplicate_5gram_chars duplicate_6gram_chars duplicate_7gram_chars
    duplicate_8gram_chars duplicate_9gram_chars duplicate_10gram_chars
    lookups""",
    start=0,
)
"""The numbers of one document, in the order of the rows of `count_texts`'s result.

The first row is what `scan_line` sums up, the second what its words add up to. `lines` are those of str.splitlines();
`text_lines` stand between newlines and are not blank, `blank_lines` there are whitespace alone and not empty;
`run_lines` stand between runs of newlines, empty ones at the ends included; `lookups` are those in the hash table for
n-grams: the work that a repetitive page costs.
"""
_LINE_SUMS: Final = 7  # counts that are `LineFact`s of all lines, in the same order
_WORD_SUMS: Final = 4  # counts that are sums over words, in the order of `Words.sums`


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
        _join(s, s.hashes[FULL], s.line[LineFact.length], s.line[LineFact.chunks])
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
    first, last = line[LineFact.first], line[LineFact.last]
    for k in range(_LINE_SUMS):
        out[k] += line[k]
    for k in range(_WORD_SUMS):
        out[Count.words + k] += sums[WORDS + k]
    out[Count.tokens] = sums[TOKENS]
    out[Count.lines] += 1
    if first == last:
        return
    start_code = decode(text, first, last)[0]
    out[Count.bullet_lines] += start_code in (_HYPHEN, _BULLET)
    out[Count.ellipsis_lines] += ends_in_ellipsis(text, first, last)
    out[Count.punctuated_lines] += ends_in_c4_punctuation(text, first, last)
    out[Count.few_word_lines] += line[LineFact.chunks] < _MIN_WORDS_PER_LINE
    out[Count.long_word_lines] += line[LineFact.longest] > _MAX_WORD_CHARS
    out[Count.javascript_lines] += line[LineFact.phrases] & JAVASCRIPT != 0
    out[Count.policy_lines] += line[LineFact.phrases] & POLICY != 0
    out[Count.lorem_ipsum_lines] += line[LineFact.phrases] & LOREM_IPSUM != 0
    out[Count.curly_bracket_lines] += line[LineFact.curly] > 0


@inner
def _apply_c4(text: Bytes, s: Scratch, out: Ints) -> None:
    """Decide whether C4 keeps the line, with and without its rule on terminal punctuation, and count what it keeps."""
    line = s.line
    if line[LineFact.chunks] < _MIN_WORDS_PER_LINE or line[LineFact.longest] > _MAX_WORD_CHARS:
        return
    first, last = line[LineFact.first], line[LineFact.last]
    state, length = s.hashes[STRIPPED], line[LineFact.stripped_length]
    tokens_before, tokens = line[LineFact.tokens_before], s.words.sums[TOKENS]
    if line[LineFact.brackets]:
        last = without_citations(text, first, last, s.edited)
        first = 0
        text = s.edited_view
        scan_line(text, 0, last, s)  # its words go behind the document's and are forgotten below
        state, length = s.hashes[FULL], line[LineFact.length]
        tokens_before = tokens
    tokens_after = s.words.sums[TOKENS]
    s.words.sums[TOKENS] = tokens
    punctuated = ends_in_c4_punctuation(text, first, last)
    phrases = line[LineFact.phrases]
    if phrases & LOREM_IPSUM:
        out[Count.fineweb_lorem_ipsum_lines] += 1
        out[Count.c4_lorem_ipsum_lines] += punctuated
    if phrases & JAVASCRIPT:
        return
    if line[LineFact.curly]:
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
    if line[LineFact.chunks]:
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
    out[Count.lookups] = ngram_counts(s.table, s.grams, s.words.lengths, n, ngrams, DATATROVE)


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


# --- one line: its words, counts, hashes and the things that C4's rules look for

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


LineFact = IntEnum(
    "LineFact",
    """length spaces digits capitals hashes ellipses urls
    stripped_length first last chunks longest phrases brackets curly tokens_before""",
    start=0,
)
"""What `scan_line` leaves about a line in `Scratch.line`: counts of code points without the line break (the first row),
the byte offsets where the first chunk (a word by str.split()) begins and the last ends, equal on a blank line, the
longest chunk's code points, and the phrases as bits in the order of `PHRASES`."""

Joined = IntEnum("Joined", "begin length chunks", start=0)
"""The line between newlines that `Scratch.joined` gathers from lines by str.splitlines(): byte offset, code points."""


class Scratch(NamedTuple):
    """Working memory for documents up to a size, allocated once a call."""

    classes: Classes
    words: Words
    counts: Ints  # the document's
    line: Ints  # indexed by LineFact
    joined: Ints  # indexed by Joined
    hashes: npt.NDArray[np.uint64]  # of the line, of the line stripped, of the line between newlines
    text_lines: Elements
    blank_lines: Elements
    kept_lines: Elements
    table: SeenTable
    grams: WordGrams
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
        line=np.zeros(len(LineFact), np.int64),
        joined=np.zeros(len(Joined), np.int64),
        hashes=np.zeros(3, np.uint64),
        text_lines=new_elements(n),
        blank_lines=new_elements(n),
        kept_lines=new_elements(n),
        table=new_seen_table(n),
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
    line[LineFact.tokens_before] = s.words.sums[TOKENS]
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
    line[LineFact.length] = length
    line[LineFact.stripped_length] = stripped_length
    line[LineFact.first] = max(first, start)
    line[LineFact.last] = max(last, start)
    line[LineFact.spaces] = spaces
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
    line[LineFact.chunks] += 1
    line[LineFact.longest] = max(line[LineFact.longest], chars)
    line[LineFact.digits] += digits
    line[LineFact.capitals] += capitals
    if any_flags & PHRASE:
        line[LineFact.phrases] |= _phrases_in(text, start, pos, end, s.classes)
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
            line[LineFact.ellipses] += dots // 3
            dots = 0
        if code == _DOT:
            dots += 1
        elif code == _HASH:
            line[LineFact.hashes] += 1
        elif code == _ELLIPSIS:
            line[LineFact.ellipses] += 1
        elif code == _BRACKET:
            line[LineFact.brackets] += 1
        elif code == _CURLY:
            line[LineFact.curly] += 1
        elif code == _COLON and k + 2 < size and codes[k + 1] == _SLASH and codes[k + 2] == _SLASH:
            line[LineFact.urls] += 1
    line[LineFact.ellipses] += dots // 3


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
