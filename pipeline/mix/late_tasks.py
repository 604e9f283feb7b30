"""Tasks that came after training: their text could not be kept out of it, so what it shares with it is not measured.

The documents that share it are named too: shards that are written from now on leave them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pipeline.mix.contamination import contaminated_documents, contaminated_items, index_items
from pipeline.mix.curated_texts import locate, read_texts
from pipeline.mix.hashing import id_keys, id_strings
from pipeline.mix.slice_build import BuiltSlice
from pipeline.mix.types import Task
from pipeline.table.kept import read_json, write_json
from pipeline.table.shards import digest
from pipeline.table.sql import Session


@dataclass(frozen=True)
class SharedText:
    """What one slice's training text shares with one task: positions of items, ids of documents."""

    items: tuple[int, ...]
    documents: tuple[str, ...]


def shared_text(
    session: Session, built: BuiltSlice, tasks: Sequence[Task], words: int, folder: Path
) -> dict[str, SharedText]:
    """Return, by task name, what a slice shares with tasks that its build did not know. Found once, then kept.

    Raises: WorkspaceError, ShardError when texts are unreadable.
    """
    known = set(built.task_keys.values())
    found: dict[str, SharedText] = {}
    open_tasks = []
    for task in tasks:
        if task.key in known:
            continue
        kept = read_json(_path(folder, built, task, words))
        if kept is None:
            open_tasks.append(task)
        else:
            found[task.name] = SharedText(tuple(kept["items"]), tuple(kept["documents"]))
    if open_tasks:
        found |= _search(session, built, open_tasks, words)
        for task in open_tasks:
            shared = found[task.name]
            value = {"items": list(shared.items), "documents": list(shared.documents)}
            write_json(_path(folder, built, task, words), value)
    return found


def _path(folder: Path, built: BuiltSlice, task: Task, words: int) -> Path:
    return folder / "late" / f"{built.name}-{digest([built.key, task.key, words])[:16]}.json"


def _search(session: Session, built: BuiltSlice, tasks: Sequence[Task], words: int) -> dict[str, SharedText]:
    table = pq.read_table(built.tokens.documents_path, columns=["doc_id", "source"])
    keys = id_keys(table["doc_id"].combine_chunks())
    keys = keys[np.lexsort((keys[:, 1], keys[:, 0]))]
    located = locate(session.catalog, sorted(table["source"].unique().to_pylist()), keys)
    index = index_items(tasks, words)
    items: dict[str, set[int]] = {task.name: set() for task in tasks}
    documents: dict[str, list[str]] = {task.name: [] for task in tasks}
    for positions, texts in read_texts(located, np.arange(len(keys))):
        hits = contaminated_documents(texts, index)
        if not hits:
            continue
        rows = sorted(hits)
        ids = id_strings(keys[positions[rows]]).to_pylist()
        for row, doc_id in zip(rows, ids, strict=True):
            for name in hits[row]:
                documents[name].append(doc_id)
        for name, positions_hit in contaminated_items([texts.take(rows)], index).items():
            items[name] |= positions_hit
    return {name: SharedText(tuple(sorted(items[name])), tuple(sorted(documents[name]))) for name in items}
