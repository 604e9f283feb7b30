"""Sampling that is killed at any moment goes on to the same shards, and what was finished is not written again."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.mix.config import SampleConfig
from pipeline.mix.sample import SampleReport, sample
from pipeline.mix.types import SliceTokens
from tests.mix_sample_stores import EOS, contents, make_slice

ROOT = Path(__file__).resolve().parents[2]
TOKENS = 2_000_000
WORKER = "import sys; from tests.faults.test_mix_sample_kill import worker; worker(*sys.argv[1:])"


def stores_in(folder: Path) -> list[SliceTokens]:
    rng = np.random.default_rng(1)
    return [make_slice(folder, name, rng.integers(2, 500, 4_000).tolist()) for name in ("web", "code")]


def run(stores: list[SliceTokens], out: Path, form: str) -> SampleReport:
    config = SampleConfig.model_validate({"format": form, "shard_tokens": 40_000})
    caps, weights = np.full(2, 4.0), np.array([0.6, 0.4])
    return sample(stores, weights, TOKENS, out, config, max_epochs=caps, vocabulary=1000, eos=EOS, key="k", workers=2)


def worker(folder: str, out: str, form: str) -> None:
    """The process that is killed: the stores are there, it reads them and samples."""
    stores = []
    for name in ("web", "code"):
        path = Path(folder) / f"{name}.npy"
        size = np.load(path, mmap_mode="r").size
        stores.append(SliceTokens(name, path, path.with_suffix(".parquet"), 4_000, size, 4 * size))
    run(stores, Path(out), form)


def killed(folder: Path, out: Path, form: str, shards: int, chance: random.Random) -> bool:
    """Kill a run when it has finished some more shards, or a little later; tell whether it was still at work."""
    done = len(list(out.glob("*/shard-*.json")))
    enough = chance.randint(done, max(done, shards - 2))
    process = subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(out), form], cwd=ROOT)
    while process.poll() is None and len(list(out.glob("*/shard-*.json"))) < max(enough, 1):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, 0.03))
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
