"""Training, saving, loading, scoring and evaluating quality classifiers, with real fastText on small texts."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from classifiers import artefact, calibration, corpus, evaluate
from classifiers.artefact import Measured, score
from classifiers.config import Corpus, EvaluateConfig, FastTextConfig, PreprocessConfig, TrainConfig, evaluation
from classifiers.preprocess import preprocess
from classifiers.train import TrainReport, train
from pipeline.table.config import validate
from pipeline.table.errors import ConfigError, InputError, SchemaError
from pipeline.table.kept import read_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "classifiers"
GOOD = [
    "theorem",
    "proof",
    "explains",
    "because",
    "therefore",
    "history",
    "river",
    "science",
    "method",
    "careful",
    "sentence",
    "reader",
]
BAD = ["buy", "cheap", "click", "now", "subscribe", "discount", "login", "cookie", "menu", "footer", "casino", "offer"]
BOTH = ["the", "a", "of", "and", "page", "this", "that"]
SMALL = FastTextConfig(epochs=10, learning_rate=0.5, dimension=8, bucket=1000)


def sentences(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choice(words + BOTH) for _ in range(rng.randint(5, 30))) + f"\n{seed}" for _ in range(count)]


def write_jsonl(path: Path, texts: list[str | None], column: str = "text") -> Path:
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts), "utf-8")
    return path


def no_sql(workspace: str, statement: str):
    raise AssertionError(f"no query was expected: {workspace}: {statement}")


def config(folder: Path, **changes: object) -> TrainConfig:
    values = {
        "name": "quality",
        "output": str(folder / "models" / "quality"),
        "positives": [{"path": str(folder / "good.jsonl")}],
        "negatives": [{"path": str(folder / "bad.jsonl")}],
        "fasttext": SMALL,
    }
    return TrainConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainReport]:
    folder = tmp_path_factory.mktemp("train")
    write_jsonl(folder / "good.jsonl", [*sentences(GOOD, 300, 1), None, "", " \n "])
    write_jsonl(folder / "bad.jsonl", sentences(BAD, 200, 2))
    return folder, train(config(folder), no_sql)


def test_training_reports_and_separates(trained):
    _, report = trained
    assert (report.trained_positives, report.trained_negatives, report.conflicting) == (270, 180, 0)
    assert (report.evaluation.n_positives, report.evaluation.n_negatives) == (15, 10)
    assert report.evaluation.auc > 0.95
    assert report.evaluation.auc_low <= report.evaluation.auc <= report.evaluation.auc_high
    assert report.evaluation.brier < 0.2


def test_artefact_says_how_it_was_made(trained):
    folder, report = trained
    record = artefact.load(report.folder).artefact
    source = record.training.positives.sources[0]
    assert (source.rows, source.empty, source.duplicates, source.used) == (303, 3, 0, 300)
    assert record.training.negatives.repeats == 1.5
    assert record.training.measured.auc == report.evaluation.auc
    assert record.calibration.method == "platt"
    assert sorted(path.name for path in report.folder.iterdir()) == ["artefact.json", "model.bin"]
    assert [path.name for path in (folder / "models").iterdir()] == ["quality"]  # nothing temporary is left


def test_same_texts_and_seed_give_the_same_bytes(trained, tmp_path):
    folder, report = trained
    lines = (folder / "good.jsonl").read_text("utf-8").splitlines()
    good = tmp_path / "good.jsonl"
    good.write_text("\n".join(reversed(lines)) + "\n", "utf-8")
    other = train(config(folder, output=str(tmp_path / "again")), no_sql)
    for name in (artefact.MODEL, artefact.ARTEFACT):
        assert (other.folder / name).read_bytes() == (report.folder / name).read_bytes()
    shuffled = train(config(folder, output=str(tmp_path / "shuffled"), positives=[{"path": str(good)}]), no_sql)
    assert (shuffled.folder / artefact.MODEL).read_bytes() == (report.folder / artefact.MODEL).read_bytes()
    seeded = train(config(folder, output=str(tmp_path / "seeded"), seed=2), no_sql)
    assert (seeded.folder / artefact.MODEL).read_bytes() != (report.folder / artefact.MODEL).read_bytes()
    assert seeded.content_hash != report.content_hash


def test_score_equals_fasttext_and_keeps_every_row(trained):
    _, report = trained
    classifier = artefact.load(report.folder)
    oracle = fasttext.load_model(str(report.folder / artefact.MODEL))
    texts = [*sentences(GOOD, 20, 7), *sentences(BAD, 20, 8), "Ünknown wörds 日本語", "", "\t\n", "The THEOREM"]
    documents = pa.table({"doc_id": [f"{i:032x}" for i in range(len(texts))], "text": texts})
    scored = score(documents, classifier)
    assert scored["doc_id"].equals(documents["doc_id"])
    assert scored.schema.types == [pa.string(), pa.float32(), pa.float32()]
    for text, found in zip(texts, scored["score"].to_pylist(), strict=True):
        if not text.strip():
            assert found == 0.0
            continue
        labels, probabilities = oracle.predict(text.replace("\n", " ").replace("\t", " ").lower(), k=2)
        assert found == pytest.approx(dict(zip(labels, probabilities, strict=True))["__label__positive"], abs=1e-4)
    assert scored["probability"].to_pylist()[-3:-1] == [0.0, 0.0]
    assert scored["probability"].to_numpy()[:20].mean() > 0.8 > 0.2 > scored["probability"].to_numpy()[20:40].mean()


def test_score_of_chunks_slices_and_no_rows(trained):
    classifier = artefact.load(trained[1].folder)
    texts = pa.chunked_array(
        [pa.array(["x", "the theorem"]).slice(1), pa.array(["click now", None], pa.large_string()).cast("string")]
    )
    documents = pa.table({"doc_id": ["a", "b", "c"], "text": texts})
    whole = score(documents, classifier)
    assert whole.num_rows == 3
    assert whole["score"][2].as_py() == 0.0
    assert score(documents.slice(0, 0), classifier).num_rows == 0
    assert score(documents.slice(1, 1), classifier)["score"][0] == whole["score"][1]
    with pytest.raises(SchemaError, match="column 'text' is missing"):
        score(documents.drop_columns(["text"]), classifier)


@pytest.mark.parametrize("tail", ["", "model.bin", "artefact.json"])
def test_load_takes_the_folder_or_a_file_in_it(trained, tail):
    assert artefact.load(trained[1].folder / tail).content_hash == trained[1].content_hash


def test_texts_in_both_classes_are_used_for_neither(tmp_path):
    shared = sentences(GOOD + BAD, 10, 3)
    write_jsonl(tmp_path / "good.jsonl", sentences(GOOD, 60, 1) + shared + shared)
    write_jsonl(tmp_path / "bad.jsonl", sentences(BAD, 60, 2) + [text.upper() for text in shared])
    report = train(config(tmp_path), no_sql)
    assert report.conflicting == 10
    record = artefact.load(report.folder).artefact.training.positives
    assert (record.sources[0].duplicates, record.trained + record.calibrated + record.tested) == (10, 60)


def test_limit_draws_the_same_texts_whatever_their_order(tmp_path):
    texts = sentences(GOOD, 200, 1)
    write_jsonl(tmp_path / "bad.jsonl", sentences(BAD, 60, 2))
    contents = []
    for order in (texts, texts[::-1]):
        path = write_jsonl(tmp_path / "good.jsonl", order)
        report = train(config(tmp_path, positives=[{"path": str(path), "limit": 30}]), no_sql)
        source = artefact.load(report.folder).artefact.training.positives.sources[0]
        assert (source.rows, source.used) == (200, 30)
        contents.append(source.content)
    assert contents[0] == contents[1]


def test_reads_every_format_and_sql(tmp_path):
    texts = ["one", None, "drei\u2028vier", "日本"]
    lines = "".join(json.dumps({"body": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines[:20]) + zstandard.compress(lines[20:]))
    pq.write_table(pa.table({"other": [1, 2, 3, 4], "body": texts}), tmp_path / "d.parquet")
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"):
        item = Corpus(path=str(tmp_path / name), text="body")
        assert [t for array in corpus.read(item, "positives.0", no_sql) for t in array.to_pylist()] == texts

    def run_sql(workspace, statement):
        assert (workspace, statement) == ("ws", "SELECT text FROM web.curated")
        yield pa.record_batch({"text": ["one"]})

    item = Corpus(workspace="ws", sql="SELECT text FROM web.curated")
    assert [array.to_pylist() for array in corpus.read(item, "positives.0", run_sql)] == [["one"]]


MISTAKES = {
    "missing.jsonl": (None, "missing.jsonl does not exist"),
    "text.txt": (b"text\n", r"its name must end in \.parquet"),
    "column.jsonl": (b'{"texts": "x"}\n', r"column.jsonl:1: there is no column 'text' \(nearest: 'texts'\)"),
    "notjson.jsonl": (b'{"text": "x"}\n{"text": \n', "notjson.jsonl:2: not JSON"),
    "list.jsonl": (b"[1]\n", "list.jsonl:1: a list, not an object"),
    "number.jsonl": (b'{"text": 5}\n', "'text' is int, not text"),
    "deep.jsonl": (b'{"text": ' + b"[" * 200_000 + b"\n", "deep.jsonl:1: not JSON"),
    "notgzip.jsonl.gz": (b"plain", "damaged or not what its name says"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "x"}\n' * 1000, mtime=0)[:40], "damaged or not what its name says"),
    "notzstd.jsonl.zst": (b"plain", "damaged or not what its name says"),
    "not.parquet": (b"plain", "damaged or not what its name says"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_corpora_are_named(tmp_path, name):
    content, message = MISTAKES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list(corpus.read(Corpus(path=str(tmp_path / name)), "positives.0", no_sql))
    assert str(caught.value).startswith("positives.0")


def test_parquet_columns_are_checked(tmp_path):
    pq.write_table(pa.table({"txt": ["a"], "text_length": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no column 'text' \(nearest: 'txt'\)"):
        list(corpus.read(Corpus(path=str(tmp_path / "a.parquet")), "positives.0", no_sql))
    with pytest.raises(InputError, match="'text_length' is int64, not text"):
        list(corpus.read(Corpus(path=str(tmp_path / "a.parquet"), text="text_length"), "positives.0", no_sql))


@pytest.mark.parametrize(("good", "shown"), [([], 0), (["", None], 0), (["same"] * 100, 1)])
def test_too_few_texts(tmp_path, good, shown):
    write_jsonl(tmp_path / "good.jsonl", good)
    write_jsonl(tmp_path / "bad.jsonl", sentences(BAD, 30, 2))
    with pytest.raises(InputError, match=f"positives: {shown} distinct texts .* training needs 20"):
        train(config(tmp_path), no_sql)
    assert not (tmp_path / "models" / "quality").exists()


def test_damaged_artefacts_are_refused(trained, tmp_path):
    model, record = ((trained[1].folder / name).read_bytes() for name in (artefact.MODEL, artefact.ARTEFACT))
    changed = json.loads(record)
    cases = [
        (None, None, "artefact.json is missing"),
        (model, None, "artefact.json is missing"),
        (None, record, "model.bin is missing"),
        (model[:-1], record, "is not the model that artefact.json was written for"),
        (model, b"{", "is damaged"),
        (model, b"[]", "is damaged"),
        (model, b"[" * 100_000, "is damaged"),
        (model, json.dumps(changed | {"format": 2}).encode(), "is damaged.*format = 2"),
        (model, json.dumps(changed | {"preprocess_version": 9}).encode(), "preprocessing version 9, this is version 1"),
        (
            model,
            json.dumps({k: v for k, v in changed.items() if k != "calibration"}).encode(),
            "'calibration' is missing",
        ),
    ]
    for number, (model_bytes, record_bytes, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        if model_bytes is not None:
            (folder / artefact.MODEL).write_bytes(model_bytes)
        if record_bytes is not None:
            (folder / artefact.ARTEFACT).write_bytes(record_bytes)
        with pytest.raises(InputError, match=message):
            artefact.load(folder)
    with pytest.raises(InputError, match="does not exist; train one"):
        artefact.load(tmp_path / "nowhere")


def test_evaluate_held_out_repeats_the_measurement(trained):
    folder, report = trained
    classifier = artefact.load(report.folder)
    options = config(folder)
    held_out = EvaluateConfig(positives=options.positives, negatives=options.negatives, held_out=True)
    assert evaluate.evaluate_corpora(classifier, held_out, no_sql) == report.evaluation
    everything = EvaluateConfig(positives=options.positives, negatives=options.negatives)
    assert evaluate.evaluate_corpora(classifier, everything, no_sql).n_positives == 303
    with pytest.raises(InputError, match="negatives: 1 texts to evaluate on"):
        evaluate.evaluate(classifier, [pa.array(["a", "b"])], [pa.array(["a"])])


def test_evaluation_config_takes_a_training_config(tmp_path):
    lists = {"positives": [{"path": "a.jsonl"}], "negatives": [{"path": "b.jsonl"}]}
    assert evaluation(lists, "e.yaml").held_out is False
    assert evaluation(lists | {"name": "q", "output": "m"}, "e.yaml").held_out is True
    with pytest.raises(ConfigError, match=r"unknown key 'positive' \(nearest: 'positives'\)"):
        evaluation(lists | {"positive": 1}, "e.yaml")
    with pytest.raises(ConfigError, match="name at least one corpus"):
        evaluation(lists | {"positives": []}, "e.yaml")
    with pytest.raises(ConfigError, match="give either `path`, or `workspace` and `sql`"):
        evaluation(lists | {"positives": [{"sql": "SELECT 1"}]}, "e.yaml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configurations_are_valid(path):
    value, lines = read_yaml(path)
    assert validate(TrainConfig, value, str(path), lines).name == "quality"


def test_preprocess_by_hand():
    texts = pa.array(["A\tB\r\n\x00\x0b\x0cÄ", None, "x</s>y", "__label__negative z", "１23"])
    assert preprocess(texts, PreprocessConfig()).to_pylist() == ["a b     ä", "", "x y", " negative z", "１23"]
    kept = PreprocessConfig(lowercase=False, normalise_digits=True, max_characters=3)
    assert preprocess(texts, kept).to_pylist() == ["A B", "", "x</", "__l", "１00"]
    assert preprocess(pa.array([], pa.string()), kept).to_pylist() == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(alphabet=st.characters(exclude_categories=["Cs"]))), max_size=6))
def test_preprocess_makes_one_harmless_line_of_each_text(texts):
    lines = preprocess(pa.array(texts, pa.string()), PreprocessConfig()).to_pylist()
    assert len(lines) == len(texts)
    for line in lines:
        assert not set("\t\n\v\f\r\0") & set(line)
        assert "__label__" not in line
        assert "</s>" not in line


scores = hnp.arrays(np.float64, st.integers(2, 30), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]))


@settings(max_examples=200, deadline=None)
@given(scores, scores)
def test_auc_is_the_share_of_pairs_in_order(positives, negatives):
    auc, low, high = evaluate.auc_interval(positives, negatives)
    pairs = (positives[:, None] > negatives).mean() + 0.5 * (positives[:, None] == negatives).mean()
    assert auc == pytest.approx(pairs)
    assert 0.0 <= low <= auc <= high <= 1.0


def test_auc_interval_covers_the_truth():
    """Two normals one standard deviation apart: the true AUC is 0.7602; a 95 % interval holds it about as often."""
    rng = np.random.default_rng(1)
    draws = [evaluate.auc_interval(rng.normal(1, 1, 60), rng.normal(0, 1, 80)) for _ in range(400)]
    assert 0.92 <= np.mean([low <= 0.7602 <= high for _, low, high in draws]) <= 0.98
    assert evaluate.auc_interval(np.ones(5), np.zeros(9)) == (1.0, pytest.approx(0.025 ** (1 / 5)), 1.0)


def test_calibration_finds_a_known_curve():
    rng = np.random.default_rng(1)
    p = rng.uniform(0.001, 0.999, 40_000)
    is_positive = rng.uniform(size=p.size) < calibration.calibrate(
        calibration.Calibration(method="platt", slope=2.0, intercept=0.0), p
    )
    fitted = calibration.fit(p[is_positive], p[~is_positive])
    assert fitted.slope == pytest.approx(2.0, abs=0.1)
    assert fitted.intercept == pytest.approx(0.0, abs=0.1)
    assert calibration.fit(np.array([0.1, 0.2]), np.array([0.8, 0.9])) == calibration.IDENTITY


@settings(max_examples=100, deadline=None)
@given(scores, scores)
def test_calibration_keeps_order_and_range(positives, negatives):
    fitted = calibration.fit(positives, negatives)
    grid = calibration.calibrate(fitted, np.linspace(0, 1, 101))
    assert (np.diff(grid) >= 0).all()
    assert grid[0] >= 0.0
    assert grid[-1] <= 1.0


# Doubts --------------------------------------------------------------------------------------------------------------


def measured(positives: list[float], negatives: list[float], lengths: tuple[list[int], list[int]]) -> Measured:
    sides = np.array(positives), np.array(negatives)
    longs = np.array(lengths[0], np.float64), np.array(lengths[1], np.float64)
    return evaluate.measure(sides, sides, longs)


SPREAD = [n / 100 for n in range(100)]
HIGH, LOW = [0.6 + s / 3 for s in SPREAD], [s / 2 for s in SPREAD]
MIXED, RISING, LONGER = [(37 * n) % 100 for n in range(100)], list(range(100)), [n + 200 for n in range(100)]
FALLING, SHORTER = LONGER[::-1], RISING[::-1]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (measured(HIGH, LOW, (MIXED, MIXED)), []),
        (measured([1.0] * 100, [0.0] * 300, (MIXED, MIXED * 3)), []),
        (measured([0.9, 0.8, 0.7], [0.1, 0.2, 0.3], ([1, 2, 3], [3, 1, 2])), ["guessing: AUC 1.00", "3 positives and"]),
        (measured(SPREAD, SPREAD, (MIXED, MIXED)), ["guessing: AUC 0.50"]),
        (
            measured(SPREAD[45:65], SPREAD[30:55], (MIXED[:20], MIXED[:25])),
            ["not known: AUC 0.90 (95 % interval 0.7", "20 positives and"],
        ),
        (
            measured([0.51 + s / 100 for s in HIGH], [0.51 + s / 100 for s in LOW], (MIXED, MIXED)),
            ["do not spread: 100 % of the held-out texts have scores within 0.02", "100 positives and 100 negatives"],
        ),
        (measured(HIGH, LOW, (LONGER, RISING)), ["follow the length", "correlation 1.00", "length alone has AUC 1.00"]),
        (measured(HIGH, LOW, (SHORTER, FALLING)), ["correlation -1.00, 95 % interval -1.00 to -1.00", "has AUC 0.00"]),
    ],
)
def test_doubts_say_why_and_how_sure(found: Measured, words: list[str]) -> None:
    doubts = " | ".join(found.doubts())
    assert bool(doubts) == bool(words)
    assert [word for word in words if word not in doubts] == []


def test_what_an_earlier_version_measured_is_read_and_doubted() -> None:
    old = {"auc": 1.0, "auc_low": 0.3, "auc_high": 1.0, "brier": 0.1, "n_positives": 3, "n_negatives": 3}
    (doubt,) = Measured.model_validate(old).doubts()
    assert "no better than guessing" in doubt


def test_rank_correlation_is_scipys_with_fishers_interval() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    left, right = rng.integers(0, 20, 60).astype(np.float64), rng.integers(0, 20, 60).astype(np.float64)
    found, low, high = evaluate.rank_correlation(left + right, right)
    assert found == pytest.approx(spearmanr(left + right, right).statistic, abs=1e-6)
    assert low < found < high
    assert evaluate.rank_correlation(left, np.ones(60))[0] == 0.0
    assert evaluate.rank_correlation(left[:4], right[:4])[1:] == (-1.0, 1.0)
