"""Wikitext to text: what each piece of markup becomes, in several languages, and that nothing hostile takes long."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.extract.conversion import Converted, RefusedError
from pipeline.extract.wiki.wikitext import convert


def page(wikitext: str, language: str = "en", file: str = "datei", category: str = "kategorie") -> Converted:
    names = {"file": ["file", "image", "media", file], "category": ["category", category], "template": ["template"]}
    return convert(wikitext.encode(), {"language": language, "title": "Title", **names})


CASES = {
    # links
    "[[a]]s and [[b|c]], [[d (e)|]], [[#S|s]], [[:Category:X]]": "as and c, d, s, Category:X",
    "a[[File:x.png|thumb|{{small|y}} [[z]]]] b[[Datei:x.png|mini]] c": "a b c",
    "a [[Immagine:x.JPG|thumb|y]] [[a.jpg|b]]": "a b",
    "a [[Kategorie:Orte|X]][[fr:Lieu]][[zh-min-nan:X]]": "a",
    "[http://a.b label] [http://a.b] http://c.d [1]": "label http://c.d [1]",
    "[[unclosed and {{t|[[open}} x": "unclosed and open x",
    # inline markup
    "'''b''' ''i'' '''''bi''''' l'''a''' it's ''": "b i bi la it's",
    "H<sub>2</sub>O 10<sup>−3</sup> x<sub>i</sub> 1<sup>st</sup> m<sup>2</sup>a": "H2O 10^−3 x_i 1st m^{2}a",
    "a&nbsp;b &lt;b&gt; AT&amp;T &#8212;": "a b <b> AT&T —",
    "a<ref>x</ref><ref name=y/>.<ref>{{cite|z}} <nowiki></ref></nowiki></ref>": "a.",
    "a <!-- b --> c\n<!-- alone -->\nd <!-- open": "a c\nd",
    "<nowiki>[[x]] ''</nowiki> <code>f(a, )</code> <span style='display:none'>k</span>b <stdio.h>": (
        "[[x]] '' `f(a, )` b <stdio.h>"
    ),
    "__NOTOC__ __KEIN_INHALTSVERZEICHNIS__ __無目次__ __init__": "__init__",
    "<div class='x'>a</div> b<br/>c": "a\n b\nc",
    # formulas and code
    "the <math>\n\\frac{a}{b} &lt; 1</math> one": "the $\\frac{a}{b} < 1$ one",
    ":<math>a^2</math>.": "$$a^2$$.",
    "of <chem>H2O</chem>": "of $\\ce{H2O}$",
    "<syntaxhighlight lang='Python'>\nx = {{y}}  | 1\n</syntaxhighlight>": "```python\nx = {{y}}  | 1\n```",
    "a <source lang=c inline>int  i;</source> b": "a `int  i;` b",
    " x\n   y\nz\n single": "```\nx\n  y\n```\n\nz\nsingle",
    # structure
    "== H ==\na\n=== Empty ===\n== Last ==\n{{reflist}}": "## H\n\na",
    "* a\n** b\n# c\n# d\n#* e\n# f\n\n# g": "- a\n  - b\n1. c\n2. d\n  - e\n3. f\n\n1. g",
    ";T : d\n;U\n:e\nx\n:y": "T\n: d\nU\n: e\nx\ny",
    '{| class="wikitable"\n|+ Cap\n! A !! style="x"| B\n|-\n| 1<br>2 || [[b|c]]\n|-\n| d\n* e\n| f|g\n|}': (
        "Cap\n\n| A | B |\n| --- | --- |\n| 1 2 | c |\n| d e | g |"
    ),
    '{| class="infobox"\n| x\n|}\n{|\n| layout\n{|\n! q\n| r\n|}\n|}': "layout\n| q | r |\n| --- | --- |",
    "{|\n| open || table": "| open | table |\n| --- | --- |",
    '{|\n! rowspan=2 | A\n! colspan="2" | B\n|-\n! b1 !! b2\n|-\n| x || 1\n| rowspan="2" {{N/A}}\n|-\n| y || 2\n|}': (
        "| A | B | |\n| --- | --- | --- |\n| | b1 | b2 |\n| x | 1 | N/A |\n| y | 2 |"
    ),
    'a\n{| class="infobox"\n| b || 1\n|}\n{| class="toccolours"\n| c || 2\n|}\n{| class="toc"\n| d || 3\n|}': (
        "a\n\n| b | 1 |\n| --- | --- |\n\n| c | 2 |\n| --- | --- |"
    ),
    # links that end a page: categories and the like by names that the dump lacks
    "a [[K:x]]\n[[:Kat:b]] [[P:c]]\n* [[R:d]]\n[[Kat:e|f]] [[Kat:g]]\n{{h}}\n[[Rub:i]]\n": "a K:x\nKat:b P:c\n- R:d",
    "[[Kat:a]]\nb<br/ >c": "Kat:a\nb\nc",
    # templates
    "{{Infobox\n|a={{b|c}}\n}}\ntext{{cn|date=2020}}.": "text.",
    "a {{nowrap|5 km}}, {{lang|fr|mot}}, {{Xyz-ru|слово}} b": "a 5 km, mot, слово b",
    "born ({{lang-xx|}}, {{born}}; ) in, {{x}}, y ({{z}}a)": "born in, y (a)",
    "{{convert|5|km|mi}} {{convert|5|-|7|ft|m}} {{frac|1|2}} 1{{frac|1|2}} {{circa|1500}} {{val|5|e=3}}": (
        "5 km 5–7 ft 1/2 1 1/2 c. 1500 5 × 10^3"
    ),
    "{{formatnum:1234}} {{lc:ABC}} {{PAGENAME}} {{DISPLAYTITLE:x}}{{#if:a|b}}": "1234 ABC Title",
    "{{birth date|1980|1|2}} {{ДР|2|1|1980}} {{date|1|mai|1980}} {{unité|10|km}}": (
        "1980-01-02 1980-01-02 1 mai 1980 10 km"
    ),
    "a\n{{quote|A sentence that somebody said. Another.|B}}": "a\nA sentence that somebody said. Another.",
    "{{hint|A sentence that is about this page. Another of it.}}\na": "a",
    "* {{see|name=A|content=A thing to see.}} {{US$|5}} {{as of|2020|May}}": "- A thing to see. US$5 As of May 2020",
    "{{inh|en|enm|cat}}, {{der|en|la|cattus||cat}}, {{t+|fr|chat|m}}": "cat, cattus, chat",
    "{{main|Other article with a long name}}\na": "a",
    "le {{XXe siècle}}, 19{{e}}, 5 m{{2}}, {{unité|5|km|2}}, {{lien|fr=Mot|trad=W}}": (
        "le XXe siècle, 19e, 5 m², 5 km^2, Mot"
    ),
    "({{zh|c=李安|p=Lǐ Ān}}) {{unità|5|km|mi}} {{M|1|c|m}} {{Exp|2|−5}} {{GBP|5}} B{{music|flat}}": (
        "(李安, Lǐ Ān) 5 km 1 cm 2 × 10^−5 £5 B♭"
    ),
    "{{url|https://a.b|label}} {{IMDb|0120338|Titanic}} {{legend|blue|sea}} {{in lang|de}} {{ship|HMS|Hood}}": (
        "label Titanic sea HMS Hood"
    ),
    "* {{DNB-Portal|119317079}}\n* {{nowrap|b}} {{refnec|Une phrase.}} {{quote|text=A b.}}": "- b Une phrase. A b.",
    "a word{{note|A remark about the word, as a footnote.}} b": "a word b",
    "{{double image|x.jpg|A caption that is a sentence of many words.}}\na": "a",
    "{{{1|default}}} {{{2}}} {{{{{3}}}}}": "default",
    "{{open\n|a=b\n|c=d\n\ntext": "text",
}


@pytest.mark.parametrize("wikitext", CASES)
def test_markup(wikitext: str) -> None:
    assert page(wikitext).text == CASES[wikitext]


@pytest.mark.parametrize(
    ("language", "wikitext", "text"),
    [
        ("zh", "'''-{zh-hans:中国; zh-hant:中國}-'''（{{lang-en|China}}）", "中国（China）"),
        ("zh", "位于-{A|zh-cn:亚洲;zh-tw:亞洲;}-。{{R|a}}-{H|zh-cn:隐}--{x}-", "位于亚洲。x"),
        ("de", "set -{a}- b", "set -{a}- b"),
        (
            "ja",
            "日本（にほん）は、{{仮リンク|東アジア|en|Asia}}の{{Refnest|注|group=注}}、{{J}}。",
            "日本（にほん）は、東アジアの。",
        ),
        ("he", "ירושלים (ב[[ערבית]]: {{ללא ניקוד|القدس}}) היא{{הערה|שם=א|תוכן}}.", "ירושלים (בערבית: القدس) היא."),
        ("ar", "القاهرة ({{نسخ}}، {{إنج|Cairo}}) هي [[عاصمة]]{{مرجع|عنوان=a}}.", "القاهرة (Cairo) هي عاصمة."),
        (
            "fr",
            "du {{s-|XX|e}} ({{date|1|mai|1980}}){{sfn|A|1990}}, {{1er|mai}}",
            "du XXe siècle (1 mai 1980), 1er mai",
        ),
        ("ru", "И{{sfn|И|1990|с=3}} {{нп5|физик|физик|en|Physicist}}, {{s|10 км}}{{нет АИ|2|3}}", "И физик, 10 км"),
    ],
)
def test_languages(language: str, wikitext: str, text: str) -> None:
    assert page(wikitext, language).text == text


def test_categories_and_templates_become_columns() -> None:
    found = page("{{template:stub}}{{Infobox x|a=1}}a [[Category:foo bar|*]][[Kategorie: B_c ]]")
    assert found.kept == {"categories": ["Foo bar", "B c"], "templates": ["Stub", "Infobox x"]}


def test_nothing_left_is_refused() -> None:
    with pytest.raises(RefusedError) as refused:
        page("{{x}}\n[[File:a.png]]\n== H ==\n<!-- a -->")
    assert refused.value.reason == "empty"


HOSTILE = (
    "{{ }} [[ ]] {| |} -{ }- {{{ }}} < <ref> <ref <!-- <math> <pre> ' '' ''''' __ = * : ; # & ( {{a}}, ({{a}}, "
    '[http://a [http://a_b {{a| [[a| {|\n|\n |-\n ||a !!a <b <sup>a a<sup> __A -{zh: <source_lang=" \n_'
)


@pytest.mark.parametrize("piece", HOSTILE.split(" "))
def test_hostile_markup_is_linear(piece: str) -> None:
    wikitext = piece.replace("_", " ") * (200_000 // len(piece))
    for text in (wikitext, wikitext + "x" + "".join({"{": "}", "[": "]"}.get(c, c) for c in reversed(wikitext))):
        started = time.process_time()
        with contextlib.suppress(RefusedError):
            page(text, "zh")
        assert time.process_time() - started < 4


MARKUP = (
    "{{ }} {{{ }}} [[ ]] [ ] | || {|\n |}\n |-\n ! = == == \n * # : ; ' '' ''' <ref> </ref> <br> <math> </math> <!-- "
    "--> -{ }- ( ) , . a b 1 File: Category: lang| http://a ~ __A__ &amp; <nowiki> </nowiki> <pre> </pre> \n\n"
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(MARKUP.split(" ")), max_size=60).map("".join), st.sampled_from(["zh", "en"]))
def test_any_markup_leaves_no_marks_and_is_stable(wikitext: str, language: str) -> None:
    try:
        text = page(wikitext, language).text
    except RefusedError:
        return
    assert not set(text) & set("\x00\x01\x02\x03")
    assert text == text.strip()
    if not any(tag in wikitext for tag in ("<nowiki>", "<pre>", "<math>")):
        assert "\n\n\n" not in text
        assert not any(mark in text for mark in ("{{", "}}", "[[", "]]", "<ref>"))
