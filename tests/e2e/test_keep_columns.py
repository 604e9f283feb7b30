"""A corpus's own columns, from the file to rules and views, on threads and without Prefect."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.config import RunConfig
from flows.stages import Run, check_everything
from pipeline.select.explain import explain
from pipeline.table.errors import InputError, RuleError
from pipeline.table.shards import Group
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests.local_run import rows, run_all, write_jsonl

KEEP = {"lang": "meta.lang", "stars": {"path": "meta.stars", "type": "int"}, "position": "meta.place"}


def meta(number: int) -> dict[str, Any]:
    return {"lang": "en" if number % 2 else "de", "stars": "many" if number == 3 else number, "place": "x"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two sources with columns of one name and another type, and one that keeps none; all stages but classify."""
    folder = tmp_path_factory.mktemp("kept")
    texts = [{"text": row["text"]} for row in rows(12)]
    write_jsonl(folder / "a.jsonl", [{**row, "meta": meta(n)} for n, row in enumerate([*texts, texts[0]])])
    table = pa.table({"text": [row["text"] for row in rows(3, 100)], "n": [1, 2, 3], "k": pa.array([b"x"] * 3)})
    pq.write_table(table, folder / "b.parquet")
    write_jsonl(folder / "c.jsonl", [{"text": row["text"]} for row in rows(3, 200)])
    write_jsonl(folder / "d.jsonl", [{"txet": "none is readable"}] * 2 + [{"text": ""}])
    config: dict[str, Any] = {"workspace": str(folder / "ws"), "dedup": {}, "engine": {"workers": 1}}
    a = {"format": "jsonl", "inputs": [str(folder / "a.jsonl")], "keep_columns": KEEP}
    config["sources"] = {
        "a": a | {"select": {"rules": {"starred": "stars >= 2", "spoken": "lang = 'en'"}}},
        "b": {"format": "parquet", "inputs": [str(folder / "b.parquet")], "keep_columns": {"stars": "k", "lang": "n"}},
        "c": {"format": "jsonl", "inputs": [str(folder / "c.jsonl")]},
        "d": {"format": "jsonl", "inputs": [str(folder / "d.jsonl")], "keep_columns": {"stars": "s"}},
    }
    reports = run_all(config)
    assert next(report.notes for report in reports if report.source == "a") == "stars does not fit its type in 1"
    return config


def sql(config: dict[str, Any], *statements: str) -> list[list[tuple[Any, ...]]]:
    with connect(Storage.at(config["workspace"])) as session:
        return [list(session.query(statement).rows) for statement in statements]


def test_kept_columns_are_typed_and_rules_read_them(config: dict[str, Any]) -> None:
    views = ("documents", "outcomes", "everything", "curated")
    described = sql(config, *(f"DESCRIBE SELECT lang, position, stars FROM a.{view}" for view in views))
    assert all([row[1] for row in rows] == ["VARCHAR", "VARCHAR", "BIGINT"] for rows in described)
    kept, failed, rest = sql(
        config,
        "SELECT stars FROM a.curated ORDER BY stars",
        "SELECT f.rule, f.value, metadata FROM a.everything, unnest(failed_rules) t(f) WHERE stars IS NULL",
        "SELECT DISTINCT metadata FROM a.everything WHERE stars IS NOT NULL",
    )
    assert kept == [(5,), (7,), (9,), (11,)]
    assert failed == [("starred", '{"stars":null}', '{"_unfit": ["stars"], "meta": {"stars": "many"}}')]
    assert rest == [("{}",)]


def test_views_over_all_sources_join_what_has_one_name_and_two_types(config: dict[str, Any]) -> None:
    views = ("documents", "everything", "curated")
    found, none, *counts = sql(
        config,
        "SELECT source, min(stars), min(lang), count(*) FROM outcomes GROUP BY ALL ORDER BY source",
        "SELECT stars FROM d.documents UNION ALL SELECT stars FROM d.curated",
        *(f"SELECT count(stars) > 0 FROM {view}" for view in views),
    )
    assert found == [("a", "0", "de", 13), ("b", "x", "1", 3), ("c", None, None, 3)]
    assert none == []
    assert counts == [[(True,)]] * len(views)


def test_explain_shows_them(config: dict[str, Any]) -> None:
    (((doc_id,),),) = sql(config, "SELECT doc_id FROM a.documents WHERE stars = 5")
    text = explain(Storage.at(config["workspace"]), doc_id).as_text()
    assert "lang=en  position=x  stars=5" in text


def test_other_columns_redo_extract_and_select_of_that_source_alone(config: dict[str, Any]) -> None:
    before = {name: Group(Storage.at(config["workspace"]), f"{name}/documents").parts() for name in "ac"}
    a = {**config["sources"]["a"], "keep_columns": {**KEEP, "place": "meta.place"}}
    changed = {**config, "sources": {**config["sources"], "a": a}}
    done = {(report.source, report.stage) for report in run_all(changed) if report.shards}
    assert done == {("a", "extract"), ("a", "select")}
    assert sql(config, "SELECT DISTINCT place FROM a.curated") == [[("x",)]]
    run_all(config)
    assert {name: Group(Storage.at(config["workspace"]), f"{name}/documents").parts() for name in "ac"} == before
    assert not {report.stage for report in run_all(config) if report.shards}


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("a", {"select": {"rules": {"x": "starz > 2"}}}, "rule 'x': unknown column 'starz' (nearest: 'stars')"),
        ("a", {"select": {"rules": {"x": "stars = 'two'"}}}, "rule 'x': compares text with a number"),
        ("a", {"select": {"rules": {"x": "text LIKE '%a%'"}}}, "rules do not read 'text'"),
        ("a", {"select": {"rules": {"x": "metadata->>'lang' = 'en'"}}}, "keep_columns: {lang: meta.lang}"),
        ("a", {"select": {"rules": {"x": "origin.file = 'a'"}}}, "rules do not read 'origin'"),
        ("b", {"keep_columns": {"x": "m"}}, "sources.b.keep_columns.x: no column 'm'"),
    ],
)
def test_mistakes_are_found_before_work_begins(
    config: dict[str, Any], source: str, change: dict[str, Any], message: str
) -> None:
    sources = {**config["sources"], source: {**config["sources"][source], **change}}
    with pytest.raises((RuleError, InputError)) as caught:
        check_everything(Run.of(RunConfig.model_validate({**config, "sources": sources})), [source], "select")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_order_over_two_types_is_refused(config: dict[str, Any]) -> None:
    dedup, select = {"scope": ["a", "b"]}, {"keep": "stars desc"}
    pair = {name: {**config["sources"][name], "dedup": dedup, "select": select} for name in "ab"}
    with pytest.raises(RuleError, match="'stars' is a number in a and VARCHAR in b, which share components"):
        check_everything(Run.of(RunConfig.model_validate({**config, "sources": pair})), ["a", "b"], "select")
    with pytest.raises(RuleError, match="'stars' is a number in a and VARCHAR in b, which share components"):
        run_all({**config, "sources": pair})
