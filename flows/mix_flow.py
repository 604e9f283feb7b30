"""The Prefect flow that trains proxies. Importing this imports Prefect."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from prefect import flow
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.engine import PrefectEngine
from pipeline.table.stages import Engine


def train_proxies(work: Callable[[Engine], None], why: str, workers: int, stop: threading.Event) -> None:
    """Give `work` an engine whose jobs are Prefect tasks, `workers` of them at once."""
    runner: TaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers)

    @flow(name="mix", flow_run_name=f"mix {why}", task_runner=runner, validate_parameters=False)
    def train() -> None:
        work(PrefectEngine(stop))

    train()
