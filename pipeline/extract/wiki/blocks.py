"""The lines of a page whose brackets are resolved: headings, lists, tables and indented code as Markdown has them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

BREAK = "\x03"
"""A break of a line that ends no item, heading or cell."""
MAX_TABLES = 10
"""Nesting of tables: what is nested deeper becomes text of its cell."""
MAX_COVERED = 5000
"""Cells of a table that are covered by one beside or above them, and so empty; what spans more is one cell."""

_LIST = re.compile(r"([*#:;]+)\s*(.*)", re.DOTALL)
_TABLE = re.compile(r"[\s:*#\x00\x03]*\{\|(.*)", re.DOTALL)
_FURNITURE = re.compile(
    r"class\s*=[^|]*\b(?:(infobox)|navbox|sidebar|metadata|toc\b|ambox|messagebox|noprint)", re.IGNORECASE
)
_ATTRIBUTES = re.compile(r"(?:\s*(?:align|class|colspan|rowspan|scope|style|width)\s*=\s*\"[^\"]*\")+")
_SPAN = re.compile(r"\b(col|row)span\s*=\s*[\"']?\s*(\d{1,3})", re.IGNORECASE)
_CELL_MARK = re.compile(r"[*#:;]+\s*")
_SPECIAL = frozenset("=*#:;{|! \t\x00")


class _Table:
    """A table that is open: its rows of cells, each the pieces of a text, or none where another cell covers it."""

    def __init__(self, attributes: str, is_first: bool) -> None:
        furniture = _FURNITURE.search(attributes)
        self.is_furniture = furniture is not None and (is_first or furniture[1] is None)
        self.caption: list[str] = []
        self.rows: list[list[list[str]]] = [[]]
        self.last = self.caption  # what goes on in the next line
        self.nests = False
        self._room = MAX_COVERED
        self._covered: dict[int, int] = {}  # by column, the row behind those that a cell covers

    def feed(self, line: str) -> None:
        """Take a line between the table's beginning and its end."""
        if line.startswith("|-"):
            if self.rows[-1]:
                self._cover(self.rows[-1])
                self.rows.append([])
            self.last = []
        elif line.startswith("|+"):
            self.caption = self.last = [_content(line[2:])[1]]
        elif line[:1] in ("|", "!"):
            self._begin((line[1:].replace("!!", "||") if line[0] == "!" else line[1:]).split("||"))
        else:
            first, *cells = line.split("||")
            self.last.append(_CELL_MARK.sub("", first, count=1) if first[:1] in ("*", "#", ":", ";") else first)
            self._begin(cells)

    def _begin(self, cells: Sequence[str]) -> None:
        row = self.rows[-1]
        for cell in cells:
            self._cover(row)
            attributes, content = _content(cell)
            spans = {name.lower(): int(number) for name, number in _SPAN.findall(attributes)}
            columns, rows = max(1, spans.get("col", 1)), max(1, spans.get("row", 1))
            if columns * rows - 1 > self._room:
                columns = rows = 1
            self._room -= columns * rows - 1
            if rows > 1:
                self._covered |= dict.fromkeys(range(len(row), len(row) + columns), len(self.rows) + rows)
            self.last = [content]
            row += [self.last, *([] for _ in range(columns - 1))]

    def _cover(self, row: list[list[str]]) -> None:
        """Put an empty cell wherever one above reaches down to the end of the row so far."""
        while self._covered.get(len(row), 0) > len(self.rows):
            row.append([])

    def text(self) -> str:
        """Return the rows as Markdown; of a table that is there for the layout alone, its cells as paragraphs."""
        if self.is_furniture:
            return ""
        caption = " ".join(" ".join(self.caption).split())
        if self.nests or all(sum(map(bool, row)) <= 1 for row in self.rows):
            cells = ["\n".join(line for line in cell if line.strip(" \x00")) for row in self.rows for cell in row]
            return "\n\n".join(cell for cell in [caption, *cells] if cell)
        rows = [[" ".join(" ".join(cell).replace("|", r"\|").split()) for cell in row] for row in self.rows]
        lines = [f"| {' | '.join(row)} |" for row in rows if any(cell.strip("\x00") for cell in row)]
        if not lines:
            return caption
        width = max(len(row) for row in rows)
        lines.insert(1, "|" + " --- |" * width)
        return "\n".join([caption, "", *lines] if caption else lines)


def _content(cell: str) -> tuple[str, str]:
    """Return the attributes and the content of a cell."""
    before, bar, behind = cell.partition("|")
    if bar and "[[" not in before:
        return before, behind.strip()
    found = _ATTRIBUTES.match(cell)
    return (found[0], cell[found.end() :].strip()) if found is not None else ("", cell.strip())


class Lines:
    """Turns lines of wikitext into lines of text. `hold` sets a text apart, so that its spaces stay as they are."""

    def __init__(self, hold: Callable[[str], str]) -> None:
        self._hold = hold
        self._out: list[str] = []
        self._levels: dict[int, int] = {}
        """The levels of headings, by their place in `_out`."""
        self._tables: list[_Table] = []
        self._numbers: list[int] = []
        """Of the items of the numbered lists that are open, the outermost first."""
        self._in_definition = False
        self._indented: list[str] = []

    def clean(self, text: str) -> str:
        """Return the text; headings with nothing below them go."""
        for line in text.split("\n"):
            if line[:1] in _SPECIAL or self._tables or self._indented:
                self._line(line)
            else:
                self._numbers, self._in_definition = [], False
                self._out.append(line)
        self._end_indented()
        while self._tables:
            self._end_table("")
        return "\n".join(self._without_empty_sections()).replace(BREAK, "\n")

    def _line(self, line: str) -> None:
        bare = line.strip(" \t\x00")
        if (self._tables or "{|" in bare) and self._in_table(bare):
            return
        if line[:1] == " " and bare and bare[0] not in "|!":
            self._indented.append(line[1:])
            return
        self._end_indented()
        if bare[:1] == "=" and bare[-1:] == "=" and len(bare.strip("= ")):
            level = min(len(bare) - len(bare.lstrip("=")), len(bare) - len(bare.rstrip("=")), 6)
            self._levels[len(self._out)] = level
            self._out.append(f"{'#' * level} {bare[level:-level].replace(BREAK, ' ').strip()}")
            self._numbers, self._in_definition = [], False
        elif bare[:1] in ("*", "#", ":", ";") and line[:1] not in " \t":
            self._item(bare)
        elif bare[:1] == "|" or (bare[:1] == "!" and "!!" in bare):
            return  # what a table or a template left behind
        else:
            self._numbers, self._in_definition = [], False
            self._out.append(bare if line[:1] in " \t\x00" and not line.startswith("\x00") else line)

    def _in_table(self, line: str) -> bool:
        """Take a line that opens, ends or belongs to a table; False when it is neither."""
        opening = _TABLE.match(line) if len(self._tables) < MAX_TABLES else None
        if opening is not None:
            self._end_indented()
            self._tables.append(_Table(opening[1], not any(line.strip(" \x00") for line in self._out)))
        elif line.startswith("|}"):
            self._end_table(line[2:])
        elif self._tables:
            self._tables[-1].feed(line.replace(BREAK, " "))
        else:
            return False
        return True

    def _end_table(self, behind: str) -> None:
        if not self._tables:
            return
        table = self._tables.pop()
        text = table.text()
        if not self._tables:
            self._out += ["", *text.split("\n"), "", behind.strip()]
        elif text:
            self._tables[-1].nests = True
            self._tables[-1].last.append(text)

    def _item(self, line: str) -> None:
        """Write an item of a list: numbers go on as long as no other line stands between."""
        found = _LIST.match(line)
        assert found is not None
        marks, content = found.groups()
        if content[:1] == "\x00":  # a work that was cited: what follows it is no sentence's beginning
            content = content.lstrip("\x00 ,.;:)–—-")
        if not content.strip(" \x00\x03"):
            return
        depth = sum(mark in "*#" for mark in marks)
        del self._numbers[depth:]
        self._numbers += [0] * (depth - len(self._numbers))
        indent = "  " * (depth - 1)
        if marks[-1] == "*":
            self._numbers[-1] = 0
            self._out.append(f"{indent}- {content}")
        elif marks[-1] == "#":
            self._numbers[-1] += 1
            self._out.append(f"{indent}{self._numbers[-1]}. {content}")
        elif marks[-1] == ";":
            term, colon, definition = content.partition(" : ")
            self._out += [term.strip(), *([f": {definition.strip()}"] if colon else [])]
        else:
            self._out.append(f"{'  ' * depth}{': ' if self._in_definition and not depth else ''}{content}")
        self._in_definition = marks[-1] == ";" or (marks[-1] == ":" and self._in_definition)

    def _end_indented(self) -> None:
        """Write the lines that began with a space: several are code, one was an oversight more often than not."""
        lines, self._indented = self._indented, []
        if len(lines) > 1:
            code = "\n".join(line.rstrip() for line in lines).replace("\x00", "")
            self._out += ["", self._hold(f"```\n{code}\n```"), ""]
        elif lines:
            self._out.append(lines[0].strip())

    def _without_empty_sections(self) -> list[str]:
        kept: list[str] = []
        following: int | None = 0  # the level of the heading that follows, 0 at the end, None where there is text
        for place in range(len(self._out) - 1, -1, -1):
            line = self._out[place]
            level = self._levels.get(place)
            if level is not None:
                if following is not None and following <= level:
                    continue
                kept += ["", line, ""]
                following = level
                continue
            if line.strip(" \x00\x03"):
                following = None
            kept.append(line)
        return kept[::-1]
