"""`gristmill run` and `gristmill rephrase`: do what is not done, under Prefect where it is worth it, or foretell it."""

from __future__ import annotations

import itertools
import os
import tempfile
import textwrap
import time
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import duckdb
from rich.filesize import decimal

from flows.config import LAST, STAGES, RephraseRun, RunConfig, load
from flows.stages import TABLE, Run, check_rephrase, opened, prepared, selection, steps
from pipeline.extract.shard import ExtractJob
from pipeline.extract.stage import bytes_added, look, sample
from pipeline.extract.units import Document, Reject
from pipeline.peek.peek import beside, recognise, single
from pipeline.rephrase.output import Rejected, before, outcomes
from pipeline.rephrase.plan import estimate, make_plan, plan_requests
from pipeline.rephrase.sources import kept_documents, resolve_routes
from pipeline.rephrase.stage import answers, ask, failed_requests
from pipeline.select.what_if import Diff, diff_config, diff_text, diff_workspaces
from pipeline.status.because import because, bytes_a_row, seconds_a_unit
from pipeline.status.config import ExpectConfig
from pipeline.status.expectations import MET, as_text, judge
from pipeline.status.runs import RunRecord, records
from pipeline.table.catalog import Catalog, Source, check_layout
from pipeline.table.config import override, validate
from pipeline.table.errors import ConfigError, InputError, ShardError, UsageError, WorkspaceError
from pipeline.table.format import Answer, encode, text_table
from pipeline.table.interrupts import stopping_on_signals
from pipeline.table.query import one_line
from pipeline.table.shards import Index
from pipeline.table.sql import connect
from pipeline.table.stages import Stage, StageReport
from pipeline.table.storage import Storage

SMALL_BYTES = 16 << 20
SMALL_ROWS = 50_000
"""Raw input and documents that are done before Prefect has started, more or less: some ten seconds of work."""
MAX_WORKERS = 4
"""Processes that make text of one file to look at."""
MAX_SAMPLED = 20
"""Inputs that are tried for one that has units."""
WIDTH = 58
"""Characters of each of the two columns of a sample of rephrasings."""
MAX_SAMPLE = 1_000
RECORDS_READ = 50
"""The newest, for estimates."""
FOLLOWS, UNKNOWN = "follows from the stages above", "not known"


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
                reports = [run.do(stage) for stage in made]
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
    """Return a row for each stage of a run; its text has a line for each source whose extraction was tried on a sample.

    A row says what is to do and done, because of what, and what it will take (`seconds`, `bytes` on disk) according to
    `estimated_from`; what is not known is None. Nothing in the workspace changes.
    """
    run, only = prepared(path, assignments, only, until)
    check_layout(run.storage)
    forecast = Forecast(run)
    waiting: set[str] = set()
    rows: list[dict[str, Any]] = []
    with run.resources:
        for stage, sources in steps(run.config, only, until):
            row: dict[str, Any] = {"source": "+".join(sources), "stage": stage, "shards_to_do": None, "done": None}
            if waiting & set(sources):  # once an earlier stage has work, a later one only knows that it follows
                rows.append(row | {"because": FOLLOWS} | forecast.following(stage, sources))
                continue
            made = TABLE[stage].make(run, sources)
            row |= {"shards_to_do": made.shards_to_do, "done": made.shards_done, "because": because(made)}
            rows.append(row | forecast.of(made, sources))
            waiting.update(sources if _has_work(made) else ())
    return Answer(rows, _plan_text(rows, "".join(forecast.lines)))


def _has_work(made: Stage[Any, Any]) -> bool:
    """Tell whether later stages will find other documents: also when an input is gone, which leaves nothing to make."""
    return made.shards_to_do > 0 or (made.name == "extract" and bool(because(made)))


def _plan_text(rows: Sequence[Mapping[str, Any]], lines: str) -> str:
    """Return what `plan` returned as a table for people."""
    shown = []
    for row in rows:
        done = "" if row["done"] is None else f"{row['done']:,}"
        to_do = "after the stages above" if row["done"] is None else f"{row['shards_to_do']:,}"
        is_idle = row["shards_to_do"] == 0
        seconds = "" if is_idle else UNKNOWN if row["seconds"] is None else _duration(row["seconds"])
        size = "" if is_idle else UNKNOWN if row["bytes"] is None else decimal(row["bytes"])
        shown.append(
            {
                "source": row["source"],
                "stage": row["stage"],
                "shards to do": to_do,
                "done": done,
                "because": row["because"],
            }
            | {"time": seconds, "disk": size, "estimated from": row["estimated_from"] or ""}
        )
    return text_table(shown, width=None) + lines


@dataclass
class Forecast:
    """What the stages of a run will take: by the run records and indexes of its workspace, or by a sample."""

    run: Run
    lines: list[str] = field(default_factory=list)
    """Of each source that was sampled."""
    coming: dict[str, float | None] = field(default_factory=dict)
    """Documents that extraction will make, by source; None where that is not known."""
    added: dict[str, float] = field(default_factory=dict)
    """Those of them that take no other's place."""

    def __post_init__(self) -> None:
        self.records: list[RunRecord] = []
        self.sources: dict[str, Source] = {}
        with suppress(WorkspaceError, OSError):
            self.records, _ = records(self.run.storage, RECORDS_READ)
            self.sources = {source.name: source for source in Catalog.read(self.run.storage).sources}

    def of(self, made: Stage[Any, Any], sources: Sequence[str]) -> dict[str, Any]:
        """Return the estimate of a stage whose work is known."""
        if not made.shards_to_do:
            return _estimated(0.0, 0, None)
        if made.name == "extract":
            return self._extraction(made, *sources)
        return self._rows(made.name, sources, made.work if not made.whole else self._all(sources))

    def following(self, stage: str, sources: Sequence[str]) -> dict[str, Any]:
        """Return the estimate of a stage after others that have work: what was measured of old documents stays."""
        coming = [self.coming.get(source, 0.0) for source in sources]
        made = sum(each for each in coming if each is not None)
        rows = self._all(sources) + sum(self.added.get(source, 0.0) for source in sources)
        is_whole = TABLE[stage].is_joint or stage == LAST or not made
        return self._rows(stage, sources, None if None in coming else rows if is_whole else made)

    def _all(self, sources: Sequence[str]) -> int:
        return sum(self.sources[name].rows("documents") for name in sources if name in self.sources)

    def _rows(self, stage: str, sources: Sequence[str], rows: float | None) -> dict[str, Any]:
        rate = seconds_a_unit(self.records, "+".join(sources), stage, "rows")
        size = bytes_a_row(self.sources, sources, stage)
        if rows is None:
            return _estimated(None, None, None)
        seconds, runs = (rate[0] * rows, rate[1]) if rate else (None, 0)
        origin = [_of_runs(runs)] if runs else []
        origin += ["what is there"] if size is not None else []
        return _estimated(seconds, None if size is None else round(size * rows), ", ".join(origin) or None)

    def _extraction(self, made: Stage[Any, Any], source: str) -> dict[str, Any]:
        """Return the estimate of an extraction: documents a byte as those that are there, or as a sample says."""
        jobs: Sequence[ExtractJob] = made.pending
        index = self.sources[source].groups.get("documents") if source in self.sources else None
        new = bytes_added(index if index is not None else Index(stage="extract"), jobs)
        there = sum(job.size for job in self.run.extract_jobs(source)) - new
        rate = seconds_a_unit(self.records, source, "extract", "bytes")
        size = bytes_a_row(self.sources, [source], "extract")
        if rate is not None and size is not None and there > 0:
            rows = self._all([source]) / there * made.work
            self.coming[source], self.added[source] = rows, self._all([source]) / there * new
            return _estimated(rate[0] * made.work, round(size * rows), f"{_of_runs(rate[1])}, what is there")
        readable = [job for job in jobs if any(file.problem is None for file in job.files)]
        for job in readable[:MAX_SAMPLED] if made.work else ():
            if (found := sample(job, self.run.pools)) is not None:
                self.coming[source], self.added[source] = found.documents * made.work, found.documents * new
                count = sum(len(job.files) for job in jobs)
                inputs = f"{count:,} input{'s' * (count != 1)} of {decimal(made.work)}"
                seconds, disk = found.elapsed_s * made.work, decimal(int(found.bytes_on_disk * made.work))
                units = f"{found.units:,} unit{'s' * (found.units != 1)} of {job.name}"
                self.lines.append(
                    f"{source}: {inputs}: extraction about {_duration(seconds)} on {self.run.workers} workers, and "
                    f"{disk} on disk with all that follows (from {units}; other inputs may differ)\n"
                )
                return _estimated(seconds, round(found.document_bytes * made.work), f"sample of {units}")
        self.coming[source] = None
        return _estimated(None, None, None)


def expectations(path: str, assignments: Sequence[str] = ()) -> Answer:
    """Return a row for each expectation of a configuration file, of its workspace as it stands; nothing is run.

    The exit code is 1 when one is missed, or cannot be told.

    Raises: UsageError, also when the workspace is not up to date with the configuration, or nothing is expected.
    """
    run, names = prepared(path, assignments, (), STAGES[-1])
    if run.config.rephrase is not None:
        names = [*names, run.config.rephrase.output_source]
    expected = {name: run.config.settings(name).expect for name in names}
    if all(config == ExpectConfig() for config in expected.values()):
        raise ConfigError(
            f"{path}: nothing is expected; write what is under the key `expect`, or `sources.NAME.expect`"
        )
    check_layout(run.storage)
    with run.resources:
        for stage, sources in steps(run.config, (), LAST):
            made = TABLE[stage].make(run, sources)
            if _has_work(made):
                raise WorkspaceError(
                    f"workspace {run.config.workspace} is not up to date with {path}: {made.source} {stage} has work "
                    f"to do ({because(made)}); `gristmill run {path}` does it"
                )
    rows = judge(run.storage, expected)
    met = sum(row["outcome"] == MET for row in rows)
    told, notes = partial(as_text, rows), (f"{len(rows):,} expectations, {met:,} met",)
    return Answer(rows, told, notes=notes, exit_code=int(met < len(rows)))


def diff(path: str, assignments: Sequence[str] = (), other: str | None = None, examples: int = 0) -> Answer:
    """Return what a configuration would keep against what its workspace's outcomes say, or where `path` is a workspace,
    what the `other` kept against it: a row a source, change and rule. Nothing is written.

    Raises: UsageError for what cannot be compared, as where a stage before `select` has something to do.
    """
    if other is not None and assignments:
        raise UsageError("diff: --set changes a configuration; give CONFIG alone with it, or two workspaces")
    if other is None and os.path.isdir(path):
        raise UsageError(f"diff: {path} is a folder; give a run's configuration, or two workspaces")
    if other is None:
        found = _against_workspace(path, assignments, examples)
    else:
        found = diff_workspaces(Storage.at(path), Storage.at(other), examples)
    columns = ("source", "change", "rule", "documents", "tokens")
    return Answer(found.rules, lambda: diff_text(found), asdict(found), tuple(found.notes), columns=columns)


def _against_workspace(path: str, assignments: Sequence[str], examples: int) -> Diff:
    run = Run.of(load(path, assignments))
    Catalog.read(run.storage)
    chosen = []
    with run.resources:
        for stage, sources in steps(run.config, (), STAGES[-1]):
            if stage == STAGES[-1]:
                chosen.append(selection(run, sources))
            elif _has_work(made := TABLE[stage].make(run, sources)):
                raise WorkspaceError(
                    f"{path}: {stage} of {', '.join(sources)} has work to do first ({because(made)}), and diff "
                    f"measures nothing; `gristmill run {path} --until classify` does it"
                )
    found = diff_config(run.storage, chosen, examples)
    if run.config.rephrase is not None:
        output = run.config.rephrase.output_source
        found.notes.append(f"{output} is left out: what is rephrased follows what is kept")
    return found


def _estimated(seconds: float | None, size: int | None, origin: str | None) -> dict[str, Any]:
    seconds = None if seconds is None else round(seconds, 1)
    return {"seconds": seconds, "bytes": size, "estimated_from": origin}


def _of_runs(number: int) -> str:
    return f"{number:,} run{'s' * (number != 1)}"


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
    run = Run.of(load(path, assignments), assignments)
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
        report = run.do(TABLE[LAST].make(run, (settings.source,)))
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


@contextmanager
def extracted(
    entry: str, form: str = "auto", assignments: Sequence[str] = (), n: int | None = None, pictures: int = 0
) -> Iterator[Iterator[Document | Reject]]:
    """Give the block what a run would make of one file: its documents and rejects, in order, as they come.

    `form` is a format, or `auto` for what `peek` says; `assignments` are keys of the source. Inputs that are read
    together with the file are found beside it. At most `n` documents come, with `pictures` of so many pages of each.

    Raises: UsageError for a file that is not there, or of which nothing can be read; ConfigError.
    """
    if n is not None and n < 1:
        raise UsageError(f"extract: -n {n}: give 1 document or more")
    file = single(entry)
    if form == "auto":
        with file.open() as stream:
            found, _, why = recognise(stream, file.name)
        if found is None:
            raise InputError(f"{file.shown_url}: {why}")
        form = found
    source: dict[str, Any] = {"format": form, "inputs": [each.url for each in beside(file, form)]}
    for assignment in assignments:
        override(source, assignment)
    with tempfile.TemporaryDirectory(prefix="gristmill-") as folder:
        workers = min(MAX_WORKERS, os.cpu_count() or 1)
        value = {"workspace": folder, "sources": {"file": source}, "engine": {"workers": workers}}
        run = Run.of(validate(RunConfig, value, f"extract {entry}"))
        (job,) = run.extract_jobs("file")
        with run.resources, closing(look(job, run.pools, pictures)) as results:  # type: ignore[type-var]
            yield _until(results, n)


def _until(results: Iterator[Document | Reject], n: int | None) -> Iterator[Document | Reject]:
    """Yield results up to document number `n`."""
    documents = 0
    for result in results:
        yield result
        documents += isinstance(result, Document)
        if documents == n:
            return
