"""Which pages' text layer is kept: signs of a sound one, of an old OCR, of letters that are others than those shown."""

import random

import pytest

from pipeline.extract.pdf.ocr import Reading
from pipeline.extract.pdf.page import Box, Page, Span
from pipeline.extract.pdf.routing import Decision, garbled_share, measure, readable, route, settle

ENGLISH = (
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience and "
    "should act towards one another in a spirit of brotherhood. Everyone is entitled to all the rights and freedoms "
    "set forth in this Declaration, without distinction of any kind, such as race, colour, sex, language, religion, "
    "political or other opinion, national or social origin, property, birth or other status. Furthermore, no "
    "distinction shall be made on the basis of the political, jurisdictional or international status of the country. "
)
GERMAN = (
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren. Sie sind mit Vernunft und Gewissen begabt und "
    "sollen einander im Geist der Brüderlichkeit begegnen. Jeder hat Anspruch auf die in dieser Erklärung verkündeten "
    "Rechte und Freiheiten ohne irgendeinen Unterschied, etwa nach Rasse, Hautfarbe, Geschlecht, Sprache, Religion. "
)
RUSSIAN = (
    "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью и должны "
    "поступать в отношении друг друга в духе братства. Каждый человек должен обладать всеми правами и всеми свободами, "
    "провозглашенными настоящей Декларацией, без какого бы то ни было различия, как-то в отношении расы, цвета кожи. "
)
ZULU = (
    "Bonke abantu bazalwa bekhululekile belingana ngesithunzi nangamalungelo. Bahlanganiswe wumcabango nangunembeza "
    "futhi kufanele baphathane ngomoya wobunye. Wonke umuntu unegunya lokuba athokozele amalungelo kanye nenkululeko. "
)
CODE = """
def garbled_share(text: str) -> float:
    index, tables = _tables()
    runs = [run.lower() for token in text.split() for run in _runs(token)]
    known = [codes for codes in ([index.get(letter, -1) for letter in run] for run in runs) if -1 not in codes]
    for (int i = 0; i < argc; ++i) { std::unordered_map<std::string, size_t> m; printf("%zu\\n", strlen(argv[i])); }
"""
TABLE = (
    "Country GDP Inflation Q1 Q2 Q3 Q4 Germany 4,082 2.1% 17.2 18.1 19.4 20.0 France 2,780 1.9% 11.1 11.4 12.0 12.2 "
    "Italy 2,010 1.6% 8.3 8.4 8.6 9.1 Spain 1,400 2.3% 6.1 6.2 6.5 6.6 USD EUR CHF JPY NOK SEK DKK PLN CZK HUF "
)
NAMES = "Smith J, Nguyen TT, Kowalczyk P, Fernández-García M, Okafor CN, Wang XZ, Müller HJ, O'Brien SK, Ito M, Lee KH "
CHEMISTRY = (
    "NaCl, H2SO4, C6H12O6, 2-(4-methoxyphenyl)-N-methylacetamide, tert-butyldimethylsilyl chloride, TBDMSCl, DMF "
)
ACRONYMS = "NATO, UNESCO, WHO, IMF, OECD, ECB, FBI, CIA, NSA, HTTP, XML, SQL, JSON, RFC, TLS, SMTP, DNS, UDP, TCP "
CHECKSUMS = "sha512-AYnb1nQyY49te+VRAVgmzfcgjYS91mY5P0TKUDCLEM+gNnA+3T6rWITXRLYCpahpqSQbN5cE+gHpnPyXjHWxcw== " * 9
CHINESE = "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心,并应以兄弟关系的精神相对待。" * 4
THAI = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ " * 4


def shifted(text: str, by: int) -> str:
    return "".join(chr(ord(sign) + by) if sign.isalpha() else sign for sign in text)


def shuffled(text: str, seed: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    others = "".join(random.Random(seed).sample(letters, len(letters)))
    return text.translate(str.maketrans(letters + letters.upper(), others + others.upper()))


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        GERMAN,
        RUSSIAN,
        ZULU,
        CODE * 2,
        TABLE * 2,
        NAMES * 3,
        CHEMISTRY * 3,
        ACRONYMS * 2,
        CHECKSUMS,
        CHINESE,
        THAI,
        "",
        "Fig. 3",
        "ENGLISH IN CAPITALS IS NO SHIFTED FONT",
        "Lorem ipsum dolor sit amet",
    ],
)
def test_a_sound_text_is_not_garbled(text: str) -> None:
    assert garbled_share(text) == 0


@pytest.mark.parametrize("text", [ENGLISH, GERMAN, ZULU])
@pytest.mark.parametrize("by", [-1, 1, 3, -3])
def test_shifted_letters_are_garbled(text: str, by: int) -> None:
    assert garbled_share(shifted(text, by)) == 1


@pytest.mark.parametrize("seed", range(8))
def test_shuffled_letters_are_garbled(seed: int) -> None:
    assert garbled_share(shuffled(ENGLISH, seed)) == 1
    assert garbled_share(shuffled(ENGLISH[:300], seed)) == 1


def test_one_garbled_part_of_a_page_shows() -> None:
    assert 0.2 < garbled_share(3 * ENGLISH + shifted(2 * ENGLISH, -1)) < 0.6


def test_another_script_in_latin_letters_is_garbled() -> None:
    """Cyrillic of a code page read as Western."""
    assert garbled_share(RUSSIAN.encode("cp1251").decode("cp1252", "replace")) == 1


PICTURE = Box(0, 0, 600, 800)


def page(visible: str = "", hidden: str = "", images: tuple[Box, ...] = (), at: Box = PICTURE) -> Page:
    spans = [Span(word, Box(100, 100, 140, 110), 10.0) for word in visible.split()]
    spans += [Span(word, at, 10.0, is_visible=False) for word in hidden.split()]
    return Page(600, 800, tuple(spans), images=images)


@pytest.mark.parametrize(
    ("found", "expected", "reason"),
    [
        (page(ENGLISH), "text", "visible text"),
        (page("Chapter 3"), "text", "visible text"),
        (page(), "ocr", "no visible text"),
        (page(images=(PICTURE,)), "ocr", "no visible text"),
        (page("Chapter 3", images=(PICTURE,)), "ocr", "8 characters on a page that pictures cover"),
        (page("Downloaded from a library " * 8, images=(PICTURE,)), "ocr", "176 characters"),
        (page(ENGLISH, images=(PICTURE,)), "text", "visible text"),  # on a picture as its ground
        (page(ENGLISH, images=(Box(0, 0, 300, 300),)), "text", "visible text"),
        (page("", ENGLISH, (PICTURE,)), "text", "invisible text of a scan"),
        (page("", "]r .A.:01.6e.e. ,42t4-d: 77d4v, " * 30, (PICTURE,)), "ocr", "invisible text, of which"),
        (page("", shuffled(ENGLISH, 1), (PICTURE,)), "ocr", "letters as in no language"),
        (page("", ENGLISH), "ocr", "no visible text"),  # nothing for it to be the text of
        (page("", ENGLISH, (PICTURE,), at=Box(900, 0, 950, 10)), "ocr", "no visible text"),
        (page(shifted(ENGLISH, -1)), "ocr", "letters as in no language in 100% of the text"),
        (page(ENGLISH.replace("a", "\ufffd").replace("e", "\ufffd")), "ocr", "stand for no known sign"),
        (page(ENGLISH.replace("e", "\ue001").replace("a", "\ue002")), "ocr", "stand for no known sign"),
        (page(ENGLISH[:200] + " \uf0b7" * 30), "text", "visible text"),  # bullets
        (page("100 200 300 " * 40), "text", "visible text"),
        (page(CHINESE), "text", "visible text"),
    ],
)
def test_a_page_takes_its_route_for_a_reason(found: Page, expected: str, reason: str) -> None:
    decision = route(measure(found))
    assert decision.route == expected
    assert reason in decision.reason


def test_hidden_text_is_read_on_scans_alone() -> None:
    scan, born = page("", ENGLISH, (PICTURE,)), page(ENGLISH, "buy this now", (Box(0, 0, 50, 50),))
    assert len(readable(scan, route(measure(scan))).spans) == len(ENGLISH.split())
    assert all(span.is_visible for span in readable(scan, route(measure(scan))).spans)
    assert len(readable(born, route(measure(born))).spans) == len(ENGLISH.split())


NOTHING = Decision("ocr", "no visible text", 0.0)
FEW = Decision("ocr", "8 characters on a page that pictures cover", 1.0, keeps_hidden=True)


@pytest.mark.parametrize(
    ("layer", "decision", "reading", "expected"),
    [
        (page(), NOTHING, Reading(page(ENGLISH), 0.99, 0.0, False), "ocr"),
        (page(), NOTHING, Reading(page(), 0.0, 0.0, True), "blank"),
        (page(), NOTHING, Reading(page(), 0.0, 0.0, False), "blank"),  # a photograph
        (page(), NOTHING, Reading(page("- ,"), 0.9, 0.9, False), "failed"),  # writing that the engine does not know
        (page(), NOTHING, Reading(page(ENGLISH), 0.7, 0.1, False), "failed"),
        (page(), NOTHING, Reading(page(shuffled(ENGLISH, 2)), 0.95, 0.0, False), "failed"),
        (page(shifted(ENGLISH, -1)), NOTHING, Reading(page(), 0.0, 0.0, False), "failed"),
        (page("Chapter 3"), FEW, Reading(page(), 0.0, 0.0, False), "text"),
        (page("Chapter 3"), FEW, Reading(page("C h"), 0.9, 0.0, False), "text"),
        (page("Chapter 3"), FEW, Reading(page(ENGLISH), 0.9, 0.0, False), "ocr"),
    ],
)
def test_what_a_page_is_in_the_end(layer: Page, decision: Decision, reading: Reading, expected: str) -> None:
    outcome = settle(layer, decision, reading)
    assert outcome.route == expected
    assert bool(outcome.page.spans) == (expected in ("text", "ocr"))
