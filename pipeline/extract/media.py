"""What bytes are: the media types of pages, and how formats begin: files, members and bodies.

Light on purpose: workers import this module, too.

Source: the magic numbers are those of the formats' own specifications, as `file` knows them; WHATWG MIME Sniffing.
"""

from __future__ import annotations

import re
from typing import Literal

Codec = Literal["plain", "gzip", "lz4", "zstd", "xz", "bz2"]

HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})
TEXT_TYPE = "text/plain"
PDF_TYPES = frozenset({"application/pdf", "application/x-pdf"})
ANY_TYPES = frozenset(
    {"application/octet-stream", "binary/octet-stream", "application/download", "application/x-download"}
    | {"application/force-download"}
)
"""Types that say nothing but that a body is to be saved."""
PAGE_TYPES = HTML_TYPES | {TEXT_TYPE}
CODECS: dict[Codec, bytes] = {
    "gzip": b"\x1f\x8b\x08",
    "lz4": b"\x04\x22\x4d\x18",
    "zstd": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\0",
    "bz2": b"BZh",
}
"""How a member of a compressed file begins."""
DELIMITERS = (",", "\t", ";", "|")  # of CSV
_SNIFF_BYTES = 4096

_UNPACK = "unpack it and name the files in it"
_FILES_IN_IT = "set the `format` of the files in it (html, text, markdown, latex, code), or unpack it"
CONVERT = "convert it to JSON lines or Parquet"
_NO_CORPUS = "it holds no documents that can be read: take it out of `inputs`"
# Place, magic number, what a file is, and what to do about it.
_FILES: tuple[tuple[int, bytes, str, str], ...] = (
    (257, b"ustar", "a tar archive", _FILES_IN_IT),
    (0, b"PK\x03\x04", "a ZIP archive (so are .docx, .xlsx, .epub and .npz)", _FILES_IN_IT),
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
    (0, b"ARROW1", "an Arrow file", CONVERT),
    (0, b"\xff\xff\xff\xff", "an Arrow stream", CONVERT),
    (0, b"FEA1", "a Feather file", CONVERT),
    (0, b"ORC", "an ORC file", CONVERT),
    (0, b"Obj\x01", "an Avro file", CONVERT),
    (0, b"SEQ\x06", "a Hadoop sequence file", CONVERT),
    (0, b"SQLite format 3\0", "an SQLite database", CONVERT),
    (0, b"\x89HDF\r\n", "an HDF5 file", CONVERT),
    (0, b"\x93NUMPY", "a NumPy array", CONVERT),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1", "an old Office document", CONVERT),
    (0, b"%PDF-", "a PDF", "set `format: pdf`"),
    (0, b"\x89PNG\r\n", "a PNG image", _NO_CORPUS),
    (0, b"GIF8", "a GIF image", _NO_CORPUS),
    (0, b"\xff\xd8\xff", "a JPEG image", _NO_CORPUS),
    (0, b"\x7fELF", "a program", _NO_CORPUS),
    (0, b"version https://git-lfs.github.com/spec/", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
)
# What a page's body sometimes is instead: behind spaces as well, or only at its beginning, since text begins so, too.
_BODIES: dict[bytes, str] = {
    b"%PDF-": "application/pdf",
    b"%!PS": "application/postscript",
    b"\x89PNG\r\n": "image/png",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"\xff\xd8\xff": "image/jpeg",
    b"PK\x03\x04": "application/zip",
    b"Rar!\x1a": "application/vnd.rar",
    b"\xd0\xcf\x11\xe0": "application/msword",
    b"{\\rtf": "application/rtf",
    b"OggS": "application/ogg",
    b"ID3": "audio/mpeg",
    b"wOFF": "font/woff",
    b"wOF2": "font/woff2",
}
_BEGINNINGS: dict[bytes, str] = {
    b"GIF8": "image/gif",
    b"RIFF": "image/webp or another RIFF file",
    b"\0\0\1\0": "image/x-icon",
    CODECS["gzip"]: "application/gzip",
}
_MARKED_TEXT = (b"%PDF-", b"%!PS", b"{\\rtf", b"version https://git-lfs")
_SAVED_PAGE = re.compile(
    rb"(?=[\s\S]{0,2000}?^MIME-Version:)[a-z-]+:[\s\S]{0,2000}?^Content-Type:\s*multipart/related", re.M | re.I
)
_PICKLE = re.compile(rb"\x80[\x02-\x05](?:[\x95c}\]]|$)")
_HTML = re.compile(
    rb"<(?:!doctype\s+html|html|head|body|title|meta|link|script|style|div|p|br|a|b|h[1-6]|table|font|iframe|span|ul|img"
    rb"|center|article|section|main|header|nav|form)[\s>/]|<!--",
    re.IGNORECASE,
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_LEAD = re.compile(rb"(?:\xef\xbb\xbf|\s|<!--.*?-->|<\?.*?\?>)*", re.DOTALL)


def file_signature(head: bytes) -> tuple[str, str] | None:
    """Return what a file is that is none of the formats that are read, and what to do about it; None when it may be."""
    for offset, magic, what, way_out in _FILES:
        if head.startswith(magic, offset):
            return what, way_out
    if head.startswith((CODECS["gzip"], CODECS["xz"], CODECS["zstd"])):
        return "another compressed file", "decompress it once"
    if _SAVED_PAGE.match(head):
        return "a saved web page with its images (MHTML)", "save it as HTML alone"
    return ("a Python pickle", CONVERT) if _PICKLE.match(head) else None


def looks_like_html(body: bytes) -> bool:
    """Say whether the beginning of `body` is HTML, in any charset that keeps ASCII readable or in UTF-16."""
    head = _head(body)
    return _HTML.match(head, _LEAD.match(head).end()) is not None  # type: ignore[union-attr]


def looks_like_markup(body: bytes) -> bool:
    """Say whether the beginning of `body` is text with an HTML tag: enough where its header says that it is HTML."""
    head = _head(body)
    return _HTML.search(head) is not None and _CONTROL.search(head, 0, 1024) is None


def is_pdf(body: bytes) -> bool:
    """Say whether a body begins as a PDF does."""
    return body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n\0").startswith(b"%PDF-")


def refuse_type(media_type: str | None) -> str | None:
    """Return why a body of this declared type is no page, None when it may be one; without a type it may."""
    return None if media_type is None or media_type in PAGE_TYPES else media_type


def refuse_body(media_type: str | None, body: bytes) -> str | None:
    """Return why a body is certainly no page, whatever its type says, by its first bytes; None when it may be one."""
    head = body[:64].lstrip(b"\xef\xbb\xbf \t\r\n\0")
    found = [kind for magic, kind in _BODIES.items() if head.startswith(magic)]
    found += [kind for magic, kind in _BEGINNINGS.items() if body.startswith(magic)]
    return (f"{found[0]}, declared as {media_type}" if media_type else found[0]) if found else None


def not_text(data: bytes) -> str | None:
    """Return what a file is that is no text in any charset, None when it may be text."""
    head = data[:_SNIFF_BYTES]
    visible = len(_CONTROL.sub(b"", head))
    if visible == len(head) and not head.startswith(_MARKED_TEXT) and not _SAVED_PAGE.match(head):
        return None  # whose first letters mean something elsewhere: ORC, BZh
    if (known := file_signature(head)) is not None:
        return known[0]
    halves = head[0::2].count(0), head[1::2].count(0)
    is_wide = head.startswith((b"\xff\xfe", b"\xfe\xff")) or max(halves) > 20 * min(halves) + 0.1 * len(head)  # UTF-16
    is_binary = not is_wide and 50 * visible < 49 * len(head)
    return refuse_body(None, head) or ("binary data of no known format" if is_binary else None)


def _head(body: bytes) -> bytes:
    head = body[:_SNIFF_BYTES]
    return head.replace(b"\0", b"").lstrip(b"\xff\xfe") if b"\0" in head[:64] else head
