"""Other people's readers on what a workspace holds: the real libraries, each on the folder and on the glob."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from pipeline.table.shards import Group
from pipeline.table.storage import Storage
from tests.local_run import rows, run_all, write_jsonl


def _pyarrow(folder: Path, is_glob: bool) -> int:
    files = sorted(map(str, folder.glob("*.parquet"))) if is_glob else str(folder)
    return int(pyarrow.dataset.dataset(files).to_table().num_rows)


def _duckdb(folder: Path, is_glob: bool) -> int:
    pattern = f"{folder}/*.parquet" if is_glob else f"{folder}/**"  # it has no other word for a folder
    return int(duckdb.connect().execute(f"SELECT count(doc_id) FROM read_parquet('{pattern}')").fetchall()[0][0])


def _polars(folder: Path, is_glob: bool) -> int:
    polars = pytest.importorskip("polars")
    return int(polars.scan_parquet(f"{folder}/*.parquet" if is_glob else folder).collect().height)


def _datasets(folder: Path, is_glob: bool) -> int:
    datasets = pytest.importorskip("datasets")
    named: dict[str, Any] = {"path": str(folder)}
    if is_glob:
        named = {"path": "parquet", "data_files": f"{folder}/*.parquet"}
    return len(datasets.load_dataset(**named, split="train", cache_dir=str(folder.parents[2] / f"cache-{is_glob}")))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sets of rules one after the other, an input without a document, and curated shards of several parts."""
    folder = tmp_path_factory.mktemp("readers")
    write_jsonl(folder / "in" / "a.jsonl", [*rows(400), *rows(4)])
    write_jsonl(folder / "in" / "b.jsonl", []).write_text("{no JSON\n")
    for least in (3, 59, 4):
        run_all(
            {
                "workspace": str(folder / "ws"),
                "sources": {"web": {"format": "jsonl", "inputs": [str(folder / "in")]}},
                "dedup": {},
                "select": {"rules": {"words": f"word_count > {least}"}, "part_bytes": 1 << 16},
                "engine": {"workers": 1},
            }
        )
    return folder / "ws"


@pytest.mark.parametrize("is_glob", [False, True], ids=["folder", "glob"])
@pytest.mark.parametrize("read", [_pyarrow, _duckdb, _polars, _datasets])
@pytest.mark.parametrize("group", ["curated", "outcomes"])
def test_a_reader_finds_the_current_rows(
    workspace: Path, group: str, read: Callable[[Path, bool], int], is_glob: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    parts = Group(Storage.at(str(workspace)), f"web/{group}").parts()
    assert len(parts) > 1
    expected = sum(part.rows for part in parts)
    assert expected == {"curated": 400, "outcomes": 404}[group]
    assert read(workspace / "web" / group, is_glob) == expected


def test_no_part_has_an_empty_row_group(workspace: Path) -> None:
    for path in workspace.glob("web/**/*.parquet"):
        data = pq.read_metadata(path)
        assert all(data.row_group(number).num_rows for number in range(data.num_row_groups)), path
