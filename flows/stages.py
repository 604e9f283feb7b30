"""What each stage does with a run: find the shards that are not done, hand them to the engine, replace the index.

    documents = extract(inputs)         signals = annotate(documents)        signatures -> components = dedup(documents)
    predictions -> scores = classify(documents)                              outcomes, curated = select(everything narrow)

Every function here returns a report and can be called again at any time: what a matching manifest proves is skipped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from flows.progress import ShardReport, StageReport
from flows.runs import Run
from pipeline.table.shards import Group, Index, Part, RowMap, finished, map_part

RowMaps = Callable[[Part], list[RowMap]]
"""For a documents part, everything that a stage makes of it row by row."""


@dataclass(frozen=True)
class PartJob:
    """One documents part and what is still to be made of it."""

    part: Part
    row_maps: tuple[RowMap, ...]


def map_documents(run: Run, source: str, stage: str, build: RowMaps) -> StageReport:
    """Bring every group that `build` names up to date with the source's documents, row for row."""
    started = time.monotonic()
    documents = run.group(source, "documents")
    parts = documents.parts()
    wanted = {part.stem: build(part) for part in parts}
    done = _done(wanted)
    jobs = [
        PartJob(part, missing)
        for part in parts
        if (missing := tuple(m for m in wanted[part.stem] if part.stem not in done[m.target.folder]))
    ]
    with run.reporter.stage(source, stage, len(jobs)) as progress:

        def work(job: PartJob) -> list[Part]:
            run.check()
            begun = time.monotonic()
            made = map_part(documents, job.part, job.row_maps)
            progress.rows(job.part.rows)
            progress.shard(
                ShardReport(job.part.name, job.part.rows, job.part.rows, job.part.bytes, time.monotonic() - begun)
            )
            return made

        made = run.engine.map(f"{source} {stage}", work, jobs)
    for job, new in zip(jobs, made, strict=True):
        for row_map, part in zip(job.row_maps, new, strict=True):
            done[row_map.target.folder][part.stem] = part
    for folder, finished_parts in done.items():
        _complete(Group(run.storage, folder), stage, finished_parts)
    rows = sum(part.rows for part in parts)
    return StageReport(source, stage, len(jobs), len(parts) - len(jobs), rows, rows, time.monotonic() - started)


def _done(wanted: dict[str, list[RowMap]]) -> dict[str, dict[str, Part]]:
    """Return, for each target folder, its finished parts by stem."""
    by_folder: dict[str, list[RowMap]] = {}
    for row_maps in wanted.values():
        for row_map in row_maps:
            by_folder.setdefault(row_map.target.folder, []).append(row_map)
    return {folder: finished(maps[0].target, [m.work for m in maps]) for folder, maps in by_folder.items()}


def _complete(group: Group, stage: str, parts: dict[str, Part]) -> None:
    """Replace the group's index unless it already lists exactly these parts."""
    listed = sorted(parts.values(), key=lambda part: part.name)
    index = group.index()
    if index is None or index.parts != listed:
        group.complete(listed, Index(stage=stage))
