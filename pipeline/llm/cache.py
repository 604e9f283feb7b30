"""Answers and failures on disk, durable before they count, whatever dies.

One SQLite database, which one process has open at a time. A record counts once its transaction is on the disk. Each has
a checksum, and one that lost it is not there: that request is asked again. A damaged database is set aside under a name
of its own, and what is whole in it is taken over, like what former versions stored. API keys are never stored.

SQLite's log needs memory that processes share, which network file systems do not have: there it does without, and
lookups wait for what is being written. What lies in the folder after a kill, the log too, is the whole store: another
machine goes on with it. While it is open nothing else here may open and close the database's file: that would drop the
locks of SQLite's connections, and others who read the store would throw the log away.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

from pipeline.llm import former
from pipeline.llm.types import Answer, Failure
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.storage import Storage, hold

DATABASE = "answers.sqlite"
_VERSION = 1
_NO_VERSION = 256  # so many there will not be: it is damage
_SCHEMA = (
    "CREATE TABLE answers(id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, result TEXT NOT NULL, "
    "checksum INTEGER NOT NULL)"
)
_WRITE = "INSERT OR REPLACE INTO answers(key, result, checksum) VALUES (?, CAST(? AS TEXT), ?)"
_READ = "SELECT result, checksum FROM answers WHERE key = ?"
_READ_ALL = "SELECT key, result, checksum FROM answers ORDER BY id"
_AT_ONCE = 4096
_BYTES_AT_ONCE = 8 << 20
_FAILURE_FIELDS = 3
_DISK_ERRORS = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
"""What the machine is to blame for, not the database."""
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
        self._lost: set[bytes] = set()  # whose records were damaged when it was opened
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
        """Return what is stored under `key`, or none, also where opening the store found it damaged.

        Raises: ShardError when the disk does not give it, or no longer what was written.
        """
        try:
            row = self._to_read().execute(_READ, (key,)).fetchone()
        except (OSError, sqlite3.Error) as error:
            raise self._unreadable(error) from error
        if row is None:
            return None
        if is_whole(key, *row):
            return decode(key, row[0])
        if key in self._lost:
            return None
        raise ShardError(
            f"answers in {self.folder}: that of request {key.hex()} is damaged; run again, it alone is asked again"
        )

    def __contains__(self, key: bytes) -> bool:
        return self.get(key) is not None

    def records(self) -> Iterator[Answer | Failure]:
        """Yield everything stored that is whole, in order of writing. Raises: ShardError as `get`."""
        try:
            for key, result, checksum in self._to_read().execute(_READ_ALL):
                record = decode(key, result) if is_whole(key, result, checksum) else None
                if record is not None:
                    yield record
        except (OSError, sqlite3.Error) as error:
            raise self._unreadable(error) from error

    def __len__(self) -> int:
        """Return how many records are stored. Raises: ShardError as `get`."""
        try:
            return int(self._to_read().execute("SELECT count(*) FROM answers").fetchone()[0])
        except (OSError, sqlite3.Error) as error:
            raise self._unreadable(error) from error

    def _to_read(self) -> sqlite3.Connection:
        """Return a connection that does not wait for what is being written; a closed store can be read, too."""
        if self._reader is None:
            self._reader = self._writer if self._is_alone and self._is_open else self._connect()
        return self._reader

    def _unreadable(self, error: Exception) -> ShardError:
        return ShardError(f"answers in {self.folder}: {_why(error)}; run again, what is whole is kept")

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
                self._writer.executemany(_WRITE, [(*row, checksum_of(*row)) for row in rows])
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
        """Return a connection to the database, which must be there: SQLite would let others read a new one."""
        name = (self.folder / DATABASE).absolute().as_uri()
        connection = sqlite3.connect(
            f"{name}?mode=rw", uri=True, timeout=60, isolation_level=None, check_same_thread=False
        )
        connection.text_factory = bytes
        if self._is_alone:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        return connection

    def _checked(self) -> sqlite3.Connection:
        """Return a connection to a database that is whole: a damaged one is set aside, to be taken over."""
        path = self.folder / DATABASE
        if _size(Path(f"{path}-wal")) and not _size(path):
            self._set_aside()  # SQLite would delete the log of an empty database
        if not path.exists():
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        committed = former.committed_frames(path)
        connection = self._connect()
        self._open.callback(connection.close)
        try:
            is_sound = self._is_sound(connection, committed)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF in _DISK_ERRORS:
                raise
            is_sound = False
        if not is_sound:
            self._set_aside()
            connection.close()  # afterwards: it would write the log into the database
            return self._checked()
        return connection

    def _is_sound(self, connection: sqlite3.Connection, committed: int) -> bool:
        """Tell whether a database is whole, all `committed` frames of its log too; create its table, note lost records.

        Raises: sqlite3.Error; WorkspaceError when it is of a newer version.
        """
        connection.execute(f"PRAGMA page_size = {former.PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        # Of a damaged log SQLite takes what comes before the damage, and says nothing. -1: another one is at it.
        _, frames, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        if 0 <= frames < committed or connection.execute("PRAGMA integrity_check(1)").fetchone() != (b"ok",):
            return False
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version >= _NO_VERSION:
            return False
        if version > _VERSION:
            raise WorkspaceError(f"{self.folder / DATABASE} is of a newer version; move it away or name another folder")
        schema = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'answers'").fetchone()
        if schema is None:
            connection.execute(_SCHEMA)
        elif schema != (_SCHEMA.encode(),):
            return False
        if version < _VERSION:
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        for key, result, checksum in connection.execute(_READ_ALL):
            if not is_whole(key, result, checksum):
                self._lost.add(key)
                self.damage.append(
                    f"answers in {self.folder}: that of request {key.hex()} is damaged; it is asked again"
                )
        return True

    def _set_aside(self) -> None:
        """Give a damaged database and the log beside it a name of their own.

        The database goes first, so that one without its log is never taken for the store. After a kill in between the
        log follows, under the same name.
        """
        path, taken = self.folder / DATABASE, {*os.listdir(self.folder)}
        ends = [end for end in ("", "-wal") if f"{DATABASE}{end}" in taken]
        names = (f"damaged-{number}.sqlite" for number in count(1))
        name = next(n for n in names if not {f"{n}.kept", f"{n}.kept-wal", *(f"{n}{end}" for end in ends)} & taken)
        for end in ends:
            os.replace(f"{path}{end}", self.folder / f"{name}{end}")
        with suppress(FileNotFoundError):
            os.remove(f"{path}-shm")

    def _take_over(self) -> None:
        """Store what former versions stored, and what is whole in a damaged database.

        Each file goes once all of it is stored, or is kept under another name where something of it is lost. After a
        kill before that it is taken over again.
        """
        for path in sorted(self.folder.glob("answers-[0-9]*.seg")):
            found = len(self.damage)
            try:
                self._take(former.segment_rows(path, self.damage))
            except ValueError as error:
                raise WorkspaceError(f"{path} {error}; move it away or name another folder") from error
            if len(self.damage) == found:
                path.unlink()
                continue
            kept = (Path(f"{path}.kept{number or ''}") for number in count())
            path.rename(next(name for name in kept if not name.exists()))
        damaged = [path for end in ("", "-wal") for path in self.folder.glob(f"damaged-*.sqlite{end}")]
        for name in sorted({path.name.removesuffix("-wal") for path in damaged}):
            path = self.folder / name
            self._take(former.database_rows(path, is_whole))
            for end in ("", "-wal"):
                with suppress(FileNotFoundError):
                    os.replace(f"{path}{end}", f"{path}.kept{end}")
            self.damage.append(
                f"{self.folder / DATABASE} is damaged; it is kept as {name}.kept, and what of it is whole is here"
            )

    def _take(self, rows: Iterable[former.Row]) -> None:
        """Store records in bounded memory: the last of a key, but nothing in place of an answer that is there."""
        chunk: dict[bytes, bytes] = {}
        size = 0
        for key, result in rows:
            if key in chunk and _is_answer(key, chunk[key]) and not _is_answer(key, result):
                continue
            chunk.pop(key, None)  # in order of writing
            chunk[key] = result
            size += len(result)
            if len(chunk) >= _AT_ONCE or size >= _BYTES_AT_ONCE:
                self._write_missing(chunk)
                chunk, size = {}, 0
        self._write_missing(chunk)

    def _write_missing(self, chunk: dict[bytes, bytes]) -> None:
        missing = []
        for key, result in chunk.items():
            row = self._writer.execute(_READ, (key,)).fetchone()
            if row is None or not (is_whole(key, *row) and _is_answer(key, row[0])):
                missing.append((key, result))
        if missing:
            self._write(missing)


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


def is_whole(key: object, result: object, checksum: object) -> bool:
    """Tell whether a row is as it was written."""
    return isinstance(key, bytes) and isinstance(result, bytes) and checksum == checksum_of(key, result)


def checksum_of(key: bytes, result: bytes) -> int:
    """Return what shows that a record is as it was written."""
    return zlib.crc32(result, zlib.crc32(key))


def _is_answer(key: bytes, result: bytes) -> bool:
    return isinstance(decode(key, result), Answer)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _is_on_network(path: Path) -> bool:
    """Tell whether a folder lies on a network file system, as far as the system says."""
    real = os.path.realpath(path)
    try:
        lines = Path("/proc/self/mounts").read_bytes().splitlines()
    except OSError:
        return False
    found = "", ""
    for _, point, kind, *_ in (fields for line in lines if len(fields := line.split(b" ")) > 2):
        # Blanks and the like are in there as `\040`, and a name may be of any bytes.
        place = os.fsdecode(re.sub(rb"\\([0-3][0-7]{2})", lambda code: bytes([int(code[1], 8)]), point))
        if place.startswith("/") and len(place) >= len(found[0]) and os.path.commonpath([real, place]) == place:
            found = place, os.fsdecode(kind)
    return found[1].startswith(_NETWORK)
