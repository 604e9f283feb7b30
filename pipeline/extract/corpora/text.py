"""Existing corpora as text, in whatever compression and encoding, to documents and rejects: JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import BinaryIO

from pipeline.extract.corpora.lines import is_json_array, read_elements
from pipeline.extract.corpora.rows import TOO_DEEP, CorpusFile, Keys, find, to_fields
from pipeline.extract.media import DELIMITERS
from pipeline.extract.members import BOM, RawInput, RawLine, read_lines
from pipeline.extract.units import Entry
from pipeline.table.errors import InputError

MAX_BLANK = 4096
RETRY_BYTES = 1 << 30  # of lines parsed again behind a quote that nothing closes
MAX_ROW_LINES = 100_000


def read_jsonl(stream: BinaryIO, start: int, corpus: CorpusFile) -> Iterator[Entry]:
    """Yield one entry for every line that is not blank, or element of an array, from byte `start` on; none can drop.

    `start` counts the decompressed content in UTF-8.
    """
    in_elements, limit = is_json_array(stream), corpus.limits.record_bytes
    for line in read_elements(stream, start, limit) if in_elements else read_lines(RawInput(stream), start, limit):
        if line.damage is not None:
            yield corpus.damage(line.offset, line.damage)
        elif line.data is None:
            what = "an element" if in_elements else "a line"
            yield corpus.refuse(line.offset, "oversize", f"{what} of over {limit} bytes")
        elif line.data and not (len(line.data) < MAX_BLANK and line.data.isspace()):
            yield _json_entry(corpus, line.offset, line.data)


def _json_entry(corpus: CorpusFile, offset: int, data: bytes) -> Entry:
    try:
        fields = json.loads((data.removeprefix(BOM) if offset == 0 else data).decode(), object_pairs_hook=to_fields)
    except UnicodeDecodeError as error:
        what = f"invalid UTF-8: {error.reason} at byte {error.start} of the row"
        return corpus.refuse(offset, "damaged", what)
    except RecursionError:
        return corpus.refuse(offset, "too_deep", TOO_DEEP)
    except ValueError as error:  # bad JSON, and integers of thousands of digits
        return corpus.refuse(offset, "damaged", f"invalid JSON: {error}")
    if not isinstance(fields, dict):
        return corpus.refuse(offset, "damaged", f"a JSON {type(fields).__name__}, not an object")
    return corpus.entry(offset, fields)


def read_csv(stream: BinaryIO, start: int, corpus: CorpusFile) -> Iterator[Entry]:
    """Yield one entry for every row from the byte `start` of the decompressed file on; none can drop.

    The first row names the columns; commas, tabs, semicolons or bars separate, whichever the first row has most of. A
    row with more or fewer fields than that, or with bytes that are not UTF-8, is rejected.

    Raises: InputError when the file has no first row or lacks a mapped column.
    """
    csv.field_size_limit(corpus.limits.record_bytes)
    names, delimiter, body = _read_names(stream, corpus)
    fields = to_fields([(name, "") for name in names])

    def lookup(path: str) -> Keys | None:
        keys, _ = find(fields, path)
        outer = path.rpartition(".")[0]  # text, which may hold JSON
        return lookup(outer) if keys is None and outer else keys

    corpus.check(names, lookup)
    feed = _LineFeed(read_lines(RawInput(stream), max(start, body), corpus.limits.record_bytes))
    reader = csv.reader(feed, delimiter=delimiter, strict=True)
    while True:
        feed.taken = []
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (_BadLineError, csv.Error) as error:
            yield _broken(corpus, feed, error)
            reader = csv.reader(feed, delimiter=delimiter, strict=True)  # the old one may hold half a row
            continue
        if cells:
            yield _row(corpus, feed.taken, names, cells)


class _LineFeed:
    """Lines for the CSV parser, which pulls them as a row needs them; remembers those of the current row."""

    def __init__(self, lines: Iterator[RawLine]) -> None:
        self._lines = lines
        self._again: list[RawLine] = []
        self._retried_bytes = 0
        self.taken: list[RawLine] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.taken) >= MAX_ROW_LINES:
            raise csv.Error(f"a row of over {MAX_ROW_LINES} lines")
        line = self._again.pop() if self._again else next(self._lines)
        self.taken.append(line)
        if line.data is None or line.damage is not None:
            raise _BadLineError
        return line.data.decode(errors="replace") + "\n"

    def retry_after_first(self) -> bool:
        """Let all lines of the row but its first come again: a stray quote must not cost more than its line.

        False when there is none, or when that has been done too often: in hostile files only.
        """
        again = self.taken[1:]
        self._retried_bytes += sum(len(line.data or b"") for line in again)
        if not again or self._retried_bytes > RETRY_BYTES:
            return False
        self._again.extend(reversed(again))
        return True


class _BadLineError(Exception):
    """The next line is over the limit, or the file is damaged there."""


def _read_names(stream: BinaryIO, corpus: CorpusFile) -> tuple[list[str], str, int]:
    """Return the columns' names, the delimiter and the offset of the first row behind them."""
    feed = _LineFeed(read_lines(RawInput(stream), 0, corpus.limits.record_bytes))
    try:
        first = next(feed).removeprefix(BOM.decode())
        delimiter = max(DELIMITERS, key=first.count)
        names = next(csv.reader(chain([first], feed), delimiter=delimiter, strict=True))
    except (StopIteration, _BadLineError, csv.Error) as error:
        raise InputError(f"{corpus.file}: no first row with the columns' names can be read: {error}") from error
    return names, delimiter, sum(len(line.data or b"") + 1 for line in feed.taken)


def _broken(corpus: CorpusFile, feed: _LineFeed, error: Exception) -> Entry:
    """Return the reject of the row that the parser gave up on; the lines behind its first come again."""
    offset, last = feed.taken[0].offset, feed.taken[-1]
    if feed.retry_after_first() or isinstance(error, csv.Error):
        return corpus.refuse(offset, "damaged", f"invalid CSV: {error}" if str(error) else "a quote stays open")
    if last.damage is not None:
        return corpus.damage(offset, last.damage)
    return corpus.refuse(offset, "oversize", f"a line of over {corpus.limits.record_bytes} bytes")


def _row(corpus: CorpusFile, lines: Sequence[RawLine], names: Sequence[str], cells: Sequence[str]) -> Entry:
    offset = lines[0].offset
    if len(cells) != len(names):
        detail = f"{len(cells)} fields where the first row has {len(names)}"
        return corpus.refuse(offset, "damaged", detail)
    if any("\ufffd" in cell for cell in cells) and not _are_utf8(lines):
        return corpus.refuse(offset, "damaged", "invalid UTF-8")
    return corpus.entry(offset, to_fields(list(zip(names, cells, strict=True))))


def _are_utf8(lines: Sequence[RawLine]) -> bool:
    try:
        return all((line.data or b"").decode() is not None for line in lines)
    except UnicodeDecodeError:
        return False
