"""`gristmill mix` with small transformers: under Prefect, after a change of the suite, and with early stopping."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli_runs import gristmill, once, snapshot
from tests.mix_workspace import (
    CONFIG,
    TRANSFORMER,
    Shards,
    blank,
    contents,
    current,
    done,
    edited,
    mixture,
    proposal,
    runs,
)

MIX = Path("ws/mix/mix")
FRESH = 1_000


@pytest.fixture(scope="module")
def trained(shared: Path, prefect_api: str) -> Path:
    """A folder in which a mix of transformers was made under Prefect. For reading only."""
    folder = shared / "mix-transformer"
    with once(folder) as to_do:
        if to_do:
            edited(blank(shared, folder), **TRANSFORMER)
            ran = gristmill("mix", "run", "mix.yaml", cwd=folder, PREFECT_API_URL=prefect_api)
            (folder / "run.json").write_text(json.dumps(vars(ran)))
    return folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A test's own copy of `trained`."""
    return shutil.copytree(trained, tmp_path / "copy")


def test_transformers_are_trained_under_prefect_and_verified(trained: Path) -> None:
    ran = json.loads((trained / "run.json").read_text())
    assert ran["code"] == 0, ran["err"]
    assert "starting Prefect" in ran["err"]
    assert "Traceback" not in ran["err"]
    found = mixture(trained)
    assert found["evidence"] in {"confirmed", "likely", "none"}
    assert found["provenance"]["proxy"] == {"kind": "transformer", **_size()}
    manifests = runs(trained).values()
    swarm = [run for run in manifests if run["seed"] < FRESH]
    fresh = [run for run in manifests if run["seed"] >= FRESH]
    assert len(swarm) == found["provenance"]["runs"]
    assert len(fresh) == 2 * len(found["verified"]["sizes"][0]["metric"])
    for run in manifests:
        learned = run["trained"]
        assert 0 < learned["tokens"] <= TRANSFORMER["proxy"]["tokens"]
        assert learned["steps"] > 0
        assert learned["flops"] > 0
        assert learned["curve"][-1][1] < learned["curve"][0][1]
    assert "lower" not in ran["err"]
    assert sum(Shards(trained).counted().values()) == CONFIG["budget_tokens"]
    assert (current(trained) / "report/plots/curves.png").is_file()


def _size() -> dict[str, int]:
    return {name: TRANSFORMER["proxy"][name] for name in ("parameters", "tokens")}


def test_a_changed_suite_waits_for_verify_and_sample(copied: Path) -> None:
    """Not verified, no shards: both would be of another suite. `verify` and `sample` then make them."""
    models, shards = snapshot(copied / MIX / "runs"), snapshot(current(copied) / "shards")
    first = current(copied)
    changed = edited(copied, **{**TRANSFORMER, "suite": "code.yaml", "measure": ["prose.yaml"]})
    old = proposal(copied)
    ran = done(copied, "run", changed)
    assert (
        "not verified on this suite, so no shards yet; next: gristmill mix verify mix.yaml, then mix sample" in ran.out
    )
    assert snapshot(copied / MIX / "runs") == models
    assert snapshot(first / "shards") == shards
    assert not (current(copied) / "shards").exists()
    assert "verified" not in mixture(copied)
    new = proposal(copied)
    assert new["modules"] > old["modules"]
    verified = done(copied, "verify", changed)
    after = snapshot(copied / MIX / "runs")
    assert {name: after[name] for name in models} == models
    assert mixture(copied)["evidence"] in {"confirmed", "likely", "none"}
    assert mixture(copied)["verified"]["why"].split(".")[0] in " ".join(verified.out.split())
    assert snapshot(first / "shards") == shards
    assert not (current(copied) / "shards").exists()
    done(copied, "sample", changed)
    count, weights = Shards(copied).counted(), mixture(copied)["weights"]
    for name, weight in weights.items():
        assert abs(count[name] / CONFIG["budget_tokens"] - weight) < 0.001
    same = contents(copied)
    assert "to train" not in done(copied, "run", changed).err
    assert contents(copied) == same


def _stopped(folder: Path) -> dict[str, float]:
    return {
        path.parent.name: json.loads(path.read_text())["at"] for path in (folder / MIX / "runs").glob("*/stopped.json")
    }


def _early(rungs: list[float] | None) -> dict[str, Any]:
    small = {"tokens": 8_000, "workers": 1, "early_stopping": {} if rungs is None else {"rungs": rungs}}
    swarm = {"runs": 10, "seed": 3, "replicates": 2, "corners": False}
    return {**TRANSFORMER, "proxy": {**TRANSFORMER["proxy"], **small}, "swarm": swarm}


@pytest.mark.parametrize(
    "rungs",
    [pytest.param([0.5], marks=pytest.mark.acceptance), pytest.param(None, marks=pytest.mark.acceptance, id="default")],
)
def test_early_stopping_keeps_what_it_decided(rungs: list[float] | None, shared: Path, tmp_path: Path) -> None:
    folder = blank(shared, tmp_path / "early")
    config = edited(folder, **_early(rungs))
    ran = done(folder, "train", config)
    swarm = {row["run"][:16]: row for row in json.loads((folder / MIX / "swarm/swarm.json").read_text())}
    stopped, whole = _stopped(folder), runs(folder)
    assert ran.err.count("early stopping at") == len(rungs or (0.25, 0.5, 0.75))
    assert len(stopped) + len(whole) == len(swarm)
    assert not set(stopped) & set(whole)
    for name, at in stopped.items():
        assert swarm[name.partition("-")[0]]["kind"] == "swarm"
        assert any(f"at-{at:g}" in each.name for each in (folder / MIX / "runs" / name).iterdir())
    before = snapshot(folder / MIX / "runs")
    done(folder, "fit", config)
    assert snapshot(folder / MIX / "runs") == before
    ratios = next((folder / MIX / "proposals").glob("*/fit/ratios.csv")).read_text().splitlines()
    assert len(ratios) - 1 == len(swarm)
