"""Every regression model on published swarms: rank correlation, error, coverage, and CPU seconds.

    python tests/bench/bench_regmix.py DATA [--runs 51 512] [--splits 10] [--models linear auto ...]

DATA holds RegMix's `train_mixture_1m.csv`, `train_pile_loss_1m.csv` and the same of `test`: models are fitted on the
first `--runs` training rows and held against all test rows. Or it holds swarms as OLMix publishes them, `X_ratios.csv`
and `X_metrics.csv` joined by their column `run`: models are fitted on random four fifths of the rows and held against
the rest, `--splits` times; what is predicted is the mean of all metrics. `direct` is a fit to that mean itself.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.regression.choice import scores, spearman
from pipeline.mix.regression.fitting import Fit, fit
from pipeline.mix.regression.tables import RunTable, read_tables
from tests.bench.tables import Table, bench_parser

MODELS = ["linear", "log_linear", "effective_data", "gp", "lightgbm", "auto"]
KEYS = ("spearman", "pearson", "mse", "coverage")


def timed_fit(train: RunTable, model: Any) -> tuple[Fit, float]:
    """Return a fit and its CPU seconds."""
    cpu = time.process_time()
    names = {"slice_names": train.slice_names, "metric_names": train.metric_names}
    fitted = fit(train.weights, train.values, model=model, **names)
    return fitted, time.process_time() - cpu


def rows_of(table: RunTable, chosen: Any) -> RunTable:
    index = tuple(np.array(table.index)[chosen].tolist())
    return RunTable(table.slice_names, table.metric_names, index, table.weights[chosen], table.values[chosen])


def measure(train: RunTable, test: RunTable, runs: int, model: str, table: Table) -> None:
    """Add a row for each metric, and one of their means with the CPU seconds of the whole fit."""
    fitted, cpu = timed_fit(rows_of(train, slice(runs)), model)
    predicted = fitted.predict(test.weights)
    covered = (test.values >= predicted.low) & (test.values <= predicted.high)
    found = scores(predicted.mean, test.values, covered)
    chosen = [row["model"] for row in fitted.report["metrics"]]
    for name, row, used in zip(test.metric_names, found, chosen, strict=True):
        metric = name.removeprefix("metric/the_pile_").removesuffix("_val_loss")
        table.row(runs, model, metric, *(row[key] for key in KEYS), used, None, None)
    means = (float(np.mean([row[key] for row in found])) for key in KEYS)
    table.row(runs, model, "mean", *means, None, cpu, time_predictions(fitted))


def time_predictions(fitted: Fit) -> float:
    """Return the CPU seconds of 10,000 mixtures with intervals."""
    many = np.random.default_rng(0).dirichlet(np.full(len(fitted.slice_names), 0.3), 10_000)
    cpu = time.process_time()
    fitted.predict(many)
    return time.process_time() - cpu


def regmix(arguments: argparse.Namespace) -> None:
    train, test = (
        read_tables(arguments.data / f"{part}_mixture_1m.csv", arguments.data / f"{part}_pile_loss_1m.csv")
        for part in ("train", "test")
    )
    columns = "runs model metric spearman pearson mse coverage used fit_cpu_s predict_10000_cpu_s"
    table = Table("regmix", arguments.csv, columns)
    for runs in arguments.runs:
        for model in arguments.models:
            measure(train, test, runs, model, table)


def read_swarm(ratios: Path) -> RunTable:
    """Return a swarm whose tables have columns before `index` that name the run."""
    tables = []
    for path in (ratios, ratios.with_name(ratios.name.replace("_ratios", "_metrics"))):
        head, *rows = csv.reader(path.read_text().splitlines())
        first = head.index("index") + 1
        tables.append((head[first:], {row[head.index("run")]: [float(cell) for cell in row[first:]] for row in rows}))
    (slices, weights), (metrics, values) = tables
    assert weights.keys() == values.keys()
    arrays = (np.array([each[run] for run in weights]) for each in (weights, values))
    return RunTable(tuple(slices), tuple(metrics), tuple(weights), *arrays)


def judge_split(table: RunTable, split: int, model: str) -> dict[str, float]:
    """Return how the mean of all metrics is predicted on a fifth of the runs by a fit to the others."""
    order = np.random.default_rng(split).permutation(len(table.index))
    cut = 4 * len(order) // 5
    train, test = rows_of(table, order[:cut]), rows_of(table, order[cut:])
    parts = np.full(len(table.metric_names), 1 / len(table.metric_names))
    truth = test.values @ parts
    fitted, cpu = timed_fit(train, model)
    total, each = fitted.total(test.weights, parts), fitted.predict(test.weights)
    whole = RunTable(train.slice_names, ("mean",), train.index, train.weights, (train.values @ parts)[:, None])
    direct = timed_fit(whole, model)[0].mean(test.weights)[:, 0]
    return {
        "spearman": spearman(total.mean[:, 0], truth) or 0.0,
        "rmse": float(np.sqrt(((total.mean[:, 0] - truth) ** 2).mean())),
        "cover": float(((total.low[:, 0] <= truth) & (truth <= total.high[:, 0])).mean()),
        "cover_mean": float(((total.mean_low[:, 0] <= truth) & (truth <= total.mean_high[:, 0])).mean()),
        "spearman_each": float(
            np.mean([spearman(p, t) or 0.0 for p, t in zip(each.mean.T, test.values.T, strict=True)])
        ),
        "cover_each": float(((each.low <= test.values) & (test.values <= each.high)).mean()),
        "direct": spearman(direct, truth) or 0.0,
        "direct_rmse": float(np.sqrt(((direct - truth) ** 2).mean())),
        "fit_cpu_s": cpu,
    }


def swarm(ratios: Path, arguments: argparse.Namespace) -> None:
    runs = read_swarm(ratios)
    print(f"{ratios.name}: {runs.weights.shape} runs and slices, {len(runs.metric_names)} metrics; the mean of all")
    columns = "model splits spearman rmse cover cover_mean spearman_each cover_each direct direct_rmse fit_cpu_s"
    table = Table(f"swarm-{ratios.stem.removesuffix('_ratios')}", arguments.csv, columns)
    for model in arguments.models:
        found = [judge_split(runs, split, model) for split in range(arguments.splits)]
        means = (float(np.mean([one[key] for one in found])) for key in table.columns[2:])
        table.row(model, arguments.splits, *means)


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, nargs="+", default=[51, 512])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    arguments = parser.parse_args()
    swarms = sorted(arguments.data.glob("*_ratios.csv"))
    for path in swarms:
        swarm(path, arguments)
    if not swarms:
        regmix(arguments)


if __name__ == "__main__":
    main()
