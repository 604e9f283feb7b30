"""One worker process and the template that forks it, seen from the parent: start, feed, watch, kill.

Used by `pipeline.extract.isolation`; `pipeline.extract.worker` is what runs in the processes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pipeline.extract import worker as protocol
from pipeline.table.errors import GristmillError

FailureReason = Literal["timeout", "crash", "memory"]

MAX_ANSWER_BYTES = 256 * 1024 * 1024
_CHUNK = 256 * 1024
_MAX_BUFFERS = 64  # in one system call
_WATCH_EVERY_S = 0.25
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_TIMEOUT_S = 60.0
# One thread a process: a fork keeps none of a library's helper threads.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[5]); from pipeline.extract.worker import template_main; "
    "template_main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))"
)


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The nets. `cpu_s` is for each item. At `memory_bytes` of address space allocations fail; an item that makes its
    worker take more than half of that is given up, since one cannot tell what such a failure did to its result.

    A worker that uses no CPU for `stalled_s` while it owes an answer counts as hung; one above `recycle_rss_bytes` is
    replaced after its batch.
    """

    cpu_s: float = 30.0
    memory_bytes: int = 2 * 1024 * 1024 * 1024
    stalled_s: float = 120.0
    recycle_rss_bytes: int = 300 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an item has no answer."""

    reason: FailureReason
    detail: str


@dataclass(frozen=True, slots=True)
class Ending:
    """How a worker ended while it owed an answer. `failed`: its handler raised; `killed`: SIGKILL that was not ours."""

    kind: Literal["timeout", "crash", "memory", "killed", "failed"]
    detail: str

    def failure(self) -> Failure:
        """Return what the guilty item gets."""
        return Failure(self.kind if self.kind in ("timeout", "memory") else "crash", self.detail)


class Template:
    """The process that workers are forked from; started with the first worker, and again should it ever end."""

    def __init__(self, factory: str, limits: WorkerLimits) -> None:
        self._factory = factory
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = threading.Event()

    def spawn(self) -> WorkerProcess:
        """Fork a worker.

        Raises: GristmillError when the template cannot be started.
        """
        with self._lock:
            for _ in range(2):  # a template that somebody killed is replaced once
                if self._control is None:
                    self._start()
                ours, theirs = socket.socketpair()
                try:
                    pid = self._ask(protocol.SPAWN, 0, theirs)
                except OSError:
                    ours.close()
                    self._stop()
                    continue
                finally:
                    theirs.close()
                return WorkerProcess(pid, ours, self, self._limits)
        raise GristmillError("the process that workers are forked from keeps ending; see the messages above")

    def end(self, pid: int) -> int:
        """Kill a worker and return its exit status; one that had ended already keeps its own.

        Without a template its workers are gone too, by their parent-death signal.
        """
        with self._lock:
            try:
                return self._ask(protocol.END, pid) if self._control else int(signal.SIGKILL)
            except OSError:
                self._stop()
                return int(signal.SIGKILL)

    def close(self) -> None:
        """End the template and thereby all workers."""
        self._closed.set()
        with self._lock:
            self._stop()

    def _ask(self, command: bytes, pid: int, attached: socket.socket | None = None) -> int:
        assert self._control is not None
        message = protocol.COMMAND.pack(command, pid)
        socket.send_fds(self._control, [message], [attached.fileno()] if attached else [])
        return _reply(self._control)

    def _start(self) -> None:
        if self._closed.is_set():
            raise GristmillError("the worker pool was closed")
        ours, theirs = socket.socketpair()
        started: list[subprocess.Popen[bytes]] = []
        ready = threading.Event()
        keeper = threading.Thread(
            target=self._keep, args=(theirs, started, ready), name="extract-template", daemon=True
        )
        keeper.start()
        ready.wait()
        theirs.close()
        ours.settimeout(_START_TIMEOUT_S)
        try:
            _reply(ours)
        except OSError as error:
            ours.close()
            if started:
                started[0].kill()
            raise GristmillError(f"worker processes could not be started for {self._factory}: {error}") from error
        ours.settimeout(None)
        self._process, self._control = started[0], ours

    def _keep(self, theirs: socket.socket, started: list[subprocess.Popen[bytes]], ready: threading.Event) -> None:
        """Start the template and live as long as it: its parent-death signal fires when this *thread* ends.

        The thread blocks SIGINT first; the template inherits that, so Ctrl-C cannot hit it while Python starts.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        search_path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        arguments = [str(theirs.fileno()), str(os.getpid()), self._factory, str(self._limits.memory_bytes), search_path]
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ENVIRONMENT},
            )
            started.append(process)
        finally:
            ready.set()
        process.wait()

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
        self._control = self._process = None


class WorkerProcess:
    """A forked worker with its connection."""

    def __init__(self, pid: int, connection: socket.socket, template: Template, limits: WorkerLimits) -> None:
        self.pid = pid
        self._connection = connection
        self._template = template
        self._limits = limits
        self._received = bytearray()
        self._poll = select.poll()
        connection.setblocking(False)

    def run(self, requests: list[bytes]) -> Iterator[bytes | Ending]:
        """Yield an answer for each request, in order; an `Ending` is the last thing yielded."""
        if self._received:
            yield self._end(Ending("crash", "the worker answered what nobody asked"))
            return
        self._poll.register(self._connection, select.POLLIN | select.POLLOUT)
        unsent = deque([memoryview(protocol.COUNT.pack(len(requests)))])
        for request in requests:
            unsent += (memoryview(protocol.COUNT.pack(len(request))), memoryview(request))
        watch = _Watch(self.pid, self._limits)
        for _ in requests:
            while (answer := self._take_answer()) is None:
                try:
                    self._exchange(unsent)
                except OSError:  # the connection ended, and so did the worker
                    yield self._end(None)
                    return
                caught = watch.check()
                if caught is not None:
                    yield self._end(caught)
                    return
            watch.restart()
            if isinstance(answer, Ending):
                yield self._end(answer)
                return
            yield answer

    def is_bloated(self) -> bool:
        """Whether the worker holds more memory than it should keep."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as statm:
                return int(statm.read().split()[1]) * _PAGE_BYTES > self._limits.recycle_rss_bytes
        except (OSError, IndexError):
            return True

    def kill(self) -> int:
        """End the worker and return its exit status."""
        self._connection.close()
        return self._template.end(self.pid)

    def _exchange(self, unsent: deque[memoryview]) -> None:
        """Wait for the connection a moment; send what it takes of `unsent`, receive what is there.

        Raises: OSError when the connection has ended.
        """
        for _, events in self._poll.poll(_WATCH_EVERY_S * 1000):
            if events & ~select.POLLOUT:
                data = self._connection.recv(_CHUNK)
                if not data:
                    raise ConnectionResetError("the worker closed its connection")
                self._received += data
            elif unsent:
                self._send(unsent)
            if not unsent:
                self._poll.modify(self._connection, select.POLLIN)

    def _send(self, unsent: deque[memoryview]) -> None:
        try:
            sent = self._connection.sendmsg(list(islice(unsent, _MAX_BUFFERS)))
        except BlockingIOError:  # writable, but not by this much
            return
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if unsent:
            unsent[0] = unsent[0][sent:]

    def _take_answer(self) -> bytes | Ending | None:
        """Return the next whole answer received, None before it is whole."""
        head = protocol.ANSWER.size
        if len(self._received) < head:
            return None
        status, length = protocol.ANSWER.unpack_from(self._received)
        if status > protocol.FAILED or length > MAX_ANSWER_BYTES:
            return Ending("crash", "the worker wrote what no worker writes")
        if len(self._received) < head + length:
            return None
        answer = bytes(self._received[head : head + length])
        del self._received[: head + length]
        if status == protocol.OUT_OF_MEMORY:
            return Ending("memory", f"more than {self._limits.memory_bytes // 2} bytes of memory")
        if status == protocol.FAILED:
            return Ending("failed", answer.decode("utf-8", "replace"))
        return answer

    def _end(self, known: Ending | None) -> Ending:
        """Make sure that the worker is gone; return how it ended, from its exit status unless that is known."""
        status = self.kill()
        if known is not None:
            return known
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number == signal.SIGKILL:
            return Ending("killed", "the worker was killed")
        if number:
            return Ending("crash", f"the worker ended with {signal.Signals(number).name}")
        return Ending("crash", f"the worker ended with exit status {os.WEXITSTATUS(status)}")


class _Watch:
    """Measures how much CPU time a worker has used for the item that it is at."""

    def __init__(self, pid: int, limits: WorkerLimits) -> None:
        self._path = f"/proc/{pid}/stat"
        self._limits = limits
        self._next_check_s = time.monotonic() + _WATCH_EVERY_S
        self._cpu_at_start_s: float | None = None
        self._cpu_s = 0.0
        self._progress_s = 0.0

    def restart(self) -> None:
        """Another item begins. Its CPU time counts from the next check on: reading /proc for each would cost more."""
        self._cpu_at_start_s = None

    def check(self) -> Ending | None:
        """Return the limit that the item broke, None while all is well; looks only every quarter of a second."""
        now_s = time.monotonic()
        if now_s < self._next_check_s:
            return None
        self._next_check_s = now_s + _WATCH_EVERY_S
        cpu_s = self._read_cpu_s()
        if cpu_s is None:  # gone: the connection will tell
            return None
        if self._cpu_at_start_s is None:
            self._cpu_at_start_s, self._progress_s = cpu_s, now_s
        elif cpu_s - self._cpu_at_start_s > self._limits.cpu_s:
            return Ending("timeout", f"more than {self._limits.cpu_s:g} s of CPU time")
        elif cpu_s > self._cpu_s:
            self._progress_s = now_s
        elif now_s - self._progress_s > self._limits.stalled_s:
            return Ending("timeout", f"no progress for {self._limits.stalled_s:g} s")
        self._cpu_s = cpu_s
        return None

    def _read_cpu_s(self) -> float | None:
        """Return user and system time; None, too, for a worker that somebody stopped or that waits for the disk."""
        try:
            with open(self._path, "rb") as stat:
                fields = stat.read().rpartition(b")")[2].split()
        except OSError:
            return None
        if fields[0] in (b"T", b"D", b"t"):
            self._progress_s = time.monotonic()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _reply(control: socket.socket) -> int:
    data = control.recv(protocol.REPLY.size)
    if len(data) < protocol.REPLY.size:
        raise ConnectionResetError("it ended at once; see its message above")
    value: int = protocol.REPLY.unpack(data)[0]
    return value
