"""Stages: one record says what a stage has to do, one runner does it.

    documents, rejects = extract(inputs)            signals = annotate(documents)
    signatures -> duplicates = dedup(documents)     predictions -> scores = classify(documents)
    outcomes, curated = select(everything narrow)

Each room's `stage.py` has a function that returns a `Stage`: which parts are pending, how one of them is made, and how
the groups are completed. What a matching manifest proves is not pending, so a stage may be made and run at any time.
`run_stage` is the only place that times, counts, reports and replaces indexes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from pipeline.table.interrupts import Stop, stop_if_asked
from pipeline.table.shards import Group, Index, Part, RowMap, Work, finished, map_part
from pipeline.table.storage import Storage

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class StageReport:
    """What a stage did in a run, for the closing table and for Prefect."""

    source: str
    stage: str
    shards: int
    shards_done_before: int
    rows_in: int
    rows_out: int
    elapsed_s: float
    notes: str = ""


@dataclass(frozen=True)
class Made(Generic[Result]):
    """What came of one job, and what is told of it."""

    result: Result
    name: str
    rows_in: int
    rows_out: int
    input_bytes: int
    notes: str = ""


class Engine(Protocol):
    """Runs a function over jobs and returns the results in order; the first error stops the rest and is raised."""

    def map(self, name: str, function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]: ...


class Progress(Protocol):
    """Where a stage tells how far it is. Threads may call it at once."""

    def rows(self, count: int) -> None: ...
    def read(self, count: int) -> None:
        """Count bytes of raw input as they are read."""

    def shard(self, made: Made[Any], elapsed_s: float) -> None:
        """Count one finished shard."""


class Reporter(Protocol):
    """What a run shows."""

    def stage(
        self, source: str, stage: str, shards: int, work: int, unit: Literal["rows", "bytes"]
    ) -> AbstractContextManager[Progress]: ...
    def line(self, text: str) -> None: ...


@dataclass
class Context:
    """What a stage may use of the run that it is part of."""

    storage: Storage
    engine: Engine
    reporter: Reporter
    stop: Stop
    workers: int
    memory_mb: int
    """Bound for what is decided about all documents at once: components, ranks, rules."""

    def group(self, source: str, folder: str) -> Group:
        """Return the group at `<source>/<folder>`."""
        return Group(self.storage, f"{source}/{folder}")

    def check(self) -> None:
        """Raise InterruptedRunError once the user has asked the run to stop."""
        stop_if_asked(self.stop)


@dataclass(frozen=True)
class Totals:
    """What a stage counted over everything, whether it was made now or before."""

    rows_in: int
    rows_out: int
    notes: str = ""
    shards: int | None = None
    """Shards made, where only completing tells."""
    shards_done_before: int | None = None


@dataclass(frozen=True)
class Wanted:
    """What decides something that is not done: as what is there says, and as it is wanted.

    The terms are the words by which a person is told of each (`setting num_bands`, `rule length`); `inputs` is the
    identity of all that it is made from.
    """

    was: Mapping[str, Any] | None
    """None where there is nothing yet."""
    now: Mapping[str, Any] | None
    """None for what is not wanted any more."""


Publish = Callable[[Group, Iterable[Part], Index], None]
"""Replaces a group's index unless it says the same already: from then on readers see exactly these parts."""


@dataclass(frozen=True)
class Stage(Generic[Job, Result]):
    """What one stage has to do for a source, or for sources that are looked at together."""

    source: str
    """Its name, or the names joined by `+`."""
    name: str
    pending: Sequence[Job]
    """The parts that no manifest proves; they are made side by side."""
    shards_done: int
    complete: Callable[[Sequence[Result], Publish, Progress], Totals]
    """Takes the results of `pending`; does what concerns all parts at once, and publishes every group's parts."""
    make: Callable[[Job, Progress], Made[Result]] | None = None
    """Makes one part; None where all work concerns all parts at once."""
    whole: int = 0
    """Shards of work that only `complete` does: components, ranks, a selection."""
    work: int = 0
    """Rows that will pass, or bytes of raw input that will be read, as `unit` says; 0 where that is not known."""
    unit: Literal["rows", "bytes"] = "rows"
    works: Callable[[], Iterable[tuple[Group, str, Work | None]]] = tuple
    """Says of which group and stem each of `pending` is, and what is wanted: nothing of an input that is gone. Not
    needed of what follows from documents row by row."""
    wanted: Callable[[], Iterable[Wanted]] = tuple
    """Says what `whole` was made for, and what for it is wanted."""

    @property
    def shards_to_do(self) -> int:
        return len(self.pending) + self.whole


def run_stage(stage: Stage[Any, Any], context: Context) -> StageReport:
    """Make what is pending and complete the stage's groups; rows drop only where the stage rejects them.

    Raises: InterruptedRunError when asked to stop; what the stage raises. What was made until then is kept.
    """
    started = time.monotonic()
    with context.reporter.stage(stage.source, stage.name, stage.shards_to_do, stage.work, stage.unit) as progress:

        def work(job: Any) -> Any:
            context.check()
            assert stage.make is not None, "pending parts can be made"
            begun = time.monotonic()
            made = stage.make(job, progress)
            progress.shard(made, time.monotonic() - begun)
            return made.result

        results = context.engine.map(f"{stage.source} {stage.name}", work, stage.pending)
        context.check()
        totals = stage.complete(results, _publish, progress)
        elapsed_s = time.monotonic() - started
        if stage.whole:
            progress.shard(Made(None, stage.source, totals.rows_in, totals.rows_out, 0, totals.notes), elapsed_s)
    made, done = totals.shards, totals.shards_done_before
    return StageReport(
        stage.source,
        stage.name,
        stage.shards_to_do if made is None else made,
        stage.shards_done if done is None else done,
        totals.rows_in,
        totals.rows_out,
        elapsed_s,
        totals.notes,
    )


def _publish(group: Group, parts: Iterable[Part], index: Index) -> None:
    listed = index.model_copy(update={"parts": sorted(parts, key=lambda part: part.name)})
    if group.index() != listed:  # a run with nothing to do writes nothing
        group.complete(listed.parts, index)
    group.memory.save()


Mapped = list[tuple[Group, Part]]
"""What was made of one documents part, each with the group that it belongs to."""


@dataclass(frozen=True)
class PartJob:
    """One documents part and what is still to be made of it, row by row."""

    documents: Group
    part: Part
    row_maps: tuple[RowMap, ...]


@dataclass(frozen=True)
class RowMaps:
    """Groups that follow from a source's documents row by row: the pending jobs, and the parts that are done."""

    jobs: list[PartJob]
    parts: list[Part]
    """The documents parts."""
    done: dict[Group, dict[str, Part]]
    """Finished parts by stem, for each target."""

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def rows_to_do(self) -> int:
        return sum(job.part.rows for job in self.jobs)

    @property
    def shards_done(self) -> int:
        return len(self.parts) - len(self.jobs)

    def publish(self, stage: str, results: Iterable[Mapped], publish: Publish) -> None:
        """Publish the targets with what was done before and the `results` of the jobs; rows neither drop nor move."""
        made = {target: dict(parts) for target, parts in self.done.items()}
        for target, part in (pair for pairs in results for pair in pairs):
            if target in made:  # the results of a stage over several sources are all here
                made[target][part.stem] = part
        for target, parts in made.items():
            publish(target, parts.values(), Index(stage=stage))


def plan_row_maps(documents: Group, targets: Sequence[Group], row_maps: Callable[[Part], list[RowMap]]) -> RowMaps:
    """Compare what `row_maps` wants of each documents part with what the targets have."""
    parts = documents.parts()
    wanted = {part.stem: row_maps(part) for part in parts}
    done: dict[Group, dict[str, Part]] = {}
    for target in targets:
        done[target] = finished(target, [m.work for maps in wanted.values() for m in maps if m.target == target])
    missing = {stem: tuple(m for m in maps if stem not in done[m.target]) for stem, maps in wanted.items()}
    jobs = [PartJob(documents, part, missing[part.stem]) for part in parts if missing[part.stem]]
    return RowMaps(jobs, parts, done)


def make_rows(job: PartJob, progress: Progress) -> Made[Mapped]:
    """Make what is missing of one documents part."""
    made = map_part(job.documents, job.part, job.row_maps, progress.rows)
    pairs = [(row_map.target, part) for row_map, part in zip(job.row_maps, made, strict=True)]
    return Made(pairs, job.part.name, job.part.rows, job.part.rows, job.part.bytes)
