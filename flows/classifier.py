"""`gristmill classifier train` and `evaluate`."""

from __future__ import annotations

import sys
from dataclasses import asdict

from classifiers.artefact import load
from classifiers.config import TrainConfig, evaluation
from classifiers.evaluate import evaluate_corpora
from classifiers.train import train
from pipeline.table.config import read_yaml, validate
from pipeline.table.format import encode
from pipeline.table.sql import run_sql


def train_from(path: str) -> int:
    """Train a classifier as a YAML file says and print what came of it. Returns the exit code.

    Raises: ConfigError, InputError, QueryError.
    """
    value, lines = read_yaml(path)
    report = train(validate(TrainConfig, value, path, lines), run_sql)
    print(report.as_text())  # noqa: T201
    return 0


def evaluate_from(model: str, path: str, as_json: bool) -> int:
    """Print a classifier's AUC with its interval on labelled documents. Returns the exit code.

    Raises: ConfigError, InputError, QueryError.
    """
    value, lines = read_yaml(path)
    result = evaluate_corpora(load(model), evaluation(value, path, lines), run_sql)
    sys.stdout.write((encode(asdict(result)) if as_json else result.as_text()) + "\n")
    return 0
