"""Runs as Prefect shows them: on a server of the user's, with bounded numbers of tasks, and on one of ours."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from flows.engine import MAX_TASKS
from tests.cli_runs import environment, gristmill, running, started, write_config


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


def test_a_user_s_server_shows_flows_tables_and_few_tasks(tmp_path: Path, prefect_api: str) -> None:
    (tmp_path / "many").mkdir()
    inputs(tmp_path / "many", 2 * MAX_TASKS + 20)
    config = {
        "workspace": "ws",
        "sources": {"prefect_many": {"format": "jsonl", "inputs": ["many"]}},
        "select": {"rules": {"any": "text_length > 0"}, "keep": "url asc"},
        "engine": {"workers": 2},
    }
    write_config(tmp_path / "curate.yaml", config)
    ran = gristmill("run", "curate.yaml", "--until", "extract", cwd=tmp_path, PREFECT_API_URL=prefect_api)
    assert ran.code == 0, ran.err

    tables = {artifact["key"]: artifact for artifact in ask(prefect_api, "artifacts/filter", limit=200)}
    (row,) = json.loads(tables["extract-prefect-many"]["data"])
    assert (row["source"], row["shards"], row["rows in"], row["rows out"]) == ("prefect_many", 220, 220, 220)
    assert "curate" in tables

    mine = {"id": {"any_": [tables["extract-prefect-many"]["flow_run_id"]]}}
    (extract,) = ask(prefect_api, "flow_runs/filter", flow_runs=mine)
    assert extract["state"]["type"] == "COMPLETED"
    flows = {flow["id"]: flow["name"] for flow in ask(prefect_api, "flows/filter")}
    assert flows[extract["flow_id"]] == "extract"
    assert "curate" in flows.values()

    tasks = ask(prefect_api, "task_runs/filter", flow_runs=mine, limit=200)
    assert 2 <= len(tasks) <= MAX_TASKS
    # The server learns of a task's end from events, later than of the flow's, and it may lose some.
    assert {task["state"]["type"] for task in tasks} <= {"COMPLETED", "RUNNING", "PENDING"}


def test_a_run_without_a_server_starts_its_own_and_ends_it(copied: Path, own_cache: Path) -> None:
    changed = ("run", "curate.yaml", "--only", "notes", "--set", "dedup.num_bands=15", "--set", "engine.prefect=always")
    with started(*changed, cwd=copied, XDG_CACHE_HOME=str(own_cache)) as command:
        command.wait_for(lambda err: "starting Prefect" in err)
        command.wait_for(lambda err: "dedup" in err)
        assert any("flows.server" in line for line in running(command.mark).values())
        code, _ = command.end(120)
        assert code == 0, command.err()
        assert running(command.mark) == {}


_SERVER = """
import json, os, signal, sys, urllib.error, urllib.request
from flows.server import prefect_server
from pipeline.table.stages import Stop

def status(path, **headers):
    body = b"{}" if path.endswith("filter") else None
    request = urllib.request.Request(os.environ["PREFECT_API_URL"] + path, body, headers)
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code

stop = Stop()
with prefect_server(stop):
    from prefect import flow

    @flow
    def killed():
        os.kill(os.getpid(), signal.SIGKILL)

    @flow
    def done():
        return 1

    @flow
    def stopped():
        stop.set()
        raise RuntimeError("stopped")

    if sys.argv[1] == "kill":
        done()
        killed()
    told = {path: status(path) for path in ("/flow_runs/filter", "/admin/version", "/health")}
    told["wrong"] = status("/flow_runs/filter", Authorization="Basic Z3Jpc3RtaWxsOng=")
    print(json.dumps([told, os.environ["PREFECT_API_AUTH_STRING"]]), flush=True)
    try:
        stopped()
    except RuntimeError:
        pass
assert "PREFECT_API_AUTH_STRING" not in os.environ
"""


def test_our_server_asks_for_a_token_and_knows_how_runs_ended(tmp_path: Path, own_cache: Path) -> None:
    """A killed run's flow has crashed, as the next start finds out; a stopped one's is cancelled."""
    command = [sys.executable, "-c", _SERVER]
    given = environment(XDG_CACHE_HOME=str(own_cache))
    killed = subprocess.run([*command, "kill"], cwd=tmp_path, env=given, capture_output=True, timeout=200, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ended = subprocess.run([*command, "stop"], cwd=tmp_path, env=given, capture_output=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    told, token = json.loads(ended.stdout)
    assert told == {"/flow_runs/filter": 401, "/admin/version": 401, "/health": 200, "wrong": 401}
    (home,) = (own_cache / "gristmill").glob("prefect-*")
    assert home.stat().st_mode & 0o777 == 0o700
    assert not [path for path in home.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    with sqlite3.connect(home / "prefect.db") as database:
        query = "SELECT flow.name, state_type FROM flow_run JOIN flow ON flow.id = flow_run.flow_id"
        states = dict(database.execute(query).fetchall())
    assert states == {"killed": "CRASHED", "done": "COMPLETED", "stopped": "CANCELLED"}
