"""The n-gram proxy: what it computes, what it keeps, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from math import exp, expm1, log, log1p

import numpy as np
import pytest

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.ngram import REPEATS, SMOOTHING, NgramProxy, worth
from pipeline.mix.types import Proxy, ProxyData, RunSpec, SliceTokens, TokenItem, TokenTask
from pipeline.table.errors import InputError, ShardError, UsageError

VOCABULARY = 50


def store(folder, name, tokens):
    np.save(folder / f"{name}.npy", np.array(tokens, np.uint16))
    documents = int((np.array(tokens) == 0).sum())
    return SliceTokens(name, folder / f"{name}.npy", folder / "none.parquet", documents, len(tokens), len(tokens))


def documents(rng, words, count=40, length=30):
    """Random walks over a few words, each document ended by 0."""
    return np.concatenate([np.append(rng.choice(words, length), 0) for _ in range(count)])


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(3)
    slices = (
        store(tmp_path, "low", documents(rng, np.arange(1, 20))),
        store(tmp_path, "high", documents(rng, np.arange(20, 50))),
    )
    return ProxyData(slices, np.array([part.n_tokens for part in slices]), VOCABULARY, 0)


def task(rng, words, name, count=12):
    rows = tuple(TokenItem(rng.choice(words, 9).astype(np.int32), 3, 20) for _ in range(count))
    return TokenTask(name, name, rows)


@pytest.fixture
def tasks():
    rng = np.random.default_rng(4)
    return [task(rng, np.arange(1, 20), "low"), task(rng, np.arange(20, 50), "high")]


def run(weights, seed=0, name="r"):
    return RunSpec(name, "swarm", np.array(weights, np.float64), seed)


CONFIG = ProxyConfig(tokens=2000)


# What it computes -----------------------------------------------------------------------------------------------------


def test_a_probability_by_hand(tmp_path):
    """One document `1 2 1 2 1 3`, whole, read once: a bigram model."""
    data = ProxyData((store(tmp_path, "a", [1, 2, 1, 2, 1, 3, 0] * 200),), np.array([1400]), 4, 0)
    proxy = NgramProxy(ProxyConfig(tokens=1400), data, smoothing=((2.0, 1.0), (3.0, 0.5)))
    bits = proxy.measure_mixtures(
        np.ones((1, 1)), [TokenTask("t", "t", (TokenItem(np.array([1, 2], np.int32), 1, 1),))]
    )
    unigram = (400 + (2 + 4) / 4) / (1400 + 6)  # 4 different tokens, uniform over 4
    weight = 3 + 0.5 * 2  # 2 and 3 follow 1
    assert exp(-bits[0, 0] * log(2)) == pytest.approx((400 + weight * unigram) / (600 + weight), rel=1e-12)


def test_part_of_a_slice_by_hand(tmp_path):
    """A quarter of 200 documents, unigrams: the expected loss over which documents are read."""
    data = ProxyData((store(tmp_path, "a", [1, 0] * 199 + [2, 0]),), np.array([400]), 4, 0)
    proxy = NgramProxy(ProxyConfig(tokens=1000), data, smoothing=((2.0, 1.0),))
    folder = tmp_path / "run"
    proxy.train(run([1.0]), folder, until=0.1)  # 100 of 400 tokens
    item = TokenItem(np.array([2], np.int32), 0, 1)
    nats = proxy.measure(run([1.0]), folder, [TokenTask("t", "t", (item,))])[0].nats[0]
    types = 0.25 * 400 * 3 / (0.25 * 400 + 0.75 * 3)
    weight, seen = 2 + types, -expm1(log(0.75))
    blocks = proxy._block_weights(0, [np.bincount(np.arange(400) // 2 % 8, minlength=8)])[0]
    count = 0.25 * blocks[199 % 8]  # the last document's block
    expected = log(1 / 4) - log1p(100 / weight) + seen * log1p(count / seen / (weight / 4))
    assert -nats == pytest.approx(expected, rel=1e-9)


def test_partial_reading_costs_about_what_a_smaller_pool_costs(tmp_path):
    rng = np.random.default_rng(8)
    topics = [rng.choice(np.arange(1, 50), 12) for _ in range(60)]
    stream = np.concatenate([documents(rng, topics[rng.integers(60)], 1, 40) for _ in range(800)])
    data = ProxyData((store(tmp_path, "a", stream),), np.array([stream.size]), VOCABULARY, 0)
    test = [
        TokenTask(
            "t", "t", tuple(TokenItem(rng.choice(topics[i % 60], 12).astype(np.int32), 2, 10) for i in range(200))
        )
    ]

    def loss(tokens, pool):
        proxy = NgramProxy(ProxyConfig(tokens=tokens), replace(data, pool_tokens=np.array([pool])))
        return float(proxy.measure_mixtures(np.ones((1, 1)), test)[0, 0])

    whole, tenth, read_tenth = loss(stream.size, stream.size), loss(3280, 3280), loss(3280, stream.size)
    assert whole < read_tenth
    assert abs(read_tenth - tenth) < 0.6 * (tenth - whole)


def test_weight_moves_loss_to_the_slice_that_has_it(data, tasks):
    mixtures = np.array([[share, 1 - share] for share in np.linspace(0.05, 0.95, 7)])
    bits = NgramProxy(CONFIG, data).measure_mixtures(mixtures, tasks)
    assert np.all(np.diff(bits[:, 0]) < 0)
    assert np.all(np.diff(bits[:, 1]) > 0)


def test_repeated_data_is_worth_less():
    assert worth(np.array([0.0, 0.3, 1.0])).tolist() == [0.0, 0.3, 1.0]
    assert worth(np.array([5.0]))[0] == pytest.approx(1 + REPEATS * (1 - exp(-4 / REPEATS)))
    assert worth(np.array([1e9]))[0] == pytest.approx(1 + REPEATS)


def test_a_slice_without_weight_counts_for_nothing(tmp_path, data, tasks):
    other = replace(
        data, slices=(data.slices[0], store(tmp_path, "other", [7, 8, 0] * 500)), pool_tokens=np.array([900, 1500])
    )
    first = NgramProxy(CONFIG, replace(data, pool_tokens=np.array([900, 700]))).measure_mixtures(
        np.array([[1.0, 0]]), tasks
    )
    np.testing.assert_allclose(
        NgramProxy(CONFIG, other).measure_mixtures(np.array([[1.0, 0]]), tasks), first, rtol=1e-12
    )


def test_the_order_of_slices_changes_nothing(data, tasks):
    turned = replace(data, slices=data.slices[::-1], pool_tokens=data.pool_tokens[::-1])
    left = NgramProxy(CONFIG, data).measure_mixtures(np.array([[0.3, 0.7]]), tasks)
    np.testing.assert_allclose(
        NgramProxy(CONFIG, turned).measure_mixtures(np.array([[0.7, 0.3]]), tasks), left, rtol=1e-12
    )


def test_many_mixtures_are_each_alone(data, tasks):
    rng = np.random.default_rng(0)
    mixtures = rng.dirichlet(np.ones(2), 19)
    together = NgramProxy(CONFIG.model_copy(update={"workers": 3}), data).measure_mixtures(mixtures, tasks)
    proxy = NgramProxy(CONFIG, data)
    alone = np.concatenate([proxy.measure_mixtures(row[None], tasks) for row in mixtures])
    np.testing.assert_array_equal(together, alone)


# Runs -----------------------------------------------------------------------------------------------------------------


def test_a_run_measures_what_the_vectorised_path_does(tmp_path, data, tasks):
    proxy: Proxy = NgramProxy(CONFIG, data)
    trained = proxy.train(run([0.4, 0.6]), tmp_path / "runs" / "r")
    assert (trained.tokens, trained.steps, trained.flops) == (2000, 0, 0.0)
    measures = proxy.measure(run([0.4, 0.6]), tmp_path / "runs" / "r", tasks)
    assert [m.nats.shape for m in measures] == [(12,), (12,)]
    bits = NgramProxy(CONFIG, data).measure_mixtures(np.array([[0.4, 0.6]]), tasks)[0]
    np.testing.assert_allclose([m.bits_per_byte for m in measures], bits, rtol=1e-12)


def test_training_further_lowers_the_loss(tmp_path, data, tasks):
    proxy, folder = NgramProxy(CONFIG, data), tmp_path / "r"
    losses = []
    for until in (0.2, 1.0):
        assert proxy.train(run([0.5, 0.5]), folder, until).tokens == 2000 * until
        losses.append(proxy.measure(run([0.5, 0.5]), folder, tasks)[0].bits_per_byte)
    assert losses[1] < losses[0]
    assert proxy.train(run([0.5, 0.5]), folder, 0.5).tokens == 2000
    assert proxy.measure(run([0.5, 0.5]), folder, tasks)[0].bits_per_byte == losses[1]


def test_seeds_differ_and_repeat(data, tasks):
    weights = np.array([[0.5, 0.5]])
    values = [NgramProxy(CONFIG, data).measure_mixtures(weights, tasks, seed)[0] for seed in (0, 1, 0)]
    np.testing.assert_array_equal(values[0], values[2])
    assert np.all(values[0] != values[1])
    np.testing.assert_allclose(values[0], values[1], rtol=0.05)


def test_counts_are_kept_and_shared(tmp_path, data, tasks):
    folder = tmp_path / "counts"
    first = NgramProxy(CONFIG, data, folder).measure_mixtures(np.array([[0.5, 0.5]]), tasks[:1])
    files = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(files) == 2
    both = NgramProxy(CONFIG, data, folder).measure_mixtures(np.array([[0.5, 0.5]]), tasks)
    np.testing.assert_array_equal(both[:, :1], first)
    assert len(list(folder.iterdir())) == 4
    assert all(path.stat().st_mtime_ns == time for path, time in files.items())


def test_counts_of_several_tasks_are_those_of_each(tmp_path, data, tasks):
    NgramProxy(CONFIG, data, tmp_path / "both").measure_mixtures(np.array([[0.5, 0.5]]), tasks)
    for part in tasks:
        NgramProxy(CONFIG, data, tmp_path / "each").measure_mixtures(np.array([[0.5, 0.5]]), [part])
    each = {path.name: path.read_bytes() for path in (tmp_path / "each").iterdir()}
    assert each == {path.name: path.read_bytes() for path in (tmp_path / "both").iterdir()}


def test_a_changed_pool_is_counted_anew(tmp_path, data, tasks):
    folder = tmp_path / "counts"
    NgramProxy(CONFIG, data, folder).measure_mixtures(np.array([[0.5, 0.5]]), tasks)
    smaller = replace(data, pool_tokens=data.pool_tokens // 2)
    with_cache = NgramProxy(CONFIG, smaller, folder).measure_mixtures(np.array([[0.5, 0.5]]), tasks)
    np.testing.assert_array_equal(
        with_cache, NgramProxy(CONFIG, smaller).measure_mixtures(np.array([[0.5, 0.5]]), tasks)
    )


# What it refuses ------------------------------------------------------------------------------------------------------


def test_hostile_inputs_are_named(tmp_path, data, tasks):
    proxy = NgramProxy(CONFIG, data)
    for weights in ([[0.5, 0.6]], [[np.nan, 1.0]], [[-0.5, 1.5]], [[1.0]]):
        with pytest.raises(UsageError, match="weights"):
            proxy.measure_mixtures(np.array(weights), tasks)
    with pytest.raises(UsageError, match="share"):
        proxy.train(run([0.5, 0.5]), tmp_path / "r", 0.0)
    with pytest.raises(UsageError, match="slice high has no tokens"):
        NgramProxy(CONFIG, replace(data, pool_tokens=np.array([100, 0]))).measure_mixtures(
            np.array([[0.5, 0.5]]), tasks
        )
    with pytest.raises(InputError, match="has no items"):
        proxy.measure_mixtures(np.array([[0.5, 0.5]]), [TokenTask("t", "t", ())])
    for item in (TokenItem(np.array([99], np.int32), 0, 1), TokenItem(np.array([1], np.int32), 2, 1)):
        with pytest.raises(InputError, match="task t, item 0"):
            proxy.measure_mixtures(np.array([[0.5, 0.5]]), [TokenTask("t", "t", (item,))])
    with pytest.raises(ShardError, match="slice low: token 19"):
        NgramProxy(CONFIG, replace(data, vocabulary=19)).measure_mixtures(
            np.array([[0.5, 0.5]]), [task(np.random.default_rng(), [1, 2], "t")]
        )
    with pytest.raises(UsageError, match="smoothing"):
        NgramProxy(CONFIG, data, smoothing=((0.0, 1.0),))


def test_a_run_that_is_not_there_or_another(tmp_path, data, tasks):
    proxy = NgramProxy(CONFIG, data)
    with pytest.raises(InputError, match="no trained run here"):
        proxy.measure(run([0.5, 0.5]), tmp_path / "r", tasks)
    proxy.train(run([0.5, 0.5]), tmp_path / "r")
    with pytest.raises(InputError, match="holds run r, not s"):
        proxy.measure(run([0.5, 0.5], name="s"), tmp_path / "r", tasks)
    (tmp_path / "r" / "ngram.json").write_text("{")
    with pytest.raises(InputError, match="no trained run here"):
        proxy.measure(run([0.5, 0.5]), tmp_path / "r", tasks)


def test_damaged_counts_are_named(tmp_path, data, tasks):
    folder = tmp_path / "counts"
    NgramProxy(CONFIG, data, folder).measure_mixtures(np.array([[0.5, 0.5]]), tasks)
    path = next(folder.iterdir())
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ShardError, match=r"\.npz is damaged .*delete it"):
        NgramProxy(CONFIG, data, folder).measure_mixtures(np.array([[0.5, 0.5]]), tasks)


def test_items_without_context_or_scored_tokens(data):
    odd = (
        TokenItem(np.zeros(0, np.int32), 0, 1),
        TokenItem(np.array([5], np.int32), 0, 1),
        TokenItem(np.array([5], np.int32), 1, 2),
    )
    bits = NgramProxy(CONFIG, data).measure_mixtures(np.array([[0.5, 0.5]]), [TokenTask("t", "t", odd)])
    one = NgramProxy(CONFIG, data).measure_mixtures(np.array([[0.5, 0.5]]), [TokenTask("t", "t", odd[1:2])])
    np.testing.assert_allclose(bits * 4, one)


def test_the_identity_names_what_decides_a_model(data):
    known = NgramProxy(CONFIG, data).identity
    assert known["smoothing"] == [list(pair) for pair in SMOOTHING]
    assert NgramProxy(CONFIG.model_copy(update={"tokens": 5000}), data).identity != known
