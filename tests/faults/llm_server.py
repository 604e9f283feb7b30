"""A real OpenAI-compatible HTTP server for tests and benchmarks: deterministic answers, planted faults, limited slots.

    python -m tests.faults.llm_server [--port 0] [--faults 0.3] [--slots 8 --service-s 0.02] [--key K] [--log FILE]

Prints its port, then serves until it is killed. The answer to a prompt is a function of the prompt (`answer_to`), so
any two runs agree. A prompt decides its own fate with a word: `POISON` is always answered 500, `REFUSED` 400, `CRASH`
ends the process. Other faults are planted by a seeded chance. Written on asyncio.Protocol, for a server must cost less
than the client that is measured against it. `--log` gets one line a call and one an answer, which survive SIGKILL.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FAULTS = (
    "429",
    "429_retry_after",
    "429_retry_date",
    "500",
    "503",
    "hang",
    "reset",
    "half_answer",
    "broken_json",
    "wrong_model",
    "other_request",
    "impossible_usage",
    "not_json",
    "missing_field",
)
MODEL = "tiny"
REQUEST_ID = b"x-request-id"


def answer_to(prompt: str) -> str:
    """Return the text that this server answers to a prompt."""
    return f"Rephrased {hashlib.blake2b(prompt.encode(), digest_size=8).hexdigest()}: {prompt[:200]}"


@dataclass
class Settings:
    """How a server behaves."""

    faults: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    seed: int = 0
    slots: int = 0
    service_s: float = 0.0
    queue: int = 0
    key: str = ""
    model: str = MODEL
    log: str = ""
    hang_s: float = 3600.0
    retry_after: str = "0.05"


@dataclass
class State:
    """What a server has seen."""

    settings: Settings
    calls: int = 0
    busy: int = 0
    peak: int = 0
    waiting: deque[tuple[Service, bytes, bytes]] = field(default_factory=deque)
    faults: Counter[str] = field(default_factory=Counter)
    last: tuple[bytes, bytes] = (b"", b"")
    log: int = -1

    def __post_init__(self) -> None:
        self.chance = random.Random(self.settings.seed)
        if self.settings.log:
            self.log = os.open(self.settings.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def note(self, kind: str, body: bytes) -> None:
        if self.log >= 0:
            os.write(self.log, f"{kind} {hashlib.blake2b(body, digest_size=16).hexdigest()}\n".encode())


class Service(asyncio.Protocol):
    """One connection."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.buffer = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end]
            lower = head.lower()
            at = lower.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            self.request(head, lower, body)

    def request(self, head: bytes, lower: bytes, body: bytes) -> None:
        settings, state = self.state.settings, self.state
        path = head.split(b" ", 2)[1]
        if path == b"/stats":
            self.reply(200, json.dumps({"calls": state.calls, "peak": state.peak, "faults": state.faults}).encode())
            return
        if path not in (b"/v1/chat/completions", b"/v1/completions"):
            self.reply(404, b'{"error": {"message": "no such path"}}')
            return
        if settings.key and f"bearer {settings.key}".lower().encode() not in lower:
            self.reply(401, json.dumps({"error": {"message": f"bad key in {head.decode()}"}}).encode())
            return
        state.calls += 1
        state.note("call", body)
        if settings.faults and state.chance.random() < settings.faults:
            kind = state.chance.choice(settings.kinds)
            state.faults[kind] += 1
            self.fault(kind, lower, body)
        elif not settings.slots:
            self.answer(lower, body)
        elif settings.queue and len(state.waiting) >= settings.queue:
            self.reply(429, b'{"error": {"message": "queue is full"}}')
        elif state.busy >= settings.slots:
            state.waiting.append((self, lower, body))
        else:
            self.serve(lower, body)

    def serve(self, lower: bytes, body: bytes) -> None:
        self.state.busy += 1
        self.state.peak = max(self.state.peak, self.state.busy)
        asyncio.get_running_loop().call_later(self.state.settings.service_s, self.served, lower, body)

    def served(self, lower: bytes, body: bytes) -> None:
        self.answer(lower, body)
        self.state.busy -= 1
        if self.state.waiting:
            service, lower, body = self.state.waiting.popleft()
            service.serve(lower, body)

    def answer(self, lower: bytes, body: bytes) -> None:
        asked = json.loads(body)
        prompt = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
        if "CRASH" in prompt:
            os._exit(7)
        if "POISON" in prompt:
            self.reply(500, b'{"error": {"message": "cannot do that"}}')
        elif "REFUSED" in prompt:
            self.reply(400, b'{"error": {"message": "this model\'s maximum context length is 8"}}')
        elif asked["model"] != self.state.settings.model:
            self.reply(404, json.dumps({"error": {"message": f"model {asked['model']!r} does not exist"}}).encode())
        else:
            self.state.note("done", body)
            payload, request_id = completion(asked, prompt), request_id_of(lower)
            self.state.last = (payload, request_id)
            self.reply(200, payload, request_id)

    def fault(self, kind: str, lower: bytes, body: bytes) -> None:
        asked = json.loads(body)
        prompt = asked["prompt"] if "prompt" in asked else asked["messages"][-1]["content"]
        whole, request_id = completion(asked, prompt), request_id_of(lower)
        if kind == "429":
            self.reply(429, b'{"error": {"message": "slow down"}}')
        elif kind == "429_retry_after":
            self.reply(429, b"", extra=b"Retry-After: " + self.state.settings.retry_after.encode() + b"\r\n")
        elif kind == "429_retry_date":
            self.reply(429, b"", extra=b"Retry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\n")
        elif kind in ("500", "503"):
            self.reply(int(kind), b"<html>oops</html>")
        elif kind == "hang":
            asyncio.get_running_loop().call_later(self.state.settings.hang_s, self.transport.abort)
        elif kind == "reset":
            linger = (1).to_bytes(4, sys.byteorder) + (0).to_bytes(4, sys.byteorder)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        elif kind == "half_answer":
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole[: len(whole) // 2]
            )
            self.transport.close()
        elif kind == "broken_json":
            self.reply(200, whole[: len(whole) // 2], request_id)
        elif kind == "not_json":
            self.reply(200, b"<html>welcome</html>", request_id)
        elif kind == "other_request":
            payload, other = self.state.last
            same = not other or other == request_id
            self.reply(200, whole, b"gristmill-" + b"0" * 32) if same else self.reply(200, payload, other)
        else:
            self.reply(200, spoilt(kind, json.loads(whole)), request_id)

    def reply(self, status: int, payload: bytes, request_id: bytes = b"", extra: bytes = b"") -> None:
        if request_id:
            extra += b"X-Request-ID: " + request_id + b"\r\n"
        self.transport.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"
            % (status, len(payload), extra, payload)
        )


def request_id_of(lower: bytes) -> bytes:
    at = lower.find(REQUEST_ID)
    return lower[at + len(REQUEST_ID) + 1 :].split(b"\r\n", 1)[0].strip() if at >= 0 else b""


def completion(asked: dict[str, Any], prompt: str) -> bytes:
    text = answer_to(prompt)
    usage = {"prompt_tokens": len(prompt) // 4 + 8, "completion_tokens": len(text) // 8 + 1}
    is_chat = "messages" in asked
    choice = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    whole = {
        "id": "cmpl-1",
        "model": asked["model"],
        "choices": [{"index": 0, **choice, "finish_reason": "stop"}],
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }
    return json.dumps(whole).encode()


def spoilt(kind: str, whole: dict[str, Any]) -> bytes:
    if kind == "wrong_model":
        whole["model"] = "another-model"
    elif kind == "impossible_usage":
        whole["usage"]["completion_tokens"] = 10**9
    elif kind == "missing_field":
        whole["choices"] = []
    return json.dumps(whole).encode()


# For tests ------------------------------------------------------------------------------------------------------------


class Server:
    """A server in a process of its own: `with Server(faults=0.3) as server: server.url`. Survives being killed."""

    def __init__(self, port: int = 0, **settings: Any) -> None:
        self.port, self.settings = port, settings
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> Server:
        options = [f"--{name.replace('_', '-')}={value}" for name, value in self.settings.items()]
        command = [sys.executable, str(Path(__file__)), f"--port={self.port}", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        return self

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=10) as answer:
            return dict(json.load(answer))

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.kill()


def end_with_parent() -> None:
    """A server must not outlive the test that started it."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


async def serve(port: int, settings: Settings) -> None:
    state = State(settings)
    server = await asyncio.get_running_loop().create_server(lambda: Service(state), "127.0.0.1", port, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--kinds", type=lambda text: tuple(text.split(",")), default=FAULTS)
    for name, kind in (("faults", float), ("seed", int), ("slots", int), ("service-s", float), ("queue", int)):
        parser.add_argument(f"--{name}", type=kind, default=kind(0))
    for name in ("key", "log", "model", "retry-after"):
        parser.add_argument(f"--{name}", default=getattr(Settings, name.replace("-", "_")))
    parser.add_argument("--hang-s", type=float, default=3600.0)
    options = vars(parser.parse_args())
    end_with_parent()
    asyncio.run(serve(options.pop("port"), Settings(**options)))


if __name__ == "__main__":
    main()
