"""Files of a workspace and of its inputs: local paths and fsspec URLs through one layer.

Local files appear under their final name by an atomic rename. Object stores have no rename: there a file is complete
when it is put, and counts only once an index lists it.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from pipeline.table.errors import (
    InputError,
    MissingDependencyError,
    ShardError,
    UnreadableInputError,
    WorkspaceError,
)
from pipeline.table.schema import RejectReason

TEMPORARY = "_tmp"
MAX_SMALL_BYTES = 1 << 30  # of indexes, manifests and the like
_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}


def filesystem(url: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of `url` and the path inside it (absolute for local paths).

    Raises: MissingDependencyError when the protocol's package is not installed; InputError for an unknown protocol.
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
        extra = _EXTRAS.get(protocol)
        hint = f"pip install 'gristmill[{extra}]'" if extra else f"install the fsspec package for it ({error})"
        raise MissingDependencyError(f"{url}: reading {protocol}:// needs an extra: {hint}") from error
    except ValueError as error:
        raise InputError(f"{url}: {error}; use a path or a URL whose protocol fsspec knows") from error
    return fs, str(path)


@dataclass(frozen=True, slots=True)
class Storage:
    """A folder, local or remote. Paths given to its methods are relative to it and use `/`."""

    url: str
    fs: Any = field(repr=False, compare=False)
    root: str

    @classmethod
    def at(cls, url: str) -> Storage:
        """Return the storage rooted at `url`; nothing is created."""
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
    def create(self, relative: str) -> Iterator[BinaryIO]:
        """Open a new file for writing; it appears under its name when the block ends without an error.

        Raises: ShardError when the disk is full or the folder cannot be written.
        """
        final = self.path(relative)
        try:
            if self.is_local:
                with new_file(final, self._scratch()) as target:
                    yield target
            else:
                with tempfile.NamedTemporaryFile(prefix="part-") as remote:
                    yield cast(BinaryIO, remote)
                    remote.flush()
                    self.fs.put_file(remote.name, final)
        except OSError as error:
            raise ShardError(write_failure(self.sql_path(relative), error)) from error

    def move(self, old: str, new: str) -> None:
        """Give a small file another name; whatever is there goes.

        Raises: WorkspaceError when it cannot be moved.
        """
        try:
            if self.is_local:
                os.makedirs(os.path.dirname(self.path(new)), exist_ok=True)
                os.replace(self.path(old), self.path(new))
            else:
                self.fs.pipe_file(self.path(new), self.read_bytes(old))
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
                for inner in sorted(path.rglob("*"), reverse=True):
                    inner.rmdir() if inner.is_dir() else inner.unlink()
                path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def scratch_folder(self, prefix: str) -> tempfile.TemporaryDirectory[str]:
        """Return a temporary local folder, on the workspace's disk where the workspace is local."""
        return tempfile.TemporaryDirectory(dir=self._scratch(), prefix=prefix)

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
    if scratch is None:
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=".tmp")
    else:
        handle, temporary = tempfile.mkstemp(dir=scratch, prefix="part-")
    try:
        with os.fdopen(handle, "w+b") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def remote_identity(info: Mapping[str, Any]) -> str:
    """Return what tells that a file behind a URL changed: its ETag or the time of its last change."""
    for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "modified"):
        if info.get(key):
            return f"{key.lower()}:{info[key]}"
    return "none"


def write_failure(path: str, error: OSError) -> str:
    """Return one line for a failed write: what, where, what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"disk full while writing {path}; free space and run the same command again, finished shards are kept"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"cannot write {path}: {error.strerror}; choose a workspace that you may write to"
    return f"cannot write {path}: {error.strerror or error}; run the same command again, finished shards are kept"


@lru_cache(maxsize=1)
def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


@dataclass(frozen=True, slots=True)
class InputFile:
    """One raw input: where it is, the name that documents carry, and what tells that it changed.

    `name` is relative to the folder, glob or list that named it, never an absolute path: ids must not depend on where
    a crawl lies. `identity` is ETag or modification time (nanoseconds), or a content hash when the user asked for one.
    `problem` is why it cannot be read, where that was seen when it was listed: a reason of rejection, and what it is.
    """

    url: str
    name: str
    size: int
    identity: str
    problem: tuple[RejectReason, str] | None = None

    @property
    def shown_url(self) -> str:
        """The URL for manifests and messages: a local path need not be UTF-8."""
        return printable(self.url)

    def open(self) -> BinaryIO:
        """Open for reading.

        Raises: UnreadableInputError for what can never be read, or vanished since it was listed; ShardError for others.
        """
        if self.problem is not None:
            raise UnreadableInputError(f"{self.shown_url}: {self.problem[1]}")
        fs, path = filesystem(self.url)
        try:
            if is_local(fs):
                return open_file(path)
            return cast(BinaryIO, fs.open(path, "rb"))
        except FileNotFoundError as error:
            raise UnreadableInputError(f"{self.shown_url} is gone; it was there when the run began") from error
        except OSError as error:
            kind = UnreadableInputError if is_local(fs) and error.errno in _LASTING else ShardError
            hint = "; make it readable" if error.errno in (errno.EACCES, errno.EPERM) else ""
            raise kind(f"{self.shown_url} cannot be read: {error.strerror or error}{hint}") from error


_LASTING = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.ENOTDIR)
"""Errors of a file of its own: others, such as too many open files, would meet the next one as well."""


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
