"""All stages and reading commands on a workspace behind fsspec, as on an object store: nothing is renamed or locked.

fsspec's file system in memory stands in for one. It lives in one process, so these runs have no Prefect. What it cannot
show is what S3 alone does: credentials, eventual listings of other clients, throttling.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flows import cli
from pipeline.table.shards import Group
from pipeline.table.sql import run_sql
from pipeline.table.storage import Storage, hold
from tests.local_run import rows, run_all, write_jsonl

GROUPS = ("documents", "rejects", "signals/language", "signals/text_stats", "duplicates", "outcomes", "curated")


@pytest.fixture
def config(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A configuration on a workspace in memory: two inputs of ten documents, one of them twice, and a broken line."""
    documents = rows(10)
    write_jsonl(tmp_path / "in" / "a.jsonl", [*documents, {**documents[0], "url": "https://example.org/copy"}])
    write_jsonl(tmp_path / "in" / "b.jsonl", rows(10, 10)).open("a").write("{no JSON\n")
    url = f"memory://{uuid.uuid4()}"
    yield {
        "workspace": url,
        "sources": {"web": {"format": "jsonl", "inputs": [f"{tmp_path}/in/*.jsonl"]}},
        "dedup": {},
        "select": {"rules": {"words": "word_count > 3"}},
        "engine": {"workers": 2},
    }
    fsspec.filesystem("memory").rm(url, recursive=True)


def asked(workspace: str, sql: str) -> list[dict[str, Any]]:
    return [row for batch in run_sql(workspace, sql) for row in batch.to_pylist()]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 0, err
    return out


def test_a_whole_run(config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = config["workspace"]
    run_all(config)
    assert asked(url, "SELECT outcome, count(*) AS n FROM outcomes GROUP BY ALL ORDER BY ALL") == [
        {"outcome": "dropped", "n": 1},
        {"outcome": "kept", "n": 20},
    ]
    assert asked(url, "SELECT count(*) AS n FROM web.everything JOIN web.curated USING (doc_id)") == [{"n": 20}]
    assert asked(url, "SELECT reason FROM rejects") == [{"reason": "damaged"}]
    capsys.readouterr()

    steps = json.loads(printed(capsys, "funnel", url, "--json"))
    assert (steps[0]["documents_in"], steps[-1]["documents_out"]) == (22, 20)
    found = json.loads(printed(capsys, "explain", url, "https://example.org/3", "--json"))
    assert found
    Storage.at(url).write_bytes("web/documents/part-old-01234567.parquet", b"superseded")
    assert printed(capsys, "gc", url) == "web/documents/part-old-01234567.parquet\n"

    again = run_all(config)
    assert [(report.stage, report.shards) for report in again if report.shards] == []
    (tmp_path / "in" / "b.jsonl").unlink()
    run_all(config)
    assert asked(url, "SELECT count(*) AS n FROM outcomes") == [{"n": 11}]
    assert asked(url, "SELECT count(*) AS n FROM rejects") == [{"n": 0}]


def test_the_same_bytes_as_on_a_local_disk(config: dict[str, Any], tmp_path: Path) -> None:
    places = [config["workspace"], str(tmp_path / "ws"), f"file://{tmp_path}/ws-of-a-url"]
    found = []
    for place in places:
        run_all({**config, "workspace": place})
        storage = Storage.at(place)
        groups = [Group(storage, f"web/{folder}") for folder in GROUPS]
        parts = [(group.folder, part.name, part.content) for group in groups for part in group.parts()]
        files = [path for path in storage.files("") if not path.startswith(("_lock.json", "_runs/", "_verified/"))]
        found.append((parts, files, {path: storage.read_bytes(path) for path in files}))
    assert found[0] == found[1] == found[2]


def test_a_second_run_is_refused(config: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run_all(config, until="extract")
    capsys.readouterr()
    with hold(Storage.at(config["workspace"]), "gristmill run other.yaml"), pytest.raises(SystemExit) as ended:
        cli.main(["gc", config["workspace"]])
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert "`gristmill run other.yaml`" in err
    assert f"delete {config['workspace']}/_lock.json" in err
