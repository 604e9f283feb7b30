"""Some runs in a process of their own, with one thread on one core.

The process gets proxy and jobs on its stdin and answers each job on its stdout, pickled. It ends with its stdin, at
once, whatever it is doing: a checkpoint is always whole, and no worker outlives its parent, however that ends. One that
dies by a signal (the kernel's memory killer, say) is replaced once for its run, which goes on from its checkpoint; the
second time the run fails, by name.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any

from pipeline.mix.types import Done, Job, Proxy
from pipeline.table.errors import GristmillError, ShardError

_LIBRARIES = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "ARROW")
_KEEP_FREED_BYTES = str(1 << 30)
ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in _LIBRARIES},
    "MALLOC_MMAP_THRESHOLD_": _KEEP_FREED_BYTES,  # glibc: a freed buffer is used again, not given back and faulted in
    "MALLOC_TRIM_THRESHOLD_": _KEEP_FREED_BYTES,
}
_COMMAND = "from pipeline.mix.proxies.transformer.worker import serve; serve()"
_LOOK_EVERY_S = 0.2
_STDERR_TAIL_BYTES = 8192


def perform(proxy: Proxy, jobs: Sequence[Job], stop: threading.Event) -> Iterator[Done]:
    """Do jobs one after the other in a worker process; yield each as it is done.

    Ends early, without an error, when `stop` is set: what was trained is kept up to its last checkpoint.

    Raises: GristmillError of the first job that fails, naming its run.
    """
    left, killed = list(jobs), ""
    while left and not stop.is_set():
        with tempfile.TemporaryFile() as stderr:
            process = _start(stderr)
            threading.Thread(target=_kill_on, args=(stop, process), daemon=True).start()
            try:
                yield from _answers(process, proxy, left)
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
        [sys.executable, "-c", _COMMAND],
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


def _answers(process: subprocess.Popen[bytes], proxy: Proxy, left: list[Job]) -> Iterator[Done]:
    """Yield what a worker answers until it ends; what is done leaves `left`. Raises what the worker's job raised."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        pickle.dump((proxy, left), process.stdin)
        process.stdin.flush()
        while left:
            answer: Any = pickle.load(process.stdout)  # noqa: S301  from our own process
            if isinstance(answer, GristmillError):
                raise answer
            yield Done(left.pop(0), *answer)
    except (BrokenPipeError, EOFError, pickle.UnpicklingError):
        process.wait()  # it is dead, or about to be


def _last_line(stderr: IO[bytes], code: int) -> str:
    stderr.seek(max(0, stderr.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines() or [f"exit code {code}"]
    return lines[-1].strip()


# The worker's side ----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Do the jobs that come on stdin; end with it."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    proxy, jobs = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for job in jobs:
        try:
            trained = proxy.train(job.run, job.folder, job.until)
            answer: Any = (trained, proxy.measure(job.run, job.folder, job.tasks) if job.tasks else [])
        except GristmillError as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()


def _end_with_parent() -> None:
    while os.read(0, 1):  # a buffered reader would hold its lock when the interpreter ends
        pass
    os._exit(0)  # the parent is gone, or wants no more
