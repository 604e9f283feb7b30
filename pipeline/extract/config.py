"""What the `extract` stage can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.table.config import StageConfig
from pipeline.table.schema import KeptType

Favor = Literal["precision", "balanced", "recall"]


class ExtractLimits(StageConfig):
    """What decides that a unit is refused. The same everywhere, so that every machine refuses the same units."""

    payload_bytes: int = Field(10 << 20, gt=0, description="decoded body of a page")
    record_bytes: int = Field(64 << 20, gt=0, description="one line of JSONL or one row of CSV")
    nodes: int = Field(100_000, gt=0, description="elements of a page")
    depth: int = Field(255, gt=0, le=255, description="nesting of a page's elements")
    cpu_s: float = Field(30.0, gt=0, description="CPU seconds a page may take: only a net, never met by ordinary pages")
    memory_bytes: int = Field(2 << 30, gt=0, description="memory of one extraction worker: a net, too")


class KeepColumn(StageConfig):
    """One of a corpus's own fields that becomes a column of documents and outcomes."""

    path: str = Field(min_length=1, description="the field's name, or the names that lead to it: `meta.stars`")
    type: KeptType | None = Field(None, description="null: text, in Parquet the type of the file's column")


class ExtractConfig(StageConfig):
    """How units become text."""

    engine: Literal["trafilatura", "resiliparse"] = "trafilatura"
    favor: Favor = "balanced"
    language_gate: tuple[str, ...] | None = Field(
        None, description="languages (ISO 639-1) to extract; others are rejected"
    )
    metadata: Literal["light", "full"] = Field(
        "light", description="full: trafilatura's own date search, at twice the time"
    )
    part_bytes: int = Field(256 << 20, ge=1 << 16, description="decoded input bytes that go into one shard")
    limits: ExtractLimits = ExtractLimits()
