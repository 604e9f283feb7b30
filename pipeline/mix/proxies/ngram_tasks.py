"""The n-grams that a task needs, their counts in each slice, and the sparse arrays that mixtures are scored on.

Only n-grams that occur in a task are counted, so memory is bounded by the tasks and not by the corpus: one pass over a
slice's pool counts those of every task that still lacks counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.kernels.ngram_counts import BLOCKS, REGISTERS, count_ngrams, estimate_types, fill_table
from pipeline.mix.types import Floats, TokenTask
from pipeline.table.errors import InputError, ShardError

Ints = NDArray[np.int64]
_PIECE_TOKENS = 1 << 22


@dataclass(frozen=True)
class Trie:
    """The n-grams around the scored positions of tasks, up to an order. Nodes are sorted by length.

    By node: `prefix` and `suffix` (the n-gram without its last or first token; -1 for single tokens), `token` (its
    last), `length`, `position` (one place where it ends). `ids` (order, n_positions): the node of each length that ends
    at a position, -1 where the item is shorter. `scored` (n_positions,) are positions that count; `items` (n_items + 1)
    where each item's positions start.
    """

    prefix: Ints
    suffix: Ints
    token: Ints
    length: Ints
    position: Ints
    ids: Ints
    scored: NDArray[np.bool_]
    items: Ints


@dataclass(frozen=True)
class NgramCounts:
    """How often a slice's pool has each node of a trie, by block, without zeros.

    `rows`, `blocks` and `counts` are parallel; so are `nodes`, the `documents` that a node is in, and `types`, about
    how many different tokens follow it. `n_documents` and `vocabulary` are how many documents and different tokens
    there are; `totals` (BLOCKS,) counts tokens. `last` (order,) are the nodes that end at the pool's last token, -1 for
    none, and `last_block` is its block: no token follows there.
    """

    rows: Ints
    blocks: Ints
    counts: Ints
    nodes: Ints
    documents: Ints
    types: Ints
    n_documents: int
    vocabulary: int
    totals: Ints
    last: Ints
    last_block: int


@dataclass(frozen=True)
class Sparse:
    """N-grams' numbers in each slice that has them: n-gram i's are `offsets[i]:offsets[i + 1]` of the others.

    `columns`: the slice. `values` (n, 3): occurrences, documents, different tokens that follow.
    """

    offsets: Ints
    columns: Ints
    values: Floats


@dataclass(frozen=True)
class TaskModel:
    """What a mixture needs to be scored on a task, whatever its weights.

    By n-gram, each after its suffix: `lower`, one more than its suffix's number (0 for none), and `context`, the number
    of its prefix in `contexts`. `order` by context: the length of the n-grams it begins. `rows` by scored position: one
    more than the number of the n-gram that gives its probability. `items` (n_items + 1): where each item's rows start.
    """

    lower: Ints
    context: Ints
    grams: Sparse
    contexts: Sparse
    order: Ints
    rows: Ints
    items: Ints
    n_bytes: NDArray[np.int64]


def build_trie(tasks: Sequence[TokenTask], order: int, vocabulary: int) -> Trie:
    """Return the n-grams that end at, or just before, the scored tokens of all items of all tasks, in order.

    Raises: InputError for tokens outside the vocabulary, or an item without bytes or whose start lies outside of it.
    """
    pieces, ages, scored = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    for task in tasks:
        for number, item in enumerate(task.items):
            bad = item.tokens.size and not (item.tokens.min() >= 0 and item.tokens.max() < vocabulary)
            if bad or not 0 <= item.start <= item.tokens.size or item.n_bytes <= 0:
                raise InputError(
                    f"task {task.name}, item {number}: start {item.start} of {item.tokens.size} tokens, {item.n_bytes} "
                    f"bytes, vocabulary {vocabulary}; tokenize it with the slices' tokenizer"
                )
            begin = max(0, item.start - (order - 1))
            pieces.append(item.tokens[begin:].astype(np.int64))
            ages.append(np.arange(pieces[-1].size))
            scored.append(ages[-1] >= item.start - begin)
    sizes = np.array([piece.size for piece in pieces], np.int64)
    return _link(np.concatenate(pieces), np.concatenate(ages), np.concatenate(scored), np.cumsum(sizes), order)


def _link(tokens: Ints, ages: Ints, scored: NDArray[np.bool_], items: Ints, order: int) -> Trie:
    """Number the n-grams of every length, each by its prefix's number and its last token."""
    ids = np.full((order, tokens.size), -1, np.int64)
    prefix, token, position = [], [], []
    base = 0
    for n in range(order):
        valid = np.flatnonzero(ages >= n)
        before = ids[n - 1][valid - 1] if n else np.full(valid.size, -1, np.int64)
        _, where, inverse = np.unique((before << 32) | tokens[valid], return_index=True, return_inverse=True)
        ids[n][valid] = base + inverse
        prefix.append(before[where])
        token.append(tokens[valid][where])
        position.append(valid[where])
        base += where.size
    lengths = np.repeat(np.arange(1, order + 1), [part.size for part in prefix])
    ends = np.concatenate(position)
    suffix = np.where(lengths > 1, ids[lengths - 2, ends], -1)
    return Trie(np.concatenate(prefix), suffix, np.concatenate(token), lengths, ends, ids, scored, items)


def count_nodes(trie: Trie, tokens: NDArray[np.unsignedinteger], end: int, vocabulary: int, name: str) -> NgramCounts:
    """Return the counts of a trie's nodes in `tokens` (n,), which may be memory-mapped: one pass over it.

    Raises: ShardError when a token lies outside the vocabulary.
    """
    order = trie.ids.shape[0]
    single = trie.length == 1
    first = np.full(vocabulary, -1, np.int32)
    first[trie.token[single]] = np.flatnonzero(single)
    wanted = ((trie.prefix[~single] << 32) | trie.token[~single]).astype(np.uint64)
    size = 1 << max(4, (2 * wanted.size).bit_length())
    keys, nodes = np.zeros(size, np.uint64), np.full(size, -1, np.int32)
    fill_table(keys, nodes, wanted, np.flatnonzero(~single).astype(np.int32))
    counts = np.zeros((trie.prefix.size, BLOCKS), np.int64)
    documents, totals = np.zeros(trie.prefix.size, np.int64), np.zeros(BLOCKS, np.int64)
    latest = np.full(trie.prefix.size, -1, np.int64)
    parents = np.unique(trie.prefix[~single])
    contexts = np.full(trie.prefix.size, -1, np.int32)
    contexts[parents] = np.arange(parents.size)
    sketches = np.zeros((parents.size, REGISTERS), np.uint8)
    known = np.zeros(vocabulary, np.bool_)
    live = np.full(order + 1, -1, np.int64)
    live[order] = 0
    table, tally = (first, keys, nodes, contexts), (counts, documents, latest, totals, sketches)
    for start in range(0, tokens.size, _PIECE_TOKENS):
        piece = np.ascontiguousarray(tokens[start : start + _PIECE_TOKENS])
        done = count_ngrams(piece, end, table, live, tally)
        if done < piece.size:
            raise ShardError(
                f"slice {name}: token {int(piece[done])} at {start + done:,} is outside the vocabulary of "
                f"{vocabulary}; tokenize the slices again"
            )
        known[piece] = True
    ended = tokens.size > 0 and int(tokens[-1]) == end
    rows, blocks = np.nonzero(counts)
    last_block = int(live[order] - ended) % BLOCKS
    found = np.flatnonzero(documents)
    estimates, types = np.empty(parents.size), np.zeros(trie.prefix.size, np.int64)
    estimate_types(sketches, estimates)
    types[parents] = np.rint(estimates)
    return NgramCounts(
        rows,
        blocks,
        counts[rows, blocks],
        found,
        documents[found],
        types[found],
        int(live[order] + (not ended)),
        int(known.sum()),
        totals,
        live[:order].copy(),
        last_block,
    )


def node_numbers(union: Trie, task: Trie, first_position: int) -> Ints:
    """Return each node's number in a task's trie, -1 for none, (n_nodes + 1,); the last stands for no node, -1.

    `union` is the trie of several tasks, among them this one's positions from `first_position` on.
    """
    numbers = np.full(union.prefix.size + 1, -1, np.int64)
    numbers[union.ids[task.length - 1, task.position + first_position]] = np.arange(task.prefix.size)
    return numbers


def of_task(counts: NgramCounts, numbers: Ints) -> NgramCounts:
    """Return a task's part of the counts of several tasks, whose nodes have these `numbers` in the task's trie."""
    rows, nodes = numbers[counts.rows], numbers[counts.nodes]
    mine, own = np.flatnonzero(rows >= 0), np.flatnonzero(nodes >= 0)
    mine = mine[np.lexsort((counts.blocks[mine], rows[mine]))]
    own = own[np.argsort(nodes[own])]
    return replace(
        counts,
        rows=rows[mine],
        blocks=counts.blocks[mine],
        counts=counts.counts[mine],
        nodes=nodes[own],
        documents=counts.documents[own],
        types=counts.types[own],
        last=numbers[counts.last],
    )


def followed(counts: NgramCounts, trie: Trie, end: int) -> tuple[Ints, Ints, Ints]:
    """Return rows, blocks and counts of nodes as contexts: how often a token follows, in the block of that token.

    Only the end of a document moves to another block, the next one; and nothing follows the last token of all.
    """
    blocks, numbers = counts.blocks.copy(), counts.counts.copy()
    for node in counts.last[counts.last >= 0]:
        numbers[(counts.rows == node) & (blocks == counts.last_block)] -= 1
    moved = trie.token[counts.rows] == end
    blocks[moved] = (blocks[moved] + 1) % BLOCKS
    return counts.rows, blocks, numbers


def task_model(
    task: TokenTask, trie: Trie, by_slice: Sequence[NgramCounts], block_weights: Floats, end: int
) -> TaskModel:
    """Return a task's counts by slice, with each slice's blocks weighted by `block_weights` (k, BLOCKS).

    An n-gram whose context no slice has is dropped: its probability is that of the shorter one.
    """
    n_nodes = trie.prefix.size
    weighted = list(zip(by_slice, block_weights, strict=True))
    occurrences: list[Floats] = [
        np.bincount(c.rows, w[c.blocks] * c.counts, n_nodes + 1).astype(np.float64) for c, w in weighted
    ]
    follows = [_context_counts(c, trie, end, w) for c, w in weighted]
    seen = np.any([counts > 0 for counts in follows], axis=0)
    needed = np.unique(trie.ids[:, trie.scored])
    needed = needed[needed >= 0]
    kept = needed[(trie.length[needed] == 1) | seen[trie.prefix[needed]]]
    row = np.full(n_nodes + 1, -1, np.int64)
    row[kept] = np.arange(1, kept.size + 1)
    row[-1] = 0  # the suffix of a single token
    for length in range(2, trie.ids.shape[0] + 1):  # a dropped one stands for what its suffix stands for
        dropped = needed[(trie.length[needed] == length) & (row[needed] < 0)]
        row[dropped] = row[trie.suffix[dropped]]
    prefix = np.where(trie.prefix[kept] >= 0, trie.prefix[kept], n_nodes)  # the last one: no context, all tokens
    contexts, context = np.unique(prefix, return_inverse=True)
    counted = np.concatenate([[0], np.cumsum(trie.scored)])
    return TaskModel(
        row[trie.suffix[kept]],
        context,
        _sparse(by_slice, occurrences, kept),
        _sparse(by_slice, follows, contexts),
        np.append(trie.length, 0)[contexts] + 1,
        row[trie.ids[:, trie.scored].max(axis=0)],  # the longest: longer n-grams have larger numbers
        counted[trie.items],
        np.array([item.n_bytes for item in task.items], np.int64),
    )


def _context_counts(counts: NgramCounts, trie: Trie, end: int, weights: Floats) -> Floats:
    """Return how often a token follows each node (n_nodes + 1,), in blocks of `weights`; last, of no context at all."""
    rows, blocks, numbers = followed(counts, trie, end)
    out: Floats = np.bincount(rows, weights[blocks] * numbers, trie.prefix.size + 1).astype(np.float64)
    out[-1] = weights @ counts.totals
    return out


def _sparse(by_slice: Sequence[NgramCounts], occurrences: Sequence[Floats], nodes: Ints) -> Sparse:
    """Return the numbers of `nodes`, in order, from each slice's occurrences of all nodes (n_nodes + 1,)."""
    rows, columns, values = [], [], []
    for column, (counts, occurs) in enumerate(zip(by_slice, occurrences, strict=True)):
        documents, types = np.zeros(occurs.size), np.zeros(occurs.size)
        documents[counts.nodes], types[counts.nodes] = counts.documents, counts.types
        documents[-1], types[-1] = counts.n_documents, counts.vocabulary
        found = np.flatnonzero(occurs[nodes] > 0)
        rows.append(found)
        columns.append(np.full(found.size, column, np.int64))
        at = nodes[found]
        values.append(np.stack([occurs[at], documents[at], np.maximum(types[at], 1)], axis=1))
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    offsets = np.searchsorted(row[order], np.arange(nodes.size + 1))
    return Sparse(offsets, np.concatenate(columns)[order], np.concatenate(values)[order])


def content_hash(*arrays: NDArray[np.generic]) -> str:
    """Return 32 hex digits over the types, lengths and bytes of arrays; memory-mapped ones are read in pieces."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.size};".encode())
        for start in range(0, array.size, _PIECE_TOKENS):
            digest.update(np.ascontiguousarray(array[start : start + _PIECE_TOKENS]).data)
    return digest.hexdigest()
