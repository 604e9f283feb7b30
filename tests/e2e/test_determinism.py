"""Same input and configuration, same bytes: whatever the workers, the order of inputs, and the folder they lie in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.cli_runs import OUTCOMES, gristmill, hashes, select, write_config


def run(folder: Path, config: dict[str, Any], api: str) -> Path:
    folder.mkdir(exist_ok=True)
    write_config(folder / "curate.yaml", config)
    ran = gristmill("run", "curate.yaml", cwd=folder, PREFECT_API_URL=api)
    assert ran.code == 0, ran.err
    return folder / "ws"


def assert_same(workspace: Path, finished: Path) -> None:
    assert hashes(workspace) == hashes(finished / "ws") != {}
    assert select(workspace, OUTCOMES) == select(finished / "ws", OUTCOMES)


def test_one_worker_and_two_write_the_same(
    finished: Path, config: dict[str, Any], tmp_path: Path, prefect_api: str
) -> None:
    assert_same(run(tmp_path, {**config, "engine": {"kind": "local", "workers": 1}}, prefect_api), finished)


def test_inputs_may_be_listed_in_any_order_and_lie_anywhere(
    finished: Path, corpus: Path, config: dict[str, Any], tmp_path: Path, prefect_api: str
) -> None:
    crawl = [Path(shutil.copy(path, tmp_path / path.name)) for path in sorted((corpus / "crawl").iterdir())]
    sources = {"manuals": config["sources"]["manuals"], "notes": config["sources"]["notes"]}
    sources["web"] = {"format": "warc", "inputs": [str(crawl[number]) for number in (1, 2, 0)]}
    assert_same(run(tmp_path / "other", {**config, "sources": sources}, prefect_api), finished)
