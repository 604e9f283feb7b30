"""What the `dedup` stage can be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline.dedup.minhash import Numbers
from pipeline.table.config import StageConfig


class DedupConfig(StageConfig):
    """How duplicates are found. Which copy is kept is decided by `select`."""

    num_bands: int = Field(14, ge=1, le=256, description="bands of the MinHash signature")
    rows_per_band: int = Field(
        8,
        ge=1,
        le=256,
        description="values in a band. 14 × 8 finds pairs at Jaccard similarity 0.70, 0.75, 0.80, 0.85 with "
        "probability 56, 77, 92, 98.8 %",
    )
    shingle_words: int = Field(5, ge=1, le=64, description="words of a shingle")
    numbers: Numbers = Field(
        "exact",
        description="`any`: in shingles a number stands for any, unless another stands right before it; so pages "
        "that differ in years or counters alone are duplicates, and arithmetic problems, too",
    )
    verify: float | None = Field(
        0.7,
        gt=0,
        le=1,
        description="least Jaccard similarity of a pair that shares a band, decided from its shingles where the "
        "estimate is close; `null` joins all that share a band",
    )
    seed: int = Field(
        1,
        ge=0,
        le=2**32 - 1,
        description="seed of the permutations; 1 is datasketch's default, and signatures equal datasketch's for the "
        "same shingle hashes",
    )
    scope: Literal["source"] | tuple[str, ...] = Field(
        "source",
        description="`source`: duplicates within each source; a list of sources in priority order: across them, too, "
        "and a member of an earlier source is kept before one of a later",
    )
    max_removed: float | None = Field(
        None,
        gt=0,
        le=1,
        description="the run fails when more than this share of the documents, such as `0.6`, would go as copies",
    )

    @property
    def num_perm(self) -> int:
        """Length of a signature."""
        return self.num_bands * self.rows_per_band
