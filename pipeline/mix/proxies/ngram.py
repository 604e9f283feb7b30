"""The n-gram proxy: interpolated token n-gram counts of each slice, combined by a mixture's weights.

With c_i the counts in slice i's pool, e_i = weight * tokens / pool tokens the times that a run reads it, and s(e) its
worth, a mixture's counts are C = sum_i s(e_i) c_i, and

    p_n(w | context) = (C(context w) + W p_{n-1}(w | shorter context)) / (C(context) + W),    p_0 = 1 / vocabulary

with W = a_n + b_n T(context), T being about how many different tokens follow the context. This sums to 1 over the
vocabulary whatever the counts. Reading a pool again is worth less each time, s(e) = 1 + R (1 - exp(-(e - 1) / R)) above
one epoch, R = 15.4.

A pool that is read in part (e < 1) is not one whose counts are all smaller: most of its rare n-grams are then not seen
at all. So what is returned is the expected loss over which documents are read: an n-gram of d documents is seen with
probability 1 - (1 - e)^d, and log p is averaged over seen and not seen, from order to order. (An average of logarithms
is the loss of no single model; with whole pools it is that of p above.) On real text at 2 to 30 % of
a pool this shows 70 to 90 % of what a really smaller pool costs; scaled counts alone showed 10 to 26 %.

A seed stands for the documents that happened to be drawn: the pool's documents are counted in eight blocks, and a seed
weights the blocks of every slice at random, with the slice's tokens kept (Bayesian bootstrap; Dirichlet(1, ..., 1)).
Runs with one seed share the weights, as proxies with one seed share the order of data. With few documents in a pool
there are few blocks to weight, and the noise is understated. There is no initialisation, so no noise from it.

Source: MacKay and Peto, A hierarchical Dirichlet language model (1995), and Witten and Bell (1991), for p; Muennighoff
et al., Scaling data-constrained language models (arXiv 2305.16264, section 3.1), for the worth of repeated data; Rubin,
The Bayesian bootstrap (1981).
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.ngram_counts import BLOCKS, LANES, interpolate, item_nats, mix_contexts
from pipeline.mix.config import ProxyConfig
from pipeline.mix.proxies.ngram_tasks import (
    NgramCounts,
    TaskModel,
    Trie,
    build_trie,
    content_hash,
    count_nodes,
    node_numbers,
    of_task,
    task_model,
)
from pipeline.mix.types import Done, Floats, Job, Measure, ProxyData, RunSpec, TokenTask, TrainedRun
from pipeline.table.errors import InputError, ShardError, UsageError
from pipeline.table.kept import as_written, read_arrays, read_json, write_arrays, write_file

SMOOTHING = ((1.0, 5.0), (2.5, 2.0), (3.5, 4.0), (0.5, 4.0))
"""By order, (a, b): the shorter context is worth a + b times the different tokens that follow the longer one.

Chosen on held-out text of ten slices at 0.5, 3 and 15 million tokens: one set does for all three. The best constants
alone (b = 0) that were tried lose 0.14 bits per byte more at 10 million.
"""
REPEATS = 15.387756
"""R: how many repetitions the worth of repeated data levels off at."""
_ALL = 1 - 1e-15
"""A share so large is all: its logarithm must be finite."""
_RUN_FILE = "ngram.json"
_VERSION = 1
_SEEDS_KEPT = 4
_STORED = ("rows", "blocks", "counts", "nodes", "documents", "types", "totals")


class NgramProxy:
    """A `Proxy` whose model is counts. `train` writes down what a run is; counting happens once, when first measured.

    `counts` is the folder that all runs share the counts in; by default `ngram_counts` beside the runs' folders, or
    memory alone for `measure_mixtures`. Counts are kept by the content of pool and task, so changed ones are made anew.
    """

    is_quick = True

    def __init__(
        self,
        config: ProxyConfig,
        data: ProxyData,
        counts: Path | None = None,
        smoothing: Sequence[tuple[float, float]] = SMOOTHING,
    ) -> None:
        if not 1 <= len(smoothing) <= 8 or not all(0 < a < np.inf and 0 <= b < np.inf for a, b in smoothing):
            raise UsageError(f"smoothing {smoothing}: give 1 to 8 pairs of positive numbers, by order")
        if len(data.slices) != data.pool_tokens.size:
            raise UsageError(f"{len(data.slices)} slices have {data.pool_tokens.size} pools")
        self._config = config
        self._data = data
        self._folder = counts
        self._smoothing = np.array([(0.0, 0.0), *smoothing])
        self._tries: dict[str, Trie] = {}
        self._counts: dict[str, list[NgramCounts]] = {}
        self._models: dict[int, dict[str, TaskModel]] = {}
        self._pool_keys: list[str] | None = None

    @property
    def order(self) -> int:
        """The longest n-gram."""
        return len(self._smoothing) - 1

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that decides a model besides run and data."""
        return {
            "kind": "ngram",
            "version": _VERSION,
            "smoothing": self._smoothing[1:].tolist(),
            "repeats": REPEATS,
            "blocks": BLOCKS,
            "tokens": self._config.tokens,
            "seed": self._config.seed,
        }

    def train(self, run: RunSpec, folder: Path, until: float = 1.0) -> TrainedRun:
        """Write the run to its folder. There is nothing to compute: no steps, no arithmetic, no curve.

        Raises: UsageError for weights that are no mixture of the slices, or a share outside (0, 1].
        """
        start = time.process_time()
        if not 0 < until <= 1:
            raise UsageError(f"run {run.run_id}: cannot train up to {until}; give a share above 0 and at most 1")
        self._epochs(run.weights[None], until)
        names = [part.name for part in self._data.slices]
        value: dict[str, Any] = {
            "run_id": run.run_id,
            "seed": run.seed,
            "weights": dict(zip(names, run.weights.tolist(), strict=True)),
            "identity": dict(self.identity),
        }
        known = _read(folder / _RUN_FILE) or {}
        if {**known, "until": None} == {**value, "until": None}:
            until = max(until, float(known["until"]))  # what is trained stays trained
        if known != {**value, "until": until}:
            write_file(folder / _RUN_FILE, (json.dumps({**value, "until": until}, indent=1) + "\n").encode())
        return TrainedRun(round(self._config.tokens * until), 0, time.process_time() - start, 0.0, ())

    def measure(self, run: RunSpec, folder: Path, tasks: Sequence[TokenTask]) -> list[Measure]:
        """Measure a trained run on tasks, in order; counts what is not counted yet.

        Raises: InputError when the folder holds no such run.
        """
        until = _trained_until(folder / _RUN_FILE, run)
        epochs = self._epochs(run.weights[None], until)
        models = self._prepare(tasks, run.seed, self._folder or folder.parent / "ngram_counts")
        vocabulary = self._data.vocabulary
        return [Measure(_score(m, epochs, self._smoothing, vocabulary)[:, 0], m.n_bytes) for m in models]

    def perform(self, jobs: Sequence[Job], stop: threading.Event) -> Iterator[Done]:
        """Do jobs in this process, seed by seed, as counts are kept; yield each as it is done."""
        for job in sorted(jobs, key=lambda job: job.run.seed):
            if stop.is_set():
                return
            trained = self.train(job.run, job.folder, job.until)
            yield Done(job, trained, self.measure(job.run, job.folder, job.tasks))

    def measure_mixtures(self, weights: Floats, tasks: Sequence[TokenTask], seed: int = 0) -> Floats:
        """Return bits per byte of every mixture on every task, (q, m), for mixtures (q, k); nothing need be trained.

        Uses `workers` threads; the numbers do not depend on how many.

        Raises: UsageError for weights that are no mixtures of the slices; InputError for an empty task.
        """
        epochs = self._epochs(np.asarray(weights, np.float64), 1.0)
        out = np.empty((len(epochs), len(tasks)))
        starts = range(0, len(epochs), LANES)
        with ThreadPoolExecutor(self._config.workers) as pool:
            for column, model in enumerate(self._prepare(tasks, seed, self._folder)):
                if model.n_bytes.sum() == 0:
                    raise InputError(f"task {tasks[column].name} has no items; leave it out")

                def bits(start: int, model: TaskModel = model) -> Floats:
                    nats = _score(model, epochs[start : start + LANES], self._smoothing, self._data.vocabulary)
                    total: Floats = nats.sum(axis=0) / np.log(2) / model.n_bytes.sum()
                    return total[: len(epochs) - start]

                for start, values in zip(starts, pool.map(bits, starts), strict=True):
                    out[start : start + LANES, column] = values
        return out

    def _epochs(self, weights: Floats, until: float) -> Floats:
        """Return how often each mixture reads each slice's pool, (q, k)."""
        pools = self._data.pool_tokens
        if weights.ndim != 2 or weights.shape[1] != pools.size:
            raise UsageError(f"weights of shape {weights.shape} do not fit {pools.size} slices; give one each")
        if not np.all(np.isfinite(weights)) or np.any(weights < 0) or np.any(abs(weights.sum(axis=1) - 1) > 1e-6):
            raise UsageError("weights must be at least 0 and sum to 1 in every mixture")
        empty = (weights > 0).any(axis=0) & (pools == 0)
        if empty.any():
            name = self._data.slices[int(np.argmax(empty))].name
            raise UsageError(f"slice {name} has no tokens to draw from but a weight; give it none")
        epochs: Floats = weights * self._config.tokens * until / np.maximum(pools, 1)
        return epochs

    def _prepare(self, tasks: Sequence[TokenTask], seed: int, folder: Path | None) -> Iterable[TaskModel]:
        """Yield each task's model for a seed, after counting what no task has counts of yet."""
        keys = [self._task_key(task) for task in tasks]
        self._count({key: task for key, task in zip(keys, tasks, strict=True) if key not in self._counts}, folder)
        if seed not in self._models and len(self._models) >= _SEEDS_KEPT:
            self._models.pop(next(iter(self._models)))
        models = self._models.setdefault(seed, {})
        for key, task in zip(keys, tasks, strict=True):
            if key not in models:
                counts = self._counts[key]
                weights = self._block_weights(seed, [part.totals for part in counts])
                models[key] = task_model(task, self._trie(key, task), counts, weights, self._data.eos)
            yield models[key]

    def _count(self, tasks: Mapping[str, TokenTask], folder: Path | None) -> None:
        """Load each task's counts in each slice, or make them: one pass over a slice for all tasks that lack them."""
        if not tasks:
            return
        pools = self._keys_of_pools()
        paths = [{key: folder / f"{_digest(pool, key)}.npz" if folder else None for key in tasks} for pool in pools]
        loaded = [{key: _load(path) for key, path in of.items() if path} for of in paths]
        found = [{key: counts for key, counts in of.items() if counts is not None} for of in loaded]
        missing = [tuple(key for key in tasks if key not in have) for have in found]
        for wanted in sorted(set(missing) - {()}):
            union = build_trie([tasks[key] for key in wanted], self.order, self._data.vocabulary)
            sizes = [0, *(self._trie(key, tasks[key]).scored.size for key in wanted)]
            starts = np.cumsum(sizes[:-1])
            numbers = [node_numbers(union, self._tries[k], int(at)) for k, at in zip(wanted, starts, strict=True)]

            def work(i: int, union: Trie = union) -> NgramCounts:
                tokens = self._data.slices[i].tokens()[: int(self._data.pool_tokens[i])]
                return count_nodes(union, tokens, self._data.eos, self._data.vocabulary, self._data.slices[i].name)

            slices = [i for i, keys in enumerate(missing) if keys == wanted]
            with ThreadPoolExecutor(self._config.workers) as pool:
                for i, counted in zip(slices, pool.map(work, slices), strict=True):
                    for key, number in zip(wanted, numbers, strict=True):
                        found[i][key] = of_task(counted, number)
                        if path := paths[i][key]:
                            _save(path, found[i][key])
        for key in tasks:
            self._counts[key] = [have[key] for have in found]

    def _trie(self, key: str, task: TokenTask) -> Trie:
        if key not in self._tries:
            self._tries[key] = build_trie([task], self.order, self._data.vocabulary)
        return self._tries[key]

    def _task_key(self, task: TokenTask) -> str:
        """Return a key over the task's tokens: its own key does not know the tokenizer."""
        sizes = np.array([[item.tokens.size, item.start, item.n_bytes] for item in task.items], np.int64).ravel()
        return content_hash(sizes, *(item.tokens for item in task.items))

    def _keys_of_pools(self) -> list[str]:
        """Return a key for each slice's pool: its tokens and what decides how they are counted."""
        if self._pool_keys is None:
            rule = f"{_VERSION} {self.order} {BLOCKS} {self._data.vocabulary} {self._data.eos}"
            pools = zip(self._data.slices, self._data.pool_tokens, strict=True)
            self._pool_keys = [_digest(rule, content_hash(part.tokens()[: int(pool)])) for part, pool in pools]
        return self._pool_keys

    def _block_weights(self, seed: int, totals: Sequence[NDArray[np.int64]]) -> Floats:
        """Return each slice's weights of blocks for a seed, (k, BLOCKS), that keep its number of tokens."""
        out = np.zeros((len(totals), BLOCKS))
        for i, (part, tokens) in enumerate(zip(self._data.slices, totals, strict=True)):
            name = int.from_bytes(hashlib.blake2b(part.name.encode(), digest_size=8).digest())
            rng = np.random.default_rng(np.random.SeedSequence([self._config.seed, seed, name]))
            weights = rng.standard_exponential(BLOCKS)
            out[i] = weights * (tokens.sum() / max(float(weights @ tokens), 1e-300))
        return out


def worth(epochs: Floats) -> Floats:
    """Return how many epochs of fresh data so many epochs over the same data are worth; any shape.

    Source: Muennighoff et al. (arXiv 2305.16264), equation 5.
    """
    repeats = np.maximum(epochs - 1, 0)
    value: Floats = np.minimum(epochs, 1) + REPEATS * -np.expm1(-repeats / REPEATS)
    return value


def _score(model: TaskModel, epochs: Floats, smoothing: Floats, vocabulary: int) -> Floats:
    """Return the nats that mixtures of `epochs` (q, k) lose on each item, (n_items, LANES): the first q are theirs."""
    lanes = np.ascontiguousarray(epochs[np.minimum(np.arange(LANES), len(epochs) - 1)].T)  # the last fills the rest
    known = np.minimum(lanes, 1.0)
    scales = (worth(lanes), known, np.log1p(-np.minimum(known, _ALL)))
    mixed = (np.empty((model.order.size, LANES)), np.empty((model.order.size, LANES)))
    logs = np.empty((model.lower.size + 1, LANES))
    logs[0] = -np.log(vocabulary)
    nats = np.empty((model.n_bytes.size, LANES))
    grams, contexts = model.grams, model.contexts
    sparse = (contexts.offsets, contexts.columns, contexts.values, model.order)
    mix_contexts(sparse, smoothing, scales, *mixed)
    interpolate((grams.offsets, grams.columns, grams.values), (model.lower, model.context), scales, mixed, logs)
    item_nats(model.rows, model.items, logs, nats)
    return nats


def _trained_until(path: Path, run: RunSpec) -> float:
    known = _read(path)
    if known is None:
        raise InputError(f"{path}: no trained run here; train run {run.run_id} first")
    if known["run_id"] != run.run_id:
        raise InputError(f"{path}: holds run {known['run_id']}, not {run.run_id}; give each run its own folder")
    return float(known["until"])


def _read(path: Path) -> dict[str, Any] | None:
    """Return what `train` wrote, None when it is absent or damaged."""
    try:
        value: Any = read_json(path)
        float(value["until"]), value["run_id"]
    except (ShardError, ValueError, KeyError, TypeError):
        return None
    return dict(value)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _save(path: Path, counts: NgramCounts) -> None:
    small = {name: _smallest(getattr(counts, name)) for name in _STORED}
    numbers = np.array([counts.n_documents, counts.vocabulary, counts.last_block])
    write_arrays(path, {"last": counts.last, "numbers": numbers, **small})


def _smallest(values: NDArray[np.int64]) -> NDArray[Any]:
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _load(path: Path) -> NgramCounts | None:
    stored = read_arrays(path)
    if stored is None:
        return None
    with as_written(path):
        wide = {name: stored[name].astype(np.int64) for name in (*_STORED, "last")}
        documents, vocabulary, last_block = (int(number) for number in stored["numbers"])
        return NgramCounts(**wide, n_documents=documents, vocabulary=vocabulary, last_block=last_block)
