"""The README's commands, run for real in one folder with a small crawl in it, in the order of the README.

A text block right behind a command shows its output; the first line of it must be like the real one.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from threading import Event

import pytest

from classifiers.config import Corpus, TrainConfig
from flows.quickstart import Visit, write_warc
from flows.reference.entries import VIEWS
from flows.server import prefect_server
from pipeline.table.config import validate
from pipeline.table.kept import read_yaml
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.docs.readme_file import ROOT, RUN, Block, commands

LIMIT_S = 240

PROSE = (
    "the river is wide and the old mill stands by the water with a stone wheel that turns when rain has come to hills "
    "people of the village bring their grain in spring and have bread to eat through a long winter of snow and wind"
)
WORDS = PROSE.split()


def sentences(seed: int, count: int) -> str:
    """Return English-like sentences, unlike those of every other seed."""
    random = Random(seed)
    return " ".join(f"{' '.join(random.choices(WORDS, k=9)).capitalize()}." for _ in range(count))


def page(title: str, text: str) -> bytes:
    return f"<html><head><title>{title}</title></head><body><article><p>{text}</p></article></body></html>".encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README assumes: a crawl that has the pages it asks about, texts to learn from."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "crawl").mkdir()
    asked = [words[3] for block in RUN for words in commands(block.text) if words[1] == "explain"]
    assert asked, "the README explains no document"
    visits = [Visit(url, page("Asked about", sentences(1, 2))) for url in asked]
    visits += [Visit(f"https://example.org/{n}", page(f"Page {n}", sentences(n, 30))) for n in range(2, 42)]
    visits += [Visit("https://copy.example.org/2", page("Page 2", sentences(2, 30)))]
    visits += [Visit("https://example.org/gone", b"", status="404 Not Found")]
    write_warc(folder / "crawl" / "sample.warc.gz", visits)
    (folder / "good").mkdir()
    texts = "".join(json.dumps({"text": f"Because {n} explains how it works. " * 5}) + "\n" for n in range(40))
    (folder / "good" / "texts.jsonl.gz").write_bytes(gzip.compress(texts.encode()))
    (folder / "bin").mkdir()
    command = folder / "bin" / "gristmill"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "from flows.cli import main; main()" "$@"\n')
    command.chmod(0o755)
    return folder


def like(line: str) -> str:
    """Return a line without what differs from run to run: numbers, ids, spacing, rules drawn with dashes."""
    line = re.sub(r"\b[0-9a-f]{32}\b", "ID", line)
    return " ".join(re.sub(r"[\d,.]+", "0", line).split())


def run_block(block: Block, folder: Path) -> str:
    """Run a block in the folder and return what it printed on stdout and stderr."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", block.text],
        cwd=folder,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{block.text}\n{done.stderr}"
    return done.stdout + done.stderr


def shipped_negatives() -> tuple[Corpus, ...]:
    """Return the negatives of the commented starting point for a classifier, which queries a web workspace."""
    value, lines = read_yaml(ROOT / "configs" / "classifiers" / "quality.yaml")
    return validate(TrainConfig, value, "quality.yaml", lines).negatives


def test_the_commands_run_and_make_the_documented_views(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RUN
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(folder))  # the server sets it, this puts back what was there
    with prefect_server(Event()):  # one for all commands: each would start its own, and that takes longest
        for block in RUN:
            printed = run_block(block, folder)
            if block.output is not None:
                first = like(block.output.splitlines()[0])
                assert first in map(like, printed.splitlines()), f"{block.text} prints\n{printed}"
    with connect(Storage.at(str(folder / "ws"))) as session:
        query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'web'"
        rows = session.execute(query)
        kept = session.execute("SELECT count(*) AS documents FROM web.curated")[0]["documents"]
        sampled = sum(len(list(session.query(corpus.sql).rows)) for corpus in shipped_negatives() if corpus.sql)
    assert kept > 0
    assert sampled > 0
    views = {row["table_name"] for row in rows}
    not_asked_for = {"scores_NAME", "signals_pages", "signals_recipe_stats", "signals_tokens", "signals_rephrase"}
    assert views == set(VIEWS) - not_asked_for - {"signatures"}
    assert all(row["column_name"] in VIEWS[row["table_name"]][2] for row in rows)
