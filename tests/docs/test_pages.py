"""Every fenced command of README and docs runs in a test, and what pages name is there.

A `bash` block behind `<!-- run -->` runs in a folder with a crawl, its configuration and its workspace; one behind
`<!-- run after: docs/stackexchange.md -->` in the folder that this page leaves; all of a tutorial run in an empty one.
`<!-- test: FILE::NAME -->` names the test that reads the block from the page and runs it; `<!-- file: NAME -->`
writes a block to a file. Text blocks right behind commands are what they print.
"""

from __future__ import annotations

import ast
import gzip
import json
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path
from random import Random

import pytest
import yaml

from classifiers.config import TrainConfig
from flows.quickstart import Visit, write_warc
from flows.reference.entries import VIEWS
from flows.reference.manual import MANUAL
from pipeline.select.rules import check_rules, load_rules
from pipeline.select.wide_table import planned_columns
from pipeline.signals import language
from pipeline.signals.stage import STATS_SCHEMA
from pipeline.table import schema
from pipeline.table.config import validate
from pipeline.table.kept import read_yaml
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.cli_runs import environment
from tests.docs.blocks import FENCED, PAGES, ROOT, Block, blocks, check_shown, commands, do, held, read
from tests.docs.test_docs import slug
from tests.docs.test_tutorials import TUTORIALS
from tests.mix_workspace import here

DUMP = "docs/stackexchange.md"
AFTER = f"run after: {DUMP}"
CRAWL = ("README.md", *(f"docs/how-to/{name}.md" for name in ("configure", "read-a-funnel", "loosen-a-rule")))
CRAWL += ("docs/how-to/schedule.md", "docs/how-to/resume-and-move.md")
THREADS = tuple(f"docs/how-to/{name}.md" for name in ("own-suite", "contamination", "python"))
GROUPS = {
    "signals/language": language.LANGUAGE,
    "signals/text_stats": STATS_SCHEMA,
    "scores/quality": schema.SCORES,
}


# What is run, and by which test ---------------------------------------------------------------------------------------


def is_run(block: Block) -> bool:
    """Tell whether a test runs a block: the tests below and those that are named here go by the same marks."""
    if block.page == "README.md" and not block.marks:  # what needs a repository: tests/acceptance/test_fresh_copy.py
        return block.language == "bash"
    if block.page in (*TUTORIALS, DUMP):
        return block.language == "bash" or is_used(block)
    if "run" in block.marks or AFTER in block.marks:
        return block.page in (CRAWL if "run" in block.marks else THREADS)
    named = [mark.removeprefix("test: ") for mark in block.marks if mark.startswith("test: ")]
    is_of_the_manual = any(block.text.strip() == manual.examples for manual in MANUAL.values())  # test_manual.py
    return is_of_the_manual or (bool(named) and all(reads_it(*name.split("::")) for name in named))


def is_used(block: Block) -> bool:
    """Tell whether a command of the same page names the file that a block becomes."""
    return any(block.file in words for b in blocks(block.page) if b.language == "bash" for words in commands(b.text))


def reads_it(file: str, test: str = "") -> bool:
    """Tell whether a test is there and asks for the blocks that are marked with its name."""
    if not (ROOT / file).is_file():
        return False
    found = [each for each in ast.parse((ROOT / file).read_text("utf-8")).body if isinstance(each, ast.FunctionDef)]
    return any(each.name == test and f"held({test})" in ast.unparse(each) for each in found)


@pytest.mark.parametrize(
    ("page", "mark"),
    [
        ("docs/how-to/schedule.md", "test: tests/docs/test_pages.py"),
        ("docs/how-to/schedule.md", "test: tests/docs/test_pages.py::test_that_is_no_more"),
        ("docs/how-to/schedule.md", "test: tests/docs/test_pages.py::test_a_page_names_what_is_there"),
        ("docs/how-to/schedule.md", "file: nightly.py"),
        ("docs/explain/words.md", "run"),
        ("docs/how-to/schedule.md", AFTER),
        ("docs/tutorial/mix.md", "file: unused.py"),
    ],
)
def test_a_mark_that_only_claims_is_found(page: str, mark: str) -> None:
    assert not is_run(Block(page, (mark,), "python", "print(1)\n", ""))
    assert not is_run(Block("docs/explain/words.md", (), "bash", "gristmill funnel ws\n", ""))


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_a_page_is_run_by_a_test(name: str) -> None:
    assert not re.search(r"^ *(```|~~~)", FENCED.sub("", read(name)), re.MULTILINE), "a block that is not read"
    typed = [
        block
        for block in blocks(name)
        if block.language not in ("text", "yaml", "json")
        or re.search(r"^\$ ", block.text, re.MULTILINE)
        or re.search(r"^(run|test: )", "\n".join(block.marks), re.MULTILINE)
    ]
    wrong = [block.text for block in typed if not is_run(block)]
    assert not wrong, f"{name}: no test runs\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", [name for name in PAGES if name.startswith("docs/") and "reference" not in name])
def test_a_page_names_what_is_there(name: str) -> None:
    text = read(name)
    assert max(map(len, text.splitlines())) <= 160
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        assert path.exists(), f"{name} links to {target}, which is not there"
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)), anchor
    for block in blocks(name):
        if (
            block.language == "yaml"
            and re.search(r"^ *rules:", block.text, re.MULTILINE)
            and "sources:" not in block.text
        ):
            content = yaml.safe_load(block.text)
            content = content.get("select", content)
            check_rules(load_rules(content["rules"], name, content.get("keep")), planned_columns(GROUPS))
    named = re.findall(r"`((?:pipeline|configs|flows|classifiers|tests)/[\w/.]+)`", text)
    assert not [path for path in named if not (ROOT / path).exists()]


# A crawl --------------------------------------------------------------------------------------------------------------


PROSE = (
    "the river is wide and the old mill stands by the water with a stone wheel that turns when rain has come to hills "
    "people of the village bring their grain in spring and have bread to eat through a long winter of snow and wind"
)
GERMAN = (
    "der fluss ist breit und die alte mühle steht am wasser mit einem rad aus stein das sich dreht wenn es regnet und "
    "die leute aus dem dorf bringen im frühling ihr getreide und haben brot für einen langen winter voll schnee"
)
ASKED = "https://en.wikipedia.org/wiki/Hermitian_matrix"
ALONE = "https://lemire.me/blog/2019/08/02/json-parsing-simdjson-vs-json-for-modern-c/"
BY_SA = '<a rel="license" href="https://creativecommons.org/licenses/by-sa/3.0/">licence</a>'


def sentences(seed: int, count: int, prose: str = PROSE, numbers: float = 0) -> str:
    """Return sentences unlike those of every other seed, of whose words a share are numbers."""
    random = Random(seed)
    words = prose.split()
    drawn = [
        [str(random.randrange(10**4)) if random.random() < numbers else random.choice(words) for _ in range(9)]
        for _ in range(count)
    ]
    return " ".join(f"{' '.join(line).capitalize()}." for line in drawn)


def page(title: str, *paragraphs: str, more: str = "") -> bytes:
    inner = "".join(f"<p>{text}</p>" for text in paragraphs)
    return f"<html><head><title>{title}</title></head><body><article>{inner}{more}</article></body></html>".encode()


def write_crawl(folder: Path) -> None:
    """Write `crawl/sample.warc.gz`: something for each rule and reason that the pages show at work."""
    matrix = "Hermitian matrix In mathematics, a Hermitian matrix (or self-adjoint matrix) is one of them: {0}."
    parsing = "JSON is the ubiquitous data format on the Internet. "
    parsing += "There is a lot of JSON that needs to be parsed and validated."
    line = sentences(0, 1)
    bodies = {
        ASKED: page("Hermitian matrix - Wikipedia", matrix, sentences(1, 30, numbers=0.3), more=BY_SA),
        ALONE: page("JSON parsing: simdjson vs. JSON for Modern C++", parsing, sentences(2, 30, numbers=0.3)),
        "https://lines.example/": page("Lines", *(sentences(n // 2, 1) for n in range(40))),
        "https://one.example/": page("One line", line, *(sentences(n, 2) for n in range(60, 75)), line),
        "https://code.example/": page("Code", sentences(4, 30), more=f"<pre>{chr(10).join([line, ''] * 4)}</pre>"),
        "https://short.example/": page("Short", sentences(5, 4)),
        "https://long.example/": page(
            "Long", sentences(6, 30, "incomprehensibilities of the mill counterrevolutionaries")
        ),
        "https://copy.example/": page("Page 10", sentences(10, 30)),
        "https://near.example/": page("Page 11", sentences(11, 30) + " And one more of them."),
    }
    bodies |= {f"https://site{n}.example/": page(f"Page {n}", sentences(n, 30)) for n in range(10, 40)}
    bodies |= {f"https://example.de/{n}": page(f"Seite {n}", sentences(n, 30, GERMAN)) for n in range(40, 46)}
    bodies |= {f"https://example.de/{n}": page(f"Seite {n}", sentences(n, 30, GERMAN, 0.4)) for n in range(46, 49)}
    visits = [Visit(url, body) for url, body in bodies.items()]
    visits += [Visit(f"https://example.org/{n}.pdf", b"%PDF-1.4 x", media_type="application/pdf") for n in range(3)]
    visits += [Visit(f"https://example.org/empty/{n}", page("Empty")) for n in range(2)]
    visits += [Visit("https://example.org/moved", b"", status="301 Moved Permanently", location=ASKED)]
    (folder / "crawl").mkdir()
    write_warc(folder / "crawl" / "sample.warc.gz", visits)


def run_marked(folder: Path, name: str, mark: str) -> str:
    """Run the blocks of a page that have a mark; return what they printed."""
    printed = ""
    for block in blocks(name):
        if mark in block.marks and block.language == "python":
            subprocess.run([sys.executable, "-c", block.text], cwd=folder, env=environment(), check=True)
        elif mark in block.marks:
            printed += do(folder, block.text, block.output)
    return printed


def test_what_pages_do_to_a_crawl(tmp_path: Path) -> None:
    write_crawl(tmp_path)
    said = run_marked(tmp_path, "README.md", "run")
    crawl = read("README.md").partition("\n## A mix")[0]
    assert (
        check_shown("".join(b.text + b.output for b in blocks("README.md", crawl) if b.language == "text"), said) > 20
    )
    with connect(Storage.at(str(tmp_path / "ws"))) as session:
        query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'web'"
        columns = session.execute(query)
        value, lines = read_yaml(ROOT / "configs" / "classifiers" / "quality.yaml")
        queries = [each.sql for each in validate(TrainConfig, value, "quality.yaml", lines).negatives if each.sql]
        assert queries
        assert all(list(session.query(query).rows) for query in queries), "what it shows is of such a workspace"
    not_asked_for = {"scores_NAME", "signals_pages", "signals_recipe_stats", "signals_tokens", "signals_rephrase"}
    assert {row["table_name"] for row in columns} == set(VIEWS) - not_asked_for - {"signatures"}
    assert all(row["column_name"] in VIEWS[row["table_name"]][2] for row in columns)
    for name in CRAWL[1:]:
        shutil.rmtree(tmp_path / "web-data", ignore_errors=True)
        do(tmp_path, "gristmill run curate.yaml")
        run_marked(tmp_path, name, "run")
    expect, shown = held(test_what_pages_do_to_a_crawl)
    with (tmp_path / "curate.yaml").open("a") as config:
        config.write(expect.text)
    (tmp_path / "urls.txt").write_text(f"{ASKED}\nhttps://en.wikipedia.org/wiki/Rotation_matrix\n")
    do(tmp_path, "gristmill run curate.yaml --set select.rules=gopher")
    ran = here(tmp_path, "test", "curate.yaml", "--set", "select.rules=gopher")
    assert ran.code == 1, ran.err
    met = re.compile(r" (met|missed)$", re.MULTILINE)
    check_shown(met.sub("", shown.text), met.sub("", ran.out))


def test_a_corpus_s_own_columns(tmp_path: Path) -> None:
    line, config = held(test_a_corpus_s_own_columns)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "one.jsonl.gz").write_bytes(gzip.compress(line.text.encode()))
    (tmp_path / "curate.yaml").write_text(config.text, "utf-8")
    do(tmp_path, "gristmill run curate.yaml")
    query = "SELECT text, url, date, lang, stars, metadata, outcome FROM repositories.everything"
    (row,) = json.loads(here(tmp_path, "sql", "ws", query, "--json").out)
    assert row["date"].startswith("2020-01-02")
    assert {**row, "date": ""} == {
        "text": "...",
        "url": "https://example.org/",
        "date": "",
        "lang": "en",
        "stars": 12,
        "metadata": "{}",
        "outcome": "kept",
    }


# A Stack Exchange dump ------------------------------------------------------------------------------------------------


WORDS = ("river", "stone", "cloud", "garden", "window", "market", "silver", "morning", "paper", "mill", "wheel")


def write_dump(folder: Path) -> None:
    """Write questions with an answer each; of every second one it is accepted."""
    rows = []
    for number in range(1, 161):
        words = " ".join(Random(number).choices(WORDS, k=60))
        said = " ".join(Random(-number).choices(WORDS, k=60))
        accepted = f'AcceptedAnswerId="{number + 1000}" ' if number % 2 else ""
        common = f'CreationDate="2020-01-02T00:00:00.000" Score="{number % 7}"'
        body, answer = (escape(f"<p>{text}</p>", quote=True) for text in (words, said))
        rows.append(
            f'<row Id="{number}" PostTypeId="1" {accepted}{common} Title="Of {words[:20]}" Tags="|a|" Body="{body}" />'
        )
        rows.append(f'<row Id="{number + 1000}" PostTypeId="2" ParentId="{number}" {common} Body="{answer}" />')
    folder.mkdir(parents=True)
    text = "\n  ".join(['<?xml version="1.0" encoding="utf-8"?>\n<posts>', *rows]) + "\n</posts>\n"
    (folder / "Posts.xml").write_text(text, "utf-8")


def test_what_pages_do_to_a_dump(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump" / "ai.stackexchange.com")
    for block in (block for name in (DUMP, *THREADS) for block in blocks(name) if block.file):
        (tmp_path / block.file).parent.mkdir(exist_ok=True)
        (tmp_path / block.file).write_text(block.text, "utf-8")
    said = "".join(do(tmp_path, block.text, block.output) for block in blocks(DUMP) if block.language == "bash")
    assert re.search(r"^  lost +[1-9]", said, re.MULTILINE), "the rule that is tried takes nothing"
    assert list(tmp_path.glob("ws/mix/mix/proposals/*/mixture.yaml"))
    for name in THREADS:
        run_marked(tmp_path, name, AFTER)
