"""Fits from files and predictions to files: what `mix fit` and `mix predict` do, and the table that they show."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from pipeline.mix.config import ModelName
from pipeline.mix.regression.fitting import Fit, Prediction, fit
from pipeline.mix.regression.tables import match_slices, read_ratios, read_tables
from pipeline.table.errors import InputError
from pipeline.table.format import text_table
from pipeline.table.kept import write_file

_DIGITS = 10


def fit_files(
    ratios: str | Path,
    metrics: str | Path,
    out: str | Path,
    *,
    model: ModelName = "auto",
    bootstrap: int = 64,
    seed: int = 1,
    higher: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Fit:
    """Fit the runs of two CSV tables, save the fit in folder `out`, and return it.

    A column `seed` of the ratios is what each run was trained with. `higher` names metrics where larger is better.

    Raises: InputError when a table cannot be used, a metric is unknown, or `out` cannot be written.
    MissingDependencyError when `lightgbm` is asked for and not installed.
    """
    runs = read_tables(ratios, metrics)
    fitted = fit(
        runs.weights,
        runs.values,
        slice_names=runs.slice_names,
        metric_names=runs.metric_names,
        model=model,
        bootstrap=bootstrap,
        seed=seed,
        seeds=runs.seeds,
        higher=higher,
        progress=progress,
    )
    try:
        fitted.save(out)
    except OSError as error:
        raise InputError(f"cannot write the fit to {out}: {error.strerror or error}") from error
    return fitted


def predict_files(folder: str | Path, ratios: str | Path, out: str | Path | TextIO) -> int:
    """Predict every mixture of a CSV table with a saved fit, into a CSV file or stream; return the number of rows.

    Columns are `index`, each metric, and for each its 90 % interval for a new run, METRIC_lo and METRIC_hi. Slices are
    matched by name.

    Raises: InputError when the fit or the table cannot be used, or `out` cannot be written.
    """
    fitted = Fit.load(folder)
    table = read_ratios(ratios, fitted.slice_names)
    predicted = fitted.predict(match_slices(table, fitted.slice_names))
    text = _csv(table.index, fitted.metric_names, predicted)
    if isinstance(out, (str, os.PathLike)):
        try:
            write_file(Path(out), text.encode())
        except OSError as error:
            raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    else:
        out.write(text)
    return len(table.index)


def render_report(report: Mapping[str, Any]) -> str:
    """Return a fit's report as a table of plain text, a line a metric."""
    numbers = ("rmse", "law_rmse", "linear_rmse", "r2", "spearman", "pearson", "coverage", "seed_sd")
    rows = []
    for one in report["metrics"]:
        row = {key: one.get(key, "-") for key in ("metric", "model", "direction")}
        rows.append(row | {key: "-" if one.get(key) is None else f"{one[key]:.4g}" for key in numbers})
    return text_table(rows)


def _csv(index: tuple[str, ...], names: tuple[str, ...], predicted: Prediction) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    bounds = [f"{name}_{end}" for name in names for end in ("lo", "hi")]
    writer.writerow(["index", *names, *bounds])
    ends = zip(predicted.low.T, predicted.high.T, strict=True)
    columns = [*predicted.mean.T, *(column for pair in ends for column in pair)]
    shown = [[f"{x:.{_DIGITS}g}" for x in column.tolist()] for column in columns]
    writer.writerows(zip(index, *shown, strict=True))
    return buffer.getvalue()
