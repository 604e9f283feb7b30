"""Everything about a run that can be checked before work begins: each mistake is one line and exit code 2."""

from __future__ import annotations

from collections.abc import Sequence

from classifiers.artefact import load
from flows.annotate import STATS_SCHEMA
from flows.config import STAGES, RunConfig, SourceConfig
from flows.select import rules_of
from pipeline.extract.readers import read
from pipeline.extract.shard import ExtractJob
from pipeline.select.binding import check_rules
from pipeline.select.narrow import planned_columns
from pipeline.signals import language, tokens
from pipeline.table import schema
from pipeline.table.errors import InputError
from pipeline.table.inputs import resolve
from pipeline.table.models import lid_model_path
from pipeline.table.storage import Storage

MAX_OPENED = 100
"""Inputs of a source that are opened to see whether they are what their format says."""


def check_everything(config: RunConfig, only: Sequence[str], until: str) -> None:
    """Check inputs, models and rules of the chosen sources, as far as the stages up to `until` need them.

    Raises: UsageError for the first thing that would stop the run.
    """
    storage = Storage.at(config.workspace)
    last = STAGES.index(until)
    for source in only:
        settings = config.sources[source]
        check_inputs(storage, source, settings)
        if last >= STAGES.index("annotate") or settings.extract.language_gate:
            lid_model_path()
        if last >= STAGES.index("annotate") and settings.annotate.tokenizer:
            tokens.load_tokenizer(settings.annotate.tokenizer)
        if last >= STAGES.index("classify"):
            for use in settings.classify.values():
                load(use.model)
        check_rules(rules_of(source, settings), expected_columns(settings))


def check_inputs(storage: Storage, source: str, settings: SourceConfig) -> None:
    """Check that a source's inputs are there and begin as their format says.

    Raises: InputError naming the entry or file.
    """
    where = f"sources.{source}.inputs"
    for file in resolve(settings.inputs, where, "stat")[:MAX_OPENED]:
        job = ExtractJob(storage, source, file, settings.format, settings.columns, settings.extract)
        try:
            with file.open() as stream:
                next(iter(read(stream, job, 0, set())), None)
        except PermissionError as error:
            raise InputError(f"{where}: {file.url}: {error.strerror}; make it readable") from error


def expected_columns(settings: SourceConfig) -> dict[str, str]:
    """Return the DuckDB types of the narrow columns that a source will have once its stages have run."""
    groups = {"signals/language": language.LANGUAGE, "signals/text_stats": STATS_SCHEMA}
    if settings.annotate.tokenizer:
        groups["signals/tokens"] = tokens.SCHEMA
    if settings.dedup:
        groups["duplicates"] = schema.DUPLICATES
    return planned_columns(groups | {f"scores/{name}": schema.SCORES for name in settings.classify})
