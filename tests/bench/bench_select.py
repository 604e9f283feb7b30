"""How long rules take: `python tests/bench/bench_select.py [DOCUMENTS]`. CPU seconds, one thread.

Documents have 40 measured columns and 37 rules, which about three quarters of them fail: more than FineWeb has.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque

import numpy as np
import pyarrow as pa

from pipeline.select.decide import Chunk, SourceSelection, answers, failure_value, resolve
from pipeline.select.rules import check_rules, load_rules
from pipeline.select.wide_table import CHUNK_ROWS
from pipeline.table import schema
from pipeline.table.query import column_types
from pipeline.table.shards import Group, Identity, Index, PartWriter, Tally, Work
from pipeline.table.storage import Storage
from tests.bench.tables import Table, bench_parser
from tests.select_workspace import select, selecting

COLUMNS = 40
RULES = {f"rule_{number}": f"x{number} between 0.02 and 0.98" for number in range(37)}
FOLDERS = ("signals/stats", "duplicates", "scores/quality")


def measured(rows: int) -> dict[str, pa.Table]:
    """Return the groups of `rows` documents of 3 KB, a third of which lie in components of three."""
    random = np.random.default_rng(0)
    ids = pa.array([f"{value:032x}" for value in random.permutation(rows)])
    lone = random.random((rows, COLUMNS), np.float32)
    first = np.arange(rows) - np.where(np.arange(rows) % 9 < 3, np.arange(rows) % 9, 0)
    size = np.where((np.arange(rows) % 9 < 3) & (first + 2 < rows), 3, 1)
    first = np.where(size == 1, np.arange(rows), first)
    text = "".join(chr(97 + value) for value in random.integers(0, 26, 3100))
    nulls = pa.nulls(rows, pa.string())
    origin = {"file": pa.array(["f"] * rows), "offset": pa.array(np.arange(rows)), "record_id": nulls}
    documents = {
        "doc_id": ids,
        "source": pa.array(["web"] * rows),
        "url": pa.array([f"https://example.org/page/{number}" for number in range(rows)]),
        "text": pa.array([text] * rows),
        **dict.fromkeys(("title", "licence", "parent_id", "metadata"), nulls),
        "date": pa.nulls(rows, schema.TIMESTAMP),
        "origin": pa.StructArray.from_arrays(list(origin.values()), names=list(origin)),
    }
    stats = {"text_length": pa.array(random.integers(10, 9000, rows)), "estimated_tokens": pa.array(lone[:, 0] * 4)}
    duplicates = {"component_id": ids.take(pa.array(first)), "component_size": pa.array(size)}
    duplicates |= {"method": nulls, "text_hash": pa.array(np.arange(rows, dtype=np.uint64))}
    scores = {"score": pa.array(lone[:, 1]), "probability": pa.array(lone[:, 1]), "rank": pa.nulls(rows, pa.int8())}
    return {
        "documents": schema.conform(pa.table(documents), schema.DOCUMENTS),
        "signals/stats": pa.table({"doc_id": ids, **{f"x{i}": lone[:, i] for i in range(COLUMNS)}, **stats}),
        "duplicates": schema.conform(pa.table({"doc_id": ids, **duplicates}), schema.DUPLICATES),
        "scores/quality": schema.conform(pa.table({"doc_id": ids, **scores}), schema.SCORES),
    }


def write(storage: Storage, groups: dict[str, pa.Table]) -> None:
    """Write the groups as one part each."""
    for folder, table in groups.items():
        group = Group(storage, f"web/{folder}")
        with PartWriter(group, Work("part", Identity("bench", "1"), ()), table.schema) as writer:
            for start in range(0, table.num_rows, 4096):
                writer.write(table.slice(start, 4096))
        group.complete([writer.finish(Tally(rows_in=table.num_rows))], Index(stage="bench"))


def time_rules(table: pa.Table) -> float:
    """Return CPU seconds of every rule, with the values that failed, over wide rows in memory."""
    rules = resolve(check_rules(load_rules(RULES, "bench", "text_length desc"), column_types(table.schema)), {})
    select = {f"v{number}": failure_value(rule, rules.columns) for number, rule in enumerate(rules.rules)}
    chunks = (Chunk(row, "part", table.slice(row, CHUNK_ROWS)) for row in range(0, table.num_rows, CHUNK_ROWS))
    started = time.process_time()
    deque(answers("bench", chunks, select, rules.rules), maxlen=0)
    return time.process_time() - started


def time_select(storage: Storage, rules: dict[str, str]) -> float:
    """Return CPU seconds of the whole stage, curated shards included."""
    selection = SourceSelection("web", load_rules(rules, "bench"), FOLDERS)
    started = time.process_time()
    report = select(selecting(storage, selection))
    seconds = time.process_time() - started
    print(f"  kept {report.rows_out:,} of {report.rows_in:,}")
    return seconds


def main() -> None:
    """Add rows of microseconds a document."""
    parser = bench_parser(__doc__)
    parser.add_argument("documents", nargs="?", type=int, default=50_000)
    given = parser.parse_args()
    groups = measured(given.documents)
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.at(folder)
        write(storage, groups)
        timings = {
            "37 rules with failed values, in memory": time_rules(groups["signals/stats"]),
            "37 rules, keepers, ledger, curated": time_select(storage, RULES),
            "the same and top_share of a score": time_select(storage, RULES | {"q": "top_share(quality_score, 0.5)"}),
        }
    table = Table("select", given.csv, "what documents cpu_s us_a_document")
    for name, seconds in timings.items():
        table.row(name, given.documents, seconds, seconds / given.documents * 1e6)


if __name__ == "__main__":
    main()
