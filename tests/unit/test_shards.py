"""Parts, manifests and indexes: same rows same bytes, a manifest is the proof, an index is all that readers see."""

from __future__ import annotations

import errno
import gc
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.table import shards
from pipeline.table.errors import ConservationError, SchemaError, ShardError
from pipeline.table.shards import (
    Group,
    Identity,
    Index,
    Part,
    PartWriter,
    RowMap,
    Tally,
    Work,
    finished,
    made_from,
    map_part,
    read_batches,
)
from pipeline.table.storage import Storage

SCHEMA = pa.schema([pa.field("doc_id", pa.string(), nullable=False), ("language", pa.string()), ("n", pa.int64())])
INPUT = {"name": "a.warc.gz", "identity": "mtime:1"}


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(Storage.at(str(tmp_path / "ws")), "web/documents")


def work(stem: str = "part-a", version: str = "1", config: dict[str, Any] | None = None) -> Work:
    return Work(stem, Identity("extract", version, config or {}), (INPUT,))


def table(numbers: Sequence[int]) -> pa.Table:
    columns = {"doc_id": [f"{n:032x}" for n in numbers], "language": ["en" if n % 3 else None for n in numbers]}
    return pa.table({**columns, "n": list(numbers)}, SCHEMA)


def write(group: Group, job: Work, pieces: Sequence[pa.Table]) -> Part:
    with PartWriter(group, job, SCHEMA) as writer:
        for piece in pieces:
            writer.write(piece)
    return writer.finish(Tally(rows_in=writer.rows))


def read(group: Group, part: Part) -> pa.Table:
    return pa.concat_tables(read_batches(group, part.name))


def test_a_workspace_may_have_any_bytes_in_its_path(tmp_path: Path) -> None:
    group = Group(Storage.at(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")), "web/documents")
    part = write(group, work(), [table(range(3))])
    assert read(group, part).equals(table(range(3)))


# Parts ----------------------------------------------------------------------------------------------------------------


def test_rows_come_back_in_order(group: Group) -> None:
    part = write(group, work(), [table(range(10)), table(range(10, 12))])
    assert read(group, part).equals(table(range(12)))
    assert part.rows == 12


def test_an_empty_part_has_a_schema(group: Group) -> None:
    part = write(group, work(), [])
    assert read(group, part).schema.equals(SCHEMA)
    assert part.rows == 0


def test_bytes_do_not_depend_on_how_rows_arrive(tmp_path: Path) -> None:
    numbers = list(range(1000))
    cuts = sorted(random.Random(1).sample(range(1, 1000), 20))
    ragged = [table(numbers[a:b]) for a, b in zip([0, *cuts], [*cuts, 1000], strict=True)]
    sliced = [table([*numbers, 7]).slice(0, 1000)]
    parts = [
        write(Group(Storage.at(str(tmp_path / str(number))), "web/documents"), work(), pieces)
        for number, pieces in enumerate([[table(numbers)], ragged, sliced])
    ]
    assert parts[0] == parts[1] == parts[2]


def test_row_groups_are_bounded_in_rows_and_bytes(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 100)
    part = write(group, work(), [table(range(start, start + 50)) for start in range(0, 500, 50)])
    metadata = pq.read_metadata(group.storage.path(group.path(part.name)))
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [100] * 5


def test_a_table_of_another_schema_is_refused_and_nothing_is_left(group: Group) -> None:
    with pytest.raises(SchemaError, match=r"(?s)web/documents/part-a-.*expected"):
        write(group, work(), [table([1]), table([1]).drop_columns(["n"])])
    assert group.storage.files("") == []


@pytest.mark.parametrize(("rows_in", "rejects"), [(4, 0), (2, 0), (3, 1)])
def test_rows_that_do_not_add_up_are_an_error_and_no_manifest(group: Group, rows_in: int, rejects: int) -> None:
    with PartWriter(group, work(), SCHEMA) as writer:
        writer.write(table(range(3)))
    with pytest.raises(ConservationError, match=f"{rows_in} rows in, but 3 out and {rejects} rejected"):
        writer.finish(Tally(rows_in=rows_in, rejects=rejects))
    assert finished(group, [work()]) == {}


def test_rejects_count(group: Group) -> None:
    with PartWriter(group, work(), SCHEMA) as writer:
        writer.write(table(range(3)))
    writer.finish(Tally(rows_in=5, rejects=2, counts={"units": 5}, details={"next_offset": None}))
    manifest = group.manifest(work().name)
    assert manifest is not None
    assert (manifest.rows_in, manifest.rows_out, manifest.rejects) == (5, 3, 2)
    assert (manifest.inputs, manifest.counts, manifest.details) == ([INPUT], {"units": 5}, {"next_offset": None})


def test_the_manifest_is_written_last(group: Group) -> None:
    with PartWriter(group, work(), SCHEMA) as writer:
        writer.write(table([1]))
        assert group.storage.names(group.folder) == set()
    assert group.storage.names(group.folder) == {f"{work().name}.parquet"}
    assert finished(group, [work()]) == {}
    writer.finish(Tally(rows_in=1))
    assert list(finished(group, [work()])) == ["part-a"]


def test_finishing_an_open_part_is_a_mistake(group: Group) -> None:
    with pytest.raises(ShardError, match="before the part was closed"), PartWriter(group, work(), SCHEMA) as writer:
        writer.finish(Tally(rows_in=0))


class FullDisk:
    """A file on a disk with no room left after some bytes."""

    def __init__(self, target: BinaryIO, room: int) -> None:
        self.target, self.room = target, room

    def write(self, data: bytes) -> int:
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.target.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.93, 0.9999])
def test_a_full_disk_is_one_error_wherever_it_strikes(
    group: Group, share: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first bytes, in a row group, in the last one, in the footer: the part is thrown away, nothing is said."""
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 1_000)
    pieces = [table(range(start, start + 400)) for start in range(0, 8_000, 400)]
    room = int(share * write(Group(group.storage, "whole"), work(), pieces).bytes)
    before = group.storage.files("")
    create = Storage.create

    @contextmanager
    def small(storage: Storage, relative: str) -> Iterator[BinaryIO]:
        with create(storage, relative) as target:
            yield cast(BinaryIO, FullDisk(target, room))

    monkeypatch.setattr(Storage, "create", small)
    with pytest.raises(ShardError, match=r"disk full while writing .*/web/documents/part-a-"):
        write(group, work(), pieces)
    gc.collect()
    assert group.storage.files("") == before
    assert capsys.readouterr().err == ""


# Keys -----------------------------------------------------------------------------------------------------------------


def test_a_key_changes_with_everything_that_decides_the_output() -> None:
    identity = Identity("dedup", "dedup_v1", {"num_bands": 14}, {"datasketch": "2.0"})
    inputs = [{"part": "a", "content": "1"}]
    others = [
        Identity("dedups", "dedup_v1", {"num_bands": 14}, {"datasketch": "2.0"}).key(inputs),
        Identity("dedup", "dedup_v2", {"num_bands": 14}, {"datasketch": "2.0"}).key(inputs),
        Identity("dedup", "dedup_v1", {"num_bands": 15}, {"datasketch": "2.0"}).key(inputs),
        Identity("dedup", "dedup_v1", {"num_band": 14}, {"datasketch": "2.0"}).key(inputs),
        Identity("dedup", "dedup_v1", {"num_bands": 14}, {"datasketch": "2.1"}).key(inputs),
        identity.key([{"part": "a", "content": "2"}]),
        identity.key([{"part": "b", "content": "1"}]),
        identity.key([*inputs, *inputs]),
        identity.key([]),
    ]
    assert len({identity.key(inputs), *others}) == 10


def test_a_key_does_not_depend_on_the_order_of_settings() -> None:
    one = Identity("s", "1", {"a": 1, "b": {"c": 2, "d": 3}}, {"x": "1", "y": "2"})
    two = Identity("s", "1", {"b": {"d": 3, "c": 2}, "a": 1}, {"y": "2", "x": "1"})
    assert one.key([{"p": 1, "q": 2}]) == two.key([{"q": 2, "p": 1}])


def test_a_part_of_ours_is_known_by_its_content(tmp_path: Path) -> None:
    one, two = (
        write(Group(Storage.at(str(tmp_path / place)), "web/documents"), work(version=version), [table([1])])
        for place, version in (("x", "1"), ("y", "2"))
    )
    assert one.name != two.name
    assert made_from(one) == made_from(two) == {"part": "part-a", "content": one.content}


# What is done ---------------------------------------------------------------------------------------------------------


def test_only_a_matching_manifest_means_done(group: Group) -> None:
    part = write(group, work(), [table([1])])
    assert finished(group, [work(), work("part-b")]) == {"part-a": part}
    assert finished(group, [work(version="2"), work(config={"favor": "recall"})]) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"part": null}'])
def test_a_damaged_manifest_means_not_done(group: Group, content: bytes) -> None:
    write(group, work(), [table([1])])
    group.storage.write_bytes(group.manifest_path(work().name), content)
    assert group.manifest(work().name) is None
    assert finished(group, [work()]) == {}


@pytest.mark.parametrize("ending", ["parquet", "json"])
@pytest.mark.parametrize("listed", [False, True])
def test_a_missing_file_means_not_done(group: Group, ending: str, listed: bool) -> None:
    part = write(group, work(), [table([1])])
    if listed:
        group.complete([part], Index(stage="extract"))
    place = group.path if ending == "parquet" else group.manifest_path
    group.storage.delete(place(work().name))
    assert finished(group, [work()]) == {}


def test_a_manifest_under_another_parts_name_is_no_proof(group: Group) -> None:
    write(group, work(), [table([1])])
    other = work(version="2")
    for place in (group.path, group.manifest_path):
        group.storage.write_bytes(place(other.name), group.storage.read_bytes(place(work().name)))
    assert finished(group, [other]) == {}


# Indexes --------------------------------------------------------------------------------------------------------------


def test_readers_see_what_the_index_lists(group: Group) -> None:
    assert group.index() is None
    assert group.parts() == []
    parts = [write(group, work(stem), [table([n])]) for n, stem in enumerate(("part-b", "part-a", "part-c"))]
    assert group.parts() == []
    group.complete(parts[:2], Index(stage="extract", counts={"x": 1}))
    assert [part.stem for part in group.parts()] == ["part-a", "part-b"]
    group.complete(parts[2:], Index(stage="extract"))
    assert [part.stem for part in group.parts()] == ["part-c"]


def test_an_index_is_the_same_whatever_the_order_of_parts(group: Group) -> None:
    parts = [write(group, work(stem), [table([1])]) for stem in ("part-a", "part-b", "part-c")]
    seen = set()
    for order in (parts, parts[::-1], [parts[1], parts[0], parts[2]]):
        group.complete(order, Index(stage="extract"))
        seen.add(group.storage.read_bytes(group.index_path))
    assert len(seen) == 1


def test_a_failed_replacement_leaves_the_old_index(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    part = write(group, work(), [table([1])])
    group.complete([part], Index(stage="extract"))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ShardError, match="disk full"):
        group.complete([], Index(stage="extract"))
    assert group.parts() == [part]


@pytest.mark.parametrize("content", [b"", b"{", b'{"stage": 1}', b'{"stage": "x", "parts": [{}]}'])
def test_a_damaged_index_is_an_error_that_says_what_to_do(group: Group, content: bytes) -> None:
    group.storage.write_bytes(group.index_path, content)
    with pytest.raises(ShardError, match=r"web/_manifests/documents/_index\.json is damaged .*delete it and run again"):
        group.index()


def test_no_flipped_bit_of_an_index_or_a_manifest_passes(group: Group) -> None:
    part = write(group, work(), [table([1])])
    group.complete([part], Index(stage="extract", counts={"x": 1}))
    index, manifest = group.index(), group.manifest(part.name)
    for path, read, sound in (
        (group.index_path, group.index, index),
        (group.manifest_path(part.name), lambda: group.manifest(part.name), manifest),
    ):
        data = group.storage.read_bytes(path)
        for bit in range(0, 8 * len(data), 7):
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            Path(group.storage.path(path)).write_bytes(flipped)
            with suppress(ShardError):
                assert read() in (None, sound), bit
        Path(group.storage.path(path)).write_bytes(data)


# Reading and mapping --------------------------------------------------------------------------------------------------


def test_a_damaged_part_is_an_error_that_names_it(group: Group) -> None:
    part = write(group, work(), [table(range(100))])
    path = Path(group.storage.path(group.path(part.name)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ShardError, match=r"part-a-.*parquet cannot be read.*delete it and run again"):
        read(group, part)
    path.unlink()
    with pytest.raises(ShardError, match=r"part-a-.*parquet cannot be read"):
        read(group, part)


def doubled(rows: pa.Table) -> pa.Table:
    return pa.table({"doc_id": rows["doc_id"], "twice": [2 * n for n in rows["n"].to_pylist()]})


def test_a_map_keeps_rows_and_order(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "ROW_GROUP_ROWS", 100)
    part = write(group, work(), [table(range(start, start + 100)) for start in range(0, 300, 100)])
    out = pa.schema([("doc_id", pa.string()), ("twice", pa.int64())])
    target = Group(group.storage, "web/signals/twice")
    mapped = RowMap(target, Work(part.stem, Identity("twice", "1"), (made_from(part),)), out, ["doc_id", "n"], doubled)
    (made,) = map_part(group, part, [mapped])
    assert made.stem == part.stem
    assert read(target, made)["twice"].to_pylist() == [2 * n for n in range(300)]


@pytest.mark.parametrize("order", [[1, 0, 2], [0, 1], [0, 1, 2, 2]])
def test_a_map_that_loses_or_moves_rows_is_an_error(group: Group, order: list[int]) -> None:
    part = write(group, work(), [table(range(3))])
    target = Group(group.storage, "web/signals/bad")
    bad = RowMap(target, work(part.stem), SCHEMA, SCHEMA.names, lambda rows: rows.take(order))
    with pytest.raises(ConservationError, match="doc_ids differ"):
        map_part(group, part, [bad])
    assert target.storage.names(target.folder) == set()
