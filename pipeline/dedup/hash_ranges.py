"""Exchange of (key, document) records by hash range, in memory or through one file.

Records are collected in a buffer. A full buffer is ordered by hash range and becomes a run, kept in memory or appended
to the file. A hash range is then read as its slices of all runs, in the order in which its records were added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.components import Records, partition
from pipeline.table.errors import ShardError
from pipeline.table.storage import write_failure

RECORD_BYTES = 12
RANGE_RECORDS = 1 << 16
"""Records that a hash range aims at: its table then fits a second-level cache."""
MAX_RANGE_BITS = 14
MIN_BUFFER_RECORDS = 1 << 16


@dataclass(frozen=True, slots=True)
class _Ordered:
    """One ordered buffer: where each range starts in it, and its records, or else their place in the file."""

    starts: NDArray[np.int64]
    records: Records | None
    file_offset: int


class HashRanges:
    """Collects records, then yields them by hash range. Use as a context manager: it owns the file `path`.

    `expected` records decide the number of ranges and, with `memory_bytes`, whether they stay in memory. At most about
    `memory_bytes` are used.
    """

    def __init__(self, expected: int, memory_bytes: int, path: Path) -> None:
        self.bits = min(max(1, (expected // RANGE_RECORDS).bit_length()), MAX_RANGE_BITS)
        # Filling the last buffer needs it twice, unordered and ordered.
        in_memory = expected * RECORD_BYTES <= memory_bytes // 2
        size = max(MIN_BUFFER_RECORDS, memory_bytes // RECORD_BYTES // (4 if in_memory else 2))
        self._buffer = _empty(min(size, max(expected, 1)))
        self._filled = 0
        self._runs: list[_Ordered] = []
        self._path = path
        self._file = None if in_memory else path.open("w+b")

    def __enter__(self) -> HashRanges:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk fails again when the buffer is flushed; the file is thrown away
                self._file.close()
            self._path.unlink(missing_ok=True)

    @property
    def ranges(self) -> int:
        return 1 << self.bits

    def add(self, keys: NDArray[np.uint64], docs: NDArray[np.uint32]) -> None:
        """Append records.

        Raises: ShardError when the file cannot be written.
        """
        done = 0
        while done < keys.size:
            count = min(keys.size - done, self._buffer.keys.size - self._filled)
            self._buffer.keys[self._filled : self._filled + count] = keys[done : done + count]
            self._buffer.docs[self._filled : self._filled + count] = docs[done : done + count]
            self._filled += count
            done += count
            if self._filled == self._buffer.keys.size:
                self._flush()

    def finish(self) -> None:
        """Order what is left and free the buffer; then `blocks` may be read."""
        if self._filled:
            self._flush()
        self._buffer = _empty(0)

    def blocks(self, number: int) -> Iterator[Records]:
        """Yield the records of one hash range, in the order in which they were added.

        Raises: ShardError when the file was cut short.
        """
        for run in self._runs:
            start, stop = int(run.starts[number]), int(run.starts[number + 1])
            if start == stop:
                continue
            if run.records is not None:
                yield Records(run.records.keys[start:stop], run.records.docs[start:stop])
            else:
                docs_offset = run.file_offset + int(run.starts[-1]) * 8
                yield Records(
                    self._read(run.file_offset + start * 8, stop - start, np.uint64),
                    self._read(docs_offset + start * 4, stop - start, np.uint32),
                )

    def _flush(self) -> None:
        records = Records(self._buffer.keys[: self._filled], self._buffer.docs[: self._filled])
        ordered = _empty(self._filled)
        starts = np.zeros(self.ranges + 1, np.int64)
        partition(records, self.bits, ordered, starts)
        self._filled = 0
        if self._file is None:
            self._runs.append(_Ordered(starts, ordered, 0))
            return
        self._runs.append(_Ordered(starts, None, self._file.tell()))
        append(self._file, self._path, ordered.keys)
        append(self._file, self._path, ordered.docs)

    def _read(self, offset: int, count: int, kind: type[np.generic]) -> NDArray[Any]:
        assert self._file is not None
        self._file.seek(offset)
        values = np.empty(count, kind)
        if self._file.readinto(values.data) != values.nbytes:
            raise ShardError(f"{self._path}: cut short at byte {offset}; run the same command again")
        return values


def append(file: BinaryIO, path: Path, values: NDArray[Any]) -> None:
    """Write an array's bytes.

    Raises: ShardError when the disk is full.
    """
    try:
        file.write(np.ascontiguousarray(values).data)
        file.flush()
    except OSError as error:
        raise ShardError(write_failure(str(path), error)) from error


def _empty(count: int) -> Records:
    return Records(np.empty(count, np.uint64), np.empty(count, np.uint32))
