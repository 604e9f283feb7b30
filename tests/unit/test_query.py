"""A user's SQL: what every entry refuses, and that it says so in one line that names the entry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pytest
import workspace_builder as wb

from classifiers import corpus
from classifiers.config import Corpus
from pipeline.mix.config import MixConfig
from pipeline.mix.material.slices import resolve_slices
from pipeline.rephrase.config import RouteConfig
from pipeline.rephrase.sources import check_routes, resolve_routes
from pipeline.select.rules import check_rules, load_rules
from pipeline.table.errors import RuleError, UsageError
from pipeline.table.query import MAX_EXPRESSION_CHARS, MAX_STATEMENT_CHARS, check
from pipeline.table.sql import Session, connect, run_sql
from pipeline.table.storage import Storage

COLUMNS = {"doc_id": "VARCHAR", "url": "VARCHAR", "word_count": "INTEGER", "text_length": "BIGINT"}
Entries = Mapping[str, Callable[[str], object]]
"""What runs a user's SQL, by what its messages begin with."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return wb.build(str(tmp_path_factory.mktemp("query") / "ws"))


@pytest.fixture(scope="module")
def session(workspace: Storage) -> Iterator[Session]:
    with connect(workspace) as opened:
        yield opened


@pytest.fixture(scope="module")
def expressions(session: Session) -> Entries:
    def slices(where: str, by: tuple[str, ...] = ()) -> object:
        config: dict[str, Any] = {"workspace": "ws", "suite": "s", "budget_tokens": 10_000}
        one = {"where": "true", "by": list(by)}
        made = MixConfig.model_validate({**config, "slices": {"s": one}})
        changed = made.slices["s"].model_copy(update={"where": where})
        return resolve_slices(session, made.model_copy(update={"slices": {"s": changed}}))

    def routes(where: str) -> list[RouteConfig]:
        return [RouteConfig.model_construct(where=where, styles=("qa",))]

    return {
        "select.rules: rule 'r': ": lambda sql: check_rules(load_rules({"r": sql}, "select.rules"), COLUMNS),
        "select.keep": lambda sql: check_rules(load_rules({}, "select.rules", sql), COLUMNS),
        "slices.s.where: ": slices,
        "slices.s.by.0: ": lambda sql: slices("true", (sql,)),
        "rephrase.routes.0.where: ": lambda sql: resolve_routes(session, "web", routes(sql)),
        "rephrase.routes.0.where:": lambda sql: check_routes(routes(sql), COLUMNS),
    }


@pytest.fixture(scope="module")
def statements(session: Session, workspace: Storage) -> Entries:
    def read(sql: str) -> object:
        return list(corpus.read(Corpus(workspace=workspace.url, sql=sql), "positives.0", run_sql))

    return {
        "": lambda sql: list(session.query(sql).rows),
        " ": lambda sql: list(session.batches(sql)),
        "positives.0.sql: ": read,
    }


def refused(entries: Entries, sql: str) -> None:
    for begins, entry in entries.items():
        with pytest.raises(UsageError) as caught:
            entry(sql)
        message = str(caught.value)
        assert "\n" not in message, begins
        assert message.startswith(begins.strip()), (begins, message)
        assert len(message) < 1_000, (begins, message)


STATEMENTS = [
    "",
    "-- nothing",
    "/* nothing */",
    "SELECT 1; SELECT 2",
    "true; COPY (SELECT 1) TO '{ws}/x'",
    "COPY (SELECT 1) TO '{ws}/x'",
    "WITH a AS (COPY (SELECT 1) TO '{ws}/x') SELECT 1",
    "FROM query($$WITH a AS (COPY (SELECT 1) TO '{ws}/x') SELECT 1$$)",
    "FROM query('SELECT 1; SELECT 2')",
    "ATTACH '{ws}/x'",
    "PRAGMA database_list",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET memory_limit = '100GB'",
    "RESET lock_configuration",
    "CREATE MACRO f(x) AS x",
    "CREATE SEQUENCE s",
    "CALL pragma_version()",
    "CHECKPOINT",
    "EXPORT DATABASE '{ws}/x'",
    "SELECT nextval('s')",
    "SELECT getenv('HOME')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/proc/self/environ')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'file.parquet'",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM query_table('/etc/passwd')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
    "SELECT * FROM read_duckdb('/tmp/x')",
    "SELECT * FROM secret",
    "SELECT $1",
    "SELECT 'a\0b'",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_what_every_entry_refuses(expressions: Entries, statements: Entries, workspace: Storage, sql: str) -> None:
    secret = pa.table({"a": [1]})
    before = workspace.files("")
    refused({**expressions, **statements}, sql.format(ws=workspace.root))
    assert workspace.files("") == before
    assert secret.num_rows == 1


EXPRESSIONS = [
    "  ",
    "true -- \n) or (true",
    "true) or (true",
    "true), (true",
    "true, false",
    "true,",
    "true as x",
    "x: true",
    "ALL true",
    "DISTINCT true",
    "true FROM web.outcomes",
    "true WHERE true",
    "true GROUP BY 1",
    "true UNION SELECT true",
    "true LIMIT 1",
    "true INTO x",
    "true /* open",
    "'open",
    "(SELECT true)",
    "EXISTS (FROM web.outcomes)",
    "word_count IN (SELECT 1)",
    "word_count > ALL (SELECT 1)",
    "(FROM read_csv('/etc/passwd')) IS NULL",
    "(FROM '/etc/passwd') IS NULL",
    "(FROM duckdb_settings() LIMIT 1) IS NULL",
    "(FROM pg_catalog.pg_class) IS NULL",
    "(FROM information_schema.tables) IS NULL",
    "information_schema.tables.x > 1",
    "read_text('/etc/passwd') IS NULL",
    "glob('/*') IS NULL",
    "duckdb_settings() IS NULL",
    "current_setting('threads') = '1' AND word_count > 1",
    "getenv('HOME') = url",
    "getvariable('x') = url",
    "nextval('s') > word_count",
    "currval('s') > word_count",
    "random() > word_count",
    "setseed(0.5) IS NULL",
    "uuid() > url",
    "gen_random_uuid()::VARCHAR > url",
    "now() > '2020-01-01'",
    "today() > '2020-01-01'",
    "current_timestamp > '2020-01-01'",
    "get_current_timestamp() > '2020-01-01'",
    "age(TIMESTAMP '2020-01-01') > INTERVAL 3 DAY",
    "version() > url",
    "current_user = url",
    "current_schema() = url",
    "current_database() = url",
    "txid_current() > word_count",
    "pg_typeof(word_count) IS NULL",
    "write_log('x') IS NULL",
    "error(url) IS NULL",
    "json_serialize_sql(url) IS NULL",
    "json_execute_serialized_sql(url) IS NULL",
    "main.abs(word_count) > 1",
    "system.main.abs(word_count) > 1",
    "count(*) > 1",
    "sum(word_count) > 1",
    "list(word_count) IS NULL",
    "row_number() OVER () > 1",
    "sum(word_count) OVER () > 1",
    "abs(word_count) FILTER (WHERE true) > 1",
    "abs(DISTINCT word_count) > 1",
    "unnest([word_count]) > 1",
    "generate_subscripts([1], 1) > word_count",
    "list_filter([word_count], lambda x: x > 1) IS NULL",
    "list_transform([1], x -> list_transform([x], y -> y)) IS NULL",
    "[x FOR x IN [word_count]] IS NULL",
    "* > 1",
    "COLUMNS('w.*') > 1",
    "#1 > 1",
    "$1 > word_count",
    "? > word_count",
    "$a > word_count",
    "nosuch(word_count) > 1",
    "nosuch > 1",
    "url.host = 'x'",
    "word_count > 'abc'::INTEGER",
    "url ~ '(' AND url > ''",
    # what is too long, too deep, or asks for more than there is
    "url = '" + "x" * MAX_EXPRESSION_CHARS + "'",
    "url = '" + "x" * 1_000_000 + "'",
    "(" * 100_000,
    "(" * 9_000,
    "[" * 9_000,
    "f(" * 4_000,
    "(" * 4_000 + "word_count" + ")" * 4_000 + " > 1",
    "NOT " * 900 + "word_count > 1",
    "+".join(["word_count"] * 900) + " > 1",
    "repeat(url, 1000000000) = url",
    "repeat(url, word_count) = url",
    "repeat(repeat(repeat(url, 9999), 9999), 9999) = url",
    "lpad(url, 1000000000, 'x') = url",
    "rpad(url, 10000 * 100000, 'x') = url",
    "len(range(1000000000)) > word_count",
    "list_sum(range(0, 1000000000, 1)) > word_count",
    "len(generate_series(1, 1e9::BIGINT)) > word_count",
    "len(list_resize([word_count], 1000000000)) > 1",
    "bit_count(bitstring('0', 1000000000)) > word_count",
    "printf('%2000000000d', word_count) = url",
    "printf('%*d', word_count, 1) = url",
    "format('{:>2000000000}', url) = url",
    "format('{:>{}}', url, word_count) = url",
    "format(url, 1) = url",
    "to_base(word_count, 2, 2000000000) = url",
    "bar(word_count, 0, 1, 2000000000) = url",
]


@pytest.mark.parametrize("sql", EXPRESSIONS, ids=lambda sql: sql[:30])
def test_what_is_not_one_harmless_expression_is_refused_by_every_entry(expressions: Entries, sql: str) -> None:
    started = time.monotonic()
    refused(expressions, sql)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS text, '" + "x" * MAX_STATEMENT_CHARS + "'",
        "SELECT " + "(" * 100_000,
        "SELECT " + "(" * 5_000 + "1" + ")" * 5_000,
        "FROM nosuch WHERE " + "NOT " * 900 + "true",
    ],
    ids=lambda sql: sql[:30],
)
def test_statements_that_ask_for_too_much(statements: Entries, sql: str) -> None:
    refused(statements, sql)


GOOD = {
    "word_count > 5 -- a comment": ("(word_count > 5)", ("word_count",)),
    "WORD_COUNT > 5": ("(word_count > 5)", ("word_count",)),
    "lpad(url, 3, '0') = repeat('a', 3) AND list_contains(range(2, 9), word_count)": (None, ("url", "word_count")),
    "url IN ('a', 'b') OR [url][1] = 'c' /* and more */": (None, ("url",)),
}


@pytest.mark.parametrize("sql", GOOD)
def test_what_reads_one_document_is_taken_by_every_entry(sql: str) -> None:
    (expression,) = check({"here": sql}, COLUMNS)
    rendered, columns = GOOD[sql]
    assert expression.columns == columns
    assert rendered is None or expression.sql == rendered
    assert check({"here": expression.sql}, COLUMNS) == [expression]


def test_what_takes_too_long_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.table.query.CHECK_S", 0.2)
    slow = " OR ".join(f"levenshtein(lpad('', 9999, '{n}'), lpad('', 9999, 'x')) < word_count" for n in range(9))
    with pytest.raises(RuleError, match=r"^here: takes more than 0.2 s for one document"):
        check({"here": slow}, COLUMNS)
