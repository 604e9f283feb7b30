"""Threads as an engine: order, the first error ends the rest, what may pass by itself is tried again, stopping."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable

import pytest

from flows import engine
from flows.engine import LocalEngine, is_transient
from pipeline.table.errors import ShardError
from pipeline.table.interrupts import InterruptedRunError


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> LocalEngine:
    monkeypatch.setattr(engine, "RETRY_DELAYS_S", (0.001, 0.001))
    return LocalEngine(2, threading.Event())


def test_results_come_in_the_order_of_the_jobs(local: LocalEngine) -> None:
    later = threading.Event()

    def work(job: int) -> int:
        if job == 0:
            later.wait(10)  # the first job ends last
        if job == 5:
            later.set()
        return job * job

    assert local.map("squares", work, range(6)) == [0, 1, 4, 9, 16, 25]
    assert local.map("nothing", work, []) == []


def test_the_first_error_ends_the_rest(local: LocalEngine) -> None:
    begun: list[int] = []
    failed = threading.Event()

    def work(job: int) -> int:
        begun.append(job)
        if job == 1:
            failed.set()
            raise ShardError("part 1 cannot be read")
        assert failed.wait(10)
        return job

    with pytest.raises(ShardError, match="part 1 cannot be read"):
        local.map("parts", work, range(1000))
    assert len(begun) < 1000


def flaky(error: Exception, failures: int) -> tuple[Callable[[str], str], Counter[str]]:
    """Return a function that fails at first, for each job, and the count of its calls."""
    calls: Counter[str] = Counter()

    def work(job: str) -> str:
        calls[job] += 1
        if calls[job] <= failures:
            raise error
        return job.upper()

    return work, calls


def wrapped(cause: Exception) -> ShardError:
    error = ShardError("part a cannot be read")
    error.__cause__ = cause
    return error


TRANSIENT = [
    ConnectionResetError("gone"),
    TimeoutError("slow"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ESTALE, "Stale file handle"),
    wrapped(OSError(errno.ETIMEDOUT, "timed out")),
    wrapped(wrapped(ConnectionRefusedError("no"))),
]
LASTING = [
    OSError(errno.ENOSPC, "No space left on device"),
    FileNotFoundError(errno.ENOENT, "No such file"),
    PermissionError(errno.EACCES, "Permission denied"),
    ShardError("damaged"),
    wrapped(OSError(errno.ENOSPC, "No space left on device")),
    ValueError("a bug"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_what_may_pass_by_itself_is_tried_again(error: Exception, local: LocalEngine) -> None:
    work, calls = flaky(error, 2)
    assert is_transient(error)
    assert local.map("read", work, ["a", "b"]) == ["A", "B"]
    assert calls == {"a": 3, "b": 3}


def test_but_not_for_ever(local: LocalEngine) -> None:
    work, calls = flaky(ConnectionResetError("gone"), 3)
    with pytest.raises(ConnectionResetError):
        local.map("read", work, ["a"])
    assert calls == {"a": 3}


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_what_lasts_is_raised_at_once(error: Exception, local: LocalEngine) -> None:
    work, calls = flaky(error, 1)
    assert not is_transient(error)
    with pytest.raises(type(error)):
        local.map("read", work, ["a"])
    assert calls == {"a": 1}


def test_a_stop_keeps_jobs_from_beginning(local: LocalEngine) -> None:
    done: list[int] = []

    def work(job: int) -> int:
        done.append(job)
        local.stop.set()
        return job

    with pytest.raises(InterruptedRunError):
        local.map("parts", work, range(100))
    assert len(done) <= 2


def test_a_stop_ends_the_wait_for_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "RETRY_DELAYS_S", (3600.0, 3600.0))
    local = LocalEngine(1, threading.Event())

    def work(job: int) -> int:
        threading.Timer(0.05, local.stop.set).start()
        raise ConnectionResetError("gone")

    with pytest.raises(InterruptedRunError):
        local.map("parts", work, [1])


_STOPPED = """
import os, signal, sys, time
from pipeline.table import interrupts
interrupts.GRACE_S = 0.3
from pipeline.table import interrupts
stop = interrupts.Stop()
with interrupts.stopping_on_signals(stop, "gristmill run x.yaml"):
    with interrupts.giving(stop, float(sys.argv[1])):
        for _ in range(int(sys.argv[2])):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1.0)
        print("what was under way has ended", flush=True)
    time.sleep(20.0)
"""


@pytest.mark.parametrize(("grace_s", "signals", "ended"), [("0", "1", False), ("9", "1", True), ("9", "2", False)])
def test_ctrl_c_waits_for_what_is_under_way_and_a_second_does_not(grace_s: str, signals: str, ended: bool) -> None:
    """The grace of what is under way is the block's; behind it, it is as short as ever."""
    command = [sys.executable, "-c", _STOPPED, grace_s, signals]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
    assert done.returncode == 130
    assert ("what was under way has ended" in done.stdout) is ended
    assert "stopping" in done.stderr
    assert "gristmill: stopped; finished shards are kept" in done.stderr
