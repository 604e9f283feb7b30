"""What a workspace tells of its runs and its state, whatever happened to it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flows.config import RunConfig
from flows.stages import Run, opened
from pipeline.status.runs import RunRecord, records
from pipeline.status.status import changes, status
from pipeline.table.catalog import check, collect
from pipeline.table.errors import ShardError, WorkspaceError
from pipeline.table.format import encode
from pipeline.table.storage import Storage, hold
from tests.cli_runs import ROOT, snapshot
from tests.local_run import rows, run_all, write_jsonl


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """A configuration of one source with two inputs of ten documents."""
    for number, name in enumerate("ab"):
        write_jsonl(tmp_path / "in" / f"{name}.jsonl", rows(10, 10 * number))
    return {
        "workspace": str(tmp_path / "ws"),
        "sources": {"web": {"format": "jsonl", "inputs": [f"{tmp_path}/in/*.jsonl"]}},
        "select": {"rules": {"words": "word_count > 3"}},
        "dedup": {},
        "engine": {"workers": 1},
    }


def storage_of(config: dict[str, Any]) -> Storage:
    return Storage.at(config["workspace"])


def test_a_run_that_made_something_is_recorded_and_others_write_nothing(config: dict[str, Any]) -> None:
    run_all(config)
    before = snapshot(Path(config["workspace"]))
    run_all(config)
    assert snapshot(Path(config["workspace"])) == before
    (run,) = status(storage_of(config)).runs
    assert (run["outcome"], run["command"], run["error"], run["changes"]) == ("finished", "test", None, [])
    assert {(done["stage"], done["shards"], done["rows_in"], done["rows_out"]) for done in run["stages"]} == {
        ("extract", 2, 20, 20),
        ("annotate", 2, 20, 20),
        ("dedup", 3, 20, 20),
        ("select", 1, 20, 20),
    }
    assert run["kept"]["web"]["kept"] == run["kept"]["web"]["documents"] == 20
    assert run["kept"]["web"]["kept_tokens"] > 20
    assert {"gristmill", "duckdb", "pyarrow"} <= run["versions"].keys()


def test_what_changed_between_runs_is_told_key_by_key(config: dict[str, Any]) -> None:
    run_all(config)
    run_all(config | {"dedup": {"num_bands": 20}, "engine": {"workers": 2}})
    shown = status(storage_of(config))
    assert shown.runs[-1]["changes"] == [
        {"key": "dedup.num_bands", "before": 14, "now": 20},
        {"key": "engine.workers", "before": 1, "now": 2},
    ]
    assert "  dedup.num_bands: 14 -> 20" in shown.as_text().splitlines()
    assert json.loads(encode(shown.plain()))["runs"][1]["outcome"] == "finished"


def record(**values: Any) -> RunRecord:
    given = {"run": "r", "command": "c", "started": "s", "host": "h", "pid": 1, "versions": {}, "asked": {}}
    return RunRecord.model_validate(given | {"config": {}, "rules": {}} | values)


def test_a_rule_that_changed_is_named_and_a_source_of_its_own_setting() -> None:
    before = record(
        rules={"web": {"a": "x > 1", "b": "y"}},
        config={"select": {"rules": "p"}, "sources": {"web": {"format": "csv"}}},
    )
    after = record(
        rules={"web": {"a": "x > 2", "c": "z"}, "new": {"a": "x"}},
        config={"select": {"rules": {"extends": "p", "a": "x > 2"}}, "sources": {"web": {"format": "auto"}}},
    )
    assert {(each["key"], each["before"], each["now"]) for each in changes(before, after)} == {
        ("rules.web.a", "x > 1", "x > 2"),
        ("rules.web.b", "y", None),
        ("rules.web.c", None, "z"),
        ("sources.web.format", "csv", "auto"),
    }


def test_a_rule_that_changed_alike_for_all_sources_is_told_once() -> None:
    before = record(rules={"web": {"a": "x > 1", "b": "y"}, "code": {"a": "x > 1", "b": "y"}})
    after = record(rules={"web": {"a": "x > 2", "b": "y"}, "code": {"a": "x > 2", "b": "z"}})
    assert changes(before, after) == [
        {"key": "rules.a", "before": "x > 1", "now": "x > 2"},
        {"key": "rules.code.b", "before": "y", "now": "z"},
    ]


RUNNING = """
import json, os, signal, sys
from flows.config import RunConfig
from flows.stages import TABLE, opened, steps
with opened(RunConfig.model_validate(json.loads(sys.argv[1])), "gristmill run long.yaml") as run:
    for stage, sources in steps(run.config, (), "annotate"):
        run.do(TABLE[stage].make(run, sources))
    print("begun", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_in_progress_is_told_from_a_killed_one(config: dict[str, Any]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", RUNNING, json.dumps(config)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    shown = status(storage_of(config))
    assert shown.holder is not None
    assert (shown.holder["command"], shown.holder["pid"]) == ("gristmill run long.yaml", child.pid)
    assert [run["outcome"] for run in shown.runs] == ["running"]
    assert "in use by `gristmill run long.yaml`" in shown.as_text()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    shown = status(storage_of(config))
    assert shown.holder is None
    assert [run["outcome"] for run in shown.runs] == ["killed"]
    assert [done["stage"] for done in shown.runs[0]["stages"]] == ["extract", "annotate"]
    with hold(storage_of(config), "gristmill gc"):  # another command, with this process's number
        assert [run["outcome"] for run in status(storage_of(config)).runs] == ["killed"]


def test_a_run_that_ends_while_one_looks_was_not_killed(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = storage_of(config)
    run_all(config)
    (ended,), _ = records(storage)
    path = f"_runs/{ended.run}.json"
    storage.write_bytes(path, ended.model_copy(update={"outcome": "running"}).model_dump_json().encode())
    assert [run.outcome for run in records(storage)[0]] == ["killed"]
    monkeypatch.setattr(
        "pipeline.status.runs.holder", lambda storage: storage.write_bytes(path, ended.model_dump_json().encode())
    )
    assert [run.outcome for run in records(storage)[0]] == ["finished"]


def test_how_a_run_failed_is_recorded_without_secrets(config: dict[str, Any]) -> None:
    run = Run.of(RunConfig.model_validate(config))
    run.asked = {"set": ["a.b"], "url": "https://x.example/?token=s3cret"}

    def fail() -> None:
        with opened(run, "gristmill run c.yaml"):
            assert run.recorder is not None
            run.recorder.begin()
            raise ShardError("https://x.example/a?X-Amz-Signature=s3cret cannot be read")

    with pytest.raises(ShardError):
        fail()
    (shown,) = status(storage_of(config)).runs
    assert shown["outcome"] == "failed"
    assert shown["error"] == "https://x.example/a?X-Amz-Signature=*** cannot be read"
    assert "s3cret" not in "".join(path.read_text() for path in Path(config["workspace"], "_runs").iterdir())


def test_a_clock_that_goes_back_keeps_the_order_and_old_records_go(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.status.runs.MAX_RUNS", 5)
    storage = storage_of(config)
    for number in range(5):
        name = f"29990101T00000{number}.000000Z"
        storage.write_bytes(f"_runs/{name}.json", record(run=name).model_dump_json().encode())
    run_all(config)
    run_all(config | {"dedup": {"num_bands": 20}})
    found, _ = records(storage)
    assert [run.run for run in found[2:]] == [f"29990101T000004.00000{number}Z" for number in range(3)]
    assert [run.outcome for run in found[-2:]] == ["finished", "finished"]
    assert len(found) == 5
    assert not found[-1].started.startswith("2999")


def test_a_record_that_cannot_be_written_is_told_once_and_ends_nothing(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    storage_of(config).write_bytes("_runs", b"")
    run_all(config)
    assert capsys.readouterr().err.count("this run is not recorded") == 1
    shown = status(storage_of(config))
    assert not shown.runs
    assert len(shown.groups) == 8


def test_a_workspace_without_records_and_one_with_a_damaged_index_and_record(config: dict[str, Any]) -> None:
    run_all(config)
    storage, folder = storage_of(config), Path(config["workspace"])
    whole = status(storage)
    index = folder / "web" / "_manifests" / "outcomes" / "_index.json"
    index.write_bytes(index.read_bytes().replace(b"select", b"selekt"))
    (record_file,) = (folder / "_runs").iterdir()
    record_file.write_text("{")
    shown = status(storage)
    assert [row for row in whole.groups if row["group"] != "outcomes"] == shown.groups
    assert shown.superseded is None
    assert len(shown.problems) == 3
    record_file.unlink()
    assert not status(storage).runs


def test_records_are_no_source_and_stay(config: dict[str, Any]) -> None:
    run_all(config)
    storage = storage_of(config)
    Path(config["workspace"], "web", "documents", "part-0-0123abcd.parquet").write_bytes(b"12345")
    assert status(storage).superseded == {"files": 1, "bytes": 5}
    assert collect(storage).files == ("web/documents/part-0-0123abcd.parquet",)
    assert collect(storage).unknown == ()
    assert {group.source for group in check(storage)} == {"web"}
    assert len(status(storage).runs) == 1


def test_what_is_older_than_what_it_was_made_from(config: dict[str, Any], tmp_path: Path) -> None:
    run_all(config)
    assert not status(storage_of(config)).outdated
    (row,) = rows(1, 40)
    write_jsonl(tmp_path / "in" / "c.jsonl", [row, {**row, "text": row["text"] + " and more", "url": "https://b.c/"}])
    run_all(config, until="annotate")
    why = "1 part of documents came since"
    assert status(storage_of(config)).outdated == [
        {"source": "web", "group": group, "because": why} for group in ("signatures", "duplicates", "outcomes")
    ]
    run_all(config)
    assert not status(storage_of(config)).outdated
    run_all(config | {"dedup": {"verify": 1.0}}, until="dedup")
    assert status(storage_of(config)).outdated == [
        {"source": "web", "group": "outcomes", "because": "duplicates changed since"}
    ]


def test_a_workspace_behind_a_url(config: dict[str, Any]) -> None:
    config["workspace"] = f"memory://{uuid.uuid4()}"
    run_all(config)
    shown = status(storage_of(config))
    assert shown.holder is None
    assert [run["outcome"] for run in shown.runs] == ["finished"]
    assert shown.superseded == {"files": 0, "bytes": 0}
    fsspec.filesystem("memory").rm(config["workspace"], recursive=True)


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="does not exist"):
        status(Storage.at(str(tmp_path / "nothing")))
