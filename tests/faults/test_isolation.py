"""The worker pool under fire: every fault here is a real one, in real processes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import psutil
import pytest

from pipeline.extract.isolation import BATCH_ITEMS, MAX_BYTES_IN_FLIGHT, WorkerFailure, WorkerLimits, WorkerPool
from pipeline.table.errors import GristmillError

ROOT = Path(__file__).resolve().parents[2]
HANDLER = "tests.faults.hostile_handlers:make_handler"
LIMITS = WorkerLimits(cpu_s=1.0, memory_bytes=384 * 1024 * 1024, stalled_s=2.0)


@pytest.fixture(autouse=True)
def project_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(HANDLER, 2, LIMITS) as pool:
        yield pool


def answers(pool: WorkerPool, requests: list[bytes]) -> list[bytes | WorkerFailure | None]:
    results = list(pool.imap(enumerate(requests)))
    assert [tag for tag, _ in results] == list(range(len(requests)))
    return [answer for _, answer in results]


def echoes(count: int) -> list[bytes]:
    return [f"item {number}".encode() for number in range(count)]


def descendants() -> list[psutil.Process]:
    return [child for child in psutil.Process().children(recursive=True) if is_ours(child)]


def is_ours(process: psutil.Process) -> bool:
    """Tell a pool's template or worker from other children of the test process, such as a server of other tests."""
    return "template_main" in " ".join(process.cmdline())


def wait_until_gone(pids: list[int], seconds: float = 5.0) -> list[int]:
    deadline = time.monotonic() + seconds
    while (alive := [pid for pid in pids if is_running(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_answers_in_order_each_once(pool: WorkerPool) -> None:
    requests = echoes(500)
    assert answers(pool, requests) == [request.upper() for request in requests]
    assert pool.nets.items_rejected == 0


def test_nothing_to_do(pool: WorkerPool) -> None:
    assert answers(pool, []) == []


def test_none_passes_through_in_order(pool: WorkerPool) -> None:
    items = [("a", b"x"), ("b", None), ("c", b"y"), ("d", None)]
    assert list(pool.imap(items)) == [("a", b"X"), ("b", None), ("c", b"Y"), ("d", None)]


def test_large_requests_and_answers(pool: WorkerPool) -> None:
    large = b"z" * 5_000_000
    requests = [large, b"big 9000000", b"", large]
    assert answers(pool, requests) == [large.upper(), b"x" * 9_000_000, b"", large.upper()]


@pytest.mark.parametrize(
    ("request_", "reason", "detail"),
    [
        (b"loop", "timeout", "more than 1 s of CPU time"),
        (b"loop-in-lxml", "timeout", "more than 1 s of CPU time"),
        (b"sleep", "timeout", "no progress for 2 s"),
        (b"abort", "crash", "SIGABRT"),
        (b"segfault", "crash", "SIGSEGV"),
        (b"exit", "crash", "exit status 3"),
        (b"kill", "crash", "was killed"),
        (b"raise", "crash", "KeyError"),
        (b"recurse", "crash", "RecursionError"),
        (b"eat", "memory", "bytes of memory"),
        (b"eat-quietly", "memory", "bytes of memory"),
        (b"garbage", "crash", "what no worker writes"),
    ],
)
def test_a_fault_costs_its_item_alone(pool: WorkerPool, request_: bytes, reason: str, detail: str) -> None:
    requests = echoes(2 * BATCH_ITEMS)
    requests[3] = request_
    results = answers(pool, requests)
    failure = results[3]
    assert isinstance(failure, WorkerFailure)
    assert failure.reason == reason
    assert detail in failure.detail
    others = [index for index in range(len(requests)) if index != 3]
    assert [results[index] for index in others] == [requests[index].upper() for index in others]
    assert pool.nets.items_rejected == 1


def test_many_faults_one_after_the_other(pool: WorkerPool) -> None:
    requests = [request for echo in echoes(3) for request in (echo, b"abort", b"eat", b"segfault")]
    results = answers(pool, requests)
    reasons = [result.reason if isinstance(result, WorkerFailure) else result for result in results]
    assert reasons == [item for echo in echoes(3) for item in (echo.upper(), "crash", "memory", "crash")]
    assert pool.nets.items_rejected == 9


def test_a_slow_item_within_its_limit_is_no_fault(pool: WorkerPool) -> None:
    """Wall-clock time does not count: a nap is not CPU time, and shorter than the limit on standing still."""
    assert answers(pool, [b"nap 1.5", b"nap 1.5"]) == [b"NAP 1.5", b"NAP 1.5"]


def test_a_stopped_worker_goes_on_later(pool: WorkerPool) -> None:
    """A worker stopped for longer than `stalled_s` (Ctrl-Z, a debugger) is not blamed."""
    (worker, _) = (int(answer) for answer in answers(pool, [b"pid", b"pid"]) if isinstance(answer, bytes))
    os.kill(worker, signal.SIGSTOP)
    threading.Timer(3.0, os.kill, (worker, signal.SIGCONT)).start()
    requests = echoes(100)
    assert answers(pool, requests) == [request.upper() for request in requests]
    assert pool.nets.items_rejected == 0


def test_workers_killed_at_random_lose_nothing(pool: WorkerPool) -> None:
    requests = [b"nap 0.01"] * 300
    chance = random.Random(1)
    killed = 0
    for tag, answer in pool.imap(enumerate(requests)):
        assert answer == b"NAP 0.01"
        if tag % 25 == 0:
            victims = [process for process in descendants() if process.ppid() != os.getpid()]
            if victims:
                chance.choice(victims).kill()
                killed += 1
    assert tag == 299
    assert killed > 5
    assert pool.nets.items_rejected == 0
    assert pool.nets.killed > 0


def test_a_killed_template_is_replaced(pool: WorkerPool) -> None:
    assert answers(pool, [b"a"]) == [b"A"]
    for process in filter(is_ours, psutil.Process().children()):
        process.kill()
    requests = echoes(50)
    assert answers(pool, requests) == [request.upper() for request in requests]


def test_several_threads_share_the_workers(pool: WorkerPool) -> None:
    results: dict[int, list[bytes | WorkerFailure | None]] = {}

    def consume(number: int) -> None:
        results[number] = answers(pool, [b"%d item %d" % (number, item) for item in range(100)] + [b"abort"])

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert results[number][:-1] == [b"%d ITEM %d" % (number, item) for item in range(100)]
        assert isinstance(results[number][-1], WorkerFailure)


def test_input_is_read_a_bounded_number_ahead(pool: WorkerPool) -> None:
    read = 0

    def endless() -> Iterator[tuple[int, bytes]]:
        nonlocal read
        while True:
            read += 1
            yield read, b"x"

    results = pool.imap(endless())
    for _ in range(10):
        next(results)
    assert read <= 10 + 3 * 2 * BATCH_ITEMS
    results.close()  # type: ignore[attr-defined]
    assert answers(pool, [b"still"]) == [b"STILL"]


def test_requests_of_bounded_size_are_read_ahead(pool: WorkerPool) -> None:
    sizes = [1_000] * 20 + [MAX_BYTES_IN_FLIGHT // 4] * 20
    read: list[int] = []

    def requests() -> Iterator[tuple[int, bytes]]:
        for number, size in enumerate(sizes):
            read.append(size)
            yield number, b"x" * size

    for number, _ in pool.imap(requests()):
        assert sum(read) - sum(sizes[:number]) < MAX_BYTES_IN_FLIGHT + max(sizes)
    assert len(read) == len(sizes)


def test_a_fault_of_its_own_breaks_the_pool_and_says_what_it_was() -> None:
    with WorkerPool(HANDLER, 1, replace(LIMITS, recycle_rss_bytes=cast(int, "much"))) as pool:
        with pytest.raises(GristmillError, match="a thread of the worker pool failed: TypeError") as caught:
            answers(pool, echoes(9 * BATCH_ITEMS))
        assert isinstance(caught.value.__cause__, TypeError)
        with pytest.raises(GristmillError, match="TypeError"):
            answers(pool, [b"x"])
        deadline = time.monotonic() + 5
        while len(descendants()) > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(descendants()) == 1  # the template: the worker is gone


def test_a_thread_that_cannot_be_started_is_not_called_a_closed_pool(pool: WorkerPool) -> None:
    before = threading.stack_size(1 << 46)  # more than there is address space
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            answers(pool, [b"x"])
    finally:
        threading.stack_size(before)


def test_an_error_of_the_input_reaches_the_caller(pool: WorkerPool) -> None:
    def broken() -> Iterator[tuple[int, bytes]]:
        yield 1, b"x"
        raise OSError("the reader failed")

    with pytest.raises(OSError, match="the reader failed"):
        list(pool.imap(broken()))
    assert answers(pool, [b"still"]) == [b"STILL"]


def test_a_bloated_worker_is_replaced() -> None:
    limits = WorkerLimits(recycle_rss_bytes=1)
    with WorkerPool(HANDLER, 1, limits) as pool:
        pids = [answers(pool, [b"pid"])[0] for _ in range(3)]
    assert len(set(pids)) == 3


def test_a_handler_that_cannot_be_imported_is_one_error() -> None:
    with (
        WorkerPool("tests.faults.no_such_module:make", 1) as pool,
        pytest.raises(GristmillError, match="no_such_module"),
    ):
        answers(pool, [b"x"])


def test_close_ends_everything_at_once_whatever_runs() -> None:
    pool = WorkerPool(HANDLER, 2, WorkerLimits())
    results = pool.imap([(0, b"x"), (1, b"loop"), (2, b"loop-in-lxml")])
    assert next(results) == (0, b"X")
    pids = [process.pid for process in descendants()]
    assert len(pids) >= 2
    start = time.monotonic()
    pool.close()
    assert time.monotonic() - start < 1.0  # the promise itself, not a benchmark: it takes milliseconds
    assert wait_until_gone(pids) == []
    with pytest.raises(GristmillError, match="closed"):
        next(results)


PARENT = """
    import sys
    from pipeline.extract.isolation import WorkerPool, WorkerLimits

    print("main module", flush=True)  # seen twice if a worker imported it
    with WorkerPool("tests.faults.hostile_handlers:make_handler", 2, WorkerLimits(cpu_s=1000)) as pool:
        for tag, answer in pool.imap([(0, b"pid"), (1, b"loop-in-lxml"), (2, b"loop")]):
            print(answer.decode(), flush=True)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_parent(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "main module\n"
    assert int(parent.stdout.readline()) > 0
    pids = [process.pid for process in psutil.Process(parent.pid).children(recursive=True)]
    assert len(pids) >= 2
    time.sleep(0.3)  # into the endless loops
    if end == signal.SIGINT:
        os.killpg(parent.pid, end)  # as a terminal does: to the whole foreground group
    else:
        parent.send_signal(end)
    output, errors = parent.communicate(timeout=10)
    assert output == ""
    assert "hostile_handlers" not in errors  # no worker's traceback
    assert wait_until_gone(pids) == []
