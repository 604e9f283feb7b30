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
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.mix.config import SampleConfig
from pipeline.mix.shards.plan import Integers, Plan, Rows, borders
from pipeline.mix.shards.token_store import Stores
from pipeline.table.errors import ConservationError, ShardError
from pipeline.table.kept import create_file, done, local_copy, write_json

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


@dataclass(frozen=True)
class Written:
    """A finished file: its name, size, and the 128-bit BLAKE2b of its content."""

    name: str
    bytes: int
    content: str


def token_dtype(form: Format, vocabulary: int) -> np.dtype[Any]:
    """Return the type of tokens that readers of a format expect for a vocabulary."""
    if form == "megatron":
        return np.dtype("<u2" if vocabulary < _MEGATRON_UINT16 else "<i4")
    return np.dtype("<u2" if vocabulary <= 1 << 16 else "<u4")


def data_schema(dtype: np.dtype[Any]) -> pa.Schema:
    """Return the columns of Parquet shards."""
    tokens = pa.list_(pa.from_numpy_dtype(dtype))
    names = pa.dictionary(pa.int32(), pa.string())
    return pa.schema([("doc_id", pa.string()), ("slice", names), ("epoch", pa.int32()), ("tokens", tokens)])


class _NewFile:
    """A file that is being written: hashes what passes, and looks enough like a file for Arrow."""

    closed = False

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream, self._name, self._size = stream, name, 0
        self._content = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._content.update(view)
        done = 0
        while done < view.nbytes:
            done += self._stream.write(view[done:]) or 0
        self._size += done
        return done

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Who opened the file closes it."""

    def written(self) -> Written:
        return Written(self._name, self._size, self._content.hexdigest())


@contextmanager
def _new_file(path: str) -> Iterator[_NewFile]:
    """Write a file that appears under its name, durably, when the block ends without an error."""
    with create_file(path) as stream:
        yield _NewFile(stream, path.rpartition("/")[2])


def write_bytes(path: str, parts: Iterable[Any]) -> Written:
    """Write buffers one after another."""
    with _new_file(path) as new:
        for part in parts:
            new.write(part)
    return new.written()


def write_tokens(path: str, blocks: Iterable[Tokens]) -> Written:
    """Write tokens without a header; the blocks may share one buffer."""
    return write_bytes(path, (block.data.cast("B") for block in blocks if block.size))


def write_table(path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> Written:
    """Write a Parquet file, a row group a table."""
    options = {
        "compression": "zstd",
        "compression_level": 1,  # random ids and tokens do not shrink much more at the slow levels
        "use_dictionary": [name for name in ("slice", "epoch") if name in schema.names],
        "write_statistics": [name for name in schema.names if name != "tokens"],
    }
    if "tokens" in schema.names:  # low and high bytes apart: a quarter smaller than plain values, and twice as fast
        options["column_encoding"] = {"tokens.list.element": "BYTE_STREAM_SPLIT"}
    with _new_file(path) as new, pq.ParquetWriter(pa.PythonFile(new, mode="w"), schema, **options) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
    return new.written()


def write_boundaries(path: str, pieces: NDArray[np.int64]) -> Written:
    """Write `start,end` of every document; `pieces` are their first tokens and the end, int64 (n + 1,)."""
    text = pa.BufferOutputStream()
    pacsv.write_csv(pa.table({"start": pieces[:-1], "end": pieces[1:]}), text, pacsv.WriteOptions(include_header=False))
    return write_bytes(path, [gzip.compress(text.getvalue(), compresslevel=1, mtime=0)])


def write_megatron_index(path: str, pieces: NDArray[np.int64], dtype: np.dtype[Any]) -> Written:
    """Write the index of a `.bin`: each document is one sequence; `pieces` as for `write_boundaries`."""
    lengths = np.diff(pieces)
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, _MEGATRON_CODE[dtype], lengths.size, lengths.size + 1)
    arrays = (
        lengths.astype("<i4"),
        (pieces[:-1] * dtype.itemsize).astype("<i8"),
        np.arange(lengths.size + 1, dtype="<i8"),
    )
    return write_bytes(path, [header, *(array.data.cast("B") for array in arrays if array.size)])


BLOCK_TOKENS = 1 << 22
"""Tokens gathered at once: what a thread holds in memory."""
_TRACE_ROWS = 1 << 16

Manifest = dict[str, Any]


@dataclass(frozen=True)
class ShardWork:
    """What writing a shard needs. `halted` is set when the run is to end early."""

    folder: str
    key: str
    plan: Plan
    stores: Stores
    config: SampleConfig
    vocabulary: int
    eos: int
    on_progress: Callable[[int], None]
    stop: Callable[[], bool]
    halted: threading.Event

    @property
    def dtype(self) -> np.dtype[Any]:
        return token_dtype(self.config.format, self.vocabulary)


class _HaltedError(Exception):
    """Ends a shard that is being written when another failed or the caller asked to stop."""


# Shards ---------------------------------------------------------------------------------------------------------------


def write_shards(work: ShardWork, workers: int) -> tuple[list[Manifest], int]:
    """Write every unfinished shard; return the manifests of the finished ones, in order, and how many are new."""
    manifests: dict[int, Manifest] = {}
    for number in range(work.plan.n_shards):
        manifest = _finished(work, number)
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
    return _gathered(manifests, futures)


def _gathered(manifests: dict[int, Manifest], futures: Mapping[int, Future[Manifest]]) -> tuple[list[Manifest], int]:
    """Return all manifests in order; raise what made a shard fail, unless it was only told to stop."""
    written = 0
    for number, future in futures.items():
        if future.cancelled():
            continue
        error = future.exception()
        if error is None:
            manifests[number] = future.result()
            written += 1
        elif not isinstance(error, _HaltedError):
            raise error
    return [manifests[number] for number in sorted(manifests)], written


def _write_shard(work: ShardWork, number: int) -> Manifest:
    """Write a shard's files, look at what they hold, and write its manifest.

    Raises: ShardError when the disk refuses.
    """
    low, high = int(work.plan.shards[number]), int(work.plan.shards[number + 1])
    rows = work.plan.rows(low, high)
    files = _write_data(work, number, rows)
    files.append(write_table(trace_path(work.folder, number), TRACE, _trace_tables(work.plan, rows)))
    manifest = {
        "key": work.key,
        "shard": number,
        "tokens": _count(work, number, rows),
        "documents": int(rows.pieces.size - 1),
        "files": {file.name: {"bytes": file.bytes, "content": file.content} for file in files},
    }
    write_json(_manifest_path(work.folder, number), manifest)
    return manifest


def _write_data(work: ShardWork, number: int, rows: Rows) -> list[Written]:
    path, stem = _data_path(work, number), f"{work.folder}/part-{number:05d}"
    match work.config.format:
        case "npy":
            return [write_tokens(path, _blocks(work, rows)), write_boundaries(f"{stem}.csv.gz", rows.pieces)]
        case "megatron":
            index = write_megatron_index(f"{stem}.idx", rows.pieces, work.dtype)
            return [write_tokens(path, _blocks(work, rows)), index]
        case "parquet":
            return [write_table(path, data_schema(work.dtype), _data_tables(work, rows))]


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
    schema = data_schema(work.dtype)
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


def _trace_tables(plan: Plan, rows: Rows) -> Iterator[pa.Table]:
    for first in range(0, rows.start.size, _TRACE_ROWS):
        chosen = np.arange(first, min(first + _TRACE_ROWS, rows.start.size))
        start, length = rows.start[chosen], rows.length[chosen]
        numbers = (rows.epoch[chosen].astype(np.int32), start, start + length, rows.document_start[chosen])
        columns = [_names(plan, rows, chosen), _doc_ids(plan, rows, chosen), *map(pa.array, numbers)]
        columns += [pa.array(rows.cut[chosen]), pa.array(rows.continues[chosen])]
        yield pa.Table.from_arrays(columns, schema=TRACE)


def _names(plan: Plan, rows: Rows, chosen: Integers) -> pa.Array:
    names = pa.array([d.name for d in plan.documents], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(rows.slice[chosen].astype(np.int32)), names)


def _doc_ids(plan: Plan, rows: Rows, chosen: Integers) -> pa.Array:
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


def _count(work: ShardWork, number: int, rows: Rows) -> dict[str, int]:
    """Return the tokens of each slice as the written files have them.

    Raises: ConservationError when they have gaps, differ in size, or a document does not end with EOS.
    """
    names, counts, reached = [d.name for d in work.plan.documents], np.zeros(len(work.plan.documents), np.int64), 0
    path = _data_path(work, number)
    with local_copy(trace_path(work.folder, number)) as trace, pq.ParquetFile(trace) as file:
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


def _finished(work: ShardWork, number: int) -> Manifest | None:
    """Return the manifest of a shard that is done; a damaged one is written anew."""
    try:
        return done(_manifest_path(work.folder, number), {"key": work.key})
    except ShardError:
        return None


def _data_path(work: ShardWork, number: int) -> str:
    return f"{work.folder}/part-{number:05d}{SUFFIX[work.config.format]}"


def trace_path(folder: str, number: int) -> str:
    return f"{folder}/trace-{number:05d}.parquet"


def _manifest_path(folder: str, number: int) -> str:
    return f"{folder}/shard-{number:05d}.json"
