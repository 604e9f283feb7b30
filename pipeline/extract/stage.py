"""The `extract` stage: raw inputs to documents and rejects, in whatever format they are."""

from __future__ import annotations

import io
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from pipeline.extract.config import PAGES_FOLDER, ExtractConfig
from pipeline.extract.formats import READERS
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.shard import (
    ExtractJob,
    Result,
    Shard,
    by_workers,
    documents_table,
    extract_input,
    format_of,
    read,
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
MAX_NAMED = 5
"""Inputs that a warning names."""

Parts = tuple[list[Part], list[Part], list[Part]]
"""An input's parts: of documents, of rejects, and of pages where it has those."""
Extracted = tuple[ExtractJob, list[Shard]]


def extract_stage(
    context: Context, source: str, jobs: Sequence[ExtractJob], pools: Callable[[ExtractConfig, str], WorkerPool]
) -> Stage[ExtractJob, Extracted]:
    """Return the extraction of every input of a source whose shards are not all there.

    `jobs` are all of the source's inputs, as its configuration says. Every unit ends as one document or one reject.
    """
    index = context.group(source, "documents").index()
    formats: dict[str, str] = index.details.get("formats", {}) if index is not None else {}
    # With `auto`, what is done was read in the format that was found then; what is not done may have changed.
    found = [job.read_as(formats.get(job.input.name, "auto")) for job in jobs]
    done = _finished(context, source, index, found)
    pending = [job for job in jobs if job.input.name not in done]

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
        return Made((job, shards), job.input.name, units, documents, job.size, _reasons(shards))

    def complete(results: Sequence[Extracted], publish: Publish, progress: Progress) -> Totals:
        parts = done | {
            job.input.name: (
                [shard.documents for shard in shards],
                [shard.rejects for shard in shards],
                [shard.pages for shard in shards if shard.pages is not None],
            )
            for job, shards in results
        }
        documents, rejects, pages = ([part for each in parts.values() for part in each[kind]] for kind in range(3))
        details: dict[str, Any] = {"shards": {name: len(listed) for name, (listed, *_) in sorted(parts.items())}}
        known = {job.input.name: job.format for job in found}
        known |= {job.input.name: shards[0].format for job, shards in results}
        if any(job.format == "auto" for job in jobs):
            details["formats"] = dict(sorted(known.items()))
        if jobs and jobs[0].keep:
            details[KEEP_COLUMNS] = jobs[0].kept_types
        publish(context.group(source, "rejects"), rejects, Index(stage="extract"))
        if any(job.has_pages for job in jobs):
            publish(context.group(source, PAGES_FOLDER), pages, Index(stage="extract"))
        publish(context.group(source, "documents"), documents, Index(stage="extract", details=details))
        _prune(context, source, {part.stem for part in documents}, publish)
        _warn(context, source, len(jobs), {job.input.name: shards[0].unread for job, shards in results})
        rows = sum(part.rows for part in documents)
        notes = _reasons([shard for _, shards in results for shard in shards])
        return Totals(rows + sum(part.rows for part in rejects), rows, notes)

    def works() -> Iterator[tuple[Group, str, Work | None]]:
        group = context.group(source, "documents")
        yield from ((group, job.work(0).stem, job.work(0)) for job in pending)
        first = {job.work(0).stem for job in found}
        for part in index.parts if index is not None else ():
            if part.stem.endswith("-00000") and part.stem not in first:
                yield group, part.stem, None

    size = sum(job.size for job in pending)
    return Stage(source, "extract", pending, len(done), complete, make, work=size, unit="bytes", works=works)


def _finished(context: Context, source: str, index: Index | None, jobs: Sequence[ExtractJob]) -> dict[str, Parts]:
    """Return the parts of the inputs that the indexes prove to be done, by the input's name."""
    if index is None:
        return {}
    listed = [context.group(source, folder).present() for folder in ("documents", "rejects")]
    paged = context.group(source, PAGES_FOLDER).present() if any(job.has_pages for job in jobs) else None
    listed += [paged] if paged is not None else []
    done: dict[str, Parts] = {}
    for job in jobs:
        sized = [job]
        if "part_bytes" not in job.config.model_fields_set:  # nobody asked for these: larger ones are as good
            sized.append(replace(job, config=job.config.model_copy(update={"part_bytes": FORMER_PART_BYTES})))
        for each in sized:
            names = [each.work(number).name for number in range(index.details["shards"].get(job.input.name, 0))]
            if _is_to_retry(context.group(source, "rejects"), names, job):
                break
            if names and all(name in parts for name in names for parts in listed):
                documents, rejects, *pages = ([parts[name] for name in names] for parts in listed)
                done[job.input.name] = documents, rejects, pages[0] if pages else []
                break
    return done


def _is_to_retry(rejects: Group, names: Sequence[str], job: ExtractJob) -> bool:
    """Whether parts of an input have rejects that the run is asked to try again."""
    if not job.config.retry:
        return False
    counts = (manifest.counts for name in names if (manifest := rejects.manifest(name)) is not None)
    return any(not each.keys().isdisjoint(job.config.retry) for each in counts)


def _prune(context: Context, source: str, stems: set[str], publish: Publish) -> None:
    """Take what was measured of documents that are gone out of every index, also of stages no longer configured."""
    for folder in group_folders(context.storage, source):
        group = context.group(source, folder)
        index = group.index() if folder not in ("documents", "rejects", "curated") else None
        if index is not None and any(part.stem not in stems for part in index.parts):
            publish(group, [part for part in index.parts if part.stem in stems], index)


def _warn(context: Context, source: str, inputs: int, made: Mapping[str, str | None]) -> None:
    """Say which inputs gave nothing because they cannot be read: the run goes on without them."""
    unread = [f"{name} ({why})" for name, why in made.items() if why is not None]
    if unread:
        more = f" and {len(unread) - MAX_NAMED} more" if len(unread) > MAX_NAMED else ""
        context.reporter.line(
            f"warning: {source}: {len(unread):,} of {inputs:,} inputs could not be read, each is one row of "
            f"{source}.rejects: {', '.join(unread[:MAX_NAMED])}{more}"
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


def look(
    job: ExtractJob, pools: Callable[[ExtractConfig, str], WorkerPool], pictures: int = 0
) -> Iterator[Document | Reject]:
    """Yield what `extract_stage` would make of an input, in order and as it comes; nothing is written.

    Documents that have pages come with the `pictures` of so many.

    Raises: InputError when nothing of the input can be read; ShardError.
    """
    with job.input.open() as stream:
        job = job.read_as(format_of(stream, job))

        def results() -> Iterator[Result]:
            for entry in read(stream, job, 0, ()):
                if entry.record_type == "file" and isinstance(entry.result, Reject):
                    raise InputError(f"{job.input.shown_url}: {entry.result.reason}: {entry.result.detail}")
                if isinstance(entry.result, Raw) and pictures:
                    yield replace(entry.result, facts={**entry.result.facts, "pictures": pictures})
                elif entry.result is not None:
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
    """Extract the first units of an input; times and sizes come back per raw byte."""
    started = time.monotonic()
    with job.input.open() as stream:
        job = job.read_as(format_of(stream, job))
        is_put_together = job.format in READERS and READERS[job.format].together is not None
        most = None if is_put_together else SAMPLE_UNITS + 1
        entries = read(stream, job, 0, (), SAMPLE_ROWS)
        items = list(itertools.islice((i for i in entries if i.result is not None), most))
        raw_bytes = job.size
        if is_put_together:  # whose offsets are no bytes
            raw_bytes = min(job.size, stream.tell())
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
