"""The `rephrase` stage: a language model writes documents of a new source from those that a source kept.

    kept documents -> planned requests -> answers, durable as they come -> documents, rejects and verdicts

Answers outlive everything: a request that has one is never asked again, whatever died in between.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING

from pipeline.inputs.shipped import lid_model_hash
from pipeline.rephrase import verify
from pipeline.rephrase.collapse import measure_collapse
from pipeline.rephrase.config import RephraseConfig
from pipeline.rephrase.output import OutputJob, is_done, output_key, write_output
from pipeline.rephrase.plan import Plan, count_requests, make_plan, plan_requests, requests
from pipeline.rephrase.sources import check_routes, kept_documents, resolve_routes
from pipeline.table.catalog import ANSWERS
from pipeline.table.errors import ConfigError
from pipeline.table.interrupts import giving
from pipeline.table.shards import Group
from pipeline.table.sql import connect
from pipeline.table.stages import Context, Progress, Publish, Stage, Totals, Wanted
from pipeline.table.storage import Storage

if TYPE_CHECKING:
    from pipeline.llm.cache import Cache
    from pipeline.llm.types import Counts, Report

_TELL_EVERY_S = 10.0
_EVERYTHING = {
    "outcome": "VARCHAR",
    "failed_rules": 'STRUCT("rule" VARCHAR, "value" VARCHAR)[]',
    "duplicate_of": "VARCHAR",
    "text": "VARCHAR",
    "title": "VARCHAR",
    "date": "TIMESTAMP WITH TIME ZONE",
    "licence": "VARCHAR",
    "origin": 'STRUCT(file VARCHAR, "offset" BIGINT, record_id VARCHAR)',
}
"""What a route may read of `<source>.everything` besides its narrow columns."""


def rephrase_stage(
    context: Context, settings: RephraseConfig, detect: Callable[[str], str | None]
) -> Stage[None, None]:
    """Return the rephrasing of a source: all of it when anything that decides it changed.

    Each planned request becomes one document or one reject. `detect` tells a text's language.
    """
    plan = make_plan(settings)
    job = OutputJob(context.storage, plan, detect, f"{verify.VERSION}-{lid_model_hash()}")
    parents = [part for folder in ("outcomes", "curated") for part in context.group(settings.source, folder).parts()]
    key = output_key(plan, settings, parents, job.verdicts_version)
    to_do = int(not is_done(job, key, retry_failed=settings.client.retry_failed))

    def complete(results: Sequence[None], publish: Publish, progress: Progress) -> Totals:
        if not to_do:
            counts = [sum(part.rows for part in group.parts()) for group in (job.documents, job.rejects)]
            return Totals(sum(counts), counts[0])
        stopped_at = ask(context, settings, plan).stopped_at
        with answers(context.storage) as cache, connect(context.storage) as session:
            routed = resolve_routes(session, settings.source, settings.routes)
            planned = plan_requests(kept_documents(session, routed), plan)
            made = write_output(
                job, planned, cache.get, key, publish, stopped_at, settings.part_requests, progress.rows
            )
        notes = [f"{reason} {count:,}" for reason, count in sorted(made.reasons.items())]
        notes += ["the budget ended it"] if stopped_at is not None else []
        for name, count in made.unknown_endings.items():
            context.reporter.line(
                f"{plan.output} rephrase: {count:,} answers ended with {name!r}, which is unknown: the rule `complete` "
                f"drops them; if they are whole, let it say finish_reason_ok or finish_reason = {name!r}"
            )
        return Totals(made.planned, made.documents, ", ".join(notes), made.parts_made, made.parts_kept)

    def wanted() -> Iterator[Wanted]:
        index = job.documents.index()
        manifest = job.documents.manifest(index.parts[0].name) if index and index.parts else None
        settings = [plan.identity(), manifest.config if manifest else {}]
        now, was = ({f"setting {name}": value for name, value in each.items()} for each in settings)
        yield Wanted(was | {"inputs": index.key} if index else None, now | {"inputs": key})

    return Stage(plan.output, "rephrase", (), 1 - to_do, complete, whole=to_do, wanted=wanted)


def check_rephrase(
    settings: RephraseConfig, storage: Storage, asks: bool = True, measured: Mapping[str, str] | None = None
) -> None:
    """Check styles, keys and routes before the stage; keys only where it `asks`.

    `measured` are the narrow columns that a run is going to give the source, by their DuckDB types; without them the
    routes are checked against the source as it is, which must have been selected.

    Raises: UsageError for the first thing that would stop the stage.
    """
    _check_local(storage)
    make_plan(settings)
    for endpoint in settings.endpoint if asks else ():
        endpoint.api_key()
    if measured is not None:
        check_routes(settings.routes, {**_EVERYTHING, **measured})
    else:
        with connect(storage) as session:
            resolve_routes(session, settings.source, settings.routes)


def failed_requests(storage: Storage, settings: RephraseConfig) -> int:
    """Return how many requests of the new source, as it is, ended without an answer."""
    index = Group(storage, f"{settings.output_source}/rejects").index()
    return 0 if index is None else sum(count for reason, count in index.counts.items() if reason != "empty")


def answers(storage: Storage) -> Cache:
    """Return the store of answers, open; a context manager.

    Raises: WorkspaceError when another process has it open; ConfigError when the workspace is remote.
    """
    from pipeline.llm.cache import Cache

    _check_local(storage)
    return Cache(storage.path(ANSWERS))


def _check_local(storage: Storage) -> None:
    if not storage.is_local:
        raise ConfigError(
            f"rephrase: workspace {storage.url}: answers are stored durably on a local disk; use a local workspace"
        )


def collapse_rows(storage: Storage, settings: RephraseConfig) -> list[dict[str, object]]:
    """Return how alike the rephrasings of each style are, a row a style; none before there are any."""
    group = Group(storage, f"{settings.output_source}/documents")
    return [asdict(row) for row in measure_collapse(group)] if group.parts() else []


def ask(context: Context, settings: RephraseConfig, plan: Plan, documents: int | None = None) -> Report:
    """Ask for every answer that is missing, of the first `documents` or all.

    Raises: what the client raises; InterruptedRunError when asked to stop.
    """
    from pipeline.llm.client import complete_sync

    with ExitStack() as stack:
        cache = stack.enter_context(answers(context.storage))
        for damage in cache.damage:
            context.reporter.line(damage)
        session = stack.enter_context(connect(context.storage))
        routed = resolve_routes(session, settings.source, settings.routes)
        planned = count_requests(kept_documents(session, routed, documents), plan)
        if settings.budget.requests is not None:
            planned = min(planned, settings.budget.requests)
        told = [time.monotonic()]

        def progress(counts: Counts) -> None:
            if time.monotonic() - told[0] >= _TELL_EVERY_S:
                told[0] = time.monotonic()
                context.reporter.line(f"{plan.output} rephrase: {_counted(counts, planned)}")

        stack.enter_context(giving(context.stop, settings.client.drain_s))
        client = settings.client
        for _ in range(2):
            report = complete_sync(
                requests(plan_requests(kept_documents(session, routed, documents), plan)),
                settings.endpoint,
                cache,
                config=client,
                budget=settings.budget,
                on_progress=progress,
                stop=context.stop.is_set,
            )
            if not _only_failures(report.counts):
                break
            client = client.model_copy(update={"retry_failed": True})  # all failed once: then it was no request's fault
    context.reporter.line(f"{plan.output} rephrase: {_counted(report.counts, planned)} in {report.wall_s:.1f} s")
    context.check()
    return report


def _only_failures(counts: Counts) -> bool:
    return 0 < counts.cached == counts.cached_failures and not counts.answered and not counts.failed


def _counted(counts: Counts, planned: int) -> str:
    """Return one line on how far the asking is, of so many planned requests."""
    done = counts.cached + counts.answered + counts.failed + counts.repeated
    known = counts.cached - counts.cached_failures
    failed = counts.failed + counts.cached_failures
    parts = [f"{done:,} of {planned:,} requests done", f"{known:,} of them known before"]
    parts += [f"{failed:,} failed"] if failed else []
    parts += [f"{counts.prompt_tokens:,} + {counts.completion_tokens:,} tokens"] if counts.completion_tokens else []
    retries = sum(counts.retries.values())
    parts += [f"{retries:,} calls repeated"] if retries else []
    return ", ".join(parts)
