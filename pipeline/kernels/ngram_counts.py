"""Counting wanted n-grams in a stream of tokens, and the probabilities that mixed counts give.

Wanted n-grams are the nodes of a trie: a node is its prefix's node and one more token, so that keys are exact at any
order and vocabulary. `first` (vocabulary,) int32 has the nodes of single tokens; the children of all nodes are in one
open-addressing table of `keys` (uint64, node << 32 | token) and `nodes` (int32), power-of-two long. -1 is no node.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.kernels import entry, inner

BLOCKS = 8
"""Documents are counted in so many blocks: document i of a slice is in block i % BLOCKS."""
LANES = 8
"""Mixtures that are computed side by side."""
REGISTERS = 64
"""Bytes that estimate how many different tokens follow a context."""


@inner
def _slot(keys, nodes, key):  # type: ignore[no-untyped-def]
    """Return where `key` is, or the free slot where it belongs."""
    mask = np.uint64(keys.size - 1)
    mixed = key * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed ^ (mixed >> np.uint64(32))) & mask
    while nodes[slot] >= 0 and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@entry
def fill_table(keys, nodes, wanted, numbers):  # type: ignore[no-untyped-def]
    """Put distinct `wanted` keys (uint64), with node `numbers` (int32), into an empty table of twice their length."""
    for i in range(wanted.size):
        slot = _slot(keys, nodes, wanted[i])
        keys[slot] = wanted[i]
        nodes[slot] = numbers[i]


@inner
def _sketch(registers, token):  # type: ignore[no-untyped-def]
    """Note a token in a HyperLogLog sketch (uint8): each register keeps the longest run of zeros among its hashes."""
    mixed = (np.uint64(token) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    register = np.int64(mixed & np.uint64(REGISTERS - 1))
    rest = mixed >> np.uint64(6)
    run = np.uint8(1)
    while run < 58 and not rest & np.uint64(1):
        rest >>= np.uint64(1)
        run += np.uint8(1)
    if run > registers[register]:
        registers[register] = run


@entry
def estimate_types(sketches, out):  # type: ignore[no-untyped-def]
    """Write each sketch's number of different tokens to `out` (float64), about 13 % off when it is large.

    Source: Flajolet et al., HyperLogLog (2007), with linear counting of small numbers.
    """
    for row in range(sketches.shape[0]):
        total = 0.0
        empty = 0
        for register in range(REGISTERS):
            total += 2.0 ** -np.float64(sketches[row, register])
            empty += sketches[row, register] == 0
        estimate = 0.709 * REGISTERS * REGISTERS / total
        if estimate <= 2.5 * REGISTERS and empty > 0:
            estimate = REGISTERS * np.log(REGISTERS / empty)
        out[row] = estimate


@entry
def count_ngrams(tokens, end, trie, live, tally):  # type: ignore[no-untyped-def]
    """Count the occurrences of every node, the different tokens that follow it, and all tokens.

    `trie` is (first, keys, nodes, contexts): the last is each node's row in the sketches (int32), -1 for none. `tally`
    is (counts, documents, latest, totals, sketches): occurrences (n_nodes, BLOCKS); by node (n_nodes,) the documents
    that it is in and the latest of these (-1 at first); tokens (BLOCKS,), all int64; and what follows each context,
    uint8 (n_contexts, REGISTERS).

    `live` (int64, order + 1) carries the stream's state from one piece to the next: the
    nodes that end at the last token, by length, -1 at first; last, the number of documents ended. An n-gram belongs to
    the block of its last token. A token not in the vocabulary stops it; returns the number of tokens done.
    """
    first, keys, nodes, contexts = trie
    counts, documents, latest, totals, sketches = tally
    order = live.size - 1
    block = live[order] % BLOCKS
    for i in range(tokens.size):
        token = np.int64(tokens[i])
        if token < 0 or token >= first.size:
            return i
        for n in range(order - 1, 0, -1):
            node = np.int64(-1)
            if live[n - 1] >= 0:
                key = (np.uint64(live[n - 1]) << np.uint64(32)) | np.uint64(token)
                if contexts[live[n - 1]] >= 0:
                    _sketch(sketches[contexts[live[n - 1]]], token)
                node = np.int64(nodes[_slot(keys, nodes, key)])
                if node >= 0:
                    counts[node, block] += 1
                    documents[node] += latest[node] != live[order]
                    latest[node] = live[order]
            live[n] = node
        live[0] = first[token]
        if live[0] >= 0:
            counts[live[0], block] += 1
            documents[live[0]] += latest[live[0]] != live[order]
            latest[live[0]] = live[order]
        totals[block] += 1
        if token == end:
            live[order] += 1
            block = live[order] % BLOCKS
    return tokens.size


@njit(cache=True, nogil=True)
def mix_contexts(contexts, smoothing, scales, weight, penalty):  # type: ignore[no-untyped-def]
    """Write what each context's shorter one weighs, and what it costs an n-gram to fall back on it, (n_rows, LANES).

    `contexts` is (offsets, columns, values, order), sparse by row and slice: `values` (n, 3) are how often and in how
    many documents a context is, and how many different tokens follow it; `order` is the length of the n-grams that it
    begins. `scales` is (read, known, missed), each (n_slices, LANES): what a count is multiplied by, the share of a
    slice that is read at all, and log(1 - share).

    Of a share k of a slice in which C tokens of T types follow a context, k C T / (k C + (1 - k) T) types are expected:
    k C when that is little, T at last. With (a, b) = smoothing[order] and expectations given that the context is seen,
    weight = a + b * types, and penalty = P(context seen) * log(weight / (count + weight)).
    """
    offsets, columns, values, orders = contexts
    read, known, missed = scales
    count, distinct, unseen = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    for row in range(offsets.size - 1):
        count[:] = 0.0
        distinct[:] = 0.0
        unseen[:] = 0.0
        for at in range(offsets[row], offsets[row + 1]):
            column = columns[at]
            occurs, documents, types = values[at, 0], values[at, 1], values[at, 2]
            for lane in range(LANES):
                share = known[column, lane]
                scaled = read[column, lane] * occurs
                count[lane] += scaled
                distinct[lane] += scaled * types / (share * occurs + (1.0 - share) * types)
                unseen[lane] += missed[column, lane] * documents
        constant = smoothing[orders[row], 0]
        factor = smoothing[orders[row], 1]
        for lane in range(LANES):
            seen = -np.expm1(unseen[lane])
            if seen > 0.0:
                weight[row, lane] = constant + factor * distinct[lane] / seen
                penalty[row, lane] = -seen * np.log1p(count[lane] / seen / weight[row, lane])
            else:
                weight[row, lane] = constant
                penalty[row, lane] = 0.0


@njit(cache=True, nogil=True)
def interpolate(grams, nodes, scales, mixed, out):  # type: ignore[no-untyped-def]
    """Write each n-gram's expected log-probability to `out` (n_grams + 1, LANES), whose row 0 has the uniform one's.

    `grams` is (offsets, columns, values), as contexts have them; `nodes` is (lower, context): the row of `out` of the
    same n-gram without its first token (smaller than its own), and the row of `mixed`: (weight, penalty) of contexts.
    `scales` is that of `mix_contexts`. With c the count given that the n-gram is seen, and p the shorter one's
    probability: log p + penalty + P(n-gram seen) * log(1 + c / (weight * p)).
    """
    offsets, columns, values = grams
    lower, context = nodes
    read, _, missed = scales
    weight, penalty = mixed
    count, unseen = np.empty(LANES), np.empty(LANES)
    for row in range(lower.size):
        below = lower[row]
        above = context[row]
        for lane in range(LANES):
            out[row + 1, lane] = out[below, lane] + penalty[above, lane]
        if offsets[row] == offsets[row + 1]:
            continue
        count[:] = 0.0
        unseen[:] = 0.0
        for at in range(offsets[row], offsets[row + 1]):
            column = columns[at]
            occurs, documents = values[at, 0], values[at, 1]
            for lane in range(LANES):
                count[lane] += read[column, lane] * occurs
                unseen[lane] += missed[column, lane] * documents
        for lane in range(LANES):
            seen = -np.expm1(unseen[lane])
            if seen > 0.0:
                shorter = weight[above, lane] * np.exp(out[below, lane])
                out[row + 1, lane] += seen * np.log1p(count[lane] / seen / shorter)


@entry
def item_nats(rows, offsets, logs, out):  # type: ignore[no-untyped-def]
    """Write the sum of -`logs` over each item's rows to `out` (n_items, LANES)."""
    for item in range(offsets.size - 1):
        for lane in range(LANES):
            out[item, lane] = 0.0
        for at in range(offsets[item], offsets[item + 1]):
            for lane in range(LANES):
                out[item, lane] -= logs[rows[at], lane]
