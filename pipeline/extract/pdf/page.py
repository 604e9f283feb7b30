"""What is on a page: pieces of text and where they stand, whatever read them, the text layer or OCR.

Lengths are points (1/72 inch) from the upper left corner of the page as it is shown: rotation and crop are undone.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np

LONGEST_SIDE = 1288
"""Pixels of a page's picture, as olmOCR's models were trained on."""


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


def png(pixels: np.ndarray) -> bytes:
    """A picture (height, width, 3; uint8, RGB) as a PNG file, the same bytes each time."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # before each line which filter it has: none
    lines[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")
    framed = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)
