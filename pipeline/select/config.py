"""What the `select` stage can be told."""

from __future__ import annotations

from pydantic import Field

from pipeline.table.config import StageConfig


class SelectConfig(StageConfig):
    """Which documents are kept: named SQL predicates, and the order in which a component's keeper is elected."""

    rules: str | dict[str, str | None] = Field(
        default_factory=dict,
        description="a preset's name, a file, or a mapping of names to predicates, in which `extends` names a preset "
        "to change; without rules only duplicates are dropped",
    )
    keep: str | None = Field(
        None,
        description="order in which a component's keeper is elected; null means that of the rules file, or else "
        "`text_length desc, url asc`",
    )
    part_bytes: int = Field(256 << 20, ge=1 << 16, description="text bytes that go into one curated shard")
