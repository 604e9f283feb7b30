"""The `select` stage: rules, one keeper a component, outcomes, curated shards.

    narrow columns -> constants -> keepers -> outcomes (a part a documents part) -> curated

Sources that were deduplicated together are selected together: a component then has one keeper over all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.select.binding import BoundRules, Constant, check_one_order, check_rules
from pipeline.select.curated import CuratedJob, write_curated
from pipeline.select.decide import (
    DROPPED,
    FAILED_COUNT,
    KEPT,
    Candidates,
    KeptBefore,
    OutcomeJob,
    OutcomePart,
    Policy,
    Resources,
    counted,
    described,
    elect,
    evaluate_part,
    find_constants,
    resolve,
    rule_names,
    write_kept_before,
)
from pipeline.select.narrow import NarrowSource, narrow_source
from pipeline.select.rules import RuleSet
from pipeline.table.errors import ConservationError, RuleError
from pipeline.table.query import column_types
from pipeline.table.shards import Group, Identity, Index, Part, Work, digest, finished, made_from
from pipeline.table.stages import Context, Progress, Publish, Stage, Totals
from pipeline.table.storage import Storage

STAGE = "select"
VERSION = "select_v1"
DEFAULT_PART_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class SourceSelection:
    """One source of a scope: its rules, and the groups beside `documents` that they and the outcomes read."""

    name: str
    rules: RuleSet
    folders: tuple[str, ...]
    """For example `signals/language`, `duplicates`, `scores/quality`."""
    bound: BoundRules | None = None
    """The rules as they were checked before the run, so that they need not be bound again."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to select: the sources of a scope in order of priority."""

    sources: tuple[SourceSelection, ...]
    part_bytes: int = DEFAULT_PART_BYTES
    kept_before: tuple[KeptBefore, ...] = ()

    @property
    def label(self) -> str:
        return "+".join(source.name for source in self.sources)


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


def select_stage(context: Context, selection: Selection) -> Stage[None, None]:
    """Return the decisions about every document of the sources: all of them when anything that they rest on changed.

    Every document has an outcome. Indexes are replaced last, those of the curated shards first: a run that dies before
    the last one is done again.

    Raises: RuleError when a rule does not bind to the columns that there are.
    """
    sources = _prepared(context, selection)
    key = _key(context, selection, sources)
    to_do = int(not _is_current(context, sources, key))

    def complete(results: Sequence[None], publish: Publish, progress: Progress) -> Totals:
        if to_do:
            with context.storage.scratch_folder("select-") as folder:
                resources = Resources(folder, context.workers, context.memory_mb)
                judged = _judge(context, selection, sources, key, resources, progress)
            curated = [_curate(context, item, key, selection.part_bytes) for item in judged]
            for group, parts, index in [*curated, *(_outcome_index(context, item, key) for item in judged)]:
                publish(group, parts, index)
        for group in _groups(context, sources):  # also when nothing was to do: a kill may have come before this
            group.prune()
        indexes = [Group(context.storage, f"{source.name}/outcomes").index() for source in selection.sources]
        counts = [index.counts for index in indexes if index is not None]
        return Totals(sum(each.get("documents", 0) for each in counts), sum(each.get(KEPT, 0) for each in counts))

    return Stage(
        selection.label,
        STAGE,
        (),
        1 - to_do,
        complete,
        whole=to_do,
        work=sum(source.narrow.rows for source in sources) * to_do,
    )


def _prepared(context: Context, selection: Selection) -> list[_Source]:
    """Return the sources with their columns and bound rules.

    Raises: RuleError when a rule does not bind or the sources' orders of election differ, also in their columns' types.
    """
    orders = {tuple(str(term) for term in source.rules.keep) for source in selection.sources}
    if len(orders) > 1:
        names = ", ".join(source.name for source in selection.sources)
        shown = " / ".join(", ".join(order) for order in sorted(orders))
        raise RuleError(f"select.keep differs between {names}, which share components: {shown}; give them one order")
    sources = []
    for chosen in selection.sources:
        narrow = narrow_source(context.storage, chosen.name, chosen.folders)
        types = column_types(narrow.schema)
        bound = (chosen.bound.on(types) if chosen.bound else check_rules(chosen.rules, types)) if narrow.parts else None
        sources.append(_Source(chosen, narrow, bound))
    check_one_order({source.selection.name: source.bound for source in sources if source.bound})
    return sources


def _key(context: Context, selection: Selection, sources: Sequence[_Source]) -> str:
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
                if (index := Group(context.storage, f"{source.selection.name}/{folder}").index()) and index.key
            ],
            "inputs": [
                [folder, made_from(part)] for aligned_part in source.narrow.parts for folder, part in aligned_part.parts
            ],
        }
        for source in sources
    ]
    config: dict[str, Any] = {"part_bytes": selection.part_bytes, "sources": described_sources}
    if selection.kept_before:
        config["kept_before"] = [_made_for(context.storage, before) for before in selection.kept_before]
    return digest({"stage": STAGE, "version": VERSION, "libraries": _libraries(), "config": config})


def _made_for(storage: Storage, before: KeptBefore) -> list[Any]:
    folders = (f"{before.source}/outcomes", before.folder)
    return [[made_from(part) for part in Group(storage, folder).parts()] for folder in folders]


def _libraries() -> dict[str, str]:
    return {"duckdb": duckdb.__version__, "pyarrow": pa.__version__}


def _is_current(context: Context, sources: Sequence[_Source], key: str) -> bool:
    return all(group.is_complete(key) for group in _groups(context, sources))


def _groups(context: Context, sources: Sequence[_Source]) -> Iterator[Group]:
    for source in sources:
        yield from (context.group(source.selection.name, folder) for folder in ("outcomes", "curated"))


def _judge(
    context: Context,
    selection: Selection,
    sources: Sequence[_Source],
    key: str,
    resources: Resources,
    progress: Progress,
) -> list[_Judged]:
    """Find constants, elect keepers, write outcomes."""
    map_parts = partial(context.engine.map, f"{selection.label} select")
    policies = []
    constants: list[list[dict[str, Any]]] = []
    for source in sources:
        values = find_constants(source.bound, source.narrow, resources, map_parts) if source.bound else {}
        constants.append([described(constant, value) for constant, value in values.items()])
        policies.append(_policy(source, values))
    jobs = _candidates(sources, policies, resources.folder)
    descending = [term.descending for term in selection.sources[0].rules.keep]
    before = [
        write_kept_before(context.storage, each, f"{resources.folder}/before-{number}.parquet")
        for number, each in enumerate(selection.kept_before)
    ]
    gathered = [job for job in jobs if _has_components(job)]
    verdict_path = elect(gathered, descending, resources, map_parts, before)
    judged, number = [], 0
    for source, policy, found in zip(sources, policies, constants, strict=True):
        identity = _identity(policy, found, key)
        outcome_jobs = [
            OutcomeJob(source.narrow, part, policy, _work(identity, part.parts), verdict_path, number + index)
            for index, part in enumerate(source.narrow.parts)
        ]
        number += len(outcome_jobs)
        judged.append(_Judged(source, policy, found, _outcomes(context, selection, outcome_jobs, progress)))
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


def _outcomes(
    context: Context, selection: Selection, jobs: Sequence[OutcomeJob], progress: Progress
) -> tuple[OutcomePart, ...]:
    """Return the outcomes of every job, in order; parts that a killed run finished are taken as they are."""
    if not jobs:
        return ()

    def judge(job: OutcomeJob) -> OutcomePart:
        context.check()
        outcome = evaluate_part(job)
        progress.rows(outcome.part.rows)
        return outcome

    group = context.group(jobs[0].narrow.source, "outcomes")
    found: dict[str, OutcomePart] = {}
    for stem, part in finished(group, [job.work for job in jobs]).items():
        manifest = group.manifest(part.name)
        if manifest is not None:
            found[stem] = OutcomePart(part, dict(manifest.counts))
    left = [job for job in jobs if job.work.stem not in found]
    for outcome in context.engine.map(f"{selection.label} select", judge, left):
        found[outcome.part.stem] = outcome
    return tuple(found[job.work.stem] for job in jobs)


def _curate(context: Context, judged: _Judged, key: str, part_bytes: int) -> tuple[Group, list[Part], Index]:
    """Write a source's curated shards and return what its index will be."""
    name = judged.source.selection.name
    identity = Identity(STAGE, VERSION, {"selection": key, "part_bytes": part_bytes}, _libraries())
    outcomes = tuple(outcome.part for outcome in judged.parts)
    job = CuratedJob(judged.source.narrow, outcomes, identity, part_bytes)
    parts = write_curated(job, context.check)
    rows, kept = sum(part.rows for part in parts), counted(judged.parts, judged.policy)[KEPT]
    if rows != kept:
        raise ConservationError(f"{name}/curated: {rows} rows for {kept} documents that were kept; a bug in Gristmill")
    return Group(context.storage, f"{name}/curated"), parts, Index(stage=STAGE, key=key, counts={"documents": rows})


def _outcome_index(context: Context, judged: _Judged, key: str) -> tuple[Group, list[Part], Index]:
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
    return Group(context.storage, f"{name}/outcomes"), [outcome.part for outcome in judged.parts], index
