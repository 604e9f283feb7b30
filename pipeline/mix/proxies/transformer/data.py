"""What a run reads, in order, and what it leaves in its folder. No torch, no pickle.

Every slice is read in its own order, the slices interleaved by their weights. A slice's documents are shuffled anew for
each epoch, from seeds and the slice's name alone, so that two mixtures of the same seeds read the same documents of a
slice in the same order, however often each of them turns to it. Which slice the next sequence comes from is the one
that is furthest behind its share: after any number of sequences each slice is within one sequence or so of its exact
share.

    checkpoint.npz   while it trains: parameters, both moments of AdamW, sequences taken of each slice, and `about`
    model.npz        when it is done: each matrix by its name, and `about`

`about` is JSON: what decides the run (a checkpoint of anything else is not resumed), the step, and what it cost so far.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.mix.types import Floats, ProxyData, RunSpec, SliceTokens, TrainedRun
from pipeline.table.errors import InputError, ShardError
from pipeline.table.kept import as_written, read_arrays, write_arrays

CHECKPOINT, MODEL = "checkpoint.npz", "model.npz"

Rows = NDArray[np.int64]


class SliceStream:
    """The documents of a slice's pool one after another, epoch after epoch, as one endless row of tokens."""

    def __init__(self, slice_tokens: SliceTokens, pool_tokens: int, seed: tuple[int, ...]) -> None:
        """Open a slice. `pool_tokens`: only whole documents among the first so many tokens are read, one at least."""
        table = pq.read_table(slice_tokens.documents_path, columns=["start", "tokens"])
        starts, lengths = (table[name].to_numpy().astype(np.int64) for name in ("start", "tokens"))
        inside = max(1, int(np.searchsorted(starts + lengths, pool_tokens, side="right")))
        self._tokens = slice_tokens.tokens()
        self._starts, self._lengths = starts[:inside], lengths[:inside]
        self.pool_tokens = int(self._lengths.sum())
        if self.pool_tokens == 0:
            raise InputError(f"slices.{slice_tokens.name}: no tokens to train on; widen its `where` or drop the slice")
        if int((self._starts + self._lengths)[-1]) > len(self._tokens):
            raise ShardError(f"{slice_tokens.tokens_path}: shorter than its documents say; tokenize the slice again")
        name = hashlib.blake2b(slice_tokens.name.encode(), digest_size=8).digest()
        self._seed = (*seed, int.from_bytes(name, "big"))
        self._epoch = -1
        self._order: Rows = np.zeros(0, np.int64)
        self._ends: Rows = np.zeros(0, np.int64)

    def read(self, position: int, out: Rows) -> None:
        """Fill `out` (n,) with the tokens from this position of the endless row on."""
        filled = 0
        while filled < len(out):
            epoch, offset = divmod(position + filled, self.pool_tokens)
            if epoch != self._epoch:
                chance = np.random.default_rng(np.random.SeedSequence([*self._seed, epoch]))
                self._order = chance.permutation(len(self._starts))
                self._ends = np.cumsum(self._lengths[self._order])
                self._epoch = epoch
            at = int(np.searchsorted(self._ends, offset, side="right"))
            document, left = self._order[at], int(self._ends[at]) - offset
            take = min(left, len(out) - filled)
            start = int(self._starts[document] + self._lengths[document]) - left
            out[filled : filled + take] = self._tokens[start : start + take]
            filled += take


class MixStream:
    """Training sequences of a mixture, in order. `counts` is its whole state: sequences taken of each slice in `names`.

    `names` are the slices of positive weight, sorted: slices that a mixture does not use, and the order in which slices
    are written, change nothing.
    """

    def __init__(self, data: ProxyData, run: RunSpec, seed: int, context: int) -> None:
        """Open the slices that the mixture uses.

        Raises: InputError when the weights do not fit the slices or a weighted slice has no tokens.
        """
        weights = checked_weights(run, len(data.slices))
        used = sorted(np.flatnonzero(weights).tolist(), key=lambda i: data.slices[i].name)
        self.names = [data.slices[i].name for i in used]
        self.weights: Floats = weights[used]
        self.counts = np.zeros(len(used), np.int64)
        self._context = context
        self._vocabulary = data.vocabulary
        self._streams = [SliceStream(data.slices[i], int(data.pool_tokens[i]), (seed, run.seed)) for i in used]

    def rows(self, n: int) -> Rows:
        """Return the next `n` sequences, (n, context + 1): a sequence's last token is the first of its slice's next.

        Raises: ShardError when a token lies outside the vocabulary.
        """
        rows = np.empty((n, self._context + 1), np.int64)
        total = int(self.counts.sum())
        for row in rows:
            total += 1
            chosen = int(np.argmax(self.weights * total - self.counts))
            self._streams[chosen].read(int(self.counts[chosen]) * self._context, row)
            if int(row.max()) >= self._vocabulary:
                where = f"slice {self.names[chosen]}: token {row.max()}"
                raise ShardError(f"{where} is outside the vocabulary of {self._vocabulary}; tokenize the slice again")
            self.counts[chosen] += 1
        return rows


def checked_weights(run: RunSpec, slices: int) -> Floats:
    """Return a run's weights, summing to 1 exactly enough.

    Raises: InputError when they are not `slices` finite weights of at least 0 that sum to 1.
    """
    weights = np.asarray(run.weights, np.float64)
    if weights.shape != (slices,) or not np.isfinite(weights).all() or (weights < 0).any():
        raise InputError(f"run {run.run_id}: needs {slices} weights of at least 0, has {weights.tolist()}")
    if abs(weights.sum() - 1) > 1e-6:
        raise InputError(f"run {run.run_id}: weights sum to {weights.sum():.9g}, not 1")
    normalised: Floats = weights / weights.sum()
    return normalised


@dataclass
class RunProgress:
    """How far a run is. `pending` is the summed loss and the tokens since the curve's last point."""

    step: int = 0
    tokens: int = 0
    cpu_s: float = 0.0
    flops: float = 0.0
    curve: list[tuple[int, float]] = field(default_factory=list)
    pending: tuple[float, int] = (0.0, 0)

    def trained(self) -> TrainedRun:
        """Return what is told about the run."""
        return TrainedRun(self.tokens, self.step, self.cpu_s, self.flops, tuple(self.curve))


def save(path: Path, decides: Mapping[str, Any], progress: RunProgress, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file of a run atomically."""
    about = json.dumps({"decides": decides, **vars(progress)}, allow_nan=False)
    write_arrays(path, {"about": np.array(about), **arrays})


def load(path: Path, decides: Mapping[str, Any]) -> tuple[RunProgress, dict[str, NDArray[Any]]] | None:
    """Return what a file of this run holds; None when it is absent or belongs to something else.

    Raises: ShardError when it is damaged.
    """
    arrays = read_arrays(path)
    if arrays is None:
        return None
    with as_written(path):
        about = json.loads(str(arrays.pop("about")))
        if about.pop("decides") != decides:
            return None
        curve = [(int(tokens), float(loss)) for tokens, loss in about["curve"]]
        return RunProgress(**{**about, "curve": curve, "pending": tuple(about["pending"])}), arrays
