"""Does the mix decide well? Variants of the quickstart's mix, each then measured with fresh paired seeds.

    python tests/bench/bench_mix_decisions.py WORKSPACE SCRATCH [--variants 40] [--seeds 12]

WORKSPACE is the quickstart's folder (`.quickstart`), which is only read. A variant has its own suite, swarm seed and
proxy seed. Of each: whether what was written is significantly worse than another candidate (paired t, 90 %), how many
fresh runs of it lie in its 90 % interval, and by how many standard errors its weights differ from those of a twin with
another proxy seed.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from contextlib import chdir, redirect_stderr
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import t

from flows.mix import MixDesk, run_step
from flows.progress import Reporter
from pipeline.mix.steps.choose import fit_results, observed, propose_mixture
from pipeline.mix.steps.material import material
from pipeline.mix.steps.train import draw, train_and_measure, trainer
from pipeline.mix.steps.workspace import opened_mix
from pipeline.mix.weights.mixture import load_mixture
from pipeline.table.interrupts import Stop
from tests.bench.tables import Table, bench_parser

FIRST_SEED = 50_000
"""Behind every seed of a swarm and of verification."""


def suites(folder: Path) -> list[Path]:
    """Write suites of several mixes of the quickstart's tasks, and return their files."""
    reference, functions = (
        {"name": name, "path": f".quickstart/eval/{name}.jsonl", "group": name} for name in ("reference", "functions")
    )
    held = {name: {"slice": name, "group": name} for name in ("web", "readmes", "modules", "packages")}
    choices = [
        ([reference], ["readmes", "web"]),
        ([functions], ["modules"]),
        ([functions, reference], []),
        ([reference], ["packages"]),
        ([functions], ["readmes", "web", "packages"]),
        ([], ["web"]),
        ([], ["readmes", "modules"]),
        ([reference], []),
        ([functions], []),
        ([], ["web", "readmes", "modules", "packages"]),
    ]
    paths = []
    for number, (tasks, slices) in enumerate(choices):
        path = folder / f"suite{number}.yaml"
        path.write_text(yaml.safe_dump({"tasks": tasks, "held_out": [held[name] for name in slices]}))
        paths.append(path)
    return paths


def variant(config: str, settings: list[str], seeds: int) -> dict[str, object]:
    """Run one variant and measure its candidates with fresh seeds."""
    with redirect_stderr(StringIO()):
        run_step("run", config, settings)
    with (
        redirect_stderr(StringIO()),
        opened_mix(config, settings, "bench", MixDesk(Reporter(), Stop())) as mix,
    ):
        found = material(mix)
        drawn = draw(mix, found)
        own = trainer(mix, found)
        fitted = fit_results(mix, found, train_and_measure(own, drawn.runs, found.tasks, "swarm"), drawn.space)
        proposal = propose_mixture(mix, found, fitted)
        written = load_mixture(fitted.folder.mixture)
        names = ["written", "proposal", *observed(found, fitted)]
        points = np.stack([written.vector, proposal.vector, *observed(found, fitted).values()])
        tasks = [task for task in found.tasks if task.name in found.suite_tasks]
        shares = np.array([written.provenance.task_weights[task.name] for task in tasks])
        measured = np.stack(
            [own.proxy.measure_mixtures(points, tasks, seed=FIRST_SEED + s) for s in range(seeds)]
        )  # (seeds, candidates, tasks)
    metric = measured @ (shares / np.abs(shares).sum())
    paired = metric[:, :1] - metric
    error = paired.std(0, ddof=1) / np.sqrt(seeds)
    worse = {
        name: float(paired[:, i].mean())
        for i, name in enumerate(names)
        if i and error[i] > 0 and paired[:, i].mean() > t.ppf(0.95, seeds - 1) * error[i]
    }
    told = [written.predicted.metric, *(written.predicted.tasks[task.name] for task in tasks)]
    values = np.column_stack([metric[:, 0], measured[:, 0]])
    inside = [
        int(((told_one.low <= v) & (v <= told_one.high)).sum()) for told_one, v in zip(told, values.T, strict=True)
    ]
    return {
        "uses": written.verified.uses,
        "evidence": written.evidence,
        "kl": written.provenance.kl,
        "worse_than": worse,
        "inside": inside,
        "seeds": seeds,
        "regret": float(metric.mean(0)[0] - metric.mean(0).min()),
        "gain": float((metric[:, 2] - metric[:, 0]).mean()),
        "gain_told": asdict(written.predicted.improvement),
        "proposal_error": float(metric[:, 1].mean() - proposal.metric.value),
        "optimism": proposal.optimism,
        "weights": written.weights,
        "low": {name: each.low for name, each in written.slices.items()},
        "high": {name: each.high for name, each in written.slices.items()},
    }


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("quickstart", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--variants", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=12)
    given = parser.parse_args()
    root = Path(__file__).resolve().parents[2]
    if not given.scratch.exists():
        shutil.copytree(given.quickstart, given.scratch / ".quickstart", symlinks=True)
        shutil.rmtree(given.scratch / ".quickstart/workspace/mix", ignore_errors=True)
        shutil.copytree(root / "configs", given.scratch / "configs")
    rows = []
    with chdir(given.scratch):
        files = suites(Path())
        everything = ",".join(map(str, files))
        for number in range(given.variants):
            suite, pair = files[number // 2 % len(files)], number // 2
            settings = [f"suite={suite}", f"measure=[{everything}]", f"swarm.seed={7 + 100 * (pair // len(files))}"]
            settings += [f"proxy.seed={1 + number % 2 * 10 + pair}"]
            started = time.process_time()
            row = variant("configs/mixes/quickstart.yaml", settings, given.seeds)
            rows.append({"settings": settings, "cpu_s": time.process_time() - started, **row})
            Path("decisions.json").write_text(json.dumps(rows, indent=1))
            print(
                number,
                suite,
                {k: rows[-1][k] for k in ("uses", "evidence", "kl", "worse_than", "inside")},
                file=sys.stderr,
            )
    show(rows, Table("mix-decisions", given.csv, "figure value of"))


def show(rows: list[dict[str, object]], table: Table) -> None:
    """Add rows of what the variants come to."""
    worse = sum(bool(row["worse_than"]) for row in rows)
    whole = np.array([row["inside"][0] / row["seeds"] for row in rows])
    tasks = np.array([inside / row["seeds"] for row in rows for inside in row["inside"][1:]])
    twins = list(zip(rows[::2], rows[1::2], strict=False))
    apart = []
    for left, right in twins:
        for name in left["weights"]:
            widths = [(row["high"][name] - row["low"][name]) / 2 / 1.645 for row in (left, right)]
            apart.append(abs(left["weights"][name] - right["weights"][name]) / max(np.hypot(*widths), 1e-9))
    table.row("variants whose written mixture is significantly worse than another candidate", worse, len(rows))
    table.row("fresh runs inside the 90 % interval: suite metric", float(whole.mean()), None)
    table.row("fresh runs inside the 90 % interval: tasks", float(tasks.mean()), None)
    near = float(np.mean(np.array(apart) <= 1.645))
    table.row("weights of two proxy seeds within 1.645 standard errors", near, len(apart))
    for name in ("uses", "evidence", "kl"):
        values = [str(row[name]) for row in rows]
        for value in sorted(set(values)):
            table.row(f"{name} {value}", values.count(value), len(rows))
    held = [row["gain_told"]["low"] <= row["gain"] <= row["gain_told"]["high"] for row in rows]
    for name in ("regret", "gain", "proposal_error", "cpu_s"):
        table.row(f"mean {name}", float(np.mean([row[name] for row in rows])), None)
    table.row("mean gain told", float(np.mean([row["gain_told"]["value"] for row in rows])), None)
    table.row("gain within the interval told", float(np.mean(held)), None)


if __name__ == "__main__":
    main()
