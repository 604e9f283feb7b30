"""Long documents as segments that fit a style's input budget.

Text is cut after paragraphs; a paragraph above the budget after sentences, a sentence above it after words, a word
above it between code points. Then as few segments as the budget allows are made, of lengths as even as the pieces
permit, so that no document ends in a segment of three words. The whitespace at a segment's ends costs nothing and is
not sent, but belongs to the segment: the segments of a text, joined, are the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BYTES_A_TOKEN = 4

_PARAGRAPH = re.compile(r"\n[^\S\n]*\n\s*")
_SENTENCE = re.compile(r"[.!?…][\"')\]”’»]{0,4}\s+|[。！？][”’」』）]{0,4}\s*|\n\s*")
_WORD = re.compile(r"\s+")
_LEVELS = (_PARAGRAPH, _SENTENCE, _WORD)
_EVEN_STEPS = 12


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a document, in code points: `text[start:end]`."""

    index: int
    start: int
    end: int
    tokens: int  # estimated


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch that is not cut. `core` tokens are those without the whitespace after it."""

    end: int
    tokens: float
    core: float


def split(text: str, budget_tokens: int) -> list[Segment]:
    """Return the segments of `text` in order, each of at most `budget_tokens`; a blank text is one segment of 0 tokens.

    Tokens are UTF-8 bytes / 4. A single code point above the budget stays whole. Time is linear in the text.
    """
    first = len(text) - len(text.lstrip())
    if first == len(text):
        return [Segment(0, 0, len(text), 0)]
    pieces = list(_pieces(text, first, len(text), budget_tokens, 0))
    ends = _even(pieces, float(budget_tokens))
    segments = []
    start = 0
    low = 0
    for index, high in enumerate(ends):
        chosen = pieces[low:high]
        tokens = sum(piece.tokens for piece in chosen[:-1]) + chosen[-1].core
        segments.append(Segment(index, start, chosen[-1].end, -int(-tokens // 1)))
        start, low = chosen[-1].end, high
    return segments


def _tokens(text: str) -> float:
    return len(text.encode("utf-8", "surrogatepass")) / BYTES_A_TOKEN


def _pieces(text: str, start: int, end: int, budget: int, level: int) -> Iterator[_Piece]:
    """Yield the pieces of `text[start:end]`, each within the budget, cut at the coarsest level that does."""
    if level == len(_LEVELS):
        yield from _cut_word(text, start, end, budget)
        return
    at = start
    for match in _LEVELS[level].finditer(text, start, end):
        if match.end() < end:
            yield from _piece(text, at, match.end(), budget, level)
            at = match.end()
    yield from _piece(text, at, end, budget, level)


def _piece(text: str, start: int, end: int, budget: int, level: int) -> Iterator[_Piece]:
    if start == end:
        return
    whole = text[start:end]
    core = _tokens(whole.rstrip())
    if core > budget:
        yield from _pieces(text, start, end, budget, level + 1)
    else:
        yield _Piece(end, _tokens(whole), core)


def _cut_word(text: str, start: int, end: int, budget: int) -> Iterator[_Piece]:
    """Cut a word that is above the budget on its own; whitespace after it goes with its last piece."""
    width = budget * BYTES_A_TOKEN
    stop = start + len(text[start:end].rstrip())
    while start < stop:
        upto = min(start + width, stop)
        while upto - start > 1 and _tokens(text[start:upto]) > budget:
            upto = start + (upto - start + 1) // 2
        last = end if upto == stop else upto
        yield _Piece(last, _tokens(text[start:last]), _tokens(text[start:upto]))
        start = last


def _even(pieces: Sequence[_Piece], budget: float) -> list[int]:
    """Return where segments end, as numbers of pieces: as few as the budget allows, the longest as short as it can."""
    ends = _pack(pieces, budget)
    if len(ends) == 1:
        return ends
    low = max(max(piece.core for piece in pieces), sum(piece.tokens for piece in pieces) / len(ends) / 2)
    high = budget
    for _ in range(_EVEN_STEPS):
        middle = (low + high) / 2
        tried = _pack(pieces, middle)
        if len(tried) == len(ends):
            ends, high = tried, middle
        else:
            low = middle
    return ends


def _pack(pieces: Sequence[_Piece], budget: float) -> list[int]:
    """Return where segments end when each takes as many pieces as fit."""
    ends: list[int] = []
    held = 0.0
    for number, piece in enumerate(pieces):
        if number > (ends[-1] if ends else 0) and held + piece.core > budget:
            ends.append(number)
            held = 0.0
        held += piece.tokens
    return [*ends, len(pieces)]
