"""What the steps of a mix hand to one another: plain immutable values.

Shapes: `n` runs or mixtures, `k` slices, `m` tasks (metrics). A metric is always a loss: smaller is better.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.table.errors import WorkspaceError

Floats = NDArray[np.float64]
Array = NDArray[Any]
"""float64, or float32 where only the spread of draws is wanted."""

Evidence = Literal["confirmed", "likely", "none"]
"""How sure it is that a mixture is better than the natural one."""

RunKind = Literal["swarm", "corner", "natural", "uniform", "unimax", "best_seen", "proposal"]


Value = TypeVar("Value")


@dataclass(frozen=True)
class Estimate:
    """A number with its 90 % interval; NaN where none is known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One mixture's metric minus another's, paired by seed: below zero, the one is better. The interval is 90 %.

    `in_sd` is the difference in pooled standard deviations of a single run over seeds; None where seeds make none.
    """

    value: float
    low: float
    high: float
    in_sd: float | None = None


@dataclass(frozen=True)
class Prediction:
    """Metrics of new runs at q mixtures, each (q, m).

    `low` and `high` end the 90 % interval of a new run with a fresh seed (what it would measure, its noise included);
    `mean_low` and `mean_high` that of the mean over runs (what the fit, and the mean of its seeds, may be off by).
    Trees do not tell the two apart, but for the seeds.
    """

    mean: Floats
    low: Floats
    high: Floats
    mean_low: Floats
    mean_high: Floats


@dataclass(frozen=True)
class ChosenDocuments:
    """The documents of all slices, in the order of their ids: what is held of each is 22 bytes.

    `keys` uint64 (n, 2) are the ids' 128 bits, `slices` int32 (n,) the number of each document's slice, `source_codes`
    int16 (n,) the position of its source in `sources`.
    """

    keys: NDArray[np.uint64]
    slices: NDArray[np.int32]
    source_codes: NDArray[np.int16]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class SliceTokens:
    """The training tokens of one slice, on disk: documents in the order of a hash of their ids, each ended by EOS.

    `tokens` is a memory-mapped array of uint16 or uint32, shape (n_tokens,). `documents` is a Parquet file with
    `doc_id` (string), `source` (string), `start` (int64: first token), `tokens` (int32, EOS included) and `bytes`
    (int64, UTF-8).
    """

    name: str
    tokens_path: Path
    documents_path: Path
    n_documents: int
    n_tokens: int
    n_bytes: int

    def tokens(self) -> NDArray[Any]:
        """Return the tokens, memory-mapped for reading."""
        tokens: NDArray[Any] = np.load(self.tokens_path, mmap_mode="r")  # allow_pickle is False
        return tokens


@dataclass(frozen=True)
class BuiltSlice:
    """A finished store and where its documents went: documents_in = trained + held_out + contaminated."""

    tokens: SliceTokens
    key: str
    """32 hex digits over everything that decides the store."""
    documents_in: int
    held_out: int
    contaminated: int
    contaminated_by_task: Mapping[str, int]
    """Documents dropped by task; one that two tasks contaminate counts for both."""
    unchecked_items: Mapping[str, int]
    """Items a task that are too short to be looked for."""
    task_keys: Mapping[str, str]
    """The tasks whose items were kept out, and their keys."""
    held_out_path: Path

    @property
    def name(self) -> str:
        return self.tokens.name


@dataclass(frozen=True)
class Item:
    """One evaluation item: bits per byte are measured on `continuation`, given `prompt` (both may hold any text)."""

    id: str
    prompt: str
    continuation: str


@dataclass(frozen=True)
class Task:
    """Items of one task. `key` is 32 hex digits over the items' content: what was measured for it stays valid."""

    name: str
    key: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class TokenItem:
    """An item as tokens: the model sees `tokens[:start]` and is scored on `tokens[start:]`, of `n_bytes` in UTF-8."""

    tokens: NDArray[np.int32]
    start: int
    n_bytes: int


@dataclass(frozen=True)
class TokenTask:
    """A task's items as tokens, in the task's order."""

    name: str
    key: str
    items: tuple[TokenItem, ...]


@dataclass(frozen=True)
class Measure:
    """What a model lost on each item of a task: nats (float64) and UTF-8 bytes (int64), both shape (n_items,)."""

    nats: Floats
    n_bytes: NDArray[np.int64]

    @property
    def bits_per_byte(self) -> float:
        """All bits over all bytes."""
        return float(self.nats.sum() / np.log(2) / self.n_bytes.sum())


@dataclass(frozen=True)
class RunSpec:
    """One proxy run: a mixture and a seed. `weights` has shape (k,), in the order of the slices, and sums to 1."""

    run_id: str
    kind: RunKind
    weights: Floats
    seed: int


@dataclass(frozen=True)
class TrainedRun:
    """What is known of a proxy run: how far it came, what it cost, and its training loss on the way."""

    tokens: int
    steps: int
    cpu_s: float
    flops: float
    curve: Sequence[tuple[int, float]]
    """(tokens seen, mean training loss in nats a token since the last point)."""


@dataclass(frozen=True)
class ProxyData:
    """What proxies train on: the slices in order, how much of each a proxy may draw from, and the vocabulary.

    `pool_tokens` (k,) int64: a proxy sees only the first so many tokens of a slice (whole documents), so that it
    repeats the slice as often as the target run would (`match_target_epochs`).
    """

    slices: tuple[SliceTokens, ...]
    pool_tokens: NDArray[np.int64]
    vocabulary: int
    eos: int


@dataclass(frozen=True)
class Job:
    """A run of which something is missing: its training up to a share of its tokens, or measures for these tasks."""

    run: RunSpec
    folder: Path
    tasks: tuple[TokenTask, ...] = ()
    until: float = 1.0


@dataclass(frozen=True)
class Done:
    """A job, what its training came to, and a measure for each of its tasks."""

    job: Job
    trained: TrainedRun
    measures: Sequence[Measure]


class Proxy(Protocol):
    """A kind of small model. Training is deterministic: same run and data, same model, same measures on one machine."""

    @property
    def is_quick(self) -> bool:
        """Whether all runs together are seconds of work, best done at once in this process."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything that decides a model besides run and data (JSON-serialisable); part of each run's key."""
        ...

    def train(self, run: RunSpec, folder: Path, until: float = 1.0) -> TrainedRun:
        """Train (or resume) a run in its folder up to this share of its tokens; returns once it is durably there."""
        ...

    def measure(self, run: RunSpec, folder: Path, tasks: Sequence[TokenTask]) -> list[Measure]:
        """Measure a trained run on tasks, in order."""
        ...

    def perform(self, jobs: Sequence[Job], stop: threading.Event) -> Iterator[Done]:
        """Train and measure; yield each job as it is done. Ends early, without an error, when `stop` is set."""
        ...


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread, for the whole process while inside; a decorator as well.

    Small matrices gain nothing from more: on a busy machine BLAS's threads wait for one another, spinning.
    """
    import scipy.linalg  # noqa: F401  # it brings a BLAS of its own, which only a loaded library lets be limited
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def plain_json(value: object) -> Any:
    """Return a dataclass as plain values for a JSON file; `from_json` undoes it."""
    from pydantic import TypeAdapter

    return TypeAdapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[Value], value: object, where: str, step: str) -> Value:
    """Return the dataclass that `plain_json` made `value` of; keys that it does not have are left out.

    Raises: WorkspaceError when `value`, read from the file `where`, is none; `step` makes the file again.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise WorkspaceError(f"{where}: {key}: {first['msg']}; run `gristmill mix {step}` again") from error
