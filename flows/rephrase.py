"""The `rephrase` stage of a run: a language model writes documents of a new source from those that a source kept.

    kept documents -> planned requests -> answers, durable as they come -> documents, rejects and verdicts

Answers outlive everything: a request that has one is never asked again, whatever died in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from flows.config import RephraseRun, RunConfig
from flows.engine import giving, stop_if_asked
from flows.progress import StageReport
from flows.runs import Run
from flows.stages import Plan as StagePlan
from pipeline.kernels.fasttext import FastTextModel
from pipeline.rephrase import verify
from pipeline.rephrase.collapse import measure_collapse
from pipeline.rephrase.output import OutputJob, is_done, output_key, write_output
from pipeline.rephrase.plan import Plan, count_requests, make_plan, plan_requests, requests
from pipeline.rephrase.sources import check_routes, kept_documents, resolve_routes
from pipeline.rephrase.verdicts import measure_with
from pipeline.signals import language
from pipeline.table.catalog import ANSWERS
from pipeline.table.errors import ConfigError
from pipeline.table.models import lid_model_hash, lid_model_path
from pipeline.table.shards import Group, Part
from pipeline.table.sql import connect
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


def plan_rephrase(run: Run, sources: Sequence[str]) -> StagePlan:
    """Plan the rephrasing of a source: all of it when anything that decides it changed."""
    config = run.config.rephrase
    assert config is not None, "steps() leaves the stage out"
    plan = make_plan(config)
    job = output_job(run.storage, plan)
    key = output_key(plan, config, _parents(run.storage, config), job.verdicts_version)
    to_do = int(not is_done(job, key, retry_failed=config.client.retry_failed))

    def execute() -> StageReport:
        started = time.monotonic()
        if not to_do:
            counts = [sum(part.rows for part in group.parts()) for group in (job.documents, job.rejects)]
            return StageReport(plan.output, "rephrase", 0, 1, sum(counts), counts[0], 0.0)
        report = ask(run, config, plan)
        with answers(run.storage, config) as cache, connect(run.storage) as session:
            routed = resolve_routes(session, config.source, config.routes)
            planned = plan_requests(kept_documents(session, routed), plan)
            stopped_at = report.stopped_at
            made = write_output(job, planned, cache.get, key, stopped_at, config.part_requests)
        notes = ", ".join(f"{reason} {count:,}" for reason, count in sorted(made.reasons.items()))
        for name, count in made.unknown_endings.items():
            run.reporter.line(
                f"{plan.output} rephrase: {count:,} answers ended with {name!r}, which is unknown: the rule `complete` "
                f"drops them; if they are whole, let it say finish_reason_ok or finish_reason = {name!r}"
            )
        if stopped_at is not None:
            notes = ", ".join(filter(None, [notes, "the budget ended it"]))
        elapsed_s = time.monotonic() - started
        rows = (made.parts_made, made.parts_kept, made.planned, made.documents)
        return StageReport(plan.output, "rephrase", *rows, elapsed_s, notes)

    return StagePlan(plan.output, "rephrase", to_do, 1 - to_do, execute)


def check_rephrase(
    config: RunConfig, storage: Storage, asks: bool = True, measured: Mapping[str, str] | None = None
) -> None:
    """Check styles, keys and routes before the stage; keys only where it `asks`.

    `measured` are the narrow columns that a run is going to give the source, by their DuckDB types; without them the
    routes are checked against the source as it is, which must have been selected.

    Raises: UsageError for the first thing that would stop the stage.
    """
    settings = config.rephrase
    if settings is None:
        return
    _check_local(storage)
    make_plan(settings)
    for endpoint in settings.endpoint if asks else ():
        endpoint.api_key()
    if settings.dedup is not None:
        for parent in config.parents():
            theirs = config.sources[parent].dedup
            same = theirs is not None and all(
                getattr(theirs, name) == getattr(settings.dedup, name)
                for name in ("num_bands", "rows_per_band", "shingle_words", "numbers", "seed")
            )
            if not same:
                raise ConfigError(
                    f"rephrase.dedup: bands, shingles, numbers and seed must be those of its parent {parent!r}, since "
                    "their signatures are compared; give the same, or `dedup: null`"
                )
    if measured is not None:
        check_routes(settings.routes, {**_EVERYTHING, **measured})
    else:
        with connect(storage) as session:
            resolve_routes(session, settings.source, settings.routes)


def output_job(storage: Storage, plan: Plan) -> OutputJob:
    """Return where a plan's rows go, and how they are judged."""
    measure = measure_with(plan.endpoint.model, _language_of)
    return OutputJob(storage, plan, measure, f"{verify.VERSION}-{lid_model_hash()}")


def failed_requests(run: Run, config: RephraseRun) -> int:
    """Return how many requests of the new source, as it is, ended without an answer."""
    index = output_job(run.storage, make_plan(config)).rejects.index()
    return 0 if index is None else sum(count for reason, count in index.counts.items() if reason != "empty")


def answers(storage: Storage, config: RephraseRun) -> Cache:
    """Return the store of answers, open; a context manager.

    Raises: WorkspaceError when another process has it open; ConfigError when the workspace is remote.
    """
    from pipeline.llm.cache import Cache

    _check_local(storage)
    return Cache(Path(storage.path(ANSWERS)))


def _check_local(storage: Storage) -> None:
    if not storage.is_local:
        raise ConfigError(
            f"rephrase: workspace {storage.url}: answers are stored durably on a local disk; use a local workspace"
        )


def collapse_rows(config: RunConfig) -> list[dict[str, object]]:
    """Return how alike the rephrasings of each style are, a row a style; none before there are any."""
    if config.rephrase is None:
        return []
    group = Group(Storage.at(config.workspace), f"{config.rephrase.output_source}/documents")
    return [row.row() for row in measure_collapse(group)] if group.parts() else []


def _parents(storage: Storage, config: RephraseRun) -> list[Part]:
    groups = (Group(storage, f"{config.source}/{folder}") for folder in ("outcomes", "curated"))
    return [part for group in groups for part in group.parts()]


def ask(run: Run, config: RephraseRun, plan: Plan, documents: int | None = None) -> Report:
    """Ask for every answer that is missing, of the first `documents` or all.

    Raises: what the client raises; InterruptedRunError when asked to stop.
    """
    from pipeline.llm.client import complete_sync

    with ExitStack() as stack:
        cache = stack.enter_context(answers(run.storage, config))
        for damage in cache.damage:
            run.reporter.line(f"answers: {damage}")
        session = stack.enter_context(connect(run.storage))
        routed = resolve_routes(session, config.source, config.routes)
        planned = count_requests(kept_documents(session, routed, documents), plan)
        if config.budget.requests is not None:
            planned = min(planned, config.budget.requests)
        told = [time.monotonic()]

        def progress(counts: Counts) -> None:
            if time.monotonic() - told[0] >= _TELL_EVERY_S:
                told[0] = time.monotonic()
                run.reporter.line(f"{plan.output} rephrase: {_counted(counts, planned)}")

        stack.enter_context(giving(run.stop, config.client.drain_s))
        client = config.client
        for _ in range(2):
            report = complete_sync(
                requests(plan_requests(kept_documents(session, routed, documents), plan)),
                config.endpoint,
                cache,
                config=client,
                budget=config.budget,
                on_progress=progress,
                stop=run.stop.is_set,
            )
            if not _only_failures(report.counts):
                break
            client = client.model_copy(update={"retry_failed": True})  # all failed once: then it was no request's fault
    run.reporter.line(f"{plan.output} rephrase: {_counted(report.counts, planned)} in {report.wall_s:.1f} s")
    stop_if_asked(run.stop)
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


def _language_of(text: str) -> str | None:
    """Return a text's language, for the verdict on whether a rephrasing kept its source's."""
    table = pa.table({"doc_id": ["0" * 32], "text": [text]})
    found: str | None = language.language(table, _model())["language"][0].as_py()
    return found


@cache
def _model() -> FastTextModel:
    return language.load_model(lid_model_path())
