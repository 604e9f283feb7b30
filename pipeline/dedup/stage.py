"""The `dedup` stage: signatures a shard, then components among all sources of a scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.dedup import components as dedup
from pipeline.dedup.config import DedupConfig
from pipeline.dedup.minhash import HASH_VERSION, SCHEME, permutations, sign_table, signatures_schema
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
from pipeline.table.stages import (
    Context,
    Mapped,
    PartJob,
    Progress,
    Publish,
    RowMaps,
    Stage,
    Totals,
    Wanted,
    make_rows,
    plan_row_maps,
)

VERSION = "dedup_v2"


@dataclass(frozen=True)
class Scope:
    """Sources among which duplicates are sought, in the order of their priority."""

    sources: tuple[str, ...]
    config: DedupConfig
    against: tuple[str, ...] = ()
    """Other sources whose documents these are compared with, too; their own components stay as they are."""
    own_texts: Callable[[pa.Table], pa.Table] | None = None
    """From `doc_id`, `text` and `metadata` to the text that is signed: of documents that repeat others' texts."""

    @property
    def label(self) -> str:
        return "+".join(self.sources)

    @property
    def identity(self) -> Identity:
        return Identity("dedup", VERSION, {**self.config.model_dump(mode="json"), "scope": list(self.sources)})

    def targets(self, context: Context) -> dict[str, Group]:
        """Return the sources whose documents are compared, and where the components of each are written."""
        others = {other: context.group(self.sources[0], f"{AGAINST}/{other}") for other in self.against}
        return others | {source: context.group(source, "duplicates") for source in self.sources}


@dataclass(frozen=True)
class ScopePart:
    """One signatures part of a scope, the documents that it was made of, and where its duplicates go."""

    signatures: Group
    part: Part
    documents: Group
    document_part: str
    duplicates: Group
    own_texts: Callable[[pa.Table], pa.Table] | None

    def texts(self, rows: NDArray[np.int64]) -> Iterator[pa.Array]:
        """Yield the texts of some rows as they were signed."""
        for table in read_rows(self.documents, self.document_part, rows, _columns(self.own_texts is not None)):
            signed = self.own_texts(table) if self.own_texts else table
            yield signed[schema.TEXT].combine_chunks()


def dedup_stage(context: Context, scope: Scope) -> Stage[PartJob, Mapped]:
    """Return the signatures of a scope that are missing, and its components when anything changed; no row drops."""
    maps = [_signatures(context, source, scope) for source in scope.sources]
    pending = [job for each in maps for job in each.jobs]
    key = scope.identity.key([made_from(member.part) for member in _members(context, scope)])
    stale = bool(pending) or not all(target.is_complete(key) for target in scope.targets(context).values())

    def complete(results: Sequence[Mapped], publish: Publish, progress: Progress) -> Totals:
        for each in maps:
            each.publish("dedup", results, publish)
        rows = sum(each.rows for each in maps)
        return Totals(rows, rows, _components(context, scope, publish) if stale else "")

    def wanted() -> Iterator[Wanted]:
        index = context.group(scope.sources[0], "duplicates").index()
        was = {} if index is None else {**index.details.get("config", {}), "scope": index.details.get("scope")}
        now = dict(scope.identity.config)
        settings = ({f"setting {name}": value for name, value in each.items()} for each in (was, now))
        old, new = settings
        yield Wanted(old | {"inputs": index.key} if index is not None else None, new | {"inputs": key})

    done = sum(each.shards_done for each in maps) + int(not stale)  # the components are one more shard of work
    rows = sum(each.rows_to_do for each in maps)
    return Stage(scope.label, "dedup", pending, done, complete, make_rows, int(stale), rows, wanted=wanted)


def _signatures(context: Context, source: str, scope: Scope) -> RowMaps:
    config, target = scope.config, context.group(source, "signatures")
    settings: dict[str, int | str] = {
        "num_bands": config.num_bands,
        "rows_per_band": config.rows_per_band,
        "shingle_words": config.shingle_words,
        "numbers": config.numbers,
        "seed": config.seed,
        "scheme": SCHEME,
    }
    if scope.own_texts:
        settings["of"] = "own_texts"
    libraries = {"datasketch": version("datasketch"), "hashes": HASH_VERSION}
    identity = Identity("signatures", "signatures_v2", settings, libraries)

    def sign(documents: pa.Table) -> pa.Table:
        perms = permutations(config.num_perm, config.seed)
        texts = scope.own_texts(documents) if scope.own_texts else documents
        return sign_table(texts, config.num_bands, config.rows_per_band, config.shingle_words, perms, config.numbers)

    def row_maps(part: Part) -> list[RowMap]:
        work = Work(part.stem, identity, (made_from(part) if scope.own_texts else made_from_texts(part),))
        return [RowMap(target, work, signatures_schema(config.num_perm), _columns(scope.own_texts is not None), sign)]

    return plan_row_maps(context.group(source, "documents"), [target], row_maps)


def _columns(own_texts: bool) -> tuple[str, ...]:
    return (schema.DOC_ID, schema.TEXT, "metadata") if own_texts else (schema.DOC_ID, schema.TEXT)


def _members(context: Context, scope: Scope) -> list[ScopePart]:
    """Return the signatures parts of a scope in canonical order, which does not depend on workers or inputs' order."""
    members = []
    for source, target in scope.targets(context).items():
        signatures, documents = context.group(source, "signatures"), context.group(source, "documents")
        names = {part.stem: part.name for part in documents.parts()}
        own = scope.own_texts if source in scope.sources else None
        members += [
            ScopePart(signatures, part, documents, names[part.stem], target, own) for part in signatures.parts()
        ]
    return members


def _components(context: Context, scope: Scope, publish: Publish) -> str:
    """Find the components of a scope, publish every source's duplicates and return a note on them."""
    config, members = scope.config, _members(context, scope)
    parts = [
        dedup.SignaturePart(m.part.name, m.part.rows, partial(read_batches, m.signatures, m.part.name), m.texts)
        for m in members
    ]
    settings = dedup.ComponentSettings(
        config.num_bands,
        config.rows_per_band,
        verify=config.verify,
        memory_mb=context.memory_mb,
        shingle_words=config.shingle_words,
        numbers=config.numbers,
    )
    with context.storage.scratch_folder("dedup-") as scratch:
        found = dedup.find_components(parts, settings, Path(scratch))
    context.check()
    _guard(found, config)
    key = scope.identity.key([made_from(member.part) for member in members])
    made = _write(members, found, dedup.component_ids(parts, found), key)
    details = {"scope": list(scope.sources), "config": config.model_dump(mode="json")}
    for group in scope.targets(context).values():
        publish(group, made.get(group, []), Index(stage="dedup", key=key, counts=_counts(found), details=details))
    return f"{found.removable:,} copies, largest component {found.largest:,}"


def _write(
    members: Sequence[ScopePart], found: dedup.Components, ids: pa.Table, key: str
) -> Mapping[Group, list[Part]]:
    """Write a part of duplicates for each part of signatures, row for row."""
    made: dict[Group, list[Part]] = {}
    row = 0  # a document's number among all of the scope
    for member in members:
        work = Work(member.part.stem, Identity("dedup", VERSION, {"components": key}), (made_from(member.part),))
        with PartWriter(member.duplicates, work, schema.DUPLICATES) as writer:
            for table in read_batches(member.signatures, member.part.name, [schema.DOC_ID, "text_hash"]):
                writer.write(dedup.duplicates_table(table, found, row, ids))
                row += table.num_rows
        made.setdefault(member.duplicates, []).append(writer.finish(Tally(rows_in=member.part.rows)))
    return made


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
