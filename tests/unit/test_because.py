"""Why a stage has something to do, and what it will take: from what is there, and without changing it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flows.launch import diff, expectations, plan
from pipeline.table.errors import WorkspaceError
from tests.cli_runs import snapshot, write_config
from tests.local_run import rows, run_all, write_jsonl


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A workspace that is up to date, of one source with three inputs; its configuration."""
    for number, name in enumerate("abc"):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", rows(10, 10 * number))
    config = {
        "workspace": str(tmp_path / "ws"),
        "sources": {"web": {"format": "jsonl", "inputs": [f"{tmp_path}/in/*.jsonl"]}},
        "select": {"rules": {"words": "word_count > 3", "english": "language = 'en'"}},
        "dedup": {},
        "engine": {"workers": 1},
    }
    run_all(config)
    return config


def planned(config: dict[str, Any], tmp_path: Path, **changed: Any) -> dict[str, dict[str, Any]]:
    """Return the rows of the plan for a changed configuration, by stage."""
    path = write_config(tmp_path / "c.yaml", config | changed)
    before = snapshot(tmp_path / "ws")
    found = plan(str(path), (), (), "select")
    assert snapshot(tmp_path / "ws") == before
    return {row["stage"]: dict(row) for row in found.rows}


def reasons(config: dict[str, Any], tmp_path: Path, **changed: Any) -> dict[str, str]:
    """Return the reasons of the stages that have any, but that they follow."""
    found = planned(config, tmp_path, **changed)
    return {name: row["because"] for name, row in found.items() if row["because"] and row["done"] is not None}


CHANGED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {}),
    ({"dedup": {"num_bands": 20}}, {"dedup": "changed setting num_bands (14 -> 20)"}),
    ({"dedup": {"verify": 0.8}}, {"dedup": "changed setting verify (0.7 -> 0.8)"}),
    ({"extract": {"part_bytes": 65536}}, {"extract": "changed setting part_bytes (268435456 -> 65536)"}),
    (
        {"select": {"rules": {"words": "word_count > 5", "more": "1 = 1"}}},
        {"select": "changed rule words; new rule more; rule english is gone"},
    ),
    (
        {"select": {"rules": {"words": "word_count > 3", "english": "language = 'en'"}, "keep": "url asc"}},
        {"select": "changed setting keep (text_length desc, url asc -> url asc)"},
    ),
]


def test_a_changed_setting_is_named(config: dict[str, Any], tmp_path: Path) -> None:
    for changed, expected in CHANGED:
        assert reasons(config, tmp_path, **changed) == expected
    assert {row["shards_to_do"] for row in planned(config, tmp_path).values()} == {0}


def test_inputs_that_came_changed_and_went(config: dict[str, Any], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "d.jsonl", rows(5, 50))
    write_jsonl(tmp_path / "in" / "e.jsonl", rows(5, 60))
    os.utime(tmp_path / "in" / "b.jsonl", ns=(1, 1))
    (tmp_path / "in" / "a.jsonl").unlink()
    assert reasons(config, tmp_path) == {"extract": "2 new inputs; 1 input that is gone; 1 changed input"}
    found = planned(config, tmp_path)
    assert found["select"]["because"] == "follows from the stages above"
    (tmp_path / "in" / "d.jsonl").unlink()
    (tmp_path / "in" / "e.jsonl").unlink()
    run_all(config, until="extract")
    assert reasons(config, tmp_path) == {"dedup": "made of parts that changed"}


def test_an_input_that_is_gone_alone_is_work_for_what_follows(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "in" / "a.jsonl").unlink()
    found = planned(config, tmp_path)
    assert (found["extract"]["shards_to_do"], found["extract"]["because"]) == (0, "1 input that is gone")
    assert found["select"]["because"] == "follows from the stages above"
    for asked in (diff, expectations):
        path = write_config(tmp_path / "c.yaml", config | {"expect": {"kept_documents": "at least 1"}})
        with pytest.raises(WorkspaceError, match="1 input that is gone"):
            asked(str(path))


def test_of_sources_that_are_selected_together_only_those_with_a_reason_are_told(tmp_path: Path) -> None:
    sources = {}
    for number, name in enumerate("ab"):
        write_jsonl(tmp_path / f"{name}.jsonl", rows(5, 10 * number))
        sources[name] = {"format": "jsonl", "inputs": [f"{tmp_path}/{name}.jsonl"]}
    config = {"workspace": str(tmp_path / "ws"), "sources": sources, "dedup": {"scope": ["a", "b"]}}
    config |= {"select": {"rules": {"words": "word_count > 3"}}, "engine": {"workers": 1}}
    run_all(config)
    next((tmp_path / "ws" / "b" / "outcomes").glob("*.parquet")).unlink()
    assert reasons(config, tmp_path) == {"select": "deleted parts"}
    run_all(config)
    sources["b"]["select"] = {"rules": {"words": "word_count > 4"}}
    assert reasons(config, tmp_path) == {"select": "changed rule words of b"}


def test_a_selection_that_kept_nothing_changed_no_setting(config: dict[str, Any], tmp_path: Path) -> None:
    none = config | {"select": {"rules": {"none": "1 = 0"}}}
    run_all(none)
    found = reasons(none, tmp_path, select={"rules": {"none": "1 = 2"}})
    assert found == {"select": "changed rule none"}


def test_a_part_that_was_deleted(config: dict[str, Any], tmp_path: Path) -> None:
    for group in ("signals/language", "outcomes"):
        next((tmp_path / "ws" / "web" / group).glob("*.parquet")).unlink()
    assert reasons(config, tmp_path) == {"annotate": "1 deleted part"}
    run_all(config, until="annotate")
    assert reasons(config, tmp_path) == {"select": "deleted parts"}


def test_another_version(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.signals.text_stats.VERSION", "text_stats_v9")
    monkeypatch.setattr("pipeline.select.stage._libraries", lambda: {"duckdb": "9", "pyarrow": "9"})
    (told,) = reasons(config, tmp_path).values()
    assert told.startswith("changed version (text_stats_v1")
    monkeypatch.undo()
    monkeypatch.setattr("pipeline.select.stage._libraries", lambda: {"duckdb": "9", "pyarrow": "9"})
    (told,) = reasons(config, tmp_path).values()
    assert [part.rpartition(" (")[0] for part in told.split("; ")] == [
        "changed version of duckdb",
        "changed version of pyarrow",
    ]


def test_estimates_are_from_runs_and_from_what_is_there_or_not_known(config: dict[str, Any], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "d.jsonl", rows(30, 50))
    found = planned(config, tmp_path)
    assert {row["estimated_from"] for row in found.values()} == {"1 run, what is there"}
    for row in found.values():
        assert row["seconds"] >= 0
        assert row["bytes"] > 0
    written = sum(path.stat().st_size for path in (tmp_path / "ws" / "web" / "documents").glob("*.parquet"))
    assert 0.5 * written < found["extract"]["bytes"] < 2 * written, "as many documents again"
    (tmp_path / "in" / "d.jsonl").unlink()
    for name in "abc":
        os.utime(tmp_path / "in" / f"{name}.jsonl", ns=(1, 1))
    again = planned(config, tmp_path)
    assert again["extract"]["estimated_from"] == "1 run, what is there"
    assert 0.8 * written < again["extract"]["bytes"] < 1.2 * written, "as many documents in the place of the others"
    narrow = sum(path.stat().st_size for path in (tmp_path / "ws" / "web" / "outcomes").glob("*.parquet"))
    assert again["select"]["bytes"] < 2 * (narrow + written)
    fresh = planned(config, tmp_path, workspace=str(tmp_path / "other"))
    assert fresh["extract"]["estimated_from"] == "sample of 10 units of a.jsonl"
    assert (fresh["select"]["seconds"], fresh["select"]["bytes"]) == (None, None)
    path = write_config(tmp_path / "c.yaml", config | {"workspace": str(tmp_path / "other")})
    assert "not known" in plan(str(path), (), (), "select").text
    for record in (tmp_path / "ws" / "_runs").iterdir():
        record.unlink()
    found = planned(config, tmp_path, dedup={"num_bands": 20})
    assert (found["dedup"]["seconds"], found["dedup"]["estimated_from"]) == (None, "what is there")
