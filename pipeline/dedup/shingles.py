"""Pairs whose estimated similarity is too close to the threshold: their sets of shingles decide.

The texts of these pairs alone are read, part by part; each document's set, ascending, goes into one scratch file, which
is mapped when the pairs are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dedup.hash_ranges import HashRanges, append
from pipeline.kernels import components as kernel
from pipeline.kernels.minhash import shingle_hashes, text_hashes
from pipeline.table.errors import ConservationError
from pipeline.table.schema import text_buffers

Numbers = NDArray[np.int64]
ReadTexts = Callable[[Numbers], Iterable[pa.Array]]
"""Returns the texts of ascending document numbers, in order."""


class ClosePairs:
    """Collects pairs of `total` documents, then decides them. Use as a context manager: it owns the exchange."""

    def __init__(self, exchange: HashRanges, total: int) -> None:
        self._exchange, self._total = exchange, total
        # The exchange orders by the upper bits of a key: with the smaller document there, a pair's copies meet.
        self._shift = np.uint64(64 - max(total.bit_length(), 1))

    def __enter__(self) -> ClosePairs:
        self._exchange.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exchange.__exit__(kind, error, trace)

    def add(self, pairs: NDArray[np.uint64]) -> None:
        """Append pairs, each as smaller * 2^32 + larger document; the same pair may come again."""
        self._exchange.add((pairs >> np.uint64(32)) << self._shift, pairs.astype(np.uint32))

    def decide(self, read: ReadTexts, joint: kernel.Joint, verify: float, shape: tuple[int, bool], path: Path) -> int:
        """Join the pairs whose similarity is `verify` at least; return how many had to be decided.

        `shape`: the words of a shingle, and whether a number stands for any. `path` is the scratch file.

        Raises: ConservationError when a text is not the one that was signed; ShardError when the disk is full.
        """
        self._exchange.finish()
        wanted = np.zeros(self._total, np.bool_)
        count = 0
        for pairs in self._open(joint.parents):
            wanted[(pairs >> np.uint64(32)).astype(np.int64)] = True
            wanted[pairs.astype(np.uint32)] = True
            count += pairs.size
        if not count:
            return 0
        numbers = np.flatnonzero(wanted)
        del wanted
        try:
            starts = _write_sets(read(numbers), numbers, joint, shape, path)
            shingles = np.memmap(path, np.uint32, "r").view(np.ndarray)
            for pairs in self._open(joint.parents):
                kernel.unite_similar(pairs, numbers, starts, shingles, verify, joint.parents)
        finally:
            path.unlink(missing_ok=True)
        return count

    def _open(self, parents: NDArray[np.uint32]) -> Iterator[NDArray[np.uint64]]:
        """Yield the different pairs whose documents are not joined yet, range by range."""
        for number in range(self._exchange.ranges):
            blocks = [
                (block.keys >> self._shift) << np.uint64(32) | block.docs for block in self._exchange.blocks(number)
            ]
            if blocks:
                yield kernel.apart(np.unique(np.concatenate(blocks)), parents)


def _write_sets(
    texts: Iterable[pa.Array], numbers: Numbers, joint: kernel.Joint, shape: tuple[int, bool], path: Path
) -> Numbers:
    """Write the sets of the documents `numbers` into the file `path`; return where each begins, and the end."""
    starts = np.zeros(numbers.size + 1, np.int64)
    done = 0
    with path.open("wb") as file:
        for batch in texts:
            signed = np.ascontiguousarray(joint.signatures[numbers[done : done + len(batch)], -2:]).view("<u8")
            data, offsets = text_buffers(batch)
            if not np.array_equal(text_hashes(data, offsets), signed.reshape(-1)):
                raise ConservationError("dedup: documents are not those that were signed; delete their signatures")
            sets = [np.unique(shingle_hashes(data[begin:end], *shape)) for begin, end in pairwise(offsets)]
            append(file, path, np.concatenate(sets))
            starts[done + 1 : done + 1 + len(sets)] = [found.size for found in sets]
            done += len(sets)
    return np.cumsum(starts)
