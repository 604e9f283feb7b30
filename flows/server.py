"""Prefect's server, started by us: in its own session, so that Ctrl-C does not reach it, and dying with its parent.

Prefect's automatic server hangs at Ctrl-C and outlives a killed run. With `PREFECT_API_URL` set nothing is started, and
runs appear on the server that it names. Nothing is ever decided from the server's database: it may be deleted any time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path

from pipeline.table.errors import GristmillError
from pipeline.table.stages import stop_if_asked

START_LIMIT_S = 120.0  # a first start creates the database; on a slow disk that takes long, and it is only waited for
DATABASE = "prefect.db"
_MAX_DATABASE_BYTES = 256 << 20

OFFLINE = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
}


@contextmanager
def prefect_server(stop: threading.Event) -> Iterator[None]:
    """Give the block a Prefect API: the user's, or one of ours that ends with the block. Import Prefect inside it.

    Must be entered from the main thread: the server dies when the thread that started it does.

    Raises: GristmillError when the server does not come up.
    """
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    if named := os.environ.get("PREFECT_API_URL"):
        _check_answer(named)
        yield
        return
    with _home() as home:
        os.environ["PREFECT_HOME"] = str(home)
        port = _free_port()
        log = home / "server.log"
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(port), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        try:
            _wait_until_healthy(process, port, log, stop)
            yield
        finally:
            del os.environ["PREFECT_API_URL"]
            process.kill()
            process.wait()


@contextmanager
def _home() -> Iterator[Path]:
    """Yield a folder for Prefect's database: the shared one, or a fresh one while another run uses that."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gristmill"
    shared = base / f"prefect-{version('prefect')}"
    handle = None
    try:
        shared.mkdir(parents=True, exist_ok=True)
        handle = os.open(shared / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another run, or the home folder is read-only: a first start in a fresh folder is slower
        if handle is not None:
            os.close(handle)
        with tempfile.TemporaryDirectory(prefix="gristmill-prefect-") as folder:
            _copy_database(shared / DATABASE, Path(folder) / DATABASE)
            yield Path(folder)
        return
    try:
        database = shared / DATABASE
        if database.exists() and database.stat().st_size > _MAX_DATABASE_BYTES:
            for path in shared.glob(f"{DATABASE}*"):
                path.unlink()
        shutil.rmtree(shared / "storage", ignore_errors=True)
        yield shared
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path, stop: threading.Event) -> None:
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


def _serve(port: int, parent: int) -> None:
    """Run the server in this process until the parent dies."""
    import ctypes
    import signal

    parent_death_signal = 1  # PR_SET_PDEATHSIG
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        return
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
