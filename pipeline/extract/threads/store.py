"""Rows of several files put together by the thread that they belong to: on disk, in memory that does not grow.

Posts, answers and comments of one thread lie anywhere in their files. They are written to an SQLite database in a
scratch folder as they come, and read back thread by thread, each in the same order whatever the order of the inputs.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from pipeline.extract.media import file_signature
from pipeline.extract.members import RawInput, read_head
from pipeline.inputs.files import InputFile
from pipeline.table.errors import ShardError, UnreadableInputError
from pipeline.table.schema import RejectReason
from pipeline.table.storage import Storage, scratch_folder

_CACHE_KIB = 4 << 10
_WRITE_ROWS, _WRITE_BYTES = 1_000, 4 << 20
_ROW_BYTES = 256  # what a row counts for beside its content
MAX_INT = (1 << 63) - 2
PARTS = 2
"""Kinds of rows from here on belong to a post, and are none."""


class Row(NamedTuple):
    """A row of an input: its thread, its rank among the kinds of rows, its id, where it is, and its content."""

    thread: int
    kind: int
    id: int
    file: int
    place: int
    data: bytes


class Store:
    """Rows on disk. Raises: ShardError when the disk is full."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in (
            *("page_size = 16384", "journal_mode = OFF", "synchronous = OFF", "locking_mode = EXCLUSIVE"),
            *(f"cache_size = -{_CACHE_KIB}", "temp_store = FILE"),
        ):
            self._database.execute(f"PRAGMA {pragma}")
        columns = "thread INTEGER, kind INTEGER, id INTEGER, file INTEGER, place INTEGER, data BLOB"
        self._database.execute(f"CREATE TABLE stored ({columns})")
        self._waiting: list[Row] = []
        self._bytes = 0

    def close(self) -> None:
        self._database.close()

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        self._bytes += len(row.data)
        if len(self._waiting) >= _WRITE_ROWS or self._bytes >= _WRITE_BYTES:
            self._write()

    def _write(self) -> None:
        self._database.execute("BEGIN")
        self._database.executemany("INSERT INTO stored VALUES (?, ?, ?, ?, ?, ?)", self._waiting)
        self._database.execute("COMMIT")
        self._waiting, self._bytes = [], 0

    def index_ids(self) -> None:
        """Make `thread_of` know the rows that are there."""
        self._write()
        self._database.execute(f"CREATE INDEX IF NOT EXISTS ids ON stored (id, thread) WHERE kind < {PARTS}")

    def thread_of(self, row_id: int) -> int | None:
        """Return the thread of the post with an id, None when there is none."""
        asked = f"SELECT min(thread) FROM stored WHERE id = ? AND kind < {PARTS}"
        (found,) = self._database.execute(asked, (row_id,)).fetchone()
        return found  # type: ignore[no-any-return]

    def threads(self, first: int, limit: int) -> Iterator[Thread]:
        """Yield the threads from the number `first` on, of each up to `limit` bytes."""
        self._write()
        self._database.execute("CREATE INDEX threads ON stored (thread, kind, id, file, place)")
        rows = self._database.execute(
            "SELECT thread, kind, id, file, place, data FROM stored WHERE thread >= ?"
            " ORDER BY thread, kind, id, file, place",
            (first,),
        )
        for number, each in itertools.groupby(map(Row._make, rows), key=lambda row: row.thread):
            thread, size = Thread(number), 0
            for row in each:
                size += len(row.data) + _ROW_BYTES
                last = thread.rows[-1] if thread.rows else None
                if last is not None and (last.kind, last.id) == (row.kind, row.id):
                    thread.repeated.append(row._replace(data=b""))
                elif last is not None and size > limit:
                    thread.behind += 1
                else:
                    thread.rows.append(row)
            yield thread


@dataclass(slots=True)
class Thread:
    """The rows of a thread: by kind and id, each id once, further rows of an id, and how many are too many."""

    number: int
    rows: list[Row] = field(default_factory=list)
    repeated: list[Row] = field(default_factory=list)
    behind: int = 0


def as_int(value: object) -> int | None:
    """Return a whole number that was written as one, or as text; None for anything else, and what is no 63 bits."""
    try:
        number = int(float(value) if isinstance(value, str) and "." in value else value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) <= MAX_INT else None


def opened(
    stream: BinaryIO, name: str, beside: Sequence[InputFile]
) -> Iterator[tuple[int, str, BinaryIO | tuple[RejectReason, str]]]:
    """Yield number, name and stream of an input and those beside it; of one that cannot be read why, instead."""
    for number, file in enumerate((None, *beside)):
        shown = name if file is None else file.name
        try:
            with nullcontext(stream) if file is None else file.open() as each:
                head, _ = read_head(RawInput(each, whole=False))
                known = file_signature(head)
                yield number, shown, each if known is None else ("unsupported", "; ".join(known))
        except UnreadableInputError as error:
            yield number, shown, ("damaged", str(error))


@contextmanager
def open_store(storage: Storage | None) -> Iterator[Store]:
    """Give the block an empty store, on the disk of a workspace where there is one; it goes however the block ends.

    Raises: ShardError when it cannot be written.
    """
    with (scratch_folder if storage is None else storage.scratch_folder)("threads-") as folder:
        store = Store(f"{folder}/rows.sqlite")
        try:
            yield store
        except sqlite3.Error as error:
            raise ShardError(f"{folder}: {error}; free disk space and run the same command again") from error
        finally:
            store.close()
