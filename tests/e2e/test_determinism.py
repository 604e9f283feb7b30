"""Same input and configuration, same bytes: whatever the workers, the order of inputs, and the folder they lie in."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.cli_runs import assert_same, gristmill, write_config


def run(folder: Path, config: dict[str, Any], api: str) -> Path:
    folder.mkdir(exist_ok=True)
    write_config(folder / "curate.yaml", config)
    ran = gristmill("run", "curate.yaml", cwd=folder, PREFECT_API_URL=api)
    assert ran.code == 0, ran.err
    return folder / "ws"


def test_one_worker_and_two_write_the_same(
    finished: Path, web_config: dict[str, Any], tmp_path: Path, prefect_api: str
) -> None:
    assert_same(run(tmp_path, {**web_config, "engine": {"kind": "local", "workers": 1}}, prefect_api), finished / "ws")


def test_inputs_may_be_listed_in_any_order_and_lie_anywhere(
    finished: Path, corpus: Path, web_config: dict[str, Any], tmp_path: Path, prefect_api: str
) -> None:
    crawl = [Path(shutil.copy(path, tmp_path / path.name)) for path in sorted((corpus / "crawl").iterdir())]
    sources = {"web": {"format": "warc", "inputs": [str(crawl[number]) for number in (1, 2, 0)]}}
    assert_same(run(tmp_path / "other", {**web_config, "sources": sources}, prefect_api), finished / "ws")
