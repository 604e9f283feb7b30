"""Many runs in worker processes, one thread and one core each.

A worker that dies by a signal (the kernel's memory killer, say) is replaced once for its run, which goes on from its
checkpoint; the second time the run fails, by name. Workers end with this process, however it ends.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.transformer.proxy import TransformerProxy
from pipeline.mix.types import Measure, ProxyData, RunSpec, TokenTask, TrainedRun
from pipeline.table import errors
from pipeline.table.errors import GristmillError, ShardError
from pipeline.table.storage import scratch_folder

_LIBRARIES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "ARROW")
_KEEP_FREED_BYTES = str(1 << 30)
ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in _LIBRARIES},
    "MALLOC_MMAP_THRESHOLD_": _KEEP_FREED_BYTES,  # glibc: a freed buffer is used again, not given back and faulted in
    "MALLOC_TRIM_THRESHOLD_": _KEEP_FREED_BYTES,
}
_LOOK_EVERY_S = 0.2
_STDERR_TAIL_BYTES = 8192


@dataclass(frozen=True)
class Job:
    """Train a run in its folder up to a share of its tokens, then measure it on tasks (none: only train)."""

    run: RunSpec
    folder: Path
    until: float = 1.0
    tasks: tuple[TokenTask, ...] = ()


@dataclass(frozen=True)
class Done:
    """A job, what its training came to, and a measure for each of its tasks."""

    job: Job
    trained: TrainedRun
    measures: tuple[Measure, ...]


OnProgress = Callable[[RunSpec, int], None]
"""Called with a run and its tokens so far, in the thread that iterates."""


def run_all(
    proxy: TransformerProxy,
    jobs: Iterable[Job],
    workers: int,
    stop: threading.Event,
    on_progress: OnProgress,
) -> Iterator[Done]:
    """Do jobs in `workers` processes; yield each as it is done, which is in no fixed order.

    Ends early, without an error, when `stop` is set: what was trained is kept up to its last checkpoint.

    Raises: GristmillError of the first job that fails, naming its run; the other workers are ended.
    """
    jobs = list(jobs)
    with scratch_folder("gristmill-tasks-") as folder:
        pool = _Pool(proxy, jobs, _write_tasks(Path(folder), jobs))
        threads = [threading.Thread(target=pool.work, daemon=True) for _ in range(min(workers, len(jobs)))]
        try:
            for thread in threads:
                thread.start()
            yield from pool.results(len(jobs), stop, on_progress)
        finally:
            pool.end()
            for thread in threads:
                thread.join()


def _write_tasks(folder: Path, jobs: Sequence[Job]) -> dict[int, str]:
    """Write each distinct task once; return its file by the object's identity."""
    paths: dict[int, str] = {}
    for job in jobs:
        for task in job.tasks:
            if id(task) not in paths:
                paths[id(task)] = str(folder / f"{len(paths)}.npz")
                write_task(Path(paths[id(task)]), task)
    return paths


def encode_proxy(config: ProxyConfig, data: ProxyData) -> dict[str, Any]:
    """Return the first line that a worker is sent."""
    slices = [
        asdict(s) | {"tokens_path": str(s.tokens_path), "documents_path": str(s.documents_path)} for s in data.slices
    ]
    pool = [int(tokens) for tokens in data.pool_tokens]
    return {
        "config": config.model_dump(mode="json"),
        "data": {"slices": slices, "pool_tokens": pool, "vocabulary": data.vocabulary, "eos": data.eos},
    }


def encode_run(run: RunSpec) -> dict[str, Any]:
    """Return a run as JSON; floats come back as they were."""
    return {"run_id": run.run_id, "kind": run.kind, "weights": [float(w) for w in run.weights], "seed": run.seed}


def write_task(path: Path, task: TokenTask) -> None:
    """Write a task where workers can read it: its items' tokens one after another."""
    tokens = [np.asarray(item.tokens, np.int32) for item in task.items]
    np.savez(
        path,
        about=np.array(json.dumps([task.name, task.key])),
        tokens=np.concatenate([np.zeros(0, np.int32), *tokens]),
        lengths=np.array([len(t) for t in tokens], np.int64),
        starts=np.array([item.start for item in task.items], np.int64),
        n_bytes=np.array([item.n_bytes for item in task.items], np.int64),
    )


class _Died(Exception):
    """A worker ended without an answer."""


class _Pool:
    """The jobs that are left, the workers at work, and what they answered."""

    def __init__(self, proxy: TransformerProxy, jobs: Sequence[Job], task_paths: dict[int, str]) -> None:
        self._first_line = encode_proxy(proxy.config, proxy.data)
        self._paths = task_paths
        self._left: queue.SimpleQueue[Job] = queue.SimpleQueue()
        for job in jobs:
            self._left.put(job)
        self._answers: queue.SimpleQueue[Done | tuple[RunSpec, int] | BaseException] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._ended = False

    def results(self, count: int, stop: threading.Event, on_progress: OnProgress) -> Iterator[Done]:
        while count and not stop.is_set():
            try:
                answer = self._answers.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                continue
            if isinstance(answer, Done):
                count -= 1
                yield answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                on_progress(*answer)

    def end(self) -> None:
        """End all workers at once and start no more."""
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.kill()

    def work(self) -> None:
        """Do jobs with one worker after another until none is left."""
        with tempfile.TemporaryFile() as stderr:
            process: subprocess.Popen[str] | None = None
            try:
                while not self._ended and (job := self._next()) is not None:
                    process = self._do(job, process, stderr)
            except _Died:
                pass  # because the pool has ended
            except BaseException as error:  # noqa: BLE001  whatever it is, the iterating thread raises it
                self._answers.put(error)
            finally:
                if process is not None:
                    self._dismiss(process)

    def _next(self) -> Job | None:
        try:
            return self._left.get_nowait()
        except queue.Empty:
            return None

    def _do(self, job: Job, process: subprocess.Popen[str] | None, stderr: IO[bytes]) -> subprocess.Popen[str]:
        """Do one job, in a second worker where the first is killed; return the worker."""
        for attempt in (1, 2):
            process = process or self._start(stderr)
            try:
                self._answers.put(self._ask(job, process))
                return process
            except _Died:
                code = self._dismiss(process)
                process = None
                if self._ended:
                    raise
                if code >= 0 or attempt == 2:
                    raise ShardError(_explain(job, code, stderr)) from None
        raise AssertionError("unreachable")

    def _start(self, stderr: IO[bytes]) -> subprocess.Popen[str]:
        environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        with self._lock:
            if self._ended:
                raise _Died
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.mix.proxies.transformer.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the parent, which ends its workers
            )
            self._processes.add(process)
        self._tell(process, self._first_line)
        return process

    def _ask(self, job: Job, process: subprocess.Popen[str]) -> Done:
        self._tell(
            process,
            {
                "run": encode_run(job.run),
                "folder": str(job.folder.absolute()),
                "until": job.until,
                "tasks": [self._paths[id(task)] for task in job.tasks],
            },
        )
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            if "error" in answer:
                kind = getattr(errors, answer["kind"], GristmillError)
                raise kind(answer["error"])
            if "trained" in answer:
                return _done(job, answer)
            self._answers.put((job.run, answer["tokens"]))
        raise _Died

    def _tell(self, process: subprocess.Popen[str], value: dict[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(value) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it is dead, which reading its answer finds out

    def _dismiss(self, process: subprocess.Popen[str]) -> int:
        """End a worker that owes nothing; return its exit code."""
        try:
            process.communicate(timeout=_LOOK_EVERY_S * 10)
        except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
            process.kill()
            process.wait()
        with self._lock:
            self._processes.discard(process)
        return process.returncode


def _done(job: Job, answer: dict[str, Any]) -> Done:
    trained = answer["trained"]
    curve = tuple((int(tokens), float(loss)) for tokens, loss in trained["curve"])
    measures = tuple(
        Measure(np.array(nats, np.float64), np.array([item.n_bytes for item in task.items], np.int64))
        for task, nats in zip(job.tasks, answer["measures"], strict=True)
    )
    return Done(job, TrainedRun(**{**trained, "curve": curve}), measures)


def _explain(job: Job, code: int, stderr: IO[bytes]) -> str:
    """Return one line on why a run's worker ended."""
    if code < 0:
        return (
            f"run {job.run.run_id}: its training process was killed twice (signal {-code}); "
            "if memory ran out, lower proxy.workers, then run again: it goes on from its checkpoint"
        )
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines() or [f"exit code {code}"]
    return f"run {job.run.run_id}: its training process failed: {lines[-1].strip()}"
