"""Scores to ranks 0 to 19, each holding a twentieth of a source's tokens; equal scores share a rank.

A score's place is the share of tokens in documents that score lower plus half the share of those that score the same;
its rank is twenty times its place, rounded down. So heavy ties get the rank of their middle, and ranks may be empty.

Thresholds come from two passes over scores and tokens and are exact, whatever the order and the split into parts: the
first pass counts tokens by the upper 16 bits of the float32 score, the second by the lower 16 bits inside the few cells
that a threshold falls into. That is 20 MB for any number of documents.

Source: Nemotron-CC (arXiv 2412.02595, section 3), which turns classifier scores to token-weighted ranks 0 to 19.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.table.errors import SchemaError

N_RANKS = 20
_CELLS = 1 << 16

Part = tuple[pa.Array | pa.ChunkedArray, pa.Array | pa.ChunkedArray]


def rank_thresholds(parts: Callable[[], Iterable[Part]]) -> NDArray[np.float32]:
    """Return the least score of ranks 1 to 19, float32 (19,), rising; infinity where no score reaches a rank.

    `parts` is called twice and each time yields (scores float32, tokens) of every part. Tokens are whole numbers, of
    any unit (bytes do as well); a null or anything below 1 counts as 1. Null scores and NaN have no rank and no weight.

    Raises: SchemaError when a part's scores or tokens have the wrong type or their lengths differ.
    """
    coarse = np.zeros(_CELLS, np.int64)
    for part in parts():
        keys, tokens = _keys(*part)
        np.add.at(coarse, keys >> 16, tokens)
    below = np.concatenate([[0], np.cumsum(coarse)])
    total = int(below[-1])
    if total == 0:
        return np.full(N_RANKS - 1, np.inf, np.float32)
    cells = _cells(coarse, below, total)
    fine = np.zeros((cells.size, _CELLS), np.int64)
    for part in parts():
        keys, tokens = _keys(*part)
        row = np.searchsorted(cells, keys >> 16)
        inside = (row < cells.size) & (cells[np.minimum(row, cells.size - 1)] == keys >> 16)
        np.add.at(fine, (row[inside], keys[inside] & 0xFFFF), tokens[inside])
    return _thresholds(cells, fine, below, total)


def apply_thresholds(scores: pa.Array | pa.ChunkedArray, thresholds: NDArray[np.float32]) -> pa.Array:
    """Return the rank (int8, 0 to 19) of each score, in order; a null or NaN has none."""
    values, valid = _scores(scores)
    ranks = np.searchsorted(thresholds, values, side="right").astype(np.int8)
    return pa.array(ranks, pa.int8(), mask=~valid)


def ranks(scores: pa.Array | pa.ChunkedArray, tokens: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the rank of each score among all of `scores`: thresholds and their use in one step."""
    return apply_thresholds(scores, rank_thresholds(lambda: [(scores, tokens)]))


def _cells(coarse: NDArray[np.int64], below: NDArray[np.int64], total: int) -> NDArray[np.int64]:
    """Return the cells that may hold a threshold: where the tokens reach a twentieth, and the next one with any."""
    filled = np.flatnonzero(coarse)
    chosen: set[int] = set()
    for rank in range(1, N_RANKS):
        first = int(np.searchsorted(below[filled + 1] * N_RANKS, rank * total, side="left"))
        chosen.update(int(cell) for cell in filled[first : first + 2])
    return np.array(sorted(chosen), np.int64)


def _thresholds(
    cells: NDArray[np.int64], fine: NDArray[np.int64], below: NDArray[np.int64], total: int
) -> NDArray[np.float32]:
    cell, low = np.nonzero(fine)
    weight = fine[cell, low]
    before = below[cells[cell]] + (np.cumsum(fine, axis=1)[cell, low] - weight)
    # A place of (2 before + weight) / (2 total), in whole numbers: floats would round differently near a border.
    place = (2 * before + weight).astype(object) * N_RANKS
    reached = np.array([min(N_RANKS - 1, int(p) // (2 * total)) for p in place])
    scores = _values(((cells[cell] << 16) | low).astype(np.uint32))
    first = np.searchsorted(reached, np.arange(1, N_RANKS), side="left")
    return np.append(scores, np.float32(np.inf))[first].astype(np.float32)


def _scores(scores: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    if not pa.types.is_float32(scores.type):
        raise SchemaError(f"scores are {scores.type}, expected float32")
    values = scores.to_numpy(zero_copy_only=False) if isinstance(scores, pa.Array) else scores.to_numpy()
    return values.astype(np.float32) + np.float32(0), ~np.isnan(values)  # adding 0 turns -0.0 into 0.0


def _keys(
    scores: pa.Array | pa.ChunkedArray, tokens: pa.Array | pa.ChunkedArray
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for each valid score, an integer that sorts like it, and its tokens."""
    if not pa.types.is_integer(tokens.type):
        raise SchemaError(f"tokens are {tokens.type}, expected whole numbers")
    if len(scores) != len(tokens):
        raise SchemaError(f"{len(scores)} scores for {len(tokens)} token counts")
    values, valid = _scores(scores)
    whole = tokens.cast(pa.int64()).fill_null(1)
    counts = whole.to_numpy(zero_copy_only=False) if isinstance(whole, pa.Array) else whole.to_numpy()
    bits = values[valid].view(np.uint32).astype(np.int64)
    keys = np.where(bits >> 31, 0xFFFFFFFF - bits, bits | 0x80000000)
    return keys, np.maximum(counts[valid], 1)


def _values(keys: NDArray[np.uint32]) -> NDArray[np.float32]:
    """Undo `_keys`."""
    wide = keys.astype(np.int64)
    bits = np.where(wide >> 31, wide & 0x7FFFFFFF, 0xFFFFFFFF - wide).astype(np.uint32)
    return bits.view(np.float32)
