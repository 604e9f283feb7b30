"""What the steps of a mix hand to one another, and what they are handed by who runs them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.mix.config import MixConfig, ProxyConfig, ResolvedSlice, Suite
from pipeline.mix.folder import MixFolder
from pipeline.mix.types import BuiltSlice, Floats, ProxyData, RunSpec, TokenTask, TrainedRun
from pipeline.mix.weights.space import Constraints, Space
from pipeline.table.interrupts import Stop
from pipeline.table.stages import Engine
from pipeline.table.storage import Storage


class Desk(Protocol):
    """What the steps are handed by who runs them: where jobs run, what is shown, and whether to stop."""

    @property
    def stop(self) -> Stop:
        """Set when the run is to end early."""
        ...

    def line(self, text: str) -> None:
        """Say one line."""
        ...

    def progress(self, why: str, jobs: int) -> AbstractContextManager[Callable[[], None] | None]:
        """Give the block what to call after each job; None where lines are to say what was done."""
        ...

    def run(self, why: str, config: ProxyConfig, untrained: int, work: Callable[[Engine], None]) -> None:
        """Do `work`, in which `untrained` runs are trained, with an engine that is worth its start."""
        ...


@dataclass(frozen=True)
class OpenMix:
    """A mix at work. `path` and `assignments` are what it was called with, `proposal` the one that was asked for."""

    path: str
    assignments: tuple[str, ...]
    proposal: str | None
    name: str
    config: MixConfig
    storage: Storage
    folder: MixFolder
    desk: Desk

    def command_of(self, step: str) -> str:
        """Return the command of a step, for messages that say what to do next."""
        return shlex.join(["gristmill", "mix", step, self.path, *(f"--set={each}" for each in self.assignments)])

    def shown(self, path: Path) -> str:
        """Return the path, or the URL, under which a user finds a file of the mix."""
        return self.storage.sql_path(str(Path("mix", self.name, path.relative_to(self.folder.root))))


@dataclass(frozen=True)
class Material:
    """Everything that the later steps of a mix need to know of its data.

    `natural` (k,): shares of all training tokens. `constraints`: at target scale, from slices and groups. `tasks`:
    those of the suite first, then those that are only measured along. `rows`: what a person wants to know of each
    slice; `proportion` is the natural one, by training tokens, `cap` the largest weight at which the target run
    repeats the slice `max_epochs` times, min(1, max_epochs * tokens / budget). `left_out`: items of a task that
    kept proxies may have seen. `excluded`: for each slice the documents that share text with them, which no shard
    gets.
    """

    names: tuple[str, ...]
    slices: tuple[ResolvedSlice, ...]
    built: tuple[BuiltSlice, ...]
    rows: tuple[Mapping[str, Any], ...]
    tokenizer_hash: str
    natural: Floats
    constraints: Constraints
    data: ProxyData
    suite: Suite
    suite_hash: str
    tasks: tuple[TokenTask, ...]
    left_out: Mapping[str, int]
    excluded: tuple[frozenset[str], ...]

    @property
    def data_keys(self) -> tuple[str, ...]:
        return tuple(each.key for each in self.built)

    @property
    def suite_tasks(self) -> tuple[str, ...]:
        """The names of the suite's own tasks."""
        return tuple(self.suite.config.weights())


@dataclass(frozen=True)
class Drawn:
    """The swarm: its runs, and the space that they were drawn in."""

    runs: tuple[RunSpec, ...]
    space: Space


@dataclass(frozen=True)
class Results:
    """Runs and what was measured: `values` (n, m) in bits per byte, by run and task; `trained` in the runs' order."""

    runs: tuple[RunSpec, ...]
    tasks: tuple[str, ...]
    values: Floats
    trained: tuple[TrainedRun, ...]
    variances: Floats | None = None
    """(n, m): how uncertain values are that were extrapolated, of runs that early stopping ended; zero for measured."""
