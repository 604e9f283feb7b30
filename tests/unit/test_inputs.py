"""From `inputs:` to files: what each entry names, names that do not depend on folders, what tells of a change."""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import fsspec
import pytest

from pipeline.inputs.files import InputFile, resolve, with_contents
from pipeline.table.errors import InputError


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
    found = resolve([entry], "inputs")
    (found,) = with_contents(found) if identity == "content" else found
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


@pytest.mark.parametrize("folder", ["in [1]", "in*", "in?", "it's", "a::b", "{a,b}", "[!x]", "50%#"])
def test_a_folder_that_looks_like_a_pattern(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in ((folder, "mine"), ("in 1", "other"), ("inx", "other"), ("a", "other"), ("z", "other")):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.txt").write_text(text)
    monkeypatch.chdir(tmp_path / folder)  # a pattern counts from it, too
    entries = [f"{tmp_path}/{folder}/deep/*.txt", "deep/*.txt", "**/a.txt", f"{tmp_path}/{folder}", "deep/a.txt"]
    for entry in entries:
        with file(entry).open() as stream:
            assert stream.read() == b"mine"


def problems(*entries: str) -> dict[str, str]:
    return {f.name: f"{f.problem[0]}: {f.problem[1]}" if f.problem else "fine" for f in resolve(entries, "inputs")}


def test_a_file_that_links_name_again_is_read_once(crawl: Path) -> None:
    (crawl / "0-link.txt").symlink_to("c.txt")
    (crawl / "2026").symlink_to("2025")
    (crawl / "2025" / "up").symlink_to("..")
    os.link(crawl / "c.txt", crawl / "hard.txt")
    found = problems("crawl")
    assert found.pop("0-link.txt") == "duplicate_record: a link to c.txt, which is read already"
    assert found.pop("2026/") == found.pop("2025/up/") == "duplicate_record: a link to a folder that is read already"
    assert set(found.values()) == {"fine"}
    assert "hard.txt" in found, "a hard link is a file of its own"
    assert problems("crawl/*.txt")["0-link.txt"].startswith("duplicate_record")


def test_what_stands_in_a_files_place_is_named(crawl: Path) -> None:
    os.mkfifo(crawl / "pipe")
    (crawl / "null").symlink_to("/dev/null")
    (crawl / "nowhere").symlink_to("absent")
    (crawl / "loop").symlink_to("loop")
    expected = {
        "pipe": "unsupported: a named pipe, which can be read only once: write what comes out of it to a file",
        "null": "unsupported: a device, which is no file",
        "nowhere": "damaged: a link that leads nowhere (absent); correct it or take it out",
        "loop": "damaged: a link that leads back to itself (loop); correct it or take it out",
    }
    for entries in (["crawl"], ["crawl/*"], [f"crawl/{name}" for name in expected]):
        assert {name: what for name, what in problems(*entries).items() if what != "fine"} == expected


def test_names_that_are_not_utf8_are_written_out(tmp_path: Path) -> None:
    for name in (b"caf\xe9.txt", b"caf\\xe9.txt", "café.txt".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    assert names(str(tmp_path)) == ["caf\\xe9.txt", "caf\\xe9.txt~", "café.txt"]
    for found in with_contents(resolve([str(tmp_path)], "inputs")):
        found.shown_url.encode()
        with found.open() as stream:
            assert os.fsdecode(stream.read()) == os.path.basename(found.url)


@pytest.mark.parametrize("entry", ["a\0b", "a**b/c", "absent/*.txt"])
def test_entries_that_cannot_be_listed(entry: str, crawl: Path) -> None:
    with pytest.raises(InputError, match=r"sources\.web\.inputs: "):
        names(entry)


class _Web(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        query = dict(parse_qsl(urlsplit(self.path).query))
        status = int(query.get("status", "200"))
        body = self.path.split("?")[0].encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("ETag", f'"{query.get("key")}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_web_address_that_gives_nothing_says_why(web: str) -> None:
    for url, said in {
        f"{web}/a?status=404": "does not exist (the server answered 404)",
        f"{web}/a?status=403": "the server answered 403: its signature may have expired",
        f"{web}/a?status=500": "the server answered 500",
        "http://127.0.0.1:1/a": "its host refuses the connection",
        "http://no.such.host.invalid/a?token=hunter2": "its host's name is not known: no network",
    }.items():
        with pytest.raises(InputError, match=re.escape(said)) as refused:
            resolve([url], "inputs")
        assert "hunter2" not in str(refused.value)


def test_a_file_under_another_signature_is_the_same_file(web: str) -> None:
    first, second = (f"{web}/d/a.gz?X-Amz-Signature={sign}&X-Amz-Date={sign}" for sign in ("first/1", "second/2"))
    (found,), (again,), (both,) = resolve([first], "i"), resolve([second], "i"), resolve([first, second], "i")
    assert found.name == again.name == both.name == "a.gz?X-Amz-Signature=***&X-Amz-Date=***"
    assert found.shown_url == again.shown_url
    assert "first/1" not in repr(found)
    with found.open() as stream:
        assert stream.read() == b"/d/a.gz"
    with pytest.raises(InputError, match="differ only in a key"):  # two files, as their ETags say
        resolve([f"{web}/get?key=a", f"{web}/get?key=b"], "i")
