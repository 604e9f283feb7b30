"""The table of stages: their order, what they take, what they add, and how each is made for a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from classifiers.stage import classifier, classify_stage
from flows.config import LAST, STAGES, RephraseRun, RunConfig, StageConfigs
from flows.runs import Run
from pipeline.dedup.stage import Scope, dedup_stage
from pipeline.extract.stage import extract_stage
from pipeline.rephrase.output import VERDICTS, VERDICTS_FOLDER, own_texts
from pipeline.rephrase.stage import rephrase_stage
from pipeline.select.decide import KeptBefore
from pipeline.select.rules import RuleSet, load_rules
from pipeline.select.stage import Selection, SourceSelection, select_stage
from pipeline.select.wide_table import planned_columns
from pipeline.signals import tokens
from pipeline.signals.stage import annotate_stage, detect_language, signal_groups
from pipeline.table import schema
from pipeline.table.catalog import AGAINST
from pipeline.table.errors import InputError
from pipeline.table.models import lid_model_path
from pipeline.table.stages import Stage

Groups = Mapping[str, pa.Schema]
"""Row-aligned groups beside `documents`, by folder inside the source: what rules may read."""


@dataclass(frozen=True)
class StageEntry:
    """One stage of a run."""

    make: Callable[[Run, tuple[str, ...]], Stage[Any, Any]]
    """For one source, or the sources of a dedup scope where it `is_joint`."""
    is_joint: bool = False
    is_configured: Callable[[StageConfigs], bool] = lambda config: True
    adds: Callable[[StageConfigs], Groups] = lambda config: {}
    check: Callable[[str, StageConfigs], None] = lambda where, config: None
    """Raises UsageError where models or files of a source's settings (at the key `where`) cannot be used."""
    is_work: bool = True
    """Whether it is worth Prefect's start of some seconds, and not mere seconds of SQL."""


def _extract(run: Run, sources: tuple[str, ...]) -> Stage[Any, Any]:
    (source,) = sources
    return extract_stage(run, source, run.extract_jobs(source), run.pages)


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


def _select(run: Run, sources: tuple[str, ...]) -> Stage[Any, Any]:
    configs = {source: run.config.settings(source) for source in sources}
    selections = tuple(
        SourceSelection(name, rules_of(name, config), tuple(added_groups(config)), run.bound.get(name))
        for name, config in configs.items()
    )
    before: tuple[KeptBefore, ...] = ()
    if _is_rephrased(run.config, sources) and configs[sources[0]].dedup:
        # The parents of what rephrasing made are decided already, and come before it in every component.
        before = tuple(KeptBefore(parent, f"{sources[0]}/{AGAINST}/{parent}") for parent in run.config.parents())
    return select_stage(run, Selection(selections, configs[sources[0]].select.part_bytes, before))


def _rephrase(run: Run, sources: tuple[str, ...]) -> Stage[Any, Any]:
    assert run.config.rephrase is not None, "steps() leaves the stage out"
    return rephrase_stage(run, run.config.rephrase, detect_language)


def _check_extract(where: str, config: StageConfigs) -> None:
    if config.extract.language_gate:
        lid_model_path()


def _check_annotate(where: str, config: StageConfigs) -> None:
    lid_model_path()
    if config.annotate.tokenizer:
        tokens.load_tokenizer(config.annotate.tokenizer)


def _check_classify(where: str, config: StageConfigs) -> None:
    for name, use in config.classify.items():
        try:
            classifier(use.model)
        except InputError as error:
            raise InputError(f"{where}.classify.{name}.model: {error}") from error


TABLE: dict[str, StageEntry] = {
    "extract": StageEntry(_extract, check=_check_extract),
    "annotate": StageEntry(
        lambda run, sources: annotate_stage(run, sources[0], run.config.settings(sources[0]).annotate),
        adds=lambda config: (
            signal_groups(config.annotate) | ({VERDICTS_FOLDER: VERDICTS} if isinstance(config, RephraseRun) else {})
        ),
        check=_check_annotate,
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
        check=_check_classify,
    ),
    "select": StageEntry(_select, is_joint=True, is_work=False),
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
    """Return the stages that every source goes through, up to `until`."""
    return STAGES if until == LAST else STAGES[: STAGES.index(until) + 1]


def added_groups(config: StageConfigs) -> dict[str, pa.Schema]:
    """Return the groups beside `documents` that a source's stages fill and its rules may read, by folder."""
    return {folder: columns for stage in TABLE.values() for folder, columns in stage.adds(config).items()}


def expected_columns(config: StageConfigs, kept: Mapping[str, str]) -> dict[str, str]:
    """Return the DuckDB types of the narrow columns that a source will have once its stages have run.

    Raises: SchemaError when a kept column has the name of another.
    """
    return planned_columns(added_groups(config), kept)


def rules_of(source: str, config: StageConfigs) -> RuleSet:
    """Return the rules of a source.

    Raises: ConfigError for an unknown preset or file; RuleError for a predicate that is not allowed.
    """
    where = "rephrase" if isinstance(config, RephraseRun) else f"sources.{source}"
    return load_rules(config.select.rules, f"{where}.select.rules", config.select.keep)


def _is_rephrased(config: RunConfig, sources: Sequence[str]) -> bool:
    """Tell whether this is the source that rephrasing makes; no other is in its scope."""
    return config.rephrase is not None and tuple(sources) == (config.rephrase.output_source,)
