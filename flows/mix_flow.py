"""The Prefect flow that trains proxies. Importing this imports Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.engine import PrefectEngine
from flows.mix_train import Job, Trainer, do_jobs


def train_proxies(trainer: Trainer, jobs: Sequence[Job], why: str) -> None:
    """Train and measure proxy runs, a chunk of them a Prefect task, as many at once as `proxy.workers` says."""
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=trainer.config.workers)

    @flow(name="mix", flow_run_name=f"mix {why}", task_runner=runner, validate_parameters=False)
    def train() -> None:
        do_jobs(trainer, jobs, PrefectEngine(trainer.stop), why)

    train()
