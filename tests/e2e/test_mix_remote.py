"""A mix on a workspace behind fsspec: every step, from slices to token shards, as on an object store.

fsspec's file system in memory stands in for one, as it does for curation.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.mix.steps.workspace import mix_home
from pipeline.table.storage import Storage, hold
from tests.mix_workspace import blank, contents, done, edited, here, mixed


@pytest.fixture
def remote(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    """The workspace of `mix.yaml` in memory, and the user's cache in a folder of the test's."""
    blank(shared, tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    storage = Storage.at(f"memory://{uuid.uuid4()}")
    for path in (tmp_path / "ws").rglob("*"):
        if path.is_file():
            storage.write_bytes(str(path.relative_to(tmp_path / "ws")), path.read_bytes())
    shutil.rmtree(tmp_path / "ws")
    edited(tmp_path, workspace=storage.url)
    yield storage
    storage.fs.rm(storage.root, recursive=True)


def fetched(remote: Storage, folder: Path) -> dict[str, str]:
    """Return the contents of the remote mix, as `contents` has those of a local one."""
    for name in remote.files("mix"):
        path = folder / "ws" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(remote.read_bytes(name))
    return contents(folder)


def test_a_remote_mix_is_what_a_local_one_is(remote: Storage, shared: Path, tmp_path: Path) -> None:
    planned = done(tmp_path, "run", "mix.yaml", "--dry-run")
    assert "slices are to be built" in planned.out
    assert remote.files("mix") == []

    out = done(tmp_path, "run", "mix.yaml").out
    assert f"mixture: {remote.url}/mix/mix/mixture.yaml" in out
    assert f"token shards: {remote.url}/mix/mix/proposals/" in out
    first = fetched(remote, tmp_path / "first")
    assert first == contents(mixed(shared))
    assert any("/shards/" in name for name in first)
    assert not list((tmp_path / "cache").rglob("part-*")), "shards are not kept on this machine"

    shutil.rmtree(tmp_path / "cache")  # another machine
    assert "0 to train" in done(tmp_path, "run", "mix.yaml", "--dry-run").out
    written = {name: remote.fs.modified(remote.path(name)) for name in remote.files("mix") if "/shards/" in name}
    again = done(tmp_path, "run", "mix.yaml")
    assert "to train," not in again.err
    assert written == {name: remote.fs.modified(remote.path(name)) for name in written}
    assert fetched(remote, tmp_path / "again") == first
    assert "prose" in done(tmp_path, "explain", "mix.yaml").out
    assert f"report: {remote.url}/mix/mix/proposals/" in done(tmp_path, "report", "mix.yaml").out

    with hold(mix_home(remote, "mix"), "somebody's run"):
        refused = here(tmp_path, "mix", "run", "mix.yaml")
    assert (refused.code, "in use by `somebody's run`" in refused.err) == (2, True)


def test_what_a_kill_left_in_the_copy_does_not_count(remote: Storage, tmp_path: Path) -> None:
    done(tmp_path, "slices", "mix.yaml")
    (manifest,) = (tmp_path / "cache").rglob("prose/manifest.json")
    (manifest.parent / "tokens.npy").write_bytes(b"half")
    (manifest.parent / "stray.bin").write_bytes(b"half")
    before = remote.files("mix")
    assert "slice " not in done(tmp_path, "slices", "mix.yaml").err
    assert remote.files("mix") == before
    assert not (manifest.parent / "stray.bin").exists()

    remote.delete("mix/mix/slices/prose/manifest.json")  # another command is making it anew
    assert "slice prose" in done(tmp_path, "slices", "mix.yaml").err
    assert remote.files("mix") == before


def test_a_file_url_is_a_local_mix(shared: Path, tmp_path: Path) -> None:
    blank(shared, tmp_path)
    edited(tmp_path, workspace=f"file://{tmp_path}/ws")
    done(tmp_path, "slices", "mix.yaml")
    assert (tmp_path / "ws/mix/mix/slices/prose/manifest.json").exists()
    left = tmp_path / "ws/mix/mix/slices/late/.prose.json.killed.tmp"
    left.parent.mkdir()
    left.touch()
    assert "slice " not in done(tmp_path, "slices", "mix.yaml").err
    assert not left.exists()
