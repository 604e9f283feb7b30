"""The language model client: CPU cost beside the openai SDK, throughput of a server kept busy, memory.

    python tests/bench/bench_llm.py cost       --peer PYTHON [--rounds 3]   CPU seconds of the client's process
    python tests/bench/bench_llm.py throughput [--rounds 3]                 a server of fixed slots, beside plain loops
    python tests/bench/bench_llm.py memory     [--requests 1000000]         resident memory as requests go by

PYTHON is the interpreter of an environment with `openai`. All ask the same server on localhost, which answers at once
and runs in a process of its own; interleaved rounds, medians. Ours stores every answer durably, the SDK stores none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.llm.cache import Cache  # noqa: E402
from pipeline.llm.client import complete_sync  # noqa: E402
from pipeline.llm.config import EndpointConfig  # noqa: E402
from pipeline.llm.types import Counts, Parameters, Report, Request, make_request  # noqa: E402
from tests.bench.tables import Table, bench_parser  # noqa: E402
from tests.faults.llm_server import Server  # noqa: E402

WORDS = "word " * 100
PEER = """
import asyncio, json, sys, time
import openai

async def run(url, requests, concurrency):
    client = openai.AsyncOpenAI(base_url=url, api_key="none")
    numbers = iter(range(requests))
    async def work():
        for number in numbers:
            answer = await client.chat.completions.create(model="tiny", max_tokens=256, temperature=0, messages=[
                {"role": "user", "content": f"document {number:09} " + "word " * 100}])
            assert answer.choices[0].message.content
    began = time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    return time.process_time() - began

print(json.dumps(asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))))
"""


def requests(endpoint: EndpointConfig, count: int) -> Iterator[Request]:
    parameters = Parameters(max_tokens=256, temperature=0)
    for number in range(count):
        messages = [{"role": "user", "content": f"document {number:09} {WORDS}"}]
        yield make_request(endpoint, messages, parameters, prompt_hash="p", order=f"{number:09}")


def asked(url: str, count: int, concurrency: int, on_progress: Callable[[Counts], None] | None = None) -> Report:
    """Ask for `count` answers with an empty cache."""
    endpoint = EndpointConfig(base_url=url, model="tiny", max_concurrency=concurrency)
    with tempfile.TemporaryDirectory(prefix="bench-llm-") as folder, Cache(folder) as cache:
        report = complete_sync(requests(endpoint, count), [endpoint], cache, on_progress=on_progress)
    assert report.counts.answered == count
    return report


def cost(options: argparse.Namespace) -> None:
    """Print requests a CPU second of ours and of the SDK, and the ratio."""
    ours: dict[int, list[float]] = {16: [], 64: [], 256: []}
    peer: list[float] = []
    with Server() as server:
        asked(server.url, 200, 16)  # imports
        for _ in range(options.rounds):
            for concurrency, rates in ours.items():
                began = time.process_time()
                asked(server.url, options.requests or 10_000, concurrency)
                rates.append((options.requests or 10_000) / (time.process_time() - began))
            command = [options.peer, "-c", PEER, server.url, "1500", "64"]
            peer.append(1500 / float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    theirs = statistics.median(peer)
    table = Table("llm-cost", options.csv, "client at_once requests_per_cpu_s ratio")
    table.row("openai SDK", 64, theirs, 1.0)
    for concurrency, rates in ours.items():
        rate = statistics.median(rates)
        table.row("ours", concurrency, rate, rate / theirs)


async def fixed_loop(url: str, count: int, concurrency: int) -> float:
    """Return requests a second of the plainest closed loop."""
    import aiohttp

    endpoint = EndpointConfig(base_url=url, model="tiny")
    source = requests(endpoint, count)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for request in source:
                async with session.post(f"{url}/chat/completions", data=request.body) as answer:
                    await answer.read()

        began = time.monotonic()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return count / (time.monotonic() - began)


def throughput(options: argparse.Namespace) -> None:
    """Add rows of our share of the best closed loop, for servers of several sizes."""
    table = Table("llm-throughput", options.csv, "slots service_s best_loop_per_s ours_per_s share limit")
    for slots, service_s, count in ((4, 0.02, 2000), (16, 0.05, 4000), (64, 0.1, 6000)):
        best, ours, limits = [], [], []
        for _ in range(options.rounds):
            with Server(slots=slots, service_s=service_s) as server:
                best.append(max(asyncio.run(fixed_loop(server.url, count // 4, n)) for n in (slots, 2 * slots)))
                report = asked(server.url, count, 256)
                ours.append(count / report.wall_s)
                limits.append(report.endpoints[0].limit)
        loop, rate = statistics.median(best), statistics.median(ours)
        table.row(slots, service_s, loop, rate, rate / loop, statistics.median(limits))


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(options: argparse.Namespace) -> None:
    """Add rows of resident memory at twenty moments of a long run."""
    table = Table("llm-memory", options.csv, "answered resident_mb")
    count = options.requests or 1_000_000
    marks = iter(range(count // 20, count + 1, count // 20))
    mark = next(marks)

    def note(counts: Counts) -> None:
        nonlocal mark
        if counts.answered >= mark:
            table.row(counts.answered, resident_mb())
            mark = next((m for m in marks if m > counts.answered), count * 2)

    with Server() as server:
        began, cpu = time.monotonic(), time.process_time()
        asked(server.url, count, 64, note)
        print(f"{time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} CPU s")


def main() -> None:
    parser = bench_parser(__doc__)
    parser.add_argument("what", choices=("cost", "throughput", "memory"))
    parser.add_argument("--peer", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int)
    options = parser.parse_args()
    if options.what == "cost" and options.peer is None:
        parser.error("cost needs --peer PYTHON, an interpreter with openai")
    {"cost": cost, "throughput": throughput, "memory": memory}[options.what](options)


if __name__ == "__main__":
    main()
