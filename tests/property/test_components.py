"""Components of duplicates equal a naive oracle, whatever the parts, the memory and the order of documents."""

from __future__ import annotations

import itertools
import resource
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.dedup import components as dedup
from pipeline.dedup.components import Components, ComponentSettings, SignaturePart, component_ids, find_components
from pipeline.dedup.hash_ranges import HashRanges
from pipeline.dedup.minhash import signatures_schema
from pipeline.kernels.components import REPRESENTATIVES, ROUNDS, WHOLE_BUCKET
from pipeline.table import schema
from pipeline.table.errors import ConservationError, ShardError, UsageError

BANDS, ROWS = 3, 2
PERMS = BANDS * ROWS
relaxed = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])

Row = tuple[list[int], int, bool]


def of_one_text(rows: list[Row]) -> list[Row]:
    """Give the documents of one text one signature."""
    signatures = {(row[1], row[2]): row[0] for row in rows}
    return [(signatures[row[1], row[2]], row[1], row[2]) for row in rows]


# Few values, so that bands collide; the last column says whether the document has words, the one before is its text.
documents = st.lists(
    st.tuples(st.lists(st.integers(0, 2), min_size=PERMS, max_size=PERMS), st.integers(1, 12), st.booleans()),
    max_size=14,
).map(of_one_text)


def table(rows: list[Row], ids: list[str] | None = None) -> pa.Table:
    names = ids or [f"{number:032x}" for number in range(len(rows))]
    values = pa.array([value for row in rows for value in row[0]], pa.uint32())
    out = signatures_schema(PERMS)
    matrix = pa.FixedSizeListArray.from_arrays(values, type=out.field("signature").type)
    hashes = pa.array([row[1] << 60 for row in rows], pa.uint64())
    shingles = pa.array([int(row[2]) for row in rows], pa.int32())
    return pa.Table.from_arrays([pa.array(names, pa.string()), hashes, shingles, matrix], schema=out)


def split(whole: pa.Table, cuts: list[int]) -> list[SignaturePart]:
    borders = [0, *sorted(cut % (whole.num_rows + 1) for cut in cuts), whole.num_rows]
    pieces = [whole.slice(start, stop - start) for start, stop in itertools.pairwise(borders)]
    return [SignaturePart(f"p{i}", p.num_rows, lambda p=p: [p]) for i, p in enumerate(pieces)]  # type: ignore[misc]


def oracle(rows: list[Row], exact: bool, verify: float | None) -> list[int]:
    """Return the smallest number of each document's component, from all pairs."""
    roots = list(range(len(rows)))
    for _ in rows:
        for left, right in itertools.combinations(range(len(rows)), 2):
            if not (rows[left][2] and rows[right][2]):
                continue
            pair = (rows[left][0], rows[right][0])
            shares = any(pair[0][b * ROWS : (b + 1) * ROWS] == pair[1][b * ROWS : (b + 1) * ROWS] for b in range(BANDS))
            similar = sum(a == b for a, b in zip(*pair, strict=True)) / PERMS
            same = exact and rows[left][1] == rows[right][1]
            if same or (shares and (verify is None or similar >= verify)):
                low, high = sorted((roots[left], roots[right]))
                roots = [low if root == high else root for root in roots]
    return roots


@relaxed
@given(
    documents, st.lists(st.integers(0, 20), max_size=3), st.booleans(), st.sampled_from([None, 0.0, 0.5, 5 / 6, 1.0])
)
def test_components_equal_the_oracle(
    tmp_path: Path, rows: list[Row], cuts: list[int], exact: bool, verify: float | None
) -> None:
    config = ComponentSettings(BANDS, ROWS, exact=exact, verify=verify)
    found = find_components(split(table(rows), cuts), config, tmp_path)
    assert found.roots.tolist() == oracle(rows, exact, verify)
    assert found.documents == len(rows)
    assert found.removable == len(rows) - len(set(found.roots.tolist()))
    assert int(found.sizes.sum()) == len(rows)
    assert not list(tmp_path.iterdir())


@relaxed
@given(documents, st.randoms(use_true_random=False), st.sampled_from([None, 0.5, 1.0]))
def test_order_of_documents_is_irrelevant(tmp_path: Path, rows: list[Row], random, verify: float | None) -> None:  # type: ignore[no-untyped-def]
    order = list(range(len(rows)))
    random.shuffle(order)
    config = ComponentSettings(BANDS, ROWS, verify=verify)
    before = find_components(split(table(rows), []), config, tmp_path).roots
    after = find_components(split(table([rows[i] for i in order]), []), config, tmp_path).roots
    groups = {frozenset(np.flatnonzero(before == root).tolist()) for root in set(before.tolist())}
    shuffled = {frozenset(order[i] for i in np.flatnonzero(after == root)) for root in set(after.tolist())}
    assert groups == shuffled


@relaxed
@given(documents, st.lists(st.integers(0, 20), max_size=3), st.randoms(use_true_random=False))
def test_duplicates_table(tmp_path: Path, rows: list[Row], cuts: list[int], random) -> None:  # type: ignore[no-untyped-def]
    ids = [f"{number:032x}" for number in range(len(rows))]
    random.shuffle(ids)
    whole = table(rows, ids)
    parts = split(whole, cuts)
    found = find_components(parts, ComponentSettings(BANDS, ROWS), tmp_path)
    smallest = component_ids(parts, found)
    pieces, start = [], 0
    for part in parts:
        for piece in part.read():
            pieces.append(dedup.duplicates_table(piece, found, start, smallest))
            start += piece.num_rows
    result = pa.concat_tables(pieces).to_pylist()
    hashes = [row[1] for row in rows if row[2]]
    for number, row in enumerate(result):
        members = [ids[i] for i in np.flatnonzero(found.roots == found.roots[number])]
        twin = rows[number][2] and hashes.count(rows[number][1]) > 1
        assert row["doc_id"] == ids[number]
        assert row["component_id"] == min(members)
        assert row["component_size"] == len(members)
        assert row["method"] == (None if len(members) == 1 else "exact" if twin else "minhash")
        assert row["text_hash"] == rows[number][1] << 60
    assert not pieces or pieces[0].schema.equals(schema.DUPLICATES)


def synthetic(count: int, seed: int) -> pa.Table:
    """Random signatures, one third of them variants of an earlier one, in 4-row bands that often survive."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 1 << 32, (count, PERMS), dtype=np.uint32)
    copies = np.flatnonzero(random.random(count) < 1 / 3)[1:]
    values[copies] = values[random.integers(0, copies)]
    edited = copies[random.random(copies.size) < 0.7]
    values[edited, random.integers(0, PERMS, edited.size)] += np.uint32(1)
    rows = signatures_schema(PERMS)
    hashes = random.integers(0, 1 << 63, count, dtype=np.uint64)
    matrix = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=rows.field("signature").type)
    columns = [
        pa.array([f"{i:032x}" for i in range(count)]),
        pa.array(hashes),
        pa.array(np.ones(count, np.int32)),
        matrix,
    ]
    return pa.Table.from_arrays(columns, schema=rows)


def same(left: Components, right: Components) -> bool:
    arrays = ("roots", "sizes", "methods")
    counts = ("candidate_pairs", "close_pairs", "exact_pairs", "capped")
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in arrays) and all(
        getattr(left, name) == getattr(right, name) for name in counts
    )


def traced(work: Callable[[], Components]) -> tuple[Components, int]:
    """Return the result and the most bytes allocated on the way."""
    tracemalloc.start()
    try:
        return work(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("verify", [None, 0.8])
def test_a_full_disk_is_one_line(tmp_path: Path, verify: float | None) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    config = ComponentSettings(BANDS, ROWS, verify=verify, memory_mb=16)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(ShardError, match=r"cannot write .*\.bin: File too large"):
            find_components(split(synthetic(500_000, seed=5), []), config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verify", [None, 0.8])
def test_spilling_gives_what_memory_gives(tmp_path: Path, verify: float | None) -> None:
    whole = synthetic(500_000, seed=5)
    roomy = ComponentSettings(BANDS, ROWS, verify=verify, memory_mb=1024)
    tight = ComponentSettings(BANDS, ROWS, verify=verify, memory_mb=16)
    first, roomy_bytes = traced(lambda: find_components(split(whole, []), roomy, tmp_path))
    second, tight_bytes = traced(lambda: find_components(split(whole, [1, 100_001, 350_000]), tight, tmp_path))
    assert same(first, second)
    assert tight_bytes < (16 << 20) + 10 * whole.num_rows
    assert roomy_bytes > 2 * tight_bytes
    assert 0 < first.removable < whole.num_rows
    assert not list(tmp_path.iterdir())


def test_exchange_returns_every_record_in_order(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    keys = random.integers(0, 1 << 63, 300_000, dtype=np.uint64) * np.uint64(2)
    docs = np.arange(keys.size, dtype=np.uint32)
    with HashRanges(keys.size, 1 << 20, tmp_path / "x.bin") as exchange:
        for start in range(0, keys.size, 7_001):
            exchange.add(keys[start : start + 7_001], docs[start : start + 7_001])
        exchange.finish()
        assert (tmp_path / "x.bin").stat().st_size == keys.size * 12
        read = [np.concatenate([block.docs for block in exchange.blocks(number)]) for number in range(exchange.ranges)]
    for number, numbers in enumerate(read):
        assert np.all(np.diff(numbers.astype(np.int64)) > 0)
        assert np.all(keys[numbers] >> np.uint64(64 - exchange.bits) == number)
    assert sum(numbers.size for numbers in read) == keys.size
    assert not (tmp_path / "x.bin").exists()


def one_bucket(families: list[int], seed: int = 0) -> tuple[pa.Table, list[int]]:
    """Documents that all share the first of 14 bands and no other; those of a family estimate one another at 0.85.

    Returns the table, shuffled, and the family of each document.
    """
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(families)), families)
    values = random.integers(0, 1 << 32, (len(families), 112), dtype=np.uint32)[truth]
    change = random.random(values.shape) < 0.02
    change[:, 8::8] = True
    values[change] = random.integers(0, 1 << 32, int(change.sum()), dtype=np.uint32)
    values[:, :8] = 7
    order = random.permutation(truth.size)
    item = pa.list_(pa.field("item", pa.uint32(), nullable=False), 112)
    columns = [
        pa.array([f"{i:032x}" for i in range(truth.size)]),
        pa.array(random.integers(1, 1 << 63, truth.size, dtype=np.uint64)),
        pa.array(np.ones(truth.size, np.int32)),
        pa.FixedSizeListArray.from_arrays(pa.array(values[order].reshape(-1)), type=item),
    ]
    return pa.Table.from_arrays(columns, schema=signatures_schema(112)), truth[order].tolist()


@pytest.mark.parametrize(
    "families",
    [
        [1, 999],
        [1] * 20 + [980],
        [30] * 60 + [1] * 100,
        [500, 1, 1, 1, 300, 2],
    ],
)
def test_a_hot_bucket_loses_no_family(tmp_path: Path, families: list[int]) -> None:
    """Whoever comes first in a bucket, alike or not: families of its other members are found, in any order."""
    whole, truth = one_bucket(families)
    config = ComponentSettings(14, 8, verify=0.7)
    found = find_components(split(whole, [1, 17]), config, tmp_path)
    groups = {frozenset(np.flatnonzero(found.roots == root).tolist()) for root in set(found.roots.tolist())}
    assert groups == {frozenset(np.flatnonzero(np.array(truth) == family).tolist()) for family in set(truth)}
    order = np.random.default_rng(1).permutation(whole.num_rows)
    shuffled = find_components(split(whole.take(pa.array(order)), []), config, tmp_path)
    assert {frozenset(order[shuffled.roots == root].tolist()) for root in set(shuffled.roots.tolist())} == groups


def test_a_hot_bucket_is_compared_in_linear_time(tmp_path: Path) -> None:
    """100,000 documents that share one band and nothing else: 256 comparisons each, and they are counted as alone."""
    whole, _ = one_bucket([1] * 100_000)
    found = find_components(split(whole, []), ComponentSettings(14, 8, verify=0.7), tmp_path)
    most = REPRESENTATIVES * ROUNDS
    assert found.candidate_pairs <= most * whole.num_rows
    assert found.capped == whole.num_rows - most
    assert found.components == whole.num_rows


def test_a_bucket_up_to_the_bound_is_compared_as_a_whole(tmp_path: Path) -> None:
    whole, _ = one_bucket([1] * WHOLE_BUCKET)
    found = find_components(split(whole, []), ComponentSettings(14, 8, verify=0.7), tmp_path)
    assert (found.candidate_pairs, found.capped) == (WHOLE_BUCKET * (WHOLE_BUCKET - 1) // 2, 0)


def test_a_part_with_other_rows_than_announced_is_refused(tmp_path: Path) -> None:
    whole = table([([1] * PERMS, 1, True)] * 3)
    with pytest.raises(ConservationError, match="p1: 3 signatures, but its index says 4"):
        find_components([SignaturePart("p1", 4, lambda: [whole])], ComponentSettings(BANDS, ROWS), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ComponentSettings(0, 8), "num_bands 0"),
        (ComponentSettings(14, 8, verify=1.5), "verify must lie between 0 and 1, got 1.5"),
        (ComponentSettings(14, 8, memory_mb=1), "memory_mb must be at least 16, got 1"),
    ],
)
def test_impossible_settings_are_refused(tmp_path: Path, config: ComponentSettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_components([], config, tmp_path)
