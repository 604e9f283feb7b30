"""Pages read by a served vision model, asked as olmOCR asks: one picture of the page, its text as Markdown back.

For the process that may use the network, never for the workers that parse files. Each answer is in the client's store
before it counts, so a run that goes on asks nothing twice. Source: allenai/olmocr, pipeline.py and prompts.py: the form
of a request and of an answer, the temperatures, the turning of pages.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from pipeline.llm.cache import Cache
from pipeline.llm.client import complete_sync
from pipeline.llm.config import ClientConfig, EndpointConfig
from pipeline.llm.types import Answer, Failure, Parameters, Request, ending, make_request
from pipeline.table.config import StageConfig
from pipeline.table.interrupts import InterruptedRunError

LONGEST_SIDE = 1288
"""Pixels of a page's picture, as olmOCR's models were trained on."""
TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0)
"""Of the first attempt at a page and of those that follow: warmer, a model that repeats itself leaves its rut."""
PROMPT = (
    "The picture shows one page of a document. Write down its text as one reads it: Markdown, equations as LaTeX, "
    "tables as HTML, without running headers and footers. Add nothing that the page does not say. Begin with a front "
    "matter between two lines of ---, which gives primary_language (two letters, or null), is_rotation_valid, "
    "rotation_correction (0, 90, 180 or 270), is_table and is_diagram, one a line."
)
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?\n)---[ \t]*(?:\n(.*))?\Z", re.DOTALL)
_FIELD = re.compile(r"(\w+)[ \t]*:[ \t]*(\S*)[ \t]*")


class VisionConfig(StageConfig):
    """A vision model behind an OpenAI-compatible endpoint, for the pages that OCR would read."""

    endpoint: tuple[EndpointConfig, ...] = Field(min_length=1, description="servers of the same model")
    prompt: str = Field(PROMPT, min_length=1, description="what goes with the picture; olmOCR's models know their own")
    max_tokens: int = Field(8000, ge=1, description="of an answer, the most")
    max_attempts: int = Field(len(TEMPERATURES), ge=1, le=len(TEMPERATURES), description="at a page, the last warmest")
    client: ClientConfig = ClientConfig()


@dataclass(frozen=True, slots=True)
class Picture:
    """A page to be read. `order` sorts like the pages; `pixels` is (height, width, 3), uint8, RGB."""

    order: str
    pixels: np.ndarray


@dataclass(slots=True)
class _Page:
    """How far the asking about a page has come. `spare`: a text from an attempt that held the page for turned."""

    picture: Picture
    request: Request
    quarters: int = 0
    attempt: int = 0
    text: str | None = None
    spare: str | None = None
    is_done: bool = False


def read_pages(
    pictures: Sequence[Picture], config: VisionConfig, cache: Cache, stop: Callable[[], bool] | None = None
) -> list[str | None]:
    """Return the text of each page as Markdown, in order; "" for a page without text, None where the model failed.

    A page is asked about again, warmer, when the answer has no front matter or was cut off, and turned as the answer
    says when the page did not stand upright. None means: what else is known of the page is to be used.

    Raises: what `complete_sync` raises (no server, no key, every request failed); InterruptedRunError when stopped.
    """
    pages = [
        _Page(picture, _request(picture, 0, 0, config)) for picture in sorted(pictures, key=lambda each: each.order)
    ]
    while not all(page.is_done for page in pages):
        # Those that are done come along: the store has their answers, which tells a bad page from a bad server.
        requests = (page.request for page in pages)
        report = complete_sync(requests, config.endpoint, cache, config=config.client, stop=stop)
        if report.stopped is not None:
            raise InterruptedRunError("stopped while a vision model was asked; what it answered is stored")
        for page in pages:
            if not page.is_done:
                _hear(page, cache.get(page.request.key), config)
    texts = {page.picture.order: page.text for page in pages}
    return [texts[picture.order] for picture in pictures]


def png(pixels: np.ndarray) -> bytes:
    """A picture (height, width, 3; uint8, RGB) as a PNG file, the same bytes each time."""
    height, width, _ = pixels.shape
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # before each line which filter it has: none
    lines[:, 1:] = pixels.reshape(height, -1)
    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(lines.tobytes(), 6)), (b"IEND", b"")
    framed = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def _request(picture: Picture, quarters: int, attempt: int, config: VisionConfig) -> Request:
    file = base64.b64encode(png(np.ascontiguousarray(np.rot90(picture.pixels, quarters)))).decode()
    message = {
        "role": "user",
        "content": [
            {"type": "text", "text": config.prompt},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{file}"}},
        ],
    }
    parameters = Parameters(max_tokens=config.max_tokens, temperature=TEMPERATURES[attempt])
    return make_request(config.endpoint[0], [message], parameters, order=picture.order)


def _hear(page: _Page, answer: Answer | Failure | None, config: VisionConfig) -> None:
    """Take in what was answered about a page: it is done, or is asked about once more."""
    said = _parsed(answer.text) if isinstance(answer, Answer) and ending(answer.finish_reason) == "complete" else None
    if said is not None and said.is_upright:
        page.text, page.is_done = said.text, True
        return
    if page.attempt + 1 == config.max_attempts:
        # A text that its model holds for that of a turned page is better than none.
        page.text, page.is_done = (said.text if said is not None else page.spare), True
        return
    if said is not None:
        page.spare = said.text
        page.quarters = (page.quarters + said.correction // 90) % 4
    page.attempt += 1
    page.request = _request(page.picture, page.quarters, page.attempt, config)


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    is_upright: bool
    correction: int
    """Degrees against the clock by which the page is to be turned: so olmOCR's models were trained."""


def _parsed(answer: str) -> _Said | None:
    """What an answer says; None when it has not the form that was asked for."""
    match = _FRONT_MATTER.match(answer)
    if match is None:
        return None
    fields = {found[1]: found[2].lower() for line in match[1].splitlines() if (found := _FIELD.fullmatch(line.strip()))}
    correction = fields.get("rotation_correction", "0")
    if fields.get("is_rotation_valid") not in ("true", "false") or correction not in ("0", "90", "180", "270"):
        return None
    text = (match[2] or "").strip()
    return _Said("" if text == "null" else text, fields["is_rotation_valid"] == "true", int(correction))
