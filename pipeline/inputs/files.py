"""From the `inputs:` of a source to a sorted list of raw files, each with a name that does not depend on its folder.

What a folder or a glob holds besides files (a pipe, a link that leads nowhere, a folder that cannot be listed) is
listed with its problem: it costs itself alone, and is never waited for.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, cast

from fsspec.utils import glob_translate

from pipeline.table.errors import InputError, ShardError, UnreadableInputError, UsageError, shown
from pipeline.table.schema import RejectReason
from pipeline.table.storage import filesystem, is_local, open_file, printable, remote_errors, remote_identity

_SPECIAL = {
    stat.S_IFIFO: "a named pipe, which can be read only once: write what comes out of it to a file",
    stat.S_IFSOCK: "a socket, which is no file",
    stat.S_IFCHR: "a device, which is no file",
    stat.S_IFBLK: "a device, which is no file",
}


@dataclass(frozen=True, slots=True)
class InputFile:
    """One raw input: where it is, the name that documents carry, and what tells that it changed.

    `name` is relative to the folder, glob or list that named it, never an absolute path: ids must not depend on where
    a crawl lies. `identity` is ETag or modification time (nanoseconds), or a content hash when the user asked for one.
    `problem` is why it cannot be read, where that was seen when it was listed: a reason of rejection, and what it is.
    """

    url: str = field(repr=False)
    name: str
    size: int
    identity: str
    problem: tuple[RejectReason, str] | None = None
    inode: tuple[int, int] | None = field(default=None, repr=False, compare=False)
    """What tells files of this machine apart, whatever links lead to them."""

    @property
    def shown_url(self) -> str:
        """The URL for manifests and messages: without its secrets, and as UTF-8, which a local path need not be."""
        return shown(printable(self.url))

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
            with remote_errors():
                return cast(BinaryIO, io.BufferedReader(_RemoteFile(fs.open(path, "rb")), _REMOTE_BUFFER_BYTES))
        except FileNotFoundError as error:
            raise UnreadableInputError(f"{self.shown_url} is gone; it was there when the run began") from error
        except OSError as error:
            kind = UnreadableInputError if is_local(fs) and error.errno in _LASTING else ShardError
            hint = "; make it readable" if error.errno in (errno.EACCES, errno.EPERM) else ""
            raise kind(f"{self.shown_url} cannot be read: {error.strerror or error}{hint}") from error


_REMOTE_BUFFER_BYTES = 1 << 16
_LASTING = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.ENOTDIR)
"""Errors of a file of its own: others, such as too many open files, would meet the next one as well."""


class _RemoteFile(io.RawIOBase):
    """A remote file whose errors, of whichever library, are those of a file."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def readinto(self, buffer: Any) -> int:
        with remote_errors():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with remote_errors():
            return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def resolve(entries: Sequence[str], where: str, skipped: tuple[str, ...] = (".", "_")) -> list[InputFile]:
    """Return the files that paths, globs, directories and URLs name, each once, sorted by name.

    A directory means every file below it whose name, and whose folders', do not begin with one of `skipped`; links are
    followed. Names that are not UTF-8 are written with the bytes as `\\xe9`.

    Raises: InputError for an entry that names nothing; `where` is the config key for the message.
    """
    found: dict[str, InputFile] = {}
    for entry in entries:
        matches = _expand(entry, where, skipped)
        if not matches:
            raise InputError(f"{where}: {entry!r} matches no file ({_here()}); correct it or remove it")
        for match in matches:
            found.setdefault(match.url, match)
    files = _named(_without_second_signatures(_without_second_links(found), where))
    return sorted(files, key=lambda file: file.name)


def with_contents(files: Sequence[InputFile]) -> list[InputFile]:
    """Return the files with their contents, all of which are read, as what tells that they changed.

    Raises: ShardError for one that cannot be read.
    """
    return [file if file.problem is not None else _hashed(file) for file in files]


def _expand(entry: str, where: str, skipped: tuple[str, ...]) -> list[InputFile]:
    """Return what one entry names."""
    is_remote = "://" in entry
    try:
        fs, path = filesystem(entry)
        if is_local(fs):
            return list(_local(path, skipped))
        with remote_errors():
            return _remote(fs, path, entry, skipped)
    except UsageError as error:
        raise type(error)(f"{where}: {error}") from error
    except FileNotFoundError as error:
        why = f"{error.strerror or error}); correct it" if is_remote else f"{_here()}); correct the path"
        raise InputError(f"{where}: {entry} does not exist ({why}") from error
    except PermissionError as error:
        hint = "" if is_remote else "; make it readable"
        raise InputError(f"{where}: {entry}: {error.strerror or error}{hint}") from error
    except (OSError, ValueError) as error:  # a NUL in a path, a `**` inside a name, no network
        reason, how = getattr(error, "strerror", None) or error, "reached" if is_remote else "listed"
        hint = "check address and network" if is_remote else "correct it"
        raise InputError(f"{where}: {entry} cannot be {how}: {reason}; {hint}") from error


def _here() -> str:
    return f"working directory {printable(os.getcwd())}"


def _remote(fs: Any, path: str, entry: str, skipped: tuple[str, ...]) -> list[InputFile]:
    is_web = entry.startswith(("http://", "https://"))
    info = {} if glob.has_magic(path.split("?", 1)[0] if is_web else path) and not fs.exists(path) else fs.info(path)
    if not info:  # a file may be called `crawl [1].warc.gz`
        root = path[: len(path) - len(path.lstrip("/"))] + _root(path)
        infos = {p: info for p, info in fs.glob(path, detail=True).items() if info["type"] != "directory"}
    elif fs.isdir(path):
        root = path.rstrip("/")
        hidden = re.compile(rf"(^|/)[{re.escape(''.join(skipped))}]")
        infos = {p: i for p, i in fs.find(path, detail=True).items() if not hidden.search(p.removeprefix(root))}
    else:
        root = os.path.dirname(shown(path))  # a signature may hold a `/`
        infos = {path: info}
    return [
        InputFile(_url(p, entry), os.path.relpath(shown(p), root or "/"), int(info["size"] or 0), remote_identity(info))
        for p, info in infos.items()
    ]


def _local(path: str, skipped: tuple[str, ...]) -> Iterator[InputFile]:
    """Yield what a local path or pattern names: a path that exists is none, whatever characters it has."""
    root, rest = _literal_root(path)
    if rest:
        pattern = re.compile(glob_translate(f"{glob.escape(root)}/{rest}"))
        depth = None if "**" in rest else rest.count("/") + 1
        found = _walk(root, depth, ())
        yield from (file for file in found if pattern.match(file.url) or file.name.endswith("/"))
        return
    info = os.lstat(path)
    if stat.S_ISDIR(info.st_mode) or (stat.S_ISLNK(info.st_mode) and os.path.isdir(path)):
        yield from _walk(path, None, skipped)
        return
    yield _look(path, os.path.basename(path))


def _literal_root(path: str) -> tuple[str, str]:
    """Split a path where its first part with magic characters begins that is not there as it is written."""
    if os.path.lexists(path) or not glob.has_magic(path):
        return path, ""
    parts = path.split("/")
    for number, part in enumerate(parts):
        if glob.has_magic(part) and not os.path.lexists("/".join(parts[: number + 1])):
            return "/".join(parts[:number]) or "/", "/".join(parts[number:])
    return path, ""


def _walk(root: str, depth: int | None, skipped: tuple[str, ...]) -> Iterator[InputFile]:
    """Yield every file below a folder, and whatever cannot be read: a folder with a `/` behind its name.

    Each folder is listed once, however many links lead to it; those without a link come first.
    """
    listed: set[tuple[int, int]] = set()
    folders = deque([(root, 1)])
    links: deque[tuple[str, int]] = deque()
    while folders or links:
        folder, level = folders.popleft() if folders else links.popleft()
        name = f"{os.path.relpath(folder, root)}/"
        try:
            info = os.stat(folder)
            if (info.st_dev, info.st_ino) in listed:
                yield _odd(folder, name, "duplicate_record", "a link to a folder that is read already")
                continue
            listed.add((info.st_dev, info.st_ino))
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            if folder == root:
                raise
            yield _odd(folder, name, "damaged", f"the folder cannot be listed: {error.strerror}; make it readable")
            continue
        for entry in entries:
            if not entry.name.startswith(skipped):
                found = _look(entry.path, os.path.relpath(entry.path, root))
                if found.identity != "folder":
                    yield found
                elif depth is None or level < depth:
                    (links if entry.is_symlink() else folders).append((entry.path, level + 1))


def _look(path: str, name: str) -> InputFile:
    """Return a file, or what it is instead; links are followed."""
    try:
        info = os.stat(path)
    except OSError as error:
        if not os.path.islink(path):
            return _odd(path, name, "damaged", f"{error.strerror}; make it readable or take it out")
        what = "a link that leads back to itself" if error.errno == errno.ELOOP else "a link that leads nowhere"
        return _odd(path, name, "damaged", f"{what} ({printable(os.readlink(path))}); correct it or take it out")
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFDIR:
        return InputFile(path, name, 0, "folder")
    inode = (info.st_dev, info.st_ino)
    if kind != stat.S_IFREG:
        return replace(_odd(path, name, "unsupported", _SPECIAL.get(kind, "no file")), inode=inode)
    if not os.access(path, os.R_OK, effective_ids=True):
        return replace(_odd(path, name, "damaged", "Permission denied; make it readable"), inode=inode)
    return InputFile(path, name, info.st_size, f"mtime:{info.st_mtime_ns}", None, inode)


def _odd(path: str, name: str, reason: RejectReason, detail: str) -> InputFile:
    return InputFile(path, name, 0, f"problem:{detail}", (reason, detail))


def _without_second_links(found: dict[str, InputFile]) -> dict[str, InputFile]:
    """Let a file that links name a second time be read once: under its own path where that is among them."""
    by_inode: dict[tuple[int, int], list[InputFile]] = {}
    for file in found.values():
        if file.inode is not None:
            by_inode.setdefault(file.inode, []).append(file)
    result = dict(found)
    for files in (files for files in by_inode.values() if len(files) > 1):
        real = {file.url: os.path.realpath(file.url) for file in files}  # hard links are files of their own
        first: dict[str, InputFile] = {}
        for file in sorted(files, key=lambda file: (real[file.url] != file.url, file.url)):
            if (other := first.setdefault(real[file.url], file)) is not file:
                detail = f"a link to {printable(other.name)}, which is read already"
                result[file.url] = replace(_odd(file.url, file.name, "duplicate_record", detail))
    return result


def _without_second_signatures(found: dict[str, InputFile], where: str) -> dict[str, InputFile]:
    """Let a file that is named with two signatures be read once.

    Raises: InputError when files differ in nothing else: they could not be told apart in what is stored.
    """
    kept: dict[str, InputFile] = {}
    for file in found.values():
        other = kept.setdefault(shown(file.url), file)
        is_same = file.identity != "none" and (other.size, other.identity) == (file.size, file.identity)
        if other is not file and not is_same:
            raise InputError(
                f"{where}: two inputs differ only in a key, token or signature ({shown(file.url)}), which no manifest "
                "may hold; put one of them into another source, or copy them to places with names of their own"
            )
    return {file.url: file for file in kept.values()}


def _url(path: str, entry: str) -> str:
    """Return how a path of an entry's file system is written: local ones as they are, others as URLs."""
    protocol = entry.split("://", 1)[0] if "://" in entry else "file"
    if protocol in ("file", "local") or "://" in path:  # HTTP's paths are URLs already
        return path
    return f"{protocol}://{path.lstrip('/')}"


def _root(pattern: str) -> str:
    """Return the part of a glob before its first magic component."""
    kept: list[str] = []
    for part in pattern.split("/")[:-1]:
        if glob.has_magic(part):
            break
        kept.append(part)
    return "/".join(kept).lstrip("/")


def _named(found: dict[str, InputFile]) -> list[InputFile]:
    """Give each file a name of its own, which UTF-8 can hold: those that collide get folders of their own path."""
    names = {url: file.name for url, file in found.items()}
    depth = 2
    while len(count := Counter(names.values())) < len(names):
        for url in [url for url, name in names.items() if count[name] > 1]:
            names[url] = "/".join(shown(url).split("/")[-depth:])
        depth += 1
    taken = set(names.values())
    files = []
    for url, name in sorted(names.items()):
        legible = printable(name)
        while legible != name and legible in taken:
            legible += "~"
        taken.add(legible)
        files.append(replace(found[url], name=legible))
    return files


def _hashed(file: InputFile) -> InputFile:
    """Return the file with its content as what tells that it changed."""
    try:
        with file.open() as stream:
            digest = hashlib.file_digest(cast(Any, stream), lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return replace(file, identity=f"content:{digest}")
    except UnreadableInputError as error:
        return replace(file, identity="problem", problem=("damaged", str(error)))
