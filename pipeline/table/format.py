"""Answers: of a query as text (a table for people, CSV and JSON for programs), of a command also as a data frame.

No row or value is lost in CSV, JSON and data frames.
"""

from __future__ import annotations

import html
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, TextIO

from pipeline.table.errors import MissingDependencyError, UsageError, escaped

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow as pa

Format = Literal["table", "csv", "json"]
CELL_WIDTH = 60
NOTEBOOK_ROWS = 200
"""Rows that a notebook shows of an answer."""
WIDTH_ROWS = 1000
"""Rows read before column widths are fixed; the rest is written as it comes."""

_FAR = {(1 << 63) - 1: "infinity", -(1 << 63) + 1: "-infinity"}
"""DuckDB's infinite points in time, in microseconds."""
_LINE_ENDS = dict.fromkeys(map(ord, "\n\r\t\v\f"), " ")
_FIGURES = re.compile(r"-|[-+]?[\d.,]+( %)?")
_NUMERIC = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|DECIMAL\(.*\)|DOUBLE|FLOAT")


@dataclass(frozen=True, slots=True)
class Result:
    """A query's answer: column names and types, and the rows, which are read once and only as they are asked for."""

    columns: list[str]
    types: list[str]
    rows: Iterator[tuple[Any, ...]]
    """Python values, but for dates and points in time, which are ISO 8601 text in UTC: Python has no infinity."""


class FrameRows(Sequence[Mapping[str, Any]]):
    """The rows of an Arrow table, made into dictionaries as they are asked for."""

    def __init__(self, frame: pa.Table) -> None:
        self.frame = frame

    def __len__(self) -> int:
        return int(self.frame.num_rows)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        number = range(len(self))[place]
        return self._made(self.frame.slice(number, 1))[0]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for start in range(0, len(self), WIDTH_ROWS):
            yield from self._made(self.frame.slice(start, WIDTH_ROWS))

    def _made(self, frame: pa.Table) -> list[dict[str, Any]]:
        columns = [_values(column) for column in frame.columns]
        return [dict(zip(frame.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's Python values; points in time that Python has no value for (infinity, year 10,000) as text."""
    try:
        values: list[Any] = column.to_pylist()
        return values
    except (OverflowError, ValueError):
        return [
            None if value is None else _FAR.get(value, "out of range") for value in column.cast("int64").to_pylist()
        ]


@dataclass(frozen=True)
class Answer:
    """What a command answers: rows for programs, and the same in words for people.

    In Python it is a table: iterate over its rows, or take `df()`, `pl()` or `arrow()`; a notebook shows the rows, and
    `print` what the command line prints.
    """

    rows: Sequence[Mapping[str, Any]]
    """Flat dictionaries of the same keys; dates and points in time as they are, or ISO 8601 text."""
    told: str | Callable[[], str] | None = None
    """What people read, or what makes it once it is wanted; without it they read the rows."""
    value: Mapping[str, Any] | None = None
    """The object that JSON has in place of an array of the rows."""
    notes: tuple[str, ...] = ()
    """Doubts and counts, for standard error."""
    exit_code: int = 0
    columns: tuple[str, ...] = ()
    """Of rows that may be none at all."""

    @property
    def text(self) -> str:
        """What the command prints."""
        if self.told is None:
            return text_table(self.rows)
        return self.told if isinstance(self.told, str) else self.told()

    def json(self) -> str:
        """Return what the command prints with `--json`."""
        if self.value is not None:
            return encode(self.value)
        return "[\n" + ",\n".join(map(encode, self.rows)) + "\n]"

    def arrow(self) -> pa.Table:
        """Return the rows as an Arrow table; one whose values have no common type is text or JSON."""
        import pyarrow as pa

        if isinstance(self.rows, FrameRows):
            return self.rows.frame
        names = list(dict.fromkeys([*self.columns, *(name for row in self.rows for name in row)]))
        columns = []
        for name in names:
            values = [row.get(name) for row in self.rows]
            try:
                columns.append(pa.array(values))
            except (pa.ArrowException, OverflowError):
                texts = [value if value is None or isinstance(value, str) else encode(value) for value in values]
                columns.append(pa.array(texts))
        return pa.Table.from_arrays(columns, names)

    def df(self) -> pandas.DataFrame:
        """Return the rows as a pandas data frame. Raises: MissingDependencyError."""
        try:
            import pandas  # noqa: F401  # pyarrow's own message does not say what to install
        except ImportError as error:
            raise MissingDependencyError("df() needs pandas, which is not installed: pip install pandas") from error
        frame: pandas.DataFrame = self.arrow().to_pandas()
        return frame

    def pl(self) -> polars.DataFrame:
        """Return the rows as a Polars data frame. Raises: MissingDependencyError."""
        try:
            import polars
        except ImportError as error:
            raise MissingDependencyError("pl() needs Polars, which is not installed: pip install polars") from error
        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame), "a table becomes a frame"
        return frame

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the rows, or the text where there are none."""
        if not self.rows:
            return f"<pre>{html.escape(self.text)}</pre>"

        def line(cells: Iterable[object], tag: str) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(str(each))}</{tag}>" for each in cells) + "</tr>"

        body = "".join(line(map(cell, row.values()), "td") for row in islice(self.rows, NOTEBOOK_ROWS))
        more = len(self.rows) - NOTEBOOK_ROWS
        said = f"<p>and {more:,} more rows</p>" if more > 0 else ""
        return f"<table>{line(self.rows[0], 'th')}{body}</table>{said}"


def write(result: Result, form: Format, stream: TextIO, *, defuse: bool = False) -> int:
    """Write every row of `result` to `stream` and return their number; `table` cuts long cells, nothing else does.

    Raises: QueryError when the query fails while it is read; UsageError to `defuse` anything but CSV.
    """
    if form == "csv":
        return write_csv(result, stream, defuse=defuse)
    if defuse:
        raise UsageError(f"--defuse is for --format csv, not for {form}: no other is run by a spreadsheet")
    return write_table(result, stream) if form == "table" else write_json(result, stream)


def write_table(result: Result, stream: TextIO, width: int | None = CELL_WIDTH) -> int:
    """Write an aligned table: numbers to the right, cells cut at `width`, control characters made visible."""
    if result.columns == ["explain_key", "explain_value"]:
        return _write_plan(result, stream)
    right = [_NUMERIC.fullmatch(kind) is not None for kind in result.types]
    rows = (tuple(cell(value, width) for value in row) for row in result.rows)
    head = list(islice(rows, WIDTH_ROWS))
    names = tuple(cell(name) for name in result.columns)
    widths = [max(map(display_width, column)) for column in zip(names, *head, strict=True)]
    print(_line(names, widths, right), file=stream)
    print("  ".join("-" * width for width in widths), file=stream)
    count = 0
    for row in chain(head, rows):
        print(_line(row, widths, right), file=stream)
        count += 1
    return count


def text_table(rows: Sequence[Mapping[str, object]], width: int | None = CELL_WIDTH) -> str:
    """Return rows of the same keys as an aligned table; columns of numbers to the right."""
    columns = list(rows[0]) if len(rows) else []
    values = [tuple(row[name] for name in columns) for row in rows]
    kinds = ["DOUBLE" if all(_is_number(row[i]) for row in values) else "VARCHAR" for i in range(len(columns))]
    buffer = io.StringIO()
    write_table(Result(columns, kinds, iter(values)), buffer, width)
    return buffer.getvalue()


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and _FIGURES.fullmatch(value) is not None)


def write_csv(result: Result, stream: TextIO, *, defuse: bool = False) -> int:
    """Write RFC 4180: a header, CRLF, quotes where needed. Null is an empty field, an empty string is quoted.

    With `defuse`, text that a spreadsheet would run as a formula comes behind an apostrophe.
    """
    count = -1
    for row in chain([result.columns], result.rows):
        cells = [f"'{value}" if defuse and _is_formula(value) else value for value in row]
        stream.write(",".join(map(_csv_field, cells)) + "\r\n")
        count += 1
    return count


def _is_formula(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))


def write_json(result: Result, stream: TextIO) -> int:
    """Write one array with an object a row and a row a line; a repeated column name gets a number."""
    keys = [encode(name) for name in distinct(result.columns)]
    count = 0
    rows = iter(result.rows)
    first = next(rows, None)  # a query that fails at once has written nothing
    stream.write("[")
    for row in chain([first] if first is not None else [], rows):
        stream.write(",\n" if count else "\n")
        stream.write("{" + ", ".join(f"{key}: {encode(value)}" for key, value in zip(keys, row, strict=True)) + "}")
        count += 1
    stream.write("\n]\n")
    return count


def encode(value: Any) -> str:
    """Return `value` as JSON: integers and decimals exact, NaN and infinities null, dates ISO 8601, bytes as hex."""
    if value is None or isinstance(value, (bool, int, str)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else "null"
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else "null"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{encode(str(key))}: {encode(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(encode, value)) + "]"
    return encode(scalar(value))


def scalar(value: Any) -> str:
    """Return a value that is no JSON type as a string."""
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g} s"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return str(value)


def cell(value: Any, width: int | None = CELL_WIDTH) -> str:
    """Return `value` in one line of at most `width` columns, without anything that a terminal would obey."""
    if value is None:
        return "-"
    if isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, (dict, list, tuple)):
        text = encode(value)
    else:
        text = value if isinstance(value, str) else scalar(value)
    return visible(text) if width is None else cut(visible(text[: 4 * width]), width)


def visible(text: str) -> str:
    """Return `text` in one line, without anything that a terminal would obey."""
    return escaped(text.translate(_LINE_ENDS))


def cut(text: str, width: int) -> str:
    """Return `text` in at most `width` columns, with an ellipsis where something is missing."""
    if display_width(text) <= width:
        return text
    kept = 0
    for number, character in enumerate(text):
        kept += display_width(character)
        if kept > width - 1:
            return text[:number] + "…"
    return text


def display_width(text: str) -> int:
    """Return how many columns a terminal takes for `text`."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _write_plan(result: Result, stream: TextIO) -> int:
    """Write the drawing of EXPLAIN as it is; a cell would destroy it."""
    count = 0
    for _, drawing in result.rows:
        print("\n".join(visible(line) for line in str(drawing).splitlines()), file=stream)
        count += 1
    return count


def _line(row: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    cells = []
    for text, width, to_right in zip(row, widths, right, strict=True):
        padding = " " * (width - display_width(text))
        cells.append(padding + text if to_right else text + padding)
    return "  ".join(cells).rstrip()


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (dict, list, tuple)):
        text = encode(value)
    else:
        text = value if isinstance(value, str) else scalar(value)
    if not text or any(mark in text for mark in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def distinct(names: Iterable[str]) -> list[str]:
    """Return names with `_1`, `_2` ... after those that came before."""
    seen: list[str] = []
    for name in names:
        candidate, number = name, 0
        while candidate in seen:
            number += 1
            candidate = f"{name}_{number}"
        seen.append(candidate)
    return seen
