"""A run and its stages: their order, what each takes and adds, how it is checked, and how it is made.

configuration -> a `Run`, with everything checked that can be -> opened: the workspace held -> stage by stage
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from classifiers.stage import classifier, classify_stage
from flows.config import LAST, STAGES, RephraseRun, RunConfig, SourceConfig, StageConfigs, chosen_sources, load
from flows.engine import LocalEngine
from flows.progress import Reporter, reporter
from pipeline.dedup.stage import Scope, dedup_stage
from pipeline.extract.config import PAGES_FOLDER, ExtractConfig, ExtractLimits, KeepColumn, PdfConfig, has_pages
from pipeline.extract.corpora.parquet import settle_types
from pipeline.extract.formats import READERS
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.pdf.vision import shown
from pipeline.extract.shard import ExtractJob, format_of, gathered, page_pool, read
from pipeline.extract.stage import extract_stage
from pipeline.extract.units import LEFT_OUT, SKIPPED, Entry, Reject
from pipeline.inputs.files import InputFile, resolve, with_contents
from pipeline.inputs.shipped import lid_model_path
from pipeline.rephrase import stage as rephrase
from pipeline.rephrase.output import VERDICTS, VERDICTS_FOLDER, own_texts
from pipeline.select.decide import KeptBefore, Selection, SourceSelection
from pipeline.select.rules import BoundRules, RuleSet, check_one_order, check_rules, load_rules, names_in
from pipeline.select.stage import select_stage
from pipeline.select.wide_table import planned_columns
from pipeline.signals import recipe_stats, tokens
from pipeline.signals.config import AnnotateConfig
from pipeline.signals.stage import annotate_stage, detect_language, signal_groups
from pipeline.status.runs import Recorder, recording
from pipeline.table import schema
from pipeline.table.catalog import AGAINST, adopt
from pipeline.table.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    ShardError,
    UnreadableInputError,
    UsageError,
    nearest,
)
from pipeline.table.interrupts import Stop
from pipeline.table.stages import Context, Stage, StageReport, run_stage
from pipeline.table.storage import Storage, hold

Groups = Mapping[str, pa.Schema]
"""Row-aligned groups beside `documents`, by folder inside the source: what rules may read."""
MAX_ROWS = 100
"""Rows of a corpus of which one at least must be readable, in one input at least."""
_current: ContextVar[Run | None] = ContextVar("gristmill_run", default=None)


# A run ----------------------------------------------------------------------------------------------------------------


@dataclass
class Run(Context):
    """A run: what stages may use of it, its configuration, and the extraction workers once they are needed."""

    config: RunConfig
    reporter: Reporter
    bound: dict[str, BoundRules] = field(default_factory=dict)
    """Each source's rules as they were checked before the run."""
    resources: ExitStack = field(default_factory=ExitStack)
    asked: dict[str, Any] = field(default_factory=dict)
    """What the command line said beside the configuration's name."""
    recorder: Recorder | None = None
    """Of the run that is under way."""
    _inputs: dict[str, list[InputFile]] = field(default_factory=dict)
    _identified: dict[str, list[InputFile]] = field(default_factory=dict)
    _kept: dict[str, dict[str, KeepColumn]] = field(default_factory=dict)
    _pools: dict[tuple[ExtractLimits, str], WorkerPool] = field(default_factory=dict)
    _pool_lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: RunConfig, assignments: Sequence[str] = (), only: Sequence[str] = (), until: str = LAST) -> Run:
        """Return a run in this process, with threads as its engine and lines as its progress."""
        # Which keys were set: what to is in the configuration, where no secret is shown.
        keys = [each.partition("=")[0].strip() for each in assignments]
        asked = {"set": keys, "only": list(only), "until": until}
        stop, workers, memory_mb = Stop(), config.engine.workers, config.engine.memory_mb
        storage = Storage.at(config.workspace)
        return cls(storage, LocalEngine(workers, stop), Reporter(), stop, workers, memory_mb, config, asked=asked)

    def do(self, stage: Stage[Any, Any]) -> StageReport:
        """Do what a stage has to do, and note it in the run's record. Raises: what `run_stage` raises."""
        if self.recorder is not None and stage.shards_to_do:
            self.recorder.begin()
        report = run_stage(stage, self)
        if self.recorder is not None:
            self.recorder.note(stage, report)
        return report

    def about(self, command: str) -> dict[str, Any]:
        """Return what a record says of the run: the configuration as it is resolved, and the rules as written."""
        rules = {source: {rule.name: rule.sql for rule in bound.written.rules} for source, bound in self.bound.items()}
        resolved = self.config.model_dump(mode="json")
        return {"command": command, "asked": self.asked, "config": resolved, "rules": rules}

    def inputs(self, source: str) -> list[InputFile]:
        """Return a source's raw inputs, listed once: a file that appears while the run goes on is the next run's."""
        if source not in self._inputs:
            config = self.config.sources[source]
            skipped = READERS[config.format].skipped if config.format in READERS else (".", "_")
            self._inputs[source] = resolve(config.inputs, f"sources.{source}.inputs", skipped)
        return self._inputs[source]

    def identified(self, source: str) -> list[InputFile]:
        """Return a source's raw inputs with what tells that they changed: once, since contents may be terabytes."""
        if source not in self._identified:
            files = self.inputs(source)
            by_content = self.config.sources[source].identity == "content"
            self._identified[source] = with_contents(files) if by_content else files
        return self._identified[source]

    def extract_jobs(self, source: str) -> list[ExtractJob]:
        """Return the jobs of all inputs of a source, as its configuration says."""
        config, files, kept = self.config.sources[source], self.identified(source), self.kept(source)
        own = config.format, config.columns, config.extract, kept, config.format_options()
        return [
            ExtractJob(self.storage, source, file, *own, tuple(beside), bucket, tuple(others), shown=shown)
            for bucket, ((file, *beside), *others) in gathered(config.format, files)
        ]

    def kept(self, source: str) -> dict[str, KeepColumn]:
        """Return the columns of a corpus's own, or of its format's, in the order of their names, each with its type.

        Raises: InputError when a Parquet file has none of the name, or of a type that cannot be kept.
        """
        config = self.config.sources[source]
        if config.format in READERS:
            return {name: KeepColumn(path=name, type=kind) for name, kind in READERS[config.format].columns.items()}
        if source not in self._kept:
            where, as_text = f"sources.{source}.keep_columns", config.format in ("jsonl", "csv")
            inputs = self.inputs(source) if config.keep_columns else []
            self._kept[source] = settle_types(config.keep_columns, inputs, where, not as_text)
        return self._kept[source]

    def pools(self, config: ExtractConfig, handler: str) -> WorkerPool:
        """Return the isolated workers of a handler under a source's limits, started at the first call."""
        with self._pool_lock:
            if (config.limits, handler) not in self._pools:
                pool = page_pool(self.workers, config, handler)
                self._pools[config.limits, handler] = self.resources.enter_context(pool)
            return self._pools[config.limits, handler]


def prepared(path: str, assignments: Sequence[str], only: Sequence[str], until: str) -> tuple[Run, list[str]]:
    """Return a run of a configuration file, with everything checked, and the sources that it is about.

    Raises: UsageError for what is found before work begins.
    """
    run = Run.of(load(path, assignments), assignments, only, until)
    sources = chosen_sources(run.config, only)
    check_everything(run, sources, until)
    return run, sources


@contextmanager
def opened(config: RunConfig | Run, command: str) -> Iterator[Run]:
    """Hold the workspace and give the block a run on it.

    A flow called inside another one's run joins that run.

    Raises: WorkspaceError when another run holds the workspace.
    """
    current = _current.get()
    if current is not None:
        yield current
        return
    run = config if isinstance(config, Run) else Run.of(config)
    with hold(run.storage, command), reporter() as run.reporter:
        run.storage.clear_temporary()
        adopt(run.storage)
        token = _current.set(run)
        try:
            with (
                run.resources,
                recording(run.storage, partial(run.about, command), run.reporter.line) as run.recorder,
            ):
                yield run
        finally:
            _current.reset(token)


# The table of stages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageEntry:
    """One stage of a run."""

    make: Callable[[Run, tuple[str, ...]], Stage[Any, Any]]
    """For one source, or the sources of a dedup scope where it `is_joint`."""
    is_joint: bool = False
    is_configured: Callable[[StageConfigs], bool] = lambda config: True
    adds: Callable[[StageConfigs], Groups] = lambda config: {}
    is_work: bool = True
    """Whether it is worth Prefect's start of some seconds, and not mere seconds of SQL."""


def _dedup(run: Run, sources: tuple[str, ...]) -> Stage[Any, Any]:
    config = run.config.settings(sources[0]).dedup
    assert config is not None, "steps() leaves out sources without dedup"
    if not _is_rephrased(run.config, sources):
        return dedup_stage(run, Scope(sources, config))
    # Question-answer pairs stand behind their source, which would make most of them copies of it.
    return dedup_stage(run, Scope(sources, config, run.config.parents(), own_texts))


def _classify(run: Run, sources: tuple[str, ...]) -> Stage[Any, Any]:
    (source,) = sources
    config = run.config.settings(source)
    models = {name: use.model for name, use in config.classify.items()}
    return classify_stage(run, source, models, counted=config.annotate.tokenizer is not None)


def selection(run: Run, sources: tuple[str, ...]) -> Selection:
    """Return what a run selects of the sources of a scope, and by which rules."""
    configs = {source: run.config.settings(source) for source in sources}
    selections = tuple(
        SourceSelection(name, rules_of(name, config), tuple(added_groups(config)), run.bound.get(name))
        for name, config in configs.items()
    )
    before: tuple[KeptBefore, ...] = ()
    if _is_rephrased(run.config, sources) and configs[sources[0]].dedup:
        # The parents of what rephrasing made are decided already, and come before it in every component.
        before = tuple(KeptBefore(parent, f"{sources[0]}/{AGAINST}/{parent}") for parent in run.config.parents())
    return Selection(selections, configs[sources[0]].select.part_bytes, before)


def _rephrase(run: Run, sources: tuple[str, ...]) -> Stage[Any, Any]:
    assert run.config.rephrase is not None, "steps() leaves the stage out"
    return rephrase.rephrase_stage(run, run.config.rephrase, detect_language)


TABLE: dict[str, StageEntry] = {
    "extract": StageEntry(
        lambda run, sources: extract_stage(run, sources[0], run.extract_jobs(sources[0]), run.pools),
        adds=lambda config: (
            {PAGES_FOLDER: schema.PAGES}
            if isinstance(config, SourceConfig) and has_pages(config.format, config.extract)
            else {}
        ),
    ),
    "annotate": StageEntry(
        lambda run, sources: annotate_stage(run, sources[0], measured(run.config.settings(sources[0]))),
        adds=lambda config: (
            signal_groups(measured(config)) | ({VERDICTS_FOLDER: VERDICTS} if isinstance(config, RephraseRun) else {})
        ),
    ),
    "dedup": StageEntry(
        _dedup,
        is_joint=True,
        is_configured=lambda config: config.dedup is not None,
        adds=lambda config: {"duplicates": schema.DUPLICATES} if config.dedup else {},
    ),
    "classify": StageEntry(
        _classify,
        is_configured=lambda config: bool(config.classify),
        adds=lambda config: {f"scores/{name}": schema.SCORES for name in config.classify},
    ),
    "select": StageEntry(lambda run, sources: select_stage(run, selection(run, sources)), is_joint=True, is_work=False),
    LAST: StageEntry(_rephrase),
}
assert tuple(TABLE) == (*STAGES, LAST)


def steps(config: RunConfig, only: Sequence[str], until: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each stage up to `until` with the sources that it takes together; none in `only` means all.

    What rephrasing makes goes through the stages after its parents went through all of them.
    """
    chosen = set(only or config.sources)
    for stage in stages_until(until):
        groups = config.scopes() if TABLE[stage].is_joint else [(source,) for source in config.sources]
        for group in groups:
            if set(group) <= chosen and TABLE[stage].is_configured(config.settings(group[0])):
                yield stage, group
    if until == LAST and config.rephrase is not None and config.rephrase.source in chosen:
        yield LAST, (config.rephrase.source,)
        output = config.rephrase.output_source
        for stage in STAGES[1:]:
            if TABLE[stage].is_configured(config.settings(output)):
                yield stage, (output,)


def stages_until(until: str) -> tuple[str, ...]:
    """Return the stages that every source goes through, up to `until`. Raises: UsageError for a stage that is none."""
    if until not in TABLE:
        raise UsageError(f"until {until!r}: no such stage{nearest(until, TABLE)}; there are {', '.join(TABLE)}")
    return STAGES if until == LAST else STAGES[: STAGES.index(until) + 1]


def added_groups(config: StageConfigs) -> dict[str, pa.Schema]:
    """Return the groups beside `documents` that a source's stages fill and its rules may read, by folder."""
    return {folder: columns for stage in TABLE.values() for folder, columns in stage.adds(config).items()}


def expected_columns(config: StageConfigs, kept: Mapping[str, str]) -> dict[str, str]:
    """Return the DuckDB types of the narrow columns that a source will have once its stages have run.

    Raises: SchemaError when a kept column has the name of another.
    """
    return planned_columns(added_groups(config), kept)


def measured(config: StageConfigs) -> AnnotateConfig:
    """Return what `annotate` measures for a source: recipes' statistics, too, where its rules name one.

    Raises: ConfigError for an unknown preset or file.
    """
    names = names_in(config.select.rules, "select.rules", config.select.keep)
    return (
        config.annotate.model_copy(update={"recipe_stats": True})
        if names & recipe_stats.COLUMNS.keys()
        else config.annotate
    )


def rules_of(source: str, config: StageConfigs) -> RuleSet:
    """Return the rules of a source.

    Raises: ConfigError for an unknown preset or file; RuleError for a predicate that is not allowed.
    """
    where = "rephrase" if isinstance(config, RephraseRun) else f"sources.{source}"
    return load_rules(config.select.rules, f"{where}.select.rules", config.select.keep)


def _is_rephrased(config: RunConfig, sources: Sequence[str]) -> bool:
    """Tell whether this is the source that rephrasing makes; no other is in its scope."""
    return config.rephrase is not None and tuple(sources) == (config.rephrase.output_source,)


# Checks before work begins: each mistake is one line and exit code 2 -----------------------------------------------


def check_everything(run: Run, only: Sequence[str], until: str) -> None:
    """Check inputs, models and rules of the chosen sources, as far as the stages up to `until` need them.

    The run has each source's rules then, bound to the columns that it will have.

    Raises: UsageError for the first thing that would stop the run.
    """
    config, bound = run.config, run.bound
    run.storage.check_writable()
    columns: dict[str, dict[str, str]] = {}
    for source in only:
        settings = config.sources[source]
        check_inputs(run, source)
        check_models(f"sources.{source}", settings, stages_until(until))
        kept = {name: column.type or "text" for name, column in run.kept(source).items()}
        rules = rules_of(source, settings)
        columns[source] = expected_columns(settings, kept)
        bound[source] = check_rules(rules, columns[source])
    for group in config.scopes():
        check_one_order({source: bound[source] for source in group if source in bound})
    if until == LAST and config.rephrase is not None and config.rephrase.source in only:
        check_rephrase(run, measured=columns[config.rephrase.source])
        check_models("rephrase", config.rephrase, STAGES[1:])  # before a language model is paid
        output = config.rephrase.output_source
        bound[output] = check_rules(rules_of(output, config.rephrase), expected_columns(config.rephrase, {}))


def check_models(where: str, config: StageConfigs, stages: Sequence[str]) -> None:
    """Check the models and files that some stages of a source need; its settings are at the key `where`.

    Raises: UsageError for one that cannot be used.
    """
    if "annotate" in stages or ("extract" in stages and config.extract.language_gate):
        lid_model_path()
    if "annotate" in stages and config.annotate.tokenizer:
        tokens.load_tokenizer(config.annotate.tokenizer)
    for name, use in config.classify.items() if "classify" in stages else ():
        try:
            classifier(use.model)
        except InputError as error:
            raise InputError(f"{where}.classify.{name}.model: {error}") from error


def check_rephrase(run: Run, asks: bool = True, measured: Mapping[str, str] | None = None) -> None:
    """Check all that rephrasing needs, as `pipeline.rephrase.stage.check_rephrase` says.

    Raises: UsageError for the first thing that would stop the stage.
    """
    settings = run.config.rephrase
    if settings is None:
        return
    rephrase.check_rephrase(settings, run.storage, asks, measured)
    for parent in run.config.parents() if settings.dedup is not None else ():
        theirs = run.config.sources[parent].dedup
        compared = ("num_bands", "rows_per_band", "shingle_words", "numbers", "seed")
        if theirs is None or any(getattr(theirs, name) != getattr(settings.dedup, name) for name in compared):
            raise ConfigError(
                f"rephrase.dedup: bands, shingles, numbers and seed must be those of its parent {parent!r}, since "
                "their signatures are compared; give the same, or `dedup: null`"
            )


def check_inputs(run: Run, source: str) -> None:
    """Check that a source's inputs are there, and that one of them at least begins as its format says.

    One bad row is a reject, and so is a bad file among good ones; that no file begins with a row that can be read means
    that inputs, format or columns are wrong.

    Raises: InputError naming the entry or file; MissingDependencyError for what reads pictures of pages.
    """
    where, settings = f"sources.{source}.inputs", run.config.sources[source]
    _check_ocr(f"sources.{source}", settings)
    complaints: list[str] = []
    own, options = (settings.format, settings.columns, settings.extract), settings.format_options()
    groups = [group for _, groups in gathered(settings.format, run.inputs(source)) for group in groups]
    for file, *beside in sorted(groups, key=lambda group: group[0].name):
        job = ExtractJob(run.storage, source, file, *own, options=options, beside=tuple(beside))
        try:
            with file.open() as stream:
                entries = read(stream, job, 0, (), MAX_ROWS)
                complaint = _complaint(itertools.islice(entries, MAX_ROWS), format_of(stream, job))
        except UnreadableInputError as error:
            complaint = file.problem[1] if file.problem else str(error)
        except (OSError, ShardError) as error:
            raise InputError(f"{where}: {error}") from error
        if complaint == "":
            return
        complaints += [f"{file.name}: {complaint}"] if complaint is not None else []
    if complaints:
        more = f" (and {len(complaints) - 1:,} more)" if len(complaints) > 1 else ""
        raise InputError(f"{where}: no row can be read: {complaints[0]}{more}; correct `inputs`, `format` or `columns`")


def _check_ocr(where: str, settings: SourceConfig) -> None:
    """Check that the engine that a source names for its PDFs can run here."""
    options = settings.format_options()
    key, pdf = ("options", options) if isinstance(options, PdfConfig) else ("extract.pdf", settings.extract.pdf)
    if pdf is None or pdf.engine == "auto" or pdf.ocr == "off" or not has_pages(settings.format, settings.extract):
        return
    from pipeline.extract.pdf import ocr  # its libraries are an extra's

    try:
        ocr.check(pdf.engine)
    except MissingDependencyError as error:
        raise MissingDependencyError(f"{where}.{key}.engine: {error}") from error


def _complaint(items: Iterator[Entry], form: str) -> str | None:
    """Return what is wrong with the first item when none can be read, nothing when one can; None when there is none."""
    first: str | None = None
    for item in items:
        result = item.result
        is_damage = isinstance(result, Reject) and result.reason in ("damaged", "truncated_input") and form != "warc"
        if isinstance(result, Reject) and (item.record_type == "file" or is_damage):
            first = first or result.detail
        elif item.record_type not in (LEFT_OUT, SKIPPED):
            return ""
    return first
