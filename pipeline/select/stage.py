"""The `select` stage: rules, one keeper a component, outcomes, curated shards.

    wide tables -> decide -> outcomes (a part a documents part) -> curated

Sources that were deduplicated together are selected together: a component then has one keeper over all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.select.curated import write_curated
from pipeline.select.decide import (
    BUILT_IN_RULES,
    DROPPED,
    KEPT,
    Decided,
    Placed,
    Scratch,
    Selection,
    batches,
    bound_sources,
    decide,
    outcome_schema,
    outcomes,
    scratch_tables,
)
from pipeline.select.wide_table import HELD_ROWS, WideTable
from pipeline.table.errors import ConservationError
from pipeline.table.shards import Group, Identity, Index, Part, PartWriter, Tally, Work, digest, finished, made_from
from pipeline.table.stages import Context, Progress, Publish, Stage, Totals, Wanted

STAGE = "select"
VERSION = "select_v1"
FAILED_COUNT = "failed:"
"""Prefix of the counts of documents that fail a rule, in a part's manifest."""


def select_stage(context: Context, selection: Selection) -> Stage[None, None]:
    """Return the decisions about every document of the sources: all of them when anything that they rest on changed.

    Every document has an outcome. Indexes are replaced last, those of the curated shards first: a run that dies before
    the last one is done again.

    Raises: RuleError when a rule does not bind to the columns that there are.
    """
    sources = bound_sources(context.storage, selection)
    tables = [table for table, _ in sources]
    key = _key(context, selection, tables)
    groups = [context.group(table.source, folder) for table in tables for folder in ("outcomes", "curated")]
    to_do = int(not all(group.is_complete(key) for group in groups))

    def complete(results: Sequence[None], publish: Publish, progress: Progress) -> Totals:
        if to_do:
            map_jobs = partial(context.engine.map, f"{selection.label} select")
            with (
                context.storage.scratch_folder("select-") as folder,
                scratch_tables(folder, context.workers, context.memory_mb, map_jobs) as scratch,
            ):
                decided = decide(sources, selection.kept_before, scratch)
                written = [_write_outcomes(context, selection, each, key, scratch, progress) for each in decided]
            curated = [
                _curate(context, table, each, key, selection.part_bytes)
                for table, each in zip(tables, written, strict=True)
            ]
            for group, parts, index in [*curated, *written]:
                publish(group, parts, index)
        for group in groups:  # also when nothing was to do: a kill may have come before this
            group.prune()
        indexes = [context.group(table.source, "outcomes").index() for table in tables]
        counts = [index.counts for index in indexes if index is not None]
        return Totals(sum(each.get("documents", 0) for each in counts), sum(each.get(KEPT, 0) for each in counts))

    rows, wanted = sum(table.rows for table in tables), partial(_wanted, context, selection, key)
    return Stage(selection.label, STAGE, (), 1 - to_do, complete, whole=to_do, work=rows * to_do, wanted=wanted)


def _wanted(context: Context, selection: Selection, key: str) -> Iterator[Wanted]:
    """Yield, for each source, what its outcomes were decided by, and what they are to be decided by."""
    now: dict[str, Any] = {f"version of {name}": value for name, value in _libraries().items()}
    now |= {"version": VERSION, "setting part_bytes": selection.part_bytes, "inputs": key}
    for chosen in selection.sources:
        groups = [context.group(chosen.name, folder) for folder in ("outcomes", "curated")]
        if all(group.is_complete(key) for group in groups):
            continue  # another source of the scope is why
        indexes = [group.index() for group in groups]
        outcomes, curated = [
            group.manifest(index.parts[0].name) if index and index.parts else None
            for group, index in zip(groups, indexes, strict=True)
        ]
        where = f" of {chosen.name}" if len(selection.sources) > 1 else ""
        rules = {f"rule {rule.name}{where}": rule.sql for rule in chosen.rules.rules}
        keep = {"setting keep": ", ".join(map(str, chosen.rules.keep))}
        was: dict[str, Any] | None = None
        if indexes[0] is not None:
            details = indexes[0].details
            was = {f"rule {rule['name']}{where}": rule["sql"] for rule in details.get("rules", ()) if rule["sql"]}
            was |= {"setting keep": details.get("keep"), "inputs": indexes[0].key}
            if curated is not None:
                was["setting part_bytes"] = curated.config.get("part_bytes")
            if outcomes is not None:
                was |= {f"version of {name}": value for name, value in outcomes.libraries.items()}
                was["version"] = outcomes.version
        # Without a part nothing says how it was made.
        is_told = was is None or (outcomes is not None and curated is not None)
        told = {name: value for name, value in now.items() if is_told or name in (was or ())}
        yield Wanted(was, told | rules | keep)


def _key(context: Context, selection: Selection, tables: Sequence[WideTable]) -> str:
    """Return the identity of everything that decides the outcomes and curated shards of these sources.

    What components and ranks were made for is part of it, even where another setting gave the same ones: outcomes then
    always come from the settings that the workspace shows.
    """
    described = []
    for chosen, table in zip(selection.sources, tables, strict=True):
        indexes = [context.group(chosen.name, folder).index() for folder in chosen.folders]
        described.append(
            {
                "source": chosen.name,
                "rules": [[rule.name, rule.tree] for rule in chosen.rules.rules],
                "keep": [str(term) for term in chosen.rules.keep],
                "columns": [[table.stored[item.name][0], item.name, str(item.type)] for item in table.schema],
                "made_for": [index.key for index in indexes if index and index.key],
                "inputs": [[folder, made_from(part)] for parts in table.parts for folder, part in parts.items()],
            }
        )
    config: dict[str, Any] = {"part_bytes": selection.part_bytes, "sources": described}
    if selection.kept_before:
        config["kept_before"] = [
            [[made_from(part) for part in Group(context.storage, folder).parts()] for folder in folders]
            for folders in ((f"{before.source}/outcomes", before.folder) for before in selection.kept_before)
        ]
    return digest({"stage": STAGE, "version": VERSION, "libraries": _libraries(), "config": config})


def _libraries() -> dict[str, str]:
    return {"duckdb": duckdb.__version__, "pyarrow": pa.__version__}


def _write_outcomes(
    context: Context, selection: Selection, decided: Decided, key: str, scratch: Scratch, progress: Progress
) -> tuple[Group, list[Part], Index]:
    """Write a source's outcomes, and return their parts, in the order of its own, with what their index will be.

    The index has the rules as written and as they ran, and what each of them failed. Parts that a killed run finished
    are taken as they are.
    """
    table, rules = decided.table, decided.rules
    group, schema = context.group(table.source, "outcomes"), outcome_schema(table)
    config = {
        "selection": key,
        "rules": {rule.name: rule.resolved for rule in rules.rules},
        "keep": [[sql, "desc" if descending else "asc"] for sql, descending in rules.keep],
        "constants": list(decided.constants),
    }
    identity = Identity(STAGE, VERSION, config, _libraries())
    works = {}
    for _, part in decided.parts:
        inputs = tuple({"group": folder, **made_from(each)} for folder, each in part.items())
        works[part["documents"].stem] = Work(part["documents"].stem, identity, inputs)
    none = dict.fromkeys(
        (KEPT, DROPPED, *(f"{FAILED_COUNT}{rule.name}" for rule in (*rules.rules, *BUILT_IN_RULES))), 0
    )

    done = finished(group, list(works.values()))
    manifests = {stem: manifest for stem, part in done.items() if (manifest := group.manifest(part.name))}
    found = {stem: (done[stem], manifest.counts) for stem, manifest in manifests.items()}

    def unfinished(parts: Iterable[Placed]) -> list[Placed]:
        return [(row, part) for row, part in parts if part["documents"].stem not in found]

    def write(batch: Sequence[Placed]) -> None:
        left = unfinished(batch)  # a job that is tried again goes on
        expected = {part["documents"].stem: part["documents"].rows for _, part in left}
        for stem, tables in groupby(outcomes(decided, left, scratch), itemgetter(0)) if left else ():
            context.check()
            counts, written = none.copy(), []
            with PartWriter(group, works[stem], schema) as writer:
                for _, rows in tables:
                    writer.write(rows)
                    if expected[stem] <= HELD_ROWS:
                        written.append(rows.select(["doc_id", "outcome"]))
                    failed = rows["failed_rules"].combine_chunks().flatten()
                    for prefix, values in (("", rows["outcome"]), (FAILED_COUNT, pc.struct_field(failed, "rule"))):
                        for value in pc.value_counts(values).to_pylist():
                            counts[f"{prefix}{value['values']}"] += value["counts"]
            found[stem] = writer.finish(Tally(rows_in=expected[stem], counts=counts)), counts
            table.held.drop(table.source, stem)
            if written:
                table.held.keep(group.folder, stem, written)
            progress.rows(expected[stem])

    list(scratch.map(write, batches(unfinished(decided.parts))))
    parts = [found[stem][0] for stem in works]
    totals = {name: sum(counts.get(name, 0) for _, counts in found.values()) for name in none}
    documents = sum(part.rows for part in parts)
    if documents != table.rows or documents != totals[KEPT] + totals[DROPPED]:
        raise ConservationError(f"{table.source}/outcomes: {documents} outcomes for {table.rows} documents")
    listed: list[tuple[str, str | None, str | None, list[str]]] = [
        *((rule.name, rule.sql, rule.resolved, list(rule.columns)) for rule in rules.rules),
        *((rule.name, None, None, []) for rule in BUILT_IN_RULES),
    ]
    details = {
        "rules": [
            {"name": name, "sql": sql, "resolved": resolved, "columns": read, "failed": totals[f"{FAILED_COUNT}{name}"]}
            for name, sql, resolved, read in listed
        ],
        "constants": list(decided.constants),
        "keep": ", ".join(str(term) for term in selection.sources[0].rules.keep),
    }
    counts = {"documents": documents, KEPT: totals[KEPT], DROPPED: totals[DROPPED]}
    return group, parts, Index(stage=STAGE, key=key, counts=counts, details=details)


def _curate(
    context: Context, table: WideTable, outcomes: tuple[Group, list[Part], Index], key: str, part_bytes: int
) -> tuple[Group, list[Part], Index]:
    """Write a source's curated shards, and return them with what their index will be."""
    identity = Identity(STAGE, VERSION, {"selection": key, "part_bytes": part_bytes}, _libraries())
    parts = write_curated(table, outcomes[1], identity, part_bytes, context.check)
    rows, kept = sum(part.rows for part in parts), outcomes[2].counts[KEPT]
    if rows != kept:
        raise ConservationError(
            f"{table.source}/curated: {rows} rows for {kept} documents that were kept; a bug in Gristmill"
        )
    group = context.group(table.source, "curated")
    return group, parts, Index(stage=STAGE, key=key, counts={"documents": rows})
