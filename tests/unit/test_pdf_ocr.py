"""Pages read from their pictures: where ink is, what an engine reads, what tesseract's output means."""

import os
import textwrap
from pathlib import Path

import numpy as np
import pytest

from pipeline.extract.pdf import ocr
from pipeline.table.errors import MissingDependencyError
from tests.unit.test_pdf_routing import ENGLISH, GERMAN, RUSSIAN

WHITE = np.full((1000, 700, 3), 255, np.uint8)


def drawn(text: str, size: int = 30, columns: int = 46, shape: tuple[int, int] = (700, 1000)) -> np.ndarray:
    """A page with text in DejaVu Sans, which comes with a package of the tests."""
    matplotlib = pytest.importorskip("matplotlib")
    image = pytest.importorskip("PIL.Image").new("RGB", shape, "white")
    font = Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
    from PIL import ImageDraw, ImageFont

    lines = "\n".join(textwrap.wrap(text, columns))
    ImageDraw.Draw(image).multiline_text((60, 60), lines, "black", ImageFont.truetype(str(font), size), spacing=10)
    return np.asarray(image)[:, :, ::-1]


def stained(seed: int, mean: float, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(mean, deviation, (1000, 700, 1))
    return np.repeat(np.clip(noise, 0, 255).astype(np.uint8), 3, axis=2)


@pytest.mark.parametrize(
    "page",
    [WHITE, np.zeros_like(WHITE), stained(1, 235, 8), stained(2, 180, 10), WHITE[:1, :1], WHITE[:0, :0]],
    ids=["white", "black", "paper", "grey paper", "one pixel", "nothing"],
)
def test_a_blank_page_is_not_looked_at(page: np.ndarray) -> None:
    assert ocr.inked(page) == []


def test_shadows_at_the_edge_are_no_ink() -> None:
    page = WHITE.copy()
    page[:, :8] = page[-12:] = 0
    assert ocr.inked(page) == []


def test_what_shines_through_is_no_ink() -> None:
    page = 255 - (255 - drawn(ENGLISH).astype(np.int32)) // 6
    assert ocr.inked(page.astype(np.uint8)) == []


def test_parts_of_a_page_are_found_apart() -> None:
    page = WHITE.copy()
    page[100:130, 200:260] = page[900:910, 340:350] = 0
    above, below = ocr.inked(page)
    assert all(np.less(above[:2], (200, 100)))
    assert all(np.less((260, 130), above[2:]))
    assert all(np.less(below[:2], (340, 900)))
    assert all(np.less((350, 910), below[2:]))
    assert above[3] < 300 < 700 < below[1]


@pytest.mark.parametrize(
    ("width", "height", "dpi"), [(612, 792, 181.8), (200, 300, 200), (2384, 3370, 42.7), (0, 0, 200)]
)
def test_no_picture_is_larger_than_the_engine_looks_at(width: float, height: float, dpi: float) -> None:
    assert ocr.dpi_for(width, height) == pytest.approx(dpi, abs=0.1)


def test_a_missing_program_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="install tesseract, or choose the engine rapidocr"):
        ocr.check("tesseract")


TSV = """level\tpage_num\tblock_num\tpar_num\tline_num\tword_num\tleft\ttop\twidth\theight\tconf\ttext
1\t1\t0\t0\t0\t0\t0\t0\t700\t1000\t-1\t
4\t1\t1\t1\t1\t0\t60\t60\t300\t40\t-1\t
5\t1\t1\t1\t1\t1\t60\t60\t100\t40\t96.5\tHello
5\t1\t1\t1\t1\t2\t180\t60\t90\t38\t91\t"world"
5\t1\t1\t1\t1\t3\t300\t60\t60\t38\t12\tj?k
5\t1\t1\t1\t1\t4\t380\t60\t10\t38\t95\t
"""


def tesseract(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Put a program in tesseract's place that prints what its documentation says."""
    (folder / "tsv").write_text(TSV)
    program = folder / "tesseract"
    program.write_text(f'#!/bin/sh\ncat > {folder}/picture\necho "$@" >> {folder}/asked\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_tesseracts_words_are_spans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        f'case "$*" in *"psm 0"*) echo "Rotate: 90"; echo "Orientation confidence: 1.2";; *) cat {tmp_path}/tsv;; esac'
    )
    tesseract(monkeypatch, tmp_path, script)
    found = ocr.recognise(drawn("Hello"), 144, "tesseract", "deu+eng")
    assert [span.text for span in found.page.spans] == ["Hello", '"world"']
    hello = found.page.spans[0]
    assert (hello.box.left, hello.box.top, hello.box.right, hello.box.bottom) == (30, 30, 80, 50)
    assert (hello.size, hello.confidence) == (pytest.approx(0.86 * 20), 0.965)
    assert (found.page.width, found.page.height, found.is_blank) == (350, 500, False)
    assert found.illegible_share == pytest.approx(60 / 250)
    assert (tmp_path / "asked").read_text().splitlines()[1] == "stdin stdout --dpi 144 -l deu+eng --psm 3 tsv"
    assert (tmp_path / "picture").read_bytes().startswith(b"P6 700 1000 255\n")


def test_tesseract_says_how_a_page_is_turned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        f'case "$*" in *"psm 0"*) echo "Rotate: 90"; echo "Orientation confidence: 15.2";; *) cat {tmp_path}/tsv;; esac'
    )
    tesseract(monkeypatch, tmp_path, script)
    found = ocr.recognise(drawn("Hello"), 144, "tesseract")
    assert (found.page.width, found.page.height) == (500, 350)
    assert (tmp_path / "picture").read_bytes().startswith(b"P6 1000 700 255\n")


def test_tesseracts_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tesseract(monkeypatch, tmp_path, "echo loading >&2; echo 'Failed loading language' >&2; exit 1")
    with pytest.raises(ocr.OcrError, match=r"^tesseract ended with 1: Failed loading language$"):
        ocr.recognise(drawn("Hello"), 144, "tesseract")


@pytest.fixture
def rapidocr() -> None:
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")


@pytest.mark.usefixtures("rapidocr")
def test_lines_are_read_where_they_stand() -> None:
    found = ocr.recognise(drawn("Größe und Maß\nare read", 30, 14, (420, 220)), 144)
    assert " ".join(span.text for span in found.page.spans) == "Größe und Maß are read"
    first, *_, second = found.page.spans
    assert [first.box.left, second.box.left] == pytest.approx([30, 30], abs=3)
    assert first.box.bottom <= second.box.top + 3
    assert first.size == pytest.approx(15, rel=0.2)
    assert (found.confidence > 0.9, found.illegible_share) == (True, 0)
    assert ocr.recognise(drawn("Größe und Maß\nare read", 30, 14, (420, 220)), 144) == found


@pytest.mark.usefixtures("rapidocr")
def test_a_lone_word_on_a_page_is_read() -> None:
    page = np.full((1600, 1200, 3), 255, np.uint8)
    word = drawn("Introduction", 26, 40, (300, 120))
    page[1300:1420, 800:1100] = word
    [span] = ocr.recognise(page, 144).page.spans
    assert span.text == "Introduction"
    assert [span.box.left, span.box.top] == pytest.approx([430, 680], abs=6)


@pytest.mark.acceptance
@pytest.mark.usefixtures("rapidocr")
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_page_is_read_upright(quarters: int) -> None:
    upright = ocr.recognise(drawn(GERMAN), 100)
    found = ocr.recognise(np.rot90(drawn(GERMAN), quarters), 100)
    assert (found.page.width, found.page.height) == (upright.page.width, upright.page.height)
    assert [span.text for span in found.page.spans] == [span.text for span in upright.page.spans]


@pytest.mark.acceptance
@pytest.mark.usefixtures("rapidocr")
def test_a_script_that_the_engine_does_not_know_is_not_read_as_another() -> None:
    found = ocr.recognise(drawn(RUSSIAN), 100)
    assert found.illegible_share > 0.5 or found.confidence < 0.75
