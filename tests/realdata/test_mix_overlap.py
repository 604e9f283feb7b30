"""Real benchmarks against real sources: the overlap that the data's description lists is found, and no other."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard

from pipeline.mix.config import SuiteConfig, TaskConfig
from pipeline.mix.material.contamination import contaminated_documents, contaminated_items, index_items
from pipeline.mix.material.suites import load_suite

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
LISTED = {
    "math": {"gsm8k": 7},
    "code": {"mbpp": 5, "math": 1},
    "stackexchange": {"mbpp": 1},
    "wikipedia": {"mbpp": 1, "boolq": 1},
    "latex": {"math": 1},
    "books": {"mmlu": 1},
    "web": {},
    "arxiv": {},
    "reddit": {},
}

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not (DATA / "eval").exists(), reason="../shared/data is absent"),
]


def texts(source: str) -> pa.Array:
    with (DATA / "sources" / f"{source}.jsonl.zst").open("rb") as raw:
        reader = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw))
        return pa.array([json.loads(line)["text"] for line in reader])


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    paths = sorted((DATA / "eval").glob("*.jsonl"))
    config = SuiteConfig(folder=str(DATA / "eval"), tasks=tuple(TaskConfig(name=p.stem, path=p.name) for p in paths))
    path = tmp_path_factory.mktemp("suite") / "all.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json")))
    suite = load_suite(str(path))
    assert sum(len(task.items) for task in suite.tasks) > 25_000
    return index_items(suite.tasks, 13)


@pytest.mark.parametrize("source", LISTED)
def test_what_is_listed_is_found(index, source):
    documents = texts(source)
    found = contaminated_items([documents], index)
    assert {task: len(items) for task, items in found.items() if items} == LISTED[source]
    tasks = {task for hit in contaminated_documents(documents, index).values() for task in hit}
    assert tasks == set(LISTED[source])
