"""Run records: what ran when, with which configuration, and what it made; one small JSON file a run, in `_runs`.

A record is written when a run begins to make something, again after each stage, and when the run ends; a run with
nothing to do writes none. A killed one leaves `running` behind, which the
workspace's lock tells from a run in progress. Nothing rests on these files: without them only the history is gone.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from pipeline.table.catalog import RUNS, source_folders
from pipeline.table.errors import GristmillError, redact
from pipeline.table.interrupts import InterruptedRunError
from pipeline.table.schema import TOKEN_COLUMNS
from pipeline.table.shards import THREADS, Group, Index, open_part
from pipeline.table.stages import Stage, StageReport
from pipeline.table.storage import Storage, holder, remote_errors

MAX_RUNS = 1000
"""Records that are kept; a run that begins deletes older ones."""
LIBRARIES = ("gristmill", "duckdb", "pyarrow", "trafilatura", "resiliparse", "datasketch", "fasttext-community")
_NAME, _WRITTEN = "%Y%m%dT%H%M%S.%fZ", re.compile(r"\d{8}T\d{6}\.\d{6}Z\.json")


class StageDone(BaseModel):
    """What a stage did in a run."""

    model_config = ConfigDict(frozen=True)

    source: str
    stage: str
    shards: int
    rows_in: int
    rows_out: int
    seconds: float
    work: int
    """Rows that passed, or bytes of raw input that were read, as `unit` says."""
    unit: Literal["rows", "bytes"]


class Kept(BaseModel):
    """What a source's selection kept; tokens are None where nothing counts them."""

    model_config = ConfigDict(frozen=True)

    selection: str
    """Identity of the selection: equal where nothing was decided again."""
    documents: int
    kept: int
    kept_tokens: float | None
    counted_by: str | None = None
    """The column that tokens are counted by."""


class RunRecord(BaseModel):
    """One run. Keys of later versions are left alone."""

    model_config = ConfigDict(frozen=True)

    run: str
    """Its name: the time of its start in UTC, or a moment after the record before it where the clock went back."""
    command: str
    started: str
    seconds: float = 0.0
    outcome: Literal["running", "finished", "failed", "stopped", "killed"] = "running"
    error: str | None = None
    host: str
    pid: int
    versions: dict[str, str]
    asked: dict[str, Any]
    """What the command line said beside the configuration's name: `--set`, `--only`, `--until`."""
    config: dict[str, Any]
    rules: dict[str, dict[str, str]]
    """The rules of each source as they are written, by name."""
    stages: list[StageDone] = []
    kept: dict[str, Kept] = {}
    """By source; in the record of a run that ended without an error."""


@dataclass
class Recorder:
    """Writes the record of one run. What cannot be written is told once, and ends no run."""

    storage: Storage
    about: Callable[[], Mapping[str, Any]]
    """Returns `command`, `asked`, `config` and `rules`, called when the run begins to make something."""
    tell: Callable[[str], None]
    record: RunRecord | None = None
    started_s: float = 0.0
    is_told: bool = False

    def begin(self) -> None:
        """Write the record's first state, unless that was done."""
        if self.record is not None:
            return
        with self._telling():
            self.started_s, now, names = time.monotonic(), datetime.now(UTC), _names(self.storage)
            for name in names[: max(len(names) + 1 - MAX_RUNS, 0)]:
                self.storage.delete(_path(name))
            self.record = RunRecord(
                run=_next_name(now, names[-1] if names else ""),
                started=now.isoformat(timespec="milliseconds"),
                host=socket.gethostname(),
                pid=os.getpid(),
                versions={name: version(name) for name in LIBRARIES},
                **_redacted(self.about()),
            )
            self._write()

    def note(self, stage: Stage[Any, Any], report: StageReport) -> None:
        """Add what a stage did, if it did anything."""
        if self.record is None or not report.shards:
            return
        # What only completing does concerns all rows, whatever is pending.
        work = report.rows_in if stage.whole and stage.unit == "rows" else stage.work
        done = StageDone(
            source=report.source,
            stage=report.stage,
            shards=report.shards,
            rows_in=report.rows_in,
            rows_out=report.rows_out,
            seconds=round(report.elapsed_s, 3),
            work=work,
            unit=stage.unit,
        )
        self._update(stages=[*self.record.stages, done])

    def end(self, error: BaseException | None) -> None:
        """Say how the run ended."""
        if self.record is None:
            return
        if error is None:
            kept: dict[str, Kept] = {}
            with self._telling():
                kept = kept_now(self.storage, latest_kept(self.storage))
            self._update(outcome="finished", kept=kept)
            return
        if isinstance(error, InterruptedRunError | KeyboardInterrupt):
            self._update(outcome="stopped")
            return
        said = str(error) if isinstance(error, GristmillError) else f"{type(error).__name__}: {error}"
        self._update(outcome="failed", error=" ".join(redact(said).split())[:1000])

    def _update(self, **values: Any) -> None:
        assert self.record is not None, "the run began"
        seconds = round(time.monotonic() - self.started_s, 3)
        self.record = self.record.model_copy(update={"seconds": seconds, **values})
        with self._telling():
            self._write()

    def _write(self) -> None:
        assert self.record is not None, "the run began"
        self.storage.write_bytes(_path(self.record.run), (self.record.model_dump_json(indent=1) + "\n").encode())

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            with remote_errors():
                yield
        except (GristmillError, OSError) as error:
            if not self.is_told:
                self.tell(f"warning: this run is not recorded, `gristmill status` will not know all of it: {error}")
            self.is_told = True


@contextmanager
def recording(
    storage: Storage, about: Callable[[], Mapping[str, Any]], tell: Callable[[str], None]
) -> Iterator[Recorder]:
    """Give the block the recorder of its run; only the holder of the workspace's lock may use it."""
    recorder = Recorder(storage, about, tell)
    try:
        yield recorder
    except BaseException as error:
        recorder.end(error)
        raise
    recorder.end(None)


def records(storage: Storage, last: int = MAX_RUNS) -> tuple[list[RunRecord], list[str]]:
    """Return the last run records, oldest first, and a line for each that cannot be read.

    What is `running` in its file and does not hold the workspace is `killed`.
    """
    try:
        with remote_errors():
            names = _names(storage)[-last:]
    except OSError as error:
        return [], [f"{storage.sql_path(RUNS)} cannot be read: {error.strerror or error}; make it readable"]
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(lambda name: _read(storage, name), names))
    found = [each for each in read if isinstance(each, RunRecord)]
    holding = holder(storage)
    for number, record in enumerate(found):
        is_last = number == len(found) - 1
        if record.outcome == "running" and not (is_last and holding is not None and _holds(record, holding)):
            again = _read(storage, record.run)  # it may have ended before its lock was looked at
            if not isinstance(again, RunRecord) or again.outcome == "running":
                again = record.model_copy(update={"outcome": "killed"})
            found[number] = again
    return found, [each for each in read if isinstance(each, str)]


def _holds(record: RunRecord, holding: Mapping[str, Any]) -> bool:
    """Tell whether a record is of the process that holds the workspace. Numbers of processes come again, in containers
    always the same ones: but no run begins before it has the lock.
    """
    same = (holding.get("pid"), holding.get("host")) == (record.pid, record.host)
    return same and str(holding.get("started", ""))[:19] <= record.started[:19]


def latest_kept(storage: Storage) -> dict[str, Kept]:
    """Return what the last record with counts says of each source; none when there is no such record."""
    for name in reversed(_names(storage)):
        record = _read(storage, name)
        if isinstance(record, RunRecord) and record.kept:
            return record.kept
    return {}


def kept_now(storage: Storage, known: Mapping[str, Kept]) -> dict[str, Kept]:
    """Return what each source's selection keeps, as the workspace stands; `known` are counted already.

    Raises: ShardError when an index or a part cannot be read.
    """
    found: dict[str, Kept] = {}
    for source in source_folders(storage):
        group = Group(storage, f"{source}/outcomes")
        index = group.index()
        if index is None or "kept" not in index.counts:
            continue
        same = source in known and known[source].selection == index.key
        if same and known[source].counted_by is not None:
            tokens, column = known[source].kept_tokens, known[source].counted_by
        else:
            tokens, column = _kept_tokens(group, index)
        counts = {name: index.counts[name] for name in ("documents", "kept")}
        found[source] = Kept(selection=index.key, kept_tokens=tokens, counted_by=column, **counts)
    return found


def _kept_tokens(group: Group, index: Index) -> tuple[float | None, str | None]:
    """Return the tokens of the documents that were kept, and the best column that counts them."""
    import pyarrow.compute as pc  # a tenth of the time of a command that only reads records

    def count(name: str) -> tuple[float | None, str | None]:
        with open_part(group, name) as file:
            columns = [column for column in TOKEN_COLUMNS if column in file.schema_arrow.names][:1]
            table = file.read(columns=["outcome", *columns])
        if not columns:
            return None, None
        kept: pa.Table = table.filter(pc.equal(table["outcome"], "kept"))
        return float(pc.sum(kept[columns[0]]).as_py() or 0), columns[0]

    with ThreadPoolExecutor(THREADS) as pool:
        counted = list(pool.map(count, [part.name for part in index.parts]))
    tokens = [each for each, _ in counted if each is not None]
    named = {column for _, column in counted}
    return (sum(tokens), named.pop()) if len(tokens) == len(counted) and len(named) == 1 else (None, None)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one, with dotted keys; an empty mapping is a value."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{prefix}.{name}" if prefix else str(name))
    return found


def _redacted(value: Any) -> Any:
    """Return a JSON value without a secret in any text."""
    if isinstance(value, dict):
        return {redact(str(name)): _redacted(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(inner) for inner in value]
    return redact(value) if isinstance(value, str) else value


def _next_name(now: datetime, last: str) -> str:
    """Return a name for a run that begins now, behind the last one: a clock may go back, the order of runs must not."""
    with suppress(ValueError, OverflowError):  # a name that is no time is not ours
        return max(now.strftime(_NAME), (datetime.strptime(last, _NAME) + timedelta(microseconds=1)).strftime(_NAME))
    return now.strftime(_NAME)


def _path(name: str) -> str:
    return f"{RUNS}/{name}.json"


def _names(storage: Storage) -> list[str]:
    return sorted(name.removesuffix(".json") for name in storage.names(RUNS) if _WRITTEN.fullmatch(name))


def _read(storage: Storage, name: str) -> RunRecord | str | None:
    """Return a record, what is wrong with it, or None when it went meanwhile."""
    where = storage.sql_path(_path(name))
    try:
        return RunRecord.model_validate_json(storage.read_bytes(_path(name)))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        return f"{where} cannot be read ({type(error).__name__}); delete it, only its run's history is gone"
