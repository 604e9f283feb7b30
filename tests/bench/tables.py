"""The tables of the benches: rows are printed as they come and, with `--csv`, kept as `tests/bench/results/NAME.csv`.

The file's first line, behind a `#`, says on which day, with what and by which command it was measured:
`read_csv(path, skip = 1)` in DuckDB, `read_csv(path, skiprows=1)` in pandas. Text is no spreadsheet's formula.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pipeline.table.format import Result, cell, write_csv

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("trafilatura", "lxml", "resiliparse", "fastwarc", "duckdb", "pyarrow", "numba", "numpy", "scipy", "torch"),
    *("tokenizers", "lightgbm", "datasketch", "rensa", "pypdfium2"),
)


def bench_parser(about: str | None) -> argparse.ArgumentParser:
    """Return the parser of a bench, with the option that all of them have."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    told = "write the tables there, too; without FOLDER to tests/bench/results, where they are committed"
    parser.add_argument("--csv", type=Path, nargs="?", const=RESULTS, metavar="FOLDER", help=told)
    return parser


def conditions() -> str:
    """Return day, machine, versions of what is loaded, and the command without this machine's folders."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    packages = ["gristmill", *(name for name in PACKAGES if name in sys.modules)]
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    told = (
        f"{datetime.now(UTC):%Y-%m-%d}",
        f"{os.cpu_count()} cores of {platform.machine()}, {memory_gb:.0f} GB",
        ", ".join(versions),
        " ".join(["python", f"tests/bench/{Path(sys.argv[0]).name}", *words]),
    )
    return "; ".join(told)


class Table:
    """Columns, whose names say their units, and rows; figures have six digits."""

    def __init__(self, name: str, folder: Path | None, columns: str) -> None:
        self.columns, self.rows = columns.split(), list[tuple[object, ...]]()
        self.path = folder / f"{name}.csv" if folder else None
        self._print(self.columns)

    def row(self, *cells: object) -> None:
        """Add a row; None is an empty cell."""
        assert len(cells) == len(self.columns), cells
        self.rows.append(tuple(float(f"{value:.6g}") if isinstance(value, float) else value for value in cells))
        self._print(self.rows[-1])
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("w", encoding="utf-8", newline="") as file:
                file.write(f"# {conditions()}\r\n")
                write_csv(Result(self.columns, [], iter(self.rows)), file, defuse=True)

    def _print(self, cells: Sequence[object]) -> None:
        widths = (32, *(max(10, len(name)) for name in self.columns[1:]))
        shown = "  ".join(f"{cell(value):>{width}}" for value, width in zip(cells, widths, strict=True))
        print(shown, flush=True)
