"""A PDF to the text of its pages, in a worker: each page by the route that suits it, then all of them laid out.

A page that cannot be read fails alone; a document of which too much failed is refused. What makes the library hang or
fall over costs the document: the worker's limits see to that, a page's CPU time among them.
"""

from __future__ import annotations

import base64
import ctypes
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy
import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from pipeline.extract.conversion import Converted, RefusedError, handler
from pipeline.extract.pdf import layer, layout, ocr, routing
from pipeline.extract.pdf.page import LONGEST_SIDE, Page, png
from pipeline.extract.pdf.routing import Outcome
from pipeline.extract.worker import Handler, allow

_MAX_SIDE_POINTS = 14_400  # 200 inches: what the format allows without a unit of its own
_MAX_PIXELS = 250_000_000  # of an image: A0 at 300 dpi has 140 million
_OCR_CPU, _OCR_MEMORY = 8, 4
"""Times a page's own CPU time and memory that its OCR may take."""
_NOTHING = Page(0, 0, ())
_DATE = re.compile(r"D?:?\s*(\d{4})(\d\d)?(\d\d)?(\d\d)?(\d\d)?(\d\d)?(?:([+-])(\d\d)'?(\d\d)?)?")
_NO_TITLE = re.compile(
    r"(microsoft (word|powerpoint|excel) -.*|untitled.*|(no |kein )?title?|titel|document\d*|.*\.(docx?|pptx?|xlsx?|"
    r"dvi|tex|pdf|indd|qxd|rtf|ps|eps|pages|odt)|\W*|[\d\W]*)",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_PICTURE_PIXELS = 1_000  # of a page that people look at, its longer side
_SURVEY_PAGES = 32
_CLOCK_TOLERANCE = timedelta(days=2)
_MAX_FIELD = 500


def make_handler() -> Handler:
    return handler(convert)


def convert(payload: bytes, facts: Mapping[str, Any]) -> Converted:
    """Return a PDF's text with its pages. Raises: RefusedError."""
    with allow(facts["page_cpu_s"], facts["page_memory_bytes"]):
        document = _opened(payload, is_cut=bool(facts.get("is_cut")))
    try:
        with allow(facts["page_cpu_s"], facts["page_memory_bytes"]):
            count = len(document)
            title, date, metadata = _said(document, facts.get("captured"))
        if count == 0:
            raise RefusedError("damaged", "a PDF without pages")
        if count > facts["max_pages"]:
            raise RefusedError("oversize", f"{count} pages, the limit is {facts['max_pages']}")
        if "survey" in facts:
            return _surveyed(document, facts)
        found: list[Outcome] = []
        pictures: list[str] = []
        for number in range(count):
            found.append(_read(document, number, facts))
            if number < facts.get("pictures", 0):
                with allow(facts["page_cpu_s"], facts["page_memory_bytes"]):
                    pictures.append(_picture(document, number, _PICTURE_PIXELS))
    finally:
        document.close()
    failed = [(number, each.reason) for number, each in enumerate(found, 1) if each.route == "failed"]
    if len(failed) > facts["max_failed"] * count or len(failed) == count:
        number, why = failed[0]
        raise RefusedError("damaged", f"{len(failed)} of {count} pages failed, the first is page {number}: {why}")
    # Of a hundred pages as of one that is read: a dense one takes a fiftieth of a second, and there may be thousands.
    with allow(facts["page_cpu_s"] * (1 + count // 100), facts["page_memory_bytes"]):
        texts = layout.document_text([each.page for each in found])
    for number, each in enumerate(found):
        if each.route == "vlm" and not (said := str(facts["given"][str(number)])).strip():
            found[number] = Outcome("blank", _NOTHING, 1.0, "a model saw no text")
        elif each.route == "vlm":
            texts[number] = said
    text, places = _joined(texts)
    if not text.strip():
        raise RefusedError("empty", f"{count} pages without text")
    unknown = ("failed", "vlm")  # how sure a model is it does not say
    sure = (None if each.route in unknown else min(1.0, max(0.0, each.confidence)) for each in found)
    pages: list[tuple[int, int, str, float | None]] = [
        (*place, each.route, how) for place, each, how in zip(places, found, sure, strict=True)
    ]
    return Converted(text, title, date, metadata=metadata, pages=pages, pictures=pictures)


def _opened(payload: bytes, *, is_cut: bool) -> pdfium.PdfDocument:
    try:
        return pdfium.PdfDocument(payload)
    except pdfium.PdfiumError as error:
        if error.err_code in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
            raise RefusedError("encrypted", "a PDF that opens with a password only") from error
        if b"%PDF-" not in payload[:1024]:
            raise RefusedError("damaged", "its header is none of a PDF") from error
        if is_cut or b"%%EOF" not in payload[-2048:]:
            raise RefusedError("truncated_input", "a PDF without its end") from error
        raise RefusedError("damaged", "a PDF whose structure cannot be read") from error


def _read(document: pdfium.PdfDocument, number: int, facts: Mapping[str, Any]) -> Outcome:
    """Return what a page holds, by the route that suits it."""
    try:
        with allow(facts["page_cpu_s"], facts["page_memory_bytes"]):
            sheet = document[number]
            width, height = sheet.get_size()
            if not (0 < width <= _MAX_SIDE_POINTS and 0 < height <= _MAX_SIDE_POINTS):
                return _failed(f"a page of {width:.0f} x {height:.0f} points")
            page = layer.read_page(sheet)
            decision = routing.route(routing.measure(page))
            layered = Outcome("text", routing.readable(page, decision), decision.confidence, decision.reason)
            if decision.route == "text" and facts["ocr"] != "force":
                return layered
            if (pixels := _most_pixels(sheet)) > _MAX_PIXELS:
                return layered if decision.confidence else _failed(f"{decision.reason}; a picture of {pixels} pixels")
            dpi = ocr.dpi_for(width, height)
            image = _drawn(sheet, dpi / 72)
            if not ocr.inked(image) and not layered.page.spans:
                return Outcome("blank", _NOTHING, 1.0, "neither text nor ink")
            if "survey" in facts or str(number) in facts.get("given", {}):
                return Outcome("vlm", _NOTHING, 0.0, decision.reason)
        engine = _engine(facts)
        if engine is None:
            is_off = facts["ocr"] == "off"
            why = "OCR is off" if is_off else "reading its picture needs an extra: pip install 'gristmill[ocr]'"
            return layered if decision.confidence else _failed(f"{decision.reason}; {why}")
        with allow(_OCR_CPU * facts["page_cpu_s"], _OCR_MEMORY * facts["page_memory_bytes"]):
            return routing.settle(page, decision, ocr.recognise(image, dpi, engine))
    except ocr.OcrError as error:
        return layered if decision.confidence else _failed(f"{decision.reason}; {error}")
    except pdfium.PdfiumError as error:
        return _failed(str(error))


def _failed(why: str) -> Outcome:
    return Outcome("failed", _NOTHING, 0.0, why)


def _engine(facts: Mapping[str, Any]) -> ocr.Engine | None:
    """Return which engine reads pictures, None where none is to or none is installed."""
    if facts["ocr"] == "off":
        return None
    if facts["engine"] != "auto":
        return "tesseract" if facts["engine"] == "tesseract" else "rapidocr"
    return ocr.installed()


def _drawn(sheet: pdfium.PdfPage, scale: float) -> numpy.ndarray[Any, Any]:
    """Return a page's picture (height, width, 3; uint8, BGR)."""
    drawn: numpy.ndarray[Any, Any] = sheet.render(scale=scale, force_bitmap_format=pdfium_c.FPDFBitmap_BGR).to_numpy()
    return drawn


def _most_pixels(sheet: pdfium.PdfPage) -> int:
    """Return how many pixels the largest image of a page claims to have."""
    sizes = [item.get_px_size() for item in sheet.get_objects((pdfium_c.FPDF_PAGEOBJ_IMAGE,), max_depth=6)]
    return max((width * height for width, height in sizes), default=0)


def _surveyed(document: pdfium.PdfDocument, facts: Mapping[str, Any]) -> Converted:
    """Return pictures of the pages that a model is to read, from page `survey` on; `next` is where to go on."""
    numbers: list[int] = []
    pictures: list[str] = []
    number = int(facts["survey"])
    while number < len(document) and len(numbers) < _SURVEY_PAGES:
        if _read(document, number, facts).route == "vlm":
            with allow(facts["page_cpu_s"], facts["page_memory_bytes"]):
                picture = _picture(document, number, LONGEST_SIDE)
            numbers += [number] if picture else []
            pictures += [picture] if picture else []
        number += 1
    after = number if number < len(document) else None
    return Converted("", metadata={"numbers": numbers, "next": after}, pictures=pictures)


def _picture(document: pdfium.PdfDocument, number: int, most: int) -> str:
    """Return a page as people see it, its longer side of `most` pixels, a PNG in base64; "" where none is drawn."""
    try:
        sheet = document[number]
        drawn = _drawn(sheet, (most - 0.5) / max(sheet.get_size()))
    except (pdfium.PdfiumError, ZeroDivisionError):
        return ""
    return base64.b64encode(png(numpy.ascontiguousarray(drawn[:most, :most, ::-1]))).decode()


def _joined(texts: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return the texts of the pages as one, and where each stands; a paragraph may go on over a page's end."""
    parts: list[str] = []
    places: list[tuple[int, int]] = []
    end, last = 0, ""
    for text in texts:
        text = _CONTROL.sub("", text).strip()
        between = ""
        if last and text:
            goes_on = last[-1].isalpha() or last[-1] in ",;-"
            is_plain = not last.rpartition("\n")[2].startswith(("#", "|")) and text[0].islower()
            between = " " if goes_on and is_plain else "\n\n"
        parts += [between, text]
        end += len(between)
        places.append((end, end + len(text)))
        end, last = end + len(text), text or last
    return "".join(parts) + "\n", places


def _said(document: pdfium.PdfDocument, captured: str | None) -> tuple[str | None, datetime | None, dict[str, object]]:
    """Return title, date and whatever else a PDF says of itself."""
    names = ("Title", "Author", "Subject", "Keywords", "Creator", "Producer", "CreationDate")
    fields = {name: _CONTROL.sub(" ", _field(document, name)).strip()[:_MAX_FIELD] for name in names}
    title = fields["Title"]
    date = _date(fields["CreationDate"])
    if date is not None and captured and date > datetime.fromisoformat(captured) + _CLOCK_TOLERANCE:
        date = None
    metadata = {name.lower(): fields[name] for name in names[1:-1]}
    said: dict[str, object] = {name: value for name, value in metadata.items() if value}
    return (None if _NO_TITLE.fullmatch(title) else title), date, said


def _field(document: pdfium.PdfDocument, name: str) -> str:
    """Return what a PDF says under a name; halves of characters, at which pypdfium2's own fails, are U+FFFD."""
    size = pdfium_c.FPDF_GetMetaText(document, name.encode(), None, 0)
    held = ctypes.create_string_buffer(size)
    pdfium_c.FPDF_GetMetaText(document, name.encode(), held, size)
    return held.raw[: max(size - 2, 0)].decode("utf-16-le", "replace")


def _date(text: str) -> datetime | None:
    match = _DATE.match(text)
    if match is None or not 1985 <= int(match[1]) <= 2100:
        return None
    year, month, day, hour, minute, second = (
        int(each or first) for each, first in zip(match.groups()[:6], (0, 1, 1, 0, 0, 0), strict=True)
    )
    away = timedelta(hours=int(match[8] or 0), minutes=int(match[9] or 0))
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC) - (away if match[7] == "+" else -away)
    except (ValueError, OverflowError):
        return None
