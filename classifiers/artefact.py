"""A trained classifier: a folder with `model.bin` (fastText) and `artefact.json`, which says how to use it, and scores.

There is no date and no absolute path in it: the same texts, configuration and seed give the same bytes. `artefact.json`
is written last and holds the model's hash, so a half-written folder cannot be mistaken for a classifier.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from classifiers.calibration import Calibration, calibrate
from classifiers.config import Corpus, FastTextConfig, PreprocessConfig
from classifiers.preprocess import VERSION as PREPROCESS_VERSION
from classifiers.preprocess import preprocess
from pipeline.kernels import fasttext
from pipeline.kernels.fasttext import FastTextModel
from pipeline.table import schema
from pipeline.table.config import StageConfig, validate
from pipeline.table.errors import ConfigError, InputError, ShardError
from pipeline.table.kept import create_file, write_file
from pipeline.table.schema import text_buffers
from pipeline.table.storage import open_file, read_file

PREDICTIONS = pa.schema([schema.SCORES.field(name) for name in (schema.DOC_ID, "score", "probability")])
MODEL = "model.bin"
ARTEFACT = "artefact.json"
POSITIVE, NEGATIVE = "positive", "negative"
CLOSE, MOSTLY, WIDE, STRONG = 0.02, 0.8, 0.15, 0.5
"""Scores so close count as equal; a larger share of equal scores, a wider interval, a stronger correlation is said."""
_MAX_JSON_BYTES = 16 << 20
_RETRAIN = "train it again with `gristmill classifier train`"


class SourceRecord(StageConfig):
    """One corpus as training read it. `content` is a hash over its distinct texts, whatever their order."""

    corpus: Corpus
    rows: int
    empty: int
    duplicates: int
    used: int
    content: str


class ClassRecord(StageConfig):
    """One class: its corpora, and how many distinct texts went where.

    `test_below`: a text whose keyed hash is below this was set aside for the test, so it can be found again.
    """

    sources: tuple[SourceRecord, ...]
    conflicting: int = Field(description="texts that the other class has, too; used for neither")
    trained: int
    calibrated: int
    tested: int
    repeats: float
    test_below: str = Field(pattern=r"^[0-9a-f]{32}$")


class Reliable(StageConfig):
    """What texts of about one calibrated probability turned out to be, both classes weighing the same."""

    at_least: float
    below: float
    positives: int
    negatives: int
    probability: float | None = Field(description="the mean that was said; null where there is no text")
    share: float | None = Field(description="of positives, as it turned out, with its 95 % interval")
    low: float | None
    high: float | None


class Measured(StageConfig):
    """How well scores tell texts apart that were never trained on: numbers with their 95 % intervals.

    `brier` is the mean squared error of probabilities, both classes weighing the same. What an older artefact lacks is
    null.
    """

    auc: float
    auc_low: float
    auc_high: float
    brier: float
    n_positives: int
    n_negatives: int
    close_share: float | None = Field(
        None, description=f"most of the texts, with equal classes, whose scores lie within {CLOSE} of one another"
    )
    length_correlation: float | None = Field(None, description="rank correlation (Spearman) of score and bytes of text")
    length_low: float | None = None
    length_high: float | None = None
    length_auc: float | None = Field(None, description="AUC of the length alone, longer texts above shorter ones")
    reliability: tuple[Reliable, ...] | None = Field(None, description="the calibration, by tenths of probability")

    def doubts(self) -> list[str]:
        """Return a line for each reason not to rely on the scores; none where they are sound."""
        found = []
        counts = f"{self.n_positives:,} positives and {self.n_negatives:,} negatives"
        rests = f"AUC {self.auc:.2f} (95 % interval {self.auc_low:.2f} to {self.auc_high:.2f}) rests on {counts}"
        if self.auc_low <= 0.5:
            found.append(f"it may be no better than guessing: {rests}; add texts, or texts that differ more")
        elif self.auc_high - self.auc_low > WIDE:
            found.append(f"how good it is is not known: {rests}; add texts or raise `hold_out`")
        if self.close_share is not None and self.close_share > MOSTLY:
            share = f"{100 * self.close_share:.0f} % of the held-out texts"
            near = f"{share} have scores within {CLOSE} of one another ({counts})"
            found.append(f"its scores do not spread: {near}; raise fasttext.epochs or fasttext.learning_rate")
        low, high = self.length_low or 0.0, self.length_high or 0.0
        if low > STRONG or high < -STRONG:
            interval = f"95 % interval {low:.2f} to {high:.2f}"
            alone = f"length alone has AUC {self.length_auc or 0.0:.2f}"
            told = f"rank correlation {self.length_correlation or 0.0:.2f}, {interval}; {alone}; {counts}"
            found.append(f"its scores follow the length of texts ({told}); give both classes texts of like lengths")
        return found


class Training(StageConfig):
    """Where the model comes from."""

    seed: int
    hold_out: float
    balance: str
    fasttext: FastTextConfig
    fasttext_version: str
    positives: ClassRecord
    negatives: ClassRecord
    measured: Measured


class Artefact(StageConfig):
    """The content of `artefact.json`."""

    format: Literal[1] = 1
    name: str
    labels: tuple[str, str] = (POSITIVE, NEGATIVE)
    positive_label: Literal["positive"] = "positive"
    preprocess_version: int
    preprocess: PreprocessConfig
    calibration: Calibration
    training: Training
    model_hash: str = Field(pattern=r"^[0-9a-f]{32}$", description="BLAKE2b of model.bin")


@dataclass(frozen=True)
class Classifier:
    """A classifier whose files belong together. `content_hash` changes with anything that changes a score."""

    folder: Path
    artefact: Artefact
    content_hash: str

    @cached_property
    def model(self) -> FastTextModel:
        """The model, read once it is first asked for: plans are made without it.

        Raises: InputError when it is no model of this artefact's labels.
        """
        try:
            model = fasttext.load(self.folder / MODEL)
        except (OSError, ValueError) as error:
            raise InputError(f"classifier {self.folder} is damaged: {error}; {_RETRAIN}") from error
        if sorted(model.labels) != sorted(self.artefact.labels):
            labels = ", ".join(model.labels[:10])
            raise InputError(f"{self.folder / MODEL} has the labels {labels}, not {self.artefact.labels}; {_RETRAIN}")
        return model


def save(folder: Path, model_file: Path, artefact: Artefact) -> None:
    """Copy `model_file` into `folder` and write `artefact.json` last.

    Raises: InputError when the folder cannot be written.
    """
    text = json.dumps(artefact.model_dump(mode="json"), indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    try:
        with open(model_file, "rb") as source, create_file(folder / MODEL) as target:
            shutil.copyfileobj(source, target)
        write_file(folder / ARTEFACT, text.encode())
    except ShardError as error:
        raise InputError(str(error)) from error


def load(path: str | os.PathLike[str]) -> Classifier:
    """Return the classifier in a folder, named by it or by either of the two files in it.

    Raises: InputError when it is missing, incomplete, damaged, or of another format or preprocessing version.
    """
    folder = Path(path)
    if folder.name in (MODEL, ARTEFACT):
        folder = folder.parent
    if not folder.is_dir():
        what = "is no folder of a classifier" if folder.exists() else "does not exist"
        raise InputError(f"classifier {folder} {what}; train one with `gristmill classifier train`")
    try:
        raw = read_file(folder / ARTEFACT, _MAX_JSON_BYTES)
        artefact = validate(Artefact, json.loads(raw), str(folder / ARTEFACT))
        found = file_hash(folder / MODEL)
        if found != artefact.model_hash:
            raise InputError(f"{folder / MODEL} is not the model that {ARTEFACT} was written for; {_RETRAIN}")
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} is missing: {folder} is no complete classifier; {_RETRAIN}") from error
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror or error}; the classifier cannot be read") from error
    except (ConfigError, ValueError, RecursionError) as error:
        raise InputError(f"classifier {folder} is damaged: {error}; {_RETRAIN}") from error
    if artefact.preprocess_version != PREPROCESS_VERSION:
        raise InputError(
            f"classifier {folder} was trained with preprocessing version {artefact.preprocess_version}, "
            f"this is version {PREPROCESS_VERSION}; {_RETRAIN}"
        )
    return Classifier(folder, artefact, hashlib.blake2b(raw, digest_size=16).hexdigest())


def file_hash(path: Path) -> str:
    """Return the BLAKE2b hash of a file, 32 hex digits."""
    with open_file(path) as file:
        return hashlib.file_digest(cast(Any, file), lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def score(documents: pa.Table, classifier: Classifier) -> pa.Table:
    """Return `doc_id`, `score` (raw probability of the positive label) and `probability` (calibrated), both float32.

    One row for every document, in order. A document without any word scores 0 in both: nothing speaks for it.

    Raises: SchemaError when `documents` lacks `doc_id` or `text`.
    """
    schema.require(documents, schema.DOC_ID, schema.TEXT)
    pieces = [score_texts(chunk, classifier) for chunk in documents[schema.TEXT].chunks]
    columns = [pa.chunked_array([pa.array(p[i].astype(np.float32)) for p in pieces], pa.float32()) for i in range(2)]
    return pa.Table.from_arrays([documents[schema.DOC_ID].cast(pa.string()), *columns], schema=PREDICTIONS)


def score_texts(texts: pa.Array, classifier: Classifier) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return raw score and calibrated probability of each text, float64 (texts,); 0 and 0 for a text without a word."""
    artefact = classifier.artefact
    scores, has_words = score_lines(preprocess(texts, artefact.preprocess), classifier.model)
    probabilities = calibrate(artefact.calibration, scores)
    return scores, np.where(has_words, probabilities, 0.0)


def score_lines(lines: pa.LargeStringArray, model: FastTextModel) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the raw score of each preprocessed line, 0 where it has no word, and whether it has any."""
    data, offsets = text_buffers(lines)
    found = fasttext.features(model, data, offsets)
    has_words = found.n_words > 0
    return np.where(has_words, fasttext.label_probabilities(model, found, POSITIVE), 0.0), has_words
