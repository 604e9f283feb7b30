"""Words of a page to its text: columns, paragraphs, heads, tables, running lines; and the text layer itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pypdfium2 as pdfium
import pytest

from pipeline.extract.pdf import layer, layout
from pipeline.extract.pdf.page import Box, Page, Span

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "pdf"
PROSE = "the river rose over its banks and the people of the town went up the hill to wait there for the night to pass"


def words(text: str, left: float, base: float, size: float = 10.0, *, is_bold: bool = False) -> list[Span]:
    """A line of words from `left` on; each sign is half the font's size wide, a space a quarter."""
    spans = []
    for word in text.split(" "):
        width = 0.5 * size * len(word)
        if word:
            box = Box(left, base - 0.78 * size, left + width, base + 0.22 * size)
            spans.append(Span(word + " ", box, size, is_bold))
        left += width + 0.25 * size
    return [*spans[:-1], replace(spans[-1], text=spans[-1].text.strip())]


def column(text: str, left: float, top: float, width: float = 200.0, size: float = 10.0) -> list[Span]:
    spans: list[Span] = []
    line, base = "", top
    for word in [*text.split(" "), None]:
        if word is None or 0.5 * size * len(f"{line} {word}") > width:
            spans += words(line, left, base, size)
            line, base = "", base + 1.2 * size
        line = f"{line} {word}".strip()
    return spans


def text_of(*spans: Sequence[Span], rules: Sequence[Box] = (), images: Sequence[Box] = (), turn: int = 0) -> str:
    page = Page(612, 792, tuple(span for part in spans for span in part), tuple(rules), tuple(images))
    return layout.document_text([page])[0]


def test_columns_are_read_one_after_the_other_below_a_head_over_both():
    left, right = f"left begins {PROSE} {PROSE} left ends.", f"right begins {PROSE} {PROSE} right ends."
    text = text_of(
        words("A head over both of the columns", 150, 90, 20), column(left, 72, 130), column(right, 320, 130)
    )
    assert text == f"# A head over both of the columns\n\n{left}\n\n{right}"


def test_a_line_that_stands_out_a_little_ends_no_gutter():
    left, right = (f"{side} begins {' '.join([PROSE] * 9)} {side} ends." for side in ("left", "right"))
    spans = column(left, 72, 100), column(right, 282, 100)  # white of 10 points
    edge = max(span.box.right for span in spans[0])
    (first, *_) = [span for span in spans[1] if span.box.left == 282 and span.box.top > 250]
    out = [replace(s, box=replace(s.box, left=edge + 6.5)) if s is first else s for s in spans[1]]
    assert text_of(spans[0], out).split() == f"{left} {right}".split()


def test_columns_of_unequal_lines_and_heights_keep_apart():
    left, right = f"left begins {PROSE} {PROSE} {PROSE} left ends.", f"right begins {PROSE} right ends."
    assert text_of(column(left, 72, 130), column(right, 320, 134)) == f"{left}\n\n{right}"


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        ("the informa-", "tion of the day", "the information of the day"),
        ("the well-", "Known one", "the well-Known one"),
        ("state-of-the-", "art things here", "state-of-the-art things here"),
        ("in the range of 10-", "20 per cent", "in the range of 10-20 per cent"),
        ("models 737–", "9 at https://", "models 737–9 at https://"),
        ("ships – all –", "sail and/", "ships – all – sail and/"),
        ("at https://", "www.example.org", "at https://www.example.org"),
    ],
)
def test_hyphens_at_the_end_of_a_line(first: str, second: str, joined: str):
    assert text_of(words(first, 72, 300), words(second, 72, 312)) == joined


def test_a_hyphen_stays_where_the_document_writes_the_word_with_one():
    lines = [words("a well-known one and a well-", 72, 300), words("known other", 72, 312)]
    assert text_of(*lines) == "a well-known one and a well-known other"


def test_running_lines_and_page_numbers_go_and_the_text_stays():
    pages = [
        Page(
            612,
            792,
            tuple(
                words("Annals of Rivers, volume 3", 72, 40)
                + column(f"{sentence} {PROSE} {PROSE}.", 72, 120, 400)
                + words(f"Page {number}", 290, 760)
            ),
        )
        for number, sentence in ((7, "One begins"), (8, "Two begins"), (9, "Three begins"))
    ]
    texts = layout.document_text(pages)
    assert all("Annals" not in text and "Page" not in text for text in texts)
    assert [text.split()[0] for text in texts] == ["One", "Two", "Three"]


def test_pages_that_are_all_alike_are_not_lost():
    pages = [Page(612, 792, tuple(words("Annals of Rivers, volume 3", 72, 40)))] * 20
    assert layout.document_text(pages) == ["Annals of Rivers, volume 3"] * 20


def test_of_one_page_only_what_is_evident_goes():
    body = column(f"{PROSE} {PROSE} {PROSE}.", 72, 120, 400)
    assert text_of(
        words("400", 72, 60), words("BRITISH HUSBANDRY", 250, 60), words("[Ch. XIX.", 450, 60), body
    ) == text_of(body)
    assert text_of(body, words("17", 300, 750)) == text_of(body)
    assert "Dear Sir" in text_of(words("Dear Sir", 72, 60), body)


def test_rows_of_tables_and_repeated_sentences_at_an_edge_stay():
    rows = [
        words(f"Nickel and compounds {row}", 72, 640 + 14 * row) + words(f"{row}00", 400, 640 + 14 * row)
        for row in range(9)
    ]
    assert "800" in text_of(column(f"{PROSE} {PROSE}.", 72, 120, 400), *rows)
    note = f"1 Each page says so: {PROSE} {PROSE}"
    pages = [
        Page(612, 792, tuple(column(f"{n} {PROSE}.", 72, 120, 400) + words(note, 30, 740, 5))) for n in ("One", "Two")
    ]
    assert all("says so" in text for text in layout.document_text(pages))


def grid(xs: Sequence[float], ys: Sequence[float]) -> list[Box]:
    return [Box(xs[0], y, xs[-1], y) for y in ys] + [Box(x, ys[0], x, ys[-1]) for x in xs]


def test_ruled_tables_are_markdown_with_bars_masked():
    cells = [words("Name", 80, 110), words("Size", 180, 110), words("a|b", 80, 130), words("12", 180, 130)]
    text = text_of(*cells, rules=grid([72, 172, 272], [95, 115, 135]))
    assert text == "| Name | Size |\n| --- | --- |\n| a\\|b | 12 |"


def test_heads_over_several_ruled_columns_are_html():
    rules = [*grid([72, 172, 272, 372], [115, 135]), *grid([72, 172, 372], [95, 115])]
    cells = [words("Year", 180, 110)]
    cells += [words(text, left, 130) for text, left in (("Sold", 80), ("1,200", 180), ("3,400", 280))]
    assert text_of(*cells, rules=rules) == (
        '<table>\n<tr><th></th><th colspan="2">Year</th></tr>\n'
        "<tr><td>Sold</td><td>1,200</td><td>3,400</td></tr>\n</table>"
    )


def test_numbers_in_columns_are_a_table_and_justified_prose_is_not():
    rows = [
        ("Country", "People", "Area"),
        ("Austria", "8.9", "83,879"),
        ("Belgium", "11.5", "30,689"),
        ("Finland", "5.5", "338,424"),
    ]
    cells = [
        words(text, left, 200 + 14 * row)
        for row, texts in enumerate(rows)
        for text, left in zip(texts, (72, 200, 320), strict=True)
    ]
    assert text_of(*cells).splitlines()[2:] == [
        "| Austria | 8.9 | 83,879 |",
        "| Belgium | 11.5 | 30,689 |",
        "| Finland | 5.5 | 338,424 |",
    ]
    assert "|" not in text_of(column(f"{PROSE} {PROSE} {PROSE}", 72, 120, 300))


def test_raised_and_lowered_digits_large_first_letters_and_leaders():
    assert text_of(words("E = mc", 72, 300), words("2", 97.2, 296, 6)) == "E = mc²"
    assert text_of(words("H", 72, 300), words("2", 77, 302, 6), words("O", 80, 300)) == "H₂O"
    cap = words("O", 72, 325, 36)
    lines = [
        words(text, 92, 302 + 12 * row)
        for row, text in enumerate(
            ("nce upon a time there was a king", "and he had a son who went away", "for ever and ever and a day")
        )
    ]
    assert text_of(cap, *lines).startswith("Once upon a time")
    dots = words(". " * 20, 130, 300)
    assert text_of(words("Preface", 72, 300), dots, words("12", 400, 300)) == "Preface 12"


def test_a_fraction_beside_text_is_one_word_and_an_underline_is_none():
    parts = [words("y =", 72, 300), words("a + b", 92, 293.5), words("2", 100, 306.5)]
    assert text_of(*parts, rules=[Box(91, 297, 117, 297)]) == "y = (a + b)/2"
    lines = [words("see http://example.org here", 72, 300), words("and there it ends now", 72, 312)]
    assert "/and" not in text_of(*lines, rules=[Box(90, 301.5, 175, 301.5)])


def test_words_drawn_twice_are_read_once_and_hidden_ones_only_over_a_picture():
    assert text_of(words("Shadow", 72, 300), words("Shadow", 72.6, 300.4)) == "Shadow"
    hidden = [Span(s.text, s.box, s.size, is_visible=False) for s in words("an old layer of OCR", 72, 300)]
    assert text_of(hidden) == ""
    assert text_of(hidden, images=[Box(0, 0, 612, 792)]) == "an old layer of OCR"


def test_a_page_on_its_side_is_read_upright():
    upright = column(f"{PROSE} {PROSE}.", 100, 120, 300)
    sideways = [
        Span(s.text, Box(s.box.top, 612 - s.box.right, s.box.bottom, 612 - s.box.left), s.size, turn=90)
        for s in upright
    ]
    assert layout.document_text([Page(792, 612, tuple(sideways))]) == layout.document_text(
        [Page(612, 792, tuple(upright))]
    )


def test_right_to_left_lines_begin_at_the_right():
    assert text_of(words("שלום", 200, 300), words("עולם", 170, 300)) == "שלום עולם"


def test_nothing_and_odd_pages_give_nothing_and_no_error():
    assert layout.document_text([]) == []
    assert text_of() == ""
    assert text_of(words("a", -50, 300, 0.001), words("b", 1e6, -1e6, 5000)) != ""


# The text layer


def pdf(content: bytes, *, rotate: int = 0, font: bytes = b"Helvetica") -> pdfium.PdfPage:
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 200]/Rotate %d/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>"
        % rotate,
        b"<</Length %d>>stream\n%s\nendstream" % (len(content), content),
        b"<</Type/Font/Subtype/Type1/Encoding/WinAnsiEncoding/BaseFont/%s>>" % font,
    ]
    data, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    start = len(data)
    data += (
        b"xref\n0 6\n0000000000 65535 f \n" + table + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % start
    )
    return pdfium.PdfDocument(data)[0]


def said(page: Page) -> list[str]:
    return [span.text.strip() for span in page.spans]


def test_words_have_their_places_from_the_upper_left_corner():
    page = layer.read_page(pdf(b"BT /F 20 Tf 50 150 Td (Hello world) Tj ET"))
    assert (page.width, page.height, said(page)) == (300, 200, ["Hello", "world"])
    first = page.spans[0]
    assert first.box.left == pytest.approx(50, abs=1)
    assert first.box.bottom == pytest.approx(50 + 0.22 * 20, abs=0.5)
    assert (first.size, first.turn, first.is_visible) == (20, 0, True)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_turned_pages_are_read_as_they_are_shown(rotate: int):
    page = layer.read_page(pdf(b"BT /F 20 Tf 50 150 Td (Hello world) Tj ET", rotate=rotate))
    assert {span.turn for span in page.spans} == {(360 - rotate) % 360}
    assert layout.document_text([page]) == ["Hello world"]


@pytest.mark.parametrize(
    ("content", "visible"),
    [
        (b"BT /F 9 Tf 3 Tr 50 150 Td (secret) Tj ET", False),
        (b"BT /F 9 Tf 1 1 1 rg 50 150 Td (secret) Tj ET", False),
        (b"0 0 0 rg 0 100 300 100 re f BT /F 9 Tf 1 1 1 rg 50 150 Td (secret) Tj ET", True),
        (b"BT /F 9 Tf 500 150 Td (secret) Tj ET", False),
        (b"q 0 0 300 20 re W n BT /F 9 Tf 50 150 Td (secret) Tj ET Q", False),
        (b"q 0 0 300 180 re W n BT /F 9 Tf 50 150 Td (secret) Tj ET Q", True),
        (b"BT /F 9 Tf 50 150 Td (secret) Tj ET", True),
    ],
)
def test_what_nobody_sees_is_marked(content: bytes, visible: bool):
    page = layer.read_page(pdf(content))
    assert [(span.text, span.is_visible) for span in page.spans] == [("secret", visible)]


def test_bold_fonts_lines_and_boxes_are_found():
    page = layer.read_page(
        pdf(b"10 20 100 0.5 re f 10 60 80 40 re S BT /F 9 Tf 50 150 Td (head) Tj ET", font=b"Helvetica-Bold")
    )
    assert page.spans[0].is_bold
    assert len(page.rules) == 5


def test_accents_drawn_over_letters_and_signs_drawn_twice():
    page = layer.read_page(pdf(b"BT /F 20 Tf 50 150 Td (Jan) Tj 11.7 0 Td (\xb4) Tj ET"))
    assert said(page) == ["Ján"]
    twice = layer.read_page(pdf(b"BT /F 20 Tf 50 150 Td (word) Tj 0.3 0 Td (word) Tj ET"))
    assert layout.document_text([twice]) == ["word"]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "page", "expected"),
    [
        ("pypdf-samples/multicolumn.pdf", 2, "| Austria | 8.9 | 83,879 | Vienna | German |"),
        ("olmocr-bench/earnings.pdf", 0, "Research and development</td><td>3,423</td><td>2,532</td><td>1,892"),
        ("olmocr-bench/math_2503_04086.pdf", 0, "We also thank Ján Mináč for his constant encouragement and support."),
        (
            "olmocr-bench/olmo2-pg4.pdf",
            0,
            "| StarCoder filtered version from OLMoE Mix | Code | 83.0B | 70.0B | 459B | 78.7M |",
        ),
        (
            "pdfplumber/federal-register-2020-17221.pdf",
            1,
            "MCAS is a function of the Speed Trim System (STS), which is part of",
        ),
        (
            "pdfplumber/scotus-transcript-p1.pdf",
            0,
            "The above-entitled matter came on for oral argument before the Supreme Court",
        ),
        ("olmocr-sample/untable.pdf", 0, "| Benin - Bénin | 7 606 | 7 823 | 8 042 | 8 264 | 8 487 | 8 712 | 8 942 |"),
        (
            "olmocr-gnarly/tobacco_missed_tokens_pg1.pdf",
            0,
            "In May 1998, the tobacco industry’s world was turned upside down by a",
        ),
    ],
)
def test_pages_read_by_eye(name: str, page: int, expected: str):
    with pdfium.PdfDocument(DATA / name) as document:
        pages = [layer.read_page(document[index]) for index in range(len(document))]
    assert expected in layout.document_text(pages)[page]
