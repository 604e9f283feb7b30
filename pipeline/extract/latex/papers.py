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
from pipeline.table.schema import RejectReason

_MAIN = re.compile(r"^[^%\n]*\\document(?:class|style)", re.MULTILINE)
_BEGIN = re.compile(r"^[^%\n]*\\begin\s*\{document\}", re.MULTILINE)
_INPUTS = re.compile(r"^[^%\n]*?\\(?:input|include|subfile)\s*\{?\s*([^\s{}\\%]+)", re.MULTILINE)
_ENCODING = re.compile(r"^[^%\n]*\\usepackage\s*\[([A-Za-z0-9, -]+)\]\s*\{inputenc\}", re.MULTILINE)
_ASIAN = {
    "gb18030": re.compile(r"\{GBK?\}|\[[^\]]{0,80}GBK|ctex|xeCJK"),
    "big5hkscs": re.compile(r"\{Bg5\}|\{Big5\}"),
    "cp949": re.compile(r"hangul|kotex|\{KS\}"),
    "euc_jp": (_JAPANESE := re.compile(r"\{(?:u|t|p|lt)?js?(?:article|report|book)\}|\{(?:SJIS|JIS)\}")),
    "cp932": _JAPANESE,
}
"""Encodings by what sources say that may be in them."""
_MINOR = re.compile(r"(?:^|[/_-])(?:supp|si[._-]|response|reply|rebuttal|referee|cover|letter|diff|old|sample)", re.I)
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
    said = [_declared(source) for source in data.values()]
    asian = [codec for codec in _ASIAN if any(codec in codecs for codecs in said)]
    declared = next((codec for codecs in said for codec in codecs if codec not in _ASIAN), "cp1252")
    texts = {path: _decoded(source, [*asian, declared]) for path, source in data.items()}
    is_short = sum(map(len, texts.values())) < 5000 and not any(map(_BEGIN.search, texts.values()))
    if is_short and any(map(_WITHDRAWN.search, texts.values())):
        raise RefusedError("deleted", "withdrawn: the source says nothing else")
    main = _main_file(texts)
    if main is None:
        is_empty = not any(source.strip() for source in texts.values())
        raise RefusedError(*(unread or [("empty" if is_empty else "unsupported", "no LaTeX source")])[0])
    found = convert(main, texts, bibliography=facts["bibliography"], citations=facts["citations"])
    if not found.text.strip():
        raise RefusedError("empty", f"no text in {main}")
    if len(found.text) < 500 and _WITHDRAWN.search(found.text):
        raise RefusedError("deleted", "withdrawn: the paper says nothing else")
    metadata = {"main_file": main, "files": len(texts), "missing_files": found.missing_files or None}
    metadata["unread_files"] = [detail for _, detail in unread[:20]] or None
    kept: dict[str, object] = {"macros_expanded": found.macros_expanded}
    return Converted(found.text + "\n", found.title, metadata=metadata, kept=kept)


def _sources(payload: bytes, facts: Mapping[str, Any]) -> tuple[dict[str, bytes], list[tuple[RejectReason, str]]]:
    """Return what may be LaTeX by path, and why other files could not be read: reasons and details."""
    found: dict[str, bytes] = {}
    unread: list[tuple[RejectReason, str]] = []
    left = facts["limit"]
    for file in read_files(io.BytesIO(payload), facts["name"], 0, left):
        if file.problem is not None:
            reason, detail = file.problem
            unread.append((reason, f"{file.path}: {detail}" if file.path else detail))
            continue
        what = not_text(file.data) or ("HTML" if looks_like_html(file.data) else None)
        if what is not None:
            unread.append(("unsupported", f"{file.path}: {what}"))
        elif names.SOURCE_NAME.search(file.path) or file.path in (facts["name"], facts["name"].rpartition(".")[0]):
            left -= len(file.data)
            if left < 0:
                raise RefusedError("oversize", f"sources of over {facts['limit']} bytes")
            found.setdefault(file.path, file.data)
    return found, unread


def _declared(data: bytes) -> list[str]:
    """Return the encodings in which a source says that it may be, the last one it names first."""
    head = data[:20_000].decode("latin-1")
    said = _ENCODING.search(head)
    named = [_CODECS[name.strip()] for name in said[1].lower().split(",") if name.strip() in _CODECS] if said else []
    return named[::-1] + [codec for codec, pattern in _ASIAN.items() if pattern.search(head)]


def _decoded(data: bytes, otherwise: list[str]) -> str:
    """Return a source as text: UTF-8 where most of it is, else as it says, else as the paper's other files say."""
    text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig", "replace")
    wrong = text.count("\ufffd")
    if wrong and wrong * 20 > sum(map(len, re.findall("[^\0-\x7f]+", text))):
        said = [*_declared(data), *otherwise]
        codec = next((codec for codec in said if codec not in _ASIAN or _can_decode(data, codec)), "cp1252")
        text = data.decode(codec, "replace")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _can_decode(data: bytes, codec: str) -> bool:
    try:
        data.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _main_file(texts: Mapping[str, str]) -> str | None:
    """Return the file that begins the paper: as the submission names it, else the whole document of the most text."""
    sources = [path for path in sorted(texts) if not path.lower().endswith((".sty", ".bbl")) and "00README" not in path]
    for path in texts:
        if "00README" in path and (named := _top_level(texts[path])) in texts:
            return named
    heads, bodies = ([path for path in sources if each.search(texts[path])] for each in (_MAIN, _BEGIN))
    whole = [path for path in heads if path in bodies] or bodies or heads
    inner = {path: _included(path, texts) for path in sources}
    loose = whole or [path for path in sources if _LATEX.search(texts[path]) or path.lower().endswith(".tex")]
    included = set().union(*(inner[path] - {path} for path in whole or sources))
    loose = [path for path in loose if path not in included] or loose

    def size(path: str) -> int:
        seen, waiting = {path}, [path]
        while waiting and len(seen) < MAX_FILES:
            waiting += (fresh := sorted(inner.get(waiting.pop(), set()) - seen))
            seen.update(fresh)
        return sum(len(texts[each]) for each in seen)

    # A response to referees or a supplement is whole, too, and mostly shorter, or deeper in the folders.
    return min(loose, key=lambda path: (path.count("/"), bool(_MINOR.search(path)), -size(path), path), default=None)


def _included(path: str, texts: Mapping[str, str]) -> set[str]:
    """Return the files that a source names, by their paths from the top or from its folder."""
    folder = path.rpartition("/")[0]
    said = [name.removeprefix("./") for name in _INPUTS.findall(texts[path])]
    tried = (f"{place}{name}{end}" for name in said for place in ("", f"{folder}/") for end in ("", ".tex"))
    return {name for name in tried if name in texts}


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
