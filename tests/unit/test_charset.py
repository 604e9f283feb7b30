"""Charset decisions on literal tables; the planted errors of real pages are in tests/realdata."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.charset import codec_of, decode, meta_charset

RUSSIAN = "<p>Съешь же ещё этих мягких французских булок, да выпей чаю. Быстрая лиса прыгает через ленивую собаку.</p>"
CHINESE = "<p>全体演员喊出铿锵誓言，兄弟，放心吧！只要二老在世一天，我们就照顾他们一天。</p>"
TRADITIONAL = "<p>人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心。</p>"
JAPANESE = "<p>いろはにほへと ちりぬるを わかよたれそ つねならむ。日本語の文章です。</p>"
KOREAN = "<p>모든 국민은 법 앞에 평등하다. 누구든지 차별을 받지 아니한다.</p>"
GREEK = "<p>Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.</p>"
GERMAN = "<p>Schöne Grüße aus München – „Füße“ kosten 5 €</p>"


@pytest.mark.parametrize(
    ("text", "encoding", "header", "meta", "expected"),
    [
        ("plain", "ascii", None, None, "utf-8"),
        (GERMAN, "utf-8", None, None, "utf-8"),
        (GERMAN, "utf-8", "iso-8859-1", None, "utf-8"),  # valid UTF-8 against a single-byte claim
        (GERMAN, "utf-8", "windows-1252", "iso-8859-1", "utf-8"),
        (GERMAN, "utf-8", "gb2312", None, "utf-8"),
        (GERMAN, "utf-8", "no-such-charset", "utf-16", "utf-8"),
        (GERMAN, "cp1252", None, None, "cp1252"),
        (GERMAN, "cp1252", "utf-8", None, "cp1252"),
        (GERMAN, "cp1252", "iso-8859-1", None, "cp1252"),  # the standard reads Latin-1 as windows-1252
        (GERMAN, "cp1252", None, "iso-8859-1", "cp1252"),
        (GERMAN, "cp1252", "utf-8", "utf-8", "cp1252"),
        ("<p>le café, déjà vu</p>", "cp1252", "windows-1251", None, "cp1252"),  # a Cyrillic letter inside a Latin word
        (RUSSIAN, "utf-8", "windows-1251", None, "utf-8"),
        (RUSSIAN, "cp1251", "windows-1251", None, "cp1251"),
        (RUSSIAN, "cp1251", "utf-8", "windows-1251", "cp1251"),
        (RUSSIAN, "cp1251", "iso-8859-1", "windows-1251", "cp1251"),  # accented letters in a row are no Latin text
        (RUSSIAN, "cp1251", "iso-8859-1", None, "cp1251"),
        (RUSSIAN, "koi8-r", None, "koi8-r", "koi8-r"),
        (CHINESE, "gb2312", "gb2312", None, "gb18030"),
        (CHINESE, "gbk", None, "gbk", "gb18030"),
        (CHINESE, "gb18030", None, None, "gb18030"),
        (TRADITIONAL, "big5", "big5", None, "big5hkscs"),
        ("你好", "gbk", "gbk", None, "gb18030"),
        (JAPANESE, "shift_jis", "shift_jis", None, "cp932"),
        (JAPANESE, "euc_jp", None, "euc-jp", "euc_jp"),
        (JAPANESE, "iso2022_jp", None, "iso-2022-jp", "iso2022_jp"),
        (KOREAN, "euc_kr", "utf-8", "euc-kr", "cp949"),
        (GREEK, "iso8859-7", None, "iso-8859-7", "iso8859-7"),
        (GERMAN, "utf-16-le", "utf-16le", None, "utf_16_le"),
        (GERMAN, "utf-16-be", None, None, "utf_16_be"),
    ],
)
def test_decodes_whatever_was_claimed(
    text: str, encoding: str, header: str | None, meta: str | None, expected: str
) -> None:
    tag = f'<meta charset="{meta}">' if meta else ""
    page = f"<html><head>{tag}<title>x</title></head><body>{text}</body></html>"
    decoded = decode(page.encode(encoding), header)
    assert decoded.text == page
    assert decoded.charset == expected
    assert decoded.replaced_characters == 0
    assert not decoded.is_garbage


@pytest.mark.parametrize("bom", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_byte_order_mark_wins_and_is_not_text(bom: bytes) -> None:
    encoding = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}[bom]
    decoded = decode(bom + "naïve".encode(encoding), "windows-1251")
    assert (decoded.text, decoded.how) == ("naïve", "bom")


@pytest.mark.parametrize(
    ("text", "encoding", "header"),
    [(GERMAN * 20, "utf-8", "utf-8"), (CHINESE * 9, "gb18030", "gbk"), (JAPANESE * 9, "cp932", "shift_jis")],
)
def test_a_cut_last_character_is_dropped_and_not_counted(text: str, encoding: str, header: str) -> None:
    payload = text.encode(encoding)
    for cut in range(len(payload) - 60, len(payload)):
        decoded = decode(payload[:cut], header)
        assert text.startswith(decoded.text)
        assert decoded.replaced_characters == 0
        assert len(text) * cut / len(payload) - len(decoded.text) < 25


def test_utf8_with_a_foreign_fragment_stays_utf8() -> None:
    payload = (RUSSIAN * 5).encode() + b" caf\xe9 " + (RUSSIAN * 5).encode()
    decoded = decode(payload, "iso-8859-1")
    assert decoded.charset == "utf-8"
    assert decoded.replaced_characters == 1
    assert not decoded.is_garbage
    assert RUSSIAN in decoded.text


@pytest.mark.parametrize(
    "payload",
    [bytes(range(256)) * 40, b"\x00" * 1000, b"%PDF-1.4" + bytes((i * 7919 + i * i) % 256 for i in range(5000))],
)
def test_binary_is_garbage(payload: bytes) -> None:
    assert decode(payload, "utf-8").is_garbage


def test_a_stray_nul_is_not_garbage() -> None:
    assert not decode(b"<p>some text with one \x00 in it, as broken generators write</p>", None).is_garbage


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b'<meta charset="UTF-8">', "UTF-8"),
        (b"<META CHARSET=gbk>", "gbk"),
        (b'<meta http-equiv="Content-Type" content="text/html; charset=windows-1251">', "windows-1251"),
        (b"<meta content='text/html; charset = koi8-r' http-equiv=content-type>", "koi8-r"),
        (b'<?xml version="1.0" encoding="iso-8859-15"?><html>', "iso-8859-15"),
        (b"<p>charset=utf-8</p>", None),
        (b" " * 5000 + b'<meta charset="UTF-8">', None),
        (b"", None),
    ],
)
def test_meta_charset(head: bytes, expected: str | None) -> None:
    assert meta_charset(head) == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("UTF8", "utf-8"),
        (" 'Latin1' ", "cp1252"),
        ("us-ascii", "cp1252"),
        ("GB2312", "gb18030"),
        ("x-sjis", "cp932"),
        ("tis-620", "cp874"),
        ("utf-7", None),
        ("nonsense", None),
        ("", None),
        (None, None),
    ],
)
def test_labels(label: str | None, expected: str | None) -> None:
    assert codec_of(label) == expected


@given(st.binary(max_size=600), st.sampled_from([None, "utf-8", "gbk", "iso-2022-jp", "utf-16", "big5", "x", "ibm866"]))
def test_never_fails(payload: bytes, header: str | None) -> None:
    decoded = decode(payload, header)
    decoded.text.encode("utf-8")  # no lone surrogate either
    codecs.lookup(decoded.charset)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=300))
def test_utf8_survives_any_single_byte_claim(text: str) -> None:
    decoded = decode(text.encode(), "iso-8859-1")
    assert decoded.text == text.removeprefix("\ufeff")
