"""SQL over a workspace: views, what is missing, and what a statement may not do."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import workspace_builder as wb

from pipeline.table import schema
from pipeline.table.catalog import Catalog
from pipeline.table.errors import QueryError, WorkspaceError
from pipeline.table.format import write
from pipeline.table.shards import Index
from pipeline.table.sql import Session, connect, run_sql
from pipeline.table.storage import Storage
from tests.local_run import rows as local_rows
from tests.local_run import run_all, write_jsonl


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    root = tmp_path_factory.mktemp("sql") / "it's [1] *ws"
    storage = wb.build(str(root))
    wb.build(str(root), 'we"b-2', until="dedup")
    return storage


@pytest.fixture(scope="module")
def session(workspace: Storage) -> Iterator[Session]:
    with connect(workspace) as opened:
        yield opened


def rows(session: Session, sql: str) -> list[tuple[Any, ...]]:
    return list(session.query(sql).rows)


def test_catalog_lists_sources_and_groups(workspace: Storage) -> None:
    catalog = Catalog.read(workspace)
    assert [source.name for source in catalog.sources] == ['we"b-2', "web"]
    web = catalog.sources[1]
    assert sorted(web.nested("signals")) == ["language", "text_stats"]
    assert (web.rows("documents"), web.rows("rejects"), web.rows("signatures")) == (6, 2, 0)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("web.documents", 6),
        ("web.rejects", 2),
        ("web.signals_language", 6),
        ("web.duplicates", 6),
        ("web.scores_quality", 6),
        ("web.outcomes", 6),
        ("web.everything", 6),
        ("web.curated", 2),
        ('"we""b-2".documents', 6),
        ("documents", 12),
        ("main.duplicates", 12),
        ("everything", 6),
        ("signals_text_stats", 12),
    ],
)
def test_views_hold_what_the_indexes_list(session: Session, view: str, expected: int) -> None:
    assert rows(session, f"SELECT count(*) FROM {view}") == [(expected,)]


def test_everything_is_the_ledger_with_the_text_and_no_column_twice(session: Session) -> None:
    columns = session.query("FROM web.everything LIMIT 0").columns
    assert len(columns) == len(set(columns))
    assert set(columns) == set(wb.OUTCOMES.names) | set(schema.DOCUMENTS.names)
    origins = rows(session, "SELECT doc_id, origin.offset FROM web.everything ORDER BY doc_id")
    assert origins == [(wb.doc_id(n), 100 * n) for n in range(1, 7)]


def test_unlisted_parts_do_not_exist(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"))
    group = Catalog.read(storage).group("web", "documents")
    wb.write_part(group, "part-9", [wb.document(9)], schema.DOCUMENTS)
    with connect(storage) as opened:
        assert rows(opened, "SELECT count(*) FROM web.documents") == [(6,)]


def test_empty_groups_have_their_columns(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    for folder, empty in (("documents", schema.DOCUMENTS), ("rejects", schema.REJECTS), ("outcomes", wb.OUTCOMES)):
        wb.write_group(storage, f"web/{folder}", [], empty)
    with connect(storage) as opened:
        assert opened.query("FROM web.documents").columns == schema.DOCUMENTS.names
        assert rows(opened, "SELECT origin.file, reason FROM web.rejects") == []
        assert rows(opened, "SELECT count(*) FROM everything WHERE text = '' AND outcome = 'kept'") == [(0,)]
    batches = list(run_sql(storage.url, "SELECT doc_id, text FROM documents"))
    assert [batch.schema.names for batch in batches] == [["doc_id", "text"]]


def test_columns_of_one_name_and_two_types_are_text_in_the_views_over_all_sources(tmp_path: Path) -> None:
    storage = Storage.at(str(tmp_path / "ws"))
    for name, kind, value in (("a", "int", 10), ("b", "bool", True), ("c", "int", 9)):
        columns = schema.documents_schema({"own": kind, "n": "float" if name == "c" else "int", f"only_{name}": "text"})
        row = wb.document(1, name, own=value, n=1, **{f"only_{name}": name})
        group = wb.write_group(storage, f"{name}/documents", [[row]], columns)
        index = group.index()
        assert index is not None
        group.complete(index.parts, index.model_copy(update={"details": {schema.KEEP_COLUMNS: {"own": kind}}}))
    wb.write_group(storage, "a/curated", [], schema.DOCUMENTS)
    with connect(storage) as opened:
        found = rows(opened, "SELECT own, n, only_a, only_b FROM documents ORDER BY source")
        assert found == [("10", 1.0, "a", None), ("true", 1.0, None, "b"), ("9", 1.0, None, None)]
        assert rows(opened, "SELECT typeof(own) FROM a.documents") == [("BIGINT",)]
        assert opened.query("SELECT own FROM a.curated").types == ["BIGINT"]


@pytest.mark.parametrize("kind", ["SELECT 1 AS a", "WITH x AS (SELECT 1 AS a) FROM x", "VALUES (1)", "FROM documents"])
def test_reading_statements_are_allowed(session: Session, kind: str) -> None:
    for prefix in ("", "DESCRIBE ", "SUMMARIZE ", "EXPLAIN ", "explain  analyze "):
        if prefix + kind != "DESCRIBE VALUES (1)":
            assert rows(session, prefix + kind)
    assert rows(session, "SHOW ALL TABLES")


FORBIDDEN = [
    "COPY (SELECT 1) TO '{ws}/x'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{ws}/x'",
    "EXPLAIN/**/ANALYZE COPY (SELECT 1) TO '{ws}/x'",
    "EXPLAIN (ANALYZE) COPY (SELECT 1) TO '{ws}/x'",
    "-- a\nEXPLAIN ANALYZE COPY (SELECT 1) TO '{ws}/x'",
    "WITH a AS (COPY (SELECT 1) TO '{ws}/x') SELECT 1",
    "EXPLAIN ANALYZE WITH a AS (COPY (SELECT 1) TO '{ws}/x') SELECT 1",
    "FROM query($$WITH a AS (COPY (SELECT 1) TO '{ws}/x') SELECT 1$$)",
    "FROM json_execute_serialized_sql(json_serialize_sql($$WITH a AS (COPY (SELECT 1) TO '{ws}/x') SELECT 1$$))",
    "EXPLAIN ANALYZE FROM json_execute_serialized_sql(json_serialize_sql($$WITH a AS (COPY x TO '{ws}/x') FROM a$$))",
    "ATTACH '{ws}/x'",
    "EXPORT DATABASE '{ws}/x'",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access = true",
    "SET memory_limit = '100GB'",
    "RESET lock_configuration",
    "PRAGMA database_list",
    "CREATE TABLE x AS SELECT 1",
    "DROP VIEW web.documents",
    "PREPARE p AS SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY (SELECT 1) TO '{ws}/x'",
    "",
    "-- nothing",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('{ws}/../secret')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_json('http://localhost:1/x')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM read_duckdb('/tmp/x')",
    "SELECT getenv('HOME')",
    "FROM duckdb_secrets()",
    "FROM workspace",
]


@pytest.mark.parametrize("statement", FORBIDDEN)
def test_nothing_is_written_and_nothing_outside_is_read(session: Session, workspace: Storage, statement: str) -> None:
    before = workspace.files("")
    sql = statement.format(ws=workspace.root.replace("'", "''"))
    with pytest.raises(QueryError) as caught:
        rows(session, sql)
    assert "\n" not in str(caught.value)
    with pytest.raises(QueryError):
        list(session.batches(sql))
    assert workspace.files("") == before


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nope FROM web.documents", 'Referenced column "nope" not found in FROM clause! Candidate bindings: "'),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT 'a'::INT", "Could not convert string 'a' to INT32"),
        ("FROM web.outcome", "there is no view web.outcome (nearest: 'outcomes')"),
        ("FROM webb.documents", "there is no source 'webb'"),
        ("FROM signals_langage", "there is no view signals_langage (nearest: 'signals_language')"),
        ('SELECT * FROM web.documents, "we""b-2".outcomes', 'stage `select` has not run for source `we"b-2`'),
        ('DESCRIBE "we""b-2".curated', "does not exist yet: stage `select` has not run"),
        ('SUMMARIZE "we""b-2".curated', "does not exist yet: stage `select` has not run"),
        ('EXPLAIN FROM "we""b-2".everything', "does not exist yet: stage `select` has not run"),
        ('SELECT (SELECT max(rank) FROM "we""b-2".scores_quality)', "stage `classify` has not run"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(session: Session, sql: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        rows(session, sql)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_missing_names_the_stage_and_the_command(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"), until="extract")
    with connect(storage) as opened:
        with pytest.raises(QueryError) as caught:
            opened.query("SELECT * FROM web.outcomes")
        assert str(caught.value) == (
            "web.outcomes does not exist yet: stage `select` has not run for source `web`; run `gristmill run CONFIG`"
        )
        with pytest.raises(QueryError, match="stage `annotate` has not run for any source"):
            opened.query("FROM signals_language")


def test_an_error_in_the_middle_of_the_rows_is_a_query_error(session: Session) -> None:
    sql = "SELECT CASE WHEN i = 90000 THEN 'x' ELSE '1' END::INT AS n FROM range(100000) AS t(i)"
    with pytest.raises(QueryError, match="Could not convert"):
        rows(session, sql)
    with pytest.raises(QueryError, match="Could not convert"):
        list(session.batches(sql))


def test_rows_are_streamed(session: Session) -> None:
    result = session.query("SELECT i, repeat('x', 1000) FROM range(100_000_000) AS t(i)")
    assert next(result.rows)[0] == 0
    batches = session.batches("SELECT i, repeat('x', 1000) FROM range(100_000_000) AS t(i)")
    assert next(batches).num_rows > 0


def test_a_damaged_part_breaks_only_its_views(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"))
    wb.build(str(tmp_path / "ws"), "other")
    catalog = Catalog.read(storage)
    index = catalog.sources[1].groups["outcomes"]
    Path(storage.path(catalog.group("web", "outcomes").path(index.parts[0].name))).write_bytes(b"no Parquet")
    with connect(storage) as opened:
        assert rows(opened, "SELECT count(*) FROM documents") == [(12,)]
        assert rows(opened, "SELECT count(*) FROM other.everything") == [(6,)]
        for view in ("web.outcomes", "web.everything", "outcomes", "everything"):
            with pytest.raises(QueryError, match=r"outcomes/part-0-\w+\.parquet is damaged: .*delete it and run again"):
                opened.query(f"FROM {view}")


WAYS_TO_A_VIEW = [
    "FROM web.outcomes",
    "FROM outcomes",
    "SELECT 1 FROM WEB.OUTCOMES",
    'SELECT count(*) FROM "memory"."web"."outcomes"',
    "WITH chosen AS (FROM web.outcomes) SELECT count(*) FROM chosen",
    "SELECT (SELECT count(*) FROM web.outcomes)",
    "SELECT 1 WHERE EXISTS (FROM main.everything)",
    "FROM web.documents SEMI JOIN web.outcomes USING (doc_id)",
    "FROM query('FROM web.' || 'outcomes')",
    "FROM query_table('web.outcomes')",
    "SUMMARIZE web.outcomes",
    "EXPLAIN ANALYZE FROM web.outcomes",
    "FROM (PIVOT web.outcomes ON outcome IN ('kept') USING count(*))",
    "FROM (FROM web.everything LIMIT 1)",
    "FROM read_parquet('{path}')",
    "FROM '{path}'",
]


@pytest.mark.parametrize("statement", WAYS_TO_A_VIEW)
def test_no_way_to_a_part_goes_round_its_digest(tmp_path: Path, statement: str) -> None:
    """Another readable file in its place: nothing but the digest tells, so no statement may read it unverified."""
    storage = wb.build(str(tmp_path / "ws"))
    group = Catalog.read(storage).group("web", "outcomes")
    path = Path(storage.path(group.path(group.parts()[0].name)))
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(1), path)
    with connect(storage) as opened:
        assert rows(opened, "SELECT count(*) FROM documents") == [(6,)]
        with pytest.raises(QueryError, match="is damaged"):
            rows(opened, statement.format(path=path))


def test_a_part_that_vanished_is_named(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"), until="extract")
    group = Catalog.read(storage).group("web", "documents")
    name = group.parts()[1].name
    storage.delete(group.path(name))
    with connect(storage) as opened, pytest.raises(QueryError, match=name):
        rows(opened, "SELECT text FROM web.documents")


def _file(root: Path) -> str:
    (root / "file").write_text("")
    return str(root / "file")


def _damaged(root: Path) -> str:
    storage = wb.build(str(root / "damaged"), until="extract")
    storage.write_bytes("web/_manifests/documents/_index.json", b"{")
    return storage.url


def _unfinished(root: Path) -> str:
    storage = Storage.at(str(root / "unfinished"))
    wb.write_part(Catalog(storage, ()).group("web", "documents"), "part-0", [wb.document(1)], schema.DOCUMENTS)
    return storage.url


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: str(root / "absent"), "does not exist"),
        (_file, "is a file"),
        (_damaged, "is damaged"),
        (_unfinished, "is not a workspace, or its first run has not finished"),
        (lambda root: str(root), "is not a workspace"),
    ],
)
def test_no_workspace_is_a_workspace_error(tmp_path: Path, make: Callable[[Path], str], message: str) -> None:
    with pytest.raises(WorkspaceError, match=message) as caught:
        next(run_sql(make(tmp_path), "SELECT 1"))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", ["information_schema", "pg_catalog", "temp", "main"])
def test_a_folder_named_like_a_schema_of_duckdb_is_no_source(tmp_path: Path, name: str) -> None:
    wb.build(str(tmp_path), name, until="extract")
    with connect(wb.build(str(tmp_path), "web", until="extract")) as opened:
        assert rows(opened, "SELECT DISTINCT source FROM documents") == [("web",)]


def test_remote_workspace() -> None:
    storage = wb.build(f"memory://ws-{uuid.uuid4().hex}/deep")
    with connect(storage) as opened:
        assert rows(opened, "SELECT count(*) FROM everything") == [(6,)]
        with pytest.raises(QueryError, match="Permission"):
            opened.query("SELECT * FROM read_text('/etc/passwd')")
        with pytest.raises(QueryError, match="Permission"):
            opened.query("SELECT * FROM read_text('memory://elsewhere/x')")


def test_local_variables_are_no_tables(session: Session, workspace: Storage) -> None:
    import pyarrow as pa

    secret = pa.table({"a": [1]})
    with pytest.raises(QueryError, match="no view secret"):
        session.query("FROM secret")
    assert secret.num_rows == 1


VALUES = """
    SELECT 9007199254740993 AS big, 170141183460469231731687303715884105727::HUGEINT AS huge, md5_number('') AS md5,
        12.50::DECIMAL(9, 2) AS money, 'nan'::DOUBLE AS nan, '-inf'::FLOAT AS inf, NULL AS nothing, true AS yes,
        TIMESTAMPTZ '2024-05-06 07:08:09+02' AS moment, DATE '2024-05-06' AS day, [1, NULL] AS numbers,
        {'rule': 'a"b', 'value': [0.5]} AS nested, MAP {'k': 1} AS pairs, 'x\\xAA'::BLOB AS bytes,
        'x\u2028é' AS text, 1 AS big
"""


def test_json_is_exact(session: Session) -> None:
    stream = io.StringIO()
    assert write(session.query(VALUES), "json", stream) == 1
    (row,) = json.loads(stream.getvalue(), parse_float=str)
    assert row["big"] == 9007199254740993
    assert row["huge"] == 2**127 - 1
    assert row["md5"] > 2**64
    assert row["money"] == "12.50"
    assert (row["nan"], row["inf"], row["nothing"], row["yes"]) == (None, None, None, True)
    assert (row["moment"], row["day"]) == ("2024-05-06T05:08:09+00:00", "2024-05-06")
    assert row["numbers"] == [1, None]
    assert row["nested"] == {"rule": 'a"b', "value": ["0.5"]}
    assert row["pairs"] == {"k": 1}
    assert (row["bytes"], row["text"]) == ("78aa", "x\u2028é")
    assert row["big_1"] == 1


@pytest.mark.parametrize("count", [0, 1, 5000])
def test_json_is_one_array(session: Session, count: int) -> None:
    stream = io.StringIO()
    result = session.query(f"SELECT i, 'a\n\"' || i AS t FROM range({count}) AS t(i) ORDER BY i")
    assert write(result, "json", stream) == count
    assert json.loads(stream.getvalue()) == [{"i": i, "t": f'a\n"{i}'} for i in range(count)]


def test_csv_is_complete(session: Session) -> None:
    long = 'é, "x"\r\n' * 100
    stream = io.StringIO()
    result = session.query(
        f"SELECT '{long}' AS \"a,b\", NULL AS n, '' AS e, 1.50::DECIMAL(9,2) AS d, ['x'] AS l, true AS t"
    )
    assert write(result, "csv", stream) == 1
    text = stream.getvalue()
    assert list(csv.reader(io.StringIO(text, newline=""))) == [
        ["a,b", "n", "e", "d", "l", "t"],
        [long, "", "", "1.50", '["x"]', "true"],
    ]
    assert ',,"",' in text


def test_table_is_aligned_cut_and_harmless(session: Session) -> None:
    stream = io.StringIO()
    sql = "VALUES (7, repeat('long ', 50)), (1234, 'a\x1b[31m\u202e\nb'), (NULL, '漢字')"
    assert write(session.query(sql), "table", stream) == 3
    assert stream.getvalue().splitlines() == [
        "col0  col1",
        "----  " + "-" * 60,
        "   7  " + ("long " * 12)[:59] + "…",
        "1234  a\\u001b[31m\\u202e b",
        "   -  漢字",
    ]


def test_explain_is_drawn_as_it_is(session: Session) -> None:
    stream = io.StringIO()
    write(session.query("EXPLAIN FROM web.documents"), "table", stream)
    assert len(stream.getvalue().splitlines()) > 3


def test_index_of_another_shape_is_no_crash(tmp_path: Path) -> None:
    storage = wb.build(str(tmp_path / "ws"), until="annotate")
    (tmp_path / "ws" / "web" / "signals" / "stray.txt").write_text("not a group")
    assert isinstance(Catalog.read(storage).sources[0].groups["signals/language"], Index)


def test_reading_imports_no_heavy_package() -> None:
    """`sql`, `funnel` and `explain` must answer within 1.5 s: what they import decides it."""
    code = (
        "import sys, pipeline.table.format, pipeline.select.explain, pipeline.select.funnel, pipeline.table.catalog;"
        "heavy = ('prefect', 'numba', 'trafilatura', 'pandas', 'fasttext', 'datasketch');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("timestamptz '2020-01-01 07:30:00+05:30'", "2020-01-01T02:00:00+00:00"),
        ("timestamptz '2020-01-01 02:00:00.5Z'", "2020-01-01T02:00:00.500000+00:00"),
        ("timestamptz '0001-01-01 00:00:00Z'", "0001-01-01T00:00:00+00:00"),
        ("timestamptz '9999-12-31 23:59:59.999999Z'", "9999-12-31T23:59:59.999999+00:00"),
        ("timestamptz '20000-01-01 00:00:00Z'", "20000-01-01T00:00:00+00:00"),
        ("timestamptz 'infinity'", "infinity"),
        ("timestamptz '-infinity'", "-infinity"),
        ("timestamp '2020-01-01 02:00:00'", "2020-01-01T02:00:00"),
        ("timestamp_ns '2020-01-01 02:00:00.123456789'", "2020-01-01T02:00:00.123456789"),
        ("timestamp '0044-03-15 (BC) 01:02:03'", "0044-03-15 (BC) 01:02:03"),
        ("date '9999-12-31'", "9999-12-31"),
        ("date 'infinity'", "infinity"),
        ("NULL::TIMESTAMPTZ", None),
        ("[timestamptz '2020-01-01 07:30:00+05:30', 'infinity']", ["2020-01-01T02:00:00+00:00", "infinity"]),
    ],
)
def test_times_are_in_utc_and_every_one_prints(
    expression: str, shown: object, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the machine is elsewhere: DuckDB's cursors take its zone, and Python has no year beyond 9999."""
    for zone in ("UTC", "Asia/Kolkata", "America/New_York"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        sql = f'SELECT {expression} AS at, 1 AS at, \'x\' AS "a""b" -- last words;'
        stream = io.StringIO()
        write(session.query(sql), "json", stream)
        assert json.loads(stream.getvalue()) == [{"at": shown, "at_1": 1, 'a"b': "x"}]
        stream = io.StringIO()
        write(session.query(sql), "csv", stream)
        assert isinstance(shown, list) or stream.getvalue().splitlines()[1] == f"{shown or ''},1,x"
    monkeypatch.undo()
    time.tzset()


def test_times_leave_the_order_of_rows_as_it_is(session: Session) -> None:
    sql = "SELECT range AS n, timestamptz 'epoch' + to_seconds(range) AS at FROM range(5000) ORDER BY n DESC;"
    assert [row[0] for row in rows(session, sql)] == list(range(4999, -1, -1))


@pytest.mark.parametrize(("name", "other"), [("it's [v1]", "it's 1"), ("w?*", "w12")])
def test_a_workspace_whose_path_looks_like_a_pattern(name: str, other: str, tmp_path: Path) -> None:
    """All stages, beside a workspace that the pattern would match: what is read is one's own."""
    found = []
    for number, folder in enumerate((other, name)):
        source = {"inputs": str(write_jsonl(tmp_path / f"{number}.jsonl", local_rows(6, 10 * number)))}
        settings = {"dedup": {}, "select": {"rules": {"share": "top_share(word_count, 0.9)"}}}
        run_all({"workspace": str(tmp_path / folder), "sources": {"a": source}, **settings})
        sql = "SELECT count(*)::INT AS n, min(url) AS first FROM a.everything WHERE outcome = 'kept'"
        found += [row for batch in run_sql(str(tmp_path / folder), sql) for row in batch.to_pylist()]
    assert found == [{"n": 6, "first": f"https://example.org/{first}"} for first in (0, 10)]
