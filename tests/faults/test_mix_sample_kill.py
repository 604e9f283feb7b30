"""Sampling that is killed at any moment goes on to the same shards, and what was finished is not written again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.mix_sample_stores import contents, make_slice

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 3_000_000
RUN = """
import sys
from pathlib import Path
import numpy as np
from pipeline.mix.config import SampleConfig
from pipeline.mix.sample import sample
from pipeline.mix.types import SliceTokens
folder, out, form = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
stores = [SliceTokens(n, folder / f"{n}.npy", folder / f"{n}.parquet", 4_000, int(c), 1) for n, c in
          (line.split() for line in (folder / "sizes").read_text().splitlines())]
print("ready", flush=True)
report = sample(stores, np.array([0.6, 0.4]), 3_000_000, out, SampleConfig(format=form, shard_tokens=40_000),
                max_epochs=np.full(2, 4.0), vocabulary=1000, eos=0, key="k", workers=2)
print(report.written_shards, report.shards, flush=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sampled")
    rng = np.random.default_rng(1)
    stores = [make_slice(folder, name, rng.integers(2, 500, 4_000).tolist()) for name in ("web", "code")]
    (folder / "sizes").write_text("".join(f"{store.name} {store.n_tokens}\n" for store in stores))
    return folder


def started(folder: Path, out: Path, form: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(folder), str(out), form]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def finished(process: subprocess.Popen[str]) -> tuple[int, int]:
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    written, shards = map(int, text.split())
    return written, shards


def killed_often(folder: Path, out: Path, form: str, kills: int) -> int:
    """Kill that many runs at random moments, each in a new folder or over what the last left; compare bytes."""
    start = time.monotonic()
    _, shards = finished(started(folder, folder / f"whole-{form}", form))
    took = time.monotonic() - start
    expected = contents(folder / f"whole-{form}")
    chance, interrupted = random.Random(f"{form} {kills}"), 0
    for number in range(kills):
        target = out / f"{number // 2}"  # every second run is killed on top of what the first left
        process = started(folder, target, form)
        time.sleep(chance.uniform(0, took))
        process.kill()
        text, _ = process.communicate()
        interrupted += not text
        done = len(list(target.glob("*/shard-*.json")))
        if number % 2 or number == kills - 1:
            written, _ = finished(started(folder, target, form))
            assert written == shards - done
            assert contents(target) == expected
    return interrupted


def test_a_killed_sample_goes_on_to_the_same_shards(folder: Path, tmp_path: Path) -> None:
    assert killed_often(folder, tmp_path, "npy", 3) >= 1


@pytest.mark.acceptance
@pytest.mark.parametrize("form", ["npy", "megatron", "parquet"])
def test_twenty_killed_samples_go_on_to_the_same_shards(folder: Path, tmp_path: Path, form: str) -> None:
    assert killed_often(folder, tmp_path, form, 20) >= 10
