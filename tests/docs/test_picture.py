"""The README's picture: what it shows is what the commands print, and it asks nobody for anything."""

from __future__ import annotations

import re
import runpy
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from xml.etree import ElementTree

import pytest

import gristmill as gm
from pipeline.table.storage import Storage
from tests.docs.blocks import ROOT, read
from tests.mix_workspace import mixed
from tests.select_workspace import request, row, select, write

README = read("README.md")
PICTURE = ROOT / "docs" / "picture.svg"
MAX_BYTES = 40_000
RULES = {"longer": "word_count >= 40", "shorter": "word_count <= 500 and '<&>' <> ''", "known": "url is not null"}
HOSTILE = "https://example.org/\"><script>alert('1')</script>&amp;\x1b[31m\u202e\ufffe]]>/" + "long" * 99
WEIGHT = re.compile(r"^(\w+) +([\d.]+ %) +([\d.]+ %) +([\d.]+ % to [\d.]+ %) ", re.MULTILINE)
"""A line of a mix report: slice, natural, proposed, interval."""
main: Callable[[list[str]], None] = runpy.run_path(str(ROOT / "docs" / "picture.py"))["main"]


def texts(picture: str) -> list[str]:
    """Return what a picture says, once it is known to be made of shapes and text alone."""
    assert len(picture.encode()) < MAX_BYTES
    found = list(ElementTree.fromstring(picture).iter())
    tags = {element.tag.removeprefix("{http://www.w3.org/2000/svg}") for element in found}
    assert tags == {"svg", "title", "style", "rect", "line", "circle", "text"}
    assert not [name for each in found for name in each.attrib if name.startswith("on") or "href" in name]
    assert not re.search(r"url\(|@import|@font-face", picture)
    box = next(element for element in found if element.tag.endswith("svg")).attrib["viewBox"].split()
    for element in found:
        for side, limit in (("x", box[2]), ("cx", box[2]), ("x2", box[2]), ("y", box[3]), ("cy", box[3])):
            assert 0 <= float(element.get(side, 0)) <= float(limit)
    return [element.text or "" for element in found if element.tag.endswith("text")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> gm.Workspace:
    """A workspace whose source `web` loses documents to two rules, one of them with an address that bites."""
    folder = str(tmp_path_factory.mktemp("picture"))
    rows = [row(number, text="word " * (30 + number)) for number in range(30)]
    odd = [row(90, text="word " * 501, url=HOSTILE), row(91, text="word " * 20, url=None)]
    write(Storage.at(folder), "web", {"part-a": [*rows, *odd]})
    select(request(Storage.at(folder), RULES))
    return gm.open(folder)


@pytest.fixture(scope="module")
def reports(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[Path, Sequence[str]]:
    """The folder of a mix with a proposal for each of two suites, and what is printed of them."""
    folder = tmp_path_factory.mktemp("mix")
    shutil.copytree(mixed(shared), folder, dirs_exist_ok=True)
    with chdir(folder):
        return {folder: [gm.mix("mix.yaml", {"suite": f"{name}.yaml"}, "propose").text for name in ("prose", "code")]}


@pytest.mark.parametrize(("url", "off"), [("https://example.org/2", "too little"), (HOSTILE, "too much")])
def test_it_shows_what_the_commands_print(
    workspace: gm.Workspace, reports: Mapping[Path, Sequence[str]], tmp_path: Path, url: str, off: str
) -> None:
    ((folder, told),) = reports.items()
    with chdir(folder):
        for to in ("a.svg", "b.svg"):
            suites = ["--suites", "prose.yaml", "code.yaml"]
            main([workspace.path, "mix.yaml", "--document", url, *suites, "--to", str(tmp_path / to)])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    said = texts((tmp_path / "a.svg").read_text("utf-8"))
    printed = re.findall(r"(\w+) +([\d,]+) +([\d,]+) .* ([\d,]+)$", workspace.funnel().text, re.MULTILINE)
    took = [(name, left, tokens) for name, before, left, tokens in printed if left != before]
    assert [name for name, _, _ in took] == ["longer", "shorter"]
    for name, documents, tokens in took:
        at = said.index(name)
        assert said[at : at + 3] == [name, documents, tokens]
    (compared,) = re.findall(r"(\w+) is (\S+), (must be .*) (\S+): (.+)", workspace.explain(url).text)
    assert {f"{compared[0]} is", *compared[1:]} <= set(said)
    assert compared[-1].endswith(off)
    for report in told:
        weights = WEIGHT.findall(report)
        assert len(weights) == 4
        for name, natural, proposed, interval in weights:
            assert {name, natural, f"{proposed} ({interval})"} <= set(said)


def test_what_cannot_be_shown_is_a_line(
    workspace: gm.Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for url, said in (
        ("https://example.org/20", "https://example.org/20: no comparison of numbers dropped it"),
        ("https://example.org/none", "no document or reject 'https://example.org/none'"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([workspace.path, "mix.yaml", "--document", url, "--to", str(tmp_path / "c.svg")])
        assert ended.value.code == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "c.svg").exists()


def test_a_document_without_an_address_has_its_id_and_a_folder_that_is_not_there_is_a_line(
    workspace: gm.Workspace, reports: Mapping[Path, Sequence[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (doc_id,) = workspace.sql("SELECT doc_id FROM web.outcomes WHERE url IS NULL").df()["doc_id"]
    suites = ["--document", doc_id, "--suites", "prose.yaml", "code.yaml", "--to"]
    with chdir(next(iter(reports))):
        main([workspace.path, "mix.yaml", *suites, str(tmp_path / "d.svg")])
        with pytest.raises(SystemExit) as ended:
            main([workspace.path, "mix.yaml", *suites, str(tmp_path / "none" / "d.svg")])
    assert doc_id in texts((tmp_path / "d.svg").read_text("utf-8"))
    assert ended.value.code == 2
    assert "none/d.svg: No such file or directory" in capsys.readouterr().err


def test_the_picture_of_the_readme() -> None:
    said = texts(PICTURE.read_text("utf-8"))
    assert {"web", "https://docs.python.example/3/library/heapq.html", "quickstart_prose", "quickstart_code"} <= set(
        said
    )
    printed = WEIGHT.findall(README)
    assert printed
    for name, natural, proposed, interval in printed:
        assert {name, natural, f"{proposed} ({interval})"} <= set(said)
    for line in README.splitlines():
        if "suite=configs/suites/quickstart_code.yaml" in line:
            for share in re.findall(r"[\d.]+ %", line):
                assert any(each.startswith(f"{share} (") for each in said)
