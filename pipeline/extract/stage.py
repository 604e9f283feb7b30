"""The `extract` stage: raw inputs to documents and rejects, in whatever format they are."""

from __future__ import annotations

import io
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from pipeline.extract.config import ExtractConfig
from pipeline.extract.formats import READERS
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.shard import (
    MAX_NAMED,
    ExtractJob,
    Reading,
    Result,
    Shard,
    by_workers,
    documents_table,
    extract_input,
    recognised,
)
from pipeline.extract.units import LEFT_OUT, MERGED, SKIPPED, Document, Page, Raw, Reject
from pipeline.table import schema
from pipeline.table.catalog import group_folders
from pipeline.table.errors import InputError
from pipeline.table.schema import KEEP_COLUMNS
from pipeline.table.shards import Group, Index, Part, Work, write_options
from pipeline.table.stages import Context, Made, Progress, Publish, Stage, Totals

SAMPLE_UNITS = 48
SAMPLE_ROWS = 2_000
"""Rows of each input of which a sample is made, where several are put together."""
_SIGNAL_BYTES = 400
"""Narrow columns of a document on disk: language, statistics, outcome (measured on web pages)."""
_CURATED_AGAIN = 2.0
"""Text is written twice: as documents and, at most all of it, as curated shards."""
FORMER_PART_BYTES = 1 << 30
"""The default until 0.2.0."""

Parts = tuple[list[Part], list[Part]]
"""A job's parts: of documents and of rejects."""
Extracted = tuple[ExtractJob, list[Shard]]


def extract_stage(
    context: Context, source: str, jobs: Sequence[ExtractJob], pools: Callable[[ExtractConfig, str], WorkerPool]
) -> Stage[ExtractJob, Extracted]:
    """Return the extraction of every input or bucket of a source whose shards are not all there.

    `jobs` are of all of the source's inputs, as its configuration says. Every unit ends as one document or one reject.
    """
    index = context.group(source, "documents").index()
    formats: dict[str, str] = index.details.get("formats", {}) if index is not None else {}
    # With `auto`, what is done was read in the format that was found then; what is not done may have changed.
    found = [job.read_as(formats.get(job.input.name, "auto")) for job in jobs]
    done = _finished(context, source, index, found)
    pending = [job for job in jobs if job.stem(0) not in done]

    def make(job: ExtractJob, progress: Progress) -> Made[Extracted]:
        seen = 0

        def watch(rows: int, position: int) -> None:
            nonlocal seen
            context.check()
            progress.rows(rows)
            if position > seen:  # readers of columns go back and forth
                progress.read(position - seen)
                seen = position

        shards = extract_input(job, lambda handler: pools(job.config, handler), watch)
        watch(0, job.size)
        documents = sum(shard.documents.rows for shard in shards)
        units = documents + sum(shard.rejects.rows for shard in shards)
        return Made((job, shards), job.name, units, documents, job.size, _reasons(shards))

    def complete(results: Sequence[Extracted], publish: Publish, progress: Progress) -> Totals:
        parts = done | {
            job.stem(0): ([shard.documents for shard in shards], [shard.rejects for shard in shards])
            for job, shards in results
        }
        documents = [part for listed, _ in parts.values() for part in listed]
        rejects = [part for _, listed in parts.values() for part in listed]
        alone, gathered = ([job for job in jobs if (job.bucket is None) == each] for each in (True, False))
        details: dict[str, Any] = {"shards": {job.input.name: len(parts[job.stem(0)][0]) for job in alone}}
        if gathered:
            details["buckets"] = {
                str(job.bucket): {"shards": len(parts[job.stem(0)][0]), "inputs": len(job.files), "bytes": job.size}
                for job in gathered
            }
        known = {job.input.name: job.format for job in found}
        known |= {job.input.name: shards[0].format for job, shards in results}
        if any(job.format == "auto" for job in jobs):
            details["formats"] = dict(sorted(known.items()))
        if jobs and jobs[0].keep:
            details[KEEP_COLUMNS] = jobs[0].kept_types
        publish(context.group(source, "rejects"), rejects, Index(stage="extract"))
        publish(context.group(source, "documents"), documents, Index(stage="extract", details=details))
        _prune(context, source, {part.stem for part in documents}, publish)
        made = [shard for _, shards in results for shard in shards]
        _warn(context, source, sum(len(job.files) for job in jobs), made)
        rows = sum(part.rows for part in documents)
        return Totals(rows + sum(part.rows for part in rejects), rows, _reasons(made))

    def works() -> Iterator[tuple[Group, str, Work | None]]:
        group = context.group(source, "documents")
        yield from ((group, job.stem(0), job.work(0)) for job in pending)
        if index is None:
            return
        first = {job.stem(0) for job in jobs}
        buckets = index.details.get("buckets", {}).items()
        held = {replace(jobs[0], bucket=int(name)).stem(0): each["inputs"] for name, each in buckets if jobs}
        for part in index.parts:
            if part.stem.endswith("-00000") and part.stem not in first:
                yield from itertools.repeat((group, part.stem, None), held.get(part.stem, 1))

    size = sum(job.size for job in pending)
    return Stage(source, "extract", pending, len(done), complete, make, work=size, unit="bytes", works=works)


def _finished(context: Context, source: str, index: Index | None, jobs: Sequence[ExtractJob]) -> dict[str, Parts]:
    """Return the parts of the jobs that the indexes prove to be done, by the job's first stem."""
    if index is None:
        return {}
    listed = context.group(source, "documents").present(), context.group(source, "rejects").present()
    done: dict[str, Parts] = {}
    for job in jobs:
        sized = [job]
        if "part_bytes" not in job.config.model_fields_set:  # nobody asked for these: larger ones are as good
            sized.append(replace(job, config=job.config.model_copy(update={"part_bytes": FORMER_PART_BYTES})))
        for each in sized:
            names = [each.work(number).name for number in range(_listed(index, job)[0])]
            if names and all(name in parts for name in names for parts in listed):
                done[job.stem(0)] = [listed[0][name] for name in names], [listed[1][name] for name in names]
                break
    return done


def _listed(index: Index, job: ExtractJob) -> tuple[int, int]:
    """Return how many shards an index lists of a job, and how many bytes of inputs they were made from."""
    if job.bucket is None:
        shards = index.details.get("shards", {}).get(job.input.name, 0)
        return shards, job.size if shards else 0
    known = index.details.get("buckets", {}).get(str(job.bucket), {"shards": 0, "bytes": 0})
    return known["shards"], known["bytes"]


def bytes_added(index: Index, jobs: Sequence[ExtractJob]) -> int:
    """Return by how many bytes of inputs some jobs have more than what an index lists of them."""
    return sum(max(job.size - _listed(index, job)[1], 0) for job in jobs)


def _prune(context: Context, source: str, stems: set[str], publish: Publish) -> None:
    """Take what was measured of documents that are gone out of every index, also of stages no longer configured."""
    for folder in group_folders(context.storage, source):
        group = context.group(source, folder)
        index = group.index() if folder not in ("documents", "rejects", "curated") else None
        if index is not None and any(part.stem not in stems for part in index.parts):
            publish(group, [part for part in index.parts if part.stem in stems], index)


def _warn(context: Context, source: str, inputs: int, made: Sequence[Shard]) -> None:
    """Say which inputs gave nothing because they cannot be read: the run goes on without them."""
    unread = [f"{name} ({why})" for shard in made for name, why in shard.unread][:MAX_NAMED]
    if unread:
        count = sum(shard.counts.get("records_file", 0) for shard in made)
        more = f" and {count - len(unread):,} more" if count > len(unread) else ""
        context.reporter.line(
            f"warning: {source}: {count:,} of {inputs:,} inputs could not be read, each is one row of "
            f"{source}.rejects: {', '.join(unread)}{more}"
        )


def _reasons(shards: Sequence[Shard]) -> str:
    """Return the most common reasons of rejection, and what the kept columns lack, as one short note."""
    total: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for shard in shards:
        total.update(shard.reasons)
        counts.update(shard.counts)
    documents = sum(shard.documents.rows for shard in shards)
    notes = [f"{reason} {count:,}" for reason, count in total.most_common(5)]
    for kind, said in ((MERGED, "merged into others"), (LEFT_OUT, "left out"), (SKIPPED, "inputs not used")):
        if number := counts[f"records_{kind}"]:
            notes.append(f"{number:,} {said}")
    for key in sorted(counts):
        kind, _, name = key.partition(":")
        if kind == "unfit":
            notes.append(f"{name} does not fit its type in {counts[key]:,}")
        elif kind == "null" and counts[key] == documents:
            notes.append(f"{name} is null everywhere")
    return ", ".join(notes)


def look(job: ExtractJob, pools: Callable[[ExtractConfig, str], WorkerPool]) -> Iterator[Document | Reject]:
    """Yield what `extract_stage` would make of an input, in order and as it comes; nothing is written.

    Raises: InputError when nothing of the input can be read; ShardError.
    """
    job = recognised(job)
    with closing(Reading(job).entries) as entries:

        def results() -> Iterator[Result]:
            for entry in entries:
                if entry.record_type == "file" and isinstance(entry.result, Reject):
                    raise InputError(f"{job.input.shown_url}: {entry.result.reason}: {entry.result.detail}")
                if entry.result is not None:
                    yield entry.result

        yield from by_workers(job, results(), partial(pools, job.config))


@dataclass(frozen=True)
class Sample:
    """What the first units of an input say: all but `units` for each raw byte."""

    units: int
    elapsed_s: float
    documents: float
    document_bytes: float
    bytes_on_disk: float
    """With what later stages measure and write."""


def sample(job: ExtractJob, pools: Callable[[ExtractConfig, str], WorkerPool]) -> Sample | None:
    """Extract the first units of a job; times and sizes come back per raw byte."""
    started = time.monotonic()
    job = recognised(job)
    reader = READERS.get(job.format)
    is_put_together = reader is not None and reader.together is not None and not reader.of_files
    most = None if is_put_together else SAMPLE_UNITS + (reader is None or not reader.of_files)
    reading = Reading(job, rows=SAMPLE_ROWS)
    with closing(reading.entries) as entries:
        items = list(itertools.islice((i for i in entries if i.result is not None), most))
        raw_bytes = job.size
        if reader is not None and (is_put_together or reader.of_files):  # whose offsets are no bytes
            raw_bytes = min(job.size, reading.position)
        elif len(items) > SAMPLE_UNITS and job.format != "parquet":
            raw_bytes = items.pop().offset
        results = [item.result for item in items[: most and SAMPLE_UNITS] if item.result is not None]
    if not results or not raw_bytes:
        return None
    raw = [result for result in results if isinstance(result, (Page, Raw))]
    own = partial(pools, job.config)
    if raw:
        list(by_workers(job, raw[:1], own))  # the workers' start is not the sample's
        started = time.monotonic()
    done = list(by_workers(job, results, own))
    elapsed_s = time.monotonic() - started
    documents = [result for result in done if isinstance(result, Document)]
    table = documents_table(job.source, documents, schema.documents_schema(job.kept_types))
    sink = io.BytesIO()
    pq.write_table(table, sink, **write_options(table.schema))
    size = sink.tell() * _CURATED_AGAIN + len(documents) * _SIGNAL_BYTES
    rates = (each / raw_bytes for each in (elapsed_s, len(documents), sink.tell(), size))
    return Sample(len(results), *rates)
