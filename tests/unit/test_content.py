"""What an input is, by its content; and that an odd one costs itself alone, whatever stands in a file's place."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import random
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import lz4.frame
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from flows.config import RunConfig
from flows.stages import Run, check_inputs
from pipeline.extract.content import identify
from pipeline.extract.shard import ExtractJob, extract_input, read
from pipeline.extract.units import Reject
from pipeline.inputs.files import InputFile, resolve
from pipeline.table.errors import InputError
from pipeline.table.sql import run_sql
from pipeline.table.storage import Storage
from tests.local_run import run_all

ROWS = [{"text": f"document number {number}, naïve and 10 €"} for number in range(50)]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
DATA = LINES.encode()
WARC = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"


def parquet(**columns: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def tar(mode: str) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("a.jsonl")
        member.size = len(DATA)
        archive.addfile(member, io.BytesIO(DATA))
    return sink.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b" \r\n\n", "empty"),
        (gzip.compress(b"", mtime=0), "empty"),
        (lzma.compress(b""), "empty"),
        (bz2.compress(b""), "empty"),
        (DATA, "jsonl"),
        (b"\xef\xbb\xbf" + DATA, "jsonl"),
        (b"garbage\n" + DATA, "jsonl"),
        (b"\0" * 70_000 + b"\n" + DATA, "jsonl"),
        (LINES.encode("utf-16"), "jsonl"),
        (LINES.encode("utf-16-be"), "jsonl"),
        (LINES.encode("utf-32"), "jsonl"),
        (b'\n [{"text": "x"}]', "jsonl"),
        (bz2.compress(DATA), "jsonl"),
        (b"text,url\na,b\n", "csv"),
        ("url;text\na;b\n".encode("utf-16"), "csv"),
        (gzip.compress(b'"text"\turl\n', mtime=0), "csv"),
        (b"body,url\na,b\n", "text"),
        (b"BZhonest prose, with the first letters of bzip2\n", "text"),
        (WARC, "warc"),
        (gzip.compress(WARC, mtime=0), "warc"),
        (b"cut off\r\n\r\n" + WARC, "warc"),
        (parquet(text=["a"]), "parquet"),
        (random.Random(7).randbytes(70_000), "binary"),
        (b"\x1f\x8b\x08", "damaged"),
        (b"\0" * 4096, "unreadable"),
        (tar("w"), "unreadable"),
        (tar("w:gz"), "unreadable"),
        (tar("w:xz"), "unreadable"),
        (gzip.compress(gzip.compress(DATA, mtime=0), mtime=0), "unreadable"),
        (gzip.compress(parquet(text=["a"]), mtime=0), "unreadable"),
        (parquet(text=["a"])[:-10], "unreadable"),
        (pickle.dumps({"text": "a"}), "unreadable"),
        (b"PK\x03\x04" + bytes(40), "unreadable"),
        (b"%PDF-1.7\n%\xe2\xe3", "pdf"),
        (b"<!DOCTYPE html><p>hello</p>", "unreadable"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "unreadable"),
    ],
)
def test_what_a_file_is(data: bytes, kind: str) -> None:
    content = identify(io.BytesIO(data), "f", {})
    assert content.kind == kind
    assert bool(content.detail) == (kind == "unreadable")


def job(tmp_path: Path, name: str, data: bytes, form: str = "auto") -> ExtractJob:
    (tmp_path / name).write_bytes(data)
    source = RunConfig.model_validate({"workspace": "ws", "sources": {"a": {"inputs": name}}}).sources["a"]
    (file,) = resolve([str(tmp_path / name)], "inputs")
    return ExtractJob(Storage.at(str(tmp_path / "ws")), "a", file, form, source.columns, source.extract)


def cut(data: bytes, *places: int) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


def outcomes(work: ExtractJob, start: int = 0) -> list[str]:
    with work.input.open() as stream:
        results = [item.result for item in read(stream, work, start, set())]
    return [getattr(result, "text", None) or getattr(result, "reason", "") for result in results]


@pytest.mark.parametrize(
    "stored",
    [
        lzma.compress,
        bz2.compress,
        zstandard.compress,
        lz4.frame.compress,
        lambda data: lzma.compress(data[:999]) + bytes(8) + lzma.compress(data[999:]),
        lambda data: bz2.compress(data[:999]) + bz2.compress(data[999:]),
        lambda data: data.decode().encode("utf-16"),
        lambda data: gzip.compress(data.decode().encode("utf-32-be")),
        lambda data: b"".join(map(gzip.compress, cut(data.decode().encode("utf-16"), 0, 1, 2, 3, 99))),
        lambda data: b"".join(map(zstandard.compress, cut(data.decode().encode("utf-32"), 1, 1, 3))),
        lambda data: b"".join(map(bz2.compress, cut(data, 1, 2))),
        lambda data: json.dumps(ROWS).encode(),
        lambda data: json.dumps(ROWS, indent=2, ensure_ascii=False).encode("utf-16-le"),
        lambda data: "\n".join(json.dumps(row, indent="\t") for row in ROWS).encode(),
        lambda data: b"[\n" + data.replace(b"\n", b",\n") + b"\n]\n",
    ],
)
@pytest.mark.parametrize("form", ["auto", "jsonl"])
def test_every_way_to_store_rows_gives_all_of_them(stored: Callable[[bytes], bytes], form: str, tmp_path: Path) -> None:
    work = job(tmp_path, "rows", stored(DATA), form)
    assert outcomes(work) == [row["text"] for row in ROWS]
    with work.input.open() as stream:
        places = [item.offset for item in read(stream, work, 0, set())]
    for number in (1, 30, 49):
        assert outcomes(work, places[number]) == [row["text"] for row in ROWS[number:]]


@pytest.mark.parametrize("head", [1, 3, 4, 9])
def test_what_can_be_read_before_damage_is_read_however_little(head: int, tmp_path: Path) -> None:
    stored = gzip.compress(b'{"text": "a"}\n'[:head]) + gzip.compress(b'{"text": "a"}\n'[head:] + DATA)[:-9]
    assert outcomes(job(tmp_path, "rows", stored))[0] == "a"


@pytest.mark.parametrize(
    ("name", "data", "form", "expected"),
    [
        ("a.csv", b"", "csv", []),
        ("a.warc", b"", "warc", []),
        ("a.warc.gz", gzip.compress(b"", mtime=0), "warc", []),
        ("a.parquet", b"", "parquet", []),
        ("a.jsonl.gz", gzip.compress(b"\n", mtime=0), "jsonl", []),
        ("a.parquet", parquet(body=["x"]), "parquet", ["unsupported"]),
        ("a.parquet", parquet(text=["x"])[:-10], "parquet", ["truncated_input"]),
        ("a.jsonl", gzip.compress(WARC, mtime=0), "jsonl", ["unsupported"]),
        ("a.jsonl", b"text,url\na,b\n", "jsonl", ["unsupported"]),
        ("a.csv", DATA, "csv", ["unsupported"]),
        ("a.warc", DATA, "warc", ["unsupported"]),
        ("a.warc", tar("w:gz"), "warc", ["unsupported"]),
        ("a.json", b'[{"text": "x"}, {"text": ', "auto", ["x", "truncated_input"]),
        (
            "a.xz",
            lzma.compress(json.dumps([random.Random(1).randbytes(900).hex()]).encode())[:-300],
            "auto",
            ["truncated_input"],
        ),
    ],
)
def test_what_becomes_of_a_file(name: str, data: bytes, form: str, expected: list[str], tmp_path: Path) -> None:
    assert outcomes(job(tmp_path, name, data, form)) == expected


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("kind", "data"), [("warc", WARC), ("warc", gzip.compress(WARC, mtime=0)), ("parquet", parquet(text=["x"]))]
)
def test_a_file_of_another_format_than_its_source_says_is_one_clear_line(
    form: str, kind: str, data: bytes, tmp_path: Path
) -> None:
    work = job(tmp_path, "a.jsonl", data, form)
    with work.input.open() as stream:
        (entry,) = read(stream, work, 0, set())
    assert isinstance(entry.result, Reject)
    name = "WARC" if kind == "warc" else "Parquet"
    assert entry.result.detail == f"this is a {name} file; set `format: {kind}`, or `auto` for any"


def odd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "o.jsonl").write_text('{"text": "outside"}')
    (folder / "a.jsonl").write_text('{"text": "good"}\n')
    (folder / "a.tar.gz").write_bytes(tar("w:gz"))
    (folder / "empty.csv").touch()
    (folder / "a::b [1].json").write_text('[{"text": "colons"}]')
    (tmp_path / os.fsdecode(b"in/caf\xe9.jsonl")).write_text('{"text": "bytes"}')
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "null").symlink_to("/dev/null")
    (folder / "nowhere").symlink_to("/not/there")
    (folder / "loop").symlink_to("loop")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / "second.jsonl").symlink_to("a.jsonl")
    return folder


def select(workspace: Path, sql: str) -> list[dict[str, Any]]:
    return [row for batch in run_sql(str(workspace), sql) for row in batch.to_pylist()]


def test_an_odd_file_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, workspace = odd_folder(tmp_path), tmp_path / "ws"
    config = {"workspace": str(workspace), "sources": {"a": {"inputs": str(folder)}}, "engine": {"workers": 1}}
    run_all(config, "extract")
    documents = select(workspace, "SELECT origin.file AS file, text FROM a.documents ORDER BY file")
    assert {row["file"]: row["text"] for row in documents} == {
        "a.jsonl": "good",
        "a::b [1].json": "colons",
        "caf\\xe9.jsonl": "bytes",
        "linked/o.jsonl": "outside",
    }
    rejects = select(workspace, "SELECT origin.file AS file, reason, detail FROM a.rejects")
    assert {row["file"]: row["reason"] for row in rejects} == {
        "a.tar.gz": "unsupported",
        "loop": "damaged",
        "nowhere": "damaged",
        "null": "unsupported",
        "pipe.jsonl": "unsupported",
        "second.jsonl": "duplicate_record",
        "sub/up/": "duplicate_record",
    }
    assert next(row["detail"] for row in rejects if row["file"] == "a.tar.gz") == (
        "gzip around a tar archive; set the `format` of the files in it (html, text, markdown, latex, code), "
        "or unpack it"
    )
    (warning,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    assert "warning: a: 7 of 12 inputs could not be read" in warning
    assert "a.tar.gz (unsupported: gzip around a tar archive" in warning
    (report,) = run_all(config, "extract")
    assert (report.shards, report.shards_done_before) == (0, 12)


def test_auto_finds_out_again_what_a_changed_file_is(tmp_path: Path) -> None:
    path, workspace = tmp_path / "data", tmp_path / "ws"
    path.write_text('{"text": "as JSON"}\n')
    config = {"workspace": str(workspace), "sources": {"a": {"inputs": str(path), "format": "jsonl"}}}
    run_all(config, "extract")
    config["sources"] = {"a": {"inputs": str(path)}}
    run_all(config, "extract")
    assert len(list((workspace / "a" / "documents").glob("*.parquet"))) == 1, "the format is the same: nothing to do"
    path.write_bytes(parquet(text=["as Parquet"]))
    run_all(config, "extract")
    assert select(workspace, "SELECT text FROM a.documents") == [{"text": "as Parquet"}]
    config["extract"] = {"favor": "recall"}  # what concerns pages alone does not re-read it
    (report,) = run_all(config, "extract")
    assert report.shards == 0


def test_a_file_that_vanishes_or_shrinks_after_it_was_listed(tmp_path: Path) -> None:
    work = job(tmp_path, "a.jsonl", DATA, "jsonl")
    (tmp_path / "a.jsonl").write_bytes(DATA[: DATA.index(b"\n") + 1])
    assert outcomes(work) == [ROWS[0]["text"], "truncated_input"]
    (tmp_path / "a.jsonl").unlink()
    (shard,) = extract_input(work, lambda _: pytest.fail("no pages"), lambda rows, position: None)
    assert (shard.documents.rows, shard.rejects.rows) == (0, 1)
    assert "it was there when the run began" in str(shard.unread)
    assert shard.documents.name != work.work(0).name, "the next run looks again"
    os.mkfifo(tmp_path / "a.jsonl")
    (shard,) = extract_input(work, lambda _: pytest.fail("no pages"), lambda rows, position: None)
    assert "a pipe or device, not a file" in str(shard.unread)


def test_a_run_refuses_when_no_input_can_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.tar").write_bytes(tar("w"))
    (tmp_path / "empty.jsonl").touch()
    config = RunConfig.model_validate({"workspace": "ws", "sources": {"a": {"inputs": str(tmp_path)}}})
    with pytest.raises(
        InputError, match=r"no row can be read: a\.tar: a tar archive; set the `format` .*\(and 1 more\)"
    ):
        check_inputs(Run.of(config), "a")
    (tmp_path / "good.jsonl").write_bytes(DATA)
    check_inputs(Run.of(config), "a")


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Exception, match="a pipe or device, not a file"):
        InputFile(str(tmp_path / "pipe"), "pipe", 0, "none").open()
