"""From `inputs:` to files: what each entry names, names that do not depend on folders, what tells of a change."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import fsspec
import pytest

from pipeline.table.errors import InputError
from pipeline.table.inputs import resolve
from pipeline.table.storage import InputFile


@pytest.fixture
def crawl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.warc.gz", "b.warc.gz", "c.txt", "2024/a.warc.gz", "2025/a.warc.gz", "2025/deep/a.warc.gz"):
        (tmp_path / "crawl" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "crawl" / name).write_text(name)
    for name in (".hidden", "_SUCCESS", ".git/config", "_temporary/part"):
        (tmp_path / "crawl" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "crawl" / name).write_text("no input")
    return tmp_path / "crawl"


def names(*entries: str) -> list[str]:
    return [file.name for file in resolve(entries, "sources.web.inputs")]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (["crawl/a.warc.gz"], ["a.warc.gz"]),
        (["crawl/*.warc.gz"], ["a.warc.gz", "b.warc.gz"]),
        (["crawl/?.warc.gz"], ["a.warc.gz", "b.warc.gz"]),
        (["crawl/202[45]/*.gz"], ["2024/a.warc.gz", "2025/a.warc.gz"]),
        (
            ["crawl/**/*.gz"],
            ["2024/a.warc.gz", "2025/a.warc.gz", "2025/deep/a.warc.gz", "a.warc.gz", "b.warc.gz"],
        ),
        (["crawl/2025"], ["a.warc.gz", "deep/a.warc.gz"]),
        (["crawl/2025/"], ["a.warc.gz", "deep/a.warc.gz"]),
        (["./crawl/../crawl/c.txt"], ["c.txt"]),
        (["crawl/c.txt", "crawl/c.txt", "crawl/*.txt"], ["c.txt"]),
    ],
)
def test_what_entries_name(entries: list[str], expected: list[str], crawl: Path) -> None:
    assert names(*entries) == expected


def test_a_folder_means_every_visible_file_below_it(crawl: Path) -> None:
    assert names("crawl") == [
        "2024/a.warc.gz",
        "2025/a.warc.gz",
        "2025/deep/a.warc.gz",
        "a.warc.gz",
        "b.warc.gz",
        "c.txt",
    ]


def test_a_hidden_file_can_be_named(crawl: Path) -> None:
    assert names("crawl/.hidden") == [".hidden"]


def test_one_name_in_two_folders_becomes_two_names(crawl: Path) -> None:
    assert names("crawl/2024/a.warc.gz", "crawl/2025/a.warc.gz") == ["2024/a.warc.gz", "2025/a.warc.gz"]
    assert names("crawl/a.warc.gz", "crawl/2024/a.warc.gz", "crawl/2024") == ["2024/a.warc.gz", "crawl/a.warc.gz"]


def test_names_do_not_depend_on_where_the_crawl_lies_or_on_the_order_of_entries(crawl: Path) -> None:
    entries = ["crawl/2024/a.warc.gz", "crawl/2025", "crawl/c.txt"]
    before = names(*entries)
    assert names(*reversed(entries)) == before
    (crawl.parent / "moved").mkdir()
    crawl.rename(crawl.parent / "moved" / "crawl")
    os.chdir(crawl.parent / "moved")
    assert names(*entries) == before


def test_a_file_whose_name_looks_like_a_pattern(crawl: Path) -> None:
    (crawl / "crawl [1].warc.gz").touch()
    assert names("crawl/crawl [1].warc.gz") == ["crawl [1].warc.gz"]


def test_links_to_files_and_folders_are_followed(crawl: Path) -> None:
    (crawl / "link.txt").symlink_to(crawl / "c.txt")
    assert names("crawl/link.txt") == ["link.txt"]
    (crawl.parent / "linked").symlink_to(crawl / "2025", target_is_directory=True)
    assert names("linked") == ["a.warc.gz", "deep/a.warc.gz"]


@pytest.mark.parametrize(
    ("entry", "phrase"),
    [
        ("absent.warc", "sources.web.inputs: absent.warc does not exist"),
        ("crawl/*.zst", "sources.web.inputs: 'crawl/*.zst' matches no file"),
        ("crawl/.git/hooks", "does not exist"),
        ("memory://absent/*.gz", "matches no file"),
        ("nothing://a", "sources.web.inputs: nothing://a: Protocol not known"),
    ],
)
def test_entries_that_name_nothing(entry: str, phrase: str, crawl: Path) -> None:
    with pytest.raises(InputError) as raised:
        names("crawl/c.txt", entry)
    assert phrase in str(raised.value)


def file(entry: str, identity: str = "stat") -> InputFile:
    (found,) = resolve([entry], "inputs", identity)  # type: ignore[arg-type]
    return found


def test_a_change_shows_in_the_identity(crawl: Path) -> None:
    path = crawl / "c.txt"
    before = file("crawl/c.txt"), file("crawl/c.txt", "content")
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))  # touched, one nanosecond later
    touched = file("crawl/c.txt"), file("crawl/c.txt", "content")
    assert touched[0].identity != before[0].identity
    assert touched[1] == before[1]
    times = path.stat()
    path.write_text("c,txt")  # the same size at the same time
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file("crawl/c.txt") == touched[0]
    assert file("crawl/c.txt", "content").identity != touched[1].identity


def test_urls(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("local")
    bucket = uuid.uuid4().hex
    memory = fsspec.filesystem("memory")
    for name in ("x/a.txt", "x/b.txt", "y/a.txt"):
        memory.pipe_file(f"/{bucket}/{name}", name.encode())
    files = resolve([f"memory://{bucket}/x/*.txt", f"memory://{bucket}/y", f"file://{tmp_path}/a.txt"], "inputs")
    assert [f.name for f in files] == sorted([f"{tmp_path.name}/a.txt", "b.txt", "x/a.txt", "y/a.txt"])
    contents = set()
    for found in files:
        with found.open() as stream:
            contents.add(stream.read())
    assert contents == {b"x/a.txt", b"x/b.txt", b"y/a.txt", b"local"}
    assert len(names(f"memory://{bucket}/x", f"memory://{bucket}/x/a.txt")) == 2
