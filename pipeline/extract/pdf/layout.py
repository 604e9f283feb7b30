"""Blocks in reading order from the words of a page, whatever read them: the text layer or OCR."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.extract.pdf.page import Page, Span


def document_text(pages: Sequence[Page]) -> list[str]:
    """The text of each page, laid out."""
    return ["\n".join(" ".join(span.text for span in row) for row in _rows(page.spans)) for page in pages]


def _rows(spans: Sequence[Span]) -> list[list[Span]]:
    rows: list[list[Span]] = []
    for span in sorted(spans, key=lambda s: (s.box.top + s.box.bottom)):
        middle = (span.box.top + span.box.bottom) / 2
        if rows and rows[-1][-1].box.top < middle < rows[-1][-1].box.bottom:
            rows[-1].append(span)
        else:
            rows.append([span])
    return [sorted(row, key=lambda s: s.box.left) for row in rows]
