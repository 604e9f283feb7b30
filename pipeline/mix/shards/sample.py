"""Token shards for a budget: what a mixture asks of each slice, shuffled together, on disk in a trainer's format.

    <out>/index.json               what the sample is and which shards it has, replaced last and at once
    <out>/<first 8 digits of key>/ part-00000.*, trace-00000.parquet, shard-00000.json (the manifest, written last), ...

Readers start from the index. A shard is done when its manifest has the sample's key and its files are there, so a run
that was killed goes on where it was and writes the same bytes. Another sample gets a folder of its own; the earlier one
is deleted once the index names the new.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pipeline.mix.config import SampleConfig
from pipeline.mix.shards.plan import Documents, Integers, make_plan, read_documents, tokens_asked
from pipeline.mix.shards.write import Manifest, ShardWork, Stores, write_shards
from pipeline.mix.types import Floats, SliceTokens
from pipeline.table.errors import ConfigError, ConservationError, InputError
from pipeline.table.kept import clear_temporary, done, lie_there, write_json
from pipeline.table.shards import digest
from pipeline.table.storage import Storage

INDEX = "index.json"
VERSION = "1"
_OURS = re.compile(r"\.?(part|trace|shard)-\d{5}\..*")


@dataclass(frozen=True)
class SliceSample:
    """What was asked of a slice and what its shards were found to hold."""

    name: str
    weight: float
    asked_tokens: int
    tokens: int
    proportion: float
    available_tokens: int
    epochs: float
    max_epochs: float


@dataclass(frozen=True)
class SampleReport:
    """A sample. `complete` is false when it was told to stop: then the index does not list it yet."""

    folder: str
    """A path or a URL."""
    key: str
    complete: bool
    tokens: int
    shards: int
    written_shards: int
    slices: tuple[SliceSample, ...]


def sample(
    slices: Sequence[SliceTokens],
    weights: Floats,
    budget_tokens: int,
    out: str | Path,
    config: SampleConfig,
    *,
    max_epochs: Floats,
    vocabulary: int,
    eos: int,
    key: str,
    exclude: Sequence[Collection[str] | None] | None = None,
    workers: int = 1,
    on_progress: Callable[[int], None] = lambda tokens: None,
    stop: Callable[[], bool] = lambda: False,
) -> SampleReport:
    """Write (or finish) the shards of a mixture, `budget_tokens` in all, and return what they hold.

    `out` is a local folder, or the URL of one. `weights` and `max_epochs` are (k,), in the order of `slices`; `exclude`
    has for each slice the doc_ids that are not to be drawn; `key` is the identity of the slices' content. `on_progress`
    is called with the tokens written since the last call; `stop` is asked often, and when it says so the report comes
    back with `complete` false.

    Raises: ConfigError when the mixture cannot be had within `max_epochs`; InputError when `out` cannot be a folder;
    ShardError when a slice cannot be read or a shard not written; ConservationError when a shard holds what it should
    not.
    """
    if not 0 <= eos < vocabulary:
        raise ConfigError(f"eos {eos} is no token of a vocabulary of {vocabulary}")
    weights, max_epochs = np.asarray(weights, np.float64), np.asarray(max_epochs, np.float64)
    excluded = list(exclude) if exclude is not None else [None] * len(slices)
    whole = {
        "version": VERSION,
        "key": key,
        "slices": [[s.name, s.n_documents, s.n_tokens] for s in slices],
        "numbers": [weights.tolist(), max_epochs.tolist(), budget_tokens, vocabulary, eos],
        "config": config.model_dump(),
        "exclude": [_digest_ids(ids) for ids in excluded],
    }
    whole_key = digest(whole)
    report = _finished(out, whole_key)
    if report is not None:
        _delete_others(out, report.folder)
        return report
    documents = [read_documents(s, ids) for s, ids in zip(slices, excluded, strict=True)]
    asked = tokens_asked(weights, budget_tokens, documents, max_epochs)
    plan = make_plan(documents, asked, config.seed, config.shard_tokens)
    folder = _prepare(out, whole_key)
    with Stores(slices, asked > 0) as stores:
        work = ShardWork(folder, whole_key, plan, stores, config, vocabulary, eos, on_progress, stop)
        manifests, written = write_shards(work, workers)
    found = _counted(weights, asked, documents, max_epochs, manifests)
    complete = len(manifests) == plan.n_shards
    report = SampleReport(
        folder, whole_key, complete, sum(s.tokens for s in found), len(manifests), written, tuple(found)
    )
    if complete:
        for each in found:
            if each.tokens != each.asked_tokens:
                raise ConservationError(
                    f"{folder}: slice {each.name} has {each.tokens} tokens, {each.asked_tokens} were asked; "
                    "this is a bug in Gristmill, delete the folder and report it"
                )
        _publish(out, work, report, manifests)
    return report


def _counted(
    weights: Floats,
    asked: Integers,
    documents: Sequence[Documents],
    max_epochs: Floats,
    manifests: Sequence[Manifest],
) -> list[SliceSample]:
    """Return each slice's tokens added up over the shards' manifests."""
    tokens = [sum(m["tokens"].get(d.name, 0) for m in manifests) for d in documents]
    total = max(sum(tokens), 1)
    return [
        SliceSample(
            name=d.name,
            weight=float(weights[i]),
            asked_tokens=int(asked[i]),
            tokens=tokens[i],
            proportion=tokens[i] / total,
            available_tokens=d.n_tokens,
            epochs=tokens[i] / d.n_tokens if d.n_tokens else 0.0,
            max_epochs=float(max_epochs[i]),
        )
        for i, d in enumerate(documents)
    ]


# The folder -----------------------------------------------------------------------------------------------------------


def _publish(out: str | Path, work: ShardWork, report: SampleReport, manifests: Sequence[Manifest]) -> None:
    """Replace the index by this sample's, then delete what it replaces."""
    index = {
        "version": VERSION,
        "key": report.key,
        "folder": report.folder.rpartition("/")[2],
        "format": work.config.format,
        "dtype": work.dtype.name,
        "vocabulary": work.vocabulary,
        "eos": work.eos,
        "seed": work.config.seed,
        "shard_tokens": work.config.shard_tokens,
        "tokens": report.tokens,
        "slices": [asdict(found) for found in report.slices],
        "shards": [
            {
                "shard": m["shard"],
                "tokens": sum(m["tokens"].values()),
                "documents": m["documents"],
                "files": m["files"],
            }
            for m in manifests
        ],
    }
    write_json(f"{out}/{INDEX}", index)
    _delete_others(out, report.folder)


def _finished(out: str | Path, key: str) -> SampleReport | None:
    """Return the report of a sample that is there as a whole, or None."""
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError(f"{out} is a file; shards need a folder")
    index = done(f"{out}/{INDEX}", {"key": key})
    if index is None:
        return None
    folder = f"{out}/{index['folder']}"
    if not all(lie_there(folder, shard["files"]) for shard in index["shards"]):
        return None
    slices = tuple(SliceSample(**found) for found in index["slices"])
    return SampleReport(folder, key, True, index["tokens"], len(index["shards"]), 0, slices)


def _prepare(out: str | Path, key: str) -> str:
    folder = f"{out}/{key[:8]}"
    try:
        if "://" not in folder:
            os.makedirs(folder, exist_ok=True)
            clear_temporary(Path(folder))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; shards need a folder that can be written") from error
    return folder


def _delete_others(out: str | Path, current: str) -> None:
    """Delete earlier samples: folders named like ours that hold nothing but files named like ours."""
    storage = Storage.at(str(out))
    for name in storage.names("") - {current.rpartition("/")[2]}:
        is_folder = not storage.is_local or os.path.isdir(storage.path(name))
        files = storage.names(name) if is_folder else set()
        if is_folder and re.fullmatch(r"[0-9a-f]{8}", name) and all(map(_OURS.fullmatch, files)):
            for file in files:
                storage.delete(f"{name}/{file}")
            if storage.is_local:
                os.rmdir(storage.path(name))


def _digest_ids(ids: Collection[str] | None) -> str:
    content = hashlib.blake2b(digest_size=16)
    for doc_id in sorted(ids or ()):
        content.update(doc_id.encode() + b"\0")
    return content.hexdigest()
