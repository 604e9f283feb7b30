"""`gristmill mix fit --ratios --metrics` and `mix predict`: the regression on anybody's tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import cast

from flows.progress import Reporter
from pipeline.mix.config import ModelName
from pipeline.mix.regression import Fit, fit_files, predict_files, render_report
from pipeline.table.errors import UsageError
from pipeline.table.format import encode


def fit_tables(
    ratios: str | None, metrics: str | None, out: str | None, model: str, higher: Sequence[str], as_json: bool
) -> int:
    """Fit a regression to two CSV tables, write it to a folder and print how good it is. Returns the exit code.

    `higher` names metrics where larger is better.

    Raises: UsageError when one of the three is not given; InputError for what is wrong with a table.
    """
    if ratios is None or metrics is None or out is None:
        raise UsageError("mix fit: give CONFIG, or --ratios, --metrics and --out")
    progress = Reporter().line
    fit = fit_files(ratios, metrics, out, model=cast(ModelName, model), higher=higher, progress=progress)
    return print_fit(fit, as_json)


def print_fit(fit: Fit, as_json: bool) -> int:
    """Print a fit's quality, a row a metric. Returns the exit code."""
    text = encode(fit.report["metrics"]) if as_json else render_report(fit.report)
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0


def predict_tables(folder: str, ratios: str, out: str | None) -> int:
    """Predict the metrics of mixtures in a CSV table; the prediction goes to a file or standard output.

    Returns the exit code. Raises: InputError for what is wrong with the fit or the table.
    """
    predict_files(folder, ratios, out if out is not None else sys.stdout)
    return 0
