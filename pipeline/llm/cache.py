"""Answers and failures on disk, durable before they count, whatever dies.

A folder of segment files (`pipeline.llm.segments`) that only grow, one writer at a time. A record counts once fsync has
returned; what a killed writer leaves behind half written is cut off when the folder is opened again, and everything
before it is kept. Damage elsewhere is reported and skipped: those requests are asked again. API keys are never stored.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.llm import segments
from pipeline.llm.key_index import KeyIndex
from pipeline.llm.segments import ANSWER, FAILURE, Damage, Found
from pipeline.llm.types import Answer, Failure
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.storage import Storage, hold

SEGMENT_BYTES = 1 << 30
_OFFSET_BITS = 40
_log = logging.getLogger(__name__)


class Frame(NamedTuple):
    """A record ready to be written."""

    key: bytes
    kind: int
    data: bytes


class Cache:
    """The durable store of a folder. Use as a context manager, or close it.

    `damage` lists what was found damaged when it was opened; a torn end that was cut off is in it with `is_tail`.
    """

    def __init__(self, folder: str | os.PathLike[str], *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open or create the store.

        Raises: WorkspaceError when another process has it open, it cannot be written, or it is no store of answers.
        """
        self.folder = Path(folder)
        self.damage: tuple[Damage, ...] = ()
        self._segment_bytes = segment_bytes
        self._index = KeyIndex()
        self._counts = [0, 0]
        self._handles: dict[int, int] = {}
        self._segment, self._size = -1, 0
        self._failed: str | None = None
        self._open = ExitStack()
        try:
            self._open.enter_context(hold(Storage.at(str(self.folder)), "asking a language model"))
            self._open.callback(self._close_files)
            self._keep_private()
            self._load()
        except OSError as error:
            self._open.close()
            raise WorkspaceError(f"answers in {self.folder}: {error.strerror or error}; check the disk") from error
        except BaseException:
            self._open.close()
            raise

    def _keep_private(self) -> None:
        """Leave to this user what others may have been able to read; where it is another's, as it is."""
        with suppress(PermissionError):
            self.folder.chmod(0o700)
            for path in self.folder.iterdir():
                path.chmod(0o600)

    # Reading ----------------------------------------------------------------------------------------------------------

    def kind(self, key: bytes) -> int | None:
        """Return ANSWER or FAILURE, whichever is newest under `key`, or none."""
        place = self._place(key)
        return None if place is None else place & 1

    def __contains__(self, key: bytes) -> bool:
        return self._place(key) is not None

    def get(self, key: bytes) -> Answer | Failure | None:
        """Return what is stored under `key`, the newest, or none.

        Raises: ShardError when the disk no longer gives what was checked before.
        """
        place = self._place(key)
        return None if place is None else self._read(place)

    def records(self) -> Iterator[Answer | Failure]:
        """Yield everything stored, in order of writing: a key that failed and was asked again comes twice."""
        for place in self._index:
            yield self._read(place)

    def __len__(self) -> int:
        """Return how many records are stored."""
        return sum(self._counts)

    def _place(self, key: bytes) -> int | None:
        for place in self._index.places(key):
            if segments.read_key(self._handle(place >> (_OFFSET_BITS + 1)), _offset(place)) == key:
                return place
        return None

    def _read(self, place: int) -> Answer | Failure:
        segment = place >> (_OFFSET_BITS + 1)
        found = segments.read_frame(self._handle(segment), _offset(place))
        record = None if found is None else decode(*found)
        if record is None:
            raise ShardError(
                f"{self._path(segment)}: the record at {_offset(place)} is damaged; run again to ask again"
            )
        return record

    # Writing ----------------------------------------------------------------------------------------------------------

    def write(self, records: Sequence[Answer | Failure]) -> None:
        """Store records. They are durable when this returns. Raises: as `flush`."""
        frames = [encode(record) for record in records]
        self.publish(frames, self.flush(frames))

    def flush(self, frames: Sequence[Frame]) -> list[int]:
        """Append frames and wait for the disk; return their places for `publish`. May run in another thread.

        Raises: WorkspaceError when the disk is full or fails; the store then takes no more.
        """
        if self._failed:
            raise WorkspaceError(self._failed)
        try:
            if self._size >= self._segment_bytes:
                self._new_segment()
            places, offset = [], self._size
            for item in frames:
                places.append((self._segment << _OFFSET_BITS | offset) << 1 | item.kind)
                offset += len(item.data)
            handle, data = self._handles[self._segment], memoryview(b"".join([item.data for item in frames]))
            while data:
                data = data[os.write(handle, data) :]
            os.fdatasync(handle)
        except OSError as error:
            # After a failed sync nobody knows what is on the disk: the next run reads what is there.
            self._failed = f"answers in {self.folder}: {error.strerror or error}; make room and run again, it resumes"
            raise WorkspaceError(self._failed) from error
        self._size = offset
        return places

    def publish(self, frames: Sequence[Frame], places: Sequence[int]) -> None:
        """Let flushed frames be found."""
        for item, place in zip(frames, places, strict=True):
            self._index.add(item.key, place)
            self._counts[item.kind] += 1

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # Files ------------------------------------------------------------------------------------------------------------

    def _path(self, segment: int) -> Path:
        return self.folder / f"answers-{segment:06d}.seg"

    def _handle(self, segment: int) -> int:
        handle = self._handles.get(segment)
        if handle is None:
            handle = self._handles[segment] = os.open(self._path(segment), os.O_RDONLY | os.O_CLOEXEC)
        return handle

    def _load(self) -> None:
        damage: list[Damage] = []
        numbers = sorted(int(path.stem[8:]) for path in self.folder.glob("answers-[0-9]*.seg"))
        for number in numbers:
            damage += self._load_segment(number)
        self.damage = tuple(damage)
        for item in damage:
            if not item.is_tail:
                _log.warning("%s: %d bytes at %d are damaged; what they held is asked again", *_shown(item))
        if numbers:
            self._continue(numbers[-1], damage)
        else:
            self._new_segment()

    def _load_segment(self, number: int) -> list[Damage]:
        damage = []
        try:
            for item in segments.scan(self._path(number)):
                if isinstance(item, Found):
                    self._index.add(item.key, (number << _OFFSET_BITS | item.offset) << 1 | item.kind & 1)
                    self._counts[item.kind & 1] += 1
                else:
                    damage.append(item)
        except ValueError as error:
            raise WorkspaceError(f"{self._path(number)} {error}; move it away or name another folder") from error
        return damage

    def _continue(self, number: int, damage: list[Damage]) -> None:
        """Append to the last segment, without its torn end and with what was not synchronised yet on the disk."""
        path = self._path(number)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._handles[number] = handle
        torn = next((item for item in damage if item.path == path and item.is_tail), None)
        if torn is not None:
            os.ftruncate(handle, torn.offset)
            _log.info("%s: cut off %d bytes that were half written", path, torn.length)
        if os.fstat(handle).st_size == 0:
            os.write(handle, segments.START)
        os.fsync(handle)
        self._segment, self._size = number, os.fstat(handle).st_size

    def _new_segment(self) -> None:
        number = self._segment + 1
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        handle = os.open(self._path(number), flags, 0o600)
        self._handles[number] = handle
        os.write(handle, segments.START)
        os.fsync(handle)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self._segment, self._size = number, len(segments.START)

    def _close_files(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
        self._handles.clear()


def encode(record: Answer | Failure) -> Frame:
    """Return a record as a frame."""
    if isinstance(record, Answer):
        kind = ANSWER
        fields = (record.text, record.finish_reason, record.prompt_tokens, record.completion_tokens, record.model)
        payload = json.dumps([*fields, record.endpoint, record.attempts])
    else:
        kind, payload = FAILURE, json.dumps([record.reason, record.detail, record.attempts])
    return Frame(record.key, kind, segments.frame(kind, record.key, payload.encode("ascii")))


def decode(kind: int, key: bytes, payload: bytes) -> Answer | Failure | None:
    """Undo `encode`; none when the payload is not what this version writes."""
    try:
        fields = json.loads(payload)
        return Answer(key, *fields) if kind == ANSWER else Failure(key, *fields)
    except (ValueError, TypeError, RecursionError):
        return None


def _offset(place: int) -> int:
    return (place >> 1) & ((1 << _OFFSET_BITS) - 1)


def _shown(item: Damage) -> tuple[Path, int, int]:
    return item.path, item.length, item.offset
