"""Title, date, licence and language from markup and headers, on literal tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.licences import spdx_from_text, spdx_from_url
from pipeline.extract.page_metadata import PageMetadata, header_date, header_licence, parse_date, read_metadata


def metadata(head: str, body: str = "<p>text</p>", html: str = "<html>") -> PageMetadata:
    return read_metadata(lxml.html.document_fromstring(f"{html}<head>{head}</head><body>{body}</body></html>"))


def linked(value: object) -> str:
    return f'<script type="application/ld+json">{json.dumps(value)}</script>'


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-4.0"),
        ("http://creativecommons.org/licenses/by-sa/3.0/", "CC-BY-SA-3.0"),
        ("//creativecommons.org/licenses/by-nc-nd/2.5", "CC-BY-NC-ND-2.5"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0/", "CC-BY-NC-ND-1.0"),
        ("https://www.creativecommons.org/licenses/by-nc-sa/4.0/deed.de", "CC-BY-NC-SA-4.0"),
        ("https://creativecommons.org/licenses/by-sa/3.0/de/", "CC-BY-SA-3.0-DE"),
        ("https://creativecommons.org/licenses/by/2.0/cl/", "CC-BY-2.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://opensource.org/licenses/MIT", "MIT"),
        ("https://www.apache.org/licenses/LICENSE-2.0.html", "Apache-2.0"),
        ("https://www.gnu.org/licenses/fdl-1.3.html", "GFDL-1.3-only"),
        ("https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/", "OGL-UK-3.0"),
        ("https://creativecommons.org/licenses/", None),
        ("https://creativecommons.org/licenses/by/9.9/", None),
        ("https://creativecommons.org/licenses/nd-sa/4.0/", None),
        ("https://creativecommons.org.example.com/licenses/by/4.0/", None),
        ("https://example.com/?u=creativecommons.org/licenses/by/4.0/", None),
        ("/licence", None),
        ("", None),
    ],
)
def test_licence_urls(url: str, expected: str | None) -> None:
    assert spdx_from_url(url) == expected


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("CC BY 4.0", "CC-BY-4.0"),
        ("CC-BY-SA-3.0", "CC-BY-SA-3.0"),
        ("cc by-nc-nd 2.0", "CC-BY-NC-ND-2.0"),
        ("Creative Commons Attribution 4.0 International", "CC-BY-4.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International License", "CC-BY-NC-SA-4.0"),
        ("Creative Commons Attribution Non-Commercial No Derivatives 3.0", "CC-BY-NC-ND-3.0"),
        ("licensed under https://creativecommons.org/licenses/by/4.0/.", "CC-BY-4.0"),
        ("CC0", "CC0-1.0"),
        ("mit", "MIT"),
        ("CC BY", None),  # without a version it may be any
        ("CC BY 4.0 or CC BY-NC 4.0", None),
        ("All rights reserved", None),
        ("", None),
    ],
)
def test_licence_words(statement: str, expected: str | None) -> None:
    assert spdx_from_text(statement) == expected


@given(st.text(max_size=200))
def test_licence_words_never_fail(statement: str) -> None:
    assert spdx_from_text(statement) is None or len(statement) >= 3
    assert spdx_from_url(statement) is None or len(statement) >= 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024-02-29T12:30:15Z", datetime(2024, 2, 29, 12, 30, 15, tzinfo=UTC)),
        ("2024-02-29T12:30:15.123+02:00", datetime(2024, 2, 29, 10, 30, 15, tzinfo=UTC)),
        ("2024-02-29 23:30 -0530", datetime(2024, 3, 1, 5, 0, tzinfo=UTC)),
        ("2024/2/9", datetime(2024, 2, 9, tzinfo=UTC)),
        ("20240229", datetime(2024, 2, 29, tzinfo=UTC)),
        ("Wed, 21 Oct 2015 07:28:00 GMT", datetime(2015, 10, 21, 7, 28, tzinfo=UTC)),
        ("2023-02-29", None),
        ("0001-01-01", None),
        ("1970-01-01", None),  # an unset clock
        ("9999-12-31T23:59:59-14:00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates(text: str, expected: datetime | None) -> None:
    assert parse_date(text) == expected


@given(st.text(alphabet="0123456789-:TZ+/. ", max_size=40) | st.text(max_size=40))
def test_dates_never_fail(text: str) -> None:
    parsed = parse_date(text)
    assert parsed is None or parsed.tzinfo is UTC


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        ('<title>Page | Site</title><meta property="og:title" content="Page">', "", "Page"),
        ("<title>  Two\n lines </title>", "", "Two lines"),
        ("", "<h1>A <em>heading</em></h1>", "A heading"),
        (linked({"headline": "From JSON"}) + "<title>From JSON - Site</title>", "", "From JSON"),
        ("<title></title>", "<h1> </h1>", None),
    ],
)
def test_title(head: str, body: str, expected: str | None) -> None:
    assert metadata(head, body).title == expected


@pytest.mark.parametrize(
    ("head", "body", "expected", "source"),
    [
        ('<meta property="article:published_time" content="2020-05-06T01:02:03Z">', "", "2020-05-06", "meta"),
        ('<META NAME="DC.date.issued" CONTENT="2020-05-06">', "", "2020-05-06", "meta"),
        (linked({"@graph": [{"@type": "WebSite"}, {"datePublished": "2020-05-06"}]}), "", "2020-05-06", "json_ld"),
        (linked([{"datePublished": ["x"]}, {"datePublished": "2020-05-06"}]), "", "2020-05-06", "json_ld"),
        ("", '<time datetime="2020-05-06" pubdate>x</time><time datetime="2021-01-01">', "2020-05-06", "time"),
        ("", '<time datetime="2020-05-06">x</time>', "2020-05-06", "time"),
        ("", '<time datetime="2020-05-06"></time><time datetime="2020-05-07"></time>', None, None),
        ('<meta property="article:modified_time" content="2020-05-06">', "", "2020-05-06", "meta"),
        ('<meta name="date" content="soon">', "", None, None),
        ('<script type="application/ld+json">{"datePublished": </script>', "", None, None),
        ('<script type="application/ld+json">' + "[" * 100_000 + "</script>", "", None, None),
    ],
)
def test_publication_date(head: str, body: str, expected: str | None, source: str | None) -> None:
    found = metadata(head, body)
    assert (found.date.date().isoformat() if found.date else None) == expected
    assert found.date_source == source


@pytest.mark.parametrize(
    ("head", "body", "expected"),
    [
        ('<link rel="license" href="https://creativecommons.org/licenses/by/4.0/">', "", "CC-BY-4.0"),
        ("", '<a rel="nofollow LICENSE" href="//creativecommons.org/licenses/by-sa/3.0/">x</a>', "CC-BY-SA-3.0"),
        ("", '<a href="https://creativecommons.org/licenses/by/3.0/">x</a>', "CC-BY-3.0"),
        (linked({"license": {"url": "https://creativecommons.org/publicdomain/zero/1.0/"}}), "", "CC0-1.0"),
        ('<meta name="dcterms.rights" content="CC BY-NC 4.0">', "", "CC-BY-NC-4.0"),
        (  # two pictures under two licences say nothing about the page
            "",
            '<a href="https://creativecommons.org/licenses/by/3.0/">x</a>'
            '<a href="https://creativecommons.org/licenses/by-sa/3.0/">y</a>',
            None,
        ),
        (  # but a marked link does
            '<link rel="license" href="https://creativecommons.org/licenses/by/4.0/">',
            '<a href="https://creativecommons.org/licenses/by-sa/3.0/">y</a>',
            "CC-BY-4.0",
        ),
        ("", '<a rel="license" href="/terms">x</a>', None),
    ],
)
def test_licence(head: str, body: str, expected: str | None) -> None:
    assert metadata(head, body).licence == expected


@pytest.mark.parametrize(
    ("html", "head", "expected"),
    [
        ('<html lang="en-GB">', "", "en-GB"),
        ("<html>", '<meta property="og:locale" content="de_DE">', "de-DE"),
        ('<html lang="">', '<meta http-equiv="Content-Language" content="fr">', "fr"),
        ("<html>", "", None),
    ],
)
def test_language(html: str, head: str, expected: str | None) -> None:
    assert metadata(head, html=html).language == expected


def test_headers() -> None:
    licence = '<https://x.org/style.css>; rel=preload, <https://creativecommons.org/licenses/by/4.0/>; rel="license"'
    assert header_licence({"link": licence}) == "CC-BY-4.0"
    assert header_licence({"link": "<https://x.org/>; rel=next"}) is None
    assert header_licence({}) is None
    assert header_date({"last-modified": "Wed, 21 Oct 2015 07:28:00 GMT"}) == datetime(2015, 10, 21, 7, 28, tzinfo=UTC)
    assert header_date({"last-modified": "x"}) is None
    assert header_date({}) is None


def test_the_tree_is_not_changed() -> None:
    tree = lxml.html.document_fromstring("<html><head><title>a</title></head><body><h1>b <i>c</i></h1>d</body></html>")
    before = lxml.html.tostring(tree)
    read_metadata(tree)
    assert lxml.html.tostring(tree) == before
