"""The state of a workspace: its runs, its sizes, what is superseded, and what is older than what it was made from.

Indexes, a few manifests and run records are read, folders are listed; no part is opened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pipeline.status.runs import RunRecord, flat, records
from pipeline.table.catalog import OTHER_ROWS, Catalog, check_layout, group_folders, source_folders, superseded
from pipeline.table.errors import ShardError
from pipeline.table.format import cell, text_table, visible
from pipeline.table.shards import THREADS, Group, Index, Manifest, Part
from pipeline.table.storage import Storage, holder

RUNS_SHOWN, RUNS_TOLD = 100, 10
"""Runs that a status has, the last ones, and those that its text tells."""
CHANGES_TOLD = 8
MANIFESTS_READ = 24
"""Manifests of a group that are asked what its parts were made from, spread evenly over all."""
_INLINE = re.compile(r"(^|\.)select\.rules\.")
_STAGES = ("extract", "rephrase", "annotate", "dedup", "classify", "select")
_MADE_FROM = {"signals": "documents", "predictions": "documents", "signatures": "documents", "duplicates": "signatures"}
"""What parts of a group were made from, where their manifests do not name it."""


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a workspace. Each list holds flat rows of the same keys."""

    workspace: str
    holder: dict[str, Any] | None
    """Who holds it now: `command`, `host`, `pid`, `started`."""
    runs: list[dict[str, Any]]
    """Oldest first, each with what its configuration changed since the one before."""
    groups: list[dict[str, Any]]
    superseded: dict[str, int] | None
    """`files` and `bytes` that `gc` would delete; None where an index is damaged."""
    outdated: list[dict[str, str]]
    """Groups that are older than what they were made from."""
    problems: list[str]

    def plain(self) -> dict[str, Any]:
        """Return the same as one JSON value."""
        return {name: getattr(self, name) for name in self.__slots__}

    def as_text(self) -> str:
        """Return a page for people, with the last runs."""
        sources, size = {row["source"] for row in self.groups}, sum(row["bytes"] for row in self.groups)
        lines = [f"workspace {visible(self.workspace)}: {_counted(len(sources), 'source')}, {_bytes(size)}"]
        if self.holder is not None:
            lines.append(f"in use by {_who(self.holder)}")
        blocks = ["\n".join(lines), *([_runs_text(self.runs)] if self.runs else [])]
        shown = [{**row, "rows": f"{row['rows']:,}", "bytes": _bytes(row["bytes"])} for row in self.groups]
        blocks += [text_table(shown).rstrip("\n")] if shown else []
        last = []
        if self.superseded is not None:
            files = _counted(self.superseded["files"], "file")
            hint = "; `gristmill gc` deletes them" if self.superseded["files"] else ""
            own = ", those of the run in progress among them" if self.superseded["files"] and self.holder else ""
            last.append(f"superseded: {files}, {_bytes(self.superseded['bytes'])}{own}{hint}")
        last += [f"out of date: {visible(row['source'])}/{row['group']}: {row['because']}" for row in self.outdated]
        last += [f"warning: {visible(problem)}" for problem in self.problems]
        return "\n\n".join([*blocks, "\n".join(last)])


def status(storage: Storage) -> Status:
    """Return the state of a workspace, also while a run is on, or with damaged indexes, which `problems` names.

    Raises: WorkspaceError when there is no workspace, or a former version laid it out.
    """
    check_layout(storage)
    holding = holder(storage)
    runs, problems = records(storage, RUNS_SHOWN + 1)
    known, damaged = _indexes(storage)
    groups: list[dict[str, Any]] = []
    outdated: list[dict[str, str]] = []
    for source, indexes in known.items():
        contents = {name: {part.stem: part.content for part in index.parts} for name, index in indexes.items()}
        for folder, index in indexes.items():
            manifests = _manifests(Group(storage, f"{source}/{folder}"), index)
            groups.append(_size_row(source, folder, index, manifests))
            why = _outdated(folder, indexes, contents, manifests)
            outdated += [{"source": source, "group": folder, "because": why}] if why is not None else []
    groups.sort(key=lambda row: (row["source"], _STAGES.index(row["stage"]) if row["stage"] in _STAGES else 0))
    if not groups and not runs and not damaged and holding is None:
        Catalog.read(storage)  # says why
    doomed = None
    if damaged:
        problems += [*damaged, "what is superseded is not known while an index is damaged"]
    else:
        by_group = {f"{name}/{folder}": index for name, each in known.items() for folder, index in each.items()}
        files, size = superseded(storage, by_group)
        doomed = {"files": files, "bytes": size}
    return Status(storage.url, holding, _run_rows(runs), groups, doomed, outdated, problems)


def _indexes(storage: Storage) -> tuple[dict[str, dict[str, Index]], list[str]]:
    """Return every index that there is, by source and folder, and a line for each that is damaged."""
    found: dict[str, dict[str, Index]] = {}
    damaged = []
    for source in source_folders(storage):
        for folder in group_folders(storage, source):
            try:
                index = Group(storage, f"{source}/{folder}").index()
            except ShardError as error:
                damaged.append(str(error))
            except NotADirectoryError:  # no group: a file of someone else's
                continue
            except OSError as error:
                damaged.append(f"the index of {source}/{folder} cannot be read: {error.strerror or error}")
            else:
                found.setdefault(source, {}).update({folder: index} if index is not None else {})
    return found, damaged


def changes(before: RunRecord, now: RunRecord) -> list[dict[str, Any]]:
    """Return what differs between the configurations, rules and versions of two runs: `key`, `before`, `now`.

    A stage's setting, or a rule, that changed alike for all sources is told once.
    """
    old, new = (flat({**run.config, "versions": run.versions}) for run in (before, now))
    for source in before.rules.keys() & now.rules.keys():
        old |= {f"rules.{source}.{name}": sql for name, sql in before.rules[source].items()}
        new |= {f"rules.{source}.{name}": sql for name, sql in now.rules[source].items()}
    differing = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    if before.rules and now.rules:  # rules are told one by one, and of a preset or a file the name
        both = old.keys() & new.keys()
        differing = [
            key for key in differing if not _INLINE.search(key) and (key in both or not key.endswith("select.rules"))
        ]
    found = {key: (old.get(key), new.get(key)) for key in differing}
    common = [key for key in found if key.startswith("sources.") and found.get(key.split(".", 2)[-1]) == found[key]]
    told: dict[str, tuple[Any, Any]] = {}
    for key, pair in found.items():
        _, _, rule = key.removeprefix("rules.").partition(".")
        alike = {name: found.get(f"rules.{name}.{rule}") for name in before.rules.keys() & now.rules.keys()}
        is_common = key.startswith("rules.") and len(alike) > 1 and set(alike.values()) == {pair}
        told[f"rules.{rule}" if is_common else key] = pair
    return [{"key": key, "before": a, "now": b} for key, (a, b) in told.items() if key not in common]


def _run_rows(runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return a row a run; the first of more than are shown only tells what the second changed."""
    rows = []
    for number, run in enumerate(runs):
        row = run.model_dump(exclude={"config", "rules"})
        row["changes"] = changes(runs[number - 1], run) if number else []
        rows.append(row)
    return rows[-RUNS_SHOWN:]


def _runs_text(runs: Sequence[Mapping[str, Any]]) -> str:
    told = runs[-RUNS_TOLD:]
    rows = []
    for run in told:
        made: dict[str, int] = {}
        for done in run["stages"]:
            made[done["stage"]] = made.get(done["stage"], 0) + done["shards"]
        rows.append(
            {
                "when": str(run["started"])[:19].replace("T", " "),
                "command": run["command"],
                "took": "-" if run["outcome"] in ("running", "killed") else f"{run['seconds']:,.1f} s",
                "made": ", ".join(f"{stage} {shards:,}" for stage, shards in made.items()),
                "outcome": run["outcome"],
            }
        )
    lines = text_table(rows).rstrip("\n").split("\n")
    shown = lines[:2]
    for run, line in zip(told, lines[2:], strict=True):
        shown += [line, *([f"  {visible(run['error'])}"] if run["error"] else [])]
        shown += [
            f"  {visible(c['key'])}: {cell(c['before'])} -> {cell(c['now'])}" for c in run["changes"][:CHANGES_TOLD]
        ]
        more = len(run["changes"]) - CHANGES_TOLD
        shown += [f"  {_counted(more, 'more change')}"] if more > 0 else []
    if len(runs) > len(told):
        shown.append(f"{_counted(len(runs) - len(told), 'run')} before these; --json has the last {RUNS_SHOWN}")
    return "\n".join(shown)


def _manifests(group: Group, index: Index) -> list[tuple[Part, Manifest]]:
    """Return some of a group's parts with their manifests; of all where there are few."""
    step = max(len(index.parts) / MANIFESTS_READ, 1.0)
    chosen = [index.parts[int(number * step)] for number in range(min(len(index.parts), MANIFESTS_READ))]
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(lambda part: group.manifest(part.name), chosen))
    return [(part, manifest) for part, manifest in zip(chosen, read, strict=True) if manifest is not None]


def _size_row(source: str, folder: str, index: Index, manifests: Sequence[tuple[Part, Manifest]]) -> dict[str, Any]:
    made_by = ""
    if manifests:
        manifest = manifests[0][1]
        libraries = [f"{name} {cell(value, 20)}" for name, value in manifest.libraries.items()]
        made_by = ", ".join([manifest.version, *libraries])
    rows, size = sum(part.rows for part in index.parts), sum(part.bytes for part in index.parts)
    row = {"source": source, "stage": index.stage, "group": folder, "parts": len(index.parts), "rows": rows}
    return row | {"bytes": size, "made_by": made_by}


def _outdated(
    folder: str,
    indexes: Mapping[str, Index],
    contents: Mapping[str, Mapping[str, str]],
    manifests: Sequence[tuple[Part, Manifest]],
) -> str | None:
    """Return why a group is older than what it was made from; None where nothing says so.

    Rows that are aligned have the ids of the documents of now, in every part; what else a part was made from is asked
    of some manifests; `contents` are those of now, by group and stem.
    """
    index, kind = indexes[folder], folder.split("/")[0]
    if folder == "curated" and "outcomes" in indexes and index.key != indexes["outcomes"].key:
        return "the outcomes were decided again"
    if kind in OTHER_ROWS or "documents" not in indexes:
        return None
    documents = {part.stem: part.ids for part in indexes["documents"].parts}
    own = {part.stem: part.ids for part in index.parts}
    if came := len(documents.keys() - own.keys()):
        return f"{_counted(came, 'part')} of documents came since"
    if gone := len(own.keys() - documents.keys()):
        return f"{_counted(gone, 'part')} of documents went since"
    if other := sum(1 for stem, ids in own.items() if ids and documents[stem] and ids != documents[stem]):
        return f"{_counted(other, 'part')} of documents changed since"
    known = folder.replace("scores/", "predictions/") if kind == "scores" else _MADE_FROM.get(kind, "")
    for part, manifest in manifests:
        for given in manifest.inputs if manifest.part == part else ():
            source, content = str(given.get("group", known)), given.get("content")
            if content and contents.get(source, {}).get(str(given.get("part")), content) != content:
                return f"{source} changed since"
    return None


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"


def _who(held: Mapping[str, Any]) -> str:
    if None in held.values():
        return "another command, which has just begun"
    return f"`{visible(str(held['command']))}` (process {held['pid']} on {held['host']}, since {held['started']})"
