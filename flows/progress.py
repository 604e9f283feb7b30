"""What a run shows while it works: bars on a terminal, plain lines elsewhere. From our own counts, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from pipeline.table.stages import ShardReport, StageReport


@dataclass
class Reporter:
    """Prints lines or moves bars. Threads may call it at once."""

    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True, width=160))
    bars: Progress | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def stage(self, source: str, stage: str, shards: int, input_bytes: int = 0) -> Iterator[StageProgress]:
        """Show one stage's work on `shards` shards."""
        if self.bars is None:
            if shards:
                self.line(f"{source} {stage}: {shards} {'shard' if shards == 1 else 'shards'} to do")
            yield StageProgress(self, source, stage, None)
            return
        task = self.bars.add_task(f"{source} {stage}", total=shards, rows=0)
        try:
            yield StageProgress(self, source, stage, task)
        finally:
            self.bars.stop_task(task)

    def line(self, text: str) -> None:
        """Print one plain line on stderr."""
        with self._lock:
            self.console.print(text, markup=False)

    def table(self, reports: list[StageReport]) -> None:
        """Print the closing table."""
        table = Table(box=None, pad_edge=False)
        for name in ("source", "stage"):
            table.add_column(name)
        for name in ("shards", "done before", "rows in", "rows out", "seconds"):
            table.add_column(name, justify="right")
        table.add_column("")
        for report in reports:
            table.add_row(
                report.source,
                report.stage,
                f"{report.shards:,}",
                f"{report.shards_done_before:,}",
                f"{report.rows_in:,}",
                f"{report.rows_out:,}",
                f"{report.elapsed_s:.1f}",
                report.notes,
            )
        with self._lock:
            self.console.print(table)


@dataclass
class StageProgress:
    """One stage's bar, or its lines."""

    reporter: Reporter
    source: str
    stage: str
    task: Any
    started: float = field(default_factory=time.monotonic)

    def rows(self, count: int) -> None:
        """Count rows as they pass."""
        if self.task is not None and self.reporter.bars is not None:
            with self.reporter._lock:
                done = self.reporter.bars.tasks[self.task].fields["rows"] + count
                self.reporter.bars.update(self.task, rows=done)

    def read(self, count: int) -> None:
        """Count bytes of raw input as they are read."""

    def shard(self, report: ShardReport) -> None:
        """Count one finished shard."""
        if self.task is not None and self.reporter.bars is not None:
            self.reporter.bars.advance(self.task)
            return
        rows = f"{report.rows_in:,} rows in, {report.rows_out:,} out"
        speed = f", {report.input_bytes / 1e6 / max(report.elapsed_s, 1e-9):.1f} MB/s" if report.input_bytes else ""
        notes = f" ({report.notes})" if report.notes else ""
        self.reporter.line(f"{self.source} {self.stage} {report.name}: {rows}{speed}{notes}")


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Yield a reporter that fits stderr: bars on a terminal, plain lines otherwise."""
    if not sys.stderr.isatty():
        yield Reporter()
        return
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield Reporter(console, bars)
