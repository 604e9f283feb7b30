"""The `extract` stage of a run: raw inputs to documents and rejects."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flows.progress import ShardReport, StageProgress, StageReport
from flows.runs import Run
from flows.stages import Plan
from pipeline.extract.readers import format_of, read
from pipeline.extract.shard import ExtractJob, Shard, Tools, extract_input
from pipeline.table.catalog import group_folders
from pipeline.table.schema import KEEP_COLUMNS
from pipeline.table.shards import Group, Index, Part

Parts = tuple[list[Part], list[Part]]
"""An input's parts: of documents and of rejects."""
MAX_NAMED = 5
"""Inputs that a warning names."""


def pending_jobs(run: Run, source: str) -> list[ExtractJob]:
    """Return the inputs of a source whose shards are not all there."""
    return _pending(run, source, _finished(run, source, _jobs(run, source)))


def _pending(run: Run, source: str, done: Mapping[str, Parts]) -> list[ExtractJob]:
    form = run.config.sources[source].format  # what is not done may have changed: with `auto` it is looked at again
    return [replace(job, format=form) for job in _jobs(run, source) if job.input.name not in done]


def plan_extract(run: Run, sources: Sequence[str]) -> Plan:
    """Plan the extraction of one source: every input whose shards are not all there."""
    (source,) = sources
    jobs = _jobs(run, source)
    done = _finished(run, source, jobs)
    pending = _pending(run, source, done)

    def execute() -> StageReport:
        started = time.monotonic()
        with run.reporter.stage(source, "extract", len(pending)) as progress:
            made = run.engine.map(f"{source} extract", lambda job: _extract(run, job, progress), pending)
        extracted = {job.input.name: shards for job, shards in zip(pending, made, strict=True)}
        new = {name: ([s.documents for s in shards], [s.rejects for s in shards]) for name, shards in extracted.items()}
        formats = {job.input.name: job.format for job in jobs} | {name: s[0].format for name, s in extracted.items()}
        documents, rejects = _complete(run, source, {**done, **new}, formats)
        _warn(run, source, len(jobs), {name: shards[0].unread for name, shards in extracted.items()})
        notes = _reasons([shard for shards in made for shard in shards])
        units = documents + rejects
        return StageReport(
            source, "extract", len(pending), len(done), units, documents, time.monotonic() - started, notes
        )

    return Plan(source, "extract", len(pending), len(done), execute)


def _jobs(run: Run, source: str) -> list[ExtractJob]:
    """Return a job for every input; with `auto`, in the format that was found when it was last read."""
    config = run.config.sources[source]
    index = run.group(source, "documents").index() if config.format == "auto" else None
    found = index.details.get("formats", {}) if index is not None else {}
    kept = run.kept(source)
    return [
        ExtractJob(run.storage, source, file, found.get(file.name, config.format), config.columns, config.extract, kept)
        for file in run.inputs(source)
    ]


def _warn(run: Run, source: str, inputs: int, made: Mapping[str, str | None]) -> None:
    """Say which inputs gave nothing because they cannot be read: the run goes on without them."""
    unread = [f"{name} ({why})" for name, why in made.items() if why is not None]
    if unread:
        more = f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
        run.reporter.line(
            f"warning: {source}: {len(unread):,} of {inputs:,} inputs could not be read, each is one row of "
            f"{source}.rejects: {', '.join(unread[:MAX_NAMED])}{more}"
        )


def _extract(run: Run, job: ExtractJob, progress: StageProgress) -> list[Shard]:
    def watch(rows: int) -> None:
        run.check()
        progress.rows(rows)

    begun = time.monotonic()
    shards = extract_input(job, Tools(format_of, read, lambda: run.pages(job.config), watch))
    documents = sum(shard.documents.rows for shard in shards)
    units = documents + sum(shard.rejects.rows for shard in shards)
    notes = _reasons(shards)
    progress.shard(ShardReport(job.input.name, units, documents, job.input.size, time.monotonic() - begun, notes))
    return shards


def _finished(run: Run, source: str, jobs: Sequence[ExtractJob]) -> dict[str, Parts]:
    """Return the parts of the inputs that the indexes prove to be done, by the input's name."""
    documents, rejects = run.group(source, "documents"), run.group(source, "rejects")
    index = documents.index()
    if index is None:
        return {}
    listed = documents.present(), rejects.present()
    done: dict[str, Parts] = {}
    for job in jobs:
        names = [job.work(number).name for number in range(index.details["shards"].get(job.input.name, 0))]
        if names and all(name in parts for name in names for parts in listed):
            done[job.input.name] = [listed[0][name] for name in names], [listed[1][name] for name in names]
    return done


def _complete(run: Run, source: str, parts: Mapping[str, Parts], formats: Mapping[str, str]) -> tuple[int, int]:
    """Replace both indexes, so that exactly the current inputs' parts are read; return documents and rejects."""
    documents = [part for listed, _ in parts.values() for part in listed]
    rejects = [part for _, listed in parts.values() for part in listed]
    details: dict[str, Any] = {"shards": {name: len(listed) for name, (listed, _) in sorted(parts.items())}}
    if run.config.sources[source].format == "auto":
        details["formats"] = dict(sorted(formats.items()))
    if kept := run.kept(source):
        details[KEEP_COLUMNS] = {name: column.type for name, column in kept.items()}
    _replace(run.group(source, "rejects"), rejects, Index(stage="extract"))
    _replace(run.group(source, "documents"), documents, Index(stage="extract", details=details))
    _prune(run, source, {part.stem for part in documents})
    return sum(part.rows for part in documents), sum(part.rows for part in rejects)


def _prune(run: Run, source: str, stems: set[str]) -> None:
    """Take what was measured of documents that are gone out of every index, also of stages no longer configured."""
    for folder in group_folders(run.storage, source):
        group = run.group(source, folder)
        index = group.index() if folder not in ("documents", "rejects", "curated") else None
        if index is not None and any(part.stem not in stems for part in index.parts):
            group.complete([part for part in index.parts if part.stem in stems], index)


def _replace(group: Group, parts: list[Part], index: Index) -> None:
    """Replace a group's index unless it already says the same: a run with nothing to do writes nothing."""
    parts.sort(key=lambda part: part.name)
    if group.index() != index.model_copy(update={"parts": parts}):
        group.complete(parts, index)


def _reasons(shards: Sequence[Shard]) -> str:
    """Return the most common reasons of rejection, and what the kept columns lack, as one short note."""
    total: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for shard in shards:
        total.update(shard.reasons)
        counts.update(shard.counts)
    documents = sum(shard.documents.rows for shard in shards)
    notes = [f"{reason} {count:,}" for reason, count in total.most_common(5)]
    for key in sorted(counts):
        kind, _, name = key.partition(":")
        if kind == "unfit":
            notes.append(f"{name} does not fit its type in {counts[key]:,}")
        elif kind == "null" and counts[key] == documents:
            notes.append(f"{name} is null everywhere")
    return ", ".join(notes)
