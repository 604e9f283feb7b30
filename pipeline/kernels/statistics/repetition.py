"""Repetition inside one document, exactly and in near-linear time: repeated lines and word n-grams; and what a text
copies from others.

Equal elements get equal integer ids by a hash table; an n-gram is identified by the pair of ids of its two (n-1)-grams,
so n-grams are compared exactly (never as joined text, where "of" + "terms" would equal "ofterms"). Only positions whose
shorter gram repeats are looked at again: ordinary text loses most of its positions at each n, and a page of
"a b a b ..." costs one look-up a position and n.

What is copied is counted in runs of eight words. There a word is a run of ASCII letters and digits (case ignored) and
of other characters, or one character of U+3000 to U+DFFF (CJK). Runs are compared by 64-bit hash alone: a collision in
a text of a million words has a chance of about one in ten million.
"""

from __future__ import annotations

import secrets
from typing import Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from pipeline.kernels import inlined, inner
from pipeline.kernels.characters import decode

DATATROVE, REFINEDWEB, DOLMA = range(3)
"""Whose formulas of repeated n-grams: see `ngram_counts`."""
TOP_NGRAMS: Final = (2, 3, 4)
DUPLICATE_NGRAMS: Final = (5, 6, 7, 8, 9, 10)

_FIRST_TOP: Final = TOP_NGRAMS[0]
_LAST_TOP: Final = TOP_NGRAMS[-1]
_LAST: Final = DUPLICATE_NGRAMS[-1]
_MIN_TABLE_BITS: Final = 4
_COPIED_WORDS: Final = 8
_WORD_BASIS: Final = np.uint64(0xCBF29CE484222325)
_WORD_PRIME: Final = np.uint64(0x100000001B3)
_RUN_PRIME: Final = np.uint64(0x9E3779B97F4A7C15)

Ints = npt.NDArray[np.int64]
ShortInts = npt.NDArray[np.int32]
Keys = npt.NDArray[np.uint64]


class SeenTable(NamedTuple):
    """An open-addressing hash table that is emptied by counting up `generation[0]`, not by writing.

    `multiplier` is odd and random, so that no text can be made to fill one stretch of slots. No
    result depends on it.
    """

    keys: Keys
    entries: Ints  # generation << 32 | value
    generation: Ints  # shape (1,)
    multiplier: Keys  # shape (1,)


class WordGrams(NamedTuple):
    """Scratch for one document's n-grams; all arrays hold one entry a word."""

    ids: ShortInts
    counts: ShortInts
    starts: ShortInts  # positions whose current gram repeats, ascending
    chars_before: Ints  # code points of all words before position i; one entry more than words


class Elements(NamedTuple):
    """A list of lines or paragraphs: a hash and a length in code points for each."""

    hashes: Keys
    lengths: ShortInts


def new_seen_table(max_elements: int) -> SeenTable:
    """Return a table for at most `max_elements` different keys.

    The operating system zeroes its pages as they are touched, so a generous size costs address space alone (Numba's own
    `zeros` would write it all).
    """
    size = 1 << table_bits(max_elements)
    multiplier = np.array([secrets.randbits(64) | 1], np.uint64)
    return SeenTable(np.zeros(size, np.uint64), np.zeros(size, np.int64), np.zeros(1, np.int64), multiplier)


def new_grams(max_words: int) -> WordGrams:
    """Return scratch for documents of at most `max_words` words."""
    n = max_words + 1
    return WordGrams(np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int64))


def new_elements(max_elements: int) -> Elements:
    """Return room for at most `max_elements` elements."""
    return Elements(np.empty(max_elements, np.uint64), np.empty(max_elements, np.int32))


@inlined
def table_bits(num_elements: int) -> int:
    """Return the base-2 logarithm of a table size that `num_elements` fill by half at most."""
    bits = _MIN_TABLE_BITS
    while (1 << bits) < 2 * num_elements:
        bits += 1
    return bits


@inlined
def find_or_add(table: SeenTable, bits: int, key: np.uint64, value: int) -> int:
    """Return the value stored for `key` in the current generation; store and return `value` when there is none."""
    generation = table.generation[0]
    mask = (1 << bits) - 1
    slot = np.int64((key * table.multiplier[0]) >> np.uint64(64 - bits))
    while True:
        entry = table.entries[slot]
        if (entry >> 32) != generation:
            table.keys[slot] = key
            table.entries[slot] = (generation << 32) | value
            return value
        if table.keys[slot] == key:
            return entry & 0xFFFFFFFF
        slot = (slot + 1) & mask


@inner
def duplicate_totals(table: SeenTable, elements: Elements, n: int) -> tuple[int, int]:
    """Return how many of the first `n` elements repeat an earlier one, and the sum of those elements' lengths."""
    if n < 2:
        return 0, 0
    table.generation[0] += 1
    bits = table_bits(n)
    duplicates = 0
    chars = 0
    for i in range(n):
        if find_or_add(table, bits, elements.hashes[i], i) != i:
            duplicates += 1
            chars += elements.lengths[i]
    return duplicates, chars


@inner
def repeated_totals(table: SeenTable, grams: WordGrams, elements: Elements, n: int) -> tuple[int, int]:
    """Return how many of the first `n` elements occur twice or more, and the sum of those elements' lengths."""
    if n < 2:
        return 0, 0
    number_words(table, elements.hashes, n, grams)
    repeated = 0
    chars = 0
    for i in range(n):
        if grams.counts[grams.ids[i]] > 1:
            repeated += 1
            chars += elements.lengths[i]
    return repeated, chars


@inner
def number_words(table: SeenTable, hashes: Keys, n: int, grams: WordGrams) -> int:
    """Give equal words equal ids in `grams.ids`, count them in `grams.counts`; return the number of different words."""
    table.generation[0] += 1
    bits = table_bits(n)
    num_ids = 0
    for i in range(n):
        word = find_or_add(table, bits, hashes[i], num_ids)
        if word == num_ids:
            num_ids += 1
            grams.counts[word] = 0
        grams.ids[i] = word
        grams.counts[word] += 1
    return num_ids


@inner
def contains_word(table: SeenTable, num_words: int, key: np.uint64) -> bool:
    """Say whether a word with this hash was numbered by the latest `number_words` over `num_words` words."""
    generation = table.generation[0]
    bits = table_bits(num_words)
    slot = np.int64((key * table.multiplier[0]) >> np.uint64(64 - bits))
    while (table.entries[slot] >> 32) == generation:
        if table.keys[slot] == key:
            return True
        slot = (slot + 1) & ((1 << bits) - 1)
    return False


@inner
def ngram_counts(table: SeenTable, grams: WordGrams, lengths: ShortInts, n: int, out: Ints, whose: int) -> int:
    """Fill `out` with the character counts of the top and the duplicate n-grams of `n` numbered words.

    `out` has shape (9,): for 2, 3, 4 the characters in all occurrences (overlapping ones too) of the most frequent
    n-gram, 0 when none occurs twice. datatrove joins its words by one space and takes the first seen among equals,
    Dolma does so without spaces, RefinedWeb takes the longest. For 5 to 10: to datatrove the characters, without
    spaces, of the n-grams that repeat an earlier one, found greedily from the left without overlap; to RefinedWeb those
    of every word that is in an n-gram which repeats; to Dolma the sum over all occurrences of such n-grams.
    `grams` is as `number_words` left it and is overwritten. Returns the number of table look-ups.
    """
    grams.chars_before[0] = 0
    num_starts = 0
    for i in range(n):
        grams.chars_before[i + 1] = grams.chars_before[i] + lengths[i]
        if grams.counts[grams.ids[i]] > 1:
            grams.starts[num_starts] = i
            num_starts += 1
    out[:] = 0
    lookups = 0
    for size in range(_FIRST_TOP, _LAST + 1):
        lookups += num_starts
        num_starts = _lengthen(table, grams, num_starts)
        if num_starts == 0:
            break
        if size <= _LAST_TOP:
            out[size - _FIRST_TOP] = _top_chars(grams, num_starts, size, whose)
        elif whose == DATATROVE:
            out[size - _FIRST_TOP] = _duplicate_chars(table, grams, num_starts, size)
        else:
            out[size - _FIRST_TOP] = _repeated_chars(grams, num_starts, size, whose)
    return lookups


@inner
def _lengthen(table: SeenTable, grams: WordGrams, num_starts: int) -> int:
    """Replace the repeated (n-1)-grams by the repeated n-grams; return how many positions are left."""
    table.generation[0] += 1
    bits = table_bits(num_starts)
    ids, counts, starts = grams.ids, grams.counts, grams.starts
    num_ids = 0
    num_pairs = 0
    for k in range(num_starts - 1):
        i = starts[k]
        if starts[k + 1] != i + 1:
            continue
        key = (np.uint64(ids[i]) << np.uint64(32)) | np.uint64(ids[i + 1])
        gram = find_or_add(table, bits, key, num_ids)
        if gram == num_ids:
            num_ids += 1
            counts[gram] = 0
        counts[gram] += 1
        ids[i] = gram
        starts[num_pairs] = i
        num_pairs += 1
    kept = 0
    for k in range(num_pairs):
        i = starts[k]
        if counts[ids[i]] > 1:
            starts[kept] = i
            kept += 1
    return kept


@inlined
def _top_chars(grams: WordGrams, num_starts: int, size: int, whose: int) -> int:
    """Return occurrences times length of the most frequent n-gram."""
    before = grams.chars_before
    best = grams.starts[0]
    for k in range(1, num_starts):
        i = grams.starts[k]
        more = grams.counts[grams.ids[i]] - grams.counts[grams.ids[best]]
        if more == 0 and whose == REFINEDWEB:
            more = (before[i + size] - before[i]) - (before[best + size] - before[best])
        if more > 0:
            best = i
    spaces = size - 1 if whose == DATATROVE else 0
    return grams.counts[grams.ids[best]] * (before[best + size] - before[best] + spaces)


@inlined
def _repeated_chars(grams: WordGrams, num_starts: int, size: int, whose: int) -> int:
    """Return the characters of all n-grams that repeat: of each word once to RefinedWeb, of every n-gram to Dolma."""
    before = grams.chars_before
    chars = 0
    covered = 0
    for k in range(num_starts):
        i = grams.starts[k]
        begin = max(i, covered) if whose == REFINEDWEB else i
        chars += before[i + size] - before[begin]
        covered = i + size
    return chars


@inlined
def _duplicate_chars(table: SeenTable, grams: WordGrams, num_starts: int, size: int) -> int:
    """Return the characters in n-grams seen before, going on behind each one that is found."""
    table.generation[0] += 1
    bits = table_bits(num_starts)
    chars = 0
    following = 0
    for k in range(num_starts):
        i = grams.starts[k]
        if i < following:
            continue
        if find_or_add(table, bits, np.uint64(grams.ids[i]), i) != i:
            chars += grams.chars_before[i + size] - grams.chars_before[i]
            following = i + size
    return chars


# --- copies


def copy_shares(source: bytes, text: bytes, other: bytes = b"") -> tuple[float, float, float]:
    """Return the shares of the 8-grams of `text` that `source` has, that stood earlier in `text`, and that `other` has
    and `source` has not.

    All are UTF-8. A text of fewer than eight words has no 8-gram and every share is 0. The GIL is released.
    """
    texts = [np.frombuffer(each, np.uint8) for each in (source, other, text)]
    shares: tuple[float, float, float] = _copy_shares(*texts, np.uint64(secrets.randbits(64) | 1))
    return shares


@numba.njit(cache=True, nogil=True)
def _copy_shares(source, other, text, multiplier):  # type: ignore[no-untyped-def]
    source_runs, other_runs, own = _runs(source), _runs(other), _runs(text)
    bits = table_bits(source_runs.size + other_runs.size + own.size)
    keys, entries = np.empty(1 << bits, np.uint64), np.zeros(1 << bits, np.int64)
    table = SeenTable(keys, entries, np.ones(1, np.int64), np.array([multiplier]))
    for run in source_runs:
        find_or_add(table, bits, run, 0)
    for run in other_runs:
        find_or_add(table, bits, run, 1)
    copied, repeated, echoed = 0, 0, 0
    for run in own:
        known_by = find_or_add(table, bits, run, 2)
        copied += known_by == 0
        echoed += known_by == 1
    table.generation[0] += 1
    for i in range(own.size):
        repeated += find_or_add(table, bits, own[i], i) != i
    n = max(1, own.size)
    return copied / n, repeated / n, echoed / n


@register_jitable
def _runs(data):  # type: ignore[no-untyped-def]
    """Return the hash of each run of eight words."""
    runs = np.empty(data.size // 2 + 1, np.uint64)  # no text has more words
    n, position, value, is_inside = 0, 0, _WORD_BASIS, False
    while position < data.size:
        code, position = decode(data, position, data.size)
        code += 32 if 65 <= code <= 90 else 0
        is_word = 97 <= code <= 122 or 48 <= code <= 57 or code >= 128
        is_single = 0x3000 <= code < 0xE000
        if is_inside and (is_single or not is_word):
            runs[n] = value
            n += 1
            value, is_inside = _WORD_BASIS, False
        if is_word:
            value = (value ^ np.uint64(code)) * _WORD_PRIME
            is_inside = True
        if is_single:
            runs[n] = value
            n += 1
            value, is_inside = _WORD_BASIS, False
    if is_inside:
        runs[n] = value
        n += 1
    for i in range(n - _COPIED_WORDS + 1):
        value = _WORD_BASIS
        for k in range(_COPIED_WORDS):
            value = (value ^ runs[i + k]) * _RUN_PRIME
            value ^= value >> np.uint64(29)
        runs[i] = value
    return runs[: max(0, n - _COPIED_WORDS + 1)]
