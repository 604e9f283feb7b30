"""The slices' tokens, memory-mapped, of which at most about a gigabyte is resident at a time."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.byte_pieces import copy_ranges
from pipeline.mix.types import SliceTokens
from pipeline.table.errors import ShardError

RESIDENT_BYTES = 1 << 30
_FAULT_BYTES = 1 << 16
"""What the kernel maps around a page that is touched."""


class Stores:
    """The token stores of slices, open for copying by several threads. Use as a context manager."""

    def __init__(self, slices: Sequence[SliceTokens], used: NDArray[np.bool_]) -> None:
        self._slices = tuple(slices)
        self._maps: dict[int, mmap.mmap] = {}
        self._tokens: dict[int, NDArray[Any]] = {}
        self._touched, self._lock = 0, threading.Lock()
        for number in np.flatnonzero(used).tolist():
            self._open(number)
        self._is_large = sum(len(mapped) for mapped in self._maps.values()) > RESIDENT_BYTES

    def _open(self, number: int) -> None:
        store = self._slices[number]
        try:
            array = store.tokens()
            with open(store.tokens_path, "rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise ShardError(f"slice {store.name}: {store.tokens_path}: {error}; make the slices again") from error
        if array.shape != (store.n_tokens,) or array.dtype not in (np.dtype("<u2"), np.dtype("<u4")):
            raise ShardError(
                f"slice {store.name}: {store.tokens_path} holds {array.dtype} {array.shape}, not "
                f"{store.n_tokens} tokens in uint16 or uint32; make the slices again"
            )
        self._maps[number] = mapped
        self._tokens[number] = np.frombuffer(mapped, array.dtype, array.size, array.offset)  # type: ignore[attr-defined]

    def copy(
        self,
        number: int,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        target: NDArray[Any],
        target_starts: NDArray[np.int64],
        vocabulary: int,
    ) -> None:
        """Copy `lengths[i]` tokens of a slice from `starts[i]` to `target_starts[i]` of `target`.

        Raises: ShardError when a token is outside the vocabulary.
        """
        order = np.argsort(starts, kind="stable")  # neighbours on disk one after the other
        tokens = self._tokens[number]
        largest = copy_ranges(tokens, target, starts[order], target_starts[order], lengths[order])
        if largest >= vocabulary:
            store = self._slices[number]
            raise ShardError(
                f"slice {store.name}: {store.tokens_path} holds token {largest}, the vocabulary has {vocabulary}; "
                "make the slices again"
            )
        self._release(starts.size * _FAULT_BYTES + int(lengths.sum()) * tokens.itemsize)

    def _release(self, touched: int) -> None:
        """Unmap what was touched once that may be a lot; it stays in the page cache."""
        if not self._is_large:
            return
        with self._lock:
            self._touched += touched
            if self._touched < RESIDENT_BYTES:
                return
            self._touched = 0
        for mapped in self._maps.values():
            mapped.madvise(mmap.MADV_DONTNEED)

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *error: object) -> None:
        # Unmapped with the last reference: an error's frames may still hold an array, and closing would then fail.
        self._tokens.clear()
        self._maps.clear()
