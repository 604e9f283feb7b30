"""Bytes to text: which charset a page is really in, whatever its header and its meta tag say.

Evidence, strongest first: a byte order mark; bytes that are valid UTF-8 and could hardly be anything else; the HTTP
header; the meta tag in the first 4 KB; the bytes themselves. A claim is believed only if its text is not mojibake.

Source: labels and the mapping of ISO-8859-1 to windows-1252 follow the WHATWG Encoding Standard, section 4.2.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Literal

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

Evidence = Literal["bom", "utf-8", "header", "meta", "content", "fallback"]

MAX_GARBAGE_SHARE = 0.05  # above it a page is refused as undecodable
META_BYTES = 4096
_IMPROBABLE_SHARE = 0.3  # share of the non-ASCII characters that may look wrong before a claim is doubted
_FEW_CHARACTERS = 3  # so few non-ASCII characters can be valid UTF-8 by accident in a double-byte charset

# Codecs that browsers use for the standard's labels, where Resiliparse's name stands for a smaller repertoire.
_WIDER_CODECS = {
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "iso8859-11": "cp874",
    "utf-16-le": "utf_16_le",
    "utf-16-be": "utf_16_be",
}
_DOUBLE_BYTE = frozenset({"gb18030", "cp932", "cp949", "big5hkscs", "euc_jp", "iso2022_jp"})
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf_16_le"), (codecs.BOM_UTF16_BE, "utf_16_be"))

_META_CHARSET = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.+-]{2,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.+-]{2,40})", re.IGNORECASE)
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
# NUL and the controls that no text has; tab, newlines and form feed are fine, and ESC opens ISO-2022 sequences.
_CONTROLS = bytes(byte for byte in range(0x20) if byte not in b"\t\n\x0b\x0c\r\x1b")
_IMPROBABLE = re.compile(
    "[\ufffd\x80-\x84\x86-\x9f\ue000-\uf8ff]"  # replaced, C1 controls but NEL, private use
    "|[\xc0-\xff\x8a-\x9f]{4,}"  # runs of accented Latin letters: another alphabet read as Latin
    "|(?<=[A-Za-z])[\u0370-\u05ff\u0e00-\u0e7f]|[\u0370-\u05ff\u0e00-\u0e7f](?=[A-Za-z])"  # a word in two alphabets
    "|[\xc2\xc3\xe2][\x80-\xbf\u20ac\u201a-\u203a\u2122\u0152-\u0192]"  # UTF-8 read as windows-1252
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text of a payload, the codec used and what spoke for it; counts of U+FFFD and of control characters in it."""

    text: str
    charset: str
    replaced_characters: int
    control_characters: int
    how: Evidence

    @property
    def is_garbage(self) -> bool:
        """Whether so much could not be decoded, or is control characters, that this is no text."""
        return self.replaced_characters + self.control_characters > MAX_GARBAGE_SHARE * max(len(self.text), 1)


def decode(payload: bytes, header_charset: str | None) -> Decoded:
    """Return `payload` as text; never fails, what cannot be decoded becomes U+FFFD and is counted.

    `header_charset` is the HTTP header's claim. A cut last character (a page cut at a length) is dropped, not counted.
    """
    for bom, codec in _BOMS:
        if payload.startswith(bom):
            return _decoded(_lenient(payload[len(bom) :], codec), codec, "bom")
    claims = [(codec, how) for codec, how in _claims(payload, header_charset) if codec is not None]
    as_utf8 = _valid_utf8(payload)
    if as_utf8 is not None:
        return _valid_utf8_or_claim(payload, as_utf8, claims)
    wide = _bare_utf16(payload)
    if wide is not None:
        return _decoded(_lenient(payload, wide), wide, "content")
    if _is_damaged_utf8(payload):
        return _decoded(payload.decode("utf-8", "replace"), "utf-8", "utf-8")
    return _first_plausible(payload, claims)


def codec_of(label: str | None) -> str | None:
    """Return the Python codec that browsers use for a charset label, None for an unknown one."""
    if not label:
        return None
    name = map_encoding_to_html5(label.strip().strip("\"'").lower(), fallback_utf8=False)
    return _WIDER_CODECS.get(name, name) if name else None


def meta_charset(payload: bytes) -> str | None:
    """Return the charset label of the meta tag or XML declaration in the first 4 KB, None without one."""
    head = payload[:META_BYTES]
    match = _META_CHARSET.search(head) or _XML_ENCODING.search(head)
    return match.group(1).decode("ascii") if match else None


def _claims(payload: bytes, header_charset: str | None) -> list[tuple[str | None, Evidence]]:
    in_page = codec_of(meta_charset(payload))
    if in_page in ("utf_16_le", "utf_16_be"):  # it was read as ASCII, so it cannot be true
        in_page = "utf-8"
    return [(codec_of(header_charset), "header"), (in_page, "meta")]


def _valid_utf8(payload: bytes) -> str | None:
    """Return the text when all of the payload but a cut last character is UTF-8 without NULs, else None."""
    if b"\x00" in payload:
        return None
    try:
        text, used = codecs.utf_8_decode(payload, "strict", False)
    except UnicodeDecodeError:
        return None
    return text if len(payload) - used < 4 else None


def _valid_utf8_or_claim(payload: bytes, as_utf8: str, claims: list[tuple[str, Evidence]]) -> Decoded:
    """Believe UTF-8, except against a double-byte charset where so few characters prove nothing."""
    extra_bytes = len(payload) - len(as_utf8)  # one to three for each non-ASCII character
    if extra_bytes <= 3 * _FEW_CHARACTERS and len(_NON_ASCII.findall(as_utf8)) <= _FEW_CHARACTERS:
        for codec, how in claims:
            text = _strict(payload, codec) if codec in _DOUBLE_BYTE else None
            if text is not None and text != as_utf8 and not _looks_wrong(text):
                return _decoded(text, codec, how)
    return _decoded(as_utf8, "utf-8", "utf-8")


def _bare_utf16(payload: bytes) -> str | None:
    """Return the UTF-16 codec of markup without a byte order mark: every other byte of its start is NUL."""
    head = payload[:512]
    half = len(head) // 2
    if half < 8:
        return None
    if head[1::2].count(0) > 0.7 * half and head[0::2].count(0) < 0.1 * half:
        return "utf_16_le"
    if head[0::2].count(0) > 0.7 * half and head[1::2].count(0) < 0.1 * half:
        return "utf_16_be"
    return None


def _is_damaged_utf8(payload: bytes) -> bool:
    """Whether broken bytes are few among valid multi-byte characters: UTF-8 with a pasted foreign fragment."""
    text = payload.decode("utf-8", "replace")
    replaced = text.count("\ufffd")
    if text.isascii():  # only NULs kept it from being plain UTF-8
        return True
    return len(_NON_ASCII.findall(text)) - replaced > 4 * replaced


def _first_plausible(payload: bytes, claims: list[tuple[str, Evidence]]) -> Decoded:
    """Return the first claim whose text does not look wrong, else the best of all candidates."""
    detected = codec_of(detect_encoding(payload))
    candidates = [(codec, how) for codec, how in claims if codec != "utf-8"]
    for codec, how in candidates:
        text = _strict(payload, codec)
        if text is not None and not _looks_wrong(text):
            return _decoded(text, codec, how)
    if detected and detected != "utf-8":
        candidates.insert(0, (detected, "content"))
    candidates.append(("cp1252", "fallback"))
    texts = [(_lenient(payload, codec), codec, how) for codec, how in dict.fromkeys(candidates)]
    text, codec, how = min(texts, key=lambda candidate: _wrongness(candidate[0]))
    return _decoded(text, codec, how)


def _looks_wrong(text: str) -> bool:
    return _wrongness(text) > _IMPROBABLE_SHARE


def _wrongness(text: str) -> float:
    """Return the share of improbable characters among the non-ASCII ones, in [0, 1]."""
    non_ascii = len(_NON_ASCII.findall(text))
    if not non_ascii:
        return 0.0
    return min(1.0, sum(len(match) for match in _IMPROBABLE.findall(text)) / non_ascii)


def _strict(payload: bytes, codec: str) -> str | None:
    """Return the text if all bytes but a cut last character are valid, else None."""
    if codec == "cp1252":
        return _windows_1252(payload)
    decoder = codecs.getincrementaldecoder(codec)("strict")
    try:
        return decoder.decode(payload, final=False)
    except UnicodeDecodeError:
        return None


def _lenient(payload: bytes, codec: str) -> str:
    if codec == "cp1252":
        return _windows_1252(payload)
    return codecs.getincrementaldecoder(codec)("replace").decode(payload, final=False)


def _windows_1252(payload: bytes) -> str:
    """Decode as browsers do: the five bytes that windows-1252 lacks become C1 controls."""
    try:
        return payload.decode("cp1252")
    except UnicodeDecodeError:
        table = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(256))
        return codecs.charmap_decode(payload, "strict", table)[0]


def _decoded(text: str, charset: str, how: Evidence) -> Decoded:
    encoded = text.encode("utf-8", "replace")  # counting in bytes is ten times faster than a pattern over the text
    controls = len(encoded) - len(encoded.translate(None, _CONTROLS))
    return Decoded(text, charset, text.count("\ufffd"), controls, how)
