"""SIGKILL of `gristmill rephrase` and of the server that it asks: the rows of an uninterrupted run, byte for byte."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flows.config import RunConfig
from flows.stages import TABLE, opened
from pipeline.table.stages import run_stage
from tests.cli_runs import Started, gristmill, once, started, write_config
from tests.faults.llm_server import Server
from tests.local_run import rows, run_all, write_jsonl
from tests.rephrase_documents import listed

CONCURRENCY = 8
PARENTS = 60
REQUESTS = 2 * PARENTS
SERVER = {"slots": 8, "service_s": 0.02}
LINE_BYTES = len("call ") + 32 + 1
GROUPS = ("documents", "rejects", "signals/rephrase")
STYLES = {"plain": "Say it plainly: {text}", "other": "Say it otherwise: {text}"}


@pytest.fixture(scope="session")
def material(shared: Path) -> Path:
    """A folder with a selected source in `ws`, and `expected.json`: the bytes of an uninterrupted run."""
    folder = shared / "rephrase-kill"
    with once(folder) as to_do:
        if to_do:
            write_jsonl(folder / "in.jsonl", rows(PARENTS))
            (folder / "prompts").mkdir()
            for name, user in STYLES.items():
                style = {"name": name, "user": user, "input_tokens": 200, "output_tokens": 100}
                (folder / "prompts" / f"{name}.yaml").write_text(json.dumps(style))
            source = {"format": "jsonl", "inputs": [str(folder / "in.jsonl")]}
            rules = {"rules": {"all": "text_length > 0"}}
            selected = {"sources": {"web": source}, "select": rules, "engine": {"workers": 1}}
            (folder / "selected.json").write_text(json.dumps(selected))
            with Server() as server:
                config = configured(folder, folder, server)
                run_all({**config, "rephrase": None})
                shutil.copytree(folder / "ws", folder / "whole")
                checked = RunConfig.model_validate({**config, "workspace": str(folder / "whole")})
                with opened(checked, "test") as run:
                    run_stage(TABLE["rephrase"].make(run, ("web",)), run)
            (folder / "expected.json").write_text(json.dumps(listed(folder / "whole", "web_rephrased")))
    return folder


def configured(material: Path, folder: Path, server: Server) -> dict[str, Any]:
    """Return the configuration of a run in `folder` that asks `server`."""
    endpoint = {"base_url": server.url, "model": "tiny", "max_concurrency": CONCURRENCY}
    rephrase = {
        "source": "web",
        "endpoint": endpoint,
        "routes": [{"styles": list(STYLES)}],
        "prompts": str(material / "prompts"),
        "part_requests": 16,
        "client": {"backoff_s": 0.01, "backoff_cap_s": 0.1, "start_timeout_s": 20, "drain_s": 1},
    }
    selected = json.loads((material / "selected.json").read_text())
    return {"workspace": str(folder / "ws"), **selected, "rephrase": rephrase}


def repeated(log: Path) -> int:
    """Return how many calls asked for what had been asked before."""
    calls = Counter(line.split()[1] for line in log.read_text().splitlines() if line.startswith("call "))
    return sum(count - 1 for count in calls.values())


def wait_for(log: Path, lines: float, command: Started) -> None:
    """Wait until a server has logged that many calls and answers, or the command is done."""
    deadline = time.monotonic() + 120
    while command.process.poll() is None and log.stat().st_size < lines * LINE_BYTES:
        assert time.monotonic() < deadline, command.err()
        time.sleep(0.001)


def test_what_is_expected_is_all_there_is(material: Path) -> None:
    expected = json.loads((material / "expected.json").read_text())
    assert {group: len(parts) for group, parts in expected.items()} == dict.fromkeys(GROUPS, -(-REQUESTS // 16))


def kill_commands(material: Path, folder: Path, moments: list[float], chance: random.Random) -> int:
    """Kill the command when the server has logged so many lines, each on top of what the last left, and finish.

    A moment at the log's last line or after it lies in the writing of rows. Returns how many were killed in their work.
    """
    shutil.copytree(material / "ws", folder / "ws")
    log, interrupted = folder / "calls.log", 0
    with Server(**SERVER, log=log) as server:
        config = str(write_config(folder / "run.yaml", configured(material, folder, server)))
        for moment in sorted(moments):
            with started("rephrase", config, cwd=folder) as command:
                wait_for(log, min(moment, 2 * REQUESTS), command)
                if moment > 2 * REQUESTS:
                    time.sleep(chance.uniform(0, 0.3))
                command.kill()
                interrupted += command.process.returncode == -signal.SIGKILL
        done = gristmill("rephrase", config, cwd=folder)
        assert done.code == 0, done.err
        before = server.stats()["calls"]
        assert "nothing to do" in gristmill("rephrase", config, cwd=folder).err
        assert server.stats()["calls"] == before
    assert listed(folder / "ws", "web_rephrased") == json.loads((material / "expected.json").read_text())
    assert repeated(log) <= CONCURRENCY * len(moments)
    return interrupted


def kill_servers(material: Path, folder: Path, moments: list[float], chance: random.Random) -> int:
    """Kill the server when it has logged so many lines under a command that goes on; return how often it was."""
    shutil.copytree(material / "ws", folder / "ws")
    log, killed = folder / "calls.log", 0
    server = Server(**SERVER, log=log).start()
    try:
        config = str(write_config(folder / "run.yaml", configured(material, folder, server)))
        with started("rephrase", config, cwd=folder) as command:
            for moment in sorted(moments):
                wait_for(log, moment, command)
                if command.process.poll() is None:
                    server.kill()
                    time.sleep(chance.uniform(0, 0.3))
                    server.start()
                    killed += 1
            command.wait_for(lambda _: False)
            assert command.process.returncode == 0, command.err()
    finally:
        server.kill()
    assert listed(folder / "ws", "web_rephrased") == json.loads((material / "expected.json").read_text())
    assert repeated(log) <= CONCURRENCY * killed
    return killed


def test_killed_commands_go_on_to_the_same_bytes(material: Path, tmp_path: Path) -> None:
    chance = random.Random(2)
    assert kill_commands(material, tmp_path, [chance.uniform(0, 2 * REQUESTS), 2 * REQUESTS + 1], chance) >= 1


def test_a_killed_server_costs_at_most_what_was_under_way(material: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    assert kill_servers(material, tmp_path, [chance.uniform(20, 1.5 * REQUESTS)], chance) == 1


@pytest.mark.parametrize(("service_s", "hangs"), [(0.02, False), (3600, True)])
def test_ctrl_c_keeps_what_was_answered(material: Path, tmp_path: Path, service_s: float, hangs: bool) -> None:
    """Also when the server never answers what is under way."""
    shutil.copytree(material / "ws", tmp_path / "ws")
    log = tmp_path / "calls.log"
    with Server(**{**SERVER, "service_s": service_s}, log=log) as server:
        config = str(write_config(tmp_path / "run.yaml", configured(material, tmp_path, server)))
        with started("rephrase", config, cwd=tmp_path) as command:
            wait_for(log, CONCURRENCY if hangs else REQUESTS / 2, command)
            os.killpg(command.process.pid, signal.SIGINT)
            code, _ = command.end(30)
            err = command.err()
    assert code == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("gristmill: stopped; ")
    with Server(log=log) as server:
        config = str(write_config(tmp_path / "run.yaml", configured(material, tmp_path, server)))
        resumed = gristmill("rephrase", config, cwd=tmp_path)
        assert resumed.code == 0, resumed.err
    assert listed(tmp_path / "ws", "web_rephrased") == json.loads((material / "expected.json").read_text())
    assert repeated(log) <= CONCURRENCY


@pytest.mark.acceptance
@pytest.mark.timeout(3000)
def test_fifty_kills_at_random_points(material: Path, tmp_path: Path) -> None:
    chance, interrupted, killed = random.Random(50), 0, 0
    for number in range(10):
        folder = tmp_path / f"{number}"
        (folder / "commands").mkdir(parents=True)
        (folder / "servers").mkdir()
        moments = [chance.uniform(0, 2 * REQUESTS + 40) for _ in range(3)]
        interrupted += kill_commands(material, folder / "commands", moments, chance)
        killed += kill_servers(material, folder / "servers", [chance.uniform(0, 1.8 * REQUESTS) for _ in "ab"], chance)
    assert interrupted >= 24
    assert killed >= 16
