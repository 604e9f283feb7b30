"""PDFs in folders and archives to raw content for the workers: one unit a file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from pipeline.extract.archives import matches, read_files
from pipeline.extract.config import ExtractLimits, PdfConfig, PdfOptions
from pipeline.extract.media import is_pdf
from pipeline.extract.units import Document, Entry, Given, Origin, OwnColumn, Raw, Reader, Reject
from pipeline.table.schema import RejectReason

_PATH = "path"  # the column of a file's path in its archive, or of its name
_EXCLUDED = "excluded"  # type of a file that the options leave out: it is counted, and no unit
_NAME = re.compile(r"\.pdf$", re.IGNORECASE)


def read_pdf(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file: a PDF when its name, its beginning or `include` says so; none can drop."""
    options = given.options
    assert isinstance(options, PdfOptions), "the options of this format"
    check_engine(options)
    for file in read_files(stream, given.file, start, options.max_bytes):
        is_wanted = not options.include or matches(file.path, options.include)
        if file.path and (not is_wanted or matches(file.path, options.exclude)):
            yield Entry(file.number, None, _EXCLUDED)
            continue
        if file.is_damage:
            yield given.refuse(*file.refusal())
            continue
        url = f"{options.base_url.rstrip('/')}/{quote(file.path)}" if options.base_url and file.path else None
        origin = Origin(given.file, file.number, file.path if file.path != given.file else None)
        problem: tuple[RejectReason, str] | None = file.problem
        if problem is None and not file.data.strip():
            problem = "empty", "an empty file"
        if problem is None and not (is_pdf(file.data) or options.include or _NAME.search(file.path)):
            problem = "unsupported", "no PDF by its name or its beginning"
        if problem is not None:
            reject = Reject(origin, url, problem[0], f"{file.path}: {problem[1]}"[:300])
            yield Entry(file.number, reject)
            continue
        metadata: dict[str, object] = {"modified": file.modified.isoformat()} if file.modified else {}
        known = Document(origin, url, "", metadata=metadata, kept={_PATH: file.path})
        yield Entry(file.number, Raw(known, file.data, options.facts(given.limits)))


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
