"""MediaWiki dumps to pages: what becomes a document, what a reject, and that reading goes on wherever it was left."""

from __future__ import annotations

import bz2
import io
from datetime import UTC, datetime

import pytest

from pipeline.extract.config import ExtractLimits, InputsConfig, WikipediaOptions
from pipeline.extract.members import RawInput, content
from pipeline.extract.units import DAMAGE, Entry, Given, Raw, Reject
from pipeline.extract.wiki.reader import READER, read_dump
from pipeline.table.errors import InputError

SITE = """<siteinfo><sitename>Wikipedia</sitename><dbname>dewiki</dbname>
<base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base><namespaces><namespace key="0" case="first-letter"/>
<namespace key="1">Diskussion</namespace><namespace key="6">Datei</namespace><namespace key="10">Vorlage</namespace>
<namespace key="14">Kategorie</namespace></namespaces>{}</siteinfo>"""
NEWEST = "2024-01-02T03:04:05Z"


def page(
    title: str, text: str = "Text.", ns: str = "<ns>0</ns>", number: int = 7, extra: str = "", rest: str = ""
) -> str:
    rest = rest or f"<model>wikitext</model><text>{text}</text>"
    return (
        f"<page><title>{title}</title>{ns}<id>{number}</id>{extra}<revision><id>9</id><timestamp>{NEWEST}</timestamp>"
        f"<contributor><username>U</username><id>1</id></contributor>{rest}</revision></page>\n"
    )


def dump(*pages: str, site: str = "", head: str = "", end: str = "</mediawiki>") -> bytes:
    return f'{head}<mediawiki xml:lang="de">{SITE.format(site)}{"".join(pages)}{end}'.encode()


def read(data: bytes, start: int = 0, limit: int = 10_000, namespaces: tuple[int, ...] = (0,)) -> list[Entry]:
    given = Given("d.xml", ExtractLimits(payload_bytes=limit), WikipediaOptions(namespaces=namespaces))
    return list(read_dump(io.BytesIO(data), start, given))


def reasons(entries: list[Entry]) -> list[str]:
    return [entry.result.reason if isinstance(entry.result, Reject) else "document" for entry in entries]


def test_a_page_with_all_that_the_dump_says() -> None:
    (entry,) = read(dump(page("Äpfel &amp; Birnen", "A &lt;b&gt;")))
    assert isinstance(entry.result, Raw)
    found = entry.result.document
    assert (found.title, found.url) == ("Äpfel & Birnen", "https://de.wikipedia.org/wiki/%C3%84pfel_%26_Birnen")
    assert (found.date, found.licence) == (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "CC-BY-SA-4.0")
    assert found.kept == {"namespace": 0, "page_id": 7, "revision_id": 9, "wiki": "dewiki"}
    assert found.origin.record_id == "7"
    assert entry.result.payload == b"A <b>"
    assert entry.result.facts == {
        "language": "de",
        "title": "Äpfel & Birnen",
        "file": ["datei", "file", "image", "media"],
        "category": ["category", "kategorie"],
        "template": ["template", "vorlage"],
    }
    assert {*found.kept, "categories", "templates"} == set(READER.columns)


@pytest.mark.parametrize(
    ("of_page", "reason"),
    [
        (page("A", extra='<redirect title="B"/>'), "redirect"),
        (page("Diskussion:A", ns="<ns>1</ns>"), "namespace"),
        (page("Diskussion:A", ns=""), "namespace"),
        (page("A", "#WEITERLEITUNG [[B]]", ns=""), "redirect"),
        (page("A", ns="<ns>x</ns>"), "damaged"),
        (page("A", rest='<text deleted="deleted"/>'), "deleted"),
        (page("A", rest="<model>Scribunto</model><text>x</text>"), "unsupported"),
        (page("A", rest='<text bytes="5" id="1"/>'), "empty"),
        (page("A", "x" * 10_001), "oversize"),
        (page("A", "ж" * 5_001), "oversize"),
        (page("A", "&e;"), "damaged"),
        (page("A", "<b>"), "damaged"),
        (page("A", rest="<x>" * 20), "damaged"),
    ],
)
def test_a_page_that_is_no_article_is_one_reject(of_page: str, reason: str) -> None:
    assert reasons(read(dump(page("Vor"), of_page, page("Nach")))) == ["document", reason, "document"]


def test_the_last_revision_counts() -> None:
    older = "</revision><revision><id>10</id><timestamp>2020-01-01T00:00:00Z</timestamp><text>Neu</text>"
    (entry,) = read(dump(page("A", rest=f'<text deleted="deleted"/>{older}')))
    assert isinstance(entry.result, Raw)
    assert (entry.result.payload, entry.result.document.licence) == (b"Neu", "CC-BY-SA-3.0")
    assert entry.result.document.kept["revision_id"] == 10


@pytest.mark.parametrize(
    ("base", "said", "licence", "url"),
    [
        ("https://wiki.example.org/Main_Page", "", None, "https://wiki.example.org/A"),
        ("https://evil-wikipedia.org/wiki/M", "", None, "https://evil-wikipedia.org/wiki/A"),
        ("https://x.example/w/index.php?title=M", "", None, "https://x.example/w/index.php?title=A"),
        ("https://fr.wikinews.org/wiki/M", "", None, "https://fr.wikinews.org/wiki/A"),
        ("https://fr.wiktionary.org/wiki/M", "", "CC-BY-SA-4.0", "https://fr.wiktionary.org/wiki/A"),
        ("", "", None, None),
        (
            "https://w.example/wiki/M",
            '<rights url="https://creativecommons.org/licenses/by/3.0/">CC</rights>',
            "CC-BY-3.0",
            "https://w.example/wiki/A",
        ),
    ],
)
def test_licence_and_address_follow_the_site(base: str, said: str, licence: str | None, url: str | None) -> None:
    data = dump(page("A"), site=said).replace(b"https://de.wikipedia.org/wiki/Wikipedia:Hauptseite", base.encode())
    (entry,) = read(data)
    assert isinstance(entry.result, Raw)
    assert (entry.result.document.licence, entry.result.document.url) == (licence, url)


@pytest.mark.parametrize(
    "wrap", [bytes, bz2.compress, lambda data: b"".join(map(bz2.compress, (data[:900], data[900:])))]
)
def test_reading_goes_on_at_any_page(wrap) -> None:  # type: ignore[no-untyped-def]
    broken = page("kaputt", "&nichts; <page>").replace("</text>", "")
    pages = [page(f"S{n}", "ü" * (n + 1), number=n) for n in range(8)]
    data = wrap(dump(*pages[:3], broken, *pages[3:]))
    entries = read(data, namespaces=(0, 1))
    assert reasons(entries).count("document") == 8
    for number, entry in enumerate(entries):
        if entry.resumable:
            assert read(data, entry.offset, namespaces=(0, 1)) == entries[number:]


@pytest.mark.parametrize("harm", ["", "flip", "cut", "junk", "utf-16"])
def test_many_bzip2_streams_read_as_one(harm: str) -> None:
    pages = [page(f"S{n}", "ü" * 3000, number=n) for n in range(40)]
    whole = dump(*pages) if harm != "utf-16" else dump(*pages).decode().encode("utf-16")
    parts = [bz2.compress(whole[at : at + 5000]) for at in range(0, len(whole), 5000)]
    many = b"".join(parts)
    third = len(parts[0]) + len(parts[1])
    if harm == "flip":
        many = many[: third + 30] + bytes([many[third + 30] ^ 255]) + many[third + 31 :]
    many = {"cut": many[:-20], "junk": many + b"junk"}.get(harm, many)
    pieces = list(content(RawInput(io.BytesIO(many)), 0)) if harm in ("", "utf-16") else None
    entries = read(many)
    if pieces is not None:
        assert entries == read(b"".join(pieces))
        assert reasons(entries) == ["document"] * 40
    else:
        assert reasons(entries)[-1] in ("damaged", "truncated_input")
        assert reasons(entries)[0] == "document"
    for number in range(0, len(entries) - 1, 7):
        assert read(many, entries[number].offset) == entries[number:]


def test_damage_costs_what_it_hits() -> None:
    whole = dump(page("A"), page("B"), page("C"))
    cut = read(whole[: whole.index(b"<title>C") + 30])
    assert reasons(cut) == ["document", "document", "truncated_input"]
    assert cut[-1].is_unit
    between = read(dump(page("A"), "<stray>", page("B"), page("C")))
    assert reasons(between) == ["document", "document", "document", "damaged"]
    assert [entry.record_type for entry in read(dump(page("A"), end=""))] == ["row", DAMAGE]
    not_text = read(dump(page("A"), page("B"), page("C")).replace(b"<title>B", b"<title>\xff\xfe"))
    assert reasons(not_text) == ["document", "damaged", "document"]
    packed = bz2.compress(whole)
    assert reasons(read(packed[:-20]))[-1] == "truncated_input"
    assert reasons(read(page("A").encode() + page("B").encode())) == ["document", "document"]  # cut out of a dump


def test_no_entity_is_declared() -> None:
    with pytest.raises(InputError, match="a document type is declared"):
        read(dump(page("A", "&a;"), head='<!DOCTYPE m [<!ENTITY a SYSTEM "file:///etc/passwd">]>'))


@pytest.mark.parametrize("data", [b"{}", b"<html></html>", b"<feed><page/></feed>", b"text", b"<mediawik"])
def test_what_is_no_dump_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="no MediaWiki dump"):
        read(data)


@pytest.mark.parametrize("head", ["", " \n ", "\ufeff", '<?xml version="1.0"?>\n'])
def test_pages_cut_out_of_a_dump_are_read(head: str) -> None:
    entries = read(f"{head}{page('A')}\n{page('B', '#REDIRECT [[A]]')}".encode())
    assert reasons(entries) == ["document", "redirect"]


def test_a_tag_without_an_end_is_not_held() -> None:
    entries = read(dump(page("A"), '<page x="' + "a" * (9 << 20) + '"></page>', page("B")))
    assert reasons(entries) == ["document", "damaged", "document"]


def test_options_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"options\.namespaces"):
        InputsConfig(format="wikipedia", inputs=["a"], options={"namespaces": ["x"]})
    with pytest.raises(ValueError, match="wikipedia has no such option"):
        InputsConfig(format="wikipedia", inputs=["a"], options={"namespace": [0]})
