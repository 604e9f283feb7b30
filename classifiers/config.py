"""What training and evaluating a classifier can be told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from pipeline.table.config import Address, Lines, StageConfig, validate
from pipeline.table.errors import shown


class Corpus(StageConfig):
    """Texts of one class: files (`path`), or a query over a workspace (`workspace` and `sql`)."""

    path: Address | None = Field(
        None,
        description="path, glob, folder or URL of `.parquet`, `.jsonl` or `.csv` files (the latter two also `.gz`, "
        "`.zst`); a bad record is an error here, not a reject",
    )
    workspace: Address | None = Field(None, description="instead of `path`: the workspace that `sql` reads")
    sql: str | None = Field(None, description="one SELECT with a text column")
    text: str = Field("text", description="name of the text column")
    limit: int | None = Field(None, ge=1, description="at most so many distinct texts, drawn evenly by their hash")

    @model_validator(mode="after")
    def _one_origin(self) -> Corpus:
        if (self.path is None) == (self.sql is None) or (self.sql is None) != (self.workspace is None):
            raise ValueError("give either `path`, or `workspace` and `sql`")
        return self

    def describe(self) -> str:
        """Return how messages name this corpus."""
        return shown(self.path) if self.path is not None else f"{self.workspace}: {self.sql}"


def _not_empty(corpora: tuple[Corpus, ...]) -> tuple[Corpus, ...]:
    if not corpora:
        raise ValueError("name at least one corpus")
    return corpora


# pydantic's own minimum length would count only the valid items, and hide what is wrong with the others.
Corpora = Annotated[tuple[Corpus, ...], AfterValidator(_not_empty)]


class PreprocessConfig(StageConfig):
    """What happens to a text before fastText sees it, in training and in scoring alike."""

    lowercase: bool = Field(True, description="lower case, by Unicode")
    normalise_digits: bool = Field(False, description="every ASCII digit becomes 0")
    max_characters: int | None = Field(None, ge=1, description="only so many characters of the beginning; null: all")


class FastTextConfig(StageConfig):
    """fastText's own parameters. The defaults are fastText's, but for word pairs (DCLM) and fewer buckets (a tenth)."""

    epochs: int = Field(5, ge=1, le=1000, description="passes over the texts")
    learning_rate: float = Field(0.1, gt=0, le=10, description="how fast the weights move at first")
    word_ngrams: int = Field(
        2, ge=1, le=5, description="words that make a feature, at most: at 2 word pairs are features, too"
    )
    dimension: int = Field(100, ge=1, le=1024, description="length of the vectors")
    bucket: int = Field(
        200_000, ge=1, le=50_000_000, description="hashed n-grams; the model file takes 4 × dimension × bucket bytes"
    )
    min_count: int = Field(1, ge=1, description="least occurrences of a word; rarer ones are left out")
    min_gram: int = Field(0, ge=0, le=16, description="character n-grams, shortest; 0 for none")
    max_gram: int = Field(0, ge=0, le=16, description="character n-grams, longest")

    @model_validator(mode="after")
    def _grams_in_order(self) -> FastTextConfig:
        if self.min_gram > self.max_gram:
            raise ValueError(f"min_gram {self.min_gram} is larger than max_gram {self.max_gram}")
        return self


class TrainConfig(StageConfig):
    """A whole training run."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="an identifier in lower case")
    output: str = Field(min_length=1, description="folder of the trained classifier; replaced when it is there")
    positives: Corpora = Field(description="list of corpora of good texts")
    negatives: Corpora = Field(description="list of corpora of ordinary texts, with the keys of `positives`")
    seed: int = Field(
        1, ge=0, le=2**31 - 1, description="decides what is sampled, what is held out and the order of training"
    )
    hold_out: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="share of each class that is never trained on: half measures the AUC, half calibrates",
    )
    balance: Literal["repeat", "none"] = Field(
        "repeat",
        description="texts of the smaller class recur, 50 times at most; `none`: leave the classes as large as they "
        "are",
    )
    preprocess: PreprocessConfig = PreprocessConfig()
    fasttext: FastTextConfig = FastTextConfig()


class EvaluateConfig(StageConfig):
    """Labelled texts to measure a classifier on."""

    positives: Corpora = Field(description="list of corpora of good texts")
    negatives: Corpora = Field(description="list of corpora of ordinary texts, with the keys of `positives`")
    held_out: bool = Field(False, description="only texts that this classifier's training set aside for its test")


def evaluation(value: Mapping[str, Any], where: str, lines: Lines | None = None) -> EvaluateConfig:
    """Return `value` as a configuration to evaluate with; that of a training run means its held-out texts.

    Raises: ConfigError.
    """
    if "output" not in value:
        return validate(EvaluateConfig, value, where, lines)
    training = validate(TrainConfig, value, where, lines)
    return EvaluateConfig(positives=training.positives, negatives=training.negatives, held_out=True)
