"""A pool of isolated workers for code that may hang, recurse, crash or eat memory on one input of millions.

Requests and answers are bytes. An item whose worker ends unexpectedly costs itself alone: it is run again by itself on
a fresh worker, and blamed when that ends too; the others of its batch go on elsewhere. The nets (CPU time, memory, no
progress) are for what the caller's own limits missed; `WorkerPool.nets` counts how often they caught something.

    with WorkerPool("pipeline.extract.html.text:make_handler", size=2) as pool:
        for tag, answer in pool.imap((page, encode(page)) for page in pages):
            ...

Linux only (see `pipeline.extract.worker`, which is what runs in the processes).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pipeline import OURS_FIRST
from pipeline.extract import worker as protocol
from pipeline.table.errors import GristmillError

Tag = TypeVar("Tag")

BATCH_ITEMS = 8
BATCH_BYTES = 1024 * 1024
MAX_BYTES_IN_FLIGHT = 32 * 1024 * 1024  # of requests, for each `imap`
MAX_ANSWER_BYTES = 256 * 1024 * 1024
_CHUNK = 256 * 1024
_WATCH_EVERY_S = 0.25
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_START_TIMEOUT_S = 60.0
# One thread a process: a fork keeps none of a library's helper threads.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[5]); "
    f"{OURS_FIRST}from pipeline.extract.worker import template_main; "
    "template_main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))"
)
_CLOSED = "the worker pool was closed"
# An item is blamed when its worker ended this often: first in its batch, then alone on fresh workers. SIGKILL gets one
# more run, since it may have come from outside (an operator, the kernel short of memory) and have hit an innocent.
_ENDINGS_TO_BLAME = {"timeout": 1, "failed": 1, "crash": 2, "memory": 2, "killed": 3}


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
class WorkerFailure:
    """Why an item has no answer."""

    reason: Literal["timeout", "crash", "memory"]
    detail: str


Answer = bytes | WorkerFailure


@dataclass(frozen=True, slots=True)
class NetCounts:
    """How often workers ended unexpectedly, by what ended them, and how many items were rejected for it."""

    timeout: int = 0
    crash: int = 0
    memory: int = 0
    killed: int = 0
    items_rejected: int = 0


@dataclass(frozen=True, slots=True)
class _Ending:
    """How a worker ended while it owed an answer. `failed`: its handler raised; `killed`: SIGKILL that was not ours."""

    kind: Literal["timeout", "crash", "memory", "killed", "failed"]
    detail: str


class WorkerPool:
    """`size` worker processes shared by any number of threads that call `imap`.

    `factory` names a function ("package.module:function") that returns the handler, a function from bytes to bytes. Its
    module is imported once, in a template process that every worker is forked from.
    """

    def __init__(self, factory: str, size: int, limits: WorkerLimits | None = None) -> None:
        self.size = size
        self._template = _Template(factory, limits or WorkerLimits())
        self._threads = ThreadPoolExecutor(size, "extract")
        self._own = threading.local()  # the worker of each thread
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._broken: str | None = None
        self._cause: BaseException | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def nets(self) -> NetCounts:
        """What the nets caught so far."""
        return NetCounts(**self._counts)

    def close(self) -> None:
        """Kill all workers and the template, whatever they do. Takes well under a second; may be called twice."""
        self._broken = self._broken or _CLOSED
        self._template.close()
        self._threads.shutdown(wait=False)  # what was not begun ends at once, since the pool is broken

    def imap(self, items: Iterable[tuple[Tag, bytes | None]]) -> Iterator[tuple[Tag, Answer | None]]:
        """Yield each item's tag with its answer or failure, in order; none can drop.

        A request of None passes through without work and yields None. `items` is read in the caller's thread, only so
        far ahead as keeps the workers busy and at most `MAX_BYTES_IN_FLIGHT` of requests.

        Raises: GristmillError when workers cannot be started, or the pool is closed meanwhile.
        """
        source, waiting, more = iter(items), deque[tuple[Tag, _Item | None]](), True
        try:
            while True:
                if more and len(waiting) <= 2 * self.size * BATCH_ITEMS:  # else batches would be small
                    more = self._read_ahead(source, waiting)
                if not waiting:
                    return
                tag, item = waiting.popleft()
                yield tag, None if item is None else item.answer.result()
        finally:
            for _, item in waiting:
                if item is not None:
                    item.answer.cancel()

    def _read_ahead(self, source: Iterator[tuple[Tag, bytes | None]], waiting: deque[tuple[Tag, _Item | None]]) -> bool:
        """Read items and submit them in batches until enough are `waiting`; whether there may be more."""
        batch: list[_Item] = []
        bytes_ahead, more = sum(len(item.request) for _, item in waiting if item is not None), True
        is_asked = any(item is not None for _, item in waiting)
        while len(waiting) < 3 * self.size * BATCH_ITEMS and bytes_ahead < MAX_BYTES_IN_FLIGHT:
            found = next(source, None)
            if found is None:
                more = False
                break
            tag, request = found
            item = _Item(request) if request is not None else None
            waiting.append((tag, item))
            if item is not None:
                batch.append(item)
                bytes_ahead += len(item.request)
                is_asked = True
            elif not is_asked:  # nothing to wait for: what passes through is not counted, and must not pile up
                break
            if len(batch) >= BATCH_ITEMS or sum(len(item.request) for item in batch) >= BATCH_BYTES:
                self._submit(batch)
                batch = []
        if batch:
            self._submit(batch)
        return more

    def _submit(self, batch: list[_Item]) -> None:
        try:
            self._threads.submit(self._serve, batch)
        except RuntimeError as error:
            if self._broken is None:  # no thread can be started
                raise
            raise GristmillError(self._broken) from error

    def _serve(self, batch: list[_Item]) -> None:
        """Answer a batch, in one of the pool's threads; whatever happens, nobody waits for an item for ever."""
        pending = deque(item for item in batch if item.answer.set_running_or_notify_cancel())
        try:
            while pending and self._broken is None:
                ending = self._run(pending)
                if ending is not None and self._broken is None:
                    self._judge(pending, ending)
        except BaseException as error:
            is_known = isinstance(error, GristmillError | OSError)
            self._cause = self._cause or error
            self._broken = self._broken or (
                str(error) if is_known else f"a thread of the worker pool failed: {error!r}"
            )
            self._drop_worker()
            raise
        finally:
            for item in pending:
                failure = GristmillError(self._broken or _CLOSED)
                failure.__cause__ = self._cause
                item.answer.set_exception(failure)

    def _drop_worker(self) -> None:
        worker: _WorkerProcess | None = getattr(self._own, "worker", None)
        self._own.worker = None
        if worker is not None:
            worker.kill()

    def _run(self, pending: deque[_Item]) -> _Ending | None:
        """Run `pending` as far as one worker gets, removing what is answered; return how it ended, if it did."""
        is_suspect = pending[0].endings > 0
        if is_suspect:  # it gets a fresh worker and no company
            self._drop_worker()
        worker: _WorkerProcess = getattr(self._own, "worker", None) or self._template.spawn()
        self._own.worker = worker
        requests = [item.request for item in pending]
        for answer in worker.run(requests[:1] if is_suspect else requests):
            if isinstance(answer, _Ending):
                self._own.worker = None
                return answer
            pending.popleft().answer.set_result(answer)
        if worker.is_bloated():
            self._drop_worker()
        return None

    def _judge(self, pending: deque[_Item], ending: _Ending) -> None:
        """Count an unexpected ending; blame the item that was being handled, or mark it to be run alone."""
        pending[0].endings += 1
        blamed = pending[0].endings >= _ENDINGS_TO_BLAME[ending.kind]
        with self._lock:
            self._counts.update({"crash" if ending.kind == "failed" else ending.kind: 1, "items_rejected": int(blamed)})
        if blamed:
            reason = ending.kind if ending.kind in ("timeout", "memory") else "crash"
            pending.popleft().answer.set_result(WorkerFailure(reason, ending.detail))


@dataclass(slots=True, eq=False)
class _Item:
    """One request on its way, and how often a worker has ended at it."""

    request: bytes
    answer: Future[Answer] = field(default_factory=Future)
    endings: int = 0


class _Template:
    """The process that workers are forked from; started with the first worker, and again should it ever end."""

    def __init__(self, factory: str, limits: WorkerLimits) -> None:
        self._factory = factory
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = threading.Event()

    def spawn(self) -> _WorkerProcess:
        """Fork a worker.

        Raises: GristmillError when the template cannot be started.
        """
        with self._lock:
            for _ in range(2):  # a template that somebody killed is replaced once
                control = self._control or self._start()
                ours, theirs = socket.socketpair()
                try:
                    pid = _ask(control, protocol.SPAWN, 0, theirs)
                except OSError:
                    ours.close()
                    self._stop()
                    continue
                finally:
                    theirs.close()
                return _WorkerProcess(pid, ours, self, self._limits)
        raise GristmillError("the process that workers are forked from keeps ending; see the messages above")

    def end(self, pid: int) -> int:
        """Kill a worker and return its exit status; one that had ended already keeps its own.

        Without a template its workers are gone too, by their parent-death signal.
        """
        with self._lock:
            try:
                return _ask(self._control, protocol.END, pid) if self._control else int(signal.SIGKILL)
            except OSError:
                self._stop()
                return int(signal.SIGKILL)

    def close(self) -> None:
        """End the template and thereby all workers."""
        self._closed.set()
        with self._lock:
            self._stop()

    def _start(self) -> socket.socket:
        """Start the template from this thread, of the pool's, with which it ends: its parent-death signal sees to that.

        The thread blocks SIGINT meanwhile; the template inherits that, so Ctrl-C cannot hit it while Python starts.
        """
        if self._closed.is_set():
            raise GristmillError(_CLOSED)
        ours, theirs = socket.socketpair()
        search_path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        arguments = [str(theirs.fileno()), str(os.getpid()), self._factory, str(self._limits.memory_bytes), search_path]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **_ENVIRONMENT},
            )
            theirs.close()
            ours.settimeout(_START_TIMEOUT_S)
            _reply(ours)
        except OSError as error:
            ours.close()
            self._stop()
            raise GristmillError(f"worker processes could not be started for {self._factory}: {error}") from error
        finally:
            theirs.close()
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        ours.settimeout(None)
        self._control = ours
        return ours

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._control = self._process = None


class _WorkerProcess:
    """A forked worker with its connection."""

    def __init__(self, pid: int, connection: socket.socket, template: _Template, limits: WorkerLimits) -> None:
        self.pid = pid
        self._connection = connection
        self._template = template
        self._limits = limits
        self._received = bytearray()
        connection.settimeout(_WATCH_EVERY_S)

    def run(self, requests: list[bytes]) -> Iterator[bytes | _Ending]:
        """Yield an answer for each request, in order; an ending is the last thing yielded."""
        if self._received:
            yield self._end(_Ending("crash", "the worker answered what nobody asked"))
            return
        framed = [part for request in requests for part in (protocol.COUNT.pack(len(request)), request)]
        unsent = memoryview(b"".join([protocol.COUNT.pack(len(requests)), *framed]))
        watch = _Watch(self.pid, self._limits)
        for _ in requests:
            while (answer := self._take_answer()) is None:
                try:
                    if unsent:
                        unsent = unsent[self._connection.send(unsent) :]
                    else:
                        data = self._connection.recv(_CHUNK)
                        if not data:
                            raise ConnectionResetError
                        self._received += data
                except TimeoutError:
                    pass
                except OSError:  # the connection ended, and so did the worker
                    yield self._end(None)
                    return
                caught = watch.check()
                if caught is not None:
                    yield self._end(caught)
                    return
            watch.restart()
            if isinstance(answer, _Ending):
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

    def _take_answer(self) -> bytes | _Ending | None:
        """Return the next whole answer received, None before it is whole."""
        head = protocol.ANSWER.size
        if len(self._received) < head:
            return None
        status, length = protocol.ANSWER.unpack_from(self._received)
        if status > protocol.FAILED or length > MAX_ANSWER_BYTES:
            return _Ending("crash", "the worker wrote what no worker writes")
        if len(self._received) < head + length:
            return None
        answer = bytes(self._received[head : head + length])
        del self._received[: head + length]
        if status == protocol.OUT_OF_MEMORY:
            return _Ending("memory", f"more than {self._limits.memory_bytes // 2} bytes of memory")
        if status == protocol.FAILED:
            return _Ending("failed", answer.decode("utf-8", "replace"))
        return answer

    def _end(self, known: _Ending | None) -> _Ending:
        """Make sure that the worker is gone; return how it ended, from its exit status unless that is known."""
        status = self.kill()
        if known is not None:
            return known
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number == signal.SIGKILL:
            return _Ending("killed", "the worker was killed")
        if number == signal.SIGXCPU:
            return _Ending("timeout", "a step of it took more than its CPU time")
        if number:
            return _Ending("crash", f"the worker ended with {signal.Signals(number).name}")
        return _Ending("crash", f"the worker ended with exit status {os.WEXITSTATUS(status)}")


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

    def check(self) -> _Ending | None:
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
            return _Ending("timeout", f"more than {self._limits.cpu_s:g} s of CPU time")
        elif cpu_s > self._cpu_s:
            self._progress_s = now_s
        elif now_s - self._progress_s > self._limits.stalled_s:
            return _Ending("timeout", f"no progress for {self._limits.stalled_s:g} s")
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


def _ask(control: socket.socket, command: bytes, pid: int, attached: socket.socket | None = None) -> int:
    socket.send_fds(control, [protocol.COMMAND.pack(command, pid)], [attached.fileno()] if attached else [])
    return _reply(control)


def _reply(control: socket.socket) -> int:
    data = control.recv(protocol.REPLY.size)
    if len(data) < protocol.REPLY.size:
        raise ConnectionResetError("it ended at once; see its message above")
    value: int = protocol.REPLY.unpack(data)[0]
    return value
