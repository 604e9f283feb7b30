"""The `dedup` stage of a run: signatures a shard, then components among all sources of a scope."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flows.progress import StageReport
from flows.runs import Run
from flows.stages import MapPlan, Plan, execute_map, plan_map
from pipeline.dedup import components as dedup
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.minhash import HASH_VERSION, Scheme, permutations, sign_table, signatures_schema
from pipeline.rephrase.output import own_texts
from pipeline.table import schema
from pipeline.table.catalog import AGAINST
from pipeline.table.errors import GuardrailError
from pipeline.table.shards import (
    Group,
    Identity,
    Index,
    Part,
    PartWriter,
    RowMap,
    Tally,
    Work,
    made_from,
    made_from_texts,
    read_batches,
    read_rows,
)

SCHEME: Scheme = "affine32"
_TEXT: tuple[str, ...] = (schema.DOC_ID, schema.TEXT)
_OWN_TEXT: tuple[str, ...] = (*_TEXT, "metadata")


@dataclass(frozen=True)
class Member:
    """One signatures part of a scope, the documents that it was made of, and where its duplicates go."""

    signatures: Group
    part: Part
    documents: Group
    document_part: str
    duplicates: Group
    own_texts: bool


def plan_dedup(run: Run, sources: Sequence[str]) -> Plan:
    """Plan the duplicates of a scope: signatures that are missing, and the components when anything changed."""
    label = "+".join(sources)
    config = run.config.settings(sources[0]).dedup
    assert config is not None, "steps() leaves out sources without dedup"
    maps = {source: _plan_signatures(run, source, config) for source in sources}
    pending = sum(len(plan.jobs) for plan in maps.values())
    key = _key(run, sources, config)
    targets = {target.folder: target for target in _targets(run, sources).values()}
    stale = bool(pending) or not all(target.is_complete(key) for target in targets.values())
    to_do, done = pending + int(stale), _done(maps) + int(not stale)  # the components are one more shard of work

    def execute() -> StageReport:
        started = time.monotonic()
        for source, plan in maps.items():
            execute_map(run, source, "dedup", plan)
        rows = sum(plan.rows for plan in maps.values())
        notes = _find(run, sources, config) if stale else ""
        return StageReport(label, "dedup", to_do, done, rows, rows, time.monotonic() - started, notes)

    return Plan(label, "dedup", to_do, done, execute)


def _done(maps: dict[str, MapPlan]) -> int:
    return sum(len(plan.parts) - len(plan.jobs) for plan in maps.values())


def _plan_signatures(run: Run, source: str, config: DedupConfig) -> MapPlan:
    target = run.group(source, "signatures")
    settings: dict[str, int | str] = {
        "num_bands": config.num_bands,
        "rows_per_band": config.rows_per_band,
        "shingle_words": config.shingle_words,
        "numbers": config.numbers,
        "seed": config.seed,
        "scheme": SCHEME,
    }
    columns, sign = _TEXT, partial(_sign, config=config)
    if _is_rephrased(run, (source,)):
        # Question-answer pairs stand behind their source, which would make most of them copies of it.
        settings["of"] = "own_texts"
        columns, sign = _OWN_TEXT, partial(_sign_own_texts, config=config)
    libraries = {"datasketch": version("datasketch"), "hashes": HASH_VERSION}
    identity = Identity("signatures", "signatures_v2", settings, libraries)
    out = signatures_schema(config.num_perm)

    def row_maps(part: Part) -> list[RowMap]:
        made = made_from(part) if "metadata" in columns else made_from_texts(part)
        return [RowMap(target, Work(part.stem, identity, (made,)), out, columns, sign)]

    return plan_map(run, source, [target], row_maps)


def _sign(documents: pa.Table, config: DedupConfig) -> pa.Table:
    perms = permutations(config.num_perm, config.seed, SCHEME)
    return sign_table(documents, config.num_bands, config.rows_per_band, config.shingle_words, perms, config.numbers)


def _sign_own_texts(documents: pa.Table, config: DedupConfig) -> pa.Table:
    return _sign(own_texts(documents), config)


def _is_rephrased(run: Run, sources: Sequence[str]) -> bool:
    """Tell whether this is the source that rephrasing makes; no other is in its scope."""
    return run.config.rephrase is not None and tuple(sources) == (run.config.rephrase.output_source,)


def _identity(sources: Sequence[str], config: DedupConfig) -> Identity:
    return Identity("dedup", "dedup_v2", {**config.model_dump(mode="json"), "scope": list(sources)})


def _targets(run: Run, sources: Sequence[str]) -> dict[str, Group]:
    """Return the sources whose documents are compared, and where the components of each are written.

    What the model wrote is compared with its parents, too; their own components stay as they are.
    """
    own = {source: run.group(source, "duplicates") for source in sources}
    if not _is_rephrased(run, sources):
        return own
    return {parent: run.group(sources[0], f"{AGAINST}/{parent}") for parent in run.config.parents()} | own


def _members(run: Run, sources: Sequence[str]) -> list[Member]:
    """Return the signatures parts of a scope in canonical order, which does not depend on workers or inputs' order."""
    members = []
    for source, target in _targets(run, sources).items():
        signatures, documents = run.group(source, "signatures"), run.group(source, "documents")
        names = {part.stem: part.name for part in documents.parts()}
        own = _is_rephrased(run, (source,))
        members += [Member(signatures, part, documents, names[part.stem], target, own) for part in signatures.parts()]
    return members


def _texts(member: Member, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
    """Yield the texts of some rows of a part as they were signed."""
    for table in read_rows(member.documents, member.document_part, rows, _OWN_TEXT if member.own_texts else _TEXT):
        texts = own_texts(table) if member.own_texts else table
        yield texts[schema.TEXT].combine_chunks()


def _key(run: Run, sources: Sequence[str], config: DedupConfig) -> str:
    return _identity(sources, config).key([made_from(member.part) for member in _members(run, sources)])


def _find(run: Run, sources: Sequence[str], config: DedupConfig) -> str:
    """Find the components of a scope, write every source's duplicates and return a note on them."""
    members = _members(run, sources)
    parts = [
        dedup.SignaturePart(
            m.part.name, m.part.rows, partial(read_batches, m.signatures, m.part.name), partial(_texts, m)
        )
        for m in members
    ]
    settings = dedup.ComponentSettings(
        config.num_bands,
        config.rows_per_band,
        verify=config.verify,
        memory_mb=run.config.engine.memory_mb,
        shingle_words=config.shingle_words,
        numbers=config.numbers,
    )
    with run.storage.scratch_folder("dedup-") as scratch:
        found = dedup.find_components(parts, settings, Path(scratch))
    run.check()
    _guard(found, config)
    ids = dedup.component_ids(parts, found)
    key = _key(run, sources, config)
    work = [_write(member, found, start, ids, key) for member, start in zip(members, _starts(members), strict=True)]
    for group in _targets(run, sources).values():
        made = [part for member, part in zip(members, work, strict=True) if member.duplicates == group]
        details = {"scope": list(sources), "config": config.model_dump(mode="json")}
        group.complete(made, Index(stage="dedup", key=key, counts=_counts(found), details=details))
    return f"{found.removable:,} copies, largest component {found.largest:,}"


def _starts(members: Sequence[Member]) -> list[int]:
    """Return the document number at which each part begins."""
    starts, total = [], 0
    for member in members:
        starts.append(total)
        total += member.part.rows
    return starts


def _write(member: Member, found: dedup.Components, start: int, ids: pa.Table, key: str) -> Part:
    work = Work(member.part.stem, Identity("dedup", "dedup_v2", {"components": key}), (made_from(member.part),))
    row = start
    with PartWriter(member.duplicates, work, schema.DUPLICATES) as writer:
        for table in read_batches(member.signatures, member.part.name, [schema.DOC_ID, "text_hash"]):
            writer.write(dedup.duplicates_table(table, found, row, ids))
            row += table.num_rows
    return writer.finish(Tally(rows_in=member.part.rows))


def _guard(found: dedup.Components, config: DedupConfig) -> None:
    share = found.removable / found.documents if found.documents else 0.0
    if config.max_removed is not None and share > config.max_removed:
        raise GuardrailError(
            f"dedup would remove {found.removable:,} of {found.documents:,} documents ({share:.1%}), more than "
            f"dedup.max_removed = {config.max_removed:.1%}; the largest component has {found.largest:,} documents. "
            "Look at the input, or raise the limit"
        )


def _counts(found: dedup.Components) -> dict[str, int]:
    """Return the facts of a run over components, and how many components have how many members."""
    sizes = found.sizes[found.sizes > 0]
    facts = {
        "documents": found.documents,
        "components": found.components,
        "removable": found.removable,
        "largest_component": found.largest,
        "candidate_pairs": found.candidate_pairs,
        "close_pairs": found.close_pairs,
        "exact_pairs": found.exact_pairs,
        "capped": found.capped,
    }
    bounds = [(1, 1), (2, 2), (3, 5), (6, 10), (11, 100), (101, 1000), (1001, 2**32)]
    labels = ("1", "2", "3_to_5", "6_to_10", "11_to_100", "101_to_1000", "over_1000")
    spread = {
        f"components_of_{label}": int(((sizes >= low) & (sizes <= high)).sum())
        for label, (low, high) in zip(labels, bounds, strict=True)
    }
    return facts | spread
