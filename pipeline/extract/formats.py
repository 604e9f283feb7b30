"""The formats that have a reader of their own, each in a room of this folder."""

from __future__ import annotations

from pipeline.extract.code.reader import CODE
from pipeline.extract.html.files import HTML, MARKDOWN, TEXT
from pipeline.extract.latex.reader import LATEX
from pipeline.extract.pdf.reader import PDF
from pipeline.extract.threads.reddit import REDDIT
from pipeline.extract.threads.stackexchange import STACKEXCHANGE
from pipeline.extract.units import Reader
from pipeline.extract.wiki.reader import READER as WIKIPEDIA

READERS: dict[str, Reader] = {
    "code": CODE,
    "html": HTML,
    "latex": LATEX,
    "markdown": MARKDOWN,
    "pdf": PDF,
    "reddit": REDDIT,
    "stackexchange": STACKEXCHANGE,
    "text": TEXT,
    "wikipedia": WIKIPEDIA,
}
"""By the name that `format` gives them. Web archives and corpora are read by `pipeline.extract.shard` itself."""
