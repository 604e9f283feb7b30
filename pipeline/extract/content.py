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

from pipeline.extract.corpora.text import DELIMITERS
from pipeline.extract.members import HEAD_BYTES, RawInput, detect, read_head
from pipeline.extract.warc.records import starts_arc, starts_warc
from pipeline.table.schema import RejectReason

Kind = Literal["empty", "warc", "parquet", "jsonl", "csv", "text", "binary", "damaged", "unreadable"]

_UNPACK = "unpack it and name the files in it"
_CONVERT = "convert it to JSON lines or Parquet"
_NO_CORPUS = "it holds no documents that can be read: take it out of `inputs`"
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive (so are .docx, .xlsx, .epub and .npz)", _UNPACK),
    (0, b"PK\x05\x06", "an empty ZIP archive", _NO_CORPUS),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"!<arch>\n", "an ar archive", _UNPACK),
    (0, b"070701", "a cpio archive", _UNPACK),
    (0, b"\x1f\x9d", "compressed by compress (.Z)", "decompress it"),
    (0, b"LZIP", "compressed by lzip", "decompress it"),
    (0, b"\x5d\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", "compressed by lzma (.lzma)", "decompress it"),
    (0, b"\x89LZO\0", "compressed by lzop", "decompress it"),
    (0, b"\x02\x21\x4c\x18", "compressed in the old format of lz4", "decompress it"),
    (0, b"\xff\x06\0\0sNaPpY", "compressed by snappy", "decompress it"),
    (0, b"PARE", "an encrypted Parquet file", "decrypt it"),
    (0, b"ARROW1", "an Arrow file", _CONVERT),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", _CONVERT),
    (0, b"FEA1", "a Feather file", _CONVERT),
    (0, b"ORC", "an ORC file", _CONVERT),
    (0, b"Obj\x01", "an Avro file", _CONVERT),
    (0, b"SEQ\x06", "a Hadoop sequence file", _CONVERT),
    (0, b"SQLite format 3\0", "an SQLite database", _CONVERT),
    (0, b"\x89HDF\r\n", "an HDF5 file", _CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", _CONVERT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office document", _CONVERT),
    (0, b"%PDF-", "a PDF", "extract its text first"),
    (0, b"\x89PNG\r\n", "a PNG image", _NO_CORPUS),
    (0, b"GIF8", "a GIF image", _NO_CORPUS),
    (0, b"\xff\xd8\xff", "a JPEG image", _NO_CORPUS),
    (0, b"\x7fELF", "a program", _NO_CORPUS),
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
)
_PICKLE = re.compile(rb"\x80[\x02-\x05](?:[\x95c}\]]|$)")
_MARKUP = re.compile(rb"<(?:!doctype|html|head|body|\?xml|!--|[a-z][a-z0-9:_-]*[\s>/])", re.IGNORECASE)
_RECORD = re.compile(rb"(?:^|\n)WARC/1\.[01][ \t]*\r?\n")
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
    if head.startswith(b"PAR1"):
        return _parquet(raw, form.codec)
    if (known := _signature(head)) is not None:
        how = f"{form.codec} around " if form.codec != "plain" else ""
        return Content(
            "unreadable", "encrypted" if "encrypted" in known[0] else "unsupported", f"{how}{'; '.join(known)}"
        )
    if is_all and not head.strip(b"\0"):
        return Content("unreadable", "damaged", "nothing but NUL bytes; fetch or write it again")
    return _text(head, name, columns)


def _parquet(raw: RawInput, codec: str) -> Content:
    if codec != "plain":
        return Content("unreadable", detail=f"a Parquet file in {codec}; decompress it")
    if raw.exactly(raw.size - 4, 4) not in (b"PAR1", b"PARE") or raw.size < 12:
        return Content("unreadable", "truncated_input", "a Parquet file without its end; fetch or write it again")
    return Content("parquet")


def _signature(head: bytes) -> tuple[str, str] | None:
    for offset, magic, what, way_out in _SIGNATURES:
        if head.startswith(magic, offset):
            return what, way_out
    for codec_magic in (b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"):
        if head.startswith(codec_magic):
            return "another compressed file", "decompress it once"
    return ("a Python pickle", _CONVERT) if _PICKLE.match(head) else None


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
        return Content("unreadable", detail=f"HTML or XML; {_CONVERT}, or HTML to WARC")
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
