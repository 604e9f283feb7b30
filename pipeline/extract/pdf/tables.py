"""Tables of a page: those whose cells are ruled, and those whose cells stand in columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.extract.pdf.lines import Line
from pipeline.extract.pdf.page import Box, Page, Span


@dataclass(slots=True)
class Table:
    """`text` is Markdown, or HTML where cells span several rows or columns."""

    box: Box
    text: str
    words: list[Span] = field(default_factory=list)


def ruled(page: Page, words: Sequence[Span]) -> list[Table]:
    """Tables whose cells lie between drawn lines."""
    return []


def unruled(lines: list[Line], page: Page) -> Iterator[Table | list[Line]]:
    """`lines` of one column, from top to bottom: tables, and the lines between them."""
    if lines:
        yield lines
