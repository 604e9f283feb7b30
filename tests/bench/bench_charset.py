"""Charset decisions: share of texts that are decoded exactly, by encoding family and by what declares the encoding.

python tests/bench/bench_charset.py CHARDET_TESTS [--wrong]    the folder `tests` of github.com/chardet/chardet
python tests/bench/bench_charset.py --sentences LID_GOLD [--characters 200] [--wrong]

Files of chardet count in the encoding that their folder names, sentences (JSON lines with `lang` and `text`) in each
encoding that the web wrote their language in; both only for encodings of the WHATWG standard. Their own declarations
are taken out, and the right label is declared in a column's way. Undeclared counts from 200 characters.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.extract.html.charset import codec_of, decode
from tests.bench.tables import Table, bench_parser

_FOLDER = re.compile(r"iso-8859-\d+|windows-\d+")
_FOLDER_LABELS = {"CP932": "shift_jis", "CP949": "euc-kr", "ascii": "us-ascii", "MacCyrillic": "x-mac-cyrillic"}
_DECLARATION = re.compile(rb"(<\?xml[^>]*?\?>)|(charset\s*=\s*[\"']?)[\w:.+-]{2,40}", re.IGNORECASE)
_SINGLE_BYTE = re.compile(r"iso-8859-[^1]|windows-125[^2]")
_LANGUAGES = {
    "windows-1252": "af ca da de es eu fi fr ga gl id is it ms nb nl nn pt sq sv sw",
    "windows-1250": "bs cs hr hu pl ro sk sl",
    "iso-8859-2": "bs cs hr hu pl sk sl",
    "windows-1251": "be bg mk ru sr uk",
    "koi8-r": "bg ru",
    "koi8-u": "uk",
    "iso-8859-5": "be bg mk ru sr",
    "ibm866": "bg ru",
    "x-mac-cyrillic": "bg ru uk",
    "windows-1253": "el",
    "iso-8859-7": "el",
    "windows-1254": "az tr",
    "windows-1255": "he",
    "windows-1256": "ar fa ur",
    "iso-8859-6": "ar",
    "windows-1257": "et lt lv",
    "windows-874": "th",
    "windows-1258": "vi",
    "shift_jis": "ja",
    "euc-jp": "ja",
    "iso-2022-jp": "ja",
    "euc-kr": "ko",
    "gb18030": "zh",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """An undeclared page in a known encoding and its text."""

    family: str
    label: str
    payload: bytes
    text: str


def files(folder: Path) -> Iterator[Sample]:
    """Yield chardet's files in encodings of the standard that decode by the name of their folder."""
    for path in sorted(folder.glob("*/*")):
        name = _FOLDER.match(path.parent.name)
        label = name.group() if name else path.parent.name.removesuffix("-sig")
        label = _FOLDER_LABELS.get(label, label)
        codec = codec_of(label)
        if codec is None:
            continue
        payload = _DECLARATION.sub(rb"\2x", path.read_bytes())
        if codec.startswith("utf_16"):
            codec = "utf-16" if payload.startswith((b"\xff\xfe", b"\xfe\xff")) else codec
        yield Sample(label, label, payload, _text(payload, codec).removeprefix("\ufeff"))


def sentences(path: Path, characters: int) -> Iterator[Sample]:
    """Yield texts of about `characters`, as a page, in the encodings that their language was written in."""
    texts: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text("utf-8").splitlines():
        row = json.loads(line)
        pieces = texts[row["lang"]]
        if pieces and len(pieces[-1]) < characters:
            pieces[-1] += "\n" + row["text"]
        else:
            pieces.append(row["text"])
    for label, languages in _LANGUAGES.items():
        codec = codec_of(label) or label.replace("x-mac-", "mac_")
        for language in languages.split():
            for text in texts[language]:
                body = text[:characters].encode(codec, "ignore")
                if len(text) >= characters and not (body.isascii() and codec != "iso2022_jp"):
                    body = b"<html><head><title>x</title></head><body><p>" + body + b"</p></body></html>"
                    yield Sample(label, label, body, body.decode(codec))


def results(sample: Sample, wrong: bool) -> Iterator[tuple[str, bool]]:
    """Yield each way of declaring and whether the text came out right."""
    declared = b'<meta charset="' + sample.label.encode() + b'">' + sample.payload
    expected = f'<meta charset="{sample.label}">' + sample.text
    if sample.label.lower().startswith("utf-16") or sample.payload.startswith(codecs.BOM_UTF8):
        declared, expected = sample.payload, sample.text
    yield "header", decode(sample.payload, sample.label).text == sample.text
    yield "meta", decode(declared, None).text == expected
    yield "Latin-1 header, meta", decode(declared, "iso-8859-1").text == expected
    yield "UTF-8 header, meta", decode(declared, "utf-8").text == expected
    if len(sample.text) >= 200:
        yield "undeclared", decode(sample.payload, None).text == sample.text
        yield "Latin-1 header only", decode(sample.payload, "iso-8859-1").text == sample.text
    for label in ("windows-1251", "shift_jis", "gb2312", "windows-1252") if wrong else ():
        yield f"header, {label} meta", decode(_meta(sample, label), sample.label).text == _meta_text(sample, label)


def _meta(sample: Sample, label: str) -> bytes:
    return b'<meta charset="' + label.encode() + b'">' + sample.payload


def _meta_text(sample: Sample, label: str) -> str:
    return f'<meta charset="{label}">' + sample.text


def _text(payload: bytes, codec: str) -> str:
    if codec == "cp1252":
        table = "".join(bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in range(256))
        return "".join(table[byte] for byte in payload)
    return payload.decode(codec, "replace")


def main() -> None:
    """Print the table."""
    parser = bench_parser(__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--sentences", type=Path)
    parser.add_argument("--characters", type=int, default=200)
    parser.add_argument("--wrong", action="store_true", help="also a right header beside wrong meta tags")
    parser.add_argument("--verbose", action="store_true")
    arguments = parser.parse_args()
    samples = sentences(arguments.sentences, arguments.characters) if arguments.sentences else files(arguments.folder)
    right: dict[str, Counter[str]] = defaultdict(Counter)
    asked: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for way, is_right in results(sample, arguments.wrong):
            for family in (sample.family, "all"):
                right[family][way] += is_right
                asked[family][way] += 1
            if arguments.verbose and not is_right:
                print(way, sample.family, sample.text[-60:].encode("unicode_escape").decode())
    name = "sentences" if arguments.sentences else "chardet"
    table = Table(f"charset-{name}", arguments.csv, "encoding declared right of")
    for family in sorted(asked, key="all".__eq__):
        for way, of in asked[family].items():
            table.row(family, way, right[family][way], of)


if __name__ == "__main__":
    main()
