"""The mathematics on anybody's tables: `gristmill mix fit --ratios`, `mix predict` and `gristmill scaling`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from flows.progress import Reporter
from pipeline.mix.config import ModelName
from pipeline.mix.regression.fitting import Fit
from pipeline.mix.regression.tables import fit_files, predict_files, render_report
from pipeline.mix.scaling import table as scaling
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


def fit(runs: str, out: str, bootstrap: int, seed: int, as_json: bool) -> int:
    """Fit a scaling law to a CSV of runs and print it. Returns the exit code.

    Raises: InputError, ConfigError for what is wrong with the table.
    """
    if not 8 <= bootstrap <= 10_000:
        raise UsageError(f"--bootstrap {bootstrap}: give between 8 and 10000 refits")
    text = scaling.fit_file(Path(runs), Path(out), bootstrap, seed)
    if as_json:
        text = (Path(out) / "fit.json").read_text("utf-8")
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0


def predict(folder: str, parameters: float, tokens: float, as_json: bool) -> int:
    """Print the loss that a fitted law predicts, with its interval. Returns the exit code.

    Raises: InputError when the fit cannot be read or a number not used.
    """
    values, said = scaling.predict_file(folder, parameters, tokens)
    text = encode({"parameters": parameters, "tokens": tokens} | values) if as_json else said
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0


def allocate(folder: str, flops: float, served_tokens: float, as_json: bool) -> int:
    """Print how to divide compute between parameters and tokens. Returns the exit code.

    Raises: InputError when the fit cannot be read or a number not used.
    """
    found = scaling.allocate(Path(folder), flops, served_tokens)
    if as_json:
        sys.stdout.write(encode({name: asdict(allocation) for name, allocation in found.items()}) + "\n")
    else:
        sys.stdout.write(scaling.describe_allocations(Path(folder), found, served_tokens).rstrip("\n") + "\n")
    return 0
