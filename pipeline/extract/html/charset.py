"""Bytes to text: which charset a page is really in, whatever its header and its meta tag say.

A byte order mark decides, then bytes that are valid UTF-8 and could hardly be anything else. Otherwise each label is a
claim: the header's, the meta tag's, and Latin-1 last, because servers add it to whatever they send. A claim holds when
the bytes decode by it, the text is no mojibake, and what the bytes say themselves does not read far better: uchardet's
guess, with the language of the text as its witness. Without a claim that holds the bytes decide.

Source: labels, windows-1252 for ISO-8859-1 and charsets that are never decoded: WHATWG Encoding Standard, 4.2 and 4.3.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from resiliparse.parse.encoding import EncodingDetector, map_encoding_to_html5
from resiliparse.parse.lang import detect_fast

Evidence = Literal["bom", "header", "meta", "content", "default"]

MAX_GARBAGE_SHARE = 0.05  # above it a page is refused as undecodable
META_BYTES = 4096
_IMPROBABLE_SHARE = 0.3  # share of the non-ASCII characters that may look wrong before a claim is doubted
_DAMAGED_SHARE = 0.01  # share of the non-ASCII characters that may be broken where a label is right all the same
_MOJIBAKE_SHARE = 0.3  # share of non-ASCII bytes in the visible text that no language has in Latin letters
_FEW_CHARACTERS = 3  # so few non-ASCII characters can be valid UTF-8 by accident in a double-byte charset
_NO_LANGUAGE = 10_000  # a rank beyond any
_ENOUGH_LETTERS = 20  # of another script than Latin, or
_ENOUGH_SHARE = 0.2  # so many of all characters, from which their language can be told
_ENOUGH_BYTES = 80  # of a text in Latin letters
_CLEARLY_BETTER = 100  # ranks of Resiliparse's language profiles: 600 is a text of a few lines, 1200 is none
_SAMPLE_BYTES = 50_000  # of visible text, on which a charset is chosen
_SAMPLED_BYTES = 1_000_000  # where that text is looked for

# Python's codecs for the names that Resiliparse gives to labels and guesses: the wider ones that browsers use.
_CODECS = {
    "gbk": "gb18030",
    "gb2312": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
    "tis-620": "cp874",
    "iso8859-11": "cp874",
    "utf-16-le": "utf_16_le",
    "utf-16-be": "utf_16_be",
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "mac-cyrillic": "mac_cyrillic",
}
_LABELS = {  # that Resiliparse does not know: the standard's, and Python's for the standard's
    "x-mac-cyrillic": "mac_cyrillic",
    "x-mac-ukrainian": "mac_cyrillic",
    "cp949": "cp949",
    "uhc": "cp949",
    "cp950": "big5",
}
# What the standard replaces or does not know, and its shapes in ASCII: read as anything else it is mojibake.
_UNDECODABLE = re.compile(r"(cs)?iso-?2022-?(kr|cn)(-ext)?|hz(-gb-2312)?|(unicode-1-1-)?utf-?7|(x-)?euc-?tw|johab")
_SHIFTED = re.compile(rb"\x1b\$|~\{|\+[A-Za-z0-9+/]{2,}-")
_DOUBLE_BYTE = frozenset({"gb18030", "cp932", "cp949", "big5hkscs", "euc_jp", "iso2022_jp"})
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf_16_le"), (codecs.BOM_UTF16_BE, "utf_16_be"))
# Languages (as Resiliparse knows them) and the charsets in which the web wrote them, the likeliest first. A language of
# the Latin alphabet is recognised whatever its accents became, and those that are not named are windows-1252.
_LATIN_CHARSETS = {
    **dict.fromkeys(("cs", "hr", "hu", "pl", "ro", "sk", "sl"), ("cp1250", "iso8859-2")),
    **dict.fromkeys(("lt", "lv"), ("cp1257", "iso8859-13", "iso8859-4")),
    **dict.fromkeys(("az", "tr"), ("cp1254",)),
    **dict.fromkeys(("eo", "mt"), ("iso8859-3", "cp1252")),
    "et": ("cp1252", "cp1257", "iso8859-13", "iso8859-4"),
    "vi": ("cp1258",),
}
_CYRILLIC = ("cp1251", "koi8-r", "koi8-u", "iso8859-5", "cp866", "mac_cyrillic", "cp855")
_SCRIPT_CHARSETS = {
    **dict.fromkeys(("ba", "be", "bg", "ce", "cv", "kk", "ky", "mk", "mn", "ru", "sr", "tg", "tt", "uk"), _CYRILLIC),
    **dict.fromkeys(("ar", "fa", "ku", "ps", "sd", "ug", "ur"), ("cp1256", "iso8859-6")),
    **dict.fromkeys(("he", "yi"), ("cp1255", "iso8859-8")),
    **dict.fromkeys(("ja", "ko", "zh"), ("gb18030", "cp932", "cp949", "euc_jp", "big5hkscs")),
    "el": ("cp1253", "iso8859-7"),
    "th": ("cp874",),
}
_SCRIPTS = frozenset(codec for codecs_ in _SCRIPT_CHARSETS.values() for codec in codecs_)
_WESTERN = ("cp1252",)
_SIBLINGS = {  # the same letters but for a few, which decide
    "cp1250": "iso8859-2",
    "iso8859-2": "cp1250",
    "cp1253": "iso8859-7",
    "iso8859-7": "cp1253",
    "iso8859-13": "cp1257",
    "iso8859-15": "cp1252",
    "iso8859-8": "cp1255",
    "koi8-r": "koi8-u",
}

_META_CHARSET = re.compile(rb"<meta[^>]{0,512}?charset\s*=\s*[\"']?\s*([A-Za-z0-9_:.+-]{2,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9_:.+-]{2,40})", re.IGNORECASE)
_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_INVISIBLE = re.compile(rb"<(?:script|style)\b.*?(?:</(?:script|style)|\Z)|<[^<>]*>", re.DOTALL | re.IGNORECASE)
_HIGH_BYTES = bytes(range(0x80, 0x100))
_HIGH_BYTE = re.compile(rb"[\x80-\xff]")
_NATIVE = re.compile("[\u0370-\u1dbf\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]+")  # beyond Latin letters
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
# NUL and the controls that no text has; tab, newlines and form feed are fine, and ESC opens ISO-2022 sequences.
_CONTROLS = bytes(byte for byte in range(0x20) if byte not in b"\t\n\x0b\x0c\r\x1b")
_SPACED = "[\u0370-\u06ff]"  # Greek, Cyrillic, Armenian, Hebrew, Arabic
_UNSPACED = "[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
_IMPROBABLE = re.compile(
    "[\ufffd\x80-\x84\x86-\x9f\ue000-\uf8ff]"  # replaced, C1 controls but NEL, private use
    # a word in two alphabets, which a unit is not: 5 kΩ, 3 μm
    rf"|(?<=[A-Za-z]{{2}}){_SPACED}|{_SPACED}(?=[A-Za-z]{{2}})|(?<=[A-Za-z]){_SPACED}(?=[A-Za-z])"
    "|(?<=[a-z\u03ac-\u03ce\u0430-\u045f])[\xc0-\xd6\xd8-\xde\u0386-\u03ab\u0401-\u042f]"  # a capital inside a word
    r"|(?<=\w)[\xa1-\xa9\xab-\xb4\xb6\xb8\xb9\xbb-\xbf\u2500-\u259f](?=[^\W\d_])"  # a sign or a frame inside a word
    # an accented letter read as a Thai one or as half of a double byte
    rf"|(?<=[a-z]){_UNSPACED}(?!{_UNSPACED})|(?<!{_UNSPACED}){_UNSPACED}(?=[a-z])"
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text of a payload, the codec used and what spoke for it; counts of U+FFFD and of control characters in it.

    `improbable` says that the text is mojibake in every charset that came into question.
    """

    text: str
    charset: str
    replaced_characters: int
    control_characters: int
    source: Evidence
    improbable: bool = False

    @property
    def is_garbage(self) -> bool:
        """Whether so much could not be decoded, or is control characters or mojibake, that this is no text."""
        bad = self.replaced_characters + self.control_characters
        return self.improbable or bad > MAX_GARBAGE_SHARE * max(len(self.text), 1)

    def complaint(self) -> str:
        """Return why garbage is refused, in one line."""
        if self.improbable:
            return f"no charset fits: it is mojibake also in the best, {self.charset} (from {self.source})"
        bad = f"{self.replaced_characters} undecodable, {self.control_characters} control"
        return f"{bad} of {len(self.text)} characters as {self.charset} (from {self.source})"


def decode(payload: bytes, header_charset: str | None) -> Decoded:
    """Return `payload` as text; never fails, what cannot be decoded becomes U+FFFD and is counted.

    `header_charset` is the HTTP header's claim. A cut last character (a page cut at a length) is dropped, not counted.
    """
    for bom, codec in _BOMS:
        if payload.startswith(bom):
            return _decoded(_lenient(payload[len(bom) :], codec), codec, "bom")
    said: tuple[tuple[str | None, Evidence], ...] = ((header_charset, "header"), (meta_charset(payload), "meta"))
    labels = [(label.strip().strip("\"'").lower(), how) for label, how in said if label]
    claims = _claims(labels)
    if b"\x1b" in payload and payload.isascii():
        shifted = _seven_bit(payload, claims)
        if shifted is not None:
            return shifted
    as_utf8 = _valid_utf8(payload)
    undecodable = next((label for label, _ in labels if _UNDECODABLE.fullmatch(label)), None)
    if undecodable and (as_utf8 is None or (as_utf8.isascii() and _SHIFTED.search(payload))):
        return _decoded("\ufffd", undecodable, "content")
    if as_utf8 is not None:
        return _valid_utf8_or_claim(payload, as_utf8, claims)
    wide = _bare_utf16(payload)
    if wide is not None:
        return _decoded(_lenient(payload, wide), wide, _source(wide, claims))
    if _is_damaged_utf8(payload):
        return _decoded(payload.decode("utf-8", "replace"), "utf-8", _source("utf-8", claims))
    return _by_evidence(payload, [(codec, how) for codec, how in claims if codec != "utf-8"])


def codec_of(label: str | None) -> str | None:
    """Return the Python codec that browsers use for a charset label, None for an unknown one.

    Names that only Python knows for the standard's encodings (`uhc`, `latin-1`, `utf_8`) are taken too: they occur.
    """
    if not label:
        return None
    label = label.strip().strip("\"'").lower()
    name = _LABELS.get(label) or map_encoding_to_html5(label, fallback_utf8=False)
    if name is None:
        try:
            name = map_encoding_to_html5(codecs.lookup(label).name, fallback_utf8=False)
        except (LookupError, ValueError):  # ValueError: a NUL in the label
            return None
    return _CODECS.get(name, name) if name else None


def meta_charset(payload: bytes) -> str | None:
    """Return the charset label of the meta tag or XML declaration in the first 4 KB, None without one."""
    head = payload[:META_BYTES]
    if b"<!--" in head:
        head = _COMMENT.sub(b"", head)
    match = _META_CHARSET.search(head) or _XML_ENCODING.search(head)
    return match.group(1).decode("ascii") if match else None


def _claims(labels: list[tuple[str, Evidence]]) -> list[tuple[str, Evidence]]:
    """Return codecs and who names them, the strongest first: header, meta tag, and Latin-1 after both."""
    claims = []
    for label, how in labels:
        codec = codec_of(label)
        if how == "meta" and codec in ("utf_16_le", "utf_16_be"):  # it was read as ASCII, so it cannot be true
            codec = "utf-8"
        if codec is not None:
            claims.append((codec, how))
    return sorted(claims, key=lambda claim: claim[0] == "cp1252")


def _source(codec: str, claims: list[tuple[str, Evidence]]) -> Evidence:
    """Return who named `codec`, "content" when only the bytes did."""
    return next((how for claimed, how in claims if claimed == codec), "content")


def _seven_bit(payload: bytes, claims: list[tuple[str, Evidence]]) -> Decoded | None:
    """Return ISO-2022-JP as text, its sisters as one U+FFFD as the standard has them, None for plain ASCII."""
    found = _guess(payload)
    if found == "iso2022_jp":
        return _decoded(_lenient(payload, found), found, _source(found, claims))
    if found is not None and found.startswith(("iso2022", "hz")):
        return _decoded("\ufffd", found, "content")
    return None


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
            text = _lenient(payload, codec) if codec in _DOUBLE_BYTE else as_utf8
            if text != as_utf8 and "\ufffd" not in text and _wrongness(text) <= _IMPROBABLE_SHARE:
                return _decoded(text, codec, how)
    return _decoded(as_utf8, "utf-8", _source("utf-8", claims))


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


def _by_evidence(payload: bytes, claims: list[tuple[str, Evidence]]) -> Decoded:
    """Return the text of the claim that holds, else that of the candidate with the fewest improbable characters."""
    sample, high_share = _sample(payload)
    guess = _from_content(sample)
    holding = [claim for claim in claims if _holds(sample, claim[0])]
    holding.sort(key=lambda claim: (claim[0] == "cp1252", claim[0] != guess[0]))
    best = next((claim for claim in holding if not _reads_better(sample, guess[0], claim[0])), None)
    if best is None:
        candidates = [*(claim for claim in claims if claim not in holding), guess]
        best = min(candidates, key=lambda candidate: _wrongness(_lenient(sample, candidate[0])))
    wrong = best[0] == "cp1252" or _wrongness(_lenient(sample, best[0])) > _IMPROBABLE_SHARE
    return _decoded(_lenient(payload, best[0]), *best, improbable=wrong and high_share > _MOJIBAKE_SHARE)


def _sample(payload: bytes) -> tuple[bytes, float]:
    """Return the lines of visible text that are not ASCII, up to a length, and the share of non-ASCII bytes in it all.

    Without such lines (as when all that is not ASCII is in scripts) the payload stands for them.
    """
    first = _HIGH_BYTE.search(payload)
    start = 0 if first is None or first.start() < _SAMPLED_BYTES // 2 else first.start()
    visible = _INVISIBLE.sub(b"\n", payload[start : start + _SAMPLED_BYTES])
    lines = [line for line in visible.split(b"\n") if not line.isascii()]
    share = 1 - len(visible.translate(None, _HIGH_BYTES)) / max(len(visible), 1)
    return b"\n".join(lines or [payload[start : start + _SAMPLED_BYTES]])[:_SAMPLE_BYTES], share


def _from_content(sample: bytes) -> tuple[str, Evidence]:
    """Return the charset that the bytes speak for: uchardet's where the text is in a language that is written in it."""
    guess = _guess(sample)
    charsets = _charsets(sample, guess or "cp1252")
    if guess in charsets:
        best = guess
    else:  # of Windows ("cp") or of ISO, as the guess
        best = next((codec for codec in charsets if guess and codec.startswith(guess[:2])), charsets[0])
    pair = (best, _SIBLINGS.get(best, best))
    best = min(pair, key=lambda codec: _wrongness(_lenient(sample, codec)))
    return best, "default" if guess is None and best in _WESTERN else "content"


def _charsets(sample: bytes, codec: str) -> tuple[str, ...]:
    """Return the charsets of the language of `sample`.

    The language is read from the letters of the codec's own script if there are enough, else from all the text.
    """
    text = _lenient(sample, codec)
    native = " ".join(_NATIVE.findall(text))
    if len(native) >= min(_ENOUGH_LETTERS, _ENOUGH_SHARE * len(text)) and _wrongness(text) <= _IMPROBABLE_SHARE:
        charsets = _SCRIPT_CHARSETS.get(detect_fast(native, cutoff=_NO_LANGUAGE)[0])
        if charsets:
            return charsets
    latin = _lenient(sample, "cp1252") if native else text
    return _LATIN_CHARSETS.get(detect_fast(latin, cutoff=_NO_LANGUAGE)[0], _WESTERN)


def _holds(sample: bytes, codec: str) -> bool:
    """Say whether the text decodes and is no mojibake; in Latin-1 that is for the language to say."""
    text = _lenient(sample, codec)
    damaged = text.count("\ufffd") > _DAMAGED_SHARE * len(_NON_ASCII.findall(text))
    return not damaged and (codec == "cp1252" or _wrongness(text) <= _IMPROBABLE_SHARE)


def _reads_better(sample: bytes, guess: str, claimed: str) -> bool:
    """Say whether the guess is so much better a text than the claim that the label must be wrong."""
    if guess == claimed:
        return False
    if claimed == "cp1252":  # other Latin alphabets rank alike, but the language is not written in the claimed one
        letters = sum(map(len, _NATIVE.findall(_lenient(sample, guess))))
        return letters >= _ENOUGH_LETTERS or (guess not in _SCRIPTS and len(sample) >= _ENOUGH_BYTES)
    text, claimed_text = _lenient(sample, guess), _lenient(sample, claimed)
    if _SIBLINGS.get(claimed) == guess and not claimed.startswith("cp"):
        return _wrongness(text) < _wrongness(claimed_text)
    if len(_NON_ASCII.findall(text)) < 2 * _ENOUGH_LETTERS:
        return False
    if guess in _DOUBLE_BYTE:
        return True
    return _rank(claimed_text) - _rank(text) > _CLEARLY_BETTER


def _rank(text: str) -> int:
    """Return how far `text` is from the nearest language."""
    return int(detect_fast(text, cutoff=_NO_LANGUAGE)[1])


def _wrongness(text: str) -> float:
    """Return the share of improbable characters among the non-ASCII ones, in [0, 1]."""
    non_ascii = len(_NON_ASCII.findall(text))
    if not non_ascii:
        return 0.0
    return min(1.0, sum(len(match) for match in _IMPROBABLE.findall(text)) / non_ascii)


def _guess(payload: bytes) -> str | None:
    """Return uchardet's guess as a Python codec, None when it has none or there is no codec."""
    detector = EncodingDetector()
    detector.update(payload)
    name = detector.encoding(html5_compatible=False)
    return _CODECS.get(name, name) if name not in (None, "ascii", "utf-8") else None


def _lenient(payload: bytes, codec: str) -> str:
    """Decode as browsers do, but for the letters that only Python's codec knows; a cut last character is dropped."""
    if codec.startswith(("cp125", "cp874")):
        return codecs.charmap_decode(payload, "replace", _windows_table(codec))[0]
    codec = "iso2022_jp_ext" if codec == "iso2022_jp" else codec  # with the half-width katakana
    errors = "replace"
    if codec in ("euc_jp", "iso2022_jp_ext"):
        errors = "vendor_kanji"
        codecs.register_error(errors, _vendor_kanji)
    return codecs.getincrementaldecoder(codec)(errors).decode(payload, final=False)


@cache
def _windows_table(codec: str) -> str:
    """Return the 256 characters of a Windows charset; bytes that it lacks in the second column are C1 controls."""
    known = (bytes([byte]).decode(codec, "ignore") for byte in range(256))
    return "".join(letter or (chr(byte) if byte < 0xA0 else "\ufffd") for byte, letter in enumerate(known))


def _vendor_kanji(error: UnicodeError) -> tuple[str, int]:
    """Read the characters of NEC and IBM (as in circled digits), which browsers know in every JIS charset."""
    assert isinstance(error, UnicodeDecodeError)
    row, cell = (byte & 0x7F for byte in error.object[error.start : error.start + 2].ljust(2, b"\0"))
    if not (0x21 <= row <= 0x7E and 0x21 <= cell <= 0x7E):
        return "\ufffd", error.end
    lead = (row - 0x21 >> 1) + (0x81 if row < 0x5F else 0xC1)
    trail = cell + 0x7E if row % 2 == 0 else cell + (0x1F if cell < 0x60 else 0x20)
    return bytes([lead, trail]).decode("cp932", "replace")[:1], error.start + 2


def _decoded(text: str, charset: str, source: Evidence, improbable: bool = False) -> Decoded:
    encoded = text.encode("utf-8", "replace")  # counting in bytes is ten times faster than a pattern over the text
    controls = len(encoded) - len(encoded.translate(None, _CONTROLS))
    return Decoded(text, charset, text.count("\ufffd"), controls, source, improbable)
