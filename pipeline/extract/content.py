"""What a raw input is, by its content and never by its name; and why it cannot be read, where it cannot.

Source: the magic numbers are those of the formats' own specifications, as `file` knows them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, Literal

from pipeline.extract.media import CONVERT, DELIMITERS, file_signature, is_pdf
from pipeline.extract.members import HEAD_BYTES, RawInput, detect, read_head
from pipeline.extract.warc.records import starts_arc, starts_warc
from pipeline.table.schema import RejectReason

Marked = Literal["wikipedia", "stackexchange", "latex", "pdf"]
Kind = Literal["empty", "warc", "parquet", "jsonl", "csv", "text", "binary", "damaged", "unreadable"] | Marked

_MARKUP = re.compile(rb"<(?:!doctype|html|head|body|\?xml|!--|[a-z][a-z0-9:_-]*[\s>/])", re.IGNORECASE)
_RECORD = re.compile(rb"(?:^|\n)WARC/1\.[01][ \t]*\r?\n")
_LEAD = re.compile(rb"(?:\s|<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^\[<>]*>)*", re.DOTALL)
_MEDIAWIKI = re.compile(rb"<mediawiki\s[^<>]*xmlns=[\"']https?://www\.mediawiki\.org/xml/export-")
_POSTS = re.compile(rb"<posts>\s*<row\s[^<]*\bPostTypeId=")
_PAPER = re.compile(rb"(?:\s|%[^\n]*\n|\\[^\n]*\n)*?\\document(?:class|style)\s*[\[{]")
_CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r\x1b"}) + b"\x7f"
_ARCHIVE_NAME = re.compile(r"\.(?:warc|arc|wet|wat)(?:\.|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file is. Of one that cannot be read `reason` and `detail` say why and what to do."""

    kind: Kind
    reason: RejectReason = "unsupported"
    detail: str = ""


def identify(stream: BinaryIO, name: str, columns: Mapping[str, str]) -> Content:
    """Return what the content of a seekable file is, from its first bytes (and, for Parquet, its last four).

    `text` and `binary` are none of the formats that are known, `unreadable` is one that Gristmill cannot read. Nothing
    but spaces is `empty`, what cannot be decoded at all `damaged`. A CSV is known by the column that holds the text.
    """
    raw = RawInput(stream, whole=False)
    form = detect(raw)
    head, is_all = read_head(raw)
    if is_all and not head.strip():
        return Content("empty")
    if not head:
        return Content("warc" if _ARCHIVE_NAME.search(name) else "damaged")
    if starts_warc(head) or starts_arc(head):
        return Content("warc")
    if (marked := marked_format(head)) is not None:
        return Content(marked[0])
    if head.startswith(b"PAR1"):
        return _parquet(raw, form.codec)
    if (known := file_signature(head)) is not None:
        how = f"{form.codec} around " if form.codec != "plain" else ""
        return Content(
            "unreadable", "encrypted" if "encrypted" in known[0] else "unsupported", f"{how}{'; '.join(known)}"
        )
    if is_all and not head.strip(b"\0"):
        return Content("unreadable", "damaged", "nothing but NUL bytes; fetch or write it again")
    return _text(head, name, columns)


def marked_format(head: bytes) -> tuple[Marked, str] | None:
    """Return the format that the beginning of a file proves, of those with a reader of their own, and by what."""
    if is_pdf(head):
        return "pdf", "it begins with %PDF-"
    start = _LEAD.match(head).end()  # type: ignore[union-attr]  # which matches nothing as well
    if _MEDIAWIKI.match(head, start):
        return "wikipedia", "its root is <mediawiki> in the namespace of MediaWiki's exports"
    if _POSTS.match(head, start):
        return "stackexchange", "<posts> with rows that have PostTypeId, as in dumps of Stack Exchange"
    return ("latex", "it begins with \\documentclass") if _PAPER.match(head) else None


def _parquet(raw: RawInput, codec: str) -> Content:
    if codec != "plain":
        return Content("unreadable", detail=f"a Parquet file in {codec}; decompress it")
    if raw.exactly(raw.size - 4, 4) not in (b"PAR1", b"PARE") or raw.size < 12:
        return Content("unreadable", "truncated_input", "a Parquet file without its end; fetch or write it again")
    return Content("parquet")


def _text(head: bytes, name: str, columns: Mapping[str, str]) -> Content:
    """Tell the formats of text apart."""
    start = head.lstrip()
    is_binary = 50 * len(head[:4096].translate(None, _CONTROL)) < 49 * len(head[:4096])
    objects = [line for line in head.split(b"\n") if line.lstrip().startswith(b"{")]
    if not is_binary and start.startswith((b"{", b"[")):
        return Content("jsonl")
    if not is_binary and _has_column(start, columns.get("text", "text")):
        return Content("csv")
    if _RECORD.search(head):
        return Content("warc")
    # Among bytes of any kind some lines begin like an object: there one must be an object.
    if any(_is_object(line) for line in objects) if is_binary else objects:
        return Content("jsonl")
    if not head.strip(b"\0"):
        return Content("jsonl")
    if is_binary:
        return Content("warc" if _ARCHIVE_NAME.search(name) else "binary")
    if _MARKUP.match(start):
        return Content("unreadable", detail=f"HTML or XML; set `format: html` for HTML files, or {CONVERT}")
    return Content("text")


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _has_column(start: bytes, column: str) -> bool:
    """Whether the first line of a text names `column`."""
    line = start.split(b"\n", 1)[0].decode(errors="replace").strip()
    if len(line) >= HEAD_BYTES or column not in line:
        return False
    try:
        return any(column in row for mark in DELIMITERS for row in csv.reader([line], delimiter=mark))
    except csv.Error:
        return False
