"""`gristmill run` and `gristmill rephrase`: do what is not done, under Prefect where it is worth it, or foretell it."""

from __future__ import annotations

import itertools
import os
import textwrap
import time
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager

import duckdb
from rich.filesize import decimal

from flows.config import LAST, RephraseRun, load
from flows.stages import TABLE, Run, check_rephrase, opened, prepared, steps
from pipeline.extract.shard import ExtractJob
from pipeline.extract.stage import sample
from pipeline.rephrase.output import Rejected, before, outcomes
from pipeline.rephrase.plan import estimate, make_plan, plan_requests
from pipeline.rephrase.sources import kept_documents, resolve_routes
from pipeline.rephrase.stage import answers, ask, failed_requests
from pipeline.table.catalog import check_layout
from pipeline.table.errors import ConfigError, ShardError, UsageError
from pipeline.table.format import Answer, encode, text_table
from pipeline.table.interrupts import stopping_on_signals
from pipeline.table.query import one_line
from pipeline.table.sql import connect
from pipeline.table.stages import StageReport, run_stage

SMALL_BYTES = 16 << 20
SMALL_ROWS = 50_000
"""Raw input and documents that are done before Prefect has started, more or less: some ten seconds of work."""
MAX_SAMPLED = 20
"""Inputs that are tried for one that has units."""
WIDTH = 58
"""Characters of each of the two columns of a sample of rephrasings."""
MAX_SAMPLE = 1_000


# Everything -----------------------------------------------------------------------------------------------------------


def curate_workspace(path: str, assignments: Sequence[str], only: Sequence[str], until: str) -> list[StageReport]:
    """Bring the workspace up to date with a configuration file.

    Raises: UsageError for what is found before work begins; GristmillError when the run failed.
    """
    run, only = prepared(path, assignments, only, until)
    with _working(run, f"gristmill run {path}"):
        started = time.monotonic()
        orchestrated = _is_worth_prefect(run, only, until)
        with _failing():
            if orchestrated:
                reports = _orchestrated(run, only, until)
            else:
                made = ((TABLE[stage].make(run, sources)) for stage, sources in steps(run.config, only, until))
                reports = [run_stage(stage, run) for stage in made]
        run.check()
        if any(report.shards for report in reports):
            run.reporter.table(reports)
            elapsed_s = time.monotonic() - started
            run.reporter.line(f"done in {elapsed_s:.1f} s; next: gristmill funnel {run.config.workspace}")
        else:
            run.reporter.line("nothing to do: every shard's manifest matches the configuration")
    return reports


@contextmanager
def _working(run: Run, command: str) -> Iterator[None]:
    """Hold the run's workspace; Ctrl-C says what is kept."""
    with stopping_on_signals(run.stop, command), opened(run, command):
        run.stop.standing = run.reporter.standing
        yield


def _is_worth_prefect(run: Run, only: Sequence[str], until: str) -> bool:
    """Tell whether a run goes through Prefect: as the configuration says, or where its start of seconds is repaid."""
    if run.config.engine.prefect != "auto":
        return run.config.engine.prefect == "always"
    is_watched = bool(os.environ.get("PREFECT_API_URL"))
    sizes = {"bytes": 0, "rows": 0}
    for stage, sources in steps(run.config, only, until):
        if not TABLE[stage].is_work:
            continue
        made = TABLE[stage].make(run, sources)
        if made.shards_to_do and (is_watched or stage == LAST):
            return True
        sizes[made.unit] += made.work
    return sizes["bytes"] > SMALL_BYTES or sizes["rows"] > SMALL_ROWS


@contextmanager
def _failing() -> Iterator[None]:
    """From here on work is done: what was not found before it fails the run."""
    try:
        yield
    except UsageError as error:
        raise ShardError(str(error)) from error
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        raise ShardError(f"{one_line(error)}; raise engine.memory_mb or free disk, then run it again") from error


def _orchestrated(run: Run, only: Sequence[str], until: str) -> list[StageReport]:
    from flows.server import in_a_flow, prefect_server  # forty milliseconds that most runs need not wait for

    with prefect_server(run.stop, run.reporter):
        from flows.curate import curate  # imports Prefect, which has to know its server

        try:
            return list(in_a_flow(curate, run.config, only, until))
        except Exception as error:
            # Prefect keeps the error, and what its frames hold, to the end, where DuckDB's module would complain.
            held: BaseException | None = error
            while held is not None:
                traceback.clear_frames(held.__traceback__)
                held = held.__cause__ or held.__context__
            raise


def plan(path: str, assignments: Sequence[str], only: Sequence[str], until: str) -> Answer:
    """Return the stages of a run with their shards to do and done, and an estimate from a sample, a line a source.

    Nothing in the workspace changes.
    """
    run, only = prepared(path, assignments, only, until)
    check_layout(run.storage)
    rows: list[dict[str, str]] = []
    waiting: set[str] = set()
    with run.resources:
        for stage, sources in steps(run.config, only, until):
            row = {"source": "+".join(sources), "stage": stage, "shards to do": "after the stages above", "done": ""}
            if not waiting & set(sources):  # once an earlier stage has work, a later one only knows that it follows
                made = TABLE[stage].make(run, sources)
                row |= {"shards to do": f"{made.shards_to_do:,}", "done": f"{made.shards_done:,}"}
                waiting.update(sources if made.shards_to_do else ())
            rows.append(row)
        return Answer(rows, text_table(rows) + "".join(_estimate(run, source) for source in only))


def _estimate(run: Run, source: str) -> str:
    """Return how long a source's extraction will take, and how large it will be: a line, or nothing."""
    jobs: Sequence[ExtractJob] = TABLE["extract"].make(run, (source,)).pending
    total = sum(job.input.size for job in jobs)
    for job in [job for job in jobs if not job.input.problem][:MAX_SAMPLED] if total else ():
        if (found := sample(job, run.pools)) is not None:
            inputs = f"{len(jobs):,} input{'s' * (len(jobs) != 1)} of {decimal(total)}"
            seconds, size = _duration(found.elapsed_s * total), decimal(int(found.bytes_on_disk * total))
            units = f"{found.units:,} unit{'s' * (found.units != 1)} of {job.input.name}"
            return (
                f"{source}: {inputs}: extraction about {seconds} on {run.workers} workers and {size} on disk "
                f"(from {units}; other inputs may differ)\n"
            )
    return ""


def _duration(seconds: float) -> str:
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"


# Rephrasing alone -----------------------------------------------------------------------------------------------------


def rephrase(
    path: str, assignments: Sequence[str], sample: int | None, dry_run: bool, as_json: bool = False
) -> Generator[str, None, None]:
    """Rephrase what a configuration asks for and is not done: this stage alone.

    Yields a sample of so many documents, or with `dry_run` what it would take (`as_json` as one object); then nothing
    else is done. It holds the workspace until it is closed.

    Raises: UsageError for what is found before work begins; GristmillError when the stage failed.
    """
    run = Run.of(load(path, assignments))
    settings = run.config.rephrase
    if settings is None:
        raise ConfigError(f"{path}: key 'rephrase' is missing; it names source, endpoint and routes")
    if sample is not None and not 1 <= sample <= MAX_SAMPLE:
        raise UsageError(f"--sample {sample}: give between 1 and {MAX_SAMPLE} documents")
    check_rephrase(run, asks=not dry_run)
    if dry_run:
        yield from _needed(run, settings, as_json)
        return
    with _working(run, f"gristmill rephrase {path}"):
        if sample is not None:
            yield from _sampled(run, settings, sample)
            return
        report = run_stage(TABLE[LAST].make(run, (settings.source,)), run)
        if report.shards:
            run.reporter.table([report])
            run.reporter.line(f"next: gristmill run {path}, which takes {report.source} through the other stages")
            return
        there = "every answer is there"
        if failed := failed_requests(run.storage, settings):
            again = "rephrase.client.retry_failed: true asks for them again"
            there = f"but for {failed:,} that failed, {there}; {again}"
        run.reporter.line(f"nothing to do: {there}; nothing that decides the rows changed")


def _needed(run: Run, settings: RephraseRun, as_json: bool) -> Iterator[str]:
    """Yield how many requests and tokens there are, and what they cost where prices are given."""
    plan = make_plan(settings)
    with connect(run.storage) as session:
        routed = resolve_routes(session, settings.source, settings.routes)
        found = estimate(plan_requests(kept_documents(session, routed), plan), settings, plan.model_licence)
    row = found.row()
    if as_json:
        yield encode(row)
        return
    styles = row.pop("styles")
    for name, value in row.items():
        yield f"{name:<28} {_shown(value)}"
    for name, style in styles.items():
        yield f"{name:<28} {', '.join(f'{what} {_shown(value)}' for what, value in style.items())}"


def _shown(value: float | None) -> str:
    """Return a number of an estimate as a person reads it."""
    if value is None:
        return "not known: give price_input and price_output"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _sampled(run: Run, settings: RephraseRun, documents: int) -> Iterator[str]:
    """Ask for the first documents' rephrasings and yield each beside its source, as far as the budget goes."""
    plan = make_plan(settings)
    stopped_at = ask(run, settings, plan, documents).stopped_at
    with answers(run.storage) as cache, connect(run.storage) as session:
        routed = resolve_routes(session, settings.source, settings.routes)
        planned = before(stopped_at, plan_requests(kept_documents(session, routed, documents), plan))
        for row in outcomes(planned, cache.get, plan):
            head = f"{row.planned.record_id}  {row.planned.parent.title or ''}".rstrip()
            right = f"[{row.reason}: {row.detail}]" if isinstance(row, Rejected) else row.body
            pairs = itertools.zip_longest(_wrapped(row.planned.segment_text), _wrapped(right), fillvalue="")
            yield "\n".join([head, *(f"{a:<{WIDTH}} | {b}".rstrip() for a, b in pairs), "", ""])
    if stopped_at is not None:
        run.reporter.line("the budget ended the sample; raise rephrase.budget to see more")


def _wrapped(text: str) -> list[str]:
    """Return a text's lines, wrapped; control characters become spaces, since they could move the cursor."""
    plain = "".join(c if c.isprintable() or c == "\n" else " " for c in text.strip())
    return [line for paragraph in plain.split("\n") for line in textwrap.wrap(paragraph, WIDTH) or [""]]
