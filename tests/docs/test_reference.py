"""docs/reference says what the code says, and everything in the code says what it means."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
import pytest
import yaml

from flows import cli, commands
from flows.reference import entries as reference
from flows.reference import pages as written
from flows.reference.entries import VIEWS, Entry, entries, find, leaves
from flows.reference.files import FILES
from flows.reference.manual import MANUAL
from flows.reference.pages import pages, write
from pipeline import ENVIRONMENT, EXTRAS, PACKAGES
from pipeline.dedup.config import DedupConfig
from pipeline.extract.config import FORMATS, Format, RedditOptions
from pipeline.extract.formats import READERS
from pipeline.mix.config import MixConfig, SliceConfig
from pipeline.rephrase.output import VERDICTS
from pipeline.select.decide import DECIDED_COLUMNS
from pipeline.select.wide_table import planned_columns
from pipeline.signals.config import AnnotateConfig
from pipeline.signals.stage import signal_groups
from pipeline.table import schema
from pipeline.table.errors import UsageError
from pipeline.table.schema import REJECT_REASONS, Column, RejectReason
from tests.docs.blocks import ROOT

FOLDER = ROOT / "docs" / "reference"
PARSER = cli.parser()
ENTRIES = entries(PARSER)
LEAVES = dict(leaves(PARSER))
SOURCES = [
    path.read_text("utf-8")
    for package in ("gristmill", *PACKAGES)
    for path in (ROOT / package).rglob("*.py")
    if "reference" not in path.parts and path != ROOT / "pipeline" / "__init__.py"
]
"""Our code, without that which says these names."""


def committed() -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}


def test_the_reference_is_what_the_code_says() -> None:
    made, here = pages(cli.parser()), committed()
    stale = sorted(name for name in made.keys() | here.keys() if made.get(name) != here.get(name))
    assert not stale, f"{stale} are not what the code says: run `make docs` and commit docs/reference"


def without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


def key_more(patch: pytest.MonkeyPatch) -> None:
    fields = DedupConfig.model_fields
    patch.setattr(DedupConfig, "__pydantic_fields__", {**fields, "more": fields["seed"]})


def key_less(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DedupConfig, "__pydantic_fields__", without(DedupConfig.model_fields, "seed"))


def default(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DedupConfig.model_fields["num_bands"], "default", 15)


def meaning(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DedupConfig.model_fields["num_bands"], "description", "another")


def bound(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(DedupConfig.model_fields["num_bands"], "metadata", DedupConfig.model_fields["seed"].metadata)


def column_more(patch: pytest.MonkeyPatch) -> None:
    stage, said, columns = VIEWS["rejects"]
    patch.setitem(VIEWS, "rejects", (stage, said, {**columns, "more": Column(pa.string(), "another")}))


def type_of_a_column(patch: pytest.MonkeyPatch) -> None:
    stage, said, columns = VIEWS["rejects"]
    patch.setitem(VIEWS, "rejects", (stage, said, {**columns, "detail": columns["detail"]._replace(type=pa.int8())}))


def column_of_a_format(patch: pytest.MonkeyPatch) -> None:
    reddit = READERS["reddit"]
    patch.setitem(READERS, "reddit", replace(reddit, own=without(reddit.own, "score")))


def option_of_a_format(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RedditOptions.model_fields["over_18"], "default", True)


def reason(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(schema, "REJECT_REASONS", without(schema.REJECT_REASONS, "too_deep"))


def rule_function(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference, "CONSTANT_FUNCTIONS", {**reference.CONSTANT_FUNCTIONS, "median": "another"})


def extra(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(EXTRAS, "ocr", "another")


def exit_code(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reference, "EXIT_CODES", {**reference.EXIT_CODES, 3: "another"})


def file_more(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(FILES, "A mix", {**FILES["A mix"], "mix/MIX/more": "another"})


def help_of_a_group(patch: pytest.MonkeyPatch) -> None:
    add = cli._group
    patch.setattr(cli, "_group", lambda commands, name, text: add(commands, name, f"{text} again"))


def option(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cli, "DRY_RUN", ("--dry", cli.DRY_RUN[1]))


def step(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cli, "MIX_STEPS", {**cli.MIX_STEPS, "run": "do it"})


def command_more(patch: pytest.MonkeyPatch) -> None:
    add = cli._add_scaling

    def more(scaling: Any) -> None:
        add(scaling)
        scaling.add_parser("more", description="Another.")

    patch.setattr(cli, "_add_scaling", more)
    patch.setattr(written, "MANUAL", {**MANUAL, "scaling more": MANUAL["scaling fit"]})


CHANGES = {
    **dict.fromkeys((key_more, key_less, default, meaning, bound), "configuration.md"),
    **dict.fromkeys((column_more, type_of_a_column), "columns.md"),
    **dict.fromkeys((column_of_a_format, option_of_a_format), "formats.md"),
    **dict.fromkeys((option, step, command_more, help_of_a_group), "commands.md"),
    file_more: "files.md",
    reason: "reject-reasons.md",
    rule_function: "rules.md",
    exit_code: "exit-codes.md",
    extra: "environment.md",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_that_the_reference_does_not_have_is_found(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    with pytest.raises(AssertionError, match=rf"\['{CHANGES[change]}'\] are not what the code says: run `make docs`"):
        test_the_reference_is_what_the_code_says()


def test_writing_it_deletes_pages_that_are_no_more(tmp_path: Path) -> None:
    (tmp_path / "old.md").write_text(committed()["README.md"])
    write(tmp_path, PARSER)
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == pages(PARSER)


@pytest.mark.parametrize("made", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "link"])
def test_writing_it_is_refused_where_something_else_has_a_page_s_name(
    made: Callable[[Path], None], tmp_path: Path
) -> None:
    made(tmp_path / "rules.md")
    with pytest.raises(UsageError, match="no page of the reference"):
        write(tmp_path, PARSER)
    assert os.listdir(tmp_path) == ["rules.md"]


def test_writing_it_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no folder"):
        write(tmp_path / "file", PARSER)
    with pytest.raises(UsageError, match="names no folder"):
        commands.docs(to="", top=PARSER)


def test_writing_it_leaves_other_files_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UsageError, match="no page of the reference"):
        write(tmp_path, PARSER)
    assert [path.read_text("utf-8") for path in tmp_path.iterdir()] == ["mine"]


def test_python_answers_without_a_command_line() -> None:
    assert commands.docs("dedup.num_bands").rows == commands.docs("dedup.num_bands", top=PARSER).rows
    assert commands.docs("mix run").rows[0]["kind"] == "command"


# Everything says what it means ----------------------------------------------------------------------------------------


def test_everything_has_a_meaning() -> None:
    assert not [f"{entry.kind} {entry.name}" for entry in ENTRIES if not entry.meaning.strip()]
    assert {"command", "option", "key", "column", "reject reason", "exit code"} <= {entry.kind for entry in ENTRIES}


def test_closed_lists_are_whole() -> None:
    assert tuple(REJECT_REASONS) == get_args(RejectReason)
    assert set(FORMATS) == set(get_args(Format))
    assert not [name for name, reader in READERS.items() for each in reader.own.values() if not each.meaning]
    documented = {name for _, _, columns in VIEWS.values() for name in columns}
    assert {*schema.DOCUMENTS.names, *schema.REJECTS.names, *schema.DUPLICATES.names} <= documented


def test_extras_are_those_of_the_project_and_of_its_messages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {*EXTRAS, "dev"} == project["optional-dependencies"].keys()
    named = {name for text in SOURCES for name in re.findall(r"gristmill\[(\w+)\]", text)}
    assert named == EXTRAS.keys(), "each is asked for by a message where it is missing"


def test_environment_variables_are_those_that_the_code_reads() -> None:
    read = {name for text in SOURCES for name in re.findall(r"""environ(?:\.get\(|\[)["'](\w+)""", text)}
    assert read - {"NO_PROXY", "no_proxy"} <= ENVIRONMENT.keys(), "what is handed on to our own server is no setting"
    of_libraries = {"NUMBA_CACHE_DIR", "TMPDIR", "AWS_*", "FSSPEC_*"}
    assert ENVIRONMENT.keys() == {"PREFECT_API_URL", "XDG_CACHE_HOME"} | of_libraries


def test_views_have_the_columns_that_stages_write_and_rules_read() -> None:
    groups = signal_groups(AnnotateConfig(recipe_stats=True, tokenizer="tokenizer.json"))
    for folder, columns in groups.items():
        assert list(VIEWS[folder.replace("/", "_")][2]) == columns.names
    assert list(VIEWS["signals_rephrase"][2]) == VERDICTS.names
    groups |= {"signals/pages": schema.PAGES, "duplicates": schema.DUPLICATES, "scores/quality": schema.SCORES}
    groups |= {"signals/rephrase": VERDICTS}
    planned = {name.replace("quality_", "NAME_") for name in planned_columns(groups)}
    assert planned | set(DECIDED_COLUMNS) == set(VIEWS["outcomes"][2])


def test_every_command_of_a_group_has_help() -> None:
    waiting = [PARSER]
    while waiting:
        for action in waiting.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                assert {choice.dest for choice in action._choices_actions if choice.help} == set(action.choices)
                waiting += action.choices.values()


@pytest.mark.parametrize("name", LEAVES)
def test_help_says_what_the_reference_says_with_examples_that_can_be_typed(name: str) -> None:
    said = LEAVES[name].format_help()
    assert MANUAL[name].about in said
    examples = MANUAL[name].examples
    assert all(line in said for line in examples.splitlines())
    page = committed()["commands.md"]
    assert examples in page
    assert MANUAL[name].about in page
    typed = re.findall(r"^\$ (.+(?:\n    .+)*)", examples, re.MULTILINE)
    assert typed
    for line in typed:
        words = shlex.split(line.replace("\\\n", " "))
        words = words[: words.index(">")] if ">" in words else words
        assert words[0] == "gristmill"
        assert " ".join(words[1:]).startswith(name)
        PARSER.parse_args(words[1:])  # ends the test with SystemExit where argparse refuses it


def test_the_manual_has_no_command_that_is_not_there() -> None:
    assert MANUAL.keys() == LEAVES.keys()


def test_defaults_are_those_that_a_configuration_has() -> None:
    """Also where a model is given with other values than its own, as under `rephrase` and in `tokenizer`."""
    known = {(entry.of, entry.name): entry for entry in ENTRIES if entry.kind == "key"}
    assert known["run", "rephrase.select.rules"].default == "rephrased"
    assert known["run", "select.rules"].default == "{}"
    assert known["mix", "tokenizer.train"].default is None, "it is on: the keys below it have their own"
    values = MixConfig(workspace="ws", slices={"all": SliceConfig(where="true")}, suite="code", budget_tokens=10**9)
    flat = values.model_dump(mode="json")
    for (of, name), entry in known.items():
        if of == "mix" and entry.default not in (None, "required") and not name.startswith(("slices.", "stages.")):
            value: Any = flat
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            absent = value is None and entry.default != "null"
            assert absent or yaml.safe_load(entry.default) == value, name


def test_nothing_is_lost_where_a_page_is_rendered() -> None:
    for name, text in committed().items():
        prose = re.sub(r"^```.*?^```$|^<!--.*?-->$", "", text, flags=re.MULTILINE | re.DOTALL)
        bare = re.sub(r"`[^`]*`", "", prose)
        assert "`" not in bare, name
        assert not re.search(r"(?<!\\)<", bare), f"{name}: a tag that no browser shows"
        tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        for table in tables:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table[:200]


# One entry ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "kind", "name"),
    [
        ("Select.Rules", "key", "select.rules"),
        ("select.rules.top_share", "rule function", "top_share"),
        ("select.rules.gopher_words", "rule", "fineweb.gopher_words"),
        ("gopher_words", "rule", "gopher.gopher_words"),
        ("rephrase.select.rules", "key", "rephrase.select.rules"),
        ("web.outcomes", "view", "outcomes"),
        ("outcomes.failed_rules", "column", "failed_rules"),
        ("finish_reason_ok", "column", "finish_reason_ok"),
        ("slices.code", "key", "slices.NAME"),
        ("sources.web", "key", "sources.NAME"),
        ("extends", "key", "select.rules"),
        ("exit code 2", "exit code", "2"),
        ("reject-reasons", "reject reason", "crash"),
        ("commands", "command", "gc"),
        ("AWS_REGION", "environment variable", "AWS_*"),
        ("ratios.csv", "file", "mix/MIX/proposals/PROPOSAL/fit/ratios.csv"),
        ("trace-00000.parquet", "file", "shards/FOLDER/trace-*.parquet"),
        ("predicted.improvement", "key", "predicted.improvement"),
        ("select.rules", "key", "select.rules"),
        ("sources.web.format", "key", "sources.NAME.format"),
        ("sources.NAME.format", "key", "sources.NAME.format"),
        ("sources.web.dedup.seed", "key", "dedup.seed"),
        ("rephrase.select.keep", "key", "select.keep"),
        ("num_bands", "key", "dedup.num_bands"),
        ("slices.code.max_epochs", "key", "slices.NAME.max_epochs"),
        ("min_question_score", "key", "sources.NAME.options.min_question_score"),
        ("mix run", "command", "mix run"),
        ("gristmill mix run", "command", "mix run"),
        ("mix", "command", "mix run"),
        ("--until", "option", "run --until"),
        ("word_count", "column", "word_count"),
        ("quality_score", "column", "NAME_score"),
        ("subreddit", "column", "subreddit"),
        ("outcomes", "view", "outcomes"),
        ("too_deep", "reject reason", "too_deep"),
        ("top_share", "rule function", "top_share"),
        ("near_duplicate", "built-in rule", "near_duplicate"),
        ("fineweb", "preset of rules", "fineweb"),
        ("maths", "preset of a suite", "maths"),
        ("gsm8k", "task of a suite", "maths.gsm8k"),
        ("qa", "style", "qa"),
        ("the-stack", "template", "the-stack"),
        ("wikipedia", "format", "wikipedia"),
        ("latex", "column", "arxiv_id"),
        ("latex", "key", "sources.NAME.options.citations"),
        ("143", "exit code", "143"),
        ("TMPDIR", "environment variable", "TMPDIR"),
        ("gristmill[ocr]", "extra", "gristmill[ocr]"),
        ("ocr", "extra", "gristmill[ocr]"),
        ("ocr", "key", "extract.pdf.ocr"),
        ("keep", "key", "keep"),
        ("keep", "key", "select.keep"),
    ],
)
def test_one_entry_is_found_by_its_name(asked: str, kind: str, name: str) -> None:
    assert (kind, name) in {(entry.kind, entry.name) for entry in find(ENTRIES, asked)}


def test_a_key_with_keys_below_it_shows_them() -> None:
    found = [entry.name for entry in find(ENTRIES, "extract.limits")]
    assert found[0] == "extract.limits"
    assert "extract.limits.depth" in found


@pytest.mark.parametrize("asked", ["select.ruls", "word_cuont", "mix rnu", "unsuported", "(", "x" * 300])
def test_an_unknown_name_is_one_line_with_the_nearest(asked: str) -> None:
    with pytest.raises(UsageError) as raised:
        find(ENTRIES, asked)
    assert "\n" not in str(raised.value)
    assert "nearest" in str(raised.value) or len(set(asked)) == 1


def test_an_entry_in_text() -> None:
    entry = Entry("key", "dedup.num_bands", "bands", of="run", type="whole number", default="14")
    assert entry.as_text == "key dedup.num_bands\n  bands\n  type: whole number\n  default: 14\n  of: run\n"


@pytest.mark.parametrize("words", [("run", "--until"), ("run --until",), ("--until",), ("gristmill", "run", "--until")])
def test_an_option_is_asked_for_as_it_is_typed(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["docs", *words])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("option run --until\n")


def test_options_that_no_command_has_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["docs", "--untill"], ["funnel", "ws", "--until"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(words)
        told = capsys.readouterr()
        assert (ended.value.code, told.out, told.err.count("\n")) == (2, "", 1)


def test_docs_answers_from_a_folder_without_the_project(tmp_path: Path) -> None:
    """As from a wheel: nothing that it reads lies beside the packages. Its exit code is 2 for what is not known."""

    def docs(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", "docs", *words]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    found, *_ = json.loads(docs("select.rules", "--json").stdout)
    assert (found["kind"], found["default"], found["of"]) == ("key", "{}", "run")
    wrong = docs("select.ruls")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.count("\n") == 1
    assert "select.rules" in wrong.stderr
