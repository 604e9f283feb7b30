"""Rules over a chunk of narrow rows: what DuckDB is asked, and what it answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipeline.select import expressions
from pipeline.select.binding import TABLE, BoundRules, Constant, constant_node, first_line, resolved_tree
from pipeline.select.expressions import literal, quoted
from pipeline.table.errors import ShardError

_FLOATS = ("FLOAT", "DOUBLE")
_RAW = "raw "
_NESTED_FLOAT = re.compile(r"FLOAT|DOUBLE")


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
    with expressions.sandbox() as connection:
        nodes = {constant: constant_node(connection, constant, values.get(constant)) for constant in bound.constants}
        trees = [resolved_tree(rule.tree, rule.constants, nodes) for rule in bound.rules]
        texts = expressions.render(connection, trees)
        keep = expressions.render(connection, [term.tree for term in bound.keep])
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
        column = quoted(name)
        if type_ in _FLOATS:
            selected.append(f"CASE WHEN isnan({column}) THEN NULL ELSE {column} END AS {column}")
            selected.append(f"{column} AS {quoted(_RAW + name)}")
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
    column = quoted(name)
    if type_ in _FLOATS:
        raw = quoted(_RAW + name)
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
        name = _culprit(connection, rules)
        about = f"rule {name!r}" if name else "the rules"
        raise ShardError(
            f"{where}: {about} cannot be computed: {first_line(error)}; try_cast and CASE avoid it"
        ) from error
    finally:
        connection.unregister(TABLE)


def _culprit(connection: duckdb.DuckDBPyConnection, rules: Sequence[ResolvedRule]) -> str | None:
    for rule in rules:
        try:
            connection.execute(f"SELECT count(*) FROM {TABLE} WHERE {rule.resolved}").fetchall()
        except duckdb.Error:
            return rule.name
    return None
