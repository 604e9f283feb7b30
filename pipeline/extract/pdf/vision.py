"""Pages read by a served vision model, asked as olmOCR asks: one picture of the page, its text as Markdown back.

For the process that may use the network, never for the workers that parse files. Each answer is in the client's store
before it counts, so a run that goes on asks nothing twice. Source: allenai/olmocr, pipeline.py and prompts.py: the form
of a request and of an answer, the temperatures, the turning of pages.
"""

from __future__ import annotations

import base64
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.extract.config import MAX_ATTEMPTS, VisionConfig
from pipeline.extract.pdf.page import LONGEST_SIDE, png
from pipeline.extract.units import Document, Page, Raw, Reject
from pipeline.llm.cache import Cache
from pipeline.llm.client import complete_sync
from pipeline.llm.config import ClientConfig, EndpointConfig
from pipeline.llm.types import Answer, Failure, Parameters, Request, ending, make_request
from pipeline.table.interrupts import InterruptedRunError

TEMPERATURES = (0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0)
"""Of the first attempt at a page and of those that follow: warmer, a model that repeats itself leaves its rut."""
assert len(TEMPERATURES) == MAX_ATTEMPTS
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\n(.*?\n)---[ \t]*(?:\n(.*))?\Z", re.DOTALL)
_FIELD = re.compile(r"(\w+)[ \t]*:[ \t]*(\S*)[ \t]*")


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
    endpoints = tuple(EndpointConfig(**each.model_dump()) for each in config.endpoint)
    client = ClientConfig(**config.client)
    pages = [
        _Page(picture, _request(picture, 0, 0, config)) for picture in sorted(pictures, key=lambda each: each.order)
    ]
    while not all(page.is_done for page in pages):
        # Those that are done come along: the store has their answers, which tells a bad page from a bad server.
        requests = (page.request for page in pages)
        report = complete_sync(requests, endpoints, cache, config=client, stop=stop)
        if report.stopped is not None:
            raise InterruptedRunError("stopped while a vision model was asked; what it answered is stored")
        for page in pages:
            if not page.is_done:
                _hear(page, cache.get(page.request.key), config)
    texts = {page.picture.order: page.text for page in pages}
    return [texts[picture.order] for picture in pictures]


def shown(
    units: Iterable[Page | Raw | Document | Reject],
    convert: Callable[[Raw], Page | Document | Reject],
    config: VisionConfig,
    folder: str,
) -> Iterator[Page | Raw | Document | Reject]:
    """Yield units, PDFs with what the model reads on those pages whose picture has to be read (fact `given`).

    `convert` asks a worker for the pictures, some pages at a time; `folder` is that of the store of answers.

    Raises: what `read_pages` raises.
    """
    witness: list[Picture] = []  # one that was answered: a server that refuses all of a PDF's pages is a good one
    for unit in units:
        given: dict[str, str] = {}
        first: object = 0 if isinstance(unit, Raw) and "ocr" in unit.facts else None
        while isinstance(unit, Raw) and isinstance(first, int):
            seen = convert(replace(unit, facts={**unit.facts, "survey": first}))
            if not isinstance(seen, Document):
                assert isinstance(seen, Reject), "no page comes of a PDF"
                unit = seen
                break
            numbers, first = seen.metadata.get("numbers"), seen.metadata.get("next")
            pictures = [
                Picture(f"{unit.document.origin.file} {unit.document.origin.offset:020} {number:06}", pixels(picture))
                for number, picture in zip(numbers if isinstance(numbers, list) else (), seen.pictures, strict=True)
            ]
            with _ONE_AT_A_TIME, Cache(folder) as cache:
                texts = read_pages([*witness, *pictures], config, cache)[len(witness) :] if pictures else []
                for each, text in zip(pictures, texts, strict=True):
                    if not witness and text is not None:
                        is_heard = isinstance(cache.get(_request(each, 0, 0, config).key), Answer)
                        witness = [each] if is_heard else []
            for number, text in zip(numbers if isinstance(numbers, list) else (), texts, strict=True):
                if text is not None:
                    given[str(number)] = text
        yield replace(unit, facts={**unit.facts, "given": given}) if isinstance(unit, Raw) and given else unit


_ONE_AT_A_TIME = threading.Lock()


def pixels(picture: str) -> np.ndarray:
    """The picture that a worker sends, base64 of what `png` makes. A wrong one is white: a worker is not trusted."""
    white = np.full((1, 1, 3), 255, np.uint8)
    try:
        file = base64.b64decode(picture)
        width, height = struct.unpack_from(">2I", file, 16)
        if not (0 < width <= LONGEST_SIDE and 0 < height <= LONGEST_SIDE):
            return white
        lines = zlib.decompressobj().decompress(file[41:], height * (1 + 3 * width))
        return np.frombuffer(lines, np.uint8).reshape(height, 1 + 3 * width)[:, 1:].reshape(height, width, 3)
    except (ValueError, struct.error, zlib.error):
        return white


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
    return make_request(EndpointConfig(**config.endpoint[0].model_dump()), [message], parameters, order=picture.order)


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
