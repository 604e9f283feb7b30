"""Same input and configuration, same bytes: whatever the workers, the order of inputs, their folder, and Prefect."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.cli_runs import assert_same, gristmill, write_config


def run(folder: Path, config: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    write_config(folder / "curate.yaml", config)
    ran = gristmill("run", "curate.yaml", cwd=folder)
    assert ran.code == 0, ran.err
    return folder / "ws"


def test_one_worker_and_two_write_the_same(finished: Path, web_config: dict[str, Any], tmp_path: Path) -> None:
    assert_same(run(tmp_path, {**web_config, "engine": {"kind": "local", "workers": 1}}), finished / "ws")


def test_inputs_may_be_listed_in_any_order_and_lie_anywhere(
    finished: Path, corpus: Path, web_config: dict[str, Any], tmp_path: Path
) -> None:
    crawl = [Path(shutil.copy(path, tmp_path / path.name)) for path in sorted((corpus / "crawl").iterdir())]
    sources = {"web": {"format": "warc", "inputs": [str(crawl[number]) for number in (1, 2, 0)]}}
    assert_same(run(tmp_path / "other", {**web_config, "sources": sources}), finished / "ws")
