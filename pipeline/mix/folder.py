"""A mix's folder: where each step writes, and the proxy runs that are kept in it.

    slices/   token stores, the tokenizer        proposals/NAME/  config.json, proposal.json, verification.json,
    swarm/    the mixtures to train                               mixture.yaml, fit/, shards/, report/
    runs/     one folder a proxy run             mixture.yaml     that of the proposal written last
                                                 written.json     proposals in the order in which they were written

A proposal is named by eight hex digits of what decides it: runs, suite, objective, bounds and regression. So what
belongs to it (fit, verification, shards, report) is never another's.

A run's folder is named by what decides it (mixture, seed, data, kind of model), so that a run is never trained twice
and one that another configuration made is found again when that configuration comes back.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.mix.types import Measure, RunSpec, TrainedRun
from pipeline.table.errors import ShardError
from pipeline.table.kept import done, read_json, write_file, write_json
from pipeline.table.shards import digest

RUN, STOPPED = "run.json", "stopped.json"


@dataclass(frozen=True)
class MixFolder:
    """The folder of one mix."""

    root: Path

    @property
    def slices(self) -> Path:
        return self.root / "slices"

    @property
    def swarm(self) -> Path:
        return self.root / "swarm" / "swarm.json"

    @property
    def mixture(self) -> Path:
        """The mixture that was written last."""
        return self.root / "mixture.yaml"

    def history(self) -> list[str]:
        """Return the proposals whose mixtures were written, the last one last."""
        found = read_json(self.root / "written.json")
        return [str(name) for name in found] if isinstance(found, list) else []

    def wrote(self, name: str) -> None:
        """Remember that a proposal's mixture was written."""
        known = self.history()
        if known[-1:] != [name]:
            write_json(self.root / "written.json", [*known, name])

    def proposal(self, name: str) -> ProposalFolder:
        """Return the folder of a proposal."""
        return ProposalFolder(self.root / "proposals" / name)

    def proposals(self) -> list[ProposalFolder]:
        """Return those that are there, by name."""
        found = (self.root / "proposals").glob("*/config.json")
        return [ProposalFolder(path.parent) for path in sorted(found)]

    def run(self, spec: RunSpec, identity: Mapping[str, Any]) -> RunFolder:
        """Return the folder of a run; `identity` is everything that decides it besides mixture and seed."""
        key = digest({"run": spec.run_id, "seed": spec.seed, "identity": dict(identity)})
        return RunFolder(self.root / "runs" / f"{spec.run_id[:16]}-{key[:8]}", key)


@dataclass(frozen=True)
class ProposalFolder:
    """What belongs to one proposal. `config` is the mix's configuration that led to it."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def fit(self) -> Path:
        return self.path / "fit"

    @property
    def proposal(self) -> Path:
        return self.path / "proposal.json"

    @property
    def verification(self) -> Path:
        return self.path / "verification.json"

    @property
    def mixture(self) -> Path:
        return self.path / "mixture.yaml"

    @property
    def shards(self) -> Path:
        return self.path / "shards"

    @property
    def report(self) -> Path:
        return self.path / "report"


@dataclass(frozen=True)
class RunFolder:
    """One proxy run on disk: its model, its manifest (`run.json`, written last), and what was measured of it."""

    path: Path
    key: str

    def trained(self) -> TrainedRun | None:
        """Return the finished training run, or None when it is not done."""
        value = done(self.path / RUN, {"key": self.key})
        if value is None:
            return None
        return TrainedRun(
            **{**value["trained"], "curve": [(int(t), float(loss)) for t, loss in value["trained"]["curve"]]}
        )

    def finish(self, spec: RunSpec, names: tuple[str, ...], trained: TrainedRun) -> None:
        """Write the manifest: from now on the run is done."""
        weights = {name: float(weight) for name, weight in zip(names, spec.weights, strict=True)}
        value = {"key": self.key, "kind": spec.kind, "seed": spec.seed, "weights": weights, "trained": asdict(trained)}
        write_json(self.path / RUN, value)

    def stopped_at(self) -> float | None:
        """Return the share of its tokens at which early stopping ended the run, or None."""
        value = read_json(self.path / STOPPED)
        return float(value["at"]) if isinstance(value, dict) and "at" in value else None

    def stop(self, at: float) -> None:
        """Write down that the run ends at this share of its tokens; it is not trained any further."""
        write_json(self.path / STOPPED, {"at": at})

    def has_measure(self, task_key: str, at: float = 1.0) -> bool:
        """Tell whether a task was measured, at this share of the run's tokens."""
        return self._measure(task_key, at).is_file()

    def measured(self, task_key: str, at: float = 1.0) -> Measure | None:
        """Return what was measured for a task at this share of the run's tokens, or None."""
        try:
            with np.load(self._measure(task_key, at)) as arrays:
                return Measure(arrays["nats"], arrays["n_bytes"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            where = self._measure(task_key, at)
            raise ShardError(f"{where} is damaged ({error}); delete it and run again") from error

    def save_measure(self, task_key: str, measure: Measure, at: float = 1.0) -> None:
        """Keep what was measured for a task."""
        buffer = io.BytesIO()
        np.savez(buffer, nats=measure.nats, n_bytes=measure.n_bytes)
        write_file(self._measure(task_key, at), buffer.getvalue())

    def _measure(self, task_key: str, at: float) -> Path:
        folder = "measures" if at == 1.0 else f"measures-at-{at:g}"
        return self.path / folder / f"{task_key}.npz"
