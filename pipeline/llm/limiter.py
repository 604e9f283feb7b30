"""How many calls an endpoint gets at once: additive increase, multiplicative decrease.

The limit doubles every two rounds of answers until the first sign of trouble, then grows by one a round. It shrinks on
429, errors and timeouts, at most once a round: calls sent before it shrank say nothing of the limit that holds now. It
also shrinks when latency grows and throughput does not, down to where throughput was best at the least, for beyond that
point calls only wait in the server. A limit never used in full does not grow.

An endpoint that refuses connections is left out and probed again with one call, after ever longer pauses. When it is
back, its limit doubles every two rounds up to what it bore before, for a restart says nothing of what a server bears.
"""

from __future__ import annotations

from pipeline.llm.policies import ErrorPolicy

_FIRST_LIMIT = 8.0
_LATENCY_GREW = 1.5
_MORE = 1.05
_SHRINK_BY_LATENCY = 0.8
_FORGET = 0.1
_NEAR = 1.25
_LEAST_ROUND = 16
_DOWN_AFTER = 3
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0


class Limiter:
    """The concurrency of one endpoint. Times are those of a monotonic clock, in seconds."""

    def __init__(self, highest: int, now: float) -> None:
        self.highest = float(highest)
        self.limit = min(_FIRST_LIMIT, self.highest)
        self.highest_limit = self.limit
        self.in_flight = 0
        self.closed_until = 0.0
        self._is_doubling = True
        self._shrunk_at = now
        self._refused = self._bad_in_row = self._probes = 0
        self._bore = 0.0  # before it was down, as long as the limit is below
        self._limit_before = self.limit  # at the last good answer
        self._begin_round(now)
        self._best_rate = self._best_limit = self._best_latency = 0.0

    def free(self, now: float) -> float:
        """Return how many more calls may go now; below 1 none."""
        if now < self.closed_until:
            return 0.0
        if self._refused >= _DOWN_AFTER:
            return 0.0 if self.in_flight else 1.0
        return self.limit - self.in_flight

    @property
    def is_down(self) -> bool:
        return self._refused >= _DOWN_AFTER

    def leave_out(self, now: float) -> None:
        """Treat the endpoint as down until a probe is answered."""
        self._refused, self.closed_until = _DOWN_AFTER, now + _FIRST_PAUSE_S

    def sent(self) -> None:
        self.in_flight += 1
        if self.in_flight + 1 > self.limit:
            self._was_full = True

    def answered(self, sent_at: float, now: float) -> None:
        """Note a good answer; the caller has taken the call out of `in_flight`."""
        self._refused = self._bad_in_row = self._probes = 0
        self.closed_until = 0.0
        if self._was_full and self.limit < self.highest:
            grows = 0.5 if self._is_doubling or self.limit < self._bore else 1.0 / self.limit
            self.limit = min(self.highest, self.limit + grows)
            self.highest_limit = max(self.highest_limit, self.limit)
        self._limit_before = self.limit
        self._round_answers += 1
        self._round_latency += now - sent_at
        if self._round_answers >= self._round_length:
            self._end_round(now)

    def failed(self, policy: ErrorPolicy, sent_at: float, now: float, pause_s: float = 0.0) -> None:
        """Note an error: shrink, and leave the endpoint alone for a while where it is down or asks for it."""
        self._bad_in_row += 1
        if policy.name == "unreachable":
            self._refused += 1
            if self._refused == _DOWN_AFTER:
                self._bore = max(self._bore, self._limit_before)
            if self._refused >= _DOWN_AFTER and now >= self.closed_until:  # else it is one of many sent before
                self.closed_until = now + min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._probes, 16))
                self._probes += 1
        elif policy.name == "connection" and self.is_down:
            self.closed_until = now + _FIRST_PAUSE_S
        elif pause_s and self._bad_in_row >= _DOWN_AFTER:
            self.closed_until = max(self.closed_until, now + pause_s)
        if policy.shrink < 1.0 and sent_at >= self._shrunk_at:
            self._shrink(policy.shrink, now)

    def _shrink(self, factor: float, now: float) -> None:
        self.limit = max(1.0, self.limit * factor)
        self._is_doubling = False
        if not self.is_down:  # on the way back: it bears less than it did
            self._bore = 0.0
        self._shrunk_at = now
        self._begin_round(now)

    def _begin_round(self, now: float) -> None:
        self._round_began, self._round_answers, self._round_latency, self._was_full = now, 0, 0.0, False
        self._round_length = max(_LEAST_ROUND, 2 * self.limit)

    def _end_round(self, now: float) -> None:
        """Compare throughput and latency with the best round so far."""
        rate = self._round_answers / max(now - self._round_began, 1e-9)
        latency, was_full = self._round_latency / self._round_answers, self._was_full
        self._begin_round(now)
        self._was_full = was_full and self.in_flight + 2 > self.limit
        if not was_full:
            return
        if rate > self._best_rate * _MORE:
            self._best_rate, self._best_limit, self._best_latency = rate, self.limit, latency
        elif self.limit > self._best_limit * _NEAR:
            if latency > self._best_latency * _LATENCY_GREW:
                limit = max(self._best_limit, self.limit * _SHRINK_BY_LATENCY)
                self._shrink(limit / self.limit, now)
        elif self.limit * _NEAR > self._best_limit:  # measured again where it was best: what was then may be past
            self._best_rate += (rate - self._best_rate) * _FORGET
            self._best_latency += (latency - self._best_latency) * _FORGET
