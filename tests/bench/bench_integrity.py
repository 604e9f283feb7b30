"""What it costs to hold every part against its digest: hashing, the first and second query, a run with nothing to do.

python tests/bench/bench_integrity.py [--documents 20000]
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from pipeline.table.shards import VERIFIED, content
from pipeline.table.storage import Storage
from tests.bench.tables import Table, bench_parser
from tests.local_run import WORDS, run_all, write_jsonl

RUNS = 3


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def gristmill(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "flows.cli", *arguments], check=True, capture_output=True)


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    given = parser.parse_args()
    table = Table("integrity", given.csv, "what mb cold_s warm_s")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [
            {
                "text": " ".join(WORDS[(n * 7 + k * k) % len(WORDS)] + str(n * k % 997) for k in range(400)),
                "url": f"u:{n}",
            }
            for n in range(given.documents)
        ]
        write_jsonl(root / "a.jsonl", rows)
        config = {
            "workspace": str(root / "ws"),
            "sources": {"web": {"format": "jsonl", "inputs": [str(root / "a.jsonl")]}},
            "dedup": {},
            "select": {"rules": {"words": "word_count > 3"}},
        }
        with contextlib.redirect_stderr(io.StringIO()):
            table.row("first run", None, seconds(lambda: run_all(config)), None)
        (root / "curate.yaml").write_text(yaml.safe_dump(config))
        storage = Storage.at(str(root / "ws"))
        files = [path for path in storage.files("") if path.endswith(".parquet")]
        size = sum(storage.fs.size(storage.path(path)) for path in files)
        hashed = min(seconds(lambda: [content(storage, *path.rsplit("/", 1)) for path in files]) for _ in range(RUNS))
        table.row(f"hashing {len(files)} parts in one thread", size / 1e6, None, hashed)

        def ask() -> None:
            gristmill("sql", str(root / "ws"), "SELECT outcome, count(*) FROM outcomes GROUP BY ALL")

        def run() -> None:
            gristmill("run", str(root / "curate.yaml"))

        for name, work in (("sql", ask), ("run with nothing to do", run)):
            cold = []
            for _ in range(RUNS):
                for path in storage.files(VERIFIED):
                    storage.delete(path)
                cold.append(seconds(work))
            warm = min(seconds(work) for _ in range(RUNS))
            table.row(name, None, min(cold), warm)
        table.row("check", None, None, seconds(lambda: gristmill("check", str(root / "ws"))))


if __name__ == "__main__":
    main()
