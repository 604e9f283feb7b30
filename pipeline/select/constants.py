"""`top_share`, `top_token_share` and `quantile` become constants: exact, and out of core.

Shares are taken among the documents that pass all rules of their source that take no share themselves, duplicates
included. What a worker finds in a part goes to a file of its own; the one global step sorts numbers, not text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.select import expressions
from pipeline.select.binding import BoundRules, Constant, token_columns
from pipeline.select.evaluate import Policy, ResolvedRule, answer, passing, relation, resolve
from pipeline.select.expressions import QUANTILE, TOP_SHARE, TOP_TOKEN_SHARE, quoted
from pipeline.select.narrow import AlignedPart, NarrowSource, read_narrow
from pipeline.table.sql import literal_path

MapParts = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Runs a function over jobs and returns the results in order: `map`, or the map of an engine."""

_BATCH_ROWS = 100_000


@dataclass(frozen=True, slots=True)
class Resources:
    """What the global steps may use."""

    folder: str
    """Scratch folder on a local disk."""
    threads: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class _Values:
    """A job: write what one part contributes to each constant."""

    narrow: NarrowSource
    part: AlignedPart
    constants: tuple[Constant, ...]
    rules: tuple[ResolvedRule, ...]
    columns: Mapping[str, str]
    paths: tuple[str, ...]


def find_constants(
    bound: BoundRules, narrow: NarrowSource, resources: Resources, map_parts: MapParts
) -> dict[Constant, str | None]:
    """Return the value of every constant of a source's rules, as DuckDB prints it; None where nothing counts.

    `quantile` looks at all documents of the source, the shares at those that pass; nulls have no place in either, but
    documents whose value is null count among those of which a share is kept.
    """
    quantiles = [constant for constant in bound.constants if constant.function == QUANTILE]
    shares = [constant for constant in bound.constants if constant.function != QUANTILE]
    values: dict[Constant, str | None] = {}
    for number, constants in enumerate((quantiles, shares)):
        if constants:
            policy = resolve(bound, values)
            others = tuple(rule for rule in policy.rules if not rule.takes_share) if number else ()
            values |= _find(constants, _Found(narrow, policy, others), resources, map_parts)
    return values


@dataclass(frozen=True, slots=True)
class _Found:
    """Where values come from: a source, and the rules that its documents must pass."""

    narrow: NarrowSource
    policy: Policy
    rules: tuple[ResolvedRule, ...]


def _find(
    constants: Sequence[Constant], found: _Found, resources: Resources, map_parts: MapParts
) -> dict[Constant, str | None]:
    jobs = []
    for number, part in enumerate(found.narrow.parts):
        stem = f"{resources.folder}/{constants[0].function}-{found.narrow.source}-{number}"
        paths = tuple(f"{stem}-{index}.parquet" for index in range(len(constants)))
        jobs.append(_Values(found.narrow, part, tuple(constants), found.rules, found.policy.columns, paths))
    written = list(map_parts(_write_values, jobs))
    values: dict[Constant, str | None] = {}
    with work_database(resources) as connection:
        for index, constant in enumerate(constants):
            values[constant] = _threshold(connection, constant, [paths[index] for paths in written])
    return values


def _write_values(job: _Values) -> tuple[str, ...]:
    """Write value and weight of every document of a part that counts, a file a constant."""
    needed = {name for rule in job.rules for name in rule.columns} | set(token_columns(job.columns))
    read = {name for constant in job.constants for name in constant.columns} | needed
    types = {name: type_ for name, type_ in job.columns.items() if name in read}
    source = f"SELECT * FROM {relation(types)} WHERE {passing(job.rules)}"
    queries = [
        f"SELECT {constant.argument} AS x, {_weight(constant, types)} AS w FROM ({source})"
        for constant in job.constants
    ]
    where = f"{job.narrow.source}/{job.part.documents.stem}"
    writers: dict[int, pq.ParquetWriter] = {}
    try:
        with expressions.sandbox() as connection:
            for chunk in read_narrow(job.narrow, job.part, types):
                for number, query in enumerate(queries):
                    table = answer(connection, chunk, query, job.rules, where)
                    if number not in writers:
                        writers[number] = pq.ParquetWriter(job.paths[number], table.schema, compression="zstd")
                    writers[number].write_table(table)
    finally:
        for writer in writers.values():
            writer.close()
    return tuple(path if number in writers else "" for number, path in enumerate(job.paths))


def _weight(constant: Constant, columns: Mapping[str, str]) -> str:
    if constant.function != TOP_TOKEN_SHARE:
        return "1::BIGINT"
    counts = ", ".join(quoted(name) for name in token_columns(columns))
    return f"CAST(coalesce({counts}, 0) AS DOUBLE)"


def work_database(resources: Resources) -> duckdb.DuckDBPyConnection:
    """Return a connection for the project's own statements over scratch files; it spills to the scratch folder."""
    config: dict[str, Any] = {
        "memory_limit": f"{resources.memory_mb}MiB",
        "threads": resources.threads,
        "temp_directory": f"{resources.folder}/spill",
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
    }
    connection = duckdb.connect(":memory:", config=config)
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for cursors, too
    return connection


def files(paths: Sequence[str]) -> str:
    """Return the table function that reads exactly these Parquet files."""
    return f"read_parquet([{', '.join(map(literal_path, paths))}], union_by_name = true)"


def _threshold(connection: duckdb.DuckDBPyConnection, constant: Constant, paths: Sequence[str]) -> str | None:
    """Return the value at which the wanted share is reached: from above for shares, from below for quantiles."""
    present = [path for path in paths if path]
    if not present:
        return None
    valid = "x IS NOT NULL" + (" AND NOT isnan(x)" if constant.type in {"FLOAT", "DOUBLE"} else "")
    counted = valid if constant.function == QUANTILE else "true"
    ((weight,),) = connection.execute(f"SELECT sum(w)::DOUBLE FROM {files(present)} WHERE {counted}").fetchall()
    total = Fraction(weight or 0)
    wanted = constant.share * total
    goal = float(wanted) if constant.function == TOP_TOKEN_SHARE else float(ceil(wanted))
    order = "ASC" if constant.function == QUANTILE else "DESC"
    reader = connection.sql(
        f"SELECT x, sum(w)::DOUBLE AS w FROM {files(present)} WHERE {valid} GROUP BY x ORDER BY x {order}"
    ).to_arrow_reader(_BATCH_ROWS)
    reached, last = 0.0, None
    for batch in reader:
        running = reached + np.cumsum(batch.column("w").to_numpy())
        place = int(np.searchsorted(running, goal))
        if place < len(running):
            return _printed(connection, batch.column("x").slice(place, 1), constant)
        if len(running):
            reached, last = float(running[-1]), batch.column("x").slice(len(running) - 1, 1)
    return None if last is None else _printed(connection, last, constant)


def _printed(connection: duckdb.DuckDBPyConnection, value: pa.Array, constant: Constant) -> str:
    """Return a value as DuckDB prints and reads it back without loss."""
    cursor = connection.cursor()  # the reader of the sorted values may still be open
    cursor.register("one", pa.table({"x": value}))
    ((text,),) = cursor.execute(f"SELECT CAST(CAST(x AS {constant.type}) AS VARCHAR) FROM one").fetchall()
    return str(text)


def described(constant: Constant, value: str | None) -> dict[str, Any]:
    """Return a constant for an index or a manifest."""
    share = constant.share
    written = f"{constant.function}({constant.argument}, {float(share):.10g})"
    return {"call": written, "type": constant.type, "value": value, "counts": _COUNTED[constant.function]}


_COUNTED = {
    QUANTILE: "all documents",
    TOP_SHARE: "documents that pass all other rules",
    TOP_TOKEN_SHARE: "tokens of documents that pass all other rules",
}
