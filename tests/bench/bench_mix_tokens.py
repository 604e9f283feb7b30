"""Tokenising for a mix, and looking for evaluation items: the table of pieces against the library, in one run.

    python tests/bench/bench_mix_tokens.py [FOLDER WITH *.jsonl.zst] [FOLDER WITH TASKS]

CPU seconds of one thread, kernels compiled before; rounds of the two tokenisers alternate.
"""

from __future__ import annotations

import io
import json
import sys
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


def main(sources: Path, tasks: Path) -> None:
    texts = [text for name in SOURCES for text in texts_of(sources / f"{name}.jsonl.zst")]
    array = pa.array(texts, pa.large_string())
    size = array.nbytes / 1e6
    start = time.process_time()
    trained = train_tokenizer(texts, 4096)
    print(f"training 4096 tokens on {size:.0f} MB: {time.process_time() - start:.1f} CPU s")
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
        ratio = median(library) / median(times)
        print(f"{name:24s} {tokens / median(times):6.2f} M tokens a CPU second ({ratio:.1f} x)")
    items = []
    for file in sorted(tasks.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_bytes().splitlines()]
        items.append(Task(file.stem, "", tuple(Item(row["id"], row["prompt"], row["continuation"]) for row in rows)))
    contaminated_documents(array[:2], index_items(items, 13))
    start = time.process_time()
    index = index_items(items, 13)
    print(f"index of {sum(len(task.items) for task in items)} items: {time.process_time() - start:.2f} CPU s")
    scan = median(cpu_s(lambda: contaminated_documents(array, index)) for _ in range(ROUNDS))
    print(f"looking for them: {size / scan:.0f} MB a CPU second")


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*(given or [DATA / "sources", DATA / "eval"]))
