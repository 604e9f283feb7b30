"""What the `annotate` stage can be told."""

from __future__ import annotations

from pydantic import Field

from pipeline.table.config import Address, StageConfig


class AnnotateConfig(StageConfig):
    """Which measurements are taken beside the documents. Language and text statistics always are."""

    recipe_stats: bool = Field(
        False,
        description="the statistics of DCLM, Dolma and Dolma 3 (`signals_recipe_stats`), too; where rules read one "
        "of them they are taken without being asked for",
    )

    tokenizer: Address | None = Field(
        None,
        description="a file for tokenizers (`.json`) or tiktoken (`.tiktoken`, named after its encoding, such as "
        "`cl100k_base.tiktoken`; needs the extra `tiktoken`): adds the column `token_count`",
    )
