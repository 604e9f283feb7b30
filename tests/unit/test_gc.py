"""`gristmill gc`: what no index lists goes, everything else stays."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import workspace_builder as wb

from pipeline.table import schema
from pipeline.table.catalog import Catalog, collect
from pipeline.table.errors import WorkspaceError
from pipeline.table.shards import Group
from pipeline.table.storage import Storage


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    url = str(tmp_path / "ws") if request.param == "local" else f"memory://gc-{uuid.uuid4().hex}/ws"
    return wb.build(url)


def files(storage: Storage) -> list[str]:
    return [path for path in storage.files("") if not path.startswith("_tmp/")]


def test_a_clean_workspace_keeps_every_file(storage: Storage) -> None:
    before = files(storage)
    report = collect(storage)
    assert (report.files, report.bytes, report.unknown) == ((), 0, ())
    assert files(storage) == before


@pytest.mark.parametrize("folder", ["documents", "rejects", "signals/language", "predictions/quality", "curated"])
def test_unlisted_parts_go_with_their_manifests(storage: Storage, folder: str) -> None:
    before = files(storage)
    part = wb.write_part(Group(storage, f"web/{folder}"), "part-9", [wb.document(9)], schema.DOCUMENTS)
    expected = (f"web/_manifests/{folder}/{part.name}.json", f"web/{folder}/{part.name}.parquet")
    size = part.bytes + len(storage.read_bytes(expected[0]))

    planned = collect(storage, dry_run=True)
    assert (planned.files, planned.bytes) == (expected, size)
    assert files(storage) == sorted([*before, *expected])
    assert collect(storage) == planned
    assert files(storage) == before
    assert collect(storage).files == ()


def test_a_part_without_its_manifest_and_the_reverse_go(storage: Storage) -> None:
    before = files(storage)
    storage.write_bytes("web/outcomes/part-7-0123abcd.parquet", b"half")
    storage.write_bytes("web/_manifests/outcomes/part-8-0123abcd.json", b"{}")
    assert collect(storage).bytes == 6
    assert files(storage) == before


def test_a_run_killed_before_its_first_index(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    wb.write_part(Group(storage, "web/documents"), "part-0", [wb.document(1)], schema.DOCUMENTS)
    storage.write_bytes("web/rejects/part-0-0123abcd.parquet", b"half")
    assert len(collect(storage).files) == 3
    assert files(storage) == []


def test_temporary_leftovers_go(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"))
    storage.write_bytes("_tmp/part-abc", b"12345")
    storage.write_bytes("_tmp/spill/deep/file", b"12345")
    report = collect(storage)
    assert (len(report.files), report.bytes) == (2, 10)
    assert storage.names("_tmp") == set()


FOREIGN = [
    "notes.txt",
    "photos/part-0-0123abcd.parquet",
    "photos/documents/part-0-0123abcd.parquet",
    "photos/_manifests/documents/part-0-0123abcd.json",
    "web/README.md",
    "web/documents/notes.parquet",
    "web/documents/mine/part-0-0123abcd.parquet",
    "web/elsewhere/part-0-0123abcd.parquet",
    "web/signals/part-0-0123abcd.parquet",
    "_mine/part-0-0123abcd.parquet",
    ".hidden/documents/part-0-0123abcd.parquet",
]


def test_what_gristmill_did_not_make_is_left_and_reported(storage: Storage) -> None:
    for path in FOREIGN:
        storage.write_bytes(path, b"mine")
    for path in ("train/a/documents/part-0-0123abcd.parquet", "report/index.html", "_lock.json"):
        storage.write_bytes(path, b"another command's")
    before = files(storage)
    report = collect(storage)
    assert report.files == ()
    assert sorted(report.unknown) == sorted(FOREIGN)
    assert files(storage) == before


def test_a_damaged_index_deletes_nothing(storage: Storage) -> None:
    wb.write_part(Group(storage, "web/documents"), "part-9", [wb.document(9)], schema.DOCUMENTS)
    storage.write_bytes("web/_manifests/outcomes/_index.json", b'{"stage": ')
    before = files(storage)
    with pytest.raises(WorkspaceError, match=r"nothing was deleted.*web/_manifests/outcomes/_index\.json"):
        collect(storage)
    assert files(storage) == before


def test_after_collection_every_listed_row_is_there(storage: Storage) -> None:
    wb.write_part(Group(storage, "web/documents"), "part-9", [wb.document(9)], schema.DOCUMENTS)
    collect(storage)
    for source in Catalog.read(storage).sources:
        for folder, index in source.groups.items():
            for part in index.parts:
                assert storage.exists(f"{source.name}/{folder}/{part.name}.parquet")
                assert storage.exists(f"{source.name}/_manifests/{folder}/{part.name}.json")
