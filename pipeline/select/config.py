"""What the `select` stage can be told."""

from __future__ import annotations

from pydantic import Field

from pipeline.table.config import StageConfig


class SelectConfig(StageConfig):
    """Which documents are kept: named SQL predicates, and the order in which a component's keeper is elected."""

    rules: str | dict[str, str | None] = Field(
        default_factory=dict, description="a preset's name, a file, or name: predicate; `extends` changes a preset"
    )
    keep: str | None = Field(None, description="order of election, for example 'quality_score desc, text_length desc'")
    part_bytes: int = Field(256 << 20, ge=1 << 16, description="text bytes that go into one curated shard")
