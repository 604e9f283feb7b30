"""Flipped bits, over every kind of file of a workspace: none changes an answer unnoticed."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.select.funnel import funnel
from pipeline.table import shards
from pipeline.table.catalog import check
from pipeline.table.errors import GristmillError
from pipeline.table.sql import run_sql
from pipeline.table.storage import Storage
from tests.local_run import rows, run_all, write_jsonl

VIEWS = ("documents", "rejects", "signals_language", "signals_text_stats", "duplicates", "outcomes", "curated")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    write_jsonl(tmp_path / "a.jsonl", [*rows(60), *rows(5)]).open("a").write("{no JSON\n")
    write_jsonl(tmp_path / "b.jsonl", rows(40, 1000))
    config = {
        "workspace": str(tmp_path / "ws"),
        "sources": {"web": {"format": "jsonl", "inputs": [f"{tmp_path}/*.jsonl"]}},
        "dedup": {},
        "select": {"rules": {"words": "word_count > 3", "length": "text_length > 300"}},
        "engine": {"workers": 1},
    }
    run_all(config)
    return config


def answers(workspace: str) -> dict[str, Any]:
    """Return what each view holds and the funnel; None where the answer is an error."""
    found: dict[str, Any] = {}
    for view in VIEWS:
        try:
            found[view] = [row for batch in run_sql(workspace, f"FROM web.{view}") for row in batch.to_pylist()]
        except GristmillError:
            found[view] = None
    try:
        found["funnel"] = funnel(Storage.at(workspace))
    except GristmillError:
        found["funnel"] = None
    return found


def flip(config: dict[str, Any], count: int, tmp_path: Path) -> None:
    """Flip a bit, ask, run, ask again, and put the workspace back; `count` times, each file as often as the next."""
    workspace, sound, chosen = Path(config["workspace"]), tmp_path / "sound", random.Random(7)
    expected = answers(str(workspace))
    shutil.copytree(workspace, sound)
    files = sorted(path for path in sound.rglob("*") if path.is_file() and path.stat().st_size)
    chosen.shuffle(files)
    errors = 0
    for number in range(count):
        path = workspace / files[number % len(files)].relative_to(sound)
        data = bytearray(path.read_bytes())
        bit = chosen.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        shards._memories.clear()  # as another process
        where = f"bit {bit} of {path}"
        is_part = path.suffix == ".parquet"
        assert not is_part or any(group.problems for group in check(Storage.at(str(workspace)))), where
        for view, answer in answers(str(workspace)).items():
            assert answer in (None, expected[view]), f"{where}: {view}"
        try:
            run_all(config)
            told = ""
        except GristmillError as error:
            told = str(error)
        if told:
            assert path.name in told, where
            errors += 1
        else:
            assert not is_part, where
            for view, answer in answers(str(workspace)).items():
                assert answer in (None, expected[view]), f"{where}: {view} after the run"
        shutil.rmtree(workspace)
        shutil.copytree(sound, workspace)
    assert errors > count // 5


def test_ten_flipped_bits(config: dict[str, Any], tmp_path: Path) -> None:
    flip(config, 10, tmp_path)


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_two_hundred_flipped_bits(config: dict[str, Any], tmp_path: Path) -> None:
    flip(config, 200, tmp_path)


def test_deleting_what_the_error_names_heals(config: dict[str, Any]) -> None:
    workspace = config["workspace"]
    expected = answers(workspace)
    for folder in ("documents", "rejects", "signals/language", "signatures", "duplicates", "outcomes", "curated"):
        path = next(Path(workspace, "web", folder).glob("*.parquet"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 8
        path.write_bytes(data)
        with pytest.raises(GristmillError, match=rf"{path.name} is damaged: .*; delete it and run again"):
            run_all(config)
        path.unlink()
        run_all(config)
        assert answers(workspace) == expected
    assert not any(group.problems for group in check(Storage.at(workspace)))
