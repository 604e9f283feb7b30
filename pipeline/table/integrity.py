"""Whether a workspace's files still hold what was written: each is read once, and again only when it has changed.

What was found sound is remembered in this process and in a small file a group, by size, times and inode (size and
ETag behind a URL). What changes under the same stamp, as on a disk that loses a bit, is found by `gristmill check`
alone, and by the checksums of pages, which pyarrow verifies whenever it reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from pipeline.table.errors import GristmillError
from pipeline.table.storage import Storage

VERIFIED = "_verified"
"""Folder of a workspace with what was found sound, a file a group; whoever deletes it pays with time alone."""
_JUST_WRITTEN = ""
"""Stamp of what this process put behind a URL: asking for the real one would cost a request a file."""
THREADS = min(8, os.cpu_count() or 1)
_memories: dict[str, Memory] = {}
_opening = threading.Lock()


class Memory:
    """Which files of a group were found to hold what their digests say."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage, self._path = storage, path
        self._lock = threading.Lock()
        self._is_saved = True
        self._seen: dict[str, tuple[str, str]] = {}
        """Stamp and digest by name."""
        try:
            stored = json.loads(storage.read_bytes(path))
            self._seen = {str(name): (str(stamp), str(digest)) for name, (stamp, digest) in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):  # absent or damaged: that costs time alone
            self._seen = {}

    def proven(self, folder: str, expected: Mapping[str, str], measure: Callable[[str], str | None]) -> dict[str, bool]:
        """Tell of each file of `folder` whose digest is expected, and that is there, whether `measure` finds it."""
        stamps = self._storage.stamps(folder, list(expected))
        found: dict[str, str | None] = {}
        asked = []
        with self._lock:
            for name, stamp in stamps.items():
                seen = self._seen.get(name)
                if seen == (stamp, expected[name]) or seen == (_JUST_WRITTEN, expected[name]):
                    found[name] = expected[name]
                    self._seen[name] = stamp, expected[name]
                else:
                    asked.append(name)
        if asked:
            with ThreadPoolExecutor(THREADS) as pool:
                found.update(zip(asked, pool.map(measure, asked), strict=True))
            with self._lock:
                self._seen |= {name: (stamps[name], expected[name]) for name in asked if found[name] == expected[name]}
                self._is_saved = False
        return {name: digest == expected[name] for name, digest in found.items() if digest is not None}

    def note(self, folder: str, name: str, digest: str) -> None:
        """Take a file that this process has just written as proven."""
        stamp = self._storage.stamps(folder, [name])[name] if self._storage.is_local else _JUST_WRITTEN
        with self._lock:
            self._seen[name] = stamp, digest
            self._is_saved = False

    def save(self, names: Collection[str] | None = None) -> None:
        """Write down what is known, of these names alone if any are given; a workspace may be read-only."""
        with self._lock:
            if names is not None and not self._seen.keys() <= set(names):
                self._seen = {name: value for name, value in self._seen.items() if name in names}
                self._is_saved = False
            if self._is_saved:
                return
            text = json.dumps(dict(sorted(self._seen.items())), separators=(",", ":"))
            self._is_saved = True
        try:
            self._storage.write_bytes(self._path, text.encode())
        except (GristmillError, OSError):
            return


def memory(storage: Storage, folder: str) -> Memory:
    """Return what this process and those before it know of the files of the group in `folder`."""
    path = f"{VERIFIED}/{folder}.json"
    key = storage.sql_path(path)
    with _opening:
        if key not in _memories:
            _memories[key] = Memory(storage, path)
        return _memories[key]


def content(storage: Storage, folder: str, name: str) -> str | None:
    """Return the 128-bit BLAKE2b of a file, or None when it is gone. Raises: OSError."""
    try:
        with storage.open(f"{folder}/{name}") as stream:
            return hashlib.file_digest(cast(Any, stream), lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except FileNotFoundError:
        return None
