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
        None, description="path, glob, folder or URL of .parquet, .jsonl or .csv (.gz, .zst) files"
    )
    workspace: Address | None = Field(None, description="workspace that `sql` reads")
    sql: str | None = Field(None, description="SELECT with a text column")
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
    max_characters: int | None = Field(None, ge=1, description="only the first so many characters")


class FastTextConfig(StageConfig):
    """fastText's own parameters. The defaults are fastText's, but for word pairs (DCLM) and fewer buckets (a tenth)."""

    epochs: int = Field(5, ge=1, le=1000)
    learning_rate: float = Field(0.1, gt=0, le=10)
    word_ngrams: int = Field(2, ge=1, le=5)
    dimension: int = Field(100, ge=1, le=1024)
    bucket: int = Field(200_000, ge=1, le=50_000_000, description="hashed n-grams; model size is 4 x dimension x this")
    min_count: int = Field(1, ge=1, description="rarer words are left out")
    min_gram: int = Field(0, ge=0, le=16, description="character n-grams, 0 for none")
    max_gram: int = Field(0, ge=0, le=16)

    @model_validator(mode="after")
    def _grams_in_order(self) -> FastTextConfig:
        if self.min_gram > self.max_gram:
            raise ValueError(f"min_gram {self.min_gram} is larger than max_gram {self.max_gram}")
        return self


class TrainConfig(StageConfig):
    """A whole training run."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="an identifier in lower case")
    output: str = Field(min_length=1, description="folder of the trained classifier")
    positives: Corpora
    negatives: Corpora
    seed: int = Field(1, ge=0, le=2**31 - 1)
    hold_out: float = Field(
        0.1, gt=0, le=0.5, description="share of each class never trained on, chosen by hash of text"
    )
    balance: Literal["repeat", "none"] = Field("repeat", description="repeat: texts of the smaller class recur")
    preprocess: PreprocessConfig = PreprocessConfig()
    fasttext: FastTextConfig = FastTextConfig()


class EvaluateConfig(StageConfig):
    """Labelled texts to measure a classifier on."""

    positives: Corpora
    negatives: Corpora
    held_out: bool = Field(False, description="only texts that this classifier's training set aside for its test")


def evaluation(value: Mapping[str, Any], where: str, lines: Lines | None = None) -> EvaluateConfig:
    """Return `value` as a configuration to evaluate with; that of a training run means its held-out texts.

    Raises: ConfigError.
    """
    if "output" not in value:
        return validate(EvaluateConfig, value, where, lines)
    training = validate(TrainConfig, value, where, lines)
    return EvaluateConfig(positives=training.positives, negatives=training.negatives, held_out=True)
