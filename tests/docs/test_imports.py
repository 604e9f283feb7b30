"""Imports run one way: flows -> pipeline, classifiers; classifiers -> pipeline; rooms -> table, kernels, report."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = sorted(path.name for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").exists())
MODULES = sorted(path for top in ("pipeline", "classifiers", "flows", "configs") for path in (ROOT / top).rglob("*.py"))

ALLOWED_ACROSS_ROOMS = {("rephrase", "llm")}
CLASSIFIERS_MAY_IMPORT = {"table", "kernels", "llm"}


def imported(path: Path) -> set[str]:
    """Return the dotted names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("pipeline.")} & set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    names = imported(path)
    package, *rest = path.relative_to(ROOT).parts
    assert "tests" not in top(names)
    if package != "flows":
        assert not top(names) & {"flows", "prefect", "rich"}
    if package == "classifiers":
        assert rooms(names) <= CLASSIFIERS_MAY_IMPORT
    if package == "pipeline":
        assert "classifiers" not in top(names)
        room = rest[0]
        across = rooms(names) - {"table", "kernels", "report", room}
        assert all((room, other) in ALLOWED_ACROSS_ROOMS for other in across), f"{room} imports {across}"


@pytest.mark.parametrize("path", sorted((ROOT / "pipeline" / "kernels").glob("*.py")), ids=lambda path: path.name)
def test_kernels_import_numpy_and_numba_alone(path):
    third_party = top(imported(path)) - sys.stdlib_module_names - {"pipeline"}
    assert third_party <= {"numpy", "numba"}
    assert rooms(imported(path)) <= {"kernels"}


def test_the_rule_sees_modules():
    assert len(MODULES) > 20
    assert {"table", "kernels", "extract", "signals", "dedup", "select"} <= set(ROOMS)
