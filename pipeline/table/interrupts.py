"""Ctrl-C, SIGTERM and a closed terminal: work ends soon, says what is kept, and leaves nothing lying around.

Python runs a signal's handler only once the main thread is back from a library's code, which may take hours in SQL. So
a thread of ours hears of every signal at once, through the wake-up descriptor.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from pipeline.table.errors import GristmillError, escaped, raw, redact
from pipeline.table.storage import remove_scratch

KEPT = "finished shards are kept"
GRACE_S = 4.0
"""Seconds that shards in progress get after Ctrl-C. What they had not finished is done again by the next run."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_READING_GRACE_S = 1.0
"""Seconds that a command which only reads gets to unwind."""
_LAST_ACTS_S = 1.5
_SHOW_CURSOR = "\x1b[?25h"
last_acts: list[Callable[[], None]] = []
"""What is done, within a second each, before a run's process ends without unwinding."""


class InterruptedRunError(GristmillError):
    """The user stopped the run; what was finished is kept."""

    exit_code = 130


class Stop(threading.Event):
    """Set once the user asks to stop; `grace_s` is how long what is under way may then take."""

    def __init__(self) -> None:
        super().__init__()
        self.grace_s = GRACE_S
        self.standing: Callable[[], str] = lambda: KEPT
        """What a run that is stopped now keeps, and what it will do again."""


@contextmanager
def giving(stop: Stop, grace_s: float) -> Iterator[None]:
    """Let the block take so long, and some seconds to store what it has, where the user stops the run in it."""
    stop.grace_s = grace_s + GRACE_S
    try:
        yield
    finally:
        stop.grace_s = GRACE_S


def stop_if_asked(stop: threading.Event) -> None:
    """Raise InterruptedRunError once the user has asked the run to stop."""
    if stop.is_set():
        raise InterruptedRunError("stopped")


@contextmanager
def ending_on_signals() -> Iterator[list[int]]:
    """End the block with KeyboardInterrupt at a signal; where a library does not give way, end the process after a
    second. Yields the signals that came, which tell the exit code.
    """
    sent: list[int] = []
    over = threading.Event()

    def act(number: int) -> None:
        sent.append(number)
        if len(sent) > 1:
            _leave(number, "stopped")
        threading.Thread(target=leave_later, args=(number,), daemon=True).start()

    def leave_later(number: int) -> None:
        if not over.wait(_READING_GRACE_S):
            _leave(number, "stopped")

    def unwind(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _watching(act, unwind):
        try:
            yield sent
        except InterruptedRunError:
            raise
        except BaseException as error:
            if sent:  # DuckDB says that its query was interrupted, pyarrow that its stream ended
                raise KeyboardInterrupt from error
            raise
        finally:
            over.set()


@contextmanager
def stopping_on_signals(stop: Stop, command: str) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into a clean stop: shards in progress are left, finished ones kept.

    Whatever still hangs after the grace of `stop`, or at a second signal, ends with the process: every file is written
    so that a kill does no harm.
    """
    sent: list[int] = []

    def message() -> str:
        return f"stopped; {stop.standing()}: `{command}` goes on from there"

    def act(number: int) -> None:
        sent.append(number)
        if len(sent) > 1:
            _leave(number, message())
        stop.set()
        waits = f": calls under way have {stop.grace_s - GRACE_S:g} s, a second Ctrl-C ends at once"
        sys.stderr.write(f"\nstopping{waits if stop.grace_s > GRACE_S else ''} ...\n")
        sys.stderr.flush()
        threading.Thread(target=leave_later, args=(number,), daemon=True).start()

    def leave_later(number: int) -> None:
        started = last = time.monotonic()
        longest_s = stop.grace_s
        while last - started < longest_s:
            time.sleep(0.1)
            last = time.monotonic()
            if stop.grace_s < longest_s:  # the calls have ended: the rest is as short as ever
                longest_s = min(longest_s, last - started + GRACE_S)
        for last_act in last_acts:
            thread = threading.Thread(target=last_act, daemon=True)
            thread.start()
            thread.join(_LAST_ACTS_S)
        _leave(number, message())

    with _watching(act, lambda number, frame: None):
        try:
            yield
        except BaseException as error:
            if stop.is_set():
                interrupted = InterruptedRunError(message())
                interrupted.exit_code = 128 + sent[0] if sent else interrupted.exit_code
                raise interrupted from error
            raise


@contextmanager
def unwatched() -> Iterator[None]:
    """Leave signals to the block, which knows how to end and may take longer than commands that only read."""
    before = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)


@contextmanager
def _watching(act: Callable[[int], None], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Call `act` from a thread at every signal, and `handler` in the main thread when it gets there."""
    if threading.current_thread() is not threading.main_thread():  # only there can signals be handled
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        while numbers := os.read(reading, 64):
            for number in numbers:
                if number in _SIGNALS:
                    act(number)

    thread = threading.Thread(target=watch, name="gristmill-signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    heard = [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(before)
        os.close(writing)
        thread.join()
        os.close(reading)


def _leave(number: int, message: str) -> NoReturn:
    """End the process without unwinding it: temporary folders go, everything else is left as a kill would."""
    with suppress(OSError, ValueError):  # the terminal may be gone
        stream = raw(sys.stderr)
        stream.write(f"{_SHOW_CURSOR if stream.isatty() else ''}gristmill: {escaped(redact(message))}\n")
        stream.flush()
    remove_scratch()
    os._exit(128 + number)
