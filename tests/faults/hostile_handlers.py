"""Handlers for `test_isolation.py` that do what a hostile page makes a parser do. Imported by worker processes only."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable

from lxml import etree


def make_handler() -> Callable[[bytes], bytes]:
    """Return a handler whose requests say what to do; anything else is echoed in upper case."""
    return handle


def handle(request: bytes) -> bytes:
    """Do what `request` says."""
    match request.partition(b" ")[0]:
        case b"loop":
            while True:
                pass
        case b"loop-in-lxml":  # never returns to Python: quadratic in C
            etree.XPath("count(//*[count(//*) > 0])")(etree.fromstring("<a>" + "<b/>" * 100_000 + "</a>"))
        case b"sleep":
            time.sleep(3600)
        case b"nap":
            time.sleep(float(request.split()[1]))
        case b"abort":
            os.abort()
        case b"segfault":
            ctypes.string_at(0)
        case b"exit":
            os._exit(3)
        case b"kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"raise":
            raise KeyError("a bug in the handler")
        case b"recurse":
            handle_recursively()
        case b"eat":
            held = []
            while True:
                held.append(bytearray(8 * 1024 * 1024))
        case b"eat-quietly":  # as lxml and trafilatura do: the failure is swallowed and some result is returned
            return eat_quietly()
        case b"pid":
            return str(os.getpid()).encode()
        case b"garbage":
            for descriptor in range(3, 64):
                if os.path.exists(f"/proc/self/fd/{descriptor}") and "socket" in os.readlink(
                    f"/proc/self/fd/{descriptor}"
                ):
                    os.write(descriptor, b"\xff" * 64)
        case b"big":
            return b"x" * int(request.split()[1])
    return request.upper()


def handle_recursively() -> None:
    """Recurse until Python refuses."""
    handle_recursively()


def eat_quietly() -> bytes:
    """Run out of memory and go on as if nothing had happened."""
    held = []
    try:
        while True:
            held.append(bytearray(8 * 1024 * 1024))
    except MemoryError:
        held.clear()
    return b"half a result"
