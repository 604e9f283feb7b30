"""The `annotate` stage: measurements beside the documents, in one pass over their text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial

import pyarrow as pa

from pipeline.inputs.shipped import lid_model_hash, lid_model_path
from pipeline.kernels.characters import UNICODE_VERSION
from pipeline.kernels.fasttext import FastTextModel
from pipeline.signals import language, recipe_stats, text_stats, tokens
from pipeline.signals.config import AnnotateConfig
from pipeline.table import schema
from pipeline.table.shards import Identity, Part, RowMap, Work, made_from_texts
from pipeline.table.stages import Context, Mapped, PartJob, Progress, Publish, Stage, Totals, make_rows, plan_row_maps

TEXT_COLUMNS = (schema.DOC_ID, schema.TEXT)
STATS_SCHEMA, RECIPES_SCHEMA = (
    pa.schema([schema.DOCUMENTS.field(schema.DOC_ID), *((name, column.type) for name, column in columns.items())])
    for columns in (text_stats.COLUMNS, recipe_stats.COLUMNS)
)


def signal_groups(config: AnnotateConfig) -> dict[str, pa.Schema]:
    """Return the signal groups that the stage writes, by folder inside the source."""
    groups = {"signals/language": language.LANGUAGE, "signals/text_stats": STATS_SCHEMA}
    groups |= {"signals/recipe_stats": RECIPES_SCHEMA} if config.recipe_stats else {}
    return groups | ({"signals/tokens": tokens.SCHEMA} if config.tokenizer else {})


def annotate_stage(context: Context, source: str, config: AnnotateConfig) -> Stage[PartJob, Mapped]:
    """Return the measurements of one source that are missing; no row drops."""
    groups = {folder: context.group(source, folder) for folder in signal_groups(config)}
    tokenizer = tokens.load_tokenizer(config.tokenizer) if config.tokenizer else None
    spoken = Identity("language", language.VERSION, libraries={"lid.176": lid_model_hash()})
    stats = Identity("text_stats", text_stats.VERSION, libraries={"unicode": UNICODE_VERSION})
    measures = [
        ("signals/language", spoken, language.LANGUAGE, _language),
        ("signals/text_stats", stats, STATS_SCHEMA, text_stats.text_stats),
    ]
    if config.recipe_stats:
        recipes = Identity("recipe_stats", recipe_stats.VERSION, libraries={"unicode": UNICODE_VERSION})
        measures.append(("signals/recipe_stats", recipes, RECIPES_SCHEMA, recipe_stats.recipe_stats))
    if tokenizer:
        counted = Identity("tokens", tokens.VERSION, libraries={"tokenizer": tokenizer.content_hash})
        count = partial(tokens.token_counts, tokenizer=tokenizer)
        measures.append(("signals/tokens", counted, tokens.SCHEMA, count))

    def row_maps(part: Part) -> list[RowMap]:
        return [
            RowMap(groups[folder], Work(part.stem, identity, (made_from_texts(part),)), columns, TEXT_COLUMNS, measure)
            for folder, identity, columns, measure in measures
        ]

    maps = plan_row_maps(context.group(source, "documents"), list(groups.values()), row_maps)

    def complete(results: Sequence[Mapped], publish: Publish, progress: Progress) -> Totals:
        maps.publish("annotate", results, publish)
        return Totals(maps.rows, maps.rows)

    return Stage(source, "annotate", maps.jobs, maps.shards_done, complete, make_rows, work=maps.rows_to_do)


def detect_language(text: str) -> str | None:
    """Return a text's most likely language, ISO 639; None where nothing tells."""
    table = pa.table({schema.DOC_ID: ["0" * 32], schema.TEXT: [text]})
    found: str | None = _language(table)["language"][0].as_py()
    return found


def _language(documents: pa.Table) -> pa.Table:
    return language.language(documents, _model())


@cache
def _model() -> FastTextModel:
    """Read the language model when the first part needs it: a run with nothing to do would wait a second for it."""
    return language.load_model(lid_model_path())
