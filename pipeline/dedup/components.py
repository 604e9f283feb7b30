"""Components of duplicates over any number of parts: bands exchanged by hash range, then union-find.

A document's number is its row's position over all parts in the order given. Which documents belong together depends on
their texts alone: neither order, parts nor memory matter.

With `verify` a shared band only makes a pair: it is joined when its Jaccard similarity is `verify` at least, as the
signatures estimate it, or as the shingles say where the estimate lies within `kernel.CLOSE_ERRORS` standard errors of
`verify`. In a bucket (the documents that share a band) of at most `kernel.WHOLE_BUCKET` different texts all pairs are
compared. In a larger one each of `kernel.ROUNDS` rounds takes `kernel.REPRESENTATIVES` of those that were sure of
nobody yet, drawn by a hash of text and bucket, and compares all of these with them. So a member is compared 256 times
at most, however large the bucket, and families of copies are found as long as there are not far more than that. A pair
is lost only where in all buckets that it shares neither of both became a representative, nor somebody like both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.dedup.hash_ranges import RANGE_RECORDS, HashRanges, append
from pipeline.dedup.minhash import SIGNATURE, Numbers, signature_matrix
from pipeline.dedup.shingles import ClosePairs
from pipeline.kernels import components as kernel
from pipeline.kernels.minhash import band_keys
from pipeline.table import schema
from pipeline.table.errors import ConservationError, UsageError

SINGLE, MINHASH, EXACT = range(3)
METHODS = (None, "minhash", "exact")
CHUNK_ROWS = 1 << 14
"""Rows whose keys are computed, and members of a bucket that are compared together."""


@dataclass(frozen=True, slots=True)
class SignaturePart:
    """One part of signatures: its name for messages, its rows, and a function that reads it as tables, in order.

    `texts` returns the texts of the rows that it is given (ascending), in order; without it estimates decide all pairs.
    """

    name: str
    rows: int
    read: Callable[[], Iterable[pa.Table]]
    texts: Callable[[NDArray[np.int64]], Iterable[pa.Array]] | None = None


@dataclass(frozen=True, slots=True)
class ComponentSettings:
    """How duplicates are found. `verify`: least similarity of a pair that shares a band; None joins them all."""

    num_bands: int
    rows_per_band: int
    exact: bool = True
    verify: float | None = None
    memory_mb: int = 512
    """For records and signatures. Another 10 bytes a document are held throughout, 16 a document of a close pair, and
    40 a different text of the hash range that is looked at, which matters when one bucket holds much of a corpus."""
    shingle_words: int = 5
    numbers: Numbers = "exact"
    """With `shingle_words`: how shingles were made, to make them again for close pairs."""


@dataclass(frozen=True, slots=True)
class Components:
    """The answer: `roots` and `methods` by document number, `sizes` by root (0 for other documents), counts."""

    roots: NDArray[np.uint32]
    sizes: NDArray[np.uint32]
    methods: NDArray[np.uint8]
    """SINGLE; EXACT when another document has the same text hash; MINHASH otherwise."""
    candidate_pairs: int
    """Pairs that shared a band: compared ones with `verify`, otherwise one for each document but a band's first."""
    close_pairs: int
    """Pairs whose estimate was too close to `verify`, so that their shingles decided."""
    exact_pairs: int
    capped: int
    """Members of large buckets that were sure of nobody in any round (only with `verify`)."""

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
    they need 12 bytes a document and band, and with `verify` 4 bytes a document and permutation, 12 bytes a close pair
    and 4 bytes a shingle of the documents in them. Of those alone the texts are read, part by part.

    Raises: UsageError for impossible settings; ConservationError when a part has other rows than it says, or a text is
        not the one that was signed; ShardError when `scratch` is full.
    """
    total = sum(part.rows for part in parts)
    _check(settings, total)
    memory = settings.memory_mb << 20
    # The larger exchange is given three quarters, the text hashes need a number of records that is bands times smaller.
    share = memory // 4 if settings.verify is None else memory // 8
    with ExitStack() as stack:
        texts = stack.enter_context(HashRanges(total if settings.exact else 0, share, scratch / "texts.bin"))
        records = total * settings.num_bands
        if settings.verify is None:
            bands = stack.enter_context(HashRanges(records, 3 * share, scratch / "bands.bin"))
            _collect(parts, settings, _Sinks(bands, texts, None))
            return _first_come(total, bands, texts)
        bands = stack.enter_context(HashRanges(records, 2 * share, scratch / "bands.bin"))
        shape = (total, settings.num_bands * settings.rows_per_band + 2)
        matrix = stack.enter_context(_Matrix(shape, memory // 2, scratch / "signatures.bin"))
        _collect(parts, settings, _Sinks(bands, texts, matrix))
        most = records * kernel.WHOLE_BUCKET // 2
        close = stack.enter_context(ClosePairs(HashRanges(most, share, scratch / "pairs.bin"), total))
        return _verified(parts, settings, _Sinks(bands, texts, matrix), close, scratch)


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
    """Signatures and text hashes by document number, in memory or, beyond `memory_bytes`, in the file `path`.

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

    def add(self, signatures: NDArray[np.uint32], text_hashes: NDArray[np.uint64]) -> None:
        """Append rows."""
        halves = text_hashes.astype("<u8").view("<u4").reshape(-1, 2)
        signatures = np.concatenate([signatures, halves], axis=1)
        if self._file is None:
            self._rows[self._filled : self._filled + len(signatures)] = signatures
        else:
            append(self._file, self._path, signatures)
        self._filled += len(signatures)

    def finish(self) -> NDArray[np.uint32]:
        """Return all rows, read-only, a text hash in the last two columns, its lower half first."""
        if self._file is None:
            rows = self._rows.view()
            rows.flags.writeable = False
            return rows
        return np.memmap(self._file, np.uint32, "r", shape=self._shape).view(np.ndarray)


@dataclass(frozen=True, slots=True)
class _Sinks:
    """Where pass 1 puts keys and signatures."""

    bands: HashRanges
    texts: HashRanges
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
            sinks.matrix.add(signatures, table["text_hash"].to_numpy())
    sinks.bands.finish()
    sinks.texts.finish()


def _first_come(total: int, bands: HashRanges, texts: HashRanges) -> Components:
    """Pass 2 without `verify`: a first-seen table for each hash range."""
    parents, twins = np.arange(total, dtype=np.uint32), np.zeros(total, np.uint8)
    exact = _first_seen(texts, parents, twins)
    return _components(
        parents, twins, {"candidate_pairs": _first_seen(bands, parents, twins[:0]), "exact_pairs": exact}
    )


def _verified(
    parts: Sequence[SignaturePart], settings: ComponentSettings, sinks: _Sinks, close: ClosePairs, scratch: Path
) -> Components:
    """Pass 2 with `verify`: the buckets of each hash range, without copies of a text; pass 3: the close pairs."""
    assert settings.verify is not None
    assert sinks.matrix is not None
    signatures = sinks.matrix.finish()
    parents, twins = np.arange(len(signatures), dtype=np.uint32), np.zeros(len(signatures), np.uint8)
    exact = _first_seen(sinks.texts, parents, twins)
    decidable = all(part.texts is not None for part in parts)
    errors = kernel.CLOSE_ERRORS if decidable else 0.0
    joint = kernel.Joint(parents, signatures, *kernel.zone(settings.verify, signatures.shape[1] - 2, errors))
    candidates = capped = 0
    for number in range(sinks.bands.ranges):
        keys, docs = _without_copies(sinks.bands.blocks(number), twins)
        index = np.int32 if 2 * keys.size < 2**31 else np.int64
        heads, following = np.full(1 << (2 * keys.size).bit_length(), -1, index), np.empty(keys.size, index)
        kernel.link(keys, heads, following)
        pairs, large, count = kernel.unite_buckets(docs, following, heads, joint)
        close.add(pairs)
        candidates += count
        for head in large:
            members = np.empty(kernel.bucket(docs, following, head, docs[:0]), np.uint32)
            kernel.bucket(docs, following, head, members)
            count, alone = _large_bucket(kernel.by_priority(members, keys[head], signatures), joint, close)
            candidates, capped = candidates + count, capped + alone
    counts = {"candidate_pairs": candidates, "exact_pairs": exact, "capped": capped}
    if decidable:
        shape = (settings.shingle_words, settings.numbers == "any")
        texts = partial(_texts, parts)
        counts["close_pairs"] = close.decide(texts, joint, settings.verify, shape, scratch / "shingles.bin")
    return _components(parents, twins, counts)


def _without_copies(blocks: Iterable[kernel.Records], twins: NDArray[np.uint8]) -> kernel.Records:
    """Return a range's records without those of documents whose text has another one, which stands for them."""
    found = [kernel.Records(np.empty(0, np.uint64), np.empty(0, np.uint32))]
    for block in blocks:
        first = twins[block.docs] != kernel.COPY
        found.append(kernel.Records(block.keys[first], block.docs[first]))
    return kernel.Records(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _texts(parts: Sequence[SignaturePart], numbers: NDArray[np.int64]) -> Iterator[pa.Array]:
    """Yield the texts of the documents `numbers` (ascending) in order, reading only the parts that hold some."""
    first = 0
    for part in parts:
        begin, end = np.searchsorted(numbers, [first, first + part.rows])
        if begin < end:
            assert part.texts is not None
            count = 0
            for texts in part.texts(numbers[begin:end] - first):
                yield texts
                count += len(texts)
            if count != end - begin:
                raise ConservationError(f"{part.name}: {count} texts of {end - begin} documents; run dedup again")
        first += part.rows


def _large_bucket(members: NDArray[np.uint32], joint: kernel.Joint, close: ClosePairs) -> tuple[int, int]:
    """Compare the members of a large bucket, in order of priority; return the pairs and the members that stay alone."""
    pairs = 0
    for _ in range(kernel.ROUNDS):
        representatives = members[: kernel.REPRESENTATIVES]
        alone = []
        for start in range(0, members.size, CHUNK_ROWS):
            found = kernel.unite_with(representatives, members[start : start + CHUNK_ROWS], start, joint)
            close.add(found[0])
            alone.append(found[1])
            pairs += found[2]
        members = np.concatenate(alone)
        if not members.size:
            break
    return pairs, int(members.size)


def _components(parents: NDArray[np.uint32], twins: NDArray[np.uint8], counts: dict[str, int]) -> Components:
    sizes = np.zeros(parents.size, np.uint32)
    kernel.flatten(parents, sizes)
    methods = np.where(twins > 0, np.uint8(EXACT), np.uint8(MINHASH))
    methods[sizes[parents] < 2] = SINGLE
    return Components(parents, sizes, methods, **{"close_pairs": 0, "capped": 0} | counts)


def _first_seen(exchange: HashRanges, parents: NDArray[np.uint32], twins: NDArray[np.uint8]) -> int:
    """Join each document with the first that has its key; return the pairs."""
    counters = np.zeros(2, np.int64)
    slots = _slots(2 * RANGE_RECORDS)
    for number in range(exchange.ranges):
        counters[0] = 0
        slots.docs.fill(kernel.NONE)
        for block in exchange.blocks(number):
            records = block
            while records.keys.size:
                done = kernel.unite_first_seen(records, slots, counters, parents, twins)
                records = kernel.Records(records.keys[done:], records.docs[done:])
                if records.keys.size:
                    larger = _slots(slots.keys.size * 2)
                    kernel.rehash(slots, larger)
                    slots = larger
    return int(counters[1])


def _slots(size: int) -> kernel.Slots:
    return kernel.Slots(np.empty(size, np.uint64), np.full(size, kernel.NONE, np.uint32))


def _minima(roots: pa.Array, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    table = pa.table({"root": roots, "component_id": ids})
    grouped = table.group_by("root", use_threads=False).aggregate([("component_id", "min")])
    return grouped.rename_columns(["root", "component_id"]) if grouped.num_rows else table


def _merge(tables: list[pa.Table]) -> pa.Table:
    merged = pa.concat_tables(tables).combine_chunks()
    return _minima(merged["root"], merged["component_id"])
