"""Token shards in the formats that trainers read, each file written under a temporary name and renamed.

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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.table.kept import create_file

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
def _new_file(path: Path) -> Iterator[_NewFile]:
    """Write a file that appears under its name, durably, when the block ends without an error."""
    with create_file(path) as stream:
        yield _NewFile(stream, path.name)


def write_bytes(path: Path, parts: Iterable[Any]) -> Written:
    """Write buffers one after another."""
    with _new_file(path) as new:
        for part in parts:
            new.write(part)
    return new.written()


def write_tokens(path: Path, blocks: Iterable[Tokens]) -> Written:
    """Write tokens without a header; the blocks may share one buffer."""
    return write_bytes(path, (block.data.cast("B") for block in blocks if block.size))


def write_table(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> Written:
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


def write_boundaries(path: Path, pieces: NDArray[np.int64]) -> Written:
    """Write `start,end` of every document; `pieces` are their first tokens and the end, int64 (n + 1,)."""
    text = pa.BufferOutputStream()
    pacsv.write_csv(pa.table({"start": pieces[:-1], "end": pieces[1:]}), text, pacsv.WriteOptions(include_header=False))
    return write_bytes(path, [gzip.compress(text.getvalue(), compresslevel=1, mtime=0)])


def write_megatron_index(path: Path, pieces: NDArray[np.int64], dtype: np.dtype[Any]) -> Written:
    """Write the index of a `.bin`: each document is one sequence; `pieces` as for `write_boundaries`."""
    lengths = np.diff(pieces)
    header = struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, _MEGATRON_CODE[dtype], lengths.size, lengths.size + 1)
    arrays = (
        lengths.astype("<i4"),
        (pieces[:-1] * dtype.itemsize).astype("<i8"),
        np.arange(lengths.size + 1, dtype="<i8"),
    )
    return write_bytes(path, [header, *(array.data.cast("B") for array in arrays if array.size)])
