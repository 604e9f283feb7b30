"""How the pages of documents were read, for people: marks between the texts, or a page of pictures beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from pipeline.extract.units import Document, PageText, Reject
from pipeline.report import page

_STYLE = (
    "display:grid;grid-template-columns:minmax(16rem,1fr) minmax(16rem,1fr);gap:1rem;align-items:start;"
    "border-top:1px solid var(--line);padding:.6rem 0"
)
_TEXT = "white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font:14px/1.45 system-ui,sans-serif"
_PICTURE = "min-width:0;width:100%;border:1px solid var(--line)"


def marked(document: Document) -> str:
    """Return a document's text with a line before each page that says its number, route and confidence."""
    if document.pages is None:
        return document.text
    parts = (f"--- page {number} ({_route(each)}) ---\n{text}" for number, each, text in _texts(document))
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def sheet(title: str, results: Iterable[Document | Reject]) -> str:
    """Return a page in HTML: of each document the pages' pictures, where it has them, beside their texts."""
    routes: Counter[str] = Counter()
    sections = []
    for count, result in enumerate(results, 1):
        name = page.text(result.origin.record_id or result.origin.file)
        if isinstance(result, Reject):
            routes["rejects"] += 1
            sections.append((f"d{count}", name, page.note(page.text(f"{result.reason}: {result.detail}"))))
            continue
        routes.update(each.route for each in result.pages or ())
        blocks = []
        for number, each, text in _texts(result):
            picture = result.pictures[number - 1] if number <= len(result.pictures) else ""
            body = "\n".join(map(page.text, text.split("\n"))) or "–"
            image = f'<img style="{_PICTURE}" alt="page {number}" src="data:image/png;base64,{page.text(picture)}">'
            said = page.note(f"page {number}: {page.text(_route(each))}") + f'<pre style="{_TEXT}">{body}</pre>'
            left = image if picture else page.note("no picture")
            blocks.append(f'<div style="{_STYLE}"><div>{left}</div><div>{said}</div></div>')
        sections.append((f"d{count}", name, "".join(blocks)))
    lead = ", ".join(f"{route} {count:,}" for route, count in sorted(routes.items())) or "no document"
    return page.page(title, f"Pages by route: {lead}.", (), sections)


def _texts(document: Document) -> Iterator[tuple[int, PageText, str]]:
    pages = document.pages if document.pages is not None else (PageText(0, len(document.text), "text"),)
    for number, each in enumerate(pages, 1):
        yield number, each, document.text[each.start : each.end]


def _route(each: PageText) -> str:
    return each.route if each.confidence is None else f"{each.route}, {each.confidence:.2f}"
