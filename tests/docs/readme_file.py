"""Pages taken apart: their blocks, tables and commands; see CONTRIBUTING.md for the conventions."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@dataclass(frozen=True)
class Block:
    """A fenced block, the mark in the comment before it, and the text block right behind it."""

    mark: str
    language: str
    text: str
    output: str | None


_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]+?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```\n(?:```text\n(?P<output>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


def blocks_of(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    return [
        Block(found["mark"] or "", found["language"], found["text"], found["output"]) for found in _BLOCK.finditer(text)
    ]


BLOCKS = blocks_of(README)
SHELL = [block for block in BLOCKS if block.language == "bash"]
RUN = [block for block in SHELL if block.mark == "run"]


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


def commands(text: str) -> list[list[str]]:
    """Return the words of each command of a shell block, without redirections. A quoted argument may span lines."""
    found: list[list[str]] = []
    pending = ""
    for line in text.splitlines():
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote is still open
            continue
        pending = ""
        if words:
            found.append(words[: words.index(">")] if ">" in words else words)
    assert not pending, f"a quote is never closed: {pending}"
    return found
