"""Proxy training that is killed: going on gives the same bits as never having been killed."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

CODE = """
import sys
from pathlib import Path
import numpy as np
from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.transformer import training
from pipeline.mix.proxies.transformer.proxy import TransformerProxy
from pipeline.mix.types import ProxyData, RunSpec, SliceTokens

slices = tuple(SliceTokens(n, Path(f"{n}.npy"), Path(f"{n}.parquet"), 60, 6000, 6000) for n in ("a", "b"))
data = ProxyData(slices, np.array([4000, 6000]), 256, 0)
config = ProxyConfig(
    kind="transformer", parameters=20_000, tokens=int(sys.argv[3]), context=64, batch_tokens=512, device="cpu"
)
training.CHECKPOINT_EVERY_S = float(sys.argv[2])
run = RunSpec("r", "swarm", np.array([0.7, 0.3]), 1)
print("begins", flush=True)
TransformerProxy(config, data).train(run, Path(sys.argv[1]))
"""
TOKENS = 80_000


def write_slices(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, name in enumerate("ab"):
        tokens = np.random.default_rng(number).integers(1, 256, 6000).astype(np.uint16)
        tokens[99::100] = 0
        np.save(folder / f"{name}.npy", tokens)
        starts = np.arange(0, 6000, 100)
        pq.write_table(pa.table({"start": starts, "tokens": np.full(60, 100, np.int32)}), folder / f"{name}.parquet")


def start(folder: Path, name: str, every_s: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, name, str(every_s), str(TOKENS)]
    root = str(Path(__file__).parents[2])
    environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PATH": ""}
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)


def finish(folder: Path, name: str) -> float:
    """Train to the end; return the seconds from the beginning of the training."""
    with start(folder, name, 20.0) as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        assert process.wait() == 0
    return time.monotonic() - begun


def kill(folder: Path, name: str, every_s: float, after_s: float) -> bool:
    """Train with checkpoints this often and kill it; tell whether it was still at work."""
    with start(folder, name, every_s) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(after_s)
        process.kill()
        return process.wait() == -9


def assert_same_model(left: Path, right: Path) -> None:
    with np.load(left / "model.npz") as a, np.load(right / "model.npz") as b:
        assert len(a.files) > 3
        for name in set(a.files) - {"about"}:
            assert a[name].tobytes() == b[name].tobytes(), name


def kill_and_resume(folder: Path, times: int, kills: int, chance: random.Random) -> tuple[int, int]:
    """Kill each of so many runs some times, resume it, compare; return kills that hit and checkpoints they left."""
    write_slices(folder)
    seconds = finish(folder, "whole")
    hits = checkpoints = 0
    for number in range(times):
        name = f"run{number}"
        for _ in range(kills):
            hits += kill(folder, name, chance.choice([0.0, 0.02, 0.3]), chance.uniform(0.1, 0.45) * seconds)
            checkpoints += (folder / name / "checkpoint.npz").exists()
        finish(folder, name)
        assert_same_model(folder / "whole", folder / name)
        assert [p.name for p in (folder / name).iterdir()] == ["model.npz"]
    return hits, checkpoints


def test_a_killed_training_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    hits, _ = kill_and_resume(tmp_path, 1, 1, random.Random(1))
    assert hits


@pytest.mark.acceptance
@pytest.mark.timeout(1200)
def test_twenty_killed_training_runs_go_on_to_the_same_bits(tmp_path: Path) -> None:
    hits, checkpoints = kill_and_resume(tmp_path, 10, 2, random.Random(20))
    assert hits >= 16
    assert checkpoints >= 10
