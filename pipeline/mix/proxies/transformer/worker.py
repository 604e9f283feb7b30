"""Some runs in a process of their own, with one thread on one core.

What they say to each other are lines of JSON (floats keep their bits in it), and nothing in them is code:

    to stdin, once      config, data, jobs (run, folder, until and the numbers of its tasks each), the tasks' names and
                        keys, and the path of an `.npz` file: of task N `tokensN` (int32), and `itemsN` (n, 3) with each
                        item's length, start and bytes
    on stdout, a job    trained and measures; or error, the name of its class, and text

The process ends with its stdin, at once, whatever it is doing: a checkpoint is always whole, and no worker outlives its
parent, however that ends. One that dies by a signal (the kernel's memory killer, say) is replaced once for its run,
which goes on from its checkpoint; the second time the run fails, by name.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline import OURS_FIRST
from pipeline.mix.config import ProxyConfig
from pipeline.mix.types import (
    Done,
    Job,
    Measure,
    Proxy,
    ProxyData,
    RunSpec,
    SliceTokens,
    TokenItem,
    TokenTask,
    TrainedRun,
)
from pipeline.table import errors
from pipeline.table.errors import GristmillError, ShardError
from pipeline.table.kept import read_arrays, write_arrays

_LIBRARIES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "ARROW")
_KEEP_FREED_BYTES = str(1 << 30)
ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in _LIBRARIES},
    "MALLOC_MMAP_THRESHOLD_": _KEEP_FREED_BYTES,  # glibc: a freed buffer is used again, not given back and faulted in
    "MALLOC_TRIM_THRESHOLD_": _KEEP_FREED_BYTES,
}
_COMMAND = f"""
{OURS_FIRST}
from pipeline.mix.proxies.transformer.proxy import TransformerProxy
from pipeline.mix.proxies.transformer.worker import serve
serve(TransformerProxy)
"""
_LOOK_EVERY_S = 0.2
_STDERR_TAIL_BYTES = 8192


def perform(config: ProxyConfig, data: ProxyData, jobs: Sequence[Job], stop: threading.Event) -> Iterator[Done]:
    """Do jobs one after the other in a worker process; yield each as it is done.

    Ends early, without an error, when `stop` is set: what was trained is kept up to its last checkpoint.

    Raises: GristmillError of the first job that fails, naming its run.
    """
    left, killed = list(jobs), ""
    while left and not stop.is_set():
        with tempfile.TemporaryDirectory(prefix="gristmill-") as scratch, tempfile.TemporaryFile() as stderr:
            request = _request(config, data, left, f"{scratch}/tasks.npz")
            process = _start(stderr)
            threading.Thread(target=_kill_on, args=(stop, process), daemon=True).start()
            try:
                yield from _answers(process, request, left)
            finally:
                process.kill()
                process.communicate()
            if not left or stop.is_set():
                return
            run, code = left[0].run.run_id, process.returncode
            if code >= 0:
                raise ShardError(f"run {run}: its training process failed: {_last_line(stderr, code)}")
            if run == killed:
                raise ShardError(
                    f"run {run}: its training process was killed twice (signal {-code}); "
                    "if memory ran out, lower proxy.workers, then run again: it goes on from its checkpoint"
                )
            killed = run


def _start(stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
        start_new_session=True,  # Ctrl-C is for the parent, which ends its workers
    )


def _kill_on(stop: threading.Event, process: subprocess.Popen[bytes]) -> None:
    """End a process once `stop` is set. The body of a thread, which ends with the process."""
    while process.poll() is None:
        if stop.wait(_LOOK_EVERY_S):
            process.kill()


def _request(config: ProxyConfig, data: ProxyData, jobs: Sequence[Job], path: str) -> bytes:
    """Return what a worker is asked, a line; the tasks' items go to `path`."""
    tasks = {(task.name, task.key): task for job in jobs for task in job.tasks}
    arrays = {}
    for number, task in enumerate(tasks.values()):
        arrays[f"tokens{number}"] = np.concatenate([np.zeros(0, np.int32), *(item.tokens for item in task.items)])
        sizes = [(len(item.tokens), item.start, item.n_bytes) for item in task.items]
        arrays[f"items{number}"] = np.array(sizes, np.int64).reshape(-1, 3)
    write_arrays(path, arrays)
    places = {known: number for number, known in enumerate(tasks)}
    asked = {
        "config": config.model_dump(exclude={"early_stopping"}),
        "data": asdict(data),
        "jobs": [
            {**vars(job), "run": vars(job.run), "tasks": [places[task.name, task.key] for task in job.tasks]}
            for job in jobs
        ],
        "tasks": list(tasks),
        "path": path,
    }
    return _line(asked)


def _line(value: Any) -> bytes:
    def plain(part: Any) -> Any:
        return part.tolist() if isinstance(part, np.ndarray | np.generic) else os.fspath(part)

    return json.dumps(value, default=plain).encode() + b"\n"


def _answers(process: subprocess.Popen[bytes], request: bytes, left: list[Job]) -> Iterator[Done]:
    """Yield what a worker answers until it ends; what is done leaves `left`. Raises what the worker's job raised."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
        while left and (line := process.stdout.readline()).endswith(b"\n"):
            answer = json.loads(line)
            if "error" in answer:
                raise getattr(errors, answer["error"], GristmillError)(answer["text"])
            curve = tuple((tokens, loss) for tokens, loss in answer["trained"]["curve"])
            measures = [
                Measure(np.array(each["nats"], np.float64), np.array(each["n_bytes"], np.int64))
                for each in answer["measures"]
            ]
            yield Done(left.pop(0), TrainedRun(**{**answer["trained"], "curve": curve}), measures)
    except BrokenPipeError:
        pass
    process.wait()  # it is dead, or about to be


def _last_line(stderr: IO[bytes], code: int) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines() or [f"exit code {code}"]
    return lines[-1].strip()


# The worker's side ----------------------------------------------------------------------------------------------------


def serve(make: Callable[[ProxyConfig, ProxyData], Proxy]) -> None:
    """Do the jobs that come on stdin with the proxy that `make` returns; end with it."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    request = sys.stdin.buffer.readline()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if not request.endswith(b"\n"):
        return  # the parent was gone before it had asked
    asked = json.loads(request)
    data = asked["data"]
    slices = [{**each, **{n: Path(each[n]) for n in ("tokens_path", "documents_path")}} for each in data["slices"]]
    data |= {"slices": tuple(SliceTokens(**each) for each in slices), "pool_tokens": np.array(data["pool_tokens"])}
    proxy = make(ProxyConfig.model_construct(**asked["config"]), ProxyData(**data))  # the parent checked it
    tasks = _tasks(asked)
    for job in asked["jobs"]:
        run = RunSpec(**{**job["run"], "weights": np.array(job["run"]["weights"], np.float64)})
        folder = Path(job["folder"])
        try:
            trained = proxy.train(run, folder, job["until"])
            measures = proxy.measure(run, folder, [tasks[n] for n in job["tasks"]]) if job["tasks"] else []
            answer = {"trained": asdict(trained), "measures": [vars(measure) for measure in measures]}
        except GristmillError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        answers.write(_line(answer))
        answers.flush()


def _tasks(asked: dict[str, Any]) -> list[TokenTask]:
    arrays = read_arrays(asked["path"]) or {}
    found = []
    for number, (name, key) in enumerate(asked["tasks"]):
        tokens, sizes = arrays[f"tokens{number}"], arrays[f"items{number}"]
        ends = np.cumsum(sizes[:, 0]).tolist()
        items = [
            TokenItem(tokens[end - length : end], start, n_bytes)
            for end, (length, start, n_bytes) in zip(ends, sizes.tolist(), strict=True)
        ]
        found.append(TokenTask(name, key, tuple(items)))
    return found


def _end_with_parent() -> None:
    while os.read(0, 1):  # a buffered reader would hold its lock when the interpreter ends
        pass
    os._exit(0)  # the parent is gone, or wants no more
