"""`gristmill classifier report`: its numbers against plain Python, on files of every kind and on real workspaces."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from test_classifiers import BAD, GOOD, config, no_sql, sentences, write_jsonl

from classifiers import artefact, report
from classifiers.config import FastTextConfig, PreprocessConfig
from classifiers.evaluate import share_interval
from classifiers.preprocess import preprocess
from classifiers.report_page import as_text, write_html
from classifiers.train import train
from pipeline.table.errors import InputError, UsageError, WorkspaceError
from pipeline.table.format import encode
from pipeline.table.sql import connect
from pipeline.table.storage import Storage
from tests import local_run

HOSTILE = '</td><script src="https://evil.example/x.js">alert(1)</script>\x1b[31m'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_jsonl(folder / "good.jsonl", list(sentences(GOOD, 300, 1)))
    write_jsonl(folder / "bad.jsonl", list(sentences(BAD, 200, 2)))
    return train(config(folder), no_sql).folder


def documents(count: int = 240) -> list[dict[str, Any]]:
    """Return every other text of each class, one in eight labelled as what it is not."""
    texts = [
        text
        for pair in zip(sentences(GOOD, count // 2, 7), sentences(BAD, count // 2, 8), strict=True)
        for text in pair
    ]
    return [
        {
            "text": text,
            "url": f"https://User@Host{number % 3}.example:8080/{number}",
            "language": "en" if number % 4 else None,
            "label": (number % 2 == 0) != (number % 8 == 1),
        }
        for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, rows = tmp_path_factory.mktemp("files"), documents()
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows({**row, "label": int(row["label"])} for row in rows)
    (folder / "a.jsonl").write_bytes(lines)
    (folder / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    (folder / "a.csv").write_text(text.getvalue(), "utf-8", newline="")
    (folder / "a.csv.gz").write_bytes(gzip.compress(text.getvalue().encode()))
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=50)
    return {path.name: path for path in folder.iterdir()}


def test_every_kind_of_file_says_the_same(model: Path, files: dict[str, Path]) -> None:
    found = {}
    for name, path in files.items():
        made = asdict(report.report(model, str(path)))
        made["sample"].pop("on")
        found[name] = re.sub(r"\d+\.\d+(e-\d+)?", lambda match: f"{float(match[0]):.9g}", encode(made))
    assert len(found) == 5
    assert set(found.values()) == {found["a.jsonl"]}


def test_the_numbers_are_what_plain_python_counts(model: Path, files: dict[str, Path]) -> None:
    found, rows = report.report(model, str(files["a.jsonl"]), at=0.25), documents()
    oracle = fasttext.load_model(str(model / artefact.MODEL))
    lines = preprocess(pa.array([row["text"] for row in rows]), PreprocessConfig()).to_pylist()
    scores = [dict(zip(*oracle.predict(line, k=2), strict=True))["__label__positive"] for line in lines]
    sizes = [len(row["text"].encode()) for row in rows]
    assert found.sample["documents"] == found.sample["of"] == 240
    assert (found.sample["hosts"], found.sample["languages"]) == (3, 1)
    for of, width in (("score", 0.05), ("probability", 0.05)):
        bins = [row for row in found.distribution if row["of"] == of]
        assert sum(row["documents"] for row in bins) == 240
        assert all(row["low"] <= row["share"] <= row["high"] for row in bins)
        assert bins[3]["at_least"] == pytest.approx(3 * width)
    (cut,) = (row for row in found.kept if row["of"] == "score" and row["at_least"] == 0.25)
    is_kept = [score >= 0.25 for score in scores]
    assert cut["documents"] == pytest.approx(sum(is_kept) / 240)
    assert cut["tokens"] == pytest.approx(sum(s for s, k in zip(sizes, is_kept, strict=True) if k) / sum(sizes))
    for row in found.thresholds:
        assert row["documents"] >= row["keep"]
        assert row["score_low"] <= row["score"] <= row["score_high"]
        assert row["score"] == pytest.approx(sorted(scores)[-math.ceil(row["keep"] * 240)], abs=1e-4)
    hosts = {row["group"]: row for row in found.groups if row["by"] == "host"}
    own = [score for number, score in enumerate(scores) if number % 3 == 1]
    assert hosts["host1.example"]["documents"] == 80
    assert hosts["host1.example"]["score"] == pytest.approx(np.mean(own), abs=1e-4)
    half = 1.96 * np.std(own, ddof=1) / math.sqrt(80)
    assert hosts["host1.example"]["high"] == pytest.approx(np.mean(own) + half, abs=1e-4)
    languages = {row["group"]: row["documents"] for row in found.groups if row["by"] == "language"}
    assert languages == {"en": 180, None: 60}
    best, worst = ([row for row in found.documents if row["which"] == which] for which in ("best", "worst"))
    assert [row["score"] for row in best] == pytest.approx(sorted(scores)[:-11:-1], abs=1e-4)
    assert [row["score"] for row in worst] == pytest.approx(sorted(scores)[:10], abs=1e-4)
    assert all(rows[row["row"]]["text"].startswith(row["text"]) for row in found.documents)
    assert {row["which"] for row in found.documents} == {"best", "worst", "border", "cut"}


def test_labels_calibrate(model: Path, files: dict[str, Path]) -> None:
    held_out, given = report.report(model, str(files["a.csv"])).calibration
    assert (held_out["labels"], held_out["n_positives"], held_out["n_negatives"]) == ("held_out", 15, 10)
    assert sum(row["positives"] for row in held_out["reliability"]) == 15
    assert (given["labels"], given["n_positives"], given["n_negatives"]) == ("file", 150, 90)
    assert given["auc_low"] < given["auc"] < given["auc_high"] < held_out["auc"]
    for row in given["reliability"]:
        n, m = row["positives"], row["negatives"]
        if n + m:
            assert row["share"] == pytest.approx((n / 150) / (n / 150 + m / 90), abs=1e-5)
            assert 0 <= row["low"] <= row["share"] <= row["high"] <= 1
        else:
            assert row["share"] is None
    top = given["reliability"][-1]
    assert top["at_least"] <= top["probability"] <= top["below"]


def test_without_labels_it_says_so_and_too_few_are_no_error(model: Path, tmp_path: Path) -> None:
    plain = report.report(model, str(write_jsonl(tmp_path / "a.jsonl", list(sentences(GOOD, 40, 3)))))
    assert [row["labels"] for row in plain.calibration] == ["held_out"]
    assert any("no labels" in note for note in plain.notes)
    assert any("few" in note for note in plain.notes)
    (tmp_path / "b.jsonl").write_text(
        '{"text": "the theorem", "label": 1}\n{"text": "click", "label": null}\n', "utf-8"
    )
    few = report.report(model, str(tmp_path / "b.jsonl"))
    assert few.calibration[1]["auc"] is None
    assert few.calibration[1]["n_positives"] == 1
    assert "Too few labels: 1 positives, 0 negatives." in as_text(few)


def test_without_word_ngrams_everything_has_a_name(tmp_path: Path) -> None:
    """Also what character n-grams say of words that the model has never seen."""
    write_jsonl(tmp_path / "good.jsonl", list(sentences(GOOD, 40, 1)))
    write_jsonl(tmp_path / "bad.jsonl", list(sentences(BAD, 40, 2)))
    grams = FastTextConfig(epochs=5, learning_rate=0.5, dimension=8, bucket=500, word_ngrams=1, min_gram=2, max_gram=4)
    words = report._Words(artefact.load(train(config(tmp_path, fasttext=grams), no_sql).folder))
    words.add(pa.array(["the theorems prove", "clicks unheard-of", "proof proof"]))
    assert np.concatenate(words.hidden) == pytest.approx(0, abs=1e-6)
    assert "unheard-of" in words.found


def test_words_add_up_to_the_score(model: Path, files: dict[str, Path]) -> None:
    """Words and what has no name sum up to the log-odds."""
    classifier = artefact.load(model)
    words = report._Words(classifier)
    texts = pa.array([row["text"] for row in documents()] + ["", "unheard-of"])
    words.add(texts)
    scores, _ = artefact.score_texts(texts, classifier)
    margins = np.concatenate(words.named) + np.concatenate(words.hidden)
    assert margins[:-2] == pytest.approx(np.log(scores[:-2] / (1 - scores[:-2])), abs=1e-6)
    found = list(words.rows())
    good, bad = ({row["word"] for row in found if row["towards"] == side} for side in ("positive", "negative"))
    assert set(GOOD) <= good
    assert set(BAD) <= bad
    assert all(row["low"] <= row["log_odds"] <= row["high"] for row in found)
    assert next(row for row in found if row["word"] == "theorem")["documents"] == sum(
        "theorem" in row["text"].split() for row in documents()
    )
    about = report.report(model, str(files["a.jsonl"])).words_from
    assert 0 < about["low"] <= about["named"] <= about["high"] < 1
    assert "cannot be named" in about["how"]


@pytest.fixture(scope="module")
def workspace(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of two sources, both scored: one has a hostile document in ten copies."""
    folder = tmp_path_factory.mktemp("workspace")
    rows = [{"text": row["text"], "url": row["url"]} for row in documents()]
    odd = {"text": HOSTILE, "url": f"https://evil.example/{HOSTILE}"}
    local_run.write_jsonl(
        folder / "a.jsonl", [*rows, odd, *(odd | {"url": f"https://copy.example/{n}"} for n in range(9))]
    )
    local_run.write_jsonl(folder / "b.jsonl", local_run.rows(30))
    settings = {
        "workspace": str(folder / "ws"),
        "sources": {name: {"inputs": [str(folder / f"{name}.jsonl")], "format": "jsonl"} for name in "ab"},
        "classify": {"quality": {"model": str(model)}},
    }
    local_run.run_all(settings)
    return folder / "ws"


def test_a_workspace_keeps_its_scores_and_a_sample_says_the_same(model: Path, workspace: Path, tmp_path: Path) -> None:
    stored = report.report(model, str(workspace))
    assert (stored.sample["scores"], stored.sample["sources"]) == ("stored", ["a", "b"])
    with connect(Storage.at(str(workspace))) as session:
        (row,) = session.execute("SELECT count(*) AS n, avg(score) AS mean FROM main.scores_quality")
        cut = next(row for row in stored.thresholds if row["keep"] == 0.2)
        (kept,) = session.execute(f"SELECT count(*) AS n FROM main.scores_quality WHERE score >= {cut['score']!r}")
    assert stored.sample["documents"] == row["n"] == 280
    assert kept["n"] == round(cut["documents"] * 280)
    shutil.copytree(workspace, tmp_path / "ws")
    for source in "ab":
        shutil.rmtree(tmp_path / "ws" / source / "_manifests" / "predictions")
    now = report.report(model, str(tmp_path / "ws"))
    assert now.sample["scores"] == "now"
    for name in ("distribution", "quantiles", "thresholds", "kept", "length", "groups", "words", "documents"):
        assert getattr(now, name) == getattr(stored, name), name


def test_one_source_not_scored_is_scored_now_and_said(model: Path, workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "ws")
    shutil.rmtree(tmp_path / "ws" / "b" / "_manifests" / "scores")
    found = report.report(model, str(tmp_path / "ws"))
    assert found.sample["scores"] == "now"
    assert any("has not scored all documents of b" in note for note in found.notes)
    assert report.report(model, str(tmp_path / "ws"), source="a").sample["scores"] == "stored"


def test_another_model_of_the_same_name_is_not_taken_for_this_one(workspace: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "good.jsonl", list(sentences(GOOD, 60, 3)))
    write_jsonl(tmp_path / "bad.jsonl", list(sentences(BAD, 60, 4)))
    other = train(config(tmp_path), no_sql).folder
    assert report.report(other, str(workspace)).sample["scores"] == "now"


def test_a_sample_is_the_same_each_time_and_about_as_large_as_asked(
    model: Path, files: dict[str, Path], workspace: Path
) -> None:
    for on in (str(files["a.parquet"]), str(workspace)):
        first, second = (report.report(model, on, n=100) for _ in range(2))
        assert first == second
        assert 60 < first.sample["documents"] < 140
        assert first.sample["of"] >= 240
        assert any("a sample" in note for note in first.notes)


def test_copies_are_shown_once_and_the_page_runs_nothing(model: Path, workspace: Path, tmp_path: Path) -> None:
    at = float(artefact.score_texts(pa.array([HOSTILE]), artefact.load(model))[0][0])
    found = report.report(model, str(workspace), at=at)
    assert sum("evil.example" in row["text"] for row in found.documents if row["which"] == "cut") == 1
    page, again = tmp_path / "a.html", tmp_path / "b.html"
    write_html(found, page)
    write_html(found, again)
    text = page.read_text("utf-8")
    assert page.read_bytes() == again.read_bytes()
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\x1b" not in as_text(found)
    assert "&lt;script" in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert "Ten at the border" in text


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"model": "nothing"}, InputError, "classifier nothing does not exist"),
        ({"model": __file__}, InputError, "is no folder of a classifier"),
        ({"on": "none.jsonl"}, InputError, "none.jsonl does not exist"),
        ({"on": "none"}, WorkspaceError, "does not exist"),
        ({"on": __file__}, InputError, "its name must end in"),
        ({"source": "x"}, UsageError, "is a file and has no sources"),
        ({"columns": {"text": "txet"}}, InputError, r"no column 'txet' \(nearest: 'text'\)"),
        ({"columns": {"txet": "text"}}, UsageError, r"--columns txet=... \(nearest: 'text'\)"),
        ({"columns": {"label": "language"}}, InputError, "label 'en' is neither"),
        ({"n": 99}, UsageError, "--n 99: look at 100"),
        ({"at": float("nan")}, UsageError, "--at nan"),
    ],
)
def test_mistakes_are_one_line(
    model: Path, files: dict[str, Path], given: dict[str, Any], error: type[Exception], message: str
) -> None:
    asked = {"model": str(model), "on": str(files["a.csv"])} | given
    with pytest.raises(error, match=message) as caught:
        report.report(**asked)
    assert "\n" not in str(caught.value)


def test_mistakes_about_a_workspace(model: Path, workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"--source aa: .* has no such source"):
        report.report(model, str(workspace), source="aa")
    with pytest.raises(UsageError, match=r"--columns: .* is a workspace"):
        report.report(model, str(workspace), columns={"text": "body"})
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="has no text to score"):
        report.report(model, str(tmp_path / "empty.jsonl"))
    found = report.report(model, str(workspace))
    with pytest.raises(WorkspaceError, match=r"page\.html"):
        write_html(found, tmp_path / "empty.jsonl" / "page.html")


def test_an_interval_of_a_share_holds_it() -> None:
    for found, of in ((0, 1), (1, 1), (0, 10), (5, 10), (10, 10), (3, 1000)):
        low, high = share_interval(found, of)
        assert 0 <= low <= found / of <= high <= 1
    assert share_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)  # of R's binom::binom.wilson
