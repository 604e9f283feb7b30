"""Reading rules and asking SQL on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from flows.cli import _do, parser
from flows.commands import rules_in_force
from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.select.rules import load_rules
from pipeline.signals.tokens import load_tokenizer
from pipeline.table.errors import ConfigError, InputError, UsageError, WorkspaceError

CONFIG = """
workspace: ws
select: {rules: {extends: fineweb, c4_curly_bracket: null, quality: "url like '%/é%'"}}
sources:
  web: {inputs: [a.warc.gz]}
  code: {inputs: [a.jsonl], select: {rules: {long: text_length > 10}, keep: text_length desc}}
"""


def run(*arguments: str) -> None:
    _do(parser().parse_args(arguments))


def test_presets_are_listed_with_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    run("rules", "list", "--json")
    rows = json.loads(capsys.readouterr().out)
    assert [row["preset"] for row in rows] == preset_names("rules")
    assert all(row["about"] and row["rules"] for row in rows)
    run("rules", "list")
    assert "fineweb" in capsys.readouterr().out


def test_a_preset_is_shown_with_its_comments(capsys: pytest.CaptureFixture[str]) -> None:
    run("rules", "show", "fineweb")
    path = preset_path("rules", "fineweb")
    assert path is not None
    assert capsys.readouterr().out == path.read_text("utf-8")


def test_rules_of_a_configuration_are_shown_as_they_are_in_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "curate.yaml"
    path.write_text(CONFIG)
    run("rules", "show", str(path))
    web, code = yaml.safe_load_all(capsys.readouterr().out)
    expected = {rule.name: rule.sql for rule in load_rules("fineweb", "rules").rules}
    del expected["c4_curly_bracket"]
    assert web == {"rules": {**expected, "quality": "url like '%/é%'"}, "keep": "text_length desc, url asc"}
    assert code == {"rules": {"long": "text_length > 10"}, "keep": "text_length desc"}
    run("rules", "show", str(path), "--source", "code", "--json")
    assert json.loads(capsys.readouterr().out) == [{"of": "code", "rule": "long", "sql": "text_length > 10"}]

    run("rules", "show", str(path), "--source", "web")
    saved = tmp_path / "web.yaml"
    saved.write_text(capsys.readouterr().out)
    assert len(load_rules(str(saved), "rules").rules) == len(web["rules"])


@pytest.mark.parametrize(
    ("named", "source", "words"),
    [
        ("finweb", None, "no preset is named 'finweb' \\(nearest: 'fineweb'\\)"),
        ("fineweb", "web", "fineweb is no configuration of a run"),
        ("absent.yaml", None, "absent.yaml does not exist"),
    ],
)
def test_rules_that_cannot_be_shown(named: str, source: str | None, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        rules_in_force(named, source)


def test_an_unknown_source_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "curate.yaml").write_text(CONFIG)
    with pytest.raises(ConfigError, match="no such source \\(nearest: 'web'\\)"):
        rules_in_force(str(tmp_path / "curate.yaml"), "webb")


@pytest.mark.parametrize("sql", ["select 1", "FROM web.documents", " with x as (select 1) from x"])
def test_swapped_arguments_of_sql_are_said_to_be(sql: str, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is SQL and not a workspace: gristmill sql WORKSPACE SQL"):
        run("sql", sql, str(tmp_path))


def test_the_name_of_a_model_is_no_tokenizer_but_leads_to_one() -> None:
    with pytest.raises(InputError, match=r"`hf download gpt2 tokenizer\.json --local-dir DIR`"):
        load_tokenizer("gpt2")
