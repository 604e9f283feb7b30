"""The fastText kernel against fastText's own `predict`, over every kind of model, and against damaged files."""

from __future__ import annotations

import random
import re
import shutil
import struct
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.kernels import fasttext as kernel
from pipeline.kernels.fasttext import FastTextModel
from pipeline.table.schema import text_buffers

OPTIONS = {
    "softmax_pairs": {"dim": 8, "wordNgrams": 2, "bucket": 500, "loss": "softmax"},
    "softmax_plain": {"dim": 8, "wordNgrams": 1, "loss": "softmax"},
    "softmax_wide": {"dim": 2, "wordNgrams": 3, "bucket": 100, "loss": "softmax"},
    "hierarchical_subwords": {"dim": 2, "minn": 2, "maxn": 4, "bucket": 1000, "loss": "hs"},
    "hierarchical_projected": {"dim": 9, "minn": 1, "maxn": 3, "bucket": 77, "wordNgrams": 2, "loss": "hs"},
    "one_vs_all": {"dim": 10, "minn": 3, "maxn": 3, "bucket": 300, "loss": "ova"},
    "many_labels": {"dim": 4, "minn": 2, "maxn": 3, "bucket": 200, "loss": "softmax"},
}
QUANTISED = {
    "quantised": ("hierarchical_subwords", {}),
    "quantised_pruned": ("softmax_pairs", {"cutoff": 400, "qnorm": True}),
    "quantised_without_buckets": ("softmax_plain", {"cutoff": 300, "qnorm": True}),
    "quantised_output": ("many_labels", {"qout": True, "qnorm": True}),
}
WORDS = {
    "en": "the of and house water reads a book </s>",
    "de": "der die und Straße größer Haus liest",
    "ru": "дом вода книга и читает большой",
    "ja": "日本語 の 本 を 読む 家",
    "emoji": "😀 👍🏽 ok é ñ",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[object, FastTextModel, Path]]:
    """Small real models of every loss, with and without n-grams, quantisation and pruning."""
    folder = tmp_path_factory.mktemp("models")
    rng = random.Random(7)
    lines = [
        f"__label__{label} "
        + " ".join(rng.choice(words.split()) + rng.choice(["", "", "s", "é", str(i)]) for _ in range(8))
        for i in range(150)
        for label, words in WORDS.items()
    ]
    (folder / "train.txt").write_text("\n".join(lines) + "\n", "utf-8")
    many = [f"__label__n{i} the number {i} is house{i % 7}" for i in range(300)]
    (folder / "many_labels.txt").write_text("\n".join(many) + "\n", "utf-8")
    for name in OPTIONS:
        train(folder, name).save_model(str(folder / f"{name}.bin"))
    for name, (base, options) in QUANTISED.items():
        model = train(folder, base)
        model.quantize(**options)
        model.save_model(str(folder / f"{name}.ftz"))
    paths = sorted([*folder.glob("*.bin"), *folder.glob("*.ftz")])
    return {path.stem: (fasttext.load_model(str(path)), kernel.load(path), path) for path in paths}


def train(folder: Path, name: str) -> object:
    source = str(folder / ("many_labels.txt" if name == "many_labels" else "train.txt"))
    return fasttext.train_supervised(source, lr=0.5, epoch=10, thread=1, verbose=0, seed=3, **OPTIONS[name])


def predict(
    model: FastTextModel, texts: list[str], max_bytes: int | None = None
) -> list[tuple[str | None, float, int]]:
    labels, probabilities, words = kernel.predict(model, *text_buffers(pa.array(texts, pa.string())), max_bytes)
    return [
        (model.labels[label] if label >= 0 else None, float(p), int(n))
        for label, p, n in zip(labels, probabilities, words, strict=True)
    ]


def assert_same(oracle: object, model: FastTextModel, texts: list[str], tolerance: float = 1e-4) -> None:
    for text, (label, probability, _) in zip(texts, predict(model, texts), strict=True):
        line = " ".join(word for word in re.split("[ \t\n\v\f\r\0]", text) if word != "</s>")  # which would end it
        labels, probabilities = oracle.predict(line, k=2)
        if not labels:
            assert (label, probability) == (None, 0.0)
            continue
        assert abs(probability - probabilities[0]) <= tolerance, text[:80]
        is_tie = len(labels) > 1 and abs(probabilities[0] - probabilities[1]) <= 2e-5
        assert is_tie or label == labels[0].removeprefix("__label__"), text[:80]


words = st.sampled_from(
    [word for text in WORDS.values() for word in text.split()] + ["__label__", "__label__de", "__label__zz", "<"]
)
texts = st.one_of(
    st.text(max_size=60),
    st.lists(st.one_of(words, st.text(max_size=6)), max_size=30).map(" ".join),
    st.text(alphabet="ab \t\n\v\f\r\0é\u00a0\u3000", max_size=40),
)
NAMES = [*OPTIONS, *QUANTISED]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(batch=st.lists(texts, min_size=1, max_size=8))
def test_predicts_what_fasttext_predicts(models, name, batch):
    oracle, model, _ = models[name]
    # One-vs-all looks its sigmoid up in a table of 513 steps: rounding may reach the next step, never one further.
    assert_same(oracle, model, batch, tolerance=0.008 if name == "one_vs_all" else 1e-4)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(batch=st.lists(texts, min_size=2, max_size=6), data=st.data())
def test_batching_changes_no_bit(models, name, batch, data):
    _, model, _ = models[name]
    order = data.draw(st.permutations(range(len(batch))))
    together = predict(model, batch)
    assert [predict(model, [batch[i]])[0] for i in order] == [together[i] for i in order]


@pytest.mark.parametrize("name", NAMES)
def test_probability_of_a_given_label(models, name):
    oracle, model, _ = models[name]
    text = "the house and the water"
    found = kernel.features(model, *text_buffers(pa.array([text, ""])))
    expected = dict(zip(*oracle.predict(text, k=-1), strict=True))
    for label in model.labels:
        probability = kernel.label_probabilities(model, found, label)[0]
        assert probability == pytest.approx(expected.get(f"__label__{label}", 0.0), abs=1e-4)
    with pytest.raises(ValueError, match="label 'xx' is not among"):
        kernel.label_probabilities(model, found, "xx")


@pytest.mark.parametrize("name", NAMES)
def test_a_literal_end_of_sentence_ends_nothing(models, name):
    _, model, _ = models[name]
    marked = ["</s> the house", "the </s> house", "the\n</s>\nhouse </s>", "</s></s> the house", "</s>"]
    same, *_, glued, empty = predict(model, ["the house", *marked])
    assert predict(model, marked[:3]) == [same] * 3
    assert (glued[2], empty[2]) == (3, 0)


@settings(max_examples=50, deadline=None)
@given(text=st.text(max_size=40), limit=st.integers(0, 80))
def test_max_bytes_cuts_at_a_character(models, text, limit):
    _, model, _ = models["hierarchical_subwords"]
    assert predict(model, [text, text], limit) == predict(model, [text.encode()[:limit].decode("utf-8", "ignore")] * 2)


def test_long_documents_and_long_words(models):
    for name in ("softmax_pairs", "hierarchical_subwords"):
        oracle, model, _ = models[name]
        assert_same(oracle, model, ["the house is größer " * 500, "дом" * 10_000, "", " ", "x"])
        # fastText sums in float32, which drifts over two million n-grams; a mean of repeats stays where it was.
        short, long = predict(model, ["the house is größer " * 2_000, "the house is größer " * 20_000])
        assert long[0] == short[0]
        assert long[1] == pytest.approx(short[1], abs=1e-4)
        assert_same(oracle, model, ["the house is größer " * 20_000], tolerance=1e-3)


def test_slices_nulls_and_empty_input(models):
    _, model, _ = models["softmax_pairs"]
    array = pa.array(["skipped", "the house", None, "der Haus"], pa.large_string()).slice(1)
    labels, _, n_words = kernel.predict(model, *text_buffers(array))
    assert [model.labels[i] for i in labels[[0, 2]]] == ["en", "de"]
    assert n_words.tolist() == [2, 0, 2]
    assert predict(model, []) == []
    with pytest.raises(ValueError, match="offsets do not fit"):
        kernel.predict(model, np.zeros(3, np.uint8), np.array([0, 4], np.int64))


def test_fewer_labels_than_dimensions_shrink_the_model(models):
    assert models["softmax_pairs"][1].tables.rows.shape[1] == 5
    assert models["softmax_wide"][1].tables.rows.shape[1] == 2


@pytest.mark.parametrize(
    "name", ["softmax_pairs", "hierarchical_subwords", "quantised", "quantised_pruned", "quantised_output"]
)
def test_every_cut_is_a_value_error(models, name, tmp_path):
    data = models[name][2].read_bytes()
    path = tmp_path / "cut.bin"
    ends = {0, 3, 7, 40, 59, 60, 80, 90, 200, len(data) // 2, len(data) - 5, len(data) - 1}
    for end in sorted(ends | set(range(61, len(data), max(1, len(data) // 60)))):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"cut\.bin: not a usable fastText model: .* at byte"):
            kernel.load(path)


@pytest.mark.parametrize("name", ["softmax_pairs", "hierarchical_projected", "quantised_pruned"])
@settings(max_examples=150, deadline=None)
@given(damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4), near=st.booleans())
def test_a_damaged_file_is_refused_or_harmless(models, tmp_path_factory, name, damage, near):
    data = bytearray(models[name][2].read_bytes())
    for place, value in damage:
        data[int(place * ((120 if near else len(data)) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(data)
    try:
        model = kernel.load(path)
    except ValueError as error:
        problem = str(error)
    else:
        problem = "damaged.bin: not a usable fastText model"
        probabilities = [probability for _, probability, _ in predict(model, ["the house", "дом 日本語 x", ""])]
        assert all(0.0 <= probability <= 1.0 or np.isnan(probability) for probability in probabilities)
    assert "damaged.bin: not a usable fastText model" in problem


HEADER = 8
ARGUMENTS = {"dim": 0, "wordNgrams": 5, "loss": 6, "model": 7, "bucket": 8, "maxn": 10}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dim", -1, "dim -1 is not between"),
        ("wordNgrams", 1 << 30, "wordNgrams 1073741824 is not between"),
        ("loss", 9, "loss 9 is not between"),
        ("model", 1, "no classifier"),
        ("bucket", 0, "n-grams need buckets"),
        ("bucket", 2**31 - 1, "words and buckets need"),
        ("maxn", 1 << 20, "maxn 1048576 is not between"),
        ("dim", 9, "columns for dimension 9"),
    ],
)
def test_impossible_arguments_are_named(models, tmp_path, field, value, message):
    path = Path(shutil.copy(models["softmax_pairs"][2], tmp_path / "bad.bin"))
    data = bytearray(path.read_bytes())
    struct.pack_into("<i", data, HEADER + 4 * ARGUMENTS[field], value)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        kernel.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_must_be_finite(models, tmp_path, value):
    data = bytearray(models["softmax_pairs"][2].read_bytes())
    struct.pack_into("<f", data, len(data) - 4, value)
    (tmp_path / "bad.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"output matrix .* NaN or an infinity"):
        kernel.load(tmp_path / "bad.bin")
