"""The routes of pages against labels by hand, with what they depend on: `python -m tests.bench.pdf_routes [--ocr]`.

Reads the PDFs of ../shared/data/pdf. `--ocr` also reads the pictures of the pages that take the route `ocr`, and says
what becomes of them in the end; that takes about eight CPU seconds a page.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from pipeline.extract.pdf import layer, ocr, routing
from tests.bench.tables import Table, bench_parser

DATA = Path("../shared/data/pdf")
PAGES = 8
OCR, BLANK = "ocr", "blank"
LABELS = {
    **dict.fromkeys(
        ("2400dpi", "c02-22", "cardinal", "ccitt", "epson", "francais", "graph_ocred", "jbig2", "linn"), OCR
    ),
    **dict.fromkeys(("masks", "rotated_skew", "skew", "type3_font_nomapping", "truetype_font_nomapping"), OCR),
    **dict.fromkeys(("buildingnotes", "mattsnotes", "dolma-page-1", "olmo-page-1", "edgar_image"), OCR),
    **dict.fromkeys(("handwriting_bad_ocr", "issue-791-non-unicode-cmap", "malformed-from-issue-932"), OCR),
    "federal-register-2020-17221:7": OCR,
    **dict.fromkeys(("blank_book_pg1", "no_contents", "toc:1", "blanktext"), BLANK),
}
"""What is on a page, seen by eye: a layer that says what is shown ("text", all others), or none, or nothing at all."""


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("--ocr", action="store_true")
    given = parser.parse_args()
    columns = "page visible hidden image_share bad_share garbled_share tidy_share label route end reason"
    table = Table("pdf-routes", given.csv, columns)
    wrong, ends, spent_s, count = Counter[str](), Counter[str](), 0.0, 0
    for path in sorted(DATA.rglob("*.pdf")):
        try:
            document = pdfium.PdfDocument(path)
        except pdfium.PdfiumError:
            continue
        for number in range(min(len(document), PAGES)):
            page = layer.read_page(document[number])
            start = time.process_time()
            found = routing.measure(page)
            decision = routing.route(found)
            spent_s, count = spent_s + time.process_time() - start, count + 1
            label = LABELS.get(f"{path.stem}:{number}") or LABELS.get(path.stem, "text")
            end = decision.route if decision.route == "text" else "?"
            if given.ocr and decision.route == "ocr":
                dpi = ocr.dpi_for(page.width, page.height)
                image = document[number].render(scale=dpi / 72, force_bitmap_format=pdfium_c.FPDFBitmap_BGR)
                end = routing.settle(page, decision, ocr.recognise(image.to_numpy(), dpi)).route
                ends[f"{label} -> {end}"] += 1
            expected = "text" if label == "text" else "ocr"
            wrong[f"{label} -> {decision.route}"] += 1
            if decision.route != expected or decision.route == "ocr":
                measured = (getattr(found, name) for name in table.columns[1:7])
                table.row(f"{path.stem}:{number}", *measured, label, decision.route, end, decision.reason)
    print(
        f"{count} pages, {1000 * spent_s / count:.1f} ms a page; by the layer: {dict(wrong)}; in the end: {dict(ends)}"
    )


if __name__ == "__main__":
    main()
