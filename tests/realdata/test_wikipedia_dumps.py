"""Real dumps of three wikis: counts, golden documents that were read by eye, and how much markup is left."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from pipeline.extract.config import ExtractLimits, WikipediaOptions
from pipeline.extract.conversion import Converted, RefusedError
from pipeline.extract.units import Document, Given, Raw
from pipeline.extract.wiki.reader import read_dump
from pipeline.extract.wiki.wikitext import convert

RAW = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "sources" / "raw"
pytestmark = [pytest.mark.realdata, pytest.mark.skipif(not RAW.is_dir(), reason=f"{RAW} is absent")]
NAMES = {
    "en": "enwiki-sample-pages-articles.xml.bz2",
    "bg": "bgwiki-sample-pages-articles.xml.bz2",
    "ltg": "ltgwiki-latest-pages-articles.xml.gz",
}


@cache
def dump(language: str) -> tuple[Counter[str], dict[str, tuple[Document, Converted]]]:
    """Return the counts of a dump by outcome, and its documents by page id."""
    outcomes: Counter[str] = Counter()
    documents = {}
    with (RAW / NAMES[language]).open("rb") as stream:
        for entry in read_dump(stream, 0, Given(NAMES[language], ExtractLimits(), WikipediaOptions())):
            if not isinstance(entry.result, Raw):
                outcomes[entry.result.reason] += 1  # type: ignore[union-attr]
                continue
            known = entry.result.document
            try:
                documents[known.origin.record_id or ""] = known, convert(entry.result.payload, entry.result.facts)
                outcomes["document"] += 1
            except RefusedError as refused:
                outcomes[refused.reason] += 1
    return outcomes, documents


@pytest.mark.parametrize(
    ("language", "outcomes"),
    [
        ("en", {"document": 106, "redirect": 99, "namespace": 1}),
        ("bg", {"document": 1, "namespace": 2}),
        ("ltg", {"document": 902, "redirect": 147, "namespace": 954, "empty": 1}),
    ],
)
def test_every_page_is_a_document_or_a_reject(language: str, outcomes: dict[str, int]) -> None:
    assert dump(language)[0] == outcomes


GOLDEN = {
    ("en", "25"): [
        "Globally, autism is estimated to affect 21.7 million people as of 2013. As of 2010, the number of people",
        "- Stereotypy is repetitive movement, such as hand flapping, head rolling, or body rocking.\n- Compulsive",
        "\n\n## Characteristics\n\nAutism is a highly variable neurodevelopmental disorder",
    ],
    ("en", "39"): [
        "$${\\alpha}= (1-D) \\bar \\alpha(\\theta_i) + D \\bar{ \\bar \\alpha}.$$",
        "is:\n$$A =\\left ( \\frac{1329\\times10^{-H/5}}{D} \\right ) ^2$$,\n",
        "is +0.2 W m^−2, with a range +0.1 to +0.4 W m^−2.",
    ],
    ("en", "303"): [
        "| Racial composition | 1990 | 2000 | 2010 |\n| --- | --- | --- | --- |\n| White | 73.6% | 71.1% | 68.5% |",
        "At 1300 mi, Alabama has one of the longest navigable inland waterways in the nation.",
    ],
    ("en", "775"): ["```\n  Input: A list of numbers L.\n  Output: The largest number in the list L.\n```"],
    ("bg", "558"): [
        "$$365,2425=365+0,25-0,01+0,0025=365+\\frac{1}{4}-\\frac{1}{100}+\\frac{1}{400}$$",
        "следния начин:\n- януари, 31 дни;\n- февруари, 28 или 29 дни;",
    ],
    ("ltg", "205"): ["- Rāzna (Rēznis nūv.) – 5756 ha\n- Rušyuns (Ribinišku nūv.) – 2373 ha\n"],
}


@pytest.mark.parametrize(("language", "number"), GOLDEN)
def test_golden_documents(language: str, number: str) -> None:
    text = dump(language)[1][number][1].text
    for excerpt in GOLDEN[language, number]:
        assert excerpt in text


@pytest.mark.parametrize("language", NAMES)
def test_no_markup_is_left(language: str) -> None:
    markup = re.compile(
        r"\{\{|\}\}|\[\[|\]\]|\{\||\|\}|''|</?ref|&nbsp;|\[https?:|^=+[^=]+=+$|__[A-Z]+__", re.MULTILINE
    )
    verbatim = re.compile(r"```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|^[^\n]*\\(?:frac|text)\b[^\n]*", re.S | re.M)
    pages = ((number, verbatim.sub("", page.text)) for number, (_, page) in dump(language)[1].items())
    assert not {number: found[0] for number, text in pages if (found := markup.search(text))}
