"""Every command, option, key, view, column, reason and preset is in the README, and what it names exists."""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from pydantic.fields import FieldInfo

from flows.cli import parser
from flows.config import RunConfig, load
from flows.reference.entries import configuration_keys, leaves, shown_default
from flows.stages import expected_columns, rules_of
from pipeline.extract.corpora.rows import CorpusFile
from pipeline.extract.corpora.text import read_jsonl
from pipeline.extract.units import Document
from pipeline.inputs.shipped import preset_names
from pipeline.mix.config import SuiteConfig
from pipeline.mix.steps.workspace import load_mix
from pipeline.select.rules import check_rules, load_rules
from pipeline.select.wide_table import planned_columns
from pipeline.signals import language, recipe_stats, text_stats
from pipeline.signals.stage import STATS_SCHEMA
from pipeline.status.config import ExpectConfig
from pipeline.table import schema
from pipeline.table.config import validate
from pipeline.table.kept import read_yaml
from tests.docs.readme_file import BLOCKS, README, ROOT, SHELL, VIEWS, Block, commands, section, tables

# Commands ----------------------------------------------------------------------------------------------------------


LEAVES = {f"gristmill {name}": command for name, command in leaves(parser())}


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_and_option_is_documented(name: str) -> None:
    text = section(f"#### `{name}")
    heading = text.splitlines()[0]
    for action in LEAVES[name]._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if action.option_strings:
            assert action.help, f"{name} {action.option_strings} has no help"
            shown = f"{action.option_strings[-1]} {action.metavar}" if action.metavar else action.option_strings[-1]
            assert f"`{shown}" in text, f"{name}: {shown} is not in its section"
        elif not action.choices:
            assert str(action.metavar) in heading
        for choice in action.choices or ():
            assert choice in text, f"{name}: {choice} is not in its section"


def test_documented_commands_and_options_exist() -> None:
    headings = re.findall(r"^#### `(gristmill [a-z-]+(?: [a-z]+)?)", README, re.MULTILINE)
    assert set(headings) == set(LEAVES)
    for name in headings:
        known = {string for action in LEAVES[name]._actions for string in action.option_strings}
        for options in tables(section(f"#### `{name}"), "option"):
            assert options.split()[0] in known, f"{name} has no {options}"


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.text.split("\n")[0][:50])
def test_commands_in_shell_blocks_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in commands(block.text):
        if words[0] == "gristmill":
            parser().parse_args(words[1:])  # ends the test with SystemExit where argparse refuses it
        elif words[0] == "make":
            assert set(words[1:]) <= targets, words
        else:
            assert words[:2] == ["pip", "install"], f"what is {words}?"
            for path in re.findall(r"-c (\S+)", " ".join(words)):
                assert (ROOT / path).is_file()


def test_commands_within_the_text_exist() -> None:
    named = re.findall(r"`gristmill ([a-z-]+)", README)
    assert named
    assert {name.split()[1] for name in LEAVES} >= set(named)


# Configuration -----------------------------------------------------------------------------------------------------


def keys_of(*configurations: str) -> dict[str, FieldInfo]:
    """Return the keys of configurations that have no keys below them, those that only repeat others once."""
    found = (each for of in configurations for each in configuration_keys(of))
    once = ("positives", "negatives", "extract.pdf")  # the README says elsewhere what is below
    return {
        name: field
        for name, field, inner in found
        if (inner is None or name in once) and not name.startswith("extract.pdf.")
    }


def check_keys(rows: Mapping[str, list[str]], expected: Mapping[str, FieldInfo]) -> None:
    assert sorted(rows) == sorted(expected)
    for name, field in expected.items():
        default = shown_default(field)
        if default is not None:
            shown = default if default == "required" else f"`{default}`"
            assert rows[name][0] == shown, f"{name}: the default is {default}, the README says {rows[name][0]}"


def test_every_configuration_key_is_documented_with_its_default() -> None:
    expected = keys_of("run")
    assert {"extract.limits.nodes", "classify.NAME.model", "sources.NAME.identity", "engine.workers"} <= set(expected)
    rows = tables(section("## Configuration"), "key") | tables(section("## Rephrasing"), "key")
    check_keys(rows, expected)
    assert all(row[1] for row in rows.values()), "every key has a meaning"


def test_every_classifier_key_is_documented_with_its_default() -> None:
    expected = keys_of("classifier train", "classifier evaluate")
    assert {"positives.path", "preprocess.lowercase", "fasttext.epochs", "held_out"} <= set(expected)
    check_keys(tables(section("## Classifiers"), "key"), expected)


def test_every_mix_key_is_documented_with_its_default() -> None:
    expected = keys_of("mix")
    assert {"slices.NAME.max_epochs", "proxy.early_stopping.rungs", "tokenizer.train.vocabulary"} <= set(expected)
    check_keys(tables(section("## Mixing"), "key"), expected)


def test_every_suite_key_is_documented_with_its_default() -> None:
    expected = keys_of("suite")
    assert {"tasks.weight", "held_out.slice"} <= set(expected)
    check_keys(tables(section("### Evaluation suites"), "key"), expected)


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "mixes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_mixes_are_valid(path: Path) -> None:
    assert load_mix(str(path))[0].slices


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "suites").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_suites_are_valid(path: Path) -> None:
    value, lines = read_yaml(path)
    assert validate(SuiteConfig, value, str(path), lines).all()


@pytest.mark.parametrize(
    "name", ["web", "corpus", "quickstart", "wikipedia", "stackexchange", "reddit", "papers", "files"]
)
def test_shipped_configurations_are_valid(name: str) -> None:
    assert load(str(ROOT / "configs" / f"{name}.yaml")).sources


def test_rules_in_the_readme_are_rules() -> None:
    groups = {
        "signals/language": language.LANGUAGE,
        "signals/text_stats": STATS_SCHEMA,
        "scores/quality": schema.SCORES,
    }
    blocks = [yaml.safe_load(block.text) for block in BLOCKS if block.language == "yaml"]
    found = [content for content in blocks if "rules" in content]
    assert found
    for content in found:
        check_rules(load_rules(content["rules"], "README.md", content.get("keep")), planned_columns(groups))


def test_expectations_in_the_readme_are_expectations() -> None:
    blocks = [yaml.safe_load(block.text) for block in BLOCKS if block.language == "yaml"]
    assert [ExpectConfig.model_validate(content["expect"]) for content in blocks if "expect" in content]


def test_the_readmes_configuration_keeps_the_columns_of_the_line_above_it() -> None:
    (line,) = (block.text.encode() for block in BLOCKS if block.language == "json")
    configs = [
        yaml.safe_load(block.text) for block in BLOCKS if block.language == "yaml" and "\nsources:" in block.text
    ]
    (config,) = (RunConfig.model_validate(content) for content in configs)
    ((name, source),) = config.sources.items()
    (item,) = read_jsonl(
        io.BytesIO(line), 0, CorpusFile("line", source.columns, source.extract.limits, source.keep_columns)
    )
    assert isinstance(item.result, Document)
    document = item.result
    assert (document.text, document.url, document.metadata) == ("...", "https://example.org/", {})
    assert document.date == datetime(2020, 1, 2, tzinfo=UTC)
    assert document.kept == {"lang": "en", "stars": 12}
    types = {kept: column.type or "text" for kept, column in source.keep_columns.items()}
    check_rules(rules_of(name, source), expected_columns(source, types))


# Views, columns, reasons, presets ----------------------------------------------------------------------------------


def test_every_reject_reason_is_documented() -> None:
    assert set(tables(README, "reason")) == set(schema.REJECT_REASONS)


@pytest.mark.parametrize("measured", [text_stats, recipe_stats])
def test_every_statistic_is_documented_as_the_code_defines_it(measured: ModuleType) -> None:
    rows = tables(section(f"**`signals_{measured.__name__.rsplit('.', 1)[1]}`**"), "column")
    expected = {name: column.meaning for name, column in measured.COLUMNS.items()}
    table = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in expected.items())
    assert {name: row[0] for name, row in rows.items()} == expected, f"the table should be\n{table}"


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_and_column_is_documented(view: str) -> None:
    text = section(f"**`{view}`**")
    missing = [column for column in VIEWS[view] if f"`{column}`" not in text]
    assert not missing


def test_every_preset_is_named() -> None:
    assert set(tables(section("## Rules"), "preset")) == set(preset_names("rules"))


# The repository ----------------------------------------------------------------------------------------------------


def test_the_newest_version_of_the_changelog_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    versions = re.findall(r"^## \[(\d[^\]]*)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert versions[0] == project["version"]


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("name", ["README.md", "AGENTS.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_resolve(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)", text, re.MULTILINE):
        link = target[0] or target[1]
        if link.startswith("#"):
            assert link[1:] in anchors, f"{name} has no heading for {link}"
        elif not link.startswith("https://"):
            assert (ROOT / link).exists(), f"{name} links to {link}, which is not there"


def test_files_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"`((?:pipeline|configs|flows|classifiers|tests)/[\w/.]+)`", README))
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


# Paths of one machine and hosts of package indexes; in pieces, so that this file does not find itself.
_PRIVATE = re.compile(
    "|".join(["/wor" + "k/", "/roo" + "t/", "/hom" + "e/[a-z]", r"pypi\." + "org", "python" + "hosted"])
)


def tracked() -> list[Path]:
    """Return the files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_nothing_private_is_in_the_repository() -> None:
    files = tracked()
    assert len(files) > 50
    found = []
    for path in files:
        for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").splitlines(), start=1):
            if _PRIVATE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found
