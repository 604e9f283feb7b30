"""Prefect's server, started by us: in its own session, so that Ctrl-C does not reach it, and dying with its parent.

Prefect's automatic server hangs at Ctrl-C and outlives a killed run. With `PREFECT_API_URL` set nothing is started, and
runs appear on the server that it names. Nothing is ever decided from the server's database: it may be deleted any time.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import OURS_FIRST, user_cache
from pipeline.table.errors import GristmillError, redact
from pipeline.table.interrupts import Stop, last_acts, stop_if_asked
from pipeline.table.storage import scratch_folder

if TYPE_CHECKING:
    from flows.progress import Reporter

Result = TypeVar("Result")
START_LIMIT_S = 120.0  # a first start creates the database; on a slow disk that takes long, and it is only waited for
DATABASE = "prefect.db"
_MAX_DATABASE_BYTES = 256 << 20
_MARK = "gristmill"
_log = logging.getLogger(__name__)

OFFLINE = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}
_BOOT = f"{OURS_FIRST}import runpy; runpy.run_module('flows.server', run_name='__main__')"


@contextmanager
def prefect_server(stop: Stop, reporter: Reporter | None = None) -> Iterator[None]:
    """Give the block a Prefect API: the user's, or one of ours that ends with the block. Import Prefect inside it.

    Flow runs that are not over when a stopped block ends are cancelled. Must be entered from the main thread: the
    server dies when the thread that started it does. `reporter` is told while it starts.

    Raises: GristmillError when the server does not come up.
    """
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    named, is_shared = os.environ.get("PREFECT_API_URL"), False
    with ExitStack() as opened:
        with reporter.waiting("starting Prefect ...") if reporter else nullcontext():
            if named:
                _check_answer(named)
            else:
                home, is_shared = opened.enter_context(_home())
                opened.enter_context(_serving(home, stop))
            opened.enter_context(_our_flow_runs(stop))
            if is_shared:
                _settle_orphans()
        yield


def in_a_flow(flow: Callable[..., Result], *arguments: Any) -> Result:
    """Call a flow in a thread of its own and return its result.

    In the main thread Prefect would take SIGTERM over, and the run would go on until what is under way ends.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="gristmill-flow") as thread:
        return thread.submit(copy_context().run, flow, *arguments).result()


@contextmanager
def _serving(home: Path, stop: Stop) -> Iterator[None]:
    """Run a server of ours; it answers nobody without the token, which is in the environment of the two alone."""
    token = f"gristmill:{secrets.token_urlsafe(32)}"
    log = home / "server.log"
    # Bound here and handed on: on a port that is only looked up, somebody else's server could be sent the token.
    with socket.socket() as listener, open(log, "wb", opener=partial(os.open, mode=0o600)) as output:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        direct = ",".join(filter(None, [os.environ.get("no_proxy") or os.environ.get("NO_PROXY"), "127.0.0.1"]))
        own = {"PREFECT_HOME": str(home), "PREFECT_API_AUTH_STRING": token, "no_proxy": direct, "NO_PROXY": direct}
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, str(listener.fileno()), str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[listener.fileno()],
            env={**os.environ, **own, "PREFECT_SERVER_API_AUTH_STRING": token},
        )
    own["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        # Importing takes as long as the server's start; and only now, so that it finds the address.
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        _wait_until_healthy(process, port, log, stop)
        # Each flow would wait a second for the end of its heartbeat, which tells nobody here: the server ends with us.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        process.kill()
        process.wait()


@contextmanager
def _our_flow_runs(stop: Stop) -> Iterator[None]:
    """Mark the flow runs of the block as this process's, and cancel those that a stop leaves behind."""
    from prefect import tags

    mark = _mark(os.getpid()) or _MARK

    def cancel() -> None:
        from prefect.states import Cancelled

        end_flow_runs(Cancelled(message="the run was stopped"), lambda marks: mark in marks, over=("FAILED", "CRASHED"))

    last_acts.append(cancel)
    try:
        with tags(mark):
            yield
    finally:
        last_acts.remove(cancel)
        if stop.is_set():
            cancel()


def _settle_orphans() -> None:
    """Mark the flow runs as crashed whose process was killed: nobody else can tell that they are over."""
    from prefect.states import Crashed

    def is_dead(marks: Collection[str]) -> bool:
        ours = [mark for mark in marks if mark.startswith(f"{_MARK}:{socket.gethostname()}:")]
        return any(_mark(int(mark.split(":")[2])) != mark for mark in ours)

    end_flow_runs(Crashed(message="the process of the run was killed"), is_dead)


def end_flow_runs(state: Any, chosen: Callable[[Collection[str]], bool], over: Sequence[str] = ()) -> None:
    """Give a final state to flow runs that lack one (or have one of those in `over`) and whose tags are `chosen`."""
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort

    kinds = ("SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING", *over)
    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": kinds}}})
    try:
        with get_client(sync_client=True) as client:
            for run in client.read_flow_runs(
                flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_DESC, limit=200
            ):
                if chosen(run.tags):
                    client.set_flow_run_state(run.id, state, force=True)
    except Exception as error:  # noqa: BLE001 - a server that is gone is no reason to fail: it only shows what happened
        _log.debug("flow runs keep their states: %s", redact(str(error)))


def _mark(pid: int) -> str | None:
    """Return the tag of a process of this machine: ids are used again, with another start; None when there is none."""
    try:
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return f"{_MARK}:{socket.gethostname()}:{pid}:{started}:{boot}"


@contextmanager
def _home() -> Iterator[tuple[Path, bool]]:
    """Yield a folder for Prefect's database, this user's alone, and whether it is the one that runs share.

    While another run uses that, and where it cannot be had, it is a fresh one.
    """
    shared = user_cache() / "gristmill" / f"prefect-{version('prefect')}"
    handle = None
    try:
        if not shared.is_absolute():
            raise FileNotFoundError(shared)
        shared.mkdir(parents=True, exist_ok=True)
        handle = os.open(shared / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shared.chmod(0o700)
        for path in shared.iterdir():
            path.chmod(0o700 if path.is_dir() else 0o600)
    except OSError:  # held by another run, read-only, another user's, or this user has no home folder
        if handle is not None:
            os.close(handle)
        with scratch_folder("gristmill-prefect-") as folder:
            _copy_database(shared / DATABASE, Path(folder) / DATABASE)
            yield Path(folder), False
        return
    try:
        database = shared / DATABASE
        if database.exists() and database.stat().st_size > _MAX_DATABASE_BYTES:
            for path in shared.glob(f"{DATABASE}*"):
                path.unlink()
        shutil.rmtree(shared / "storage", ignore_errors=True)
        yield shared, True
    finally:
        os.close(handle)


def _copy_database(source: Path, target: Path) -> None:
    """Start from another run's database where there is one: creating the tables takes longer than all the rest."""
    if not source.exists():
        return
    try:
        with (
            closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
            closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new)
    except sqlite3.Error:  # being created right now, perhaps: then this run creates its own
        target.unlink(missing_ok=True)


def _check_answer(url: str) -> None:
    """Refuse a server of the user's that is not there: Prefect would try for minutes and end in a traceback.

    Raises: GristmillError.
    """
    try:
        urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()
    except urllib.error.HTTPError:
        return  # it answers: whether it lets us in is between it and Prefect
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        hint = "start that server or unset the variable"
        raise GristmillError(f"PREFECT_API_URL={url} does not answer ({reason}); {hint}") from error


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path, stop: Stop) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        stop_if_asked(stop)
        if process.poll() is not None:
            lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise GristmillError(f"Prefect's server ended at its start: {lines[-1]} (all of it: {log})")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise GristmillError(f"Prefect's server did not answer within {START_LIMIT_S:.0f} s (log: {log}); run again")


def _serve(listener: int, parent: int) -> None:
    """Run the server in this process, on a socket that is bound, until the parent dies."""
    import ctypes
    import signal

    parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        return
    os.umask(0o077)
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.Server(uvicorn.Config(create_app(), log_level="warning")).run([socket.socket(fileno=listener)])


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
