"""A small workspace to mix, with real prose and real code, and what tests read from the folder of a mix.

The material is what every machine with Python has: its language reference, its docstrings and its library. It is
written as the groups that stages leave, without running one: seconds of work that these tests are not about.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import io
import json
import shutil
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from flows import cli
from pipeline.table import schema
from pipeline.table.storage import Storage
from tests.cli_runs import Ran, gristmill, once, write_config
from tests.unit.workspace_builder import OUTCOMES, document, outcome, write_group

NOTES = "os os.path shutil tempfile random statistics textwrap string glob fnmatch heapq bisect fractions email.message"
MODULES = "argparse cmd code calendar configparser csv dataclasses difflib fileinput ftplib gettext gzip shelve sched"
PACKAGES = "json/decoder.py json/encoder.py email/header.py email/utils.py logging/handlers.py html/parser.py"
FUNCTIONS = "shutil textwrap zipfile tarfile pprint locale imaplib smtplib optparse cgitb mailbox tokenize"
"""Modules whose functions are evaluation items; none of them is among the documents."""
DOCUMENT_CHARS = 1_500
LIMITS = {"prose": 160_000, "notes": 60_000, "modules": 120_000, "packages": 60_000}
ITEMS = 30

CONFIG: Mapping[str, Any] = {
    "workspace": "ws",
    "slices": {
        "prose": {"where": "source = 'prose'"},
        "notes": {"where": "source = 'notes'", "max_epochs": 6},
        "modules": {"where": "source = 'code' and url not like 'Lib/%/%'"},
        "packages": {"where": "source = 'code' and url like 'Lib/%/%'"},
    },
    "suite": "prose.yaml",
    "measure": ["code.yaml"],
    "budget_tokens": 200_000,
    "tokenizer": {"train": {"vocabulary": 400}},
    "held_out": 0.05,
    "swarm": {"runs": 16, "seed": 7},
    "proxy": {"kind": "ngram", "tokens": 100_000},
    "fit": {"bootstrap": 16},
    "propose": {"kl": 0.02},
    "verify": {"seeds": 2},
    "sample": {"shard_tokens": 60_000},
}
"""An n-gram mix of four slices in `ws`, for the suite `prose.yaml`; `code.yaml` is measured along."""
TRANSFORMER: Mapping[str, Any] = {
    "slices": {name: {"where": f"source = '{source}'"} for name, source in (("prose", "prose"), ("modules", "code"))},
    "tokenizer": {"train": {"vocabulary": 300}},
    "swarm": {"runs": 6, "seed": 3, "replicates": 2},
    "proxy": {
        "kind": "transformer",
        "parameters": 5_000,
        "tokens": 20_000,
        "workers": 2,
        "context": 64,
        "batch_tokens": 512,
    },
    "fit": {"bootstrap": 8},
}
"""What a mix of the smallest transformers changes: eleven runs, so many tokens that Prefect is worth its start."""
SUITES: Mapping[str, Any] = {
    "prose": {
        "tasks": [{"name": "reference", "path": "eval/reference.jsonl", "weight": 2, "group": "prose"}],
        "held_out": [{"slice": "prose", "group": "prose"}],
    },
    "code": {
        "tasks": [{"name": "functions", "path": "eval/functions.jsonl", "weight": 2, "group": "code"}],
        "held_out": [{"slice": "modules", "group": "code"}],
    },
    "other": {"tasks": [{"name": "other", "path": "eval/other.jsonl", "group": "other"}]},
}
CODE = ("modules", "packages")


# Making it ------------------------------------------------------------------------------------------------------------


def write_workspace(folder: Path) -> None:
    """Write `ws` (sources prose, notes, code), `eval`, the suites prose, code and other, and `mix.yaml`."""
    storage = Storage.at(str(folder / "ws"))
    paragraphs = list(_paragraphs())
    texts = {
        "prose": _limited(_joined("topic", (p for p in paragraphs if not _is_item(p))), "prose"),
        "notes": _limited(_docstrings(), "notes"),
        "code": [*_limited(_library(MODULES), "modules"), *_limited(_library(PACKAGES), "packages")],
    }
    for source, rows in texts.items():
        documents = [document(_number(url), source, text, url=url) for url, text in rows]
        ledger = [
            outcome(int(row["doc_id"], 16), source=source, url=row["url"], word_count=len(row["text"].split()))
            for row in documents
        ]
        write_group(storage, f"{source}/documents", [documents], schema.DOCUMENTS)
        write_group(storage, f"{source}/outcomes", [ledger], OUTCOMES)
        write_group(storage, f"{source}/curated", [documents[::2], documents[1::2]], schema.DOCUMENTS)
    write_items(folder / "eval" / "reference.jsonl", _sentences(p for p in paragraphs if _is_item(p)))
    write_items(folder / "eval" / "functions.jsonl", _functions(FUNCTIONS.split()[::2]))
    write_items(folder / "eval" / "other.jsonl", _functions(FUNCTIONS.split()[1::2]))
    for name, suite in SUITES.items():
        write_config(folder / f"{name}.yaml", suite)
    write_config(folder / "mix.yaml", CONFIG)


def write_items(path: Path, items: Iterable[tuple[str, str]]) -> None:
    """Write a task's items, (prompt, continuation) each."""
    path.parent.mkdir(exist_ok=True)
    rows = [{"id": str(n), "prompt": prompt, "continuation": rest} for n, (prompt, rest) in enumerate(items)]
    assert len(rows) >= 1
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:ITEMS]), "utf-8")


def _number(url: str) -> int:
    return int(hashlib.blake2b(url.encode(), digest_size=6).hexdigest(), 16)


def _paragraphs() -> Iterator[str]:
    for _, text in sorted(topics.items()):
        yield from (" ".join(part.split()) for part in text.split("\n\n") if len(part) > 120)


def _is_item(paragraph: str) -> bool:
    return hashlib.blake2b(paragraph.encode(), digest_size=1).digest()[0] < 16


def _joined(name: str, paragraphs: Iterable[str]) -> Iterator[tuple[str, str]]:
    parts: list[str] = []
    number = 0
    for part in paragraphs:
        parts.append(part)
        if sum(map(len, parts)) > DOCUMENT_CHARS:
            yield f"{name}/{number}", "\n\n".join(parts)
            parts, number = [], number + 1


def _docstrings() -> Iterator[tuple[str, str]]:
    for module in NOTES.split():
        for name, value in sorted(vars(importlib.import_module(module)).items()):
            text = inspect.getdoc(value) if callable(value) else None
            if text and len(text) > 150 and not name.startswith("_"):
                yield f"note/{module}.{name}", text


def _library(names: str) -> Iterator[tuple[str, str]]:
    """Yield pieces of the library's files, cut between lines."""
    for name in names.split():
        path = name if name.endswith(".py") else f"{name}.py"
        lines = Path(sysconfig.get_path("stdlib"), path).read_text("utf-8").splitlines(keepends=True)
        piece, number = "", 0
        for line in lines:
            piece += line
            if len(piece) > DOCUMENT_CHARS:
                yield f"Lib/{path}#{number}", piece
                piece, number = "", number + 1


def _limited(rows: Iterable[tuple[str, str]], name: str) -> list[tuple[str, str]]:
    kept, size = [], 0
    for row in rows:
        if size > LIMITS[name]:
            break
        kept.append(row)
        size += len(row[1])
    return kept


def _sentences(paragraphs: Iterable[str]) -> Iterator[tuple[str, str]]:
    for paragraph in paragraphs:
        first, _, rest = paragraph.partition(". ")
        if len(rest) > 60:
            yield f"{first}.", f" {rest[:300]}"


def _functions(modules: Sequence[str]) -> Iterator[tuple[str, str]]:
    for module in modules:
        path = Path(sysconfig.get_path("stdlib"), f"{module}.py")
        if not path.exists():
            continue
        source = path.read_text("utf-8")
        lines = source.splitlines(keepends=True)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and len(node.body) >= 3 and ast.get_docstring(node):
                cut = node.body[0].end_lineno or 0
                body = "".join(lines[cut : node.end_lineno])
                if 80 <= len(body) <= 600:
                    yield "".join(lines[node.lineno - 1 : cut]), body


# Running it -----------------------------------------------------------------------------------------------------------


def blank(shared: Path, folder: Path) -> Path:
    """Return `folder`, made a copy of the workspace that nothing was mixed from yet; the first caller makes it."""
    made = shared / "mix-blank"
    with once(made) as to_do:
        if to_do:
            made.mkdir()
            write_workspace(made)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


def mixed(shared: Path) -> Path:
    """Return a folder in which `gristmill mix run mix.yaml` has run, and `run.json`: how it went. For reading only."""
    folder = shared / "mix-done"
    with once(folder) as to_do:
        if to_do:
            blank(shared, folder)
            (folder / "run.json").write_text(json.dumps(vars(gristmill("mix", "run", "mix.yaml", cwd=folder))))
    assert first_run(folder).code == 0, first_run(folder).err
    return folder


def first_run(folder: Path) -> Ran:
    """Return how the run went that made `mixed`."""
    return Ran(**json.loads((folder / "run.json").read_text()))


def here(folder: Path, *arguments: str) -> Ran:
    """Run the command in this process: what needs no process of its own is quicker so."""
    out, err = io.StringIO(), io.StringIO()
    started = time.monotonic()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main(list(arguments))
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else -1
    return Ran(code, out.getvalue(), err.getvalue(), time.monotonic() - started)


def done(folder: Path, *arguments: str) -> Ran:
    """Run `gristmill mix` in this process; it must not fail."""
    ran = here(folder, "mix", *arguments)
    assert ran.code == 0, ran.err
    return ran


def edited(folder: Path, file: str = "mix.yaml", **changes: Any) -> str:
    """Write the configuration with other values for some of its keys; return the file's name."""
    write_config(folder / file, {**CONFIG, **changes})
    return file


# Reading it -----------------------------------------------------------------------------------------------------------


def mixture(folder: Path, name: str = "mix") -> dict[str, Any]:
    """Return `mixture.yaml` as plain values."""
    found: dict[str, Any] = yaml.safe_load((folder / "ws/mix" / name / "mixture.yaml").read_text())
    return found


def current(folder: Path, name: str = "mix") -> Path:
    """Return the folder of the proposal that was written last."""
    return folder / "ws/mix" / name / "proposals" / str(mixture(folder, name)["provenance"]["proposal"])


def proposal(folder: Path, name: str = "mix") -> dict[str, float]:
    """Return the proposed weights, whatever verification made of them."""
    found: dict[str, float] = json.loads((current(folder, name) / "proposal.json").read_text())["proposal"]["weights"]
    return found


def runs(folder: Path, name: str = "mix") -> dict[str, dict[str, Any]]:
    """Return the manifest of every finished proxy run, by its folder's name."""
    found = (folder / "ws/mix" / name / "runs").glob("*/run.json")
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def contents(folder: Path, name: str = "mix") -> dict[str, str]:
    """Return the SHA-256 of every file that the same configuration must give again: all but times, plots and locks."""
    root = folder / "ws/mix" / name
    files = [path for part in ("slices", "swarm", "proposals") for path in (root / part).rglob("*") if path.is_file()]
    files = [path for path in files if "report" not in path.parts and path.name != "config.json"]
    files.append(root / "mixture.yaml")
    files += list(root.glob("runs/*/measures/*"))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Shards:
    """The shards of a mix, read as a trainer would: raw tokens, and the trace beside them."""

    def __init__(self, folder: Path, name: str = "mix") -> None:
        root = current(folder, name) / "shards"
        index = json.loads((root / "index.json").read_text())
        names = [
            next(file for file in shard["files"] if file.startswith("part") and file.endswith(".npy"))
            for shard in index["shards"]
        ]
        self.eos = int(index["eos"])
        self.tokens = [np.fromfile(root / index["folder"] / file, np.dtype(index["dtype"])) for file in names]
        self.traces = [
            pq.read_table(
                root / index["folder"] / file.replace("part", "trace").replace(".npy", ".parquet")
            ).to_pylist()
            for file in names
        ]

    def rows(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Yield each row of the traces with its tokens."""
        for tokens, trace in zip(self.tokens, self.traces, strict=True):
            for row in trace:
                yield row, tokens[row["start"] : row["end"]]

    def counted(self) -> Counter[str]:
        """Return how many tokens there are of each slice."""
        count: Counter[str] = Counter()
        for row, tokens in self.rows():
            count[row["slice"]] += len(tokens)
        return count

    def doc_ids(self) -> set[str]:
        """Return the documents that the shards hold anything of."""
        return {row["doc_id"] for row, _ in self.rows()}


def store_tokens(folder: Path, name: str = "mix") -> dict[str, int]:
    """Return how many training tokens each slice has, from the files themselves."""
    root = folder / "ws/mix" / name / "slices"
    return {path.parent.name: int(np.load(path, mmap_mode="r").size) for path in sorted(root.glob("*/tokens.npy"))}
