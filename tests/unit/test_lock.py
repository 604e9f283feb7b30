"""One run at a time holds a workspace, and a dead one holds nothing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest

from pipeline.table.errors import WorkspaceError
from pipeline.table.storage import LOCK, Storage, hold, holder

HOLDER = """
import sys
from pipeline.table.storage import hold
from pipeline.table.storage import Storage
with hold(Storage.at(sys.argv[1]), "gristmill run other.yaml"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another(workspace: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the workspace until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workspace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    with another(tmp_path / "ws") as first:
        with pytest.raises(WorkspaceError) as raised, hold(storage, "gristmill run mine.yaml"):
            pass
        assert f"`gristmill run other.yaml` (process {first.pid} on " in str(raised.value)
        assert json.loads(storage.read_bytes(LOCK))["pid"] == first.pid, "the refused one has changed nothing"
    with hold(storage, "gristmill run mine.yaml"):
        assert json.loads(storage.read_bytes(LOCK))["command"] == "gristmill run mine.yaml"


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    with another(tmp_path / "ws") as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
        with hold(Storage.at(str(tmp_path / "ws")), "gristmill run"):
            pass


def test_threads_of_one_process_exclude_one_another_too(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    with hold(storage, "first"), pytest.raises(WorkspaceError, match="in use by `first`"), hold(storage, "second"):
        pass


def test_a_shorter_owner_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    for command in ("gristmill run " + "x" * 300, "short"):
        with hold(storage, command):
            assert json.loads(storage.read_bytes(LOCK))["command"] == command


def test_a_lock_file_of_something_else_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("not JSON")
    with hold(Storage.at(str(tmp_path)), "first"):
        pass


def test_a_remote_lock_is_a_file_that_a_message_names() -> None:
    url = f"memory://{uuid.uuid4()}"
    storage = Storage.at(url)
    with (
        hold(storage, "first"),
        pytest.raises(WorkspaceError, match=f"`first`.*if that run is dead, delete {url}/{LOCK}"),
        hold(storage, "second"),
    ):
        pass
    assert not storage.exists(LOCK)
    with pytest.raises(ZeroDivisionError), hold(storage, "first"):
        raise ZeroDivisionError
    assert not storage.exists(LOCK)
    assert fsspec.filesystem("memory").find(url) == []


def test_who_asks_for_the_holder_keeps_no_run_out(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    with hold(storage, "gristmill run mine.yaml"):
        held = holder(storage)
        assert held is not None
        assert held["command"] == "gristmill run mine.yaml"
    assert holder(storage) is None
    asking = os.open(tmp_path / "ws" / LOCK, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)
    later = threading.Timer(0.01, os.close, [asking])
    later.start()
    with hold(storage, "gristmill run mine.yaml"):
        later.join()
