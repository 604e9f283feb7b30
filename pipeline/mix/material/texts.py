"""The texts of chosen documents, straight from the curated parts: only row groups that hold any are read.

Documents come in an order that has nothing to do with their content, origin or number: by hashes of their ids. Order,
held-out text and the tokenizer's sample are decided by different hashes of the same id, without a seed: a document
keeps its place when others come and go, whatever the configuration.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.table.catalog import Catalog
from pipeline.table.errors import SchemaError, ShardError, WorkspaceError
from pipeline.table.shards import Group

Keys = NDArray[np.uint64]

_ORDER, _HELD_OUT, _SAMPLE = (
    np.uint64(value) for value in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
)
_PLACES = np.uint64(1) << (np.arange(15, -1, -1, dtype=np.uint64) * np.uint64(4))
_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)


def id_keys(ids: pa.Array) -> Keys:
    """Return the 128 bits of each `doc_id` (string), shape (n, 2), high half first.

    Raises: SchemaError for what is not 32 hex digits in lower case.
    """
    fixed = ids.cast(pa.binary())
    if len(fixed) == 0:
        return np.empty((0, 2), np.uint64)
    joined = b"".join(fixed.to_pylist()) if fixed.null_count == 0 else b""
    digits = np.frombuffer(joined, np.uint8)
    values = np.searchsorted(_DIGITS, digits).clip(0, 15)
    if digits.size != 32 * len(fixed) or not np.array_equal(_DIGITS[values], digits):
        bad = next((each for each in ids.to_pylist() if each is None or len(each) != 32), ids[0].as_py())
        raise SchemaError(f"doc_id {bad!r} is not 32 hex digits; make the documents with `gristmill run`")
    keys: Keys = values.astype(np.uint64).reshape(-1, 2, 16) @ _PLACES
    return keys


def id_strings(keys: Keys) -> pa.Array:
    """Undo `id_keys`."""
    shifts = np.arange(60, -1, -4, dtype=np.uint64)
    digits = _DIGITS[((keys[:, :, None] >> shifts) & np.uint64(15)).astype(np.uint8)]
    offsets = pa.py_buffer(np.arange(0, 32 * len(keys) + 1, 32, dtype=np.int64).tobytes())
    return pa.LargeStringArray.from_buffers(len(keys), offsets, pa.py_buffer(digits.tobytes())).cast(pa.string())


def training_order(keys: Keys) -> Keys:
    """Return the hash by which a slice's documents are ordered."""
    return _mixed(keys, _ORDER)


def held_out_order(keys: Keys) -> Keys:
    """Return the hash that sets documents aside, the smallest first."""
    return _mixed(keys, _HELD_OUT)


def sample_order(keys: Keys) -> Keys:
    """Return the hash that draws the tokenizer's sample, the smallest first."""
    return _mixed(keys, _SAMPLE)


def held_out(keys: Keys, share: float) -> NDArray[np.bool_]:
    """Tell which documents are set aside: those whose hash is below `share`, as 0 to 1.

    At least one of two or more (with a share above zero), and never all: one is always left to train on.
    """
    order = held_out_order(keys)
    rank = np.lexsort((keys[:, 1], keys[:, 0], order))
    count = int((order < np.uint64(min(int(share * 2.0**64), 2**64 - 1))).sum())
    least = 1 if share > 0 and len(keys) >= 2 else 0
    chosen = np.zeros(len(keys), bool)
    chosen[rank[: min(max(count, least), max(len(keys) - 1, 0))]] = True
    return chosen


def _mixed(keys: Keys, salt: np.uint64) -> Keys:
    """Return MurmurHash3's finaliser over both halves and the salt."""
    return _finalised(_finalised(keys[:, 0] + salt) ^ keys[:, 1])


def _finalised(value: Keys) -> Keys:
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    value = (value ^ (value >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


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
