"""Sampling that is killed at any moment goes on to the same shards, and what was finished is not written again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipeline.mix.config import SampleConfig
from pipeline.mix.shards.sample import SampleReport, sample
from pipeline.mix.types import SliceTokens
from tests.mix_sample_stores import EOS, contents, make_slice

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 2_000_000
WORKER = "import sys; from tests.faults.test_mix_sample_kill import worker; worker(*sys.argv[1:])"


def stores_in(folder: Path) -> list[SliceTokens]:
    rng = np.random.default_rng(1)
    return [make_slice(folder, name, rng.integers(2, 500, 4_000).tolist()) for name in ("web", "code")]


def run(
    stores: list[SliceTokens], out: Path, form: str, on_progress: Callable[[int], None] = lambda tokens: None
) -> SampleReport:
    config = SampleConfig.model_validate({"format": form, "shard_tokens": 40_000})
    return sample(
        stores,
        np.array([0.6, 0.4]),
        TOKENS,
        out,
        config,
        max_epochs=np.full(2, 4.0),
        vocabulary=1000,
        eos=EOS,
        key="k",
        workers=2,
        on_progress=on_progress,
    )


def worker(folder: str, out: str, form: str, tokens: str) -> None:
    """The process that is killed: the stores are there, it reads them and samples, and stops at so many tokens."""
    stores, left = [], int(tokens)
    for name in ("web", "code"):
        path = Path(folder) / f"{name}.npy"
        size = np.load(path, mmap_mode="r").size
        stores.append(SliceTokens(name, path, path.with_suffix(".parquet"), 4_000, size, 4 * size))

    def stop_at(written: int) -> None:
        nonlocal left
        is_there = 0 < left <= written
        left -= written
        if is_there:
            os.kill(os.getpid(), signal.SIGSTOP)

    run(stores, Path(out), form, stop_at)


def killed(folder: Path, out: Path, form: str, shards: int, chance: random.Random) -> bool:
    """Kill a run once it has written some more tokens, then or a little later; tell whether it was still at work."""
    done = len(list(out.glob("*/shard-*.json"))) / shards
    tokens = str(int(TOKENS * chance.uniform(done + 0.02, max(done + 0.1, 0.8))))
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(out), form, tokens], cwd=ROOT)
    os.waitpid(process.pid, os.WUNTRACED)
    if chance.random() < 0.5:
        process.send_signal(signal.SIGCONT)
        time.sleep(chance.uniform(0, 0.01))
    process.kill()
    process.wait()
    return process.returncode != 0 and not (out / "index.json").exists()


def killed_often(folder: Path, form: str, kills: int, kills_a_folder: int) -> int:
    """Kill that many runs, some on top of one another, finish each folder, compare bytes; return how many were cut."""
    stores, chance = stores_in(folder), random.Random(f"{form} {kills}")
    shards = run(stores, folder / "whole", form).shards
    expected, interrupted = contents(folder / "whole"), 0
    for number in range(0, kills, kills_a_folder):
        out = folder / f"{number}"
        for _ in range(kills_a_folder):
            interrupted += killed(folder, out, form, shards, chance)
        left = {path.name: path.stat().st_mtime_ns for path in out.glob("*/shard-*.json")}
        run(stores, out, form)
        assert contents(out) == expected
        assert left.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*/shard-*.json")}.items()
    return interrupted


def test_a_killed_sample_goes_on_to_the_same_shards(tmp_path: Path) -> None:
    assert killed_often(tmp_path, "npy", 3, 3) >= 1


@pytest.mark.acceptance
@pytest.mark.parametrize("form", ["npy", "megatron", "parquet"])
def test_twenty_killed_samples_go_on_to_the_same_shards(tmp_path: Path, form: str) -> None:
    assert killed_often(tmp_path, form, 20, 2) >= 15
