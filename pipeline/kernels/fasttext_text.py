"""From text to the mean of fastText's rows: tokens, character n-grams and word n-grams, hashed as fastText does.

Tokens are split at space, tab, newline, vertical tab, form feed, carriage return and NUL; each document ends with the
token `</s>`. A literal `</s>` in the text would end it there in fastText; here it is passed over. Words that start with
`__label__` and are not in the vocabulary are skipped. Sums are in float64 and in a fixed order: how documents are
batched changes no bit.

Source: `Dictionary::getLine` and the functions that it calls, of facebookresearch/fastText 0.9.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

CACHE_SLOTS = 1 << 15
GRAMS_AT_ONCE = 256
_FNV_BASIS = np.uint64(2166136261)
_FNV_PRIME = np.uint64(16777619)
_LOW_32 = np.uint64(0xFFFFFFFF)
_NGRAM_FACTOR = np.uint64(116049371)
_LABEL_PREFIX = np.frombuffer(b"__label__", np.uint8)
_EOS = np.frombuffer(b"</s>", np.uint8)


class Tables(NamedTuple):
    """Everything that turns text into a sum of rows."""

    blob: Array  # the dictionary's bytes
    starts: Array
    lengths: Array
    hashes: Array  # uint64, of each entry
    slots: Array  # open addressing: entry, or -1
    pruned: Array  # bucket -> row, -1 dropped
    kept_bits: Array  # a bit for each bucket, in `pruned` or not: small enough to stay in a near cache
    rows: Array  # float32 (words, then buckets; width)
    row_counts: Array  # how many of fastText's rows a word's row is the sum of
    n_words: int
    bucket: int
    buckets_kept: int  # 0: every bucket was pruned, 1: all are there, 2: look into `pruned`
    min_gram: int
    max_gram: int
    word_ngrams: int


class Grams(NamedTuple):
    """The part of `Tables` that character n-grams need: handing on the whole of it costs more than the work itself."""

    pruned: Array
    kept_bits: Array
    buckets_kept: int
    n_words: int
    bucket: int
    min_gram: int
    max_gram: int


class Memo(NamedTuple):
    """The sums of a batch's unknown words, by hash; a slot names where in the batch its word stands. Scratch space."""

    positions: Array  # -1: empty
    sizes: Array
    counts: Array
    rows: Array
    token: Array
    found: Array
    total: Array


@njit(nogil=True, cache=True, error_model="numpy")
def _hash(data: Array, start: int, end: int) -> np.uint64:
    """FNV-1a of 32 bits with each byte sign-extended, as fastText has hashed since its first release."""
    h = _FNV_BASIS
    for i in range(start, end):
        h = (h ^ np.uint64(np.int8(data[i]))) * _FNV_PRIME
    return h & _LOW_32


@njit(nogil=True, cache=True, error_model="numpy")
def _same(a: Array, a_start: int, b: Array, b_start: int, size: int) -> bool:
    for i in range(size):  # noqa: SIM110 (Numba compiles no generator)
        if a[a_start + i] != b[b_start + i]:
            return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def fill_slots(tables: Tables) -> None:
    """Enter all dictionary entries; of equal ones the last counts, as in fastText."""
    mask = tables.slots.size - 1
    for entry in range(tables.starts.size):
        start, size = tables.starts[entry], tables.lengths[entry]
        h = _hash(tables.blob, start, start + size)
        tables.hashes[entry] = h
        known = _find(tables, tables.blob, start, start + size, h)
        slot = np.int64(h) & mask
        while tables.slots[slot] >= 0 and tables.slots[slot] != known:
            slot = (slot + 1) & mask
        tables.slots[slot] = entry


@njit(nogil=True, cache=True, error_model="numpy")
def _find(tables: Tables, data: Array, start: int, end: int, h: np.uint64) -> Any:
    """Return the entry whose bytes are `data[start:end]`, or -1."""
    mask = tables.slots.size - 1
    slot = np.int64(h) & mask
    while tables.slots[slot] >= 0:
        entry = tables.slots[slot]
        equal = tables.hashes[entry] == h and tables.lengths[entry] == end - start
        if equal and _same(tables.blob, tables.starts[entry], data, start, end - start):
            return entry
        slot = (slot + 1) & mask
    return -1


@njit(nogil=True, cache=True, error_model="numpy")
def _add_subwords(grams: Grams, rows: Array, token: Array, found: Array, total: Array) -> Any:
    """Add the rows of the character n-grams of `token` (which has its `<` and `>`) to `total`; return how many.

    Most n-grams of a pruned model are gone. The first pass, without a branch on that, gathers in `found` the buckets
    that are left; the second looks up their rows.
    """
    pruned, kept_bits, kept, first, bucket, min_gram, max_gram = grams
    size, added, n_found = token.size, 0, 0
    for i in range(size):
        if token[i] & 0xC0 == 0x80:  # inside a character
            continue
        j, n, h = i, 1, _FNV_BASIS
        while j < size and n <= max_gram:
            h = (h ^ np.uint64(np.int8(token[j]))) * _FNV_PRIME
            j += 1
            while j < size and token[j] & 0xC0 == 0x80:
                h = (h ^ np.uint64(np.int8(token[j]))) * _FNV_PRIME
                j += 1
            if n >= min_gram and not (n == 1 and (i == 0 or j == size)):
                place = np.uint32(h) % np.uint32(bucket)
                found[n_found] = place
                n_found += 1 if kept == 1 else (kept_bits[place >> 3] >> (place & 7)) & 1
            n += 1
        if n_found > found.size - 1 - max_gram:
            _add_rows(total, rows, pruned, first, found[:n_found])
            added, n_found = added + n_found, 0
    _add_rows(total, rows, pruned, first, found[:n_found])
    return added + n_found


@njit(nogil=True, cache=True, error_model="numpy")
def _add_rows(total: Array, rows: Array, pruned: Array, first: int, buckets: Array) -> None:
    for bucket in buckets:
        row = np.uint64(first + (pruned[bucket] if pruned.size else bucket))
        for k in range(total.size):
            total[k] += rows[row, k]


@njit(nogil=True, cache=True, error_model="numpy")
def _add(total: Array, rows: Array, row: int) -> None:
    for k in range(total.size):
        total[k] += rows[row, k]


@njit(nogil=True, cache=True, error_model="numpy")
def _wrap(data: Array, start: int, end: int, token: Array) -> int:
    """Write `<data[start:end]>` to `token`; return its size."""
    token[0] = 60
    for i in range(end - start):
        token[i + 1] = data[start + i]
    token[end - start + 1] = 62
    return end - start + 2


@njit(nogil=True, cache=True, error_model="numpy")
def _grams(tables: Tables) -> Grams:
    kept, first = tables.buckets_kept, tables.n_words
    return Grams(tables.pruned, tables.kept_bits, kept, first, tables.bucket, tables.min_gram, tables.max_gram)


@njit(nogil=True, cache=True, error_model="numpy")
def sum_subwords(tables: Tables) -> None:
    """Replace each word's row by the sum over the word and its n-grams (no other word refers to that row)."""
    grams = _grams(tables)
    token, found = np.empty(int(tables.lengths.max()) + 2, np.uint8), np.empty(GRAMS_AT_ONCE, np.int32)
    total = np.empty(tables.rows.shape[1], np.float64)
    for word in range(tables.n_words):
        start, size = tables.starts[word], tables.lengths[word]
        if size == _EOS.size and _same(tables.blob, start, _EOS, 0, size):
            continue
        total[:] = tables.rows[word]
        size = _wrap(tables.blob, start, start + size, token)
        tables.row_counts[word] = 1 + _add_subwords(grams, tables.rows, token[:size], found, total)
        tables.rows[word] = total


@njit(nogil=True, cache=True, error_model="numpy")
def embed(tables: Tables, text: tuple[Array, Array], limit: int, result: tuple[Array, Array, Array]) -> None:
    """Sum the rows of each document's words, character n-grams and word n-grams, and divide by their number."""
    data, offsets = text
    mean, counts, words = result
    width, rows, grams = tables.rows.shape[1], tables.rows, _grams(tables)
    with_grams = tables.max_gram > 0 and tables.buckets_kept > 0
    memo = _memo(CACHE_SLOTS if with_grams else 1, width, limit)
    hashes, total = np.empty(limit // 2 + 3, np.int32), np.empty(width, np.float64)
    eos_hash = _hash(_EOS, 0, _EOS.size)
    for document in range(offsets.size - 1):
        position = offsets[document]
        end = _cut(data, position, offsets[document + 1], limit)
        total[:] = 0.0
        n, n_hashes, is_open = 0, 0, True
        while is_open:
            while position < end and _is_separator(data[position]):
                position += 1
            start, h = position, _FNV_BASIS
            while position < end and not _is_separator(data[position]):
                h = (h ^ np.uint64(np.int8(data[position]))) * _FNV_PRIME
                position += 1
            h &= _LOW_32
            is_open = position > start
            if is_open and h == eos_hash and _is_eos(data, start, position):
                continue
            words[document] += is_open
            if is_open:
                entry = _find(tables, data, start, position, h)
            else:  # the text is over; fastText ends each line with this token
                h, entry = eos_hash, _find(tables, _EOS, 0, _EOS.size, eos_hash)
            if entry >= tables.n_words or (entry < 0 and is_open and _is_label(data, start, position)):
                continue
            if entry >= 0:
                _add(total, rows, entry)
                n += tables.row_counts[entry]
            elif is_open and with_grams:
                slot = _unknown_word(grams, rows, (data, start, position, h), memo)
                _add(total, memo.rows, slot)
                n += memo.counts[slot]
            hashes[n_hashes] = np.int32(np.uint32(h))
            n_hashes += 1
        if tables.word_ngrams > 1 and tables.buckets_kept > 0:
            n += _add_word_ngrams(grams, rows, hashes[:n_hashes], tables.word_ngrams, total)
        counts[document] = n
        if n > 0:
            for k in range(width):
                mean[document, k] = total[k] / n


@njit(nogil=True, cache=True, error_model="numpy")
def _is_separator(byte: Any) -> bool:
    return byte <= 32 and (byte == 32 or (9 <= byte <= 13) or byte == 0)


@njit(nogil=True, cache=True, error_model="numpy")
def _is_eos(data: Array, start: int, end: int) -> bool:
    return end - start == _EOS.size and _same(data, start, _EOS, 0, _EOS.size)


@njit(nogil=True, cache=True, error_model="numpy")
def _is_label(data: Array, start: int, end: int) -> bool:
    return end - start >= _LABEL_PREFIX.size and _same(data, start, _LABEL_PREFIX, 0, _LABEL_PREFIX.size)


@njit(nogil=True, cache=True, error_model="numpy")
def _cut(data: Array, start: int, end: int, limit: int) -> int:
    """Return where to stop reading: at most `limit` bytes on, never inside a UTF-8 character."""
    if end - start <= limit:
        return end
    end = start + limit
    while end > start and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


@njit(nogil=True, cache=True, error_model="numpy")
def _memo(slots: int, width: int, longest: int) -> Memo:
    rows, token, total = (
        np.empty((slots, width), np.float32),
        np.empty(longest + 2, np.uint8),
        np.empty(width, np.float64),
    )
    counts, found = np.empty(slots, np.int32), np.empty(GRAMS_AT_ONCE, np.int32)
    return Memo(np.full(slots, -1, np.int64), np.empty(slots, np.int64), counts, rows, token, found, total)


@njit(nogil=True, cache=True, error_model="numpy")
def _unknown_word(grams: Grams, rows: Array, word: tuple[Array, int, int, np.uint64], memo: Memo) -> Any:
    """Return the slot of `memo` that holds the sum over an unknown word's n-grams, computed where it is not there.

    Bytes are compared, so that a collision cannot mix two words.
    """
    data, start, end, h = word
    slot, size = np.int64((h ^ (h >> np.uint64(15))) & np.uint64(memo.positions.size - 1)), end - start
    position = memo.positions[slot]
    if position >= 0 and memo.sizes[slot] == size and _same(data, position, data, start, size):
        return slot
    memo.total[:] = 0.0
    token = memo.token[: _wrap(data, start, end, memo.token)]
    memo.counts[slot] = _add_subwords(grams, rows, token, memo.found, memo.total)
    memo.rows[slot] = memo.total
    memo.positions[slot], memo.sizes[slot] = start, size
    return slot


@njit(nogil=True, cache=True, error_model="numpy")
def _add_word_ngrams(grams: Grams, rows: Array, hashes: Array, longest: int, total: Array) -> Any:
    """Add the rows of all n-grams of 2 to `longest` words; return how many. fastText takes word hashes as signed."""
    pruned, kept, first, bucket = grams.pruned, grams.buckets_kept, grams.n_words, np.uint64(grams.bucket)
    added = 0
    for i in range(hashes.size):
        h = np.uint64(np.int64(hashes[i]))
        for j in range(i + 1, min(hashes.size, i + longest)):
            h = h * _NGRAM_FACTOR + np.uint64(np.int64(hashes[j]))
            row: Any = np.int64(h % bucket)
            if kept == 2:
                row = np.int64(pruned[row])
            if row >= 0:
                _add(total, rows, first + row)
                added += 1
    return added
