"""Tokenising for a mix, and looking for evaluation items: the table of pieces against the library, in one run.

    python tests/bench/bench_mix_tokens.py [FOLDER WITH *.jsonl.zst] [FOLDER WITH TASKS]

CPU seconds of one thread, kernels compiled before; rounds of the two tokenisers alternate.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import zstandard

from pipeline.mix.material.contamination import contaminated_documents, index_items
from pipeline.mix.material.tokenizer import _library_encode, load_tokenizer, train_tokenizer
from pipeline.mix.types import Item, Task
from tests.bench.tables import Table, bench_parser

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ROUNDS = 3
SOURCES = ("web", "code", "math", "wikipedia", "books")


def texts_of(path: Path) -> list[str]:
    with path.open("rb") as raw:
        return [json.loads(line)["text"] for line in io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))]


def cpu_s(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("sources", nargs="?", type=Path, default=DATA / "sources")
    parser.add_argument("tasks", nargs="?", type=Path, default=DATA / "eval")
    given = parser.parse_args()
    table = Table("mix-tokens", given.csv, "what figure unit")
    texts = [text for name in SOURCES for text in texts_of(given.sources / f"{name}.jsonl.zst")]
    array = pa.array(texts, pa.large_string())
    size = array.nbytes / 1e6
    start = time.process_time()
    trained = train_tokenizer(texts, 4096)
    table.row(f"training 4096 tokens on {size:.0f} MB", time.process_time() - start, "CPU s")
    (path := Path("/tmp/bench-mix-tokenizer.json")).write_text(trained.text, "utf-8")
    trained.encode_batch(["warm"])
    cold, warm, library = [], [], []
    for _ in range(ROUNDS):
        fresh = load_tokenizer(path)
        cold.append(cpu_s(lambda fresh=fresh: fresh.encode_flat(array)))
        library.append(cpu_s(lambda: _library_encode(trained._library, texts, np.dtype(np.uint16))))
        warm.append(cpu_s(lambda fresh=fresh: fresh.encode_flat(array)))
    path.unlink()
    tokens = len(trained.encode_flat(array)[0]) / 1e6
    for name, times in (("table of pieces, empty", cold), ("table of pieces, filled", warm), ("library", library)):
        table.row(name, tokens / median(times), "million tokens a CPU s")
    items = []
    for file in sorted(given.tasks.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_bytes().splitlines()]
        items.append(Task(file.stem, "", tuple(Item(row["id"], row["prompt"], row["continuation"]) for row in rows)))
    contaminated_documents(array[:2], index_items(items, 13))
    start = time.process_time()
    index = index_items(items, 13)
    table.row(f"index of {sum(len(task.items) for task in items)} items", time.process_time() - start, "CPU s")
    scan = median(cpu_s(lambda: contaminated_documents(array, index)) for _ in range(ROUNDS))
    table.row("looking for them", size / scan, "MB a CPU s")


if __name__ == "__main__":
    main()
