"""Which pages' text layer is kept, and which pages are read from their picture; the reason is said.

A layer may be absent (a scan), an old OCR's nonsense, or full of signs that its fonts do not name. The hardest to see
is one whose letters are others than those shown, shifted or shuffled: each character looks normal, no word is one.
That shows in pairs of neighbouring letters: in each of some 60 languages a few hundred pairs make up nearly all of a
text, names, tables and code included, and shifted letters make others.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import justext
import numpy as np

from pipeline.extract.pdf.ocr import Reading
from pipeline.extract.pdf.page import Box, Page, Span

Route = Literal["text", "ocr"]

FEW_ON_HALF, FEW_ON_SCAN = 100, 250
"""Fewer visible characters on a page that pictures cover by half, or wholly: a heading, or a stamp on a scan."""
HALF, WHOLE = 0.5, 0.85
MAX_BAD_SHARE = 0.1
MAX_GARBLED_SHARE = 0.2
MIN_TIDY_SHARE = 0.75
"""Of the words of an invisible layer; an OCR's nonsense mixes letters, digits and signs."""
MAX_ILLEGIBLE_SHARE, MIN_CONFIDENCE = 0.5, 0.75
"""Of the lines that an engine saw, by their length, and of those that it read: else it does not know the script."""

WINDOW_PAIRS = 300
"""Letter pairs that are judged together: about 50 words, so that one garbled paragraph shows."""
MIN_PAIRS = 24
GARBLED = -5.2
"""Mean log2 probability of a letter after another, in the best language, below which a window is garbled."""
GARBLED_SHORT = -5.7
"""The same for a window of less than half the size, whose mean varies more."""

_MIN_WORDS, _MOST_WORDS = 150, 1500
_MOST_WINDOWS = 40
_SMOOTHING, _UNSEEN = 0.05, 40
_OURS = re.compile(r"(?:(?![\W\d_])[a-z\u00aa-\u024f\u0386-\u052f\u1e00-\u1fff])+")
"""Latin, Greek and Cyrillic letters."""
_EDGE = 0
_RUN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_TIDY = re.compile(r"[^\W\d_]+(?:['’.\-–—/][^\W\d_]+)*|[-+−±~$€£]?\d+(?:[.,:/\-–]\d+)*(?:%|\w{1,3})?")
_OUTER = "()[]{}<>\"'“”‘’«»„.,;:!?*…|•·–—-=+&/#§"
_MUCH_MORE = 2
_MAX_MIXED, _ACRONYM = 20, 4


@dataclass(frozen=True, slots=True)
class Features:
    """What the route depends on. Characters are counted without white space."""

    visible: int
    """Characters that are shown."""
    hidden: int
    """Characters of invisible text that lies over pictures."""
    image_share: float
    """Of the page's area, covered by pictures."""
    bad_share: float
    """Of the characters: unmapped, U+FFFD, controls, and of private use inside of words."""
    garbled_share: float
    """Of the windows of text: letters stand beside each other as they do in no language."""
    tidy_share: float
    """Of the words: letters alone, or a number. 1 without words."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A page's route, why, and how far its text layer is to be trusted, in [0, 1].

    Above 0 the layer is better than nothing where the route is `ocr` and the picture cannot be read.
    """

    route: Route
    reason: str
    confidence: float
    keeps_hidden: bool = False
    """The invisible text is that of the scan that is shown."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was made of a page: its text's spans, where they are from, and how far they are to be trusted."""

    route: Literal["text", "ocr", "vlm", "blank", "failed"]
    page: Page
    confidence: float
    reason: str


def measure(page: Page) -> Features:
    """The features of a page's text layer."""
    visible = [span for span in page.spans if span.is_visible]
    hidden = [span for span in page.spans if not span.is_visible and _lies_on(page.images, span)]
    n_visible, n_hidden, image_share = _count(visible), _count(hidden), _covered(page)
    # Hidden text counts only where it may be a scan's; elsewhere nobody is meant to read it.
    judged = visible + hidden if _is_scan(n_visible, image_share) else visible
    text = " ".join(span.text for span in judged)
    characters = _count(judged)
    return Features(
        n_visible,
        n_hidden,
        image_share,
        min(1.0, sum(_bad(span.text) for span in judged) / characters) if characters else 0.0,
        garbled_share(text),
        _tidy_share(text),
    )


def route(features: Features) -> Decision:
    """Decide: the text layer is kept, or the page's picture is read (where it shows ink)."""
    found = features
    is_scan = _is_scan(found.visible, found.image_share)
    if not found.visible and not (is_scan and found.hidden):
        return Decision("ocr", "no visible text", 0.0)
    if found.bad_share > MAX_BAD_SHARE:
        return Decision("ocr", f"{found.bad_share:.0%} of the characters stand for no known sign", 0.0)
    if found.garbled_share > MAX_GARBLED_SHARE:
        return Decision("ocr", f"letters as in no language in {found.garbled_share:.0%} of the text", 0.0)
    if is_scan and found.tidy_share < MIN_TIDY_SHARE:
        return Decision("ocr", f"invisible text, of which {found.tidy_share:.0%} are words", 0.0)
    confidence = (1 - found.bad_share) * (1 - found.garbled_share)
    if not is_scan:
        return Decision("text", "visible text", confidence)
    characters = found.visible + found.hidden
    if characters < FEW_ON_SCAN:
        return Decision("ocr", f"{characters} characters on a page that pictures cover", confidence, keeps_hidden=True)
    return Decision("text", "invisible text of a scan", confidence * found.tidy_share, keeps_hidden=True)


def readable(page: Page, decision: Decision) -> Page:
    """The page with the spans that its text is made of, all of them visible."""
    spans = (
        replace(span, is_visible=True)
        for span in page.spans
        if span.is_visible or (decision.keeps_hidden and _lies_on(page.images, span))
    )
    return replace(page, spans=tuple(spans))


def settle(layer: Page, decision: Decision, reading: Reading) -> Outcome:
    """What a page is in the end, whose picture an engine has read.

    An engine that does not know a page's script reads letters into it: neither lines of which it was not sure nor what
    is in no language is kept. What a sound layer has wins unless the engine found much more.
    """
    read, known = reading.page, readable(layer, decision)
    if reading.is_blank and not known.spans:
        return Outcome("blank", known, 1.0, "neither text nor ink")
    is_garbled = garbled_share(" ".join(span.text for span in read.spans)) > MAX_GARBLED_SHARE
    is_unsure = is_garbled or reading.illegible_share > MAX_ILLEGIBLE_SHARE
    is_unsure |= bool(read.spans) and reading.confidence < MIN_CONFIDENCE
    if decision.confidence > 0 and (is_unsure or _count(read.spans) < _MUCH_MORE * _count(known.spans)):
        return Outcome("text", known, decision.confidence, f"{decision.reason}; its picture shows no more")
    if is_unsure or (not read.spans and known.spans):
        return Outcome("failed", replace(read, spans=()), 0.0, f"{decision.reason}; its picture cannot be read")
    if not read.spans:
        return Outcome("blank", read, 1.0, "a picture without writing")
    return Outcome("ocr", read, reading.confidence, decision.reason)


def garbled_share(text: str) -> float:
    """The share of `text`'s windows whose letters follow each other as in no language; 0 for less than a few words.

    Looks at words in Latin, Cyrillic and Greek letters; a text mostly in another script counts as sound.
    """
    index, tables = _tables()
    runs = [run.lower() for token in text.split() for run in _runs(token)]
    known = [codes for codes in ([index.get(letter, -1) for letter in run] for run in runs) if -1 not in codes]
    letters = sum(map(len, known))
    if not known or letters < 0.5 * sum(map(len, runs)):
        return 0.0
    pairs = np.fromiter(_pairs(known, len(index) + 1), dtype=np.int64, count=letters + len(known))
    n_windows = min(_MOST_WINDOWS, max(1, len(pairs) // WINDOW_PAIRS))
    garbled = 0
    for window in np.array_split(pairs, n_windows):
        if len(window) < MIN_PAIRS:
            return 0.0
        best = float(tables[:, window].mean(axis=1, dtype=np.float32).max())
        garbled += best < (GARBLED if len(window) >= WINDOW_PAIRS // 2 else GARBLED_SHORT)
    return garbled / n_windows


def _runs(token: str) -> list[str]:
    """The runs of letters of a token that make words: no single letters, no acronyms, no checksums."""
    if len(token) > _MAX_MIXED and any(sign.isdigit() for sign in token):
        return []
    return [run for run in _RUN.findall(token) if len(run) > (1 if not run.isupper() else _ACRONYM)]


def _pairs(words: Iterable[Sequence[int]], base: int) -> Iterable[int]:
    for word in words:
        before = _EDGE
        for code in word:
            yield before * base + code
            before = code
        yield before * base + _EDGE


@functools.cache
def _tables() -> tuple[dict[str, int], np.ndarray]:
    """The number of each letter, and the log2 probability of each pair in each language: (languages, pairs).

    Counted in the lists of frequent words that jusText brings, each word once.
    """
    lists = []
    for language in sorted(justext.get_stoplists()):
        words = sorted(filter(_OURS.fullmatch, justext.get_stoplist(language)))
        lists += [words[:: len(words) // _MOST_WORDS + 1]] if len(words) >= _MIN_WORDS else []
    index = {letter: number for number, letter in enumerate(sorted({*"".join(map("".join, lists))}), 1)}
    base = len(index) + 1
    tables = np.empty((len(lists), base * base), dtype=np.float16)
    for row, words in zip(tables, lists, strict=True):
        pairs = list(_pairs(([index[letter] for letter in word] for word in words), base))
        counts = np.bincount(pairs, minlength=base * base).reshape(base, base)
        after = counts.sum(axis=1, keepdims=True)
        row[:] = np.log2((counts + _SMOOTHING) / (after + _SMOOTHING * _UNSEEN)).ravel()
    return index, tables


def _tidy_share(text: str) -> float:
    tokens = [token for token in (token.strip(_OUTER) for token in text.split()) if token]
    return sum(_TIDY.fullmatch(token) is not None for token in tokens) / len(tokens) if tokens else 1.0


def _count(spans: Iterable[Span]) -> int:
    return sum(not sign.isspace() for span in spans for sign in span.text)


def _bad(text: str) -> int:
    """Characters that are none; a sign of private use that stands alone is a bullet."""
    alone = len(text) == 1
    return sum(
        sign == "\ufffd" or (not alone and unicodedata.category(sign) in ("Co", "Cn", "Cc"))
        for sign in text
        if sign > "\x7e" or sign < " "
    )


def _is_scan(visible: int, image_share: float) -> bool:
    return visible < (FEW_ON_SCAN if image_share >= WHOLE else FEW_ON_HALF if image_share >= HALF else 0)


def _lies_on(images: Sequence[Box], span: Span) -> bool:
    x, y = (span.box.left + span.box.right) / 2, (span.box.top + span.box.bottom) / 2
    return any(image.left <= x <= image.right and image.top <= y <= image.bottom for image in images)


def _covered(page: Page) -> float:
    """The share of the page under pictures, on a grid of 50 x 50 points of it."""
    grid = np.zeros((50, 50), dtype=bool)
    if page.width <= 0 or page.height <= 0:
        return 0.0
    for box in page.images:
        top, bottom = (round(50 * min(max(side / page.height, 0), 1)) for side in (box.top, box.bottom))
        left, right = (round(50 * min(max(side / page.width, 0), 1)) for side in (box.left, box.right))
        grid[top:bottom, left:right] = True
    return float(grid.mean())
