"""Everything about a run that can be checked before work begins: each mistake is one line and exit code 2."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from flows.config import LAST, STAGES, RunConfig, SourceConfig
from flows.runs import settled_columns
from flows.stages import TABLE, expected_columns, rules_of, stages_until
from pipeline.extract.shard import ExtractJob, format_of, read
from pipeline.extract.units import Entry, Reject
from pipeline.rephrase import stage as rephrase
from pipeline.select.rules import BoundRules, check_one_order, check_rules
from pipeline.table.errors import ConfigError, InputError, ShardError, UnreadableInputError
from pipeline.table.inputs import resolve
from pipeline.table.storage import Storage

MAX_ROWS = 100
"""Rows of a corpus of which one at least must be readable, in one input at least."""


def check_everything(config: RunConfig, only: Sequence[str], until: str) -> dict[str, BoundRules]:
    """Check inputs, models and rules of the chosen sources, as far as the stages up to `until` need them.

    Returns the rules of each source, bound to the columns that it will have.

    Raises: UsageError for the first thing that would stop the run.
    """
    storage = Storage.at(config.workspace)
    storage.check_writable()
    columns: dict[str, dict[str, str]] = {}
    bound: dict[str, BoundRules] = {}
    for source in only:
        settings = config.sources[source]
        check_inputs(storage, source, settings)
        for stage in stages_until(until):
            TABLE[stage].check(f"sources.{source}", settings)
        columns[source] = expected_columns(settings, kept_types(source, settings))
        bound[source] = check_rules(rules_of(source, settings), columns[source])
    for group in config.scopes():
        check_one_order({source: bound[source] for source in group if source in bound})
    if until == LAST and config.rephrase is not None and config.rephrase.source in only:
        check_rephrase(config, storage, measured=columns[config.rephrase.source])
        for stage in STAGES[1:]:  # its models, too, before a language model is paid
            TABLE[stage].check("rephrase", config.rephrase)
        output = config.rephrase.output_source
        bound[output] = check_rules(rules_of(output, config.rephrase), expected_columns(config.rephrase, {}))
    return bound


def check_rephrase(
    config: RunConfig, storage: Storage, asks: bool = True, measured: Mapping[str, str] | None = None
) -> None:
    """Check all that rephrasing needs, as `pipeline.rephrase.stage.check_rephrase` says.

    Raises: UsageError for the first thing that would stop the stage.
    """
    settings = config.rephrase
    if settings is None:
        return
    rephrase.check_rephrase(settings, storage, asks, measured)
    for parent in config.parents() if settings.dedup is not None else ():
        theirs = config.sources[parent].dedup
        compared = ("num_bands", "rows_per_band", "shingle_words", "numbers", "seed")
        if theirs is None or any(getattr(theirs, name) != getattr(settings.dedup, name) for name in compared):
            raise ConfigError(
                f"rephrase.dedup: bands, shingles, numbers and seed must be those of its parent {parent!r}, since "
                "their signatures are compared; give the same, or `dedup: null`"
            )


def check_inputs(storage: Storage, source: str, settings: SourceConfig) -> None:
    """Check that a source's inputs are there, and that one of them at least begins as its format says.

    One bad row is a reject, and so is a bad file among good ones; that no file begins with a row that can be read means
    that inputs, format or columns are wrong.

    Raises: InputError naming the entry or file.
    """
    where = f"sources.{source}.inputs"
    complaints: list[str] = []
    for file in resolve(settings.inputs, where, "stat"):
        job = ExtractJob(storage, source, file, settings.format, settings.columns, settings.extract)
        try:
            with file.open() as stream:
                complaint = _complaint(itertools.islice(read(stream, job, 0, ()), MAX_ROWS), format_of(stream, job))
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


def _complaint(items: Iterator[Entry], form: str) -> str | None:
    """Return what is wrong with the first item when none can be read, nothing when one can; None when there is none."""
    first: str | None = None
    for item in items:
        result = item.result
        is_damage = isinstance(result, Reject) and result.reason in ("damaged", "truncated_input") and form != "warc"
        if isinstance(result, Reject) and (item.record_type == "file" or is_damage):
            first = first or result.detail
        else:
            return ""
    return first


def kept_types(source: str, settings: SourceConfig) -> dict[str, str]:
    """Return the types of the columns of its own that a source keeps, in the order of their names.

    Raises: InputError when a Parquet file has none of the name, or of a type that cannot be kept.
    """
    if not settings.keep_columns:
        return {}
    files = resolve(settings.inputs, f"sources.{source}.inputs", "stat")
    return {name: column.type or "text" for name, column in settled_columns(settings, files, source).items()}
