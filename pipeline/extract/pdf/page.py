"""What is on a page: pieces of text and where they stand, whatever read them, the text layer or OCR.

Lengths are points (1/72 inch) from the upper left corner of the page as it is shown: rotation and crop are undone.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: `left <= right`, `top <= bottom`."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Span:
    """A word, or a run of words, of one line. `size` is the font's in points, `turn` its direction in degrees."""

    text: str
    box: Box
    size: float
    is_bold: bool = False
    is_visible: bool = True
    turn: int = 0
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Page:
    """What one page holds. `rules` are thin lines, `images` places of pictures, in the order they are drawn in."""

    width: float
    height: float
    spans: tuple[Span, ...]
    rules: tuple[Box, ...] = ()
    images: tuple[Box, ...] = ()
    unmapped: int = 0
    """Characters of the layer that stand for no known sign: their font does not say which."""
