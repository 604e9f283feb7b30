"""Answers and failures on disk, durable before they count, whatever dies.

One SQLite database, which one process has open at a time. A record counts once its transaction is on the disk. Each has
a checksum, and one that lost it is not there: that request is asked again. A damaged database is set aside under a name
of its own, and what is whole in it is taken over, like what former versions stored. API keys are never stored.

SQLite's log needs memory that processes share, which network file systems do not have: there it does without, and
lookups wait for what is being written. What lies in the folder after a kill, the log too, is the whole store: another
machine goes on with it.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import count, islice
from pathlib import Path

from pipeline.llm import former
from pipeline.llm.types import Answer, Failure
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.storage import Storage, hold

DATABASE = "answers.sqlite"
_VERSION = 1
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS answers(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, result TEXT NOT NULL, "
    "checksum INTEGER NOT NULL)"
)
_WRITE = "INSERT OR REPLACE INTO answers(key, result, checksum) VALUES (?, CAST(? AS TEXT), ?)"
_AT_ONCE = 4096
_FAILURE_FIELDS = 3
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "gluster", "afs", "9p", "fuse.")

_log = logging.getLogger(__name__)


class Cache:
    """The durable store of a folder. Use as a context manager, or close it.

    `damage` says what was found damaged when it was opened, a line each.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open or create the store.

        Raises: WorkspaceError when another process has it open, it cannot be written, or it is no store of answers.
        """
        self.folder = Path(folder)
        self.damage: list[str] = []
        self._failed: str | None = None
        self._is_open = False
        self._reader: sqlite3.Connection | None = None
        self._open = ExitStack()
        try:
            self._open.enter_context(hold(Storage.at(str(self.folder)), "asking a language model"))
            self._keep_private()
            self._is_alone = _is_on_network(self.folder)
            self._writer = self._checked()
            self._take_over()
            self._is_open = True
        except (OSError, sqlite3.Error) as error:
            self._open.close()
            raise WorkspaceError(f"answers in {self.folder}: {_why(error)}; check the disk") from error
        except BaseException:
            self._open.close()
            raise
        for line in self.damage:
            _log.warning("%s", line)

    # Reading ----------------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> Answer | Failure | None:
        """Return what is stored under `key`, or none, also where it is no longer what was written.

        Raises: ShardError when the disk does not give it.
        """
        try:
            return _found(self._to_read(), key)
        except sqlite3.Error as error:
            raise ShardError(f"answers in {self.folder}: {_why(error)}; run again, what is whole is kept") from error

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def records(self) -> Iterator[Answer | Failure]:
        """Yield everything stored, in order of writing."""
        for key, result, checksum in self._to_read().execute("SELECT key, result, checksum FROM answers ORDER BY id"):
            record = decode(key, result) if former.is_whole(key, result, checksum) else None
            if record is not None:
                yield record

    def _to_read(self) -> sqlite3.Connection:
        """Return a connection that does not wait for what is being written; a closed store can be read, too."""
        if self._reader is None:
            self._reader = self._writer if self._is_alone and self._is_open else self._connect()
        return self._reader

    def __len__(self) -> int:
        """Return how many records are stored."""
        return int(self._to_read().execute("SELECT count(*) FROM answers").fetchone()[0])

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Answer | Failure]) -> None:
        """Store records, in place of what is under their keys. They are durable when this returns; in any thread.

        Raises: WorkspaceError when the disk is full or fails; the store then takes no more.
        """
        self._write([(record.key, encode(record)) for record in records])

    def _write(self, rows: Sequence[former.Row]) -> None:
        if self._failed:
            raise WorkspaceError(self._failed)
        try:
            with self._writer:
                self._writer.execute("BEGIN IMMEDIATE")
                self._writer.executemany(_WRITE, [(*row, former.checksum_of(*row)) for row in rows])
        except sqlite3.Error as error:
            # After a failed sync nobody knows what is on the disk: the next run reads what is there.
            self._failed = f"answers in {self.folder}: {_why(error)}; make room and run again, it resumes"
            raise WorkspaceError(self._failed) from error

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._open.close()
        self._is_open = False

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # The database and what is beside it -------------------------------------------------------------------------------

    def _keep_private(self) -> None:
        """Leave to this user what others may have been able to read; where it is another's, as it is."""
        with suppress(PermissionError):
            self.folder.chmod(0o700)
            for path in self.folder.iterdir():
                path.chmod(0o600)

    def _connect(self) -> sqlite3.Connection:
        path = self.folder / DATABASE
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        connection.text_factory = bytes
        return connection

    def _checked(self) -> sqlite3.Connection:
        """Return a connection to a database that is whole: a damaged one is set aside, to be taken over."""
        path = self.folder / DATABASE
        connection = self._connect()
        self._open.callback(connection.close)
        try:
            if self._is_alone:
                connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            is_whole = connection.execute("PRAGMA quick_check(1)").fetchone() == (b"ok",)
        except sqlite3.OperationalError:  # the disk's error, not the database's
            raise
        except sqlite3.DatabaseError:
            is_whole = False
        if not is_whole:
            connection.close()
            names = (f"damaged-{number}.sqlite" for number in count(1))
            name = next(name for name in names if not {name, f"{name}.kept"} & {*os.listdir(self.folder)})
            for end in ("-shm", "-wal", ""):  # the database last, so that a kill leaves it to be found damaged again
                with suppress(FileNotFoundError):
                    os.replace(f"{path}{end}", self.folder / f"{name}{end}")
            self.damage.append(f"{path} is damaged; it is kept as {name}.kept, and what of it is whole is here")
            return self._checked()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise WorkspaceError(f"{path} is of a newer version; move it away or name another folder")
        if version < _VERSION:
            connection.execute(_SCHEMA)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        return connection

    def _take_over(self) -> None:
        """Store what former versions stored, and what is whole in a damaged database.

        Each file goes once all of it is stored, or is kept under another name where something of it is lost. After a
        kill before that it is taken over again.
        """
        for path in sorted([*self.folder.glob("answers-[0-9]*.seg"), *self.folder.glob("damaged-*.sqlite")]):
            is_segment, found = path.suffix == ".seg", len(self.damage)
            rows = former.segment_rows(path, self.damage) if is_segment else former.database_rows(path, self.damage)
            try:
                while chunk := list(islice(rows, _AT_ONCE)):
                    # Of a segment the newest record counts; what is here already is not older than a copy of it.
                    self._write([row for row in chunk if is_segment or not self._has_answer(row[0])])
            except ValueError as error:
                raise WorkspaceError(f"{path} {error}; move it away or name another folder") from error
            if len(self.damage) > found or not is_segment:
                path.rename(f"{path}.kept")
            else:
                path.unlink()

    def _has_answer(self, key: bytes) -> bool:
        return isinstance(_found(self._writer, key), Answer)


def encode(record: Answer | Failure) -> bytes:
    """Return a record without its key, as JSON in ASCII."""
    if isinstance(record, Answer):
        fields = (record.text, record.finish_reason, record.prompt_tokens, record.completion_tokens, record.model)
        return json.dumps([*fields, record.endpoint, record.attempts]).encode("ascii")
    return json.dumps([record.reason, record.detail, record.attempts]).encode("ascii")


def decode(key: bytes, result: bytes) -> Answer | Failure | None:
    """Undo `encode`; none when the result is not what this version writes."""
    try:
        fields = json.loads(result)
        return Failure(key, *fields) if len(fields) == _FAILURE_FIELDS else Answer(key, *fields)
    except (ValueError, TypeError, RecursionError):
        return None


def _found(connection: sqlite3.Connection, key: bytes) -> Answer | Failure | None:
    row = connection.execute("SELECT result, checksum FROM answers WHERE key = ?", (key,)).fetchone()
    if row is None:
        return None
    if not former.is_whole(key, *row):
        _log.warning("the stored answer of request %s is damaged; it is asked again", key.hex())
        return None
    return decode(key, row[0])


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _is_on_network(path: Path) -> bool:
    """Tell whether a folder lies on a network file system, as far as the system says."""
    real = os.path.realpath(path)
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return False
    kinds = [(point, kind) for point, kind in mounts if os.path.commonpath([real, point]) == point]
    return bool(kinds) and sorted(kinds, key=lambda mount: len(mount[0]))[-1][1].startswith(_NETWORK)
