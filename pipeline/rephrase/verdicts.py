"""The verdict columns of rephrased rows, as a signals group row-aligned with their documents.

Beside the verdicts stand the few things that rules need to know of a row and that `documents` keeps in its metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.rephrase.verify import SCHEMA, Expectations, Pair, verdict_table
from pipeline.table import schema

if TYPE_CHECKING:
    from pipeline.rephrase.output import Rephrased

DESCRIPTION = pa.schema(
    [
        pa.field("style", pa.string(), nullable=False),
        pa.field("segment", pa.int32(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int64()),  # null where the server does not count
        pa.field("completion_tokens", pa.int64()),
        pa.field("waived", pa.list_(pa.string()), nullable=False),  # the rules that the style's file waives
        pa.field("licence_conflict", pa.string()),  # null: the parent's and the model's licences go together
    ]
)
VERDICTS = pa.schema([pa.field(schema.DOC_ID, pa.string(), nullable=False), *DESCRIPTION, *SCHEMA])
"""Columns of `signals/rephrase`. What a judge or embeddings add has a group of its own."""

Measure = Callable[[Sequence["Rephrased"]], pa.Table]
"""From rows to their verdicts: a table with `doc_id`, row for row."""


def measure_with(model: str, detect: Callable[[str], str | None] | None = None) -> Measure:
    """Return the function that judges rows: `model` is what its column says, `detect` tells a text's language."""
    return lambda rows: verdicts(rows, model, detect)


def verdicts(rows: Sequence[Rephrased], model: str, detect: Callable[[str], str | None] | None = None) -> pa.Table:
    """Return the verdicts on rows as a table of `VERDICTS`, row for row; no row can drop.

    What is judged is the model's own text against its segment: of a style that appends, the segment before it is not
    part of what is judged.
    """
    judged = verdict_table(_pair(row, detect) for row in rows)
    described = pa.Table.from_pylist([_described(row, model) for row in rows], DESCRIPTION)
    # The marker was looked for before post-processing removed it, and with Markdown around it.
    found = pa.array([row.has_marker for row in rows], pa.bool_())
    columns = {name: judged[name] for name in SCHEMA.names} | {"marker_found": found}
    ids = pa.array([row.doc_id for row in rows], pa.string())
    arrays = [ids, *(described[name] for name in DESCRIPTION.names), *(columns[name] for name in SCHEMA.names)]
    return pa.Table.from_arrays(arrays, schema=VERDICTS)


def _pair(row: Rephrased, detect: Callable[[str], str | None] | None) -> Pair:
    low, high = row.planned.style.length_ratio
    expected = Expectations(
        min_length_ratio=low,
        max_length_ratio=high,
        finish_reason=row.answer.finish_reason,
        format=row.planned.style.format,
        instructions=row.planned.style.instructions,
        language=row.planned.parent.language,
        detect=detect,
    )
    return Pair(row.planned.segment_text.strip(), row.body, expected)


def _described(row: Rephrased, model: str) -> dict[str, Any]:
    return {
        "style": row.planned.style.name,
        "segment": row.planned.segment.index,
        "sample": row.planned.sample,
        "model": model,
        "finish_reason": row.answer.finish_reason,
        "prompt_tokens": row.answer.prompt_tokens,
        "completion_tokens": row.answer.completion_tokens,
        "waived": list(row.planned.style.waive),
        "licence_conflict": row.licence_conflict,
    }
