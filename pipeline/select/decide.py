"""What SQL decides about a source's documents: constants, one keeper a component, and the ledger of outcomes.

`top_share`, `top_token_share` and `quantile` become constants first: exact, and out of core. Shares are taken among the
documents that pass all rules of their source that take no share themselves, duplicates included. Then one keeper a
component is elected among the members that pass all rules. Then every document gets its row in the ledger, with its
outcome and every rule that it fails. Workers judge a part each, chunk by chunk; the global steps sort numbers and ids,
not text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.select.binding import BoundRules, Constant, constant_node, resolved_tree, token_columns
from pipeline.select.narrow import AlignedPart, NarrowSource, read_narrow
from pipeline.select.rules import EXACT_DUPLICATE, NEAR_DUPLICATE, QUANTILE, TOP_SHARE, TOP_TOKEN_SHARE
from pipeline.table import query
from pipeline.table.errors import ConservationError, ShardError
from pipeline.table.query import TABLE, literal, quote
from pipeline.table.shards import Group, Part, PartWriter, Tally, Work, read_batches
from pipeline.table.sql import literal_path
from pipeline.table.storage import Storage

MapParts = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Runs a function over jobs and returns the results in order: `map`, or the map of an engine."""

VERDICTS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("doc_id", pa.string()),
        ("keeper", pa.string()),
        ("exact", pa.bool_()),
    ]
)
"""One row for each member of a component that has a keeper: who it is, and whether the text is the same."""

FAILED_RULES = pa.list_(pa.struct([("rule", pa.string()), ("value", pa.string())]))
KEPT, DROPPED = "kept", "dropped"
FAILED_COUNT = "failed:"
"""Prefix of the counts of documents that fail a rule, in a part's manifest."""

Failures = list[tuple[str, NDArray[np.int64], pa.Array]]
"""For each rule, in order: its name, the rows that fail it, and the values for those rows."""

_COUNTED = {
    QUANTILE: "all documents",
    TOP_SHARE: "documents that pass all other rules",
    TOP_TOKEN_SHARE: "tokens of documents that pass all other rules",
}

_FLOATS = ("FLOAT", "DOUBLE")
_RAW = "raw "
_NESTED_FLOAT = re.compile(r"FLOAT|DOUBLE")
_BATCH_ROWS = 100_000
_KEPT_BEFORE = pa.schema([("doc_id", pa.string()), ("component_id", pa.string()), ("text_hash", pa.uint64())])
_ROW_GROUP = 20_000
_NEEDED = ("doc_id", "component_id", "component_size", "text_hash")
_POSITION = "_position"  # no column of a corpus's own begins like this


@dataclass(frozen=True, slots=True)
class Resources:
    """What the global steps may use."""

    folder: str
    """Scratch folder on a local disk."""
    threads: int
    memory_mb: int


# ---- rules over a chunk of narrow rows


@dataclass(frozen=True, slots=True)
class ResolvedRule:
    """A rule as it runs: its constants are values, its SQL is rendered from a checked tree."""

    name: str
    sql: str
    resolved: str
    columns: tuple[str, ...]
    takes_share: bool


@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that judges one source's documents; plain text, so that any worker can take it."""

    rules: tuple[ResolvedRule, ...]
    keep: tuple[tuple[str, bool], ...]
    """(SQL, descending) for each term."""
    columns: Mapping[str, str]
    """Type of every narrow column."""


def resolve(bound: BoundRules, values: Mapping[Constant, str | None]) -> Policy:
    """Return the rules with `values` for their constants; a constant that `values` lacks is null."""
    with query.sandbox() as connection:
        nodes = {constant: constant_node(connection, constant, values.get(constant)) for constant in bound.constants}
        trees = [resolved_tree(rule.tree, rule.constants, nodes) for rule in bound.rules]
        texts = query.render(connection, trees)
        keep = query.render(connection, [term.tree for term in bound.keep])
    rules = tuple(
        ResolvedRule(rule.name, rule.sql, text, rule.columns, rule.takes_share)
        for rule, text in zip(bound.rules, texts, strict=True)
    )
    order = tuple((text, term.descending) for text, term in zip(keep, bound.keep, strict=True))
    return Policy(rules, order, bound.columns)


def relation(columns: Mapping[str, str]) -> str:
    """Return the table that predicates see: not-a-number is null there, and stays itself under its raw name."""
    selected = []
    for name, type_ in columns.items():
        column = quote(name)
        if type_ in _FLOATS:
            selected.append(f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END AS {column}")
            selected.append(f"{column} AS {quote(_RAW + name)}")
        else:
            selected.append(column)
    return f"(SELECT {', '.join(selected)} FROM {TABLE}) AS {TABLE}"


def passing(rules: Sequence[ResolvedRule]) -> str:
    """Return the condition that a document passes all of `rules`; a null fails."""
    return " AND ".join(f"coalesce({rule.resolved}, false)" for rule in rules) or "true"


def failure_value(rule: ResolvedRule, columns: Mapping[str, str]) -> str:
    """Return an expression for the JSON object of every column that a rule reads, or null where it passes."""
    pieces = []
    for number, name in enumerate(rule.columns):
        separator = "," if number else ""
        pieces.append(literal(f"{separator}{json.dumps(name, ensure_ascii=False)}:"))
        pieces.append(f"coalesce({_json(name, columns[name])}, 'null')")
    value = " || ".join([literal("{"), *pieces, literal("}")])
    return f"CASE WHEN {rule.resolved} THEN NULL ELSE {value} END"


def _json(name: str, type_: str) -> str:
    """Return an expression for a column's value as JSON text; floats round-trip, infinities become text."""
    column = quote(name)
    if type_ in _FLOATS:
        raw = quote(_RAW + name)
        return f"CASE WHEN isfinite({raw}) THEN CAST(to_json({raw}) AS VARCHAR) ELSE '\"' || {raw} || '\"' END"
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return f"strftime({column}, '\"%Y-%m-%dT%H:%M:%S.%fZ\"')"
    if _NESTED_FLOAT.search(type_):  # JSON has no word for what such a list or struct may hold
        return f"CAST(to_json(CAST({column} AS VARCHAR)) AS VARCHAR)"
    return f"CAST(to_json({column}) AS VARCHAR)"


def answer(
    connection: duckdb.DuckDBPyConnection, chunk: pa.Table, sql: str, rules: Sequence[ResolvedRule], where: str
) -> pa.Table:
    """Return what `sql` answers over a chunk registered as `documents`.

    Raises: ShardError naming the rule whose predicate fails on the chunk's values.
    """
    connection.register(TABLE, chunk)
    try:
        return connection.sql(sql).to_arrow_table()
    except (duckdb.Error, OSError) as error:  # through Arrow's C stream an error of DuckDB arrives as an OSError
        about = "the rules"
        for rule in rules:
            try:
                connection.execute(f"SELECT count(*) FROM {TABLE} WHERE {rule.resolved}").fetchall()
            except duckdb.Error:
                about = f"rule {rule.name!r}"
                break
        raise ShardError(
            f"{where}: {about} cannot be computed: {query.first_line(error)}; try_cast and CASE avoid it"
        ) from error
    finally:
        connection.unregister(TABLE)


# ---- constants


@dataclass(frozen=True, slots=True)
class _Values:
    """A job: write what one part contributes to each constant."""

    narrow: NarrowSource
    part: AlignedPart
    constants: tuple[Constant, ...]
    rules: tuple[ResolvedRule, ...]
    """What a document must pass to count."""
    columns: Mapping[str, str]
    paths: tuple[str, ...]


def find_constants(
    bound: BoundRules, narrow: NarrowSource, resources: Resources, map_parts: MapParts
) -> dict[Constant, str | None]:
    """Return the value of every constant of a source's rules, as DuckDB prints it; None where nothing counts.

    `quantile` looks at all documents of the source, the shares at those that pass; nulls have no place in either, but
    documents whose value is null count among those of which a share is kept.
    """
    quantiles = tuple(constant for constant in bound.constants if constant.function == QUANTILE)
    shares = tuple(constant for constant in bound.constants if constant.function != QUANTILE)
    values: dict[Constant, str | None] = {}
    for constants in filter(None, (quantiles, shares)):
        policy = resolve(bound, values)
        others = tuple(rule for rule in policy.rules if not rule.takes_share) if constants is shares else ()
        jobs = []
        for number, part in enumerate(narrow.parts):
            stem = f"{resources.folder}/{constants[0].function}-{narrow.source}-{number}"
            paths = tuple(f"{stem}-{index}.parquet" for index in range(len(constants)))
            jobs.append(_Values(narrow, part, constants, others, policy.columns, paths))
        written = list(map_parts(_write_values, jobs))
        with work_database(resources) as connection:
            for index, constant in enumerate(constants):
                values[constant] = _threshold(connection, constant, [paths[index] for paths in written])
    return values


def _write_values(job: _Values) -> tuple[str, ...]:
    """Write value and weight of every document of a part that counts, a file a constant."""
    tokens = token_columns(job.columns)
    readers: list[Constant | ResolvedRule] = [*job.constants, *job.rules]
    read = {name for reader in readers for name in reader.columns} | set(tokens)
    types = {name: type_ for name, type_ in job.columns.items() if name in read}
    source = f"SELECT * FROM {relation(types)} WHERE {passing(job.rules)}"
    queries = []
    for constant in job.constants:
        counted = f"CAST(coalesce({', '.join(map(quote, tokens))}, 0) AS DOUBLE)"
        weight = counted if constant.function == TOP_TOKEN_SHARE else "1::BIGINT"
        queries.append(f"SELECT {constant.argument} AS x, {weight} AS w FROM ({source})")
    where = f"{job.narrow.source}/{job.part.documents.stem}"
    writers: dict[int, pq.ParquetWriter] = {}
    try:
        with query.sandbox() as connection:
            for chunk in read_narrow(job.narrow, job.part, types):
                for number, sql in enumerate(queries):
                    table = answer(connection, chunk, sql, job.rules, where)
                    if number not in writers:
                        writers[number] = pq.ParquetWriter(job.paths[number], table.schema, compression="zstd")
                    writers[number].write_table(table)
    finally:
        for writer in writers.values():
            writer.close()
    return tuple(path if number in writers else "" for number, path in enumerate(job.paths))


def work_database(resources: Resources) -> duckdb.DuckDBPyConnection:
    """Return a connection for the project's own statements over scratch files; it spills to the scratch folder."""
    return query.open_database(
        memory_limit=f"{resources.memory_mb}MiB", threads=resources.threads, temp_directory=f"{resources.folder}/spill"
    )


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


# ---- keepers


@dataclass(frozen=True, slots=True)
class Candidates:
    """A job: write the members of components that one part holds."""

    narrow: NarrowSource
    part: AlignedPart
    policy: Policy
    number: int
    """The part's number among all parts of the scope."""
    priority: int
    """The source's place in the scope: 0 wins."""
    path: str


@dataclass(frozen=True, slots=True)
class KeptBefore:
    """Another source, decided already, whose kept documents come first in every component that they are in.

    `folder` is the group with the components that its documents share with those of the sources to be decided.
    """

    source: str
    folder: str


def elect(
    jobs: Sequence[Candidates],
    descending: Sequence[bool],
    resources: Resources,
    map_parts: MapParts,
    kept_before: Sequence[str] = (),
) -> str:
    """Return the path of the verdicts, sorted by part and row. Only members of components of two or more are gathered.

    The first passing member wins by its source's place in the scope, then by the order's terms (nulls last), then by
    `doc_id`. Where no member passes there is no keeper and no verdict. `kept_before` are files of documents that were
    kept before: one of them wins in its component, and gets no verdict itself.

    Raises: ShardError when a term cannot be computed or the scratch folder cannot hold the members.
    """
    paths = [path for path in map_parts(_write_candidates, jobs) if path]
    target = f"{resources.folder}/verdicts.parquet"
    if not paths:
        pq.write_table(VERDICTS.empty_table(), target)
        return target
    terms = [f"k{number} {'DESC' if down else 'ASC'} NULLS LAST" for number, down in enumerate(descending)]
    order = ", ".join(["priority", *terms, "doc_id"])
    members = files(paths)
    own = f"""
        SELECT component_id, doc_id, text_hash FROM {members} WHERE passing
        QUALIFY row_number() OVER (PARTITION BY component_id ORDER BY {order}) = 1
    """
    with work_database(resources) as connection:
        try:
            connection.execute(
                f"""
                COPY (
                    WITH keepers AS ({_with_kept_before(own, kept_before)})
                    SELECT m.part, m.row, m.doc_id, k.doc_id AS keeper, m.text_hash = k.text_hash AS exact
                    FROM {members} m JOIN keepers k USING (component_id)
                    ORDER BY m.part, m.row
                ) TO {literal(target)} (FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP})
                """
            )
        except duckdb.Error as error:
            raise ShardError(f"electing keepers: {error}; free disk space or raise the memory limit") from error
    return target


def _with_kept_before(own: str, paths: Sequence[str]) -> str:
    """Return the statement of keepers where documents of other sources were kept before."""
    if not paths:
        return own
    places = [f"SELECT {place} AS place, * FROM {files([path])}" for place, path in enumerate(paths)]
    return f"""
        WITH before AS (
            SELECT component_id, doc_id, text_hash FROM ({" UNION ALL ".join(places)})
            QUALIFY row_number() OVER (PARTITION BY component_id ORDER BY place, doc_id) = 1
        )
        SELECT * FROM before
        UNION ALL SELECT * FROM ({own}) WHERE component_id NOT IN (SELECT component_id FROM before)
    """


def _write_candidates(job: Candidates) -> str:
    """Write a part's members of components; return the file, or nothing when the part has none."""
    terms = [f"{sql} AS k{number}" for number, (sql, _) in enumerate(job.policy.keep)]
    sql = (
        f"SELECT {', '.join([*_NEEDED, f'{passing(job.policy.rules)} AS passing', *terms, _POSITION])}"
        f" FROM {relation({**job.policy.columns, _POSITION: 'BIGINT'})} WHERE component_size > 1"
    )
    writer: pq.ParquetWriter | None = None
    where, start = f"{job.narrow.source}/{job.part.documents.stem}", 0
    try:
        with query.sandbox() as connection:
            for chunk in read_narrow(job.narrow, job.part):
                positions = pa.array(range(start, start + chunk.num_rows), pa.int64())
                start += chunk.num_rows
                table = answer(connection, chunk.append_column(_POSITION, positions), sql, job.policy.rules, where)
                if table.num_rows:
                    table = table.rename_columns(["row" if n == _POSITION else n for n in table.column_names])
                    for name, value in (("part", job.number), ("priority", job.priority)):
                        table = table.append_column(name, pa.repeat(pa.scalar(value, pa.int32()), table.num_rows))
                    writer = writer or pq.ParquetWriter(job.path, table.schema, compression="zstd")
                    writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return job.path if writer is not None else ""


def write_kept_before(storage: Storage, before: KeptBefore, path: str) -> str:
    """Write the kept documents of another source that share a component, and return the file.

    Raises: ShardError when a part cannot be read.
    """
    outcomes = Group(storage, f"{before.source}/outcomes")
    kept = [
        table.filter(pc.equal(table["outcome"], "kept"))["doc_id"].combine_chunks()
        for part in outcomes.parts()
        for table in read_batches(outcomes, part.name, ["doc_id", "outcome"])
    ]
    known = pa.concat_arrays([pa.array([], pa.string()), *kept])
    columns = ["doc_id", "component_id", "component_size", "text_hash"]
    shared = Group(storage, before.folder)
    with pq.ParquetWriter(path, _KEPT_BEFORE, compression="zstd") as writer:
        for part in shared.parts():
            for table in read_batches(shared, part.name, columns):
                joined = table.filter(pc.greater(table["component_size"], 1))
                chosen = joined.filter(pc.is_in(joined["doc_id"], known))
                writer.write_table(chosen.select(_KEPT_BEFORE.names).cast(_KEPT_BEFORE))
    return path


def verdicts(path: str, number: int) -> pa.Table:
    """Return one part's verdicts, in row order."""
    return pq.read_table(path, filters=[("part", "=", number)], partitioning=None).cast(VERDICTS).combine_chunks()


# ---- outcomes


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
    policy = job.policy
    values = [f"{failure_value(rule, policy.columns)} AS v{number}" for number, rule in enumerate(policy.rules)]
    sql = f"SELECT {', '.join(['doc_id', *values])} FROM {relation(policy.columns)}"
    counts = {KEPT: 0, DROPPED: 0, **{f"{FAILED_COUNT}{name}": 0 for name in rule_names(policy)}}
    found, start = verdicts(job.verdict_path, job.number), 0
    where = f"{job.narrow.source}/{job.part.documents.stem}"
    with query.sandbox() as connection, PartWriter(group, job.work, outcome_schema(job.narrow)) as writer:
        for chunk in read_narrow(job.narrow, job.part):
            answered = answer(connection, chunk, sql, policy.rules, where)
            if not answered["doc_id"].equals(chunk["doc_id"]):
                raise ConservationError(f"{where}: DuckDB returned rows in another order; this is a bug in Gristmill")
            failures: Failures = []
            for number, rule in enumerate(policy.rules):
                failing = answered[f"v{number}"]
                rows = np.flatnonzero(pc.is_valid(failing).to_numpy(zero_copy_only=False))
                failures.append((rule.name, rows, failing.drop_null().combine_chunks()))
            duplicates, keepers = _duplicates(chunk, _within(found, start, chunk.num_rows), where)
            failures += duplicates
            decided = _decided(chunk, failures, keepers)
            dropped = int(pc.sum(pc.equal(decided["outcome"], DROPPED)).as_py() or 0)
            counts[DROPPED] += dropped
            counts[KEPT] += chunk.num_rows - dropped
            for name, rows, _ in failures:
                counts[f"{FAILED_COUNT}{name}"] += len(rows)
            writer.write(decided)
            start += chunk.num_rows
    return OutcomePart(writer.finish(Tally(rows_in=job.part.documents.rows, counts=counts)), counts)


def rule_names(policy: Policy) -> list[str]:
    """Return the names of all rules, the built-in ones last."""
    return [*(rule.name for rule in policy.rules), NEAR_DUPLICATE, EXACT_DUPLICATE]


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
