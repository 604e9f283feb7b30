"""The texts of chosen documents, straight from the curated parts: only row groups that hold any are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.mix.hashing import Keys, id_keys, id_strings
from pipeline.table.catalog import Catalog
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.shards import Group


@dataclass(frozen=True)
class RowGroup:
    """One row group of a curated part."""

    group: Group
    part: str
    number: int
    rows: int
    text_bytes: int
    """Uncompressed bytes of its text column: about the text's."""


@dataclass(frozen=True)
class Located:
    """Where each of n documents lies: the position of its row group among `row_groups`, and its row in there."""

    row_groups: tuple[RowGroup, ...]
    group_of: NDArray[np.int32] = field(repr=False)
    row_of: NDArray[np.int32] = field(repr=False)

    def mean_bytes(self) -> NDArray[np.float64]:
        """Return, for each document, the mean bytes of a text in its row group: an estimate that reads nothing."""
        means = np.array([each.text_bytes / max(each.rows, 1) for each in self.row_groups], np.float64)
        return means[self.group_of]


def locate(catalog: Catalog, sources: Sequence[str], keys: Keys) -> Located:
    """Return where documents lie in the curated parts of `sources`; `keys` rise.

    Raises: WorkspaceError when one is not there; ShardError when a part cannot be read.
    """
    row_groups: list[RowGroup] = []
    group_of: NDArray[np.int32] = np.full(len(keys), -1, np.int32)
    row_of: NDArray[np.int32] = np.full(len(keys), -1, np.int32)
    for source in sources:
        group = catalog.group(source, "curated")
        for part in group.parts():
            for each, ids in _row_groups(group, part.name):
                found, rows = _matches(keys, id_keys(ids))
                group_of[found], row_of[found] = len(row_groups), rows
                row_groups.append(each)
    lost = np.flatnonzero(group_of < 0)
    if lost.size:
        example = id_strings(keys[lost[:1]])[0].as_py()
        raise WorkspaceError(
            f"{lost.size} kept documents are not among the curated ones, {example} among them; "
            "run `gristmill run CONFIG` again so that both come from one selection"
        )
    return Located(tuple(row_groups), group_of, row_of)


def read_texts(located: Located, chosen: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
    """Yield (positions, texts) of the `chosen` positions, a row group at a time, in the order of parts and rows.

    Raises: ShardError when a part cannot be read.
    """
    order = chosen[np.lexsort((located.row_of[chosen], located.group_of[chosen]))]
    cuts = np.flatnonzero(np.diff(located.group_of[order])) + 1
    for positions in np.split(order, cuts):
        if not positions.size:
            continue
        where = located.row_groups[int(located.group_of[positions[0]])]
        with _opened(where.group, where.part) as file:
            texts = file.read_row_group(where.number, columns=["text"], use_threads=False)["text"].combine_chunks()
        if isinstance(texts, pa.ChunkedArray):  # more than 2 GB of text
            texts = texts.cast(pa.large_string()).combine_chunks()
        yield positions, texts.take(pa.array(located.row_of[positions]))


def _row_groups(group: Group, name: str) -> Iterator[tuple[RowGroup, pa.Array]]:
    with _opened(group, name) as file:
        leaf = [file.schema.column(i).path for i in range(len(file.schema))].index("text")
        for number in range(file.num_row_groups):
            data = file.metadata.row_group(number)
            ids = file.read_row_group(number, columns=["doc_id"], use_threads=False)["doc_id"].combine_chunks()
            size = data.column(leaf).total_uncompressed_size
            yield RowGroup(group, name, number, data.num_rows, size), ids


class _opened:
    """A part open for reading; what goes wrong inside names it."""

    def __init__(self, group: Group, name: str) -> None:
        self._group, self._name = group, name

    def __enter__(self) -> pq.ParquetFile:
        try:
            self._stream = self._group.storage.open(self._group.path(self._name))
            self._file = pq.ParquetFile(self._stream, page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._error(error) from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._stream.close()
        if isinstance(error, OSError | pa.ArrowInvalid):
            raise self._error(error) from error

    def _error(self, error: BaseException) -> ShardError:
        where = self._group.storage.sql_path(self._group.path(self._name))
        return ShardError(f"{where} cannot be read: {error}; delete it and run again, it will be made anew")


def _matches(wanted: Keys, present: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (position in `wanted`, position in `present`) of every key that is in both; `wanted` rises."""
    if not len(wanted) or not len(present):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # Two ids with equal upper halves are looked at one by one: with 2^64 of them that is next to never.
    at = np.searchsorted(wanted[:, 0], present[:, 0])
    rows: NDArray[np.int64] = np.arange(len(present), dtype=np.int64)
    found: list[NDArray[np.int64]] = []
    matched: list[NDArray[np.int64]] = []
    while rows.size:
        inside = at < len(wanted)
        rows, at = rows[inside], at[inside]
        same_half = wanted[at, 0] == present[rows, 0]
        rows, at = rows[same_half], at[same_half]
        same = wanted[at, 1] == present[rows, 1]
        found.append(at[same])
        matched.append(rows[same])
        rows, at = rows[~same], at[~same] + 1
    return np.concatenate(found), np.concatenate(matched)
