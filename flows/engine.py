"""Where jobs run: threads of this process, or tasks of a Prefect flow. The one place that knows.

Threads are enough on one machine: extraction runs in isolated worker processes, kernels and DuckDB release the GIL.
Dask and Ray will come through the same `map`.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from pipeline.table.errors import GristmillError
from pipeline.table.interrupts import Stop, stop_if_asked
from pipeline.table.stages import Job, Result

MAX_TASKS = 100
"""Batches that one stage gives Prefect at most: its server slows and drops rows with thousands of task runs."""
RETRY_DELAYS_S = (1.0, 5.0)
_TRANSIENT = {errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED, errno.EAGAIN, errno.EPIPE, errno.ESTALE}


def is_transient(error: BaseException | None) -> bool:
    """Tell whether an I/O error may pass by itself. Looks through the errors that were raised from it."""
    while error is not None:
        if isinstance(error, (TimeoutError, ConnectionError)):
            return True
        if isinstance(error, OSError) and error.errno in _TRANSIENT:
            return True
        error = error.__cause__
    return False


def attempt(stop: Stop, function: Callable[[Job], Result], job: Job) -> Result:
    """Do one job; an error that may pass by itself is waited for, twice."""
    for delay_s in RETRY_DELAYS_S:
        stop_if_asked(stop)
        try:
            return function(job)
        except (OSError, GristmillError) as error:
            if not is_transient(error):
                raise
            stop.wait(delay_s)
    stop_if_asked(stop)
    return function(job)


@dataclass(frozen=True)
class LocalEngine:
    """Threads of this process; no orchestrator."""

    workers: int
    stop: Stop

    def map(self, name: str, function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        failed = threading.Event()

        def work(job: Job) -> Result | None:
            if failed.is_set():  # its result is not asked for
                return None
            try:
                return attempt(self.stop, function, job)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self.workers, thread_name_prefix=f"gristmill-{name}") as pool:
            futures = [pool.submit(work, job) for job in jobs]
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            return [future.result() for future in futures]  # type: ignore[misc]


@dataclass(frozen=True)
class PrefectEngine:
    """Tasks of the Prefect flow that is running: one a batch of jobs, tens to hundreds a stage."""

    stop: Stop

    def map(self, name: str, function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
        if not jobs:
            return []
        from prefect import task
        from prefect.cache_policies import NO_CACHE
        from prefect.futures import wait as wait_for_futures

        failed = threading.Event()

        def run_batch(batch: Sequence[Job]) -> list[Result]:
            results: list[Result] = []
            for job in batch:
                if failed.is_set():  # another batch's error ends the run; finishing this one would only delay it
                    break
                try:
                    results.append(attempt(self.stop, function, job))
                except BaseException:
                    failed.set()
                    raise
            return results

        batched = task(name=name, persist_result=False, cache_policy=NO_CACHE)(run_batch)
        size = -(-len(jobs) // MAX_TASKS)
        futures = [batched.submit(jobs[start : start + size]) for start in range(0, len(jobs), size)]
        wait_for_futures(futures)
        return [result for future in futures for result in future.result()]
