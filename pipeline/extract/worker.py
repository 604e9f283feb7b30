"""The other end of `pipeline.extract.isolation`: a template process that forks workers, and the workers' loop.

The template is one thread that has imported the handler's libraries; a fork of it is a ready worker in milliseconds.
Neither imports the user's `__main__`. Linux only: it needs PR_SET_PDEATHSIG, /proc and SCM_RIGHTS.

Every worker dies with the template (parent-death signal), and the template with the parent (the same, and the end of
its control socket), whatever killed it and whatever the worker is doing.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import BinaryIO

Handler = Callable[[bytes], bytes]

COMMAND = struct.Struct("<ci")  # spawn (a socket comes with it), or end a process id: kill it and return its status
REPLY = struct.Struct("<i")
SPAWN, END = b"S", b"E"
COUNT = struct.Struct("<I")
ANSWER = struct.Struct("<BI")  # status and length, then the answer's bytes
DONE, OUT_OF_MEMORY, FAILED = 0, 1, 2

_PR_SET_PDEATHSIG = 1
_MAX_ERROR_CHARACTERS = 300


def template_main(control_fd: int, parent_pid: int, factory: str, memory_bytes: int) -> None:
    """Import the handler's module, then fork a worker on each command until the parent is gone. Does not return."""
    _die_with(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent alone decides
    control = socket.socket(fileno=control_fd)
    module, _, function = factory.partition(":")
    make_handler = getattr(importlib.import_module(module), function)
    gc.collect()
    gc.freeze()  # workers share these pages for as long as nobody writes to them
    template_pid = os.getpid()
    control.sendall(REPLY.pack(template_pid))
    while True:
        message, fds, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        if len(message) < COMMAND.size:
            os._exit(0)
        command, pid = COMMAND.unpack(message)
        if command == END:
            os.kill(pid, signal.SIGKILL)  # nobody else reaps our children, so it still is that process
            control.sendall(REPLY.pack(os.waitpid(pid, 0)[1]))
            continue
        pid = os.fork()
        if pid == 0:
            _die_with(template_pid)
            control.close()
            _work(socket.socket(fileno=fds[0]), make_handler, memory_bytes)
        os.close(fds[0])
        control.sendall(REPLY.pack(pid))


def _work(connection: socket.socket, make_handler: Callable[[], Handler], memory_bytes: int) -> None:
    """Answer requests until the connection ends. Does not return."""
    _limit(memory_bytes)
    _silence()
    sys.excepthook = _reporter(connection)
    handler = make_handler()
    stream = connection.makefile("rb")
    while True:
        for request in _read_batch(stream):
            status, answer = _answer(handler, request, memory_bytes)
            connection.sendall(ANSWER.pack(status, len(answer)) + answer)
            if status == OUT_OF_MEMORY:
                os._exit(0)  # the heap is in no state to go on with


def _answer(handler: Handler, request: bytes, memory_bytes: int) -> tuple[int, bytes]:
    """Return the handler's answer, or that memory ran out.

    lxml reports exhaustion as bad markup, and trafilatura goes on without what failed. So an answer counts only when
    the worker's address space stayed below half of the limit at which allocations fail.
    """
    try:
        answer = handler(request)
    except MemoryError:
        return OUT_OF_MEMORY, b""
    return (OUT_OF_MEMORY, b"") if _peak_bytes() > memory_bytes // 2 else (DONE, answer)


def _read_batch(stream: BinaryIO) -> list[bytes]:
    """Return the next requests, read to the end before the first is handled, so that the parent never blocks on us."""
    (count,) = COUNT.unpack(_read(stream, COUNT.size))
    return [_read(stream, COUNT.unpack(_read(stream, COUNT.size))[0]) for _ in range(count)]


def _read(stream: BinaryIO, size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        os._exit(0)  # the parent closed the connection
    return data


def _reporter(connection: socket.socket) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """Return an exception hook that tells the parent what ended this worker."""

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, OSError):  # then it is the connection that failed
            message = f"{kind.__name__}: {error}"[:_MAX_ERROR_CHARACTERS].encode("utf-8", "replace")
            connection.sendall(ANSWER.pack(FAILED, len(message)) + message)

    return report


def _die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended before we asked
        os._exit(1)


def _limit(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes if hard < 0 else min(memory_bytes, hard), hard))


@contextmanager
def allow(cpu_s: float, memory_bytes: int) -> Iterator[None]:
    """Have the kernel end this process (SIGXCPU) when the block takes more CPU time than that, to the second, and let
    allocations fail beyond so many bytes more than there are.

    For a handler whose request is made of steps that each may hang, in code that no signal's handler could stop.
    """
    before = {kind: resource.getrlimit(kind) for kind in (resource.RLIMIT_CPU, resource.RLIMIT_AS)}
    used = resource.getrusage(resource.RUSAGE_SELF)
    with open("/proc/self/statm", "rb") as statm:
        size = int(statm.read().split()[0]) * resource.getpagesize()
    ends = {
        resource.RLIMIT_CPU: int(used.ru_utime + used.ru_stime + cpu_s) + 1,
        resource.RLIMIT_AS: size + memory_bytes,
    }
    for kind, (soft, hard) in before.items():
        resource.setrlimit(kind, (min(end for end in (ends[kind], soft, hard) if end >= 0), hard))
    try:
        yield
    finally:
        for kind, limits in before.items():
            resource.setrlimit(kind, limits)


def _silence() -> None:
    """Send what C libraries print to nowhere; the parent's terminal shows the run, not one page's remarks."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def _peak_bytes() -> int:
    """Return the highest size of this process's address space so far."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmPeak:"):
                return int(line.split()[1]) * 1024
    return 0
