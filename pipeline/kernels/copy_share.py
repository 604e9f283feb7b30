"""How much of one text is copied from others, and how much of it repeats itself, by runs of eight words.

A word is a run of ASCII letters and digits (case ignored) and of bytes above 127, or one CJK character. Runs are
compared by 64-bit hash alone: a collision in a text of a million words has a chance of about one in ten million.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

WIDTH = 8
_PRIME = np.uint64(0x9E3779B97F4A7C15)
_FNV = np.uint64(0x100000001B3)
_BASIS = np.uint64(0xCBF29CE484222325)


def copy_shares(source: bytes, text: bytes, other: bytes = b"") -> tuple[float, float, float]:
    """Return the shares of the 8-grams of `text` that `source` has, that stood earlier in `text`, and that `other` has
    and `source` has not.

    All are UTF-8. A text of fewer than eight words has no 8-gram and every share is 0.
    """
    source_bytes, text_bytes, other_bytes = (np.frombuffer(each, np.uint8) for each in (source, text, other))
    shares: tuple[float, float, float] = _copy_shares(source_bytes, text_bytes, other_bytes)
    return shares


@njit(cache=True, nogil=True)
def _word_hashes(data: NDArray[np.uint8]) -> NDArray[np.uint64]:
    words = np.empty(data.size // 2 + 2, np.uint64)
    n = 0
    value = _BASIS
    inside = False
    cjk = 0
    for byte in data:
        small = np.uint64(byte)
        if 65 <= byte <= 90:
            small = np.uint64(byte + 32)
        elif not (97 <= byte <= 122 or 48 <= byte <= 57 or byte >= 128):
            if inside:
                words[n] = value
                n += 1
                inside = False
                value = _BASIS
            cjk = 0
            continue
        if 0xE3 <= byte <= 0xED and cjk == 0:
            if inside:
                words[n] = value
                n += 1
                value = _BASIS
            cjk = 3
        value = (value ^ small) * _FNV
        inside = True
        if cjk > 0:
            cjk -= 1
            if cjk == 0:
                words[n] = value
                n += 1
                inside = False
                value = _BASIS
    if inside:
        words[n] = value
        n += 1
    return words[:n]


@njit(cache=True, nogil=True)
def _grams(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one hash a run of eight words; never 0, which marks a free slot."""
    n = max(0, words.size - WIDTH + 1)
    grams = np.empty(n, np.uint64)
    for i in range(n):
        value = _BASIS
        for k in range(WIDTH):
            value = (value ^ words[i + k]) * _PRIME
            value ^= value >> np.uint64(29)
        grams[i] = value | np.uint64(1)
    return grams


@njit(cache=True, nogil=True)
def _slot(table: NDArray[np.uint64], key: np.uint64) -> np.uint64:
    """Return where `key` is, or the free slot where it belongs."""
    mask = np.uint64(table.size - 1)
    slot = (key >> np.uint64(7)) & mask
    while table[slot] != 0 and table[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def _table(size: int, grams: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a table with room for `size` grams that holds `grams`."""
    slots = 16
    while slots < 2 * size + 2:
        slots *= 2
    table = np.zeros(slots, np.uint64)
    for gram in grams:
        table[_slot(table, gram)] = gram
    return table


@njit(cache=True, nogil=True)
def _copy_shares(
    source: NDArray[np.uint8], text: NDArray[np.uint8], other: NDArray[np.uint8]
) -> tuple[float, float, float]:
    grams = _grams(_word_hashes(text))
    if grams.size == 0:
        return 0.0, 0.0, 0.0
    known, others = _grams(_word_hashes(source)), _grams(_word_hashes(other))
    table, others = _table(known.size, known), _table(others.size, others)
    own = _table(grams.size, grams[:0])
    copied = 0
    repeated = 0
    echoed = 0
    for gram in grams:
        if table[_slot(table, gram)] != 0:
            copied += 1
        elif others[_slot(others, gram)] != 0:
            echoed += 1
        slot = _slot(own, gram)
        repeated += own[slot] != 0
        own[slot] = gram
    return copied / grams.size, repeated / grams.size, echoed / grams.size
