"""Extraction of real annotated pages: right charset, and word F1 at least that of trafilatura called directly."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from statistics import mean

import pytest
import trafilatura

from pipeline.extract.html.charset import decode
from pipeline.extract.html.messages import HANDLER, HtmlOptions
from pipeline.extract.html.pages import extract_page, extract_pages
from pipeline.extract.isolation import WorkerPool
from pipeline.extract.units import Document, Reject
from tests.bench.bench_extraction import GoldPage, gold_pages, word_f1

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "web"
PAGES_A_SOURCE = 20

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not (DATA / "web-dev.warc.gz").exists(), reason=f"{DATA} with web-dev.warc.gz is absent"),
]


@pytest.fixture(scope="module")
def pages() -> list[GoldPage]:
    return gold_pages(DATA)


@pytest.fixture(scope="module")
def sample(pages: list[GoldPage]) -> list[GoldPage]:
    """Annotated pages spread evenly over each gold source."""
    by_source: dict[str, list[GoldPage]] = defaultdict(list)
    for page in pages:
        if page.gold_text is not None:
            by_source[page.source].append(page)
    return [page for found in by_source.values() for page in found[:: max(1, len(found) // PAGES_A_SOURCE)]]


def test_every_page_is_decoded_correctly(pages: list[GoldPage]) -> None:
    """Also the 22 pages whose header is wrong on purpose."""
    wrong_headers = 0
    for page in pages:
        wrong_headers += page.header_is_wrong
        decoded = decode(page.page.payload, page.page.charset)
        assert decoded.text == page.correctly_decoded(), page.page.url
        assert not decoded.is_garbage
    assert wrong_headers == 22


def test_trafilatura_is_as_good_as_when_called_directly(sample: list[GoldPage]) -> None:
    ours: dict[str, list[float]] = defaultdict(list)
    direct: dict[str, list[float]] = defaultdict(list)
    with WorkerPool(HANDLER, 2) as pool:
        results = list(extract_pages(pool, [page.page for page in sample], HtmlOptions()))
    for page, result in zip(sample, results, strict=True):
        text = trafilatura.extract(page.correctly_decoded(), include_comments=False) or ""
        ours[page.source].append(word_f1(result.text if isinstance(result, Document) else "", page.gold_text or ""))
        direct[page.source].append(word_f1(text, page.gold_text or ""))
    assert len(ours) == 4
    for source, scores in ours.items():  # what is mended may add a caption or a by-line to an article
        assert mean(scores) >= mean(direct[source]) - 0.005, source
    assert mean(chain.from_iterable(ours.values())) > mean(chain.from_iterable(direct.values()))


def test_resiliparse_is_near_what_was_measured(sample: list[GoldPage]) -> None:
    results = [extract_page(page.page, HtmlOptions(engine="resiliparse", favor="balanced")) for page in sample]
    scores = [
        word_f1(result.text if isinstance(result, Document) else "", page.gold_text or "")
        for page, result in zip(sample, results, strict=True)
    ]
    assert mean(scores) > 0.8


def test_the_gate_keeps_nearly_all_english_and_little_else(pages: list[GoldPage]) -> None:
    """By the language that the page's own markup claims, which is right more often than not."""
    kept: Counter[str] = Counter()
    total: Counter[str] = Counter()
    options = HtmlOptions(engine="resiliparse", language_gate=("en",))
    for page in pages[::4]:
        claimed = re.search(rb"<html[^>]{0,300}\blang=[\"']?([a-z]{2})", page.page.payload[:4000].lower())
        if claimed is None:
            continue
        language = "en" if claimed.group(1) == b"en" else "other"
        result = extract_page(page.page, options)
        total[language] += 1
        kept[language] += not (isinstance(result, Reject) and result.reason == "language")
    assert kept["en"] / total["en"] > 0.95
    assert kept["other"] / total["other"] < 0.2


def test_word_f1_is_what_it_says() -> None:
    assert word_f1("", "") == 1
    assert word_f1("a", "") == 0
    assert word_f1("A b b", "a B c") == pytest.approx(2 / 3)
    assert word_f1(unicodedata.normalize("NFD", "é"), "É") == 1
