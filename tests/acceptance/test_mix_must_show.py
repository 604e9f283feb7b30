"""The mix optimizer on real sources and real suites, with transformer proxies. A quarter of an hour on two cores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli_runs import ROOT, Ran, gristmill, write_config

DATA = ROOT.parent / "shared" / "data"
SOURCES = ("arxiv", "books", "code", "latex", "math", "reddit", "stackexchange", "web", "wikipedia")
CONFIG = str(ROOT / "configs" / "mixes" / "sources.yaml")
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.realdata,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent"),
]

LOOP_S, OTHER_SUITE_S = 900.0, 10.0


@pytest.fixture(scope="module")
def curated(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """A folder with the nine sources curated in `ws`, and the suites' tasks in `eval`."""
    folder = tmp_path_factory.mktemp("mix")
    columns = {"text": "text", "id": "id", "url": "url"}
    sources = {
        name: {"format": "jsonl", "inputs": [str(DATA / "sources" / f"{name}.jsonl.zst")], "columns": dict(columns)}
        for name in SOURCES
    }
    select = {"rules": {"length": "text_length > 50"}, "keep": "url asc"}
    write_config(folder / "curate.yaml", {"workspace": "ws", "sources": sources, "select": select})
    ran = gristmill("run", "curate.yaml", cwd=folder, PREFECT_API_URL=prefect_api)
    assert ran.code == 0, ran.err
    os.symlink(DATA / "eval", folder / "eval")
    return folder


def mix(step: str, *arguments: str, folder: Path) -> Ran:
    ran = gristmill("mix", step, CONFIG, *arguments, cwd=folder, limit_s=3600)
    print(ran.err)
    print(ran.out)
    assert ran.code == 0
    return ran


def weights(folder: Path) -> dict[str, float]:
    value: dict[str, Any] = yaml.safe_load((folder / "ws/mix/sources/mixture.yaml").read_text("utf-8"))
    assert sum(value["weights"].values()) == 1.0
    return value["weights"]


def verdict(folder: Path) -> dict[str, Any]:
    written = yaml.safe_load((folder / "ws/mix/sources/mixture.yaml").read_text("utf-8"))
    path = folder / "ws/mix/sources/proposals" / written["provenance"]["proposal"] / "verification.json"
    found: dict[str, Any] = json.loads(path.read_text())["verdict"]
    return found


def test_the_loop_and_another_suite(curated: Path, prefect_api: str) -> None:
    whole = mix("run", folder=curated)
    print(f"the loop took {whole.elapsed_s:.0f} s")
    for_problems, verdicts = weights(curated), {"word_problems": verdict(curated)}
    runs = {path: path.stat().st_mtime_ns for path in (curated / "ws/mix/sources/runs").glob("*/model.npz")}

    other = ("--set", "suite=reading", "--set", "measure=[word_problems, code]")
    quick = mix("run", *other, folder=curated)
    print(f"another suite took {quick.elapsed_s:.1f} s")
    assert {path: path.stat().st_mtime_ns for path in (curated / "ws/mix/sources/runs").glob("*/model.npz")} == runs
    for_reading = weights(curated)
    assert "Prefect" not in quick.err
    assert for_problems["math"] > for_reading["math"] + 0.1
    assert for_reading["books"] + for_reading["reddit"] > for_problems["books"] + for_problems["reddit"] + 0.1

    mix("verify", *other, folder=curated)
    verdicts["reading"] = verdict(curated)
    for name, found in verdicts.items():
        (size,) = found["sizes"]
        print(name, found["mixture"], found["evidence"], found["why"], size["differences"])
        assert found["evidence"] == "confirmed", name
        assert size["expected"][found["mixture"]]["value"] <= min(e["value"] for e in size["expected"].values()), name
    assert quick.elapsed_s < OTHER_SUITE_S
    assert whole.elapsed_s < LOOP_S
