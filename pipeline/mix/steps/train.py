"""Training and measuring proxy runs: what is missing, in chunks, through the engine; under Prefect when it is long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.config import EarlyStopping, ProxyConfig, SwarmConfig
from pipeline.mix.folder import RUN, MixFolder, RunFolder
from pipeline.mix.proxies.curves import LearningCurves, extrapolated, measured_shares, stop_decisions
from pipeline.mix.proxies.ngram import NgramProxy
from pipeline.mix.steps.material import Material, require_runs
from pipeline.mix.steps.workspace import Desk, OpenMix
from pipeline.mix.types import Floats, Measure, Proxy, ProxyData, RunSpec, TokenTask, TrainedRun
from pipeline.mix.weights.mixture import load_mixture
from pipeline.mix.weights.noise import measure_noise, seed_noise
from pipeline.mix.weights.space import (
    Space,
    frozen_space,
    pool_tokens,
    reduced_constraints,
    whole_documents,
    whole_space,
)
from pipeline.mix.weights.swarm import draw_swarm, unjudged_slices
from pipeline.table.errors import ShardError
from pipeline.table.format import text_table
from pipeline.table.interrupts import stop_if_asked
from pipeline.table.kept import as_written, read_json, write_json
from pipeline.table.stages import Engine

CHUNKS_A_WORKER = 4
"""Runs go to a worker process in chunks: each new process loads torch again, and a long chunk leaves others idle."""
SECONDS_OF_WORK = 10.0
"""Training that takes longer than this is worth Prefect's start."""
TOKENS_A_SECOND = 20_000.0
"""What one core trains of a small proxy, roughly: only to tell seconds of work from minutes."""


@dataclass(frozen=True)
class Trainer:
    """What runs are trained and measured with. `data_keys` are the slices' content keys, in order."""

    config: ProxyConfig
    proxy: Proxy
    data: ProxyData
    data_keys: Sequence[str]
    folder: MixFolder
    desk: Desk

    def at(self, run: RunSpec) -> RunFolder:
        """Return a run's folder: named by its mixture and seed, by what its slices hold and by the kind of model."""
        slices = {
            store.name: [key, int(pool)]
            for store, key, pool, weight in zip(
                self.data.slices, self.data_keys, self.data.pool_tokens, run.weights, strict=True
            )
            if weight > 0
        }
        return self.folder.run(run, {"proxy": dict(self.proxy.identity), "slices": slices})


@dataclass(frozen=True)
class Job:
    """A run of which something is missing: its training up to a share of its tokens, or measures for these tasks."""

    run: RunSpec
    tasks: tuple[TokenTask, ...]
    until: float = 1.0


@dataclass(frozen=True)
class Results:
    """Runs and what was measured: `values` (n, m) in bits per byte, by run and task; `trained` in the runs' order."""

    runs: tuple[RunSpec, ...]
    tasks: tuple[str, ...]
    values: Floats
    trained: tuple[TrainedRun, ...]
    variances: Floats | None = None
    """(n, m): how uncertain values are that were extrapolated, of runs that early stopping ended; zero for measured."""


def train_and_measure(trainer: Trainer, runs: Sequence[RunSpec], tasks: Sequence[TokenTask], why: str) -> Results:
    """Train the runs that are missing and measure each on every task; what is there already stays as it is.

    Raises: GristmillError naming the run that failed; InterruptedRunError when asked to stop.
    """
    jobs = missing(trainer, runs, tasks)
    untrained = sum(trainer.at(job.run).trained() is None for job in jobs)
    if jobs:
        what = f"{untrained} of {len(runs)} runs to train" if untrained else f"{len(jobs)} kept runs to measure"
        trainer.desk.line(f"{why}: {what}, {max(len(job.tasks) for job in jobs)} tasks each")
        trainer.desk.run(why, trainer.config, untrained, lambda engine: do_jobs(trainer, jobs, engine, why))
    stop_if_asked(trainer.desk.stop)
    return _read(trainer, runs, tasks)


def missing(trainer: Trainer, runs: Sequence[RunSpec], tasks: Sequence[TokenTask]) -> list[Job]:
    """Return what is still to be done; a run that early stopping ended is done."""
    jobs = []
    for run in runs:
        folder = trainer.at(run)
        if folder.stopped_at() is not None:
            continue
        trained = folder.trained() is not None
        open_tasks = tuple(task for task in tasks if not trained or not folder.has_measure(task.key))
        if not trained or open_tasks:
            jobs.append(Job(run, open_tasks))
    return jobs


def do_jobs(trainer: Trainer, jobs: Sequence[Job], engine: Engine, why: str) -> None:
    """Do jobs, in chunks through an engine."""
    with trainer.desk.progress(why, len(jobs)) as advance:

        def finish(job: Job, trained: TrainedRun, measures: Sequence[Measure]) -> None:
            _save(trainer, job, trained, measures)
            if trainer.config.kind != "ngram":  # all of them together are seconds of work, and go at the end
                trainer.folder.publish(f"runs/{trainer.at(job.run).path.name}/")
            if advance is not None:
                advance()
            elif trainer.config.kind != "ngram":  # a line for each of thousands of runs that take no time tells nothing
                speed = f"{trained.tokens:,} tokens, {trained.cpu_s:.0f} CPU s"
                run = f"{job.run.kind} {job.run.run_id[:8]} seed {job.run.seed}"
                trainer.desk.line(f"{why}: {run}: {speed}, measured on {len(job.tasks)} tasks")

        if isinstance(trainer.proxy, NgramProxy):
            _count_all(trainer, trainer.proxy, jobs, finish)
            return
        size = _runs_a_process(trainer, jobs)
        chunks = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        engine.map(why, lambda chunk: _train_chunk(trainer, chunk, finish), chunks)


def _runs_a_process(trainer: Trainer, jobs: Sequence[Job]) -> int:
    """Return how many runs a worker process does: some chunks a worker, but none of less than seconds of training."""
    untrained = sum(trainer.at(job.run).trained() is None for job in jobs)
    seconds_a_run = untrained / len(jobs) * trainer.config.tokens / TOKENS_A_SECOND
    evenly = -(-len(jobs) // trainer.config.workers)
    worthwhile = evenly if seconds_a_run == 0 else int(SECONDS_OF_WORK / seconds_a_run)
    return max(1, -(-evenly // CHUNKS_A_WORKER), min(evenly, worthwhile))


Finish = Callable[[Job, TrainedRun, Sequence[Measure]], None]


def _train_chunk(trainer: Trainer, chunk: Sequence[Job], finish: Finish) -> None:
    """Train and measure some runs, one after the other, in a worker process of their own."""
    from pipeline.mix.proxies.transformer import pool
    from pipeline.mix.proxies.transformer.proxy import TransformerProxy

    assert isinstance(trainer.proxy, TransformerProxy)
    by_run = {job.run.run_id: job for job in chunk}
    jobs = [pool.Job(job.run, trainer.at(job.run).path, job.until, job.tasks) for job in chunk]
    for done in pool.run_all(trainer.proxy, jobs, 1, trainer.desk.stop, lambda run, tokens: None):
        finish(by_run[done.job.run.run_id], done.trained, done.measures)
    stop_if_asked(trainer.desk.stop)


def _count_all(trainer: Trainer, proxy: NgramProxy, jobs: Sequence[Job], finish: Finish) -> None:
    """Measure runs whose model is counts: all together they are seconds of work, seed by seed, as counts are kept."""
    for job in sorted(jobs, key=lambda job: job.run.seed):
        stop_if_asked(trainer.desk.stop)
        folder = trainer.at(job.run)
        trained = folder.trained() or proxy.train(job.run, folder.path)  # a run that is there is left as it is
        finish(job, trained, proxy.measure(job.run, folder.path, job.tasks))


def _save(trainer: Trainer, job: Job, trained: TrainedRun, measures: Sequence[Measure]) -> None:
    folder = trainer.at(job.run)
    for task, measure in zip(job.tasks, measures, strict=True):
        folder.save_measure(task.key, measure, job.until)
    if job.until == 1.0 and folder.trained() is None:
        folder.finish(job.run, tuple(store.name for store in trainer.data.slices), trained)


def _read(trainer: Trainer, runs: Sequence[RunSpec], tasks: Sequence[TokenTask]) -> Results:
    """Return what was measured; of runs that early stopping ended, what their curves lead to."""
    finished = [run for run in runs if trainer.at(run).stopped_at() is None]
    values = np.array([[_bits(trainer, run, task) for task in tasks] for run in finished])
    trained = []
    for run in finished:
        done = trainer.at(run).trained()
        if done is None:
            raise ShardError(f"{trainer.at(run).path} lost its {RUN} while it was read; run the same command again")
        trained.append(done)
    whole = Results(
        tuple(finished),
        tuple(task.name for task in tasks),
        values.reshape(len(finished), len(tasks)),
        tuple(trained),
    )
    return whole if len(finished) == len(runs) else with_stopped_runs(trainer, runs, tasks, whole)


def _bits(trainer: Trainer, run: RunSpec, task: TokenTask) -> float:
    measure = trainer.at(run).measured(task.key)
    if measure is None:
        where = trainer.at(run).path
        raise ShardError(f"{where} lost its measure of {task.name} while it was read; run the same command again")
    return measure.bits_per_byte


# The swarm ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """The swarm: its runs, and the space that they were drawn in."""

    runs: tuple[RunSpec, ...]
    space: Space


def draw(mix: OpenMix, found: Material) -> Drawn:
    """Return the swarm's runs, and keep a copy for people to read.

    Raises: ConfigError for bounds that no mixture meets.
    """
    drawn = _drawn(mix.config.swarm, found)
    rows = [
        {
            "run": run.run_id,
            "kind": run.kind,
            "seed": run.seed,
            "weights": dict(zip(found.names, run.weights.tolist(), strict=True)),
        }
        for run in drawn.runs
    ]
    write_json(mix.folder.swarm, rows)
    return drawn


def _drawn(config: SwarmConfig, found: Material) -> Drawn:
    space = whole_space(found.names)
    if config.reuse is not None:
        earlier = load_mixture(Path(config.reuse.mixture)).weights
        space = frozen_space(found.names, earlier, config.reuse.frozen)
    reduced_constraints(found.constraints, space).require_choice()
    return Drawn(tuple(draw_swarm(found.natural, found.bounds, config, space)), space)


def trainer(mix: OpenMix, found: Material, size: float = 1.0) -> Trainer:
    """Return what runs are trained with, at the proxies' size or a multiple of it.

    Raises: MissingDependencyError when the proxy's extra is not installed.
    """
    config, data = mix.config.proxy, found.data
    if size != 1.0:
        config = config.model_copy(
            update={"parameters": int(config.parameters * size), "tokens": int(config.tokens * size)}
        )
        counts = [each.tokens.n_tokens for each in found.built]
        pools = pool_tokens(counts, mix.config.budget_tokens, config.tokens, mix.config.swarm.match_target_epochs)
        data = ProxyData(data.slices, whole_documents(data.slices, pools), data.vocabulary, data.eos)
    proxy: Proxy
    if config.kind == "ngram":
        proxy = NgramProxy(config, data, mix.folder.root / "runs" / "ngram_counts")
    else:
        from pipeline.mix.proxies.transformer.proxy import TransformerProxy

        proxy = TransformerProxy(config, data)
    return Trainer(config, proxy, data, found.data_keys, mix.folder, mix.desk)


def train(mix: OpenMix, found: Material, runs: Sequence[RunSpec]) -> Results:
    """Train and measure the swarm, from rung to rung where runs may be stopped early.

    Raises: ConfigError for a swarm too small for a regression; GristmillError naming the run that failed.
    """
    require_runs(mix.config.fit.model, runs)
    for name, count in found.left_out.items():
        mix.desk.line(f"task {name}: {count} items left out, the training text of the kept proxies holds them")
    own = trainer(mix, found)
    if mix.config.proxy.early_stopping is not None and mix.config.proxy.kind == "transformer":
        weights = found.suite.config.weights()
        train_in_rungs(own, runs, found.tasks, weights, mix.config.proxy.early_stopping)
    return train_and_measure(own, runs, found.tasks, "swarm")


# Early stopping -------------------------------------------------------------------------------------------------------


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

    trainer.desk.run("early stopping", trainer.config, len(open_runs), work)


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
    trainer.desk.line(f"early stopping at {rung:.0%} of the tokens: {stopped} of {len(runs)} runs end here")


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
        trainer.desk.line(f"{count} stopped runs are left out: a task came after they were trained")
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


# Texts ----------------------------------------------------------------------------------------------------------------


def training_lines(mix: OpenMix, found: Material) -> list[str]:
    """Say how many runs of the swarm are to be trained, and why those that are kept do not do."""
    drawn = _drawn(mix.config.swarm, found)
    require_runs(mix.config.fit.model, drawn.runs)
    own = trainer(mix, found)
    folders = [own.at(run) for run in drawn.runs]
    is_kept = [each.trained() is not None or each.stopped_at() is not None for each in folders]
    finished = {each.parent.name for each in (mix.folder.root / "runs").glob("*/run.json")}
    started = {name.partition("-")[0] for name in finished}
    elsewhere = sum(r.run_id[:16] in started for r, kept in zip(drawn.runs, is_kept, strict=True) if not kept)
    count, to_train = len(drawn.runs), is_kept.count(False)
    kinds = f"{sum(run.kind == 'swarm' for run in drawn.runs)} mixtures and the baselines"
    lines = [f"swarm: {kinds} over {mix.config.swarm.replicates} seeds: {count} runs, {to_train} to train"]
    before: list[dict[str, Any]] = []
    drawn_before: set[str] = set()
    with suppress(ShardError), as_written(mix.folder.swarm):  # a damaged list of the last swarm is written anew
        before = read_json(mix.folder.swarm) or []
        drawn_before = {row["run"] for row in before} & {run.run_id for run in drawn.runs}
    if before and len(drawn_before) < min(len(before), count):
        lines.append(
            f"the swarm is another than the last, which had {len(drawn_before)} of these {count} runs: a pinned weight "
            "or another bound, other shares of slices, and the keys of `swarm` change it"
        )
    if elsewhere:
        lines.append(
            f"{elsewhere} of those to train were trained on other text or as other proxies: slices, tokenizer, "
            "budget_tokens or keys of `proxy` changed"
        )
    return [*lines, *_unjudged_lines(found, drawn)]


def swarm_text(found: Material, drawn: Drawn) -> str:
    """Return the mixtures to train, a line each, and what they cannot show."""
    rows = []
    for run in drawn.runs:
        weights = {name: f"{w:.4f}" for name, w in zip(found.names, run.weights.tolist(), strict=True)}
        rows.append({"run": run.run_id[:8], "kind": run.kind, "seed": run.seed, **weights})
    return "\n".join([text_table(rows).rstrip("\n"), *_unjudged_lines(found, drawn)])


def _unjudged_lines(found: Material, drawn: Drawn) -> list[str]:
    """Return a line for each slice whose effect these runs cannot show."""
    reasons = unjudged_slices(drawn.runs, found.bounds, drawn.space)
    return [f"{name} cannot be judged: {reason}" for name, reason in reasons.items()]


def ngram_ranks(mix: OpenMix, found: Material, results: Results) -> dict[str, float | None]:
    """Return how n-gram proxies rank the same mixtures, task by task: whether they would have done for a first look."""
    if mix.config.proxy.kind == "ngram":
        return {}
    from pipeline.mix.regression.choice import spearman

    proxy = NgramProxy(mix.config.proxy, found.data, mix.folder.root / "runs" / "ngram_counts")
    weights = np.stack([run.weights for run in results.runs])
    counted = proxy.measure_mixtures(weights, found.tasks)
    columns = {task.name: counted[:, i] for i, task in enumerate(found.tasks)}
    return {name: spearman(columns[name], results.values[:, i]) for i, name in enumerate(results.tasks)}


def results_text(results: Results, ngram_ranks: Mapping[str, float | None]) -> str:
    """Return what was measured, a line a task."""
    noise = measure_noise(results.runs, results.values, results.tasks)
    rows = []
    for task, row, column in zip(results.tasks, noise.rows(), results.values.T, strict=True):
        ratio = row["ratio"]
        rows.append(
            {
                "task": task,
                "best": f"{column.min():.4f}",
                "median": f"{np.median(column):.4f}",
                "worst": f"{column.max():.4f}",
                "seed_sd": _number(row["seed_std"], 5),
                "signal_to_noise": _number(ratio, 1),
                **({"ngram_rank": _number(ngram_ranks[task], 3)} if ngram_ranks else {}),
                "flag": "mostly noise: weighted down" if isinstance(ratio, float) and ratio < 3 else "",
            }
        )
    return text_table(rows)


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else "-"
