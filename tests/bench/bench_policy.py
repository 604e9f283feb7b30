"""How long what-if, sweep, diff and sample take: `python tests/bench/bench_policy.py [DOCUMENTS] [PARTS] [FOLDER]`.

Generated documents with every signal, FineWeb's rules, a third of the documents in components of three. The workspace
is made and selected once, then each command runs as a process of its own: seconds, and the peak of its memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.select.decide import SourceSelection
from pipeline.select.rules import load_rules
from pipeline.signals.language import LANGUAGE
from pipeline.signals.stage import STATS_SCHEMA
from pipeline.table import schema
from pipeline.table.shards import Group, Identity, Index, PartWriter, Tally, Work
from pipeline.table.storage import Storage
from tests.bench.tables import Table, bench_parser
from tests.select_workspace import select, selecting

FOLDERS = ("signals/language", "signals/text_stats", "duplicates", "scores/quality")
WORDS = ("word_count", "word_and_symbol_count", "text_length", "text_bytes")
KINDS = "extract", "annotate", "annotate", "dedup", "classify"


def measured(first: int, rows: int) -> dict[str, pa.Table]:
    """Return the groups of documents number `first` and on; about a third of them pass FineWeb's rules."""
    random = np.random.default_rng(first)
    numbers = np.arange(first, first + rows, dtype=np.uint64)
    ids = pa.array([f"{(n * 0x9E3779B97F4A7C15) & (2**64 - 1):016x}{n:016x}" for n in numbers.tolist()])
    words = np.maximum(random.lognormal(5.8, 1.0, rows), 1).astype(np.int64)
    stats: dict[str, pa.Array] = {"doc_id": ids}
    for name, kind in zip(STATS_SCHEMA.names[1:], STATS_SCHEMA.types[1:], strict=True):
        if pa.types.is_boolean(kind):
            stats[name] = pa.array(random.random(rows) < 0.02)
        elif pa.types.is_integer(kind):
            stats[name] = pa.array(words * (1 if name in WORDS[:2] else 6) if name in WORDS else words // 12)
        elif name == "estimated_tokens":
            stats[name] = pa.array(words * 1.5)
        elif name == "mean_word_length":
            stats[name] = pa.array(random.normal(5, 0.6, rows))
        else:
            low = any(part in name for part in ("duplicate", "top_", "hash", "ellips", "bullet", "newline", "short"))
            values = random.beta(1, 60, rows) if low else random.beta(20, 1.2, rows)
            stats[name] = pa.array(np.round(values * words) / words)
    of_three = numbers % np.uint64(9) < 3
    heads = np.where(of_three, numbers - numbers % np.uint64(9), numbers)
    sizes = np.where(of_three & (heads + 2 < first + rows) & (heads >= first), 3, 1)
    places = np.where(sizes == 3, heads, numbers) - np.uint64(first)
    nulls = pa.nulls(rows, pa.string())
    origin = {"file": pa.array(["f"] * rows), "offset": pa.array(numbers.astype(np.int64)), "record_id": nulls}
    documents = {
        "doc_id": ids,
        "source": pa.array(["web"] * rows),
        "url": pa.array([f"https://example.org/page/{n}?q=ü" for n in numbers.tolist()]),
        "text": pa.array([f"text number {n} " * 20 for n in numbers.tolist()]),
        **dict.fromkeys(("title", "licence", "parent_id", "metadata"), nulls),
        "date": pa.nulls(rows, schema.TIMESTAMP),
        "origin": pa.StructArray.from_arrays(list(origin.values()), names=list(origin)),
    }
    duplicates = {
        "doc_id": ids,
        "component_id": ids.take(pa.array(places)),
        "component_size": pa.array(sizes.astype(np.int64)),
        "method": nulls,
        "text_hash": pa.array(np.where(numbers % np.uint64(9) < 2, heads, numbers)),
    }
    scores = pa.array(random.beta(2, 5, rows).astype(np.float32))
    ranks = pa.array(random.integers(0, 20, rows).astype(np.int8))
    english = random.random(rows)
    language = {
        "doc_id": ids,
        "language": pa.array(np.where(english < 0.9, "en", "de")),
        "language_score": pa.array(english.astype(np.float32) / 4 + 0.72),
    }
    return {
        "documents": schema.conform(pa.table(documents), schema.DOCUMENTS),
        "signals/language": schema.conform(pa.table(language), LANGUAGE),
        "signals/text_stats": schema.conform(pa.table(stats), STATS_SCHEMA),
        "duplicates": schema.conform(pa.table(duplicates), schema.DUPLICATES),
        "scores/quality": pa.table({"doc_id": ids, "score": scores, "probability": scores, "rank": ranks}).cast(
            schema.SCORES
        ),
    }


def generate(storage: Storage, documents: int, parts: int, source: str = "web") -> None:
    """Write a source's groups, up to the scores, in so many parts."""
    written: dict[str, list] = {}
    cuts = np.linspace(0, documents, parts + 1).astype(int)
    for number, (first, after) in enumerate(pairwise(cuts)):
        for folder, table in measured(int(first), int(after - first)).items():
            group, work = Group(storage, f"{source}/{folder}"), Work(f"part-{number:05d}", Identity("bench", "1"), ())
            with PartWriter(group, work, table.schema) as writer:
                for start in range(0, table.num_rows, 8192):
                    writer.write(table.slice(start, 8192))
            written.setdefault(folder, []).append(writer.finish(Tally(rows_in=table.num_rows)))
    for (folder, made), stage in zip(written.items(), KINDS, strict=True):
        details = {"scope": [source]} if folder == "duplicates" else {}
        Group(storage, f"{source}/{folder}").complete(made, Index(stage=stage, details=details))


DIFF = """
import sys
from pipeline.select.decide import Selection, SourceSelection
from pipeline.select.rules import load_rules
from pipeline.select.what_if import diff_config
from pipeline.table.storage import Storage
rules = load_rules({"extends": "fineweb", "gopher_words": "word_count > 100", "language": None}, "bench")
folders = ("signals/language", "signals/text_stats", "duplicates", "scores/quality")
found = diff_config(Storage.at(sys.argv[1]), [Selection((SourceSelection("web", rules, folders),))], examples=10)
print(found.sources, len(found.rules), len(found.examples))
"""
"""What `gristmill diff CONFIG` does once it has found that no earlier stage has something to do."""


def run(table: Table, size: tuple[int, int], *command: str) -> None:
    """Run a command as a process of its own: a row of its seconds and peak memory, and the end of its answer."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    answer = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    wall_s, cpu_s = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    words = ["diff of a policy"] if command[0] == "-c" else [word for word in command[2:] if not word.startswith("/")]
    table.row(" ".join(words), *size, wall_s, cpu_s, usage.ru_maxrss >> 10, status >> 8)
    print(f"    {answer.splitlines()[-1][:150] if answer else ''}")


def main() -> None:
    """Make the workspace where it is not there yet, select once, and time the commands."""
    parser = bench_parser(__doc__)
    parser.add_argument("documents", nargs="?", type=int, default=1_000_000)
    parser.add_argument("parts", nargs="?", type=int, default=10)
    parser.add_argument("folder", nargs="?", type=Path)
    given = parser.parse_args()
    size = given.documents, given.parts
    folder = (given.folder or Path(tempfile.mkdtemp())).resolve()
    workspace = folder / f"{given.documents}-{given.parts}"
    storage = Storage.at(str(workspace))
    if not storage.exists("web/_manifests/curated"):
        generate(storage, *size)
        report = select(selecting(storage, SourceSelection("web", load_rules("fineweb", "bench"), FOLDERS), workers=2))
        print(f"kept {report.rows_out:,} of {report.rows_in:,}")
    table = Table(f"policy-{given.parts}", given.csv, "command documents parts wall_s cpu_s peak_mb exit")
    cli = ("-m", "flows.cli")
    run(table, size, *cli, "what-if", str(workspace), "fineweb")
    run(table, size, *cli, "what-if", str(workspace), "gopher", "--examples", "3")
    run(table, size, "-c", DIFF, str(workspace))
    run(table, size, *cli, "diff", str(workspace), str(workspace))
    run(table, size, *cli, "sweep", str(workspace), "--rule", "language", "--values", "0.6:0.9:0.02")
    run(table, size, *cli, "sample", str(workspace), "web", "--dropped-by", "language", "--alone")


if __name__ == "__main__":
    main()
