"""What each stage does with a run: find the shards that are not done, hand them to the engine, replace the index.

    documents, rejects = extract(inputs)            signals = annotate(documents)
    signatures -> duplicates = dedup(documents)     predictions -> scores = classify(documents)
    outcomes, curated = select(everything narrow)

A stage's function returns a plan: what is to do and what is done already. Executing it does the rest. What a matching
manifest proves is skipped, so a plan may be made and executed again at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from flows.progress import ShardReport, StageReport
from flows.runs import Run
from pipeline.table.shards import Group, Index, Part, RowMap, finished, map_part

RowMaps = Callable[[Part], list[RowMap]]
"""For a documents part, everything that a stage makes of it row by row."""


@dataclass(frozen=True)
class Plan:
    """What a stage has to do for a source (or a scope of sources), and how to do it."""

    source: str
    stage: str
    shards_to_do: int
    shards_done: int
    execute: Callable[[], StageReport]


@dataclass(frozen=True)
class PartJob:
    """One documents part and what is still to be made of it."""

    part: Part
    row_maps: tuple[RowMap, ...]


@dataclass(frozen=True)
class MapPlan:
    """Groups that follow from a source's documents row by row: what is done, and the jobs for the rest."""

    documents: Group
    parts: list[Part]
    done: dict[str, dict[str, Part]]
    """Finished parts by target folder and stem."""
    jobs: list[PartJob]

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


def plan_map(run: Run, source: str, targets: Sequence[Group], row_maps: RowMaps) -> MapPlan:
    """Compare what `row_maps` wants of each documents part with what the targets have."""
    documents = run.group(source, "documents")
    parts = documents.parts()
    wanted = {part.stem: row_maps(part) for part in parts}
    done: dict[str, dict[str, Part]] = {}
    for target in targets:
        works = [m.work for maps in wanted.values() for m in maps if m.target.folder == target.folder]
        done[target.folder] = finished(target, works)
    missing = {stem: tuple(m for m in maps if stem not in done[m.target.folder]) for stem, maps in wanted.items()}
    return MapPlan(documents, parts, done, [PartJob(part, missing[part.stem]) for part in parts if missing[part.stem]])


def execute_map(run: Run, source: str, stage: str, plan: MapPlan) -> None:
    """Do the jobs of a plan and complete its groups; rows neither drop nor move."""
    with run.reporter.stage(source, stage, len(plan.jobs)) as progress:

        def work(job: PartJob) -> list[Part]:
            run.check()
            begun = time.monotonic()
            made = map_part(plan.documents, job.part, job.row_maps)
            progress.rows(job.part.rows)
            rows, size = job.part.rows, job.part.bytes
            progress.shard(ShardReport(job.part.name, rows, rows, size, time.monotonic() - begun))
            return made

        made = run.engine.map(f"{source} {stage}", work, plan.jobs)
    for job, parts in zip(plan.jobs, made, strict=True):
        for row_map, part in zip(job.row_maps, parts, strict=True):
            plan.done[row_map.target.folder][part.stem] = part
    for folder, by_stem in plan.done.items():
        complete(Group(run.storage, folder), stage, by_stem.values())


def complete(group: Group, stage: str, parts: Iterable[Part]) -> None:
    """Replace the group's index unless it already lists exactly these parts."""
    listed = sorted(parts, key=lambda part: part.name)
    index = group.index()
    if index is None or index.parts != listed:
        group.complete(listed, Index(stage=stage))
