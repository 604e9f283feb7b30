"""Files of HTML, plain text and Markdown, in folders and archives, to pages and raw content for the workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.extract.archives import ArchivedFile, read_files
from pipeline.extract.config import FileOptions
from pipeline.extract.html.messages import HANDLER
from pipeline.extract.media import TEXT_TYPE, looks_like_html
from pipeline.extract.units import (
    Document,
    Entry,
    Given,
    Origin,
    OwnColumn,
    Page,
    Raw,
    Reader,
    place_of,
    rejected,
    unread,
)

_PATH = "path"  # the column of a file's path in its archive, or of its name
_HTML_NAME = re.compile(r"\.(x?html?|shtml|xht)$", re.IGNORECASE)
_MARKDOWN_NAME = re.compile(r"(^|/)[^.]+$|\.(md|markdown|mdown|mkdn?|mdx|qmd|rmd|txt)$", re.IGNORECASE)


def read_html(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file: a page when its name, its beginning or `include` says so; none can drop."""
    for file, place, url in _chosen(stream, start, given):
        if isinstance(place, Entry):
            yield place
        elif _options(given).include or _HTML_NAME.search(file.path) or looks_like_html(file.data):
            yield Entry(file.number, _page(file, place, url, "text/html"))
        else:
            yield rejected(file, file.path, place, url, "not_html", "no HTML by its name or its beginning")


def read_text(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file, all of whose text is the document; none can drop."""
    for file, place, url in _chosen(stream, start, given):
        yield place if isinstance(place, Entry) else Entry(file.number, _page(file, place, url, TEXT_TYPE))


def read_markdown(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each file: its text, still Markdown, when its name or `include` says so; none can drop."""
    for file, place, url in _chosen(stream, start, given):
        if isinstance(place, Entry):
            yield place
        elif not _options(given).include and _MARKDOWN_NAME.search(file.path) is None:
            why = "no Markdown by its name; `options.include` can name it"
            yield rejected(file, file.path, place, url, "unsupported", why)
        else:
            known = Document(place, url, "", metadata=file.metadata, kept={_PATH: file.path})
            yield Entry(file.number, Raw(known, file.data))


def _chosen(stream: BinaryIO, start: int, given: Given) -> Iterator[tuple[ArchivedFile, Origin | Entry, str | None]]:
    """Yield each file with where it was found, or the entry that it already is, and its URL."""
    for file in read_files(stream, given.file, start, given.limits.payload_bytes):
        origin, url = place_of(given, file)
        yield file, unread(given, file, file.path, origin, url) or origin, url


def _options(given: Given) -> FileOptions:
    assert isinstance(given.options, FileOptions), "the options of these formats"
    return given.options


def _page(file: ArchivedFile, place: Origin, url: str | None, media_type: str) -> Page:
    return Page(place, url, file.data, media_type, None, None, None, kept={_PATH: file.path})


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
