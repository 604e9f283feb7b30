"""What end-to-end, fault and acceptance tests share: corpora, finished workspaces and a Prefect server, each made once.

Several test processes run side by side; what one has made the others use. The project is imported by the fixtures
that need it, so that a broken module fails their tests alone.
"""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.cli_runs import Ran, gristmill, once, write_config

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell without job control starts background commands deaf to Ctrl-C, and the processes of the tests after them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PAGES = """
    argparse base64 bisect calendar cmd code codecs configparser contextlib copy csv dataclasses datetime difflib dis
    doctest email fileinput fnmatch fractions functools getopt getpass gettext glob gzip hashlib heapq hmac html inspect
    json linecache locale lzma netrc optparse pickle plistlib pprint queue random sched secrets shelve shlex shutil
    statistics string
"""
NOTES = ("os", "os.path", "string", "textwrap", "shutil", "tempfile", "random", "statistics")
MANUALS = ("collections", "itertools", "functools", "heapq")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all test processes of a session have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent / "shared" if os.environ.get("PYTEST_XDIST_WORKER") else base / "shared"


# Corpora --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def corpus(shared: Path) -> Path:
    """`crawl/*.warc.gz`, `notes.jsonl.gz` and `manuals.parquet`: real prose. `planted.json` names oddities."""
    from flows import quickstart

    folder = shared / "corpus"
    with once(folder) as to_do:
        if to_do:
            (folder / "crawl").mkdir(parents=True)
            visits = quickstart.crawl(quickstart.render_modules(PAGES.split()))
            for number in range(3):
                quickstart.write_warc(folder / "crawl" / f"pages-{number}.warc.gz", visits[number::3])
            planted = [{"url": visit.url, "kind": visit.planted} for visit in visits if visit.planted]
            (folder / "planted.json").write_text(json.dumps(planted))
            _write_notes(folder / "notes.jsonl.gz")
            _write_manuals(folder / "manuals.parquet")
    return folder


def _docstrings(module: str) -> Iterator[tuple[str, str]]:
    for name, value in sorted(vars(importlib.import_module(module)).items()):
        text = inspect.getdoc(value) if callable(value) else None
        if text and len(text) > 80 and not name.startswith("_"):
            yield f"{module}.{name}", text


def _write_notes(path: Path) -> None:
    """Write JSON lines with one line that is none and one without text."""
    rows = [{"id": name, "text": text, "url": f"note:{name}"} for module in NOTES for name, text in _docstrings(module)]
    rows.append({"id": "copy", "text": rows[0]["text"], "url": "note:copy"})
    lines = [json.dumps(row) for row in rows]
    lines[3:3] = ["{this is no JSON", json.dumps({"id": "empty", "text": "  ", "url": "note:empty"})]
    path.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))


def _write_manuals(path: Path) -> None:
    """Write Parquet whose columns have other names than ours."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"body": text, "link": f"manual:{name}"} for module in MANUALS for name, text in _docstrings(module)]
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="session")
def config(corpus: Path) -> dict[str, Any]:
    """The whole contract over the three corpora; the workspace is `ws` in the working directory."""
    return {
        "workspace": "ws",
        "sources": {
            "web": {"format": "warc", "inputs": [f"{corpus}/crawl/*.warc.gz"]},
            "notes": {"format": "jsonl", "inputs": [f"{corpus}/notes.jsonl.gz"]},
            "manuals": {
                "format": "parquet",
                "inputs": [f"{corpus}/manuals.parquet"],
                "columns": {"text": "body", "url": "link"},
                "select": {"rules": {"any_length": "text_length > 0"}},
            },
        },
        "dedup": {"num_bands": 14, "rows_per_band": 8, "shingle_words": 5},
        "select": {
            "rules": {
                "english": "language = 'en' and language_score >= 0.4",
                "words": "word_count between 20 and 20000",
                "long": "top_share(text_length, 0.9)",
            },
            "keep": "text_length desc, url asc",
        },
        "engine": {"kind": "local", "workers": 2},
    }


@pytest.fixture(scope="session")
def web_config(config: dict[str, Any]) -> dict[str, Any]:
    """The same for the crawl alone: every stage, in a third of the time."""
    return {**config, "sources": {"web": config["sources"]["web"]}}


# Prefect --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prefect_database(shared: Path) -> Path:
    """A Prefect home with a database: making one takes ten seconds, copying it nothing."""
    home = shared / "prefect-home"
    with once(home) as to_do:
        if to_do:
            home.mkdir()
            with _server(home):
                pass
    return home


@pytest.fixture(scope="session")
def prefect_api(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server that runs as long as this test process: the URL of its API, as a user would set it."""
    home = tmp_path_factory.mktemp("prefect") / "home"
    shutil.copytree(prefect_database, home)
    with _server(home) as url:
        yield url


@pytest.fixture
def own_cache(prefect_database: Path, tmp_path: Path) -> Path:
    """A cache folder for runs that start Prefect's server themselves, with its database in place."""
    home = tmp_path / "cache" / "gristmill" / f"prefect-{version('prefect')}"
    shutil.copytree(prefect_database, home)
    return tmp_path / "cache"


class _server:
    """A Prefect server on a free port; ends with the block, and with this process."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __enter__(self) -> str:
        from flows.server import OFFLINE

        environment = {**os.environ, **OFFLINE, "PREFECT_HOME": str(self.home)}
        with (self.home / "server.log").open("wb") as log, socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(listener.fileno()), str(os.getpid())],
                env=environment,
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}/api"
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, (self.home / "server.log").read_text()
            assert time.monotonic() < deadline, "Prefect's server did not answer"
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    return url
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()


# Workspaces -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def finished(shared: Path, config: dict[str, Any], prefect_api: str) -> Path:
    """A folder with `curate.yaml`, the workspace `ws` of an uninterrupted run, and `run.json`, how that run went.

    For reading only; `copied` gives a test its own.
    """
    folder = shared / "finished"
    with once(folder) as to_do:
        if to_do:
            folder.mkdir()
            write_config(folder / "curate.yaml", config)
            done = gristmill("run", "curate.yaml", cwd=folder, PREFECT_API_URL=prefect_api)
            (folder / "run.json").write_text(json.dumps(vars(done)))
    assert json.loads((folder / "run.json").read_text())["code"] == 0, (folder / "run.json").read_text()
    return folder


@pytest.fixture(scope="session")
def first_run(finished: Path) -> Ran:
    """How the run that made `finished` went."""
    return Ran(**json.loads((finished / "run.json").read_text()))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A test's own copy of `finished`."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"
