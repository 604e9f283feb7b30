"""Training and measuring proxy runs: what is missing, in chunks, through the engine; under Prefect when it is long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

import numpy as np

from flows.engine import LocalEngine
from flows.mix_open import PrefectOnce
from flows.progress import Reporter
from pipeline.mix.config import ProxyConfig
from pipeline.mix.folder import RUN, MixFolder, RunFolder
from pipeline.mix.ngram import NgramProxy
from pipeline.mix.types import Floats, Measure, Proxy, ProxyData, RunSpec, TokenTask, TrainedRun
from pipeline.table.errors import ShardError
from pipeline.table.stages import Engine, ShardReport, stop_if_asked

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
    reporter: Reporter
    stop: threading.Event
    prefect: PrefectOnce

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
        trainer.reporter.line(f"{why}: {what}, {max(len(job.tasks) for job in jobs)} tasks each")
        with_engine(trainer, untrained, why, lambda engine: do_jobs(trainer, jobs, engine, why))
    stop_if_asked(trainer.stop)
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
    """Do jobs through an engine."""
    # Without a terminal the reporter would announce `shards`; what there is to do was said already.
    with trainer.reporter.stage("mix", why, len(jobs) if trainer.reporter.bars is not None else 0) as progress:

        def finish(job: Job, trained: TrainedRun, measures: Sequence[Measure], elapsed_s: float) -> None:
            _save(trainer, job, trained, measures)
            if trainer.reporter.bars is not None:
                progress.shard(ShardReport(job.run.run_id[:8], 0, 0, 0, elapsed_s))
            elif trainer.config.kind != "ngram":  # a line for each of thousands of runs that take no time tells nothing
                speed = f"{trained.tokens:,} tokens, {trained.cpu_s:.0f} CPU s"
                trainer.reporter.line(f"{why}: {_describe(job.run)}: {speed}, measured on {len(job.tasks)} tasks")

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
    evenly = -(-len(jobs) // _workers(trainer))
    worthwhile = evenly if seconds_a_run == 0 else int(SECONDS_OF_WORK / seconds_a_run)
    return max(1, -(-evenly // CHUNKS_A_WORKER), min(evenly, worthwhile))


Finish = Callable[[Job, TrainedRun, Sequence[Measure], float], None]


def _train_chunk(trainer: Trainer, chunk: Sequence[Job], finish: Finish) -> None:
    """Train and measure some runs, one after the other, in a worker process of their own."""
    from pipeline.mix.transformer import pool
    from pipeline.mix.transformer.proxy import TransformerProxy

    assert isinstance(trainer.proxy, TransformerProxy)
    by_run = {job.run.run_id: job for job in chunk}
    jobs = [pool.Job(job.run, trainer.at(job.run).path, job.until, job.tasks) for job in chunk]
    started = time.monotonic()
    for done in pool.run_all(trainer.proxy, jobs, 1, trainer.stop, lambda run, tokens: None):
        finish(by_run[done.job.run.run_id], done.trained, done.measures, time.monotonic() - started)
        started = time.monotonic()
    stop_if_asked(trainer.stop)


def _count_all(trainer: Trainer, proxy: NgramProxy, jobs: Sequence[Job], finish: Finish) -> None:
    """Measure runs whose model is counts: all together they are seconds of work, seed by seed, as counts are kept."""
    for job in sorted(jobs, key=lambda job: job.run.seed):
        stop_if_asked(trainer.stop)
        started = time.monotonic()
        folder = trainer.at(job.run)
        trained = folder.trained() or proxy.train(job.run, folder.path)  # a run that is there is left as it is
        finish(job, trained, proxy.measure(job.run, folder.path, job.tasks), time.monotonic() - started)


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
    if len(finished) == len(runs):
        return whole
    from flows.mix_rungs import with_stopped_runs

    return with_stopped_runs(trainer, runs, tasks, whole)


def _bits(trainer: Trainer, run: RunSpec, task: TokenTask) -> float:
    measure = trainer.at(run).measured(task.key)
    if measure is None:
        where = trainer.at(run).path
        raise ShardError(f"{where} lost its measure of {task.name} while it was read; run the same command again")
    return measure.bits_per_byte


def _is_worth_prefect(config: ProxyConfig, untrained: int) -> bool:
    """Tell whether training takes longer than seconds. Counting n-grams, and measuring kept models, never does."""
    return config.kind != "ngram" and untrained * config.tokens / TOKENS_A_SECOND > SECONDS_OF_WORK


def with_engine(trainer: Trainer, untrained: int, why: str, work: Callable[[Engine], None]) -> None:
    """Give `work` an engine: threads of this process for seconds of work, tasks of a Prefect flow for more."""
    if not _is_worth_prefect(trainer.config, untrained):
        work(LocalEngine(_workers(trainer), trainer.stop))
        return
    trainer.prefect.start(trainer.stop, trainer.reporter)
    with ThreadPoolExecutor(1, thread_name_prefix="gristmill-flow") as thread:
        from flows.mix_flow import train_proxies

        # In the main thread Prefect would take SIGTERM over, and the run would go on until its chunk ends.
        thread.submit(copy_context().run, train_proxies, work, why, _workers(trainer), trainer.stop).result()


def _workers(trainer: Trainer) -> int:
    return trainer.config.workers


def _describe(run: RunSpec) -> str:
    return f"{run.kind} {run.run_id[:8]} seed {run.seed}"
