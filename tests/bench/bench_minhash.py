"""Text to MinHash signatures, and band keys to components: documents a CPU second, beside other libraries.

    python tests/bench/bench_minhash.py [FOLDER_OF_PARQUET] [--documents N] [--rounds N]
    python tests/bench/bench_minhash.py --components 10000000 [--memory-mb 512]

Rounds are interleaved (ours, rensa, datasketch, ours, ...) and the best of each is printed. All use 112 permutations
over word 5-grams; rensa and datasketch get shingles joined from `str.lower().split()`; every cost from text on counts.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import datasketch
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rensa

from pipeline.dedup.components import ComponentSettings, SignaturePart, find_components
from pipeline.dedup.minhash import sign_table, signatures_schema

BANDS, ROWS, WORDS = 14, 8, 5
TEXTS = Path(__file__).resolve().parents[2].parent / "shared" / "peers" / "datatrove" / "texts"
PEER_SHARE = 20
"""The others see every 20th document, so that a round takes seconds."""


def load(folder: Path, count: int) -> pa.Table:
    table = pa.concat_tables([pq.read_table(path, columns=["id", "text"]) for path in sorted(folder.glob("*.parquet"))])
    return table.slice(0, count).rename_columns(["doc_id", "text"]).combine_chunks()


def shingles(text: str) -> list[str]:
    words = text.lower().split()
    return [" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))]


def with_rensa(texts: list[str]) -> None:
    for text in texts:
        sketch = rensa.RMinHash(num_perm=BANDS * ROWS, seed=1)
        sketch.update(shingles(text))
        sketch.digest()


def with_datasketch(texts: list[str]) -> None:
    datasketch.MinHash.bulk(([s.encode() for s in shingles(text)] for text in texts), num_perm=BANDS * ROWS)


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def bench_signatures(folder: Path, count: int, rounds: int) -> None:
    documents = load(folder, count)
    few = documents["text"].to_pylist()[::PEER_SHARE]
    sign_table(documents.slice(0, 10), BANDS, ROWS, WORDS)  # compiles
    runs: dict[str, tuple[int, Callable[[], object]]] = {
        "gristmill": (documents.num_rows, lambda: sign_table(documents, BANDS, ROWS, WORDS)),
        "rensa RMinHash": (len(few), lambda: with_rensa(few)),
        "datasketch bulk": (len(few), lambda: with_datasketch(few)),
    }
    best = dict.fromkeys(runs, 0.0)
    for _ in range(rounds):
        for name, (documents_done, work) in runs.items():
            best[name] = max(best[name], documents_done / cpu_seconds(work))
    mean = documents["text"].nbytes / documents.num_rows
    print(f"{documents.num_rows} documents of {mean:.0f} bytes, {BANDS * ROWS} permutations, best of {rounds} rounds")
    print(f"{'':16} {'docs/CPU s':>12} {'gristmill is':>14}")
    for name, speed in best.items():
        print(f"{name:16} {speed:12,.0f} {best['gristmill'] / speed:12.1f} x")


def synthetic(rows: int, seed: int) -> Iterable[pa.Table]:
    """Yield signatures of which one in three repeats most bands of another one of its table."""
    schema = signatures_schema(BANDS)
    random = np.random.default_rng(seed)
    for start in range(0, rows, 50_000):
        count = min(50_000, rows - start)
        values = random.integers(0, 1 << 32, (count, BANDS), dtype=np.uint32)
        copies = np.flatnonzero(random.random(count) < 1 / 3)
        values[copies] = values[random.integers(0, count, copies.size)]
        values[copies, random.integers(0, BANDS, copies.size)] += np.uint32(1)
        columns = [
            pa.array(np.full(count, "0" * 32)),
            pa.array(random.integers(0, 1 << 63, count, dtype=np.uint64)),
            pa.array(np.ones(count, np.int32)),
            pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=schema.field("signature").type),
        ]
        yield pa.Table.from_arrays(columns, schema=schema)


def bench_components(documents: int, memory_mb: int) -> None:
    """One value a band stands for eight: the exchange and the tables see the same keys."""
    rows = 500_000
    sizes = [min(rows, documents - start) for start in range(0, documents, rows)]
    parts = [SignaturePart(f"p{i}", size, partial(synthetic, size, i)) for i, size in enumerate(sizes)]
    generate = cpu_seconds(lambda: [table.num_rows for part in parts for table in part.read()])
    settings = ComponentSettings(BANDS, 1, memory_mb=memory_mb)
    with tempfile.TemporaryDirectory() as folder:
        find_components(parts[:1], settings, Path(folder))  # compiles
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        begun = time.perf_counter()
        start = time.process_time()
        found = find_components(parts, settings, Path(folder))
        spent = time.process_time() - start - generate
        wall = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{documents:,} documents x {BANDS} bands + text hash: {spent:.1f} CPU s (generating: {generate:.1f} more)")
    print(f"{documents / spent:,.0f} docs/CPU s, wall {wall:.0f} s, peak RSS {peak:.0f} MiB ({before:.0f} before)")
    print(f"{found.components:,} components, {found.candidate_pairs:,} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=TEXTS)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--components", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=512)
    options = parser.parse_args()
    if options.components:
        bench_components(options.components, options.memory_mb)
    else:
        bench_signatures(options.folder, options.documents, options.rounds)


if __name__ == "__main__":
    main()
