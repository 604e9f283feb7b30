"""Gristmill beside datatrove on the same data: CPU seconds and peak memory of whole processes, interleaved.

    python tests/bench/bench_peers.py e2e     --peer PYTHON [--rounds 2]   WARC to curated, without and with the gate
    python tests/bench/bench_peers.py kernels --peer PYTHON [--rounds 2]   four filters; text to signatures

PYTHON is the interpreter of an environment with datatrove (its README is beside the peer's scripts). `e2e` runs each
program as a whole, server and all, with two workers; PSS is the sum over all its processes. `kernels` compares inside
processes: datatrove's filter and signature steps in a plain loop over documents, ours over the same documents, both
without reading, writing, imports and compilation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.tables import Table, bench_parser

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
PEER = SHARED / "peers" / "datatrove"
CONFIG = """
workspace: {folder}/ws
sources:
  web: {{format: warc, inputs: [{warc}]}}
extract: {{engine: trafilatura, favor: precision, language_gate: {gate}}}
dedup: {{num_bands: 14, rows_per_band: 8, shingle_words: 5, verify: null, scope: source}}
select: {{rules: fineweb, keep: "text_length desc, url asc"}}
engine: {{kind: local, workers: 2}}
"""
PEER_KERNELS = """
import json, sys, time
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline import filters as f
from datatrove.utils.hashing import HashConfig

texts = pq.read_table(sys.argv[1], columns=["text"])["text"].to_pylist()
c4 = f.C4QualityFilter(filter_no_terminal_punct=False)
filters = [f.GopherRepetitionFilter(), f.GopherQualityFilter(), c4, f.FineWebQualityFilter()]
signer = MinhashDedupSignature("unused", config=MinhashConfig(
    hash_config=HashConfig(precision=64), n_grams=5, num_buckets=14, hashes_per_bucket=8))
signature = lambda text: signer.get_signature(signer.get_shingles(text))

def cpu(work):
    work(texts[:3])  # loads the word tokeniser
    began = time.process_time()
    work(texts)
    return time.process_time() - began

def filter_all(some):
    for text in some:
        for each in filters:
            each.filter(Document(text=text, id="x"))

def sign_all(some):
    for text in some:
        signature(text)

print(json.dumps({"filters": cpu(filter_all), "signatures": cpu(sign_all), "documents": len(texts)}))
"""


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("what", choices=("e2e", "kernels"))
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--warc", type=Path, default=SHARED / "data" / "web" / "web-dev.warc.gz")
    parser.add_argument("--documents", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        (end_to_end if options.what == "e2e" else kernels)(options, Path(folder))


def end_to_end(options: argparse.Namespace, folder: Path) -> None:
    """Run datatrove, ours, ours with the gate in turn; a row is a program's run."""
    data = folder / "data"
    data.mkdir()
    (data / options.warc.name).symlink_to(options.warc)
    table = Table("peers-e2e", options.csv, "program round cpu_s wall_s peak_pss_mb")

    def add(name: str, number: int, command: list[object]) -> None:
        found = measure(options.peer, folder, command)
        table.row(name, number, found["cpu_s"], found["wall_s"], found["peak_tree_pss_mb"])

    for number in range(1, options.rounds + 1):
        peer = [options.peer, PEER / "dt_e2e.py", folder / "peer", "--data", data]
        add("datatrove", number, peer)
        for name, gate in (("ours", "null"), ("ours, gate en", "[en]")):
            config = folder / "curate.yaml"
            config.write_text(CONFIG.format(folder=folder, warc=data / options.warc.name, gate=gate))
            command = [sys.executable, "-c", "from flows.cli import main; main()", "run", config]
            add(name, number, command)
            subprocess.run(["rm", "-rf", folder / "ws"], check=True)


def measure(python: Path, folder: Path, command: list[object]) -> dict[str, float]:
    """Run a command under the peer's own meter and return what it measured."""
    results = folder / "results.jsonl"
    results.unlink(missing_ok=True)
    environment = dict(os.environ, RESULTS=str(results), PYTHONPATH=str(ROOT), PEERS_OUT=str(folder / "peers"))
    meter = [str(python), str(PEER / "measure.py"), "run", "--", *map(str, command)]
    subprocess.run(meter, env=environment, cwd=PEER, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    result: dict[str, float] = json.loads(results.read_text().splitlines()[-1])
    return result


def kernels(options: argparse.Namespace, folder: Path) -> None:
    """Compare filters and signatures, document for document."""
    import duckdb
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    from pipeline.dedup.minhash import sign_table
    from pipeline.select.rules import load_rules
    from pipeline.signals.text_stats import text_stats

    table = pa.concat_tables([pq.read_table(path) for path in sorted((PEER / "texts").glob("*.parquet"))])
    english = table.filter(pc.equal(table["lang"], "en")).slice(0, options.documents)
    sample = folder / "texts.parquet"
    pq.write_table(english, sample)
    documents = pa.table({"doc_id": english["id"].cast(pa.string()), "text": english["text"]}).combine_chunks()
    rules = load_rules("fineweb", "bench")
    (folder / "peer.py").write_text(PEER_KERNELS)
    constants = {
        "language": pa.array(["en"] * documents.num_rows),
        "language_score": pa.array([1.0] * documents.num_rows),
    }

    def narrow() -> pa.Table:
        stats = text_stats(documents)
        for name, column in constants.items():
            stats = stats.append_column(name, column)
        return stats

    predicates = ", ".join(f"coalesce({rule.sql}, false)" for rule in rules.rules)
    connection = duckdb.connect(config={"threads": 1})

    def ours_filters() -> None:
        connection.register("narrow", narrow())
        connection.execute(f"SELECT {predicates} FROM narrow").fetchall()

    def ours_signatures() -> None:
        sign_table(documents, 14, 8, 5)

    rates: dict[str, list[tuple[float, float]]] = {"filters": [], "signatures": []}
    ours = {"filters": ours_filters, "signatures": ours_signatures}
    for work in ours.values():
        work()  # compiled, loaded
    for _ in range(options.rounds):
        peer = subprocess.run([options.peer, folder / "peer.py", sample], check=True, capture_output=True, text=True)
        theirs = json.loads(peer.stdout.splitlines()[-1])
        for name, work in ours.items():
            repeats = 20
            began = time.process_time()
            for _ in range(repeats):
                work()
            seconds = (time.process_time() - began) / repeats
            rates[name].append((documents.num_rows / theirs[name], documents.num_rows / seconds))
    table = Table("peers-kernels", options.csv, "work datatrove_documents_per_cpu_s ours_documents_per_cpu_s ratio")
    for name, pairs in rates.items():
        them, us = (statistics.median(values) for values in zip(*pairs, strict=True))
        table.row(name, them, us, us / them)


if __name__ == "__main__":
    main()
