"""Reading the picture of a page: `rapidocr`, whose models lie in its wheel, or the program `tesseract`.

For the isolated workers alone: the picture comes from a hostile file. One thread, no network, the same text each time.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import io
import math
import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.extract.pdf.page import Box, Page, Span
from pipeline.table.errors import GristmillError, MissingDependencyError

Engine = Literal["rapidocr", "tesseract"]

POINTS_PER_INCH = 72.0
MAX_DPI = 200.0
MAX_SIDE_PIXELS = 2000
"""What the detector looks at: a larger picture would be made smaller again."""
MIN_CONFIDENCE = 0.6
"""Lines read with less are left out: what is no writing is not made to be some."""
INK = 60.0
"""Grey levels (of 255) by which ink differs from the paper around it."""
MIN_INKED_SHARE = 1e-5
GAP = 0.1
_SIZE_OF_HEIGHT = 0.86
"""A font's size as a share of the height of the box that is drawn around a line in it."""
_MARGIN = 0.12
"""Of the font's size: so much wider on each side than a line is the box that rapidocr draws around it."""
_ALIKE = 0.15
"""Sizes of lines that differ by less are measured anew: their boxes differ by what letters are in them."""
_GUTTER = 0.6
"""Of a line's height: wider white parts columns; between words there is less."""
_MOST_SKEW = math.radians(15)
_SURE = 0.85
"""Lines read with this confidence on average stand upright."""
_SAMPLE = 12
"""So many lines tell whether a picture is upside down."""
_SURE_OF_ORIENTATION = 10.0
_TESSERACT_S = 60


class OcrError(GristmillError):
    """The engine failed at a picture."""


def check(engine: Engine) -> None:
    """Check that `engine` can run here, without loading it.

    Raises: MissingDependencyError.
    """
    if engine == "rapidocr" and not all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime")):
        raise MissingDependencyError("reading scanned pages needs an extra: pip install 'gristmill[ocr]'")
    if engine == "tesseract" and shutil.which("tesseract") is None:
        raise MissingDependencyError(
            "ocr engine tesseract: the program is not on the PATH; install tesseract, or choose the engine rapidocr"
        )


def installed() -> Engine | None:
    """Return the first engine that can run here, None without any."""
    if all(importlib.util.find_spec(name) for name in ("rapidocr", "onnxruntime")):
        return "rapidocr"
    return "tesseract" if shutil.which("tesseract") else None


def dpi_for(width: float, height: float) -> float:
    """The resolution at which a page of `width` x `height` points is to be rendered for `recognise`."""
    return min(MAX_DPI, MAX_SIDE_PIXELS * POINTS_PER_INCH / max(width, height, 1.0))


@dataclass(frozen=True, slots=True)
class Reading:
    """What an engine read on a picture: a page, upright, its spans in points."""

    page: Page
    confidence: float
    """The mean of the spans', each by its length; 0 without any."""
    illegible_share: float
    """Of the lines that were seen, by their length: left out, since the engine was not sure of them."""
    is_blank: bool
    """Nothing is drawn on the picture."""


def recognise(image: np.ndarray, dpi: float, engine: Engine = "rapidocr", languages: str = "eng") -> Reading:
    """Read `image` (height, width, 3; uint8, BGR), a page rendered at `dpi`: its lines as spans, in points.

    A picture that lies on its side or stands on its head is turned first: the page that comes back is upright, so
    width and height may have changed places. A picture without writing gives a page without spans. `languages` are
    tesseract's names, joined by `+`; rapidocr's one model knows Latin, Greek, Chinese and Japanese writing.

    Raises: MissingDependencyError; OcrError when the engine fails.
    """
    check(engine)
    scale = POINTS_PER_INCH / dpi
    regions = inked(image)
    if engine == "tesseract":
        lines, turns = _tesseract(image, dpi, languages) if regions else ([], 0)
    else:
        lines, turns = _rapidocr(np.ascontiguousarray(image), regions)
        lines = _tightened(lines)
    legible = [line for line in lines if line.confidence >= MIN_CONFIDENCE and any(map(str.isalnum, line.text))]
    spans = tuple(
        Span(line.text, Box(*(side * scale for side in line.box)), line.size * scale, confidence=line.confidence)
        for line in legible
    )
    height, width = image.shape[:2] if turns % 2 == 0 else image.shape[1::-1]
    seen, read = (sum(line.box[2] - line.box[0] for line in some) for some in (lines, legible))
    characters = sum(len(span.text) for span in spans)
    return Reading(
        Page(width * scale, height * scale, spans),
        sum(span.confidence * len(span.text) for span in spans) / characters if characters else 0.0,
        1 - read / seen if seen else 0.0,
        not regions,
    )


def inked(image: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Where a picture (height, width, 3; uint8) of a page is drawn on: left, top, right, bottom of its parts.

    Parts are apart by `GAP` of the page's height. Paper may be of any colour and shade; what shines through from its
    other side is fainter than ink. The outermost 2 % are not looked at: scanners leave shadows there.
    """
    grey = image.mean(axis=2, dtype=np.float32)
    high, wide = grey.shape
    top, left = high // 50, wide // 50
    step = max(1, min(high, wide) // 32)
    rows, columns = (high - 2 * top) // step, (wide - 2 * left) // step
    if not rows or not columns:
        return []
    grey = grey[top : top + rows * step, left : left + columns * step]
    blocks = grey.reshape(rows, step, columns, step)
    paper = np.median(blocks, axis=(1, 3), keepdims=True)
    # A block that is inked wholly differs from its neighbours.
    marks = (np.abs(blocks - paper) > INK) | (np.abs(paper - np.median(paper)) > 2 * INK)
    counts = marks.sum(axis=(1, 3))
    if counts.sum() <= MIN_INKED_SHARE * grey.size:
        return []
    found = np.flatnonzero(counts.any(axis=1))
    parts = np.split(found, np.flatnonzero(np.diff(found) > GAP * rows) + 1)
    boxes = []
    for part in parts:
        across = np.flatnonzero(counts[part].any(axis=0))
        # One block more on each side: letters that a block's edge cuts, and paper around them.
        boxes.append(
            (
                max(0, left + step * int(across[0] - 1)),
                max(0, top + step * int(part[0] - 1)),
                min(wide, left + step * int(across[-1] + 2)),
                min(high, top + step * int(part[-1] + 2)),
            )
        )
    return boxes


class _Line(NamedTuple):
    text: str
    confidence: float
    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in pixels."""
    size: float
    """Of the font, in pixels."""


@functools.cache
def _engine() -> Any:
    import rapidocr

    models = Path(rapidocr.__file__).parent / "models"
    return rapidocr.RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.max_side_len": MAX_SIDE_PIXELS,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            # Named, so that none is looked for on the network.
            "Det.model_path": str(models / "PP-OCRv6_det_small.onnx"),
            "Rec.model_path": str(models / "PP-OCRv6_rec_small.onnx"),
            "Cls.model_path": str(models / "ch_ppocr_mobile_v2.0_cls_mobile.onnx"),
        }
    )


def _rapidocr(image: np.ndarray, regions: list[tuple[int, int, int, int]]) -> tuple[list[_Line], int]:
    """The lines of `image`, and by how many quarters against the clock it had to be turned to stand upright."""
    try:
        lines = _read_regions(image, regions)
        turns = _turns(image, lines)
        if turns:
            image = np.ascontiguousarray(np.rot90(image, turns))
            lines = _read_regions(image, inked(image))
    except Exception as error:
        raise OcrError(f"rapidocr: {type(error).__name__}: {error}") from error
    return lines, turns


def _read_regions(image: np.ndarray, regions: list[tuple[int, int, int, int]]) -> list[_Line]:
    """The lines of each region, which is read by itself: on a page nearly empty the detector sees nothing."""
    lines = []
    for left, top, right, bottom in regions:
        for line in _read_lines(np.ascontiguousarray(image[top:bottom, left:right])):
            box = (line.box[0] + left, line.box[1] + top, line.box[2] + left, line.box[3] + top)
            lines.append(line._replace(box=box))
    return lines


def _read_lines(image: np.ndarray) -> list[_Line]:
    from rapidocr.main import RapidOCRError

    # Not by calling the engine: it does not say which lines it saw and could not read.
    padding: dict[str, dict[str, int]] = {}
    try:
        crops, found = _engine().detect_and_crop(image, padding)
    except RapidOCRError:  # it found no line
        return []
    boxes = np.asarray(found.boxes, dtype=np.float64) - (padding["padding_1"]["left"], padding["padding_1"]["top"])
    parts = [part for crop, box in zip(crops, boxes, strict=True) for part in _split(crop, box)]
    crops = [crop for crop, _ in parts]
    corners = np.stack([box for _, box in parts])  # (lines, 4, 2): from the upper left, clockwise
    along = corners[:, 1] - corners[:, 0]
    lengths = np.hypot(along[:, 0], along[:, 1])
    is_long = lengths >= 0.5 * lengths.max()
    skew = float(np.median(np.arctan2(along[is_long, 1], along[is_long, 0])))
    if 0 < abs(skew) < _MOST_SKEW:  # the page hung askew in the scanner: upright boxes overlap less
        cosine, sine = math.cos(skew), math.sin(skew)
        middle = np.array([image.shape[1], image.shape[0]]) / 2
        corners = (corners - middle) @ np.array([[cosine, -sine], [sine, cosine]]) + middle
    heights = np.hypot(*(corners[:, 3] - corners[:, 0]).T)
    return [
        _Line(text.strip(), score, (*low, *high), _SIZE_OF_HEIGHT * height)
        for (text, score), low, high, height in zip(
            _read_crops(crops),
            corners.min(axis=1).tolist(),
            corners.max(axis=1).tolist(),
            heights.tolist(),
            strict=True,
        )
    ]


def _split(crop: np.ndarray, corners: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """A line's picture with its corners, or its parts with theirs, where wide white runs down through it.

    The detector joins the lines of columns that stand close. Words far apart may be parted, too: that does no harm.
    """
    high, wide, _ = crop.shape
    if wide < 4 * high:
        return [(crop, corners)]
    grey = crop.mean(axis=2, dtype=np.float32)
    inked = np.flatnonzero((np.abs(grey - np.median(grey)) > INK).any(axis=0))
    gaps = np.flatnonzero(np.diff(inked) > _GUTTER * high)
    if not len(gaps):
        return [(crop, corners)]
    margin = round(high / 8)
    starts = [0, *(int(inked[gap + 1]) - margin for gap in gaps)]
    ends = [*(int(inked[gap]) + 1 + margin for gap in gaps), wide]
    along = (corners[1] - corners[0], corners[2] - corners[3])  # of the upper edge and the lower
    return [
        (
            np.ascontiguousarray(crop[:, start:end]),
            np.stack(
                [
                    corners[edge] + along[lower] * (at / wide)
                    for edge, lower, at in ((0, 0, start), (0, 0, end), (3, 1, end), (3, 1, start))
                ]
            ),
        )
        for start, end in zip(starts, ends, strict=True)
    ]


def _tightened(lines: list[_Line]) -> list[_Line]:
    """The same lines with boxes as a text layer has them: no wider than the line, as high as the font's size."""
    sizes = np.array([line.size for line in lines])
    weights = np.array([len(line.text) for line in lines])
    found = []
    for line in lines:
        is_alike = np.abs(sizes / line.size - 1) < _ALIKE if line.size else sizes == 0
        size = float(np.median(np.repeat(sizes[is_alike], weights[is_alike] + 1)))
        left, top, right, bottom = line.box
        margin = min(_MARGIN * size, (right - left) / 4)
        middle = (top + bottom) / 2
        box = (left + margin, middle - size / 2, right - margin, middle + size / 2)
        found.append(line._replace(box=box, size=size))
    return found


def _turns(image: np.ndarray, lines: list[_Line]) -> int:
    """By how many quarters, against the clock, `image` must be turned to stand upright; 0 when its lines read well."""
    longest = sorted(lines, key=lambda line: -max(line.box[2] - line.box[0], line.box[3] - line.box[1]))[:_SAMPLE]
    tall = sum(line.box[3] - line.box[1] > 1.5 * (line.box[2] - line.box[0]) for line in longest)
    is_sideways = 2 * tall > len(longest)
    if not longest or (not is_sideways and sum(line.confidence for line in longest) >= _SURE * len(longest)):
        return 0
    crops = [
        image[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
        for (left, top, right, bottom) in ((max(0.0, side) for side in line.box) for line in longest)
    ]
    candidates = (1, 3) if is_sideways else (0, 2)
    return max(candidates, key=lambda turns: _certainty([np.rot90(crop, turns) for crop in crops if crop.size]))


def _certainty(crops: list[np.ndarray]) -> float:
    """How much of some lines is read, each character counted by the certainty of its line."""
    found = _read_crops([np.ascontiguousarray(crop) for crop in crops])
    return sum(score * len(text) for text, score in found)


def _read_crops(crops: list[np.ndarray]) -> list[tuple[str, float]]:
    found = _engine().recognize_txt(crops)
    return list(zip(found.txts, map(float, found.scores), strict=True))


def _tesseract(image: np.ndarray, dpi: float, languages: str) -> tuple[list[_Line], int]:
    """The words of `image`, as tesseract's TSV says them, and the quarters by which it was turned."""
    turns = 0
    try:
        about = _run_tesseract(image, dpi, ["--psm", "0"])
    except OcrError:  # too few characters to say
        about = ""
    facts = dict(line.split(": ", 1) for line in about.splitlines() if ": " in line)
    if float(facts.get("Orientation confidence", 0)) >= _SURE_OF_ORIENTATION:
        turns = -int(facts.get("Rotate", 0)) // 90 % 4  # it says how far clockwise
        image = np.rot90(image, turns)
    rows = csv.DictReader(
        io.StringIO(_run_tesseract(image, dpi, ["-l", languages, "--psm", "3", "tsv"])),
        delimiter="\t",
        quoting=csv.QUOTE_NONE,
    )
    lines, height = [], 0.0
    for row in rows:
        left, top, wide, high = (float(row[name]) for name in ("left", "top", "width", "height"))
        if row["level"] == "4":  # a line, of which the words follow
            height = high
        elif row["level"] == "5" and (row["text"] or "").strip():
            box = (left, top, left + wide, top + high)
            lines.append(_Line(row["text"].strip(), float(row["conf"]) / 100, box, _SIZE_OF_HEIGHT * height))
    return lines, turns


def _run_tesseract(image: np.ndarray, dpi: float, arguments: list[str]) -> str:
    """What the program prints. Raises: OcrError."""
    high, wide = image.shape[:2]
    picture = b"P6 %d %d 255\n" % (wide, high) + image[:, :, ::-1].tobytes()
    process = subprocess.Popen(
        ["tesseract", "stdin", "stdout", "--dpi", str(round(dpi)), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_THREAD_LIMIT": "1"},
    )
    try:
        resource.prlimit(process.pid, resource.RLIMIT_CPU, (_TESSERACT_S, _TESSERACT_S))  # also when we are killed
        output, errors = process.communicate(picture, timeout=2 * _TESSERACT_S)
    except (subprocess.TimeoutExpired, ProcessLookupError) as error:
        raise OcrError(f"tesseract: no answer within {2 * _TESSERACT_S} s") from error
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        told = errors.decode("utf-8", "replace").strip().splitlines()
        raise OcrError(f"tesseract ended with {process.returncode}: {told[-1] if told else 'no message'}")
    return output.decode("utf-8", "replace")
