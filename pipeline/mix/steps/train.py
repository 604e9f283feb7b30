"""Training and measuring proxy runs: what is missing, in chunks, through the engine; under Prefect when it is long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.config import EarlyStopping, ProxyConfig
from pipeline.mix.folder import RUN, MixFolder, RunFolder
from pipeline.mix.proxies.curves import LearningCurves, extrapolated, measured_shares, stop_decisions
from pipeline.mix.proxies.ngram import NgramProxy
from pipeline.mix.proxies.transformer.proxy import TransformerProxy
from pipeline.mix.regression.choice import spearman
from pipeline.mix.steps.types import Desk, Drawn, Material, OpenMix, Results
from pipeline.mix.types import Floats, Job, Proxy, ProxyData, RunSpec, TokenTask
from pipeline.mix.weights.mixture import load_mixture
from pipeline.mix.weights.noise import measure_noise, seed_noise
from pipeline.mix.weights.space import frozen_space, pool_tokens, reduced_constraints, whole_documents, whole_space
from pipeline.mix.weights.swarm import draw_swarm, unjudged_slices
from pipeline.table.errors import ConfigError, InputError, ShardError
from pipeline.table.format import Answer, text_table
from pipeline.table.interrupts import stop_if_asked
from pipeline.table.kept import as_written, read_json, write_json
from pipeline.table.stages import Engine

LEAST_MIXTURES, LEAST_MIXTURES_OF_TREES = 3, 20
"""What a regression can be told apart from: a tree's leaf holds five runs, and folds leave a part of the runs out."""
CHUNKS_A_WORKER = 4
"""Runs go to a worker process in chunks: each new process loads torch again, and a long chunk leaves others idle."""
SECONDS_OF_WORK = 10.0
"""Training that takes longer than this is worth Prefect's start."""
TOKENS_A_SECOND = 20_000.0
"""What one core trains of a small proxy, roughly: only to tell seconds of work from minutes."""


# The swarm ------------------------------------------------------------------------------------------------------------


def draw(mix: OpenMix, found: Material) -> Drawn:
    """Return the swarm's runs, and keep a copy for people to read.

    Raises: ConfigError for bounds that no mixture meets.
    """
    drawn = _drawn(mix, found)
    rows = [
        {"run": run.run_id, "kind": run.kind, "seed": run.seed, "weights": named_weights(found.names, run.weights)}
        for run in drawn.runs
    ]
    write_json(mix.folder.swarm, rows)
    return drawn


def _drawn(mix: OpenMix, found: Material) -> Drawn:
    space, reuse = whole_space(found.names), mix.config.swarm.reuse
    if reuse is not None:
        space = frozen_space(found.names, load_mixture(Path(reuse.mixture)).weights, reuse.frozen)
    reduced_constraints(found.constraints, space).require_choice()
    return Drawn(tuple(draw_swarm(found.natural, found.constraints, mix.config.swarm, space)), space)


def named_weights(names: Sequence[str], weights: Floats) -> dict[str, float]:
    """Return the weight of each slice by its name."""
    return dict(zip(names, weights.tolist(), strict=True))


def require_mixtures(model: str, count: int) -> None:
    """Refuse a swarm that is too small for a regression, before it is trained.

    Raises: ConfigError.
    """
    least = LEAST_MIXTURES_OF_TREES if model == "lightgbm" else LEAST_MIXTURES
    if count < least:
        raise ConfigError(
            f"fit.model: {model} needs {least} different mixtures, and the swarm has {count}; raise swarm.runs"
            + (", choose another model" if model == "lightgbm" else "")
            + ", or loosen the slices' bounds"
        )


# Training -------------------------------------------------------------------------------------------------------------


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
        proxy = NgramProxy(config, data, mix.folder.ngram_counts)
    else:
        proxy = TransformerProxy(config, data)
    return Trainer(config, proxy, data, found.data_keys, mix.folder, mix.desk)


def train(mix: OpenMix, found: Material, runs: Sequence[RunSpec]) -> Results:
    """Train and measure the swarm, from rung to rung where runs may be stopped early.

    Raises: ConfigError for a swarm too small for a regression; GristmillError naming the run that failed.
    """
    require_mixtures(mix.config.fit.model, _mixtures(runs))
    for name, count in found.left_out.items():
        mix.desk.line(f"task {name}: {count} items left out, the training text of the kept proxies holds them")
    own, stopping = trainer(mix, found), mix.config.proxy.early_stopping
    if stopping is not None and not own.proxy.is_quick:
        train_in_rungs(own, runs, found.tasks, found.suite.config.weights(), stopping)
    return train_and_measure(own, runs, found.tasks, "swarm")


def _mixtures(runs: Sequence[RunSpec]) -> int:
    return len(np.unique(np.round([run.weights for run in runs], 9), axis=0))


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
            jobs.append(Job(run, folder.path, open_tasks))
    return jobs


def do_jobs(trainer: Trainer, jobs: Sequence[Job], engine: Engine, why: str) -> None:
    """Do jobs, in chunks through an engine."""
    size = runs_a_process(trainer, jobs)
    with trainer.desk.progress(why, len(jobs)) as advance:

        def do(chunk: Sequence[Job]) -> None:
            for done in trainer.proxy.perform(chunk, trainer.desk.stop):
                run, folder = done.job.run, trainer.at(done.job.run)
                for task, measure in zip(done.job.tasks, done.measures, strict=True):
                    folder.save_measure(task.key, measure, done.job.until)
                if done.job.until == 1.0 and folder.trained() is None:
                    folder.finish(run, tuple(store.name for store in trainer.data.slices), done.trained)
                if not trainer.proxy.is_quick:
                    trainer.folder.publish(f"runs/{folder.path.name}/")
                if advance is not None:
                    advance()
                elif not trainer.proxy.is_quick:  # a line for each of thousands of runs that take no time tells nothing
                    speed = f"{done.trained.tokens:,} tokens, {done.trained.cpu_s:.0f} CPU s"
                    name = f"{run.kind} {run.run_id[:8]} seed {run.seed}"
                    trainer.desk.line(f"{why}: {name}: {speed}, measured on {len(done.job.tasks)} tasks")
            stop_if_asked(trainer.desk.stop)

        engine.map(why, do, [jobs[start : start + size] for start in range(0, len(jobs), size)])


def runs_a_process(trainer: Trainer, jobs: Sequence[Job]) -> int:
    """Return how many runs a worker process does: some chunks a worker, but none of less than seconds of training."""
    if trainer.proxy.is_quick or not jobs:
        return max(1, len(jobs))
    untrained = sum(trainer.at(job.run).trained() is None for job in jobs)
    seconds_a_run = untrained / len(jobs) * trainer.config.tokens / TOKENS_A_SECOND
    evenly = -(-len(jobs) // trainer.config.workers)
    worthwhile = evenly if seconds_a_run == 0 else int(SECONDS_OF_WORK / seconds_a_run)
    return max(1, -(-evenly // CHUNKS_A_WORKER), min(evenly, worthwhile))


def _read(trainer: Trainer, runs: Sequence[RunSpec], tasks: Sequence[TokenTask]) -> Results:
    """Return what was measured; of runs that early stopping ended, what their curves lead to, and how uncertain it is.

    A stopped run that a later suite's task was not measured on at the rungs is left out, and a line says so.
    """
    values = np.column_stack([_curve(trainer, runs, task, (1.0,)) for task in tasks])
    variances, kept, trained = None, list(range(len(runs))), []
    for run, row in zip(runs, values, strict=True):
        folder = trainer.at(run)
        ended, done = folder.stopped_at(), folder.trained()
        if ended is not None:
            done = trainer.proxy.train(run, folder.path, ended)  # it says what it came to
        elif done is None or np.isnan(row).any():
            what = RUN if done is None else f"measure of {tasks[int(np.argmax(np.isnan(row)))].name}"
            raise ShardError(f"{folder.path} lost its {what} while it was read; run the same command again")
        trained.append(done)
    if any(trainer.at(run).stopped_at() is not None for run in runs):
        values, variances = _extrapolated(trainer, runs, tasks)
        kept = np.flatnonzero(np.isfinite(values).all(axis=1)).tolist()
        values, variances = values[kept], variances[kept]
        if len(kept) < len(runs):
            trainer.desk.line(f"{len(runs) - len(kept)} stopped runs are left out: a task came after they were trained")
    names = tuple(task.name for task in tasks)
    return Results(tuple(runs[i] for i in kept), names, values, tuple(trained[i] for i in kept), variances)


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
            jobs = [
                Job(run, folder.path, tuple(tasks), share)
                for run, folder in ((run, trainer.at(run)) for run in open_runs)
                if folder.stopped_at() is None and not all(folder.has_measure(task.key, share) for task in tasks)
            ]
            do_jobs(trainer, jobs, engine, f"up to {share:.0%}")
            if any(abs(share - rung) < 1e-9 for rung in config.rungs):
                _stop_some(trainer, runs, [task for task in tasks if weights.get(task.name)], weights, config, share)

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
    scale = np.array([weights[task.name] for task in tasks])
    by_task = np.stack([_curve(trainer, runs, task, shares) for task in tasks], axis=-1)
    losses = by_task @ (scale / np.abs(scale).sum())
    told = ~np.isnan(losses).all(axis=1)  # of the others, stopped for a suite of other tasks, nothing is known
    runs, losses = [run for run, is_told in zip(runs, told.tolist(), strict=True) if is_told], losses[told]
    noise, degrees = seed_noise(runs, losses[:, [shares.index(rung)]])
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
    """Return the bits per byte of each run at each share (n, r); NaN where it was not measured.

    Raises: InputError for a measure that is no number, naming run and task.
    """
    losses = np.full((len(runs), len(shares)), np.nan)
    for row, run in zip(losses, runs, strict=True):
        folder = trainer.at(run)
        for number, share in enumerate(shares):
            measure = folder.measured(task.key, share)
            if measure is None:
                continue
            row[number] = measure.bits_per_byte
            if not np.isfinite(row[number]):
                raise InputError(
                    f"run {run.run_id}: task {task.name} has {row[number]} bits per byte at {share:.0%} of its tokens; "
                    f"delete {folder.path} to train it again, with a lower proxy.learning_rate if that does not help"
                )
    return losses


def _extrapolated(trainer: Trainer, runs: Sequence[RunSpec], tasks: Sequence[TokenTask]) -> tuple[Floats, Floats]:
    """Return where each run ends on each task, and its variance, (n, m) both; NaN for what was never measured."""
    shares = (*measured_shares(trainer.config.early_stopping or EarlyStopping()), 1.0)
    total = float(trainer.config.tokens)
    values = np.full((len(runs), len(tasks)), np.nan)
    variances = np.zeros_like(values)
    for column, task in enumerate(tasks):
        losses = _curve(trainer, runs, task, shares)
        known = ~np.isnan(losses).all(axis=1)
        mean, sd = extrapolated(LearningCurves(np.array(shares) * total, losses[known], total))
        values[known, column], variances[known, column] = mean, sd**2
    return values, variances


# Texts ----------------------------------------------------------------------------------------------------------------


def training_lines(mix: OpenMix, found: Material) -> list[str]:
    """Say how many runs of the swarm are to be trained, and why those that are kept do not do."""
    drawn = _drawn(mix, found)
    require_mixtures(mix.config.fit.model, _mixtures(drawn.runs))
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


def swarm_rows(found: Material, drawn: Drawn) -> list[dict[str, Any]]:
    """Return the mixtures to train, a row each with the weights of all slices."""
    return [
        {"run": run.run_id, "kind": run.kind, "seed": run.seed, **named_weights(found.names, run.weights)}
        for run in drawn.runs
    ]


def swarm_text(found: Material, drawn: Drawn) -> str:
    """Return the mixtures to train, a line each, and what they cannot show."""
    rows = [
        {name: f"{value:.4f}" if name in found.names else value for name, value in row.items()}
        | {"run": row["run"][:8]}
        for row in swarm_rows(found, drawn)
    ]
    return "\n".join([text_table(rows).rstrip("\n"), *_unjudged_lines(found, drawn)])


def _unjudged_lines(found: Material, drawn: Drawn) -> list[str]:
    """Return a line for each slice whose effect these runs cannot show."""
    reasons = unjudged_slices(drawn.runs, found.constraints, drawn.space)
    return [f"{name} cannot be judged: {reason}" for name, reason in reasons.items()]


def results_answer(mix: OpenMix, found: Material, results: Results) -> Answer:
    """Return what was measured, a line a task. Of transformers also how n-gram proxies rank the same mixtures: whether
    those would have done for a first look.
    """
    ranks: dict[str, float | None] = {}
    if mix.config.proxy.kind != "ngram":
        proxy = NgramProxy(mix.config.proxy, found.data, mix.folder.ngram_counts)
        counted = proxy.measure_mixtures(np.stack([run.weights for run in results.runs]), found.tasks)
        for task, column in zip(found.tasks, counted.T, strict=True):
            measured = results.values[:, results.tasks.index(task.name)]
            ranks[task.name] = spearman(column, measured)
    rows: list[dict[str, Any]] = []
    for row, column in zip(
        measure_noise(results.runs, results.values, results.tasks).rows(), results.values.T, strict=True
    ):
        name, ratio = str(row["metric"]), row["ratio"]
        spread = {"best": float(column.min()), "median": float(np.median(column)), "worst": float(column.max())}
        rows.append({"task": name, **spread, "seed_sd": row["seed_std"], "signal_to_noise": ratio})
        if name in ranks:
            rows[-1]["ngram_rank"] = ranks[name]
        rows[-1]["flag"] = "mostly noise: weighted down" if isinstance(ratio, float) and ratio < 3 else ""
    digits = {"best": 4, "median": 4, "worst": 4, "seed_sd": 5, "signal_to_noise": 1, "ngram_rank": 3}
    shown = [{name: _number(v, digits[name]) if name in digits else v for name, v in row.items()} for row in rows]
    return Answer(rows, text_table(shown))


def _number(value: object, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, float) else "-"
