"""Text to MinHash signatures, and band keys to components: documents a CPU second, beside other libraries.

    python tests/bench/bench_minhash.py [FOLDER_OF_PARQUET] [--documents N] [--rounds N]
    python tests/bench/bench_minhash.py --components 1000000 [--memory-mb 512] [--verify 0.7]

Rounds are interleaved (ours, rensa, datasketch, ours, ...) and the best of each is printed. All use 112 permutations
over word 5-grams; rensa and datasketch get shingles joined from `str.lower().split()`; every cost from text on counts.
"""

from __future__ import annotations

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
from numpy.typing import NDArray

from pipeline.dedup.components import ComponentSettings, SignaturePart, find_components
from pipeline.dedup.minhash import sign_table
from tests.bench.tables import Table, bench_parser

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


def bench_signatures(folder: Path, count: int, rounds: int, csv: Path | None) -> None:
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
    table = Table("minhash", csv, "library documents_per_cpu_s gristmill_is")
    for name, speed in best.items():
        table.row(name, speed, best["gristmill"] / speed)


def synthetic(rows: int, seed: int) -> tuple[pa.Array, pa.Table]:
    """Return texts of 100 words, of which one in three is another one with 0 to 10 % of words replaced, and signatures.

    Word similarities of 0.4 to 1 are spread evenly, so that many pairs are close to any threshold.
    """
    random = np.random.default_rng(seed)
    words = random.integers(0, 1 << 20, (rows, 100))
    copies = np.flatnonzero(random.random(rows) < 1 / 3)
    words[copies] = words[random.integers(0, rows, copies.size)]
    edited = random.random((copies.size, 100)) < random.random((copies.size, 1)) / 10
    words[copies] = np.where(edited, random.integers(0, 1 << 20, edited.shape), words[copies])
    texts = pa.array([" ".join(map(str, row)) for row in words.tolist()], pa.string())
    ids = pa.array([f"{seed:08x}{i:024x}" for i in range(rows)])
    return texts, sign_table(pa.table({"doc_id": ids, "text": texts}), BANDS, ROWS, WORDS)


def bench_components(documents: int, memory_mb: int, verify: float | None, folder: Path, csv: Path | None) -> None:
    """Texts and signatures lie in Parquet files of 50,000 rows, as in a workspace."""
    parts = []
    for number, start in enumerate(range(0, documents, 50_000)):
        texts, signed = synthetic(min(50_000, documents - start), number)
        signed = signed.append_column("text", texts)
        path = folder / f"{number}.parquet"
        pq.write_table(signed, path, compression="zstd", row_group_size=10_000)
        parts.append(SignaturePart(str(number), len(texts), partial(read, path), partial(read_texts, path)))
    settings = ComponentSettings(BANDS, ROWS, verify=verify, memory_mb=memory_mb)
    find_components(parts[:1], settings, folder)  # compiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begun, start_cpu = time.perf_counter(), time.process_time()
    found = find_components(parts, settings, folder)
    spent, wall = time.process_time() - start_cpu, time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = "documents verify cpu_s wall_s peak_mib before_mib components candidate_pairs close_pairs"
    counts = found.components, found.candidate_pairs, found.close_pairs
    Table("components", csv, figures).row(documents, verify, spent, wall, peak, before, *counts)


def read(path: Path) -> Iterable[pa.Table]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, columns=["doc_id", "text_hash", "shingles", "signature"])


def read_texts(path: Path, rows: NDArray[np.int64]) -> Iterable[pa.Array]:
    yield pq.read_table(path, columns=["text"])["text"].take(pa.array(rows)).combine_chunks()


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=TEXTS)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--components", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--verify", type=float, default=0.7, help="0 joins all pairs that share a band")
    options = parser.parse_args()
    if options.components:
        with tempfile.TemporaryDirectory() as name:
            bench_components(options.components, options.memory_mb, options.verify or None, Path(name), options.csv)
    else:
        bench_signatures(options.folder, options.documents, options.rounds, options.csv)


if __name__ == "__main__":
    main()
