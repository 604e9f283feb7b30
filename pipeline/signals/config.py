"""What the `annotate` stage can be told."""

from __future__ import annotations

from pydantic import Field

from pipeline.table.config import Address, StageConfig


class AnnotateConfig(StageConfig):
    """Which measurements are taken beside the documents. Language and text statistics always are."""

    recipe_stats: bool = Field(
        False, description="DCLM's, Dolma's and Dolma 3's statistics, too; where rules read one they are taken anyway"
    )

    tokenizer: Address | None = Field(
        None, description="a file for token_count: tokenizers (.json) or tiktoken (.tiktoken)"
    )
