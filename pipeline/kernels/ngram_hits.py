"""Which documents share a run of words with which items: a rolling hash, a bitmap, a table, then the words themselves.

Words are those of `pipeline.kernels.words`, as hashes. A needle is a run of an item's words; a table holds the needles
that are found by the hash of their first `width` words, in chains of equal hashes. A hit is reported once all words of
the needle have equal hashes; the caller compares their spelling (`spell`), so that no collision counts.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import entry, inlined, inner
from pipeline.kernels.characters import decode, frozen
from pipeline.kernels.words import CLASS_SHIFT, MARK, SEPARATOR, SKIPPED, WORD, class_table, mix64, next_words

_PRIME = np.uint64(0xD6E8FEB86659FD93)
DOCUMENT, ITEM, POSITION, NEEDLE, LENGTH = range(5)
"""Columns of a hit: document, item, first word in the document, first word among the items' words, words."""


class Needles(NamedTuple):
    """Needles found by the hash of their first `width` words. An unused slot has `heads` -1; no needles, no slots."""

    width: int
    bitmap: NDArray[np.uint8]
    keys: NDArray[np.uint64]
    heads: NDArray[np.int64]
    following: NDArray[np.int64]
    items: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]


def hash_words(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashes of the words of all texts one after the other, and n + 1 offsets into them."""
    words: NDArray[np.uint64] = np.empty(int(offsets[-1] - offsets[0]) // 2 + offsets.size + 2, np.uint64)
    word_offsets: NDArray[np.int64] = np.zeros(offsets.size, np.int64)
    _hash_words(frozen(data), offsets, class_table(), words, word_offsets)
    return words[: word_offsets[-1]].copy(), word_offsets


def make_needles(
    words: NDArray[np.uint64],
    items: NDArray[np.int64],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    width: int,
) -> Needles:
    """Return the table of needles `words[starts[i]:starts[i] + lengths[i]]` of `items[i]`, rising.

    A run that an item has twice is in the table once.
    """
    capacity = 1 << max(4, int(2 * items.size).bit_length()) if items.size else 0
    table = Needles(
        width,
        np.zeros(capacity, np.uint8),  # eight bits a slot: sixteen or more a needle
        np.zeros(capacity, np.uint64),
        np.full(capacity, -1, np.int64),
        np.full(items.size, -1, np.int64),
        items,
        starts,
        lengths,
    )
    _fill(words, table)
    return table


def scan(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    words: NDArray[np.uint64],
    n_items: int,
    tables: tuple[Needles, Needles],
) -> NDArray[np.int64]:
    """Return the hits of needles of two tables in texts, each item once a text: int64, shape (n_hits, 5).

    Columns are those named above; rows rise by document. Releases the GIL.
    """
    longest = int(np.diff(offsets).max(initial=0))
    scratch: NDArray[np.uint64] = np.empty(longest // 2 + 3, np.uint64)
    stamps: NDArray[np.int64] = np.full(n_items, -1, np.int64)
    done = tuple(np.full(table.heads.size, -1, np.int64) for table in tables)
    hits: NDArray[np.int64] = np.empty((n_items + 4096, 5), np.int64)
    found: list[NDArray[np.int64]] = []
    first = 0
    while first < offsets.size - 1:
        first, filled = _scan(
            frozen(data), offsets, first, class_table(), (scratch, words), tables, (stamps, *done), hits
        )
        found.append(hits[:filled].copy())
    return np.concatenate([np.empty((0, 5), np.int64), *found])


def spell(text: bytes) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Return the normalised code points of a text's words one after the other, and n + 1 offsets of its words."""
    data = np.frombuffer(text, np.uint8)
    codes: NDArray[np.uint32] = np.empty(data.size + 1, np.uint32)
    offsets: NDArray[np.int64] = np.zeros(data.size // 2 + 3, np.int64)
    count = _spell(data, class_table(), codes, offsets)
    return codes[: offsets[count]], offsets[: count + 1]


@entry
def _hash_words(data, offsets, table, words, word_offsets):  # type: ignore[no-untyped-def]
    filled = 0
    for text in range(offsets.size - 1):
        filled, _ = next_words(data, offsets[text], offsets[text + 1], table, words, filled)
        word_offsets[text + 1] = filled


@inlined
def _run(words, start, width):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    for i in range(start, start + width):
        value = value * _PRIME + words[i]
    return value


@inner
def _same(left, left_start, right, right_start, length):  # type: ignore[no-untyped-def]
    equal = 0
    while equal < length and left[left_start + equal] == right[right_start + equal]:
        equal += 1
    return equal == length


@inlined
def _slot_of(key, keys, heads):  # type: ignore[no-untyped-def]
    mask = keys.size - 1
    slot = np.int64(key) & mask
    while heads[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & mask
    return slot


@inlined
def _bit_of(key, bitmap):  # type: ignore[no-untyped-def]
    """Return a bit of the map, chosen by the upper half of the key; the lower half chooses the slot."""
    return np.int64(key >> np.uint64(32)) & (bitmap.size * 8 - 1)


@entry
def _fill(words, table):  # type: ignore[no-untyped-def]
    for needle in range(table.items.size):
        start, length = table.starts[needle], table.lengths[needle]
        key = mix64(_run(words, start, table.width))
        slot = _slot_of(key, table.keys, table.heads)
        other = table.heads[slot]
        known = False
        while other >= 0 and table.items[other] == table.items[needle] and not known:
            known = table.lengths[other] == length and _same(words, table.starts[other], words, start, length)
            other = table.following[other]
        if known:
            continue
        table.keys[slot] = key
        table.following[needle] = table.heads[slot]
        table.heads[slot] = needle
        bit = _bit_of(key, table.bitmap)
        table.bitmap[bit >> 3] |= np.uint8(1 << (bit & 7))


@entry
def _scan(data, offsets, first, classes, words, tables, stamps, hits):  # type: ignore[no-untyped-def]
    """Scan from text `first` on while there is room for a hit of each item; return where to go on, and the hits."""
    filled = 0
    scratch, needle_words = words
    seen, done_long, done_short = stamps
    for text in range(first, offsets.size - 1):
        if filled + seen.size > hits.shape[0]:
            return text, filled
        count, _ = next_words(data, offsets[text], offsets[text + 1], classes, scratch, 0)
        filled = _look(scratch[:count], needle_words, tables[0], text, seen, done_long, hits, filled)
        filled = _look(scratch[:count], needle_words, tables[1], text, seen, done_short, hits, filled)
    return offsets.size - 1, filled


@inner
def _look(words, needle_words, table, text, seen, done, hits, filled):  # type: ignore[no-untyped-def]
    width = table.width
    if words.size < width or table.heads.size == 0:
        return filled
    top = np.uint64(1)
    for _ in range(width):
        top *= _PRIME
    value = _run(words, 0, width)
    for position in range(words.size - width + 1):
        if position:
            value = value * _PRIME + words[position + width - 1] - words[position - 1] * top
        key = mix64(value)
        bit = _bit_of(key, table.bitmap)
        if (table.bitmap[bit >> 3] >> np.uint8(bit & 7)) & 1:
            filled = _follow(words, position, key, needle_words, table, text, seen, done, hits, filled)
    return filled


@inner
def _follow(words, position, key, needle_words, table, text, seen, done, hits, filled):  # type: ignore[no-untyped-def]
    slot = _slot_of(key, table.keys, table.heads)
    needle = table.heads[slot]
    if needle < 0 or done[slot] == text:
        return filled
    complete = True
    while needle >= 0:
        item, start, length = table.items[needle], table.starts[needle], table.lengths[needle]
        if seen[item] != text:
            if position + length <= words.size and _same(words, position, needle_words, start, length):
                seen[item] = text
                hits[filled, DOCUMENT], hits[filled, ITEM], hits[filled, POSITION] = text, item, position
                hits[filled, NEEDLE], hits[filled, LENGTH] = start, length
                filled += 1
            else:
                complete = False
        needle = table.following[needle]
    if complete:
        done[slot] = text  # a text that repeats a run a million times follows its chain once
    return filled


@entry
def _spell(data, table, codes, offsets):  # type: ignore[no-untyped-def]
    """As `next_words`, but what it hashes is written down."""
    position, filled, count = 0, 0, 0
    state = SEPARATOR
    while position < data.size:
        code, position = decode(data, position, data.size)
        entry = table[code]
        kind = np.int64(entry >> np.uint32(CLASS_SHIFT)) & 7
        if kind == SKIPPED or (kind == MARK and state == SEPARATOR):
            continue
        if state != SEPARATOR and kind != MARK and not (kind == WORD and state == WORD):
            count += 1
            offsets[count] = filled
            state = SEPARATOR
        if kind != SEPARATOR:
            codes[filled] = entry
            filled += 1
            state = kind if state == SEPARATOR else state
    if state != SEPARATOR:
        count += 1
        offsets[count] = filled
    return count
