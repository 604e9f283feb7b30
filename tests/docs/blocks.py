"""The fenced blocks of README and docs, how they are run, and what they must print; marks: see CONTRIBUTING.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.mix_workspace import here

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "AGENTS.md"),
    *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))),
)


@dataclass(frozen=True)
class Block:
    """A block of a page, the marks in comments before it, and what it prints: the text blocks right behind it."""

    page: str
    marks: tuple[str, ...]
    language: str
    text: str
    output: str

    @property
    def file(self) -> str:
        """The name of the file that a reader saves it as, empty for none."""
        return next((mark.removeprefix("file: ") for mark in self.marks if mark.startswith("file: ")), "")


FENCED = re.compile(
    r"^(?P<marks>(?:<!-- [^\n]+ -->\n)*)```(?P<language>\w*)\n(?P<text>.*?)^```\n"
    r"(?P<output>(?:```text\n.*?^```(?:\n|\Z))*)",
    re.MULTILINE | re.DOTALL,
)


def read(page: str) -> str:
    """Return a page of the repository."""
    return (ROOT / page).read_text("utf-8")


def blocks(page: str, text: str = "") -> list[Block]:
    """Return the fenced blocks of a page, or of a part of its text."""
    return [
        Block(
            page,
            tuple(re.findall(r"<!-- (.+?) -->", match["marks"])),
            match["language"],
            match["text"],
            re.sub(r"^```(text)?\n", "", match["output"], flags=re.MULTILINE),
        )
        for match in FENCED.finditer(text or read(page))
    ]


def held(test: Callable[..., object]) -> list[Block]:
    """Return the blocks whose mark `test: FILE::NAME` names a test. It is for that test to run them."""
    file = Path(test.__code__.co_filename).relative_to(ROOT)
    found = [block for page in PAGES for block in blocks(page) if f"test: {file}::{test.__name__}" in block.marks]
    assert found, f"no block is marked `test: {file}::{test.__name__}`"
    return found


def commands(text: str) -> list[list[str]]:
    """Return the words of each command of a shell block, without redirections."""
    return [words[: words.index(">")] if ">" in words else words for words in _typed(text)]


def _typed(text: str) -> list[list[str]]:
    """Return the words of each command. A quoted argument may span lines, `&&` ends a command."""
    found: list[list[str]] = []
    pending = ""
    for line in text.replace("\\\n", " ").splitlines():
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote is still open
            continue
        pending = ""
        while "&&" in words:
            found.append(words[: words.index("&&")])
            words = words[words.index("&&") + 1 :]
        if words:
            found.append(words)
    assert not pending, f"a quote is never closed: {pending}"
    return found


def do(folder: Path, text: str, shown: str = "") -> str:
    """Run the `gristmill` commands of a block in this process; they must print what is shown. Return all of it."""
    printed = ""
    for program, *words in _typed(text):
        assert program == "gristmill", f"what is {program}?"
        words, target = (words[:-2], words[-1]) if words[-2:-1] == [">"] else (words, "")
        ran = here(folder, *words)
        assert ran.code == 0, f"{words}: {ran.err}"
        if target:
            (folder / target).write_text(ran.out, "utf-8")
        printed += ran.err + ran.out
    check_shown(shown, printed)
    return printed


def check_shown(shown: str, printed: str) -> int:
    """Hold each line that a page shows against what was printed, up to ` ...` where it is cut; return their number."""
    said = [like(line) for line in printed.splitlines()]
    missing, count = [], 0
    for line in filter(None, shown.splitlines()):
        whole, is_cut = re.subn(r"(^|\s)\.\.\.$", "", line)
        is_said = any(each.startswith(like(whole)) if is_cut else each == like(whole) for each in said)
        missing += [] if is_said else [line]
        count += bool(whole)
    assert not missing, "\n".join(["not printed:", *missing, "", "printed:", printed])
    return count


def like(line: str) -> str:
    """Return a line without what differs from machine to machine: numbers, ids, spacing, the length of rules."""
    line = re.sub(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b(?=[a-f]*\d)[0-9a-f]{8,}\b", "0", line)
    line = re.sub(r"\b[kMG]B\b", "MB", re.sub(r"\d[\d,.]*", "0", line))
    return " ".join(re.sub(r"-{2,}", "-", line).split())


def tables(text: str, first: str) -> dict[str, list[str]]:
    """Return the rows of every table whose first header is `first`, by the name in their first cell."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells:
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and set(cells[0]) != {"-"}:
            for name in re.findall(r"`([^`]+)`", cells[0]):
                assert name not in found, f"{name} has two rows"
                found[name] = cells[1:]
    return found
