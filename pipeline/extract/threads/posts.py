"""The text of a question and its answers: the HTML of their bodies as Markdown, in a worker.

Bodies are HTML of a small kind that the sites themselves made of Markdown. Text is taken as it stands, so that LaTeX
and code keep every byte: neither white space nor anything else within a paragraph is changed, and what stands in a list
or a quotation is never indented. Links and emphasis are their text, images what stands for them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lxml import etree
from lxml.etree import _Element

from pipeline.extract.conversion import Converted, RefusedError, handler

MAX_DEPTH = 150
_BLOCK_NAMES = """address article aside blockquote center dd details div dl dt figure figcaption footer form h1 h2 h3 h4
h5 h6 header hr li main ol p pre section summary table tbody td tfoot th thead tr ul"""
_DROPPED_NAMES = "script style iframe object embed video audio canvas svg noscript template head title"
_ORDINAL_ENDS = "st nd rd th er re ème º ª ° tm ® ™ ©"
_BLOCKS, _DROPPED = frozenset(_BLOCK_NAMES.split()), frozenset(_DROPPED_NAMES.split())
_ORDINALS = frozenset(_ORDINAL_ENDS.split())
_NO_ALT = frozenset(("", "enter image description here", "alt text", "image", "screenshot"))
_SIMPLE = re.compile(r"[-+−–]?\w+", re.ASCII)
_LANGUAGE = re.compile(r"\blang(?:uage)?-([\w+#.-]+)")
_ENDS = re.compile(r"</(?:html|body)[^>]*>", re.IGNORECASE)
_TICKS = re.compile("`+")

Block = tuple[Literal["text", "code", "list"], str]


def make_handler() -> Callable[[bytes], bytes]:
    """Return what a worker makes of each thread."""
    parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, no_network=True)

    def convert(payload: bytes, facts: Mapping[str, Any]) -> Converted:
        return Converted(thread_text(json.loads(payload), parser))

    return handler(convert)


def thread_text(thread: dict[str, Any], parser: etree.HTMLParser) -> str:
    """Return the text of a thread: title, question and answers, each with its comments.

    Raises: RefusedError when nothing is left, or a body is nested too deeply.
    """
    title = " ".join(thread["title"].split())
    parts = [f"# {title}"] if title else []
    for index, post in enumerate(thread["posts"]):
        parts += ["## Accepted answer" if post["accepted"] else "## Answer"] if index else []
        parts.append(body_text(post["body"], parser))
        comments = [" ".join(comment.split()) for comment in post["comments"]]
        parts += ["Comments:\n\n" + "\n".join(f"- {comment}" for comment in comments)] if comments else []
    text = "\n\n".join(part for part in parts if part)
    if not text:
        raise RefusedError("empty", "neither title nor text")
    return text


def body_text(html: str, parser: etree.HTMLParser) -> str:
    """Return the body of a post as Markdown. Raises: RefusedError when it is nested too deeply."""
    html = html.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    if "<" not in html and "&" not in html:
        return html.strip()
    html = _ENDS.sub("", html)  # behind which the parser stops
    tree = etree.fromstring(b"<html><body>" + html.encode("utf-8", "replace") + b"</body></html>", parser)
    return "" if tree is None else _joined(_Body().of(tree, 0), "\n\n")


def _joined(blocks: list[Block], gap: str) -> str:
    return gap.join(text for _, text in blocks)


class _Body:
    """The blocks of an element, written as one goes through it."""

    def __init__(self, level: int = 0) -> None:
        self._level = level  # of lists
        self._blocks: list[Block] = []
        self._line: list[str] = []

    def of(self, element: _Element, depth: int) -> list[Block]:
        """Return the blocks of an element's content."""
        self._content(element, depth)
        self._end()
        return self._blocks

    def _end(self) -> None:
        text = "".join(self._line).strip(" \t\n")
        if text.strip("\u00a0"):
            self._blocks.append(("text", text))
        self._line = []

    def _content(self, element: _Element, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise RefusedError("too_deep", f"elements over {MAX_DEPTH} deep in one another")
        if element.text:
            self._line.append(element.text)
        for child in element:
            self._element(child, depth + 1)
            if child.tail:
                self._line.append(child.tail)

    def _element(self, element: _Element, depth: int) -> None:
        tag = element.tag
        if not isinstance(tag, str) or tag in _DROPPED:
            return
        if tag in _BLOCKS:
            self._end()
            self._block(element, tag, depth)
            self._end()
        elif tag == "br":
            self._line.append("" if (element.tail or "").startswith("\n") else "\n")
        elif tag == "img":
            alt = " ".join((element.get("alt") or "").split())
            self._line.append("" if alt.lower() in _NO_ALT else alt)
        elif tag in ("code", "tt", "samp"):
            self._line.append(_inline_code(_verbatim(element)))
        elif tag in ("sup", "sub"):
            self._line.append(_moved("^" if tag == "sup" else "_", _joined(_Body().of(element, depth), " ")))
        else:
            self._content(element, depth)

    def _block(self, element: _Element, tag: str, depth: int) -> None:
        if tag == "pre":
            self._blocks.append(("code", _fenced(element)))
        elif tag in ("ul", "ol"):
            self._list(element, depth)
        elif tag == "blockquote":
            for kind, text in _Body(self._level).of(element, depth):
                self._blocks.append((kind, text if kind == "code" else _quoted(text)))
        elif tag == "table":
            self._table(element, depth)
        elif tag == "hr":
            self._blocks.append(("text", "---"))
        elif tag[0] == "h" and tag[1:].isdigit():
            text = " ".join(_joined(_Body().of(element, depth), " ").split())
            self._blocks += [("text", f"{'#' * min(6, int(tag[1]) + 2)} {text}")] if text else []
        else:
            self._content(element, depth)

    def _list(self, element: _Element, depth: int) -> None:
        """Write a list; what an item holds beside its first paragraph and further lists stands apart, not indented."""
        start = element.get("start") or ""
        number = int(start) if start.isdecimal() and len(start) < 9 else 1
        items: list[str] = []
        loose = False
        for child in element:
            if child.tag != "li":
                inner = _Body(self._level).of(child, depth + 1) if isinstance(child.tag, str) else []
                items += [text for _, text in inner]
                continue
            blocks = _Body(self._level + 1).of(child, depth + 1)
            mark = "  " * self._level + (f"{number}. " if element.tag == "ol" else "- ")
            number += 1
            if not blocks:
                continue
            first, *others = blocks
            item = mark + first[1] if first[0] == "text" else f"{mark.rstrip()}\n{first[1]}"
            for kind, text in others:
                item += ("\n" if kind == "list" else "\n\n") + text
            loose |= any(kind != "list" for kind, _ in others)
            items.append(item)
        if items:
            self._blocks.append(("list", ("\n\n" if loose else "\n").join(items)))

    def _table(self, element: _Element, depth: int) -> None:
        rows: list[list[str]] = []
        for row in element.iter("tr"):
            cells = [
                _cell(_joined(_Body().of(cell, depth + 3), " ").replace("\n", " "))
                for cell in row
                if cell.tag in ("td", "th")
            ]
            if any(cells):
                rows.append(cells)
        if rows:
            width = max(map(len, rows))
            lines = [f"| {' | '.join([*cells, *[''] * (width - len(cells))])} |" for cells in rows]
            lines.insert(1, "| " + " | ".join(["---"] * width) + " |")
            self._blocks.append(("text", "\n".join(lines)))


def _cell(text: str) -> str:
    """Return the text of a cell, whose bars are no borders; in LaTeX a bar that is marked would be another."""
    return text if "$" in text or "\\" in text else text.replace("|", "\\|")


def _verbatim(element: _Element) -> str:
    """Return the text of code, in which a `br` is a newline."""
    for line in element.iter("br"):
        line.text = "\n"
    return "".join(element.itertext())


def _fenced(element: _Element) -> str:
    code = _verbatim(element).rstrip("\n")
    inner = element.find("code")
    named = _LANGUAGE.search(f"{element.get('class') or ''} {'' if inner is None else inner.get('class') or ''}")
    language = named[1] if named is not None and named[1] not in ("none", "default") else ""
    fence = "`" * max(3, 1 + max(map(len, _TICKS.findall(code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def _inline_code(code: str) -> str:
    if not code.strip():
        return code
    ticks = "`" * (1 + max(map(len, _TICKS.findall(code)), default=0))
    gap = " " if code.startswith("`") or code.endswith("`") else ""
    return f"{ticks}{gap}{code}{gap}{ticks}"


def _moved(mark: str, text: str) -> str:
    """Return what is raised or lowered with its mark, without which it would run together with what is before it."""
    if not text or "$" in text or text.lower() in _ORDINALS:
        return text
    return f"{mark}{text}" if _SIMPLE.fullmatch(text) else f"{mark}({text})"


def _quoted(text: str) -> str:
    """Return text as a quotation: each line marked, but the first alone where LaTeX may go over several lines."""
    keeps = "$" in text or "\\" in text or "```" in text
    return f"> {text}" if keeps else "\n".join(f"> {line}" for line in text.split("\n"))
