"""The configuration of a run: every stage's model joined, read from YAML, overridden per source and per `--set`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.dedup.config import DedupConfig
from pipeline.extract.config import ExtractConfig, InputsConfig
from pipeline.rephrase.config import RephraseConfig, SourceName
from pipeline.select.config import SelectConfig
from pipeline.signals.config import AnnotateConfig
from pipeline.status.config import ExpectConfig
from pipeline.table import schema
from pipeline.table.config import Address, StageConfig
from pipeline.table.errors import ConfigError, nearest
from pipeline.table.kept import read_config

STAGES = ("extract", "annotate", "dedup", "classify", "select")
"""What every source goes through."""
LAST = "rephrase"
"""What comes after all of them: a new source, which then goes through all but `extract`."""

EXPECT = "expect"
"""What `gristmill test` asks; like a stage's settings it may be repeated under a source, and it changes no stage."""

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]*")


def _classifier_name(name: str) -> str:
    if not _IDENTIFIER.fullmatch(name):
        raise ValueError(f"classifier name {name!r} must be an identifier in lower case: it becomes column names")
    return name


def _built_in_columns(classifiers: Iterable[str]) -> frozenset[str]:
    """Return the columns that documents and outcomes have, whatever the configuration measures of it."""
    from pipeline.signals import (
        language,
        recipe_stats,
        text_stats,
        tokens,
    )  # compiled kernels: half a second that only these keys need

    scores = [f"{name}_{score}" for name in classifiers for score in schema.SCORES.names]
    decided = ("outcome", "failed_rules", "duplicate_of")
    measured = (*language.LANGUAGE.names, *text_stats.COLUMNS, *recipe_stats.COLUMNS, *tokens.SCHEMA.names)
    return frozenset([*schema.DOCUMENTS.names, *schema.DUPLICATES.names, *decided, *measured, *scores])


ClassifierName = Annotated[str, AfterValidator(_classifier_name)]


class ClassifierUse(StageConfig):
    """One classifier that scores every document."""

    model: Address = Field(
        description="folder that `gristmill classifier train` wrote; NAME becomes columns, so it is an identifier in "
        "lower case"
    )


class StageConfigs(StageConfig):
    """The stages' settings: once for the run, and again, in part, under any source."""

    extract: ExtractConfig = ExtractConfig()
    annotate: AnnotateConfig = AnnotateConfig()
    dedup: DedupConfig | None = None
    classify: dict[ClassifierName, ClassifierUse] = Field(
        default_factory=dict, description="classifiers that score every document, by the names that their columns bear"
    )
    select: SelectConfig = SelectConfig()
    expect: ExpectConfig = ExpectConfig()


class SourceConfig(StageConfigs, InputsConfig):
    """One source: where its raw inputs are, and its stages' settings (the common ones with its own on top)."""

    @model_validator(mode="after")
    def _kept_columns_have_names_of_their_own(self) -> SourceConfig:
        taken = _built_in_columns(self.classify) if self.keep_columns else frozenset()
        for name in self.keep_columns:
            if name in taken:
                raise ValueError(f"keep_columns.{name}: outcomes have a column of that name already; choose another")
        return self


class RephraseRun(StageConfigs, RephraseConfig):
    """The source that rephrasing makes: how, and its stages' settings (the common ones with its own on top)."""

    select: SelectConfig = SelectConfig(rules="rephrased")


class EngineConfig(StageConfig):
    """Where the work runs. Never changes a byte of the result."""

    kind: Literal["local"] = Field("local", description="where the work runs; `local` is the only kind yet")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        le=1024,
        description="pages extracted and shards worked on at once; all cores by default",
    )
    prefect: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether Prefect runs it; `auto` leaves small work to this process, unless `PREFECT_API_URL` "
        "names a server",
    )
    memory_mb: int = Field(
        1024, ge=64, description="bound for the out-of-core steps (components, SQL), all workers together"
    )


class RunConfig(StageConfigs):
    """A whole run, as `gristmill run` reads it."""

    workspace: Address = Field(min_length=1, description="everything that is made goes here: a path or an fsspec URL")
    sources: dict[SourceName, SourceConfig] = Field(
        min_length=1, description="what is curated, by names that become folders and SQL schemas"
    )
    rephrase: RephraseRun | None = None
    engine: EngineConfig = Field(default_factory=EngineConfig)

    @model_validator(mode="before")
    @classmethod
    def _common_settings_reach_each_source(cls, value: Any) -> Any:
        """Lay each source's own stage settings over the common ones, key by key."""
        if not isinstance(value, dict) or not isinstance(value.get("sources"), dict):
            return value
        common = {stage: value[stage] for stage in (*STAGES, EXPECT) if stage in value}
        sources = {name: _merged(common, source) for name, source in value["sources"].items()}
        merged = {**value, "sources": sources}
        if isinstance(value.get("rephrase"), dict):  # rules for pages make no sense for what a model wrote
            measured = {stage: settings for stage, settings in common.items() if stage not in ("select", EXPECT)}
            merged["rephrase"] = _merged(measured, value["rephrase"])
        return merged

    @model_validator(mode="after")
    def _rephrases_a_source(self) -> RunConfig:
        if self.rephrase is not None:
            source, output = self.rephrase.source, self.rephrase.output_source
            if source not in self.sources:
                raise ValueError(f"rephrase.source: no source is named {source!r}{nearest(source, self.sources)}")
            if output in self.sources:
                raise ValueError(f"rephrase.output: {output!r} is a source already; choose another name")
        return self

    @model_validator(mode="after")
    def _scopes_name_sources(self) -> RunConfig:
        for group in self.scopes():
            configs = {self.sources[name].dedup for name in group}
            if len(group) > 1 and len(configs) > 1:
                raise ValueError(
                    f"dedup.scope joins {', '.join(group)}, whose dedup settings differ; give them the same"
                )
        return self

    def settings(self, source: str) -> StageConfigs:
        """Return the stages' settings of a source, the one that rephrasing makes among them."""
        if self.rephrase is not None and source == self.rephrase.output_source:
            return self.rephrase
        return self.sources[source]

    def parents(self) -> tuple[str, ...]:
        """Return the sources that rephrased documents are compared with: those that their source is compared with."""
        if self.rephrase is None or self.sources[self.rephrase.source].dedup is None:
            return ()
        return next(group for group in self.scopes() if self.rephrase.source in group)

    def scopes(self) -> list[tuple[str, ...]]:
        """Return the sources in groups among which duplicates are sought, each in priority order."""
        groups: list[tuple[str, ...]] = []
        grouped: set[str] = set()
        for name, source in self.sources.items():
            scope = source.dedup.scope if source.dedup else "source"
            if scope == "source" or name in grouped:
                continue
            for other in scope:
                if other not in self.sources:
                    raise ValueError(f"dedup.scope names unknown source {other!r}{nearest(other, self.sources)}")
            if name in scope:
                if grouped & set(scope):
                    raise ValueError("dedup.scope: a source can be in one scope only")
                groups.append(tuple(dict.fromkeys(scope)))
                grouped.update(scope)
        return groups + [(name,) for name in self.sources if name not in grouped]


def load(path: str, assignments: Sequence[str] = ()) -> RunConfig:
    """Return the configuration of a run in a YAML file with `--set` assignments applied. Raises: ConfigError."""
    return read_config(RunConfig, path, assignments)


def _merged(common: dict[str, Any], source: Any) -> Any:
    if not isinstance(source, dict):
        return source
    merged = dict(source)
    for stage, settings in common.items():
        own = source.get(stage, {})
        if isinstance(settings, dict) and isinstance(own, dict):
            merged[stage] = {**settings, **own}
        elif stage not in source:
            merged[stage] = settings
    return merged


def chosen_sources(config: RunConfig, only: Sequence[str]) -> list[str]:
    """Return the sources that `--only` names, with those that their dedup scope joins to them; all by default.

    Raises: ConfigError for an unknown name.
    """
    for name in only:
        if name not in config.sources:
            raise ConfigError(f"--only {name}: no such source{nearest(name, config.sources)}")
    if not only:
        return list(config.sources)
    chosen = {member for group in config.scopes() if set(group) & set(only) for member in group}
    return [name for name in config.sources if name in chosen]
