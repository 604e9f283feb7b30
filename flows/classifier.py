"""`gristmill classifier train` and `evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path

from classifiers.artefact import Measured, load
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
    sys.stdout.write(
        f"{report.folder}: trained on {report.trained_positives:,} positives and {report.trained_negatives:,} negatives"
        f" ({report.conflicting:,} texts stood in both classes and were left out), content {report.content_hash}\n"
        f"held out, never trained on: {_as_text(report.evaluation)}\n"
    )
    _warn(report.folder, report.evaluation)
    return 0


def evaluate_from(model: str, path: str, as_json: bool) -> int:
    """Print a classifier's AUC with its interval on labelled documents. Returns the exit code.

    Raises: ConfigError, InputError, QueryError.
    """
    value, lines = read_yaml(path)
    result = evaluate_corpora(load(model), evaluation(value, path, lines), run_sql)
    sys.stdout.write((encode(result.model_dump()) if as_json else _as_text(result)) + "\n")
    _warn(model, result)
    return 0


def _warn(folder: str | Path, result: Measured) -> None:
    for doubt in result.doubts():
        sys.stderr.write(f"warning: {folder}: {doubt}\n")


def _as_text(result: Measured) -> str:
    interval = f"{result.auc_low:.4f} to {result.auc_high:.4f}"
    texts = f"{result.n_positives:,} positives, {result.n_negatives:,} negatives"
    return f"AUC {result.auc:.4f} (95 % interval {interval}; {texts}), Brier score {result.brier:.4f}"
