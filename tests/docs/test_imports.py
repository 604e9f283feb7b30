"""Imports run one way, in no circle, and no chain of them is long.

gristmill -> flows -> pipeline, classifiers; classifiers -> the rooms named here; a room of pipeline -> the ground
floor, and the other rooms named here. What a function or a type checker alone imports counts like any other import.
"""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = sorted(path.name for path in (ROOT / "pipeline").iterdir() if (path / "__init__.py").exists())
GROUND_FLOOR = {"table", "kernels", "report", "inputs"}
MAY_IMPORT = dict.fromkeys(ROOMS, GROUND_FLOOR) | {
    "kernels": set(),
    "table": set(),
    "report": {"table"},
    "inputs": {"table"},
    "status": {"table"},
    "rephrase": GROUND_FLOOR | {"llm"},
    "extract": GROUND_FLOOR | {"llm"},
    "peek": GROUND_FLOOR | {"extract"},
    "classifiers": GROUND_FLOOR | {"llm"},
}
MAX_CHAIN = 12
"""Modules that import each other one after the other."""

MAX_MODULES, MAX_FLOORS = 12, 5
"""Of one folder: what grows beyond is several rooms that do not import one another."""
MIX_ROOMS = {"material", "weights", "regression", "proxies", "shards", "scaling"}

TOPS = ("gristmill", "pipeline", "classifiers", "flows", "configs")
MODULES = sorted(path for top in TOPS for path in (ROOT / top).rglob("*.py"))


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


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def graph() -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    names = {name_of(path) for path in MODULES}
    return {name_of(path): (imported(path) & names) - {name_of(path)} for path in MODULES}


@cache
def reached() -> dict[str, set[str]]:
    """Return the modules that each module imports at last, by whatever way."""
    found = {name: set(others) for name, others in graph().items()}
    for others in found.values():
        waiting = list(others)
        while waiting:
            fresh = graph()[waiting.pop()] - others
            others |= fresh
            waiting += fresh
    return found


@cache
def chain(name: str) -> int:
    """Return how many modules import each other one after the other from `name` on; those of a circle count as one."""
    circle = {name} | {other for other in reached()[name] if name in reached()[other]}
    below = {other for member in circle for other in graph()[member]} - circle
    return 1 + max(map(chain, below), default=0)


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("pipeline.")} & set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_run_one_way(path):
    names = imported(path)
    tops = {name.split(".")[0] for name in names}
    package, room, *_ = *path.relative_to(ROOT).parts, ""
    assert "tests" not in tops
    assert package == "gristmill" or "gristmill" not in tops
    if package not in ("gristmill", "flows"):
        assert not tops & {"flows", "prefect", "rich"}
        assert package == "classifiers" or "classifiers" not in tops
        floor = room if package == "pipeline" else package
        across = rooms(names) - {floor}
        assert across <= MAY_IMPORT.get(floor, set()), f"{floor} imports {across}"
    if room == "kernels":
        assert tops - sys.stdlib_module_names <= {"pipeline", "numpy", "numba"}


def test_no_module_imports_itself_in_a_circle():
    circles = {
        tuple(sorted(other for other in found if name in reached()[other]))
        for name, found in reached().items()
        if name in found
    }
    assert not circles


def test_no_chain_of_imports_is_long():
    assert not {name: chain(name) for name in graph() if chain(name) > MAX_CHAIN}


FOLDERS = sorted({path.parent for path in MODULES})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_a_room_is_seen_at_a_glance(folder):
    inside = {name_of(path) for path in MODULES if path.parent == folder and path.name != "__init__.py"}

    @cache
    def floors(name):
        return 1 + max(map(floors, graph()[name] & inside), default=0)

    assert len(inside) <= MAX_MODULES
    assert max(map(floors, inside), default=0) <= MAX_FLOORS


@pytest.mark.parametrize("room", sorted(MIX_ROOMS))
def test_the_rooms_of_the_mix_import_none_of_the_others(room):
    names = {name for module in graph() if module.startswith(f"pipeline.mix.{room}.") for name in graph()[module]}
    assert names
    assert not {name.split(".")[2] for name in names if name.startswith("pipeline.mix.")} & (MIX_ROOMS - {room})
    assert not {name for name in names if name.startswith("pipeline.mix.steps")}


def test_the_rules_see_modules():
    assert len(MODULES) > 20
    assert GROUND_FLOOR | {"extract", "signals", "dedup", "select", "export", "mix", "rephrase"} <= set(ROOMS)
    assert chain("flows.cli") > 5
