"""`gristmill scaling`: fit a law to runs, predict with it, allocate compute."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from pipeline.mix import scaling
from pipeline.table.errors import UsageError
from pipeline.table.format import encode


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
    found = scaling.predict_file(Path(folder), parameters, tokens)
    if as_json:
        value = {name: float(np.ravel(number)[0]) for name, number in asdict(found).items()}
        sys.stdout.write(encode({"parameters": parameters, "tokens": tokens} | value) + "\n")
    else:
        sys.stdout.write(scaling.describe_predictions(Path(folder), parameters, tokens).rstrip("\n") + "\n")
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
