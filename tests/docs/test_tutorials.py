"""The tutorials of docs/tutorial run as they are written, each in an empty folder, and print what they show."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from flows.cli import parser
from tests.cli_runs import environment
from tests.docs.blocks import PAGES, blocks, check_shown, commands, read

TUTORIALS = tuple(re.findall(r"\]\((docs/tutorial/\w+\.md)\)", read("README.md")))
"""In the order in which the README names them."""
MAX_LINES = 170
LIMIT_S = 240


def test_the_readme_leads_to_all_of_them() -> None:
    assert [Path(page).stem for page in TUTORIALS] == ["crawl", "corpus", "classifier", "mix"]
    assert set(TUTORIALS) == {name for name in PAGES if name.startswith("docs/tutorial/")}


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_page_is_short_and_its_commands_and_files_are_right(page: str) -> None:
    assert len(read(page).splitlines()) <= MAX_LINES
    written = {block.file for block in blocks(page)}
    for block in blocks(page):
        if block.language == "bash":
            for words in commands(block.text):
                if words[0] == "gristmill":
                    parser().parse_args(words[1:])  # ends the test with SystemExit where argparse refuses it
                elif words[0] == "python" and words[1] != "-c":
                    assert words[1] in written, words
        else:
            assert block.file, f"a reader does not learn where this goes:\n{block.text}"
            assert f"`{block.file}`" in read(page), f"the text does not say how to name {block.file}"
            if block.language == "yaml":
                yaml.safe_load(block.text)
            else:
                compile(block.text, block.file, "exec")


def follow(page: str, folder: Path, run: Callable[[str], str]) -> None:
    """Do in an empty folder what a page says; what `run` returns of its commands must be what is shown."""
    shown = 0
    for block in blocks(page):
        if block.language == "bash":
            shown += check_shown(block.output, run(block.text))
        else:
            (folder / block.file).write_text(block.text, "utf-8")
    assert shown >= 8


@pytest.mark.acceptance
@pytest.mark.parametrize("page", TUTORIALS)
def test_a_page_runs_in_an_empty_folder_and_prints_what_it_shows(page: str, tmp_path: Path) -> None:
    programs, folder = tmp_path / "programs", tmp_path / "folder"
    programs.mkdir()
    folder.mkdir()
    for name, does in (("gristmill", '-c "from flows.cli import main; main()"'), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {does} "$@"\n')
        (programs / name).chmod(0o755)

    def run(text: str) -> str:
        done = subprocess.run(
            ["bash", "-euc", text],
            cwd=folder,
            env=environment(PATH=f"{programs}{os.pathsep}{os.environ['PATH']}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}"
        return done.stdout

    follow(page, folder, run)
