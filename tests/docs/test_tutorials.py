"""The tutorials of docs/tutorial run as they are written, each in an empty folder, and print what they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli import parser
from tests.cli_runs import environment
from tests.docs.readme_file import ROOT, commands

PAGES = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "docs" / "tutorial").glob("*.md"))}
MAX_LINES = 170
LIMIT_S = 240
_FENCED = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```\n(?:```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: str) -> list[re.Match[str]]:
    """Return the fenced blocks of a page, each with the output right behind it."""
    return list(_FENCED.finditer(PAGES[page]))


def like(line: str) -> str:
    """Return a line without what differs from machine to machine: numbers, ids, spacing, the length of rules."""
    line = re.sub(r"\b[0-9a-f]{32}\b", "ID", line)
    return " ".join(re.sub(r"-{2,}", "-", re.sub(r"[\d,.]+", "0", line)).split())


def test_there_are_four() -> None:
    assert set(PAGES) == {"crawl", "corpus", "classifier", "mix"}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short_and_what_it_names_exists(page: str) -> None:
    assert len(PAGES[page].splitlines()) <= MAX_LINES
    written = {block["file"] for block in blocks(page)}
    for block in blocks(page):
        if block["language"] == "bash":
            for words in commands(block["text"]):
                if words[0] == "gristmill":
                    parser().parse_args(words[1:])  # ends the test with SystemExit where argparse refuses it
                elif words[0] == "python" and words[1] != "-c":
                    assert words[1] in written, words
        else:
            assert block["file"], f"a reader does not learn where this goes:\n{block['text']}"
            assert f"`{block['file']}`" in PAGES[page], f"the text does not say how to name {block['file']}"
            if block["language"] == "yaml":
                yaml.safe_load(block["text"])
            else:
                compile(block["text"], block["file"], "exec")
    for target in re.findall(r"\]\(([^)#]+)\)", PAGES[page]):
        assert (ROOT / "docs" / "tutorial" / target).is_file(), target


@pytest.mark.acceptance
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_in_an_empty_folder_and_prints_what_it_shows(page: str, tmp_path: Path) -> None:
    programs, folder = tmp_path / "programs", tmp_path / "folder"
    programs.mkdir()
    folder.mkdir()
    for name, does in (("gristmill", '-c "from flows.cli import main; main()"'), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {does} "$@"\n')
        (programs / name).chmod(0o755)
    shown = 0
    for block in blocks(page):
        if block["language"] != "bash":
            (folder / block["file"]).write_text(block["text"], "utf-8")
            continue
        done = subprocess.run(
            ["bash", "-euc", block["text"]],
            cwd=folder,
            env=environment(PATH=f"{programs}{os.pathsep}{os.environ['PATH']}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{block['text']}\n{done.stdout}"
        printed = [like(line) for line in done.stdout.splitlines()]
        for line in (block["output"] or "").splitlines():
            whole, _, _ = line.partition(" ...") if line.strip() != "..." else ("", "", "")  # the rest is cut
            assert any(said.startswith(like(whole)) for said in printed), f"not printed: {line}\n{done.stdout}"
            shown += bool(whole)
    assert shown >= 8
