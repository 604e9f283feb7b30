"""Union-find and first-seen hash tables: from (key, document) records to components.

Documents are numbered by uint32. The root of a component is its smallest number, so the result does not depend on the
order of unions. Tables use open addressing: their arrays share one power-of-two length, `NONE` marks a free slot, and
keys are expected to be well mixed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from pipeline.kernels import entry, inlined, inner
from pipeline.kernels.words import mix64

NONE = np.uint32(0xFFFFFFFF)
"""No document: at most 2^32 - 1 documents can be numbered."""
FIRST, COPY = np.uint8(1), np.uint8(2)
"""Of documents with one text: the first, and the others."""
WHOLE_BUCKET = 64
"""Members up to which a bucket's pairs are all compared; a larger one is compared by representatives."""
REPRESENTATIVES = 16
"""Members of a large bucket that all its other members are compared with in one round."""
ROUNDS = 16
"""Rounds of a large bucket, each among those that were sure of nobody in the rounds before."""
CLOSE_PAIRS = 2
"""Pairs a round that a member of a large bucket has decided by its shingles: those of its best estimates."""
CLOSE_ERRORS = 3.0
"""Standard errors of an estimate at the threshold within which shingles decide."""


class Records(NamedTuple):
    """Keys and the documents that have them, record by record."""

    keys: NDArray[np.uint64]
    docs: NDArray[np.uint32]


class Slots(NamedTuple):
    """A hash table: the first document of each key."""

    keys: NDArray[np.uint64]
    docs: NDArray[np.uint32]


class Joint(NamedTuple):
    """What verified unions need. A pair with `sure` equal values is joined, one with `close` to be decided exactly."""

    parents: NDArray[np.uint32]
    signatures: NDArray[np.uint32]
    """(n_docs, num_perm + 2): a signature and its document's text hash, lower half first."""
    sure: int
    close: int


@inner
def find(parents, node):  # type: ignore[no-untyped-def]
    """Return the root of `node`, halving the path to it."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@inner
def union(parents, left, right):  # type: ignore[no-untyped-def]
    """Join the components of two nodes under the smaller root."""
    left, right = find(parents, left), find(parents, right)
    if left < right:
        parents[right] = left
    elif right < left:
        parents[left] = right


@entry
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


@inner
def _slot(slots, key):  # type: ignore[no-untyped-def]
    """Return where `key` is, or the free slot where it belongs."""
    mask = np.uint64(slots.keys.size - 1)
    slot = key & mask
    while slots.docs[slot] != NONE and slots.keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@entry
def rehash(slots, larger):  # type: ignore[no-untyped-def]
    """Copy every bucket of one table into a larger, empty one."""
    for i in range(slots.keys.size):
        if slots.docs[i] != NONE:
            slot = _slot(larger, slots.keys[i])
            larger.keys[slot] = slots.keys[i]
            larger.docs[slot] = slots.docs[i]


@entry
def unite_first_seen(records, slots, counters, parents, twins):  # type: ignore[no-untyped-def]
    """Join each document with the first one that had its key; return the number of records done.

    `counters` (int64): slots used, pairs found. Stops early when the table is three quarters full: grow it and go on.
    Where `twins` (uint8) is not empty, the first of several documents with a key is marked `FIRST`, the others `COPY`.
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
        counters[1] += 1
        union(parents, first, doc)
        if twins.size > 0:
            twins[first] = FIRST
            twins[doc] = COPY
    return records.keys.size


def zone(verify: float, num_perm: int, errors: float = CLOSE_ERRORS) -> tuple[int, int]:
    """Return from how many equal values on a pair is sure to reach `verify`, and from how many on it is close to it.

    With `errors` 0 the estimate decides, and none is close.
    """
    margin = errors * math.sqrt(verify * (1 - verify) / num_perm)
    # 0.8 * 110 is 88.00000000000001: a count that equals the threshold must pass.
    sure = math.ceil((verify + margin) * num_perm - 1e-9)
    close = math.ceil((verify - margin) * num_perm - 1e-9)
    # At 1 there is no margin: equal signatures are close.
    return (sure, close) if not errors else (max(sure, close + 1), close)


@inner
def matches(signatures, left, right):  # type: ignore[no-untyped-def]
    """Return the number of equal values of two signatures: their estimated Jaccard similarity times their length."""
    equal = 0
    for i in range(signatures.shape[1] - 2):
        equal += signatures[left, i] == signatures[right, i]
    return equal


@entry
def link(keys, heads, following):  # type: ignore[no-untyped-def]
    """Chain the records of each key: `heads` (all -1, a power of two, larger than `keys`) has each key's last record.

    `following` gets the record before it with the same key, -1 for none.
    """
    mask = np.uint64(heads.size - 1)
    for i in range(keys.size):
        slot = keys[i] & mask
        while heads[slot] >= 0 and keys[heads[slot]] != keys[i]:
            slot = (slot + np.uint64(1)) & mask
        following[i] = heads[slot]
        heads[slot] = i


@entry
def bucket(docs, following, head, found):  # type: ignore[no-untyped-def]
    """Write the documents of a chain into `found` as far as they fit; return their number."""
    count = 0
    while head >= 0:
        if count < found.size:
            found[count] = docs[head]
        count += 1
        head = following[head]
    return count


@njit(cache=True, nogil=True)
def unite_buckets(docs, following, heads, joint):  # type: ignore[no-untyped-def]
    """Compare all pairs of each bucket of at most `WHOLE_BUCKET` documents; join the sure ones.

    Returns the close ones, each as smaller * 2^32 + larger document, the heads of the larger buckets, and the number of
    pairs. Pairs that are joined already are passed over, which no result depends on.
    """
    found = np.empty(WHOLE_BUCKET, np.uint32)
    close = np.empty(1024, np.uint64)
    large = np.empty(heads.size // (WHOLE_BUCKET + 1) + 1, following.dtype)
    filled, larger, pairs = 0, 0, 0
    for head in heads:
        if head < 0 or following[head] < 0:
            continue
        count = bucket(docs, following, head, found)
        if count > WHOLE_BUCKET:
            large[larger] = head
            larger += 1
            continue
        pairs += count * (count - 1) // 2
        for i in range(1, count):
            for j in range(i):
                if find(joint.parents, found[i]) == find(joint.parents, found[j]):
                    continue
                equal = matches(joint.signatures, found[i], found[j])
                if equal >= joint.sure:
                    union(joint.parents, found[i], found[j])
                elif equal >= joint.close:
                    if filled == close.size:
                        close = np.concatenate((close, np.empty_like(close)))
                    close[filled] = _pair(found[i], found[j])
                    filled += 1
    return close[:filled], large[:larger], pairs


@njit(cache=True, nogil=True)
def by_priority(members, key, signatures):  # type: ignore[no-untyped-def]
    """Return `members` of a bucket in an order that their texts and the bucket decide alone."""
    width = signatures.shape[1]
    priorities = np.empty(members.size, np.uint64)
    for i in range(members.size):
        row = signatures[members[i]]
        text = np.uint64(row[width - 1]) << np.uint64(32) | np.uint64(row[width - 2])
        priorities[i] = mix64(text ^ key)
    return members[np.argsort(priorities, kind="mergesort")]


@njit(cache=True, nogil=True)
def unite_with(representatives, members, skipped, joint):  # type: ignore[no-untyped-def]
    """Compare each of `members` with the representatives; join the sure pairs.

    Member i is the bucket's number `skipped` + i in order of priority, and its representatives are those before it.
    Returns the close pairs (see `unite_buckets`), at most `CLOSE_PAIRS` a member, the members that were sure of nobody
    and are no representatives, and the number of pairs.
    """
    close = np.empty(members.size * CLOSE_PAIRS, np.uint64)
    alone = np.empty(members.size, np.uint32)
    best = np.empty(CLOSE_PAIRS, np.int64)
    filled, left, pairs = 0, 0, 0
    for i in range(members.size):
        before = min(representatives.size, skipped + i)
        pairs += before
        served, kept = False, 0
        for j in range(before):
            equal = matches(joint.signatures, members[i], representatives[j])
            if equal >= joint.sure:
                union(joint.parents, members[i], representatives[j])
                served = True
            elif equal >= joint.close:
                # The best estimates first, of equals the earlier representative; the last of too many goes.
                entry = np.int64(equal) * REPRESENTATIVES + (REPRESENTATIVES - 1 - j)
                for k in range(kept):
                    if entry > best[k]:
                        entry, best[k] = best[k], entry
                if kept < CLOSE_PAIRS:
                    best[kept] = entry
                    kept += 1
        for k in range(kept):
            close[filled] = _pair(members[i], representatives[REPRESENTATIVES - 1 - best[k] % REPRESENTATIVES])
            filled += 1
        if not served and skipped + i >= representatives.size:
            alone[left] = members[i]
            left += 1
    return close[:filled], alone[:left], pairs


@inlined
def _pair(left, right):  # type: ignore[no-untyped-def]
    return np.uint64(min(left, right)) << np.uint64(32) | np.uint64(max(left, right))


@njit(cache=True, nogil=True)
def apart(pairs, parents):  # type: ignore[no-untyped-def]
    """Return the pairs (smaller * 2^32 + larger) whose documents are not joined yet."""
    kept = np.empty(pairs.size, np.uint64)
    count = 0
    for pair in pairs:
        left, right = np.uint32(pair >> np.uint64(32)), np.uint32(pair & np.uint64(0xFFFFFFFF))
        if find(parents, left) != find(parents, right):
            kept[count] = pair
            count += 1
    return kept[:count]


@entry
def common(left, right):  # type: ignore[no-untyped-def]
    """Return how many values two ascending arrays without repetitions share."""
    i, j, count = 0, 0, 0
    while i < left.size and j < right.size:
        a, b = left[i], right[j]
        count += a == b
        i += a <= b
        j += b <= a
    return count


@njit(cache=True, nogil=True)
def unite_similar(pairs, numbers, starts, shingles, verify, parents):  # type: ignore[no-untyped-def]
    """Join the pairs whose sets of shingles have a Jaccard similarity of `verify` at least.

    `numbers` (ascending): the documents whose sets there are. `shingles[starts[i]:starts[i + 1]]` is that of the i-th.
    """
    for pair in pairs:
        left, right = np.uint32(pair >> np.uint64(32)), np.uint32(pair & np.uint64(0xFFFFFFFF))
        if find(parents, left) == find(parents, right):
            continue
        i, j = np.searchsorted(numbers, left), np.searchsorted(numbers, right)
        first, second = shingles[starts[i] : starts[i + 1]], shingles[starts[j] : starts[j + 1]]
        if is_similar(common(first, second), first.size + second.size, verify):
            union(parents, left, right)


@inlined
def is_similar(shared, sizes, verify):  # type: ignore[no-untyped-def]
    """Tell whether two sets that share `shared` of `sizes` values in all reach a similarity; ties do (0.7 * 10 too)."""
    return shared >= verify * (sizes - shared) - 1e-9
