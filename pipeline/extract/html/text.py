"""HTML to text as it runs in an isolated worker: limits, language gate, metadata, then trafilatura or Resiliparse.

Keep this module and all it imports free of pyarrow, Numba and pydantic: every worker holds it in memory. The parent's
side is `pipeline.extract.html.pages`.
"""

from __future__ import annotations

import functools
import gc
import logging
import re
from collections.abc import Callable
from copy import copy
from dataclasses import asdict, replace
from typing import Protocol

import fasttext_pybind
import lxml.html
import trafilatura
from lxml import etree
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree
from trafilatura.meta import reset_caches
from trafilatura.metadata import Document, extract_metadata
from trafilatura.utils import HTML_PARSER, load_html, normalize_unicode
from trafilatura.xml import process_element

from pipeline.extract.html.charset import Decoded, decode
from pipeline.extract.html.mend import accompany, mend, release, spare_lists, without_held
from pipeline.extract.html.messages import Extracted, HtmlOptions, PageRequest, Refusal, decode_request, encode_result
from pipeline.extract.html.page_metadata import PageMetadata, parse_date, read_metadata
from pipeline.extract.media import TEXT_TYPE, refuse_body, refuse_type
from pipeline.inputs.shipped import lid_model_path

RESET_CACHES_EVERY_PAGES = 500
GC_THRESHOLDS = 20_000, 20, 20
GATE_CHARACTERS = 4000
GATE_LINE_CHARACTERS = 30  # shorter lines are mostly navigation, which says little about the language
GATE_CONFIDENCE = 0.5  # a less certain verdict lets the page pass: the language signal decides later, on better text

_FEED = re.compile(
    rb"\s*<\?xml[^>]*\?>\s*(?:<!--.{0,500}?-->\s*|<\?[^>]*\?>\s*)*<(rss|feed|urlset|sitemapindex|rdf:RDF)\b", re.S
)
_COUNT_NODES = etree.XPath("count(//*)")
_PARSER_DEPTH = 256  # libxml2 drops whatever lies deeper
_TAG_START = "<"
_LEAST_SHARE = 0.8
_TAGS_PER_NODE = 5  # "<" also opens end tags and comments, and occurs in scripts
_UNSEEN = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\ufeff]")
_PARSER_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, etree.LxmlError)


class LanguageModel(Protocol):
    """What the gate needs of fastText's compiled module."""

    def predict(self, text: str, k: int, threshold: float, errors: str) -> list[tuple[float, str]]: ...


def make_handler() -> Callable[[bytes], bytes]:
    """Return the function that a worker runs on each request."""
    logging.disable(logging.CRITICAL)  # a parser's remarks on one page of millions are of no use to anybody
    _spare_work()
    pages = 0

    def handle(message: bytes) -> bytes:
        nonlocal pages
        pages += 1
        if pages % RESET_CACHES_EVERY_PAGES == 0:
            reset_caches()
        return encode_result(extract(decode_request(message)))

    return handle


def _spare_work() -> None:
    """Take out two costs of trafilatura that change no result: about a tenth of its time, measured on web pages.

    lxml.html chooses a class for every element it touches by a function in Python, for forms and inputs that nobody
    asks for; and the garbage collector runs all the time over trees that hold no cycles.
    """
    classes = etree.ElementDefaultClassLookup(
        element=lxml.html.HtmlElement,
        comment=lxml.html.HtmlComment,
        pi=lxml.html.HtmlProcessingInstruction,
        entity=lxml.html.HtmlEntity,
    )
    HTML_PARSER.set_element_class_lookup(classes)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def extract(request: PageRequest) -> Extracted | Refusal:
    """Return the text of a page or the reason why there is none; a parser's failure is a reason too.

    Raises: MemoryError, which the pool turns into a reject.
    """
    try:
        return _extract(request)
    except RecursionError:
        return Refusal("too_deep", f"{request.options.engine} ran out of stack")
    except _PARSER_ERRORS as error:
        return Refusal("crash", f"{type(error).__name__}: {error}"[:300])


def _extract(request: PageRequest) -> Extracted | Refusal:
    refusal = _refuse_payload(request)
    if refusal:
        return refusal
    decoded = decode(request.payload, request.charset)
    if decoded.is_garbage:
        return Refusal("charset", decoded.complaint())
    if request.media_type == TEXT_TYPE:
        return _plain(decoded, request.options)
    return _markup(decoded, request)


def _refuse_payload(request: PageRequest) -> Refusal | None:
    payload = request.payload
    if not payload.strip():
        return Refusal("empty", "empty body")
    if len(payload) > request.options.max_payload_bytes:
        return Refusal("oversize", f"{len(payload)} bytes, limit {request.options.max_payload_bytes}")
    other = refuse_type(request.media_type) or refuse_body(request.media_type, payload)
    if other is not None:
        return Refusal("not_html", other)
    feed = _FEED.match(payload[:2048])
    return Refusal("not_html", f"XML with the root element {feed.group(1).decode()}") if feed else None


def _plain(decoded: Decoded, options: HtmlOptions) -> Extracted | Refusal:
    text = _clean(decoded.text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        return Refusal("empty", "no text in the body")
    return _gate(text, options) or Extracted(text, decoded.charset, decoded.source)


def _markup(decoded: Decoded, request: PageRequest) -> Extracted | Refusal:
    text, options = without_held(decoded.text), request.options
    if text.count(_TAG_START) > _TAGS_PER_NODE * options.max_nodes:
        return Refusal("oversize", f"{text.count(_TAG_START)} tags, limit {_TAGS_PER_NODE * options.max_nodes}")
    # Resiliparse parses and prints in linear time at any depth; only its search for the main content does not.
    if options.language_gate:
        refusal = _gate(extract_plain_text(HTMLTree.parse(text)), options)
        if refusal:
            return refusal
    tree = load_html(text) if options.engine == "trafilatura" else _parse_quickly(text)
    if tree is None or tree.getroottree().getroot() is None:
        return Refusal("empty", "no markup in the body")
    refusal = _refuse_tree(tree, options)
    if refusal:
        return refusal
    found = read_metadata(tree)
    if options.metadata == "full":
        found = _with_trafilatura(found, tree, request.url)
    pieces = mend(tree, text, options.engine)
    if options.engine == "trafilatura":
        body = _trafilatura(tree, options)
    else:
        body = _resiliparse(text, tree, pieces.changed, options)
    body = _clean(release(_visible(body)))
    if not body.strip():
        return Refusal("empty", f"{options.engine} found no text")
    code, formulas = pieces.lost(body)
    said = asdict(found)
    return Extracted(body, decoded.charset, decoded.source, **said, code_lost=code, formulas_lost=formulas)


def _refuse_tree(tree: etree._Element, options: HtmlOptions) -> Refusal | None:
    nodes = int(_COUNT_NODES(tree))
    if nodes > options.max_nodes:
        return Refusal("oversize", f"{nodes} elements, limit {options.max_nodes}")
    depth = min(options.max_depth, _PARSER_DEPTH - 1)
    if _deeper_than(depth)(tree):
        return Refusal("too_deep", f"more than {depth} levels")
    return None


@functools.cache
def _deeper_than(depth: int) -> etree.XPath:
    """Return a test for trees of more than `depth` levels; it walks level by level, so any depth is safe."""
    return etree.XPath("boolean(" + "/*" * (depth + 1) + ")")


def _parse_quickly(text: str) -> etree._Element | None:
    """Parse for limits and metadata alone, without the repairs that trafilatura makes first."""
    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, collect_ids=False)
    try:
        return etree.fromstring(text.encode("utf-8", "replace"), parser=parser)
    except etree.LxmlError:
        return None


def _trafilatura(tree: etree._Element, options: HtmlOptions) -> str:
    """Return trafilatura's text, printed here: its own printing decodes entities once more and drops characters."""
    _keep_characters()
    document = trafilatura.bare_extraction(
        tree,
        output_format="txt",
        favor_precision=options.favor == "precision",
        favor_recall=options.favor == "recall",
        include_comments=False,
        include_tables=True,
        deduplicate=False,
    )
    if not isinstance(document, Document):
        return ""
    parts: list[str] = []
    process_element(document.body, parts, False)
    return normalize_unicode("\n".join(line for line in "".join(parts).splitlines() if line).strip())


@functools.cache
def _keep_characters() -> None:
    """Let trafilatura keep what `str.isprintable` denies: joiners, directions, characters newer than Python's table."""
    trafilatura.utils.return_printables_and_spaces = lambda character: character  # type: ignore[assignment]


def _resiliparse(html: str, tree: etree._Element, changed: bool, options: HtmlOptions) -> str:
    """Return the main content of `html`, or of `tree`, its mended form, when that holds more.

    Two parsers do not always build the same tree of broken markup: where the mended one, read again, gives much less
    text, the page as it is counts, and what is lost is counted.
    """
    plain = _main_content(html, options)
    if not changed:
        return plain
    mended = _main_content(lxml.html.tostring(tree, encoding="unicode"), options)
    return mended if len(mended) >= _LEAST_SHARE * len(plain) else plain


def _main_content(html: str, options: HtmlOptions) -> str:
    """Return Resiliparse's text; `favor` decides on comments and by-lines, as word F1 on annotated pages suggests."""
    dom = HTMLTree.parse(accompany(html))
    spare_lists(dom)
    return extract_plain_text(
        dom,
        main_content=True,
        alt_texts=False,
        list_bullets=False,
        comments=options.favor == "recall",
        post_meta=options.favor != "precision",
    )


def _with_trafilatura(found: PageMetadata, tree: etree._Element, url: str | None) -> PageMetadata:
    """Return trafilatura's date (it searches the text and the URL too) over that of the tags, and what they lack."""
    document = extract_metadata(copy(tree), url)
    date = parse_date(document.date) if document.date else None
    # trafilatura decodes the entities of titles once more, and takes any link to Creative Commons, also a picture's.
    found = replace(found, title=found.title or document.title)
    return replace(found, date=date, date_source="trafilatura") if date else found


def _gate(text: str, options: HtmlOptions) -> Refusal | None:
    """Refuse text that is surely in another language than the gate's."""
    if not options.language_gate:
        return None
    lines = text.splitlines()
    sample = " ".join([line for line in lines if len(line) >= GATE_LINE_CHARACTERS] or lines)[:GATE_CHARACTERS]
    sample = _clean(sample).replace("</s>", " ")  # which to fastText ends the text
    predictions = _language_model().predict(sample + "\n", 1, 0.0, "replace") if sample.strip() else []
    for probability, label in predictions:
        language = label.removeprefix("__label__")
        if language not in options.language_gate and probability >= GATE_CONFIDENCE:
            return Refusal("language", f"{language} {min(probability, 1.0):.2f}")
    return None


@functools.cache
def _language_model() -> LanguageModel:
    # The compiled module and not `fasttext`, which would bring NumPy into every worker.
    model = fasttext_pybind.fasttext()
    model.loadModel(str(lid_model_path()))
    return model  # type: ignore[no-any-return]


def _visible(text: str) -> str:
    """Return `text` without control characters, hyphenation hints and byte order marks."""
    return text if text.isascii() and text.isprintable() else _UNSEEN.sub("", text)


def _clean(text: str) -> str:
    """Return `text` without NULs and lone surrogates, so that it is valid UTF-8 everywhere."""
    if "\x00" in text:
        text = text.replace("\x00", "")
    return text if text.isascii() else text.encode("utf-8", "ignore").decode("utf-8")
