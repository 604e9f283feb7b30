"""Runs as Prefect shows them: on a server of the user's, with bounded numbers of tasks, and on one of ours."""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from tests.cli_runs import gristmill, running, started, write_config


def ask(api: str, path: str, **body: Any) -> Any:
    """Return the answer of Prefect's REST interface."""
    request = urllib.request.Request(
        f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def inputs(folder: Path, count: int) -> None:
    for number in range(count):
        row = {"text": f"the note of number {number} says that {number} is a number like others", "url": f"u:{number}"}
        (folder / f"{number:03d}.jsonl").write_text(json.dumps(row) + "\n")


def test_a_user_s_server_sees_the_flows_with_few_tasks(tmp_path: Path, prefect_api: str) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    inputs(folder, 250)
    source = {"format": "jsonl", "inputs": ["many"]}
    rules = {"rules": {"any": "text_length > 0"}, "keep": "url asc"}
    write_config(
        tmp_path / "curate.yaml",
        {"workspace": "ws", "sources": {"prefect_many": source}, "select": rules, "engine": {"workers": 2}},
    )
    ran = gristmill("run", "curate.yaml", "--until", "extract", cwd=tmp_path, PREFECT_API_URL=prefect_api)
    assert ran.code == 0, ran.err
    (extract,) = ask(
        prefect_api,
        "flow_runs/filter",
        flow_runs={"name": {"any_": ["extract ('prefect_many',)", "extract prefect_many"]}},
    )
    assert extract["state"]["type"] == "COMPLETED"
    tasks = ask(prefect_api, "task_runs/filter", flow_runs={"id": {"any_": [extract["id"]]}}, limit=200)
    made = [task for task in tasks if task["name"].startswith("prefect_many extract")]
    assert 2 <= len(made) <= 100
    assert Counter(task["state"]["type"] for task in made) == {"COMPLETED": len(made)}


def test_flows_and_artifacts_of_a_run_are_visible(tmp_path: Path, prefect_api: str) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    inputs(folder, 2)
    write_config(
        tmp_path / "curate.yaml",
        {
            "workspace": "ws",
            "sources": {"prefect_one": {"format": "jsonl", "inputs": ["one"]}},
            "select": {"rules": {"any": "text_length > 0"}, "keep": "url asc"},
            "dedup": {},
            "engine": {"workers": 1},
        },
    )
    ran = gristmill("run", "curate.yaml", cwd=tmp_path, PREFECT_API_URL=prefect_api)
    assert ran.code == 0, ran.err
    flows = {flow["id"]: flow["name"] for flow in ask(prefect_api, "flows/filter")}
    assert {"curate", "extract", "annotate", "dedup", "select"} <= set(flows.values())
    tables = ask(prefect_api, "artifacts/filter", limit=200)
    keys = {artifact["key"]: artifact for artifact in tables}
    assert {"curate", "extract-prefect-one", "annotate-prefect-one", "dedup-prefect-one", "select-prefect-one"} <= set(
        keys
    )
    (row,) = json.loads(keys["extract-prefect-one"]["data"])
    assert (row["source"], row["rows in"], row["rows out"]) == ("prefect_one", 2, 2)


def test_a_run_without_a_server_starts_its_own_and_ends_it(copied: Path, own_cache: Path) -> None:
    changed = ("run", "curate.yaml", "--set", "dedup.num_bands=15")
    with started(*changed, cwd=copied, XDG_CACHE_HOME=str(own_cache)) as command:
        command.wait_for(lambda err: "starting Prefect" in err)
        command.wait_for(lambda err: "dedup" in err)
        assert any("flows.server" in line for line in running(command.mark).values())
        code, _ = command.end(120)
        assert code == 0, command.err()
        assert running(command.mark) == {}
