"""AGENTS.md is true: every reading command is run, and the keys and types of its JSON are those that the page says."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from classifiers.config import TrainConfig
from classifiers.train import train
from flows.doctor import examine
from flows.reference.files import FILES
from pipeline.table.errors import EXIT_CODES
from pipeline.table.sql import run_sql
from tests import local_run
from tests.cli_runs import write_config
from tests.docs.blocks import ROOT, tables
from tests.docs.test_docs import LEAVES
from tests.mix_workspace import here, mixed

AGENTS = (ROOT / "AGENTS.md").read_text("utf-8")
EXPLAINED = "https://example.org/1"

COMMANDS: Mapping[str, str] = {
    "gristmill run --dry-run": "run curate.yaml --dry-run --json",
    "gristmill rephrase --dry-run": "rephrase rephrase.yaml --dry-run --json",
    "gristmill sql": "sql curated 'SELECT doc_id, language FROM web.outcomes' --json",
    "gristmill peek": "peek rows.jsonl --json",
    "gristmill extract": "extract rows.jsonl --set keep_columns.link=url --json",
    "gristmill explain": f"explain curated {EXPLAINED} --json",
    "gristmill funnel": "funnel curated --json",
    "gristmill what-if": "what-if curated gopher --examples 1 --json",
    "gristmill sweep": "sweep curated --rule words --values 50:70:5 --json",
    "gristmill diff": "diff curate.yaml --set 'select.rules.words=word_count > 60' --examples 1 --json",
    "gristmill sample": "sample curated web --dropped-by words --json",
    "gristmill check": "check curated --json",
    "gristmill status": "status curated --json",
    "gristmill test": "test expect.yaml --json",
    "gristmill gc --dry-run": "gc curated --dry-run --json",
    "gristmill export": "export curated web --to exported --json",
    "gristmill rules list": "rules list --json",
    "gristmill rules show": "rules show gopher --json",
    "gristmill docs": "docs --json",
    "gristmill verify": "verify pairs.jsonl",
    "gristmill classifier train": "classifier train train.yaml --json",
    "gristmill classifier evaluate": "classifier evaluate model train.yaml --json",
    "gristmill classifier report": "classifier report model --on positive.jsonl --json",
    "gristmill mix slices": "mix slices mix.yaml --json",
    "gristmill mix swarm": "mix swarm mix.yaml --json",
    "gristmill mix train": "mix train mix.yaml --json",
    "gristmill mix fit": "mix fit mix.yaml --json",
    "gristmill mix explain": "mix explain mix.yaml --json",
    "gristmill mix run": "mix run mix.yaml --json",
    "gristmill mix predict": "mix predict --fit FIT --ratios FIT/ratios.csv --json",
    "gristmill scaling fit": "scaling fit --runs runs.csv --out law --bootstrap 8 --json",
    "gristmill scaling predict": "scaling predict --fit law --parameters 1e9 --tokens 2e10 --json",
    "gristmill scaling allocate": "scaling allocate --fit law --flops 1e21 --json",
}
"""What is run for each heading of AGENTS.md, in this order, in one folder. A new command is a line here, and there."""
LINES = "gristmill verify"
"""It prints one object a line, as `doctor` does."""
NO_JSON = {"gristmill init", "gristmill serve"}
ALIKE = {"gristmill mix propose", "gristmill mix verify", "gristmill mix sample", "gristmill mix report"}
"""Commands that print what `mix run` prints."""


def lay_out(shared: Path, folder: Path) -> None:
    """Write what the commands name: a mix that is finished, a workspace that is curated, and tables."""
    shutil.copytree(mixed(shared), folder, dirs_exist_ok=True)
    rows: list[dict[str, str]] = local_run.rows(40)
    rows += [{"text": text, "url": EXPLAINED} for text in (rows[1]["text"], "too short", "")]
    local_run.write_jsonl(folder / "rows.jsonl", rows)
    for label, words in (("positive", "river stone cloud garden"), ("negative", "cheap click now offer")):
        texts = [" ".join(random.Random(n).choices(words.split(), k=20)) for n in range(40)]
        local_run.write_jsonl(folder / f"{label}.jsonl", [{"text": text, "label": label} for text in texts])
    local_run.write_jsonl(folder / "pairs.jsonl", [{"id": "1", "source": "A stone of 3 kg.", "rephrased": "3 kg."}])
    training = {"name": "quality", "output": "model", "fasttext": {"dimension": 4, "bucket": 100}}
    corpora = {f"{label}s": [{"path": f"{label}.jsonl"}] for label in ("positive", "negative")}
    write_config(folder / "train.yaml", {**training, **corpora})
    curation = {
        "workspace": "curated",
        "sources": {"web": {"inputs": ["rows.jsonl"], "format": "jsonl"}},
        "select": {"rules": {"words": "word_count > 58", "best": "top_share(quality_score, 0.9)"}},
        "dedup": {"num_bands": 8},
        "classify": {"quality": {"model": "model"}},
    }
    write_config(folder / "curate.yaml", curation)
    write_config(folder / "expect.yaml", curation | {"expect": {"kept_share": "at least 0.5"}})
    routes = [{"where": "true", "styles": ["distill"]}]
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "model": "none"}
    write_config(
        folder / "rephrase.yaml", curation | {"rephrase": {"source": "web", "endpoint": endpoint, "routes": routes}}
    )
    with chdir(folder):
        train(TrainConfig.model_validate({**training, **corpora}), run_sql)
        local_run.run_all(curation)
    sizes = [(n, d) for n in (1e8, 3e8, 1e9, 3e9) for d in (2e9, 8e9, 3e10, 1e11)]
    runs = [f"{n:g},{d:g},{1.7 + 400 / n**0.34 + 400 / d**0.28}" for n, d in sizes]
    (folder / "runs.csv").write_text("\n".join(["parameters,tokens,loss", *runs]))


def answers(folder: Path) -> Iterator[tuple[str, bool, list[Any]]]:
    """Run each command in a folder and yield its name, whether its JSON is an array, and the objects."""
    (fit,) = (folder / "ws" / "mix" / "mix" / "proposals").glob("*/fit")
    for name, typed in COMMANDS.items():
        ran = here(folder, *shlex.split(typed.replace("FIT", str(fit))))
        assert ran.code == 0, f"{typed}: {ran.err}"
        found = [json.loads(line) for line in ran.out.splitlines()] if name == LINES else json.loads(ran.out)
        yield name, isinstance(found, list), found if isinstance(found, list) else [found]


def shape(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and type of everything below an object: `a.b` of objects, `a[].b` of arrays of objects."""
    for key, inner in value.items():
        below = f"{path}{key}"
        yield below, kind(inner)
        if isinstance(inner, dict):
            yield from shape(inner, f"{below}.")
        for item in inner if isinstance(inner, list) else ():
            if isinstance(item, dict):
                yield from shape(item, f"{below}[].")


def kind(value: Any) -> str:
    """Return the type of a value as AGENTS.md names it."""
    if isinstance(value, list):
        return f"array of {kind(value[0])}" if value else "array"
    names = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object", type(None): "null"}
    return names[type(value)]


def fits(found: str, said: str) -> bool:
    """Tell whether a type is one of those that AGENTS.md names."""
    types = said.split(" or ")
    is_alike = (found == "integer" and "number" in types) or (found == "array" and "array of" in said)
    return "any" in types or found in types or is_alike


def wrong(rows: Mapping[str, list[str]], objects: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what a command's table says of its keys that is not so."""
    seen = set()
    for path, found in {each for value in objects for each in shape(value)}:
        patterns = {name: re.escape(name).replace("NAME", r"[^.\[\]]+") for name in rows}
        known = path if path in rows else next((n for n, each in patterns.items() if re.fullmatch(each, path)), None)
        if known is None:
            yield f"{path} ({found}) is not in its table"
        elif not fits(found, rows[known][0]):
            yield f"{path} is {found}, not {rows[known][0]}"
        seen.add(known)
    yield from (f"{n} is not there" for n, row in rows.items() if n not in seen and "may be absent" not in row[1])


def section(name: str) -> str:
    found = re.search(rf"^### `{re.escape(name)}`\n\n(.*?)(?=^##)", AGENTS, re.MULTILINE | re.DOTALL)
    assert found, f"AGENTS.md has no section for {name}"
    return found[1]


@pytest.fixture(scope="module")
def answered(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, bool, list[Any]]]]:
    """Return the folder in which every command was run, and what each answered."""
    folder = tmp_path_factory.mktemp("answered")
    lay_out(shared, folder)
    return folder, list(answers(folder))


def test_every_reading_command_answers_as_agents_md_says(answered: tuple[Path, Any]) -> None:
    problems = []
    for name, is_array, objects in answered[1]:
        said = section(name)
        if said.startswith("An array") != (is_array and name != LINES):
            problems.append(f"{name}: it is {'an array' if is_array else 'an object'}")
        problems += [f"{name}: {problem}" for problem in wrong(tables(said, "key"), objects)]
    assert not problems, "\n".join(problems)


def test_the_reference_names_every_file_that_was_written(answered: tuple[Path, Any]) -> None:
    places = {
        "A workspace": "(curated|ws)/",
        "A mix": "ws/",
        "Token shards": "ws/mix/[^/]+/proposals/[^/]+/",
        "An export": "exported/",
        "A classifier": "model/",
        "A scaling law": "law/",
    }
    assert places.keys() == FILES.keys()
    named = [
        place
        + re.sub(r"(?<![A-Z])(?!README|GROUP)[A-Z]{3,}|\*", "[^/]*", path.replace(".", "[.]")).replace("GROUP", ".+")
        for kind, place in places.items()
        for path in FILES[kind]
    ]
    written = [path.relative_to(answered[0]).as_posix() for path in answered[0].rglob("*") if path.is_file()]
    looked_at = [path for path in written if re.match("(curated|ws|exported|model|law)/", path)]
    assert len({path.split("/")[0] for path in looked_at}) == 5
    assert not [path for path in looked_at if not any(re.fullmatch(each, path) for each in named)]


def test_every_check_of_the_doctor_has_the_keys_that_agents_md_says() -> None:
    assert not list(wrong(tables(section("gristmill doctor"), "key"), [next(iter(examine()))]))


def test_agents_md_has_every_command() -> None:
    written = {
        name.removesuffix(" --dry-run") for name in re.findall(r"^### `(gristmill [^`]+)`", AGENTS, re.MULTILINE)
    }
    assert written == {name.removesuffix(" --dry-run") for name in COMMANDS} | {"gristmill doctor"}
    assert written | NO_JSON | ALIKE == set(LEAVES)
    assert set(tables(AGENTS, "command")) == {name.removeprefix("gristmill ") for name in LEAVES}


def test_agents_md_has_every_exit_code() -> None:
    assert sorted(tables(AGENTS, "exit code"), key=int) == [str(code) for code in EXIT_CODES]
