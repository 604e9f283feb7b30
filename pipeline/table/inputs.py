"""From the `inputs:` of a source to a sorted list of raw files, each with a name that does not depend on its folder."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pipeline.table.errors import InputError, UsageError
from pipeline.table.storage import InputFile, filesystem

_CHUNK_BYTES = 1 << 20


def resolve(entries: Sequence[str], where: str, identity: Literal["stat", "content"] = "stat") -> list[InputFile]:
    """Return the files that paths, globs, directories and URLs name, each once, sorted by name.

    A directory means every file below it whose name does not begin with `.` or `_`.

    Raises: InputError for an entry that names nothing; `where` is the config key for the message.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in entries:
        matches = _expand(entry, where)
        if not matches:
            raise InputError(
                f"{where}: {entry!r} matches no file (working directory {os.getcwd()}); correct it or remove it"
            )
        for url, name, info in matches:
            found.setdefault(url, (name, info))
    names = _distinct({url: name for url, (name, _) in found.items()})
    files = [
        InputFile(url, names[url], int(info["size"] or 0), _identity(url, info, identity))
        for url, (_, info) in found.items()
    ]
    return sorted(files, key=lambda file: file.name)


def _expand(entry: str, where: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Return (url, name, info) for each file that one entry names."""
    try:
        fs, path = filesystem(entry)
    except UsageError as error:
        raise type(error)(f"{where}: {error}") from error
    try:
        if glob.has_magic(entry) and not fs.exists(path):  # a file may be called `crawl [1].warc.gz`
            root = path[: len(path) - len(path.lstrip("/"))] + _root(path)
            infos = {p: info for p, info in fs.glob(path, detail=True).items() if info["type"] != "directory"}
        elif not fs.exists(path):
            raise InputError(f"{where}: {entry} does not exist (working directory {os.getcwd()}); correct the path")
        elif fs.isdir(path):
            root = path.rstrip("/")
            infos = {p: i for p, i in fs.find(path, detail=True).items() if _visible(p.removeprefix(root))}
        else:
            root = os.path.dirname(path)
            infos = {path: fs.info(path)}
    except PermissionError as error:
        raise InputError(f"{where}: {entry}: {error.strerror}; make it readable") from error
    except OSError as error:
        raise InputError(f"{where}: {entry} cannot be listed: {error.strerror or error}; correct it") from error
    return [(_url(p, entry), os.path.relpath(p, root or "/"), info) for p, info in infos.items()]


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


def _visible(relative: str) -> bool:
    return not any(part.startswith((".", "_")) for part in relative.split("/") if part)


def _distinct(names: dict[str, str]) -> dict[str, str]:
    """Lengthen colliding names by folders of their own path until every file of the source has its own name."""
    result = dict(names)
    depth = 2
    while True:
        clashing = _clashing(result.items())
        if not clashing:
            return result
        for url in clashing:
            result[url] = "/".join(url.split("/")[-depth:])
        depth += 1


def _clashing(items: Iterable[tuple[str, str]]) -> list[str]:
    by_name: dict[str, list[str]] = {}
    for url, name in items:
        by_name.setdefault(name, []).append(url)
    return [url for urls in by_name.values() if len(urls) > 1 for url in urls]


def _identity(url: str, info: dict[str, Any], how: Literal["stat", "content"]) -> str:
    if how == "content":
        return _content_hash(url)
    for key in ("ETag", "etag", "mtime", "LastModified", "last_modified", "modified"):
        if info.get(key):
            value = info[key]
            # fsspec reports float seconds; nanoseconds tell two quick edits apart.
            return f"mtime:{os.stat(info['name']).st_mtime_ns}" if key == "mtime" else f"{key.lower()}:{value}"
    return "none"


def _content_hash(url: str) -> str:
    fs, path = filesystem(url)
    digest = hashlib.blake2b(digest_size=16)
    with fs.open(path, "rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return f"content:{digest.hexdigest()}"
