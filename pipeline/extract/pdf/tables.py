"""Tables of a page: those whose cells are ruled, and those whose cells stand in columns."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from pipeline.extract.pdf.lines import Line, line_text, lines_of
from pipeline.extract.pdf.page import Box, Page, Span

NEAR = 3.0
"""Lines that come this close (points) meet."""
MAX_LINES = 400
MAX_TRIES = 60
"""How often a table is looked for between drawn lines of one page, and among the rows of one column."""
MAX_CELL = 1500
_MARKER = re.compile(r"(?:[•●◦▪■□–‣·∙*-]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)]|\[\d{1,3}\]|\d+(?:\.\d+)*)$")
_AMOUNT = re.compile(r"(?!(?:19|20)\d\d$)[-–−(+$€£]*\s?\d[\d.,]*\)?\s?%?")
_CURRENCY = frozenset("$€£¥₹")


@dataclass(slots=True)
class Table:
    """`text` is Markdown, or HTML where heads span several columns; `words` are what it was made of."""

    box: Box
    text: str
    words: list[Span] = field(default_factory=list)


@dataclass(slots=True)
class Cell:
    """Text from column `first` to `last`, the last included."""

    first: int
    last: int
    text: str


# Ruled


def joined(rules: Sequence[Box]) -> tuple[Box, ...]:
    """Lines across and down, pieces of one line put together."""
    across = _merged([(b.top + b.bottom, b.left, b.right) for b in rules if b.right - b.left > b.bottom - b.top])
    down = _merged([(b.left + b.right, b.top, b.bottom) for b in rules if b.bottom - b.top > b.right - b.left])
    return tuple(
        [Box(left, y, right, y) for y, left, right in across] + [Box(x, top, x, bottom) for x, top, bottom in down]
    )


def ruled(page: Page, words: Sequence[Span]) -> list[Table]:
    """Tables whose cells lie between drawn lines."""
    across, down = (
        [(b.top, b.left, b.right) for b in page.rules if b.top == b.bottom],
        [(b.left, b.top, b.bottom) for b in page.rules if b.left == b.right],
    )
    if len(across) > MAX_LINES or len(down) > MAX_LINES:
        return []
    tables: list[Table] = []
    for rows, columns in _grids(across, down):
        table = _lattice(rows, columns, words)
        if table is not None and not any(_overlap(table.box, other.box) for other in tables):
            tables.append(table)
    return tables


def _overlap(one: Box, other: Box) -> bool:
    return one.left < other.right and other.left < one.right and one.top < other.bottom and other.top < one.bottom


def _merged(lines: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Lines of one direction (twice their place, from, to), pieces of one line put together: place, from, to."""
    merged: list[list[float]] = []
    for double, start, end in sorted(lines):
        place = double / 2
        for line in reversed(merged[-12:]):
            if place - line[0] <= 1.5 and start <= line[2] + NEAR and end >= line[1] - NEAR:
                line[1], line[2] = min(line[1], start), max(line[2], end)
                break
        else:
            merged.append([place, start, end])
    return [(place, start, end) for place, start, end in merged if end - start > 4]


Lines = list[tuple[float, float, float]]


def _grids(across: Lines, down: Lines) -> list[tuple[Lines, Lines]]:
    """Groups of lines that meet, the largest first."""
    parent = list(range(len(across) + len(down)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for i, (y, left, right) in enumerate(across):
        for j, (x, top, bottom) in enumerate(down):
            if left - NEAR <= x <= right + NEAR and top - NEAR <= y <= bottom + NEAR:
                parent[root(i)] = root(len(across) + j)
    groups: dict[int, tuple[Lines, Lines]] = {}
    for i, line in enumerate(across):
        groups.setdefault(root(i), ([], []))[0].append(line)
    for j, line in enumerate(down):
        groups.setdefault(root(len(across) + j), ([], []))[1].append(line)
    return sorted(
        (g for g in groups.values() if len(g[0]) + len(g[1]) >= 4 and len(g[0]) >= 2 and g[1]),
        key=lambda g: -len(g[0]) * len(g[1]),
    )


def _places(values: list[float]) -> list[float]:
    places: list[float] = []
    for value in sorted(values):
        if not places or value - places[-1] > 2 * NEAR:
            places.append(value)
    return places


def _lattice(across: Lines, down: Lines, words: Sequence[Span]) -> Table | None:
    xs = _places([x for x, _, _ in down] + [min(line[1] for line in across), max(line[2] for line in across)])
    ys = _places([y for y, _, _ in across] + [min(line[1] for line in down), max(line[2] for line in down)])
    if len(xs) < 3 or len(ys) < 3:
        return None
    box = Box(xs[0], ys[0], xs[-1], ys[-1])
    inside = [w for w in words if _middle_in(w.box, box)]
    xs = sorted([*xs, *(x for left, right in itertools.pairwise(xs) for x in _unruled_within(left, right, inside))])
    cells: dict[tuple[int, int], list[Span]] = {}
    for word in inside:
        column = _slot(xs, (word.box.left + word.box.right) / 2)
        row = _slot(ys, (word.box.top + word.box.bottom) / 2)
        cells.setdefault((row, column), []).append(word)
    starts = _parted(_spans(xs, ys, across, down), cells, xs)
    merged: dict[tuple[int, int], list[Span]] = {}
    for place, held in sorted(cells.items()):
        merged.setdefault(starts[place], []).extend(held)
    if len({row for row, _ in merged}) < 2 or len({column for _, column in merged}) < 2:
        return None
    rows: list[list[Cell]] = []
    for row in range(len(ys) - 1):
        columns = {column: lines_of(held) for (r, column), held in merged.items() if r == row}
        if any(sum(len(line.text) for line in held) > MAX_CELL for held in columns.values()):
            return None
        rows += _split(
            columns, {c: max(k for k in range(len(xs) - 1) if starts[(row, k)] == (row, c)) for c in columns}
        )
    return Table(box, _text(rows, len(xs) - 1, 1), inside)


def _middle_in(box: Box, other: Box) -> bool:
    return (
        other.left <= (box.left + box.right) / 2 <= other.right
        and other.top <= (box.top + box.bottom) / 2 <= other.bottom
    )


def _slot(places: list[float], value: float) -> int:
    return max(0, min(len(places) - 2, sum(place <= value for place in places) - 1))


def _spans(xs: list[float], ys: list[float], across: Lines, down: Lines) -> dict[tuple[int, int], tuple[int, int]]:
    """For each cell of the lattice the first of those that no line parts from it."""
    walls = {
        (row, column)
        for row in range(len(ys) - 1)
        for column in range(1, len(xs) - 1)
        if any(
            abs(x - xs[column]) <= 2 * NEAR and top <= (ys[row] + ys[row + 1]) / 2 <= bottom for x, top, bottom in down
        )
    }
    floors = {
        (row, column)
        for row in range(1, len(ys) - 1)
        for column in range(len(xs) - 1)
        if any(
            abs(y - ys[row]) <= 2 * NEAR and left <= (xs[column] + xs[column + 1]) / 2 <= right
            for y, left, right in across
        )
    }
    starts: dict[tuple[int, int], tuple[int, int]] = {}
    for row in range(len(ys) - 1):
        for column in range(len(xs) - 1):
            if column and (row, column) not in walls:
                starts[(row, column)] = starts[(row, column - 1)]
            elif row and (row, column) not in floors:
                starts[(row, column)] = starts[(row - 1, column)]
            else:
                starts[(row, column)] = (row, column)
    return starts


def _unruled_within(left: float, right: float, words: Sequence[Span]) -> list[float]:
    """Places within a ruled column at which numbers stand apart in most of its lines."""
    lines = lines_of([word for word in words if left < (word.box.left + word.box.right) / 2 < right])
    rows = [[_box(piece) for piece in _pieces(line)] for line in lines]
    many = [row for row in rows if len(row) >= 2]
    digits = sum(any(sign.isdigit() for sign in line.text) for line in lines)
    if len(many) < 3 or len(many) < 0.6 * len(rows) or digits < 0.6 * len(lines):
        return []
    columns = _columns(many, median(line.size for line in lines))
    return [(one[1] + other[0]) / 2 for one, other in itertools.pairwise(columns)]


def _parted(
    starts: dict[tuple[int, int], tuple[int, int]], cells: dict[tuple[int, int], list[Span]], xs: list[float]
) -> dict[tuple[int, int], tuple[int, int]]:
    """Cells over several columns parted where their words keep clear of the lines that are drawn in other rows."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place, start in starts.items():
        groups.setdefault(start, []).append(place)
    for group in groups.values():
        columns = {column for _, column in group}
        if len(columns) < 2 or len({row for row, _ in group}) > 1 or not all(cells.get(place) for place in group):
            continue
        words = [word for place in group for word in cells[place]]
        if not any(
            word.box.left < xs[column] + 2 and word.box.right > xs[column] - 2
            for word in words
            for column in columns - {min(columns)}
        ):
            starts.update({place: place for place in group})
    return starts


def _split(columns: dict[int, list[Line]], lasts: dict[int, int]) -> list[list[Cell]]:
    """One ruled row as one row, or as several where its cells hold as many lines that stand side by side."""
    ordered = [held for _, held in sorted(columns.items())]
    most = max((len(held) for held in ordered), default=0)
    if most >= 2 and len(ordered[0]) == most and any(len(held) >= 0.6 * most for held in ordered[1:]):
        bases = [line.base for line in ordered[0]]
        lines = [line for held in ordered[1:] for line in held]
        if all(any(abs(line.base - base) < 0.4 * line.size for base in bases) for line in lines) and not _run_on(
            ordered
        ):
            rows: list[list[Cell]] = [[] for _ in bases]
            for column, held in sorted(columns.items()):
                for line in held:
                    row = min(range(len(bases)), key=lambda index: abs(bases[index] - line.base))
                    rows[row].append(Cell(column, lasts[column], line.text))
            return rows
    return [
        [Cell(column, lasts[column], " ".join(line.text for line in held)) for column, held in sorted(columns.items())]
    ]


def _run_on(cells: list[list[Line]]) -> bool:
    """Whether lines of cells go on with the sentence of the line before."""
    later = [line.text for held in cells for line in held[1:]]
    return sum(text[:1].islower() for text in later) > 0.3 * len(later)


# In columns


def framed(page: Page, words: Sequence[Span]) -> list[Table]:
    """Tables in columns whose head, body and foot stand between lines of one width."""
    across = [(b.top, b.left, b.right) for b in page.rules if b.top == b.bottom]
    groups: list[Lines] = []
    for line in sorted(across):
        for group in groups:
            if abs(group[0][1] - line[1]) < 4 and abs(group[0][2] - line[2]) < 4:
                group.append(line)
                break
        else:
            if line[2] - line[1] > 60:
                groups.append([line])
    tables: list[Table] = []
    tries = 0
    for group in groups:
        start = 0
        while start < len(group) - 1 and tries < MAX_TRIES:
            ends = [len(group) - 1, *range(min(len(group) - 2, start + 8), start, -1)]
            for end in ends:
                tries += 1
                table = _between(group[start], group[end], words, page)
                if table is not None and not any(_overlap(table.box, other.box) for other in tables):
                    tables.append(table)
                    start = end
                    break
            else:
                start += 1
    return tables


def _between(
    top: tuple[float, float, float], bottom: tuple[float, float, float], words: Sequence[Span], page: Page
) -> Table | None:
    box = Box(min(top[1], bottom[1]) - NEAR, top[0] - NEAR, max(top[2], bottom[2]) + NEAR, bottom[0] + NEAR)
    lines = lines_of([word for word in words if _middle_in(word.box, box)])
    if not 3 <= len(lines) <= 200:
        return None
    pieces = [_pieces(line) for line in lines]
    if sum(len(row) >= 2 for row in pieces) < 0.5 * len(lines):
        return None
    return _aligned(lines, pieces, page)


def unruled(lines: list[Line], page: Page) -> Iterator[Table | list[Line]]:
    """`lines` of one column, from top to bottom: tables, and the lines between them."""
    pieces = [_pieces(line) for line in lines]
    start = done = tries = 0
    while start < len(lines):
        end = _run(lines, pieces, start)
        is_run = end - start >= 2 and tries < MAX_TRIES
        tries += is_run
        table = _aligned(lines[start:end], pieces[start:end], page) if is_run else None
        if table is None:
            start += 1
            continue
        while start > done and _is_head(lines[start - 1], pieces[start - 1], lines[start], table, page):
            taller = _aligned(lines[start - 1 : end], pieces[start - 1 : end], page)
            if taller is None:
                break
            start, table = start - 1, taller
        if done < start:
            yield lines[done:start]
        yield table
        start = done = end
    if done < len(lines):
        yield lines[done:]


def _pieces(line: Line) -> list[list[Span]]:
    """A line's words, parted where white is wider than a space; a currency sign stays with its number."""
    pieces = [[line.spans[0]]]
    for word in line.spans[1:]:
        gap = word.box.left - pieces[-1][-1].box.right
        if gap > 0.9 * line.size and pieces[-1][-1].text.strip() not in _CURRENCY:
            pieces.append([word])
        else:
            pieces[-1].append(word)
    if len(pieces) >= 2 and len(pieces[0]) == 1 and _MARKER.match(pieces[0][0].text.strip()) and len(pieces) == 2:
        return [line.spans]
    return pieces


def _run(lines: list[Line], pieces: list[list[list[Span]]], start: int) -> int:
    """The end of the rows that begin at `start`: lines of several pieces, single ones only between them."""
    if len(pieces[start]) < 2:
        return start
    end = start + 1
    for index in range(start + 1, len(lines)):
        if lines[index].base - lines[index - 1].base > 3.2 * lines[index].size or index - end >= 3:
            break
        if len(pieces[index]) >= 2:
            end = index + 1
    while (
        end < len(lines)
        and len(pieces[end]) == 1
        and 0 < lines[end].base - lines[end - 1].base < 1.15 * lines[end - 1].size
        and len(lines[end].text) < 40
    ):
        end += 1
    return end


def _is_head(line: Line, pieces: list[list[Span]], below: Line, table: Table, page: Page) -> bool:
    """Whether a line right above a table is a head over several of its columns."""
    if (
        not 0 < below.base - line.base < 2.2 * line.size
        or line.box.left < table.box.left - NEAR
        or line.box.right > table.box.right + NEAR
    ):
        return False
    if len(pieces) >= 2:
        return True
    return line.box.left > table.box.left + 0.15 * (table.box.right - table.box.left) and any(
        -0.35 * line.size < rule.top - line.base < 1.2 * line.size
        and rule.left <= line.box.left
        and rule.right >= line.box.right
        for rule in page.rules
    )


def _aligned(lines: list[Line], pieces: list[list[list[Span]]], page: Page) -> Table | None:
    many = [row for row in pieces if len(row) >= 2]
    if len(many) < 2:
        return None
    boxes = [[_box(piece) for piece in row] for row in many]
    size = median(line.size for line in lines)
    columns = _columns(boxes, size)
    if len(columns) < 2:
        return None
    box = _union([line.box for line in lines])
    framed = sum(
        1
        for r in page.rules
        if r.right - r.left > 0.5 * (box.right - box.left)
        and box.top - 2 * size < r.top < box.bottom + size
        and _overlap(Box(r.left, 0, r.right, 1), Box(box.left, 0, box.right, 1))
    )
    if framed < 2 and not _stand_in_columns(boxes, columns, size):
        return None
    body = [[_cell(piece, columns, line) for piece in row] for line, row in zip(lines, pieces, strict=True)]
    rows = [[cell for group in row for cell in group] for row in body]
    if not _is_table(rows, lines, box, len(columns), framed):
        return None
    slanted = _slanted(page, box, columns)
    words = [span for line in lines for span in line.spans] + list(slanted.values())
    heads = 0
    if slanted:
        foot = max(span.box.bottom for span in slanted.values())
        heads = min(range(len(lines)), key=lambda index: abs(lines[index].base - foot)) + 1
        rows[heads - 1] += [Cell(column, column, span.text.strip()) for column, span in slanted.items()]
        rows[heads - 1].sort(key=lambda cell: cell.first)
    full = next(
        (
            index
            for index, row in enumerate(rows)
            if len(row) >= 0.6 * len(columns) and all(c.first == c.last for c in row)
        ),
        0,
    )
    full = min(
        full,
        next((index for index, row in enumerate(rows) if any(_AMOUNT.fullmatch(cell.text) for cell in row[1:])), full),
    )
    heads = max(heads, full)
    if heads == full and full and not any(sign.isdigit() for cell in rows[full][1:] for sign in cell.text):
        heads += 1
    for index in range(heads):
        _stretched(rows[index], lines[index], body[index], pieces[index], columns, page)
    for row in rows[heads:]:
        if len(row) == 1 and row[0].last > row[0].first:
            row[0].first = row[0].last = 0
    rows = _folded(rows, lines, heads, columns)
    return Table(box, _text(rows, len(columns), max(1, heads)), words)


def _is_table(rows: list[list[Cell]], lines: list[Line], box: Box, width: int, framed: int) -> bool:
    """Whether rows are filled enough, with cells short enough, and no running text among them."""
    wide = [row for row in rows if len(row) >= 2]
    texts = [cell.text for row in wide for cell in row]
    if not texts or len(texts) < 0.45 * len(wide) * width or sum(map(len, texts)) > 35 * len(texts):
        return False
    digits = sum(any(sign.isdigit() for sign in text) for text in texts) / len(texts)
    if not ((len(wide) >= 3 and (width >= 3 or digits > 0.3 or framed)) or (framed >= 2 and width >= 3)):
        return False
    prose = [
        line
        for line, row in zip(lines, rows, strict=True)
        if len(row) == 1 and len(row[0].text) > 60 and line.box.right - line.box.left > 0.8 * (box.right - box.left)
    ]
    is_tight = any(b.base - a.base < 0.85 * min(a.size, b.size) for a, b in itertools.pairwise(lines))
    spoken = sum(any(sign.isalnum() for sign in text) for text in texts)
    return spoken >= 0.6 * len(texts) and (framed > 0 or not is_tight) and len(prose) < 3


def _stand_in_columns(rows: list[list[Box]], columns: list[tuple[float, float]], size: float) -> bool:
    """Whether cells begin, end or are centred at one place; words with wide spaces do not, and they fill their line."""
    width = columns[-1][1] - columns[0][0]
    if sum(sum(box.right - box.left for box in row) for row in rows) > 0.8 * width * len(rows):
        return False
    held: list[list[Box]] = [[] for _ in columns]
    for row in rows:
        for box in row:
            inside = [c for c, (left, right) in enumerate(columns) if left - 1 <= box.left and box.right <= right + 1]
            if inside:
                held[inside[0]].append(box)
    fine = 0
    for boxes in held:
        places = (
            [box.left for box in boxes],
            [box.right for box in boxes],
            [(box.left + box.right) / 2 for box in boxes],
        )
        fine += any(
            sum(abs(value - median(values)) < 0.4 * size for value in values) >= 0.6 * len(values)
            for values in places
            if values
        )
    return fine >= 0.75 * len(columns)


def _box(words: Sequence[Span]) -> Box:
    return _union([word.box for word in words])


def _union(boxes: Sequence[Box]) -> Box:
    return Box(
        min(b.left for b in boxes), min(b.top for b in boxes), max(b.right for b in boxes), max(b.bottom for b in boxes)
    )


def _columns(rows: list[list[Box]], size: float) -> list[tuple[float, float]]:
    """From and to of each column: where pieces of most rows stand, white between them."""
    most = max(len(row) for row in rows)
    rows = [row for row in rows if len(row) >= 0.7 * most]
    events = sorted([(box.left, 1) for row in rows for box in row] + [(box.right, -1) for row in rows for box in row])
    allowed = int(0.12 * len(rows))
    columns: list[list[float]] = []
    depth = 0
    for x, change in events:
        before, depth = depth, depth + change
        if before <= allowed < depth:
            if columns and x - columns[-1][1] < 0.35 * size:
                continue
            columns.append([x, x])
        elif before > allowed >= depth:
            columns[-1][1] = x
    return [(left, right) for left, right in columns]


def _cell(piece: list[Span], columns: list[tuple[float, float]], line: Line) -> list[Cell]:
    """A piece of a line as one cell, or as several where white between its words falls between columns."""
    groups: list[tuple[int, list[Span]]] = []
    for word in piece:
        middle = (word.box.left + word.box.right) / 2
        column = min(range(len(columns)), key=lambda c: max(columns[c][0] - middle, middle - columns[c][1], 0))
        is_near = groups and word.box.left - groups[-1][1][-1].box.right < 0.45 * line.size
        if groups and (groups[-1][0] == column or is_near):
            groups[-1][1].append(word)
        else:
            groups.append((column, [word]))
    cells = []
    for column, words in groups:
        box = _box(words)
        covered = [
            c
            for c, (left, right) in enumerate(columns)
            if min(box.right, right) - max(box.left, left) > 0.3 * min(right - left, 3 * line.size)
        ]
        first, last = (min(covered), max(covered)) if covered else (column, column)
        cells.append(Cell(first, last, line_text(words, line.size, line.base)))
    return cells


def _slanted(page: Page, box: Box, columns: list[tuple[float, float]]) -> dict[int, Span]:
    """Heads written aslant, each at the column over which it begins."""
    found: dict[int, Span] = {}
    for span in page.spans:
        if span.turn % 90 and box.top - 60 < span.box.bottom <= box.bottom and box.left <= span.box.left <= box.right:
            foot = span.box.left if span.turn < 90 else span.box.right
            column = min(range(len(columns)), key=lambda c: abs((columns[c][0] + columns[c][1]) / 2 - foot))
            found.setdefault(column, span)
    return found


def _stretched(
    row: list[Cell],
    line: Line,
    groups: list[list[Cell]],
    pieces: list[list[Span]],
    columns: list[tuple[float, float]],
    page: Page,
) -> None:
    """Heads that stand over several columns: those that a line below them covers, or in whose middle they stand."""
    for group, piece in zip(groups, pieces, strict=True):
        if len(group) != 1:
            continue
        cell, box = group[0], _box(piece)
        middle = (box.left + box.right) / 2
        rule = next(
            (
                r
                for r in page.rules
                if -0.35 * line.size < r.top - line.base < 1.2 * line.size
                and r.left <= middle <= r.right
                and r.right - r.left < 0.8 * (columns[-1][1] - columns[0][0])
            ),
            None,
        )
        others = {c for other in row if other is not cell for c in range(other.first, other.last + 1)}
        under = []
        if rule is not None:
            under = [
                c
                for c, (left, right) in enumerate(columns)
                if rule.left - NEAR <= (left + right) / 2 <= rule.right + NEAR and c not in others
            ]
        if len(under) < 2:
            left, right = columns[cell.first]
            is_centred = abs((left + right) / 2 - middle) < 0.15 * (right - left)
            is_flush = abs(left - box.left) < NEAR or abs(right - box.right) < NEAR
            if cell.first == cell.last and (
                (is_flush and not is_centred) or (is_centred and len(row) > 0.5 * len(columns))
            ):
                continue
            best = (cell.first, cell.last)
            for first in range(cell.first, -1, -1):
                for last in range(cell.last, len(columns)):
                    centre = (columns[first][0] + columns[last][1]) / 2
                    if others & set(range(first, last + 1)) or abs(centre - middle) > max(
                        0.06 * (columns[last][1] - columns[first][0]), 0.6 * line.size
                    ):
                        continue
                    if last - first > best[1] - best[0] and last - first <= 2 * (cell.last - cell.first) + 3:
                        best = (first, last)
            under = list(range(best[0], best[1] + 1))
        if under:
            cell.first, cell.last = min(under), max(under)


def _folded(
    rows: list[list[Cell]], lines: list[Line], heads: int, columns: list[tuple[float, float]]
) -> list[list[Cell]]:
    """Rows that only go on with a cell of their neighbour put into it."""
    anchors = [i for i in range(heads, len(rows)) if len(rows[i]) >= max(2, 0.6 * len(columns))]
    if len(anchors) < 2:
        return rows
    pitch = median(lines[b].base - lines[a].base for a, b in itertools.pairwise(anchors))
    orphans = [index for index in range(heads, len(rows)) if index not in anchors]
    away = {index: min(abs(lines[a].base - lines[index].base) for a in anchors) for index in orphans}
    is_centred = any(away[index] < 0.95 * lines[index].size for index in orphans)
    folded: dict[int, list[Cell]] = {}
    for index in orphans:
        row = rows[index]
        previous = max((a for a in anchors if a < index), default=None)
        near = (
            min(anchors, key=lambda a: abs(lines[a].base - lines[index].base))
            if is_centred or previous is None
            else previous
        )
        above = [*rows[previous], *folded.get(previous, [])] if previous is not None else []
        goes_on = not is_centred and len(row) == 1 and _goes_on(row[0], above, lines[index], columns)
        reach = min(0.8 * pitch, 1.3 * lines[index].size) if is_centred else 0.8 * pitch
        if abs(lines[near].base - lines[index].base) < reach or goes_on:
            target = previous if goes_on and previous is not None else near
            folded.setdefault(target, []).extend(
                Cell(c.first, c.last, ("<" if index < target else ">") + c.text) for c in row
            )
            folded[index] = []
    result = []
    for index, row in enumerate(rows):
        extra = folded.get(index)
        if extra == [] and index not in anchors:
            continue
        for more in extra or []:
            held = next((cell for cell in row if cell.first <= more.first <= cell.last), None)
            if held is None:
                row.append(Cell(more.first, more.last, more.text[1:]))
                row.sort(key=lambda cell: cell.first)
            elif more.text[0] == "<":
                held.text = more.text[1:] + " " + held.text
            else:
                held.text += " " + more.text[1:]
        result.append(row)
    return result


def _goes_on(cell: Cell, above: list[Cell], line: Line, columns: list[tuple[float, float]]) -> bool:
    """Whether a lone cell is the next line of that above it: it begins small, or that one is as wide as its column."""
    upper = next((other for other in reversed(above) if other.first == cell.first), None)
    if upper is None:
        return False
    left, right = columns[cell.first]
    full = len(upper.text) * 0.4 * line.size > 0.75 * (right - left)
    return cell.text[:1].islower() or (cell.first > 0 and full and abs(line.box.left - left) < line.size)


# To text


def _text(rows: list[list[Cell]], width: int, heads: int) -> str:
    used = sorted({column for row in rows for cell in row if cell.text for column in (cell.first, cell.last)})
    rows = [row for row in rows if any(cell.text for cell in row)]
    place = {column: index for index, column in enumerate(used)}
    for row in rows:
        for cell in row:
            cell.first, cell.last = place[cell.first], place[cell.last]
    heads = min(heads, len(rows))
    if any(cell.last > cell.first for row in rows[:heads] for cell in row):
        return "\n".join(
            ["<table>", *(_html_row(row, len(used), index < heads) for index, row in enumerate(rows)), "</table>"]
        )
    lines = []
    for index, row in enumerate(rows):
        texts = [""] * len(used)
        for cell in row:
            texts[cell.first] = (texts[cell.first] + " " + cell.text).strip()
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |")
        if index == 0:
            lines.append("|" + " --- |" * len(used))
    return "\n".join(lines)


def _html_row(row: list[Cell], width: int, is_head: bool) -> str:
    name = "th" if is_head else "td"
    parts, column = [], 0
    for cell in sorted(row, key=lambda cell: cell.first):
        if cell.first < column:
            continue
        parts += [f"<{name}></{name}>"] * (cell.first - column)
        wide = f' colspan="{cell.last - cell.first + 1}"' if cell.last > cell.first else ""
        parts.append(f"<{name}{wide}>{html.escape(cell.text, quote=False)}</{name}>")
        column = cell.last + 1
    parts += [f"<{name}></{name}>"] * (width - column)
    return "<tr>" + "".join(parts) + "</tr>"
