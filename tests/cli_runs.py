"""The real command as a subprocess, and what its workspaces hold: for end-to-end and fault tests."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMMAND = [sys.executable, "-c", "from flows.cli import main; main()"]
"""The console script, without depending on where it was installed."""
ROOT = Path(__file__).resolve().parents[1]
MARK = "GRISTMILL_TEST_MARK"
"""Environment variable by which a test finds every process that its run started."""
LIMIT_S = 280


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str
    elapsed_s: float

    def rows(self) -> Any:
        """Return standard output as JSON."""
        return json.loads(self.out)


def environment(mark: str = "", **extra: str) -> dict[str, str]:
    """Return the environment of a command started in any folder; a user's Prefect server is not ours to fill."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    inherited = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    result = {**inherited, "PYTHONPATH": path, MARK: mark, "COLUMNS": "200", **extra}
    if "XDG_CACHE_HOME" in extra:  # Prefect's home moves with it; kernels compiled once are enough
        import numba

        import pipeline.kernels  # noqa: F401  # points Numba's cache at its usual folder

        result["NUMBA_CACHE_DIR"] = str(numba.config.CACHE_DIR)
    return result


def gristmill(*arguments: str, cwd: Path, limit_s: float = LIMIT_S, **extra: str) -> Ran:
    """Run the command to its end."""
    started = time.monotonic()
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, env=environment(**extra), capture_output=True, timeout=limit_s, check=False
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode(), time.monotonic() - started)


@dataclass
class Started:
    """A command that is still running, in a session of its own."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def err(self) -> str:
        """Return what it wrote on standard error so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, condition: Callable[[str], bool], limit_s: float = 120) -> str:
        """Wait until standard error meets a condition, or the command ends; return it."""
        deadline = time.monotonic() + limit_s
        while self.process.poll() is None and not condition(self.err()):
            assert time.monotonic() < deadline, self.err()
            time.sleep(0.02)
        return self.err()

    def kill(self) -> None:
        """Send SIGKILL to the whole process group and wait until nothing of the run is left."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert survivors(self.mark) == []

    def end(self, limit_s: float) -> tuple[int, float]:
        """Wait for the command's own end; return its exit code and the seconds that it took."""
        started = time.monotonic()
        code = self.process.wait(timeout=limit_s)
        return code, time.monotonic() - started


@contextmanager
def started(*arguments: str, cwd: Path, **extra: str) -> Iterator[Started]:
    """Start the command; whatever is left of it at the end of the block is killed."""
    mark = uuid.uuid4().hex
    log = cwd / f"stderr-{mark[:8]}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=cwd,
            env=environment(mark, **extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Started(process, mark, log)
    finally:
        for pid in running(mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()


def running(mark: str) -> dict[int, str]:
    """Return the processes that carry a mark in their environment, with their command lines."""
    needle = f"{MARK}={mark}".encode()
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if needle in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile
            continue
    return found


def survivors(mark: str, limit_s: float = 5) -> list[str]:
    """Return the command lines of marked processes that are still there after `limit_s`."""
    deadline = time.monotonic() + limit_s
    while (left := running(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return list(left.values())


def write_config(path: Path, config: Mapping[str, Any]) -> Path:
    """Write a configuration as YAML."""
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False), "utf-8")
    return path


def select(workspace: Path, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a statement over a workspace."""
    from pipeline.table.sql import connect
    from pipeline.table.storage import Storage

    with connect(Storage.at(str(workspace))) as session:
        return session.execute(sql)


def hashes(workspace: Path, group: str = "curated") -> dict[str, str]:
    """Return the SHA-256 of every listed shard of a group, by source and name."""
    found = {}
    for index in sorted(workspace.glob(f"*/_manifests/{group}/_index.json")):
        source = index.relative_to(workspace).parts[0]
        for part in json.loads(index.read_text())["parts"]:
            shard = workspace / source / group / f"{part['name']}.parquet"
            found[f"{source}/{shard.name}"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    return found


def assert_same(workspace: Path, other: Path) -> None:
    """Check that every source of a workspace has the curated bytes and the outcomes that it has in another one."""
    sources = sorted(path.parents[2].name for path in workspace.glob("*/_manifests/curated/_index.json"))
    assert sources
    expected = {name: value for name, value in hashes(other).items() if name.split("/")[0] in sources}
    assert hashes(workspace) == expected != {}
    for source in sources:
        outcomes = f"SELECT * FROM {source}.outcomes ORDER BY doc_id"
        assert select(workspace, outcomes) == select(other, outcomes)


def snapshot(workspace: Path) -> dict[str, tuple[int, int]]:
    """Return every file of a workspace with its inode and time: a rewritten file differs in both."""
    files = [path for path in workspace.rglob("*") if path.is_file() and path.name != "_lock.json"]
    files = [path for path in files if "_verified" not in path.parts]  # what a query may remember
    return {str(path.relative_to(workspace)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def made(before: Mapping[str, tuple[int, int]], workspace: Path) -> dict[str, int]:
    """Return how many parts a run wrote since a snapshot, by group: what was done again, and nothing else."""
    count: dict[str, int] = {}
    for name, seen in snapshot(workspace).items():
        if name.endswith(".parquet") and before.get(name) != seen:
            group = name.rpartition("/")[0]
            count[group] = count.get(group, 0) + 1
    return count


def table(err: str) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the closing table of a run: shards done and done before, by source and stage."""
    found = {}
    _, _, closing = err.partition("\nsource ")
    for line in closing.splitlines():
        cells = line.split()
        if len(cells) >= 7 and cells[1] in {"extract", "annotate", "dedup", "classify", "select"}:
            found[cells[0], cells[1]] = int(cells[2].replace(",", "")), int(cells[3].replace(",", ""))
    return found


@contextmanager
def once(folder: Path) -> Iterator[bool]:
    """Hold a folder among the test processes; yield whether its content is still to be made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = Path(f"{folder}.done")
        yield not done.exists()
        done.touch()
