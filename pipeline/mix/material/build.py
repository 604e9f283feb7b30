"""The token stores of slices: what proxies train on and shards are written from.

A store is a folder: `tokens.npy`, `documents.parquet`, `held_out.parquet` and `manifest.json`, which is written last. A
matching manifest means done. Tokens are made in the order in which the texts lie and moved into the order of a hash of
the documents' ids afterwards, through a memory map: reading texts in that order would read every row group once a
document. Of each document some tens of bytes are held in memory, of the texts one row group.

Which documents are held out does not depend on the suite, contaminated or not: a task made from them stays the same
when the suite changes. All others that share a run of words with an evaluation item are dropped and counted.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.mix.material import contamination
from pipeline.mix.material.contamination import ItemIndex, contaminated_documents, contaminated_items, index_items
from pipeline.mix.material.texts import Keys, Located, held_out, id_keys, id_strings, locate, read_texts, training_order
from pipeline.mix.material.tokenizer import MixTokenizer
from pipeline.mix.types import ChosenDocuments, ResolvedSlice, SliceTokens, Task
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
    keep_filtered: bool = False
    """Whether a store made with other tasks stays, so that what was trained on it stays valid. The items that a new
    task shares with it must then be left out of the measurement, see `shared_text`."""


@dataclass(frozen=True)
class BuiltSlice:
    """A finished store and where its documents went: documents_in = trained + held_out + contaminated."""

    tokens: SliceTokens
    key: str
    """32 hex digits over everything that decides the store."""
    documents_in: int
    held_out: int
    contaminated: int
    contaminated_by_task: Mapping[str, int]
    """Documents dropped by task; one that two tasks contaminate counts for both."""
    unchecked_items: Mapping[str, int]
    """Items a task that are too short to be looked for."""
    task_keys: Mapping[str, str]
    """The tasks whose items were kept out, and their keys."""
    held_out_path: Path

    @property
    def name(self) -> str:
        return self.tokens.name


def build_slices(
    session: Session, request: SliceRequest, tell: Callable[[BuiltSlice, bool], None] = lambda _built, _made: None
) -> list[BuiltSlice]:
    """Return the stores of all slices in order, made where no matching manifest says that they are.

    `tell` is called for each with whether it was made now. A killed build is done again for the slices that it was at.

    Raises: InputError when contamination leaves a slice nothing; WorkspaceError, ShardError when texts are unreadable.
    """
    keys = [_keys(session, request, number) for number in range(len(request.slices))]
    built = _kept(request, keys)
    for each in built.values():
        tell(each, False)
    missing = [number for number in range(len(request.slices)) if number not in built]
    if missing:
        index = index_items(request.tasks, request.contamination_words)
        located = locate(session.catalog, request.documents.sources, request.documents.keys)
        for numbers in _passes(request, located, missing):
            for number, made in _make(located, request, index, {n: keys[n] for n in numbers}):
                built[number] = made
                tell(made, True)
    return [built[number] for number in range(len(request.slices))]


def kept_slices(session: Session, request: SliceRequest) -> list[BuiltSlice] | None:
    """Return the stores of all slices in order where each is there already; None where one is to be made.

    Raises: ShardError when a manifest is damaged.
    """
    built = _kept(request, [_keys(session, request, number) for number in range(len(request.slices))])
    return [built[number] for number in sorted(built)] if len(built) == len(request.slices) else None


def slice_table(
    built: Sequence[BuiltSlice], slices: Sequence[ResolvedSlice], budget_tokens: int
) -> list[dict[str, Any]]:
    """Return what a person wants to know of each slice. `proportion` is the natural one, by training tokens; `cap` the
    largest weight at which the target run repeats the slice `max_epochs` times: min(1, max_epochs * tokens / budget).
    """
    total = sum(each.tokens.n_tokens for each in built)
    return [
        {
            "slice": each.name,
            "documents": each.tokens.n_documents,
            "tokens": each.tokens.n_tokens,
            "bytes": each.tokens.n_bytes,
            "proportion": each.tokens.n_tokens / total,
            "cap": min(1.0, config.config.max_epochs * each.tokens.n_tokens / budget_tokens),
            "held_out": each.held_out,
            "contaminated": each.contaminated,
        }
        for each, config in zip(built, slices, strict=True)
    ]


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
    """Return the stores that are there, by number: with `keep_filtered` those of the same texts and tokens, too."""
    found = {}
    for number, (text_key, key) in enumerate(keys):
        folder = request.folder / request.slices[number].name
        manifest = done(folder / _MANIFEST, {"text_key": text_key} if request.keep_filtered else {"key": key})
        if manifest is not None:
            found[number] = _built(folder, folder.name, manifest)
    return found


def _built(folder: Path, name: str, manifest: Mapping[str, Any]) -> BuiltSlice:
    counts = manifest["counts"]
    tokens = SliceTokens(
        name, folder / _TOKENS, folder / _DOCUMENTS, counts["trained"], manifest["tokens"], manifest["bytes"]
    )
    return BuiltSlice(
        tokens,
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
    try:
        with ExitStack() as stack:
            makers = {n: stack.enter_context(closing(_Maker(request, n, key, index))) for n, key in keys.items()}
            _take_all(located, request, index, makers)
            for number, maker in makers.items():
                yield number, maker.finish()
    except OSError as error:
        raise ShardError(write_failure(str(request.folder), error)) from error


def _take_all(located: Located, request: SliceRequest, index: ItemIndex, makers: Mapping[int, _Maker]) -> None:
    """Read the texts of some slices once and hand each slice its own."""
    slices = request.documents.slices
    chosen = np.flatnonzero(np.isin(slices, list(makers)))
    for positions, texts in read_texts(located, chosen):
        hits = contaminated_documents(texts, index)
        for number in np.unique(slices[positions]).tolist():
            rows = np.flatnonzero(slices[positions] == number)
            makers[number].take(
                positions[rows], texts.take(pa.array(rows)), [hits.get(row, ()) for row in rows.tolist()]
            )


@dataclass
class _Counts:
    documents_in: int = 0
    trained: int = 0
    held_out: int = 0
    contaminated: int = 0


@dataclass
class _Maker:
    """One store in the making: tokens as they come, then in order."""

    request: SliceRequest
    number: int
    keys: tuple[str, str]
    index: ItemIndex
    counts: _Counts = field(default_factory=_Counts)
    by_task: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.request.slices[self.number].name
        self.folder = self.request.folder / self.name
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_temporary(self.folder)
        (self.folder / _MANIFEST).unlink(missing_ok=True)  # what it told of is about to change
        documents = self.request.documents
        self.mine = np.flatnonzero(documents.slices == self.number)
        self.held: NDArray[np.bool_] = held_out(documents.keys[self.mine], self.request.held_out)
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
            for task in hits[row]:
                self.by_task[task] = self.by_task.get(task, 0) + 1
        if held.any():
            ids = id_strings(self.request.documents.keys[positions[held]])
            table = pa.table([ids, texts.filter(pa.array(held)).cast(pa.large_string())], schema=_HELD_OUT_SCHEMA)
            self.held_file.write_table(table)
        clean = ~held & ~dirty
        kept = texts.filter(pa.array(clean))
        flat, counts = self.request.tokenizer.encode_flat(kept)
        self.raw.write(np.insert(flat, np.cumsum(counts), self.request.tokenizer.eos).tobytes())
        self.positions.append(positions[clean])
        self.lengths.append(counts + 1)
        self.sizes.append(pc.binary_length(kept).to_numpy(zero_copy_only=False).astype(np.int64))
        self.counts.documents_in += len(positions)
        self.counts.held_out += int(held.sum())
        self.counts.contaminated += int(dirty.sum())
        self.counts.trained += int(clean.sum())

    def close(self) -> None:
        """Give up what is open; nothing is left of it."""
        for each in (self.held_file, self.held_raw, self.raw):
            each.close()

    def finish(self) -> BuiltSlice:
        """Put the tokens in order and write the store, its manifest last."""
        counts = self.counts
        if counts.documents_in != len(self.mine):
            raise ConservationError(
                f"slice {self.name}: {len(self.mine)} documents chosen, {counts.documents_in} read; "
                "this is a bug in Gristmill"
            )
        if not counts.trained:
            raise InputError(
                f"slices.{self.name}: nothing is left to train on: {counts.contaminated} documents share text with the "
                f"suite's items and {counts.held_out} are held out; widen its `where`, or leave the tasks out"
            )
        positions, lengths, sizes = (np.concatenate(each) for each in (self.positions, self.lengths, self.sizes))
        documents = self.request.documents
        keys = documents.keys[positions]
        order = np.lexsort((keys[:, 1], keys[:, 0], training_order(keys)))
        self._write_tokens(order, lengths)
        sources = np.array(documents.sources, object)[documents.source_codes[positions[order]]]
        self._write_documents(keys[order], sources, lengths[order], sizes[order])
        self.held_file.close()
        self.held_raw.seek(0)
        with create_file(self.folder / _HELD_OUT) as target:
            shutil.copyfileobj(self.held_raw, target)
        manifest = self._manifest(int(lengths.sum()), int(sizes.sum()))
        write_json(self.folder / _MANIFEST, manifest)
        return _built(self.folder, self.name, manifest)

    def _write_tokens(self, order: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        dtype = self.request.tokenizer.dtype
        total = int(lengths.sum())
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
        self, keys: Keys, sources: NDArray[np.object_], lengths: NDArray[np.int64], sizes: NDArray[np.int64]
    ) -> None:
        starts = np.cumsum(lengths) - lengths
        options = {"compression": "zstd", "use_dictionary": ["source"]}
        path = self.folder / _DOCUMENTS
        with create_file(path) as target, pq.ParquetWriter(target, _DOCUMENT_SCHEMA, **options) as writer:
            for first in range(0, len(keys), _DOCUMENT_ROWS):
                rows = slice(first, first + _DOCUMENT_ROWS)
                columns = [id_strings(keys[rows]), pa.array(sources[rows], pa.string()), pa.array(starts[rows])]
                columns += [pa.array(lengths[rows].astype(np.int32)), pa.array(sizes[rows])]
                writer.write_table(pa.table(columns, schema=_DOCUMENT_SCHEMA))

    def _manifest(self, n_tokens: int, n_bytes: int) -> dict[str, Any]:
        text_key, key = self.keys
        files = (_TOKENS, _DOCUMENTS, _HELD_OUT)
        return {
            "slice": self.name,
            "version": VERSION,
            "key": key,
            "text_key": text_key,
            "where": self.request.slices[self.number].where,
            "tokenizer": self.request.tokenizer.content_hash,
            "held_out": self.request.held_out,
            "contamination_words": self.request.contamination_words,
            "tasks": dict(self.index.keys),
            "counts": asdict(self.counts),
            "contaminated_by_task": dict(sorted(self.by_task.items())),
            "unchecked_items": dict(self.index.unchecked),
            "tokens": n_tokens,
            "bytes": n_bytes,
            "files": {file: (self.folder / file).stat().st_size for file in files},
        }


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
        kept = done(_path(folder, built, task, words), {})
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
