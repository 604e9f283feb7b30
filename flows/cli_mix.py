"""The arguments of `gristmill mix` and `gristmill scaling`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

STEPS = {
    "slices": "count and tokenise what is mixed: documents, tokens, natural proportions, caps",
    "swarm": "draw the mixtures that proxies train on",
    "train": "train the proxies that are missing, and measure them on the suite",
    "propose": "choose the mixture that the regression predicts to be best",
    "verify": "train the proposal and the baselines with fresh seeds, and hold them against the prediction",
    "sample": "write token shards of the mixture",
    "report": "write an HTML page with plots of everything that is known so far",
}
MODELS = ("auto", "linear", "log_linear", "effective_data", "gp", "lightgbm")

Command = Callable[[Any, str, str], Any]
"""Adds a command: its group, name and help."""


def add_mix(commands: Any, command: Command) -> None:
    """Add `gristmill mix` and its commands."""
    group = command(commands, "mix", "find, by experiment, in which proportions to mix slices of curated text")
    mix = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = command(mix, "run", "do every step that is not done yet, from slices to token shards")
    _config(run)
    run.add_argument("--dry-run", action="store_true", help="print what would be done, and change nothing")
    run.set_defaults(run=_step, step="run")
    for name, text in STEPS.items():
        step = command(mix, name, text)
        _config(step)
        if name in ("sample", "report"):
            _proposal(step)
        step.set_defaults(run=_step, step=name)
    explain = command(mix, "explain", "say which tasks pull a slice up or down, by how much, and what changed")
    _config(explain)
    explain.add_argument("slice", metavar="SLICE", nargs="?", help="one slice at length (default: all)")
    _proposal(explain)
    explain.add_argument("--json", action="store_true", help="print one JSON array, an object a slice")
    explain.set_defaults(run=_step, step="explain")
    _add_tables(mix, command)


def _add_tables(mix: Any, command: Command) -> None:
    fit = command(mix, "fit", "fit a regression from mixtures to metrics, of this mix or of anybody's tables")
    _config(fit, optional=True)
    fit.add_argument("--ratios", metavar="CSV", help="mixtures: `index`, one column a slice, and `seed` if known")
    fit.add_argument("--metrics", metavar="CSV", help="losses: column `index`, then one column a metric")
    fit.add_argument(
        "--higher", metavar="METRIC", action="append", default=[], help="a metric where larger is better (repeatable)"
    )
    fit.add_argument("--out", metavar="DIR", help="folder that the fit is written to")
    fit.add_argument("--model", choices=MODELS, help="regression model (default: auto, or what CONFIG says)")
    fit.add_argument("--json", action="store_true", help="print one JSON array, an object a metric")
    fit.set_defaults(run=_fit)

    predict = command(mix, "predict", "predict the metrics of mixtures, with 90-percent intervals")
    predict.add_argument("--fit", metavar="DIR", required=True, help="folder that `mix fit` wrote")
    predict.add_argument("--ratios", metavar="CSV", required=True, help="mixtures: `index`, then one column a slice")
    predict.add_argument("--out", metavar="CSV", help="file to write (default: standard output)")
    predict.set_defaults(run=_predict)


def _config(parser: Any, optional: bool = False) -> None:
    if optional:
        parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML configuration of the mix")
    else:
        parser.add_argument("config", metavar="CONFIG", help="YAML configuration of the mix")
    parser.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], dest="assignments", help="override a key"
    )


def _proposal(parser: Any) -> None:
    parser.add_argument("--proposal", metavar="NAME", help="folder under `proposals` (default: the one written last)")


def add_scaling(commands: Any, command: Command) -> None:
    """Add `gristmill scaling` and its commands."""
    group = command(commands, "scaling", "fit a scaling law to training runs, predict with it, allocate compute")
    scaling = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    fit = command(scaling, "fit", "fit L(N, D) = E + A/N^a + B/D^b to runs")
    fit.add_argument("--runs", metavar="CSV", required=True, help="columns `parameters`, `tokens`, `loss`")
    fit.add_argument("--out", metavar="DIR", required=True, help="folder that the fit and its plot are written to")
    fit.add_argument("--bootstrap", metavar="N", type=int, default=200, help="refits that intervals rest on")
    fit.add_argument("--seed", metavar="SEED", type=int, default=1, help="seed of the refits")
    fit.add_argument("--json", action="store_true", help="print one JSON object")
    fit.set_defaults(run=_scaling, step="fit")

    predict = command(scaling, "predict", "predict a model's loss, with its 90-percent interval")
    predict.add_argument("--fit", metavar="DIR", required=True, help="folder that `scaling fit` wrote")
    predict.add_argument("--parameters", metavar="N", type=float, required=True, help="parameters of the model")
    predict.add_argument("--tokens", metavar="D", type=float, required=True, help="training tokens")
    predict.add_argument("--json", action="store_true", help="print one JSON object")
    predict.set_defaults(run=_scaling, step="predict")

    allocate = command(scaling, "allocate", "divide compute between parameters and tokens")
    allocate.add_argument("--fit", metavar="DIR", required=True, help="folder that `scaling fit` wrote")
    allocate.add_argument("--flops", metavar="C", type=float, required=True, help="floating-point operations to spend")
    allocate.add_argument(
        "--served-tokens", metavar="T", type=float, default=0.0, help="tokens that the model will serve in its life"
    )
    allocate.add_argument("--json", action="store_true", help="print one JSON object")
    allocate.set_defaults(run=_scaling, step="allocate")


def _step(arguments: argparse.Namespace) -> int:
    from flows.mix import run_step

    return run_step(
        arguments.step,
        arguments.config,
        arguments.assignments,
        dry_run=getattr(arguments, "dry_run", False),
        as_json=getattr(arguments, "json", False),
        proposal=getattr(arguments, "proposal", None),
        slice_name=getattr(arguments, "slice", None),
    )


def _fit(arguments: argparse.Namespace) -> int:
    from flows.mix import run_step
    from flows.tables import fit_tables

    tables = (arguments.ratios, arguments.metrics, arguments.out)
    if arguments.config is None:
        return fit_tables(*tables, arguments.model or "auto", arguments.higher, arguments.json)
    if any(tables) or arguments.higher:
        from pipeline.table.errors import UsageError

        raise UsageError(
            "mix fit: give either CONFIG, or --ratios, --metrics and --out; --higher belongs to these three"
        )
    assignments = [*arguments.assignments, *([f"fit.model={arguments.model}"] if arguments.model else [])]
    return run_step("fit", arguments.config, assignments, as_json=arguments.json)


def _predict(arguments: argparse.Namespace) -> int:
    from flows.tables import predict_tables

    return predict_tables(arguments.fit, arguments.ratios, arguments.out)


def _scaling(arguments: argparse.Namespace) -> int:
    from flows import tables

    if arguments.step == "fit":
        return tables.fit(arguments.runs, arguments.out, arguments.bootstrap, arguments.seed, arguments.json)
    if arguments.step == "predict":
        return tables.predict(arguments.fit, arguments.parameters, arguments.tokens, arguments.json)
    return tables.allocate(arguments.fit, arguments.flops, arguments.served_tokens, arguments.json)
