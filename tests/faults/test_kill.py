"""Runs that are killed, stopped, or out of disk: nothing is left running, and going on gives the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import quickstart
from tests.cli_runs import Ran, Started, assert_same, gristmill, running, select, started, survivors, write_config
from tests.local_run import rows, run_all, write_jsonl

EXIT_LIMIT_S = 5.0
"""From Ctrl-C to the end of the process."""
LOADED_S = 4.0
"""What a machine that runs other tests beside this one may add."""


def kill_at(moment: float, command: Started, lines: int, chance: random.Random) -> None:
    """Kill a run when it has written that share of an uninterrupted run's lines, or a little later."""
    command.wait_for(lambda err: len(err.splitlines()) >= moment * lines)
    time.sleep(chance.uniform(0, 0.4))
    command.kill()


def killed_and_resumed(folder: Path, moment: float, first_run: Ran, **extra: str) -> bool:
    """Kill a run in a new folder, resume it, and tell whether the kill came before its end."""
    sources = yaml.safe_load((folder / "curate.yaml").read_text())["sources"]
    written, _, _ = first_run.err.partition("\nsource ")  # the closing table comes at once
    lines = sum(line.startswith(("starting", *sources)) for line in written.splitlines())
    with started("run", "curate.yaml", cwd=folder, **extra) as command:
        kill_at(moment, command, lines, random.Random(f"{moment}"))
        interrupted = command.process.returncode == -signal.SIGKILL
    resumed = gristmill("run", "curate.yaml", cwd=folder, **extra)
    assert resumed.code == 0, resumed.err
    assert not list((folder / "ws" / "_tmp").iterdir())
    return interrupted


@pytest.mark.parametrize("moment", [0.1, 0.6])
def test_a_killed_run_goes_on_to_the_same_bytes(
    finished: Path, first_run: Ran, web_config: dict[str, Any], tmp_path: Path, prefect_api: str, moment: float
) -> None:
    write_config(tmp_path / "curate.yaml", web_config)
    assert killed_and_resumed(tmp_path, moment, first_run, PREFECT_API_URL=prefect_api)
    assert_same(tmp_path / "ws", finished / "ws")


@pytest.mark.acceptance
@pytest.mark.timeout(3000)
def test_twenty_killed_runs_go_on_to_the_same_bytes(
    finished: Path, first_run: Ran, config: dict[str, Any], tmp_path: Path, prefect_api: str, own_cache: Path
) -> None:
    chance = random.Random(20)
    interrupted = 0
    for number in range(20):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        write_config(folder / "curate.yaml", config)
        extra = {"PREFECT_API_URL": prefect_api} if number % 4 else {"XDG_CACHE_HOME": str(own_cache)}
        interrupted += killed_and_resumed(folder, chance.random(), first_run, **extra)
        assert_same(folder / "ws", finished / "ws")
    assert interrupted >= 18


# Nothing is left running ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a crawl of one page, on which extraction takes minutes of CPU time, and its `curate.yaml`."""
    folder = tmp_path_factory.mktemp("looping")
    page = b"<html><body>" + b"<div><p>word word word word.</p></div>" * 49_000 + b"</body></html>"
    quickstart.write_warc(folder / "slow.warc.gz", [quickstart.Visit("https://slow.example/", page)])
    sources = {"web": {"format": "warc", "inputs": [str(folder / "slow.warc.gz")]}}
    write_config(
        folder / "curate.yaml", {"workspace": "ws", "sources": sources, "engine": {"workers": 2, "prefect": "always"}}
    )
    return folder


def in_page(command: Started) -> None:
    """Wait until extraction has been busy with the page for a while."""
    command.wait_for(lambda err: "web extract: 1 shard" in err)
    time.sleep(2)
    assert command.process.poll() is None, command.err()


def in_start(command: Started) -> None:
    """Wait until Prefect's server is starting, in its own session."""
    command.wait_for(lambda err: "starting Prefect" in err)
    deadline = time.monotonic() + 20
    while not any("flows.server" in line for line in running(command.mark).values()):
        assert time.monotonic() < deadline
    assert command.process.poll() is None


@pytest.mark.parametrize("during", [in_page, in_start])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(
    looping: Path, tmp_path: Path, own_cache: Path, prefect_api: str, during: Any, sent: signal.Signals
) -> None:
    """SIGTERM in a page comes under a server of the user's, everything else under one of ours."""
    users = during is in_page and sent == signal.SIGTERM
    extra = {"PREFECT_API_URL": prefect_api} if users else {"XDG_CACHE_HOME": str(own_cache)}
    config = str(looping / "curate.yaml")
    with started("run", config, "--set", f"workspace={tmp_path}/ws", cwd=tmp_path, **extra) as command:
        during(command)
        assert users or any("flows.server" in line for line in running(command.mark).values())
        if sent == signal.SIGKILL:
            os.kill(command.process.pid, sent)  # the process alone: what it started must notice
        else:
            os.killpg(command.process.pid, sent)  # as a terminal does
        code, elapsed_s = command.end(30)
        assert survivors(command.mark) == []
        if sent == signal.SIGKILL:
            assert code == -signal.SIGKILL
            return
        assert code == 128 + sent, command.err()
        assert elapsed_s < EXIT_LIMIT_S + LOADED_S
        last = command.err().splitlines()[-1]
        assert f"`gristmill run {config}" in last
        assert "goes on" in last
        assert "Traceback" not in command.err()


def test_a_page_that_loops_costs_itself_alone(looping: Path, tmp_path: Path, prefect_api: str) -> None:
    limit = ("--set", "extract.limits.cpu_s=1", "--set", f"workspace={tmp_path}/ws")
    ran = gristmill("run", str(looping / "curate.yaml"), *limit, cwd=tmp_path, PREFECT_API_URL=prefect_api)
    assert ran.code == 0, ran.err
    assert select(tmp_path / "ws", "SELECT url, reason FROM web.rejects") == [
        {"url": "https://slow.example/", "reason": "timeout"}
    ]


# A full disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_the_run_goes_on(
    finished: Path, web_config: dict[str, Any], tmp_path: Path, small_disk: Path, prefect_api: str
) -> None:
    write_config(tmp_path / "curate.yaml", {**web_config, "workspace": str(small_disk / "ws")})
    (small_disk / "ballast").write_bytes(b"\0" * (400 << 10))
    full = gristmill("run", "curate.yaml", cwd=tmp_path, PREFECT_API_URL=prefect_api)
    assert full.code == 1, full.err
    errors = [line for line in full.err.splitlines() if line.startswith("gristmill: ")]
    assert len(errors) == 1
    assert errors[0] == full.err.splitlines()[-1]
    assert "disk full" in errors[0]
    assert str(small_disk) in errors[0]
    assert "Traceback" not in full.err
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    resumed = gristmill("run", "curate.yaml", cwd=tmp_path, PREFECT_API_URL=prefect_api)
    assert resumed.code == 0, resumed.err
    assert_same(small_disk / "ws", finished / "ws")


def test_an_export_to_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, small_disk: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(2000))
    run_all({"workspace": str(tmp_path / "ws"), "sources": {"a": {"inputs": [str(tmp_path / "a.jsonl")]}}})
    (small_disk / "ballast").write_bytes(b"\0" * (450 << 10))
    for options in (["--as", "parquet"], ["--as", "jsonl.zst"], ["--as", "partitioned", "--by", "language"]):
        full = gristmill("export", "ws", "a", "--to", str(small_disk / "out"), *options, cwd=tmp_path)
        assert full.code == 1, full.err
        assert full.err.startswith(f"gristmill: disk full while writing {small_disk}/out/")
        assert full.err.count("\n") == 1
        assert [path.name for path in small_disk.iterdir()] == ["ballast"]


# Commands that only read ----------------------------------------------------------------------------------------------

_ENDLESS = "SELECT sum(a.range * b.range) FROM range(1000000) a, range(100000000) b"
"""DuckDB hears of no interrupt while it joins these."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_long_query_ends_at_once_and_leaves_no_folder(tmp_path: Path, number: signal.Signals) -> None:
    write_jsonl(tmp_path / "a.jsonl", rows(3))
    run_all({"workspace": str(tmp_path / "ws"), "sources": {"a": {"inputs": [str(tmp_path / "a.jsonl")]}}}, "extract")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with started("sql", "ws", _ENDLESS, cwd=tmp_path, TMPDIR=str(temporary)) as command:
        deadline = time.monotonic() + 60
        while not list(temporary.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1.0)
        command.process.send_signal(number)
        code, elapsed_s = command.end(20)
    assert (code, command.err()) == (128 + number, "gristmill: stopped\n")
    assert elapsed_s < 2.0 + LOADED_S
    assert list(temporary.iterdir()) == []
