"""One paper's sources to its text, as it runs in an isolated worker: its files, the main one, their encoding.

Keep this module and all it imports free of pyarrow, Numba and pydantic: every worker holds it in memory.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.extract.archives import read_files
from pipeline.extract.conversion import Converted, RefusedError, handler
from pipeline.extract.latex import names
from pipeline.extract.latex.convert import convert
from pipeline.extract.latex.expansion import MAX_FILES
from pipeline.extract.media import looks_like_html, not_text

_MAIN = re.compile(r"^[^%\n]*\\document(?:class|style)", re.MULTILINE)
_BEGIN = re.compile(r"^[^%\n]*\\begin\s*\{document\}", re.MULTILINE)
_INPUTS = re.compile(r"^[^%\n]*?\\(?:input|include|subfile)\s*\{?\s*([^\s{}\\%]+)", re.MULTILINE)
_ENCODING = re.compile(r"^[^%\n]*\\usepackage\s*\[([A-Za-z0-9, -]+)\]\s*\{inputenc\}", re.MULTILINE)
_WITHDRAWN = re.compile(r"%auto-ignore|withdrawn", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:begin|section|chapter|documentclass|documentstyle|input|def|magnification|item|bye|title)\b")
_CODECS = {
    "latin1": "cp1252",
    "latin2": "iso8859-2",
    "latin5": "iso8859-9",
    "latin9": "iso8859-15",
    "ansinew": "cp1252",
    "applemac": "mac_roman",
    "cp1250": "cp1250",
    "cp1251": "cp1251",
    "cp1252": "cp1252",
    "koi8-r": "koi8-r",
    "koi8-u": "koi8-u",
    "cp850": "cp850",
    "cp866": "cp866",
}


def make_handler() -> Callable[[bytes], bytes]:
    """Return the function that a worker runs on each paper."""
    return handler(to_text)


def to_text(payload: bytes, facts: Mapping[str, Any]) -> Converted:
    """Return the text of a paper: a tar of its sources, or its one file, either plain or compressed.

    Raises: RefusedError for what holds no LaTeX, was withdrawn, or cannot be read.
    """
    data, unread = _sources(payload, facts)
    texts = {path: _decoded(source) for path, source in data.items()}
    is_short = sum(map(len, texts.values())) < 5000 and not any(map(_BEGIN.search, texts.values()))
    if is_short and any(map(_WITHDRAWN.search, texts.values())):
        raise RefusedError("deleted", "withdrawn: the source says nothing else")
    main = _main_file(texts)
    if main is None:
        is_empty = not unread and not any(source.strip() for source in texts.values())
        raise RefusedError("empty" if is_empty else "unsupported", unread[0] if unread else "no LaTeX source")
    found = convert(main, texts, bibliography=facts["bibliography"], citations=facts["citations"])
    if not found.text.strip():
        raise RefusedError("empty", f"no text in {main}")
    if len(found.text) < 500 and _WITHDRAWN.search(found.text):
        raise RefusedError("deleted", "withdrawn: the paper says nothing else")
    said = {"main_file": main, "files": len(texts), "missing_files": found.missing_files or None}
    kept: dict[str, object] = {"macros_expanded": found.macros_expanded}
    return Converted(found.text + "\n", found.title, metadata=said | {"unread_files": unread[:20] or None}, kept=kept)


def _sources(payload: bytes, facts: Mapping[str, Any]) -> tuple[dict[str, bytes], list[str]]:
    """Return what may be LaTeX by path, and why other files could not be read."""
    found: dict[str, bytes] = {}
    unread: list[str] = []
    left = facts["limit"]
    for file in read_files(io.BytesIO(payload), facts["name"], 0, left):
        if file.problem is not None:
            reason, detail = file.problem
            if not found and (file.number == 0 or file.is_damage):
                raise RefusedError(reason, detail)
            unread.append(f"{file.path}: {detail}" if file.path else detail)
            continue
        what = not_text(file.data) or ("HTML" if looks_like_html(file.data) else None)
        if what is not None:
            unread.append(f"{file.path}: {what}")
        elif names.SOURCE_NAME.search(file.path) or file.path in (facts["name"], facts["name"].rpartition(".")[0]):
            left -= len(file.data)
            if left < 0:
                raise RefusedError("oversize", f"sources of over {facts['limit']} bytes")
            found.setdefault(file.path, file.data)
    return found, unread


def _decoded(data: bytes) -> str:
    """Return a source as text: UTF-8 where it is, else as it says, else as most of the old ones are."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        said = _ENCODING.search(data[:20_000].decode("latin-1"))
        names = (
            [_CODECS[name.strip()] for name in said[1].lower().split(",") if name.strip() in _CODECS] if said else []
        )
        text = data.decode(names[-1] if names else "cp1252", "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _main_file(texts: Mapping[str, str]) -> str | None:
    """Return the file that begins the paper: as the submission names it, else the whole document of the most text."""
    sources = [path for path in sorted(texts) if not path.lower().endswith((".sty", ".bbl")) and "00README" not in path]
    for path in texts:
        if "00README" in path and (named := _top_level(texts[path])) in texts:
            return named
    whole = [path for path in sources if _MAIN.search(texts[path])]
    whole = [path for path in whole if _BEGIN.search(texts[path])] or whole
    included = {name for path in whole or sources for name in _INPUTS.findall(texts[path])}
    loose = [path for path in whole if not {path, path.removesuffix(".tex")} & included] or whole
    if not loose:
        loose = [path for path in sources if _LATEX.search(texts[path]) or path.endswith(".tex")]
        loose = [path for path in loose if not {path, path.removesuffix(".tex")} & included] or loose

    def size(path: str) -> int:
        seen, waiting = {path}, [path]
        while waiting and len(seen) < MAX_FILES:
            inner = {name if name in texts else f"{name}.tex" for name in _INPUTS.findall(texts[waiting.pop()])}
            waiting += (fresh := sorted((inner & texts.keys()) - seen))
            seen.update(fresh)
        return sum(len(texts[each]) for each in seen)

    # A response to referees or a supplement is whole, too, and mostly shorter, or deeper in the folders.
    return min(loose, key=lambda path: (path.count("/"), -size(path), path), default=None)


def _top_level(readme: str) -> str | None:
    """Return the file that arXiv's own notes on a submission call the top one."""
    if readme.lstrip().startswith("{"):
        try:
            listed = json.loads(readme)["sources"]
            return next(str(each["filename"]) for each in listed if each.get("usage") == "toplevel")
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
            return None
    match = re.search(r"^(\S+)\s+toplevelfile", readme, re.MULTILINE)
    return match[1] if match else None
