"""The regression: from what runs on some mixtures measured to what runs on any mixture would.

tables   CSV tables of mixtures and metrics      choice    cross-validation, calibration
laws     shapes of a metric, with derivatives    fitting   `fit`, and the `Fit` that predicts
solve, lawfit, process, trees                    seeds     what runs of one seed share
models   what a model's name stands for          stored    a fit on disk
files    `mix fit` and `mix predict`
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.mix.regression.files import fit_files, predict_files, render_report
    from pipeline.mix.regression.fitting import Fit, Prediction, fit
    from pipeline.mix.regression.tables import RunTable, read_tables

__all__ = ["Fit", "Prediction", "RunTable", "fit", "fit_files", "predict_files", "read_tables", "render_report"]

_HOMES = {
    "Fit": "fitting",
    "Prediction": "fitting",
    "fit": "fitting",
    "fit_files": "files",
    "predict_files": "files",
    "render_report": "files",
    "RunTable": "tables",
    "read_tables": "tables",
}


def __getattr__(name: str) -> object:
    """Import a public name's module when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
