"""Asking endpoints for what the cache does not hold: any number of requests, each ended once, in bounded memory.

Requests come from an iterator in order. At most `max_concurrency` of an endpoint are under way or answered but not yet
durable, so that is the most that a kill can make it answer twice. A request that waits to be tried again holds no slot.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.llm.budget import Admission
from pipeline.llm.cache import Cache
from pipeline.llm.config import BudgetConfig, ClientConfig, EndpointConfig, check_endpoints
from pipeline.llm.policies import UNSUPPORTED, ErrorPolicy, backoff_s
from pipeline.llm.transport import CallError, Endpoint, check_reachable, freest
from pipeline.llm.types import Answer, Counts, EndpointReport, Failure, Report, Request, Stopped
from pipeline.table.errors import ConservationError, GristmillError, UsageError

_log = logging.getLogger(__name__)

_CACHED_AT_ONCE = 256
_WINDOW = 4
_TICK_S = 0.1
_PROGRESS_TICKS = 5


async def complete(
    requests: Iterable[Request],
    endpoints: Sequence[EndpointConfig],
    cache: Cache,
    *,
    config: ClientConfig | None = None,
    budget: BudgetConfig | None = None,
    on_progress: Callable[[Counts], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Report:
    """Ask for every request that `cache` does not hold; afterwards it holds an answer or a failure for each.

    Nothing is dropped: the requests that come after a stop (a budget, `stop` returning true) are not begun, and the
    report says so. `requests` is read as slots come free, between answers: each should take milliseconds at most.
    No endpoint is contacted when nothing is missing.

    Raises: UsageError when no endpoint can be reached at the start, a key is missing, or no request can succeed (wrong
    key, unknown model); GristmillError when that shows later, a parameter is not taken, every request failed or nothing
    succeeds for long; WorkspaceError when the cache's disk fails; ConservationError when requests are out of order.
    What was answered before is stored; where every request failed, nothing is, and the next run asks again.
    """
    check_endpoints(tuple(endpoints))
    run = _Asking(requests, endpoints, cache, config or ClientConfig(), budget or BudgetConfig())
    return await run.run(on_progress, stop)


def complete_sync(
    requests: Iterable[Request],
    endpoints: Sequence[EndpointConfig],
    cache: Cache,
    *,
    config: ClientConfig | None = None,
    budget: BudgetConfig | None = None,
    on_progress: Callable[[Counts], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Report:
    """Do the same from code without a running event loop."""
    return asyncio.run(
        complete(requests, endpoints, cache, config=config, budget=budget, on_progress=on_progress, stop=stop)
    )


@dataclass(slots=True, eq=False)
class _Pending:
    """A request that has not ended."""

    request: Request
    calls: int = 0
    copies: int = 1
    cost: float = 0.0


class _Asking:
    """One run's state. Everything but the writing to disk happens in the event loop's thread."""

    def __init__(
        self,
        requests: Iterable[Request],
        endpoints: Sequence[EndpointConfig],
        cache: Cache,
        config: ClientConfig,
        budget: BudgetConfig,
    ) -> None:
        self._source: Iterator[Request] | None = iter(requests)
        self._endpoints, self._cache, self._config = endpoints, cache, config
        self._admission = Admission(budget)
        self._at_work: list[Endpoint] = []
        self._counts = Counts()
        self._most = sum(endpoint.max_concurrency for endpoint in endpoints)
        self._window = _WINDOW * self._most + config.all_failed
        self._jobs: dict[bytes, _Pending] = {}  # every request that has not ended, by key
        self._ready: deque[_Pending] = deque()
        self._next: Request | None = None  # read from the source and not admitted yet
        self._last_order = ""
        self._backing_off = self._in_flight = 0
        self._set_aside: list[tuple[_Pending, Failure]] = []  # failures from before the first success
        self._disk = ThreadPoolExecutor(1, "answers")
        self._waiting: list[tuple[_Pending, Answer | Failure]] = []  # for the disk
        self._writing: asyncio.Future[None] | None = None
        self._unsynced = 0  # results that do not count yet
        self._knows_answer = False  # stored before this run
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped: Stopped | None = None
        self._stopped_at: str | None = None
        self._drain_until = float("inf")
        self._last_good = 0.0
        self._trouble = ""
        self._pump_again: asyncio.Handle | None = None

    async def run(self, on_progress: Callable[[Counts], None] | None, stop: Callable[[], bool] | None) -> Report:
        began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()
        ticker: asyncio.Task[None] | None = None
        try:
            while self._is_reading() and not self._ready:  # up to the first request that must be asked for
                job = self._from_source()
                self._ready += [job] if job is not None else []
                await asyncio.sleep(0)
            if self._ready:
                now = self._last_good = self._loop.time()
                for endpoint in self._endpoints:
                    self._at_work.append(Endpoint(endpoint, self._config, now))  # one at a time: each is to be closed
                await check_reachable(self._at_work, self._config.start_timeout_s)
                ticker = asyncio.create_task(self._tick(on_progress, stop))
                self._pump()
                await self._done
        finally:
            await self._close(ticker)
        if on_progress:
            on_progress(self._counts)
        reports = tuple(
            EndpointReport(e.config.base_url, e.calls, e.answers, e.limiter.limit, e.limiter.highest_limit)
            for e in self._at_work
        )
        return Report(self._counts, self._stopped, self._stopped_at, reports, time.monotonic() - began)

    # Beginning and end ------------------------------------------------------------------------------------------------

    async def _close(self, ticker: asyncio.Task[None] | None) -> None:
        """Store what was answered, whatever happened, and let go of everything."""
        try:
            self._done.cancel()
            tasks = [*self._tasks, *([ticker] if ticker else [])]
            for task in tasks:
                task.cancel()
            if self._pump_again:
                self._pump_again.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._source = None
            while self._writing is not None:
                await asyncio.wait([self._writing])
                await asyncio.sleep(0)  # its callback, which may begin the next
        finally:
            self._disk.shutdown()
            for endpoint in self._at_work:
                await endpoint.close()

    async def _tick(self, on_progress: Callable[[Counts], None] | None, stop: Callable[[], bool] | None) -> None:
        """Watch what no answer would tell: a stop from outside, silence, the end of patience."""
        ticks, before = 0, self._loop.time()
        patience_s = self._config.give_up_s + max(endpoint.config.timeout_s for endpoint in self._at_work)
        try:
            while True:
                await asyncio.sleep(_TICK_S)
                now, ticks = self._loop.time(), ticks + 1
                self._last_good += max(0.0, now - before - 2 * _TICK_S)  # the source kept us from looking
                before = now
                if stop and self._stopped is None and stop():
                    self._stop("asked")
                if now > self._drain_until:
                    self._end(None)
                if now - self._last_good > patience_s:
                    self._end(
                        GristmillError(f"no usable answer for {patience_s:.0f} s: {self._trouble}; run again to go on")
                    )
                if on_progress and ticks % _PROGRESS_TICKS == 0:
                    on_progress(self._counts)
                self._pump()
        except Exception as error:  # noqa: BLE001 - whatever a callback raises ends the run, it does not vanish in a task
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)

    def _stop(self, why: Stopped) -> None:
        """Begin nothing new; what is under way may end."""
        self._stopped = why
        if self._next is not None:
            self._stopped_at = self._next.order
        self._source = self._next = None
        if why == "asked":
            self._drain_until = self._loop.time() + self._config.drain_s

    # Choosing what goes next ------------------------------------------------------------------------------------------

    def _is_reading(self) -> bool:
        return self._source is not None or self._next is not None

    def _pump(self) -> None:
        """Fill free slots; end the run when nothing is left."""
        if self._done.done():
            return
        try:
            self._fill()
        except Exception as error:  # noqa: BLE001 - also what the caller's iterator raises
            self._end(error)
            return
        if self._in_flight or self._ready or self._backing_off or self._pump_again:
            return
        if self._set_aside and self._knows_answer:  # so these failed for a reason of their own
            self._store(*self._set_aside.pop())
        elif self._set_aside:
            self._end(None if self._stopped == "asked" else self._all_failed())
        elif not self._jobs and not self._is_reading():
            self._end(None)

    def _fill(self) -> None:
        now = self._loop.time()
        while self._in_flight + self._unsynced < self._most:
            endpoint = freest(self._at_work, now)
            if endpoint is None:
                return
            job = self._ready.popleft() if self._ready else self._from_source()
            if job is None:
                return
            self._in_flight += 1
            endpoint.limiter.sent()
            task = self._loop.create_task(self._attempt(endpoint, job))
            self._tasks.add(task)
            task.add_done_callback(self._attempted)

    def _from_source(self) -> _Pending | None:
        """Return the next request that must be asked for, or none when there is none now."""
        for _ in range(_CACHED_AT_ONCE):
            if len(self._jobs) >= self._window or self._source is None:
                return None
            request = self._next or next(self._source, None)
            self._next = request
            if request is None:
                self._source = None
                return None
            decision = self._admission.decide(request)
            if decision == "wait":
                return None
            if decision != "admit":
                self._stop(decision)
                return None
            self._next = None
            job = self._admit(request)
            if job is not None:
                return job
        if self._at_work and self._pump_again is None:
            self._pump_again = self._loop.call_soon(self._pump_soon)
        return None

    def _pump_soon(self) -> None:
        self._pump_again = None
        self._pump()

    def _admit(self, request: Request) -> _Pending | None:
        """Take a request into the run; return its job unless it is stored or under way already."""
        if request.order < self._last_order:
            raise ConservationError(f"request {request.order!r} comes after {self._last_order!r}; sort them by `order`")
        self._last_order = request.order
        self._counts.seen += 1
        self._admission.admit(request)
        job = self._jobs.get(request.key)
        if job is not None:
            job.copies += 1
            self._counts.repeated += 1
            return None
        stored = self._cache.get(request.key)
        is_failure = isinstance(stored, Failure)
        if stored is None or (is_failure and self._config.retry_failed):
            job = self._jobs[request.key] = _Pending(request)
            return job
        self._counts.cached += 1
        self._counts.cached_failures += is_failure
        self._knows_answer = self._knows_answer or not is_failure
        self._settle(request, stored, 1)
        return None

    def _settle(self, request: Request, result: Answer | Failure, times: int) -> None:
        self._admission.settle(request, result, times)
        self._counts.charged_tokens = self._admission.charged_tokens

    # One attempt ------------------------------------------------------------------------------------------------------

    async def _attempt(self, endpoint: Endpoint, job: _Pending) -> None:
        sent_at = self._loop.time()
        job.calls += 1
        endpoint.calls += 1
        self._counts.calls += 1
        failed: CallError | None = None
        try:
            answer = await endpoint.ask(job.request, job.calls)
        except CallError as error:
            failed = error
        self._in_flight -= 1
        endpoint.limiter.in_flight -= 1
        now = self._loop.time()
        if failed is None:
            endpoint.limiter.answered(sent_at, now)
            endpoint.answers += 1
            self._last_good = now
            self._store(job, answer)
        else:
            endpoint.limiter.failed(failed.policy, sent_at, now, failed.pause_s)
            self._handle(endpoint, job, failed)
        self._pump()

    def _attempted(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours ends the run; it does not lose a request in silence."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._end(error)

    def _handle(self, endpoint: Endpoint, job: _Pending, error: CallError) -> None:
        """Do what the policy of an error says."""
        policy = error.policy
        self._trouble = f"{endpoint.config.base_url}: {error.detail}"
        retries = self._counts.retries
        retries[policy.name] = retries.get(policy.name, 0) + 1
        if policy.action == "stop" or (policy.action == "stop_or_refuse" and not endpoint.answers):
            told = f"endpoint {self._trouble}"
            told += "" if policy is UNSUPPORTED else "; check api_key_env, model and base_url"
            if self._has_answer():
                self._end(GristmillError(f"{told}; what was answered is stored"))
            else:  # a setting is found before work begins
                self._end(GristmillError(told) if policy is UNSUPPORTED else UsageError(told))
        elif policy.action != "again" or (cost := job.cost + policy.cost) >= self._config.max_attempts:
            self._set_job_aside(job, policy, error.detail)
        else:
            job.cost = cost
            wait_s = error.pause_s + backoff_s(job.calls, self._config.backoff_s, self._config.backoff_cap_s)
            self._backing_off += 1
            self._loop.call_later(wait_s, self._try_again, job)

    def _try_again(self, job: _Pending) -> None:
        self._backing_off -= 1
        self._ready.append(job)
        self._pump()

    def _set_job_aside(self, job: _Pending, policy: ErrorPolicy, detail: str) -> None:
        failure = Failure(job.request.key, policy.reason, detail, job.calls)
        _log.debug("request %s failed: %s", job.request.order, detail)
        if self._has_answer():
            self._store(job, failure)
            return
        self._set_aside.append((job, failure))
        if len(self._set_aside) >= self._config.all_failed:
            self._end(self._all_failed("first "))

    def _all_failed(self, which: str = "") -> GristmillError:
        count, (_, last) = len(self._set_aside), self._set_aside[-1]
        return GristmillError(
            f"the {which}{count} requests all failed, the last: {last.reason}, {self._trouble}; none was stored, "
            "the next run asks again"
        )

    def _has_answer(self) -> bool:
        return any(endpoint.answers for endpoint in self._at_work)

    # Storing ----------------------------------------------------------------------------------------------------------

    def _store(self, job: _Pending, result: Answer | Failure) -> None:
        """Let a result be made durable, and with it the failures that waited for a first success.

        What arrives while the disk is busy is made durable together, as soon as it is free: a slow disk makes groups
        larger, a fast one answers sooner.
        """
        failures, self._set_aside = self._set_aside, []
        self._unsynced += 1 + len(failures)
        self._waiting += [(job, result), *failures]
        self._write()

    def _write(self) -> None:
        if self._writing is None and self._waiting:
            batch, self._waiting = self._waiting, []
            records = [result for _, result in batch]
            self._writing = self._loop.run_in_executor(self._disk, self._cache.write, records)
            self._writing.add_done_callback(lambda done: self._written(batch, done))

    def _written(self, batch: Sequence[tuple[_Pending, Answer | Failure]], done: asyncio.Future[None]) -> None:
        """Let durable results count."""
        self._writing = None
        error = done.exception()
        if error is not None:
            self._waiting = []
            self._end(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return
        self._unsynced -= len(batch)
        self._write()
        counts = self._counts
        for job, result in batch:
            del self._jobs[job.request.key]
            self._settle(job.request, result, job.copies)
            if isinstance(result, Failure):
                counts.failed += 1
                counts.failures[result.reason] = counts.failures.get(result.reason, 0) + 1
            else:
                counts.answered += 1
                counts.prompt_tokens += result.prompt_tokens or 0
                counts.completion_tokens += result.completion_tokens or 0
        self._pump()
