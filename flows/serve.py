"""`gristmill serve`: curation on a schedule, as a deployment that people see, pause and start on Prefect's pages."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import signal
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import httpx
from cronsim import CronSim, CronSimError

from flows.config import LAST
from flows.server import end_flow_runs, prefect_server
from flows.stages import prepared
from pipeline.table.errors import GristmillError, UsageError, redact
from pipeline.table.interrupts import GRACE_S, InterruptedRunError, Stop, unwatched

if TYPE_CHECKING:
    from prefect.runner import Runner

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")


def serve(path: str, cron: str, name: str | None = None) -> NoReturn:
    """Run a configuration whenever `cron` says (in UTC), one run at a time, until Ctrl-C or SIGTERM.

    The configuration is read anew for each run. A run that fails says so in one line; the next comes in its time.

    Raises: UsageError for a bad cron expression or name, and for what would stop a run; GristmillError when the server
    does not answer; InterruptedRunError in the end.
    """
    prepared(path, (), (), LAST)
    chosen = name if name is not None else re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).stem)[:100] or "run"
    if not _NAME.fullmatch(chosen):
        raise UsageError(f"--name {chosen!r}: give letters, digits, '_', '.' and '-', 100 at most")
    try:
        first = next(CronSim(cron, datetime.now(UTC)))
    except (CronSimError, StopIteration) as error:
        hint = "write five fields such as '0 2 * * *': minute, hour, day of the month, month, day of the week"
        raise UsageError(f"--cron {cron!r} is no time to run at; {hint}") from error
    where = f" on {redact(named)}" if (named := os.environ.get("PREFECT_API_URL")) else ""
    with prefect_server(Stop()):
        from prefect.runner import Runner
        from prefect.states import Cancelled

        from flows.curate import curate  # imports Prefect, which has to know its server

        runner = Runner(name=chosen, limit=1)
        tag = f"serve:{uuid.uuid4().hex[:8]}"
        try:
            runner.add_flow(curate, name=chosen, cron=cron, parameters={"config": os.path.abspath(path)}, tags=[tag])
        except ValueError as error:
            raise UsageError(f"--cron {cron!r}: Prefect refuses it: {error}") from error
        stopped = _until_stopped(runner, f"serving curate/{chosen}{where}, next at {first:%Y-%m-%d %H:%M} UTC")
        end_flow_runs(Cancelled(message="the schedule was stopped"), lambda tags: tag in tags)
    interrupted = InterruptedRunError(f"stopped; `gristmill serve {path} --cron {cron!r}` goes on from there")
    interrupted.exit_code = 128 + stopped
    raise interrupted


def _until_stopped(runner: Runner, greeting: str) -> int:
    """Poll for runs until Ctrl-C or SIGTERM; return the number of the signal once nothing of a run is left."""
    received: list[int] = []

    async def poll() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int) -> None:
            for child in multiprocessing.active_children():  # whatever they write, a kill does no harm
                child.kill()
            if received:
                os._exit(128 + number)
            received.append(number)
            loop.call_later(2 * GRACE_S, os._exit, 128 + number)
            if task is not None:
                task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)

        def terminated(*signalled: Any) -> None:
            loop.call_soon_threadsafe(stop, signal.SIGTERM)

        runner.handle_sigterm = terminated  # type: ignore[method-assign]  # its own, set at the start, ends with 0
        sys.stderr.write(f"{greeting}\n")
        try:
            await runner.start()
        except asyncio.CancelledError:
            return
        except (httpx.HTTPError, ExceptionGroup) as error:
            hint = "start it, and the same command again"
            raise GristmillError(f"Prefect's server answers no more ({redact(str(error))}); {hint}") from error

    with unwatched():
        asyncio.run(poll())
    return received[0] if received else signal.SIGINT
