"""`import gristmill`: every command is there, answers are tables, and folders of a user's own do not get in the way."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

import gristmill as gm
from flows.cli import MIX_STEPS, parser
from pipeline.table.format import FrameRows
from tests.local_run import rows, write_jsonl
from tests.user_script import read

GRISTMILL = (sys.executable, "-c", "from flows.cli import main; main()")
CONFIG = """
workspace: ws
sources: {notes: {format: jsonl, inputs: [notes.jsonl]}}
select: {rules: {long: word_count >= 20}}
engine: {workers: 1, prefect: never}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a corpus and a configuration."""
    short = [{"text": "too short", "url": "https://example.org/short"}]
    write_jsonl(tmp_path / "notes.jsonl", [*rows(30), *short])
    (tmp_path / "curate.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(top: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    groups = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path
    for word, child in (pair for group in groups for pair in group.choices.items()):
        yield from commands(child, (*path, word))


@pytest.mark.parametrize("path", list(commands(parser())), ids=" ".join)
def test_every_command_is_a_function_of_its_name(path: tuple[str, ...]) -> None:
    name = "_".join(path).replace("-", "_")
    if path[0] == "mix" and path[1] in MIX_STEPS:
        name = "mix"
    found = getattr(gm, name, None) or getattr(gm.Workspace, name, None)
    assert callable(found)
    assert found.__doc__


def test_all_names_are_there() -> None:
    assert sorted(gm.__all__) == gm.__all__
    assert all(hasattr(gm, name) for name in gm.__all__)


def test_a_run_and_what_a_script_does_with_it(folder: Path) -> None:
    planned = gm.plan("curate.yaml")
    assert [row["stage"] for row in planned][:2] == ["extract", "annotate"]
    assert not (folder / "ws").exists()
    made = gm.run(folder / "curate.yaml", {"select.rules.long": "word_count >= 10"})
    assert {row["stage"]: row["rows_out"] for row in made}["select"] == 30
    assert read("ws") == {"kept": 30, "urls": 30, "outcomes": 31, "missed": 2, "rows": len(gm.open("ws").funnel())}


def test_answers_say_what_the_command_line_says(folder: Path) -> None:
    gm.run("curate.yaml")
    ws = gm.open("ws")
    for given, answer in (
        (("funnel", "ws"), ws.funnel()),
        (("explain", "ws", "https://example.org/short"), ws.explain("https://example.org/short")),
        (("check", "ws"), ws.check()),
        (("rules", "show", "curate.yaml"), gm.rules_show("curate.yaml")),
    ):
        for extra, said in (((), answer.text.rstrip("\n")), (("--json",), answer.json())):
            done = subprocess.run([*GRISTMILL, *given, *extra], capture_output=True, text=True, check=True)
            assert done.stdout == said + "\n"
    (row,) = ws.explain("https://example.org/short")
    assert (row["rule"], row["value"], row["wants"], row["bound"]) == ("long", 2, "at least", 20)


def test_parts_are_those_that_the_index_lists_and_are_verified(folder: Path) -> None:
    gm.run("curate.yaml")
    source = gm.open("ws").source("notes")
    assert (len(source.documents), len(source.curated), len(source.rejects)) == (31, 30, 0)
    assert source.rejects.scan().to_table().num_rows == 0
    assert "reason" in source.rejects.scan().schema.names
    (folder / "ws/notes/curated/stray.parquet").write_bytes(b"no part of ours")
    assert source.curated.scan().count_rows() == 30
    assert source.group("signals/language").scan().count_rows() == 31
    with pytest.raises(gm.WorkspaceError, match=r"no 'signals/langage'.*signals/language"):
        source.group("signals/langage")
    with pytest.raises(gm.WorkspaceError, match=r"no source 'note'.*notes"):
        gm.open("ws").source("note")
    (part,) = (folder / "ws/notes/documents").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-9] + b"#########")
    with pytest.raises(gm.WorkspaceError, match="damaged"):
        source.documents.scan()


def test_an_answer_is_a_table() -> None:
    answer = gm.Answer([{"a": 1, "b": "<x>"}, {"a": None, "b": {"c": [1]}}])
    assert answer.arrow().to_pylist() == [{"a": 1, "b": "<x>"}, {"a": None, "b": '{"c": [1]}'}]
    assert answer.df().shape == answer.pl().shape == (2, 2)
    assert [row["a"] for row in answer] == [1, None]
    assert len(answer) == 2
    assert "&lt;x&gt;" in answer._repr_html_()
    assert json.loads(answer.json()) == [{"a": 1, "b": "<x>"}, {"a": None, "b": {"c": [1]}}]
    assert gm.Answer([], "said <b>")._repr_html_() == "<pre>said &lt;b&gt;</pre>"
    assert gm.Answer([{"n": n} for n in range(201)])._repr_html_().endswith("<p>and 1 more rows</p>")
    assert (gm.Answer([]).arrow().num_rows, gm.Answer([]).text) == (0, "\n\n")


def test_an_answer_without_rows_has_its_columns(folder: Path) -> None:
    gm.run("curate.yaml")
    assert list(gm.diff("curate.yaml").df().columns) == ["source", "change", "rule", "documents", "tokens"]
    found = gm.open("ws").sql("SELECT 1 AS a, 2 AS a, TIMESTAMP 'infinity' AS t, TIMESTAMP '2020-01-01' AS u")
    assert found.pl().columns == ["a", "a_1", "t", "u"]
    (row,) = found
    assert (row["a"], row["a_1"], row["t"], row["u"].year) == (1, 2, "infinity", 2020)
    assert '"t": "infinity"' in found.json()


def test_what_python_may_misspell_is_a_line(folder: Path) -> None:
    for asked, said in (
        (lambda: gm.run("curate.yaml", until="slect"), "until 'slect': no such stage (nearest: 'select')"),
        (lambda: gm.mix("curate.yaml", step="slice"), "mix: no step 'slice' (nearest: 'slices')"),
        (lambda: gm.run("curate.yaml", {"select.rules.long.x": 1}), "is not a mapping"),
        (lambda: gm.run("curate.yaml", only="note"), "--only note: no such source (nearest: 'notes')"),
    ):
        with pytest.raises(gm.UsageError) as caught:
            asked()
        assert said in str(caught.value)


def test_rows_of_a_frame_are_made_as_they_are_asked_for() -> None:
    frame = pa.table({"n": range(2_500)})
    seen = FrameRows(frame)
    assert (len(seen), seen[-1], seen[1:3]) == (2_500, {"n": 2_499}, [{"n": 1}, {"n": 2}])
    assert [row["n"] for row in seen] == list(range(2_500))
    assert gm.Answer(seen).arrow() is frame


def python(folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("prefect", ["never", "always"])
def test_folders_of_a_users_own_do_not_hide_ours(folder: Path, prefect: str) -> None:
    (folder / "curate.yaml").write_text(CONFIG.replace("format: jsonl, inputs: [notes.jsonl]", "inputs: [crawl.warc]"))
    with (folder / "crawl.warc").open("wb") as stream:
        for row in rows(30):  # pages go to worker processes
            page = BytesIO(f"<html><body><article><p>{row['text']}</p></article></body></html>".encode())
            writer = WARCWriter(stream, gzip=False)
            head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.0")
            writer.write_record(writer.create_warc_record(row["url"], "response", payload=page, http_headers=head))
    for name in ("pipeline", "flows", "configs", "classifiers"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('this is not yours')")
    done = python(
        folder,
        f"import gristmill as gm; gm.run('curate.yaml', {{'engine.prefect': {prefect!r}}}); "
        "print(len(gm.open('ws').source('notes').curated))",
    )
    assert (done.stdout, done.returncode) == ("30\n", 0), done.stderr
    assert f"{folder / 'pipeline'}: `import pipeline` gives Gristmill's package" in done.stderr


def test_a_package_that_is_there_already_is_told_in_one_line(folder: Path) -> None:
    (folder / "pipeline.py").write_text("")
    done = python(folder, "import pipeline, gristmill")
    assert done.stderr.strip().splitlines()[-1] == (
        f"ImportError: {folder / 'pipeline.py'} is imported as 'pipeline', which hides Gristmill's package; rename it"
    )


def test_folders_without_code_are_nobodys(folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "pipeline").mkdir()
    assert python(folder, "import gristmill").stderr == ""
