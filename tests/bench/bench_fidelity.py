"""What a pair costs: verification beside splitting the same text with one expression, interleaved in one run.

python tests/bench/bench_fidelity.py [ROUNDS]
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import zstandard

from pipeline.rephrase.fidelity.check import _analysed
from pipeline.rephrase.verify import Expectations, verify
from tests.bench.tables import Table, bench_parser
from tests.fidelity_plants import reworded, segment

SOURCES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sources"
_WORDS = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_ENGLISH = Expectations(language="en")


def pairs(source_chars: int, rephrased_chars: int) -> list[tuple[str, str]]:
    """Return pairs of a segment of an article and its rewording, cut to length."""
    data = zstandard.ZstdDecompressor().stream_reader(
        (SOURCES / "wikipedia.jsonl.zst").read_bytes(), read_across_frames=True
    )
    texts = [json.loads(line)["text"] for line in data.read().split(b"\n") if line]
    found: list[tuple[str, str]] = []
    rng = Random(5)
    for text in texts:
        sentences = segment(text, rng, source_chars)
        source = " ".join(sentences)
        if len(source) >= source_chars:
            found.append((source[:source_chars], reworded(sentences, rng)[:rephrased_chars]))
    return found[:150]


def seconds(work: Callable[[str, str], object], known: list[tuple[str, str]]) -> float:
    """Return CPU seconds a pair; no source is met twice in a round."""
    _analysed.cache_clear()
    start = time.process_time()
    for source, rephrased in known:
        work(source, rephrased)
    return (time.process_time() - start) / len(known)


def main() -> None:
    """Add rows of milliseconds a pair and the ratio to the splitting."""
    parser = bench_parser(__doc__)
    parser.add_argument("rounds", nargs="?", type=int, default=7)
    given = parser.parse_args()
    columns = "source_characters rephrased_characters pairs ms_a_pair findall_ms ratio"
    table = Table("fidelity", given.csv, columns)
    for source_chars, rephrased_chars in ((1000, 700), (3000, 1500)):
        known = pairs(source_chars, rephrased_chars)
        checked: list[float] = []
        split: list[float] = []
        for _ in range(given.rounds):
            checked.append(seconds(lambda source, text: verify(source, text, _ENGLISH), known))
            split.append(seconds(lambda source, text: (_WORDS.findall(source), _WORDS.findall(text)), known))
        best, least = min(checked), min(split)
        table.row(source_chars, rephrased_chars, len(known), 1e3 * best, 1e3 * least, best / least)


if __name__ == "__main__":
    main()
