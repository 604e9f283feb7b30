"""How well pages of PDFs are read: the published checks of olmOCR-bench without maths, beside what other readers give.

    python tests/bench/pdf_bench.py FOLDER [--failures]
    python tests/bench/pdf_bench.py ICDAR2013 --tables

FOLDER holds `dataset.jsonl` (one check a line) and the PDFs that it names; other `*.jsonl` beside it are read too. The
kinds of checks are those of github.com/allenai/olmocr (`olmocr/bench`), scored here after their description: `present`
and `absent` (the text is found, up to `max_diffs` edits), `order`, `table` (a cell and its neighbours or heads),
`baseline`.
"""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from html import unescape as html_unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pypdfium2 as pdfium

from pipeline.extract.pdf import layer, layout
from tests.bench.tables import Table, bench_parser

PLAIN = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        "‚": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "＿": "_",
        "–": "-",
        "—": "-",
        "‑": "-",
        "‒": "-",
        "−": "-",
        "\u00b5": "\u03bc",
    }
)
Grid = list[list[tuple[str, bool]]]


def plain(text: str) -> str:
    """Text as checks compare it: without marks of bold and italics, with single spaces and plain quotes and dashes."""
    text = re.sub(r"<br/?>", " ", text)
    text = re.sub(r"</?[bi]>", "", text)
    for mark in (r"\*\*", "__", r"\*", "_"):
        text = re.sub(rf"{mark}(.*?){mark}", r"\1", text)
    return unicodedata.normalize("NFC", re.sub(r"\s+", " ", text)).translate(PLAIN)


def found_at(needle: str, text: str, edits: int) -> int | None:
    """Where `needle` first ends in `text` with at most `edits` insertions, deletions and changes; None without."""
    if edits == 0:
        place = text.find(needle)
        return None if place < 0 else place + len(needle)
    column = list(range(len(needle) + 1))
    for index, sign in enumerate(text):
        before, column[0] = column[0], 0
        for row, other in enumerate(needle, 1):
            before, column[row] = column[row], min(before + (sign != other), column[row] + 1, column[row - 1] + 1)
        if column[-1] <= edits:
            return index + 1
    return None


class _Tables(html.parser.HTMLParser):
    """Tables of HTML as grids of cells, each cell in every place that it spans."""

    def __init__(self) -> None:
        super().__init__()
        self.grids: list[Grid] = []
        self.rows: list[dict[int, tuple[str, bool]]] = []
        self.cell: list[str] | None = None
        self.span = (1, 1, False)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "table":
            self.rows, self.row = [], -1
        elif tag == "tr":
            self.row += 1
        elif tag in ("td", "th"):
            self.cell = []
            self.span = (int(values.get("rowspan") or 1), int(values.get("colspan") or 1), tag == "th")

    def handle_data(self, data: str) -> None:
        if self.cell is not None:
            self.cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self.cell is not None:
            down, across, is_head = self.span
            while len(self.rows) < self.row + down:
                self.rows.append({})
            column = 0
            while column in self.rows[self.row]:
                column += 1
            for row in range(self.row, self.row + down):
                for place in range(column, column + across):
                    self.rows[row][place] = ("".join(self.cell), is_head)
            self.cell = None
        elif tag == "table":
            width = max((max(row, default=-1) for row in self.rows), default=-1) + 1
            self.grids.append([[row.get(place, ("", False)) for place in range(width)] for row in self.rows])


def tables(text: str) -> Iterator[Grid]:
    """Tables of a text, of Markdown and of HTML: rows of (cell, whether it is a head)."""
    for block in re.findall(r"(?:^[^\n]*\|[^\n]*(?:\n|$)){2,}", text, re.MULTILINE):
        rows = [re.sub(r"^\||\|$", "", line.strip()) for line in block.strip().split("\n")]
        rows = [row for row in rows if not re.fullmatch(r"[-:| ]+", row)]
        yield [
            [(cell.strip(), not i or not j) for j, cell in enumerate(re.split(r"(?<!\\)\|", row))]
            for i, row in enumerate(rows)
        ]
    parser = _Tables()
    parser.feed(text)
    yield from parser.grids


STEPS = {
    "up": (-1, 0),
    "down": (1, 0),
    "left": (0, -1),
    "right": (0, 1),
    "top_heading": (-1, 0),
    "left_heading": (0, -1),
}


def has_cell(check: dict[str, Any], text: str) -> bool:
    """Whether some table has the cell, with the neighbours and heads that the check names."""
    edits = check.get("max_diffs", 0)

    def same(one: str, other: str) -> bool:
        end = found_at(plain(other), plain(one).strip(), edits) if other else None
        return end is not None and abs(len(plain(one).strip()) - len(plain(other))) <= edits

    for grid in tables(text):
        for i, row in enumerate(grid):
            for j, (cell, _) in enumerate(row):
                if same(cell, check["cell"]) and all(
                    any(same(other, check[name]) for other in _beside(grid, i, j, name))
                    for name in STEPS
                    if check.get(name)
                ):
                    return True
    return False


def _beside(grid: Grid, i: int, j: int, name: str) -> list[str]:
    """The neighbour in one direction, or for heads all heads in it, without such the outermost cell."""
    down, across = STEPS[name]
    passed: list[tuple[str, bool]] = []
    start = grid[i][j]
    while i + down >= 0 and i + down < len(grid) and 0 <= j + across < len(grid[i + down]):
        i, j = i + down, j + across
        if grid[i][j] is not start:
            passed.append(grid[i][j])
    if not passed:
        return []
    if "heading" not in name:
        return [passed[0][0]]
    return [text for text, is_head in passed if is_head] or [passed[-1][0]]


def passes(check: dict[str, Any], text: str) -> bool:
    """Whether a page's text passes one check."""
    kind, edits = check["type"], check.get("max_diffs", 0)
    if kind == "table":
        return has_cell(check, text)
    if kind == "baseline":
        letters = sum(sign.isalnum() for sign in text)
        return letters <= int(check["max_length"]) if check.get("max_length") is not None else letters > 0
    text = plain(text)
    if kind == "order":
        first, second = found_at(plain(check["before"]), text, edits), None
        if first is not None:
            rest = [m.start() + len(plain(check["after"])) for m in re.finditer(re.escape(plain(check["after"])), text)]
            second = max(rest, default=found_at(plain(check["after"]), text, edits))
        return (
            first is not None
            and second is not None
            and first - len(plain(check["before"])) < second - len(plain(check["after"]))
        )
    needle = plain(check["text"])
    if not check.get("case_sensitive", True):
        needle, text = needle.lower(), text.lower()
    head, tail = check.get("first_n"), check.get("last_n")
    if head or tail:
        text = (text[:head] if head else "") + (text[-tail:] if tail else "")
    return (found_at(needle, text, edits) is not None) == bool(kind == "present")


def ours(path: Path, page: int) -> str:
    with pdfium.PdfDocument(path) as document:
        return layout.document_text([layer.read_page(document[page - 1])])[0]


def pdfium_plain(path: Path, page: int) -> str:
    with pdfium.PdfDocument(path) as document:
        return str(document[page - 1].get_textpage().get_text_bounded()).replace("\r\n", "\n")


def pdftotext(path: Path, page: int) -> str:
    command = ["pdftotext", "-f", str(page), "-l", str(page), str(path), "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def olmocr(path: Path, page: int) -> str:
    """What olmOCR's own model gave, where the sample holds it."""
    root = next((parent for parent in path.parents if (parent / "dataset.jsonl").exists()), path.parent)
    answer = root / "olmocr_pipeline" / path.relative_to(root).with_name(f"{path.stem}_pg{page}_repeat1.md")
    return answer.read_text() if answer.exists() else ""


def relations(cells: dict[tuple[int, int], tuple[int, str]]) -> Counter[tuple[str, str, str]]:
    """Neighbours to the right and below, empty cells passed over: what the table competition of ICDAR 2013 counts."""
    found: Counter[tuple[str, str, str]] = Counter()
    pairs = set()
    for (row, column), (name, text) in cells.items():
        for down, across in ((0, 1), (1, 0)):
            r, c = row + down, column + across
            while (r, c) in cells and (not cells[(r, c)][1] or cells[(r, c)][0] == name):
                r, c = r + down, c + across
            if text and (r, c) in cells and (name, cells[(r, c)][0], down) not in pairs:
                pairs.add((name, cells[(r, c)][0], down))
                found[(text, cells[(r, c)][1], "down" if down else "right")] += 1
    return found


def compared(text: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKC", html_unescape(text)).lower() if sign.isalnum())


def truth_of(path: Path) -> Counter[tuple[str, str, str]]:
    total: Counter[tuple[str, str, str]] = Counter()
    for table in ElementTree.parse(path).getroot().iter("table"):
        for region in table.iter("region"):
            cells: dict[tuple[int, int], tuple[int, str]] = {}
            for name, cell in enumerate(region.iter("cell")):
                row, column = int(cell.get("start-row", 0)), int(cell.get("start-col", 0))
                text = compared(cell.findtext("content") or "")
                for r in range(row, int(cell.get("end-row", row)) + 1):
                    for k in range(column, int(cell.get("end-col", column)) + 1):
                        cells[(r, k)] = (name, text)
            height, width = max((r for r, _ in cells), default=-1) + 1, max((k for _, k in cells), default=-1) + 1
            for r in range(height):
                for k in range(width):
                    cells.setdefault((r, k), (-1 - r * width - k, ""))
            total += relations(cells)
    return total


def score_tables(folder: Path, table: Table) -> None:
    """Add rows of precision and recall of relations between cells, over `*.pdf` with `*-str.xml` beside it."""
    right = given = wanted = 0
    for path in sorted(folder.glob("*.pdf")):
        truth = truth_of(path.with_name(path.stem + "-str.xml"))
        with pdfium.PdfDocument(path) as document:
            pages = layout.document_text([layer.read_page(page) for page in document])
        ours: Counter[tuple[str, str, str]] = Counter()
        for grid in (grid for page in pages for grid in tables(page)):
            names = {id(cell): name for name, cell in enumerate(cell for row in grid for cell in row)}
            ours += relations(
                {
                    (r, k): (names[id(cell)], compared(cell[0]))
                    for r, row in enumerate(grid)
                    for k, cell in enumerate(row)
                }
            )
        hits = (ours & truth).total()
        right, given, wanted = right + hits, given + ours.total(), wanted + truth.total()
        table.row(path.name, hits / max(1, truth.total()), hits / max(1, ours.total()))
    table.row("all", right / wanted, right / given)


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--failures", action="store_true", help="print the checks that our text fails")
    parser.add_argument(
        "--tables", action="store_true", help="FOLDER holds the table competition of ICDAR 2013 (*.pdf, *-str.xml)"
    )
    arguments = parser.parse_args()
    if arguments.tables:
        score_tables(arguments.folder, Table("pdf-tables", arguments.csv, "file recall precision"))
        return
    checks = [
        json.loads(line)
        for path in sorted(arguments.folder.glob("*.jsonl"))
        for line in path.read_text().splitlines()
        if line.strip()
    ]
    checks = [check for check in checks if check["type"] != "math"]
    readers: dict[str, Callable[[Path, int], str]] = {"ours": ours, "pypdfium2": pdfium_plain, "olmOCR 7B": olmocr}
    if shutil.which("pdftotext"):
        readers["pdftotext"] = pdftotext
    table = Table("pdf-olmocr", arguments.csv, "reader kind passed of cpu_s_a_page")
    for name, reader in readers.items():
        texts: dict[tuple[str, int], str] = {}
        begun = time.process_time()
        for check in checks:
            place = (check["pdf"], check["page"])
            if place not in texts:
                texts[place] = reader(arguments.folder / check["pdf"], check["page"])
        seconds = (time.process_time() - begun) / len(texts)
        passed = Counter(check["type"] for check in checks if passes(check, texts[(check["pdf"], check["page"])]))
        of = Counter(check["type"] for check in checks)
        for kind, count in sorted(of.items()):
            table.row(name, kind, passed[kind], count, None)
        table.row(name, "all", passed.total(), of.total(), seconds)
        if name == "ours" and arguments.failures:
            for check in checks:
                if not passes(check, texts[(check["pdf"], check["page"])]):
                    print("  failed:", json.dumps(check, ensure_ascii=False), file=sys.stderr)


if __name__ == "__main__":
    main()
