"""The layout of a workspace: what other people's readers find in it, and one of a former version."""

from __future__ import annotations

import itertools
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.commands import check
from pipeline.select.funnel import funnel
from pipeline.table.catalog import Catalog, adopt
from pipeline.table.errors import WorkspaceError
from pipeline.table.schema import DOCUMENTS
from pipeline.table.shards import Group, Identity, Index, PartWriter, Tally, Work, read_batches
from pipeline.table.sql import connect, reading, run_sql
from pipeline.table.storage import Storage
from tests.local_run import rows, run_all, write_jsonl

COUNTS = "SELECT outcome, count(*) AS n FROM outcomes GROUP BY ALL ORDER BY ALL"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    write_jsonl(tmp_path / "a.jsonl", [*rows(30), *rows(3)])
    return {
        "workspace": str(tmp_path / "ws"),
        "sources": {"web": {"format": "jsonl", "inputs": [str(tmp_path / "a.jsonl")]}},
        "dedup": {},
        "select": {"rules": {"words": "word_count > 3"}},
        "engine": {"workers": 1},
    }


def asked(config: dict[str, Any], sql: str = COUNTS) -> list[dict[str, Any]]:
    return [row for batch in run_sql(config["workspace"], sql) for row in batch.to_pylist()]


def snapshot(config: dict[str, Any], ending: str = "") -> dict[str, tuple[int, int]]:
    root = Path(config["workspace"])
    files = [path for path in root.glob(f"[!_]*/**/*{ending}") if path.is_file()]
    return {str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def to_former_layout(workspace: Path) -> None:
    """Move every manifest and index beside its parts, and take their digests out."""
    for path in sorted(workspace.glob("*/_manifests/**/*.json")):
        source, _, *group, name = path.relative_to(workspace).parts
        lines = [line for line in path.read_text().splitlines() if not line.startswith(' "digest": ')]
        old = workspace.joinpath(source, *group, name)
        old.parent.mkdir(exist_ok=True, parents=True)
        old.write_text("\n".join(lines))
        path.unlink()


def test_a_group_holds_parquet_alone(config: dict[str, Any]) -> None:
    run_all(config)
    found = [path for path in snapshot(config) if "/_manifests/" not in path]
    assert len(found) > 6
    assert all(path.endswith(".parquet") for path in found)


def test_published_groups_hold_what_is_current(config: dict[str, Any]) -> None:
    """Three sets of rules, and what a killed run left: a glob finds what the last index lists."""
    root = Path(config["workspace"])
    for least in (3, 59, 61):
        run_all(config | {"select": {"rules": {"words": f"word_count > {least}"}}})
    run_all(config)
    left = Group(Storage.at(str(root)), "web/outcomes")
    with PartWriter(left, Work("part-left", Identity("select", "0"), ()), DOCUMENTS) as writer:
        pass
    writer.finish(Tally(rows_in=0))
    (root / "web/curated/part-00007-0123abcd.parquet").write_bytes(b"a kill came before its manifest")
    (root / "web/curated/mine.txt").write_text("not ours")
    assert run_all(config)[-1].shards == 0
    for folder in ("outcomes", "curated"):
        listed = {part.name for part in Group(Storage.at(str(root)), f"web/{folder}").parts()}
        assert {path.stem for path in (root / "web" / folder).glob("*.parquet")} == listed
        assert {path.stem for path in (root / "web/_manifests" / folder).glob("part-*")} == listed
    assert (root / "web/curated/mine.txt").exists()


def test_a_former_workspace_is_moved_over_and_nothing_made_again(config: dict[str, Any]) -> None:
    run_all(config)
    expected, before = asked(config), snapshot(config, ".parquet")
    to_former_layout(Path(config["workspace"]))
    with pytest.raises(WorkspaceError, match=r"web is laid out as a former version did; `gristmill run CONFIG` moves"):
        asked(config)
    assert [report.shards for report in run_all(config)] == [0, 0, 0, 0]
    assert snapshot(config, ".parquet") == before
    assert asked(config) == expected


def test_a_move_goes_on_where_a_kill_ended_it(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(config)
    workspace = Storage.at(config["workspace"])
    expected, move = asked(config), Storage.move
    to_former_layout(Path(config["workspace"]))
    moves = 0
    while True:
        budget = iter(range(3))

        def killed_after_three(storage: Storage, old: str, new: str, budget: Any = budget) -> None:
            if next(budget, None) is None:
                raise KeyboardInterrupt
            move(storage, old, new)

        monkeypatch.setattr(Storage, "move", killed_after_three)
        try:
            adopt(workspace)
            break
        except KeyboardInterrupt:
            moves += 1
            with pytest.raises(WorkspaceError, match="former version"):
                Catalog.read(workspace)
    assert moves > 3
    assert asked(config) == expected
    assert [report.shards for report in run_all(config)] == [0, 0, 0, 0]


def test_a_file_of_someone_elses_is_not_moved(config: dict[str, Any]) -> None:
    run_all(config)
    mine = Path(config["workspace"], "web/documents/part-0-0123abcd.json")
    mine.write_text('{"mine": true}')
    run_all(config)
    assert mine.exists()


def test_a_query_begins_again_when_a_run_replaces_what_it_reads(config: dict[str, Any]) -> None:
    run_all(config)
    fewer = config | {"select": {"rules": {"words": "word_count > 60"}}}
    begun = []

    @reading
    def count() -> list[tuple[Any, ...]]:
        with connect(Storage.at(config["workspace"])) as session:
            if not begun:
                run_all(fewer)
            begun.append(session)
            return list(session.query("SELECT count(*) FROM curated").rows)

    assert count() == [(0,)]
    assert len(begun) == 2


def test_readers_beside_runs_see_one_state_or_the_other(config: dict[str, Any]) -> None:
    run_all(config)
    storage, stop, states = Storage.at(config["workspace"]), threading.Event(), []
    group = Group(storage, "web/curated")

    def replace() -> None:
        for number in itertools.count():
            if stop.wait(0.5):  # a run replaces an index in seconds at best
                break
            parts = []
            for stem in ("part-00000", "part-00001"):
                with PartWriter(group, Work(stem, Identity("select", str(number)), ()), DOCUMENTS) as writer:
                    writer.write(table.slice(0, number % 9 + 1))
                parts.append(writer.finish(Tally(rows_in=number % 9 + 1)))
            group.complete(parts, Index(stage="select", counts={"documents": 2 * (number % 9 + 1)}))
            states.append(number)

    table = pa.concat_tables(read_batches(group, group.parts()[0].name))
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        while len(states) < 8:
            ((found),) = asked(config, "SELECT count(*) AS n FROM curated")[0].values()
            assert found == 30 or found % 2 == 0
            funnel(storage)
    finally:
        stop.set()
        thread.join()


def test_check_names_what_is_wrong_and_what_to_do(config: dict[str, Any]) -> None:
    run_all(config)
    source = Path(config["workspace"], "web")
    sound = check(config["workspace"])
    assert sound.exit_code == 0
    groups = {row["group"]: dict(row) for row in sound}
    assert groups["documents"] | {"bytes": 0} == {
        "source": "web",
        "group": "documents",
        "parts": 1,
        "rows": 33,
        "bytes": 0,
        "problems": (),
    }
    assert {"rejects", "signals/language", "signatures", "duplicates", "outcomes", "curated"} < groups.keys()
    (lost,) = source.glob("signatures/*.parquet")
    lost.unlink()
    (damaged,) = source.glob("curated/*.parquet")
    stamp = damaged.stat()
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    os.utime(damaged, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (manifest,) = source.glob("_manifests/documents/part-*.json")
    manifest.write_text("{")
    (source / "_manifests/outcomes/_index.json").write_text("{")
    damage = check(config["workspace"])
    assert damage.exit_code == 1
    lines = [line for line in damage.text.splitlines() if str(source) in line]
    for path, words in (
        (lost, "is missing; run again"),
        (damaged, "is damaged: its content is not what its manifest says; delete it and run again"),
        (manifest, "is missing, damaged or another part's; run again"),
        (source / "_manifests/outcomes/_index.json", "is damaged"),
    ):
        assert any(str(path) in line and words in line for line in lines), path
    assert len(lines) == 4
