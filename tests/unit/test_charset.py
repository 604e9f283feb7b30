"""Charset decisions on literal tables; the planted errors of real pages are in tests/realdata."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.html.charset import codec_of, decode, meta_charset

RUSSIAN = "<p>Съешь же ещё этих мягких французских булок, да выпей чаю. Быстрая лиса прыгает через ленивую собаку.</p>"
CHINESE = "<p>全体演员喊出铿锵誓言，兄弟，放心吧！只要二老在世一天，我们就照顾他们一天。</p>"
TRADITIONAL = "<p>人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心。</p>"
JAPANESE = "<p>いろはにほへと ちりぬるを わかよたれそ つねならむ。日本語の文章です。</p>"
KOREAN = "<p>모든 국민은 법 앞에 평등하다. 누구든지 차별을 받지 아니한다.</p>"
GREEK = "<p>Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.</p>"
POLISH = "<p>Wczoraj w mieście odbyło się posiedzenie komisji, która omawiała plany budowy nowego mostu. Łódź stoi.</p>"
CZECH = "<p>Včera se ve městě konalo zasedání výboru, který projednával plány na stavbu nového mostu přes řeku.</p>"
TURKISH = "<p>Dün şehirde yeni köprü yapılmasını görüşen komite toplandı; İstanbul'un ışıkları ağır ağır söndü.</p>"
LITHUANIAN = (
    "<p>Vakar mieste įvyko komiteto posėdis, kuriame svarstyti naujo tilto per upę statybos planai."
    " Jis tarnavo metų metus.</p>"
)
UKRAINIAN = "<p>Усі люди народжуються вільними і рівними у своїй гідності та правах. Їх наділено розумом і совістю.</p>"
HEBREW = "<p>כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.</p>"
ARABIC = "<p>يولد جميع الناس أحرارا متساوين في الكرامة والحقوق.</p>"
THAI = "<p>มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ</p>"
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


@pytest.mark.parametrize("header", ["ISO-8859-1", "windows-1252", "utf-8", "no-such-charset", None])
@pytest.mark.parametrize(
    ("text", "encoding", "meta"),
    [
        (JAPANESE, "cp932", "x-sjis"),
        (JAPANESE, "euc_jp", "EUC-JP"),
        (JAPANESE, "iso2022_jp", "csISO2022JP"),
        (KOREAN, "cp949", "ks_c_5601-1987"),
        (CHINESE, "gbk", "gb2312"),
        (TRADITIONAL, "big5", "big5"),
        (POLISH, "iso8859-2", "iso-8859-2"),
        (CZECH, "cp1250", "windows-1250"),
        (TURKISH, "cp1254", "iso-8859-9"),
        (LITHUANIAN, "cp1257", "windows-1257"),
        (RUSSIAN, "cp1251", "windows-1251"),
        (UKRAINIAN, "koi8_u", "koi8-u"),
        (RUSSIAN, "mac_cyrillic", "x-mac-cyrillic"),
        (GREEK, "iso8859-7", "iso-8859-7"),
        (HEBREW, "cp1255", "windows-1255"),
        (ARABIC, "cp1256", "windows-1256"),
        (THAI, "cp874", "tis-620"),
        ("<p>会社</p>", "cp932", "shift_jis"),
        ("<p>회사</p>", "cp949", "euc-kr"),
        ("<p>President Erdoğan visited İzmir, and the committee met.</p>", "cp1254", "windows-1254"),
        ("<p>Le cœur de l'œuvre coûte 5 €.</p>", "iso8859-15", "iso-8859-15"),
    ],
)
def test_a_meta_tag_wins_over_a_latin_1_header(text: str, encoding: str, meta: str, header: str | None) -> None:
    page = f'<html><head><meta charset="{meta}"><title>x</title></head><body>{text}</body></html>'
    decoded = decode(page.encode(encoding), header)
    assert decoded.text == page
    assert decoded.source == "meta"


@pytest.mark.parametrize(
    ("text", "encoding", "header"),
    [
        ("Los acentos áéíóúñü existen, y áéíóúñü otra vez áéíóúñü.", "cp1252", "windows-1252"),
        ("Les accents ÀÂÉÈÊËÎÏÔÙÛÜÇ existent.", "cp1252", "windows-1252"),
        ("Os acentos ãõáéíóúâêôç existem.", "cp1252", "iso-8859-1"),
        ("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêë", "cp1252", "windows-1252"),
        ("Resistors of 5kΩ and 10kΩ, layers of 3 μm.", "iso8859-7", "iso-8859-7"),
        ("ใช้iPhoneกับMacและWindows", "cp874", "windows-874"),
        ("Wałęsa met Gałczyński in Łódź.", "iso8859-2", "iso-8859-2"),
        ("He said «да» and left.", "cp1251", "windows-1251"),
        ("会社①㈱ｱｲｳ", "cp932", "shift_jis"),
    ],
)
def test_a_right_header_is_not_overridden(text: str, encoding: str, header: str) -> None:
    page = f"<html><body><p>{text}</p><p>This line is in English, and it is long enough.</p></body></html>"
    decoded = decode(page.encode(encoding), header)
    assert decoded.text == page
    assert decoded.source == "header"


@pytest.mark.parametrize("header", [None, "iso-8859-1"])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (KOREAN, "cp949"),
        (JAPANESE, "iso2022_jp"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "cp932"),
        (CHINESE, "gbk"),
        (TRADITIONAL, "big5"),
        (POLISH, "iso8859-2"),
        (CZECH, "cp1250"),
        (TURKISH, "cp1254"),
        (LITHUANIAN, "cp1257"),
        (UKRAINIAN, "koi8_u"),
        (RUSSIAN, "iso8859-5"),
        (GREEK, "cp1253"),
        (HEBREW, "cp1255"),
        (ARABIC, "cp1256"),
        (THAI, "cp874"),
    ],
)
def test_the_bytes_decide_without_a_label_or_against_latin_1(text: str, encoding: str, header: str | None) -> None:
    page = f"<html><head><title>x</title></head><body>{text}</body></html>"
    decoded = decode(page.encode(encoding), header)
    assert decoded.text == page
    assert decoded.source == "content"


@pytest.mark.parametrize(
    ("payload", "header", "expected"),
    [
        (GERMAN.encode("utf-8"), "UTF-8", ("utf-8", "header")),
        (b'<meta charset="utf-8">' + GERMAN.encode("utf-8"), "latin1", ("utf-8", "meta")),
        (GERMAN.encode("utf-8"), "latin1", ("utf-8", "content")),
        (GERMAN.encode("cp1252"), "latin1", ("cp1252", "header")),
        (b"<p>Zo\xeb met Chlo\xeb</p>", None, ("cp1252", "default")),
        (CZECH.encode("cp1250") + b"\x84\x8a\x93", "iso-8859-2", ("cp1250", "content")),  # not the standard's C1
    ],
)
def test_the_source_is_who_named_the_charset(payload: bytes, header: str | None, expected: tuple[str, str]) -> None:
    decoded = decode(payload, header)
    assert (decoded.charset, decoded.source) == expected


@pytest.mark.parametrize(
    ("payload", "header"),
    [
        ("모든 국민은 법 앞에 평등하다".encode("iso2022_kr"), None),
        ("全体演员喊出铿锵誓言".encode("hz"), "hz-gb-2312"),
        ("naïve café".encode("utf-7"), "utf-7"),
        (b"\xea\xc4\xd9\xd7\xc4\xcb\xcc\xa8\xa1\xbeWikipedia\xa1\xbf\xcf\xaf", "EUC-TW"),
    ],
)
def test_what_browsers_do_not_decode_is_refused(payload: bytes, header: str | None) -> None:
    decoded = decode(payload, header)
    assert decoded.is_garbage
    assert "1 undecodable" in decoded.complaint()


@pytest.mark.parametrize(
    ("payload", "header", "expected"),
    [
        (b"\xc6\xfc\xcb\xdc\xad\xa1\xad\xea", "euc-jp", "日本①㈱"),
        (b"\x1b$BF|K\\-!-j\x1b(B \x1b(I123\x1b(B", None, "日本①㈱ ｱｲｳ"),
    ],
)
def test_vendor_characters_of_japanese_charsets(payload: bytes, header: str | None, expected: str) -> None:
    assert decode(payload, header).text == expected


@pytest.mark.parametrize("bom", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_a_byte_order_mark_wins_and_is_not_text(bom: bytes) -> None:
    encoding = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}[bom]
    decoded = decode(bom + "naïve".encode(encoding), "windows-1251")
    assert (decoded.text, decoded.source) == ("naïve", "bom")


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
        (b'<!-- <meta charset="big5"> --><meta charset="gbk">', "gbk"),
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
        ("x-mac-cyrillic", "mac_cyrillic"),
        ("ks_c_5601-1987", "cp949"),
        ("uhc", "cp949"),
        ("iso-8859-9", "cp1254"),
        ("latin-1", "cp1252"),
        ("utf_8", "utf-8"),
        ("euc-tw", None),
        ("unicode_escape", None),
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
