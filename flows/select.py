"""The `select` stage of a run: every document's outcome, one keeper a component, the curated shards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from flows.config import RephraseRun, StageConfigs
from flows.progress import ShardReport, StageReport
from flows.runs import Run
from flows.stages import Plan
from pipeline.rephrase.output import VERDICTS_FOLDER
from pipeline.select.keeper import KeptBefore
from pipeline.select.rules import RuleSet, load_rules
from pipeline.select.stage import SelectRequest, SourceSelection, is_done, select
from pipeline.table.catalog import AGAINST


def rules_of(source: str, config: StageConfigs) -> RuleSet:
    """Return the rules of a source.

    Raises: ConfigError for an unknown preset or file; RuleError for a predicate that is not allowed.
    """
    where = "rephrase" if isinstance(config, RephraseRun) else f"sources.{source}"
    return load_rules(config.select.rules, f"{where}.select.rules", config.select.keep)


def signal_folders(config: StageConfigs) -> tuple[str, ...]:
    """Return the groups beside `documents` that a source's configuration fills and its rules may read."""
    folders = ["signals/language", "signals/text_stats"]
    folders += ["signals/tokens"] if config.annotate.tokenizer else []
    folders += [VERDICTS_FOLDER] if isinstance(config, RephraseRun) else []
    folders += ["duplicates"] if config.dedup else []
    return (*folders, *(f"scores/{name}" for name in config.classify))


def plan_select(run: Run, sources: Sequence[str]) -> Plan:
    """Plan the decisions about all documents of a scope: all of them when anything that they depend on changed."""
    label = "+".join(sources)
    request = _request(run, sources)
    to_do = int(not is_done(request))

    def execute() -> StageReport:
        started = time.monotonic()
        with run.reporter.stage(label, "select", to_do) as progress:
            report = select(request, lambda step, source, documents: progress.rows(documents))
            documents = sum(result.documents for result in report.sources)
            kept = sum(result.kept for result in report.sources)
            elapsed_s = time.monotonic() - started
            if to_do:
                progress.shard(ShardReport(label, documents, kept, 0, elapsed_s))
        return StageReport(label, "select", to_do, 1 - to_do, documents, kept, elapsed_s)

    return Plan(label, "select", to_do, 1 - to_do, execute)


def _request(run: Run, sources: Sequence[str]) -> SelectRequest:
    configs = {source: run.config.settings(source) for source in sources}
    selections = [SourceSelection(name, rules_of(name, c), signal_folders(c)) for name, c in configs.items()]
    return SelectRequest(
        run.storage,
        tuple(selections),
        part_bytes=configs[sources[0]].select.part_bytes,
        threads=run.config.engine.workers,
        memory_mb=run.config.engine.memory_mb,
        map_parts=partial(run.engine.map, f"{'+'.join(sources)} select"),
        kept_before=_kept_before(run, sources),
    )


def _kept_before(run: Run, sources: Sequence[str]) -> tuple[KeptBefore, ...]:
    """Return the parents of what rephrasing made: decided already, and before it in every component."""
    config = run.config
    if config.rephrase is None or tuple(sources) != (config.rephrase.output_source,) or not config.rephrase.dedup:
        return ()
    return tuple(KeptBefore(parent, f"{sources[0]}/{AGAINST}/{parent}") for parent in config.parents())
