"""Scoring documents with a trained classifier."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from classifiers import calibration
from classifiers.artefact import POSITIVE, Classifier
from classifiers.preprocess import preprocess
from pipeline.kernels import fasttext
from pipeline.kernels.fasttext import FastTextModel
from pipeline.table import schema
from pipeline.table.schema import text_buffers

PREDICTIONS = pa.schema([schema.SCORES.field(name) for name in (schema.DOC_ID, "score", "probability")])


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
    probabilities = calibration.calibrate(artefact.calibration, scores)
    return scores, np.where(has_words, probabilities, 0.0)


def score_lines(lines: pa.LargeStringArray, model: FastTextModel) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the raw score of each preprocessed line, 0 where it has no word, and whether it has any."""
    data, offsets = text_buffers(lines)
    found = fasttext.features(model, data, offsets)
    has_words = found.n_words > 0
    return np.where(has_words, fasttext.label_probabilities(model, found, POSITIVE), 0.0), has_words
