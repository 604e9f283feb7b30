"""The quickstart's generator: a real WARC, the same bytes each time, and a bad module costs itself alone."""

from __future__ import annotations

import gzip
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from warcio.archiveiterator import ArchiveIterator

from flows import quickstart
from flows.cli import parser
from flows.config import load
from flows.quickstart import pages
from flows.quickstart.__main__ import NEXT, TOUR
from pipeline.table.kept import read_yaml
from tests.cli_runs import environment

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MODULES = ["heapq", "json", "string", "textwrap"]


@pytest.fixture(scope="module")
def fragments() -> dict[str, str]:
    return pages.render_modules(MODULES)


def responses(path: Path) -> dict[str, tuple[str, bytes]]:
    """Return status and decoded body of every response, by URL; warcio raises where a digest is wrong."""
    found = {}
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream, check_digests="raise"):
            if record.rec_type == "response":
                body = record.content_stream().read()
                found[record.rec_headers["WARC-Target-URI"]] = (record.http_headers.get_statuscode(), body)
    return found


def test_pydoc_pages_hold_the_docstrings_and_no_paths_or_addresses(fragments: dict[str, str]) -> None:
    assert list(fragments) == MODULES
    assert "Heap queue algorithm" in fragments["heapq"].replace("<br>\n", " ")
    for page in fragments.values():
        assert str(Path.home()) not in page
        assert not pages.ADDRESS.search(page)


def test_pydoc_pages_are_the_same_each_time(fragments: dict[str, str]) -> None:
    assert pages.render_modules(MODULES) == fragments


def test_a_module_that_does_not_answer_costs_itself_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, sys, time\n"
        "for name in json.loads(sys.stdin.read()):\n"
        "    if name == 'hangs': time.sleep(600)\n"
        "    if name == 'dies': os.abort()\n"
        "    print(json.dumps(None if name == 'fails' else f'<p>{name}'), flush=True)\n"
    )
    monkeypatch.setattr(pages, "__file__", str(worker))
    found = pages.render_modules(["a", "dies", "b", "fails", "hangs", "c"], limit_s=3.0)
    assert found == {"a": "<p>a", "b": "<p>b", "c": "<p>c"}


def test_standard_modules_leaves_out_what_has_side_effects() -> None:
    names = pages.standard_modules()
    assert {"heapq", "json.decoder", "math"} <= set(names)
    assert not {"antigravity", "this", "idlelib.run", "test.support", "tkinter"} & set(names)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("One\nparagraph.\n\nTwo.", "One paragraph.\n\nTwo."),
        ("Use:\n    x = 1\n    y = 2", "Use:\n    x = 1\n    y = 2"),
        (">>> f(1)\n2", ">>> f(1)\n2"),
        ("- a\n- b", "- a\n- b"),
    ],
)
def test_reflow(text: str, expected: str) -> None:
    assert pages.reflow(text) == expected


def test_crawl_is_a_warc_that_other_readers_accept(fragments: dict[str, str], tmp_path: Path) -> None:
    visits = quickstart.crawl(fragments)
    path = tmp_path / "a.warc.gz"
    assert quickstart.write_warc(path, visits) == len(visits)
    found = responses(path)
    assert {url: body for url, (_, body) in found.items()} == {visit.url: visit.body for visit in visits}
    assert {visit.planted for visit in visits} >= {"mirror", "edited", "missing", "wrong_charset", "truncated"}
    assert {status for status, _ in found.values()} == {"200", "301", "404"}


def test_every_record_is_a_gzip_member_and_bytes_repeat(fragments: dict[str, str], tmp_path: Path) -> None:
    visits = quickstart.crawl(fragments)
    one, two = tmp_path / "a.warc.gz", tmp_path / "b" / "a.warc.gz"
    two.parent.mkdir()
    for path in (one, two):
        quickstart.write_warc(path, visits)
    assert one.read_bytes() == two.read_bytes()
    members = one.read_bytes().count(b"\x1f\x8b\x08\x00\x00\x00\x00\x00")
    assert members >= 1 + 2 * len(visits)
    assert gzip.decompress(one.read_bytes()).count(b"WARC/1.1\r\n") == 1 + 2 * len(visits)


def test_wrong_charset_page_is_not_what_its_header_says(fragments: dict[str, str]) -> None:
    (page,) = [visit for visit in quickstart.crawl(fragments) if visit.planted == "wrong_charset"]
    assert "utf-8" in page.media_type
    with pytest.raises(UnicodeDecodeError):
        page.body.decode("utf-8")


def test_edited_changes_some_words_and_keeps_most() -> None:
    before = "the cat and the dog " * 10
    after = quickstart.edited(before)
    assert after.count("that") == 2
    assert after.count("the ") == 18


@pytest.mark.parametrize(
    ("expression", "field", "classifiers", "expected"),
    [
        ("Apache-2.0 OR MIT", "whatever", [], "Apache-2.0 OR MIT"),
        ("", "MIT License", [], "MIT"),
        ("", "", ["License :: OSI Approved :: MIT License"], "MIT"),
        ("", "", ["License :: OSI Approved :: BSD License"], None),
        ("", "", ["License :: OSI Approved :: MIT License", "License :: OSI Approved :: ISC License (ISCL)"], None),
        ("", "Copyright somebody, all rights reserved", [], None),
        ("", "", [], None),
    ],
)
def test_spdx(expression: str, field: str, classifiers: list[str], expected: str | None) -> None:
    assert quickstart.spdx(expression, field, classifiers) == expected


def test_code_has_its_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(quickstart, "MAX_CODE_FILES", 20)
    path = tmp_path / "code.jsonl.gz"
    assert quickstart.write_code(path) == 20
    with gzip.open(path) as stream:
        rows = [json.loads(line) for line in io.TextIOWrapper(stream, "utf-8", newline="\n")]
    assert len(rows) == 20
    assert all(set(row) == {"body", "path"} and row["path"].startswith("Lib/") for row in rows)


def test_readmes_have_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "readmes.parquet"
    count = quickstart.write_readmes(path)
    table = pq.read_table(path)
    assert table.num_rows == count > 50
    assert table.column_names == ["text", "name", "url", "licence"]
    assert table["name"].to_pylist() == sorted(set(table["name"].to_pylist()))
    licences = dict(zip(table["name"].to_pylist(), table["licence"].to_pylist(), strict=True))
    assert licences["pyarrow"] == "Apache-2.0"


def test_made_data_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fragments: dict[str, str]) -> None:
    monkeypatch.setattr(quickstart, "MAX_CODE_FILES", 20)
    monkeypatch.setattr(quickstart, "render_modules", lambda names: fragments)
    quickstart.make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    quickstart.make(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert {path.name for path in before} >= {"pydoc-00.warc.gz", "code.jsonl.gz", "readmes.parquet", "quickstart.json"}


@pytest.mark.parametrize("name", ["quickstart", "web", "corpus"])
def test_starting_configurations_are_valid(name: str) -> None:
    config = load(str(CONFIGS / f"{name}.yaml"))
    assert all(source.inputs and source.select.rules and source.select.keep for source in config.sources.values())


@pytest.mark.parametrize("name", ["docs", "code", "readme"])
def test_rule_files_name_text_predicates(name: str) -> None:
    content, _ = read_yaml(CONFIGS / "rules" / f"{name}.yaml")
    assert set(content) == {"rules"}
    assert all(isinstance(predicate, str) for predicate in content["rules"].values())


@pytest.mark.parametrize("command", [command for _, command in TOUR] + [command for command, _ in NEXT])
def test_the_commands_of_the_tour_are_commands_on_files_that_are_there(command: str) -> None:
    program, *words = shlex.split(command.removesuffix(" > curate.yaml"))
    if program == "gristmill":
        parser().parse_args(words)  # ends the test with SystemExit where argparse refuses it
    else:
        assert (program, words) == ("python", ["-m", "flows.quickstart", ".quickstart"])
    assert all((CONFIGS.parent / word.rpartition("=")[2]).is_file() for word in words if "configs/" in word)


def touring(folder: Path, *commands: str, before: str = "") -> subprocess.Popen[str]:
    """Start a tour of Python commands in a process group of its own; `before` is run first, in its process."""
    steps = tuple((f"Question {number}?", f'python -c "{text}"') for number, text in enumerate(commands))
    code = f"import sys, flows.quickstart.__main__ as m\nm.TOUR = {steps!r}\n{before}\n"
    code += "sys.argv = ['quickstart']; sys.exit(m.main())"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_tour_shows_each_command_and_ends_where_one_fails(tmp_path: Path) -> None:
    tour = touring(tmp_path, "print('one')", "raise SystemExit(3)", "print('three')")
    out, err = tour.communicate(timeout=60)
    assert (tour.returncode, err) == (3, "")
    shown = f"{shlex.quote(str(Path(sys.executable).parent))}/python"
    assert out.splitlines() == [
        *("", "Question 0?", f"{shown} -c \"print('one')\"", "one"),
        *("", "Question 1?", f'{shown} -c "raise SystemExit(3)"'),
    ]


def test_a_tour_to_its_end_says_what_to_try_next(tmp_path: Path) -> None:
    tour = touring(tmp_path, "print('one')")
    out, err = tour.communicate(timeout=60)
    assert (tour.returncode, err) == (0, "")
    assert out.count("/gristmill ") == len(NEXT)


def test_a_tour_shows_what_can_be_typed_where_a_folder_has_a_space(tmp_path: Path) -> None:
    programs = tmp_path / "my programs"
    programs.mkdir()
    (programs / "python").write_text('#!/bin/sh\necho "said $2"\n')
    (programs / "python").chmod(0o755)
    code = f"sys.executable = {str(programs / 'python')!r}"
    out, err = touring(tmp_path.parent, "typed", before=code).communicate(timeout=60)
    assert err == ""
    typed = next(line for line in out.splitlines() if line.endswith('"typed"'))
    again = subprocess.run(["sh", "-c", typed], cwd=tmp_path.parent, capture_output=True, text=True, check=True)
    assert again.stdout == "said typed\n"


def test_a_tour_without_its_files_ends_before_work(tmp_path: Path) -> None:
    tour = touring(tmp_path, "print('one')", before="m.TOUR += (('', 'gristmill run configs/quickstart.yaml'),)")
    out, err = tour.communicate(timeout=60)
    assert (tour.returncode, out, err.count("\n")) == (2, "", 1)
    assert "is not there; run it in the folder of the repository" in err


def test_a_tour_that_is_stopped_between_two_commands_ends(tmp_path: Path) -> None:
    """The signal comes while the second command is being started."""
    late = (
        "start = m.subprocess.Popen; asked = []\n"
        "def popen(words):\n"
        "    asked.append(words)\n"
        "    if len(asked) == 2: m.signal.raise_signal(m.signal.SIGTERM)\n"
        "    return start(words)\n"
        "m.subprocess.Popen = popen"
    )
    tour = touring(tmp_path, "print('one')", "import time; time.sleep(50)", "print('three')", before=late)
    out, err = tour.communicate(timeout=30)
    assert (tour.returncode, err) == (143, "")
    assert "three" not in out.splitlines()


@pytest.mark.parametrize(("number", "everybody"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_tour_that_is_stopped_ends_with_its_command(tmp_path: Path, number: int, everybody: bool) -> None:
    """Ctrl-C goes to the whole group; what make sends when it is ended, to the tour alone."""
    wait = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    tour = touring(tmp_path, wait, "print('two')")
    limit = time.monotonic() + 30
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < limit:
        time.sleep(0.05)
    (os.killpg if everybody else os.kill)(tour.pid, number)
    out, err = tour.communicate(timeout=30)
    assert tour.returncode == 128 + number, err
    assert "two" not in out.splitlines()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
