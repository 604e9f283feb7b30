"""Byte-level tokenisation by looking pieces up: text is cut as GPT-2 cuts it, and each distinct piece is merged once.

The pieces are the matches of
`'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+`, which a scanner finds without a
regular expression. What a piece's tokens are is not decided here: the caller says it once a piece and adds it to the
table, in which pieces are compared byte by byte.

Source: the pattern of GPT-2 (openai/gpt-2, `encoder.py`), as `ByteLevel` of huggingface/tokenizers uses it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels import characters, entry, inlined, inner
from pipeline.kernels.characters import decode, frozen
from pipeline.kernels.words import mix64

OTHER, LETTER, NUMBER, SPACE, UNSURE = range(5)
UNSURE_TEXT = -1
"""In place of a text's number of tokens: it holds a code point that this Python's Unicode does not know yet."""

_APOSTROPHE, _BLANK = 0x27, 0x20
_D, _E, _L, _M, _R, _S, _T, _V = (ord(letter) for letter in "delmrstv")
_PRIME = np.uint64(0x9FB21C651E98DF25)
_SEED = np.uint64(0x9E3779B97F4A7C15)


class PieceTable(NamedTuple):
    """Pieces and their tokens: an open-addressing table over two arenas. An unused slot has `lengths` 0."""

    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    token_starts: NDArray[np.int64]
    token_counts: NDArray[np.int32]
    piece_bytes: NDArray[np.uint8]
    tokens: NDArray[np.uint32]
    used: NDArray[np.int64]
    """Pieces, bytes and tokens in use, shape (3,)."""


def empty_table(slots: int, piece_bytes: int, tokens: int) -> PieceTable:
    """Return a table of so many slots (a power of two); its memory is only taken as it fills."""
    return PieceTable(
        np.zeros(slots, np.uint64),
        np.zeros(slots, np.int64),
        np.zeros(slots, np.int32),
        np.zeros(slots, np.int64),
        np.zeros(slots, np.int32),
        np.zeros(piece_bytes, np.uint8),
        np.zeros(tokens, np.uint32),
        np.zeros(3, np.int64),
    )


@lru_cache(maxsize=1)
def classes() -> NDArray[np.uint8]:
    """Return each code point's class; read-only. Unassigned code points are UNSURE: another Unicode may know them."""
    flags = characters.character_classes()
    table = np.full(flags.size, OTHER, np.uint8)
    for flag, kind in (
        (characters.LETTER, LETTER),
        (characters.NUMBER, NUMBER),
        (characters.SPACE, SPACE),
        (characters.UNASSIGNED, UNSURE),
    ):
        table[flags & flag != 0] = kind
    table[0x1C:0x20] = OTHER  # separators of information, which are spaces to Python alone
    table.flags.writeable = False
    return table


def encode(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    table: PieceTable,
    out: NDArray[np.uint32],
    counts: NDArray[np.int64],
    missing: NDArray[np.int64],
) -> tuple[int, int]:
    """Write the tokens of the texts into `out` (room for a token a byte) and how many each has into `counts`.

    Returns the tokens written and how many pieces the table lacks: their first and last bytes are in `missing`, shape
    (room, 2), as far as they fit; then `out` is not to be used. Releases the GIL.
    """
    return _encode(frozen(data), offsets, classes(), table, out, counts, missing)


@entry
def _encode(data, offsets, kinds, table, out, counts, missing):  # type: ignore[no-untyped-def]
    filled, lacking = 0, 0
    for text in range(offsets.size - 1):
        position, end, first = offsets[text], offsets[text + 1], filled
        counts[text] = 0
        while position < end:
            after = _piece_end(data, position, end, kinds)
            if after < 0:
                filled, counts[text] = first, UNSURE_TEXT
                break
            slot = _slot(table, data, position, after)
            if table.lengths[slot] == 0:
                if lacking < missing.shape[0]:
                    missing[lacking, 0], missing[lacking, 1] = position, after
                lacking += 1
            else:
                begin = table.token_starts[slot]
                for i in range(begin, begin + table.token_counts[slot]):
                    out[filled] = table.tokens[i]
                    filled += 1
            position = after
        if counts[text] != UNSURE_TEXT:
            counts[text] = filled - first
    return filled, lacking


@entry
def add(pieces, ends, tokens, token_ends, table):  # type: ignore[no-untyped-def]
    """Add pieces: their bytes and tokens (uint32) one after the other, and where each ends. Known ones are left alone.

    The caller sees to it that they fit.
    """
    start, token_start = 0, 0
    for i in range(ends.size):
        end, token_end = ends[i], token_ends[i]
        slot = _slot(table, pieces, start, end)
        if table.lengths[slot] == 0:
            at, token_at = table.used[1], table.used[2]
            for k in range(end - start):
                table.piece_bytes[at + k] = pieces[start + k]
            for k in range(token_end - token_start):
                table.tokens[token_at + k] = tokens[token_start + k]
            table.keys[slot] = _key(pieces, start, end)
            table.starts[slot], table.lengths[slot] = at, end - start
            table.token_starts[slot], table.token_counts[slot] = token_at, token_end - token_start
            table.used[0] += 1
            table.used[1] += end - start
            table.used[2] += token_end - token_start
        start, token_start = end, token_end


@inlined
def _key(data, start, end):  # type: ignore[no-untyped-def]
    value = _SEED
    for i in range(start, end):
        value = (value ^ np.uint64(data[i])) * _PRIME
    return mix64(value)


@inlined
def _slot(table, data, start, end):  # type: ignore[no-untyped-def]
    """Return the slot of a piece: its own, or the free one where it belongs."""
    key = _key(data, start, end)
    mask = table.keys.size - 1
    slot = np.int64(key) & mask
    while table.lengths[slot]:
        if table.keys[slot] == key and table.lengths[slot] == end - start:
            at = table.starts[slot]
            same = True
            for i in range(end - start):
                if table.piece_bytes[at + i] != data[start + i]:
                    same = False
                    break
            if same:
                return slot
        slot = (slot + 1) & mask
    return slot


@inlined
def _kind(data, position, end, kinds):  # type: ignore[no-untyped-def]
    """Return the class of the code point at `position`, and where the next one begins."""
    first = data[position]
    if first < 0x80:
        return kinds[first], position + 1
    code, following = decode(data, position, end)
    return kinds[code], following


@inner
def _piece_end(data, position, end, kinds):  # type: ignore[no-untyped-def]
    """Return where the piece at `position` ends; -1 when a code point of it is UNSURE."""
    first = data[position]
    if first == _APOSTROPHE:
        after = _contraction_end(data, position, end)
        if after:
            return after
    kind, after = _kind(data, position, end, kinds)
    if first == _BLANK and after < end:
        following, beyond = _kind(data, after, end, kinds)
        if following != SPACE:
            kind, after = following, beyond
    if kind == SPACE:
        return _spaces_end(data, position, end, kinds)
    run = kind
    while kind == run and after < end:
        position = after
        kind, after = _kind(data, position, end, kinds)
        if kind == UNSURE or run == UNSURE:
            return -1
    if run == UNSURE:
        return -1
    return after if kind == run else position


@inlined
def _contraction_end(data, position, end):  # type: ignore[no-untyped-def]
    """Return where the contraction at an apostrophe ends, or 0 when there is none."""
    if position + 1 >= end:
        return 0
    one = data[position + 1]
    if one in (_S, _T, _M, _D):
        return position + 2
    if position + 2 >= end:
        return 0
    two = data[position + 2]
    if (two == _E and one in (_R, _V)) or (one == _L and two == _L):
        return position + 3
    return 0


@inlined
def _spaces_end(data, position, end, kinds):  # type: ignore[no-untyped-def]
    """Return where a run of spaces ends: its last one belongs to what follows, unless it is alone."""
    last, after = position, position
    kind = np.uint8(SPACE)
    while after < end:
        kind, beyond = _kind(data, after, end, kinds)
        if kind != SPACE:
            break
        last, after = after, beyond
    if kind == UNSURE:
        return -1
    return after if after >= end or last == position else last


@entry
def copy_ranges(source, target, source_starts, target_starts, lengths):  # type: ignore[no-untyped-def]
    """Copy `lengths[i]` tokens from `source_starts[i]` to `target_starts[i]` for every i; return the largest token.

    Token arrays are of unsigned or signed whole numbers, starts and lengths int64 (n,) and inside both arrays: nothing
    is checked here. A token that `target`'s type cannot hold is wrapped, so the caller looks at the largest. Returns 0
    when nothing is copied.
    """
    top = 0
    for i in range(lengths.size):
        read, write = source_starts[i], target_starts[i]
        largest = source[read] if lengths[i] else source.dtype.type(0)
        for j in range(lengths[i]):
            token = source[read + j]
            target[write + j] = token
            largest = max(largest, token)
        top = max(top, int(largest))
    return top
