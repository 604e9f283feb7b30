"""Language identification on labelled real text and real pages, against fastText itself."""

from __future__ import annotations

import json
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest

from pipeline.inputs.shipped import lid_model_path
from pipeline.signals import language
from pipeline.table.errors import InputError

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
GOLD = DATA / "lid" / "lid-gold.jsonl"
PAGES = DATA / "web" / "web-dev-gold.jsonl"

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not GOLD.exists() or not PAGES.exists(), reason="../shared/data is absent"),
]


def table(texts: list[str | None]) -> pa.Table:
    return pa.table({"doc_id": [f"{i:032x}" for i in range(len(texts))], "text": pa.array(texts, pa.string())})


@pytest.fixture(scope="module")
def model():
    return language.load_model(lid_model_path())


@pytest.fixture(scope="module")
def oracle():
    return fasttext.load_model(str(lid_model_path()))


def assert_equals_fasttext(found: pa.Table, oracle: object, texts: list[str]) -> None:
    for text, name, score in zip(
        texts, found["language"].to_pylist(), found["language_score"].to_pylist(), strict=True
    ):
        if not text.strip():
            assert (name, score) == (None, None)
            continue
        labels, probabilities = oracle.predict(text.replace("\n", " "))
        assert name == labels[0].removeprefix("__label__")
        assert score == pytest.approx(probabilities[0], abs=1e-4)


def test_gold_accuracy_is_that_of_fasttext(model, oracle):
    rows = [json.loads(line) for line in GOLD.read_bytes().split(b"\n") if line]
    texts = [row["text"] for row in rows]
    found = language.language(table(texts), model)
    assert_equals_fasttext(found, oracle, texts)
    names = found["language"].to_pylist()
    right = [name == row["lid176"] for name, row in zip(names, rows, strict=True) if row["lid176"]]
    assert np.mean(right) >= 0.90


def test_pages_equal_fasttext(model, oracle):
    texts = [json.loads(line).get("text") or "" for line in PAGES.read_bytes().split(b"\n") if line][:500]
    assert_equals_fasttext(language.language(table(texts), model), oracle, texts)


def test_blank_documents_have_no_language(model):
    texts = ["", " \n\t", "\u3000\u00a0", None, "\0", "This is plain English text."]
    found = language.language(table(texts), model)
    assert found["doc_id"].to_pylist() == [f"{i:032x}" for i in range(6)]
    assert found["language"].to_pylist() == [None, None, None, None, None, "en"]
    assert found["language_score"].null_count == 5
    assert found.schema == language.LANGUAGE
    assert language.language(table([]), model).num_rows == 0


def test_a_damaged_model_is_an_input_error(tmp_path):
    (tmp_path / "lid.ftz").write_bytes(lid_model_path().read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"lid\.ftz: not a usable fastText model"):
        language.load_model(tmp_path / "lid.ftz")
    with pytest.raises(InputError, match="the language model cannot be read"):
        language.load_model(tmp_path / "absent.ftz")
