"""Evaluation items in training text: runs of words that an item and a document share.

Words are folded as for duplicates (`pipeline.kernels.words`): case, punctuation, diacritics and spacing do not hide a
copy. An item is its prompt followed by its continuation; a document is contaminated by an item when they share
`contamination_words` (13) words in a row. An item with fewer words counts as one run when it has at least
`SHORTEST` (8); shorter ones say too little to be looked for, and are reported as unchecked.

Source: 13-gram overlap of GPT-3 (arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.kernels import ngram_hits
from pipeline.kernels.ngram_hits import DOCUMENT, ITEM, LENGTH, NEEDLE, POSITION, Needles
from pipeline.mix.types import Item, Task
from pipeline.table.schema import text_buffers

VERSION = "contamination_v1"
SHORTEST = 8
"""Words of the shortest item that is looked for as a whole."""


@dataclass(frozen=True)
class ItemIndex:
    """What to look for: the runs of the items of some tasks."""

    tasks: tuple[str, ...]
    keys: Mapping[str, str]
    """Each task's key."""
    words: int
    unchecked: Mapping[str, int]
    """Items a task that are too short to be looked for, tasks without any left out."""
    _task_of: NDArray[np.int32] = field(repr=False)
    _position_of: NDArray[np.int64] = field(repr=False)
    _texts: Sequence[Item] = field(repr=False)
    _hashes: NDArray[np.uint64] = field(repr=False)
    _offsets: NDArray[np.int64] = field(repr=False)
    _needles: tuple[Needles, Needles] = field(repr=False)


def index_items(tasks: Sequence[Task], words: int) -> ItemIndex:
    """Return the index of every run of `words` words of the tasks' items."""
    items = [item for task in tasks for item in task.items]
    task_of = np.repeat(np.arange(len(tasks), dtype=np.int32), [len(task.items) for task in tasks])
    positions = np.array([i for task in tasks for i in range(len(task.items))], np.int64)
    data, offsets = text_buffers(pa.array([_text(item) for item in items], pa.large_string()))
    hashes, word_offsets = ngram_hits.hash_words(data, offsets)
    lengths = np.diff(word_offsets)
    shortest = min(SHORTEST, words)
    whole = np.flatnonzero((lengths >= shortest) & (lengths < words))
    runs = np.maximum(lengths - words + 1, 0)
    of = np.repeat(np.arange(len(items), dtype=np.int64), runs)
    begin = np.repeat(word_offsets[:-1] - (np.cumsum(runs) - runs), runs) + np.arange(int(runs.sum()))
    long = ngram_hits.make_needles(hashes, of, begin, np.full(of.size, words, np.int64), words)
    short = ngram_hits.make_needles(hashes, whole, word_offsets[whole], lengths[whole], shortest)
    too_short = np.bincount(task_of[lengths < shortest], minlength=len(tasks))
    unchecked = {task.name: int(count) for task, count in zip(tasks, too_short, strict=True) if count}
    names, keys = tuple(task.name for task in tasks), {task.name: task.key for task in tasks}
    return ItemIndex(names, keys, words, unchecked, task_of, positions, items, hashes, word_offsets, (long, short))


def contaminated_documents(texts: pa.Array, index: ItemIndex) -> dict[int, tuple[str, ...]]:
    """Return, by position among `texts`, the documents that hold a run of an item, with the tasks of such items."""
    found: dict[int, set[int]] = {}
    for document, item in shared_runs(texts, index).tolist():
        found.setdefault(document, set()).add(int(index._task_of[item]))
    return {document: tuple(index.tasks[task] for task in sorted(tasks)) for document, tasks in found.items()}


def contaminated_items(batches: Iterable[pa.Array], index: ItemIndex) -> dict[str, frozenset[int]]:
    """Return, by task, the positions of the items that any of the texts holds a run of: what not to measure.

    For items that came after training, whose text could not be kept out of it. Every task has an entry.
    """
    hit = np.zeros(len(index._texts), bool)
    for texts in batches:
        hit[shared_runs(texts, index)[:, 1]] = True
    return {
        name: frozenset(index._position_of[hit & (index._task_of == task)].tolist())
        for task, name in enumerate(index.tasks)
    }


def shared_runs(texts: pa.Array, index: ItemIndex) -> NDArray[np.int64]:
    """Return (document, item) for all texts and items that share a run, int64 (n, 2), rising by document.

    Items count through all tasks in order. Hashes find, words decide: every hit's spelling is compared.
    """
    data, offsets = text_buffers(texts)
    if not index._texts or offsets.size < 2:
        return np.empty((0, 2), np.int64)
    hits = ngram_hits.scan(data, offsets, index._hashes, len(index._texts), index._needles)
    kept = np.zeros(len(hits), bool)
    at = -1
    for row, hit in enumerate(hits):
        if hit[DOCUMENT] != at:
            at = int(hit[DOCUMENT])
            document = ngram_hits.spell(data[offsets[at] : offsets[at + 1]].tobytes())
        item = int(hit[ITEM])
        begin = int(hit[NEEDLE] - index._offsets[item])
        spelled = ngram_hits.spell(_text(index._texts[item]).encode())
        kept[row] = np.array_equal(
            _words(document, int(hit[POSITION]), int(hit[LENGTH])), _words(spelled, begin, int(hit[LENGTH]))
        )
    return hits[kept][:, [DOCUMENT, ITEM]]


def _words(spelled: tuple[NDArray[np.uint32], NDArray[np.int64]], first: int, count: int) -> NDArray[np.uint32]:
    """Return the code points of some words, a zero before each."""
    codes, offsets = spelled
    between = offsets[first : first + count] - offsets[first]
    return np.insert(codes[offsets[first] : offsets[first + count]], between, 0)


def _text(item: Item) -> str:
    return item.prompt + item.continuation
