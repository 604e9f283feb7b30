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

from pipeline.llm.budget import Admission
from pipeline.llm.cache import Cache
from pipeline.llm.commit import Committer
from pipeline.llm.config import BudgetConfig, ClientConfig, EndpointConfig, check_endpoints
from pipeline.llm.lanes import Lane, check_reachable, freest
from pipeline.llm.policies import UNSUPPORTED, Policy, backoff_s
from pipeline.llm.segments import FAILURE
from pipeline.llm.transport import CallError
from pipeline.llm.types import Answer, Counts, Failure, Report, Request, Stopped
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
    run = _Run(requests, endpoints, cache, config or ClientConfig(), budget or BudgetConfig())
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


class _Job:
    """A request that has not ended."""

    __slots__ = ("calls", "copies", "cost", "request")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.calls, self.copies, self.cost = 0, 1, 0.0


class _Run:
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
        self._lanes: list[Lane] = []
        self._counts = Counts()
        self._most = sum(endpoint.max_concurrency for endpoint in endpoints)
        self._window = _WINDOW * self._most + config.all_failed
        self._jobs: dict[bytes, _Job] = {}  # every request that has not ended, by key
        self._ready: deque[_Job] = deque()
        self._next: Request | None = None  # read from the source and not admitted yet
        self._last_order = ""
        self._backing_off = self._in_flight = 0
        self._set_aside: list[tuple[_Job, Answer | Failure]] = []  # failures from before the first success
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
        self._committer = Committer[_Job](self._cache, self._durable, self._end)
        ticker: asyncio.Task[None] | None = None
        try:
            await self._find_first()
            if self._ready:
                await self._open()
                ticker = asyncio.create_task(self._tick(on_progress, stop))
                self._pump()
                await self._done
        finally:
            await self._close(ticker)
        if on_progress:
            on_progress(self._counts)
        reports = tuple(lane.report() for lane in self._lanes)
        return Report(self._counts, self._stopped, self._stopped_at, reports, time.monotonic() - began)

    # Beginning and end ------------------------------------------------------------------------------------------------

    async def _find_first(self) -> None:
        """Read up to the first request that must be asked for."""
        while self._is_reading():
            job = self._from_source()
            if job is not None:
                self._ready.append(job)
                return
            await asyncio.sleep(0)

    async def _open(self) -> None:
        """Raises: UsageError when no endpoint is reachable."""
        now = self._loop.time()
        self._last_good = now
        for endpoint in self._endpoints:
            self._lanes.append(Lane(endpoint, self._config, now))
        await check_reachable(self._lanes, self._config.start_timeout_s)

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
            await self._committer.close()
        finally:
            for lane in self._lanes:
                await lane.transport.close()

    async def _tick(self, on_progress: Callable[[Counts], None] | None, stop: Callable[[], bool] | None) -> None:
        """Watch what no answer would tell: a stop from outside, silence, the end of patience."""
        ticks, before = 0, self._loop.time()
        patience_s = self._config.give_up_s + max(lane.endpoint.timeout_s for lane in self._lanes)
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
            self._store_set_aside()
        elif self._set_aside:
            self._end(None if self._stopped == "asked" else self._all_failed())
        elif not self._jobs and not self._is_reading():
            self._end(None)

    def _fill(self) -> None:
        now = self._loop.time()
        while self._in_flight + self._committer.unsynced < self._most:
            lane = freest(self._lanes, now)
            if lane is None:
                return
            job = self._ready.popleft() if self._ready else self._from_source()
            if job is None:
                return
            self._in_flight += 1
            lane.limiter.sent()
            task = self._loop.create_task(self._attempt(lane, job))
            self._tasks.add(task)
            task.add_done_callback(self._attempted)

    def _from_source(self) -> _Job | None:
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
        if self._lanes and self._pump_again is None:
            self._pump_again = self._loop.call_soon(self._pump_soon)
        return None

    def _pump_soon(self) -> None:
        self._pump_again = None
        self._pump()

    def _admit(self, request: Request) -> _Job | None:
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
        kind = self._cache.kind(request.key)
        if kind is None or (kind == FAILURE and self._config.retry_failed):
            job = self._jobs[request.key] = _Job(request)
            return job
        self._counts.cached += 1
        self._counts.cached_failures += kind == FAILURE
        self._knows_answer = self._knows_answer or kind != FAILURE
        stored = self._cache.get(request.key) if self._admission.counts_tokens else None
        self._settle(request, stored, 1)
        return None

    def _settle(self, request: Request, result: Answer | Failure | None, times: int) -> None:
        self._admission.settle(request, result, times)
        self._counts.charged_tokens = self._admission.charged_tokens

    # One attempt ------------------------------------------------------------------------------------------------------

    async def _attempt(self, lane: Lane, job: _Job) -> None:
        sent_at = self._loop.time()
        job.calls += 1
        lane.calls += 1
        self._counts.calls += 1
        failed: CallError | None = None
        try:
            answer = await lane.transport.ask(job.request, job.calls)
        except CallError as error:
            failed = error
        self._in_flight -= 1
        lane.limiter.in_flight -= 1
        now = self._loop.time()
        if failed is None:
            lane.limiter.answered(sent_at, now)
            lane.answers += 1
            self._last_good = now
            self._store(job, answer)
        else:
            lane.limiter.failed(failed.policy, sent_at, now, failed.pause_s)
            self._handle(lane, job, failed)
        self._pump()

    def _attempted(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours ends the run; it does not lose a request in silence."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            self._end(error)

    def _handle(self, lane: Lane, job: _Job, error: CallError) -> None:
        """Do what the policy of an error says."""
        policy = error.policy
        self._trouble = f"{lane.endpoint.base_url}: {error.detail}"
        retries = self._counts.retries
        retries[policy.name] = retries.get(policy.name, 0) + 1
        if policy.action == "stop" or (policy.action == "stop_or_refuse" and not lane.answers):
            check = "" if policy is UNSUPPORTED else "; check api_key_env, model and base_url"
            self._end(self._fatal(f"endpoint {self._trouble}{check}", is_setting=policy is not UNSUPPORTED))
        elif policy.action != "again" or (cost := job.cost + policy.cost) >= self._config.max_attempts:
            self._set_job_aside(job, policy, error.detail)
        else:
            job.cost = cost
            wait_s = error.pause_s + backoff_s(job.calls, self._config.backoff_s, self._config.backoff_cap_s)
            self._backing_off += 1
            self._loop.call_later(wait_s, self._try_again, job)

    def _try_again(self, job: _Job) -> None:
        self._backing_off -= 1
        self._ready.append(job)
        self._pump()

    def _set_job_aside(self, job: _Job, policy: Policy, detail: str) -> None:
        failure = Failure(job.request.key, policy.reason, detail, job.calls)
        _log.debug("request %s failed: %s", job.request.order, detail)
        if any(lane.answers for lane in self._lanes):
            self._store(job, failure)
            return
        self._set_aside.append((job, failure))
        if len(self._set_aside) >= self._config.all_failed:
            self._end(self._all_failed("first "))

    def _all_failed(self, which: str = "") -> GristmillError:
        count, last = len(self._set_aside), self._set_aside[-1][1]
        reason = last.reason if isinstance(last, Failure) else ""
        return GristmillError(
            f"the {which}{count} requests all failed, the last: {reason}, {self._trouble}; none was stored, "
            "the next run asks again"
        )

    def _fatal(self, text: str, is_setting: bool = True) -> GristmillError:
        """Return an error of the class that says whether it was found before work began."""
        if any(lane.answers for lane in self._lanes):
            return GristmillError(f"{text}; what was answered is stored")
        return UsageError(text) if is_setting else GristmillError(text)

    # Storing ----------------------------------------------------------------------------------------------------------

    def _store(self, job: _Job, result: Answer | Failure) -> None:
        self._committer.add([(job, result)])
        if self._set_aside:
            self._store_set_aside()

    def _store_set_aside(self) -> None:
        """Store the failures that waited for a first success."""
        failures, self._set_aside = self._set_aside, []
        self._committer.add(failures)

    def _durable(self, batch: Sequence[tuple[_Job, Answer | Failure]]) -> None:
        """Let durable results count."""
        for job, result in batch:
            del self._jobs[job.request.key]
            self._settle(job.request, result, job.copies)
            self._count(result)
        self._pump()

    def _count(self, result: Answer | Failure) -> None:
        counts = self._counts
        if isinstance(result, Failure):
            counts.failed += 1
            counts.failures[result.reason] = counts.failures.get(result.reason, 0) + 1
        else:
            counts.answered += 1
            counts.prompt_tokens += result.prompt_tokens or 0
            counts.completion_tokens += result.completion_tokens or 0
