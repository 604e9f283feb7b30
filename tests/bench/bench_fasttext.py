"""Language identification: this kernel against fastText's `predict`, interleaved, CPU seconds of one thread.

Run: `python tests/bench/bench_fasttext.py [DOCUMENTS.jsonl] [--rounds 5]`; a JSON line needs a `text`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fasttext
import pyarrow as pa

from pipeline.inputs.shipped import lid_model_path
from pipeline.kernels import fasttext as kernel
from pipeline.table.schema import text_buffers
from tests.bench.tables import Table, bench_parser

DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "web" / "web-dev-gold.jsonl"


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def predict_each(model: Any, texts: list[str]) -> None:
    for text in texts:
        model.predict(text)


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("documents", nargs="?", type=Path, default=DEFAULT)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    lines = arguments.documents.read_bytes().split(b"\n")
    texts = [text for line in lines if line and (text := json.loads(line).get("text"))]
    ours, theirs = kernel.load(lid_model_path()), fasttext.load_model(str(lid_model_path()))
    size = sum(len(text.encode()) for text in texts)
    print(f"{len(texts)} documents, {size / len(texts):.0f} bytes each, best of {arguments.rounds}")
    table = Table("fasttext", arguments.csv, "characters documents_per_cpu_s fasttext_per_cpu_s ratio")
    for limit in (None, 3_000, 300):
        clean = [text[:limit].replace("\n", " ") for text in texts]
        data, offsets = text_buffers(pa.array(clean, pa.large_string()))
        kernel.predict(ours, data, offsets)  # compiled before the clock runs
        work = (partial(kernel.predict, ours, data, offsets), partial(predict_each, theirs, clean))
        rounds = [[seconds(run) for run in work] for _ in range(arguments.rounds)]
        own, other = (len(texts) / min(column) for column in zip(*rounds, strict=True))
        table.row(limit or "all", own, other, own / other)


if __name__ == "__main__":
    main()
