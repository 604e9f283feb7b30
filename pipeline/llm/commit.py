"""Group commit: results that arrive while the disk is busy are made durable together, with one fsync."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from pipeline.llm.cache import Cache, Frame, encode
from pipeline.llm.types import Answer, Failure

Owner = TypeVar("Owner")


class Committer(Generic[Owner]):
    """Writes results to a cache from a thread of its own; each comes back with its owner once it is durable.

    A commit begins as soon as the disk is free, so a slow disk makes groups larger and a fast one answers sooner.
    """

    def __init__(
        self,
        cache: Cache,
        on_durable: Callable[[Sequence[tuple[Owner, Answer | Failure]]], None],
        on_error: Callable[[Exception], None],
    ) -> None:
        """Made inside a running event loop, in whose thread the callbacks come."""
        self._cache, self._on_durable, self._on_error = cache, on_durable, on_error
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, "answers")
        self._waiting: list[tuple[Owner, Answer | Failure]] = []
        self._writing: asyncio.Future[list[int]] | None = None
        self.unsynced = 0
        """Results that do not count yet."""

    def add(self, results: Sequence[tuple[Owner, Answer | Failure]]) -> None:
        """Take results; each will be durable and reported, or the error will."""
        self.unsynced += len(results)
        self._waiting += results
        if self._writing is None and self._waiting:
            self._begin()

    async def close(self) -> None:
        """Write what is waiting and end the thread."""
        try:
            while self._writing is not None:
                await asyncio.wait([self._writing])
                await asyncio.sleep(0)  # its callback, which may begin the next
        finally:
            self._disk.shutdown()

    def _begin(self) -> None:
        batch, self._waiting = self._waiting, []
        frames = [encode(result) for _, result in batch]
        self._writing = self._loop.run_in_executor(self._disk, self._cache.flush, frames)
        self._writing.add_done_callback(lambda done: self._written(batch, frames, done))

    def _written(
        self, batch: list[tuple[Owner, Answer | Failure]], frames: list[Frame], done: asyncio.Future[list[int]]
    ) -> None:
        self._writing = None
        error = done.exception()
        if error is not None:
            self._waiting = []
            self._on_error(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return
        self._cache.publish(frames, done.result())
        self.unsynced -= len(batch)
        if self._waiting:
            self._begin()
        self._on_durable(batch)
