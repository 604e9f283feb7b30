"""Early stopping: runs are trained from rung to rung, and those that will not be among the best stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from flows.mix_train import Job, Results, Trainer, do_jobs, with_engine
from pipeline.mix.config import EarlyStopping
from pipeline.mix.curves import LearningCurves, extrapolated, measured_shares, stop_decisions
from pipeline.mix.noise import seed_noise
from pipeline.mix.types import Floats, RunSpec, TokenTask, TrainedRun
from pipeline.table.stages import Engine


def train_in_rungs(
    trainer: Trainer,
    runs: Sequence[RunSpec],
    tasks: Sequence[TokenTask],
    weights: Mapping[str, float],
    config: EarlyStopping,
) -> None:
    """Train runs up to each rung, measure them there, and stop those with little chance to end among the best.

    What decides is the suite's weighted metric. Baselines never stop: everything is compared with them. Runs that are
    finished or stopped already stay as they are. The last stretch, to the end, is left to `train_and_measure`.
    """
    open_runs = [run for run in runs if trainer.at(run).trained() is None and trainer.at(run).stopped_at() is None]
    if not open_runs:
        return

    def work(engine: Engine) -> None:
        for share in measured_shares(config):
            going = [run for run in open_runs if trainer.at(run).stopped_at() is None]
            jobs = [
                Job(run, tuple(tasks), share)
                for run in going
                if not all(trainer.at(run).has_measure(task.key, share) for task in tasks)
            ]
            do_jobs(trainer, jobs, engine, f"up to {share:.0%}")
            if any(abs(share - rung) < 1e-9 for rung in config.rungs):
                _stop_some(trainer, runs, tasks, weights, config, share)

    with_engine(trainer, len(open_runs), "early stopping", work)


def _stop_some(
    trainer: Trainer,
    runs: Sequence[RunSpec],
    tasks: Sequence[TokenTask],
    weights: Mapping[str, float],
    config: EarlyStopping,
    rung: float,
) -> None:
    shares = measured_shares(config)
    own = [task for task in tasks if weights.get(task.name)]
    scale = np.array([weights[task.name] for task in own])
    by_task = np.stack([_curve(trainer, runs, task, shares) for task in own], axis=-1)
    losses = by_task @ (scale / np.abs(scale).sum())
    at_rung = losses[:, [shares.index(rung)]]
    noise, degrees = seed_noise(runs, at_rung)
    known = float(noise[0]) if degrees[0] > 0 and np.isfinite(noise[0]) else None
    total = float(trainer.config.tokens)
    curves = LearningCurves(np.array(shares) * total, losses, total, known)
    stopping = stop_decisions(curves, rung, config, trainer.config.seed)
    stopped = 0
    for run, stops in zip(runs, stopping.tolist(), strict=True):
        if stops and run.kind == "swarm" and trainer.at(run).trained() is None:
            trainer.at(run).stop(rung)
            stopped += 1
    trainer.reporter.line(f"early stopping at {rung:.0%} of the tokens: {stopped} of {len(runs)} runs end here")


def _curve(trainer: Trainer, runs: Sequence[RunSpec], task: TokenTask, shares: Sequence[float]) -> Floats:
    """Return the bits per byte of each run at each share (n, r); NaN where it was not measured."""
    rows = []
    for run in runs:
        measures = [trainer.at(run).measured(task.key, share) for share in shares]
        rows.append([np.nan if measure is None else measure.bits_per_byte for measure in measures])
    return np.array(rows, np.float64).reshape(len(runs), len(shares))


def with_stopped_runs(trainer: Trainer, runs: Sequence[RunSpec], tasks: Sequence[TokenTask], whole: Results) -> Results:
    """Return results with the stopped runs put in: what their curves lead to, and how uncertain that is.

    A stopped run that a later suite's task was not measured on at the rungs is left out, and the run is named.
    """
    config = trainer.config.early_stopping or EarlyStopping()
    shares = (*measured_shares(config), 1.0)
    total = float(trainer.config.tokens)
    values, variances = np.empty((len(runs), len(tasks))), np.zeros((len(runs), len(tasks)))
    for column, task in enumerate(tasks):
        losses = _curve(trainer, runs, task, shares)
        mean, sd = extrapolated(LearningCurves(np.array(shares) * total, losses, total))
        unknown = np.isnan(losses).all(axis=1)
        values[:, column], variances[:, column] = np.where(unknown, np.nan, mean), sd**2
    kept: list[int] = np.flatnonzero(np.isfinite(values).all(axis=1)).tolist()
    if len(kept) < len(runs):
        count = len(runs) - len(kept)
        trainer.reporter.line(f"{count} stopped runs are left out: a task came after they were trained")
    finished = dict(zip((run.run_id for run in whole.runs), whole.trained, strict=True))
    return replace(
        whole,
        runs=tuple(runs[i] for i in kept),
        values=values[kept],
        variances=variances[kept],
        trained=tuple(finished.get(runs[i].run_id) or _cost(trainer, runs[i]) for i in kept),
    )


def _cost(trainer: Trainer, run: RunSpec) -> TrainedRun:
    """Return what a stopped run cost."""
    return trainer.proxy.train(run, trainer.at(run).path, trainer.at(run).stopped_at() or 1.0)
