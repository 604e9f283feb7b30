"""Endpoints at work: their connections, their limits, and which of them gets the next call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pipeline.llm.config import ClientConfig, EndpointConfig
from pipeline.llm.limiter import Limiter
from pipeline.llm.transport import Transport
from pipeline.llm.types import EndpointReport
from pipeline.table.errors import UsageError

_RECONNECT_S = 0.25
_log = logging.getLogger(__name__)


class Lane:
    """An endpoint at work."""

    def __init__(self, endpoint: EndpointConfig, config: ClientConfig, now: float) -> None:
        """Raises: as `Transport`."""
        self.endpoint = endpoint
        self.transport = Transport(endpoint, config)
        self.limiter = Limiter(endpoint.max_concurrency, now)
        self.calls = self.answers = 0

    def report(self) -> EndpointReport:
        limiter = self.limiter
        return EndpointReport(self.endpoint.base_url, self.calls, self.answers, limiter.limit, limiter.highest_limit)


def freest(lanes: Sequence[Lane], now: float) -> Lane | None:
    """Return the endpoint with the most free slots, or none when none has one."""
    lane = lanes[0]
    if len(lanes) > 1:
        lane = max(lanes, key=lambda lane: lane.limiter.free(now))
    return lane if lane.limiter.free(now) >= 1.0 else None


async def check_reachable(lanes: Sequence[Lane], patience_s: float) -> None:
    """Try to connect to every endpoint; those that cannot be reached are left out until a probe reaches them.

    Raises: UsageError when none can be reached within `patience_s`.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    while all(problems := await asyncio.gather(*(lane.transport.connect() for lane in lanes))):
        if loop.time() > give_up_at:
            shown = "; ".join(f"{lane.endpoint.base_url}: {p}" for lane, p in zip(lanes, problems, strict=True))
            raise UsageError(f"no endpoint is reachable ({shown}); start the server or correct base_url")
        await asyncio.sleep(_RECONNECT_S)
    for lane, problem in zip(lanes, problems, strict=True):
        if problem:
            lane.limiter.leave_out(loop.time())
            _log.warning("endpoint %s: %s; going on without it", lane.endpoint.base_url, problem)
