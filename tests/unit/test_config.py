"""The configuration of a run: common settings and each source's own, scopes, `--set`, and lines of mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.config import RunConfig, chosen_sources, load
from pipeline.table.config import override, parse_yaml
from pipeline.table.errors import ConfigError

BASE = """\
workspace: ws
sources:
  web: {format: warc, inputs: [crawl]}
  code:
    format: jsonl
    inputs: code.jsonl
    extract: {favor: recall}
    dedup: {shingle_words: 9}
    select: {rules: {long: text_length > 10}}
extract: {engine: resiliparse}
dedup: {num_bands: 20}
select: {rules: gopher, keep: text_length desc}
"""


def read(tmp_path: Path, text: str, *assignments: str) -> RunConfig:
    (tmp_path / "run.yaml").write_text(text)
    return load(str(tmp_path / "run.yaml"), assignments)


def config(**keys: Any) -> RunConfig:
    sources = {name: {"format": "jsonl", "inputs": [f"{name}.jsonl"]} for name in ("a", "b", "c")}
    for name in list(keys):
        if name in sources:
            sources[name] |= keys.pop(name)
    return RunConfig.model_validate({"workspace": "ws", "sources": sources, **keys})


def test_a_source_has_the_common_settings_with_its_own_on_top(tmp_path: Path) -> None:
    found = read(tmp_path, BASE)
    web, code = found.sources["web"], found.sources["code"]
    assert (web.extract.engine, web.extract.favor) == ("resiliparse", "balanced")
    assert (code.extract.engine, code.extract.favor) == ("resiliparse", "recall")
    assert web.dedup is not None
    assert code.dedup is not None
    assert (web.dedup.num_bands, web.dedup.shingle_words) == (20, 5)
    assert (code.dedup.num_bands, code.dedup.shingle_words) == (20, 9)
    assert (web.select.rules, code.select.rules) == ("gopher", {"long": "text_length > 10"})
    assert web.select.keep == code.select.keep == "text_length desc"


def test_one_input_is_a_list_of_one(tmp_path: Path) -> None:
    assert read(tmp_path, BASE).sources["code"].inputs == ("code.jsonl",)


def test_a_source_can_switch_a_stage_off() -> None:
    found = config(dedup={"num_bands": 20}, b={"dedup": None})
    assert found.sources["a"].dedup is not None
    assert found.sources["b"].dedup is None


def test_a_source_can_replace_or_add_a_classifier() -> None:
    common = {"quality": {"model": "m/q"}, "toxic": {"model": "m/t"}}
    found = config(classify=common, b={"classify": {"quality": {"model": "m/other"}}})
    assert {name: use.model for name, use in found.sources["a"].classify.items()} == {"quality": "m/q", "toxic": "m/t"}
    assert {name: use.model for name, use in found.sources["b"].classify.items()} == {
        "quality": "m/other",
        "toxic": "m/t",
    }


def test_settings_do_not_depend_on_where_they_are_written() -> None:
    assert config(dedup={"num_bands": 3}).sources["a"] == config(a={"dedup": {"num_bands": 3}}).sources["a"]


# --set ----------------------------------------------------------------------------------------------------------------


def test_set_changes_common_settings_and_those_of_one_source(tmp_path: Path) -> None:
    found = read(
        tmp_path, BASE, "dedup.num_bands=7", "sources.web.select.rules=c4", "engine.workers=3", "extract.favor=balanced"
    )
    assert [source.dedup.num_bands for source in found.sources.values() if source.dedup] == [7, 7]
    assert found.sources["web"].select.rules == "c4"
    assert found.sources["code"].select.rules == {"long": "text_length > 10"}
    assert (found.sources["web"].extract.favor, found.sources["code"].extract.favor) == ("balanced", "recall")
    assert found.engine.workers == 3


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a=", {"a": None}),
        ("a=x=y", {"a": "x=y"}),
        ("a.b.c=[1, 2]", {"a": {"b": {"c": [1, 2]}}}),
        ("a={b: c}", {"a": {"b": "c"}}),
        ("a=2024-01-01", {"a": "2024-01-01"}),
        ("a=text_length desc, url asc", {"a": "text_length desc, url asc"}),
    ],
)
def test_values_are_yaml(assignment: str, expected: dict[str, Any]) -> None:
    value: dict[str, Any] = {}
    override(value, assignment)
    assert value == expected


def test_one_rule_of_a_preset_is_set_by_its_name(tmp_path: Path) -> None:
    found = read(tmp_path, BASE, "select.rules=c4", "select.rules.long='text_length > 20'")
    assert found.sources["web"].select.rules == {"extends": "c4", "long": "text_length > 20"}
    assert found.sources["code"].select.rules == {"long": "text_length > 10"}  # its own


@pytest.mark.parametrize("assignment", ["", "a", "=1", ".=1", "a.b=1", "a=[", "list.0=1"])
def test_assignments_that_cannot_be(assignment: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        override({"a": "text", "list": [1]}, assignment)


# Scopes ---------------------------------------------------------------------------------------------------------------


def test_each_source_is_its_own_scope() -> None:
    assert config(dedup={}).scopes() == [("a",), ("b",), ("c",)]
    assert config().scopes() == [("a",), ("b",), ("c",)]


def test_a_scope_has_the_order_of_its_list() -> None:
    scope = {"scope": ["c", "a"]}
    found = config(a={"dedup": scope}, c={"dedup": scope}, b={"dedup": {}})
    assert found.scopes() == [("c", "a"), ("b",)]
    assert config(dedup={"scope": ["b", "c", "a", "b"]}).scopes() == [("b", "c", "a")]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"dedup": {"scope": ["a", "x"]}}, "unknown source 'x'"),
        (
            {"a": {"dedup": {"scope": ["a", "b"]}}, "b": {"dedup": {"num_bands": 3}}},
            "a, b, whose dedup settings differ",
        ),
        (
            {"a": {"dedup": {"scope": ["a", "b"]}}, "b": {"dedup": {"scope": ["b", "c"]}}},
            "settings differ|one scope only",
        ),
    ],
)
def test_scopes_that_cannot_be(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**keys)


def test_only_takes_the_whole_scope() -> None:
    scope = {"scope": ["c", "a"]}
    found = config(a={"dedup": scope}, c={"dedup": scope})
    assert chosen_sources(found, []) == ["a", "b", "c"]
    assert chosen_sources(found, ["b"]) == ["b"]
    assert chosen_sources(found, ["c"]) == ["a", "c"]
    with pytest.raises(ConfigError, match="--only d: no such source"):
        chosen_sources(found, ["d"])


# Lines ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_bands: 20", "num_bands: 0", r"run\.yaml:11: dedup\.num_bands = 0: .*greater than or equal to 1$"),
        ("shingle_words: 9", "shingle_words: x", r"run\.yaml:8: sources\.code\.dedup\.shingle_words = 'x'"),
        ("{long: text_length > 10}", "{long: 3}", r"run\.yaml:9: sources\.code\.select\.rules\.long = 3: .*string$"),
        ("inputs: code.jsonl", "inputs: [a, 3]", r"run\.yaml:6: sources\.code\.inputs\.1 = 3: .*string$"),
        ("rules: gopher", "rules: 3", r"run\.yaml:12: select\.rules = 3: .*string; or: .*mapping$"),
        ("{num_bands: 20}", "3", r"run\.yaml:11: dedup = 3: Input should be a mapping$"),
        ("code:", "main:", r"run\.yaml:4: sources\.main: source name 'main' is reserved; choose another$"),
        (
            "favor: recall",
            "limits: {node: 1}",
            r"run\.yaml:7: unknown key 'sources\.code\.extract\.limits\.node' .*nodes",
        ),
        ("workspace: ws", "workspace: ''", r"run\.yaml:1: workspace = ''"),
        ("inputs: code.jsonl", "", r"run\.yaml:4: key 'sources\.code\.inputs' is missing$"),
    ],
)
def test_a_mistake_names_its_line_once(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert BASE.count(old) == 1
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, BASE.replace(old, new))


def test_the_first_of_several_mistakes_is_told_and_the_rest_counted(tmp_path: Path) -> None:
    text = BASE.replace("resiliparse", "x").replace("num_bands: 20", "num_bands: x, bands: 3")
    with pytest.raises(ConfigError, match=r"run\.yaml:10: extract\.engine = 'x'.*\(and 2 more\)$"):
        read(tmp_path, text)


def test_yaml_is_bounded() -> None:
    with pytest.raises(ConfigError, match="nested deeper than"):
        parse_yaml("a: " + "[" * 40 + "]" * 40, "run.yaml")
    with pytest.raises(ConfigError, match=r"run\.yaml:1: nested deeper than"):
        parse_yaml("a: " + "[" * 20_000 + "]" * 20_000, "run.yaml")
    with pytest.raises(ConfigError, match="not YAML"):
        parse_yaml("a: !!python/object:os.system x", "run.yaml")


def test_dates_stay_text() -> None:
    assert parse_yaml("a: 2024-01-01\nb: 12:30:00\nc: 1_000", "run.yaml")[0]["a"] == "2024-01-01"


def test_a_large_file_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="larger than"):
        read(tmp_path, "# " + "x" * (2 << 20))


# A corpus's own columns -----------------------------------------------------------------------------------------------


def keeping(tmp_path: Path, keep: str, *assignments: str) -> RunConfig:
    return read(
        tmp_path, BASE.replace("inputs: code.jsonl", f"inputs: code.jsonl\n    keep_columns: {keep}"), *assignments
    )


def test_a_kept_column_is_a_path_or_a_path_and_a_type(tmp_path: Path) -> None:
    found = keeping(
        tmp_path, "{lang: meta.lang, stars: {path: meta.stars, type: int}}", "sources.code.keep_columns.x=y"
    )
    columns = found.sources["code"].keep_columns
    assert {name: (column.path, column.type) for name, column in columns.items()} == {
        "lang": ("meta.lang", None),
        "stars": ("meta.stars", "int"),
        "x": ("y", None),
    }


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        *[
            (f"{{{name}: x}}", f"keep_columns.{name}: outcomes have a column of that name already")
            for name in ("text", "source", "metadata", "language", "word_count", "token_count", "component_id")
        ],
        ("{outcome: x}", "keep_columns.outcome: outcomes have"),
        ("{Lang: x}", "must be an identifier in lower case"),
        ("{_x: x}", "must be an identifier in lower case"),
        ("{a.b: x}", "must be an identifier in lower case"),
        ("{lang: 5}", "lang: write a path such as meta.stars, or {path: meta.stars, type: int}"),
        ("{lang: ''}", "lang.path = '': String should have at least 1 character"),
        ("{lang: {path: x, type: integer}}", "type = 'integer': Input should be 'text', 'int'"),
        ("{lang: {pth: x}}", "unknown key 'sources.code.keep_columns.lang.pth' (nearest: 'path')"),
        ("[lang]", "Input should be a mapping"),
    ],
)
def test_kept_columns_that_cannot_be(keep: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        keeping(tmp_path, keep)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/run.yaml:")


def test_a_classifiers_columns_are_taken_and_a_warc_has_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keep_columns\.quality_score: outcomes have"):
        keeping(tmp_path, "{quality_score: x}", "classify.quality.model=m")
    with pytest.raises(ConfigError, match=r"keep_columns: a WARC has none; they are for jsonl, parquet and csv"):
        read(tmp_path, BASE, "sources.web.keep_columns.x=y")
