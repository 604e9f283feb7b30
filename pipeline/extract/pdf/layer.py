"""The text layer of a page, as pdfium reads it: words with their places, lines that are drawn, pictures.

pdfium may crash, hang or eat memory on a hostile file: this module is for the isolated workers alone.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache

import pypdfium2 as pdfium
import pypdfium2.raw as c

from pipeline.extract.pdf.page import Box, Page, Span

MAX_CHARACTERS = 200_000
MAX_OBJECTS = 50_000
MAX_SEGMENTS = 400
MAX_RULES = 20_000
MAX_DEPTH = 6
MAX_PLACES = 400
"""Pictures and filled shapes that are looked at to tell whether text is seen."""
THIN = 3.0
"""A drawn shape at most this wide (points) is a line."""
ASCENT, DESCENT = 0.78, 0.22
"""A span's box reaches this share of the font's size up and down from its baseline: fonts' own figures often err."""
UNMAPPED = "\ufffd"
INVISIBLE_MODES = (3, 7)
_SPACES = frozenset((0x20, 0xA0, 0xD, 0xA, 0x9, 0x3000))
_LIGATURES = {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
_ACCENTS = {
    "`": "\u0300", "´": "\u0301", "ˆ": "\u0302", "˜": "\u0303", "¯": "\u0304", "˘": "\u0306", "˙": "\u0307",
    "¨": "\u0308", "˚": "\u030a", "˝": "\u030b", "ˇ": "\u030c", "¸": "\u0327", "˛": "\u0328",
}  # fmt: skip
_BOLD = re.compile(rb"bold|black|heavy|demi", re.IGNORECASE)
_RTL = ((0x590, 0x8FF), (0xFB1D, 0xFDFF), (0xFE70, 0xFEFF))

Transform = Callable[[float, float], tuple[float, float]]


def read_page(page: pdfium.PdfPage) -> Page:
    """What `page` holds, at most `MAX_CHARACTERS` characters and `MAX_OBJECTS` drawn objects of it.

    Raises: pypdfium2.PdfiumError when the page cannot be read.
    """
    shown, width, height = _shown(page)
    drawing = _Drawing(shown, width, height)
    drawing.read(page)
    textpage = page.get_textpage()
    try:
        reader = _Characters(textpage, shown, page.get_rotation(), drawing)
        spans = tuple(reader.spans())
    finally:
        textpage.close()
    return Page(width, height, spans, tuple(drawing.rules), tuple(drawing.images), reader.unmapped)


def _shown(page: pdfium.PdfPage) -> tuple[Transform, float, float]:
    """From the file's space into that of the page as it is shown; its width and height."""
    left, bottom, right, top = page.get_bbox()
    wide, high = right - left, top - bottom
    match page.get_rotation():
        case 90:
            return (lambda x, y: (y - bottom, x - left)), high, wide
        case 180:
            return (lambda x, y: (right - x, y - bottom)), wide, high
        case 270:
            return (lambda x, y: (top - y, right - x)), high, wide
        case _:
            return (lambda x, y: (x - left, top - y)), wide, high


def _address(handle: object) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


class _Drawing:
    """What is drawn on a page beside its text, and in which order."""

    def __init__(self, shown: Transform, width: float, height: float) -> None:
        self.shown, self.width, self.height = shown, width, height
        self.rules: list[Box] = []
        self.images: list[Box] = []
        self.fills: list[tuple[int, Box]] = []
        self.covers: list[tuple[int, Box]] = []
        self.order: dict[int, int] = {}
        self.clips: dict[int, Box] = {}
        self.count = 0

    def read(self, page: pdfium.PdfPage) -> None:
        raw = page.raw
        for index in range(c.FPDFPage_CountObjects(raw)):
            if not self._object(c.FPDFPage_GetObject(raw, index), (1, 0, 0, 1, 0, 0), 0):
                return

    def _object(self, item: object, outer: tuple[float, ...], depth: int) -> bool:
        self.count += 1
        if self.count > MAX_OBJECTS:
            return False
        kind = c.FPDFPageObj_GetType(item)
        if kind == c.FPDF_PAGEOBJ_TEXT:
            self.order[_address(item)] = self.count
            if depth == 0:
                self._clip(item)
        elif kind == c.FPDF_PAGEOBJ_PATH:
            self._path(item, outer)
        elif kind == c.FPDF_PAGEOBJ_IMAGE:
            box = self._bounds(item, outer)
            self.images.append(box)
            if len(self.covers) < MAX_PLACES:
                self.covers.append((self.count, box))
        elif kind == c.FPDF_PAGEOBJ_FORM and depth < MAX_DEPTH:
            inner = _product(_matrix(item), outer)
            for index in range(c.FPDFFormObj_CountObjects(item)):
                if not self._object(c.FPDFFormObj_GetObject(item, index), inner, depth + 1):
                    return False
        return True

    def _clip(self, item: object) -> None:
        """Where a text object is cut off, when it is."""
        clip = c.FPDFPageObj_GetClipPath(item)
        x, y = ctypes.c_float(), ctypes.c_float()
        boxes = []
        for path in range(min(max(c.FPDFClipPath_CountPaths(clip), 0), 8) if clip else 0):
            points = []
            for index in range(min(max(c.FPDFClipPath_CountPathSegments(clip, path), 0), MAX_SEGMENTS)):
                c.FPDFPathSegment_GetPoint(c.FPDFClipPath_GetPathSegment(clip, path, index), x, y)
                points.append(self.shown(x.value, y.value))
            if points:
                boxes.append(_around(points))
        if boxes:
            self.clips[_address(item)] = Box(
                max(box.left for box in boxes),
                max(box.top for box in boxes),
                min(box.right for box in boxes),
                min(box.bottom for box in boxes),
            )

    def _bounds(self, item: object, outer: tuple[float, ...]) -> Box:
        left, bottom, right, top = (ctypes.c_float() for _ in range(4))
        c.FPDFPageObj_GetBounds(item, left, bottom, right, top)
        corners = (
            (left.value, bottom.value),
            (right.value, top.value),
            (left.value, top.value),
            (right.value, bottom.value),
        )
        return _around([self.shown(*_moved(outer, x, y)) for x, y in corners])

    def _path(self, item: object, outer: tuple[float, ...]) -> None:
        box = self._bounds(item, outer)
        wide, high = box.right - box.left, box.bottom - box.top
        if box.right < 0 or box.bottom < 0 or box.left > self.width or box.top > self.height:
            return
        fill, stroke = ctypes.c_int(), ctypes.c_int()
        c.FPDFPath_GetDrawMode(item, fill, stroke)
        if (not fill.value and not stroke.value) or len(self.rules) > MAX_RULES:
            return
        if wide <= THIN or high <= THIN:
            if wide > THIN or high > THIN:
                self.rules.append(box)
            return
        if fill.value:
            colour = _colour(item)
            if colour[3] and min(colour[:3]) < 250 and len(self.fills) < MAX_PLACES:
                self.fills.append((self.count, box))
        if not stroke.value:
            return
        segments = c.FPDFPath_CountSegments(item)
        if segments > MAX_SEGMENTS:
            return
        matrix = _product(_matrix(item), outer)
        x, y = ctypes.c_float(), ctypes.c_float()
        start = last = (0.0, 0.0)
        for index in range(segments):
            segment = c.FPDFPath_GetPathSegment(item, index)
            kind = c.FPDFPathSegment_GetType(segment)
            c.FPDFPathSegment_GetPoint(segment, x, y)
            point = self.shown(*_moved(matrix, x.value, y.value))
            if kind == c.FPDF_SEGMENT_MOVETO:
                start = point
            elif kind == c.FPDF_SEGMENT_LINETO:
                self._edge(last, point)
            if c.FPDFPathSegment_GetClose(segment):
                self._edge(point, start)
            last = point

    def _edge(self, one: tuple[float, float], other: tuple[float, float]) -> None:
        box = _around([one, other])
        wide, high = box.right - box.left, box.bottom - box.top
        if min(wide, high) <= 0.5 and max(wide, high) > THIN:
            self.rules.append(box)


def _around(points: list[tuple[float, float]]) -> Box:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return Box(min(xs), min(ys), max(xs), max(ys))


def _matrix(item: object) -> tuple[float, ...]:
    matrix = c.FS_MATRIX()
    c.FPDFPageObj_GetMatrix(item, matrix)
    return (matrix.a, matrix.b, matrix.c, matrix.d, matrix.e, matrix.f)


def _product(inner: tuple[float, ...], outer: tuple[float, ...]) -> tuple[float, ...]:
    a, b, d, e, g, h = inner
    A, B, D, E, G, H = outer
    return (a * A + b * D, a * B + b * E, d * A + e * D, d * B + e * E, g * A + h * D + G, g * B + h * E + H)


def _moved(matrix: tuple[float, ...], x: float, y: float) -> tuple[float, float]:
    return matrix[0] * x + matrix[2] * y + matrix[4], matrix[1] * x + matrix[3] * y + matrix[5]


def _colour(item: object) -> tuple[int, int, int, int]:
    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    if not c.FPDFPageObj_GetFillColor(item, red, green, blue, alpha):
        return 0, 0, 0, 255
    return red.value, green.value, blue.value, alpha.value


@dataclass(slots=True)
class _Style:
    """What the characters of one text object share."""

    size: float
    turn: int
    is_bold: bool
    mode: int
    colour: tuple[int, int, int, int]
    order: int
    clip: Box | None

    def along(self, x: float, y: float) -> tuple[float, float]:
        cosine, sine = _direction(self.turn)
        return x * cosine - y * sine, x * sine + y * cosine

    def back(self, u: float, v: float) -> tuple[float, float]:
        cosine, sine = _direction(self.turn)
        return u * cosine + v * sine, v * cosine - u * sine


@dataclass(slots=True)
class _Word:
    """Characters of one baseline, in the frame of their direction: `u` along it, `v` across, downwards."""

    style: _Style
    v: float
    signs: list[tuple[float, float, str]] = field(default_factory=list)
    is_spaced: bool = False


class _Characters:
    def __init__(self, textpage: pdfium.PdfTextPage, shown: Transform, rotation: int, drawing: _Drawing) -> None:
        self.raw, self.shown, self.rotation, self.drawing = textpage.raw, shown, rotation, drawing
        self.styles: dict[int, _Style] = {}
        self.unmapped = 0

    def spans(self) -> Iterator[Span]:
        words = _accented(list(self._words()))
        below = {id(other) for one, other in itertools.pairwise(words) if _is_downwards(one, other)}
        is_vertical = len(below) > 0.4 * len(words)
        before: Span | None = None
        for word in words:
            span = self._span(word)
            if is_vertical and before is not None and id(word) in below:
                span = replace(span, box=Box(before.box.left, span.box.top, before.box.right, span.box.bottom))
            before = replace(span, turn=270) if is_vertical and len(word.signs) == 1 else span
            yield before

    def _words(self) -> Iterator[_Word]:
        raw, shown = self.raw, self.shown
        unicode, textobject, loose, origin = (
            c.FPDFText_GetUnicode,
            c.FPDFText_GetTextObject,
            c.FPDFText_GetLooseCharBox,
            c.FPDFText_GetCharOrigin,
        )
        rect, x, y = c.FS_RECTF(), ctypes.c_double(), ctypes.c_double()
        word: _Word | None = None
        end, high, before, invented = 0.0, 0, 0, False
        for index in range(min(c.FPDFText_CountChars(raw), MAX_CHARACTERS)):
            code = unicode(raw, index)
            handle = textobject(raw, index)
            if code in _SPACES or not handle:
                if word is not None and not c.FPDFText_IsGenerated(raw, index):
                    word.is_spaced = True
                    yield word
                    word = None
                invented = True
                continue
            if 0xD800 <= code < 0xDC00:
                high = code
                continue
            if 0xDC00 <= code < 0xE000:
                code, high = (0x10000 + ((high - 0xD800) << 10) + code - 0xDC00 if high else 0xFFFD), 0
            address = ctypes.addressof(handle.contents)
            style = self.styles.get(address)
            if style is None:
                style = self.styles[address] = self._style(index, handle, address)
            if code in (2, 0xFFFE):
                sign = "-"
            elif c.FPDFText_HasUnicodeMapError(raw, index) or code < 0x20 or 0x7F <= code < 0xA0:
                sign = UNMAPPED
                self.unmapped += 1
            else:
                sign = chr(code)
            loose(raw, index, rect)
            origin(raw, index, x, y)
            size = style.size
            u, v = style.along(*shown(x.value, y.value))
            if style.turn % 90:
                u0, u1 = u, u + size / 2
            else:
                u0, _ = style.along(*shown(rect.left, rect.bottom))
                u1, _ = style.along(*shown(rect.right, rect.top))
                if u1 < u0:
                    u0, u1 = u1, u0
            if word is not None and (
                word.style.turn != style.turn
                or abs(word.v - v) > 0.12 * size
                or u0 - end > (0.5 if style.turn % 90 else 0.05 if invented else 0.25) * size
                or u0 < end - 2 * size
                or not 0.85 < size / word.style.size < 1.18
            ):
                word.is_spaced = invented and u0 - end > 0.05 * size
                yield word
                word = None
            if word is None:
                word = _Word(style, v)
            if (
                any(other == sign and abs(left - u0) < 0.15 * size for left, _, other in word.signs[-2:])
                and address != before
            ):
                continue
            word.signs.append((u0, u1, sign))
            end, before, invented = u1, address, False
        if word is not None:
            yield word

    def _style(self, index: int, handle: object, address: int) -> _Style:
        matrix = c.FS_MATRIX()
        c.FPDFText_GetMatrix(self.raw, index, matrix)
        size = c.FPDFText_GetFontSize(self.raw, index) * math.hypot(matrix.c, matrix.d)
        angle = math.degrees(math.atan2(matrix.b, matrix.a)) - self.rotation
        turn = round(angle / 90) * 90 if abs(angle / 90 - round(angle / 90)) < 0.2 else round(angle)
        is_bold = c.FPDFText_GetFontWeight(self.raw, index) >= 600 or self._font(index)
        mode = c.FPDFTextObj_GetTextRenderMode(handle)
        order = self.drawing.order.get(address, 0)
        return _Style(
            abs(size) or 1.0, turn % 360, is_bold, mode, _colour(handle), order, self.drawing.clips.get(address)
        )

    def _font(self, index: int) -> bool:
        """Whether the font's name says that it is bold."""
        name, flags = ctypes.create_string_buffer(128), ctypes.c_int()
        c.FPDFText_GetFontInfo(self.raw, index, name, 128, flags)
        return bool(_BOLD.search(name.value))

    def _span(self, word: _Word) -> Span:
        style, signs = word.style, word.signs
        if any(_is_rtl(sign) for _, _, sign in signs):
            signs = _logical(signs)
        text = "".join(_LIGATURES.get(sign, sign) for _, _, sign in signs) + (" " if word.is_spaced else "")
        left, right = min(s[0] for s in signs), max(s[1] for s in signs)
        top, bottom = word.v - ASCENT * style.size, word.v + DESCENT * style.size
        box = _around([style.back(u, v) for u in (left, right) for v in (top, bottom)])
        return Span(text, box, style.size, style.is_bold, self._is_visible(style, box), style.turn)

    def _is_visible(self, style: _Style, box: Box) -> bool:
        if style.mode in INVISIBLE_MODES or style.colour[3] == 0:
            return False
        if box.right <= 0 or box.bottom <= 0 or box.left >= self.drawing.width or box.top >= self.drawing.height:
            return False
        x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        if style.clip is not None and not _holds(style.clip, x, y):
            return False
        if min(style.colour[:3]) >= 250 and not any(
            order < style.order and _holds(place, x, y) for order, place in self.drawing.fills + self.drawing.covers
        ):
            return False
        return not any(order > style.order and _holds(place, x, y) for order, place in self.drawing.covers)


def _holds(box: Box, x: float, y: float) -> bool:
    return box.left <= x <= box.right and box.top <= y <= box.bottom


def _is_downwards(one: _Word, other: _Word) -> bool:
    """Whether two signs stand upright one below the other, as columns of Chinese and Japanese do."""
    if len(one.signs) != 1 or len(other.signs) != 1 or one.style.turn or other.style.turn:
        return False
    size = one.style.size
    is_below = 0.3 * size < other.v - one.v < 2 * size and abs(one.signs[0][0] - other.signs[0][0]) < 0.7 * size
    return is_below and all(word.signs[0][2] > "\u2e7f" for word in (one, other))


def _is_rtl(sign: str) -> bool:
    code = ord(sign[0])
    return code >= 0x590 and any(low <= code <= high for low, high in _RTL)


def _accented(words: list[_Word]) -> list[_Word]:
    """Accents that are drawn over a letter of their own put into it; words that are empty then are left out."""
    if not any(sign in _ACCENTS for word in words for _, _, sign in word.signs):
        return words
    letters: dict[int, list[tuple[_Word, int]]] = {}
    for word in words:
        for index, (_, _, sign) in enumerate(word.signs):
            if sign[0].isalpha() and sign not in _ACCENTS:
                letters.setdefault(round(word.v / 4), []).append((word, index))
    gone: dict[int, set[int]] = {}
    for word in words:
        for place, (left, right, accent) in enumerate(word.signs):
            below = _letter(letters, word, (left + right) / 2) if accent in _ACCENTS else None
            if below is not None:
                other, index = below
                start, end, base = other.signs[index]
                base = {"ı": "i", "ȷ": "j"}.get(base, base)
                other.signs[index] = (start, end, unicodedata.normalize("NFC", base + _ACCENTS[accent]))
                gone.setdefault(id(word), set()).add(place)
    for word in words:
        if id(word) in gone:
            word.signs = [sign for place, sign in enumerate(word.signs) if place not in gone[id(word)]]
    return [word for word in words if word.signs]


def _letter(letters: dict[int, list[tuple[_Word, int]]], word: _Word, middle: float) -> tuple[_Word, int] | None:
    """The letter over whose middle an accent of `word` stands."""
    best, least = None, 0.17 * word.style.size
    for row in (round(word.v / 4) + step for step in (-1, 0, 1)):
        for other, index in letters.get(row, ()):
            start, end, _ = other.signs[index]
            away = abs((start + end) / 2 - middle)
            if away < least and other.style.turn == word.style.turn and abs(other.v - word.v) < 0.5 * word.style.size:
                best, least = (other, index), away
    return best


def _logical(signs: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Right to left by place; what one glyph stands for is given last sign first by pdfium, but for lam with alef."""
    ordered = sorted(signs, key=lambda sign: -sign[1])
    for index in range(len(ordered) - 1):
        one, other = ordered[index], ordered[index + 1]
        if other[2] == "ل" and one[2] in "اأإآ" and one[:2] == other[:2]:
            ordered[index], ordered[index + 1] = other, one
    return ordered


@lru_cache(maxsize=512)
def _direction(turn: int) -> tuple[float, float]:
    return math.cos(math.radians(turn)), math.sin(math.radians(turn))
