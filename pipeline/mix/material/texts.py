"""The texts of chosen documents, straight from the curated parts: only row groups that hold any are read.

Documents come in an order that has nothing to do with their content, origin or number: by hashes of their ids. Order,
held-out text and the tokenizer's sample are decided by different hashes of the same id, without a seed: a document
keeps its place when others come and go, whatever the configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.table.catalog import Catalog
from pipeline.table.errors import SchemaError, WorkspaceError
from pipeline.table.shards import Group, open_part

Keys = NDArray[np.uint64]

_HEX_DIGITS = "[0-9a-f]{32}"


def id_keys(ids: pa.Array) -> Keys:
    """Return the 128 bits of each `doc_id` (string), shape (n, 2), high half first.

    Raises: SchemaError for what is not 32 hex digits in lower case.
    """
    ids = ids.cast(pa.string())  # an empty column may have no type
    if ids.null_count or not pc.all(pc.match_substring_regex(ids, f"^{_HEX_DIGITS}$"), min_count=0).as_py():
        bad = next(each for each in ids.to_pylist() if each is None or not re.fullmatch(_HEX_DIGITS, each))
        raise SchemaError(f"doc_id {bad!r} is not 32 hex digits; make the documents with `gristmill run`")
    return np.frombuffer(bytes.fromhex("".join(ids.to_pylist())), ">u8").astype(np.uint64).reshape(-1, 2)


def id_strings(keys: Keys) -> pa.Array:
    """Undo `id_keys`."""
    digits = keys.astype(">u8").tobytes().hex().encode()
    offsets = np.arange(0, len(digits) + 1, 32, dtype=np.int64)
    buffers = pa.py_buffer(offsets.tobytes()), pa.py_buffer(digits)
    return pa.LargeStringArray.from_buffers(len(keys), *buffers).cast(pa.string())


def _sortable(keys: Keys) -> NDArray[np.bytes_]:
    """Return keys as texts of 16 bytes, which sort as the keys do."""
    return keys.astype(">u8").view("S16").ravel()


def training_order(keys: Keys) -> Keys:
    """Return the hash by which a slice's documents are ordered."""
    return _mixed(keys, 0x9E3779B97F4A7C15)


def held_out_order(keys: Keys) -> Keys:
    """Return the hash that sets documents aside, the smallest first."""
    return _mixed(keys, 0xD6E8FEB86659FD93)


def sample_order(keys: Keys) -> Keys:
    """Return the hash that draws the tokenizer's sample, the smallest first."""
    return _mixed(keys, 0xA0761D6478BD642F)


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


def _mixed(keys: Keys, salt: int) -> Keys:
    """Return MurmurHash3's finaliser over both halves and the salt."""
    return _finalised(_finalised(keys[:, 0] + np.uint64(salt)) ^ keys[:, 1])


def _finalised(value: Keys) -> Keys:
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        value = (value ^ (value >> np.uint64(33))) * np.uint64(factor)
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
    wanted = _sortable(keys)
    row_groups: list[RowGroup] = []
    group_of: NDArray[np.int32] = np.full(len(keys), -1, np.int32)
    row_of: NDArray[np.int32] = np.full(len(keys), -1, np.int32)
    for group in (catalog.group(source, "curated") for source in sources):
        for part in group.parts():
            with open_part(group, part.name) as file:
                leaf = [file.schema.column(i).path for i in range(len(file.schema))].index("text")
                for number in range(file.num_row_groups):
                    ids = file.read_row_group(number, columns=["doc_id"], use_threads=False)["doc_id"].combine_chunks()
                    present = _sortable(id_keys(ids))
                    at = np.searchsorted(wanted, present).clip(max=max(len(wanted) - 1, 0))
                    rows = np.flatnonzero(wanted[at] == present) if len(wanted) else at[:0]
                    group_of[at[rows]], row_of[at[rows]] = len(row_groups), rows
                    size = file.metadata.row_group(number).column(leaf).total_uncompressed_size
                    row_groups.append(RowGroup(group, part.name, number, len(ids), size))
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
        with open_part(where.group, where.part) as file:
            texts = file.read_row_group(where.number, columns=["text"], use_threads=False)["text"].combine_chunks()
        if isinstance(texts, pa.ChunkedArray):  # more than 2 GB of text
            texts = texts.cast(pa.large_string()).combine_chunks()
        yield positions, texts.take(pa.array(located.row_of[positions]))
