"""Token shards: tokens a second of a core, beside plain copies of the same bytes; the plan alone; memory.

    python tests/bench/bench_sample.py [--tokens N] [--document-tokens N] [--rounds N] [--folder DIR]
    python tests/bench/bench_sample.py --plan            # 2e9 tokens of 2e6 documents: only the plan
    python tests/bench/bench_sample.py --memory          # peak memory at three budgets, each in a process of its own

Rounds are interleaved (copy, copy and hash, sample, copy, ...) and the best of each is printed. `copy` is np.copyto of
the shards' bytes in memory, the bound of anything that moves them; `copy, hash and write` also does what every shard
needs: BLAKE2b of its bytes, and writing them to the same folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.mix.config import SampleConfig
from pipeline.mix.shards.plan import Documents, make_plan, tokens_asked
from pipeline.mix.shards.sample import sample
from pipeline.mix.types import SliceTokens
from tests.bench.tables import Table, bench_parser

VOCABULARY, EOS = 32_000, 0
WEIGHTS = np.array([0.5, 0.3, 0.2])


def make_store(folder: Path, name: str, n_tokens: int, document_tokens: int) -> SliceTokens:
    rng = np.random.default_rng([*name.encode()])
    lengths = rng.integers(document_tokens // 2, document_tokens * 3 // 2, max(n_tokens // document_tokens, 1))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = rng.integers(1, VOCABULARY, int(starts[-1]), np.uint16)
    tokens[starts[1:] - 1] = EOS
    ids = [f"{name}{number:0{32 - len(name)}x}" for number in range(lengths.size)]
    columns = {"doc_id": ids, "start": starts[:-1], "tokens": lengths.astype(np.int32)}
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    np.save(folder / f"{name}.npy", tokens)
    return SliceTokens(name, folder / f"{name}.npy", folder / f"{name}.parquet", lengths.size, tokens.size, tokens.size)


def make_stores(folder: Path, tokens: int, document_tokens: int) -> list[SliceTokens]:
    return [make_store(folder, name, tokens // 3, document_tokens) for name in ("web", "wiki", "code")]


def run(stores: list[SliceTokens], budget: int, out: Path, form: str = "npy") -> None:
    shutil.rmtree(out, ignore_errors=True)
    config = SampleConfig.model_validate({"format": form, "shard_tokens": 50_000_000})
    caps = np.full(3, 1000.0)
    report = sample(stores, WEIGHTS, budget, out, config, max_epochs=caps, vocabulary=VOCABULARY, eos=EOS, key="")
    assert report.tokens == budget


def copied(source: np.ndarray, target: np.ndarray) -> None:
    np.copyto(target, source)


def copied_and_written(source: np.ndarray, target: np.ndarray, path: Path) -> None:
    np.copyto(target, source)
    hashlib.blake2b(target.data, digest_size=16)
    with open(path, "wb") as stream:
        stream.write(target.data)
        os.fsync(stream.fileno())


def timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(folder: Path, tokens: int, document_tokens: int, rounds: int, csv: Path | None) -> None:
    stores = make_stores(folder, tokens, document_tokens)
    source, target = np.ones(tokens, np.uint16), np.ones(tokens, np.uint16)
    works: dict[str, Callable[[], None]] = {
        "copy": lambda: copied(source, target),
        "copy, hash and write": lambda: copied_and_written(source, target, folder / "copied"),
        "sample, npy": lambda: run(stores, tokens, folder / "out"),
        "sample, megatron": lambda: run(stores, tokens, folder / "out", "megatron"),
        "sample, parquet": lambda: run(stores, tokens, folder / "out", "parquet"),
    }
    run(stores, 1_000_000, folder / "out")  # compiles
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(timed(work))
    table = Table("sample", csv, "work tokens document_tokens million_tokens_per_cpu_s million_tokens_per_s")
    for name, found in times.items():
        wall, cpu = min(w for w, _ in found), min(c for _, c in found)
        table.row(name, tokens, document_tokens, tokens / cpu / 1e6, tokens / wall / 1e6)


def plan(n_tokens: int, n_documents: int, csv: Path | None) -> None:
    rng = np.random.default_rng(1)
    mean, documents = n_tokens // n_documents, []
    for name, share in zip(("web", "wiki", "code"), WEIGHTS, strict=True):
        lengths = rng.integers(mean // 2, mean * 3 // 2, int(n_documents * share)).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        documents.append(Documents(name, pa.array([], pa.large_string()), starts, lengths))
    before = time.perf_counter()
    asked = tokens_asked(WEIGHTS, n_tokens, documents, np.full(3, 4.0))
    made = make_plan(documents, asked, 1, 100_000_000)
    took = time.perf_counter() - before
    Table("sample-plan", csv, "tokens documents shards s").row(n_tokens, made.slice.size, made.n_shards, took)


def memory(folder: Path, tokens: int, document_tokens: int, csv: Path | None) -> None:
    table = Table("sample-memory", csv, "tokens of_tokens peak_mb")
    make_stores(folder, tokens, document_tokens)
    for times in (1, 4, 16):
        command = [sys.executable, __file__, "--peak", str(times * tokens), "--folder", str(folder)]
        peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        table.row(times * tokens, tokens, int(peak) / 1024)


def peak(folder: Path, budget: int) -> None:
    stores = []
    for name in ("web", "wiki", "code"):
        paths = folder / f"{name}.npy", folder / f"{name}.parquet"
        size = np.load(paths[0], mmap_mode="r").size
        stores.append(SliceTokens(name, *paths, pq.read_metadata(paths[1]).num_rows, size, size))
    run(stores, budget, folder / "out")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--tokens", type=int, default=200_000_000)
    parser.add_argument("--document-tokens", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        peak(chosen.folder, chosen.peak)
        return
    if chosen.plan:
        plan(2_000_000_000, 2_000_000, chosen.csv)
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        if chosen.memory:
            memory(Path(folder), chosen.tokens, chosen.document_tokens, chosen.csv)
        else:
            speed(Path(folder), chosen.tokens, chosen.document_tokens, chosen.rounds, chosen.csv)


if __name__ == "__main__":
    main()
