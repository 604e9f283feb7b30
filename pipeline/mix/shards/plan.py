"""Which documents a sample takes, in which order, and where its shards begin: all of it before a token is written.

The tokens of a sample are one stream. Which slice comes next is a uniform shuffle of as many labels as each slice gives
documents; a slice fills its places with its documents in a random order, epoch after epoch, so no document comes again
before all others of its slice have come. The stream is cut into shards between documents. Since the plan says where
every document lies, each shard can be written alone, in any order, and again after a kill.

The plan holds about 16 bytes a place in the stream, and the lengths and starts of the documents; tokens stay on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.mix.types import Floats, SliceTokens
from pipeline.table.errors import ConfigError, ShardError

Integers = NDArray[np.int64]

MAX_SHARDS = 50_000
"""Since documents stay whole there may be up to twice as many, and names have five digits."""
MAX_BUDGET = 10**15
MAX_EPOCHS = 65_535
_SUM_TOLERANCE = 1e-6
_ROUNDING = 1e-6
"""Share of the budget by which a weight may exceed its cap: it was rounded when written. Other slices fill it."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Documents:
    """The documents of a slice that may be drawn: ids, first tokens, lengths with EOS (int64), all of shape (n,)."""

    name: str
    doc_ids: pa.Array
    starts: Integers
    lengths: Integers

    @property
    def n_tokens(self) -> int:
        return int(self.lengths.sum())


@dataclass(frozen=True)
class Rows:
    """Ranges of a shard, in order, shape (n,), each one range of one document; `pieces` are where documents begin.

    A document that was cut short has two rows: its first tokens, then its EOS. `start` counts from the shard's first
    token, `document_start` from the document's. `pieces` is int64 (n_pieces + 1,), the last value the shard's end.
    """

    slice: NDArray[np.uint16]
    document: NDArray[np.uint32]
    epoch: NDArray[np.uint16]
    start: Integers
    length: Integers
    document_start: Integers
    cut: NDArray[np.bool_]
    continues: NDArray[np.bool_]
    pieces: Integers


@dataclass(frozen=True)
class SamplePlan:
    """The whole stream: for each place the slice, the document in it, the epoch, and the place's first token.

    `starts` is int64 (n + 1,), `shards` int64 (n_shards + 1,): the stream's positions where shards begin, and its end.
    """

    documents: tuple[Documents, ...]
    asked: Integers
    slice: NDArray[np.uint16]
    document: NDArray[np.uint32]
    epoch: NDArray[np.uint16]
    starts: Integers
    shards: Integers

    @property
    def n_shards(self) -> int:
        return self.shards.size - 1

    def rows(self, low: int, high: int) -> Rows:
        """Return the ranges of the stream's tokens `low` to `high`, starts counted from `low`."""
        first = int(np.searchsorted(self.starts, low, side="right")) - 1
        last = int(np.searchsorted(self.starts, high, side="left"))
        places = slice(first, last)
        begin = np.maximum(self.starts[first:last], low)
        end = np.minimum(self.starts[first + 1 : last + 1], high)
        whole = self._document_lengths(first, last)
        cut = np.diff(self.starts[first : last + 1]) < whole
        ends_here = self.starts[first + 1 : last + 1] == end
        rows = Rows(
            slice=self.slice[places],
            document=self.document[places],
            epoch=self.epoch[places],
            start=begin - low,
            length=end - begin,
            document_start=begin - self.starts[first:last],
            cut=cut,
            continues=~ends_here,
            pieces=np.append(begin - low, high - low),
        )
        return _with_eos(rows, np.flatnonzero(cut & ends_here), whole)

    def _document_lengths(self, first: int, last: int) -> Integers:
        slices, documents = self.slice[first:last], self.document[first:last]
        lengths = np.empty(slices.size, np.int64)
        for number in np.unique(slices):
            here = slices == number
            lengths[here] = self.documents[number].lengths[documents[here]]
        return lengths


def _with_eos(rows: Rows, ends: NDArray[np.intp], whole: Integers) -> Rows:
    """Return rows in which the documents at `ends`, cut short, give their last token to a row of its own: their EOS."""
    if not ends.size:
        return rows
    length = rows.length.copy()
    length[ends] -= 1
    keep = np.insert(length > 0, ends + 1, True)

    def twice(values: NDArray, second: NDArray | None = None) -> NDArray:  # type: ignore[type-arg]
        return np.insert(values, ends + 1, values[ends] if second is None else second)[keep]

    return Rows(
        slice=twice(rows.slice),
        document=twice(rows.document),
        epoch=twice(rows.epoch),
        start=twice(rows.start, rows.start[ends] + length[ends]),
        length=twice(length, np.ones(ends.size, np.int64)),
        document_start=twice(rows.document_start, whole[ends] - 1),
        cut=twice(rows.cut),
        continues=twice(rows.continues),
        pieces=rows.pieces,
    )


def read_documents(tokens: SliceTokens, exclude: Collection[str] | None) -> Documents:
    """Return a slice's documents, without those whose ids are in `exclude`.

    Raises: ShardError when the file cannot be read or names tokens that the slice does not have.
    """
    try:
        table = pq.read_table(tokens.documents_path, columns=["doc_id", "start", "tokens"])
    except (OSError, pa.ArrowInvalid) as error:
        raise ShardError(f"slice {tokens.name}: {tokens.documents_path}: {error}; make the slices again") from error
    starts = table["start"].to_numpy().astype(np.int64)
    lengths = table["tokens"].to_numpy().astype(np.int64)
    if lengths.size and (lengths.min() < 1 or starts.min() < 0 or (starts + lengths).max() > tokens.n_tokens):
        raise ShardError(
            f"slice {tokens.name}: {tokens.documents_path} names tokens outside 0 to {tokens.n_tokens}; "
            "make the slices again"
        )
    doc_ids = table["doc_id"].cast(pa.large_string()).combine_chunks()
    if exclude:
        keep = pc.invert(pc.is_in(doc_ids, value_set=pa.array(sorted(exclude), pa.large_string())))
        mask = keep.to_numpy(zero_copy_only=False)
        doc_ids, starts, lengths = doc_ids.filter(keep), starts[mask], lengths[mask]
    return Documents(tokens.name, doc_ids, starts, lengths)


def tokens_asked(weights: Floats, budget_tokens: int, documents: Sequence[Documents], max_epochs: Floats) -> Integers:
    """Return each slice's tokens, int64 (k,): largest remainders of weight x budget, their sum the budget exactly.

    Raises: ConfigError when the weights are no mixture, or a slice would be repeated more often than `max_epochs`.
    """
    if not 1 <= budget_tokens <= MAX_BUDGET:
        raise ConfigError(f"budget_tokens {budget_tokens} is not between 1 and {MAX_BUDGET}")
    weights, max_epochs = np.asarray(weights, np.float64), np.asarray(max_epochs, np.float64)
    if weights.shape != (len(documents),) or max_epochs.shape != weights.shape:
        raise ConfigError(f"{weights.size} weights and {max_epochs.size} max_epochs for {len(documents)} slices")
    if not np.isfinite(weights).all() or weights.min() < 0 or abs(weights.sum() - 1) > _SUM_TOLERANCE:
        raise ConfigError(f"weights add up to {weights.sum():g} (least {weights.min():g}): they are to be a mixture")
    if not ((max_epochs >= 0) & (max_epochs <= MAX_EPOCHS)).all():
        raise ConfigError(f"max_epochs {max_epochs.tolist()}: each is to be between 0 and {MAX_EPOCHS}")
    exact = weights / weights.sum() * budget_tokens
    asked = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(asked - exact, kind="stable")
    asked[by_remainder[: budget_tokens - int(asked.sum())]] += 1
    limits = np.array([int(d.n_tokens * e) for d, e in zip(documents, max_epochs, strict=True)], np.int64)
    return _within(asked, limits, documents, budget_tokens)


def _within(asked: Integers, limits: Integers, documents: Sequence[Documents], budget_tokens: int) -> Integers:
    """Return `asked` with what rounding put above a limit given to the slices with most room."""
    over = np.maximum(asked - limits, 0)
    tolerance = max(1, int(_ROUNDING * budget_tokens))
    room = np.where(asked > 0, np.maximum(limits - asked, 0), 0)
    if over.max() > tolerance or over.sum() > room.sum():
        worst = int(np.argmax(over))
        others = np.count_nonzero(over > tolerance) - 1
        raise ConfigError(
            f"slice {documents[worst].name}: {asked[worst]} tokens asked, {limits[worst]} available (it has "
            f"{documents[worst].n_tokens}, times max_epochs){f'; so for {others} more slices' if others > 0 else ''}; "
            "lower its weight or budget_tokens, or raise its max_epochs"
        )
    asked = asked - over
    missing = int(over.sum())
    for number in np.argsort(-room, kind="stable"):
        moved = min(missing, int(room[number]))
        asked[number] += moved
        missing -= moved
    return asked


def make_plan(documents: Sequence[Documents], asked: Integers, seed: int, shard_tokens: int) -> SamplePlan:
    """Return the stream and its shards for `asked` tokens of each slice (int64, (k,)); the order is `seed`'s alone.

    Raises: ConfigError when there would be too many shards.
    """
    if asked.sum() > MAX_SHARDS * shard_tokens:
        raise ConfigError(
            f"sample.shard_tokens {shard_tokens}: {asked.sum()} tokens would be more than {MAX_SHARDS} shards; raise it"
        )
    drawn = [_draw(d, int(n), seed) for d, n in zip(documents, asked, strict=True)]
    counts = [numbers.size for numbers, _, _ in drawn]
    labels = np.repeat(np.arange(len(documents), dtype=np.uint16), counts)
    keys = [_keys(f"{seed} order {d.name}", n) for d, n in zip(documents, counts, strict=True)]
    labels = labels[np.argsort(np.concatenate(keys), kind="stable")]
    places = np.argsort(labels, kind="stable")  # places of the first slice in order, of the second ...
    n = labels.size
    document, epoch, lengths = np.empty(n, np.uint32), np.empty(n, np.uint16), np.empty(n, np.int64)
    for values, number in ((document, 0), (epoch, 1), (lengths, 2)):
        values[places] = np.concatenate([d[number] for d in drawn])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SamplePlan(tuple(documents), asked, labels, document, epoch, starts, borders(starts, shard_tokens))


def borders(starts: Integers, limit: int) -> Integers:
    """Return where parts of at most `limit` tokens begin, and the end: only a document longer than a part is divided.

    `starts` are the first tokens of documents that follow one another, and their end, int64 (n + 1,).
    """
    position, end = int(starts[0]), int(starts[-1])
    cuts = [position]
    while position < end:
        reached = int(starts[np.searchsorted(starts, position + limit, side="right") - 1])
        position = reached if reached > position else position + limit
        cuts.append(position)
    return np.array(cuts, np.int64)


def _draw(documents: Documents, asked: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16], Integers]:
    """Return document numbers, epochs and lengths in the order drawn; the last is cut so that their sum is exact."""
    total, size = documents.n_tokens, documents.lengths.size
    numbers, epochs = [np.empty(0, np.uint32)], [np.empty(0, np.uint16)]
    epoch, left = 0, asked
    while left > 0:
        order = np.argsort(_keys(f"{seed} epoch {epoch} {documents.name}", size), kind="stable").astype(np.uint32)
        if left < total:
            reached = np.cumsum(documents.lengths[order])
            order = order[: int(np.searchsorted(reached, left, side="left")) + 1]
        numbers.append(order)
        epochs.append(np.full(order.size, epoch, np.uint16))
        epoch, left = epoch + 1, left - total
    drawn = np.concatenate(numbers)
    lengths = documents.lengths[drawn]
    if drawn.size:
        lengths[-1] -= int(lengths.sum()) - asked
    return drawn, np.concatenate(epochs), lengths


def _keys(stream: str, count: int) -> NDArray[np.uint64]:
    """Return `count` distinct random numbers of a named stream: splitmix64, the same in every version of NumPy."""
    seed = int.from_bytes(hashlib.blake2b(stream.encode(), digest_size=8).digest(), "little")
    keys = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN + np.uint64(seed)
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return keys ^ (keys >> np.uint64(31))
