"""`gristmill export`: what is written, read by the libraries that it is meant for, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import yaml

from flows.cli import EXPORTS, _do, parser
from pipeline.export import export as exporting
from pipeline.export import files
from pipeline.export.card import Counted, _code, _size_category, _text
from pipeline.export.export import Exported, export, size_bytes
from pipeline.table.errors import GristmillError, RuleError, UsageError, WorkspaceError
from pipeline.table.shards import Group
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.local_run import rows, run_all, write_jsonl

HOSTILE = (
    "en",
    None,
    "../../x",
    "..",
    "a=b/c",
    "50%",
    "é ü",
    "",
    "q'\"\\",
    "*?[x]",
    "line\nfeed",
    "a:b{c}#",
    "__HIVE",
    "7",
)
LICENCES = (None, "MIT", "CC-BY-4.0", "odd | `licence`\n<b>")
KEPT_COLUMNS = {"topic": "topic", "seen": {"path": "seen", "type": "date"}}
KEPT = 730
SMALL = 1 << 16


def config(folder: Path, least: int = 3) -> dict[str, Any]:
    return {
        "workspace": str(folder / "ws"),
        "sources": {"web": {"inputs": [str(folder / "in")], "keep_columns": KEPT_COLUMNS}},
        "dedup": {},
        "select": {"rules": {"words": f"word_count > {least}", "odd": "url not like '%3'"}, "part_bytes": 1 << 16},
        "engine": {"workers": 1},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a workspace `ws`: 811 documents and a copy of one, in two inputs and several parts of `curated`."""
    folder = tmp_path_factory.mktemp("export")
    texts = [
        {
            **row,
            "topic": HOSTILE[number % len(HOSTILE)],
            "licence": LICENCES[number % len(LICENCES)],
            "date": f"20{number % 20:02d}-03-04" if number % 3 else None,
            "seen": "2020-01-01T00:00:00Z" if number % 2 else "1999-12-31T23:59:59.5Z",
            **({"extra": {"deep": [number, None]}} if number % 5 == 0 else {"other": "text"}),
        }
        for number, row in enumerate(rows(811))
    ]
    write_jsonl(folder / "in" / "a.jsonl", texts[:500])
    write_jsonl(folder / "in" / "b.jsonl", [*texts[500:], texts[0] | {"url": "https://example.org/copy"}])
    (folder / "in" / "b.jsonl").open("a").write("{no JSON\n")
    run_all(config(folder))
    return folder


@pytest.fixture
def storage(made: Path) -> Storage:
    return Storage.at(str(made / "ws"))


def curated(storage: Storage) -> pa.Table:
    group = Group(storage, "web/curated")
    return pa.concat_tables(
        pq.read_table(storage.path(group.path(part.name)), partitioning=None) for part in group.parts()
    )


def asked(storage: Storage, sql: str) -> list[dict[str, Any]]:
    with connect(storage) as session:
        return session.execute(sql)


def snapshot(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def load(folder: Path, cache: Path) -> Any:
    datasets = pytest.importorskip("datasets")
    return datasets.load_dataset(str(folder), cache_dir=str(cache))


# What is written ------------------------------------------------------------------------------------------------------


def test_parquet_has_the_rows_of_curated_in_their_order(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = export(storage, "web", str(tmp_path / "out"), "parquet")
    expected = curated(storage)
    assert len(Group(storage, "web/curated").parts()) > 2
    assert pq.read_table(tmp_path / "out" / "data").equals(expected)
    assert polars.read_parquet(tmp_path / "out" / "data").height == expected.num_rows
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not export(storage, "web", "~/out", "parquet").is_new
    [tokens] = asked(storage, "SELECT sum(estimated_tokens) AS n FROM web.outcomes WHERE outcome = 'kept'")
    size = (tmp_path / "out" / "data" / "part-00000.parquet").stat().st_size
    assert done == Exported(str(tmp_path / "out"), ("data/part-00000.parquet",), KEPT, round(tokens["n"]), size)
    assert sorted(snapshot(tmp_path / "out")) == ["README.md", "data/part-00000.parquet", "manifest.json"]


@pytest.mark.parametrize("form", exporting.FORMS)
def test_the_same_options_give_the_same_bytes_and_then_nothing_is_to_do(
    storage: Storage, tmp_path: Path, form: exporting.Form
) -> None:
    options: dict[str, Any] = {"by": "topic"} if form == "partitioned" else {}
    first, second = (export(storage, "web", str(tmp_path / name), form, shard_bytes=SMALL, **options) for name in "ab")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    assert (first.is_new, first.rows, first.files) == (True, KEPT, second.files)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    again = export(storage, "web", str(tmp_path / "a"), form, shard_bytes=SMALL, **options)
    assert again == Exported(str(tmp_path / "a"), first.files, first.rows, first.tokens, first.bytes, is_new=False)
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    for name, told in manifest["files"].items():
        data = (tmp_path / "a" / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (told["bytes"], told["sha256"])
    assert sum(told["rows"] for told in manifest["files"].values()) == manifest["rows"] == KEPT
    assert tuple(manifest["files"]) == first.files


def test_columns_and_where_read_curated_and_outcomes(storage: Storage, tmp_path: Path) -> None:
    columns = ["word_count", "url", "text_length", "failed_rules", "seen"]
    where = "text_length % 2 = 0 and licence = 'MIT' and contains(text, 'river') and origin.file is not null"
    done = export(storage, "web", str(tmp_path / "out"), "parquet", columns=columns, where=where)
    found = pq.read_table(tmp_path / "out" / "data")
    told = where.replace("text_", "o.text_").replace("licence", "c.licence").replace("origin", "c.origin")
    expected = asked(
        storage,
        "SELECT o.word_count, c.url, o.text_length, [] AS failed_rules, c.seen"
        f" FROM web.curated c JOIN web.outcomes o USING (doc_id) WHERE {told}",
    )
    assert found.column_names == columns
    assert found.schema.field("seen").type == pa.timestamp("us", tz="UTC")
    assert 0 < done.rows == len(expected) < KEPT
    key = lambda row: row["url"]  # noqa: E731
    assert sorted(found.to_pylist(), key=key) == sorted(expected, key=key)
    order = curated(storage)["url"].to_pylist()
    assert found["url"].to_pylist() == [url for url in order if url in set(found["url"].to_pylist())]


def test_files_are_cut_by_their_own_size(storage: Storage, tmp_path: Path) -> None:
    done = export(storage, "web", str(tmp_path / "out"), "hf", shard_bytes=SMALL)
    count = len(done.files)
    assert count > 1
    assert list(done.files) == [f"data/train-{n:05d}-of-{count:05d}.parquet" for n in range(count)]
    sizes = [(tmp_path / "out" / name).stat().st_size for name in done.files]
    assert all(SMALL / 2 < size < SMALL * 1.2 for size in sizes[:-1])
    parts = [pq.read_table(tmp_path / "out" / name) for name in done.files]
    assert pa.concat_tables(parts).equals(curated(storage))


def test_datasets_loads_every_form_with_its_split_and_features(storage: Storage, tmp_path: Path) -> None:
    expected = curated(storage)
    for form, options in (("parquet", {}), ("hf", {}), ("jsonl.zst", {}), ("partitioned", {"by": "topic"})):
        done = export(storage, "web", str(tmp_path / form), form, shard_bytes=SMALL, **options)  # type: ignore[arg-type]
        assert len(done.files) > 1
        loaded = load(tmp_path / form, tmp_path / "cache")
        assert list(loaded) == ["train"]
        train = loaded["train"]
        names = [name for name in expected.column_names if name not in options.values()]
        assert train.column_names == names
        kinds = {name: str(kind) for name, kind in train.features.items()}
        assert kinds["date"] == "Value('timestamp[us, tz=UTC]')" == kinds["seen"]
        assert kinds["origin"].startswith("{'file': Value('string'), 'offset': Value('int64')")
        key = lambda row: row["doc_id"]  # noqa: E731
        found, wanted = sorted(train.to_list(), key=key), sorted(expected.select(names).to_pylist(), key=key)
        if form == "jsonl.zst":
            wanted = [row | {"metadata": json.loads(row["metadata"])} for row in wanted]
            found = [
                row | {"metadata": json.loads(row["metadata"]) if isinstance(row["metadata"], str) else row["metadata"]}
                for row in found
            ]
        assert found == wanted
        if form != "partitioned":
            assert train["doc_id"][:] == expected["doc_id"].to_pylist()


def test_json_lines_are_read_by_duckdb_and_polars(storage: Storage, tmp_path: Path) -> None:
    columns = ["doc_id", "text", "date", "metadata", "word_count", "estimated_tokens", "failed_rules", "origin"]
    export(storage, "web", str(tmp_path / "out"), "jsonl.zst", columns=columns, shard_bytes=SMALL)
    pattern = f"{tmp_path}/out/data/*.jsonl.zst"
    expected = curated(storage)
    found = duckdb.sql(f"SELECT * FROM read_json('{pattern}')").to_arrow_table()
    assert found.column_names == columns
    assert found["text"].to_pylist() == expected["text"].to_pylist()
    assert found["date"].cast(pa.timestamp("us", "UTC")).to_pylist() == expected["date"].to_pylist()
    assert polars.scan_ndjson(pattern).collect()["doc_id"].to_list() == expected["doc_id"].to_pylist()
    import zstandard

    lines = []
    for path in sorted((tmp_path / "out" / "data").iterdir()):
        with path.open("rb") as stream:  # one frame: there are readers that stop after the first
            lines += zstandard.ZstdDecompressor().stream_reader(stream).read().decode().splitlines()
    parsed = [json.loads(line) for line in lines]
    assert [row["metadata"] for row in parsed] == [json.loads(text) for text in expected["metadata"].to_pylist()]
    dates = [row["date"] for row in parsed if row["date"]]
    assert dates[0].endswith("-03-04T00:00:00.000000Z")


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.float64(), [0.1, float("nan"), float("inf"), None], ["0.1", "null", "null", "null"]),
        (pa.uint64(), [2**64 - 1], ["18446744073709551615"]),
        (pa.binary(), [b"\x00\xff"], ['"00ff"']),
        (pa.list_(pa.timestamp("us", "UTC")), [[0, None], None], ['["1970-01-01T00:00:00.000000Z", null]', "null"]),
        (pa.timestamp("us", "UTC"), [253402300800000000], ['"10000-01-01T00:00:00.000000Z"']),
        (pa.string(), ['a"\\\n\u2028%s', ""], ['"a\\"\\\\\\n\u2028%s"', '""']),
    ],
)
def test_every_type_as_json(kind: pa.DataType, values: list[Any], expected: list[str]) -> None:
    table = pa.table({"a %d": pa.array(values, kind)})
    lines = list(files._lines(table))
    assert lines == [f'{{"a %d": {value}}}\n' for value in expected]
    assert all(json.loads(line) for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"n": 12345678901234567890.10}', '{"n": 12345678901234567890.10}'),
        ('{"a":\n 1}', '{"a":  1}'),
        ("[1]", '"[1]"'),
        ('{"a": NaN}', '"{\\"a\\": NaN}"'),
        ("{no", '"{no"'),
        ("[" * 100_000, json.dumps("[" * 100_000)),
        (None, "null"),
    ],
)
def test_metadata_is_the_object_that_it_is_or_text(text: str | None, expected: str) -> None:
    assert list(files._lines(pa.table({"metadata": pa.array([text], pa.string())}))) == [
        f'{{"metadata": {expected}}}\n'
    ]


# Folders of Hive's ----------------------------------------------------------------------------------------------------


def test_partitions_with_hostile_values_are_read_alike(storage: Storage, tmp_path: Path) -> None:
    export(storage, "web", str(tmp_path / "out"), "partitioned", by="topic", columns=["doc_id", "text"])
    folder = tmp_path / "out" / "data"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert "topic=__HIVE_DEFAULT_PARTITION__" in {path.name for path in folder.iterdir()}
    assert all(path.parent.parent == folder for path in folder.rglob("*.parquet"))
    table = curated(storage)
    expected = dict(zip(table["doc_id"].to_pylist(), table["topic"].to_pylist(), strict=True))
    assert set(expected.values()) == set(HOSTILE)
    by_duckdb = duckdb.connect().execute(f"SELECT doc_id, topic FROM '{folder}/*/*.parquet'").fetchall()
    by_polars = polars.scan_parquet(folder).select("doc_id", "topic").collect().rows()
    by_pyarrow = pyarrow.dataset.dataset(folder, partitioning="hive").to_table().select(["doc_id", "topic"]).to_pylist()
    assert dict(by_duckdb) == dict(by_polars) == expected
    assert {row["doc_id"]: row["topic"] for row in by_pyarrow} == expected
    read = pq.read_table(folder)
    assert dict(zip(read["doc_id"].to_pylist(), read["topic"].to_pylist(), strict=True)) == expected


def test_few_open_files_and_little_waiting_lose_no_row(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_OPEN", 2)
    monkeypatch.setattr(files, "PENDING_BYTES", 20_000)
    done = export(storage, "web", str(tmp_path / "out"), "partitioned", by="topic")
    assert len(done.files) > len(HOSTILE)
    table = curated(storage)
    for topic in HOSTILE:
        where = pa.compute.equal(table["topic"], topic) if topic is not None else pa.compute.is_null(table["topic"])
        folder = tmp_path / "out" / "data" / files.hive_folder("topic", topic)
        found = [pq.read_table(path, partitioning=None) for path in sorted(folder.iterdir())]
        assert pa.concat_tables(found).equals(table.filter(where).drop_columns(["topic"]))


def test_numbers_and_truths_make_folders(storage: Storage, tmp_path: Path) -> None:
    done = export(storage, "web", str(tmp_path / "out"), "partitioned", by="component_size")
    assert [name.split("/")[1] for name in done.files] == ["component_size=1", "component_size=2"]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"columns": ["txt"]}, UsageError, r"--columns: web has no column 'txt' \(nearest: 'text'\)"),
        ({"columns": ["url", "url"]}, UsageError, "--columns: 'url' is named twice"),
        ({"columns": []}, UsageError, "name at least one column"),
        ({"where": "word_cout > 3"}, RuleError, r"--where: unknown column 'word_cout' \(nearest: 'word_count'\)"),
        ({"where": "word_count"}, RuleError, "--where: gives BIGINT, not true or false"),
        ({"where": "url in (select url)"}, RuleError, "--where: subqueries are not allowed"),
        ({"where": "true; drop table documents"}, RuleError, "--where: "),
        ({"where": "cast(url as int) > 3"}, RuleError, "--where: Could not convert string"),
        ({"where": "word_count < 0"}, UsageError, "none of its 730 kept documents meets --where"),
        ({"form": "csv"}, UsageError, "--as csv: there are parquet"),
        ({"form": "partitioned"}, UsageError, "--as partitioned needs --by COLUMN"),
        ({"by": "topic"}, UsageError, "--as parquet has no folders; leave --by out"),
        ({"form": "partitioned", "by": "topics"}, UsageError, r"no column 'topics' \(nearest: 'topic'\)"),
        ({"form": "partitioned", "by": "date"}, UsageError, "--by date: timestamp.* makes no folders"),
        ({"form": "partitioned", "by": "topic", "columns": ["topic"]}, UsageError, "name another column for the files"),
        ({"form": "partitioned", "by": "text"}, UsageError, "--by text: the value '.*'... is too long"),
        ({"shard_bytes": 10}, UsageError, "--shard-size: 10 bytes; give at least 65,536"),
        ({"source": "wbe"}, WorkspaceError, r"there is no source 'wbe' in .* \(nearest: 'web'\)"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line_and_writes_nothing(
    storage: Storage, tmp_path: Path, options: dict[str, Any], error: type[GristmillError], message: str
) -> None:
    source, form = options.pop("source", "web"), options.pop("form", "parquet")
    with pytest.raises(error, match=message) as caught:
        export(storage, source, str(tmp_path / "out"), form, **options)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_too_many_values_are_refused_before_anything_is_written(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "MAX_VALUES", 3)
    with pytest.raises(UsageError, match="--by topic: more than 3 values, and each would be a folder"):
        export(storage, "web", str(tmp_path / "out"), "partitioned", by="topic")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_else_is_refused(storage: Storage, made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    for to, message in (
        (tmp_path / "out", "holds 'notes.txt', which no export wrote"),
        (tmp_path / "file", "is a file; name a folder"),
        (made / "ws", "lies in the workspace"),
        (made / "ws" / "web" / "new", "lies in the workspace"),
        (made, "holds '(in|ws)', which no export wrote"),
    ):
        with pytest.raises(UsageError, match=message):
            export(storage, "web", str(to), "parquet", overwrite=True)
    (tmp_path / "link").symlink_to(made / "ws" / "web")
    with pytest.raises(UsageError, match="lies in the workspace"):
        export(storage, "web", str(tmp_path / "link" / "new"), "parquet")
    (tmp_path / "link").unlink()
    assert snapshot(tmp_path) == before


def test_overwriting_takes_what_the_manifest_lists_and_nothing_else(storage: Storage, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(storage, "web", str(out), "partitioned", by="topic")
    with pytest.raises(UsageError, match=r"holds another export.*--overwrite replaces it"):
        export(storage, "web", str(out), "parquet")
    manifest = json.loads((out / "manifest.json").read_text())
    (tmp_path / "precious").write_text("mine")
    manifest["files"]["../precious"] = {"bytes": 4}
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "mine").write_text("mine")
    with pytest.raises(UsageError, match="holds 'mine', which no export wrote"):
        export(storage, "web", str(out), "parquet", overwrite=True)
    (out / "mine").unlink()
    export(storage, "web", str(out), "parquet", overwrite=True)
    export(storage, "web", str(tmp_path / "new"), "parquet")
    assert snapshot(out) == snapshot(tmp_path / "new")
    assert sorted(path.name for path in (out / "data").iterdir()) == ["part-00000.parquet"]
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_lost_file_is_no_finished_export(storage: Storage, tmp_path: Path) -> None:
    export(storage, "web", str(tmp_path / "out"), "parquet")
    (tmp_path / "out" / "data" / "part-00000.parquet").unlink()
    with pytest.raises(UsageError, match="what is left of one"):
        export(storage, "web", str(tmp_path / "out"), "parquet")
    assert export(storage, "web", str(tmp_path / "out"), "parquet", overwrite=True).is_new


@pytest.mark.parametrize("manifest", ["{no JSON", "[]", '{"files": {}}', '{"export": "export_v1", "files": {}}'])
def test_somebody_elses_manifest(storage: Storage, tmp_path: Path, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="holds"):
        export(storage, "web", str(tmp_path), "parquet")
    assert (tmp_path / "manifest.json").read_text() == manifest


def test_a_source_that_was_not_selected_or_kept_nothing(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "in", tmp_path / "in")
    run_all(config(tmp_path), until="annotate")
    with pytest.raises(WorkspaceError, match="web has nothing to export: `select` has not run"):
        export(Storage.at(str(tmp_path / "ws")), "web", str(tmp_path / "out"), "parquet")
    run_all(config(tmp_path, least=10_000))
    with pytest.raises(WorkspaceError, match="none of its 812 documents was kept"):
        export(Storage.at(str(tmp_path / "ws")), "web", str(tmp_path / "out"), "parquet")
    run_all(config(tmp_path))
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(7))
    run_all(config(tmp_path), until="extract")
    with pytest.raises(WorkspaceError, match="web/documents is not what was selected from any more"):
        export(Storage.at(str(tmp_path / "ws")), "web", str(tmp_path / "out"), "parquet")


def test_inputs_of_which_nothing_was_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(9))
    for number in range(9):
        write_jsonl(tmp_path / "in" / f"none-{number}.jsonl", [{"text": f"too short {number}", "url": "x:3"}])
    run_all(config(tmp_path))
    assert export(Storage.at(str(tmp_path / "ws")), "web", str(tmp_path / "out"), "parquet").rows == 8


def test_halves_of_two_selections_are_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "ws", tmp_path / "ws")
    group = Group(Storage.at(str(tmp_path / "ws")), "web/curated")
    index = group.index()
    assert index is not None
    group.complete(index.parts, index.model_copy(update={"key": "another"}))
    with pytest.raises(WorkspaceError, match="are of different selections"):
        export(Storage.at(str(tmp_path / "ws")), "web", str(tmp_path / "out"), "parquet")


# Kills, and runs beside it --------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pipeline.export.export import export
from pipeline.table.storage import Storage
left = int(sys.argv[3])
def move(storage, old, new, move=Storage.move):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    move(storage, old, new)
if left:
    left -= 1
    Storage.move = move
progress = (lambda rows: os._exit(9)) if not left and Storage.move is not move else (lambda rows: None)
export(Storage.at(sys.argv[1]), "web", sys.argv[2], "parquet", shard_bytes=1 << 16, overwrite=True, progress=progress)
"""


@pytest.mark.parametrize(
    ("moves", "over"),
    [
        (0, True),
        (1, False),
        *(pytest.param(*each, marks=pytest.mark.acceptance) for each in ((0, False), (1, True), (3, False), (3, True))),
    ],
)
def test_a_kill_leaves_nothing_that_looks_finished(storage: Storage, tmp_path: Path, moves: int, over: bool) -> None:
    out = tmp_path / "out"
    if over:
        export(storage, "web", str(out), "partitioned", by="topic")
    ended = subprocess.run([sys.executable, "-c", KILLED, storage.root, str(out), str(moves)], check=False)
    assert ended.returncode == 9
    is_kept = over and moves == 0  # the other export stays until this one is whole
    assert (out / "manifest.json").exists() == is_kept
    export(storage, "web", str(out), "parquet", shard_bytes=SMALL, overwrite=is_kept)
    export(storage, "web", str(tmp_path / "new"), "parquet", shard_bytes=SMALL)
    assert snapshot(out) == snapshot(tmp_path / "new")
    assert {path.name for path in out.iterdir()} == {"README.md", "data", "manifest.json"}


def test_an_error_midway_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    def stop(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(storage, "web", str(tmp_path / "out"), "partitioned", by="topic", progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_run_beside_it_makes_it_begin_again(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    storage, ran = Storage.at(str(tmp_path / "ws")), []

    def run(count: int) -> None:
        if not ran:
            ran.append(
                run_all({**config(tmp_path), "select": {"rules": {"even": "url like '%2'"}, "part_bytes": 1 << 16}})
            )

    done = export(storage, "web", str(tmp_path / "out"), "parquet", progress=run)
    assert pq.read_table(tmp_path / "out" / "data").equals(curated(storage))
    assert done.rows == asked(storage, "SELECT count(*) AS n FROM web.curated")[0]["n"] < KEPT


def test_a_workspace_and_an_export_behind_urls(made: Path, tmp_path: Path) -> None:
    workspace, out = (f"memory://export-{uuid.uuid4().hex}/{name}" for name in ("ws", "out"))
    remote = Storage.at(workspace)
    remote.fs.put(str(made / "ws"), remote.root, recursive=True)
    for url in (workspace, f"{workspace}/web/new"):
        with pytest.raises(UsageError, match="lies in the workspace"):
            export(remote, "web", url, "parquet")
    options: dict[str, Any] = {"by": "topic", "shard_bytes": SMALL}
    done = export(remote, "web", out, "partitioned", **options)
    export(Storage.at(str(made / "ws")), "web", str(tmp_path / "out"), "partitioned", **options)
    there = Storage.at(out)
    written = {path: hashlib.sha256(there.read_bytes(path)).hexdigest() for path in there.files("")}
    assert written == snapshot(tmp_path / "out")
    assert not export(remote, "web", out, "partitioned", **options).is_new
    assert set(done.files) < set(written)
    export(remote, "web", out, "hf", overwrite=True)
    assert there.files("") == ["README.md", "data/train-00000-of-00001.parquet", "manifest.json"]


# The card -------------------------------------------------------------------------------------------------------------


def test_everything_in_the_card_is_true(made: Path, storage: Storage, tmp_path: Path) -> None:
    where = "word_count > 10 and url not like '%7'"
    done = export(storage, "web", str(tmp_path / "out"), "hf", where=where, shard_bytes=SMALL)
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    of = f"web.curated c JOIN web.outcomes o USING (doc_id) WHERE o.{where.replace('url', 'o.url')}"
    [row] = asked(storage, f"SELECT count(*) AS n, sum(estimated_tokens) AS t, count(c.date) AS d FROM {of}")
    assert f"{row['n']:,} documents with {round(row['t']):,} estimated tokens" in text
    assert (done.rows, done.tokens) == (row["n"], round(row["t"]))
    assert f"in {len(done.files)} files of {done.bytes:,} bytes. {KEPT} of the 812 documents" in text
    assert f"{row['d']:,} of the documents have a date; the dates are from 2000-03-04 to 2019-03-04." in text
    for licence, shown in ((None, "not known (null)"), ("MIT", "MIT")):
        [row] = asked(
            storage,
            "SELECT count(*) AS n, sum(estimated_tokens) AS t FROM (SELECT *, c.licence AS l FROM " + of + ")"
            f" WHERE l IS NOT DISTINCT FROM {repr(licence) if licence else 'NULL'}",
        )
        share, of_tokens = 100 * row["n"] / done.rows, 100 * row["t"] / (done.tokens or 1)
        assert f"| {shown} | {row['n']} | {share:.1f} % | {round(row['t']):,} | {of_tokens:.1f} % |" in text
    for rule in ("words", "odd"):
        [row] = asked(
            storage,
            "SELECT count(*) AS n FROM web.outcomes"
            f" WHERE list_contains(list_transform(failed_rules, lambda f: f.rule), '{rule}')",
        )
        assert f" | {row['n']} | {100 * row['n'] / 812:.1f} % |" in next(
            x for x in text.splitlines() if x[:9].startswith(f"| `{rule}")
        )
    assert "Of 813 units that were read, 1 did not become documents:\n\n| reason | units | share |" in text
    assert "| `damaged` | 1 | 0.1 % |" in text
    size = sum(path.stat().st_size for path in (made / "in").iterdir())
    assert f"| `in/` | 2 | {size:,} |" in text
    assert "812 documents have 811 different texts" in text
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert f"Recipe: `{manifest['recipe']}`" in text
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "other"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert "| odd \\| \\`licence\\` \\<b\\> |" in text


def test_the_recipe_is_of_how_it_was_made_and_not_of_where(made: Path, storage: Storage, tmp_path: Path) -> None:
    shutil.copytree(made / "in", tmp_path / "elsewhere" / "in", copy_function=shutil.copy)  # other times, too
    run_all(config(tmp_path / "elsewhere"))
    export(Storage.at(str(tmp_path / "elsewhere" / "ws")), "web", str(tmp_path / "a"), "parquet")
    export(storage, "web", str(tmp_path / "b"), "parquet")
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    run_all(config(tmp_path / "elsewhere", least=4))
    export(Storage.at(str(tmp_path / "elsewhere" / "ws")), "web", str(tmp_path / "c"), "parquet")
    recipes = [json.loads((tmp_path / name / "manifest.json").read_text())["recipe"] for name in "bc"]
    assert recipes[0] != recipes[1]


@pytest.mark.parametrize(
    ("rows", "expected"), [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")]
)
def test_size_categories_of_the_hub(rows: int, expected: str) -> None:
    assert _size_category(rows) == expected


def test_values_are_shown_and_not_obeyed() -> None:
    assert _text("a|b\n# <b>[x](y)") == "a\\|b \\# \\<b\\>\\[x\\](y)"
    assert _code("a | `b`\x1b") == "`` a \\| `b`\\u001b ``"


def test_many_values_are_counted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.export.card.MAX_VALUES", 2)
    counted = Counted(pa.schema([("licence", pa.string())]))
    for values in (["a", "b", "c"], ["d", "a", None]):
        counted.add(pa.table({"licence": pa.array(values, pa.string())}))
    assert sum(row[1] for row in counted.by("licence")) == 6 == counted.rows
    assert counted.by("licence")[0][:2] == ("a", 2)
    assert counted.tokens is None


# The command ----------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> int:
    return _do(parser().parse_args(arguments))


def test_the_command_line_names_every_form() -> None:
    assert EXPORTS == exporting.FORMS


def test_the_command(storage: Storage, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "export",
        storage.root,
        "web",
        "--to",
        str(tmp_path / "out"),
        "--columns",
        "url, text",
        "--shard-size",
        "1MiB",
    ]
    assert run(*given) == 0
    done = export(storage, "web", str(tmp_path / "out"), "parquet", columns=["url", "text"], shard_bytes=1 << 20)
    assert not done.is_new
    counted = f"730 documents, {done.tokens:,} tokens, {done.bytes:,} bytes in 1 file\n"
    assert capsys.readouterr().out == f"{tmp_path}/out: {counted}"
    assert run(*given) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out: nothing to do, it holds {counted}"
    assert run(*given, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "folder": str(tmp_path / "out"),
        "files": ["data/part-00000.parquet"],
        "rows": 730,
        "tokens": done.tokens,
        "bytes": done.bytes,
        "is_new": False,
    }


@pytest.mark.parametrize(
    ("text", "expected"), [("512MB", 512 * 10**6), ("1.5 GiB", 3 << 29), ("100kb", 10**5), ("2KiB", 2048)]
)
def test_sizes(text: str, expected: int) -> None:
    assert size_bytes(text) == expected


@pytest.mark.parametrize("text", ["512", "MB", "-1MB", "1e3MB", "1TB", "1 MB x", "٣MB", ""])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="write a number and a unit"):
        size_bytes(text)
