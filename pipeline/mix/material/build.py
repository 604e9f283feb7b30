"""The token stores of slices: what proxies train on and shards are written from.

A store is a folder: `tokens.npy`, `documents.parquet`, `held_out.parquet` and `manifest.json`, which is written last. A
matching manifest means done. Tokens are made in the order in which the texts lie and moved into the order of a hash of
the documents' ids afterwards, through a memory map: reading texts in that order would read every row group once a
document. Of each document some tens of bytes are held in memory, of the texts one row group.

Which documents are held out does not depend on the suite, contaminated or not: a task made from them stays the same
when the suite changes. All others that share a run of words with an evaluation item are dropped and counted. A store
that was made with other tasks stays, so that what was trained on it stays valid: the items that a new task shares with
it are left out of the measurement instead, see `shared_text`.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.mix.config import ResolvedSlice
from pipeline.mix.material import contamination
from pipeline.mix.material.contamination import ItemIndex, contaminated_documents, contaminated_items, index_items
from pipeline.mix.material.texts import Located, held_out, id_keys, id_strings, locate, read_texts, training_order
from pipeline.mix.material.tokenizer import MixTokenizer
from pipeline.mix.types import BuiltSlice, ChosenDocuments, SliceTokens, Task
from pipeline.table.errors import ConservationError, InputError, ShardError
from pipeline.table.kept import clear_temporary, create_file, done, write_json
from pipeline.table.shards import digest, made_from
from pipeline.table.sql import Session
from pipeline.table.storage import write_failure

VERSION = "slices_v1"
MAX_SCANS = 8
"""Texts are read for one slice at a time, unless that would read the workspace more often than this."""

_TOKENS, _DOCUMENTS, _HELD_OUT, _MANIFEST = "tokens.npy", "documents.parquet", "held_out.parquet", "manifest.json"
_BLOCK_TOKENS = 4 << 20
_DOCUMENT_ROWS = 100_000
_DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
    ]
)
_HELD_OUT_SCHEMA = pa.schema([pa.field("doc_id", pa.string(), nullable=False), pa.field("text", pa.large_string())])


@dataclass(frozen=True)
class SliceRequest:
    """What token stores are made of."""

    folder: Path
    slices: tuple[ResolvedSlice, ...]
    documents: ChosenDocuments
    tokenizer: MixTokenizer
    held_out: float
    contamination_words: int
    tasks: tuple[Task, ...]
    """Whose items are kept out of the training text. Tasks of held-out text are not among them."""


def build_slices(
    session: Session, request: SliceRequest, tell: Callable[[BuiltSlice], None] = lambda made: None
) -> list[BuiltSlice]:
    """Return the stores of all slices in order, made where no matching manifest says that they are.

    `tell` is called for each that is made. A killed build is done again for the slices that it was at.

    Raises: InputError when contamination leaves a slice nothing; WorkspaceError, ShardError when texts are unreadable.
    """
    keys = [_keys(session, request, number) for number in range(len(request.slices))]
    built = _kept(request, keys)
    missing = [number for number in range(len(request.slices)) if number not in built]
    if missing:
        index = index_items(request.tasks, request.contamination_words)
        located = locate(session.catalog, request.documents.sources, request.documents.keys)
        for numbers in _passes(request, located, missing):
            for number, made in _make(located, request, index, {n: keys[n] for n in numbers}):
                built[number] = made
                tell(made)
    return [built[number] for number in range(len(request.slices))]


def kept_slices(session: Session, request: SliceRequest) -> list[BuiltSlice] | None:
    """Return the stores of all slices in order where each is there already; None where one is to be made.

    Raises: ShardError when a manifest is damaged.
    """
    built = _kept(request, [_keys(session, request, number) for number in range(len(request.slices))])
    return [built[number] for number in sorted(built)] if len(built) == len(request.slices) else None


def _keys(session: Session, request: SliceRequest, number: int) -> tuple[str, str]:
    """Return the key of a slice's texts and tokens, and that of its store, which the tasks decide too."""
    documents = request.documents
    mine = np.flatnonzero(documents.slices == number)
    used = sorted({documents.sources[code] for code in np.unique(documents.source_codes[mine]).tolist()})
    parts = {name: [made_from(part) for part in session.catalog.group(name, "curated").parts()] for name in used}
    text_key = digest(
        {
            "version": VERSION,
            "documents": hashlib.blake2b(documents.keys[mine].tobytes(), digest_size=16).hexdigest(),
            "curated": parts,
            "tokenizer": request.tokenizer.content_hash,
            "tokenizers": version("tokenizers"),
            "held_out": request.held_out,
        }
    )
    tasks = sorted({task.key for task in request.tasks})
    words = request.contamination_words if tasks else None
    return text_key, digest({"text": text_key, "version": contamination.VERSION, "words": words, "tasks": tasks})


def _kept(request: SliceRequest, keys: Sequence[tuple[str, str]]) -> dict[int, BuiltSlice]:
    """Return the stores of the same texts and tokens that are there, by number."""
    found = {}
    for number, (text_key, _) in enumerate(keys):
        folder = request.folder / request.slices[number].name
        manifest = done(folder / _MANIFEST, {"text_key": text_key})
        if manifest is not None:
            found[number] = _built(folder, manifest)
    return found


def _built(folder: Path, manifest: Mapping[str, Any]) -> BuiltSlice:
    counts = manifest["counts"]
    numbers = counts["trained"], manifest["tokens"], manifest["bytes"]
    return BuiltSlice(
        SliceTokens(folder.name, folder / _TOKENS, folder / _DOCUMENTS, *numbers),
        manifest["key"],
        counts["documents_in"],
        counts["held_out"],
        counts["contaminated"],
        manifest["contaminated_by_task"],
        manifest["unchecked_items"],
        manifest["tasks"],
        folder / _HELD_OUT,
    )


def _passes(request: SliceRequest, located: Located, missing: Sequence[int]) -> Iterator[Sequence[int]]:
    """Cut the missing slices into passes: one each, or more together where each would read most of the texts."""
    sizes = np.array([each.text_bytes for each in located.row_groups], np.float64)
    read = 0.0
    for number in missing:
        read += sizes[np.unique(located.group_of[request.documents.slices == number])].sum()
    together = max(1, ceil(read / (MAX_SCANS * max(sizes.sum(), 1.0))))
    for start in range(0, len(missing), together):
        yield missing[start : start + together]


def _make(
    located: Located, request: SliceRequest, index: ItemIndex, keys: Mapping[int, tuple[str, str]]
) -> Iterator[tuple[int, BuiltSlice]]:
    """Make the stores of some slices, whose texts are read once for all of them."""
    slices = request.documents.slices
    try:
        with ExitStack() as stack:
            makers = {n: stack.enter_context(closing(_Maker(request, n, key, index))) for n, key in keys.items()}
            for positions, texts in read_texts(located, np.flatnonzero(np.isin(slices, list(makers)))):
                hits = contaminated_documents(texts, index)
                for number in np.unique(slices[positions]).tolist():
                    rows = np.flatnonzero(slices[positions] == number)
                    tasks = [hits.get(row, ()) for row in rows.tolist()]
                    makers[number].take(positions[rows], texts.take(pa.array(rows)), tasks)
            for number, maker in makers.items():
                yield number, maker.finish()
    except OSError as error:
        raise ShardError(write_failure(str(request.folder), error)) from error


class _Maker:
    """One store in the making: tokens as they come, then in order."""

    def __init__(self, request: SliceRequest, number: int, keys: tuple[str, str], index: ItemIndex) -> None:
        self.request, self.keys, self.index = request, keys, index
        self.slice, self.tokenizer = request.slices[number], request.tokenizer
        self.folder = request.folder / self.slice.name
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_temporary(self.folder)
        (self.folder / _MANIFEST).unlink(missing_ok=True)  # what it told of is about to change
        self.mine = np.flatnonzero(request.documents.slices == number)
        self.held: NDArray[np.bool_] = held_out(request.documents.keys[self.mine], request.held_out)
        self.read = self.contaminated = 0
        self.by_task: Counter[str] = Counter()
        self.positions: list[NDArray[np.int64]] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.sizes: list[NDArray[np.int64]] = []
        self.raw: BinaryIO = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        self.held_raw: BinaryIO = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115
        self.held_file = pq.ParquetWriter(self.held_raw, _HELD_OUT_SCHEMA, compression="zstd")

    def take(self, positions: NDArray[np.int64], texts: pa.Array, hits: Sequence[Sequence[str]]) -> None:
        """Tokenise the texts of some of the slice's documents, each with the tasks that contaminate it."""
        held = self.held[np.searchsorted(self.mine, positions)]
        dirty = np.array([bool(tasks) for tasks in hits], bool) & ~held
        for row in np.flatnonzero(dirty).tolist():
            self.by_task.update(hits[row])
        if held.any():
            ids = id_strings(self.request.documents.keys[positions[held]])
            table = pa.table([ids, texts.filter(pa.array(held)).cast(pa.large_string())], schema=_HELD_OUT_SCHEMA)
            self.held_file.write_table(table)
        clean = ~held & ~dirty
        kept = texts.filter(pa.array(clean))
        flat, counts = self.tokenizer.encode_flat(kept)
        self.raw.write(np.insert(flat, np.cumsum(counts), self.tokenizer.eos).tobytes())
        self.positions.append(positions[clean])
        self.lengths.append(counts + 1)
        self.sizes.append(pc.binary_length(kept).to_numpy(zero_copy_only=False).astype(np.int64))
        self.read += len(positions)
        self.contaminated += int(dirty.sum())

    def close(self) -> None:
        """Give up what is open; nothing is left of it."""
        for each in (self.held_file, self.held_raw, self.raw):
            each.close()

    def finish(self) -> BuiltSlice:
        """Put the tokens in order and write the store, its manifest last."""
        if self.read != len(self.mine):
            raise ConservationError(
                f"slice {self.slice.name}: {len(self.mine)} documents chosen, {self.read} read; "
                "this is a bug in Gristmill"
            )
        if not any(map(len, self.positions)):
            raise InputError(
                f"slices.{self.slice.name}: nothing is left to train on: {self.contaminated} documents share text with "
                f"the suite's items and {self.held.sum()} are held out; widen its `where`, or leave the tasks out"
            )
        positions, lengths, sizes = (np.concatenate(each) for each in (self.positions, self.lengths, self.sizes))
        keys = self.request.documents.keys[positions]
        order = np.lexsort((keys[:, 1], keys[:, 0], training_order(keys)))
        self._write_tokens(order, lengths)
        self._write_documents(positions[order], lengths[order], sizes[order])
        self.held_file.close()
        self.held_raw.seek(0)
        with create_file(self.folder / _HELD_OUT) as target:
            shutil.copyfileobj(self.held_raw, target)
        text_key, key = self.keys
        manifest = {
            "slice": self.slice.name,
            "version": VERSION,
            "key": key,
            "text_key": text_key,
            "where": self.slice.where,
            "tokenizer": self.tokenizer.content_hash,
            "held_out": self.request.held_out,
            "contamination_words": self.request.contamination_words,
            "tasks": dict(self.index.keys),
            "counts": {
                "documents_in": self.read,
                "trained": len(positions),
                "held_out": int(self.held.sum()),
                "contaminated": self.contaminated,
            },
            "contaminated_by_task": dict(sorted(self.by_task.items())),
            "unchecked_items": dict(self.index.unchecked),
            "tokens": int(lengths.sum()),
            "bytes": int(sizes.sum()),
            "files": {file: (self.folder / file).stat().st_size for file in (_TOKENS, _DOCUMENTS, _HELD_OUT)},
        }
        write_json(self.folder / _MANIFEST, manifest)
        return _built(self.folder, manifest)

    def _write_tokens(self, order: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        dtype, total = self.tokenizer.dtype, int(lengths.sum())
        self.raw.flush()
        raw = np.memmap(self.raw, dtype, "r", shape=(total,))
        ends = np.cumsum(lengths)
        starts = ends - lengths
        with create_file(self.folder / _TOKENS) as target:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (total,)}
            np.lib.format.write_array_header_1_0(target, header)
            block = np.cumsum(lengths[order]) // _BLOCK_TOKENS
            for rows in np.split(order, np.flatnonzero(np.diff(block)) + 1):
                pieces = [raw[start:end] for start, end in zip(starts[rows].tolist(), ends[rows].tolist(), strict=True)]
                target.write(np.concatenate(pieces).tobytes())

    def _write_documents(
        self, positions: NDArray[np.int64], lengths: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> None:
        documents, starts = self.request.documents, np.cumsum(lengths) - lengths
        options = {"compression": "zstd", "use_dictionary": ["source"]}
        path = self.folder / _DOCUMENTS
        with create_file(path) as target, pq.ParquetWriter(target, _DOCUMENT_SCHEMA, **options) as writer:
            for first in range(0, len(positions), _DOCUMENT_ROWS):
                rows = slice(first, first + _DOCUMENT_ROWS)
                codes = documents.source_codes[positions[rows]]
                columns = [
                    id_strings(documents.keys[positions[rows]]),
                    pa.array(documents.sources).take(pa.array(codes)),
                ]
                columns += [pa.array(starts[rows]), pa.array(lengths[rows].astype(np.int32)), pa.array(sizes[rows])]
                writer.write_table(pa.table(columns, schema=_DOCUMENT_SCHEMA))


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
    paths = {
        task.name: folder / "late" / f"{built.name}-{digest([built.key, task.key, words])[:16]}.json"
        for task in tasks
        if task.key not in known
    }
    kept = {name: done(path, {}) for name, path in paths.items()}
    found = {name: SharedText(tuple(v["items"]), tuple(v["documents"])) for name, v in kept.items() if v is not None}
    unknown = [task for task in tasks if task.name in paths and task.name not in found]
    for name, shared in _search(session, built, unknown, words).items() if unknown else ():
        write_json(paths[name], {"items": list(shared.items), "documents": list(shared.documents)})
        found[name] = shared
    return found


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
