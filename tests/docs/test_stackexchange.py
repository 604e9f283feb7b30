"""docs/stackexchange.md runs as it is written, on a small dump."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from random import Random

from tests.docs.readme_file import ROOT, commands
from tests.mix_workspace import here

PAGE = (ROOT / "docs" / "stackexchange.md").read_text("utf-8")
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


def test_the_page_runs_from_a_dump_to_a_mix(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump" / "ai.stackexchange.com")
    for name, text in re.findall(r"^<!-- file: (\S+) -->\n```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text, "utf-8")
    typed = [
        words
        for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
        for words in commands(block)
    ]
    assert len(typed) > 8
    for words in typed:
        ran = here(tmp_path, *words[1:])
        assert ran.code == 0, f"{words}: {ran.err}"
        assert ran.out or words[1] in ("run",)
    assert list(tmp_path.glob("ws/mix/mix/proposals/*/mixture.yaml"))
