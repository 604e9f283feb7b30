"""What the `dedup` stage can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.dedup.minhash import Numbers
from pipeline.table.config import StageConfig


class DedupConfig(StageConfig):
    """How duplicates are found. Which copy is kept is decided by `select`."""

    num_bands: int = Field(14, ge=1, le=256)
    rows_per_band: int = Field(8, ge=1, le=256)
    shingle_words: int = Field(5, ge=1, le=64)
    numbers: Numbers = Field("exact", description="or any: a number in a shingle stands for any number")
    verify: float | None = Field(0.7, gt=0, le=1, description="least Jaccard similarity of a pair that a band joins")
    seed: int = Field(1, ge=0, le=2**32 - 1, description="of the permutations; datasketch's default is 1")
    scope: Literal["source"] | tuple[str, ...] = Field("source", description="or sources in priority order, joined")
    max_removed: float | None = Field(None, gt=0, le=1, description="stop when more than this share would be removed")

    @property
    def num_perm(self) -> int:
        """Length of a signature."""
        return self.num_bands * self.rows_per_band
