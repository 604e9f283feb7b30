"""Blocks in reading order from the words of a page, whatever read them: the text layer or OCR.

Columns are found by their gutters: white that runs down through several lines with text on both sides of it. What a
gutter's band holds is read left before right, what lies above and below it is read apart, and so on within each side.
Lines that are left stand in one column: they are joined to paragraphs, or are the rows of a table.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from pipeline.extract.pdf import tables
from pipeline.extract.pdf.lines import Line, line_text, lines_of
from pipeline.extract.pdf.page import Box, Page, Span

MAX_DEPTH = 12
EDGE_LINES = 4
"""Lines at the head and the foot of a page that may be running ones."""
_LIST = re.compile(r"(?:[•●◦▪■□–‣·∙*-]|\(?(?:\d{1,3}|[a-zA-Z]|[ivx]{1,5})[.)]|\[\d{1,3}\])$")
_BULLET = re.compile(r"^[•●◦▪■□‣·∙\uf0b7\uf0a7]\s*")
_NUMBER = re.compile(
    r"[-–—|\s]*(?:page|seite|p\.)?\s*(?:\d{1,4}|[ivxlc]{1,6})(?:\s*(?:of|/|von|sur|de)\s*\d{1,4})?[-–—|.\s]*",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?:;…。！？：]['\"”’)\]]*$")


@dataclass(slots=True)
class Block:
    """A paragraph, a heading (`level` 1 to 3), or a table (`table`: its Markdown or HTML)."""

    box: Box
    lines: list[Line] = field(default_factory=list)
    level: int = 0
    table: str = ""
    words: list[Span] = field(default_factory=list)


def document_text(pages: Sequence[Page]) -> list[str]:
    """The text of each page: running headers, footers and page numbers removed, blocks in reading order."""
    upright = [_upright(page) for page in pages]
    cleaned = _without_furniture(upright)
    if not any(page.spans for page in cleaned):  # pages that are all alike are no running headers
        cleaned = upright
    arranged = [arrange(page) for page in cleaned]
    vocabulary = Counter(
        word for page in arranged for block in page for line in block.lines for word in line.text.lower().split()
    )
    body = _body_size(line for page in arranged for block in page for line in block.lines)
    return [_markdown(blocks, body, vocabulary) for blocks in arranged]


def arrange(page: Page) -> list[Block]:
    """The blocks of one page in reading order, nothing removed but what nobody sees."""
    page = _upright(page)
    words = [span for span in page.spans if span.turn == 0 and span.text]
    leaders, dotted = _leaders(words)
    words = [span for span in words if id(span) not in leaders]
    if not words:
        return _turned(page)
    page = replace(page, rules=tables.joined([*page.rules, *dotted]))
    ruled = tables.ruled(page, words)
    taken = {id(word) for table in ruled for word in table.words}
    ruled += tables.framed(page, [word for word in words if id(word) not in taken])
    taken = {id(word) for table in ruled for word in table.words}
    items = _fractions([word for word in words if id(word) not in taken], page.rules)
    places = [(Span("\x00", table.box, 1.0), table) for table in ruled]
    blocks: list[Block] = []
    for region in _regions(items + [place for place, _ in places], page, 0):
        known = {id(place): table for place, table in places}
        inside = [word for word in region if id(word) not in known]
        marks = [known[id(word)] for word in region if id(word) in known]
        blocks += _blocks(inside, marks, page)
    used = taken | {id(word) for block in blocks for word in block.words}
    return blocks + _turned(replace(page, spans=tuple(span for span in page.spans if id(span) not in used)))


def _upright(page: Page) -> Page:
    """What is seen (or lies over a picture, as OCR's layer does), turned so that most text runs from left to right."""
    seen = [span for span in page.spans if span.is_visible]
    hidden = [
        span for span in page.spans if not span.is_visible and any(_covers(image, span.box) for image in page.images)
    ]
    if sum(len(span.text) for span in hidden) > sum(len(span.text) for span in seen):
        seen += (
            [span for span in hidden if not any(_covers(other.box, span.box) for other in seen)]
            if len(seen) < 500
            else hidden
        )
    turns = Counter[int]()
    for span in seen:
        turns[span.turn] += len(span.text)
    turn = max((t for t in turns if t % 90 == 0), key=lambda t: (turns[t], -t), default=0)
    seen = _once(seen)
    if turn == 0:
        counted = _line_numbers([span for span in seen if span.turn == 0])
        return replace(page, spans=tuple(span for span in seen if id(span) not in counted))
    width, height = (page.height, page.width) if turn in (90, 270) else (page.width, page.height)

    def turned(box: Box) -> Box:
        match turn:
            case 90:
                return Box(page.height - box.bottom, box.left, page.height - box.top, box.right)
            case 270:
                return Box(box.top, page.width - box.right, box.bottom, page.width - box.left)
            case _:
                return Box(
                    page.width - box.right, page.height - box.bottom, page.width - box.left, page.height - box.top
                )

    spans = tuple(replace(span, box=turned(span.box), turn=(span.turn - turn) % 360) for span in seen)
    return replace(
        page,
        width=width,
        height=height,
        spans=spans,
        rules=tuple(map(turned, page.rules)),
        images=tuple(map(turned, page.images)),
    )


def _once(spans: Sequence[Span]) -> list[Span]:
    """Words that are drawn twice at one place (a shadow, bold by repetition) once."""
    seen: set[tuple[str, int, int]] = set()
    kept = []
    for span in spans:
        near = max(0.25 * span.size, 0.5)
        across, down = int(span.box.left / near), int(span.box.top / near)
        if any((span.text, across + x, down + y) in seen for x in (0, -1, 1) for y in (0, -1, 1)):
            continue
        seen.add((span.text, across, down))
        kept.append(span)
    return kept


def _covers(box: Box, other: Box) -> bool:
    x, y = (other.left + other.right) / 2, (other.top + other.bottom) / 2
    return box.left <= x <= box.right and box.top <= y <= box.bottom


def _line_numbers(words: Sequence[Span]) -> set[int]:
    """Numbers that count the lines at the left edge, as transcripts have them."""
    if sum(word.text.strip().isdecimal() for word in words) < 8:
        return set()
    lines = lines_of(words)
    heads = [
        line.spans[0]
        for line in lines
        if line.spans[0].text.strip().isdecimal() and len(line.spans[0].text.strip()) < 4
    ]
    best: list[Span] = []
    run: list[Span] = []
    for span in heads:
        if run and int(span.text) == int(run[-1].text) + 1 and abs(span.box.right - run[-1].box.right) < 2:
            run.append(span)
        else:
            run = [span]
        best = run if len(run) > len(best) else best
    left = min((line.spans[1].box.left for line in lines if len(line.spans) > 1), default=0.0)
    if len(best) < 8 or len(best) < 0.6 * len(lines) or max(span.box.right for span in best) > left:
        return set()
    return {id(span) for span in best}


def _leaders(words: Sequence[Span]) -> tuple[set[int], list[Box]]:
    """Dots that lead the eye from a word to a number; those that have a line for themselves are a drawn line."""
    dots = [word for word in words if not word.text.strip(" .·…‥_")]
    rows: dict[int, list[Span]] = {}
    for word in dots:
        rows.setdefault(round(word.box.bottom / 2), []).append(word)
    gone: list[Span] = []
    for row in rows.values():
        row.sort(key=lambda word: word.box.left)
        runs: list[list[Span]] = []
        for word in row:
            if runs and word.box.left - runs[-1][-1].box.right < 1.2 * word.size:
                runs[-1].append(word)
            else:
                runs.append([word])
        gone += [dot for run in runs if sum(len(dot.text.replace(" ", "")) for dot in run) >= 5 for dot in run]
    if not gone:
        return set(), []
    known = {id(word) for word in dots}
    beside = {round(word.box.bottom / 4) + step for word in words if id(word) not in known for step in (-1, 0, 1)}
    return {id(word) for word in gone}, [
        Box(word.box.left, word.box.bottom, word.box.right, word.box.bottom)
        for word in gone
        if round(word.box.bottom / 4) not in beside
    ]


def _fractions(words: list[Span], rules: Sequence[Box]) -> list[Span]:
    """`words` with what stands above and below a short line, beside other text, as one word `above/below`."""
    for rule in rules:
        wide = rule.right - rule.left
        if rule.top != rule.bottom or not 3 < wide < 150:
            continue
        near = [word for word in words if abs((word.box.top + word.box.bottom) / 2 - rule.top) < 1.6 * word.size]
        inside = [word for word in near if rule.left - 2 <= word.box.left and word.box.right <= rule.right + 2]
        upper = [word for word in inside if -0.6 * word.size < rule.top - word.box.bottom < 0.6 * word.size]
        lower = [word for word in inside if -0.4 * word.size < word.box.top - rule.top < 0.6 * word.size]
        beside = [
            word
            for word in near
            if abs((word.box.top + word.box.bottom) / 2 - rule.top) < 0.4 * word.size
            and all(abs(word.box.bottom - other.box.bottom) > 0.35 * word.size for other in (*upper, *lower))
            and (abs(rule.left - word.box.right) < 1.5 * word.size or abs(word.box.left - rule.right) < 1.5 * word.size)
        ]
        used = {id(word): word.box for word in (*upper, *lower)}
        if not upper or not lower or not beside or not len(upper) + len(lower) == len(used) <= 12:
            continue
        if max(box.right for box in used.values()) - min(box.left for box in used.values()) < 0.5 * wide:
            continue
        parts = [" ".join(line.text for line in lines_of(part)) for part in (upper, lower)]
        above, below = (f"({part})" if re.search(r"[\s+−-]", part) else part for part in parts)
        base = beside[0]
        words = [word for word in words if id(word) not in used]
        box = Box(rule.left, base.box.top, rule.right, base.box.bottom)
        words.append(replace(base, text=f"{above}/{below} ", box=box))
    return words


def _turned(page: Page) -> list[Block]:
    """Text in other directions than the page's, one block for each; stamps at the margin are left out."""
    body = [span.box for span in page.spans if span.turn == 0]
    groups: dict[int, list[Span]] = {}
    for span in page.spans:
        if span.turn:
            groups.setdefault(span.turn, []).append(span)
    blocks = []
    for turn, spans in sorted(groups.items()):
        if turn % 90 == 0 and body:
            left, right = min(box.left for box in body), max(box.right for box in body)
            spans = [span for span in spans if left < (span.box.left + span.box.right) / 2 < right]
        if not spans:
            continue
        if turn % 90:
            text = " ".join(span.text for span in spans)
            box = spans[0].box
            blocks.append(Block(box, [Line([Span(text, box, spans[0].size)])]))
        else:
            blocks += [
                block
                for block in arrange(replace(page, spans=tuple(spans), rules=(), images=()))
                if block.lines or block.table
            ]
    return blocks


# Reading order


@dataclass(slots=True)
class _Gutter:
    left: float
    right: float
    top: float
    bottom: float
    last: float
    both: int = 1


def _regions(items: list[Span], page: Page, depth: int) -> Iterator[list[Span]]:
    """`items` in groups of one column each, in reading order."""
    if len(items) < 8 or depth > MAX_DEPTH:
        if items:
            yield items
        return
    for gutter in _gutters(items, page.rules):
        middle = (gutter.left + gutter.right) / 2
        band = [s for s in items if gutter.top <= (s.box.top + s.box.bottom) / 2 <= gutter.bottom]
        left = [s for s in band if (s.box.left + s.box.right) / 2 < middle]
        right = [s for s in band if (s.box.left + s.box.right) / 2 >= middle]
        if not _are_columns(left, right):
            continue
        above = [s for s in items if (s.box.top + s.box.bottom) / 2 < gutter.top]
        below = [s for s in items if (s.box.top + s.box.bottom) / 2 > gutter.bottom]
        yield from _regions(above, page, depth + 1)
        for low, high in _cards(left, right):
            for side in (left, right):
                yield from _regions([s for s in side if low <= (s.box.top + s.box.bottom) / 2 < high], page, depth + 1)
        yield from _regions(below, page, depth + 1)
        return
    yield items


def _cards(left: Sequence[Span], right: Sequence[Span]) -> list[tuple[float, float]]:
    """Heights between which both sides are read: all, or rows of cards, which begin with a head on both."""
    sides = [lines_of(side) for side in (left, right)]
    size = median(line.size for side in sides for line in side)
    body = _body_size([*sides[0], *sides[1]])
    cuts = [-1e6]
    heads = [[line for line in side if _is_head(line, side, body)] for side in sides]
    cuts += [
        min(line.box.top, other.box.top)
        for line in heads[0]
        for other in heads[1]
        if abs(line.base - other.base) < 0.4 * size
    ]
    return list(zip(cuts, [*cuts[1:], 1e6], strict=True))


def _is_head(line: Line, side: list[Line], body: float) -> bool:
    """A line that is larger or bolder than what follows, with white above it."""
    index = side.index(line)
    if index == 0 or sum(sign.isalpha() for sign in line.text) < 3:
        return False
    above, below = side[index - 1], side[index + 1] if index + 1 < len(side) else None
    larger = line.size > 1.1 * body or (line.is_bold and below is not None and not below.is_bold)
    return larger and line.box.top - above.box.bottom > 1.2 * line.size


_LONG = 30  # rows of sight with text on both sides: about nine lines


def _gutters(items: Sequence[Span], rules: Sequence[Box]) -> list[_Gutter]:
    """White strips with text on both sides, those along most text first."""
    size = median(s.size for s in items if s.text != "\x00") if any(s.text != "\x00" for s in items) else 10.0
    wide = max(0.8 * size, 4.0)
    step = max(0.3 * size, 1.5)
    top = min(s.box.top for s in items)
    rows: dict[int, list[tuple[float, float]]] = {}
    for span in items:
        inset = 0.2 * (span.box.bottom - span.box.top)
        first, last = int((span.box.top + inset - top) / step), int((span.box.bottom - inset - top) / step)
        for row in range(first, min(last, first + 400) + 1):
            rows.setdefault(row, []).append((span.box.left, span.box.right))
    for rule in rules:
        if rule.right - rule.left > 3 * wide and rule.bottom - rule.top < 3:
            rows.setdefault(int((rule.top - top) / step), []).append((rule.left, rule.right))
    open_gutters: list[_Gutter] = []
    done: list[_Gutter] = []
    for row in sorted(rows):
        y = top + (row + 0.5) * step
        gaps = _gaps(rows[row], wide)
        still: list[_Gutter] = []
        used = set()
        for gutter in open_gutters:
            best = None
            for index, (low, high) in enumerate(gaps):
                left, right = max(low, gutter.left), min(high, gutter.right)
                enough = wide if gutter.both < _LONG else 0.6 * wide  # a line or two of many stand out
                if right - left >= enough and (best is None or right - left > best[1] - best[0]):
                    best = (left, right, index)
            if best is None or y - gutter.last > 40 * step:
                done.append(gutter)
                continue
            gutter.left, gutter.right = best[0], best[1]
            gutter.last = y
            if 0 < best[2] < len(gaps) - 1:
                gutter.both += 1
                gutter.bottom = y
                used.add(best[2])
            still.append(gutter)
        fresh = [gap for index, gap in enumerate(gaps) if 0 < index < len(gaps) - 1 and index not in used]
        still += [_Gutter(left, right, top=y, bottom=y, last=y) for left, right in fresh]
        open_gutters = still
    done += open_gutters
    found = [
        gutter
        for gutter in done
        if gutter.both * step >= 2.1 * size
        and gutter.bottom - gutter.top >= 2.2 * size
        and (gutter.bottom - gutter.top >= 6 * size or gutter.right - gutter.left >= 1.5 * size)
    ]
    for gutter in found:
        gutter.top, gutter.bottom = _extended(gutter, items, size)
    return sorted(found, key=lambda g: (-g.both, -(g.right - g.left), g.left))[:12]


def _gaps(taken: list[tuple[float, float]], wide: float) -> list[tuple[float, float]]:
    """White between what a line of sight crosses; the first and the last are the margins."""
    taken.sort()
    gaps = [(-1e6, taken[0][0])]
    end = taken[0][1]
    for left, right in taken[1:]:
        if left - end >= wide:
            gaps.append((end, left))
        end = max(end, right)
    gaps.append((end, 1e6))
    return gaps


def _extended(gutter: _Gutter, items: Sequence[Span], size: float) -> tuple[float, float]:
    """A column goes on beyond its neighbour's end as long as its lines follow closely and stay on their side."""
    top, bottom = gutter.top - 0.6 * size, gutter.bottom + 0.6 * size
    across = [s.box for s in items if s.box.left < gutter.right and s.box.right > gutter.left]
    floor = min((box.top for box in across if (box.top + box.bottom) / 2 > bottom), default=1e6)
    ceiling = max((box.bottom for box in across if (box.top + box.bottom) / 2 < top), default=-1e6)
    for box in sorted((s.box for s in items), key=lambda box: box.top):
        middle = (box.top + box.bottom) / 2
        if middle > bottom:
            if box.top - bottom > 1.2 * size or middle >= floor:
                break
            bottom = middle + 0.3 * size
    for box in sorted((s.box for s in items), key=lambda box: -box.bottom):
        middle = (box.top + box.bottom) / 2
        if middle < top:
            if top - box.bottom > 1.2 * size or middle <= ceiling:
                break
            top = middle - 0.3 * size
    return top, bottom


def _are_columns(left: Sequence[Span], right: Sequence[Span]) -> bool:
    """Columns hold running text, or lines that do not stand in rows; a table's cells do neither."""
    if not left or not right:
        return False
    sides = [lines_of(side) for side in (left, right)]
    if min(len(side) for side in sides) < 2:
        return False
    prose = [_is_prose(side) for side in sides]
    if all(prose):
        return True
    few, many = sorted(sides, key=len)
    size = median(line.size for line in many)
    baselines = [line.base for line in many]
    aligned = sum(1 for line in few if any(abs(line.base - y) < 0.3 * size for y in baselines))
    return aligned < 0.7 * len(few)


def _is_prose(lines: Sequence[Line]) -> bool:
    if len(lines) < 3:
        return False
    width = max(line.box.right for line in lines) - min(line.box.left for line in lines)
    full = [
        line
        for line in lines
        if line.box.right - line.box.left > 0.5 * width
        and ((len(line.text) > 18 and line.text.count(" ") >= 2) or sum(map(_is_wide, line.text)) >= 8)
    ]
    text = "".join(line.text for line in lines).replace(" ", "")
    if sum(sign.isalpha() for sign in text) < 0.6 * len(text):
        return False
    return len(full) >= 3 and sum(len(line.text) for line in full) >= 0.5 * sum(len(line.text) for line in lines)


# Lines to blocks


def _blocks(words: list[Span], marks: list[tables.Table], page: Page) -> list[Block]:
    lines = lines_of(words)
    parts: list[Block] = [Block(table.box, table=table.text) for table in marks]
    for found in tables.unruled(lines, page):
        if isinstance(found, tables.Table):
            parts.append(Block(found.box, table=found.text, words=found.words))
        else:
            parts += _paragraphs(found)
    return sorted(parts, key=lambda block: block.box.top) if marks else parts


def _paragraphs(lines: list[Line]) -> list[Block]:
    if not lines:
        return []
    left = min(line.box.left for line in lines)
    right = sorted(line.box.right for line in lines)[int(0.9 * (len(lines) - 1))]
    pitches = [(b.base - a.base) / b.size for a, b in itertools.pairwise(lines) if 0 < b.base - a.base < 3 * b.size]
    pitch = sorted(pitches)[len(pitches) // 3] if pitches else 1.2
    is_even = sum(line.box.right > right - line.size for line in lines) >= 0.5 * len(lines) and len(lines) >= 4
    blocks: list[Block] = []
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else None
        if not blocks or _begins(line, blocks[-1].lines, following, (left, right), pitch, is_even):
            blocks.append(Block(line.box, [line]))
        else:
            block = blocks[-1]
            block.lines.append(line)
            block.box = _union([block.box, line.box])
    return blocks


def _begins(
    line: Line, before: list[Line], following: Line | None, edges: tuple[float, float], pitch: float, is_even: bool
) -> bool:
    """Whether a paragraph begins with `line`."""
    last = before[-1]
    size = max(line.size, last.size)
    gap = line.base - last.base
    if gap > max(1.35 * pitch, 1.3) * size or gap <= 0:
        return True
    if not 0.87 < line.size / last.size < 1.15:
        return True
    if _is_parted(line) or _is_parted(last):
        return True
    if _is_item(line) and (line.box.left <= before[0].box.left + size or _is_item(before[0])):
        return True
    left, right = edges
    short = last.box.right < right - max(0.2 * (right - left), 3 * size)
    if short and is_even and not line.text[:1].islower():
        return True
    if line.is_bold != last.is_bold and (short or line.text[:1].isupper() or line.text[:1].isdigit()):
        return True
    ended = bool(_END.search(last.text))
    indent = line.box.left - last.box.left
    if (
        0.8 * size < indent
        and (ended or short)
        and (following is None or following.box.left < line.box.left - 0.5 * size or short)
    ):
        return len(before) > 1 or ended or short
    if indent < -0.8 * size and len(before) > 1 and before[-2].box.left > line.box.left + 0.8 * size:
        return True
    return short and ended and (line.text[:1].isupper() or line.text[:1].isdigit() or not line.text[:1].isalnum())


def _is_item(line: Line) -> bool:
    """Whether a line begins with the mark of a list's item."""
    if len(line.spans) < 2:
        return False
    first, second = line.spans[:2]
    return bool(_LIST.match(first.text.strip())) or (
        first.text.strip() == "o" and second.box.left - first.box.right > 0.8 * line.size
    )


def _is_parted(line: Line) -> bool:
    """Whether wide white stands within a line: its parts are no running text."""
    return any(b.box.left - a.box.right > 3 * line.size for a, b in zip(line.spans, line.spans[1:], strict=False))


def _union(boxes: Sequence[Box]) -> Box:
    return Box(
        min(b.left for b in boxes), min(b.top for b in boxes), max(b.right for b in boxes), max(b.bottom for b in boxes)
    )


# Blocks to text


def _body_size(lines: Iterable[Line]) -> float:
    sizes = Counter[float]()
    for line in lines:
        sizes[round(line.size * 2) / 2] += len(line.text)
    most = max(sizes.values(), default=0)
    return max((size for size, count in sizes.items() if count >= 0.3 * most), default=10.0)


def _markdown(blocks: Sequence[Block], body: float, vocabulary: Counter[str]) -> str:
    texts = []
    for block in blocks:
        if block.table:
            texts.append(block.table)
            continue
        text = _joined(block.lines, vocabulary)
        size = median(line.size for line in block.lines)
        letters = sum(sign.isalpha() for sign in text)
        if (
            size >= 1.18 * body
            and len(block.lines) <= 3
            and len(text) <= 150
            and letters >= max(3, 0.5 * len(text.replace(" ", "")))
            and re.search(r"[^\W\d_]{3}|[\u2e80-\uffef]", text)
            and not _END.search(text)
        ):
            level = 1 if size >= 1.7 * body else 2 if size >= 1.35 * body else 3
            texts.append("#" * level + " " + text)
        else:
            texts.append(
                "- " + text[2:] if _is_item(block.lines[0]) and text.startswith("o ") else _BULLET.sub("- ", text)
            )
    return "\n\n".join(text for text in texts if text.strip())


_JOINING = ("-", "‐", "–", "—", "/")  # 10-20, 737–9, https://a: no space follows where none stands before


def _joined(lines: Sequence[Line], vocabulary: Counter[str]) -> str:
    """Lines as one text; a hyphen at a line's end goes where the parts are one word."""
    text = ""
    for line in lines:
        if not text:
            text = line.text
            continue
        _head, _, tail = text.rpartition(" ")
        if tail[-1:] in ("-", "\xad", "‐") and len(tail) > 1 and tail[-2].isalpha() and line.text[:1].isalpha():
            word, rest = tail[:-1], line.text.split(" ", 1)[0]
            whole, hyphened = vocabulary[_bare(word + rest)], vocabulary[_bare(word + "-" + rest)]
            joined = tail[-1] == "\xad" or (
                line.text[0].islower() and whole >= hyphened and not (hyphened == 0 and "-" in word)
            )
            text = text[:-1] + ("" if joined else "-") + line.text
        elif (tail[-1:] in _JOINING and len(tail) > 1 and line.text[:1].isalnum()) or (
            _is_wide(text[-1]) and _is_wide(line.text[:1] or " ")
        ):
            text += line.text
        else:
            text += " " + line.text
    return text


def _bare(word: str) -> str:
    return word.lower().strip(".,;:!?()[]\"'“”’")


def _is_wide(sign: str) -> bool:
    return "\u3000" <= sign <= "\u9fff" or "\uff00" <= sign <= "\uffef"


# Headers and footers


def _without_furniture(pages: Sequence[Page]) -> list[Page]:
    """`pages` without what stands at the same place of several pages, and without page numbers.

    Only lines at an edge go, from the outermost inwards, up to the first that is part of the text.
    """
    laid = [lines_of([span for span in page.spans if span.turn == 0]) for page in pages]
    places: dict[str, list[float]] = {}
    for lines in laid:
        for line in [*lines[:EDGE_LINES], *lines[max(EDGE_LINES, len(lines) - EDGE_LINES) :]]:
            places.setdefault(_pattern(line), []).append(line.base)
    needed = 2 if len(pages) <= 5 else 3
    cleaned = []
    for page, lines in zip(pages, laid, strict=True):
        body = _body_size(lines)
        gone: set[int] = set()
        for inwards in (lines, lines[::-1]):
            for line, neighbour in itertools.islice(itertools.pairwise(inwards), EDGE_LINES):
                if len(gone) + 3 > sum(len(other.spans) for other in lines):
                    break
                same = sum(abs(base - line.base) < 8 for base in places.get(_pattern(line), ()))
                is_margin = line.base < 0.25 * page.height or line.base > 0.75 * page.height
                is_running = same >= needed and is_margin and len(line.text) < 110 and len(_parts(line)) < 4
                if not is_running and not _is_furniture(line, neighbour, body, page):
                    break
                gone |= {id(span) for span in line.spans}
        cleaned.append(
            replace(page, spans=tuple(span for span in page.spans if id(span) not in gone)) if gone else page
        )
    return cleaned


def _pattern(line: Line) -> str:
    """A line's text as it is compared between pages."""
    return re.sub(r"\d+", "#", line.text)


def _parts(line: Line) -> list[str]:
    """The texts of a line that wide white parts."""
    parts: list[list[Span]] = [[line.spans[0]]]
    for before, span in itertools.pairwise(line.spans):
        if span.box.left - before.box.right > 1.5 * line.size:
            parts.append([])
        parts[-1].append(span)
    return [line_text(part, line.size, line.base) for part in parts]


def _is_furniture(line: Line, neighbour: Line, body: float, page: Page) -> bool:
    """Whether an outermost line is evidently no part of the text: a page number and what is beside it, small print."""
    distance = abs(neighbour.base - line.base) / max(line.size, 0.8 * neighbour.size)
    is_edge = line.box.bottom < 0.15 * page.height or line.box.top > 0.85 * page.height
    if _NUMBER.fullmatch(line.text):
        return distance > (1.3 if is_edge else 2.5)
    if not is_edge or len(line.text) > 150 or distance < 1.15:
        return False
    parts, beside = _parts(line), _parts(neighbour)
    numbers = [part for part in parts if _NUMBER.fullmatch(part) and not part.endswith(".")]
    is_row = any(_NUMBER.fullmatch(part) for part in (beside[0], beside[-1])) and len(beside) > 1
    if 1 < len(parts) < 4 and len(numbers) == 1 and not is_row:
        words = [part for part in parts if part not in numbers and not any(sign.isdigit() for sign in part)]
        if distance > 1.6 or line.size < 0.95 * neighbour.size or len(words) == 2:
            return True
    far = line.box.bottom < 0.08 * page.height or line.box.top > 0.92 * page.height
    return far and distance > 2.5 and line.size <= 0.9 * body and len(line.text) <= 100
