"""A pool of isolated workers for code that may hang, recurse, crash or eat memory on one input of millions.

Requests and answers are bytes. An item whose worker ends unexpectedly costs itself alone: it is run again by itself on
a fresh worker, and blamed when that ends too; the others of its batch go on elsewhere. The nets (CPU time, memory, no
progress) are for what the caller's own limits missed; `WorkerPool.nets` counts how often they caught something.

    with WorkerPool("pipeline.extract.html.text:make_handler", size=2) as pool:
        for tag, answer in pool.imap((page, encode(page)) for page in pages):
            ...

Linux only (see `pipeline.extract.worker`).
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from pipeline.extract.worker_process import Ending, Failure, Template, WorkerLimits, WorkerProcess
from pipeline.table.errors import GristmillError

__all__ = ["Answer", "Failure", "NetCounts", "WorkerLimits", "WorkerPool"]

Tag = TypeVar("Tag")
Answer = bytes | Failure

BATCH_ITEMS = 8
BATCH_BYTES = 1024 * 1024
MAX_BYTES_IN_FLIGHT = 32 * 1024 * 1024  # of requests, for each `imap`
# An item is blamed when its worker ended this often: first in its batch, then alone on fresh workers. SIGKILL gets one
# more run, since it may have come from outside (an operator, the kernel short of memory) and have hit an innocent.
_ENDINGS_TO_BLAME = {"timeout": 1, "failed": 1, "crash": 2, "memory": 2, "killed": 3}


@dataclass(frozen=True, slots=True)
class NetCounts:
    """How often workers ended unexpectedly, by what ended them, and how many items were rejected for it."""

    timeout: int = 0
    crash: int = 0
    memory: int = 0
    killed: int = 0
    items_rejected: int = 0


@dataclass(slots=True, eq=False)
class _Item:
    """One request on its way: `answer` is set once, by the thread that serves it."""

    request: bytes
    job: _Job
    answer: Answer | None = None
    endings: int = 0


@dataclass(slots=True, eq=False)
class _Job:
    """One `imap`: what its consumer waits on."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    outstanding_items: int = 0
    bytes_in_flight: int = 0
    abandoned: bool = False


_Batch = list[_Item] | None  # None ends a thread


class WorkerPool:
    """`size` worker processes shared by any number of threads that call `imap`.

    `factory` names a function ("package.module:function") that returns the handler, a function from bytes to bytes. Its
    module is imported once, in a template process that every worker is forked from.
    """

    def __init__(self, factory: str, size: int, limits: WorkerLimits | None = None) -> None:
        self.size = size
        self._limits = limits or WorkerLimits()
        self._template = Template(factory, self._limits)
        self._batches: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._nets = NetCounts()
        self._closing = threading.Event()
        self._broken: str | None = None
        self._jobs: set[_Job] = set()
        self._threads = [
            threading.Thread(target=self._serve, name=f"extract-{number}", daemon=True) for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def nets(self) -> NetCounts:
        """What the nets caught so far."""
        return self._nets

    def close(self) -> None:
        """Kill all workers and the template, whatever they do. Takes well under a second; may be called twice."""
        self._closing.set()
        self._template.close()
        for _ in self._threads:
            self._batches.put(None)
        for thread in self._threads:
            thread.join(timeout=1)
        self._break("the worker pool was closed")

    def imap(self, items: Iterable[tuple[Tag, bytes | None]]) -> Iterator[tuple[Tag, Answer | None]]:
        """Yield each item's tag with its answer or failure, in order; none can drop.

        A request of None passes through without work and yields None. `items` is read in the caller's thread, only so
        far ahead as keeps the workers busy and at most `MAX_BYTES_IN_FLIGHT` of requests.

        Raises: GristmillError when workers cannot be started, or the pool is closed meanwhile.
        """
        job = _Job()
        self._jobs.add(job)
        window = _Window(iter(items), job, self._batches, self.size)
        try:
            while window.fill():
                tag, item = window.head()
                yield tag, None if item is None else self._wait(item)
        finally:
            job.abandoned = True
            self._jobs.discard(job)

    def _wait(self, item: _Item) -> Answer:
        with item.job.changed:
            while item.answer is None:
                if self._broken:
                    raise GristmillError(self._broken)
                item.job.changed.wait()
            item.job.bytes_in_flight -= len(item.request)
            return item.answer

    def _serve(self) -> None:
        """Give batches to one worker process, one after the other, until the pool closes. The body of a thread."""
        worker: WorkerProcess | None = None
        why = "a thread of the worker pool ended unexpectedly"
        try:
            while (batch := self._batches.get()) is not None and not self._closing.is_set():
                pending = deque(item for item in batch if not item.job.abandoned)
                while pending and not self._closing.is_set():
                    worker = self._run(worker, pending)
            why = "the worker pool was closed"
        except (GristmillError, OSError) as error:
            why = str(error)
        finally:
            self._break(why)  # whatever ended this thread, nobody may wait for it
            if worker is not None:
                worker.kill()

    def _run(self, worker: WorkerProcess | None, pending: deque[_Item]) -> WorkerProcess | None:
        """Run `pending` as far as one worker gets, removing what is answered. Return the worker if it can go on."""
        suspect = pending[0].endings > 0
        if worker is not None and suspect:  # a suspect gets a fresh worker and no company
            worker.kill()
            worker = None
        worker = worker or self._template.spawn()
        count = 1 if suspect else len(pending)
        for answer in worker.run([pending[index].request for index in range(count)]):
            if isinstance(answer, Ending):
                self._judge(pending, answer)
                return None
            self._deliver(pending.popleft(), answer)
        if worker.is_bloated():
            worker.kill()
            return None
        return worker

    def _judge(self, pending: deque[_Item], ending: Ending) -> None:
        """Count an unexpected ending; blame the item that was being handled, or mark it to be run alone."""
        if self._closing.is_set():
            return
        item = pending[0]
        item.endings += 1
        blamed = item.endings >= _ENDINGS_TO_BLAME[ending.kind]
        with self._lock:
            kind = "crash" if ending.kind == "failed" else ending.kind
            counts = {kind: getattr(self._nets, kind) + 1, "items_rejected": self._nets.items_rejected + blamed}
            self._nets = replace(self._nets, **counts)
        if blamed:
            self._deliver(pending.popleft(), ending.failure())

    def _deliver(self, item: _Item, answer: Answer) -> None:
        with item.job.changed:
            item.answer = answer
            item.job.outstanding_items -= 1
            item.job.changed.notify_all()

    def _break(self, why: str) -> None:
        """Let every waiting `imap` raise."""
        self._broken = self._broken or why
        for job in list(self._jobs):
            with job.changed:
                job.changed.notify_all()


class _Window(Generic[Tag]):
    """The items of one `imap` that were read and not yet yielded, oldest first."""

    def __init__(
        self, source: Iterator[tuple[Tag, bytes | None]], job: _Job, batches: queue.SimpleQueue[_Batch], workers: int
    ) -> None:
        self._source = source
        self._job = job
        self._batches = batches
        self._busy_items = workers * BATCH_ITEMS
        self._items: deque[tuple[Tag, _Item | None]] = deque()
        self._batch: list[_Item] = []
        self._batch_bytes = 0
        self._exhausted = False

    def fill(self) -> bool:
        """Read ahead and submit; whether there is anything to yield."""
        room = 3 * self._busy_items
        while not self._exhausted and len(self._items) < room and self._job.bytes_in_flight < MAX_BYTES_IN_FLIGHT:
            self._read_one()
        # A started batch waits for more items only as long as the workers have enough to do.
        if self._batch and self._job.outstanding_items - len(self._batch) < self._busy_items:
            self._submit()
        return bool(self._items)

    def head(self) -> tuple[Tag, _Item | None]:
        """Take the oldest item."""
        return self._items.popleft()

    def _read_one(self) -> None:
        try:
            tag, request = next(self._source)
        except StopIteration:
            self._exhausted = True
            return
        if request is None:
            self._items.append((tag, None))
            return
        item = _Item(request, self._job)
        self._items.append((tag, item))
        self._batch.append(item)
        self._batch_bytes += len(request)
        with self._job.changed:
            self._job.outstanding_items += 1
            self._job.bytes_in_flight += len(request)
        if len(self._batch) >= BATCH_ITEMS or self._batch_bytes >= BATCH_BYTES:
            self._submit()

    def _submit(self) -> None:
        self._batches.put(self._batch)
        self._batch, self._batch_bytes = [], 0
