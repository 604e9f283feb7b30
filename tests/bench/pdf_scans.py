"""OCR against text layers: born-digital pages as scans of 200 dpi, read as any PDF: `python -m tests.bench.pdf_scans`.

Reads PDFs of ../shared/data/pdf. Says the F1 of words between what the layer and what the picture gives, both laid out.
"""

from __future__ import annotations

import io
import re
import time
import unicodedata
from collections import Counter
from pathlib import Path

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_c

from pipeline.extract.pdf import layer, layout, ocr, routing
from tests.bench.tables import Table, bench_parser

DATA = Path("../shared/data/pdf")
SCAN_DPI = 200
PAGES = (
    ("pypdf-samples/pdflatex-4-pages.pdf", 0),
    ("pypdf-samples/multicolumn.pdf", 0),
    ("pypdf-samples/GeoTopo-komprimiert.pdf", 7),
    ("pypdf-samples/google-doc-document.pdf", 0),
    ("olmocr-bench/olmo2-pg4.pdf", 0),
    ("olmocr-bench/discoverworld_crazy_table4.pdf", 0),
    ("olmocr-bench/earnings.pdf", 0),
    ("olmocr-bench/headers_footers/ff0f0b22c55d8b90dd77d153f48e144fc9db_pg2.pdf", 0),
    ("olmocr-gnarly/tobacco_missed_tokens_pg1.pdf", 3),
    ("olmocr-sample/edgar.pdf", 0),
    ("pdfplumber/federal-register-2020-17221.pdf", 2),
    ("pdfplumber/scotus-transcript-p1.pdf", 0),
)


def words(text: str) -> Counter[str]:
    """The words of a page, without the tags of its tables."""
    return Counter(re.findall(r"\w+", unicodedata.normalize("NFKC", re.sub(r"<[^>]+>", " ", text)).lower()))


def f1(one: Counter[str], other: Counter[str]) -> float:
    return 2 * sum((one & other).values()) / max(1, sum(one.values()) + sum(other.values()))


def main() -> None:
    table = Table("pdf-scans", bench_parser(__doc__).parse_args().csv, "page f1 route confidence cpu_s")
    found = []
    for name, number in PAGES:
        page = pdfium.PdfDocument(DATA / name)[number]
        expected = layout.document_text([layer.read_page(page)])[0]
        file = io.BytesIO()
        page.render(scale=SCAN_DPI / 72).to_pil().convert("RGB").save(file, "pdf", resolution=SCAN_DPI)
        scan = pdfium.PdfDocument(file.getvalue())[0]
        start = time.process_time()
        empty = layer.read_page(scan)
        dpi = ocr.dpi_for(empty.width, empty.height)
        image = scan.render(scale=dpi / 72, force_bitmap_format=pdfium_c.FPDFBitmap_BGR).to_numpy()
        reading = ocr.recognise(image, dpi)
        outcome = routing.settle(empty, routing.route(routing.measure(empty)), reading)
        text = layout.document_text([outcome.page])[0]
        found.append(f1(words(expected), words(text)))
        spent_s = time.process_time() - start
        table.row(f"{name}:{number}", found[-1], outcome.route, outcome.confidence, spent_s)
    print(f"{sum(found) / len(found):.3f} mean, {min(found):.3f} the least")


if __name__ == "__main__":
    main()
