"""The `annotate` stage of a run: measurements beside the documents, in one pass over their text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache, partial

import pyarrow as pa

from flows.progress import StageReport
from flows.runs import Run
from flows.stages import Plan, execute_map, plan_map
from pipeline.kernels.character_classes import UNICODE_VERSION
from pipeline.kernels.fasttext import FastTextModel
from pipeline.signals import language, text_stats, tokens
from pipeline.signals.config import AnnotateConfig
from pipeline.table import schema
from pipeline.table.models import lid_model_hash, lid_model_path
from pipeline.table.shards import Identity, Part, RowMap, Work, made_from_texts

TEXT_COLUMNS = (schema.DOC_ID, schema.TEXT)
STATS_SCHEMA = pa.schema(
    [schema.DOCUMENTS.field(schema.DOC_ID), *((name, column.type) for name, column in text_stats.COLUMNS.items())]
)


def signal_groups(config: AnnotateConfig) -> list[str]:
    """Return the names of the signal groups that the stage writes."""
    return ["language", "text_stats", *(["tokens"] if config.tokenizer else [])]


def plan_annotate(run: Run, sources: Sequence[str]) -> Plan:
    """Plan the measurements of one source: every documents part that lacks a signal."""
    (source,) = sources
    config = run.config.settings(source).annotate
    groups = {name: run.group(source, f"signals/{name}") for name in signal_groups(config)}
    tokenizer = tokens.load_tokenizer(config.tokenizer) if config.tokenizer else None

    def row_maps(part: Part) -> list[RowMap]:
        inputs = (made_from_texts(part),)
        spoken = Identity("language", language.VERSION, libraries={"lid.176": lid_model_hash()})
        stats = Identity("text_stats", text_stats.VERSION, libraries={"unicode": UNICODE_VERSION})
        maps = [
            RowMap(
                groups["language"],
                Work(part.stem, spoken, inputs),
                language.LANGUAGE,
                TEXT_COLUMNS,
                _language,
            ),
            RowMap(
                groups["text_stats"],
                Work(part.stem, stats, inputs),
                STATS_SCHEMA,
                TEXT_COLUMNS,
                text_stats.text_stats,
            ),
        ]
        if tokenizer:
            identity = Identity("tokens", tokens.VERSION, libraries={"tokenizer": tokenizer.content_hash})
            count = partial(tokens.token_counts, tokenizer=tokenizer)
            maps.append(RowMap(groups["tokens"], Work(part.stem, identity, inputs), tokens.SCHEMA, TEXT_COLUMNS, count))
        return maps

    plan = plan_map(run, source, list(groups.values()), row_maps)

    def execute() -> StageReport:
        started = time.monotonic()
        execute_map(run, source, "annotate", plan)
        done = len(plan.parts) - len(plan.jobs)
        return StageReport(source, "annotate", len(plan.jobs), done, plan.rows, plan.rows, time.monotonic() - started)

    return Plan(source, "annotate", len(plan.jobs), len(plan.parts) - len(plan.jobs), execute)


def _language(documents: pa.Table) -> pa.Table:
    return language.language(documents, _model())


@cache
def _model() -> FastTextModel:
    """Read the language model when the first part needs it: a plan with nothing to do would wait a second for it."""
    return language.load_model(lid_model_path())
