"""Documents per CPU second of the text statistics and a rule preset, on one thread.

    python tests/bench/bench_text_stats.py [--texts DIR] [--rules fineweb] [--limit N] [--repeats 5]

One row a repeat: statistics by the kernel, rules by DuckDB over the narrow table. Reading the
Parquet files and compiling the kernel are not counted; language columns are constants here, as they are another signal.
"""

from __future__ import annotations

import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipeline.signals.text_stats import text_stats
from tests.bench.tables import Table, bench_parser

ROOT = Path(__file__).resolve().parents[2]
BATCH = 5_000


def read_texts(folder: Path, limit: int) -> pa.Table:
    """Return `doc_id` and `text` of the Parquet files in `folder`."""
    paths = sorted(folder.glob("*.parquet"))
    texts = pa.concat_tables([pq.read_table(path, columns=["id", "text"]) for path in paths])
    return texts.rename_columns(["doc_id", "text"]).slice(0, limit).combine_chunks()


def measure(texts: pa.Table) -> tuple[pa.Table, float]:
    """Return the statistics of all texts, in batches, and the CPU seconds they took."""
    began = time.process_time()
    parts = [text_stats(texts.slice(start, BATCH)) for start in range(0, texts.num_rows, BATCH)]
    return pa.concat_tables(parts), time.process_time() - began


def decide(stats: pa.Table, rules: dict[str, str]) -> tuple[int, float]:
    """Return how many documents pass all rules, each rule's value taken apart, and the CPU seconds that took."""
    connection = duckdb.connect(config={"threads": 1})
    began = time.process_time()
    narrow = stats.append_column("language", pa.array(["en"] * len(stats)))
    connection.register("narrow", narrow.append_column("language_score", pa.array([1.0] * len(stats))))
    columns = ", ".join(f"coalesce({predicate}, false) as {name}" for name, predicate in rules.items())
    passes = " and ".join(rules)
    query = f"select count(*) filter (where {passes}) from (select {columns} from narrow)"
    row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0]), time.process_time() - began


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--texts", type=Path, default=ROOT.parent / "shared" / "peers" / "datatrove" / "texts")
    parser.add_argument("--rules", default="fineweb")
    parser.add_argument("--limit", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rules = yaml.safe_load((ROOT / "configs" / "rules" / f"{options.rules}.yaml").read_text())["rules"]
    texts = read_texts(options.texts, options.limit)
    text_stats(texts.slice(0, 10))
    table = Table("text-stats", options.csv, "documents kept statistics_cpu_s rules_cpu_s documents_per_cpu_s")
    for _ in range(options.repeats):
        stats, stats_s = measure(texts)
        kept, rules_s = decide(stats, rules)
        table.row(texts.num_rows, kept, stats_s, rules_s, texts.num_rows / (stats_s + rules_s))


if __name__ == "__main__":
    main()
