"""`gristmill run --dry-run`: what is to do, what is done, and how long and how large it will be, from a sample."""

from __future__ import annotations

import io
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event

import pyarrow.parquet as pq

from flows.config import RunConfig
from flows.progress import Reporter
from flows.runs import Run
from flows.stages import TABLE, steps
from pipeline.extract.exchange import HtmlOptions
from pipeline.extract.pages import extract_pages
from pipeline.extract.shard import ExtractJob, documents_table, format_of, html_options, read
from pipeline.extract.units import Document, Page
from pipeline.table import schema
from pipeline.table.shards import write_options

SAMPLE_UNITS = 48
MAX_SAMPLED = 20
"""Inputs that are tried for one that has units."""
_SIGNAL_BYTES = 400
"""Narrow columns of a document on disk: language, statistics, outcome (measured on web pages)."""
_CURATED_AGAIN = 2.0
"""Text is written twice: as documents and, at most all of it, as curated shards."""


@dataclass(frozen=True)
class Estimate:
    """What the first units of an input say: seconds and bytes on disk for each raw byte."""

    units: int
    elapsed_s: float
    bytes_on_disk: float


def print_plan(config: RunConfig, only: Sequence[str], until: str) -> None:
    """Print one line a stage and source, then the estimate. Nothing in the workspace changes."""
    run = Run.of(config, Reporter(), Event())
    with run.resources:
        lines = [("source", "stage", "shards to do", "done")]
        waiting: set[str] = set()
        for stage, sources in steps(config, only, until):
            lines.append(_line(run, stage, sources, waiting))
        _print(lines)
        for source in only or config.sources:
            _print_estimate(run, source)


def _line(run: Run, stage: str, sources: tuple[str, ...], waiting: set[str]) -> tuple[str, str, str, str]:
    """Return a stage's line; once an earlier stage has work, a later one only knows that it follows."""
    label = "+".join(sources)
    if waiting & set(sources):
        return label, stage, "after the stages above", ""
    plan = TABLE[stage].make(run, sources)
    if plan.shards_to_do:
        waiting.update(sources)
    return label, stage, f"{plan.shards_to_do:,}", f"{plan.shards_done:,}"


def _print(lines: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        sys.stdout.write(text.rstrip() + "\n")


def _print_estimate(run: Run, source: str) -> None:
    jobs: Sequence[ExtractJob] = TABLE["extract"].make(run, (source,)).pending
    total = sum(job.input.size for job in jobs)
    if not total:
        return
    sound = [job for job in jobs if not job.input.problem][:MAX_SAMPLED]
    job, sampled = next(((job, found) for job in sound if (found := _sample(run, job)) is not None), (jobs[0], None))
    if sampled is None:
        return
    seconds, size = sampled.elapsed_s * total, sampled.bytes_on_disk * total
    sys.stdout.write(
        f"{source}: {_count(len(jobs), 'input')} of {_bytes(total)}: extraction about {_duration(seconds)} on "
        f"{run.config.engine.workers} workers and {_bytes(size)} on disk "
        f"(from {_count(sampled.units, 'unit')} of {job.input.name}; other inputs may differ)\n"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun if number == 1 else noun + 's'}"


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


def _bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _sample(run: Run, job: ExtractJob) -> Estimate | None:
    """Extract the first units of an input; times and sizes come back per raw byte."""
    started = time.monotonic()
    with job.input.open() as stream:
        is_parquet = format_of(stream, job) == "parquet"
        items = list(itertools.islice((i for i in read(stream, job, 0, ()) if i.result is not None), SAMPLE_UNITS + 1))
        raw_bytes = items[-1].offset if len(items) > SAMPLE_UNITS and not is_parquet else job.input.size
        results = [item.result for item in items[:SAMPLE_UNITS] if item.result is not None]
    if not results or not raw_bytes:
        return None
    if any(isinstance(result, Page) for result in results):
        pool = run.pages(job.config)
        list(extract_pages(pool, results[:1], HtmlOptions()))  # the workers' start is not the sample's
        started = time.monotonic()
        done = list(extract_pages(pool, results, html_options(job.config)))
    else:
        done = [result for result in results if not isinstance(result, Page)]
    elapsed_s = time.monotonic() - started
    documents = [result for result in done if isinstance(result, Document)]
    table = documents_table(job.source, documents, schema.documents_schema(job.kept_types))
    sink = io.BytesIO()
    pq.write_table(table, sink, **write_options(table.schema))
    size = sink.tell() * _CURATED_AGAIN + len(documents) * _SIGNAL_BYTES
    return Estimate(len(results), elapsed_s / raw_bytes, size / raw_bytes)
