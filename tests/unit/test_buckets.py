"""Files that are documents share shards by the hash of their name: which, what changes when one does, and odd ones."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.config import RunConfig
from flows.launch import plan
from flows.stages import Run
from pipeline.extract import shard
from pipeline.extract.shard import BUCKETS, ExtractJob, extract_input, gathered
from pipeline.inputs.files import InputFile
from pipeline.table.interrupts import InterruptedRunError
from pipeline.table.shards import open_part
from tests.cli_runs import hashes, select, write_config
from tests.local_run import run_all


def config(folder: Path, workspace: str = "ws", **changed: Any) -> dict[str, Any]:
    source = {"format": "markdown", "inputs": [str(folder / "in")], "options": {"include": ["*"]}} | changed
    return {"workspace": str(folder / workspace), "sources": {"a": source}, "engine": {"workers": 1}}


def write(folder: Path, count: int = 100) -> Path:
    for number in range(count):
        path = folder / "in" / f"{number % 7}" / f"{number}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# Head {number}\n\nText of {number}.\n")
    return folder


def jobs(given: dict[str, Any]) -> list[ExtractJob]:
    return Run.of(RunConfig.model_validate(given)).extract_jobs("a")


def because(given: dict[str, Any], folder: Path) -> str:
    (row,) = plan(str(write_config(folder / "c.yaml", given)), (), (), "extract").rows
    return str(row["because"])


def test_a_file_goes_where_its_name_says_whatever_else_is_there() -> None:
    files = [InputFile(f"/x/{number}.html", f"{number}.html", 9, "1") for number in range(1000)]
    whole = gathered("html", files)
    place = {file.name: bucket for bucket, groups in whole for (file,) in groups}
    assert len(place) == 1000
    assert len(whole) == BUCKETS
    assert max(Counter(place.values()).values()) < 40
    for some in (files[::-1], files[::3], files[7:8]):
        assert {file.name: bucket for bucket, groups in gathered("html", some) for (file,) in groups} == {
            file.name: place[file.name] for file in some
        }
    assert (place["0.html"], place["1.html"]) == (41, 19), "workspaces hold these numbers"


@pytest.mark.parametrize(
    ("form", "name", "size", "is_alone"),
    [
        ("html", "a.html", 9, False),
        ("html", "a.html.gz", 9, False),
        ("html", "a.zip", 9, True),
        ("text", "dump", 256 << 20, True),
        ("latex", "2301.00001.tar.gz", 9, False),
        ("latex", "arXiv_src_2301_001.tar", 9, True),
        ("code", "repository.tar.gz", 9, True),
        ("code", "repository/a.py", 9, False),
        ("warc", "a.warc", 9, True),
        ("reddit", "RS_2020-01", 9, True),
        ("auto", "a.tex", 9, True),
    ],
)
def test_what_has_shards_of_its_own(form: str, name: str, size: int, is_alone: bool) -> None:
    ((bucket, _),) = gathered(form, [InputFile(f"/x/{name}", name, size, "1")])
    assert (bucket is None) == is_alone


def test_repositories_share_buckets_and_stay_whole() -> None:
    names = [f"{number}/{name}" for number in range(300) for name in ("LICENSE", "a.py", "in/b.py")]
    whole = gathered("code", [InputFile(f"https://x/{name}", name, 9, "1") for name in names])
    assert len(whole) <= BUCKETS
    assert sorted(file.name for _, groups in whole for group in groups for file in group) == sorted(names)
    assert all(len(group) == 3 for _, groups in whole for group in groups)
    more = gathered("code", [InputFile(f"https://x/{name}", name, 9, "1") for name in sorted([*names, "7/A"])])
    assert [bucket for bucket, groups in more for group in groups if group[0].name == "7/A"] == [
        bucket for bucket, groups in whole for group in groups if group[0].name == "7/LICENSE"
    ], "a file that comes first moves no repository"


def test_one_file_concerns_its_bucket_alone(tmp_path: Path) -> None:
    given = config(write(tmp_path))
    (report,) = run_all(given, "extract")
    assert report.rows_out == 100
    before = len(jobs(given))
    assert report.shards == before <= BUCKETS
    ids = {row["doc_id"] for row in select(tmp_path / "ws", "SELECT doc_id FROM a.documents")}
    (tmp_path / "in" / "new.md").write_text("# New\n")
    assert because(given, tmp_path) == "1 new input"
    (report,) = run_all(given, "extract")
    assert (report.shards, report.rows_out) == (1, 101)
    os.utime(tmp_path / "in/0/0.md", ns=(1, 1))
    (tmp_path / "in" / "new.md").unlink()
    assert sorted(because(given, tmp_path).split("; ")) == ["1 changed input", "1 input that is gone"]
    (report,) = run_all(given, "extract")
    assert (report.shards, report.rows_out) == (2, 100)
    rows = select(tmp_path / "ws", "SELECT doc_id, origin.file AS file, origin.offset AS offset, text FROM a.documents")
    assert {row["doc_id"] for row in rows} == ids
    assert {(row["file"], row["offset"]) for row in rows} == {(f"{n % 7}/{n}.md", 0) for n in range(100)}
    shutil.rmtree(tmp_path / "in")
    write(tmp_path, 1)
    assert because(given, tmp_path).startswith("99 inputs that are gone")


def test_the_same_bytes_whatever_the_order_and_the_workers(tmp_path: Path) -> None:
    write(tmp_path)
    folders = [str(tmp_path / "in" / f"{number}" / "*") for number in range(7)]
    other = config(tmp_path, "one", inputs=folders)
    third = config(tmp_path, "two", inputs=folders[::-1]) | {"engine": {"workers": 2}}
    run_all(other, "extract")
    run_all(third, "extract")
    for group in ("documents", "rejects"):
        assert hashes(tmp_path / "one", group) == hashes(tmp_path / "two", group) != {}


def test_an_odd_file_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path, 20) / "in"
    os.mkfifo(folder / "pipe.md")
    (folder / "nowhere.md").symlink_to("/not/there")
    (folder / "empty.md").touch()
    (folder / "cut.md.gz").write_bytes(gzip.compress(os.urandom(5000))[:-99])
    (folder / "large.md").write_bytes(b"word " * (3 << 20))
    (report,) = run_all(config(tmp_path), "extract")
    assert (report.rows_in, report.rows_out) == (25, 20)
    rows = select(tmp_path / "ws", "SELECT origin.file AS file, reason FROM a.rejects")
    assert {row["file"]: row["reason"] for row in rows} == {
        "pipe.md": "unsupported",
        "nowhere.md": "damaged",
        "empty.md": "empty",
        "cut.md.gz": "truncated_input",
        "large.md": "oversize",
    }
    assert "warning: a: 2 of 25 inputs could not be read" in capsys.readouterr().err


def test_a_file_that_vanishes_costs_itself_and_the_next_run_looks_again(tmp_path: Path) -> None:
    given = config(write(tmp_path, 200))
    run = Run.of(RunConfig.model_validate(given))
    job = max(run.extract_jobs("a"), key=lambda job: len(job.files))
    gone = job.files[1]
    Path(gone.url).unlink()
    with run.resources:
        (made,) = extract_input(job, lambda handler: run.pools(job.config, handler), lambda rows, position: None)
    assert (made.documents.rows, made.rejects.rows) == (len(job.files) - 1, 1)
    assert [name for name, _ in made.unread] == [gone.name]
    assert made.documents.name != job.work(0).name


def test_a_bucket_that_was_stopped_goes_on_behind_its_last_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "MAX_UNITS", 2)
    write(tmp_path, 300)
    made = []
    for workspace, stops in (("one", 0), ("two", 3)):
        run = Run.of(RunConfig.model_validate(config(tmp_path, workspace)))
        job = max(run.extract_jobs("a"), key=lambda job: len(job.files))
        seen: list[int] = []

        def watch(rows: int, position: int, seen: list[int] = seen, stops: int = stops) -> None:
            seen.append(position)
            if len(seen) == stops:
                raise InterruptedRunError("stopped")

        with run.resources:
            for _ in range(2):
                try:
                    shards = extract_input(job, lambda handler: run.pools(job.config, handler), watch)  # noqa: B023
                except InterruptedRunError:
                    continue
        assert seen == sorted(seen) or stops
        assert seen[-1] <= job.size
        made.append([(each.documents, each.rejects) for each in shards])
    assert len(made[0]) > 2
    assert made[0] == made[1]


def test_a_repository_whose_first_file_vanishes_is_read_all_the_same(tmp_path: Path) -> None:
    for name in ("A.py", "B.py", "C.py"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_text("# SPDX-License-Identifier: MIT\nprint('a line of code')\n")
    run = Run.of(RunConfig.model_validate(config(tmp_path, format="code", options={})))
    (job,) = run.extract_jobs("a")
    (tmp_path / "in" / "A.py").unlink()
    with run.resources:
        (made,) = extract_input(job, lambda handler: run.pools(job.config, handler), lambda rows, position: None)
    assert (made.documents.rows, made.rejects.rows) == (2, 1)
    assert made.reasons == {"damaged": 1}


def row_groups(folder: Path, workspace: str, lines: list[str]) -> tuple[pa.Table, list[int]]:
    """Return the documents of a JSONL file, and the rows of each row group of their part."""
    (folder / "in.jsonl").write_text("\n".join(lines))
    (job,) = jobs(config(folder, workspace) | {"sources": {"a": {"inputs": [str(folder / "in.jsonl")]}}})
    (made,) = extract_input(job, lambda handler: pytest.fail(handler), lambda rows, place: None)
    with open_part(job.documents, made.documents.name) as file:
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        return file.read(), groups


def test_documents_are_no_strings_for_long_and_row_groups_end_behind_a_thousand_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.table.shards.ROW_GROUP_BYTES", 1)
    texts = [f"{number} " + "\U0001f600" * 20_000 * (number < 300) for number in range(1_600)]
    rows = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    tracemalloc.start()
    groups = row_groups(tmp_path, "ws", [*rows[:700], "{", *rows[700:]])[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert groups == [999, 601], "a thousand units, one of them a reject"
    assert peak < 48 << 20, f"{peak:,} bytes, though texts of 24 MB are no strings for long"


def test_a_row_group_ends_where_its_size_says_whatever_pieces_it_came_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"text": f"text {number}"}) for number in range(2_000)]
    documents, _ = row_groups(tmp_path, "whole", lines)
    size = pa.Table.from_pylist(documents.slice(0, 1_000).to_pylist(), documents.schema).nbytes
    for bound, expected in ((size, [1_000, 1_000]), (size + 1, [2_000])):
        monkeypatch.setattr("pipeline.table.shards.ROW_GROUP_BYTES", bound)
        assert row_groups(tmp_path, f"ws{bound}", lines)[1] == expected
