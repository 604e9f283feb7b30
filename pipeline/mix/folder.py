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

import os
import re
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline import user_cache
from pipeline.mix.types import Measure, RunSpec, TrainedRun
from pipeline.table.errors import ShardError
from pipeline.table.kept import as_written, create_file, done, read_arrays, read_json, write_arrays, write_json
from pipeline.table.shards import digest
from pipeline.table.storage import LOCK, Storage

RUN, STOPPED = "run.json", "stopped.json"
_KNOWN = ".known.json"
_STAYS = re.compile(rf"(^|/)\.[^/]*$|^{re.escape(LOCK)}$|^proposals/[^/]+/shards/|^runs/ngram_counts/")
"""Names of files that do not travel between a remote folder and its copy."""


@dataclass(frozen=True)
class MixFolder:
    """The folder of one mix. `mirror`: of a remote one, whose copy this is."""

    root: Path
    mirror: Mirror | None = None

    def publish(self, folder: str = "") -> None:
        """Bring what was written to a remote mix, or to a folder of it; a local one is there already."""
        if self.mirror is not None:
            self.mirror.push(folder)

    @property
    def slices(self) -> Path:
        return self.root / "slices"

    @property
    def swarm(self) -> Path:
        return self.root / "swarm" / "swarm.json"

    @property
    def ngram_counts(self) -> Path:
        """What all runs of n-gram proxies share, and no mix needs to keep."""
        return self.root / "runs" / "ngram_counts"

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


class ProposalFolder:
    """What belongs to one proposal. `config` is the mix's configuration that led to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        self.config, self.proposal = path / "config.json", path / "proposal.json"
        self.verification, self.mixture = path / "verification.json", path / "mixture.yaml"
        self.fit, self.shards, self.report = path / "fit", path / "shards", path / "report"


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
        with as_written(self.path / RUN):
            curve = [(int(t), float(loss)) for t, loss in value["trained"]["curve"]]
            return TrainedRun(**{**value["trained"], "curve": curve})

    def finish(self, spec: RunSpec, names: tuple[str, ...], trained: TrainedRun) -> None:
        """Write the manifest: from now on the run is done."""
        weights = {name: float(weight) for name, weight in zip(names, spec.weights, strict=True)}
        value = {"key": self.key, "kind": spec.kind, "seed": spec.seed, "weights": weights, "trained": asdict(trained)}
        write_json(self.path / RUN, value)

    def stopped_at(self) -> float | None:
        """Return the share of its tokens at which early stopping ended the run, or None."""
        value = read_json(self.path / STOPPED)
        with as_written(self.path / STOPPED):
            return float(value["at"]) if value is not None else None

    def stop(self, at: float) -> None:
        """Write down that the run ends at this share of its tokens; it is not trained any further."""
        write_json(self.path / STOPPED, {"at": at})

    def has_measure(self, task_key: str, at: float = 1.0) -> bool:
        """Tell whether a task was measured, at this share of the run's tokens."""
        return self._measure(task_key, at).is_file()

    def measured(self, task_key: str, at: float = 1.0) -> Measure | None:
        """Return what was measured for a task at this share of the run's tokens, or None."""
        path = self._measure(task_key, at)
        arrays = read_arrays(path)
        with as_written(path):
            return None if arrays is None else Measure(arrays["nats"], arrays["n_bytes"])

    def save_measure(self, task_key: str, measure: Measure, at: float = 1.0) -> None:
        """Keep what was measured for a task."""
        write_arrays(self._measure(task_key, at), vars(measure))

    def _measure(self, task_key: str, at: float) -> Path:
        folder = "measures" if at == 1.0 else f"measures-at-{at:g}"
        return self.path / folder / f"{task_key}.npz"


@dataclass
class Mirror:
    """The copy on this machine of a mix's remote folder. The remote one is the truth, this a cache of it.

    Shards of a sample are written straight to the remote folder, and n-gram counts, seconds of work, stay here. Of runs
    that are not finished yet, what a killed command left here stays, as a run's files say what they are.
    """

    remote: Storage
    root: Path
    known: dict[str, list[Any]] = field(default_factory=dict)
    """Files that are the same here and there, by name: what identifies them there, size and time here."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pull(self) -> None:
        """Make the copy what the remote folder is; only what differs travels, manifests last.

        Raises: ShardError when either cannot be read or written.
        """
        found, there, here = read_json(self.root / _KNOWN), self._there(), self._here("")
        self.known = found if isinstance(found, dict) else {}
        for name in here.keys() - there.keys():
            if not name.startswith("runs/"):
                (self.root / name).unlink()
        for name in sorted(there, key=lambda name: (name.endswith((".json", ".yaml")), name)):
            if self.known.get(name) != [there[name], *here.get(name, ())]:
                try:
                    with self.remote.open(name) as source, create_file(self.root / name) as target:
                        shutil.copyfileobj(source, target)
                except OSError as error:
                    raise ShardError(f"{self.remote.sql_path(name)} cannot be read: {error}; run it again") from error
                self.known[name] = [there[name], *self._state(name)]
        self.known = {name: state for name, state in self.known.items() if name in there}
        write_json(self.root / _KNOWN, self.known)

    def push(self, folder: str) -> None:
        """Make the remote folder, or a folder in it, what its copy is: in the order in which files were written.

        Raises: ShardError when the remote folder cannot be written.
        """
        with self.lock:
            here = self._here(folder)
            for name in [name for name in self.known if name.startswith(folder) and name not in here]:
                self.remote.delete(name)
                del self.known[name]
            changed = [name for name, state in here.items() if self.known.get(name, [None])[1:] != state]
            for name in sorted(changed, key=lambda name: (here[name][1], name.endswith((".json", ".yaml")))):
                with open(self.root / name, "rb") as source, self.remote.create(name) as target:
                    shutil.copyfileobj(source, target)
            there = self._there() if changed else {}
            self.known |= {name: [there[name], *here[name]] for name in changed if name in there}
            write_json(self.root / _KNOWN, self.known)

    def _there(self) -> dict[str, str]:
        try:
            found = self.remote.fs.find(self.remote.root, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ShardError(f"{self.remote.url} cannot be listed: {error}; run the same command again") from error
        files = {str(path).removeprefix(f"{self.remote.root}/"): info for path, info in found.items()}
        return {name: digest(str(sorted(info.items()))) for name, info in files.items() if not _STAYS.search(name)}

    def _here(self, folder: str) -> dict[str, list[int]]:
        files = (path for path in (self.root / folder).rglob("*") if path.is_file())
        names = [str(path.relative_to(self.root)) for path in files]
        return {name: self._state(name) for name in names if not _STAYS.search(name)}

    def _state(self, name: str) -> list[int]:
        found = os.stat(self.root / name)
        return [found.st_size, found.st_mtime_ns]


def mix_folder(home: Storage) -> MixFolder:
    """Return the folder in which a mix is at work: its own, or the copy of a remote one."""
    if home.is_local:
        return MixFolder(Path(home.root))
    root = Path(user_cache(), "gristmill", "mixes", digest(home.url)[:16])
    return MixFolder(root, Mirror(home, root))
