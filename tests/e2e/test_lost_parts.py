"""Whatever part of a workspace is lost or deleted, the next run makes it anew: the advice that errors give holds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from classifiers.config import TrainConfig
from classifiers.train import train
from pipeline.table.sql import run_sql
from tests.local_run import rows, run_all, write_jsonl

GROUPS = (
    "documents",
    "rejects",
    "signals/language",
    "signals/text_stats",
    "signatures",
    "duplicates",
    "predictions/quality",
    "scores/quality",
    "outcomes",
    "curated",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A finished workspace of one input with a copy and a broken line, and its configuration."""
    folder = tmp_path_factory.mktemp("lost")
    documents = rows(40)
    write_jsonl(folder / "a.jsonl", [*documents, documents[0]]).open("a").write("{no JSON\n")
    write_jsonl(folder / "yes.jsonl", rows(30, 100))
    write_jsonl(folder / "no.jsonl", [{"text": row["text"].upper() + " bad"} for row in rows(30, 200)])
    model = {
        "name": "quality",
        "output": str(folder / "model"),
        "positives": [{"path": str(folder / "yes.jsonl")}],
        "negatives": [{"path": str(folder / "no.jsonl")}],
        "fasttext": {"epochs": 1, "dimension": 4, "bucket": 100},
    }
    train(TrainConfig.model_validate(model), run_sql)
    config = {
        "workspace": str(folder / "ws"),
        "sources": {"web": {"format": "jsonl", "inputs": [str(folder / "a.jsonl")]}},
        "dedup": {},
        "classify": {"quality": {"model": str(folder / "model")}},
        "select": {"rules": {"words": "word_count > 3"}},
        "engine": {"workers": 1},
    }
    run_all(config)
    return config


def parts(config: dict[str, Any]) -> dict[str, str]:
    root = Path(config["workspace"])
    found = sorted(root.glob("web/**/*.parquet"))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.mark.parametrize("ending", ["parquet", "json"])
@pytest.mark.parametrize("group", GROUPS)
def test_a_lost_part_is_made_anew(config: dict[str, Any], group: str, ending: str) -> None:
    before = parts(config)
    source = Path(config["workspace"]) / "web"
    lost = list((source if ending == "parquet" else source / "_manifests").glob(f"{group}/part-*.{ending}"))
    assert lost
    for path in lost:
        path.unlink()
    run_all(config)
    assert all(path.exists() for path in lost)
    assert parts(config) == before
