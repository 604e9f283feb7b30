"""PDFs in folders and archives to raw content for the workers: one unit a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.extract.archives import read_files
from pipeline.extract.config import ExtractLimits, PdfConfig, PdfOptions
from pipeline.extract.media import is_pdf
from pipeline.extract.units import Document, Entry, Given, OwnColumn, Raw, Reader, place_of, rejected, unread

_PATH = "path"  # the column of a file's path in its archive, or of its name
_NAME = re.compile(r"\.pdf$", re.IGNORECASE)


def read_pdf(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file: a PDF when its name, its beginning or `include` says so; none can drop."""
    options = given.options
    assert isinstance(options, PdfOptions), "the options of this format"
    check_engine(options)
    for file in read_files(stream, given.file, start, options.max_bytes):
        origin, url = place_of(given, file)
        entry = unread(given, file, file.path, origin, url, is_text=False)
        if entry is None and not (is_pdf(file.data) or options.include or _NAME.search(file.path)):
            entry = rejected(file, file.path, origin, url, "unsupported", "no PDF by its name or its beginning")
        known = Document(origin, url, "", metadata=file.metadata, kept={_PATH: file.path})
        yield entry or Entry(file.number, Raw(known, file.data, options.facts(given.limits)))


def check_engine(options: PdfConfig) -> None:
    """Check that the engine that is asked for can run here. Raises: MissingDependencyError."""
    if options.engine != "auto" and options.ocr != "off":
        from pipeline.extract.pdf import ocr  # its libraries are an extra's

        ocr.check(options.engine)


def worker_limits(limits: ExtractLimits) -> dict[str, float]:
    """Return nets for whole documents, with an engine for OCR in memory; the handler sees to each page's own."""
    return {"cpu_s": limits.cpu_s * 1_000, "memory_bytes": limits.memory_bytes * 3, "recycle_rss_bytes": 3 << 29}


PDF = Reader(
    read_pdf,
    {_PATH: OwnColumn("text", "the file's path in its archive, or its name")},
    "pipeline.extract.pdf.document:make_handler",
    ("pypdfium2", "rapidocr", "onnxruntime"),
    of_files=True,
    worker_limits=worker_limits,
)
