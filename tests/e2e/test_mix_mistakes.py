"""Mistakes with `gristmill mix`: each gives one line that says what, where and what to do, and leaves nothing behind.

The exit code is 2 for what is found before work begins and 1 for a run that failed. See `test_mistakes.py`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.table.storage import Storage, hold
from tests.cli_runs import Ran, snapshot
from tests.mix_workspace import CONFIG, TRANSFORMER, blank, contents, done, edited, here, mixed, store_tokens

MIX = Path("ws/mix/mix")


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """A workspace that nothing was mixed from yet."""
    return blank(shared, tmp_path / "work")


@pytest.fixture
def made(shared: Path, tmp_path: Path) -> Path:
    """A workspace with a finished mix, for a test to damage."""
    return shutil.copytree(mixed(shared), tmp_path / "made")


def says(ran: Ran, *phrases: str, code: int = 2, notes: int = 0) -> None:
    """Check that a command complained in one line, after so many lines of progress at most."""
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert ran.code == code, ran.err
    *before, line = ran.err.splitlines()
    assert len(before) <= notes, ran.err
    assert line.startswith("gristmill: "), ran.err
    assert len(line) < 600, line
    for phrase in phrases:
        assert phrase in line, f"{phrase!r} is not in: {line}"


def slices(**changes: Any) -> dict[str, Any]:
    """Return the slices of the configuration with keys of `prose` changed, or slices replaced."""
    return {"slices": {**CONFIG["slices"], **changes}}


# (what is wrong, keys of the configuration that are replaced, phrases of the answer)
CONFIG_MISTAKES: list[tuple[str, Mapping[str, Any], list[str]]] = [
    ("unknown key", {"budget_token": 5}, ["mix.yaml:", "'budget_token'", "nearest: 'budget_tokens'"]),
    ("unknown key inside", {"swarm": {"run": 5}}, ["mix.yaml:", "'swarm.run'", "nearest: 'runs'"]),
    ("unknown proxy", {"proxy": {"kind": "lstm"}}, ["proxy.kind = 'lstm'", "'ngram'", "'transformer'"]),
    ("no slices", {"slices": {}}, ["slices", "at least 1"]),
    ("slice in upper case", slices(Web={"where": "true"}), ["'Web'", "lower case"]),
    (
        "fixed weights",
        slices(prose={"where": "source = 'prose'", "weight": 0.6}, notes={"where": "source = 'notes'", "weight": 0.4}),
        ["fixed weights add up to 1", "leave something to choose"],
    ),
    (
        "stages take all",
        {"stages": [{"name": name, "config": "x", "share": 0.5} for name in "ab"]},
        ["stages", "leave nothing"],
    ),
    ("group of nobody", {"propose": {"groups": {"text": {}}}}, ["propose.groups.text", "group: text"]),
    ("both tokenizers", {"tokenizer": {"train": {}, "file": "t.json"}}, ["tokenizer", "either `train` or `file`"]),
    ("workspace that does not exist", {"workspace": "nothing"}, ["nothing does not exist", "gristmill run"]),
    ("workspace that is none", {"workspace": "eval"}, ["eval", "workspace"]),
    ("remote workspace that is none", {"workspace": "memory://ws"}, ["memory://ws does not exist", "gristmill run"]),
    ("no such suite", {"suite": "prosa.yaml"}, ["suite 'prosa.yaml'", "no such file", "presets: code"]),
    ("suite preset mistyped", {"suite": "cod"}, ["suite 'cod'", "nearest: 'code'"]),
    ("suite that is no suite", {"suite": "mix.yaml"}, ["mix.yaml", "unknown key"]),
    ("measured suite is missing", {"measure": ["x.yaml"]}, ["'x.yaml'", "no such file"]),
    ("tokenizer file is missing", {"tokenizer": {"file": "t.json"}}, ["t.json"]),
    ("tokenizer file is none", {"tokenizer": {"file": "eval/other.jsonl"}}, ["eval/other.jsonl"]),
    (
        "overlap",
        slices(all={"where": "source = 'prose' or word_count < 0"}),
        ["94 documents are both in 'prose' and in 'all'", "exclude one another"],
    ),
    (
        "empty slice",
        slices(none={"where": "source = 'proze'"}),
        ["slices.none", "chooses none", "'proze'", "change its `where`"],
    ),
    ("unknown column", slices(odd={"where": "sauce = 'prose'"}), ["slices.odd.where", "'sauce'", "nearest: 'source'"]),
    ("not SQL", slices(odd={"where": "source = "}), ["slices.odd.where", "source ="]),
    ("no predicate", slices(odd={"where": "word_count"}), ["slices.odd.where", "INTEGER", "comparison"]),
    ("subquery", slices(odd={"where": "(SELECT true)"}), ["slices.odd.where", "subqueries are not allowed"]),
    ("held out too little", {"held_out": 0.0}, ["held_out", "no held-out text", "raise `held_out`"]),
    (
        "one slice",
        {"slices": {"prose": {"where": "source = 'prose'"}}},
        ["slices", "'prose' is the only one", "add another"],
    ),
    (
        "one mixture",
        {
            "slices": {
                "prose": {"where": "source = 'prose'", "weight": 0.4},
                "notes": {"where": "source = 'notes'"},
            },
            "measure": [],
        },
        ["prose 0.4, notes 0.6", "nothing to choose", "free a `weight`"],
    ),
    (
        "groups that leave no mixture",
        {
            "slices": {name: {**each, "group": "all"} for name, each in CONFIG["slices"].items()},
            "propose": {"groups": {"all": {"max_weight": 0.9}}},
        },
        ["propose.groups.all: largest weights add up to 0.9, less than 1"],
    ),
    (
        "too few runs for trees",
        {"swarm": {"runs": 3}, "fit": {"model": "lightgbm"}},
        ["fit.model: lightgbm needs 20 different mixtures", "raise swarm.runs"],
    ),
    (
        "another stage was not made",
        {"stages": [{"name": "late", "config": "mix.yaml", "share": 0.1}]},
        ["stages.late", "mixture.yaml does not exist", "gristmill mix run mix.yaml"],
    ),
    (
        "no earlier mixture",
        {"swarm": {"runs": 4, "reuse": {"mixture": "old.yaml"}}},
        ["old.yaml does not exist", "mixture"],
    ),
]


@pytest.mark.parametrize(("changes", "phrases"), [pytest.param(*m[1:], id=m[0]) for m in CONFIG_MISTAKES])
def test_configuration(changes: Mapping[str, Any], phrases: list[str], folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    says(here(folder, "mix", "run", edited(folder, **changes)), *phrases, notes=4)
    assert {path.name for path in folder.iterdir()} == before
    assert not (folder / MIX / "runs").exists()
    assert not (folder / MIX / "mixture.yaml").exists()


# (what is wrong, file, its content, phrases of the answer)
SUITE_MISTAKES = [
    ("no JSON", "eval/reference.jsonl", '{"prompt": "a", "continuation": "b"}\n{oops\n', ["reference.jsonl:2", "JSON"]),
    (
        "no continuation",
        "eval/reference.jsonl",
        '{"prompt": "a"}\n',
        ["reference.jsonl:1", "`continuation` is missing"],
    ),
    ("prompt is a number", "eval/reference.jsonl", '{"prompt": 1, "continuation": "b"}\n', ["`prompt` is int '1'"]),
    ("empty continuation", "eval/reference.jsonl", '{"prompt": "a", "continuation": ""}\n', [":1", "is empty"]),
    ("no items", "eval/reference.jsonl", "\n", ["tasks.reference", "holds no items"]),
    (
        "not UTF-8",
        "eval/reference.jsonl",
        '{"prompt": "a", "continuation": "\udcff"}\n',
        ["reference.jsonl:1", "UTF-8"],
    ),
    ("unknown slice", "prose.yaml", "held_out: [{slice: prosa}]\n", ["held_out", "'prosa'", "nearest: 'prose'"]),
    ("unknown key", "prose.yaml", "task: []\n", ["prose.yaml:1", "'task'", "nearest: 'tasks'"]),
    ("nothing in it", "prose.yaml", "tasks: []\n", ["prose.yaml", "at least one task"]),
    ("unknown metric", "prose.yaml", "tasks: [{name: a, path: b, metric: f1}]\n", ["metric = 'f1'", "'bits_per_byte'"]),
    ("no file", "prose.yaml", "tasks: [{name: a, path: b.jsonl}]\n", ["tasks.a", "b.jsonl", "No such file"]),
    ("weights of nothing", "prose.yaml", "held_out: [{slice: prose, weight: 0}]\n", ["all weights are zero"]),
    (
        "one name, two tasks",
        "code.yaml",
        "tasks: [{name: reference, path: eval/other.jsonl}]\n",
        ["measure", "'reference'", "other items", "rename"],
    ),
]


@pytest.mark.parametrize(("file", "content", "phrases"), [pytest.param(*m[1:], id=m[0]) for m in SUITE_MISTAKES])
def test_suite(file: str, content: str, phrases: list[str], folder: Path) -> None:
    (folder / file).write_bytes(content.encode("utf-8", "surrogateescape"))
    says(here(folder, "mix", "run", "mix.yaml"), *phrases, notes=4)
    assert not (folder / MIX / "runs").exists()


def test_budget_names_the_largest_that_fits(made: Path) -> None:
    tokens = store_tokens(made)
    available = sum(int(CONFIG["slices"][name].get("max_epochs", 4) * count) for name, count in tokens.items())
    says(
        here(made, "mix", "propose", edited(made, budget_tokens=10**9)), "1,000,000,000", f"{available:,}", "max_epochs"
    )
    edited(made, budget_tokens=available + 1)
    says(here(made, "mix", "swarm", "mix.yaml"), f"the largest budget that fits is {available:,}")
    edited(made, budget_tokens=available)
    assert here(made, "mix", "slices", "mix.yaml").code == 0
    says(here(made, "mix", "swarm", "mix.yaml"), "leave one mixture", "nothing to choose", "max_epochs")
    edited(made, budget_tokens=available - 1000)
    assert here(made, "mix", "swarm", "mix.yaml").code == 0


def test_a_step_that_is_none(folder: Path) -> None:
    ran = here(folder, "mix", "tune", "mix.yaml")
    assert ran.code == 2
    assert "Traceback" not in ran.err


# Packages -------------------------------------------------------------------------------------------------------------


class Hiding:
    """A finder that does not find one package: as if it were not installed."""

    def __init__(self, finder: Any, package: str) -> None:
        self.finder, self.package = finder, package

    def __getattr__(self, name: str) -> Any:
        return getattr(self.finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] == self.package else self.finder.find_spec(name, path, target)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Hide a package from imports."""

    def hide(package: str) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == package]:
            monkeypatch.delitem(sys.modules, name)
        sys.meta_path[:] = [Hiding(finder, package) for finder in sys.meta_path]

    yield hide
    # Finders that were added meanwhile stay: what is imported by them is imported for good.
    sys.meta_path[:] = [each.finder if isinstance(each, Hiding) else each for each in sys.meta_path]


def test_missing_torch(folder: Path, without: Callable[[str], None]) -> None:
    without("torch")
    says(
        here(folder, "mix", "run", edited(folder, **TRANSFORMER)),
        "proxy.kind: transformer",
        "pip install 'gristmill[proxy]'",
        notes=4,
    )
    assert not (folder / MIX / "runs").exists()


def test_missing_lightgbm(made: Path, without: Callable[[str], None]) -> None:
    without("lightgbm")
    before = snapshot(made / MIX / "runs")
    ran = here(made, "mix", "fit", "mix.yaml", "--model", "lightgbm")
    says(ran, "lightgbm", "pip install 'gristmill[lightgbm]'", notes=1)
    assert snapshot(made / MIX / "runs") == before


# One at a time --------------------------------------------------------------------------------------------------------


def test_a_second_command_waits_its_turn(made: Path) -> None:
    with hold(Storage.at(str(made / MIX)), "gristmill mix train other.yaml"):
        ran = here(made, "mix", "run", "mix.yaml")
    says(ran, "is in use", "`gristmill mix train other.yaml`", f"process {os.getpid()}", "wait for it")


# Tables ---------------------------------------------------------------------------------------------------------------

RATIOS = "index,a,b\n" + "".join(f"{n},{0.1 * n},{1 - 0.1 * n:.1f}\n" for n in range(1, 9))
METRICS = "index,loss\n" + "".join(f"{n},{3 + 0.1 * n}\n" for n in range(1, 9))
TABLES = ("--ratios", "r.csv", "--metrics", "m.csv", "--out", "fit")

# (what is wrong, ratios, metrics, phrases of the answer)
TABLE_MISTAKES = [
    ("index twice", RATIOS + "3,0.5,0.5\n", METRICS, ["r.csv", "index '3'", "lines 4 and 10", "unique"]),
    ("a negative weight", RATIOS.replace("0.1,", "-0.1,", 1), METRICS, ["r.csv", "negative", "line 2"]),
    ("a row of zeros", RATIOS.replace("1,0.1,0.9", "1,0,0"), METRICS, ["r.csv", "only zeros", "line 2"]),
    ("no partner", RATIOS + "9,0.5,0.5\n", METRICS, ["1 rows of r.csv have no partner in m.csv", "9"]),
    ("no partner the other way", RATIOS, METRICS + "9,3\n", ["1 rows of m.csv have no partner in r.csv", "9"]),
    ("first column", RATIOS.replace("index", "run"), METRICS, ["r.csv", "'run'", "expected `index`"]),
    ("not a number", RATIOS, METRICS.replace("3.2", "low"), ["m.csv", "line 3", "'loss'", "'low'"]),
    ("NaN", RATIOS, METRICS.replace("3.2", "nan"), ["m.csv", "line 3", "'nan'"]),
    ("a cell too few", RATIOS.replace("1,0.1,0.9", "1,0.1"), METRICS, ["r.csv", "line 2", "2 cells"]),
    ("two columns of one name", RATIOS.replace("a,b", "a,a"), METRICS, ["r.csv", "'a'", "twice"]),
    ("nothing", "", METRICS, ["r.csv", "expected `index`"]),
    ("no rows", "index,a,b\n", METRICS, ["r.csv", "no rows"]),
]


@pytest.mark.parametrize(("ratios", "metrics", "phrases"), [pytest.param(*m[1:], id=m[0]) for m in TABLE_MISTAKES])
def test_tables(ratios: str, metrics: str, phrases: list[str], tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(ratios)
    (tmp_path / "m.csv").write_text(metrics)
    says(here(tmp_path, "mix", "fit", *TABLES), *phrases)
    assert not (tmp_path / "fit").exists()


FIT_ARGUMENTS = [
    ("nothing", [], ["CONFIG, or --ratios, --metrics and --out"]),
    ("no metrics", ["--ratios", "r.csv", "--out", "fit"], ["CONFIG, or --ratios, --metrics and --out"]),
    ("both ways", ["mix.yaml", "--ratios", "r.csv"], ["either CONFIG, or --ratios"]),
    ("no such table", ["--ratios", "x.csv", "--metrics", "m.csv", "--out", "fit"], ["x.csv", "No such file"]),
]


@pytest.mark.parametrize(("arguments", "phrases"), [pytest.param(*m[1:], id=m[0]) for m in FIT_ARGUMENTS])
def test_arguments_of_fit(arguments: list[str], phrases: list[str], tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(RATIOS)
    (tmp_path / "m.csv").write_text(METRICS)
    says(here(tmp_path, "mix", "fit", *arguments), *phrases)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.csv", "r.csv"]


def test_predict(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(RATIOS)
    (tmp_path / "m.csv").write_text(METRICS)
    assert here(tmp_path, "mix", "fit", *TABLES, "--model", "linear").code == 0
    predict = ("mix", "predict", "--fit", "fit", "--ratios", "new.csv")
    (tmp_path / "new.csv").write_text("index,a,c\n1,0.5,0.5\n")
    says(here(tmp_path, *predict), "new.csv", "c", "b")
    (tmp_path / "new.csv").write_text("index,b,a\n1,0,0\n")
    says(here(tmp_path, *predict), "new.csv", "only zeros")
    (tmp_path / "new.csv").write_text("index,b,a\n1,2,2\n")
    assert here(tmp_path, *predict).out.startswith("index,loss,loss_lo,loss_hi\n1,")
    says(here(tmp_path, "mix", "predict", "--fit", "none", "--ratios", "new.csv"), "none", "mix fit")
    for path in sorted((tmp_path / "fit").glob("fit*")):
        whole = path.read_bytes()
        for damage in (whole[: len(whole) // 2], b"", b"{}"):
            path.write_bytes(damage)
            ran = here(tmp_path, *predict)
            assert ran.code in {1, 2}
            says(ran, "fit", code=ran.code)
        path.write_bytes(whole)
    assert here(tmp_path, *predict).code == 0


# Stages and damage ----------------------------------------------------------------------------------------------------


def test_a_stage_that_was_not_made(made: Path) -> None:
    edited(made, "late.yaml", suite="code.yaml", measure=[])
    stages = [{"name": "late", "config": "late.yaml", "share": 0.1}]
    ran = here(made, "mix", "propose", edited(made, stages=stages))
    says(ran, "stages.late", "mixture.yaml does not exist", "gristmill mix run late.yaml", notes=2)
    edited(made, stages=[{"name": "late", "config": "none.yaml", "share": 0.1}])
    says(here(made, "mix", "propose", "mix.yaml"), "none.yaml does not exist", notes=2)


# (file, what stands there instead, step)
DAMAGE = [
    ("runs/*/run.json", b"{", "fit"),
    ("runs/*/measures/*.npz", b"PK", "fit"),
    ("proposals/*/fit/key.json", b"{", "fit"),
    ("slices/prose/manifest.json", b"{", "slices"),
    ("proposals/*/proposal.json", b"{", "propose"),
    ("proposals/*/verification.json", b"nul", "propose"),
    ("proposals/*/shards/index.json", b"{", "sample"),
]
HEALED = [
    ("slices/tokenizer.json", b"{"),
    ("runs/*/run.json", b"{}"),
    ("mixture.yaml", b"weights: ["),
    ("proposals/*/proposal.json", b'{"key": 1}'),
    ("proposals/*/verification.json", b"[]"),
    ("proposals/*/fit/fit.json", b"{"),
    ("proposals/*/fit/*.npz", b"PK"),
    ("slices/prose/held_out.parquet", b"PAR1"),
    ("proposals/*/shards/*/part-00001.npy", b"12"),
]


def damage(made: Path, pattern: str, content: bytes) -> Path:
    """Put `content` into the first file of a pattern, which is returned."""
    path = sorted((made / MIX).glob(pattern))[0]
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("pattern", "content", "step"), [pytest.param(*d, id=f"{d[0]} {d[1]!r}") for d in DAMAGE])
def test_damage_is_named(pattern: str, content: bytes, step: str, made: Path) -> None:
    path = damage(made, pattern, content)
    ran = here(made, "mix", step, "mix.yaml")
    assert ran.code in {1, 2}
    says(ran, path.name if path.suffix == ".json" else path.suffix, code=ran.code, notes=1)
    assert path.read_bytes() == content


def test_what_is_damaged_is_made_again(made: Path) -> None:
    """Deleted as the lines above say, or found out by itself: the same bytes are there afterwards."""
    expected = contents(made)
    for path in {damage(made, pattern, content) for pattern, content, _ in DAMAGE}:
        path.unlink()
    done(made, "run", "mix.yaml")
    assert contents(made) == expected
    for pattern, content in HEALED:
        damage(made, pattern, content)
    done(made, "run", "mix.yaml")
    assert contents(made) == expected
