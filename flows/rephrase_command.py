"""`gristmill rephrase` and `gristmill verify`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence

from flows.config import LAST, RephraseRun, RunConfig, load
from flows.preflight import check_rephrase
from flows.runs import Run, opened
from flows.stages import TABLE
from pipeline.rephrase.output import Rejected, before, outcomes
from pipeline.rephrase.plan import estimate, make_plan, plan_requests
from pipeline.rephrase.sources import kept_documents, resolve_routes
from pipeline.rephrase.stage import answers, ask, failed_requests
from pipeline.rephrase.verify import verify_file
from pipeline.table.errors import ConfigError, UsageError
from pipeline.table.format import encode
from pipeline.table.interrupts import Stop, stopping_on_signals
from pipeline.table.sql import connect
from pipeline.table.stages import run_stage
from pipeline.table.storage import Storage

WIDTH = 58
"""Characters of each of the two columns of a sample."""
MAX_SAMPLE = 1_000


def rephrase(path: str, assignments: Sequence[str], sample: int | None, dry_run: bool) -> int:
    """Rephrase what a configuration asks for and is not done: this stage alone. Returns the exit code.

    Raises: UsageError for what is found before work begins; GristmillError when the stage failed.
    """
    config = load(path, assignments)
    settings = config.rephrase
    if settings is None:
        raise ConfigError(f"{path}: key 'rephrase' is missing; it names source, endpoint and routes")
    if sample is not None and not 1 <= sample <= MAX_SAMPLE:
        raise UsageError(f"--sample {sample}: give between 1 and {MAX_SAMPLE} documents")
    check_rephrase(config, Storage.at(config.workspace), asks=not dry_run)
    if dry_run:
        return _print_estimate(config, settings)
    stop = Stop()
    command = f"gristmill rephrase {path}"
    with stopping_on_signals(stop, command), opened(config, command, stop) as run:
        if sample is not None:
            return _print_sample(run, settings, sample)
        report = run_stage(TABLE[LAST].make(run, (settings.source,)), run)
        if report.shards:
            run.reporter.table([report])
            run.reporter.line(f"next: gristmill run {path}, which takes {report.source} through the other stages")
        else:
            failed = failed_requests(run.storage, settings)
            again = "; rephrase.client.retry_failed: true asks for them again"
            there = (
                f"but for {failed:,} that failed, every answer is there{again}" if failed else "every answer is there"
            )
            run.reporter.line(f"nothing to do: {there}; nothing that decides the rows changed")
    return 0


def verify_pairs(path: str) -> int:
    """Print the verdicts on pairs of texts, one JSON line a row. Returns the exit code.

    Raises: InputError naming file and line.
    """
    for row in verify_file(path):
        sys.stdout.write(encode(row) + "\n")
    return 0


def _print_estimate(config: RunConfig, settings: RephraseRun) -> int:
    """Print how many requests and tokens there are, and what they cost where prices are given."""
    plan = make_plan(settings)
    with connect(Storage.at(config.workspace)) as session:
        routed = resolve_routes(session, settings.source, settings.routes)
        found = estimate(plan_requests(kept_documents(session, routed), plan), settings, plan.model_licence)
    row = found.row()
    styles = row.pop("styles")
    for name, value in row.items():
        sys.stdout.write(f"{name:<28} {_shown(value)}\n")
    for name, style in styles.items():
        sys.stdout.write(f"{name:<28} {', '.join(f'{what} {_shown(value)}' for what, value in style.items())}\n")
    return 0


def _shown(value: float | None) -> str:
    """Return a number of an estimate as a person reads it."""
    if value is None:
        return "not known: give price_input and price_output"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _print_sample(run: Run, settings: RephraseRun, documents: int) -> int:
    """Ask for the first documents' rephrasings and print each beside its source, as far as the budget goes."""
    plan = make_plan(settings)
    stopped_at = ask(run, settings, plan, documents).stopped_at
    with answers(run.storage) as cache, connect(run.storage) as session:
        routed = resolve_routes(session, settings.source, settings.routes)
        planned = before(stopped_at, plan_requests(kept_documents(session, routed, documents), plan))
        for row in outcomes(planned, cache.get, plan):
            head = f"{row.planned.record_id}  {row.planned.parent.title or ''}".rstrip()
            right = f"[{row.reason}: {row.detail}]" if isinstance(row, Rejected) else row.body
            sys.stdout.write(f"{head}\n{_side_by_side(row.planned.segment_text, right)}\n\n")
    if stopped_at is not None:
        run.reporter.line("the budget ended the sample; raise rephrase.budget to see more")
    return 0


def _side_by_side(left: str, right: str) -> str:
    columns = [_wrapped(text) for text in (left, right)]
    height = max(map(len, columns))
    padded = [column + [""] * (height - len(column)) for column in columns]
    return "\n".join(f"{a:<{WIDTH}} | {b}".rstrip() for a, b in zip(*padded, strict=True))


def _wrapped(text: str) -> list[str]:
    """Return a text's lines, wrapped; control characters become spaces, since they could move the cursor."""
    plain = "".join(c if c.isprintable() or c == "\n" else " " for c in text.strip())
    return [line for paragraph in plain.split("\n") for line in textwrap.wrap(paragraph, WIDTH) or [""]]
