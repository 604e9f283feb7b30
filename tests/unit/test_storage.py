"""Files of a workspace: local writes are atomic, remote ones go through fsspec, names and failures are one line."""

from __future__ import annotations

import errno
import importlib.util
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.inputs.files import InputFile
from pipeline.table.errors import InputError, MissingDependencyError, ShardError, WorkspaceError
from pipeline.table.storage import TEMPORARY, Storage, filesystem, write_failure


@pytest.fixture(params=["path", "file URL", "memory URL"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """The same folder of a workspace in each way that it can be named."""
    urls = {"path": str(tmp_path / "ws"), "file URL": f"file://{tmp_path}/ws", "memory URL": f"memory://{uuid.uuid4()}"}
    yield Storage.at(urls[request.param])
    memory = fsspec.filesystem("memory")
    if memory.exists(urls["memory URL"]):
        memory.rm(urls["memory URL"], recursive=True)


def test_every_kind_of_place_reads_what_was_written(storage: Storage) -> None:
    storage.write_bytes("web/documents/a.parquet", b"one")
    storage.write_bytes("web/documents/a.json", b"{}")
    storage.write_bytes("web/_index.json", b"1")
    storage.write_bytes("web/_index.json", b"2")
    assert storage.read_bytes("web/_index.json") == b"2"
    assert storage.names("web/documents") == {"a.parquet", "a.json"}
    assert storage.names("web") == {"documents", "_index.json"}
    assert storage.names("absent") == set()
    assert storage.files("") == ["web/_index.json", "web/documents/a.json", "web/documents/a.parquet"]
    assert storage.files("absent") == []
    assert storage.exists("web/documents/a.json")
    assert not storage.exists("web/documents/b.json")
    with storage.open("web/documents/a.parquet") as stream:
        stream.seek(1)
        assert stream.read() == b"ne"
    storage.delete("web/documents/a.json")
    storage.delete("web/documents/a.json")
    assert storage.names("web/documents") == {"a.parquet"}


def test_an_absent_file_is_not_found(storage: Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("web/_index.json")


def test_a_file_appears_only_when_its_block_ends_well(storage: Storage) -> None:
    with pytest.raises(AttributeError), storage.create("web/a") as target:
        target.write(b"half") and target.no_such_method()  # type: ignore[attr-defined]
    assert not storage.exists("web/a")
    with storage.create("web/a") as target:
        target.write(b"whole")
        assert not storage.exists("web/a")
    assert storage.read_bytes("web/a") == b"whole"


def test_readers_see_the_old_bytes_until_the_new_ones_are_whole(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    storage.write_bytes("index", b"old")
    with storage.open("index") as reader, storage.create("index") as target:
        target.write(b"n")
        assert storage.read_bytes("index") == b"old"
        assert reader.read() == b"old"
    assert storage.read_bytes("index") == b"n"


def test_nothing_is_left_of_a_failed_write(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    with pytest.raises(ZeroDivisionError), storage.create("a"):
        raise ZeroDivisionError
    assert storage.names(TEMPORARY) == set()


def test_what_killed_runs_left_is_cleared(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    (tmp_path / TEMPORARY / "dedup-x" / "deep").mkdir(parents=True)
    (tmp_path / TEMPORARY / "dedup-x" / "deep" / "f").touch()
    (tmp_path / TEMPORARY / "part-y").touch()
    storage.clear_temporary()
    assert storage.names(TEMPORARY) == set()


def test_new_files_get_the_permissions_of_the_umask(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    storage.write_bytes("a", b"")
    plain = tmp_path / "plain"
    plain.touch()
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


def test_paths_for_sql(tmp_path: Path) -> None:
    assert Storage.at(f"{tmp_path}/ws/").sql_path("a") == f"{tmp_path}/ws/a"
    assert Storage.at(f"file://{tmp_path}/ws").sql_path("a") == f"{tmp_path}/ws/a"
    assert Storage.at("memory://ws").sql_path("a") == "memory://ws/a"


def test_a_relative_path_follows_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        assert Storage.at("ws").root == f"{tmp_path}/{name}/ws"


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Storage.at("~/ws").root == f"{tmp_path}/ws"


@pytest.mark.parametrize(
    ("url", "error", "phrase"),
    [
        ("nothing://a/b", InputError, "Protocol not known"),
        ("s3://bucket/ws", MissingDependencyError, "pip install 'gristmill[s3]'"),
    ],
)
def test_a_protocol_that_is_not_there(url: str, error: type[Exception], phrase: str) -> None:
    if url.startswith("s3") and importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(error, match=url) as raised:
        filesystem(url)
    assert phrase in str(raised.value)


def test_a_workspace_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "absent" / "absent")
    Storage.at(str(tmp_path / "new" / "newer")).check_writable()
    Storage.at("memory://anything").check_writable()
    for name in ("file", "file/ws", "broken"):
        with pytest.raises(WorkspaceError, match="name a folder"):
            Storage.at(str(tmp_path / name)).check_writable()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("number", "phrase"),
    [
        (errno.ENOSPC, "disk full while writing /ws/a; free space"),
        (errno.EDQUOT, "disk full while writing /ws/a; free space"),
        (errno.EACCES, "choose a workspace that you may write to"),
        (errno.EROFS, "choose a workspace that you may write to"),
        (errno.EFBIG, "cannot write /ws/a: File too large; run the same command again"),
    ],
)
def test_failed_writes_say_what_to_do(number: int, phrase: str) -> None:
    assert phrase in write_failure("/ws/a", OSError(number, os.strerror(number)))


def test_an_error_while_writing_names_the_file(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path))
    with pytest.raises(ShardError, match=f"disk full while writing {tmp_path}/web/a"), storage.create("web/a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_input_that_vanished(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="is gone; it was there when the run began"):
        InputFile(str(tmp_path / "a"), "a", 0, "none").open()
    with pytest.raises(ShardError, match="cannot be read: Is a directory"):
        InputFile(str(tmp_path), "a", 0, "none").open()
