"""What engines lose of pages and what of it is mended: literal pages, both engines."""

from __future__ import annotations

import pytest

from pipeline.extract.html.messages import HtmlOptions
from pipeline.extract.html.pages import extract_page
from pipeline.extract.units import Document, Origin, Page

PROSE = (
    "The committee met on Tuesday to discuss the plans for the new bridge over the river, and it heard from engineers, "
    "shop owners and people who live nearby. Most of them said that the old bridge had served the town well."
)
MORE = (
    "A second report, written by a surveyor from the county office, gave the cost of each design.",
    "Nobody wanted to wait for another ten years, so the council voted in favour of the cheaper plan.",
    "The builders will start with the northern bank in March, when the water is low.",
)
POSTS = [f"Post number {i} says that the bridge is old, and that number {i} of its piers is worn." for i in range(6)]
ENGINES = ("trafilatura", "resiliparse")
FAVORS = ("precision", "balanced", "recall")


def article(inner: str) -> str:
    after = "".join(f"<p>{text}</p>" for text in MORE)
    main = f"<main><article><h1>Title</h1><p>{PROSE}</p>{inner}{after}</article></main>"
    return f"<html><head><title>T</title></head><body>{main}</body></html>"


def document(html: str, engine: str, favor: str = "balanced") -> Document:
    page = Page(Origin("f", 0), "http://x.example/", html.encode(), "text/html", "utf-8", None, None)
    result = extract_page(page, HtmlOptions(engine=engine, favor=favor))  # type: ignore[arg-type]
    assert isinstance(result, Document)
    return result


def sample(inner: str, engine: str) -> str:
    """Return what became of `inner` in a sentence."""
    text = document(article(f"<p>Sample [{inner}] in the middle of this longer sample sentence.</p>"), engine).text
    return text.split("Sample [")[1].split("] in")[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian is spelt with non-joiners
        ("ශ්\u200dරී ලංකාව", "ශ්\u200dරී ලංකාව"),
        ("ខ្ញុំ\u200bស្រលាញ់", "ខ្ញុំ\u200bស្រលាញ់"),
        ("👩\u200d💻 \U0001f3f4\U000e0067\U000e007f", "👩\u200d💻 \U0001f3f4\U000e0067\U000e007f"),
        ("\U0001fae8\U0001fa77 \U00031350", "\U0001fae8\U0001fa77 \U00031350"),  # newer than Python's table
        ("\U000323b0 \u200f\u2067x\u2069", "\U000323b0 \u200f\u2067x\u2069"),
        ("\ue000 \uf8ff", "\ue000 \uf8ff"),  # private use
        ("<b>的</b><i>…</i> a<b>&mdash;</b>b", "的… a—b"),
        ("co\u00adopera\u00adtion\ufeff", "cooperation"),  # hints for hyphenation are no spelling
        ("\ufdd0 \ufdd3", "\ufffd \ufffd"),  # noncharacters of a page are none of ours
        ("&amp;lt;b&amp;gt; &amp;amp; &amp;nbsp; &amp;#39;", "&lt;b&gt; &amp; &nbsp; &#39;"),
        ("&lt;b&gt; &amp; &#39;", "<b> & '"),
        ("<code>a &amp;amp;&amp;amp; b</code>", "a &amp;&amp; b"),
    ],
)
def test_characters_are_kept_and_entities_decoded_once(engine: str, inner: str, expected: str) -> None:
    assert sample(inner, engine) == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        ("9.46 × 10<sup>15</sup> m", "9.46 × 10^15 m"),
        ("10<sup>−3</sup> and 2<sup>n</sup> and e<sup>x+1</sup>", "10^−3 and 2^n and e^{x+1}"),
        ("10<SUP><I>15</I></SUP>", "10^15"),
        ("<i>x</i><sup>2</sup>", "x^2"),
        ("m<sup>2</sup>, (a+b)<sup>2</sup>", "m^2, (a+b)^2"),
        ("10<sup>2</sup>3", "10^{2}3"),
        (
            "the 1<sup>st</sup>, 2<sup>nd</sup> and 5<sup>e</sup>; M<sup>lle</sup>, X<sup>TM</sup>",
            "the 1st, 2nd and 5e; Mlle, XTM",
        ),
        ("Ca<sup>2+</sup> and Na<sup>+</sup>", "Ca^{2+} and Na+"),
        ("1<sup>1</sup>/<sub>2</sub> cups, <sup>3</sup>⁄<sub>4</sub>", "1 1/2 cups, 3⁄4"),
        ("$19<sup>99</sup>", "$19.99"),
        ("see note<sup>3</sup>", "see note^3"),
        ('fact<sup><a href="#fn3">3</a></sup>', "fact[3]"),
        ('fact<a href="#fn3"><sup>3</sup></a>', "fact[3]"),
        ('fact<sup id="r"><a href="#n1">[1]</a></sup>', "fact[1]"),
        ("H<sub>2</sub>O, Fe<sub>2</sub>(SO<sub>4</sub>)<sub>3</sub>", "H2O, Fe2(SO4)3"),
        (
            "10<sub>2</sub> and x<sub>i</sub> and T<sub>max</sub> and a<sub>n+1</sub>",
            "10_2 and x_i and T_max and a_{n+1}",
        ),
        ("log<sub>2</sub>8", "log_{2}8"),
        ("<sup>14</sup>C", "14C"),
        ("it cost 5.<sup>3</sup>", "it cost 5.^3"),
        ("a<sup></sup>b", "ab"),
    ],
)
def test_raised_and_lowered_numbers_stay_apart(engine: str, inner: str, expected: str) -> None:
    assert sample(inner, engine) == expected


MATHML = "<mrow><msup><mi>x</mi><mn>2</mn></msup><mo>+</mo><mfrac><mi>a</mi><mi>b</mi></mfrac></mrow>"
TEX = '<annotation encoding="application/x-tex">x^2</annotation>'


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        (r'<script type="math/tex">\pi r^2</script>', r"\(\pi r^2\)"),
        (r'<script type="math/tex; mode=display">\pi r^2</script>', r"\[\pi r^2\]"),
        (r'<script type="math/tex">a &lt; b</script>', r"\(a &lt; b\)"),  # a script knows no entities
        ('<script type="math/asciimath">x^2/3</script>', "`x^2/3`"),
        (f'<script type="math/mml"><math>{MATHML}</math></script>', r"\(x^{2} + \frac{a}{b}\)"),
        (f'<script type="text/x-mathml"><math>{MATHML}</math></script>', r"\(x^{2} + \frac{a}{b}\)"),
        (f"<math>{MATHML}</math>", r"\(x^{2} + \frac{a}{b}\)"),
        (f"<math><semantics>{MATHML}{TEX}</semantics></math>", r"\(x^2\)"),
        (f'<math alttext="x_1">{MATHML}</math>', r"\(x_1\)"),
        (
            f'<span class="katex"><span class="katex-mathml"><math><semantics>{MATHML}{TEX}</semantics></math></span>'
            '<span class="katex-html" aria-hidden="true"><span>x</span><span>2</span></span></span>',
            r"\(x^2\)",
        ),
        (
            '<span class="MathJax_Preview">x2</span><span class="MathJax"><span>x2</span></span>'
            '<script type="math/tex">x^2</script>',
            r"\(x^2\)",
        ),
        (
            f'<mjx-container class="MathJax"><svg></svg><mjx-assistive-mml><math>{MATHML}</math></mjx-assistive-mml>'
            "</mjx-container>",
            r"\(x^{2} + \frac{a}{b}\)",
        ),
        (
            '<span class="mwe-math-element"><span style="display:none">'
            f"<math><semantics>{MATHML}{TEX}</semantics></math>"
            '</span><img alt="x^2" class="mwe-math-fallback-image-inline"></span>',
            r"\(x^2\)",
        ),
        ('<img class="latex" alt="A, B" src="https://s0.wp.com/latex.php?latex=A%2C+B">', r"\(A, B\)"),
        (r'<img src="eq.svg" alt="\frac{1}{2}">', r"\(\frac{1}{2}\)"),
        ('<span data-math="x^2" class="math-inline"><span class="katex">x2</span></span>', r"\(x^2\)"),
    ],
)
def test_formulas_become_their_source_once(engine: str, inner: str, expected: str) -> None:
    assert sample(inner, engine) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_a_formula_without_a_source_is_counted(engine: str) -> None:
    page = article('<p>Here <mjx-container class="MathJax"><mjx-mi>x</mjx-mi></mjx-container> is drawn alone.</p>')
    assert document(page, engine).metadata["formulas_lost"] == 1
    assert "formulas_lost" not in document(article("<p>Nothing to count here at all.</p>"), engine).metadata


CODE = "def f(x):\n    if x:\n\n        return 1\n\treturn 2  # a < b && c"
ESCAPED = CODE.replace("&", "&amp;").replace("<", "&lt;")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "markup",
    [
        f"<pre>{ESCAPED}</pre>",
        f"<pre><code>{ESCAPED}</code></pre>",
        f"<div class='highlight'><pre>\n<code class='language-python'>{ESCAPED}</code>\n</pre></div>",
        f"<figure class='highlight'><pre>{ESCAPED}</pre></figure>",
        f"<ul><li>Look: <pre>{ESCAPED}</pre></li></ul>",
        "<pre>" + "<br>".join(ESCAPED.split("\n")) + "</pre>",
        "<pre><code>" + "".join(f"<div class='line'>{line}</div>" for line in ESCAPED.split("\n")) + "</code></pre>",
        "<pre>"
        + "\n".join(f"<span class='lineno'>{i}</span>{line}" for i, line in enumerate(ESCAPED.split("\n")))
        + "</pre>",
        "<table class='highlighttable'><tr><td class='linenos'><pre>1\n2\n3\n4\n5</pre></td>"
        f"<td class='code'><pre>{ESCAPED}</pre></td></tr></table>",
        "<table>"
        + "".join(
            f"<tr><td class='blob-num' data-line-number='1'></td><td class='blob-code'>{line}</td></tr>"
            for line in ESCAPED.split("\n")
        )
        + "</table>",
    ],
)
def test_code_is_verbatim(engine: str, markup: str) -> None:
    lines = document(article(markup), engine).text.split("\n")
    kept = [line for line in CODE.split("\n") if line]
    found = [line.rstrip() for line in lines if line.rstrip() in kept]
    assert found == kept or [line.strip() for line in found] == kept


def each(markup: str, texts: list[str]) -> str:
    """Return `markup` once for each text, which stands for its star."""
    return "".join(markup.replace("*", text) for text in texts)


@pytest.mark.parametrize("favor", FAVORS)
@pytest.mark.parametrize(
    "body",
    [
        f"<main><article><h1>T</h1>{each('<p>*</p>', POSTS[:3])}{each('<div>*</div>', POSTS[3:])}</article></main>",
        f"<main><article>{each('<p>*</p>', POSTS[:2])}<center>{POSTS[2]}</center><font>{POSTS[3]}</font>"
        f"<p>{POSTS[4]}</p>{POSTS[5]}</article></main>",
        f"<main><article><p>{PROSE}</p><div>{'<br><br>'.join(POSTS)}</div><p>{PROSE}</p></article></main>",
        f"<main><article><p>{PROSE}</p><section>{POSTS[0]}</section><div><b>{POSTS[1]}</b></div>"
        f"{each('<p>*</p>', POSTS[2:])}</article></main>",
        f"<table><tr><td>{each('<p>*</p>', POSTS)}</td></tr></table>",
        f"<h1>T</h1>{each('<p>*</p>', POSTS[:3])}<ul>{each('<li>*</li>', POSTS[3:])}</ul><p>{PROSE}</p>",
        "<div class='thread'>"
        + each("<div class=post><div class=author>u</div><div class=message>*</div></div>", POSTS)
        + "</div>",
        "<div class='forum'>"
        + each(f"<article class=message><div class=message-content><p>*</p><p>{PROSE}</p></div></article>", POSTS)
        + "</div>",
    ],
)
@pytest.mark.parametrize("engine", ENGINES)
def test_prose_however_it_is_marked_up(engine: str, body: str, favor: str) -> None:
    text = document(f"<html><head><title>T</title></head><body>{body}</body></html>", engine, favor).text
    assert [post for post in POSTS if text.count(post) == 1] == POSTS


@pytest.mark.parametrize("said", ['{"@type": "DiscussionForumPosting", "headline": "x"}', '{"@type": "QAPage"}'])
@pytest.mark.parametrize("engine", ENGINES)
def test_posts_of_a_page_that_says_that_it_is_a_thread(said: str, engine: str) -> None:
    post = f"<article class=comment><div class=comment-body><p>*</p><p>{PROSE}</p></div></article>"
    head = f"<head><script type='application/ld+json'>{said}</script></head>"
    text = document(f"<html>{head}<body><h1>T</h1>{each(post, POSTS)}</body></html>", engine).text
    assert [post for post in POSTS if text.count(post) == 1] == POSTS


ITEMS = ("two cups of flour", "one egg from the farm", "a pinch of salt")
LIST = "".join(f"<li>{item}</li>" for item in ITEMS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "body",
    [
        article(f"<p>You need:</p><ul>{LIST}</ul><p>Mix them well.</p>"),
        article(f"<p>You need:</p><ol>{LIST}</ol><p>Mix them well.</p>"),
        article(f"<p>You need:</p><dl><dt>{ITEMS[0]}</dt><dd>{ITEMS[1]}</dd><dd>{ITEMS[2]}</dd></dl>"),
        article(f"<table><tr><th>For</th><th>Needs</th></tr><tr><td>bread</td><td><ul>{LIST}</ul></td></tr></table>"),
        article(f"<ul><li>bread<ul>{LIST}</ul></li></ul>"),
        f"<html><body><h1>Bread</h1><p>{PROSE}</p><ul>{LIST}</ul><p>{MORE[0]}</p></body></html>",
    ],
)
def test_items_of_lists_are_kept(engine: str, body: str) -> None:
    text = document(body, engine).text
    assert [item for item in ITEMS if text.count(item) == 1] == list(ITEMS)


def test_words_in_controls_do_not_leave_holes() -> None:
    inner = "from <time>5 May</time> press <button>Save</button> twice"
    assert sample(inner, "trafilatura") == "from 5 May press Save twice"


def test_navigation_near_the_root_is_no_list() -> None:
    links = "".join(f"<li><a href='/{i}'>Section {i}</a></li>" for i in range(9))
    text = document(article("").replace("<main>", f"<ul>{links}</ul><main>"), "resiliparse").text
    assert "Section" not in text


@pytest.mark.parametrize("engine", ENGINES)
def test_comments_below_an_article_are_no_thread(engine: str) -> None:
    comments = "".join(f"<div class='comment-content'><p>{post}</p></div>" for post in POSTS)
    page = article("").replace("</article>", f"</article><div class='comments'>{comments}</div>")
    assert PROSE in document(page, engine).text
