"""Words of one column to lines: what stands on one baseline, with raised and lowered signs at their places."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.extract.pdf.page import Box, Span

_RAISED = str.maketrans("0123456789+-−=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿⁱ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_BUCKET = 4.0
_DIGITS = set("0123456789+-− ")


@dataclass(slots=True)
class Line:
    """Words from left to right on one baseline `base`; `size` is that of most of the text."""

    spans: list[Span]
    box: Box = field(init=False)
    size: float = field(init=False)
    base: float = field(init=False)
    text: str = field(init=False)
    is_bold: bool = field(init=False)

    def __post_init__(self) -> None:
        spans = self.spans
        sizes = Counter[float]()
        for span in spans:
            sizes[span.size] += len(span.text)
        self.size = max(sizes, key=lambda size: (sizes[size], size))
        main = [span for span in spans if span.size >= 0.9 * self.size] or spans
        self.base = sorted(span.box.bottom for span in main)[len(main) // 2]
        self.box = Box(
            min(s.box.left for s in spans),
            min(s.box.top for s in main),
            max(s.box.right for s in spans),
            max(s.box.bottom for s in main),
        )
        self.text = line_text(spans, self.size, self.base)
        self.is_bold = all(span.is_bold for span in spans)


def lines_of(words: Sequence[Span]) -> list[Line]:
    """`words` of one column as lines from top to bottom."""
    words, caps = _without_caps(words)
    rows: list[list[Span]] = []
    ends: dict[int, list[list[Span]]] = {}
    for word in sorted(words, key=lambda s: (s.box.left, s.box.bottom)):
        bottom, reach = word.box.bottom, 0.3 * word.size
        best, least = None, 0.3
        for place in range(int((bottom - reach) // _BUCKET), int((bottom + reach) // _BUCKET) + 1):
            for row in ends.get(place, ()):
                last = row[-1]
                away = abs(last.box.bottom - bottom) / (last.size if last.size < word.size else word.size)
                if away < least:
                    best, least = row, away
        if best is None:
            rows.append(best := [])
        else:
            ends[int(best[-1].box.bottom // _BUCKET)].remove(best)
        best.append(word)
        ends.setdefault(int(bottom // _BUCKET), []).append(best)
    rows = _attached(rows)
    for cap in caps:
        right = [
            row
            for row in rows
            if min(w.box.left for w in row) >= cap.box.right - 0.1 * cap.size and _beside(cap, row[0])
        ]
        if right:
            first = min(right, key=lambda row: row[0].box.top)
            start = min(first, key=lambda word: word.box.left)
            box = Box(cap.box.left, start.box.top, start.box.left, start.box.bottom)
            first.append(replace(cap, text=cap.text.strip(), box=box, size=start.size))
        else:
            rows.append([cap])
    return sorted((Line(_ordered(row)) for row in rows), key=lambda line: (line.base, line.box.left))


def _without_caps(words: Sequence[Span]) -> tuple[Sequence[Span], list[Span]]:
    """Words without the large letters with which paragraphs begin, and those letters."""
    sizes = Counter[float]()
    for word in words:
        sizes[word.size] += len(word.text)
    usual = max(sizes, key=lambda size: (sizes[size], size), default=0.0)
    caps = [
        word
        for word in words
        if word.size >= 1.9 * usual and len(word.text.strip()) == 1 and word.text.strip().isalpha()
    ]
    caps = [
        cap for cap in caps if sum(_beside(cap, word) and word.box.left >= cap.box.right - 1 for word in words) >= 4
    ]
    return ([word for word in words if word not in caps], caps) if caps else (words, caps)


def _beside(cap: Span, word: Span) -> bool:
    return (
        word.size < 0.6 * cap.size
        and cap.box.top - word.size < word.box.top
        and word.box.bottom < cap.box.bottom + word.size
    )


def _attached(rows: list[list[Span]]) -> list[list[Span]]:
    """Small raised and lowered words put into the line that they touch."""
    rows.sort(key=lambda row: row[0].box.bottom)
    heights = [max(word.size for word in row) for row in rows]
    kept: list[list[Span]] = [list(row) for row in rows]
    for index, row in enumerate(rows):
        near = [
            other
            for other in range(max(0, index - 4), min(len(rows), index + 5))
            if other != index and heights[other] > 1.15 * heights[index]
        ]
        for word in row:
            for other in near:
                if any(_touches(word, big) for big in rows[other] if 2.2 * word.size > big.size > 1.15 * word.size):
                    kept[index].remove(word)
                    kept[other].append(word)
                    break
    return [row for row in kept if row]


def _touches(small: Span, big: Span) -> bool:
    shared = min(small.box.bottom, big.box.bottom) - max(small.box.top, big.box.top)
    if shared < 0.3 * (small.box.bottom - small.box.top):
        return False
    if small.box.right <= big.box.left and small.box.bottom < big.box.bottom:
        return big.box.left - small.box.right < 1.2 * big.size
    return max(small.box.left - big.box.right, big.box.left - small.box.right) < 0.35 * big.size


def _ordered(row: list[Span]) -> list[Span]:
    row.sort(key=lambda span: span.box.left)
    if sum(len(span.text) for span in row if _is_rtl(span.text)) * 2 > sum(len(span.text) for span in row):
        row.reverse()
    return row


def _is_rtl(text: str) -> bool:
    return any("\u0590" <= sign <= "\u08ff" or "\ufb1d" <= sign <= "\ufefc" for sign in text)


def line_text(spans: Sequence[Span], size: float, base: float) -> str:
    """The words of a line with spaces between them; digits that are raised or lowered as such."""
    text = ""
    before: Span | None = None
    for span in spans:
        piece = span.text
        if before is not None and text[-1:] != " ":
            gap = max(span.box.left - before.box.right, before.box.left - span.box.right)
            if gap > 0.12 * min(size, max(span.size, before.size)):
                text += " "
        if span.size < 0.87 * size and set(piece) <= _DIGITS:
            if base - span.box.bottom > 0.1 * size:
                piece = piece.translate(_RAISED)
            elif span.box.bottom - base > 0.02 * size:
                piece = piece.translate(_LOWERED)
        text += piece
        before = span
    return text.strip()
