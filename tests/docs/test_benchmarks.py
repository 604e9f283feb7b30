"""BENCHMARKS.md names benches and tables that are there, and a table has the columns that its bench writes."""

from __future__ import annotations

import ast
import csv
import importlib
import re
from pathlib import Path

import duckdb
import pytest

from tests.bench.tables import RESULTS
from tests.docs.blocks import ROOT
from tests.docs.test_docs import slug

TEXT = (ROOT / "BENCHMARKS.md").read_text("utf-8")
BENCHES = sorted(path for path in RESULTS.parent.glob("*.py") if path.stem != "tables")
BEFORE = {"before"}
"""Columns that were noted by hand, of an earlier version."""
FORMULA = ("=", "+", "-", "@", "\t")


def columns_by_name() -> dict[str, set[str]]:
    """Return the columns of each table that benches write, by a pattern of its name."""
    found = {}
    for path in BENCHES:
        for function in ast.parse(path.read_text("utf-8")).body:
            nodes = list(ast.walk(function))
            texts = {
                node.targets[0].id: node.value.value
                for node in nodes
                if isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and isinstance(node.value, ast.Constant)
            }
            for call in (node for node in nodes if isinstance(node, ast.Call)):
                if isinstance(call.func, ast.Name) and call.func.id == "Table":
                    name, _, columns = call.args
                    parts = name.values if isinstance(name, ast.JoinedStr) else [name]
                    pattern = "".join(re.escape(p.value) if isinstance(p, ast.Constant) else r"[\w-]+" for p in parts)
                    written = columns.value if isinstance(columns, ast.Constant) else texts[columns.id]
                    found[pattern] = set(written.split())
    return found


TABLES = columns_by_name()


def test_benches_that_are_named_are_there() -> None:
    named = set(re.findall(r"\b(?:tests/bench/|tests\.bench\.)?((?:bench|pdf|readers|ablate)_\w+?)(?:\.py)?\b", TEXT))
    assert named
    assert named <= {path.stem for path in BENCHES}


def test_links_resolve() -> None:
    anchors = {slug(heading) for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXT):
        assert target[1:] in anchors if target.startswith("#") else (ROOT / target).exists(), target


def test_each_table_is_linked_and_there_is_no_other() -> None:
    linked = re.findall(r"tests/bench/results/([\w-]+)\.csv", TEXT)
    assert set(linked) == {path.stem for path in RESULTS.iterdir()}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_table_says_what_it_is_of_and_can_be_read(path: Path) -> None:
    assert re.match(r"# \d{4}-\d\d-\d\d\b[^\n]*; [^\n]+\n", path.read_text("utf-8"))
    table = duckdb.sql(f"SELECT * FROM read_csv('{path}', skip = 1)")
    rows = table.fetchall()
    with path.open(encoding="utf-8", newline="") as file:
        assert len(rows) == len(list(csv.reader(file))) - 2 > 0
    assert not [text for row in rows for text in row if isinstance(text, str) and text.startswith(FORMULA)]
    for pattern, columns in TABLES.items():
        if re.fullmatch(pattern, path.stem):
            assert set(table.columns) <= columns | BEFORE
            break
    else:
        assert not re.search(r"python (-m )?tests.bench", path.read_text("utf-8")), "no bench writes it"


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_a_bench_can_be_imported_and_keeps_its_tables(path: Path) -> None:
    importlib.import_module(f"tests.bench.{path.stem}")
    assert "bench_parser(" in path.read_text("utf-8")
