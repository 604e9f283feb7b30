"""Rules against columns: every mistake is found before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import duckdb

from pipeline.select.rules import (
    QUANTILE,
    TOP_TOKEN_SHARE,
    OrderTerm,
    RuleSet,
    constant_calls,
    constant_function,
    rule_at,
)
from pipeline.table import query
from pipeline.table.errors import RuleError
from pipeline.table.query import Node

TOKEN_COLUMNS = ("token_count", "estimated_tokens")
"""What `top_token_share` weighs by: the first that a document has."""

_WIDE = {
    "text": "they run over what was measured of it (text_length, word_count, a classifier's score); where a phrase "
    "decides, choose by it in `gristmill sql` or in a slice of a mix, which read `everything`",
    "metadata": "make a column of the field: `sources.NAME.keep_columns: {lang: meta.lang}`, then `lang = 'en'`",
    "origin": "they read `source` and `url`; the input's name is in `origin.file` of `everything`",
}
"""Columns of `documents` that are not narrow, and what to do instead of reading them."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A call that becomes a constant: `top_share(argument, share)` and its kin."""

    function: str
    argument: str
    """Canonical SQL."""
    type: str
    """The argument's type in DuckDB."""
    share: Fraction
    columns: tuple[str, ...]
    """What the argument reads."""


@dataclass(frozen=True, slots=True)
class BoundRule:
    """A rule whose columns are known and whose types fit."""

    name: str
    sql: str
    columns: tuple[str, ...]
    """What the predicate reads, in reading order."""
    constants: tuple[Constant, ...]
    tree: Node = field(repr=False, compare=False)

    @property
    def takes_share(self) -> bool:
        """Whether it looks at the documents that pass all other rules."""
        return any(constant.function != QUANTILE for constant in self.constants)


@dataclass(frozen=True, slots=True)
class BoundRules:
    """Rules and order of election as they were `written`, checked against `columns` (name to DuckDB type)."""

    written: RuleSet
    rules: tuple[BoundRule, ...]
    keep: tuple[OrderTerm, ...]
    columns: Mapping[str, str]

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Each constant once, in the order of the rules."""
        return tuple(dict.fromkeys(constant for rule in self.rules for constant in rule.constants))

    def on(self, columns: Mapping[str, str]) -> BoundRules:
        """Return the rules bound to `columns`: these, unless the columns are other ones.

        Raises: RuleError.
        """
        return self if list(columns.items()) == list(self.columns.items()) else check_rules(self.written, columns)


def check_rules(rules: RuleSet, columns: Mapping[str, str]) -> BoundRules:
    """Return the rules bound to `columns`; no document is read.

    Raises: RuleError in one line: which rule of which file or config key, what is wrong, the nearest column.
    """
    bound: list[BoundRule] = []
    unresolved: dict[str, Node] = {}
    with query.checking(columns, rules.origin) as connection:
        for rule in rules.rules:
            where = rule_at(rules.origin, rule.name)
            tree = query.spelled(rule.tree, columns, where, _WIDE)
            constants = tuple(_constant(connection, call, where, columns) for call in constant_calls(tree))
            bound.append(BoundRule(rule.name, rule.sql, query.columns_read(tree), constants, tree))
            nulls = {constant: constant_node(connection, constant, None) for constant in constants}
            unresolved[where] = resolved_tree(tree, constants, nulls)
        places = [f"{rules.keep_origin} ({term})" for term in rules.keep]
        trees = [query.spelled(t.tree, columns, place, _WIDE) for t, place in zip(rules.keep, places, strict=True)]
        query.check_bound(connection, unresolved)
        query.check_bound(connection, dict(zip(places, trees, strict=True)), predicates=False)
    keep = tuple(OrderTerm(t.sql, t.descending, tree) for t, tree in zip(rules.keep, trees, strict=True))
    return BoundRules(rules, tuple(bound), keep, dict(columns))


def check_one_order(bound: Mapping[str, BoundRules]) -> None:
    """Check that what the order of election reads has one type in all sources that share components, by their names.

    Raises: RuleError: numbers and text would be compared as text.
    """
    owners: dict[str, dict[str, str]] = {}
    for source, rules in bound.items():
        for name in (name for term in rules.keep for name in query.columns_read(term.tree)):
            kind = rules.columns[name]
            owners.setdefault(name, {}).setdefault("a number" if query.is_number(kind) else kind, source)
    for name, by_kind in owners.items():
        if len(by_kind) > 1:
            shown = " and ".join(f"{kind} in {source}" for kind, source in by_kind.items())
            raise RuleError(f"select.keep: {name!r} is {shown}, which share components; give it one type, or two names")


def _constant(connection: duckdb.DuckDBPyConnection, call: Node, where: str, columns: Mapping[str, str]) -> Constant:
    """Return what a call of a constant function asks for."""
    function = constant_function(call) or ""
    given = query.arguments(call)
    if len(given) != 2:
        raise RuleError(
            f"{where}: {function} takes an expression and a share, for example {function}(text_length, 0.1)"
        )
    if constant_calls(given[0]):
        raise RuleError(f"{where}: {function} cannot contain another call of its kind")
    if not query.columns_read(given[0]):
        raise RuleError(f"{where}: the first argument of {function} must read a column")
    (argument,) = query.render(connection, given[:1])
    (type_,) = query.types_of(connection, {where: given[0]})
    is_exact = query.is_number(type_) and "HUGE" not in type_  # a huge integer leaves DuckDB as a float
    if not is_exact and not type_.startswith(("DATE", "TIMESTAMP")):
        raise RuleError(f"{where}: {function} needs a number or a date, but {argument} is {type_}")
    if function == TOP_TOKEN_SHARE and not token_columns(columns):
        raise RuleError(f"{where}: {function} needs a column of tokens: {' or '.join(TOKEN_COLUMNS)}")
    return Constant(function, argument, type_, _share(given[1], function, where), query.columns_read(given[0]))


def _share(node: Node, function: str, where: str) -> Fraction:
    literal = node.get("literal", {})
    text = str(literal.get("text", ""))
    if node.get("class") == "CONSTANT" and literal.get("kind") in {"INTEGER", "NUMERIC"} and len(text) <= 20:
        try:
            share = Fraction(text)
        except ValueError:
            share = Fraction(0)
        if 0 < share <= 1:
            return share
    raise RuleError(f"{where}: the second argument of {function} must be a number above 0 and at most 1")


def token_columns(columns: Mapping[str, str]) -> list[str]:
    """Return which columns count tokens, the best first."""
    return [name for name in TOKEN_COLUMNS if name in columns]


def constant_node(connection: duckdb.DuckDBPyConnection, constant: Constant, value: str | None) -> Node:
    """Return `value` (as DuckDB prints it; None for null) as a node of the constant's type."""
    text = "NULL" if value is None else query.literal(value)
    (node,) = query.parse(connection, {constant.function: f"CAST({text} AS {constant.type})"})
    return node


def resolved_tree(tree: Node, constants: Sequence[Constant], nodes: Mapping[Constant, Node]) -> Node:
    """Return the tree with its constant calls, which are `constants` in reading order, replaced by their values."""
    remaining = iter(constants)

    def constant(node: Node) -> Node | None:
        if not constant_function(node):
            return None
        found = next(remaining)
        if found.function == QUANTILE:
            return nodes[found]
        left = query.arguments(node)[0]
        return {"class": "COMPARISON", "type": "COMPARE_GREATERTHANOREQUALTO", "left": left, "right": nodes[found]}

    return query.replaced(tree, constant)
