"""Evaluation suites: tasks whose items are prompts with a gold continuation, and held-out text as tasks.

What a model is measured by is bits per UTF-8 byte of the continuation, given its prompt.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.mix.config import HeldOutConfig, Suite, SuiteConfig, TaskConfig
from pipeline.mix.material.texts import held_out_order, id_keys
from pipeline.mix.material.tokenizer import MixTokenizer
from pipeline.mix.types import Item, Task, TokenItem, TokenTask
from pipeline.table.config import validate
from pipeline.table.errors import ConfigError, InputError, ShardError, nearest
from pipeline.table.kept import json_lines, read_yaml
from pipeline.table.shards import digest
from pipeline.table.storage import open_file

MAX_TASK_BYTES = 256 << 20
"""Bytes of a task's file, unpacked."""
MAX_LINE_BYTES = 4 << 20
_LINE = "an object with `prompt` and `continuation`"
HELD_OUT_BYTES = 256 << 10
"""UTF-8 bytes of a slice's held-out text that are measured at most: the first documents in hash order."""
HELD_OUT_DOCUMENT_BYTES = 16 << 10
"""Of each held-out document so many bytes or an even share of those above, whichever is more, from its beginning: one
book is not a slice."""


def load_suite(name: str) -> Suite:
    """Return the suite of a file, or of a preset where no file has that name.

    A task's path starts at `folder` where the suite gives one; otherwise at the working directory and, if nothing is
    there, beside the suite's file. `folder` itself is looked for in the same two places. Items are kept as they are,
    repeated ones too: a task's author decides what counts twice.

    Raises: ConfigError, InputError naming file and line.
    """
    path = _suite_path(name)
    value, lines = read_yaml(path)
    config = validate(SuiteConfig, value, str(path), lines)
    folder = _found(config.folder, (Path(), path.parent)) if config.folder else None
    bases = (folder,) if folder else (Path(), path.parent)
    told = f"{path} says how" if path == Path(name) else f"`gristmill docs {name}` says how"
    tasks = tuple(
        _read_task(task, _found(task.path, bases), f"{path}: tasks.{task.name}", told) for task in config.tasks
    )
    return Suite(path, config, tasks)


def suite_hash(config: SuiteConfig, tasks: Sequence[Task]) -> str:
    """Return 32 hex digits over every task's name, key, weight and group; their order does not matter."""
    keys: Mapping[str, str] = {task.name: task.key for task in tasks}
    return digest(sorted([t.name, keys.get(t.name, ""), repr(t.weight), t.group] for t in config.all()))


def task_key(items: Sequence[Item]) -> str:
    """Return 32 hex digits over the prompts and continuations in order; ids do not matter."""
    return digest([[item.prompt, item.continuation] for item in items])


def held_out_task(config: HeldOutConfig, path: Path) -> Task:
    """Return the task of a slice's held-out documents: no prompt, the text as continuation.

    `path` is the Parquet file of `doc_id` and `text` that the slice's build set aside. Documents come in the order of a
    hash of their ids, each cut as `HELD_OUT_DOCUMENT_BYTES` says, until `HELD_OUT_BYTES` are reached.

    Raises: InputError when the slice set nothing aside; ShardError when the file cannot be read.
    """
    try:
        ids = pq.read_table(path, columns=["doc_id"])["doc_id"].combine_chunks()
        ranks = np.argsort(np.argsort(held_out_order(id_keys(ids)), kind="stable"), kind="stable")
        chosen = _first_texts(path, ranks, HELD_OUT_BYTES)
    except (OSError, pa.ArrowInvalid) as error:
        raise ShardError(f"{path} cannot be read: {error}; delete it and run again, it will be made anew") from error
    items = tuple(Item(ids[int(row)].as_py(), "", text) for row, text in chosen if text)
    if not items:
        raise InputError(
            f"held_out.{config.slice}: slice {config.slice!r} has no held-out text; raise `held_out`, "
            "or leave the task out"
        )
    return Task(config.name, task_key(items), items)


def tokenise_task(task: Task, tokenizer: MixTokenizer) -> TokenTask:
    """Return a task's items as tokens.

    A model sees the end-of-document token, as before every document, then the prompt; so an empty prompt conditions on
    something. Prompt and continuation are tokenised apart: which bytes are scored does not depend on how the tokenizer
    would join them, and the continuation's leading space stays with it.

    Raises: InputError when a continuation has no token (a tokenizer that drops characters).
    """
    prompts = tokenizer.encode_batch([item.prompt for item in task.items])
    continuations = tokenizer.encode_batch([item.continuation for item in task.items])
    eos = np.array([tokenizer.eos], np.int32)
    items = []
    for item, prompt, continuation in zip(task.items, prompts, continuations, strict=True):
        if not continuation.size:
            raise InputError(f"task {task.name!r}, item {item.id!r}: its continuation has no token in this tokenizer")
        tokens = np.concatenate([eos, prompt.astype(np.int32), continuation.astype(np.int32)])
        items.append(TokenItem(tokens, 1 + prompt.size, len(item.continuation.encode())))
    return TokenTask(task.name, task.key, tuple(items))


def _suite_path(name: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    preset = preset_path("suites", name)
    if preset is None:
        known = preset_names("suites")
        listed = f"; presets: {', '.join(known)}" if known else ""
        raise ConfigError(f"suite {name!r}: no such file, nor a preset of that name{nearest(name, known)}{listed}")
    return preset


def _found(path: str, bases: Sequence[Path]) -> Path:
    """Return where `path` is among `bases`; the first place where it could be when it is nowhere."""
    places = [base / path for base in bases]
    return next((place for place in places if place.exists()), places[0])


def _read_task(config: TaskConfig, path: Path, where: str, told: str) -> Task:
    try:
        with open_file(path) as raw:
            packed = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
            stream = io.BufferedReader(pa.CompressedInputStream(raw, packed)) if packed else raw
            lines = json_lines(stream, str(path), MAX_LINE_BYTES, _LINE, MAX_TASK_BYTES)
            items = tuple(_item(value, place) for place, value in islice(lines, config.limit))
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        origin = " ".join((config.origin or "").split()) if isinstance(error, FileNotFoundError) else ""
        do = f"make it from {origin}, {told}" if origin else "name a .jsonl, .jsonl.gz or .jsonl.zst file"
        raise InputError(f"{where}: {path}: {reason}; {do}") from error
    if not items:
        raise InputError(f"{where}: {path} holds no items; each line is {_LINE}")
    return Task(config.name, task_key(items), items)


def _item(value: dict[str, Any], where: str) -> Item:
    for name in ("prompt", "continuation"):
        text = value.get(name)
        if not isinstance(text, str):
            raise InputError(f"{where}: `{name}` is {_shown(text)}; it must be a text")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise InputError(f"{where}: `{name}` holds half a surrogate pair, which is no text; repair the line")
    if not value["continuation"]:
        raise InputError(f"{where}: `continuation` is empty; nothing could be measured")
    given = value.get("id")
    return Item(where.rpartition(":")[2] if given is None else str(given), value["prompt"], value["continuation"])


def _shown(value: object) -> str:
    return "missing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _first_texts(path: Path, ranks: np.ndarray[tuple[int], np.dtype[np.int64]], limit: int) -> list[tuple[int, str]]:
    """Return (row, text cut short) in the order of `ranks` until `limit` bytes are reached.

    No more than `limit` bytes are held in memory, besides a batch of rows.
    """
    most = max(HELD_OUT_DOCUMENT_BYTES, limit // max(len(ranks), 1))
    best: dict[int, tuple[int, str]] = {}
    start = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(256, columns=["text"]):
            texts = pc.utf8_slice_codeunits(batch["text"], 0, most)
            for row, text in enumerate(texts.to_pylist(), start):
                best[int(ranks[row])] = (row, _cut(text, most))
            start += len(texts)
            best = dict(_within(best, limit))
    return [found for _, found in _within(best, limit)]


def _within(best: Mapping[int, tuple[int, str]], limit: int) -> Iterator[tuple[int, tuple[int, str]]]:
    """Yield documents in order until they have `limit` bytes; the last is cut to what is left."""
    for rank in sorted(best):
        row, text = best[rank]
        if limit <= 0:
            return
        text = _cut(text, limit)
        yield rank, (row, text)
        limit -= len(text.encode())


def _cut(text: str, limit: int) -> str:
    """Return the longest beginning of at most `limit` UTF-8 bytes."""
    return text.encode()[:limit].decode("utf-8", "ignore")
