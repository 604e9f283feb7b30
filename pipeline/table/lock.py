"""One run at a time holds a workspace."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from pipeline.table.errors import WorkspaceError
from pipeline.table.redaction import redact
from pipeline.table.storage import Storage, write_failure

LOCK = "_lock.json"


@contextmanager
def hold(storage: Storage, command: str) -> Iterator[None]:
    """Hold the workspace's lock while the block runs, creating the workspace when it is new.

    A local lock is the kernel's and ends with its process, however that ends. A remote one is a file that a killed run
    leaves behind; the message then names it.

    Raises: WorkspaceError naming the run that holds the lock, or when the workspace cannot be written.
    """
    owner = json.dumps(
        {
            "command": redact(command),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    with _hold_local(storage, owner) if storage.is_local else _hold_remote(storage, owner):
        yield


@contextmanager
def _hold_local(storage: Storage, owner: str) -> Iterator[None]:
    path = storage.path(LOCK)
    try:
        os.makedirs(storage.root, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise WorkspaceError(write_failure(path, error)) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WorkspaceError(_held_by(storage, os.read(handle, 4096))) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, owner.encode(), 0)
        yield
    finally:
        os.close(handle)


@contextmanager
def _hold_remote(storage: Storage, owner: str) -> Iterator[None]:
    path = storage.path(LOCK)
    try:
        # fsspec has no exclusive creation for every store: two runs that start within the same instant could both pass.
        if storage.fs.exists(path):
            raise FileExistsError(path)
        storage.fs.pipe_file(path, owner.encode())
    except FileExistsError as error:
        hint = f"; if that run is dead, delete {storage.sql_path(LOCK)}"
        raise WorkspaceError(_held_by(storage, storage.read_bytes(LOCK)) + hint) from error
    try:
        yield
    finally:
        storage.delete(LOCK)


def _held_by(storage: Storage, text: bytes) -> str:
    try:
        owner = json.loads(text)
        who = f"`{owner['command']}` (process {owner['pid']} on {owner['host']}, since {owner['started']})"
    except (ValueError, KeyError, TypeError):
        who = "another run"
    return f"workspace {storage.url} is in use by {who}; wait for it or use another workspace"
