"""Template collapse: whether a model writes the same text again and again, whatever it is given.

Three measures a style, over what the model wrote (of a style that appends, without the segment before it):

- openings: the most frequent first words, with the share of texts that begin so;
- self-similarity: the mean Jaccard similarity of two texts' sets of word 4-grams, over all pairs of a sample, estimated
  by MinHash: of 256 permutations, the share in which a pair agrees. The standard error of the mean is below
  0.5 / sqrt(256) = 0.03 and in practice far less. Two texts on different subjects have nearly none;
- distinct-n: different n-grams per n-gram over the first words of the sample, as many for each style: fewer texts or
  shorter ones would otherwise look more diverse. Source: Li et al. 2016 (arXiv 1510.03055), there a text at a time.

A style's sample is those of its rows with the smallest hashes of (seed, doc_id): the same whatever the order and the
parts. Openings are counted over the sample as well.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.kernels import minhash
from pipeline.table.schema import text_buffers
from pipeline.table.shards import Group, read_batches

SAMPLE = 5_000
OPENING_WORDS = (3, 4, 5)
MOST_COMMON = 5
DISTINCT_WORDS = 50_000
SHINGLE_WORDS = 4
NUM_PERM = 256

_HEAD_CHARACTERS = 400
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True)
class Opening:
    """A way in which texts begin."""

    words: int
    text: str
    texts: int
    share: float


@dataclass(frozen=True, slots=True)
class Collapse:
    """What the texts of one style have in common. Numbers are None where too few texts were left to measure them."""

    style: str
    texts: int
    sampled: int
    openings: tuple[Opening, ...]  # the most frequent of 3, 4 and 5 words, those of 3 first
    top_opening_share: float | None  # of three words
    self_similarity: float | None
    distinct_1: float | None
    distinct_2: float | None
    distinct_3: float | None


def measure_collapse(documents: Group) -> list[Collapse]:
    """Return the measures of each style of a rephrased source, by name; `documents` is its group of that name.

    Memory holds a sample of each style. Every row counts; those without metadata of ours have the style "".

    Raises: ShardError when a part cannot be read.
    """
    return collapse(_bodies(documents))


def collapse(texts: Iterable[tuple[str, str, str]], seed: int = 1, sample: int = SAMPLE) -> list[Collapse]:
    """Return the measures of each style over (style, doc_id, text), by style's name."""
    counts: Counter[str] = Counter()
    kept: dict[str, list[tuple[int, str]]] = {}
    for style, doc_id, text in texts:
        counts[style] += 1
        heap = kept.setdefault(style, [])
        hashed = hashlib.blake2b(f"{seed}\0{doc_id}".encode(), digest_size=8).digest()
        entry = (-int.from_bytes(hashed, "big"), text)
        if len(heap) < sample:
            heapq.heappush(heap, entry)
        elif entry > heap[0]:
            heapq.heapreplace(heap, entry)
    measured = []
    for style in sorted(kept):
        chosen = [text for _, text in sorted(kept[style], reverse=True)]
        found = [opening for words in OPENING_WORDS for opening in openings(chosen, words)]
        top = found[0].share if found and found[0].words == OPENING_WORDS[0] else None
        diverse = (distinct(chosen, n) for n in (1, 2, 3))
        similar = self_similarity(chosen)
        measured.append(Collapse(style, counts[style], len(chosen), tuple(found), top, similar, *diverse))
    return measured


def self_similarity(texts: Sequence[str], seed: int = 1) -> float | None:
    """Return the mean Jaccard similarity of word 4-gram sets over all pairs of texts with words; None without a pair.

    Time is that of sorting each permutation's values: the pairs themselves are never looked at.
    """
    data, offsets = text_buffers(pa.array(list(texts), pa.large_string()))
    random = np.random.default_rng(seed)
    a = random.integers(0, 1 << 31, NUM_PERM, np.uint32) * np.uint32(2) + np.uint32(1)
    b = random.integers(0, 1 << 32, NUM_PERM, np.uint32)
    signed = minhash.sign(data, offsets, SHINGLE_WORDS, a, b)
    signatures = signed.signatures[signed.shingles > 0]
    if len(signatures) < 2:
        return None
    pairs = len(signatures) * (len(signatures) - 1) // 2
    agreeing = 0
    for column in range(NUM_PERM):
        counts = np.unique(signatures[:, column], return_counts=True)[1].astype(np.int64)
        agreeing += int((counts * (counts - 1) // 2).sum())
    return agreeing / (pairs * NUM_PERM)


def distinct(texts: Iterable[str], n: int, words: int = DISTINCT_WORDS) -> float | None:
    """Return the different n-grams per n-gram in the texts up to `words` words; None when there is no n-gram."""
    seen: set[tuple[str, ...]] = set()
    total = read = 0
    for text in texts:
        tokens = _words(text, words - read)
        read += len(tokens)
        grams = list(zip(*(tokens[start:] for start in range(n)), strict=False))
        seen.update(grams)
        total += len(grams)
        if read >= words:
            break
    return len(seen) / total if total else None


def openings(texts: Sequence[str], words: int, most: int = MOST_COMMON) -> list[Opening]:
    """Return the most frequent first `words` words, in lower case, with the share of all texts that begin so."""
    found = Counter(" ".join(head) for text in texts if len(head := _words(text[:_HEAD_CHARACTERS], words)) == words)
    ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))[:most]
    return [Opening(words, text, count, count / len(texts)) for text, count in ranked]


def as_text(rows: Sequence[Collapse]) -> str:
    """Return the measures as lines for people, a block a style."""
    lines = []
    for row in rows:
        numbers = (row.self_similarity, row.distinct_1, row.distinct_2, row.distinct_3)
        similar, *diverse = ("-" if number is None else f"{number:.3f}" for number in numbers)
        lines.append(
            f"{row.style or '(no style)'}: {row.texts:,} texts ({row.sampled:,} sampled), "
            f"self-similarity {similar}, distinct 1/2/3 {' / '.join(diverse)}"
        )
        lines += [f"  {100 * o.share:5.1f} %  {o.text} ..." for o in row.openings if o.words == OPENING_WORDS[0]]
    return "\n".join(lines)


def _bodies(documents: Group) -> Iterator[tuple[str, str, str]]:
    """Yield (style, doc_id, the model's own text) of every row."""
    for part in documents.parts():
        for table in read_batches(documents, part.name, ["doc_id", "text", "metadata"]):
            for row in table.to_pylist():
                try:
                    metadata = json.loads(row["metadata"] or "{}")
                except (ValueError, RecursionError):
                    metadata = None
                own = metadata if isinstance(metadata, dict) else {}
                style, start = own.get("style"), own.get("body_start")
                style = style if isinstance(style, str) else ""
                start = start if isinstance(start, int) and start > 0 else 0
                yield style, row["doc_id"], row["text"][start:]


def _words(text: str, most: int) -> list[str]:
    found: list[str] = []
    for match in _WORD.finditer(text):
        if len(found) >= most:
            break
        found.append(match[0].lower())
    return found
