"""`gristmill mix run`, killed at any moment and run again, ends with the same mixture, fit and shards."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli_runs import Started, gristmill, snapshot, started
from tests.mix_workspace import TRANSFORMER, blank, contents, edited

MIX = Path("ws/mix/mix")
SMALL: dict[str, Any] = {
    **TRANSFORMER,
    "swarm": {"runs": 3, "seed": 3, "replicates": 2, "corners": False},
    "proxy": {**TRANSFORMER["proxy"], "tokens": 12_000, "workers": 1},
    "sample": {"shard_tokens": 4_000},
}
"""Five runs and eight of verification: seconds of work, so without Prefect, whose own kills other tests are about."""
Moment = Callable[[Path, str], bool]
"""Tells from the folder and standard error whether it is time to kill."""


def trained(count: int) -> Moment:
    """When so many runs are trained and measured."""
    return lambda folder, err: len(list((folder / MIX / "runs").glob("*/run.json"))) >= count


def said(text: str) -> Moment:
    """When the command says something."""
    return lambda folder, err: text in err


def written(count: int) -> Moment:
    """When so many shards are there."""
    return lambda folder, err: len(list((folder / MIX / "proposals").glob("*/shards/*/shard-*.json"))) >= count


def moments(chance: random.Random) -> list[tuple[Moment, float]]:
    """Return a moment of each step, at random within it: what to wait for, and seconds to wait then."""
    return [
        (said("slice prose"), chance.uniform(0, 0.3)),
        (said("5 of 5 runs to train"), chance.uniform(0, 4)),
        (trained(chance.randint(1, 4)), chance.uniform(0, 0.2)),
        (said("fitting"), chance.uniform(0, 1)),
        (trained(chance.randint(5, 12)), chance.uniform(0, 0.2)),
        (written(chance.randint(1, 40)), chance.uniform(0, 0.02)),
    ]


def finished_parts(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what is finished and must not be made again: manifests of runs, their measures, manifests of shards."""
    kept = (".npz", "run.json")
    return {
        name: seen
        for name, seen in snapshot(folder / MIX).items()
        if (name.startswith("runs/") and name.endswith(kept) and "checkpoint" not in name)
        or ("/shards/" in name and "/shard-" in name)
    }


def killed(folder: Path, moment: Moment, delay_s: float) -> bool:
    """Start the command and kill it at a moment; tell whether it was still at work."""
    with started("mix", "run", "mix.yaml", cwd=folder) as run:
        _wait(run, folder, moment)
        time.sleep(delay_s)
        alive = run.process.poll() is None
        run.kill()
    return alive


def _wait(run: Started, folder: Path, moment: Moment) -> None:
    run.wait_for(lambda err: moment(folder, err))


def reference(shared: Path, folder: Path) -> dict[str, str]:
    """Return what an uninterrupted run leaves."""
    edited(blank(shared, folder), **SMALL)
    ran = gristmill("mix", "run", "mix.yaml", cwd=folder)
    assert ran.code == 0, ran.err
    return contents(folder)


def ends_the_same(folder: Path, expected: dict[str, str]) -> None:
    """Run the command to its end: the same bytes, and nothing made again that was finished."""
    before = finished_parts(folder)
    ran = gristmill("mix", "run", "mix.yaml", cwd=folder)
    assert ran.code == 0, ran.err
    assert contents(folder) == expected
    after = finished_parts(folder)
    assert {name: after[name] for name in before} == before


def test_a_killed_mix_ends_the_same(shared: Path, tmp_path: Path) -> None:
    """Killed while it trains, while it fits and while it samples, one on top of the other."""
    expected, folder = reference(shared, tmp_path / "whole"), blank(shared, tmp_path / "killed")
    edited(folder, **SMALL)
    chance, interrupted = random.Random(1), 0
    for number in (2, 3, 5):
        before = finished_parts(folder)
        interrupted += killed(folder, *moments(chance)[number])
        after = finished_parts(folder)
        assert {name: after[name] for name in before} == before
    assert interrupted >= 2
    ends_the_same(folder, expected)


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_a_mix_killed_twenty_times_ends_the_same(shared: Path, tmp_path: Path) -> None:
    expected, chance, interrupted, kills = reference(shared, tmp_path / "whole"), random.Random(20), 0, 0
    while interrupted < 20:
        folder = blank(shared, tmp_path / f"killed-{kills}")
        edited(folder, **SMALL)
        steps = moments(chance)
        for number in sorted(chance.sample(range(len(steps)), 4)):
            interrupted += killed(folder, *steps[number])
            kills += 1
        ends_the_same(folder, expected)
        assert kills < 40, f"only {interrupted} of {kills} kills hit a command at work"
    print(f"\n{interrupted} of {kills} kills hit a command at work")
