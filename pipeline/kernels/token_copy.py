"""Ranges of one token array copied to places of another."""

from __future__ import annotations

from numba import njit


@njit(cache=True, nogil=True)
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
