"""A training process: commands come as JSON lines on stdin, answers go as JSON lines to stdout.

First {"config", "data"}; then any number of {"run", "folder", "until", "tasks"}, each answered by some {"tokens"}
(progress) and one {"trained", "measures"} or {"error", "kind"}. Paths and numbers only. The process ends with its
stdin, at once, whatever it is doing: a checkpoint is always whole, and no worker outlives its parent.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.transformer.proxy import TransformerProxy
from pipeline.mix.types import ProxyData, RunSpec, SliceTokens, TokenItem, TokenTask
from pipeline.table.errors import GristmillError

PROGRESS_EVERY_S = 0.5


def decode_proxy(value: Mapping[str, Any]) -> TransformerProxy:
    """Return the proxy of a worker's first line."""
    data = value["data"]
    slices = tuple(
        SliceTokens(**{**s, "tokens_path": Path(s["tokens_path"]), "documents_path": Path(s["documents_path"])})
        for s in data["slices"]
    )
    pool = np.array(data["pool_tokens"], np.int64)
    config = ProxyConfig.model_validate_json(json.dumps(value["config"]))
    return TransformerProxy(config, ProxyData(slices, pool, data["vocabulary"], data["eos"]))


def decode_run(value: Mapping[str, Any]) -> RunSpec:
    """Return the run of `encode_run`."""
    return RunSpec(value["run_id"], value["kind"], np.array(value["weights"], np.float64), value["seed"])


@cache
def read_task(path: str) -> TokenTask:
    """Return a task that `write_task` wrote; a worker reads it once."""
    with np.load(path) as file:
        name, key = json.loads(str(file["about"]))
        tokens = np.split(file["tokens"], np.cumsum(file["lengths"])[:-1]) if len(file["lengths"]) else []
        numbers = zip(tokens, file["starts"].tolist(), file["n_bytes"].tolist(), strict=True)
        return TokenTask(name, key, tuple(TokenItem(t, start, n_bytes) for t, start, n_bytes in numbers))


def perform(proxy: TransformerProxy, command: Mapping[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """Train a run as far as the command says, then measure it; return the answer."""
    run, folder = decode_run(command["run"]), Path(command["folder"])
    trained = proxy.train(run, folder, command["until"], report)
    tasks: Sequence[TokenTask] = [read_task(path) for path in command["tasks"]]
    measures = proxy.measure(run, folder, tasks) if tasks else []
    return {"trained": asdict(trained), "measures": [measure.nats.tolist() for measure in measures]}


class _Reporter:
    """Sends progress, twice a second at most."""

    def __init__(self, answers: IO[str]) -> None:
        self._answers, self._due = answers, 0.0

    def __call__(self, tokens: int) -> None:
        now = time.monotonic()
        if now >= self._due:
            self._due = now + PROGRESS_EVERY_S
            _send(self._answers, {"tokens": tokens})


def _send(answers: IO[str], value: Mapping[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _read_commands(commands: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line)
    os._exit(0)  # the parent is gone, or wants no more


def main() -> None:
    """Serve until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    proxy: TransformerProxy | None = None
    while True:
        value = json.loads(commands.get())
        try:
            if proxy is None:
                proxy = decode_proxy(value)
                continue
            _send(answers, perform(proxy, value, _Reporter(answers)))
        except GristmillError as error:
            _send(answers, {"error": str(error), "kind": type(error).__name__})


if __name__ == "__main__":
    main()
