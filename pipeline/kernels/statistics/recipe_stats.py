"""The counts that published recipes other than datatrove's are made of, by one pass over UTF-8 bytes.

`RecipeCount` has one member a number; ratios are made from them in `pipeline.signals.recipe_stats`, which has their
definitions. Three notions of a word are needed: what str.split() gives, what fastText's tokenizer gives (it splits at
ASCII white space and NUL), and the words of Unicode's annex 29 that begin with a letter or number.

The rule for the last needs no property file. Letters, numbers and connectors ("_") join; ". '" and their kin join two
letters or two digits, ":" and its kin letters, "," and its kin digits; marks and formats stay with what is before them;
katakana joins katakana; every ideograph, hiragana, superscript, and letter of the scripts that are written without
spaces in South East Asia stands alone. Known to differ from the annex: Hebrew quotation marks, circled letters.
"""

from __future__ import annotations

import functools
import unicodedata
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.kernels import entry, inlined, inner
from pipeline.kernels.characters import DIGIT, LETTER, SPACE, Bytes, Classes, character_classes, decode
from pipeline.kernels.statistics.repetition import (
    DOLMA,
    REFINEDWEB,
    Elements,
    Ints,
    SeenTable,
    WordGrams,
    new_elements,
    new_grams,
    new_seen_table,
    ngram_counts,
    number_words,
    repeated_totals,
)  # fmt: skip
from pipeline.kernels.statistics.text_stats import STOP_WORDS, ends_in_ellipsis, last_code
from pipeline.kernels.statistics.word_split import HASH_SEED, hash_step

RecipeCount = IntEnum(
    "RecipeCount",
    """split_words split_word_chars alpha_words stop_words required_words symbol_words symbols median_twice
    fasttext_words fasttext_words_left unicode_words unicode_word_chars sentences list_sentences
    lines line_chars bullet_lines ellipsis_lines duplicate_lines duplicate_line_chars long_lines
    paragraphs paragraph_chars duplicate_paragraphs duplicate_paragraph_chars
    raw_lines raw_bullet_lines raw_ellipsis_lines raw_duplicate_lines raw_duplicate_line_chars
    refinedweb_2gram_chars refinedweb_3gram_chars refinedweb_4gram_chars refinedweb_5gram_chars refinedweb_6gram_chars
    refinedweb_7gram_chars refinedweb_8gram_chars refinedweb_9gram_chars refinedweb_10gram_chars
    dolma_2gram_chars dolma_3gram_chars dolma_4gram_chars dolma_5gram_chars dolma_6gram_chars
    dolma_7gram_chars dolma_8gram_chars dolma_9gram_chars dolma_10gram_chars
    all_5gram_chars all_6gram_chars all_7gram_chars all_8gram_chars all_9gram_chars all_10gram_chars""",
    start=0,
)
"""The numbers of one document. `lines` and `paragraphs` stand between one and between two or more newlines, stripped
and not empty; `raw_lines` between runs of newlines, empty ones at the ends included. Duplicates count every occurrence
of what occurs twice. `fasttext_words_left` are those behind RefinedWeb's edits of lines."""

MAX_MEDIAN: Final = 255
_LONG_LINE_CHARS: Final = 200
_MIN_LIST_WORDS: Final = 12
_PHRASE_LINE_WORDS: Final = 10
_LF, _BLANK, _HASH, _HYPHEN, _STAR, _BULLET, _CIRCLE, _ELLIPSIS = 0x0A, 0x20, 0x23, 0x2D, 0x2A, 0x2022, 0x25CF, 0x2026
_DOT, _COMMA, _EXCLAMATION, _QUESTION, _UNDERSCORE = 0x2E, 0x2C, 0x21, 0x3F, 0x5F

# What a code point is to the words of annex 29, in the lower bits, and what Python says of it.
OTHER, WORD, NUMERIC, KATAKANA, CONNECTOR, SINGLE, EXTEND, MID_LETTER, MID_NUMBER, MID_BOTH = range(10)
KIND, IS_UPPER, IS_DIGIT, IS_ALNUM = 15, 16, 32, 64

_KATAKANA: Final = (
    (0x3031, 0x3035),
    (0x309B, 0x309C),
    (0x30A0, 0x30FA),
    (0x30FC, 0x30FF),
    (0x31F0, 0x31FF),
    (0xFF66, 0xFF9D),
)
_SINGLES: Final = (  # hiragana, Han, Tangut; Thai, Lao, Myanmar, Khmer, Tai, Ahom
    *((0x3005, 0x3007), (0x3021, 0x3029), (0x3041, 0x3096), (0x309D, 0x309F), (0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    *((0xF900, 0xFAFF), (0x17000, 0x18CFF), (0x1B000, 0x1B2FF), (0x20000, 0x323AF), (0x0E00, 0x0EFF), (0x1000, 0x109F)),
    *((0x1780, 0x17FF), (0x1950, 0x19FF), (0x1A20, 0x1AAF), (0xA9E0, 0xA9FF), (0xAA60, 0xAADF), (0x11700, 0x1174F)),
)
_KINDS_OF: Final = (
    (MID_LETTER, ":·\u0387՟״‧︓﹕："),
    (MID_NUMBER, ",;\u037e։،؍٬߸⁄︐︔﹐﹔，；"),
    (MID_BOTH, ".'‘’․﹒＇．"),
    (CONNECTOR, "\u202f"),
    (OTHER, "\u200b"),
)


@functools.cache
def character_kinds() -> npt.NDArray[np.uint8]:
    """Return the kind and flags of every code point, shape (0x110000,), read-only; built once a process in 0.2 s."""
    kinds = np.zeros(0x110000, np.uint8)
    by_category = {"Nd": NUMERIC, "Nl": WORD, "No": SINGLE, "Pc": CONNECTOR, "Cf": EXTEND}
    by_major = {"L": WORD, "M": EXTEND}
    for code in (*range(0x40000), *range(0xE0000, 0xE1000)):
        char = chr(code)
        category = unicodedata.category(char)
        flags = IS_UPPER * char.isupper() | IS_DIGIT * char.isdigit() | IS_ALNUM * char.isalnum()
        kinds[code] = by_category.get(category, by_major.get(category[0], OTHER)) | flags
    for ranges, kind in ((_SINGLES, SINGLE), (_KATAKANA, KATAKANA)):
        for first, last in ranges:
            block = kinds[first : last + 1]
            block[block & KIND == WORD] += kind - WORD
    for kind, chars in _KINDS_OF:
        codes = [ord(char) for char in chars]
        kinds[codes] = kinds[codes] & ~np.uint8(KIND) | kind
    kinds.flags.writeable = False
    return kinds


class Scratch(NamedTuple):
    """Working memory for documents up to a size, allocated once a call."""

    classes: Classes
    kinds: npt.NDArray[np.uint8]
    counts: Ints  # the document's
    now: Ints  # indexed by Now
    hashes: npt.NDArray[np.uint64]  # indexed by the constants below
    medians: Ints  # how many words have which length
    split_words: Elements
    unicode_words: Elements
    lines: Elements
    raw_lines: Elements
    paragraphs: Elements
    table: SeenTable
    grams: WordGrams
    edited: Bytes  # one line without RefinedWeb's phrases
    edited_view: Bytes  # the same memory read-only, as texts are, so that the kernels compile once


Now = IntEnum(
    "Now",
    """split_length split_alpha split_symbol split_letters split_exact
    word_kind word_length word_counts word_upper pending pending_length
    in_fasttext dots spaced
    sentence_ends sentence_content sentence_words sentence_capitals
    line_begin line_length line_first line_last line_stripped line_upper line_digits line_words line_fasttext
    paragraph_length paragraph_stripped previous""",
    start=0,
)
"""What is open while a text is read: words, the sentence, the line, the paragraph."""
SPLIT, WORD_HASH, PENDING, RAW, LINE, LINE_END, PARAGRAPH, PARAGRAPH_END = range(8)  # indices into `Scratch.hashes`


def count_recipes(data: Bytes, offsets: Ints) -> Ints:
    """Return all counts of n texts, shape (len(RecipeCount), n), for the Arrow buffers of a string column.

    `data` has UTF-8 bytes, `offsets` the n + 1 byte positions between texts. No row can drop. Releases the GIL.
    """
    data = data.view()
    data.flags.writeable = False
    sizes = np.diff(offsets)
    n = int(sizes.max(initial=0)) + 1
    edited = np.empty(n, np.uint8)
    edited_view = edited.view()
    edited_view.flags.writeable = False
    scratch = Scratch(
        classes=character_classes(),
        kinds=character_kinds(),
        counts=np.zeros(len(RecipeCount), np.int64),
        now=np.zeros(len(Now), np.int64),
        hashes=np.zeros(8, np.uint64),
        medians=np.zeros(MAX_MEDIAN + 1, np.int64),
        split_words=new_elements(n),
        unicode_words=new_elements(n),
        lines=new_elements(n),
        raw_lines=new_elements(n),
        paragraphs=new_elements(n),
        table=new_seen_table(n),
        grams=new_grams(n),
        edited=edited,
        edited_view=edited_view,
    )
    counts = np.zeros((len(RecipeCount), len(sizes)), np.int64)
    _count_all(data, offsets, scratch, counts)
    return counts


@entry
def _count_all(data: Bytes, offsets: Ints, s: Scratch, counts: Ints) -> None:
    """Fill `counts`, one column a document."""
    out = s.counts
    for row in range(counts.shape[1]):
        out[:] = 0
        s.now[:] = 0
        s.medians[:] = 0
        start, end = offsets[row], offsets[row + 1]
        _read(data, start, end, s, out)
        _count_repeats(data, start, end, s, out)
        _find_median(s, out)
        for k in range(len(out)):
            counts[k, row] = out[k]


@inner
def _read(text: Bytes, start: int, end: int, s: Scratch, out: Ints) -> None:
    """Go through the code points once: everything but what repeats."""
    now = s.now
    _open_line(start, s)
    pos = start
    while pos < end:
        code, following = decode(text, pos, end)
        is_space = s.classes[code] & SPACE != 0
        _take_unicode_word(code, s, out)
        _take_sentence(code, is_space, s, out)
        _take_symbols(code, s, out)
        if is_space:
            _close_split_word(s, out)
        else:
            _take_split_word(code, s)
        _take_fasttext(code, s)
        if code == _LF:
            _close_line(text, pos, s, out)
            if now[Now.previous] == _LF:
                _close_paragraph(s, out)
            _open_line(following, s)
        else:
            _take_line(code, pos, following, is_space, s)
        _take_paragraph(code, is_space, s)
        now[Now.previous] = code
        pos = following
    _close_unicode_word(s, out)
    _close_sentence(s, out, now[Now.sentence_content] | now[Now.sentence_ends])
    out[RecipeCount.symbols] += now[Now.dots] // 3
    _close_split_word(s, out)
    _close_line(text, end, s, out)
    _close_paragraph(s, out)


# --- words


@inlined
def _take_unicode_word(code: int, s: Scratch, out: Ints) -> None:
    """Go on with the words of annex 29."""
    now, hashes = s.now, s.hashes
    flags = np.int64(s.kinds[code])
    kind = flags & KIND
    last, pending = now[Now.word_kind], now[Now.pending]
    if kind == EXTEND:
        if pending:
            hashes[PENDING] = hash_step(hashes[PENDING], code)
            now[Now.pending_length] += 1
        elif last:
            hashes[WORD_HASH] = hash_step(hashes[WORD_HASH], code)
            now[Now.word_length] += 1
        return
    if kind >= MID_LETTER:
        joins_letters, joins_digits = kind != MID_NUMBER and last == WORD, kind != MID_LETTER and last == NUMERIC
        if pending == 0 and (joins_letters or joins_digits):
            now[Now.pending] = kind
            hashes[PENDING] = hash_step(hashes[WORD_HASH], code)
            now[Now.pending_length] = now[Now.word_length] + 1
            return
        kind = OTHER
    if kind == OTHER:
        _close_unicode_word(s, out)
        return
    if pending:
        if last == kind and ((kind == WORD and pending != MID_NUMBER) or (kind == NUMERIC and pending != MID_LETTER)):
            hashes[WORD_HASH] = hash_step(hashes[PENDING], code)
            now[Now.word_length] = now[Now.pending_length] + 1
            now[Now.pending] = 0
            return
    elif (
        last and SINGLE not in (kind, last) and (CONNECTOR in (kind, last) or (kind == KATAKANA) == (last == KATAKANA))
    ):
        hashes[WORD_HASH] = hash_step(hashes[WORD_HASH], code)
        now[Now.word_length] += 1
        now[Now.word_kind] = kind
        return
    _close_unicode_word(s, out)
    now[Now.word_kind] = kind
    now[Now.word_length] = 1
    now[Now.word_counts] = flags & IS_ALNUM
    now[Now.word_upper] = flags & IS_UPPER
    hashes[WORD_HASH] = hash_step(HASH_SEED, code)


@inner
def _close_unicode_word(s: Scratch, out: Ints) -> None:
    now = s.now
    if now[Now.word_kind] and now[Now.word_counts]:
        _append(s.unicode_words, out[RecipeCount.unicode_words], s.hashes[WORD_HASH], now[Now.word_length])
        out[RecipeCount.unicode_words] += 1
        out[RecipeCount.unicode_word_chars] += now[Now.word_length]
        now[Now.sentence_words] += 1
        now[Now.sentence_capitals] += now[Now.word_upper] != 0
    now[Now.word_kind] = 0
    now[Now.pending] = 0


@inlined
def _append(elements: Elements, n: int, state: np.uint64, length: int) -> None:
    elements.hashes[n] = state
    elements.lengths[n] = length


@inlined
def _take_split_word(code: int, s: Scratch) -> None:
    """Go on with a word by str.split(): `split_letters` packs its first four letters in lower case, 0 for others."""
    now = s.now
    if now[Now.split_length] == 0:
        s.hashes[SPLIT] = HASH_SEED
        now[Now.split_alpha] = now[Now.split_symbol] = now[Now.split_letters] = now[Now.split_exact] = 0
    s.hashes[SPLIT] = hash_step(s.hashes[SPLIT], code)
    now[Now.split_length] += 1
    now[Now.split_alpha] |= s.classes[code] & LETTER
    now[Now.split_symbol] |= code in (_HASH, _ELLIPSIS)
    if now[Now.split_length] <= 4:
        now[Now.split_exact] = (now[Now.split_exact] << 8) | (code & 0xFF if code < 0x80 else 0xFF)
        now[Now.split_letters] = now[Now.split_exact] | 0x20202020 >> (8 * (4 - now[Now.split_length]))


@inner
def _close_split_word(s: Scratch, out: Ints) -> None:
    now = s.now
    length = now[Now.split_length]
    if length == 0:
        return
    _append(s.split_words, out[RecipeCount.split_words], s.hashes[SPLIT], length)
    out[RecipeCount.split_words] += 1
    out[RecipeCount.split_word_chars] += length
    out[RecipeCount.alpha_words] += now[Now.split_alpha] != 0
    out[RecipeCount.symbol_words] += now[Now.split_symbol]
    s.medians[min(length, MAX_MEDIAN)] += 1
    now[Now.line_words] += 1
    if 2 <= length <= 4 and _is_stop_word(now[Now.split_letters]):
        out[RecipeCount.stop_words] += 1
        out[RecipeCount.required_words] += now[Now.split_exact] == now[Now.split_letters]
    now[Now.split_length] = 0


_PACKED_STOP_WORDS: Final = tuple(int.from_bytes(word.encode(), "big") for word in STOP_WORDS)


@inlined
def _is_stop_word(packed: int) -> bool:
    for word in _PACKED_STOP_WORDS:  # noqa: SIM110 - Numba has no any() over a generator
        if packed == word:
            return True
    return False


@inlined
def _take_fasttext(code: int, s: Scratch) -> None:
    """Count a token between ASCII white space when its first character is a letter or number."""
    now = s.now
    if code == _BLANK or 9 <= code <= 13 or code == 0:
        now[Now.in_fasttext] = 0
    elif now[Now.in_fasttext] == 0:
        now[Now.in_fasttext] = 1
        now[Now.line_fasttext] += s.kinds[code] & IS_ALNUM != 0


@inlined
def _take_symbols(code: int, s: Scratch, out: Ints) -> None:
    """Count "#", "…", "..." and ". . ." as str.count() does. `spaced` is how much of ". . ." has been seen."""
    now = s.now
    spaced = now[Now.spaced]
    if code == _DOT:
        now[Now.dots] += 1
        now[Now.spaced] = 1 if spaced % 2 else spaced + 1
        if spaced == 4:
            out[RecipeCount.symbols] += 1
            now[Now.spaced] = 0
        return
    out[RecipeCount.symbols] += now[Now.dots] // 3
    out[RecipeCount.symbols] += code in (_HASH, _ELLIPSIS)
    now[Now.dots] = 0
    now[Now.spaced] = spaced + 1 if code == _BLANK and spaced % 2 else 0


@inlined
def _take_sentence(code: int, is_space: bool, s: Scratch, out: Ints) -> None:
    """A sentence ends where white space follows ".", "!" or "?"; one of nothing else is none."""
    now = s.now
    if is_space:
        if now[Now.sentence_ends]:
            _close_sentence(s, out, now[Now.sentence_content])
    elif code in (_DOT, _EXCLAMATION, _QUESTION):
        now[Now.sentence_ends] = 1
    else:
        now[Now.sentence_content] = 1
        now[Now.sentence_ends] = 0


@inner
def _close_sentence(s: Scratch, out: Ints, is_there: int) -> None:
    now = s.now
    if is_there:
        out[RecipeCount.sentences] += 1
        words = now[Now.sentence_words]
        out[RecipeCount.list_sentences] += words >= _MIN_LIST_WORDS and 2 * now[Now.sentence_capitals] > words
    now[Now.sentence_words] = now[Now.sentence_capitals] = now[Now.sentence_content] = now[Now.sentence_ends] = 0


# --- lines and paragraphs


@inner
def _open_line(begin: int, s: Scratch) -> None:
    now = s.now
    for k in range(Now.line_begin, Now.line_fasttext + 1):
        now[k] = 0
    now[Now.line_begin] = begin
    now[Now.line_first] = now[Now.line_last] = begin
    s.hashes[RAW] = s.hashes[LINE] = HASH_SEED


@inlined
def _take_line(code: int, pos: int, following: int, is_space: bool, s: Scratch) -> None:
    now, hashes = s.now, s.hashes
    flags = np.int64(s.kinds[code])
    now[Now.line_length] += 1
    now[Now.line_upper] += flags & IS_UPPER != 0
    now[Now.line_digits] += flags & IS_DIGIT != 0
    hashes[RAW] = hash_step(hashes[RAW], code)
    if is_space and now[Now.line_stripped] == 0:
        now[Now.line_first] = now[Now.line_last] = following
        return
    hashes[LINE] = hash_step(hashes[LINE], code)
    if not is_space:
        hashes[LINE_END] = hashes[LINE]
        now[Now.line_last] = following
        now[Now.line_stripped] = now[Now.line_length]


@inner
def _close_line(text: Bytes, end: int, s: Scratch, out: Ints) -> None:
    now = s.now
    begin, first, last = now[Now.line_begin], now[Now.line_first], now[Now.line_last]
    if begin == end:
        return
    length = now[Now.line_length]
    _append(s.raw_lines, out[RecipeCount.raw_lines], s.hashes[RAW], length)
    out[RecipeCount.raw_lines] += 1
    out[RecipeCount.raw_bullet_lines] += text[begin] == _HYPHEN or text[begin] == _STAR
    out[RecipeCount.raw_ellipsis_lines] += last_code(text, begin, end) == _ELLIPSIS
    out[RecipeCount.long_lines] += length >= _LONG_LINE_CHARS
    out[RecipeCount.fasttext_words] += now[Now.line_fasttext]
    if first == last:
        return
    out[RecipeCount.fasttext_words_left] += _words_left(text, begin, end, s)
    chars = now[Now.line_stripped] - _chars_between(text, begin, first)
    _append(s.lines, out[RecipeCount.lines], s.hashes[LINE_END], chars)
    out[RecipeCount.lines] += 1
    out[RecipeCount.line_chars] += chars
    code = decode(text, first, last)[0]
    out[RecipeCount.bullet_lines] += code in (_HYPHEN, _STAR, _BULLET, _CIRCLE)
    out[RecipeCount.ellipsis_lines] += ends_in_ellipsis(text, first, last) or _ends_in_spaced_dots(text, first, last)


@inlined
def _chars_between(text: Bytes, start: int, end: int) -> int:
    chars = 0
    for pos in range(start, end):
        chars += text[pos] & 0xC0 != 0x80
    return chars


@inlined
def _ends_in_spaced_dots(text: Bytes, start: int, end: int) -> bool:
    if end - start < 5 or text[end - 2] != _BLANK or text[end - 4] != _BLANK:
        return False
    return text[end - 1] == _DOT and text[end - 3] == _DOT and text[end - 5] == _DOT


@inlined
def _take_paragraph(code: int, is_space: bool, s: Scratch) -> None:
    now, hashes = s.now, s.hashes
    if is_space and now[Now.paragraph_length] == 0:
        return
    if now[Now.paragraph_length] == 0:
        hashes[PARAGRAPH] = HASH_SEED
    hashes[PARAGRAPH] = hash_step(hashes[PARAGRAPH], code)
    now[Now.paragraph_length] += 1
    if not is_space:
        hashes[PARAGRAPH_END] = hashes[PARAGRAPH]
        now[Now.paragraph_stripped] = now[Now.paragraph_length]


@inner
def _close_paragraph(s: Scratch, out: Ints) -> None:
    now = s.now
    if now[Now.paragraph_stripped]:
        _append(s.paragraphs, out[RecipeCount.paragraphs], s.hashes[PARAGRAPH_END], now[Now.paragraph_stripped])
        out[RecipeCount.paragraphs] += 1
        out[RecipeCount.paragraph_chars] += now[Now.paragraph_stripped]
    now[Now.paragraph_length] = now[Now.paragraph_stripped] = 0


# --- what RefinedWeb's edits of lines leave

_COUNTED: Final = (
    *("likes", "shares", "comments", "retweets", "reposts", "quotes", "bookmarks", "upvotes", "downvotes", "downloads"),
    *("views", "followers"),
)
_COUNTED_LENGTHS = np.array([len(word) for word in _COUNTED])
_COUNTED_BYTES = np.array([list(word.encode().ljust(16, b"\0")) for word in _COUNTED], np.uint8)
_ITEMS, _MORE, _SIGN = (np.frombuffer(phrase, np.uint8) for phrase in (b"items in cart", b"read more", b"sign-in"))


@inner
def _words_left(text: Bytes, begin: int, end: int, s: Scratch) -> int:
    """Return how many of the line's words stay: none when it is mostly capitals, a number, a counter or one word."""
    now = s.now
    length = now[Now.line_length]
    if 2 * now[Now.line_upper] > length or now[Now.line_digits] == length or now[Now.line_words] < 2:
        return 0
    if _is_counter(text, begin, end, s):
        return 0
    if now[Now.line_words] > _PHRASE_LINE_WORDS:
        return now[Now.line_fasttext]
    has_items = _find(text, begin, end, _ITEMS) < end
    tail = _more_start(text, begin, end)
    if not has_items and tail == end and not _matches(text, begin, end, _SIGN):
        return now[Now.line_fasttext]
    return _words_left_by_phrases(text, begin, end, s)


@inner
def _is_counter(text: Bytes, begin: int, end: int, s: Scratch) -> bool:
    """Say whether the line is a number and what it counts, as "3 likes" or "1.2K followers", with symbols around."""
    pos = _skip_symbols(text, begin, end, s)
    if pos == end or not s.classes[decode(text, pos, end)[0]] & DIGIT:
        return False
    while pos < end:
        code, following = decode(text, pos, end)
        if not (s.classes[code] & DIGIT or code in (_DOT, _COMMA)):
            break
        pos = following
    if pos < end and text[pos] | 0x20 in (0x6B, 0x6D, 0x62):
        pos += 1
    gap = pos
    while pos < end:
        code, following = decode(text, pos, end)
        if not s.classes[code] & SPACE:
            break
        pos = following
    if pos == gap:
        return False
    for row in range(len(_COUNTED_LENGTHS)):
        word = _COUNTED_BYTES[row, : _COUNTED_LENGTHS[row]]
        if _matches(text, pos, end, word):
            return _skip_symbols(text, pos + len(word), end, s) == end
    return False


@inner
def _skip_symbols(text: Bytes, pos: int, end: int, s: Scratch) -> int:
    """Return the position of the next letter, number or "_", or `end`."""
    while pos < end:
        code, following = decode(text, pos, end)
        if s.kinds[code] & IS_ALNUM or code == _UNDERSCORE:
            break
        pos = following
    return pos


@inner
def _matches(text: Bytes, pos: int, end: int, wanted: Bytes) -> bool:
    """Say whether `wanted`, in lower case, stands at `pos`, without regard to the case of ASCII letters."""
    if pos + len(wanted) > end:
        return False
    for k in range(len(wanted)):
        byte = text[pos + k]
        if 0x41 <= byte <= 0x5A:
            byte |= 0x20
        if byte != wanted[k]:
            return False
    return True


@inner
def _find(text: Bytes, pos: int, end: int, wanted: Bytes) -> int:
    while pos < end and not _matches(text, pos, end, wanted):
        pos += 1
    return pos


@inner
def _more_start(text: Bytes, begin: int, end: int) -> int:
    """Return where "read more" and three more characters end the line, or `end`."""
    pos = end
    for _ in range(3):
        pos -= 1
        while pos > begin and text[pos] & 0xC0 == 0x80:
            pos -= 1
    pos -= len(_MORE)
    return pos if pos >= begin and _matches(text, pos, end, _MORE) else end


@inner
def _words_left_by_phrases(text: Bytes, begin: int, end: int, s: Scratch) -> int:
    """Return fastText's words of a line without "items in cart", "read more..." at its end and "sign-in" at its head.

    A white space at the phrase goes with it. A line that has nothing else goes.
    """
    line = s.edited_view
    size = 0
    pos = begin
    while pos < end:
        if _matches(text, pos, end, _ITEMS):
            pos += len(_ITEMS)
            size = _without_last_space(line, size, s)
        else:
            s.edited[size] = text[pos]
            size += 1
            pos += 1
    low = 0
    for step in range(3):
        if step == 1:
            tail = _more_start(line, 0, size)
            size = _without_last_space(line, tail, s) if tail < size else size
        elif step == 2 and _matches(line, 0, size, _SIGN):
            low = len(_SIGN)
            if low < size and s.classes[decode(line, low, size)[0]] & SPACE:
                low = decode(line, low, size)[1]
        if _is_blank(line, low, size, s):
            return 0
    return _fasttext_words(line, low, size, s)


@inner
def _without_last_space(text: Bytes, end: int, s: Scratch) -> int:
    if end and s.classes[last_code(text, 0, end)] & SPACE:
        end -= 1
        while end and text[end] & 0xC0 == 0x80:
            end -= 1
    return end


@inner
def _is_blank(text: Bytes, pos: int, end: int, s: Scratch) -> bool:
    while pos < end:
        code, pos = decode(text, pos, end)
        if not s.classes[code] & SPACE:
            return False
    return True


@inner
def _fasttext_words(text: Bytes, pos: int, end: int, s: Scratch) -> int:
    words = inside = 0
    while pos < end:
        code, pos = decode(text, pos, end)
        if code == _BLANK or 9 <= code <= 13 or code == 0:
            inside = 0
        elif inside == 0:
            inside = 1
            words += s.kinds[code] & IS_ALNUM != 0
    return words


# --- what repeats


@inner
def _count_repeats(text: Bytes, start: int, end: int, s: Scratch, out: Ints) -> None:
    """Count repeated lines, paragraphs and n-grams."""
    found = repeated_totals(s.table, s.grams, s.lines, out[RecipeCount.lines])
    out[RecipeCount.duplicate_lines], out[RecipeCount.duplicate_line_chars] = found
    found = repeated_totals(s.table, s.grams, s.paragraphs, out[RecipeCount.paragraphs])
    out[RecipeCount.duplicate_paragraphs], out[RecipeCount.duplicate_paragraph_chars] = found
    found = repeated_totals(s.table, s.grams, s.raw_lines, out[RecipeCount.raw_lines])
    out[RecipeCount.raw_duplicate_lines], out[RecipeCount.raw_duplicate_line_chars] = found
    if end > start:  # split at runs of newlines, a text that begins and ends with one has two empty lines
        empty = int(text[start] == _LF) + int(text[end - 1] == _LF)
        out[RecipeCount.raw_lines] += empty
        out[RecipeCount.raw_duplicate_lines] += 2 * (empty == 2)
    n = out[RecipeCount.unicode_words]
    grams = out[RecipeCount.refinedweb_2gram_chars : RecipeCount.refinedweb_10gram_chars + 1]
    number_words(s.table, s.unicode_words.hashes, n, s.grams)
    ngram_counts(s.table, s.grams, s.unicode_words.lengths, n, grams, REFINEDWEB)
    n = out[RecipeCount.split_words]
    grams = out[RecipeCount.dolma_2gram_chars : RecipeCount.dolma_10gram_chars + 1]
    number_words(s.table, s.split_words.hashes, n, s.grams)
    ngram_counts(s.table, s.grams, s.split_words.lengths, n, grams, DOLMA)
    before = s.grams.chars_before
    for size in range(2, min(4, n) + 1):
        if grams[size - 2] == 0:  # none repeats: Dolma takes the first
            grams[size - 2] = before[size]
    for size in range(5, 11):
        for i in range(n - size + 1):
            out[RecipeCount.all_5gram_chars + size - 5] += before[i + size] - before[i]


@inlined
def _find_median(s: Scratch, out: Ints) -> None:
    """Find the median length of the words by str.split(), twice: the sum of the two in the middle."""
    n = out[RecipeCount.split_words]
    if n == 0:
        return
    seen = 0
    low, high = (n - 1) // 2, n // 2
    for length in range(len(s.medians)):
        following = seen + s.medians[length]
        out[RecipeCount.median_twice] += length * (int(seen <= low < following) + int(seen <= high < following))
        seen = following
