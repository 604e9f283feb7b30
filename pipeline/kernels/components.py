"""Union-find and first-seen hash tables: from (key, document) records to components.

Documents are numbered by uint32. The root of a component is its smallest number, so the result does not depend on the
order of unions. Tables use open addressing: their arrays share one power-of-two length, `NONE` marks a free slot, and
keys are expected to be well mixed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

NONE = np.uint32(0xFFFFFFFF)
"""No document: at most 2^32 - 1 documents can be numbered."""
BUCKET_CAP = 32
"""Documents that one bucket keeps to compare later ones with, when candidate pairs are verified."""


class Records(NamedTuple):
    """Keys and the documents that have them, record by record."""

    keys: NDArray[np.uint64]
    docs: NDArray[np.uint32]


class Slots(NamedTuple):
    """A hash table. `chains` (empty when pairs are not verified) has the bucket's first chain node, -1 for none."""

    keys: NDArray[np.uint64]
    docs: NDArray[np.uint32]
    chains: NDArray[np.int32]


class Chains(NamedTuple):
    """The further documents of buckets: node i holds `docs[i]`, the next node is `following[i]`, -1 at the end."""

    docs: NDArray[np.uint32]
    following: NDArray[np.int32]


class Joint(NamedTuple):
    """What verified unions need: the forest, the signatures (n_docs, num_perm), the least number of equal values."""

    parents: NDArray[np.uint32]
    signatures: NDArray[np.uint32]
    minimum: int


_NOT_KEPT = -2


@njit(cache=True, nogil=True)
def find(parents, node):  # type: ignore[no-untyped-def]
    """Return the root of `node`, halving the path to it."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@njit(cache=True, nogil=True)
def union(parents, left, right):  # type: ignore[no-untyped-def]
    """Join the components of two nodes under the smaller root."""
    left, right = find(parents, left), find(parents, right)
    if left < right:
        parents[right] = left
    elif right < left:
        parents[left] = right


@njit(cache=True, nogil=True)
def flatten(parents, sizes):  # type: ignore[no-untyped-def]
    """Point every node at its root and count the members of each root into `sizes` (zeros)."""
    for node in range(parents.size):
        # A parent is never larger than its child, so it is flat already.
        root = parents[parents[node]]
        parents[node] = root
        sizes[root] += np.uint32(1)


@njit(cache=True, nogil=True)
def partition(records, bits, ordered, starts):  # type: ignore[no-untyped-def]
    """Copy records into `ordered` by the upper `bits` (at least 1) of their keys, stably.

    Range p ends up at `starts[p]:starts[p + 1]`; `starts` (int64, 2^bits + 1) must be zeros.
    """
    shift = np.uint64(64 - bits)
    for i in range(records.keys.size):
        starts[np.int64(records.keys[i] >> shift) + 1] += 1
    for i in range(1, starts.size):
        starts[i] += starts[i - 1]
    cursors = starts[:-1].copy()
    for i in range(records.keys.size):
        to = np.int64(records.keys[i] >> shift)
        at = cursors[to]
        ordered.keys[at] = records.keys[i]
        ordered.docs[at] = records.docs[i]
        cursors[to] = at + 1


@njit(cache=True, nogil=True)
def _slot(slots, key):  # type: ignore[no-untyped-def]
    """Return where `key` is, or the free slot where it belongs."""
    mask = np.uint64(slots.keys.size - 1)
    slot = key & mask
    while slots.docs[slot] != NONE and slots.keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@njit(cache=True, nogil=True)
def rehash(slots, larger):  # type: ignore[no-untyped-def]
    """Copy every bucket of one table into a larger, empty one."""
    for i in range(slots.keys.size):
        if slots.docs[i] != NONE:
            slot = _slot(larger, slots.keys[i])
            larger.keys[slot] = slots.keys[i]
            larger.docs[slot] = slots.docs[i]
            if slots.chains.size > 0:
                larger.chains[slot] = slots.chains[i]


@njit(cache=True, nogil=True)
def unite_first_seen(records, slots, counters, parents, twins):  # type: ignore[no-untyped-def]
    """Join each document with the first one that had its key; return the number of records done.

    `counters` (int64): slots used, (not used), pairs found. Stops early when the table is three quarters full: grow it
    and go on. Where `twins` (uint8) is not empty, both documents of a pair are marked 1 in it.
    """
    limit = slots.keys.size - slots.keys.size // 4
    for i in range(records.keys.size):
        if counters[0] >= limit:
            return i
        doc = records.docs[i]
        slot = _slot(slots, records.keys[i])
        first = slots.docs[slot]
        if first == NONE:
            slots.keys[slot] = records.keys[i]
            slots.docs[slot] = doc
            counters[0] += 1
            continue
        counters[2] += 1
        union(parents, first, doc)
        if twins.size > 0:
            twins[first] = 1
            twins[doc] = 1
    return records.keys.size


@njit(cache=True, nogil=True)
def matches(left, right):  # type: ignore[no-untyped-def]
    """Return the number of equal values of two signatures: their estimated Jaccard similarity times their length."""
    equal = 0
    for i in range(left.size):
        equal += left[i] == right[i]
    return equal


@njit(cache=True, nogil=True)
def unite_verified(records, slots, chains, counters, joint):  # type: ignore[no-untyped-def]
    """Join each document with those of its bucket that share enough signature values; return the records done.

    A bucket keeps its first `BUCKET_CAP` documents with different signatures, the first in the slot and the others in a
    chain. A document is compared with all of them, or until one has the same signature. `counters` (int64): slots used,
    chain nodes used, pairs tested, pairs verified, documents that found their bucket full. Stops early when the table
    or the chains are full: grow them and go on.
    """
    limit = slots.keys.size - slots.keys.size // 4
    for i in range(records.keys.size):
        if counters[0] >= limit or counters[1] >= chains.docs.size:
            return i
        doc = records.docs[i]
        slot = _slot(slots, records.keys[i])
        if slots.docs[slot] == NONE:
            slots.keys[slot] = records.keys[i]
            slots.docs[slot] = doc
            slots.chains[slot] = -1
            counters[0] += 1
            continue
        last = _compare_bucket(slots, chains, slot, doc, counters, joint)
        if last == _NOT_KEPT:
            continue
        node = np.int32(counters[1])
        counters[1] += 1
        chains.docs[node] = doc
        chains.following[node] = -1
        if last < 0:
            slots.chains[slot] = node
        else:
            chains.following[last] = node
    return records.keys.size


@njit(cache=True, nogil=True)
def _compare_bucket(slots, chains, slot, doc, counters, joint):  # type: ignore[no-untyped-def]
    """Join `doc` with its matches in a bucket; return the node it goes after (-1: the slot), or `_NOT_KEPT`."""
    member = slots.docs[slot]
    following = slots.chains[slot]
    last = np.int32(-1)
    length = 1
    while True:
        equal = matches(joint.signatures[doc], joint.signatures[member])
        counters[2] += 1
        if equal >= joint.minimum:
            counters[3] += 1
            union(joint.parents, member, doc)
        if equal == joint.signatures.shape[1]:
            return np.int32(_NOT_KEPT)
        if following < 0:
            break
        last = following
        member = chains.docs[last]
        following = chains.following[last]
        length += 1
    if length >= BUCKET_CAP:
        counters[4] += 1
        return np.int32(_NOT_KEPT)
    return last
