"""The commands in the presets of suites make their items from rows as the benchmarks publish them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.mix.config import SuiteConfig
from pipeline.mix.material.suites import load_suite
from pipeline.table.errors import InputError
from pipeline.table.kept import read_config
from tests.cli_runs import environment
from tests.docs.blocks import held

BIN = Path(sys.executable).parent
PRESETS = ("code", "knowledge", "maths", "reading")
FOUNDRY = "mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/scripts/eval/local_data/world_knowledge"
ARC = {"question": "Which?", "choices": {"text": ["ice", "water"], "label": ["1", "2"]}, "answerKey": "2"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "openai/openai_humaneval/openai_humaneval/test": {
        "task_id": "HumanEval/0",
        "prompt": "def two():\n",
        "canonical_solution": "    return 2\n",
        "test": "",
        "entry_point": "two",
    },
    "google-research-datasets/mbpp/full/test": {
        "task_id": 11,
        "text": "Write two.",
        "code": "def two():\r\n  return 2",
        "test_list": ["assert two() == 2", "assert two()"],
        "test_setup_code": "",
        "challenge_test_list": [""],
    },
    "openai/gsm8k/main/test": {"question": "How many?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    "EleutherAI/hendrycks_math/algebra/test": {
        "problem": "Solve $x=2$.",
        "level": "Level 1",
        "type": "Algebra",
        "solution": r"$\boxed{2}$",
    },
    "ChilleD/SVAMP/default/test": {
        "ID": "chal-1",
        "Body": "Two and two.",
        "Question": "How many?",
        "Equation": "( 2.0 + 2.0 )",
        "Answer": "4.0",
        "Type": "Addition",
        "question_concat": "Two and two. How many?",
    },
    "allenai/ai2_arc/ARC-Easy/test": {"id": "Mercury_1", **ARC},
    "allenai/ai2_arc/ARC-Challenge/test": {"id": "Mercury_2", **ARC},
    "cais/mmlu/all/test": {"question": "Two?", "subject": "abstract_algebra", "choices": ["0", "1", "2"], "answer": 2},
    "allenai/openbookqa/main/test": {
        "id": "8-376",
        "question_stem": "Rain is",
        "choices": {"text": ["dry", "wet"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "mandarjoshi/trivia_qa/unfiltered.nocontext/validation": {
        "question": "Who?",
        "question_id": "tc_1",
        "question_source": "http://example.org/",
        "answer": {"aliases": ["She", "Her"], "normalized_value": "she", "type": "WikipediaEntity", "value": "She"},
    },
    "google/boolq/default/validation": {"question": "is it so", "answer": False, "passage": "It is not."},
    "Rowan/hellaswag/default/validation": {
        "ind": 24,
        "activity_label": "Roof shingle removal",
        "ctx": "A man sits on a roof. he",
        "endings": ["is away.", "starts pulling."],
        "label": "1",
    },
    "EleutherAI/lambada_openai/en/test": {"text": "She said,\n\nno, he thought of her smile"},
    "ybisk/piqa/plain_text/validation": {"goal": "Boil eggs", "sol1": "in a bag", "sol2": "in a pot", "label": 1},
    "allenai/winogrande/winogrande_xl/validation": {
        "sentence": "Ann taught Eve, and _ learnt much.",
        "option1": "Ann",
        "option2": "Eve",
        "answer": "2",
    },
}
JSON_LINES = {
    "jeopardy_all": '{"context": "SCIENCE: It is wet", "continuation": "Water", "category": "science"}\n',
    "bigbench_qa_wikidata": '{"context": "The capital of Peru is", "answer": "Lima", "aliases": ["Lima"]}\n',
}
ITEMS = {
    "humaneval": ("HumanEval/0", "def two():\n", "    return 2\n"),
    "mbpp": ("mbpp-11", "Write two.\nassert two() == 2\nassert two()\n", "def two():\n  return 2"),
    "gsm8k": ("gsm8k-", "Question: How many?\nAnswer:", " 1+1=2\n#### 2"),
    "math": ("math-", "Problem: Solve $x=2$.\nSolution:", r" $\boxed{2}$"),
    "svamp": ("chal-1", "Question: Two and two. How many?\nAnswer:", " 4"),
    "arc_easy": ("Mercury_1", "Question: Which?\nAnswer:", " water"),
    "arc_challenge": ("Mercury_2", "Question: Which?\nAnswer:", " water"),
    "mmlu": ("abstract_algebra-", "The following is a question about abstract algebra.\nQuestion: Two?\nAnswer:", " 2"),
    "openbookqa": ("8-376", "Rain is", " wet"),
    "triviaqa": ("tc_1", "Question: Who?\nAnswer:", " She"),
    "jeopardy": ("jeopardy-", "SCIENCE: It is wet\nAnswer:", " Water"),
    "wikidata_qa": ("wikidata_qa-", "The capital of Peru is", " Lima"),
    "boolq": ("boolq-", "Passage: It is not.\nQuestion: is it so?\nAnswer:", " no"),
    "hellaswag": ("hellaswag-24", "Roof shingle removal: A man sits on a roof. he", " starts pulling."),
    "lambada": ("lambada-", "She said,\n\nno, he thought of her", " smile"),
    "piqa": ("piqa-", "Question: Boil eggs\nAnswer:", " in a pot"),
    "winogrande": ("winogrande-", "Ann taught Eve, and Eve", " learnt much."),
}


def text(preset: str) -> str:
    path = preset_path("suites", preset)
    assert path is not None
    return path.read_text("utf-8")


def publish(folder: Path) -> None:
    """Write the published rows as a download of the Hub's Parquet branch leaves them."""
    for name, row in PUBLISHED.items():
        (folder / "hub" / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row]), folder / "hub" / name / "0000.parquet")
    (folder / "hub" / FOUNDRY).mkdir(parents=True)
    for name, line in JSON_LINES.items():
        (folder / "hub" / FOUNDRY / f"{name}.jsonl").write_text(line)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_makes_its_items_from_published_rows(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    publish(tmp_path)
    (tmp_path / "eval").mkdir()
    sql = "\n".join(re.findall(r"^#: (.*)", text(preset), re.MULTILINE))
    sql = re.sub(r"hf://datasets|https://raw.githubusercontent.com", "hub", sql)
    duckdb.connect().execute(sql.replace("@~parquet", ""))
    suite = load_suite(preset)
    made = {task.name: task.items for task in suite.tasks}
    assert list(made) == [task.name for task in suite.config.tasks]
    for name, (item,) in made.items():
        assert (item.prompt, item.continuation) == ITEMS[name][1:]
        assert re.fullmatch(re.escape(ITEMS[name][0]) + "([0-9a-f]{12})?", item.id), item.id


def test_the_lines_of_the_page_run_on_rows_of_the_published_form(tmp_path):
    """But for the download: what it leaves is written here, and without a network `hf` says what it would ask for."""
    publish(tmp_path)
    made, fetched = held(test_the_lines_of_the_page_run_on_rows_of_the_published_form)
    download, _, read = fetched.text.partition("\nmkdir ")
    read = "mkdir " + " ".join(read.split())
    for preset in PRESETS:
        (line,) = re.findall(r"^#   (mkdir .*)", text(preset), re.MULTILINE)
        assert line == made.text.strip().replace("knowledge", preset)
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    assert re.sub(r"sed 's#.*?' \| (?=python)", "", read) == made.text.strip().replace("knowledge", "code")
    for preset in ("code", "knowledge"):
        line = read.replace("docs code", f"docs {preset}")
        subprocess.run(["bash", "-euc", line], cwd=tmp_path, env=environment(PATH=path), check=True)
        wanted = {Path(name).name for name in re.findall(r" path: ([^\s,}]+)", text(preset))}
        assert wanted <= {file.name for file in (tmp_path / "eval").iterdir()}
    asked = environment(PATH=path, HF_HUB_OFFLINE="1")
    done = subprocess.run(
        ["bash", "-c", download], cwd=tmp_path, env=asked, capture_output=True, text=True, check=False
    )
    for name in re.findall(r"hf://datasets/([^@]+)@", text("code")):
        assert f"datasets/{name}/revision/refs%2Fconvert%2Fparquet: offline mode is enabled" in done.stderr
        assert (tmp_path / "hub" / name).is_dir(), "where the rows of that task are read from"


@pytest.mark.parametrize("preset", preset_names("suites"))
def test_a_missing_file_says_what_it_is_made_from_and_where_to_read_on(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(preset_path("suites", preset))
    tasks = read_config(SuiteConfig, path).tasks
    assert all(re.search(r"\([^()]*\b[\d,]+ items, [^()]+\)$", task.origin or "") for task in tasks)
    for named, told in ((preset, f"`gristmill docs {preset}`"), (path, path)):
        with pytest.raises(InputError) as caught:
            load_suite(named)
        expected = f"No such file or directory; make it from {tasks[0].origin}, {told} says how"
        assert str(caught.value).endswith(expected)
        assert f"{tasks[0].path}: " in str(caught.value)


def test_an_origin_of_several_lines_is_told_in_one(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("tasks:\n  - name: a\n    path: none.jsonl\n    origin: |\n      our own (3 items,\n      MIT)\n")
    with pytest.raises(InputError, match=r"make it from our own \(3 items, MIT\), .*own\.yaml says how$"):
        load_suite(str(path))
