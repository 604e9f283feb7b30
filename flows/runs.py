"""One run of a workspace: what every stage needs at hand, opened once and closed at any end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from flows.config import RunConfig, SourceConfig
from flows.engine import Engine, LocalEngine, stop_if_asked
from flows.progress import Reporter, reporter
from pipeline.extract.column_types import settle_types
from pipeline.extract.config import ExtractConfig, ExtractLimits, KeepColumn
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.shard import page_pool
from pipeline.table.catalog import adopt
from pipeline.table.inputs import resolve
from pipeline.table.lock import hold
from pipeline.table.shards import Group
from pipeline.table.storage import InputFile, Storage

_current: ContextVar[Run | None] = ContextVar("gristmill_run", default=None)


@dataclass
class Run:
    """State of a run: configuration, storage, engine, reporting, and the extraction workers once they are needed."""

    config: RunConfig
    storage: Storage
    engine: Engine
    reporter: Reporter
    stop: threading.Event
    resources: ExitStack = field(default_factory=ExitStack)
    _inputs: dict[str, list[InputFile]] = field(default_factory=dict)
    _kept: dict[str, dict[str, KeepColumn]] = field(default_factory=dict)
    _pools: dict[ExtractLimits, WorkerPool] = field(default_factory=dict)
    _pool_lock: threading.Lock = field(default_factory=threading.Lock)

    def group(self, source: str, folder: str) -> Group:
        """Return the group at `<source>/<folder>`."""
        return Group(self.storage, f"{source}/{folder}")

    def inputs(self, source: str) -> list[InputFile]:
        """Return a source's raw inputs, listed once: a file that appears while the run goes on is the next run's."""
        if source not in self._inputs:
            config = self.config.sources[source]
            self._inputs[source] = resolve(config.inputs, f"sources.{source}.inputs", config.identity)
        return self._inputs[source]

    def kept(self, source: str) -> dict[str, KeepColumn]:
        """Return the columns of a corpus's own, each with its type.

        Raises: InputError when a Parquet file has none of the name, or of a type that cannot be kept.
        """
        if source not in self._kept:
            config = self.config.sources[source]
            self._kept[source] = settled_columns(config, self.inputs(source), source)
        return self._kept[source]

    def pages(self, config: ExtractConfig) -> WorkerPool:
        """Return the isolated extraction workers under a source's limits, started at the first call."""
        with self._pool_lock:
            if config.limits not in self._pools:
                pool = page_pool(self.config.engine.workers, config)
                self._pools[config.limits] = self.resources.enter_context(pool)
            return self._pools[config.limits]

    def check(self) -> None:
        """Raise InterruptedRunError once the user has asked the run to stop."""
        stop_if_asked(self.stop)


def settled_columns(config: SourceConfig, inputs: Sequence[InputFile], source: str) -> dict[str, KeepColumn]:
    """Return a source's kept columns in the order of their names, each with its type.

    Raises: InputError as `Run.kept`.
    """
    return settle_types(
        config.keep_columns, inputs, f"sources.{source}.keep_columns", config.format not in ("jsonl", "csv")
    )


@contextmanager
def opened(config: RunConfig, command: str, stop: threading.Event | None = None) -> Iterator[Run]:
    """Hold the workspace and give the block a run on it, with threads as its engine.

    A flow called inside another one's run joins that run.

    Raises: WorkspaceError when another run holds the workspace.
    """
    current = _current.get()
    if current is not None:
        yield current
        return
    storage = Storage.at(config.workspace)
    stop = stop or threading.Event()
    with hold(storage, command), reporter() as report:
        storage.clear_temporary()
        adopt(storage)
        run = Run(config, storage, LocalEngine(config.engine.workers, stop), report, stop)
        token = _current.set(run)
        try:
            with run.resources:
                yield run
        finally:
            _current.reset(token)
