"""Components of duplicates over any number of parts: bands exchanged by hash range, then union-find.

A document's number is its row's position over all parts in the order given, which is the only thing that the answer
depends on (and, when pairs are not verified, not even on that): neither the sizes of parts nor the memory matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.exchange import RANGE_RECORDS, Exchange, append
from pipeline.dedup.minhash import SIGNATURE, signature_matrix
from pipeline.kernels import components as kernel
from pipeline.kernels.minhash import band_keys
from pipeline.table import schema
from pipeline.table.errors import ConservationError, UsageError

SINGLE, MINHASH, EXACT = range(3)
METHODS = (None, "minhash", "exact")
CHUNK_ROWS = 1 << 14
"""Rows whose keys are computed together."""


@dataclass(frozen=True, slots=True)
class SignaturePart:
    """One part of signatures: its name for messages, its rows, and a function that reads it as tables, in order."""

    name: str
    rows: int
    read: Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """How duplicates are found. `verify`: least estimated Jaccard similarity of a pair that shares a band."""

    num_bands: int
    rows_per_band: int
    exact: bool = True
    verify: float | None = None
    memory_mb: int = 512
    """For records and signatures. Another 9 bytes a document are held throughout."""


@dataclass(frozen=True, slots=True)
class Components:
    """The answer: `roots` and `methods` by document number, `sizes` by root (0 for other documents), counts."""

    roots: NDArray[np.uint32]
    sizes: NDArray[np.uint32]
    methods: NDArray[np.uint8]
    """SINGLE; EXACT when another document has the same text hash; MINHASH otherwise."""
    candidate_pairs: int
    """Pairs that shared a band: tested ones with `verify`, otherwise one for each document but a band's first."""
    verified_pairs: int
    """Pairs that were joined for it; all candidates without `verify`."""
    exact_pairs: int
    capped: int
    """Band entries that were not kept for later comparison, since their bucket was full (only with `verify`)."""

    @property
    def documents(self) -> int:
        return int(self.roots.size)

    @property
    def components(self) -> int:
        """Singles included."""
        return int(np.count_nonzero(self.sizes))

    @property
    def removable(self) -> int:
        """Documents that go when one of each component stays."""
        return self.documents - self.components

    @property
    def largest(self) -> int:
        return int(self.sizes.max(initial=0))


def find_components(parts: Sequence[SignaturePart], settings: ComponentSettings, scratch: Path) -> Components:
    """Return the components of duplicates among the documents of `parts`; every document is in exactly one.

    Documents without words are never joined. `scratch` is an existing folder for temporary files, removed at the end;
    they need 12 bytes a document and band, and with `verify` 4 bytes a document and permutation.

    Raises: UsageError for impossible settings; ConservationError when a part has other rows than it says; ShardError
        when `scratch` is full.
    """
    total = sum(part.rows for part in parts)
    _check(settings, total)
    memory = settings.memory_mb << 20
    num_perm = settings.num_bands * settings.rows_per_band
    # The larger exchange is given three quarters, the text hashes need a number of records that is bands times smaller.
    share = memory // 4 if settings.verify is None else memory // 8
    with ExitStack() as stack:
        bands = stack.enter_context(Exchange(total * settings.num_bands, 3 * share, scratch / "bands.bin"))
        texts = stack.enter_context(Exchange(total if settings.exact else 0, share, scratch / "texts.bin"))
        matrix = None
        if settings.verify is not None:
            matrix = stack.enter_context(_Matrix((total, num_perm), memory // 2, scratch / "signatures.bin"))
        _collect(parts, settings, _Sinks(bands, texts, matrix))
        bands.finish()
        texts.finish()
        signatures = None if matrix is None else matrix.finish()
        return _unite(total, bands, texts, signatures, settings.verify)


def component_ids(parts: Iterable[SignaturePart], components: Components) -> pa.Table:
    """Return `root`, ascending, and `component_id`, the smallest doc_id, of each component of two or more documents."""
    minima = _minima(pa.array([], pa.uint32()), pa.array([], pa.string()))
    pending: list[pa.Table] = []
    held = 0
    for start, table in _numbered(parts):
        roots = components.roots[start : start + table.num_rows]
        members = np.flatnonzero(components.sizes[roots] > 1)
        ids = table[schema.DOC_ID].take(pa.array(members))
        pending.append(_minima(pa.array(roots[members]), ids))
        held += pending[-1].num_rows
        if held > max(minima.num_rows, RANGE_RECORDS):
            minima = _merge([minima, *pending])
            pending, held = [], 0
    return _merge([minima, *pending]).sort_by("root")


def duplicates_table(signatures: pa.Table, components: Components, start: int, ids: pa.Table) -> pa.Table:
    """Return the `schema.DUPLICATES` row of every row of `signatures`, which begins at document number `start`.

    `ids` comes from `component_ids`.
    """
    schema.require(signatures, schema.DOC_ID, "text_hash")
    stop = start + signatures.num_rows
    roots = components.roots[start:stop]
    sizes = components.sizes[roots]
    listed = ids["root"].to_numpy()
    # Row numbers into `ids`; a single has none and falls back to its own id.
    where = pa.array(np.searchsorted(listed, roots), mask=sizes < 2)
    shared = ids["component_id"].take(where)
    doc_ids = signatures[schema.DOC_ID]
    methods = pa.array(METHODS, pa.string()).take(pa.array(components.methods[start:stop]))
    columns = {
        schema.DOC_ID: doc_ids,
        "component_id": pc.coalesce(shared, doc_ids),
        "component_size": pa.array(sizes.astype(np.int64)),
        "method": methods,
        "text_hash": signatures["text_hash"],
    }
    return schema.conform(pa.table(columns), schema.DUPLICATES)


class _Matrix:
    """Signatures by document number, in memory or, when they would take more than `memory_bytes`, in the file `path`.

    The file is written in order and mapped afterwards: a full disk is an error then, and not a signal.
    """

    def __init__(self, shape: tuple[int, int], memory_bytes: int, path: Path) -> None:
        self._path, self._shape, self._filled = path, shape, 0
        in_memory = shape[0] * shape[1] * 4 <= memory_bytes
        self._rows = np.empty(shape if in_memory else (0, shape[1]), np.uint32)
        self._file = None if in_memory else path.open("w+b")

    def __enter__(self) -> _Matrix:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._path.unlink(missing_ok=True)

    def add(self, signatures: NDArray[np.uint32]) -> None:
        """Append rows."""
        if self._file is None:
            self._rows[self._filled : self._filled + len(signatures)] = signatures
        else:
            append(self._file, self._path, signatures)
        self._filled += len(signatures)

    def finish(self) -> NDArray[np.uint32]:
        """Return all rows, read-only."""
        if self._file is None:
            rows = self._rows.view()
            rows.flags.writeable = False
            return rows
        return np.memmap(self._file, np.uint32, "r", shape=self._shape).view(np.ndarray)


@dataclass(frozen=True, slots=True)
class _Sinks:
    """Where pass 1 puts keys and signatures."""

    bands: Exchange
    texts: Exchange
    matrix: _Matrix | None


def _check(settings: ComponentSettings, total: int) -> None:
    if settings.num_bands < 1 or settings.rows_per_band < 1:
        raise UsageError(
            f"num_bands {settings.num_bands} and rows_per_band {settings.rows_per_band} must be at least 1"
        )
    if settings.verify is not None and not 0 <= settings.verify <= 1:
        raise UsageError(f"verify must lie between 0 and 1, got {settings.verify}")
    if settings.memory_mb < 16:
        raise UsageError(f"memory_mb must be at least 16, got {settings.memory_mb}")
    if total >= int(kernel.NONE):
        raise UsageError(
            f"{total} documents in one scope; at most {int(kernel.NONE) - 1} can be numbered, split the scope"
        )


def _numbered(parts: Iterable[SignaturePart]) -> Iterator[tuple[int, pa.Table]]:
    """Yield tables of at most CHUNK_ROWS rows with the number of their first document."""
    start = 0
    for part in parts:
        rows = 0
        for table in part.read():
            for offset in range(0, table.num_rows, CHUNK_ROWS):
                piece = table.slice(offset, CHUNK_ROWS)
                yield start + rows, piece
                rows += piece.num_rows
        if rows != part.rows:
            raise ConservationError(f"{part.name}: {rows} signatures, but its index says {part.rows}; run dedup again")
        start += rows


def _collect(parts: Sequence[SignaturePart], settings: ComponentSettings, sinks: _Sinks) -> None:
    """Pass 1: one record a document and band, one a document for its text hash, and the signatures where needed."""
    for start, table in _numbered(parts):
        signatures = signature_matrix(table[SIGNATURE].combine_chunks())
        numbers = np.arange(start, start + table.num_rows, dtype=np.uint32)
        worded = table["shingles"].to_numpy() > 0
        keys = band_keys(signatures[worded], settings.num_bands, settings.rows_per_band)
        sinks.bands.add(keys.reshape(-1), np.repeat(numbers[worded], settings.num_bands))
        if settings.exact:
            sinks.texts.add(table["text_hash"].to_numpy()[worded], numbers[worded])
        if sinks.matrix is not None:
            sinks.matrix.add(signatures)


def _unite(
    total: int, bands: Exchange, texts: Exchange, signatures: NDArray[np.uint32] | None, verify: float | None
) -> Components:
    """Pass 2: a first-seen table for each hash range."""
    parents = np.arange(total, dtype=np.uint32)
    twins = np.zeros(total, np.uint8)
    exact = _first_seen(texts, parents, twins)
    if signatures is None or verify is None:
        found = _first_seen(bands, parents, twins[:0])
        found[3] = found[2]
    else:
        # 0.8 * 110 is 88.00000000000001: a count that equals the threshold must pass.
        minimum = math.ceil(verify * signatures.shape[1] - 1e-9)
        found = _verified(bands, kernel.Joint(parents, signatures, minimum))
    sizes = np.zeros(total, np.uint32)
    kernel.flatten(parents, sizes)
    methods = np.where(twins == 1, np.uint8(EXACT), np.uint8(MINHASH))
    methods[sizes[parents] < 2] = SINGLE
    return Components(parents, sizes, methods, int(found[2]), int(found[3]), int(exact[2]), int(found[4]))


def _first_seen(exchange: Exchange, parents: NDArray[np.uint32], twins: NDArray[np.uint8]) -> NDArray[np.int64]:
    counters = np.zeros(5, np.int64)
    slots = _slots(2 * RANGE_RECORDS, False)
    for number in range(exchange.ranges):
        counters[0] = 0
        slots.docs.fill(kernel.NONE)
        for block in exchange.blocks(number):
            records = block
            while records.keys.size:
                done = kernel.unite_first_seen(records, slots, counters, parents, twins)
                records = kernel.Records(records.keys[done:], records.docs[done:])
                if records.keys.size:
                    slots = _grown(slots)
    return counters


def _verified(exchange: Exchange, joint: kernel.Joint) -> NDArray[np.int64]:
    counters = np.zeros(5, np.int64)
    slots = _slots(2 * RANGE_RECORDS, True)
    chains = kernel.Chains(np.empty(RANGE_RECORDS, np.uint32), np.empty(RANGE_RECORDS, np.int32))
    for number in range(exchange.ranges):
        counters[:2] = 0
        slots.docs.fill(kernel.NONE)
        for block in exchange.blocks(number):
            records = block
            while records.keys.size:
                done = kernel.unite_verified(records, slots, chains, counters, joint)
                records = kernel.Records(records.keys[done:], records.docs[done:])
                if records.keys.size and counters[1] == chains.docs.size:
                    chains = _lengthened(chains)
                elif records.keys.size:
                    slots = _grown(slots)
    return counters


def _slots(size: int, chained: bool) -> kernel.Slots:
    docs = np.full(size, kernel.NONE, np.uint32)
    return kernel.Slots(np.empty(size, np.uint64), docs, np.empty(size if chained else 0, np.int32))


def _grown(slots: kernel.Slots) -> kernel.Slots:
    larger = _slots(slots.keys.size * 2, slots.chains.size > 0)
    kernel.rehash(slots, larger)
    return larger


def _lengthened(chains: kernel.Chains) -> kernel.Chains:
    size = chains.docs.size * 2
    return kernel.Chains(np.resize(chains.docs, size), np.resize(chains.following, size))


def _minima(roots: pa.Array, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    table = pa.table({"root": roots, "component_id": ids})
    grouped = table.group_by("root", use_threads=False).aggregate([("component_id", "min")])
    return grouped.rename_columns(["root", "component_id"]) if grouped.num_rows else table


def _merge(tables: list[pa.Table]) -> pa.Table:
    merged = pa.concat_tables(tables).combine_chunks()
    return _minima(merged["root"], merged["component_id"])
