"""Every regression model on RegMix's swarm: rank correlation, correlation, error, coverage, and CPU seconds.

    python tests/bench/bench_regmix.py DATA [--runs 51 512] [--models linear auto ...] [--json FILE]

DATA holds RegMix's `train_mixture_1m.csv`, `train_pile_loss_1m.csv` and the same of `test`. Models are fitted on the
first so many training rows and held against all test rows. The paper's numbers for Pile-CC are printed below.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

from pipeline.mix.regression import Fit, RunTable, fit, read_tables
from pipeline.mix.regression.scores import scores

MODELS = ["linear", "log_linear", "additive", "effective_data", "gp", "lightgbm", "ensemble", "auto"]
KEYS = ("spearman", "pearson", "mse", "coverage")


def measure(train: RunTable, test: RunTable, runs: int, model: Any) -> tuple[dict[str, Any], Fit]:
    started, cpu = time.perf_counter(), time.process_time()
    names = {"slice_names": train.slice_names, "metric_names": train.metric_names}
    fitted = fit(train.weights[:runs], train.values[:runs], model=model, **names)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, nargs="+", default=[51, 512])
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
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
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
