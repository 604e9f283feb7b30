"""Markdown as it runs in an isolated worker: front matter becomes metadata, comments go, all else stays as it is.

Keep this module and all it imports free of pyarrow, Numba and pydantic: every worker holds it in memory.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any

import yaml

from pipeline.extract.conversion import Converted, RefusedError, handler
from pipeline.extract.html.charset import decode
from pipeline.extract.html.licences import spdx_from_text
from pipeline.extract.html.page_metadata import parse_date

MAX_FRONT_CHARACTERS = 64 << 10
_MAX_FRONT_DEPTH = 16
_FRONT = re.compile(r"(---|\+\+\+)[ \t]*\n")
_FENCE = re.compile(
    r"[ \t>]*(?:(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)*(`{3,}(?!.*`)|~{3,})"
)  # in lists and quotations as well
_INDENTED = re.compile(r"(?: {4}| {0,3}\t)[ \t]*\S")
_HEADING = re.compile(r" {0,3}#[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_DATES = ("date", "published", "pubdate", "created", "lastmod", "updated")


def make_handler() -> Callable[[bytes], bytes]:
    """Return the function that a worker runs on each file."""
    return handler(convert)


def convert(payload: bytes, facts: Mapping[str, Any]) -> Converted:
    """Return a file's text without front matter and comments, and what the front matter says.

    Raises: RefusedError for what is no text in any charset, or empty.
    """
    decoded = decode(payload, None)
    if decoded.is_garbage:
        raise RefusedError("charset", decoded.complaint())
    text = decoded.text.replace("\x00", "").replace("\r\n", "\n").replace("\r", "\n")
    front, body = _front_matter(text.encode("utf-8", "ignore").decode())
    body, heading = _without_comments(body)
    if not body.strip():
        raise RefusedError("empty", "no text but front matter and comments" if text.strip() else "no text")
    said = {key.lower(): value for key, value in front.items() if isinstance(value, str) and value.strip()}
    dates = (parse_date(said[name]) for name in _DATES if name in said)
    licence = said.get("license") or said.get("licence")
    return Converted(
        text=body.strip("\n") + "\n",
        title=said.get("title") or heading,
        date=next((found for found in dates if found is not None), None),
        licence=spdx_from_text(licence) if licence else None,
        metadata={"charset": decoded.charset, "front_matter": front or None},
    )


class _Loader(yaml.SafeLoader):
    """YAML without aliases, of which a few lines can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Return the fields at the head of a text (YAML, or TOML between `+++`) and what follows them."""
    opened = _FRONT.match(text)
    if opened is None:
        return {}, text
    closed = re.compile(rf"^{re.escape(opened[1])}[ \t]*$|^\.\.\.[ \t]*$", re.MULTILINE).search(
        text, opened.end(), opened.end() + MAX_FRONT_CHARACTERS
    )
    if closed is None:
        return {}, text
    front = text[opened.end() : closed.start()]
    try:
        fields = yaml.load(front, _Loader) if opened[1] == "---" else tomllib.loads(front)
    except (yaml.YAMLError, tomllib.TOMLDecodeError, ValueError, TypeError, RecursionError):
        return {}, text[closed.end() :] if _looks_like_fields(front) else text
    if not isinstance(fields, dict):
        return {}, text
    return {str(key): _plain(value, _MAX_FRONT_DEPTH) for key, value in fields.items()}, text[closed.end() :]


def _looks_like_fields(front: str) -> bool:
    """Whether front matter that no parser reads is nevertheless one: it begins with `name: value`, not with a text."""
    return re.match(r"\s*[A-Za-z_][\w-]{0,40}\s*[:=]", front) is not None


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if depth and isinstance(value, dict):
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, (list, tuple, set)):
        return [_plain(item, depth - 1) for item in value]
    if value is None or isinstance(value, (str, bool)) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    return value if isinstance(value, float) and abs(value) < float("inf") else str(value)[:1000]


def _without_comments(text: str) -> tuple[str, str | None]:
    """Return a text without the HTML comments outside its code, and its first heading of the first level."""
    kept: list[str] = []
    heading: str | None = None
    fence = ""
    is_comment = is_indented = False
    lines = text.split("\n")
    last = next((number for number in range(len(lines) - 1, -1, -1) if "-->" in lines[number]), -1)
    for number, line in enumerate(lines):
        opened = _FENCE.match(line) if not is_comment else None
        if fence:
            kept.append(line)
            if opened and opened[1].startswith(fence) and not line[opened.end() :].strip():
                fence = ""
            continue
        if opened:
            fence = opened[1]
            kept.append(line)
            continue
        is_code = not is_comment and _INDENTED.match(line) is not None
        is_indented = is_code and (is_indented or not number or not lines[number - 1].strip())
        if is_indented:
            kept.append(line)
            continue
        rest, is_comment = _line_without_comments(line, is_comment, number < last)
        if rest is None:  # nothing but a comment: the line goes, too
            continue
        if heading is None and (match := _HEADING.fullmatch(rest)):
            heading = match[1] or None
        elif heading is None and kept and re.fullmatch(r" {0,3}=+[ \t]*", rest) and kept[-1].strip():
            heading = kept[-1].strip()
        kept.append(rest)
    return "\n".join(kept), heading


def _line_without_comments(line: str, is_comment: bool, may_go_on: bool) -> tuple[str | None, bool]:
    """Return a line without comments (None when it held nothing else) and whether one goes on behind it.

    What would never be closed is no comment.
    """
    if not is_comment and "<!--" not in line:
        return line, False
    parts: list[str] = []
    position = 0
    while True:
        if is_comment:
            end = line.find("-->", position)
            if end < 0:
                break
            position, is_comment = end + 3, False
        begin = line.find("<!--", position)
        while begin > 0 and line[begin - 1] == "`":  # quoted as code
            begin = line.find("<!--", begin + 4)
        if not may_go_on and "-->" not in line[begin:]:
            begin = -1
        parts.append(line[position : begin if begin >= 0 else len(line)])
        if begin < 0:
            break
        position, is_comment = begin + 4, True
    rest = "".join(parts)
    return rest if rest.strip() else None, is_comment
