"""Title, date, licence and language from markup and headers, on literal tables."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.extract.html.licences import _CC_PORTED, spdx_from_text, spdx_from_url
from pipeline.extract.html.page_metadata import PageMetadata, header_date, header_licence, parse_date, read_metadata


def metadata(head: str, body: str = "<p>text</p>", html: str = "<html>") -> PageMetadata:
    return read_metadata(lxml.html.document_fromstring(f"{html}<head>{head}</head><body>{body}</body></html>"))


def linked(value: object) -> str:
    return f'<script type="application/ld+json">{json.dumps(value)}</script>'


def typed(*types: object) -> str:
    """Return a graph of objects, the first of which is dated 2020-05-01, the next a day later, and so on."""
    dated = [{"@type": name, "datePublished": f"2020-05-{day:02}"} for day, name in enumerate(types, 1)]
    return linked({"@context": "https://schema.org", "@graph": dated})


CC = "https://creativecommons.org/licenses/by-sa/4.0/"
ZERO = "https://creativecommons.org/publicdomain/zero/1.0/"


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


def test_every_ported_deed_is_told_by_its_url() -> None:
    assert len(_CC_PORTED) == 21
    for deed in _CC_PORTED:
        form = re.fullmatch(r"(BY(?:-NC)?(?:-ND|-SA)?)-(\d\.\d)-([A-Z]{2,3})", deed)
        assert form is not None, deed
        assert spdx_from_url(f"https://creativecommons.org/licenses/{'/'.join(form.groups()).lower()}/") == f"CC-{deed}"


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
        ("2024-02-29 10:30 PM", datetime(2024, 2, 29, 22, 30, tzinfo=UTC)),
        ("2024-02-29 12:30 a.m.", datetime(2024, 2, 29, 0, 30, tzinfo=UTC)),
        ("2024-02-29 12:30:15PM +01:00", datetime(2024, 2, 29, 11, 30, 15, tzinfo=UTC)),
        ("2024-02-29 22:30 PM", datetime(2024, 2, 29, 22, 30, tzinfo=UTC)),
        ("2024-02-29T22:30:15 EST", datetime(2024, 3, 1, 3, 30, 15, tzinfo=UTC)),
        ("2024-02-29 22:30:15 CEST", datetime(2024, 2, 29, 20, 30, 15, tzinfo=UTC)),
        ("2024-02-29T22:30:15+02", datetime(2024, 2, 29, 20, 30, 15, tzinfo=UTC)),
        ("2024-02-29T22:30:15-5:00", datetime(2024, 3, 1, 3, 30, 15, tzinfo=UTC)),
        ("2024-02-29T22:30:15\u221205:00", datetime(2024, 3, 1, 3, 30, 15, tzinfo=UTC)),
        ("2024-02-29T22:30:15 GMT+0200", datetime(2024, 2, 29, 20, 30, 15, tzinfo=UTC)),
        ("2024-02-29T22:30:15 UTC+5:30", datetime(2024, 2, 29, 17, 0, 15, tzinfo=UTC)),
        ("2024-02-29T22:30:15+01:00[Europe/Berlin]", datetime(2024, 2, 29, 21, 30, 15, tzinfo=UTC)),
        ("2024-02-29T22:30:15.123Z", datetime(2024, 2, 29, 22, 30, 15, tzinfo=UTC)),
        ("2024-02-29 22:30:15 IST", datetime(2024, 2, 29, tzinfo=UTC)),  # of India, Israel or Ireland
        ("2024-02-29 22:30:15+25:00", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024-02-29T24:00:00", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024-02-29, updated 2025", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024/02/29 22:30 +0900", datetime(2024, 2, 29, 13, 30, tzinfo=UTC)),
        ("20240229T223015Z", datetime(2024, 2, 29, 22, 30, 15, tzinfo=UTC)),
        ("202402292230", datetime(2024, 2, 29, 22, 30, tzinfo=UTC)),
        ("February 29, 2024 10:30 PM EST", datetime(2024, 3, 1, 3, 30, tzinfo=UTC)),
        ("Thursday, Feb. 29th, 2024 at 10:30pm", datetime(2024, 2, 29, 22, 30, tzinfo=UTC)),
        ("Thu Feb 29 2024 22:30:15 GMT+0100 (Central European Time)", datetime(2024, 2, 29, 21, 30, 15, tzinfo=UTC)),
        ("Thu Feb 29 22:30:15 +0100 2024", datetime(2024, 2, 29, 21, 30, 15, tzinfo=UTC)),
        ("Thu Feb 29 22:30:15 2024", datetime(2024, 2, 29, 22, 30, 15, tzinfo=UTC)),
        ("29 Feb 2024", datetime(2024, 2, 29, tzinfo=UTC)),
        ("Thursday, 29-Feb-24 22:30:15 GMT", datetime(2024, 2, 29, 22, 30, 15, tzinfo=UTC)),
        ("2024-02-291", None),
        ("02/03/2024", None),  # of February or of March
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
        (typed("ImageObject", "WebSite", "Comment", "NewsArticle"), "", "2020-05-04", "json_ld"),
        (typed("WebPage", ["CreativeWork", "http://schema.org/BlogPosting"]), "", "2020-05-02", "json_ld"),
        (typed("Person", "WebPage"), "", "2020-05-02", "json_ld"),
        (typed("Movie", "Book", "VideoObject", "Organization"), "", None, None),
        (typed("NewsArticle", "Organization", "NewsArticle"), "", None, None),  # a list of articles
        (
            linked({"@type": "Movie", "datePublished": "1999-03-31"}),
            '<time datetime="2020-05-06">',
            "2020-05-06",
            "time",
        ),
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
        (linked({"@type": "Article", "license": {"url": ZERO}}), "", "CC0-1.0"),
        (linked({"@type": ["Thing", "http://schema.org/WebPage"], "license": ZERO}), "", "CC0-1.0"),
        (linked({"@graph": [{"@type": "NewsArticle"}, {"@type": "ImageObject", "license": ZERO}]}), "", None),
        (linked({"@type": "Dataset", "license": ZERO}), "", None),
        (linked({"@type": "NewsArticle", "image": {"@type": "ImageObject", "license": ZERO}}), "", None),
        (linked([{"@type": "Article", "license": ZERO}, {"@type": "Article", "license": CC}]), "", None),
        (f'<link rel="copyright" href="{CC}">', "", "CC-BY-SA-4.0"),
        (f'<link rel="license" href="{CC}"><meta name="dc.rights" content="CC BY-NC 4.0">', "", None),
        (f'<link rel="license" href="{CC}"><meta name="copyright" content="All rights reserved">', "", None),
        ('<meta name="rights" content="Photos: CC BY 4.0">', "", None),
        ('<meta name="rights" content="Not CC BY 4.0">', "", None),
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


# A link in the text, as it stands in real pages: [CC] is one to CC BY-SA 4.0, [REL] the same marked as the licence.
OF_THE_PAGE = """
<footer><p>Content of this site is licensed under a [REL]</p></footer>
<footer><small>© 2012-2025 Somebody. [CC].</small></footer>
<div id="footer"><p>© 2020 Somebody • Design by: Somebody else • Lizenz: [CC]</p></div>
<footer><p>site design / logo © 2020 X; user contributions licensed under [CC] with attribution required.</p></footer>
<footer><p>Except as noted, code samples are under BSD. Other content is licensed under the [CC].</p></footer>
<footer><p>Unless noted, the content of this page is under [CC], and code samples are licensed under X.</p></footer>
<footer><p>Licensed under [CC]. Icons by The Noun Project.</p></footer>
<footer><p>If not otherwise stated, this work is licensed under a [CC]</p></footer>
<div class="widget-area"><div class="textwidget">[BADGE]<br>Dieses Werk steht unter einer [REL] Lizenz.</div></div>
<div class="widget-area"><div class="textwidget"><p>[BADGE]</p></div></div>
<aside class="widget">Alle Inhalte dieses Blogs stehen unter der Lizenz [CC]</aside>
<main><p>This work is licensed under a [CC].</p></main>
<main><p>Dieser Text wurde veröffentlicht unter der Lizenz [CC]. Die Fotos dürfen nicht verwendet werden.</p></main>
<main class="has-post-thumbnail comments-open"><p>本文采用 [CC] 协议</p></main>
<article><ul><li>License: [REL]</li></ul></article>
"""
OF_SOMETHING_ELSE = """
<figure><img src=a.jpg><figcaption>Photo: someone, [CC]</figcaption></figure>
<figure><img src=a.jpg><figcaption>Someone, [REL]</figcaption></figure>
<p><img src=a.jpg><br>[REL]</p>
<div class="wp-caption"><p>Someone, [REL]</p></div>
<div class="node__teaser-image-copyright">[CC]</div>
<footer><p>Photo: <a href="/x">someone</a>, [REL]</p></footer>
<footer><p>© X. Fotos: Y / [CC] via Z</p></footer>
<footer><p>[CC] image by someone</p></footer>
<footer><p>Theme X, [REL]</p></footer>
<footer>Theme X, <a rel=license href="https://opensource.org/licenses/MIT">MIT</a></footer>
<footer><p>Map data © somebody, [CC]</p></footer>
<footer>© 2021 X. All rights reserved. Some of it is under [REL]</footer>
<footer>© 2021 X. Alle Rechte vorbehalten.</footer><p>This text is under [REL]</p>
<div id="comments"><div class="comment">This work is licensed under [REL]</div></div>
<ol class="commentlist"><li>see [CC]</li></ol>
<div itemprop="comment"><p>This text is under [REL]</p></div>
<div class="post-signature">My posts are under [REL]</div>
<blockquote>This work is licensed under a [REL]</blockquote>
<p>This text is NOT under the [CC] licence.</p>
<p>This text isn't available under [REL].</p>
<p>Dieser Text steht nicht unter [REL]</p>
<p>Their report, a text of 50 pages, is licensed under [CC].</p>
<p>In this article we explain how content is licensed under [CC].</p>
<p>See [CC]</p>
<div class="sidebar"><ul class="blogroll"><li>[CC]</li></ul></div>
<div class="widget-area">[BADGE]<br>Die Bilder in diesem Blog stehen unter einer [REL] Lizenz.</div>
<p><a rel=license href="/terms">our terms</a> [CC]</p><footer>Texts: [CC]</footer>
<footer>By [CC] or [OTHER]</footer>
"""


@pytest.mark.parametrize("body", OF_THE_PAGE.strip().splitlines())
def test_a_link_that_is_the_licence_of_the_page(body: str) -> None:
    assert metadata("", _with_links(body)).licence == "CC-BY-SA-4.0"


@pytest.mark.parametrize("body", OF_SOMETHING_ELSE.strip().splitlines())
def test_a_link_that_is_the_licence_of_something_else(body: str) -> None:
    assert metadata("", _with_links(body)).licence is None


def _with_links(body: str) -> str:
    badge = (
        f'<a rel="license" href="{CC}"><img alt="Creative Commons" src="https://i.creativecommons.org/88x31.png"></a>'
    )
    links = {"[CC]": f'<a href="{CC}">CC BY-SA 4.0</a>', "[REL]": f'<a rel="license" href="{CC}">CC BY-SA 4.0</a>'}
    for name, link in {**links, "[BADGE]": badge, "[OTHER]": f'<a href="{ZERO}">CC0</a>'}.items():
        body = body.replace(name, link)
    return body


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
