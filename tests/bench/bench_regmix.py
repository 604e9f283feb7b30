"""Every regression model on published swarms: rank correlation, error, coverage, and CPU seconds.

    python tests/bench/bench_regmix.py DATA [--runs 51 512] [--splits 10] [--models linear auto ...] [--json FILE]

DATA holds RegMix's `train_mixture_1m.csv`, `train_pile_loss_1m.csv` and the same of `test`: models are fitted on the
first `--runs` training rows and held against all test rows. Or it holds swarms as OLMix publishes them, `X_ratios.csv`
and `X_metrics.csv` joined by their column `run`: models are fitted on random four fifths of the rows and held against
the rest, `--splits` times; what is predicted is the mean of all metrics. `direct` is a fit to that mean itself.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.regression.choice import scores, spearman
from pipeline.mix.regression.fitting import Fit, fit
from pipeline.mix.regression.tables import RunTable, read_tables

MODELS = ["linear", "log_linear", "effective_data", "gp", "lightgbm", "auto"]
KEYS = ("spearman", "pearson", "mse", "coverage")
COLUMNS = (
    "spearman",
    "rmse",
    "cover",
    "cover_mean",
    "spearman_each",
    "cover_each",
    "direct",
    "direct_rmse",
    "fit_cpu_s",
)


def timed_fit(train: RunTable, model: Any) -> tuple[Fit, float, float]:
    """Return a fit, its seconds and its CPU seconds."""
    started, cpu = time.perf_counter(), time.process_time()
    names = {"slice_names": train.slice_names, "metric_names": train.metric_names}
    fitted = fit(train.weights, train.values, model=model, **names)
    return fitted, time.perf_counter() - started, time.process_time() - cpu


def rows_of(table: RunTable, chosen: Any) -> RunTable:
    index = tuple(np.array(table.index)[chosen].tolist())
    return RunTable(table.slice_names, table.metric_names, index, table.weights[chosen], table.values[chosen])


def measure(train: RunTable, test: RunTable, runs: int, model: Any) -> tuple[dict[str, Any], Fit]:
    fitted, seconds, cpu = timed_fit(rows_of(train, slice(runs)), model)
    predicted = fitted.predict(test.weights)
    covered = (test.values >= predicted.low) & (test.values <= predicted.high)
    found = scores(predicted.mean, test.values, covered)
    chosen = [row["model"] for row in fitted.report["metrics"]]
    rows = {
        short(name): row | {"model": used} for name, row, used in zip(test.metric_names, found, chosen, strict=True)
    }
    return {"runs": runs, "model": model, "fit_s": seconds, "fit_cpu_s": cpu, "metrics": rows}, fitted


def short(name: str) -> str:
    return name.removeprefix("metric/the_pile_").removesuffix("_val_loss")


def time_predictions(fitted: Fit) -> tuple[float, float]:
    """Return seconds and CPU seconds of 10,000 mixtures with intervals."""
    many = np.random.default_rng(0).dirichlet(np.full(len(fitted.slice_names), 0.3), 10_000)
    started, cpu = time.perf_counter(), time.process_time()
    fitted.predict(many)
    return time.perf_counter() - started, time.process_time() - cpu


def show(result: dict[str, Any]) -> None:
    rows = result["metrics"]
    print(f"\n{result['model']}, {result['runs']} runs: fit {result['fit_s']:.1f} s ({result['fit_cpu_s']:.1f} CPU s), "
          f"predict 10,000 {result['predict_s']:.2f} s ({result['predict_cpu_s']:.2f} CPU s)")  # fmt: skip
    print(f"{'metric':<20}" + "".join(f"{key:>10}" for key in KEYS) + "  model")
    for name, row in rows.items():
        print(f"{name:<20}" + "".join(f"{row[key]:>10.4f}" for key in KEYS) + f"  {row['model']}")
    means = [np.mean([row[key] for row in rows.values()]) for key in KEYS]
    print(f"{'mean':<20}" + "".join(f"{mean:>10.4f}" for mean in means), flush=True)


def regmix(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    train, test = (
        read_tables(arguments.data / f"{part}_mixture_1m.csv", arguments.data / f"{part}_pile_loss_1m.csv")
        for part in ("train", "test")
    )
    results = []
    for runs in arguments.runs:
        for model in arguments.models:
            result, fitted = measure(train, test, runs, model)
            result["predict_s"], result["predict_cpu_s"] = time_predictions(fitted)
            show(result)
            results.append(result)
    print("\nRegMix's paper, Pile-CC at 1M, Spearman: linear 0.90, LightGBM 0.99")
    return results


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
    fitted, _, cpu = timed_fit(train, model)
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


def swarm(ratios: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    table = read_swarm(ratios)
    n, k, m = *table.weights.shape, len(table.metric_names)
    print(f"\n{ratios.name}: {n} runs x {k} slices x {m} metrics; mean of all, {arguments.splits} random splits")
    print("| model | " + " | ".join(COLUMNS) + " |\n| --- |" + " ---: |" * len(COLUMNS))
    results = []
    for model in arguments.models:
        found = [judge_split(table, split, model) for split in range(arguments.splits)]
        means = {key: float(np.mean([one[key] for one in found])) for key in COLUMNS}
        print(f"| {model} | " + " | ".join(f"{means[key]:.4f}" for key in COLUMNS) + " |", flush=True)
        results.append({"swarm": ratios.name, "model": model, "splits": found})
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, nargs="+", default=[51, 512])
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    print(", ".join(f"{name} {version(name)}" for name in ("gristmill", "numpy", "scipy", "lightgbm")))
    swarms = sorted(arguments.data.glob("*_ratios.csv"))
    results = [one for path in swarms for one in swarm(path, arguments)] if swarms else regmix(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
