"""What a run shows while it works: bars on a terminal, plain lines elsewhere. From our own counts, on stderr."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from pipeline.table.errors import escaped, raw, redact
from pipeline.table.format import text_table
from pipeline.table.interrupts import KEPT
from pipeline.table.stages import Made, StageReport

Unit = Literal["rows", "bytes"]


@dataclass
class Reporter:
    """Prints lines or moves bars. Threads may call it at once."""

    bars: Progress | None = None
    current: StageProgress | None = None
    """The stage that is under way."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def stage(
        self, source: str, stage: str, shards: int, work: int = 0, unit: Unit = "rows"
    ) -> Iterator[StageProgress]:
        """Show one stage's work on `shards` shards: so many rows, or bytes of raw input, where that is known."""
        task = None
        if self.bars is not None:
            task = self.bars.add_task(f"{source} {stage}", total=work or None, rows=0, shards=0, of=shards, unit=unit)
        elif shards and work:  # what only completes says itself how far it is
            self.line(f"{source} {stage}: {shards} {'shard' if shards == 1 else 'shards'} to do")
        self.current = StageProgress(self, source, stage, task, shards, unit)
        try:
            yield self.current
            self.current.move(total=work or 1, completed=work or 1, shards=shards)
            self.current = None
        finally:
            if self.bars is not None and task is not None:
                self.bars.stop_task(task)

    def standing(self) -> str:
        """Return what a run that is stopped now keeps, and what it will do again."""
        at = self.current
        if at is None:
            return KEPT
        rows = at.counted - at.kept  # the finished parts of a large input are kept, too
        again = f"up to {rows:,} rows are done again" if rows > 0 else "what was under way is done again"
        return f"{KEPT} ({at.shards:,} of {at.of:,} of {at.source} {at.stage}), {again}"

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Print a line, and on a terminal show a clock until the block ends."""
        if self.bars is None:
            self.line(what)
            yield
            return
        task = self.bars.add_task(what, total=None, rows=0, shards=0, of=0, unit="rows")
        try:
            yield
        finally:
            self.bars.remove_task(task)

    def line(self, text: str) -> None:
        """Print one plain line on stderr."""
        shown = escaped(redact(text))
        with self.lock:
            if self.bars is not None:
                self.bars.console.print(shown, markup=False, emoji=False, soft_wrap=True)
            else:
                sys.stderr.write(f"{shown}\n")
                sys.stderr.flush()

    def table(self, reports: Sequence[StageReport]) -> None:
        """Print the closing table, below the bars."""
        if self.bars is not None:
            self.bars.stop()
        rows = [
            {name: value if isinstance(value, str) else f"{value:,}" for name, value in row.items()}
            for row in closing_rows(reports)
        ]
        self.line(text_table(rows, width=None).rstrip("\n"))


def closing_rows(reports: Sequence[StageReport]) -> list[dict[str, str | float]]:
    """Return what each stage did: a row of the closing table."""
    return [
        {
            "source": report.source,
            "stage": report.stage,
            "shards": report.shards,
            "done before": report.shards_done_before,
            "rows in": report.rows_in,
            "rows out": report.rows_out,
            "seconds": round(report.elapsed_s, 1),
            "notes": report.notes,
        }
        for report in reports
    ]


@dataclass
class StageProgress:
    """One stage's bar, or its lines."""

    reporter: Reporter
    source: str
    stage: str
    task: Any
    of: int
    unit: Unit
    shards: int = 0
    counted: int = 0
    """Rows that have passed."""
    kept: int = 0
    """Those of finished shards."""

    def move(self, **fields: Any) -> None:
        """Move the bar, where there is one."""
        if self.task is not None and self.reporter.bars is not None:
            self.reporter.bars.update(self.task, **fields)

    def rows(self, count: int) -> None:
        """Count rows as they pass."""
        with self.reporter.lock:
            self.counted += count
            self.move(rows=self.counted, advance=count if self.unit == "rows" else 0)

    def read(self, count: int) -> None:
        """Count bytes of raw input as they are read."""
        self.move(advance=count if self.unit == "bytes" else 0)

    def shard(self, made: Made[Any], elapsed_s: float) -> None:
        """Count one finished shard."""
        with self.reporter.lock:
            self.shards += 1
            self.kept += made.rows_in
        self.move(shards=self.shards)
        if self.task is None:
            speed = f", {made.input_bytes / 1e6 / max(elapsed_s, 1e-9):.1f} MB/s" if made.input_bytes else ""
            told = f"{made.rows_in:,} rows in, {made.rows_out:,} out{speed}{f' ({made.notes})' if made.notes else ''}"
            self.reporter.line(f"{self.source} {self.stage} {made.name}: {told}")


class _RateColumn(TextColumn):
    """Bytes or rows a second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = int(task.finished_speed or task.speed or 0)
        if not speed:
            return Text("")
        return Text(f"{decimal(speed)}/s" if task.fields["unit"] == "bytes" else f"{speed:,} rows/s")


@contextmanager
def reporter() -> Iterator[Reporter]:
    """Yield a reporter that fits stderr: bars on a terminal, plain lines otherwise."""
    if not sys.stderr.isatty():
        yield Reporter()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[shards]:,}/{task.fields[of]:,} shards"),
        TextColumn("{task.fields[rows]:,} rows"),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=raw(sys.stderr), highlight=False)) as bars:
        yield Reporter(bars)
