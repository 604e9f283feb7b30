"""The examples that `--help` and the reference give run, one after the other, and print what they show."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from flows.reference.manual import MANUAL
from tests.cli_runs import write_config
from tests.docs.blocks import ROOT, blocks, do, held
from tests.docs.test_pages import sentences, write_crawl, write_dump
from tests.faults.llm_server import MODEL, Server
from tests.local_run import rows, write_jsonl
from tests.mix_workspace import CONFIG, SUITES, write_workspace
from tests.pdf_files import of_texts

WEB: Mapping[str, Any] = yaml.safe_load((ROOT / "configs" / "web.yaml").read_text("utf-8"))
GOPHER = {**WEB["select"], "rules": "gopher"}
ELSEWHERE = {"serve": "docs/how-to/schedule.md"}
"""Commands whose example is the block of a page, which another test runs."""


def examples(name: str) -> list[tuple[str, str]]:
    """Return each command of an example as it is typed, and what it prints."""
    found = re.findall(r"^\$ (.+\n(?:    .+\n)*)((?:(?!\$ ).*\n)*)", f"{MANUAL[name].examples}\n", re.MULTILINE)
    assert "".join(f"$ {typed}{shown}" for typed, shown in found) == f"{MANUAL[name].examples}\n"
    return found


def lay_out(folder: Path) -> None:
    """Write the files that examples name."""
    write_crawl(folder)
    write_dump(folder / "dump")
    write_workspace(folder / "mixed")
    write_jsonl(folder / "rows.jsonl", [{"body": row["text"]} for row in rows(20)])
    write_jsonl(folder / "texts" / "0.jsonl", [{"content": row["text"], "link": row["url"]} for row in rows(40)])
    (folder / "corpus").mkdir()
    (folder / "corpus" / "part-0.jsonl.gz").write_bytes(gzip.compress((folder / "rows.jsonl").read_bytes()))
    (folder / "paper.pdf").write_bytes(of_texts(["A title", sentences(1, 1)], [sentences(2, 1)]))
    pair = {"id": "1", "source": "A stone of 3 kg.", "rephrased": "3 kg.", "language": "en"}
    write_jsonl(folder / "pairs.jsonl", [pair])
    for label, words in (("positive", "river stone cloud garden"), ("negative", "cheap click now offer")):
        texts = [" ".join(Random(n).choices(words.split(), k=20)) for n in range(40)]
        write_jsonl(folder / f"{label}s.jsonl", [{"text": text} for text in texts])
    corpora = {name: [{"path": f"{name}.jsonl"}] for name in ("positives", "negatives")}
    small = {"dimension": 4, "bucket": 100}
    write_config(folder / "quality.yaml", {"name": "quality", "output": "models/quality", "fasttext": small, **corpora})
    slices = {name: {"where": f"source = '{name}'", "max_epochs": 6} for name in ("prose", "notes", "code")}
    write_config(folder / "mixed" / "mix.yaml", {**CONFIG, "slices": slices})
    write_config(folder / "mixed" / "code.yaml", {"tasks": SUITES["code"]["tasks"]})
    ratios = [(n, Random(n).random()) for n in range(24)]
    tables = {
        "ratios": ["index,web,books", *(f"{n},{share},{1 - share}" for n, share in ratios)],
        "metrics": ["index,accuracy", *(f"{n},{0.3 + 0.2 * share - 0.1 * share**2}" for n, share in ratios)],
        "candidates": ["index,web,books", "even,0.5,0.5"],
    }
    sizes = [(n, d) for n in (1e8, 3e8, 1e9, 3e9) for d in (2e9, 8e9, 3e10, 1e11)]
    tables["runs"] = [
        "parameters,tokens,loss",
        *(f"{n:g},{d:g},{1.7 + 400 / n**0.34 + 400 / d**0.28}" for n, d in sizes),
    ]
    for name, lines in tables.items():
        (folder / "mixed" / f"{name}.csv").write_text("\n".join(lines))


def curated(folder: Path, **changes: Any) -> None:
    """Bring a workspace up to date with the configuration that `init web` prints, but for some keys."""
    write_config(folder / "curate.yaml", {**WEB, **changes})
    do(folder, "gristmill run curate.yaml --until select")


def prepare(folder: Path, name: str, rephrase: str) -> None:
    """Make of the folder what the examples of a command assume."""
    if name == "run":
        write_config(folder / "curate.yaml", WEB)
    elif name == "rephrase":
        do(folder, "gristmill classifier train quality.yaml")
        curated(folder, workspace="scored", classify={"quality": {"model": "models/quality"}})
        with (folder / "curate.yaml").open("a") as config:
            config.write(rephrase)
    elif name == "diff":
        shutil.copytree(folder / "ws", folder / "other-ws")
        curated(folder, workspace="other-ws", select=GOPHER)
        curated(folder)
    elif name in ("verify", "status"):
        curated(folder, **({"select": GOPHER} if name == "status" else {}))


@pytest.mark.acceptance
@pytest.mark.timeout(900)
def test_the_examples_of_the_manual_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_API_KEY", "secret")
    lay_out(tmp_path)
    (block,) = held(test_the_examples_of_the_manual_run)
    count = 0
    with Server(key="secret") as server:
        rephrase = block.text.replace("http://127.0.0.1:8000/v1", server.url).replace("NAME", MODEL)
        for name in MANUAL:
            if name in ELSEWHERE:
                ((typed, _),) = examples(name)
                assert typed in [block.text for block in blocks(ELSEWHERE[name])]
                continue
            prepare(tmp_path, name, rephrase)
            for typed, shown in examples(name):
                do(tmp_path / "mixed" if name.startswith(("mix ", "scaling ")) else tmp_path, typed, shown)
                count += 1
    assert count > 60
