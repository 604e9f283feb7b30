"""Token stores as the slices step leaves them, and readers of shards that share no code with what wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.mix.types import SliceTokens

EOS = 0


def make_slice(
    folder: Path, name: str, lengths: Sequence[int], vocabulary: int = 1000, dtype: Any = np.uint16
) -> SliceTokens:
    """Write a slice whose documents have these lengths (EOS included) and random tokens."""
    rng = np.random.default_rng([*name.encode(), len(lengths)])
    tokens = rng.integers(1, vocabulary, sum(lengths)).astype(dtype)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens[starts[1:] - 1] = EOS
    ids = [f"{name}-{number:06d}" for number in range(len(lengths))]
    table = pa.table(
        {
            "doc_id": ids,
            "source": [name] * len(ids),
            "start": pa.array(starts[:-1]),
            "tokens": pa.array(lengths, pa.int32()),
            "bytes": pa.array([4 * n for n in lengths], pa.int64()),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", tokens)
    pq.write_table(table, folder / f"{name}.parquet")
    return SliceTokens(
        name, folder / f"{name}.npy", folder / f"{name}.parquet", len(ids), tokens.size, 4 * int(tokens.size)
    )


def documents_of(stores: Sequence[SliceTokens]) -> dict[str, np.ndarray[Any, Any]]:
    """Return every document's tokens by its id."""
    found = {}
    for store in stores:
        tokens = np.load(store.tokens_path)
        for row in pq.read_table(store.documents_path).to_pylist():
            found[row["doc_id"]] = tokens[row["start"] : row["start"] + row["tokens"]]
    return found


def shard_tokens(folder: Path, number: int, form: str, dtype: Any) -> np.ndarray[Any, Any]:
    """Return all tokens of a shard."""
    if form == "parquet":
        lists = pq.read_table(folder / f"part-{number:05d}.parquet")["tokens"].to_pylist()
        return np.array([token for tokens in lists for token in tokens], dtype)
    return np.fromfile(folder / f"part-{number:05d}{'.bin' if form == 'megatron' else '.npy'}", dtype)


def trace(folder: Path, number: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(folder / f"trace-{number:05d}.parquet").to_pylist()
    return rows


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
