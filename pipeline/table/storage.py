"""Files of a workspace and of its inputs: local paths and fsspec URLs through one layer.

Local files appear under their final name by an atomic rename. Object stores have no rename: there a file is complete
when it is put, and counts only once an index lists it. One run at a time holds a workspace.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from pipeline.table.errors import (
    GristmillError,
    InputError,
    MissingDependencyError,
    ShardError,
    WorkspaceError,
    check_address,
    redact,
    shown,
)

TEMPORARY = "_tmp"
LOCK = "_lock.json"
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'gristmill[s3]'"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    "hf": "huggingface_hub",
    "smb": "smbprotocol",
}
"""What reads a protocol, for pip: fsspec itself reads none of them."""
MAX_SMALL_BYTES = 1 << 30  # of indexes, manifests and the like


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `url` and the path inside it (absolute for local paths).

    Raises: MissingDependencyError when the protocol's package is not installed; InputError for an unknown protocol;
    OSError for what the protocol's library refuses.
    """
    if "://" not in url:  # fsspec would take a `::` in it for a chain of protocols
        return fsspec.filesystem("file"), os.path.abspath(os.path.expanduser(url))
    return _filesystem(url)


@lru_cache(maxsize=64)
def _filesystem(url: str) -> tuple[Any, str]:
    protocol = url.split("://", 1)[0]
    # Listings of an object store are never remembered: another run may have changed them.
    options = {} if protocol in ("file", "local") else {"use_listings_cache": False}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        hint = f"pip install {package}" if package else f"install the fsspec package for it ({error})"
        raise MissingDependencyError(f"{url}: reading {protocol}:// needs a package: {hint}") from error
    except ValueError as error:
        raise InputError(f"{url}: {error}; use a path or a URL whose protocol fsspec knows") from error
    except Exception as error:  # noqa: BLE001 - a chained protocol opens its archive here
        raise _plain(error) from None
    return fs, str(path)


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder, local or remote. Paths given to its methods are relative to it and use `/`."""

    url: str
    fs: Any = field(repr=False, compare=False)
    root: str

    @classmethod
    def at(cls, url: str) -> Storage:
        """Return the storage rooted at `url`; nothing is created.

        Raises: WorkspaceError when the URL holds a secret, which would be in every path below it.
        """
        try:
            check_address(url)
        except ValueError as error:
            raise WorkspaceError(f"{url}: {error}") from error
        if shown(url) != url:
            raise WorkspaceError(f"{url}: a workspace's URL holds no signature and no token; use the environment's")
        fs, root = filesystem(url)
        return cls(url.rstrip("/"), fs, root.rstrip("/"))

    @property
    def is_local(self) -> bool:
        return is_local(self.fs)

    def path(self, relative: str) -> str:
        """Return the path inside the filesystem."""
        return f"{self.root}/{relative}" if relative else self.root

    def sql_path(self, relative: str) -> str:
        """Return the path or URL as DuckDB and error messages use it."""
        return self.path(relative) if self.is_local else f"{self.url}/{relative}"

    def check_writable(self) -> None:
        """Check that the folder can be written, or created where it is not there yet; nothing is created.

        Raises: WorkspaceError. Whether a remote place can be written only shows when it is.
        """
        if not self.is_local:
            return
        folder = Path(self.root)
        while not os.path.lexists(folder) and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            made_of = "is a file" if folder.is_file() else "is no folder"
            raise WorkspaceError(f"workspace {self.url}: {folder} {made_of}; name a folder, it is made when needed")
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise WorkspaceError(f"workspace {self.url}: {folder} is not writable; change that or choose another")

    def exists(self, relative: str) -> bool:
        return bool(self.fs.exists(self.path(relative)))

    def names(self, folder: str) -> set[str]:
        """Return the names of the entries directly in `folder`; an absent folder is empty."""
        if self.is_local:
            try:
                return set(os.listdir(self.path(folder)))
            except (FileNotFoundError, NotADirectoryError):
                return set()
        self.fs.invalidate_cache(self.path(folder))
        try:
            return {str(name).rstrip("/").rsplit("/", 1)[-1] for name in self.fs.ls(self.path(folder), detail=False)}
        except FileNotFoundError:
            return set()

    def files(self, folder: str) -> list[str]:
        """Return the paths, relative to this storage, of every file under `folder`, sorted."""
        base = self.root + "/"
        try:
            found = self.fs.find(self.path(folder))
        except FileNotFoundError:
            return []
        return sorted(str(path).removeprefix(base) for path in found)

    def stamps(self, folder: str, names: Sequence[str]) -> dict[str, str]:
        """Return what changes whenever a file of `folder` does, by name; absent files are left out."""
        found: dict[str, str] = {}
        if self.is_local:
            for name in names:
                try:
                    info = os.stat(self.path(f"{folder}/{name}"))
                except (FileNotFoundError, NotADirectoryError):
                    continue
                # The time of the last change of its inode, since a copy or a repair may set the other one back.
                found[name] = f"{info.st_size}:{info.st_mtime_ns}:{info.st_ctime_ns}:{info.st_ino}"
            return found
        self.fs.invalidate_cache(self.path(folder))
        try:
            listed = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return {}
        by_name = {str(info["name"]).rstrip("/").rsplit("/", 1)[-1]: info for info in listed}
        for name in names:
            if name in by_name:
                entry = by_name[name]
                found[name] = f"{entry['size']}:{remote_identity(entry)}:{entry.get('created', '')}"
        return found

    def read_bytes(self, relative: str) -> bytes:
        """Return a small file's bytes. Raises: FileNotFoundError when it is absent."""
        if self.is_local:
            return read_file(self.path(relative), MAX_SMALL_BYTES)
        return cast(bytes, self.fs.cat_file(self.path(relative)))

    def open(self, relative: str) -> BinaryIO:
        """Open a file for reading, seekable."""
        if self.is_local:
            return open(self.path(relative), "rb")
        return cast(BinaryIO, self.fs.open(self.path(relative), "rb"))

    def write_bytes(self, relative: str, data: bytes) -> None:
        """Write a small file so that readers see either the old bytes or the new ones."""
        with self.create(relative) as target:
            target.write(data)

    @contextmanager
    def create(self, relative: str, is_beside: bool = False) -> Iterator[BinaryIO]:
        """Open a new file for writing; it appears under its name when the block ends without an error.

        Until then a local one lies among the storage's temporary files, or beside its name.

        Raises: ShardError when the disk is full or the folder cannot be written.
        """
        final = self.path(relative)
        try:
            if self.is_local:
                with new_file(final, None if is_beside else self._scratch()) as target:
                    yield target
            else:
                with tempfile.NamedTemporaryFile(prefix="part-") as remote:
                    yield cast(BinaryIO, remote)
                    remote.flush()
                    self.fs.put_file(remote.name, final)
        except OSError as error:
            raise ShardError(write_failure(self.sql_path(relative), error)) from error

    def move(self, old: str, new: str) -> None:
        """Give a file another name; whatever is there goes.

        Raises: WorkspaceError when it cannot be moved.
        """
        try:
            if self.is_local:
                os.makedirs(os.path.dirname(self.path(new)), exist_ok=True)
                os.replace(self.path(old), self.path(new))
            else:
                self.fs.cp_file(self.path(old), self.path(new))
                self.fs.rm_file(self.path(old))
        except OSError as error:
            raise WorkspaceError(write_failure(self.sql_path(new), error)) from error

    def delete(self, relative: str) -> None:
        """Delete one file; an absent one is fine."""
        try:
            self.fs.rm_file(self.path(relative))
        except FileNotFoundError:
            return

    def clear_temporary(self) -> None:
        """Remove what killed runs left half-written. Only the holder of the workspace's lock may call this."""
        if not self.is_local:
            return
        for name in self.names(TEMPORARY):
            path = Path(self.path(TEMPORARY), name)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def scratch_folder(self, prefix: str) -> AbstractContextManager[str]:
        """Give the block a temporary local folder, on the workspace's disk where the workspace is local."""
        return scratch_folder(prefix, self._scratch())

    def _scratch(self) -> str | None:
        if not self.is_local:
            return None
        folder = self.path(TEMPORARY)
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise WorkspaceError(write_failure(folder, error)) from error
        return folder


@contextmanager
def new_file(path: str, scratch: str | None = None) -> Iterator[BinaryIO]:
    """Open a new local file for writing; it appears under its name, durably, when the block ends without an error.

    Until then it lies in the folder `scratch`, on the same disk, or else beside its name. Raises: OSError.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    token = secrets.token_hex(4)
    temporary = f"{folder}/.{name}.{token}.tmp" if scratch is None else f"{scratch}/part-{token}"
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    _scratch_paths.add(temporary)
    try:
        with os.fdopen(handle, "w+b") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        _scratch_paths.discard(temporary)


def remote_identity(info: Mapping[str, Any]) -> str:
    """Return what tells that a file behind a URL changed: its ETag or the time of its last change."""
    for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "modified"):
        if info.get(key):
            return f"{key.lower()}:{info[key]}"
    return "none"


_scratch_paths: set[str] = set()
"""Temporary files and folders in use, for a process that ends without unwinding."""


@contextmanager
def scratch_folder(prefix: str, parent: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """Give the block a temporary folder of this user's alone; it goes however the block ends."""
    folder = tempfile.mkdtemp(prefix=prefix, dir=parent)
    _scratch_paths.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _scratch_paths.discard(folder)


def remove_scratch() -> None:
    """Remove every temporary file and folder in use: the process is about to end."""
    for path in list(_scratch_paths):
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            os.unlink(path)


def write_failure(path: str, error: OSError) -> str:
    """Return one line for a failed write: what, where, what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing {path}; free space and run the same command again, what is finished is kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write {path}: {error.strerror}; choose a workspace that you may write to"
    return f"cannot write {path}: {error.strerror or error}; run the same command again, what is finished is kept"


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a pipe or a device in its place is not waited for.

    Raises: OSError, whose `strerror` says what stands in its place.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
        raise OSError(number, os.strerror(number) if stat.S_ISDIR(mode) else "a pipe or device, not a file", str(path))
    return open(handle, "rb")


@contextmanager
def remote_errors() -> Iterator[None]:
    """Turn what the library of a remote file system raises into an OSError of one line that says what failed.

    Each has errors of its own (aiohttp's, botocore's, httpx's), often an absent file for anything; their chains hold
    addresses with all their secrets, and end here.
    """
    try:
        yield
    except (GristmillError, ImportError):
        raise
    except Exception as error:  # noqa: BLE001 - the classes are those of any package that fsspec finds
        raise _plain(error) from None


def _plain(error: Exception) -> OSError:
    """Return the error of a remote file system as one of ours: its kind and what is known of the reason."""
    link: Any = error
    for _ in range(8):  # an error's causes; a chain may be a ring
        status = getattr(link, "status", None) or getattr(getattr(link, "response", None), "status_code", None)
        if status in (404, 410):
            return FileNotFoundError(errno.ENOENT, f"does not exist (the server answered {status})")
        if status in (401, 403):
            why = "its signature may have expired, or credentials are missing"
            return PermissionError(errno.EACCES, f"the server answered {status}: {why}")
        if isinstance(status, int) and status >= 400:
            number = errno.EAGAIN if status == 429 or status >= 500 else errno.EPERM
            return OSError(number, f"the server answered {status}")
        if isinstance(link, socket.gaierror):
            return OSError(errno.EHOSTUNREACH, "its host's name is not known: no network, or a misspelt name")
        if isinstance(link, ConnectionRefusedError) or getattr(link, "errno", None) == errno.ECONNREFUSED:
            return ConnectionRefusedError(errno.ECONNREFUSED, "its host refuses the connection")
        link = getattr(link, "os_error", None) or link.__cause__ or link.__context__
        if link is None:
            break
    text = " ".join(redact(str(error)).split()) or type(error).__name__
    kinds = (FileNotFoundError, PermissionError, TimeoutError, ConnectionError, IsADirectoryError)
    kind: type[OSError] = next((kind for kind in kinds if isinstance(error, kind)), OSError)
    code = error.errno if isinstance(error, OSError) else None
    return kind(code, text) if code else kind(text)


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes: every small file that a user names is read by this.

    Raises: OSError, whose `strerror` says so when it is a pipe, a device, or larger.
    """
    with open_file(path) as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes", str(path))
    return data


def printable(path: str) -> str:
    r"""Return a path as UTF-8 can hold it: bytes that are none of its characters as `\xe9`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_local(fs: Any) -> bool:
    """Whether an fsspec filesystem is the machine's own."""
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


# One run at a time holds a workspace ----------------------------------------------------------------------------------


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
        for is_last in (False, False, True):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if is_last:
                    raise WorkspaceError(_held_by(storage, os.read(handle, 4096))) from error
                time.sleep(0.02)  # whoever asks for the holder has the lock for a moment
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


def holder(storage: Storage) -> dict[str, Any] | None:
    """Return who holds the workspace: `command`, `host`, `pid`, `started`; of a local one None when nobody does.

    Nothing is known of a holder that has just begun. A remote lock may be what a killed run left behind.
    """
    text: bytes | None = None
    try:
        if not storage.is_local:
            text = storage.read_bytes(LOCK)
        else:
            handle = os.open(storage.path(LOCK), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = os.read(handle, 4096)
            finally:
                os.close(handle)
    except OSError:
        return None
    return None if text is None else _owner(text)


def _owner(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        found = {}
    names = ("command", "host", "pid", "started")
    return {name: found.get(name) if isinstance(found, dict) else None for name in names}


def _held_by(storage: Storage, text: bytes) -> str:
    owner = _owner(text)
    who = f"`{owner['command']}` (process {owner['pid']} on {owner['host']}, since {owner['started']})"
    who = who if None not in owner.values() else "another run"
    return f"workspace {storage.url} is in use by {who}; wait for it or use another workspace"
