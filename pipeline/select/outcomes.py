"""The ledger: one wide row a document, with its outcome and every rule that it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.select import expressions
from pipeline.select.evaluate import Policy, answer, failure_value, relation
from pipeline.select.keeper import verdicts
from pipeline.select.narrow import AlignedPart, NarrowSource, read_narrow
from pipeline.select.rules import EXACT_DUPLICATE, NEAR_DUPLICATE
from pipeline.table.errors import ConservationError
from pipeline.table.shards import Group, Part, PartWriter, Tally, Work

FAILED_RULES = pa.list_(pa.struct([("rule", pa.string()), ("value", pa.string())]))
KEPT, DROPPED = "kept", "dropped"
FAILED_COUNT = "failed:"
"""Prefix of the counts of documents that fail a rule, in a part's manifest."""

Failures = list[tuple[str, NDArray[np.int64], pa.Array]]
"""For each rule, in order: its name, the rows that fail it, and the values for those rows."""


@dataclass(frozen=True, slots=True)
class OutcomeJob:
    """One part of outcomes to be made."""

    narrow: NarrowSource
    part: AlignedPart
    policy: Policy
    work: Work
    verdict_path: str
    number: int
    """The part's number among the verdicts."""


@dataclass(frozen=True, slots=True)
class OutcomePart:
    """A part of outcomes and what it counts: `kept`, `dropped`, `failed:NAME`."""

    part: Part
    counts: dict[str, int]


def outcome_schema(narrow: NarrowSource) -> pa.Schema:
    """Return the schema of a source's outcomes: its narrow columns, then what was decided."""
    fields = [
        *narrow.schema,
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("failed_rules", FAILED_RULES, nullable=False),
        pa.field("duplicate_of", pa.string()),
    ]
    return pa.schema(fields)


def evaluate_part(job: OutcomeJob) -> OutcomePart:
    """Judge the documents of one part and write their outcomes, row for row; no row can drop.

    Raises: ShardError naming a rule that cannot be computed, ConservationError when rows do not add up.
    """
    group = Group(job.narrow.storage, f"{job.narrow.source}/outcomes")
    policy, rows = job.policy, job.part.documents.rows
    values = [f"{failure_value(rule, policy.columns)} AS v{number}" for number, rule in enumerate(policy.rules)]
    sql = f"SELECT {', '.join(['doc_id', *values])} FROM {relation(policy.columns)}"
    counts = {KEPT: 0, DROPPED: 0, **{f"{FAILED_COUNT}{name}": 0 for name in rule_names(policy)}}
    found, start = verdicts(job.verdict_path, job.number), 0
    where = f"{job.narrow.source}/{job.part.documents.stem}"
    with expressions.sandbox() as connection, PartWriter(group, job.work, outcome_schema(job.narrow)) as writer:
        for chunk in read_narrow(job.narrow, job.part):
            answered = answer(connection, chunk, sql, policy.rules, where)
            if not answered["doc_id"].equals(chunk["doc_id"]):
                raise ConservationError(f"{where}: DuckDB returned rows in another order; this is a bug in Gristmill")
            failures = [(r.name, *_failing(answered[f"v{n}"])) for n, r in enumerate(policy.rules)]
            duplicates, keepers = _duplicates(chunk, _within(found, start, chunk.num_rows), where)
            decided = _decided(chunk, [*failures, *duplicates], keepers)
            _count(counts, decided["outcome"], [*failures, *duplicates])
            writer.write(decided)
            start += chunk.num_rows
    return OutcomePart(writer.finish(Tally(rows_in=rows, counts=counts)), counts)


def rule_names(policy: Policy) -> list[str]:
    """Return the names of all rules, the built-in ones last."""
    return [*(rule.name for rule in policy.rules), NEAR_DUPLICATE, EXACT_DUPLICATE]


def _failing(values: pa.ChunkedArray) -> tuple[NDArray[np.int64], pa.Array]:
    """Return the rows that fail a rule, and the values for them."""
    failing = pc.is_valid(values)
    return np.flatnonzero(failing.to_numpy(zero_copy_only=False)), values.drop_null().combine_chunks()


def _within(found: pa.Table, start: int, rows: int) -> pa.Table:
    """Return the verdicts of rows `start` to `start + rows`, with rows counted from `start`."""
    numbers = found["row"].to_numpy()
    first, last = np.searchsorted(numbers, [start, start + rows])
    part = found.slice(first, last - first)
    return part.set_column(1, "row", pa.array(numbers[first:last] - start, pa.int64()))


def _duplicates(chunk: pa.Table, found: pa.Table, where: str) -> tuple[Failures, pa.Array]:
    """Return the built-in rules' failures, and for every row the keeper it is a duplicate of."""
    rows = found["row"].to_numpy()
    members = chunk.take(pa.array(rows))
    if not members["doc_id"].equals(found["doc_id"]):
        raise ConservationError(f"{where}: verdicts are of other documents; this is a bug in Gristmill")
    other = pc.not_equal(found["doc_id"], found["keeper"])
    values = pc.binary_join_element_wise(
        '{"component_id":"',
        members["component_id"],
        '","component_size":',
        pc.cast(members["component_size"], pa.string()),
        ',"duplicate_of":"',
        found["keeper"],
        '"}',
        "",
    )
    exact = pc.fill_null(found["exact"], False)
    failures: Failures = []
    for name, mask in ((NEAR_DUPLICATE, pc.invert(exact)), (EXACT_DUPLICATE, exact)):
        chosen = pc.and_(other, mask)
        failures.append((name, rows[chosen.to_numpy(zero_copy_only=False)], _array(values.filter(chosen))))
    places = np.full(chunk.num_rows, -1, np.int64)
    non_keepers = np.flatnonzero(other.to_numpy(zero_copy_only=False))
    places[rows[non_keepers]] = non_keepers
    keepers = _array(found["keeper"]).take(pa.array(places, mask=places < 0))
    return failures, keepers


def _decided(chunk: pa.Table, failures: Failures, keepers: pa.Array) -> pa.Table:
    """Return the chunk with `outcome`, `failed_rules` and `duplicate_of`."""
    rows = np.concatenate([rows for _, rows, _ in failures])
    order = np.argsort(rows, kind="stable")  # failures come rule by rule: within a row the rules stay in order
    rule = np.repeat(np.arange(len(failures)), [len(rows) for _, rows, _ in failures])
    names = pa.array([name for name, _, _ in failures], pa.string()).take(pa.array(rule[order]))
    values = pa.concat_arrays([_array(values) for _, _, values in failures]).take(pa.array(order))
    number = np.bincount(rows, minlength=chunk.num_rows)
    offsets = np.zeros(chunk.num_rows + 1, np.int32)
    np.cumsum(number, out=offsets[1:])
    failed = pa.StructArray.from_arrays([names, values], fields=list(FAILED_RULES.value_type))
    outcome = pa.array([KEPT, DROPPED], pa.string()).take(pa.array((number > 0).astype(np.int8)))
    table = chunk.append_column(pa.field("outcome", pa.string(), nullable=False), outcome)
    listed = pa.ListArray.from_arrays(pa.array(offsets), failed, type=FAILED_RULES)
    table = table.append_column(pa.field("failed_rules", FAILED_RULES, nullable=False), listed)
    return table.append_column("duplicate_of", keepers)


def _count(counts: dict[str, int], outcome: pa.ChunkedArray, failures: Failures) -> None:
    dropped = int(pc.sum(pc.equal(outcome, DROPPED)).as_py() or 0)
    counts[DROPPED] += dropped
    counts[KEPT] += len(outcome) - dropped
    for name, rows, _ in failures:
        counts[f"{FAILED_COUNT}{name}"] += len(rows)


def _array(values: Any) -> pa.Array:
    """Return a column as one array of text."""
    joined = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    return joined.cast(pa.string())


def counted(parts: Sequence[OutcomePart], policy: Policy) -> dict[str, int]:
    """Return the sum of the parts' counts; every rule has one, also for a source without parts."""
    totals = {KEPT: 0, DROPPED: 0, **{f"{FAILED_COUNT}{name}": 0 for name in rule_names(policy)}}
    for part in parts:
        for name, number in part.counts.items():
            totals[name] = totals.get(name, 0) + number
    return totals
