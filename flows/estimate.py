"""`gristmill run --dry-run`: what is to do, what is done, and how long and how large it will be, from a sample."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from threading import Event

from flows.config import RunConfig
from flows.progress import Reporter
from flows.runs import Run
from flows.stages import TABLE, steps
from pipeline.extract.shard import ExtractJob
from pipeline.extract.stage import sample

MAX_SAMPLED = 20
"""Inputs that are tried for one that has units."""


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
    job, sampled = next(
        ((job, found) for job in sound if (found := sample(job, run.pages)) is not None), (jobs[0], None)
    )
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
