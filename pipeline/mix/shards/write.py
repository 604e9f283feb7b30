"""The shards of a sample: gathering their tokens, writing files, looking at what those hold, and manifests last.

    npy       part-00000.npy: tokens without any header (`np.memmap` reads them), uint16 or uint32, little-endian;
              part-00000.csv.gz: `start,end` of every document, a line each. Source: OLMo-core, data/utils.py.
    megatron  part-00000.bin: tokens, uint16 or int32; part-00000.idx: a sequence a document.
              Source: Megatron-LM, core/datasets/indexed_dataset.py.
    parquet   part-00000.parquet: `doc_id`, `slice`, `epoch`, `tokens` list<uint16 or uint32>, a row a document.

Every format has `trace-00000.parquet`: whose tokens lie where.
"""

from __future__ import annotations

import gzip
import hashlib
import mmap
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.kernels.byte_pieces import copy_ranges
from pipeline.mix.config import SampleConfig
from pipeline.mix.shards.plan import Integers, Rows, SamplePlan, borders
from pipeline.mix.types import SliceTokens
from pipeline.table.errors import ConservationError, ShardError
from pipeline.table.kept import create_file, done, local_copy, write_file, write_json

Format = Literal["npy", "megatron", "parquet"]
Tokens = NDArray[Any]

TRACE = pa.schema(
    [
        ("slice", pa.dictionary(pa.int32(), pa.string())),
        ("doc_id", pa.string()),
        ("epoch", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("document_start", pa.int64()),
        ("cut", pa.bool_()),
        ("continues", pa.bool_()),
    ]
)
"""Tokens `start` to `end` of a shard are those of `doc_id` from `document_start` on. `cut`: the document is cut short
(its first tokens have a row, and its EOS another). `continues`: it was longer than a shard, the next has its rest."""

SUFFIX: dict[Format, str] = {"npy": ".npy", "megatron": ".bin", "parquet": ".parquet"}
_MEGATRON_CODE = {np.dtype("<i4"): 4, np.dtype("<u2"): 8}
_MEGATRON_UINT16 = 65_500
"""Megatron takes uint16 for smaller vocabularies, int32 for others; it knows no uint32."""
BLOCK_TOKENS = 1 << 22
"""Tokens gathered at once: what a thread holds in memory."""
_TRACE_ROWS = 1 << 16

RESIDENT_BYTES = 1 << 30
"""Of the slices' tokens, which are mapped into memory, about so much is resident at a time."""
_FAULT_BYTES = 1 << 16
"""What the kernel maps around a page that is touched."""

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ShardWork:
    """What writing a shard needs. `halted` is set when the run is to end early."""

    folder: str
    key: str
    plan: SamplePlan
    stores: Stores
    config: SampleConfig
    vocabulary: int
    eos: int
    on_progress: Callable[[int], None]
    stop: Callable[[], bool]
    halted: threading.Event = field(default_factory=threading.Event)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of tokens that readers of the format expect for the vocabulary."""
        if self.config.format == "megatron":
            return np.dtype("<u2" if self.vocabulary < _MEGATRON_UINT16 else "<i4")
        return np.dtype("<u2" if self.vocabulary <= 1 << 16 else "<u4")


class _HaltedError(Exception):
    """Ends a shard that is being written when another failed or the caller asked to stop."""


# Shards ---------------------------------------------------------------------------------------------------------------


def write_shards(work: ShardWork, workers: int) -> tuple[list[Manifest], int]:
    """Write every unfinished shard; return the manifests of the finished ones, in order, and how many are new."""
    manifests: dict[int, Manifest] = {}
    for number in range(work.plan.n_shards):
        with suppress(ShardError):  # a damaged manifest is written anew
            manifest = done(_manifest_path(work.folder, number), {"key": work.key})
            if manifest is not None:
                manifests[number] = manifest
    todo = [number for number in range(work.plan.n_shards) if number not in manifests]
    work.on_progress(sum(sum(m["tokens"].values()) for m in manifests.values()))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        futures = {number: pool.submit(_write_shard, work, number) for number in todo}
        try:
            wait(futures.values(), return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() for future in futures.values()):  # one failed, or the caller was interrupted
                work.halted.set()  # those being written end at their next block
            pool.shutdown(cancel_futures=True)
    for number, future in futures.items():
        if not future.cancelled():
            with suppress(_HaltedError):
                manifests[number] = future.result()
    return [manifests[number] for number in sorted(manifests)], sum(number in manifests for number in todo)


def _write_shard(work: ShardWork, number: int) -> Manifest:
    """Write a shard's files, look at what they hold, and write its manifest.

    Raises: ShardError when the disk refuses.
    """
    rows = work.plan.rows(int(work.plan.shards[number]), int(work.plan.shards[number + 1]))
    data, trace = _data_path(work, number), f"{work.folder}/trace-{number:05d}.parquet"
    files = [data, trace]
    if work.config.format == "parquet":
        _write_table(data, _data_schema(work.dtype), _data_tables(work, rows))
    else:
        with create_file(data) as target:
            for block in _blocks(work, rows):
                target.write(block.data.cast("B"))
        is_megatron = work.config.format == "megatron"
        files.insert(1, f"{work.folder}/part-{number:05d}{'.idx' if is_megatron else '.csv.gz'}")
        write_file(files[1], _megatron_index(rows.pieces, work.dtype) if is_megatron else _boundaries(rows.pieces))
    _write_table(trace, TRACE, _trace_tables(work.plan, rows))
    manifest = {
        "key": work.key,
        "shard": number,
        "tokens": _count(work, data, trace, rows),
        "documents": int(rows.pieces.size - 1),
        "files": {path.rpartition("/")[2]: _content(path) for path in files},
    }
    write_json(_manifest_path(work.folder, number), manifest)
    return manifest


def _write_table(path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write a Parquet file, a row group a table."""
    options = {
        "compression": "zstd",
        "compression_level": 1,  # random ids and tokens do not shrink much more at the slow levels
        "use_dictionary": [name for name in ("slice", "epoch") if name in schema.names],
        "write_statistics": [name for name in schema.names if name != "tokens"],
    }
    if "tokens" in schema.names:  # low and high bytes apart: a quarter smaller than plain values, and twice as fast
        options["column_encoding"] = {"tokens.list.element": "BYTE_STREAM_SPLIT"}
    with create_file(path) as target, pq.ParquetWriter(target, schema, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))


def _boundaries(pieces: NDArray[np.int64]) -> bytes:
    """Return `start,end` of every document; `pieces` are their first tokens and the end, int64 (n + 1,)."""
    text = pa.BufferOutputStream()
    pacsv.write_csv(pa.table({"start": pieces[:-1], "end": pieces[1:]}), text, pacsv.WriteOptions(include_header=False))
    return gzip.compress(text.getvalue(), compresslevel=1, mtime=0)


def _megatron_index(pieces: NDArray[np.int64], dtype: np.dtype[Any]) -> bytes:
    """Return the index of a `.bin`: each document is one sequence; `pieces` as for `_boundaries`."""
    lengths = np.diff(pieces)
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, _MEGATRON_CODE[dtype], lengths.size, lengths.size + 1)
    pointers, numbers = (pieces[:-1] * dtype.itemsize).astype("<i8"), np.arange(lengths.size + 1, dtype="<i8")
    return b"".join([header, lengths.astype("<i4").tobytes(), pointers.tobytes(), numbers.tobytes()])


def _data_schema(dtype: np.dtype[Any]) -> pa.Schema:
    tokens = pa.list_(pa.from_numpy_dtype(dtype))
    names = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([("doc_id", pa.string()), ("slice", names), ("epoch", pa.int32()), ("tokens", tokens)])


def _blocks(work: ShardWork, rows: Rows, limit: int = BLOCK_TOKENS) -> Iterator[Tokens]:
    """Yield a shard's tokens in blocks of about `limit`, all in one buffer; only a longer document is divided."""
    cuts = borders(rows.pieces, limit)
    buffer = np.empty(int(np.diff(cuts).max()), work.dtype)
    ends = rows.start + rows.length
    for low, high in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        if work.halted.is_set() or work.stop():
            work.halted.set()
            raise _HaltedError
        block = buffer[: high - low]
        chosen = slice(int(np.searchsorted(ends, low, side="right")), int(np.searchsorted(rows.start, high)))
        begin = np.maximum(rows.start[chosen], low)
        where = rows.document_start[chosen] + (begin - rows.start[chosen])
        for number in np.unique(rows.slice[chosen]):
            here = rows.slice[chosen] == number
            first = work.plan.documents[number].starts[rows.document[chosen][here]] + where[here]
            lengths = (np.minimum(ends[chosen], high) - begin)[here]
            work.stores.copy(int(number), first, lengths, block, begin[here] - low, work.vocabulary)
        yield block
        work.on_progress(block.size)


def _data_tables(work: ShardWork, rows: Rows) -> Iterator[pa.Table]:
    """Yield a shard's documents, a block's worth a table, none divided."""
    pieces = rows.pieces
    limit = max(BLOCK_TOKENS, int(np.diff(pieces).max()))
    schema = _data_schema(work.dtype)
    first_rows = np.searchsorted(rows.start, pieces[:-1])
    low = 0
    for block in _blocks(work, rows, limit):
        a, b = np.searchsorted(pieces, [low, low + block.size])
        offsets = pa.array((pieces[a : b + 1] - low).astype(np.int32))
        chosen = first_rows[a:b]
        tokens = pa.ListArray.from_arrays(offsets, pa.array(block.copy()))
        names = _names(work.plan, rows, chosen)
        epochs = pa.array(rows.epoch[chosen].astype(np.int32))
        yield pa.Table.from_arrays([_doc_ids(work.plan, rows, chosen), names, epochs, tokens], schema=schema)
        low += block.size


def _trace_tables(plan: SamplePlan, rows: Rows) -> Iterator[pa.Table]:
    for first in range(0, rows.start.size, _TRACE_ROWS):
        chosen = np.arange(first, min(first + _TRACE_ROWS, rows.start.size))
        start, length = rows.start[chosen], rows.length[chosen]
        numbers = (rows.epoch[chosen].astype(np.int32), start, start + length, rows.document_start[chosen])
        columns = [_names(plan, rows, chosen), _doc_ids(plan, rows, chosen), *map(pa.array, numbers)]
        columns += [pa.array(rows.cut[chosen]), pa.array(rows.continues[chosen])]
        yield pa.Table.from_arrays(columns, schema=TRACE)


def _names(plan: SamplePlan, rows: Rows, chosen: Integers) -> pa.Array:
    names = pa.array([d.name for d in plan.documents], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(rows.slice[chosen].astype(np.int32)), names)


def _doc_ids(plan: SamplePlan, rows: Rows, chosen: Integers) -> pa.Array:
    slices, documents = rows.slice[chosen], rows.document[chosen]
    order = np.argsort(slices, kind="stable")
    ids = [
        plan.documents[number].doc_ids.take(pa.array(documents[order[slices[order] == number]]))
        for number in np.unique(slices)
    ]
    back = np.empty(order.size, np.int64)
    back[order] = np.arange(order.size)
    return pa.concat_arrays(ids).take(pa.array(back)).cast(pa.string())


# What the files hold --------------------------------------------------------------------------------------------------


def _count(work: ShardWork, path: str, trace: str, rows: Rows) -> dict[str, int]:
    """Return the tokens of each slice as the written files have them.

    Raises: ConservationError when they have gaps, differ in size, or a document does not end with EOS.
    """
    names, counts, reached = [d.name for d in work.plan.documents], np.zeros(len(work.plan.documents), np.int64), 0
    with local_copy(trace) as local, pq.ParquetFile(local) as file:
        for table in file.iter_batches(_TRACE_ROWS, columns=["slice", "start", "end"]):
            start, end = table["start"].to_numpy(), table["end"].to_numpy()
            if start[0] != reached or not np.array_equal(start[1:], end[:-1]):
                raise ConservationError(f"{path}: its trace has gaps; this is a bug in Gristmill, delete the folder")
            reached = int(end[-1])
            counts += np.bincount(table["slice"].indices.to_numpy(), end - start, counts.size).astype(np.int64)
    ends = rows.pieces[1:] - 1
    if rows.continues[-1]:
        ends = ends[:-1]
    with local_copy(path) as local:
        size, last = _read_back(work, local, ends)
    if size != reached or not (last == work.eos).all():
        raise ConservationError(
            f"{path}: {size} tokens where its trace has {reached}, and {np.count_nonzero(last != work.eos)} documents "
            f"that do not end with {work.eos}; make the slices again"
        )
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _read_back(work: ShardWork, path: str, ends: Integers) -> tuple[int, Tokens]:
    """Return a shard's number of tokens and those at `ends`, from its file."""
    if work.config.format != "parquet":
        tokens = np.memmap(path, work.dtype, mode="r")
        return tokens.size, tokens[ends]
    size, last = 0, []
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            lists = file.read_row_group(number, columns=["tokens"], use_threads=False)["tokens"].combine_chunks()
            values = lists.values.to_numpy()
            last.append(values[lists.offsets.to_numpy()[1:] - 1])
            size += values.size
    return size, np.concatenate(last)[: ends.size]


def _content(path: str) -> dict[str, Any]:
    """Return a file's size and the 128-bit BLAKE2b of its content."""
    with local_copy(path) as local, open(local, "rb") as file:
        content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return {"bytes": file.tell(), "content": content}


def _data_path(work: ShardWork, number: int) -> str:
    return f"{work.folder}/part-{number:05d}{SUFFIX[work.config.format]}"


def _manifest_path(folder: str, number: int) -> str:
    return f"{folder}/shard-{number:05d}.json"


# The slices' tokens ---------------------------------------------------------------------------------------------------


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
