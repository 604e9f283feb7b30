"""The transformer proxy: the model's mathematics, the data's order, exact resumption, evaluation, worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.transformer import worker
from pipeline.mix.proxies.transformer.data import CHECKPOINT, MODEL, MixStream, SliceStream
from pipeline.mix.proxies.transformer.proxy import TransformerProxy, schedule_for
from pipeline.mix.proxies.transformer.shape import layout, shape_for
from pipeline.mix.types import Job, ProxyData, RunSpec, SliceTokens, TokenItem, TokenTask
from pipeline.table.errors import GristmillError, InputError, MissingDependencyError, ShardError

torch = pytest.importorskip("torch")

VOCABULARY, EOS, CONTEXT = 64, 0, 32


def write_slice(folder: Path, name: str, documents: list[list[int]]) -> SliceTokens:
    lengths = np.array([len(d) for d in documents])
    np.save(folder / f"{name}.npy", np.concatenate([np.array(d, np.uint16) for d in documents]))
    columns = {
        "doc_id": [f"{name}{i}" for i in range(len(documents))],
        "source": [name] * len(documents),
        "start": pa.array(np.cumsum(lengths) - lengths, pa.int64()),
        "tokens": pa.array(lengths, pa.int32()),
        "bytes": pa.array(lengths * 4, pa.int64()),
    }
    pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    total = int(lengths.sum())
    return SliceTokens(name, folder / f"{name}.npy", folder / f"{name}.parquet", len(documents), total, 4 * total)


def documents(low: int, high: int, number: int, seed: int) -> list[list[int]]:
    """Documents that count upwards within [low, high): each slice teaches its own range."""
    chance = np.random.default_rng(seed)
    found = []
    for length in chance.integers(3, 60, number):
        start = chance.integers(0, high - low)
        found.append([low + (start + i) % (high - low) for i in range(length)] + [EOS])
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ProxyData:
    folder = tmp_path_factory.mktemp("slices")
    slices = tuple(
        write_slice(folder, name, documents(low, low + 20, 80, low))
        for name, low in (("alpha", 1), ("beta", 21), ("gamma", 41))
    )
    return ProxyData(slices, np.array([s.n_tokens for s in slices]), VOCABULARY, EOS)


@pytest.fixture(scope="module")
def config() -> ProxyConfig:
    return ProxyConfig(
        kind="transformer", parameters=20_000, tokens=20_480, context=CONTEXT, batch_tokens=256, device="cpu"
    )


@pytest.fixture
def proxy(config: ProxyConfig, data: ProxyData) -> TransformerProxy:
    return TransformerProxy(config, data)


def run_of(*weights: float, seed: int = 1, run_id: str = "r1") -> RunSpec:
    return RunSpec(run_id, "swarm", np.array(weights), seed)


def counting(low: int, length: int, start: int = 5) -> TokenItem:
    return TokenItem(np.array([low + i % 20 for i in range(length)], np.int32), start, 4 * (length - start))


def task(name: str, *items: TokenItem) -> TokenTask:
    return TokenTask(name, name, items)


# Shape and schedule ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "width", "depth"),
    [(1_000, 8, 2), (50_000, 32, 4), (200_000, 64, 4), (1_000_000, 128, 5), (10_000_000, 320, 8), (10**9, 1920, 23)],
)
def test_shape_has_about_the_parameters_asked_for(parameters: int, width: int, depth: int) -> None:
    shape = shape_for(parameters, 4096, 256)
    assert (shape.width, shape.depth) == (width, depth)
    assert shape.heads * shape.head_width == shape.width
    assert layout(shape)[-1].stop == shape.body + 2 * 4096 * shape.width


@pytest.mark.parametrize("exponent", np.linspace(4, 10, 25))
def test_shape_is_never_far_from_what_was_asked(exponent: float) -> None:
    asked = int(10**exponent)
    assert 0.7 < shape_for(asked, 4096, 256).body / asked < 1.4


def test_schedule_covers_the_tokens_and_decays_to_nearly_nothing(config: ProxyConfig) -> None:
    schedule = schedule_for(config, shape_for(20_000, VOCABULARY, CONTEXT))
    rates = [schedule.learning_rate(step) for step in range(schedule.steps)]
    assert schedule.steps * schedule.step_tokens == 20_480
    assert max(rates) == schedule.peak
    assert 0 < rates[-1] < 0.05 * schedule.peak
    assert all(rate > 0 for rate in rates)
    assert schedule.steps_until(1e-9) == 1


# The model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
def test_the_handwritten_gradient_is_the_models(dtype: torch.dtype, bound: float) -> None:
    from pipeline.mix.proxies.transformer import cpu_gradients, model

    shape = shape_for(60_000, 512, CONTEXT)
    generator = torch.Generator().manual_seed(3)
    flat = model.initial_weights(shape, 1, 1) + 0.05 * torch.randn(layout(shape)[-1].stop, generator=generator)
    rows = torch.randint(0, 512, (3, CONTEXT + 1), generator=generator)
    leaf = flat.clone().requires_grad_()
    expected = model.loss(leaf, shape, rows)
    (gradient,) = torch.autograd.grad(expected, leaf)
    written = cpu_gradients.CpuGradients(shape, 3, flat, dtype)
    written.refresh()
    assert written.add(rows) == pytest.approx(float(expected.detach()), rel=bound / 10)
    for name, wanted in model.split(gradient, shape).items():
        found = model.split(written.gradient, shape)[name]
        assert float((found - wanted).norm() / wanted.norm()) < bound, name
    written.add(rows)
    assert float((written.gradient - 2 * gradient).norm() / gradient.norm()) < 2 * bound, "a second pass must add"


def test_the_gpus_gradient_is_the_models_too(proxy: TransformerProxy) -> None:
    from pipeline.mix.proxies.transformer import cpu_gradients, model, training

    flat = model.initial_weights(proxy.shape, 1, 1)
    rows = torch.randint(0, VOCABULARY, (3, CONTEXT + 1), generator=torch.Generator().manual_seed(3))
    plan = replace(proxy.plan(run_of(1.0, 0.0, 0.0)), precision="float32")
    differentiated = training.GpuGradients(plan, flat)
    written = cpu_gradients.CpuGradients(proxy.shape, 3, flat, torch.float32)
    for gradients in (differentiated, written):
        gradients.refresh()
        assert gradients.add(rows) == pytest.approx(gradients.add(rows))
    torch.testing.assert_close(differentiated.gradient, written.gradient)


@pytest.mark.parametrize(
    ("batch_tokens", "expected"), [(8192, 16), (4096, 16), (256, 1), (31 * 256, 1), (24 * 256, 12)]
)
def test_passes_are_equal_parts_of_a_step(batch_tokens: int, expected: int) -> None:
    config = ProxyConfig(kind="transformer", batch_tokens=batch_tokens)
    assert schedule_for(config, shape_for(20_000, 512, 256)).pass_rows(4096) == expected


def test_initial_weights_depend_on_the_seeds_alone() -> None:
    from pipeline.mix.proxies.transformer import model

    shape = shape_for(20_000, VOCABULARY, CONTEXT)
    first = model.initial_weights(shape, 1, 1)
    assert torch.equal(first, model.initial_weights(shape, 1, 1))
    assert not torch.equal(first, model.initial_weights(shape, 1, 2))
    assert not torch.equal(first, model.initial_weights(shape, 2, 1))


def test_optimiser_is_torchs_adamw() -> None:
    from pipeline.mix.proxies.transformer import shape, training

    generator = torch.Generator().manual_seed(5)
    flat = torch.randn(50, generator=generator)
    shrunk, free = flat[:30].clone().requires_grad_(), flat[30:].clone().requires_grad_()
    theirs = torch.optim.AdamW(
        [{"params": [shrunk], "weight_decay": shape.WEIGHT_DECAY}, {"params": [free], "weight_decay": 0.0}],
        lr=0.01,
        betas=shape.BETAS,
        eps=shape.EPSILON,
    )
    ours = training.Optimiser(flat, 30)
    for number in range(1, 6):
        gradient = 0.1 * torch.randn(50, generator=generator)
        shrunk.grad, free.grad = gradient[:30].clone(), gradient[30:].clone()
        theirs.step()
        ours.step(gradient, number, 0.01)
    torch.testing.assert_close(flat, torch.cat([shrunk, free]).detach())


# Data -----------------------------------------------------------------------------------------------------------------


def test_a_slice_gives_every_document_whole_once_an_epoch(data: ProxyData) -> None:
    stream = SliceStream(data.slices[0], data.slices[0].n_tokens, (1, 1))
    epochs = []
    for epoch in range(2):
        tokens = np.empty(stream.pool_tokens, np.int64)
        stream.read(epoch * stream.pool_tokens, tokens)
        epochs.append([tuple(d) for d in np.split(tokens, np.flatnonzero(tokens == EOS) + 1)[:-1]])
    wanted = [tuple(d) for d in documents(1, 21, 80, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(wanted)
    assert epochs[0] != epochs[1]
    assert epochs[0] != wanted


def test_a_slice_reads_the_same_at_any_position(data: ProxyData) -> None:
    stream = SliceStream(data.slices[0], data.slices[0].n_tokens, (1, 1))
    whole = np.empty(3 * stream.pool_tokens, np.int64)
    stream.read(0, whole)
    for position in (2 * stream.pool_tokens - 7, 0, stream.pool_tokens, 11):
        part = np.empty(90, np.int64)
        stream.read(position, part)
        assert part.tolist() == whole[position : position + 90].tolist()


@pytest.mark.parametrize(("pool_tokens", "expected"), [(0, 1), (1, 1), (10**9, 80)])
def test_a_pool_is_whole_documents_and_at_least_one(data: ProxyData, pool_tokens: int, expected: int) -> None:
    stream = SliceStream(data.slices[0], pool_tokens, (1, 1))
    assert stream.pool_tokens == sum(len(d) for d in documents(1, 21, 80, 1)[:expected])


def test_a_pool_never_holds_more_than_it_may(data: ProxyData) -> None:
    lengths = [len(d) for d in documents(1, 21, 80, 1)]
    exact = sum(lengths[:10])
    assert SliceStream(data.slices[0], exact, (1, 1)).pool_tokens == exact
    assert SliceStream(data.slices[0], exact - 1, (1, 1)).pool_tokens == sum(lengths[:9])


@pytest.mark.parametrize("weights", [(0.5, 0.3, 0.2), (0.98, 0.01, 0.01), (1.0, 0.0, 0.0), (1 / 3, 1 / 3, 1 / 3)])
def test_realised_shares_match_the_weights_at_any_moment(data: ProxyData, weights: tuple[float, ...]) -> None:
    stream = MixStream(data, run_of(*weights), 1, CONTEXT)
    for total in range(1, 300):
        stream.rows(1)
        assert stream.names == [n for n, w in zip(("alpha", "beta", "gamma"), weights, strict=True) if w]
        assert stream.counts.sum() == total
        assert np.abs(stream.counts - stream.weights * total).max() < 1.5


def test_a_slices_order_is_the_same_in_every_mixture(data: ProxyData) -> None:
    def beta_tokens(run: RunSpec, rows: int) -> list[int]:
        found = MixStream(data, run, 1, CONTEXT).rows(rows)
        return [int(t) for row in found if row.max() > 20 and row.max() <= 40 for t in row[:-1]]

    rare, often = beta_tokens(run_of(0.8, 0.2, 0.0), 60), beta_tokens(run_of(0.1, 0.7, 0.2), 60)
    assert 200 < len(rare) < len(often)
    assert often[: len(rare)] == rare
    assert beta_tokens(run_of(0.1, 0.7, 0.2, seed=2), 60) != often


@pytest.mark.parametrize("weights", [(0.5, 0.4, 0.2), (0.5, 0.5), (1.5, -0.5, 0.0), (np.nan, 0.5, 0.5)])
def test_weights_that_are_no_mixture_are_refused(data: ProxyData, weights: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="run r1"):
        MixStream(data, run_of(*weights), 1, CONTEXT)


def test_a_token_outside_the_vocabulary_is_refused(data: ProxyData) -> None:
    stream = MixStream(replace(data, vocabulary=45), run_of(0.0, 0.0, 1.0), 1, CONTEXT)
    with pytest.raises(ShardError, match=r"slice gamma: token .* outside the vocabulary of 45"):
        stream.rows(100)


# Training -------------------------------------------------------------------------------------------------------------


def test_training_learns_what_the_mixture_holds(proxy: TransformerProxy, tmp_path: Path) -> None:
    run = run_of(0.9, 0.1, 0.0)
    trained = proxy.train(run, tmp_path)
    tasks = [task(name, counting(low, 20)) for name, low in (("alpha", 1), ("beta", 21), ("gamma", 41))]
    alpha, beta, gamma = (measure.bits_per_byte for measure in proxy.measure(run, tmp_path, tasks))
    assert alpha < beta < gamma
    assert alpha < 0.5
    assert trained.tokens == 20_480
    assert trained.steps == 80
    assert trained.cpu_s > 0
    width, depth = proxy.shape.width, proxy.shape.depth
    assert trained.flops == 20_480 * 6 * (proxy.shape.body + VOCABULARY * width + depth * width * CONTEXT)
    tokens, losses = zip(*trained.curve, strict=True)
    assert list(tokens) == sorted(set(tokens))
    assert tokens[-1] == trained.tokens
    assert losses[-1] < 0.6 * losses[0]


def test_training_twice_gives_the_same_bits_and_the_second_call_does_nothing(
    proxy: TransformerProxy, tmp_path: Path
) -> None:
    run = run_of(0.5, 0.3, 0.2)
    first = proxy.train(run, tmp_path / "a")
    proxy.train(run, tmp_path / "b")
    assert_same_model(tmp_path / "a", tmp_path / "b")
    written = (tmp_path / "a" / MODEL).stat().st_mtime_ns
    assert proxy.train(run, tmp_path / "a") == first
    assert (tmp_path / "a" / MODEL).stat().st_mtime_ns == written
    assert not (tmp_path / "a" / CHECKPOINT).exists()


def assert_same_model(left: Path, right: Path) -> None:
    with np.load(left / MODEL) as a, np.load(right / MODEL) as b:
        assert a.files == b.files
        for name in set(a.files) - {"about"}:
            assert a[name].tobytes() == b[name].tobytes(), name


def test_rungs_go_on_to_the_same_bits_and_can_be_measured(proxy: TransformerProxy, tmp_path: Path) -> None:
    run, tasks = run_of(0.5, 0.3, 0.2), [task("alpha", counting(1, 20))]
    whole = proxy.train(run, tmp_path / "whole")
    losses = []
    for until in (0.25, 0.5, 0.75, 0.5):
        part = proxy.train(run, tmp_path / "parts", until)
        losses.append(float(proxy.measure(run, tmp_path / "parts", tasks)[0].nats[0]))
        assert part.tokens == min(0.75, max(until, part.tokens / 20_480)) * 20_480
        assert not (tmp_path / "parts" / MODEL).exists()
    assert losses[0] > losses[1] > losses[2] == losses[3]
    last = proxy.train(run, tmp_path / "parts")
    assert last.curve == whole.curve
    assert_same_model(tmp_path / "whole", tmp_path / "parts")


def test_a_checkpoint_of_another_run_is_not_resumed(proxy: TransformerProxy, tmp_path: Path) -> None:
    proxy.train(run_of(0.5, 0.3, 0.2), tmp_path / "a", 0.5)
    proxy.train(run_of(0.2, 0.3, 0.5), tmp_path / "a")
    proxy.train(run_of(0.2, 0.3, 0.5), tmp_path / "b")
    assert_same_model(tmp_path / "a", tmp_path / "b")


def test_damage_is_named(proxy: TransformerProxy, tmp_path: Path) -> None:
    proxy.train(run_of(0.5, 0.3, 0.2), tmp_path, 0.1)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"checkpoint\.npz is damaged .*; delete it"):
        proxy.train(run_of(0.5, 0.3, 0.2), tmp_path)


def test_slices_that_are_not_used_and_their_order_change_nothing(proxy: TransformerProxy, tmp_path: Path) -> None:
    proxy.train(run_of(0.6, 0.4, 0.0), tmp_path, 0.5)
    alpha, beta, gamma = proxy.data.slices
    other = ProxyData((beta, gamma, alpha), proxy.data.pool_tokens[[1, 2, 0]], VOCABULARY, EOS)
    elsewhere = TransformerProxy(proxy.config, other)
    assert elsewhere.progress(run_of(0.4, 0.0, 0.6), tmp_path) is not None
    elsewhere.train(run_of(0.4, 0.0, 0.6), tmp_path)
    proxy.train(run_of(0.6, 0.4, 0.0), tmp_path / "whole")
    assert_same_model(tmp_path, tmp_path / "whole")


@pytest.mark.parametrize("until", [0.0, -1.0, 1.5, float("nan")])
def test_an_impossible_share_is_refused(proxy: TransformerProxy, tmp_path: Path, until: float) -> None:
    with pytest.raises(InputError, match="share"):
        proxy.train(run_of(0.5, 0.3, 0.2), tmp_path, until)


def test_a_loss_that_explodes_is_an_error(config: ProxyConfig, data: ProxyData, tmp_path: Path) -> None:
    from pipeline.mix.proxies.transformer import training

    proxy = TransformerProxy(config, data)
    trainer = training.TrainingRun(
        proxy.plan(run_of(1.0, 0.0, 0.0)), MixStream(data, run_of(1.0, 0.0, 0.0), 1, CONTEXT)
    )
    trainer.flat.fill_(float("nan"))
    with torch.no_grad(), pytest.raises(GristmillError, match=r"run r1: the loss is nan at step 0; lower proxy\.learn"):
        trainer.step()


def test_the_identity_follows_what_decides_a_model(config: ProxyConfig, data: ProxyData) -> None:
    known = dict(TransformerProxy(config, data).identity)
    for change in ({"seed": 2}, {"parameters": 50_000}, {"tokens": 40_000}, {"learning_rate": 0.5}, {"context": 16}):
        assert dict(TransformerProxy(config.model_copy(update=change), data).identity) != known
    assert dict(TransformerProxy(config.model_copy(update={"workers": 7}), data).identity) == known


def test_without_torch_the_error_says_how_to_install_it(
    config: ProxyConfig, data: ProxyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'gristmill\[proxy\]'"):
        TransformerProxy(config, data)


def test_the_package_imports_without_torch() -> None:
    modules = "pipeline.mix.proxies.transformer.worker, pipeline.mix.proxies.transformer.proxy"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Evaluation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 200])
@pytest.mark.parametrize("start_share", [0.0, 0.5, 0.9])
def test_windows_score_each_token_once_with_half_a_context_of_history(length: int, start_share: float) -> None:
    from pipeline.mix.proxies.transformer import model

    start = int(start_share * length)
    tokens = np.arange(1, length + 1, dtype=np.int32)  # each token tells its position
    scored = []
    for window in model.windows(0, TokenItem(tokens, start, 1), CONTEXT, EOS):
        assert len(window.tokens) <= CONTEXT + 1
        assert (np.diff(window.tokens) == 1).all()
        first = int(window.tokens[-window.scored])
        history = len(window.tokens) - window.scored
        assert history >= min(first, CONTEXT // 2)
        scored += window.tokens[-window.scored :].tolist()
    assert scored == list(range(start + 1, length + 1))


def test_a_measure_is_the_losses_of_the_scored_tokens_whatever_is_measured_beside_it(
    proxy: TransformerProxy, tmp_path: Path
) -> None:
    from pipeline.mix.proxies.transformer import model

    run = run_of(0.5, 0.3, 0.2)
    proxy.train(run, tmp_path, 0.2)
    item = counting(1, 20, start=4)
    others = [counting(low, length, 2) for low in (1, 21, 41) for length in (5, 19, 20, 28, 90)]
    empty = TokenItem(np.array([3, 4], np.int32), 2, 1)
    (alone,) = proxy.measure(run, tmp_path, [task("a", item)])
    among, last = proxy.measure(run, tmp_path, [task("b", *others), task("c", empty, item)])
    with np.load(tmp_path / CHECKPOINT) as file:
        flat = torch.from_numpy(file["flat"])
    rows = torch.tensor([[EOS, *item.tokens.tolist()]])
    states = model.hidden_states(flat, proxy.shape, rows[:, :-1])
    logits = states @ model.split(flat, proxy.shape)["head"].T
    wanted = -logits.double().log_softmax(-1)[0, torch.arange(4, 20), rows[0, 5:]].sum()
    assert alone.nats[0] == pytest.approx(float(wanted), rel=1e-5)
    assert last.nats[0] == 0
    assert last.nats[1] == pytest.approx(alone.nats[0], rel=1e-5)
    assert among.nats.shape == (15,)
    assert (among.nats > 0).all()


@pytest.mark.parametrize("item", [TokenItem(np.array([64], np.int32), 0, 1), TokenItem(np.array([1], np.int32), 2, 1)])
def test_an_item_that_does_not_fit_is_refused(proxy: TransformerProxy, tmp_path: Path, item: TokenItem) -> None:
    proxy.train(run_of(1.0, 0.0, 0.0), tmp_path, 0.01)
    with pytest.raises(InputError, match="task bad"):
        proxy.measure(run_of(1.0, 0.0, 0.0), tmp_path, [task("bad", item)])


def test_a_run_without_a_model_cannot_be_measured(proxy: TransformerProxy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run r1: .* holds no model of it; train it first"):
        proxy.measure(run_of(1.0, 0.0, 0.0), tmp_path, [task("a", counting(1, 9))])


# Worker processes -----------------------------------------------------------------------------------------------------


def test_a_worker_gives_what_this_process_gives(proxy: TransformerProxy, tmp_path: Path) -> None:
    tasks = (task("alpha", counting(1, 20), counting(1, 90)), task("none"), task("beta", counting(21, 40)))
    runs = [run_of(w, 1 - w, 0.0, run_id=f"r{w}") for w in (0.1, 0.5, 0.9)]
    jobs = [Job(run, tmp_path / run.run_id, tasks) for run in runs]
    found = list(proxy.perform(jobs, threading.Event()))
    assert [done.job for done in found] == jobs
    for done in found:
        here = tmp_path / "here" / done.job.run.run_id
        trained = proxy.train(done.job.run, here)
        assert done.trained.curve == trained.curve
        assert_same_model(here, done.job.folder)
        for ours, theirs in zip(proxy.measure(done.job.run, here, tasks), done.measures, strict=True):
            assert ours.nats.tolist() == theirs.nats.tolist()
            assert ours.n_bytes.tolist() == theirs.n_bytes.tolist()


def test_a_failing_run_is_named_and_what_was_done_before_it_stays(proxy: TransformerProxy, tmp_path: Path) -> None:
    jobs = [Job(run_of(0.7, w, 0.0, run_id=name), tmp_path / name) for w, name in ((0.3, "right"), (0.7, "wrong"))]
    found = proxy.perform(jobs, threading.Event())
    assert next(found).job.run.run_id == "right"
    with pytest.raises(InputError, match=r"run wrong: weights sum to 1\.4"):
        next(found)


def test_a_crash_of_a_worker_becomes_one_line(proxy: TransformerProxy, data: ProxyData, tmp_path: Path) -> None:
    broken = replace(data, slices=(replace(data.slices[0], documents_path=tmp_path / "absent"), *data.slices[1:]))
    jobs = [Job(run_of(1.0, 0.0, 0.0), tmp_path / "r1")]
    with pytest.raises(ShardError, match=r"^run r1: its training process failed: FileNotFoundError.*absent[^\n]*$"):
        list(TransformerProxy(proxy.config, broken).perform(jobs, threading.Event()))


def workers_of(parent: int) -> list[int]:
    """The training processes that this process started and that are still there."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_text()
        except OSError:
            continue  # it ended while we looked
        if int(fields[1]) == parent and "pipeline.mix.proxies.transformer.worker" in command:
            found.append(int(status.parent.name))
    return found


@pytest.fixture
def endless(proxy: TransformerProxy) -> TransformerProxy:
    """A proxy whose runs are stopped rather than finished."""
    return TransformerProxy(proxy.config.model_copy(update={"tokens": 10**9}), proxy.data)


FINDS_PROCESSES = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds worker processes in /proc")


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers save often; the file gets a line from each run that one begins: the step that it goes on from."""
    told = tmp_path / "begun"
    told.touch()
    saves_and_tells = f"""
from pipeline.mix.proxies.transformer import training
training.CHECKPOINT_EVERY_S = 0.05
resume = training.TrainingRun.resume
def tells(self, path):
    resume(self, path)
    with open({str(told)!r}, "a") as file:
        print(self.progress.step, file=file)
training.TrainingRun.resume = tells
"""
    monkeypatch.setattr(worker, "_COMMAND", saves_and_tells + worker._COMMAND)
    return told


@FINDS_PROCESSES
def test_stop_ends_early_and_leaves_nothing_running(endless: TransformerProxy, tmp_path: Path, begun: Path) -> None:
    stop = threading.Event()

    def stop_it() -> None:
        while not (tmp_path / "r0" / CHECKPOINT).exists():
            time.sleep(0.02)
        stop.set()

    threading.Thread(target=stop_it, daemon=True).start()
    jobs = [Job(run_of(1.0, 0.0, 0.0, run_id=f"r{i}"), tmp_path / f"r{i}") for i in range(3)]
    assert list(endless.perform(jobs, stop)) == []
    assert not workers_of(os.getpid())
    assert begun.read_text().split() == ["0"]
    left = endless.progress(jobs[0].run, jobs[0].folder)
    assert left is not None
    assert 0 < left.step < endless.schedule.steps


@FINDS_PROCESSES
@pytest.mark.parametrize("kills", [1, 2])
def test_a_killed_worker_is_replaced_once(proxy: TransformerProxy, tmp_path: Path, begun: Path, kills: int) -> None:
    longer = TransformerProxy(proxy.config.model_copy(update={"tokens": 60_000}), proxy.data)
    job, killed = Job(run_of(0.5, 0.5, 0.0), tmp_path / "r"), set[int]()

    def kill() -> None:
        while len(killed) < kills:
            while len(begun.read_text().split()) <= len(killed) or not (job.folder / CHECKPOINT).exists():
                time.sleep(0.02)
            for process in set(workers_of(os.getpid())) - killed:
                killed.add(process)
                os.kill(process, signal.SIGKILL)
            time.sleep(0.02)

    threading.Thread(target=kill, daemon=True).start()
    if kills == 2:
        with pytest.raises(ShardError, match=r"run r1: its training process was killed twice \(signal 9\)"):
            list(longer.perform([job], threading.Event()))
    else:
        (done,) = longer.perform([job], threading.Event())
        assert done.trained.tokens == longer.schedule.steps * longer.schedule.step_tokens
        trained = longer.train(job.run, tmp_path / "here")
        assert done.trained.curve == trained.curve
        assert_same_model(tmp_path / "here", job.folder)
    assert len(killed) == kills
    first, second = map(int, begun.read_text().split()[:2])  # the second went on from what the first had saved
    assert first == 0 < second < longer.schedule.steps
