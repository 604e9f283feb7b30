"""CSV tables of mixtures and metrics, read with care, since anybody's are taken; fits of them, predictions to them."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from pipeline.mix.config import MAX_SLICES, ModelName
from pipeline.mix.regression.fitting import Fit, fit, load_fit, save_fit
from pipeline.mix.types import Floats, Prediction
from pipeline.table.errors import InputError, ShardError, nearest
from pipeline.table.format import text_table
from pipeline.table.kept import write_file
from pipeline.table.storage import read_file

MAX_ROWS = 1_000_000
MAX_COLUMNS = 4096
MAX_CELLS = 50_000_000
_MAX_BYTES = 1 << 30
SEED = "seed"
"""Column of a table of mixtures that is no slice: what each run was trained with."""
_SHOWN = 3


@dataclass(frozen=True)
class Table:
    """Numbers with their names: `index` of n rows, `names` of c columns, `values` (n, c), and each row's line."""

    path: str
    index: tuple[str, ...]
    names: tuple[str, ...]
    values: Floats
    lines: tuple[int, ...]


@dataclass(frozen=True)
class RunTable:
    """Runs: mixtures `weights` (n, k), rows summing to 1, and what they measured, `values` (n, m).

    `seeds` (n,) are what the runs were trained with, where the table has them.
    """

    slice_names: tuple[str, ...]
    metric_names: tuple[str, ...]
    index: tuple[str, ...]
    weights: Floats
    values: Floats
    seeds: NDArray[np.int64] | None = None


def read_tables(ratios: str | Path, metrics: str | Path) -> RunTable:
    """Return the runs of two tables, joined by their first column `index`, in the order of `ratios`.

    Raises: InputError when a table is not what it should be, or rows lack a partner.
    """
    (left, seeds), right = _taken_apart(_read(ratios)), _read(metrics)
    if clash := sorted(
        name for name in right.names if name == "index" or (name.endswith(("_lo", "_hi")) and name[:-3] in right.names)
    ):
        raise InputError(f"{metrics}: column {clash[0]!r} is a name that predictions need for intervals; rename it")
    place = {key: row for row, key in enumerate(right.index)}
    known = set(left.index)
    for lone, has, lacks in (
        ([key for key in left.index if key not in place], ratios, metrics),
        ([key for key in right.index if key not in known], metrics, ratios),
    ):
        if lone:
            raise InputError(
                f"{len(lone)} rows of {has} have no partner in {lacks}: index {_some(lone)}; "
                "give both tables the same rows"
            )
    order = [place[key] for key in left.index]
    return RunTable(left.names, right.names, left.index, left.values, right.values[order], seeds)


def read_ratios(path: str | Path, slice_names: tuple[str, ...] = ()) -> Table:
    """Return mixtures, each row normalised to sum 1. A column `seed` that is no slice is left out.

    Raises: InputError when a weight is negative, or a row is all zero; the message names the lines.
    """
    return _taken_apart(_read(path), slice_names)[0]


def _taken_apart(table: Table, slice_names: tuple[str, ...] = ()) -> tuple[Table, NDArray[np.int64] | None]:
    """Return mixtures, normalised, and the seeds of their runs, where there is such a column."""
    path, seeds = table.path, None
    if SEED in table.names and SEED not in slice_names:
        place = table.names.index(SEED)
        numbers = table.values[:, place]
        odd = np.flatnonzero((numbers != np.floor(numbers)) | (np.abs(numbers) > 2**53))
        if odd.size:
            raise InputError(
                f"{path}: line {table.lines[odd[0]]}, column {SEED!r}: {numbers[odd[0]]:g} is no whole number; "
                "the column says what seed a run was trained with; rename it if it is a slice"
            )
        seeds = numbers.astype(np.int64)
        names = (*table.names[:place], *table.names[place + 1 :])
        if not names:
            raise InputError(f"{path}: no column of a slice beside `index` and {SEED!r}")
        table = Table(path, table.index, names, np.delete(table.values, place, axis=1), table.lines)
    if len(table.names) > MAX_SLICES:
        raise InputError(f"{path}: {len(table.names)} slices; at most {MAX_SLICES} are taken")
    for wrong, what in (((table.values < 0).any(1), "a negative weight"), (~(table.values > 0).any(1), "only zeros")):
        if wrong.any():
            lines = [str(table.lines[row]) for row in np.flatnonzero(wrong)]
            raise InputError(f"{path}: {what} in line {_some(lines)}; every row needs weights that can be normalised")
    scaled = table.values / table.values.max(1, keepdims=True)  # first: a sum of huge weights is infinite
    return Table(path, table.index, table.names, scaled / scaled.sum(1, keepdims=True), table.lines), seeds


def match_slices(table: Table, slice_names: tuple[str, ...]) -> Floats:
    """Return a table's mixtures with its columns in the order of `slice_names`.

    Raises: InputError when the table lacks a slice, or has one that is unknown.
    """
    missing = [name for name in slice_names if name not in set(table.names)]
    extra = [name for name in table.names if name not in set(slice_names)]
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"lacks the fit's slice {missing[0]!r}{nearest(missing[0], extra)}")
        if extra:
            parts.append(f"has column {extra[0]!r}, which is no slice of the fit{nearest(extra[0], slice_names)}")
        raise InputError(f"{table.path}: {' and '.join(parts)}; {len(missing)} missing, {len(extra)} extra in all")
    place = {name: column for column, name in enumerate(table.names)}
    return table.values[:, [place[name] for name in slice_names]]


def _read(path: str | Path) -> Table:
    try:
        text = read_file(path, _MAX_BYTES).decode("utf-8-sig")
        return _parse(str(path), csv.reader(io.StringIO(text, newline=""), strict=True))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from error


def _parse(path: str, reader: csv._reader) -> Table:  # type: ignore[name-defined]
    header = [cell.strip() for cell in next(reader, [])]
    names = tuple(header[1:])
    if not header or header[0] != "index":
        raise InputError(f"{path}: the first column is {header[0] if header else ''!r}, expected `index`")
    if not names or len(names) > MAX_COLUMNS:
        raise InputError(f"{path}: {len(names)} columns besides `index`; expected 1 to {MAX_COLUMNS}")
    for name in names:
        if not name or names.count(name) > 1:
            raise InputError(f"{path}: column name {name!r} is empty or occurs twice; each column needs its own name")
    rows: dict[str, int] = {}
    values: list[list[float]] = []
    lines: list[int] = []
    for cells in reader:
        line = reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            raise InputError(f"{path}: line {line} has {len(cells)} cells, the header has {len(header)}")
        key = cells[0].strip()
        if key in rows:
            raise InputError(f"{path}: index {key!r} is in lines {lines[rows[key]]} and {line}; it has to be unique")
        rows[key] = len(rows)
        lines.append(line)
        values.append(_numbers(path, line, names, cells[1:]))
        if len(rows) > MAX_ROWS or len(rows) * len(names) > MAX_CELLS:
            raise InputError(f"{path}: more than {MAX_ROWS:,} rows or {MAX_CELLS:,} cells")
    if not rows:
        raise InputError(f"{path}: no rows below the header")
    return Table(path, tuple(rows), names, np.array(values), tuple(lines))


def _numbers(path: str, line: int, names: tuple[str, ...], cells: list[str]) -> list[float]:
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        numbers = []
    if len(numbers) == len(cells) and all(map(math.isfinite, numbers)):
        return numbers
    for name, cell in zip(names, cells, strict=True):
        if not _is_number(cell):
            raise InputError(f"{path}: line {line}, column {name!r}: {cell!r} is not a finite number")
    raise AssertionError(f"{path}: line {line} has no wrong cell")


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


_DIGITS = 10


def fit_files(
    ratios: str | Path,
    metrics: str | Path,
    out: str | Path,
    *,
    model: ModelName = "auto",
    bootstrap: int = 64,
    seed: int = 1,
    higher: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Fit:
    """Fit the runs of two CSV tables, save the fit in folder `out`, and return it.

    A column `seed` of the ratios is what each run was trained with. `higher` names metrics where larger is better.

    Raises: InputError when a table cannot be used, a metric is unknown, or `out` cannot be written.
    MissingDependencyError when `lightgbm` is asked for and not installed.
    """
    runs = read_tables(ratios, metrics)
    fitted = fit(
        runs.weights,
        runs.values,
        slice_names=runs.slice_names,
        metric_names=runs.metric_names,
        model=model,
        bootstrap=bootstrap,
        seed=seed,
        seeds=runs.seeds,
        higher=higher,
        progress=progress,
    )
    try:
        save_fit(fitted, out)
    except ShardError as error:
        raise InputError(str(error)) from error
    return fitted


def predict_files(folder: str | Path, ratios: str | Path, out: str | Path | TextIO) -> int:
    """Predict every mixture of a CSV table with a saved fit, into a CSV file or stream; return the number of rows.

    Columns are `index`, each metric, and for each its 90 % interval for a new run, METRIC_lo and METRIC_hi. Slices are
    matched by name.

    Raises: InputError when the fit or the table cannot be used, or `out` cannot be written.
    """
    fitted = load_fit(folder)
    table = read_ratios(ratios, fitted.slice_names)
    predicted = fitted.predict(match_slices(table, fitted.slice_names))
    text = _csv(table.index, fitted.metric_names, predicted)
    if isinstance(out, (str, os.PathLike)):
        try:
            write_file(Path(out), text.encode())
        except ShardError as error:
            raise InputError(str(error)) from error
    else:
        out.write(text)
    return len(table.index)


def render_report(report: Mapping[str, Any]) -> str:
    """Return a fit's report as a table of plain text, a line a metric."""
    numbers = ("rmse", "law_rmse", "linear_rmse", "r2", "spearman", "pearson", "coverage", "seed_sd")
    rows = []
    for one in report["metrics"]:
        row = {key: one.get(key, "-") for key in ("metric", "model", "direction")}
        rows.append(row | {key: "-" if one.get(key) is None else f"{one[key]:.4g}" for key in numbers})
    return text_table(rows)


def _csv(index: tuple[str, ...], names: tuple[str, ...], predicted: Prediction) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    bounds = [f"{name}_{end}" for name in names for end in ("lo", "hi")]
    writer.writerow(["index", *names, *bounds])
    ends = zip(predicted.low.T, predicted.high.T, strict=True)
    columns = [*predicted.mean.T, *(column for pair in ends for column in pair)]
    shown = [[f"{x:.{_DIGITS}g}" for x in column.tolist()] for column in columns]
    writer.writerows(zip(index, *shown, strict=True))
    return buffer.getvalue()
