"""How long an export takes against a plain copy with pyarrow: `python tests/bench/bench_export.py [DOCUMENTS]`.

Each is a process of its own: CPU seconds, megabytes of text a second, and the most memory that it held.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.export.export import export
from pipeline.select.decide import SourceSelection
from pipeline.table import schema
from pipeline.table.shards import Group, Identity, Index, PartWriter, Tally, Work, write_options
from pipeline.table.storage import Storage
from tests.bench.tables import Table, bench_parser
from tests.select_workspace import STATS, load_rules, select, selecting

CHUNK = 20_000
LANGUAGES = np.array([f"l{number}" for number in range(150)])
FORMS = {
    "copy": {},
    "parquet": {"form": "parquet"},
    "parquet, some columns, --where": {
        "form": "parquet",
        "columns": ["url", "text", "language", "word_count"],
        "where": "word_count % 2 = 0",
    },
    "jsonl.zst": {"form": "jsonl.zst"},
    "hf": {"form": "hf"},
    "partitioned": {"form": "partitioned", "by": "language"},
}


def write(storage: Storage, rows: int) -> None:
    """Write documents of some 1.6 KB in 150 languages, half of them in one, with what `select` needs of them."""
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(97, 123, size))) for size in random.integers(2, 9, 5000)]
    pool = " ".join(np.array(words)[random.zipf(1.3, 4_000_000) % 5000])
    columns = {"documents": schema.DOCUMENTS, "signals/stats": STATS}
    for folder, table_schema in columns.items():
        group = Group(storage, f"web/{folder}")
        with PartWriter(group, Work("part", Identity("bench", "1"), ()), table_schema) as writer:
            for first in range(0, rows, CHUNK):
                writer.write(_chunk(np.random.default_rng(first), first, min(CHUNK, rows - first), pool, table_schema))
        group.complete([writer.finish(Tally(rows_in=rows))], Index(stage="bench"))
    select(
        selecting(storage, SourceSelection("web", load_rules({"all": "word_count >= 0"}, "bench"), ("signals/stats",)))
    )


def _chunk(random: np.random.Generator, first: int, rows: int, pool: str, columns: pa.Schema) -> pa.Table:
    starts, sizes = random.integers(0, len(pool) - 9000, rows), random.gamma(1.5, 1100, rows).astype(int).clip(20, 9000)
    spoken = np.where(random.random(rows) < 0.5, 0, random.zipf(1.2, rows) % 150)
    values = {
        "doc_id": [f"{number:032x}" for number in range(first, first + rows)],
        "source": ["web"] * rows,
        "url": [f"https://example.org/page/{number}" for number in range(first, first + rows)],
        "text": [pool[start : start + size] for start, size in zip(starts, sizes, strict=True)],
        "origin": [{"file": "f", "offset": number, "record_id": None} for number in range(rows)],
        "metadata": ['{"media_type": "text/html"}'] * rows,
        "text_length": sizes,
        "word_count": (sizes / 6).astype(np.int32),
        "estimated_tokens": sizes / 4,
        "language": LANGUAGES[spoken],
    }
    arrays = [pa.array(values[f.name], f.type) if f.name in values else pa.nulls(rows, f.type) for f in columns]
    return pa.Table.from_arrays(arrays, schema=columns)


def measure(workspace: str, name: str) -> tuple[float, float]:
    """Return CPU seconds and peak megabytes of one way, in a process of its own."""
    storage = Storage.at(workspace)
    if name == "copy":
        import pipeline.export.export  # noqa: F401 - both start with the same imports
    before = time.process_time()
    with tempfile.TemporaryDirectory(dir=os.path.dirname(workspace)) as to:
        if name == "copy":
            _copy(storage, f"{to}/copy.parquet")
        else:
            export(storage, "web", f"{to}/out", **FORMS[name])
        peak = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
        return time.process_time() - before, int(peak[1]) / 1024 if peak else 0.0


def _copy(storage: Storage, path: str) -> None:
    group = Group(storage, "web/curated")
    writer = None
    for part in group.parts():
        file = pq.ParquetFile(storage.path(group.path(part.name)))
        writer = writer or pq.ParquetWriter(path, file.schema_arrow, **write_options(file.schema_arrow))
        for number in range(file.num_row_groups):
            writer.write_table(file.read_row_group(number, use_threads=False))
    if writer:
        writer.close()


def main() -> None:
    """Add a row for each way."""
    parser = bench_parser(__doc__)
    parser.add_argument("documents", nargs="?", type=int, default=100_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.at(f"{folder}/ws")
        write(storage, given.documents)
        text = sum(
            file.metadata.row_group(group).column(3).total_uncompressed_size
            for part in Group(storage, "web/curated").parts()
            for file in [pq.ParquetFile(storage.path(f"web/curated/{part.name}.parquet"))]
            for group in range(file.num_row_groups)
        )
        table = Table("export", given.csv, "form documents text_mb cpu_s mb_per_cpu_s against_copy peak_mb")
        plain = 0.0
        for name in FORMS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, peak = pool.apply(measure, (f"{folder}/ws", name))
            plain = plain or seconds
            table.row(name, given.documents, text / 1e6, seconds, text / 1e6 / seconds, seconds / plain, peak)


if __name__ == "__main__":
    main()
