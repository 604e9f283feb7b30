"""The client against a server that misbehaves: every request ends with an answer or a named failure, none twice."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.llm.cache import Cache
from pipeline.llm.client import complete_sync
from pipeline.llm.config import BudgetConfig, ClientConfig, EndpointConfig
from pipeline.llm.types import REASONS, Answer, Counts, Failure, Parameters, Report, Request, make_request
from pipeline.table.errors import ConservationError, GristmillError
from tests.faults.llm_server import FAULTS, Server, answer_to

ROOT = Path(__file__).resolve().parents[2]
QUICK = ClientConfig(backoff_s=0.001, backoff_cap_s=0.02, retry_after_cap_s=0.05, start_timeout_s=1.0)
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def endpoint(url: str, **fields: object) -> EndpointConfig:
    return EndpointConfig.model_validate({"base_url": url, "model": "tiny", "max_concurrency": 32, **fields})


def prompt(number: int) -> str:
    return f"document {number:06}: {'word ' * (number % 7)}"


def requests(target: EndpointConfig, prompts: list[str] | int, **parameters: object) -> list[Request]:
    texts = [prompt(number) for number in range(prompts)] if isinstance(prompts, int) else prompts
    settings = Parameters.model_validate({"max_tokens": 64, **parameters})
    return [
        make_request(target, [{"role": "user", "content": text}], settings, order=f"{number:09}")
        for number, text in enumerate(texts)
    ]


def check_answers(cache: Cache, asked: list[Request]) -> Counter[str]:
    """Check that each request has one result, and each answer its own text; return the outcomes."""
    outcomes: Counter[str] = Counter()
    for request in asked:
        result = cache.get(request.key)
        assert result is not None, request.order
        if isinstance(result, Answer):
            assert result.text == answer_to(json.loads(request.body)["messages"][-1]["content"])
            outcomes["answer"] += 1
        else:
            assert result.reason in REASONS
            outcomes[result.reason] += 1
    keys = [record.key for record in cache.records()]
    assert len(keys) == len(set(keys)) == len({request.key for request in asked})
    return outcomes


def conserved(counts: Counts) -> bool:
    return counts.seen == counts.cached + counts.answered + counts.failed + counts.repeated


def test_every_request_is_answered_once_and_never_asked_again(server: Server, tmp_path: Path) -> None:
    target = endpoint(server.url)
    asked = requests(target, 300)
    before = server.stats()["calls"]
    progress: list[int] = []
    with Cache(tmp_path) as cache:
        report = complete_sync(iter(asked), [target], cache, on_progress=lambda counts: progress.append(counts.seen))
        assert (report.counts.answered, report.counts.calls, report.stopped) == (300, 300, None)
        assert report.counts.prompt_tokens > 300
        assert check_answers(cache, asked) == {"answer": 300}
        assert progress[-1] == 300
    with Cache(tmp_path) as cache:  # without a server: nothing is missing, so none is needed
        gone = endpoint("http://127.0.0.1:9/v1")
        report = complete_sync(requests(gone, 300), [gone], cache)
        assert (report.counts.cached, report.counts.calls, report.endpoints) == (300, 0, ())
    assert server.stats()["calls"] - before == 300


def test_the_same_request_twice_is_asked_once(server: Server, tmp_path: Path) -> None:
    target = endpoint(server.url)
    asked = requests(target, [prompt(number // 3) for number in range(90)])
    with Cache(tmp_path) as cache:
        counts = complete_sync(asked, [target], cache).counts
        assert counts.calls == 30
        assert conserved(counts)
        assert check_answers(cache, asked) == {"answer": 90}


def test_completions_endpoints_are_asked_with_a_prompt(server: Server, tmp_path: Path) -> None:
    target = endpoint(server.url, kind="completions")
    asked = make_request(target, "Once upon a time", Parameters(max_tokens=64))
    with Cache(tmp_path) as cache:
        complete_sync([asked], [target], cache)
        result = cache.get(asked.key)
    assert isinstance(result, Answer)
    assert result.text == answer_to("Once upon a time")


def test_thirty_percent_of_faults_of_every_kind(tmp_path: Path) -> None:
    with Server(faults=0.3, seed=1) as server, Cache(tmp_path) as cache:
        target = endpoint(server.url, timeout_s=0.3)
        asked = requests(target, 600)
        report = complete_sync(asked, [target], cache, config=QUICK)
        seen = server.stats()
    outcomes = check_answers(cache, asked)
    assert set(seen["faults"]) == set(FAULTS)
    assert sum(outcomes.values()) == 600
    assert outcomes["answer"] >= 595
    assert conserved(report.counts)
    assert report.counts.calls == seen["calls"] == 600 + sum(report.counts.retries.values()) - report.counts.failed
    named = {"rate_limited", "server_error", "busy", "timeout", "connection", "broken_answer"}
    assert named | {"wrong_model", "wrong_request", "impossible_usage"} <= set(report.counts.retries)


@pytest.mark.parametrize("kind", FAULTS)
def test_each_kind_of_fault_alone_is_survived(kind: str, tmp_path: Path) -> None:
    with Server(faults=0.3, seed=2, kinds=kind) as server, Cache(tmp_path) as cache:
        target = endpoint(server.url, timeout_s=0.2)
        asked = requests(target, 40)
        complete_sync(asked, [target], cache, config=QUICK)
        assert server.stats()["faults"][kind] > 3
        assert check_answers(cache, asked)["answer"] >= 38


def test_poison_is_set_aside_by_name_and_the_rest_goes_on(server: Server, tmp_path: Path) -> None:
    target = endpoint(server.url)
    asked = requests(target, [f"{prompt(n)} {({7: 'POISON', 30: 'REFUSED'}).get(n, '')}" for n in range(60)])
    with Cache(tmp_path) as cache:
        report = complete_sync(asked, [target], cache, config=QUICK)
        assert report.counts.failures == {"server_error": 1, "refused": 1}
        assert check_answers(cache, asked) == {"answer": 58, "server_error": 1, "refused": 1}
        poison, refused = cache.get(asked[7].key), cache.get(asked[30].key)
        assert isinstance(poison, Failure)
        assert isinstance(refused, Failure)
        assert (poison.attempts, refused.attempts) == (QUICK.max_attempts, 1)
        assert refused.detail == "400 this model's maximum context length is 8"
        assert complete_sync(asked, [target], cache, config=QUICK).counts.calls == 0
        again = QUICK.model_copy(update={"retry_failed": True})
        assert complete_sync(asked, [target], cache, config=again).counts.calls == QUICK.max_attempts + 1


def test_poison_that_kills_the_server_is_set_aside(tmp_path: Path) -> None:
    server = Server().start()
    target = endpoint(server.url, max_concurrency=8)
    asked = requests(target, [f"{prompt(n)} {'CRASH' if n == 20 else ''}" for n in range(60)])
    is_over = threading.Event()

    def restart() -> None:
        while not is_over.is_set():
            assert server.process is not None
            if server.process.poll() is not None:
                server.start()
            time.sleep(0.02)

    keeper = threading.Thread(target=restart)
    keeper.start()
    try:
        with Cache(tmp_path) as cache:
            complete_sync(asked, [target], cache, config=QUICK.model_copy(update={"max_attempts": 1}))
            outcomes = check_answers(cache, asked)
    finally:
        is_over.set()
        keeper.join()
        server.kill()
    assert outcomes["connection"] >= 1
    assert outcomes["answer"] >= 55


# What stops a run -----------------------------------------------------------------------------------------------------


def message_of(target: EndpointConfig, folder: Path, config: ClientConfig = QUICK, code: int = 2) -> str:
    """Return the one line that a run ends with."""
    with Cache(folder) as cache:
        began = time.monotonic()
        with pytest.raises(GristmillError) as caught:
            complete_sync(requests(target, 100), [target], cache, config=config)
        assert caught.value.exit_code == code
        assert time.monotonic() - began < 20
        assert len(cache) == 0
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_reachable_endpoint_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    assert f"no endpoint is reachable ({url}: " in message_of(endpoint(url), tmp_path)
    assert "no endpoint is reachable" in message_of(endpoint("http://no.such.host.invalid/v1"), tmp_path)


def test_an_unknown_model_or_path_is_one_line(server: Server, tmp_path: Path) -> None:
    assert "404 model 'huge' does not exist" in message_of(endpoint(server.url, model="huge"), tmp_path)
    assert "404 no such path" in message_of(endpoint(server.url.replace("/v1", "/v2")), tmp_path)


def test_a_setting_that_no_request_survives_stops_early(tmp_path: Path) -> None:
    with Server(faults=1.0, kinds="wrong_model") as server:
        config = QUICK.model_copy(update={"max_attempts": 2})
        assert "the first 20 requests all failed, the last: wrong_model" in message_of(
            endpoint(server.url), tmp_path, config, code=1
        )
        assert server.stats()["calls"] < 200


def test_where_every_request_fails_nothing_is_stored_and_the_next_run_asks_again(tmp_path: Path) -> None:
    with Server() as server, Cache(tmp_path) as cache:
        target = endpoint(server.url)
        asked = requests(target, ["REFUSED a", "REFUSED b"])
        for _ in range(2):
            with pytest.raises(GristmillError, match=r"the 2 requests all failed, the last: refused.*none was stored"):
                complete_sync(asked, [target], cache, config=QUICK)
            assert len(cache) == 0
        assert server.stats()["calls"] == 4
        known = requests(target, 3)
        complete_sync(known, [target], cache, config=QUICK)
        both = sorted([*known, *asked], key=lambda request: request.order)
        report = complete_sync(both, [target], cache, config=QUICK)
        assert report.counts.failures == {"refused": 2}, "of which others do not suffer are a reason of their own"
        assert complete_sync(both, [target], cache, config=QUICK).counts.cached_failures == 2


class _Choosy(BaseHTTPRequestHandler):
    """Takes no temperature, and names it."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"message": "Unsupported value: 'temperature' is not supported with this model."}
        choice = {"index": 0, "message": {"content": "Yes."}, "finish_reason": "stop"}
        refused = "temperature" in asked
        body = json.dumps({"error": message} if refused else {"model": asked["model"], "choices": [choice]}).encode()
        self.send_response(400 if refused else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def test_a_parameter_that_is_not_taken_stops_with_the_way_out(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Choosy) as choosy, Cache(tmp_path) as cache:
        threading.Thread(target=choosy.serve_forever, daemon=True).start()
        target = endpoint(f"http://127.0.0.1:{choosy.server_port}/v1")
        warm = Parameters(max_tokens=9, temperature=0.5)
        prompt = [{"role": "user", "content": "Well?"}]
        with pytest.raises(GristmillError, match=r"does not take `temperature`: set endpoint.omit: \[temperature\]"):
            complete_sync([make_request(target, prompt, warm)], [target], cache, config=QUICK)
        assert len(cache) == 0
        told = target.model_copy(update={"omit": ("temperature",)})
        assert complete_sync([make_request(told, prompt, warm)], [told], cache, config=QUICK).counts.answered == 1
        choosy.shutdown()


def test_the_key_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv("GM_TEST_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    with Server(key=SECRET) as server:
        target = endpoint(server.url, api_key_env="GM_TEST_KEY")
        asked = requests(target, [*(prompt(number) for number in range(20)), f"say {SECRET}"])
        with Cache(tmp_path / "good") as cache:
            report = complete_sync(asked, [target], cache, config=QUICK)
            assert report.counts.failures == {"leaked_key": 1}
        # Without the right key the server repeats the whole header, key and all.
        monkeypatch.setenv("GM_TEST_KEY", "sk-wrong-key-9876543210")
        message = message_of(target, tmp_path / "bad")
        assert "401 bad key in POST" in message
        assert "check api_key_env" in message
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for secret in (SECRET, "sk-wrong-key-9876543210"):
        assert secret not in message + caplog.text + repr(report) + repr(target)
        assert secret.encode() not in stored
    monkeypatch.delenv("GM_TEST_KEY")
    assert "GM_TEST_KEY is not set" in message_of(target, tmp_path / "unset")


def test_silence_ends_a_run_after_a_while(tmp_path: Path) -> None:
    with Server(faults=1.0, kinds="429") as server, Cache(tmp_path) as cache:
        target = endpoint(server.url, timeout_s=0.2)
        with pytest.raises(GristmillError, match=r"no usable answer for 1 s.*429 slow down; run again"):
            complete_sync(requests(target, 50), [target], cache, config=QUICK.model_copy(update={"give_up_s": 0.5}))


def test_a_run_that_is_asked_to_stop_stores_what_was_under_way_and_resumes(tmp_path: Path) -> None:
    with Server(slots=4, service_s=0.02) as server, Cache(tmp_path) as cache:
        target = endpoint(server.url, max_concurrency=8)
        asked = requests(target, 60)
        began = time.monotonic()
        report = complete_sync(asked, [target], cache, stop=lambda: time.monotonic() - began > 0.1)
        done = report.counts.answered
        assert report.stopped == "asked"
        assert 0 < done == len(cache) < 60
        second = complete_sync(asked, [target], cache)
        assert (second.counts.cached, second.counts.answered) == (done, 60 - done)
        assert server.stats()["calls"] == 60


def test_an_interrupted_run_stores_what_was_answered(server: Server, tmp_path: Path) -> None:
    target = endpoint(server.url)

    class Interrupted(Exception):
        pass

    def source() -> Iterator[Request]:
        yield from requests(target, 200)
        raise Interrupted

    with Cache(tmp_path) as cache:
        with pytest.raises(Interrupted):
            complete_sync(source(), [target], cache)
        stored = len(cache)
        assert stored >= 200 - 32
        assert complete_sync(requests(target, 200), [target], cache).counts.calls == 200 - stored


def test_requests_out_of_order_are_a_mistake(server: Server, tmp_path: Path) -> None:
    target = endpoint(server.url)
    with Cache(tmp_path) as cache, pytest.raises(ConservationError, match="sort them"):
        complete_sync(requests(target, 3)[::-1], [target], cache)


# Budgets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [{"requests": 25}, {"tokens": 1500}, {"requests": 0}, {"tokens": 10}])
def test_a_budget_admits_the_same_requests_however_often_it_is_resumed(budget: dict[str, int], tmp_path: Path) -> None:
    limits = BudgetConfig.model_validate(budget)
    with Server(faults=0.2, kinds="500,429") as server:
        target = endpoint(server.url, max_concurrency=8)
        asked = requests(target, 80)
        with Cache(tmp_path / "whole") as whole:
            report = complete_sync(asked, [target], whole, config=QUICK, budget=limits)
            admitted = [request.key in whole for request in asked]
        count = sum(admitted)
        assert admitted == [True] * count + [False] * (80 - count)
        assert report.stopped == f"budget_{next(iter(budget))}"
        assert report.stopped_at == asked[count].order
        assert count == min(budget.get("requests", 99), count)
        spent = report.counts.prompt_tokens + report.counts.completion_tokens
        assert report.counts.charged_tokens == (spent if "tokens" in budget else 0)
        assert report.counts.charged_tokens <= budget.get("tokens", 10**9)
        with Cache(tmp_path / "parts") as parts:
            complete_sync(asked[: count // 2], [target], parts, config=QUICK)
            again = complete_sync(asked, [target], parts, config=QUICK, budget=limits)
            assert [request.key in parts for request in asked] == admitted
            assert again.counts.charged_tokens == report.counts.charged_tokens
            assert again.stopped_at == report.stopped_at
            assert complete_sync(asked, [target], parts, config=QUICK).counts.cached == count


# Several endpoints ----------------------------------------------------------------------------------------------------


def test_endpoints_share_the_work_by_what_they_can_do(tmp_path: Path) -> None:
    with (
        Server(slots=2, service_s=0.02) as slow,
        Server(slots=6, service_s=0.02) as fast,
        Cache(tmp_path) as cache,
    ):
        targets = [endpoint(slow.url), endpoint(fast.url)]
        report = complete_sync(requests(targets[0], 400), targets, cache)
        share = [item.answers for item in report.endpoints]
    assert sum(share) == 400
    assert share[1] > 1.5 * share[0]


def test_an_endpoint_that_dies_is_left_out_and_taken_back(tmp_path: Path) -> None:
    with Server(slots=4, service_s=0.01) as first, Server(slots=4, service_s=0.01) as second, Cache(tmp_path) as cache:
        targets = [endpoint(first.url, max_concurrency=8), endpoint(second.url, max_concurrency=8)]
        asked = requests(targets[0], 1000)

        def source() -> Iterator[Request]:
            for number, request in enumerate(asked):
                if number == 100:
                    second.kill()
                if number == 250:
                    second.start()
                yield request

        report = complete_sync(source(), targets, cache, config=QUICK)
        assert check_answers(cache, asked) == {"answer": 1000}
        assert second.stats()["calls"] > 20  # of the process that was started again
    assert report.endpoints[0].answers > report.endpoints[1].answers


def test_a_dead_endpoint_at_the_start_is_gone_without(server: Server, tmp_path: Path) -> None:
    targets = [endpoint("http://127.0.0.1:9/v1"), endpoint(server.url)]
    with Cache(tmp_path) as cache:
        report = complete_sync(requests(targets[0], 100), targets, cache, config=QUICK)
    assert [item.answers for item in report.endpoints] == [0, 100]


# Hostile answers ------------------------------------------------------------------------------------------------------


async def raw(reply: bytes, folder: Path, config: ClientConfig, trickle_s: float = 0.0) -> tuple[Report, Failure]:
    """Ask a server that always sends `reply`; return the report and the failure of the one request without answer."""
    from pipeline.llm.client import complete

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            for at in range(0, len(reply), 1 if trickle_s else len(reply)):
                writer.write(reply[at : at + (1 if trickle_s else len(reply))])
                await writer.drain()
                await asyncio.sleep(trickle_s)
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = endpoint(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", timeout_s=1.0)
    known, asked = requests(target, 2)
    with Cache(folder) as cache:
        cache.write([Answer(known.key, "Yes.", "stop", 1, 1, None, target.base_url, 1)])
        report = await complete([known, asked], [target], cache, config=config)
        result = cache.get(asked.key)
    server.close()
    assert isinstance(result, Failure)
    return report, result


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n{", "oversize_answer"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 200_000, "oversize_answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "broken_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00", "broken_answer"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n{}", "broken_answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "broken_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "broken_answer"),
        (b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", "refused"),
    ],
)
def test_what_is_no_answer_is_named(reply: bytes, reason: str, tmp_path: Path) -> None:
    config = QUICK.model_copy(update={"max_answer_bytes": 100_000, "max_attempts": 2})
    _, failure = asyncio.run(raw(reply, tmp_path, config))
    assert failure.reason == reason
    assert "\n" not in failure.detail


def test_a_trickle_of_bytes_ends_by_the_clock(tmp_path: Path) -> None:
    began = time.monotonic()
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b" " * 5000
    _, failure = asyncio.run(raw(reply, tmp_path, QUICK.model_copy(update={"max_attempts": 1}), trickle_s=0.02))
    assert failure.reason == "timeout"
    assert time.monotonic() - began < 10


# Memory ---------------------------------------------------------------------------------------------------------------


def memory_of(count: int) -> list[float]:
    """Return resident megabytes at moments of a run of `count` requests in a process of its own."""
    command = [sys.executable, str(ROOT / "tests/bench/bench_llm.py"), "memory", f"--requests={count}"]
    ran = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return [float(line.split()[1]) for line in ran.stdout.splitlines()[1:-1]]


def test_memory_does_not_grow_with_requests() -> None:
    marks = memory_of(20_000)
    assert len(marks) > 5
    assert marks[-1] - marks[0] < 24


@pytest.mark.acceptance
@pytest.mark.timeout(3600)
def test_memory_is_flat_over_a_million_requests() -> None:
    marks = memory_of(1_000_000)
    print(marks)
    assert marks[-1] - marks[0] < 64


# Cost -----------------------------------------------------------------------------------------------------------------


@pytest.mark.acceptance
def test_the_client_costs_little() -> None:
    from tests.bench.bench_llm import asked

    rates = []
    with Server() as server:
        asked(server.url, 200, 64)
        for _ in range(3):
            began = time.process_time()
            asked(server.url, 10_000, 64)
            rates.append(10_000 / (time.process_time() - began))
    print(rates)
    assert max(rates) >= 3_000  # so that 2,000 remain with verification


@pytest.mark.acceptance
@pytest.mark.parametrize(("slots", "service_s", "count"), [(4, 0.02, 2000), (32, 0.1, 4000)])
def test_a_server_is_kept_at_its_best(slots: int, service_s: float, count: int) -> None:
    from tests.bench.bench_llm import asked, fixed_loop

    shares = []
    for _ in range(3):
        with Server(slots=slots, service_s=service_s) as server:
            best = max(asyncio.run(fixed_loop(server.url, count // 4, n)) for n in (slots, 2 * slots))
            shares.append(count / asked(server.url, count, 256).wall_s / best)
    print(shares)
    assert sorted(shares)[1] >= 0.9
