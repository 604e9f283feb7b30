"""Files of HTML, plain text and Markdown, in folders and archives, to pages and raw content for the workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

from pipeline.extract.archives import ArchivedFile, matches, read_files
from pipeline.extract.config import FileOptions
from pipeline.extract.html.messages import HANDLER
from pipeline.extract.media import TEXT_TYPE, looks_like_html, not_text
from pipeline.extract.units import Document, Entry, Given, Origin, OwnColumn, Page, Raw, Reader, Reject
from pipeline.table.schema import RejectReason

_PATH = "path"  # the column of a file's path in its archive, or of its name
_EXCLUDED = "excluded"  # type of a file that the options leave out: it is counted, and no unit
_HTML_NAME = re.compile(r"\.(x?html?|shtml|xht)$", re.IGNORECASE)
_MARKDOWN_NAME = re.compile(r"(^|/)[^.]+$|\.(md|markdown|mdown|mkdn?|mdx|qmd|rmd|txt)$", re.IGNORECASE)


def read_html(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file: a page when its name, its beginning or `include` says so; none can drop."""
    for file, url in _chosen(stream, start, given):
        if isinstance(url, Entry):
            yield url
        elif _options(given).include or _HTML_NAME.search(file.path) or looks_like_html(file.data):
            yield Entry(file.number, _page(given, file, url, "text/html"))
        else:
            yield _reject(given, file, url, "not_html", "no HTML by its name or its beginning")


def read_text(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file, all of whose text is the document; none can drop."""
    for file, url in _chosen(stream, start, given):
        yield url if isinstance(url, Entry) else Entry(file.number, _page(given, file, url, TEXT_TYPE))


def read_markdown(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file: its text, still Markdown, when its name or `include` says so; none can drop."""
    for file, url in _chosen(stream, start, given):
        if isinstance(url, Entry):
            yield url
        elif not _options(given).include and _MARKDOWN_NAME.search(file.path) is None:
            yield _reject(given, file, url, "unsupported", "no Markdown by its name; `options.include` can name it")
        else:
            known = Document(_origin(given, file), url, "", metadata=_modified(file), kept={_PATH: file.path})
            yield Entry(file.number, Raw(known, file.data))


def _chosen(stream: BinaryIO, start: int, given: Given) -> Iterator[tuple[ArchivedFile, str | Entry | None]]:
    """Yield each file that the options choose with its URL, or with the entry that it already is."""
    options = _options(given)
    for file in read_files(stream, given.file, start, given.limits.payload_bytes):
        url = f"{options.base_url.rstrip('/')}/{quote(file.path)}" if options.base_url else None
        is_wanted = not options.include or matches(file.path, options.include)
        if file.path and (not is_wanted or matches(file.path, options.exclude)):
            yield file, Entry(file.number, None, _EXCLUDED)
        elif file.problem is not None:
            yield file, given.refuse(*file.refusal())
        elif not file.data.strip():
            yield file, _reject(given, file, url, "empty", "an empty file")
        elif (what := not_text(file.data)) is not None:
            yield file, _reject(given, file, url, "encrypted" if "encrypted" in what else "unsupported", what)
        else:
            yield file, url


def _options(given: Given) -> FileOptions:
    assert isinstance(given.options, FileOptions), "the options of these formats"
    return given.options


def _origin(given: Given, file: ArchivedFile) -> Origin:
    return Origin(given.file, file.number, file.path if file.path != given.file else None)


def _modified(file: ArchivedFile) -> dict[str, object]:
    return {"modified": file.modified.isoformat()} if file.modified else {}


def _page(given: Given, file: ArchivedFile, url: str | None, media_type: str) -> Page:
    return Page(_origin(given, file), url, file.data, media_type, None, None, None, kept={_PATH: file.path})


def _reject(given: Given, file: ArchivedFile, url: str | None, reason: RejectReason, detail: str) -> Entry:
    return Entry(file.number, Reject(_origin(given, file), url, reason, f"{file.path}: {detail}"[:300]))


_OWN = {_PATH: OwnColumn("text", "path of the file, in its folder or archive")}
HTML = Reader(read_html, _OWN, HANDLER, of_files=True)
TEXT = Reader(read_text, _OWN, HANDLER, of_files=True)
MARKDOWN = Reader(
    read_markdown,
    _OWN,
    "pipeline.extract.html.markdown:make_handler",
    ("resiliparse", "PyYAML"),
    of_files=True,
)
