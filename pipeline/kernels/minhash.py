"""MinHash signatures, normalised-text hashes and band keys, straight from UTF-8 buffers.

The hashes, from words to signature (a change of any of them needs a new stage version):

- word: 64 bits over its normalised code points (`pipeline.kernels.words`);
- shingle of k words: sum of word_j * P^(k-1-j) modulo 2^64, mixed, upper 32 bits. With `any_number` a number counts as
  "any number" unless a number stands right before it. A text with fewer than k words has one shingle of all its words;
  a text without words has none, and its signature is all ones;
- text: the same sum over all of its words, numbers as they are, with another prime, mixed, 64 bits;
- permutation: a * fmix32(shingle) + b modulo 2^32. Source: datasketch 2.0 `minhash.py`, scheme `affine32`, bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import entry, inlined, inner
from pipeline.kernels.characters import frozen
from pipeline.kernels.words import class_table, mix64, next_words

EMPTY_TEXT_HASH = np.uint64(0)
"""The text hash of a document without words. Documents without words are nobody's duplicates."""
MAX_HASH = np.uint32(0xFFFFFFFF)
CHUNK_SHINGLES = 512
"""Shingles that are permuted together: 2 KiB, so that they stay in the first-level cache for all permutations."""

_VECTOR = 32
_SHINGLE_PRIME = np.uint64(0xD6E8FEB86659FD93)
_TEXT_PRIME = np.uint64(0xA0761D6478BD642F)
_BAND_PRIME = np.uint64(0xE7037ED1A0B428DB)
_ANY_NUMBER = np.uint64(0x8EBC6AF09C88C6E2)


class Signed(NamedTuple):
    """What one pass over the documents gives: row i belongs to document i."""

    signatures: NDArray[np.uint32]
    """(n_docs, num_perm)"""
    text_hashes: NDArray[np.uint64]
    shingles: NDArray[np.int32]
    """Shingles with repetitions; 0 means no words."""


def sign(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    shingle_words: int,
    a: NDArray[np.uint32],
    b: NDArray[np.uint32],
    any_number: bool = False,
) -> Signed:
    """Return signatures, text hashes and shingle counts of the texts `data[offsets[i]:offsets[i + 1]]`.

    `a` and `b` are the permutations, (num_perm,). Text hashes do not depend on `any_number`. The GIL is released.

    Raises: ValueError when the offsets do not fit the data, or `shingle_words` or the permutations cannot be used.
    """
    if shingle_words < 1:
        raise ValueError(f"shingle_words must be at least 1, got {shingle_words}")
    if a.shape != b.shape or a.dtype != np.uint32 or b.dtype != np.uint32:
        shapes = f"{a.dtype}{a.shape} and {b.dtype}{b.shape}"
        raise ValueError(f"permutations must be two uint32 arrays of one length, got {shapes}")
    if offsets.size == 0 or offsets[0] < 0 or offsets[-1] > data.size or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError(f"{offsets.size} offsets do not rise within the {data.size} bytes of data")
    count = offsets.size - 1
    result = Signed(
        np.full((count, a.size), MAX_HASH, np.uint32), np.full(count, EMPTY_TEXT_HASH), np.zeros(count, np.int32)
    )
    scratch = np.empty(CHUNK_SHINGLES + shingle_words - 1, np.uint64), np.empty(CHUNK_SHINGLES, np.uint32)
    shape, permutations = (shingle_words, any_number), (frozen(a), frozen(b))
    _sign(frozen(data), frozen(offsets), shape, class_table(), permutations, scratch, result)
    return result


def text_hashes(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of each text's sequence of normalised words; `EMPTY_TEXT_HASH` for a text without words.

    Not cryptographic. Among n different texts the expected number of false matches is n^2 / 2^65: 3e-6 for ten million
    texts, 0.03 for a billion, 2.7 for ten billion, where equal hashes should be taken for candidates only.
    """
    none = np.empty(0, np.uint32)
    return sign(data, offsets, 1, none, none).text_hashes


def shingle_hashes(text: bytes | NDArray[np.uint8], shingle_words: int, any_number: bool = False) -> NDArray[np.uint32]:
    """Return the 32-bit shingle hashes of one text (UTF-8) in order, with repetitions, before any permutation.

    Memory beyond the result is a few KiB.
    """
    data = frozen(np.frombuffer(text, np.uint8))
    found: NDArray[np.uint32] = np.empty(data.size // 2 + 1, np.uint32)  # pages never touched are never there
    words = np.empty(CHUNK_SHINGLES + shingle_words - 1, np.uint64)
    found.resize(_text_shingles(data, (shingle_words, any_number), class_table(), words, found), refcheck=False)
    return found


def band_keys(signatures: NDArray[np.uint32], num_bands: int, rows_per_band: int) -> NDArray[np.uint64]:
    """Return one 64-bit key a band, (n_docs, num_bands), over band number and its `rows_per_band` values.

    Keys of different bands live in one key space, so that one table can hold all bands.

    Raises: ValueError when the signatures have fewer values than the bands need.
    """
    if num_bands < 1 or rows_per_band < 1 or signatures.shape[1] < num_bands * rows_per_band:
        raise ValueError(f"{num_bands} bands x {rows_per_band} rows do not fit {signatures.shape[1]} permutations")
    keys = np.empty((signatures.shape[0], num_bands), np.uint64)
    _band_keys(frozen(np.ascontiguousarray(signatures)), rows_per_band, keys)
    return keys


@entry
def _sign(data, offsets, shape, table, permutations, scratch, result):  # type: ignore[no-untyped-def]
    shingle_words, any_number = shape
    words, shingles = scratch
    for row in range(offsets.size - 1):
        position, end = offsets[row], offsets[row + 1]
        text = np.uint64(0)
        filled = 0
        total = 0
        after_number = False
        while True:
            fresh = filled
            filled, position = next_words(data, position, end, table, words, filled)
            for i in range(fresh, filled):
                text = text * _TEXT_PRIME + words[i]
            if any_number:
                after_number = _generalise_numbers(words, fresh, filled, after_number)
            last = filled < words.size
            # Only a text shorter than one shingle ends with fewer words than that and nothing counted before.
            width = min(shingle_words, filled) if total == 0 else shingle_words
            if width > 0 and filled >= width:
                made = _shingles(words, filled, width, shingles)
                total += made
                while made % _VECTOR:  # a repeated shingle changes no minimum, and vector loops are left no remainder
                    shingles[made] = shingles[made - 1]
                    made += 1
                _permute(shingles[:made], permutations[0], permutations[1], result.signatures[row])
            if last:
                break
            kept = shingle_words - 1
            for i in range(kept):
                words[i] = words[filled - kept + i]
            filled = kept
        result.shingles[row] = total
        if total > 0:
            text = mix64(text)
            result.text_hashes[row] = text if text != EMPTY_TEXT_HASH else np.uint64(1)


@entry
def _text_shingles(data, shape, table, words, out):  # type: ignore[no-untyped-def]
    shingle_words, any_number = shape
    total, filled, position = 0, 0, 0
    after_number = False
    while True:
        fresh = filled
        filled, position = next_words(data, position, data.size, table, words, filled)
        if any_number:
            after_number = _generalise_numbers(words, fresh, filled, after_number)
        width = min(shingle_words, filled) if total == 0 else shingle_words
        if width > 0:
            total += _shingles(words, filled, width, out[total:])
        if filled < words.size:
            return total
        filled = shingle_words - 1
        for i in range(filled):
            words[i] = words[words.size - filled + i]


@inlined
def _generalise_numbers(words, start, stop, after_number):  # type: ignore[no-untyped-def]
    """Replace the hash of each number that follows no other one; return whether the last word is a number."""
    for i in range(start, stop):
        number = words[i] & np.uint64(1) == np.uint64(0)
        if number and not after_number:
            words[i] = _ANY_NUMBER
        after_number = number
    return after_number


@inner
def _shingles(words, filled, width, out):  # type: ignore[no-untyped-def]
    """Write the hash of every window of `width` words; return their number."""
    if filled < width:
        return 0
    top = np.uint64(1)
    for _ in range(width):
        top *= _SHINGLE_PRIME
    rolling = np.uint64(0)
    for i in range(width):
        rolling = rolling * _SHINGLE_PRIME + words[i]
    out[0] = np.uint32(mix64(rolling) >> np.uint64(32))
    for i in range(width, filled):
        rolling = rolling * _SHINGLE_PRIME + (words[i] - words[i - width] * top)
        out[i - width + 1] = np.uint32(mix64(rolling) >> np.uint64(32))
    return filled - width + 1


@inner
def _permute(shingles, a, b, out):  # type: ignore[no-untyped-def]
    """Lower `out` to the minima of the permuted shingles. Overwrites `shingles` where there are permutations."""
    if a.size == 0:
        return
    for i in range(shingles.size):
        value = shingles[i]
        value ^= value >> np.uint32(16)
        value = np.uint32(value * np.uint32(0x85EBCA6B))
        value ^= value >> np.uint32(13)
        value = np.uint32(value * np.uint32(0xC2B2AE35))
        shingles[i] = value ^ (value >> np.uint32(16))
    for k in range(a.size):
        factor, term, lowest = a[k], b[k], out[k]
        for i in range(shingles.size):
            permuted = np.uint32(factor * shingles[i] + term)
            lowest = permuted if permuted < lowest else lowest
        out[k] = lowest


@entry
def _band_keys(values, rows, keys):  # type: ignore[no-untyped-def]
    for row in range(values.shape[0]):
        for band in range(keys.shape[1]):
            key = np.uint64(band + 1) * _TEXT_PRIME
            for i in range(band * rows, (band + 1) * rows):
                key = (key ^ np.uint64(values[row, i])) * _BAND_PRIME
                key ^= key >> np.uint64(32)
            keys[row, band] = mix64(key)
