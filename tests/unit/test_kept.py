"""What is kept: made once, again when anything of it is another, and never half there; locally and behind a URL."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.table import kept as keeping
from pipeline.table.errors import ShardError
from pipeline.table.kept import create_file, done, kept, local_copy, read_json, size_of, write_file, write_json
from pipeline.table.storage import Storage


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "new")
        return
    url = f"memory://{uuid.uuid4()}"
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def thing(folder: str, key: str, made: list[str], said: str = "data") -> str:
    """Keep a file with a manifest; `made` notes each making."""

    def make() -> tuple[str, dict[str, Any]]:
        made.append(key)
        write_file(f"{folder}/thing.bin", said.encode())
        return said, {"files": {"thing.bin": {"bytes": len(said)}}, "said": said}

    def load(known: dict[str, Any]) -> str | None:
        return str(known["said"]) if "said" in known else None

    return kept(f"{folder}/thing.json", {"key": key}, make, load)


def test_a_thing_is_made_once_for_a_key_and_again_when_a_file_is_another(folder: str) -> None:
    made: list[str] = []
    assert [thing(folder, "a", made), thing(folder, "a", made)] == ["data", "data"]
    assert made == ["a"]
    thing(folder, "b", made)
    write_file(f"{folder}/thing.bin", b"longer than it was")
    assert done(f"{folder}/thing.json", {"key": "b"}) is None
    thing(folder, "b", made)
    assert made == ["a", "b", "b"]
    write_json(f"{folder}/thing.json", {"key": "b", "files": {}})  # `load` finds nothing in it
    thing(folder, "b", made)
    assert made == ["a", "b", "b", "b"]
    assert read_json(f"{folder}/thing.json") == {"key": "b", "files": {"thing.bin": {"bytes": 4}}, "said": "data"}


@pytest.mark.parametrize("files", [["thing.bin"], {"thing.bin": {}}, {"thing.bin": "4"}, {"../none": 1}])
def test_a_manifest_of_another_shape_is_not_done(folder: str, files: Any) -> None:
    write_file(f"{folder}/thing.bin", b"data")
    write_json(f"{folder}/thing.json", {"files": files})
    assert done(f"{folder}/thing.json", {}) is None
    write_json(f"{folder}/list.json", ["key"])
    assert done(f"{folder}/list.json", {}) is None


def test_a_damaged_file_is_one_line_that_names_it(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for damaged in (b'{"key": ', b"\xff\xfe{", b"[" * 100_000):
        write_file(f"{folder}/thing.json", damaged)
        with pytest.raises(ShardError, match=r"thing\.json is damaged .*delete it and run again"):
            done(f"{folder}/thing.json", {})
    monkeypatch.setattr(keeping, "MAX_JSON_BYTES", 10)
    with pytest.raises(ShardError, match=r"thing\.json is larger than 10 bytes; delete it"):
        read_json(f"{folder}/thing.json")


def test_what_breaks_off_leaves_what_was_there(folder: str) -> None:
    write_file(f"{folder}/a", b"old")

    def broken() -> None:
        with create_file(f"{folder}/a") as target:
            target.write(b"half of the new")
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    with local_copy(f"{folder}/a") as path:
        assert Path(path).read_bytes() == b"old"
    assert (size_of(f"{folder}/a"), size_of(f"{folder}/none")) == (3, None)
    assert Storage.at(folder).names("") == {"a"}


def test_a_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    write_file(tmp_path / "a", b"")
    (tmp_path / "b").touch()
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "b").st_mode
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(ShardError, match=r"cannot write .*taken/a"):
        write_file(tmp_path / "taken" / "a", b"")
