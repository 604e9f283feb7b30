"""Papers' sources as arXiv hands them out, to raw content for the workers: one unit a paper.

An input is a tar of many e-prints (each a gzipped tar or file), one e-print, or one file of LaTeX.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import BinaryIO

from pipeline.extract.archives import ArchivedFile, is_archive, read_files
from pipeline.extract.config import LatexOptions
from pipeline.extract.latex.names import SOURCE_NAME
from pipeline.extract.media import CODECS
from pipeline.extract.units import Document, Entry, Given, Origin, OwnColumn, Raw, Reader, Reject
from pipeline.table.schema import RejectReason

ARXIV_ID, MACROS_EXPANDED = "arxiv_id", "macros_expanded"
_NEW_ID = re.compile(r"(?<![0-9.])([0-9]{2}(?:0[1-9]|1[0-2])\.[0-9]{4,5})(?:v[0-9]{1,3})?(?![0-9])")
_OLD_ID = re.compile(r"(?<![A-Za-z-])([a-z]+(?:-[a-z]+)?)(?:\.[A-Z]{2})?/?([0-9]{2}(?:0[1-9]|1[0-2])[0-9]{3})(?![0-9])")
_EPRINT_NAME = re.compile(r"\.(?:tar|tgz|tar\.(?:gz|bz2|xz|zst))$", re.IGNORECASE)


@dataclass(slots=True)
class _Loose:
    """Files of one paper that lie in the input itself."""

    number: int
    name: str
    files: list[ArchivedFile] = field(default_factory=list)
    size: int = 0
    is_resumable: bool = True  # nothing has been yielded since it began


def read_latex(stream: BinaryIO, start: int, given: Given) -> Iterator[Entry]:
    """Yield one entry for each paper, and one for what cannot be read; none can drop.

    Files of an e-print that lies open in the input (its folder named by an id, or the whole input) are one paper.
    """
    loose: _Loose | None = None
    for file in read_files(stream, given.file, start, given.limits.payload_bytes):
        name, is_text = _folder(file.path), SOURCE_NAME.search(file.path) is not None
        is_paper = _is_paper(file) or file.path == _bare(given.file)
        if loose is not None and loose.name != name:
            yield _gathered(given, loose)
            loose = None
        if file.problem is None and not is_paper:
            loose = loose or _Loose(file.number, name)
            if is_text:
                loose.files.append(file)
                loose.size += len(file.data)
        elif file.problem is None or is_paper or is_text or file.is_damage or file.problem[0] != "oversize":
            found = given.refuse(*file.refusal()) if file.problem else _entry(given, file.number, file.path, file.data)
            yield replace(found, resumable=loose is None)
            if loose is not None:
                loose.is_resumable = False
        # what is left is a figure that is too large
    if loose is not None:
        yield _gathered(given, loose)


def _bare(name: str) -> str:
    return re.sub(r"\.(gz|bz2|xz|zst|lz4)$", "", name, flags=re.IGNORECASE)


def _is_paper(file: ArchivedFile) -> bool:
    """Whether a file of an archive is a paper of its own: an archive again, or named by an id of arXiv."""
    name = file.path.rpartition("/")[2]
    is_packed = file.data.startswith(CODECS["gzip"]) or _EPRINT_NAME.search(name) is not None
    is_named = re.search(r"\.(?:gz|pdf|tex|ps|html?)$", name, re.IGNORECASE) is not None or "." not in name[-4:]
    is_drawn = re.search(r"\.(?:e?ps|pdf|png|jpe?g|svg)\.gz$", name, re.IGNORECASE) is not None
    return (is_packed and not is_drawn) or (is_named and _identifier(name) is not None)


def _folder(path: str) -> str:
    """Return the part of a path that names the paper: up to the folder with an id, empty where none has one."""
    parts = path.split("/")[:-1]
    for index, part in enumerate(parts, 1):
        if _identifier(part) is not None:
            return "/".join(parts[:index])
    return ""


def _identifier(name: str) -> str | None:
    """Return the arXiv id in a name: 2301.00001, or hep-th/9901001 with or without its slash."""
    if match := _NEW_ID.search(name):
        return match[1]
    match = _OLD_ID.search(name)
    return f"{match[1]}/{match[2]}" if match else None


def _gathered(given: Given, loose: _Loose) -> Entry:
    """Return a paper whose files were found one by one, as a tar of them."""
    if loose.size > given.limits.payload_bytes:
        return _reject(
            given, loose.number, loose.name, "oversize", f"sources of over {given.limits.payload_bytes} bytes"
        )
    if not loose.files:
        return _reject(given, loose.number, loose.name, "unsupported", "no LaTeX source")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in loose.files:
            header = tarfile.TarInfo(file.path.removeprefix(loose.name).lstrip("/"))
            header.size = len(file.data)
            tar.addfile(header, io.BytesIO(file.data))
    return replace(_entry(given, loose.number, loose.name, packed.getvalue()), resumable=loose.is_resumable)


def _entry(given: Given, number: int, path: str, payload: bytes) -> Entry:
    options = given.options
    assert isinstance(options, LatexOptions), "the options of this format"
    identifier = _identifier(path) or _identifier(given.file)
    date = None
    if identifier is not None:
        year, month = (int(digits) for digits in re.findall(r"[0-9]{2}", identifier.rpartition("/")[2])[:2])
        date = datetime(1900 + year if year > 90 else 2000 + year, month, 1, tzinfo=UTC)
    url = f"https://arxiv.org/abs/{identifier}" if identifier else None
    origin = Origin(given.file, number, identifier or (path if path not in ("", given.file) else None))
    known = Document(origin, url, "", date=date, kept={ARXIV_ID: identifier})
    facts = {"name": path.rpartition("/")[2] or "paper", "limit": given.limits.payload_bytes}
    facts |= {"bibliography": options.bibliography, "citations": options.citations}
    return Entry(number, Raw(known, payload, facts))


def _reject(given: Given, number: int, path: str, reason: RejectReason, detail: str) -> Entry:
    identifier = _identifier(path) or _identifier(given.file)
    url = f"https://arxiv.org/abs/{identifier}" if identifier else None
    return Entry(
        number, Reject(Origin(given.file, number, identifier or path or None), url, reason, detail), resumable=False
    )


LATEX = Reader(
    read_latex,
    {
        ARXIV_ID: OwnColumn("text", "the paper's id on arXiv"),
        MACROS_EXPANDED: OwnColumn("int", "how often a macro of the paper's own was expanded"),
    },
    "pipeline.extract.latex.papers:make_handler",
    ("pylatexenc",),
    of_files=True,
    is_container=lambda name: is_archive(name) and _identifier(name.rpartition("/")[2]) is None,  # else it is one paper
)
