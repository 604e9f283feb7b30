"""The `select` stage: rules, one keeper a component, outcomes, curated shards.

    narrow columns -> constants -> keepers -> outcomes (a part a documents part) -> curated

Sources that were deduplicated together are selected together: a component then has one keeper over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.select.binding import BoundRules, Constant, check_one_order, check_rules, column_types
from pipeline.select.constants import MapParts, Resources, described, find_constants
from pipeline.select.curated import CuratedJob, write_curated
from pipeline.select.evaluate import Policy, resolve
from pipeline.select.keeper import Candidates, KeptBefore, elect, write_kept_before
from pipeline.select.narrow import NarrowSource, narrow_source
from pipeline.select.outcomes import (
    DROPPED,
    FAILED_COUNT,
    KEPT,
    OutcomeJob,
    OutcomePart,
    counted,
    evaluate_part,
    rule_names,
)
from pipeline.select.rules import RuleSet
from pipeline.table.errors import ConservationError, RuleError
from pipeline.table.shards import Group, Identity, Index, Part, Work, digest, finished, made_from
from pipeline.table.storage import Storage

STAGE = "select"
VERSION = "select_v1"
DEFAULT_PART_BYTES = 256 << 20

Progress = Callable[[str, str, int], None]
"""Called with step (`outcomes`, `curated`), source and documents as each part is done; may raise to stop."""


@dataclass(frozen=True, slots=True)
class SourceSelection:
    """One source of a scope: its rules, and the groups beside `documents` that they and the outcomes read."""

    name: str
    rules: RuleSet
    folders: tuple[str, ...]
    """For example `signals/language`, `duplicates`, `scores/quality`."""


@dataclass(frozen=True, slots=True)
class SelectRequest:
    """What to select: the sources of a scope in order of priority, and what the work may use."""

    storage: Storage
    sources: tuple[SourceSelection, ...]
    part_bytes: int = DEFAULT_PART_BYTES
    threads: int = 1
    memory_mb: int = 1024
    map_parts: MapParts = map
    kept_before: tuple[KeptBefore, ...] = ()


@dataclass(frozen=True, slots=True)
class SourceResult:
    """What was decided about one source."""

    name: str
    documents: int
    kept: int
    dropped: int
    failed: Mapping[str, int]
    """Documents that fail each rule, the built-in ones last."""
    constants: Sequence[Mapping[str, Any]]
    curated_parts: int


@dataclass(frozen=True, slots=True)
class SelectReport:
    """What a run of the stage did."""

    key: str
    skipped: bool
    """Whether all of it was there already."""
    sources: tuple[SourceResult, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """A source made ready: its columns, and its rules bound to them (None while it has no documents)."""

    selection: SourceSelection
    narrow: NarrowSource
    bound: BoundRules | None


@dataclass(frozen=True, slots=True)
class _Judged:
    """A source whose outcomes are written; `parts` are in the order of the source's documents parts."""

    source: _Source
    policy: Policy
    constants: list[dict[str, Any]]
    parts: tuple[OutcomePart, ...]


def select(request: SelectRequest, progress: Progress | None = None) -> SelectReport:
    """Decide about every document of the sources and write outcomes and curated shards; every document has an outcome.

    Nothing is done when the indexes carry the key of the inputs and rules already. Indexes are replaced last, those of
    the curated shards first: a run that dies before the last one is done again.

    Raises: RuleError before anything is written when a rule does not bind; ShardError, ConservationError.
    """
    sources = _prepared(request)
    key = _key(request, sources)
    if _is_current(request, sources, key):
        for group in _groups(request, sources):  # a kill may have come between an index and this
            group.prune()
        return _report(request, key, skipped=True)
    tell = progress or _silent
    with request.storage.scratch_folder("select-") as folder:
        judged = _judge(request, sources, key, Resources(folder, request.threads, request.memory_mb), tell)
    indexes = [_curate(request, item, key, tell) for item in judged]
    for group, parts, index in [*indexes, *(_outcome_index(request, item, key) for item in judged)]:
        group.complete(parts, index)
    return _report(request, key, skipped=False)


def is_done(request: SelectRequest) -> bool:
    """Tell whether `select` would find nothing to do.

    Raises: RuleError when a rule does not bind to the columns that there are.
    """
    sources = _prepared(request)
    return _is_current(request, sources, _key(request, sources))


def _silent(step: str, source: str, documents: int) -> None:
    return None


def _prepared(request: SelectRequest) -> list[_Source]:
    """Return the sources with their columns and bound rules.

    Raises: RuleError when a rule does not bind or the sources' orders of election differ, also in their columns' types.
    """
    orders = {tuple(str(term) for term in source.rules.keep) for source in request.sources}
    if len(orders) > 1:
        names = ", ".join(source.name for source in request.sources)
        shown = " / ".join(", ".join(order) for order in sorted(orders))
        raise RuleError(f"select.keep differs between {names}, which share components: {shown}; give them one order")
    sources = []
    for selection in request.sources:
        narrow = narrow_source(request.storage, selection.name, selection.folders)
        bound = check_rules(selection.rules, column_types(narrow.schema)) if narrow.parts else None
        sources.append(_Source(selection, narrow, bound))
    check_one_order({source.selection.name: source.bound for source in sources if source.bound})
    return sources


def _key(request: SelectRequest, sources: Sequence[_Source]) -> str:
    """Return the identity of everything that decides the outcomes and curated shards of these sources.

    What components and ranks were made for is part of it, even where another setting gave the same ones: outcomes then
    always come from the settings that the workspace shows.
    """
    described_sources = [
        {
            "source": source.selection.name,
            "rules": [[rule.name, rule.tree] for rule in source.selection.rules.rules],
            "keep": [str(term) for term in source.selection.rules.keep],
            "columns": [[c.folder, c.field.name, str(c.field.type)] for c in source.narrow.columns],
            "made_for": [
                index.key
                for folder in source.selection.folders
                if (index := Group(request.storage, f"{source.selection.name}/{folder}").index()) and index.key
            ],
            "inputs": [
                [folder, made_from(part)] for aligned_part in source.narrow.parts for folder, part in aligned_part.parts
            ],
        }
        for source in sources
    ]
    config: dict[str, Any] = {"part_bytes": request.part_bytes, "sources": described_sources}
    if request.kept_before:
        config["kept_before"] = [_made_for(request.storage, before) for before in request.kept_before]
    return digest({"stage": STAGE, "version": VERSION, "libraries": _libraries(), "config": config})


def _made_for(storage: Storage, before: KeptBefore) -> list[Any]:
    folders = (f"{before.source}/outcomes", before.folder)
    return [[made_from(part) for part in Group(storage, folder).parts()] for folder in folders]


def _libraries() -> dict[str, str]:
    return {"duckdb": duckdb.__version__, "pyarrow": pa.__version__}


def _is_current(request: SelectRequest, sources: Sequence[_Source], key: str) -> bool:
    return all(group.is_complete(key) for group in _groups(request, sources))


def _groups(request: SelectRequest, sources: Sequence[_Source]) -> Iterator[Group]:
    for source in sources:
        yield from (Group(request.storage, f"{source.selection.name}/{folder}") for folder in ("outcomes", "curated"))


def _judge(
    request: SelectRequest, sources: Sequence[_Source], key: str, resources: Resources, tell: Progress
) -> list[_Judged]:
    """Find constants, elect keepers, write outcomes."""
    policies = []
    constants: list[list[dict[str, Any]]] = []
    for source in sources:
        values = find_constants(source.bound, source.narrow, resources, request.map_parts) if source.bound else {}
        constants.append([described(constant, value) for constant, value in values.items()])
        policies.append(_policy(source, values))
    jobs = _candidates(sources, policies, resources.folder)
    descending = [term.descending for term in request.sources[0].rules.keep]
    before = [
        write_kept_before(request.storage, each, f"{resources.folder}/before-{number}.parquet")
        for number, each in enumerate(request.kept_before)
    ]
    gathered = [job for job in jobs if _has_components(job)]
    verdict_path = elect(gathered, descending, resources, request.map_parts, before)
    judged, number = [], 0
    for source, policy, found in zip(sources, policies, constants, strict=True):
        identity = _identity(policy, found, key)
        outcome_jobs = [
            OutcomeJob(source.narrow, part, policy, _work(identity, part.parts), verdict_path, number + index)
            for index, part in enumerate(source.narrow.parts)
        ]
        number += len(outcome_jobs)
        judged.append(_Judged(source, policy, found, _outcomes(request, outcome_jobs, tell)))
    return judged


def _policy(source: _Source, values: Mapping[Constant, str | None]) -> Policy:
    return resolve(source.bound, values) if source.bound else Policy((), (), {})


def _candidates(sources: Sequence[_Source], policies: Sequence[Policy], folder: str) -> list[Candidates]:
    jobs: list[Candidates] = []
    for priority, (source, policy) in enumerate(zip(sources, policies, strict=True)):
        for part in source.narrow.parts:
            path = f"{folder}/candidates-{len(jobs)}.parquet"
            jobs.append(Candidates(source.narrow, part, policy, len(jobs), priority, path))
    return jobs


def _has_components(job: Candidates) -> bool:
    return any(folder == "duplicates" for folder, _ in job.part.parts)


def _identity(policy: Policy, constants: Sequence[Mapping[str, Any]], key: str) -> Identity:
    config = {
        "selection": key,
        "rules": {rule.name: rule.resolved for rule in policy.rules},
        "keep": [[sql, "desc" if descending else "asc"] for sql, descending in policy.keep],
        "constants": list(constants),
    }
    return Identity(STAGE, VERSION, config, _libraries())


def _work(identity: Identity, parts: Sequence[tuple[str, Part]]) -> Work:
    stem = parts[0][1].stem
    return Work(stem, identity, tuple({"group": folder, **made_from(part)} for folder, part in parts))


def _outcomes(request: SelectRequest, jobs: Sequence[OutcomeJob], tell: Progress) -> tuple[OutcomePart, ...]:
    """Return the outcomes of every job, in order; parts that a killed run finished are taken as they are."""
    if not jobs:
        return ()
    group = Group(request.storage, f"{jobs[0].narrow.source}/outcomes")
    found: dict[str, OutcomePart] = {}
    for stem, part in finished(group, [job.work for job in jobs]).items():
        manifest = group.manifest(part.name)
        if manifest is not None:
            found[stem] = OutcomePart(part, dict(manifest.counts))
    for outcome in request.map_parts(evaluate_part, [job for job in jobs if job.work.stem not in found]):
        found[outcome.part.stem] = outcome
        tell("outcomes", jobs[0].narrow.source, outcome.part.rows)
    return tuple(found[job.work.stem] for job in jobs)


def _curate(request: SelectRequest, judged: _Judged, key: str, tell: Progress) -> tuple[Group, list[Part], Index]:
    """Write a source's curated shards and return what its index will be."""
    name = judged.source.selection.name
    identity = Identity(STAGE, VERSION, {"selection": key, "part_bytes": request.part_bytes}, _libraries())
    outcomes = tuple(outcome.part for outcome in judged.parts)
    job = CuratedJob(judged.source.narrow, outcomes, identity, request.part_bytes)
    parts = write_curated(job, partial(tell, "curated", name))
    rows, kept = sum(part.rows for part in parts), counted(judged.parts, judged.policy)[KEPT]
    if rows != kept:
        raise ConservationError(f"{name}/curated: {rows} rows for {kept} documents that were kept; a bug in Gristmill")
    return Group(request.storage, f"{name}/curated"), parts, Index(stage=STAGE, key=key, counts={"documents": rows})


def _outcome_index(request: SelectRequest, judged: _Judged, key: str) -> tuple[Group, list[Part], Index]:
    """Return a source's index of outcomes: the rules as written and as they ran, and what each of them failed."""
    name = judged.source.selection.name
    totals = counted(judged.parts, judged.policy)
    documents = sum(outcome.part.rows for outcome in judged.parts)
    if documents != judged.source.narrow.rows or documents != totals[KEPT] + totals[DROPPED]:
        raise ConservationError(f"{name}/outcomes: {documents} outcomes for {judged.source.narrow.rows} documents")
    written = {rule.name: rule for rule in judged.policy.rules}
    details = {
        "rules": [
            {
                "name": rule,
                "sql": written[rule].sql if rule in written else None,
                "resolved": written[rule].resolved if rule in written else None,
                "columns": list(written[rule].columns) if rule in written else [],
                "failed": totals[f"{FAILED_COUNT}{rule}"],
            }
            for rule in rule_names(judged.policy)
        ],
        "constants": judged.constants,
        "keep": ", ".join(str(term) for term in judged.source.selection.rules.keep),
    }
    counts = {"documents": documents, KEPT: totals[KEPT], DROPPED: totals[DROPPED]}
    index = Index(stage=STAGE, key=key, counts=counts, details=details)
    return Group(request.storage, f"{name}/outcomes"), [outcome.part for outcome in judged.parts], index


def _report(request: SelectRequest, key: str, skipped: bool) -> SelectReport:
    """Return the report from the indexes, so that it is the same whether the work was just done or long ago."""
    results = []
    for source in request.sources:
        index = Group(request.storage, f"{source.name}/outcomes").index() or Index(stage=STAGE)
        results.append(
            SourceResult(
                name=source.name,
                documents=index.counts.get("documents", 0),
                kept=index.counts.get(KEPT, 0),
                dropped=index.counts.get(DROPPED, 0),
                failed={rule["name"]: rule["failed"] for rule in index.details.get("rules", [])},
                constants=index.details.get("constants", []),
                curated_parts=len(Group(request.storage, f"{source.name}/curated").parts()),
            )
        )
    return SelectReport(key, skipped, tuple(results))
