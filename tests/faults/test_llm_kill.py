"""SIGKILL of the client and of the server at any moment: the same answers in the end, and few asked for twice."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.llm.cache import Cache
from pipeline.llm.types import Answer
from tests.faults.llm_server import Server

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCY = 16
LINE_BYTES = len("call ") + 32 + 1
SERVER = {"slots": 16, "service_s": 0.01}
RUN = """
import sys
from pipeline.llm.cache import Cache
from pipeline.llm.client import complete_sync
from pipeline.llm.config import ClientConfig, EndpointConfig
from pipeline.llm.types import Parameters, make_request

url, folder, count, concurrency = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
endpoint = EndpointConfig(base_url=url, model="tiny", max_concurrency=concurrency)
config = ClientConfig(backoff_s=0.01, backoff_cap_s=0.1)
parameters = Parameters(max_tokens=64, temperature=0)
source = (
    make_request(endpoint, [{"role": "user", "content": f"document {n:06} {'word ' * (n % 9)}"}], parameters,
                 order=f"{n:09}")
    for n in range(count)
)
import aiohttp
with Cache(folder) as cache:
    print("ready", flush=True)
    counts = complete_sync(source, [endpoint], cache, config=config).counts
    print(counts.seen, counts.cached, counts.answered, counts.failed, flush=True)
"""


def started(url: str, folder: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, url, str(folder), str(count), str(CONCURRENCY)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finished(process: subprocess.Popen[str], count: int) -> int:
    """Check that a run ended with everything; return how many answers it found stored."""
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    seen, cached, answered, failed = map(int, text.split())
    assert (seen, failed) == (count, 0)
    assert cached + answered == count
    return cached


def answers(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Return what is stored under each key, but for where it came from and how often it was tried."""
    with Cache(folder) as cache:
        records = list(cache.records())
    assert len({record.key for record in records}) == len(records)
    assert all(isinstance(record, Answer) for record in records)
    return {r.key: (r.text, r.finish_reason, r.prompt_tokens, r.completion_tokens, r.model) for r in records}  # type: ignore[union-attr]


def repeated(log: Path) -> int:
    """Return how many calls a server saw of requests that it had seen already."""
    calls = Counter(line for line in log.read_text().splitlines() if line.startswith("call"))
    return sum(calls.values()) - len(calls)


def uninterrupted(folder: Path, count: int) -> dict[bytes, tuple[object, ...]]:
    """Return the answers of a run that nothing disturbs."""
    log = folder / "whole.log"
    with Server(**SERVER, log=log) as server:
        assert finished(started(server.url, folder / "whole", count), count) == 0
    assert repeated(log) == 0
    return answers(folder / "whole")


def wait_for(log: Path, lines: float, process: subprocess.Popen[str]) -> None:
    """Wait until a server has logged that many calls and answers, or the client is done."""
    while process.poll() is None and log.stat().st_size < lines * LINE_BYTES:
        time.sleep(0.001)


def kill_clients(folder: Path, kills: int, count: int) -> int:
    """Kill that many clients, each on top of what the last left; return how many were in the middle of their work."""
    expected, chance, interrupted = uninterrupted(folder, count), random.Random(kills), 0
    for first in range(0, kills, 3):
        target, log, here = folder / f"{first}", folder / f"{first}.log", min(3, kills - first)
        with Server(**SERVER, log=log) as server:
            for moment in sorted(chance.uniform(0, 2 * count) for _ in range(here)):
                process = started(server.url, target, count)
                wait_for(log, moment, process)
                process.kill()
                text, _ = process.communicate()
                interrupted += not text
            finished(started(server.url, target, count), count)
        assert answers(target) == expected
        assert repeated(log) <= CONCURRENCY * here
    return interrupted


def kill_servers(folder: Path, kills: int, count: int) -> int:
    """Kill the server at that many moments under a client that goes on; return how often it was."""
    expected, chance, log = uninterrupted(folder, count), random.Random(kills), folder / "calls.log"
    server, killed = Server(**SERVER, log=log).start(), 0
    process = started(server.url, folder / "target", count)
    try:
        for moment in sorted(chance.uniform(0, 2 * count) for _ in range(kills)):
            wait_for(log, moment, process)
            if process.poll() is None:
                server.kill()
                time.sleep(chance.uniform(0, 0.05))
                server.start()
                killed += 1
        finished(process, count)
    finally:
        process.kill()
        server.kill()
    assert answers(folder / "target") == expected
    assert repeated(log) <= CONCURRENCY * killed
    return killed


def test_five_killed_clients_resume_to_the_same_answers(tmp_path: Path) -> None:
    assert kill_clients(tmp_path, 5, 500) >= 3


def test_five_killed_servers_cost_at_most_what_was_under_way(tmp_path: Path) -> None:
    assert kill_servers(tmp_path, 5, 800) >= 4


def test_an_interrupt_stores_what_was_answered(tmp_path: Path) -> None:
    log = tmp_path / "calls.log"
    with Server(**SERVER, log=log) as server:
        process = started(server.url, tmp_path / "a", 2000)
        wait_for(log, 400, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
        assert process.stdout is not None
        process.stdout.close()
        answered = log.read_text().count("done")
    assert answered - CONCURRENCY <= len(answers(tmp_path / "a")) <= answered < 2000


def test_a_full_disk_is_one_line_and_the_next_run_resumes(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    log = tmp_path / "calls.log"
    with Server(**SERVER, log=log) as server:
        command = [sys.executable, "-c", limit + RUN, server.url, str(tmp_path / "a"), "300", str(CONCURRENCY)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 1
        assert "disk I/O error; make room and run again, it resumes" in ran.stderr.splitlines()[-1]
        stored = len(answers(tmp_path / "a"))
        assert 20 < stored < 300
        assert finished(started(server.url, tmp_path / "a", 300), 300) == stored
    assert len(answers(tmp_path / "a")) == 300
    assert repeated(log) <= CONCURRENCY


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_fifty_killed_clients_resume_to_the_same_answers(tmp_path: Path) -> None:
    assert kill_clients(tmp_path, 50, 1500) >= 40


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_fifty_killed_servers_cost_at_most_what_was_under_way(tmp_path: Path) -> None:
    assert kill_servers(tmp_path, 50, 10_000) >= 45


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_clients_and_servers_killed_together(tmp_path: Path) -> None:
    count, kills = 3000, 50
    expected = uninterrupted(tmp_path, count)
    chance, log, is_over = random.Random(3), tmp_path / "calls.log", threading.Event()
    server = Server(**SERVER, log=log).start()
    server_kills = 0

    def kill_server() -> None:
        nonlocal server_kills
        while not is_over.wait(chance.uniform(0.1, 2.0)):
            server.kill()
            server.start()
            server_kills += 1

    killer = threading.Thread(target=kill_server)
    killer.start()
    client_kills, folder = 0, tmp_path / "target"
    try:
        while client_kills < kills:
            process = started(server.url, folder, count)
            time.sleep(chance.uniform(0, 0.2))
            process.kill()
            client_kills += 1
            process.communicate()
    finally:
        is_over.set()
        killer.join()
    finished(started(server.url, folder, count), count)
    server.kill()
    assert answers(folder) == expected
    assert repeated(log) <= CONCURRENCY * (client_kills + server_kills)
