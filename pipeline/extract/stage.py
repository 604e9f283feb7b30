"""The `extract` stage: raw inputs to documents and rejects, in whatever format they are."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow.parquet as pq

from pipeline.extract.config import PAGES_FOLDER, ExtractConfig, PdfConfig
from pipeline.extract.formats import READERS
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.pdf.ocr import installed
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

Parts = tuple[list[Part], list[Part], list[Part]]
"""A job's parts: of documents, of rejects, and of pages where it has those."""
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
    withdrawing, withdrawn = threading.Lock(), False

    def make(job: ExtractJob, progress: Progress) -> Made[Extracted]:
        nonlocal withdrawn
        seen = 0
        with withdrawing:
            if job.config.retry and not withdrawn:
                _withdraw(context, source, found)
            withdrawn = True

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
            job.stem(0): (
                [shard.documents for shard in shards],
                [shard.rejects for shard in shards],
                [shard.pages for shard in shards if shard.pages is not None],
            )
            for job, shards in results
        }
        documents, rejects, pages = ([part for each in parts.values() for part in each[kind]] for kind in range(3))
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
        if any(job.has_pages for job in jobs):
            publish(context.group(source, PAGES_FOLDER), pages, Index(stage="extract"))
        publish(context.group(source, "documents"), documents, Index(stage="extract", details=details))
        _prune(context, source, {part.stem: part.ids for part in documents}, publish)
        made = [shard for _, shards in results for shard in shards]
        if any(_lacks_engine(job, shards) for job, shards in results):
            context.reporter.line(
                f"warning: {source}: nothing is installed that reads pictures: pages without a sound text layer "
                "fail (pip install 'gristmill[ocr]', or `ocr: off`)"
            )
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
    listed = [context.group(source, folder).present() for folder in ("documents", "rejects")]
    paged = context.group(source, PAGES_FOLDER).present() if any(job.has_pages for job in jobs) else None
    listed += [paged] if paged is not None else []
    done: dict[str, Parts] = {}
    for job in jobs:
        sized = [job]
        if "part_bytes" not in job.config.model_fields_set:  # nobody asked for these: larger ones are as good
            sized.append(replace(job, config=job.config.model_copy(update={"part_bytes": FORMER_PART_BYTES})))
        for each in sized:
            names = [each.work(number).name for number in range(_listed(index, job)[0])]
            if _is_to_retry(context.group(source, "rejects"), names, job):
                break
            if names and all(name in parts for name in names for parts in listed):
                documents, rejects, *pages = ([parts[name] for name in names] for parts in listed)
                done[job.stem(0)] = documents, rejects, pages[0] if pages else []
                break
    return done


def _withdraw(context: Context, source: str, jobs: Sequence[ExtractJob]) -> None:
    """Make parts that are tried again undone, indexes first: their names stay, and what they hold may become another.

    Whatever ends the run then, no index and no manifest speaks of what a file held before.
    """
    rejects, listed = context.group(source, "rejects"), context.group(source, "documents").index()
    if listed is None:
        return
    again: set[str] = set()
    for job in jobs:
        names = [job.work(number).name for number in range(_listed(listed, job)[0])]
        first = next((at for at, name in enumerate(names) if _is_to_retry(rejects, [name], job)), len(names))
        again.update(names[first:])
    for folder in ("documents", "rejects", PAGES_FOLDER):
        group = context.group(source, folder)
        index = group.index()
        if index is not None and any(part.name in again for part in index.parts):
            group.complete([part for part in index.parts if part.name not in again], index)
    for folder in ("documents", "rejects", PAGES_FOLDER):
        group = context.group(source, folder)
        for name in again & {each.removesuffix(".json") for each in context.storage.names(group.manifests)}:
            context.storage.delete(group.manifest_path(name))


def _is_to_retry(rejects: Group, names: Sequence[str], job: ExtractJob) -> bool:
    """Whether parts of a job have rejects that the run is asked to try again."""
    if not job.config.retry:
        return False
    counts = (manifest.counts for name in names if (manifest := rejects.manifest(name)) is not None)
    return any(not each.keys().isdisjoint(job.config.retry) for each in counts)


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


def _prune(context: Context, source: str, stems: Mapping[str, str], publish: Publish) -> None:
    """Take what was measured of documents that are gone out of every index, also of stages no longer configured.

    `stems` are those of the documents, with the digests of their ids. Pages that an extraction without PDFs left behind
    are of other documents: nothing makes them anew.
    """
    for folder in group_folders(context.storage, source):
        group = context.group(source, folder)
        index = group.index() if folder not in ("documents", "rejects", "curated") else None
        if index is None:
            continue
        kept = [
            part
            for part in index.parts
            if part.stem in stems and (folder != PAGES_FOLDER or part.ids == stems[part.stem])
        ]
        if len(kept) < len(index.parts):
            publish(group, kept, index)


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


def _lacks_engine(job: ExtractJob, shards: Sequence[Shard]) -> bool:
    """Whether a job had PDFs read, as far as its format says, and no engine to read their pictures with."""
    form = shards[0].format if shards else job.format
    options = job.config.pdf if form == "warc" else job.read_as(form).options
    is_wanted = isinstance(options, PdfConfig) and options.ocr != "off" and options.engine == "auto"
    return is_wanted and installed() is None


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
    job = recognised(job)
    with closing(Reading(job).entries) as entries:

        def results() -> Iterator[Result]:
            for entry in entries:
                if entry.record_type == "file" and isinstance(entry.result, Reject):
                    raise InputError(f"{job.input.shown_url}: {entry.result.reason}: {entry.result.detail}")
                if isinstance(entry.result, Raw) and pictures:
                    yield replace(entry.result, facts={**entry.result.facts, "pictures": pictures})
                elif entry.result is not None:
                    yield entry.result

        yield from by_workers(job, results(), partial(pools, job.config))


def _unshown(job: ExtractJob) -> ExtractJob:
    """Return the job with no model to ask, which an estimate must not: it costs, and nothing may be served yet."""
    pdf = job.config.pdf and job.config.pdf.model_copy(update={"vision": None})
    told = {"vision": None} if isinstance(job.options, PdfConfig) else {}
    return replace(job, config=job.config.model_copy(update={"pdf": pdf}), options=job.options.model_copy(update=told))


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
    job = _unshown(recognised(job))
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
