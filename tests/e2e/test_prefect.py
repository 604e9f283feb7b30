"""Runs as Prefect shows them: on a server of the user's, with bounded numbers of tasks, and on one of ours."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from flows.engine import MAX_TASKS
from flows.serve import serve
from pipeline.table.errors import UsageError
from tests.cli_runs import environment, gristmill, running, select, started, survivors, write_config
from tests.docs.blocks import commands, held


def ask(api: str, path: str, **body: Any) -> Any:
    """Return the answer of Prefect's REST interface."""
    request = urllib.request.Request(
        f"{api}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    for attempt in range(20):
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503 or attempt == 19:  # its database is locked for a moment
                raise
            time.sleep(0.5)
    raise AssertionError


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


JOBS = """
import json
from collections import Counter

from prefect import flow

from flows import engine
from pipeline.table.interrupts import Stop

engine.MAX_TASKS, engine.RETRY_DELAYS_S, calls = 2, (0.0, 0.0), Counter()

def work(job):
    calls[job] += 1
    if job == 2 and calls[job] == 1:
        raise ConnectionResetError("a store that hangs up for a moment")
    return 10 * job

@flow
def stage():
    return engine.PrefectEngine(Stop()).map("parts", work, range(8))

print(json.dumps([stage(), sorted(calls.items())]))
"""


def test_a_passing_error_costs_its_job_another_attempt_and_no_other(tmp_path: Path, prefect_api: str) -> None:
    command = [sys.executable, "-c", JOBS]
    done = subprocess.run(command, cwd=tmp_path, env=environment(PREFECT_API_URL=prefect_api), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    results, calls = json.loads(done.stdout.splitlines()[-1])
    assert results == [10 * job for job in range(8)]
    assert calls == [[job, 2 if job == 2 else 1] for job in range(8)]


def run_now(api: str, deployment: str) -> dict[str, Any]:
    """Start a run of a deployment once it is there; return the run when it has ended."""
    deadline = time.monotonic() + 240
    while True:
        try:
            with urllib.request.urlopen(f"{api}/deployments/name/curate/{deployment}", timeout=30) as answer:
                found = json.load(answer)
            break
        except urllib.error.HTTPError:
            assert time.monotonic() < deadline, f"no deployment {deployment}"
            time.sleep(0.2)
    run = ask(api, f"deployments/{found['id']}/create_flow_run", state={"type": "SCHEDULED"})
    while run["state_type"] not in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}:
        assert time.monotonic() < deadline, run
        time.sleep(0.2)
        (run,) = ask(api, "flow_runs/filter", flow_runs={"id": {"any_": [run["id"]]}})
    return {**run, "cron": [each["schedule"]["cron"] for each in found["schedules"]]}


def scheduled(folder: Path) -> Path:
    """Write a small run's configuration and inputs."""
    (folder / "few").mkdir()
    inputs(folder / "few", 3)
    config = {"workspace": str(folder / "ws"), "sources": {"few": {"inputs": [str(folder / "few")]}}}
    return write_config(folder / "curate.yaml", config)


@pytest.mark.acceptance
def test_serve_runs_what_is_due_says_what_fails_and_ends(tmp_path: Path, prefect_api: str) -> None:
    path = scheduled(tmp_path)
    (block,) = held(test_serve_runs_what_is_due_says_what_fails_and_ends)
    ((_, *schedule),) = commands(block.text)
    with started(*schedule, cwd=tmp_path, PREFECT_API_URL=prefect_api) as command:
        run = run_now(prefect_api, "curate")
        assert (run["state_type"], run["cron"]) == ("COMPLETED", ["0 2 * * *"]), command.err()
        assert len(select(tmp_path / "ws", "FROM few.curated")) == 3
        path.write_text(path.read_text() + "selekt: {}\n")
        assert run_now(prefect_api, "curate")["state_type"] == "FAILED"
        command.wait_for(lambda err: "selekt" in err)
        os.kill(command.process.pid, signal.SIGINT)
        assert command.end(60)[0] == 130, command.err()
        lines = command.err().splitlines()
        assert f"serving curate/curate on {prefect_api}, next at " in lines[0]
        assert any("unknown key 'selekt' (nearest: 'select')" in line for line in lines)
        assert "stopped; `gristmill serve curate.yaml --cron '0 2 * * *'`" in lines[-1]
        assert "Traceback" not in command.err()


@pytest.mark.acceptance
def test_a_schedule_comes_in_its_time(tmp_path: Path, own_cache: Path) -> None:
    """The page's command, every minute in place of every night, with a server of its own."""
    scheduled(tmp_path)
    (block,) = held(test_a_schedule_comes_in_its_time)
    assert "0 2 * * *" in block.text
    ((_, *schedule),) = commands(block.text.replace("0 2 * * *", "* * * * *"))
    with started(*schedule, cwd=tmp_path, XDG_CACHE_HOME=str(own_cache)) as command:
        index = tmp_path / "ws" / "few" / "_manifests" / "curated" / "_index.json"
        command.wait_for(lambda _: index.exists(), limit_s=240)
        assert command.process.poll() is None, command.err()
        assert len(select(tmp_path / "ws", "FROM few.curated")) == 3
        os.kill(command.process.pid, signal.SIGINT)
        assert command.end(60)[0] == 130, command.err()
        assert survivors(command.mark) == []


def test_sigterm_ends_a_schedule_and_our_server(tmp_path: Path, own_cache: Path) -> None:
    scheduled(tmp_path)
    schedule = ("serve", "curate.yaml", "--cron", "0 2 * * *", "--name", "nightly")
    with started(*schedule, cwd=tmp_path, XDG_CACHE_HOME=str(own_cache)) as command:
        command.wait_for(lambda err: "serving curate/nightly" in err)
        os.kill(command.process.pid, signal.SIGTERM)
        assert command.end(60)[0] == 143, command.err()
        assert "Traceback" not in command.err()
        assert running(command.mark) == {}


def test_a_schedule_saved_as_a_file_runs(tmp_path: Path, prefect_api: str) -> None:
    (block,) = held(test_a_schedule_saved_as_a_file_runs)
    assert "/data/curate.yaml" in block.text
    (tmp_path / block.file).write_text(block.text.replace("/data/curate.yaml", str(scheduled(tmp_path))))
    environ = environment(PREFECT_API_URL=prefect_api)
    command = [sys.executable, block.file]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as served:
        try:
            run = run_now(prefect_api, "nightly-web")
        finally:
            served.send_signal(signal.SIGINT)
            printed, _ = served.communicate(timeout=60)
        assert (run["state_type"], run["cron"]) == ("COMPLETED", ["0 2 * * *"]), printed.decode()
    assert len(select(tmp_path / "ws", "FROM few.curated")) == 3


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (("--cron", "0 2 * *"), ["--cron '0 2 * *'", "five fields"]),
        (("--cron", "nightly"), ["--cron 'nightly'", "five fields"]),
        (("--cron", "0 2 31 2 *"), ["--cron '0 2 31 2 *'"]),
        (("--cron", "0 2 * * *", "--name", "a/b"), ["--name 'a/b'"]),
    ],
)
def test_a_bad_schedule_is_one_line_before_a_server_starts(
    tmp_path: Path, option: tuple[str, ...], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    options = dict(zip(option[::2], option[1::2], strict=True))
    with pytest.raises(UsageError) as caught:
        serve(str(scheduled(tmp_path)), options["--cron"], options.get("--name"))
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_run_without_a_server_starts_its_own_and_ends_it(copied: Path, own_cache: Path) -> None:
    changed = ("run", "curate.yaml", "--only", "notes", "--set", "dedup.num_bands=15", "--set", "engine.prefect=always")
    with started(*changed, cwd=copied, XDG_CACHE_HOME=str(own_cache)) as command:
        command.wait_for(lambda err: "starting Prefect" in err)
        command.wait_for(lambda err: any("flows.server" in line for line in running(command.mark).values()))
        assert command.process.poll() is None, command.err()
        code, _ = command.end(120)
        assert code == 0, command.err()
        assert running(command.mark) == {}


_SERVER = """
import json, os, signal, sys, urllib.error, urllib.request
from flows.server import prefect_server
from pipeline.table.interrupts import Stop

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


_SCHEDULED = """
import threading, time
from flows.server import prefect_server

with prefect_server(threading.Event()):
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.runner import Runner
    from flows.curate import curate

    Runner(name="nightly").add_flow(curate, name="nightly", cron="0 2 * * *")
    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": ["SCHEDULED"]}}})
    deadline = time.monotonic() + 60
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline:
            runs = client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=5)
            if runs:
                print(runs[0].expected_start_time)
                break
            time.sleep(0.2)
"""


def test_a_server_of_ours_schedules_what_a_cron_line_says(own_cache: Path) -> None:
    """Its scheduler must run: with the wrong SQLAlchemy it fails in the log alone, and no run ever begins."""
    command = [sys.executable, "-c", _SCHEDULED]
    env = environment(XDG_CACHE_HOME=str(own_cache))
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120, check=False)
    assert " 02:00:00" in done.stdout, done.stderr
