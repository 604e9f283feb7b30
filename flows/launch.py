"""`gristmill run`: check what can be checked, then do what is not done, under Prefect when it is worth it."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import copy_context

import duckdb

from flows.config import LAST, chosen_sources, load
from flows.preflight import check_everything
from flows.runs import Run, opened
from flows.stages import TABLE, steps
from pipeline.table.catalog import check_layout
from pipeline.table.errors import ShardError, UsageError
from pipeline.table.interrupts import Stop, stopping_on_signals
from pipeline.table.query import one_line
from pipeline.table.stages import StageReport, run_stage
from pipeline.table.storage import Storage

SMALL_BYTES = 16 << 20
SMALL_ROWS = 50_000
"""Raw input and documents that are done before Prefect has started, more or less: some ten seconds of work."""


def launch(path: str, assignments: Sequence[str], only: Sequence[str], until: str) -> int:
    """Bring the workspace up to date with a configuration file. Returns the exit code.

    Raises: UsageError for what is found before work begins; GristmillError when the run failed.
    """
    config = load(path, assignments)
    only = chosen_sources(config, only)
    bound = check_everything(config, only, until)
    stop = Stop()
    with stopping_on_signals(stop, f"gristmill run {path}"), opened(config, f"gristmill run {path}", stop) as run:
        started = time.monotonic()
        run.bound = bound
        stop.standing = run.reporter.standing
        orchestrated = _is_worth_prefect(run, only, until)
        with _failing():
            reports = _orchestrated(run, only, until) if orchestrated else _in_this_process(run, only, until)
        run.check()
        _close(run, reports, time.monotonic() - started)
    return 0


def dry_run(path: str, assignments: Sequence[str], only: Sequence[str], until: str) -> int:
    """Print the stages of a run, their shards to do and done, and an estimate from a sample. Changes nothing."""
    from flows.estimate import print_plan

    config = load(path, assignments)
    only = chosen_sources(config, only)
    check_everything(config, only, until)
    check_layout(Storage.at(config.workspace))
    print_plan(config, only, until)
    return 0


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


def _in_this_process(run: Run, only: Sequence[str], until: str) -> list[StageReport]:
    return [run_stage(TABLE[stage].make(run, sources), run) for stage, sources in steps(run.config, only, until)]


def _orchestrated(run: Run, only: Sequence[str], until: str) -> list[StageReport]:
    from flows.server import prefect_server

    with ExitStack() as stack:
        with run.reporter.waiting("starting Prefect ..."):
            stack.enter_context(prefect_server(run.stop))
            from flows.curate import curate

        thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="gristmill-flow"))
        # In the main thread Prefect would take SIGTERM over, and the run would go on until the page at hand ends.
        try:
            return list(thread.submit(copy_context().run, curate, run.config, only, until).result())
        except Exception as error:
            _let_go(error)
            raise


def _let_go(error: BaseException | None) -> None:
    """Drop what an error's frames hold: Prefect keeps the error to the end, where DuckDB's module would complain."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _close(run: Run, reports: Sequence[StageReport], elapsed_s: float) -> None:
    if any(report.shards for report in reports):
        run.reporter.table(list(reports))
        run.reporter.line(f"done in {elapsed_s:.1f} s; next: gristmill funnel {run.config.workspace}")
    else:
        run.reporter.line("nothing to do: every shard's manifest matches the configuration")
