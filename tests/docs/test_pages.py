"""The pages of docs/how-to run as they are written, and what the pages of docs name is there.

A `bash` block behind `<!-- run -->` runs in a folder with a crawl, its configuration and its workspace; one behind
`<!-- run after: docs/stackexchange.md -->` in the folder that this page leaves; `<!-- test: FILE -->` names the test
that holds what cannot run here; `<!-- file: NAME -->` writes a block to a file.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from flows.quickstart import Visit, write_warc
from pipeline.select.rules import check_rules, load_rules
from pipeline.select.wide_table import planned_columns
from pipeline.signals import language
from pipeline.signals.stage import STATS_SCHEMA
from pipeline.status.config import ExpectConfig
from pipeline.table import schema
from tests.docs.readme_file import ROOT, commands
from tests.docs.test_docs import slug
from tests.docs.test_readme_runs import page, sentences
from tests.docs.test_stackexchange import write_dump
from tests.mix_workspace import here

DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(DOCS)): path.read_text("utf-8")
    for path in sorted([DOCS / "log.md", *DOCS.glob("explain/*.md"), *DOCS.glob("how-to/*.md")])
}
CRAWL = ("configure", "read-a-funnel", "loosen-a-rule", "schedule", "resume-and-move")
THREADS = ("own-suite", "contamination")
AFTER = "run after: docs/stackexchange.md"
ASKED = "https://en.wikipedia.org/wiki/Hermitian_matrix"
GROUPS = {
    "signals/language": language.LANGUAGE,
    "signals/text_stats": STATS_SCHEMA,
    "scores/quality": schema.SCORES,
}
_FENCED = re.compile(r"^((?:<!-- [^\n]+ -->\n)*)```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[list[str], str, str]]:
    """Return marks, language and text of each fenced block."""
    return [(re.findall(r"<!-- (.+?) -->", marks), kind, inner) for marks, kind, inner in _FENCED.findall(text)]


def do(folder: Path, text: str) -> None:
    """Run the commands of a block in this process."""
    for words in commands(text.replace(" && ", "\n")):
        assert words[0] == "gristmill", words
        ran = here(folder, *words[1:])
        assert ran.code == 0, f"{words}: {ran.err}"


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_what_is_there(name: str) -> None:
    text = PAGES[name]
    assert max(map(len, text.splitlines())) <= 160
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = ((DOCS / name).parent / target).resolve() if target else DOCS / name
        assert path.exists(), f"{name} links to {target}, which is not there"
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)), anchor
    for marks, kind, inner in blocks(text):
        for test in re.findall(r"tests/[\w/]+\.py", " ".join(marks)):
            assert (ROOT / test).is_file(), f"{name}: {test}"
        if kind in ("bash", "python", "json"):
            assert marks, f"{name}: no mark says what holds\n{inner}"
        if kind == "yaml" and re.search(r"^ *rules:", inner, re.MULTILINE) and "sources:" not in inner:
            content = yaml.safe_load(inner)
            content = content.get("select", content)
            check_rules(load_rules(content["rules"], name, content.get("keep")), planned_columns(GROUPS))
        if kind == "yaml" and "expect:" in inner:
            assert ExpectConfig.model_validate(yaml.safe_load(inner)["expect"])
    named = re.findall(r"`((?:pipeline|configs|flows|classifiers|tests)/[\w/.]+)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


def test_what_pages_do_to_a_crawl(tmp_path: Path) -> None:
    visits = [Visit(ASKED, page("Asked about", sentences(1, 2)))]
    visits += [Visit(f"https://example.org/{n}", page(f"Page {n}", sentences(n, 30))) for n in range(2, 22)]
    visits += [Visit("https://copy.example.org/2", page("Page 2", sentences(2, 30)))]
    (tmp_path / "crawl").mkdir()
    write_warc(tmp_path / "crawl" / "sample.warc.gz", visits)
    shutil.copy(ROOT / "configs" / "web.yaml", tmp_path / "curate.yaml")
    do(tmp_path, "gristmill run curate.yaml")
    for name in CRAWL:
        runs = [inner for marks, _, inner in blocks(PAGES[f"how-to/{name}.md"]) if "run" in marks]
        assert runs
        for inner in runs:
            do(tmp_path, inner)


def test_a_suite_of_one_s_own_and_contamination(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump" / "ai.stackexchange.com")
    pages = [(DOCS / "stackexchange.md").read_text("utf-8"), *(PAGES[f"how-to/{name}.md"] for name in THREADS)]
    for text in pages:
        for marks, _, inner in blocks(text):
            for file in (mark.removeprefix("file: ") for mark in marks if mark.startswith("file: ")):
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).write_text(inner, "utf-8")
    do(tmp_path, "gristmill run curate.yaml\ngristmill mix run mix.yaml")
    for text in pages[1:]:
        for marks, _, inner in blocks(text):
            if AFTER in marks:
                do(tmp_path, inner)
