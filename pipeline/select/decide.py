"""What SQL decides about the documents of a scope: constants, one keeper a component, and every rule that each fails.

    wide rows -> constants -> keepers -> outcomes

`top_share`, `top_token_share` and `quantile` become constants first: exact, and out of core. Shares are taken among the
documents that pass all rules of their source that take no share themselves, duplicates included. Then one keeper a
component is elected among the members that pass all rules. Then every document gets its outcome, with every rule that
it fails. Each of these steps is one statement over a batch of parts: their wide rows stream through it, and it answers
row for row. What concerns all documents at once is numbers and ids, in a database that spills to a scratch folder.
Nothing is written to the workspace.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from math import ceil
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.select.rules import (
    EXACT_DUPLICATE,
    NEAR_DUPLICATE,
    QUANTILE,
    TOP_SHARE,
    TOP_TOKEN_SHARE,
    BoundRules,
    Constant,
    RuleSet,
    check_one_order,
    check_rules,
    resolved_tree,
)
from pipeline.select.wide_table import CHUNK_ROWS, AlignedParts, Held, WideTable, read_wide, rechunked, wide_table
from pipeline.table import query
from pipeline.table.errors import ConservationError, RuleError, ShardError
from pipeline.table.query import TABLE, column_types, literal, quote
from pipeline.table.schema import DUPLICATES, TOKEN_COLUMNS, Column, arrow
from pipeline.table.shards import Group, aligned, read_batches
from pipeline.table.storage import Storage

MapJobs = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Runs a function over jobs and returns the results in order: `map`, or the map of an engine."""
Placed = tuple[int, AlignedParts]
"""A part, and the number of its first row among all rows of the scope."""

FAILED_RULES = pa.list_(pa.struct([("rule", pa.string()), ("value", pa.string())]))
KEPT, DROPPED = "kept", "dropped"
DEFAULT_PART_BYTES = 256 << 20
BATCH_PARTS = 64
"""Parts at most that one statement judges: to plan it takes as long as to judge ten thousand rows."""
_ROWS_MB = 700
"""Of the memory that may be used, for the process and its rows on their way, which do not grow with the corpus."""

_COUNTED = {
    QUANTILE: "all documents",
    TOP_SHARE: "documents that pass all other rules",
    TOP_TOKEN_SHARE: "tokens of documents that pass all other rules",
}
_FLOATS = ("FLOAT", "DOUBLE")
_RAW = "raw "
_NESTED_FLOAT = re.compile(r"FLOAT|DOUBLE")
_COMPONENT = ("component_id", "component_size", "text_hash")
_KEEPER, IS_EXACT = "duplicate_of", "_is_exact"  # no column of a corpus's own is called so


# ---- what is to be decided


@dataclass(frozen=True, slots=True)
class KeptBefore:
    """Another source, decided already, whose kept documents come first in every component that they are in.

    `folder` is the group with the components that its documents share with those of the sources to be decided.
    """

    source: str
    folder: str


@dataclass(frozen=True, slots=True)
class SourceSelection:
    """One source of a scope: its rules, and the groups beside `documents` that they and the outcomes read."""

    name: str
    rules: RuleSet
    folders: tuple[str, ...]
    """For example `signals/language`, `duplicates`, `scores/quality`."""
    bound: BoundRules | None = None
    """The rules as they were checked before the run, so that they need not be bound again."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What to select: the sources of a scope in order of priority."""

    sources: tuple[SourceSelection, ...]
    part_bytes: int = DEFAULT_PART_BYTES
    kept_before: tuple[KeptBefore, ...] = ()

    @property
    def label(self) -> str:
        return "+".join(source.name for source in self.sources)


def bound_sources(
    storage: Storage, selection: Selection, held: Held | None = None
) -> list[tuple[WideTable, BoundRules | None]]:
    """Return each source's wide table, and its rules bound to it: None while it has no documents.

    Raises: RuleError when a rule does not bind or the sources' orders of election differ, also in their columns' types.
    """
    orders = {tuple(str(term) for term in source.rules.keep) for source in selection.sources}
    if len(orders) > 1:
        names = ", ".join(source.name for source in selection.sources)
        shown = " / ".join(", ".join(order) for order in sorted(orders))
        raise RuleError(f"select.keep differs between {names}, which share components: {shown}; give them one order")
    sources: list[tuple[WideTable, BoundRules | None]] = []
    held = held or Held()
    for chosen in selection.sources:
        table = wide_table(storage, chosen.name, chosen.folders, held)
        types = column_types(table.schema)
        bound = (chosen.bound.on(types) if chosen.bound else check_rules(chosen.rules, types)) if table.parts else None
        sources.append((table, bound))
    check_one_order({table.source: bound for table, bound in sources if bound})
    return sources


# ---- rules as they run


@dataclass(frozen=True, slots=True)
class ResolvedRule:
    """A rule as it runs: its constants are values, its SQL is rendered from a checked tree."""

    name: str
    sql: str | None
    """As it was written; a built-in rule is not."""
    resolved: str
    columns: tuple[str, ...]
    """What it reads, in reading order."""


BUILT_IN_RULES = tuple(
    ResolvedRule(name, None, f"({_KEEPER} IS NULL OR {passes})", ("component_id", "component_size", _KEEPER))
    for name, passes in ((NEAR_DUPLICATE, IS_EXACT), (EXACT_DUPLICATE, f"NOT {IS_EXACT}"))
)


@dataclass(frozen=True, slots=True)
class ResolvedRules:
    """Everything that judges one source's documents, as text; of a source without documents there is nothing."""

    rules: tuple[ResolvedRule, ...] = ()
    keep: tuple[tuple[str, bool], ...] = ()
    """(SQL, descending) for each term of the order of election."""
    reads: frozenset[str] = frozenset()
    """Every column that the rules and the order read."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Type of every column of the wide table."""


def resolve(bound: BoundRules, values: Mapping[Constant, str | None]) -> ResolvedRules:
    """Return the rules with `values` for their constants; a constant that `values` lacks is null."""
    with query.sandbox() as connection:
        nodes = {constant: constant.node(connection, values.get(constant)) for constant in bound.constants}
        texts = query.render(connection, [resolved_tree(rule, nodes) for rule in bound.rules])
        keep = query.render(connection, [term.tree for term in bound.keep])
    rules = tuple(
        ResolvedRule(rule.name, rule.sql, text, rule.columns) for rule, text in zip(bound.rules, texts, strict=True)
    )
    order = tuple((text, term.descending) for text, term in zip(keep, bound.keep, strict=True))
    trees = [*(rule.tree for rule in bound.rules), *(term.tree for term in bound.keep)]
    reads = frozenset(name for tree in trees for name in query.columns_read(tree))
    return ResolvedRules(rules, order, reads, bound.columns)


def passing(rules: Iterable[ResolvedRule]) -> str:
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


# ---- one statement over the wide rows of many parts


class Chunk(NamedTuple):
    """Some wide rows of the part of this stem; `row` is the number of the first one in the scope."""

    row: int
    stem: str
    rows: pa.Table


def batches(parts: Iterable[Placed]) -> list[list[Placed]]:
    """Cut parts into runs that one statement judges: many small parts that follow one another, or a large one."""
    cut: list[list[Placed]] = []
    expected = rows = 0
    for row, part in parts:
        if not cut or row != expected or rows >= CHUNK_ROWS or len(cut[-1]) == BATCH_PARTS:
            cut.append([])
            rows = 0
        cut[-1].append((row, part))
        rows += part["documents"].rows
        expected = row + part["documents"].rows
    return cut


def placed(table: WideTable, first: int) -> list[Placed]:
    """Return a source's parts, each with the number of its first row; `first` is that of the source."""
    rows = np.cumsum([first, *(part["documents"].rows for part in table.parts)])
    return [(int(row), part) for row, part in zip(rows, table.parts, strict=False)]


def read_chunks(table: WideTable, batch: Sequence[Placed], only: Iterable[str] | None = None) -> Iterator[Chunk]:
    """Yield the wide rows of a batch of parts in order; with `only`, `doc_id` and those columns alone."""
    names = None if only is None else set(only)
    for first, part in batch:
        row = first
        for rows in read_wide(table, part, names):
            yield Chunk(row, part["documents"].stem, rows)
            row += rows.num_rows


def answers(
    source: str, chunks: Iterator[Chunk], select: Mapping[str, str], rules: Iterable[ResolvedRule]
) -> Iterator[tuple[Chunk, pa.Table]]:
    """Yield each chunk with its answer: `doc_id`, and what the expressions of `select` give, row for row.

    All chunks stream through one statement, and have one schema.

    Raises: ShardError naming the part, and the one of `rules` that cannot be computed on its values.
    """
    first = next(chunks, None)
    if first is None:
        return
    sql = f"SELECT {', '.join(['doc_id', *(f'{text} AS {name}' for name, text in select.items())])}"
    sql += f" FROM {relation(first.rows.schema)}"
    waiting: deque[Chunk] = deque()
    stopped: list[Exception] = []

    def feed() -> Iterator[pa.RecordBatch]:
        try:
            for chunk in chain([first], chunks):
                waiting.append(chunk)
                yield from chunk.rows.to_batches()
        except Exception as error:
            stopped.append(error)  # DuckDB would make text of it
            raise

    with query.sandbox() as connection:
        try:
            connection.register(TABLE, pa.RecordBatchReader.from_batches(first.rows.schema, feed()))
            reader = connection.sql(sql).to_arrow_reader(CHUNK_ROWS)
            answered = reader.schema.empty_table()
            for batch in chain(reader, [None]):
                if batch is not None:
                    answered = pa.concat_tables([answered, pa.Table.from_batches([batch])])
                while waiting and waiting[0].rows.num_rows <= answered.num_rows:
                    chunk, answer = waiting.popleft(), answered
                    rows = chunk.rows.num_rows
                    answer, answered = answered.slice(0, rows), answered.slice(rows)
                    if not answer["doc_id"].equals(chunk.rows["doc_id"]):
                        raise ConservationError(f"{source}/{chunk.stem}: DuckDB moved rows; this is a bug in Gristmill")
                    yield chunk, answer
        except (duckdb.Error, OSError, pa.ArrowException) as error:  # through Arrow's C stream it arrives as an OSError
            if stopped:
                raise stopped[0] from stopped[0].__cause__
            where, about = _blamed(waiting, sql, rules)
            raise ShardError(
                f"{source}{where}: {about} cannot be computed: {query.first_line(error)}; try_cast and CASE avoid it"
            ) from error
    if waiting or answered.num_rows:
        raise ConservationError(f"{source}: DuckDB lost rows; this is a bug in Gristmill")


def relation(schema: pa.Schema) -> str:
    """Return the table that predicates see: not-a-number is null there, and stays itself under its raw name."""
    selected = []
    for item in schema:
        column = quote(item.name)
        if item.type in (pa.float32(), pa.float64()):
            selected.append(f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END AS {column}")
            selected.append(f"{column} AS {quote(_RAW + item.name)}")
        else:
            selected.append(column)
    return f"(SELECT {', '.join(selected)} FROM {TABLE}) AS {TABLE}"


def _blamed(chunks: Iterable[Chunk], sql: str, rules: Iterable[ResolvedRule]) -> tuple[str, str]:
    """Return which part a statement fails on, and which rule it is."""
    with query.sandbox() as connection:

        def fails(statement: str) -> bool:
            try:
                connection.execute(statement).fetchall()
            except duckdb.Error:
                return True
            return False

        for chunk in chunks:
            connection.register(TABLE, chunk.rows)
            if fails(sql):
                wrong = (f"rule {r.name!r}" for r in rules if fails(f"SELECT 1 FROM {TABLE} WHERE {r.resolved}"))
                return f"/{chunk.stem}", next(wrong, "the rules")
    return "", "the rules"


# ---- what concerns all documents at once


class Scratch:
    """Tables of numbers and ids about all documents of a scope. Threads may use them at once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, map_jobs: MapJobs) -> None:
        self.connection, self.map = connection, map_jobs
        self._lock = threading.Lock()

    def append(self, name: str, rows: Iterator[pa.Table]) -> None:
        """Append rows to a table, all of them or none: a job may be tried again. The first table given makes it.

        Raises: ShardError when there is no room for them; what `rows` raises.
        """
        tables = rechunked(rows, CHUNK_ROWS)
        first = next(tables)
        with self.connection.cursor() as cursor, _told():
            cursor.register("_rows", first)
            with self._lock:
                cursor.execute(f"CREATE TABLE IF NOT EXISTS {name} AS FROM _rows LIMIT 0")
            cursor.begin()
            for table in chain([first], tables):
                cursor.register("_rows", table)
                cursor.execute(f"INSERT INTO {name} FROM _rows")
            cursor.commit()

    def run(self, sql: str) -> pa.Table:
        """Run a statement of ours and return its answer.

        Raises: ShardError when there is no room for it.
        """
        with self.connection.cursor() as cursor, _told():
            return cursor.sql(sql).to_arrow_table()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise ShardError(f"deciding: {query.one_line(error)}; free disk space or raise engine.memory_mb") from error


@contextmanager
def scratch_tables(folder: str, threads: int, memory_mb: int, map_jobs: MapJobs) -> Iterator[Scratch]:
    """Give the block tables that spill to `folder`, on a local disk; they go when it ends."""
    limit = max(memory_mb - _ROWS_MB, min(memory_mb, 256))
    connection = query.open_database(memory_limit=f"{limit}MiB", threads=threads, temp_directory=f"{folder}/spill")
    try:
        yield Scratch(connection, map_jobs)
    finally:
        connection.close()


def find_constants(bound: BoundRules, table: WideTable, scratch: Scratch) -> dict[Constant, str | None]:
    """Return the value of every constant of a source's rules, as DuckDB prints it; None where nothing counts.

    `quantile` looks at all documents of the source, the shares at those that pass; nulls have no place in either, but
    documents whose value is null count among those of which a share is kept.
    """
    quantiles = [constant for constant in bound.constants if constant.function == QUANTILE]
    shares = [constant for constant in bound.constants if constant.function != QUANTILE]
    values = _find(quantiles, (), bound, table, scratch) if quantiles else {}
    if shares:
        resolved = zip(bound.rules, resolve(bound, values).rules, strict=True)
        others = [other for rule, other in resolved if not rule.takes_share]
        values |= _find(shares, others, bound, table, scratch)
    return values


def _find(
    constants: Sequence[Constant],
    others: Sequence[ResolvedRule],
    bound: BoundRules,
    table: WideTable,
    scratch: Scratch,
) -> dict[Constant, str | None]:
    """Return constants that count the documents which pass `others`."""
    name = quote(f"{constants[0].function} {table.source}")
    tokens = [column for column in TOKEN_COLUMNS if column in bound.columns]
    reads = set(tokens).union(*(each.columns for each in constants), *(rule.columns for rule in others))
    select = {f"x{n}": f"CASE WHEN {passing(others)} THEN {each.argument} END" for n, each in enumerate(constants)}
    select["tokens"] = f"CAST(coalesce({', '.join([*map(quote, tokens), '0'])}) AS DOUBLE)"
    gathered = list(select)
    select["counts"] = passing(others)

    def gather(batch: Sequence[Placed]) -> None:
        found = answers(table.source, read_chunks(table, batch, reads), select, others)
        scratch.append(name, (rows.filter(rows["counts"]).select(gathered) for _, rows in found))

    list(scratch.map(gather, batches(placed(table, 0))))
    found = {constant: _threshold(scratch, name, f"x{n}", constant) for n, constant in enumerate(constants)}
    with scratch.connection.cursor() as cursor:  # the next policy over these documents fills one of its own
        cursor.execute(f"DROP TABLE IF EXISTS {name}")
    return found


def _threshold(scratch: Scratch, table: str, x: str, constant: Constant) -> str | None:
    """Return the value at which the wanted share is reached: from above for shares, from below for quantiles."""
    weight = "sum(tokens)" if constant.function == TOP_TOKEN_SHARE else "count(*)::DOUBLE"
    valid = f"{x} IS NOT NULL" + (f" AND NOT isnan({x})" if constant.type in _FLOATS else "")
    counted = valid if constant.function == QUANTILE else "true"
    (total,) = scratch.run(f"SELECT {weight} AS total FROM {table} WHERE {counted}")["total"].to_pylist()
    wanted = constant.share * Fraction(total or 0)
    goal = float(wanted) if constant.function == TOP_TOKEN_SHARE else float(ceil(wanted))
    order = "ASC" if constant.function == QUANTILE else "DESC"
    with scratch.connection.cursor() as cursor:
        reader = cursor.sql(
            f"SELECT {x} AS x, {weight} AS w FROM {table} WHERE {valid} GROUP BY x ORDER BY x {order}"
        ).to_arrow_reader(CHUNK_ROWS)
        reached, found = 0.0, None
        for batch in reader:
            running = reached + np.cumsum(batch.column("w").to_numpy())
            place = min(int(np.searchsorted(running, goal)), len(running) - 1)
            reached, found = float(running[place]), batch.column("x").slice(place, 1)
            if reached >= goal:
                break
    if found is None:
        return None
    with scratch.connection.cursor() as cursor:
        cursor.register("one", pa.table({"x": found}))
        ((text,),) = cursor.execute(f"SELECT CAST(CAST(x AS {constant.type}) AS VARCHAR) FROM one").fetchall()
    return str(text)


def described(constant: Constant, value: str | None) -> dict[str, Any]:
    """Return a constant for an index or a manifest."""
    written = f"{constant.function}({constant.argument}, {float(constant.share):.10g})"
    return {"call": written, "type": constant.type, "value": value, "counts": _COUNTED[constant.function]}


@dataclass(frozen=True, slots=True)
class Decided:
    """One source of a scope whose constants are found, and whose keepers are elected."""

    table: WideTable
    rules: ResolvedRules
    constants: tuple[dict[str, Any], ...]
    parts: tuple[Placed, ...]


Seen = Callable[[Chunk, pa.Table], None]
"""Is shown some rows of a source, and their answers."""


def decide(
    sources: Sequence[tuple[WideTable, BoundRules | None]], before: Sequence[KeptBefore], scratch: Scratch
) -> list[Decided]:
    """Find the constants of every source of a scope, in order of priority, and elect the keepers of all components.

    Raises: ShardError when a rule or term cannot be computed, or the scratch folder is full.
    """
    scope = settle(sources, scratch)
    elect(scope, gather(scope, before, scratch), scratch)
    return scope


def settle(sources: Sequence[tuple[WideTable, BoundRules | None]], scratch: Scratch) -> list[Decided]:
    """Find the constants of every source of a scope, in order of priority.

    Raises: ShardError when a rule cannot be computed, or the scratch folder is full.
    """
    scope: list[Decided] = []
    for table, bound in sources:
        values = find_constants(bound, table, scratch) if bound else {}
        rules = resolve(bound, values) if bound else ResolvedRules()
        constants = tuple(described(constant, value) for constant, value in values.items())
        first = sum(decided.table.rows for decided in scope)
        scope.append(Decided(table, rules, constants, tuple(placed(table, first))))
    return scope


def elect(scope: Sequence[Decided], members: Sequence[str], scratch: Scratch, passing: str = "passing") -> None:
    """Elect the keeper of every component among its `members`; the table `copies` has those that are not it.

    The first passing member of a component wins by its source's place in the scope, then by the order's terms (nulls
    last), then by `doc_id`. Where no member passes there is no keeper. A document that was kept before wins. `passing`
    tells over a member's columns whether it passes.
    """
    order = next((decided.rules.keep for decided in scope if decided.parts), ())
    terms = [f"k{number} {'DESC' if descending else 'ASC'} NULLS LAST" for number, (_, descending) in enumerate(order)]
    if not members:
        scratch.run(
            f"CREATE OR REPLACE TABLE copies (place BIGINT, doc_id VARCHAR, {_KEEPER} VARCHAR, {IS_EXACT} BOOLEAN)"
        )
        return
    scratch.run(
        f"""
        CREATE OR REPLACE TABLE copies AS
        WITH members AS ({" UNION ALL BY NAME ".join(members)}), keepers AS (
            SELECT component_id, doc_id AS {_KEEPER}, text_hash AS kept_hash FROM members WHERE {passing}
            QUALIFY row_number() OVER (
                PARTITION BY component_id ORDER BY {", ".join(["priority", *terms, "doc_id"])}
            ) = 1
        )
        SELECT place, doc_id, {_KEEPER}, coalesce(text_hash = kept_hash, false) AS {IS_EXACT}
        FROM members JOIN keepers USING (component_id)
        WHERE place IS NOT NULL AND doc_id <> {_KEEPER} ORDER BY place
        """
    )


def gather(
    scope: Sequence[Decided],
    before: Sequence[KeptBefore],
    scratch: Scratch,
    also: Callable[[Decided], Mapping[str, str]] = lambda decided: {},
    see: Seen = lambda chunk, answer: None,
) -> list[str]:
    """Gather the members of a scope's components of two or more; return the statements that read them.

    `see` is shown every document of the scope, with what the expressions of `also` give; members have these, too.
    """
    members = [_gather_members(decided, number, scratch, also(decided), see) for number, decided in enumerate(scope)]
    if any(members):
        storage, first = scope[0].table.storage, -len(before)
        members += [_gather_kept(storage, each, first + number, scratch) for number, each in enumerate(before)]
    return list(filter(None, members))


def _gather_members(decided: Decided, priority: int, scratch: Scratch, also: Mapping[str, str], see: Seen) -> str:
    """Gather a source's members of components of two or more; return the statement that reads them, if any."""
    rules, name = decided.rules, quote(f"members of {decided.table.source}")
    if not decided.parts or not (also or any("duplicates" in part for _, part in decided.parts)):
        return ""
    is_member = "coalesce(component_size > 1, false)"
    select = {"component_id": "component_id", "text_hash": "text_hash", "is_member": is_member, **also}
    select["passing"] = passing(rules.rules)
    select |= {f"k{n}": f"CASE WHEN {is_member} THEN {term} END" for n, (term, _) in enumerate(rules.keep)}

    def members(batch: Sequence[Placed]) -> Iterator[pa.Table]:
        chunks = read_chunks(decided.table, batch, rules.reads | set(_COMPONENT))
        for chunk, rows in answers(decided.table.source, chunks, select, rules.rules):
            see(chunk, rows)
            places = pa.array(np.arange(chunk.row, chunk.row + rows.num_rows))
            yield rows.append_column("place", places).filter(rows["is_member"]).drop_columns("is_member")

    list(scratch.map(lambda batch: scratch.append(name, members(batch)), batches(decided.parts)))
    return f"SELECT {priority} AS priority, * FROM {name}"


def _gather_kept(storage: Storage, before: KeptBefore, priority: int, scratch: Scratch) -> str:
    """Gather another source's kept documents that share a component; they have no place in this scope."""
    outcomes, shared = Group(storage, f"{before.source}/outcomes"), Group(storage, before.folder)
    decided, name = {part.stem: part.name for part in outcomes.parts()}, quote(f"kept of {before.source}")
    schema = pa.schema([item for item in DUPLICATES if item.name in ("doc_id", "component_id", "text_hash")])

    def kept() -> Iterator[pa.Table]:
        yield schema.empty_table()
        for part in (each for each in shared.parts() if each.stem in decided):
            ledger = rechunked(read_batches(outcomes, decided[part.stem], ["doc_id", "outcome"]), CHUNK_ROWS)
            components = rechunked(read_batches(shared, part.name, ["doc_id", *_COMPONENT]), CHUNK_ROWS)
            for left, right in zip(ledger, components, strict=True):
                aligned(left, right, f"{before.folder}/{part.name}")
                chosen = pc.and_(pc.equal(left["outcome"], KEPT), pc.greater(right["component_size"], 1))
                yield right.filter(chosen).select(schema.names).cast(schema)

    scratch.append(name, kept())
    return f"SELECT {priority} AS priority, NULL::BIGINT AS place, true AS passing, * FROM {name}"


# ---- outcomes


DECIDED_COLUMNS = {
    "outcome": Column(pa.string(), "`kept` or `dropped`", False),
    "failed_rules": Column(
        FAILED_RULES, "list of `{rule, value}`; `value` is the JSON of every column that the predicate reads", False
    ),
    _KEEPER: Column(
        pa.string(),
        "the keeper's `doc_id`; null for keepers, for documents without copies, and where no member of the component "
        "passed",
    ),
}
"""What `outcomes` have behind the wide table."""


def outcome_schema(table: WideTable) -> pa.Schema:
    """Return the schema of a source's outcomes: its wide table, then what was decided."""
    return pa.schema([*table.schema, *arrow(DECIDED_COLUMNS)])


def outcomes(decided: Decided, batch: Sequence[Placed], scratch: Scratch) -> Iterator[tuple[str, pa.Table]]:
    """Yield the outcomes of a batch of parts in order, row for row, each table with the stem of its part.

    Raises: ShardError naming a rule that cannot be computed, ConservationError when rows do not add up.
    """
    source, schema = decided.table.source, outcome_schema(decided.table)
    rules = (*decided.rules.rules, *BUILT_IN_RULES)
    types = {**decided.rules.columns, _KEEPER: "VARCHAR"}
    failures = [f"{{'rule': {literal(rule.name)}, 'value': {failure_value(rule, types)}}}" for rule in rules]
    select = {"failed_rules": f"list_filter([{', '.join(failures)}], lambda _failed: _failed.value IS NOT NULL)"}
    chunks = _with_keepers(source, read_chunks(decided.table, batch), batch, scratch)
    for chunk, answer in answers(source, chunks, select, rules):
        failed = answer["failed_rules"].cast(FAILED_RULES)
        passes = pc.equal(pc.list_value_length(failed), 0)
        columns = [*chunk.rows.columns[: len(decided.table.schema)], pc.if_else(passes, KEPT, DROPPED), failed]
        yield chunk.stem, pa.Table.from_arrays([*columns, chunk.rows[_KEEPER]], schema=schema)


def _with_keepers(source: str, chunks: Iterator[Chunk], batch: Sequence[Placed], scratch: Scratch) -> Iterator[Chunk]:
    """Yield the chunks with the keeper of which each document is a copy, and whether it is an exact one."""
    (first, _), (last, part) = batch[0], batch[-1]
    after = last + part["documents"].rows
    copies = scratch.run(f"FROM copies WHERE place >= {first} AND place < {after} ORDER BY place")
    places = copies["place"].to_numpy()
    for chunk in chunks:
        low, high = np.searchsorted(places, [chunk.row, chunk.row + chunk.rows.num_rows])
        found = np.full(chunk.rows.num_rows, -1)
        found[places[low:high] - chunk.row] = np.arange(low, high)
        mine = copies.take(pa.array(found, mask=found < 0))
        if pc.any(pc.not_equal(mine["doc_id"], chunk.rows["doc_id"])).as_py():
            raise ConservationError(
                f"{source}/{chunk.stem}: keepers are of other documents; this is a bug in Gristmill"
            )
        rows = chunk.rows.append_column(_KEEPER, mine[_KEEPER]).append_column(IS_EXACT, mine[IS_EXACT])
        yield chunk._replace(rows=rows)
