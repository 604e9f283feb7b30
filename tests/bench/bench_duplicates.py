"""Recall and precision of duplicate detection beside datasketch and datatrove: 14 bands of 8 rows, word 5-grams.

    python -m tests.bench.bench_duplicates --peer PYTHON [--documents 4000] [--seeds 8]

PYTHON is the interpreter of an environment with datatrove. Two truths: revisions of one Stack Exchange post, and
planted copies. Pairs of documents count; a found component counts all its pairs. A seed is one draw of permutations,
and recall varies by several points between draws: ours is the mean over some, with the least and largest; groups and
their sizes are those of the first draw. datatrove has one draw; its signatures are joined here by band and union-find,
since its last step forgets who was whose copy. The two others verify nothing.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dedup.minhash import Numbers
from tests.bench.tables import Table, bench_parser
from tests.realdata.test_duplicates import PLANTED, REVISIONS, ours, scores, theirs

OURS: tuple[tuple[str, float | None, Numbers], ...] = (
    ("default", 0.7, "exact"),
    ("verify: null", None, "exact"),
    ("verify: 0.8", 0.8, "exact"),
    ("numbers: any", 0.7, "any"),
    ("any, null", None, "any"),
)
PEER_SIGNATURES = """
import json, sys
from datatrove.pipeline.dedup import MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.utils.hashing import HashConfig
signer = MinhashDedupSignature("unused", config=MinhashConfig(
    hash_config=HashConfig(precision=64), n_grams=5, num_buckets=14, hashes_per_bucket=8))
for line in open(sys.argv[1]):
    shingles = signer.get_shingles(json.loads(line))
    bands = signer.get_signature(shingles) if shingles.size else []
    print(json.dumps([[int(value) for value in band] for band in bands]))
"""


def datatrove(python: Path, texts: list[str], folder: Path) -> list[int]:
    """Return the components by datatrove's signatures."""
    (folder / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    (folder / "peer.py").write_text(PEER_SIGNATURES)
    command = [python, folder / "peer.py", folder / "texts.jsonl"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    roots = list(range(len(texts)))

    def find(node: int) -> int:
        while roots[node] != node:
            node = roots[node]
        return node

    first: dict[tuple[int, ...], int] = defaultdict(int)
    for number, line in enumerate(output.splitlines()):
        for band, values in enumerate(json.loads(line)):
            seen = first.setdefault((band, *values), number)
            low, high = sorted((find(seen), find(number)))
            roots[high] = low
    return [find(node) for node in range(len(texts))]


def revisions() -> tuple[list[str], list[int]]:
    with gzip.open(REVISIONS, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["text"] for row in rows], [row["cluster"] for row in rows]


def planted(documents: int) -> tuple[list[str], list[int]]:
    """Return the first documents of the planted set: rows alternate between its two files."""
    tables = [pq.read_table(path).slice(0, documents // 2) for path in sorted(PLANTED.glob("*.parquet"))]
    order = [
        index for pair in zip(range(documents // 2), range(documents // 2, documents), strict=True) for index in pair
    ]
    table = pa.concat_tables(tables).take(order)
    truth = list(range(documents))
    for number, original in enumerate(table["dup_of"].to_pylist()):
        if original >= 0:
            truth[number] = truth[original]
    return table["text"].to_pylist(), truth


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    table = Table("duplicates", options.csv, "truth system recall least most precision groups largest")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for label, (texts, truth) in (("revisions", revisions()), ("planted", planted(options.documents))):
            found = {
                label: [ours(texts, folder, verify, seed, numbers) for seed in range(1, options.seeds + 1)]
                for label, verify, numbers in OURS
            }
            found["datasketch"] = [theirs(texts)]
            found["datatrove"] = [datatrove(options.peer, texts, folder)]
            for system, draws in found.items():
                pairs = [scores(components, truth) for components in draws]
                recalls = [recall for recall, _ in pairs]
                precision = sum(value for _, value in pairs) / len(pairs)
                mean = sum(recalls) / len(recalls)
                sizes = sorted((size for size in Counter(draws[0]).values() if size > 1), reverse=True)
                largest = ", ".join(map(str, sizes[:5]))
                table.row(label, system, mean, min(recalls), max(recalls), precision, len(sizes), largest)


if __name__ == "__main__":
    main()
