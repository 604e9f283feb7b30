"""One run of a workspace: what every stage needs at hand, opened once and closed at any end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from flows.config import RunConfig, SourceConfig
from flows.engine import LocalEngine
from flows.progress import Reporter, reporter
from pipeline.extract.config import ExtractConfig, ExtractLimits, KeepColumn
from pipeline.extract.corpora.parquet import settle_types
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.shard import ExtractJob, page_pool
from pipeline.select.rules import BoundRules
from pipeline.table.catalog import adopt
from pipeline.table.inputs import InputFile, resolve
from pipeline.table.lock import hold
from pipeline.table.stages import Context
from pipeline.table.storage import Storage

_current: ContextVar[Run | None] = ContextVar("gristmill_run", default=None)


@dataclass
class Run(Context):
    """A run: what stages may use of it, its configuration, and the extraction workers once they are needed."""

    config: RunConfig
    reporter: Reporter
    bound: Mapping[str, BoundRules] = field(default_factory=dict)
    """Each source's rules as they were checked before the run."""
    resources: ExitStack = field(default_factory=ExitStack)
    _inputs: dict[str, list[InputFile]] = field(default_factory=dict)
    _kept: dict[str, dict[str, KeepColumn]] = field(default_factory=dict)
    _pools: dict[ExtractLimits, WorkerPool] = field(default_factory=dict)
    _pool_lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, config: RunConfig, report: Reporter, stop: threading.Event) -> Run:
        """Return a run in this process, with threads as its engine."""
        workers, memory_mb = config.engine.workers, config.engine.memory_mb
        storage = Storage.at(config.workspace)
        return cls(storage, LocalEngine(workers, stop), report, stop, workers, memory_mb, config)

    def inputs(self, source: str) -> list[InputFile]:
        """Return a source's raw inputs, listed once: a file that appears while the run goes on is the next run's."""
        if source not in self._inputs:
            config = self.config.sources[source]
            self._inputs[source] = resolve(config.inputs, f"sources.{source}.inputs", config.identity)
        return self._inputs[source]

    def extract_jobs(self, source: str) -> list[ExtractJob]:
        """Return a job for every input of a source, as its configuration says."""
        config, kept = self.config.sources[source], self.kept(source)
        return [
            ExtractJob(self.storage, source, file, config.format, config.columns, config.extract, kept)
            for file in self.inputs(source)
        ]

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
    with hold(Storage.at(config.workspace), command), reporter() as report:
        run = Run.of(config, report, stop or threading.Event())
        run.storage.clear_temporary()
        adopt(run.storage)
        token = _current.set(run)
        try:
            with run.resources:
                yield run
        finally:
            _current.reset(token)
