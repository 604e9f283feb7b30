"""Rules against columns: every mistake is found before anything runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import duckdb
import pyarrow as pa

from pipeline.select import expressions
from pipeline.select.expressions import QUANTILE, TOP_TOKEN_SHARE, Node, quoted
from pipeline.select.rules import OrderTerm, Rule, RuleSet, rule_at
from pipeline.table.errors import RuleError

TABLE = "documents"
TOKEN_COLUMNS = ("token_count", "estimated_tokens")
"""What `top_token_share` weighs by: the first that a document has."""

_WIDE = {
    "text": "they run over what was measured of it (text_length, word_count, a classifier's score); where a phrase "
    "decides, choose by it in `gristmill sql` or in a slice of a mix, which read `everything`",
    "metadata": "make a column of the field: `sources.NAME.keep_columns: {lang: meta.lang}`, then `lang = 'en'`",
    "origin": "they read `source` and `url`; the input's name is in `origin.file` of `everything`",
}
"""Columns of `documents` that are not narrow, and what to do instead of reading them."""

_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"})
_FLOATS = frozenset({"FLOAT", "DOUBLE"})
_NUMBERS = _INTEGERS | _FLOATS | {"HUGEINT", "UHUGEINT"}
_TEMPORAL = re.compile(r"DATE|TIME.*|INTERVAL")
_EQUALITIES = frozenset({"COMPARE_EQUAL", "COMPARE_NOTEQUAL"})


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
    """Rules and order of election, checked against `columns` (name to DuckDB type)."""

    rules: tuple[BoundRule, ...]
    keep: tuple[OrderTerm, ...]
    columns: Mapping[str, str]

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Each constant once, in the order of the rules."""
        return tuple(dict.fromkeys(constant for rule in self.rules for constant in rule.constants))


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Return the DuckDB type of each column of an Arrow schema."""
    with expressions.sandbox() as connection:
        connection.register(TABLE, schema.empty_table())
        rows = connection.execute(f"DESCRIBE {TABLE}").fetchall()
    return {row[0]: row[1] for row in rows}


def check_rules(rules: RuleSet, columns: Mapping[str, str]) -> BoundRules:
    """Return the rules bound to `columns`; no document is read.

    Raises: RuleError in one line: which rule of which file or config key, what is wrong, the nearest column.
    """
    with expressions.sandbox() as connection:
        fields = ", ".join(f"{quoted(name)} {type_}" for name, type_ in columns.items())
        connection.execute(f"CREATE TEMP TABLE {TABLE} ({fields})")
        connection.execute(f"INSERT INTO {TABLE} ({quoted(next(iter(columns)))}) VALUES (NULL)")
        bound = [_bind(connection, rule, rules.origin, columns) for rule in rules.rules]
        keep = tuple(
            OrderTerm(term.sql, term.descending, _canonical(term.tree, columns, f"{rules.keep_origin} ({term})"))
            for term in rules.keep
        )
        trees = [without_constants(connection, rule) for rule in bound]
        wheres = [rule_at(rules.origin, rule.name) for rule in bound]
        for where, tree, type_ in zip(wheres, trees, _types(connection, wheres, trees), strict=True):
            if type_ != "BOOLEAN":
                raise RuleError(f"{where}: gives {type_}, not true or false; write a comparison")
            _check_comparisons(connection, where, tree)
        _types(connection, [f"{rules.keep_origin} ({term})" for term in keep], [term.tree for term in keep])
        _try_on_nulls(connection, wheres, trees)
    return BoundRules(tuple(bound), keep, dict(columns))


def check_one_order(bound: Mapping[str, BoundRules]) -> None:
    """Check that what the order of election reads has one type in all sources that share components, by their names.

    Raises: RuleError: numbers and text would be compared as text.
    """
    owners: dict[str, dict[str, str]] = {}
    for source, rules in bound.items():
        for name in (path[0] for term in rules.keep for path in expressions.column_refs(term.tree)):
            kind = rules.columns[name]
            owners.setdefault(name, {}).setdefault("a number" if _is_number(kind) else kind, source)
    for name, by_kind in owners.items():
        if len(by_kind) > 1:
            shown = " and ".join(f"{kind} in {source}" for kind, source in by_kind.items())
            raise RuleError(f"select.keep: {name!r} is {shown}, which share components; give it one type, or two names")


def _bind(connection: duckdb.DuckDBPyConnection, rule: Rule, origin: str, columns: Mapping[str, str]) -> BoundRule:
    where = rule_at(origin, rule.name)
    tree = _canonical(rule.tree, columns, where)
    constants = tuple(_constant(connection, call, where, columns) for call in expressions.constant_calls(tree))
    read = dict.fromkeys(path[0] for path in expressions.column_refs(tree))
    return BoundRule(rule.name, rule.sql, tuple(read), constants, tree)


def _canonical(tree: Node, columns: Mapping[str, str], where: str) -> Node:
    """Return the tree with every column spelled as the schema spells it."""
    spelling = {name.lower(): name for name in columns}

    def spelled(node: Node) -> Node | None:
        if node.get("class") != "COLUMN_REF":
            return None
        path = node["column_names"]
        name = spelling.get(path[0].lower())
        if name is None or (len(path) > 1 and not columns[name].startswith("STRUCT")):
            if path[0].lower() in _WIDE:
                raise RuleError(f"{where}: rules do not read {path[0]!r}; {_WIDE[path[0].lower()]}")
            near = difflib.get_close_matches(path[-1].lower(), list(spelling), n=1, cutoff=0.0)
            hint = f" (nearest: {spelling[near[0]]!r})" if near else ""
            raise RuleError(f"{where}: unknown column {'.'.join(path)!r}{hint}")
        return {**node, "column_names": [name, *path[1:]]}

    return expressions.replaced(tree, spelled)


def _constant(connection: duckdb.DuckDBPyConnection, call: Node, where: str, columns: Mapping[str, str]) -> Constant:
    """Return what a call of a constant function asks for."""
    function = expressions.constant_function(call) or ""
    given = expressions.arguments(call)
    if len(given) != 2:
        raise RuleError(
            f"{where}: {function} takes an expression and a share, for example {function}(text_length, 0.1)"
        )
    if expressions.constant_calls(given[0]):
        raise RuleError(f"{where}: {function} cannot contain another call of its kind")
    if not expressions.column_refs(given[0]):
        raise RuleError(f"{where}: the first argument of {function} must read a column")
    (argument,) = expressions.render(connection, given[:1])
    (type_,) = _types(connection, [where], given[:1])
    if type_ not in _INTEGERS | _FLOATS and not type_.startswith(("DECIMAL", "DATE", "TIMESTAMP")):
        raise RuleError(f"{where}: {function} needs a number or a date, but {argument} is {type_}")
    if function == TOP_TOKEN_SHARE and not token_columns(columns):
        raise RuleError(f"{where}: {function} needs a column of tokens: {' or '.join(TOKEN_COLUMNS)}")
    read = tuple(dict.fromkeys(path[0] for path in expressions.column_refs(given[0])))
    return Constant(function, argument, type_, _share(given[1], function, where), read)


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
    text = "NULL" if value is None else expressions.literal(value)
    (node,) = expressions.parse_predicates(connection, {constant.function: f"CAST({text} AS {constant.type})"})
    return node


def resolved_tree(tree: Node, constants: Sequence[Constant], nodes: Mapping[Constant, Node]) -> Node:
    """Return the tree with its constant calls, which are `constants` in reading order, replaced by their values."""
    remaining = iter(constants)

    def constant(node: Node) -> Node | None:
        if not expressions.constant_function(node):
            return None
        found = next(remaining)
        if found.function == QUANTILE:
            return nodes[found]
        left = expressions.arguments(node)[0]
        return {"class": "COMPARISON", "type": "COMPARE_GREATERTHANOREQUALTO", "left": left, "right": nodes[found]}

    return expressions.replaced(tree, constant)


def without_constants(connection: duckdb.DuckDBPyConnection, rule: BoundRule) -> Node:
    """Return a rule's tree with nulls in place of constants that are not known yet."""
    nodes = {constant: constant_node(connection, constant, None) for constant in rule.constants}
    return resolved_tree(rule.tree, rule.constants, nodes)


def _types(connection: duckdb.DuckDBPyConnection, wheres: Sequence[str], trees: Sequence[Node]) -> list[str]:
    """Return the type of each expression; DuckDB's own complaint, in one line, when one does not bind."""
    if not trees:
        return []
    try:
        return _describe(connection, trees)
    except duckdb.Error as error:
        if len(trees) == 1:
            raise RuleError(f"{wheres[0]}: {first_line(error)}") from error
    return [_types(connection, [where], [tree])[0] for where, tree in zip(wheres, trees, strict=True)]


def _describe(connection: duckdb.DuckDBPyConnection, trees: Sequence[Node]) -> list[str]:
    selected = ", ".join(expressions.render(connection, trees))
    return [str(row[1]) for row in connection.execute(f"DESCRIBE SELECT {selected} FROM {TABLE}").fetchall()]


def first_line(error: Exception) -> str:
    """Return DuckDB's message without its kind, hints and caret."""
    line = str(error).split("\n", 1)[0]
    return re.sub(r"^[A-Z][A-Za-z ]+ Error: ", "", line).strip()


def _check_comparisons(connection: duckdb.DuckDBPyConnection, where: str, tree: Node) -> None:
    """Refuse comparisons that DuckDB binds but that cannot mean what they say."""
    pairs = list(_compared(tree))
    flat = [side for _, *sides in pairs for side in sides]
    types = iter(_describe(connection, flat) if flat else [])
    for kind, left, right in pairs:
        left_type, right_type = next(types), next(types)
        shown = " and ".join(expressions.render(connection, [left, right]))
        if kind in _EQUALITIES and (_is_null(left) or _is_null(right)):
            raise RuleError(f"{where}: a comparison with NULL is never true ({shown}); write IS NULL or IS NOT NULL")
        text, other, other_type = (left, right, right_type) if left_type == "VARCHAR" else (right, left, left_type)
        if "VARCHAR" not in (left_type, right_type) or other_type == "VARCHAR" or _is_null(other):
            continue
        if _is_number(other_type):
            raise RuleError(f"{where}: compares text with a number: {shown} ({left_type} and {right_type})")
        if other_type == "BOOLEAN" or _TEMPORAL.fullmatch(other_type):
            _check_literal(connection, where, text, other_type)


def _compared(tree: Node) -> Iterator[tuple[str, Node, Node]]:
    """Yield (kind, left, right) for every two expressions that are compared with one another."""
    for node in expressions.walk(tree):
        kind = str(node.get("type"))
        if node.get("class") == "COMPARISON":
            yield kind, node["left"], node["right"]
        elif node.get("class") == "BETWEEN":
            yield kind, node["input"], node["lower"]
            yield kind, node["input"], node["upper"]
        elif node.get("class") == "OPERATOR" and kind in {"COMPARE_IN", "COMPARE_NOT_IN"}:
            first, *others = node["children"]
            yield from ((kind, first, other) for other in others)


def _check_literal(connection: duckdb.DuckDBPyConnection, where: str, text: Node, type_: str) -> None:
    """Refuse text compared with a date or a boolean, but for a literal that reads as one."""
    (shown,) = expressions.render(connection, [text])
    if text.get("class") == "CONSTANT":
        ((reads,),) = connection.execute(f"SELECT TRY_CAST({shown} AS {type_}) IS NOT NULL").fetchall()
        if reads:
            return
        raise RuleError(f"{where}: {shown} does not read as {type_}, with which it is compared")
    raise RuleError(f"{where}: compares text with {type_}: {shown}; write TRY_CAST({shown} AS {type_})")


def _is_null(node: Node) -> bool:
    return node.get("class") == "CONSTANT" and node.get("literal", {}).get("kind") == "NULL_LITERAL"


def _is_number(type_: str) -> bool:
    return type_ in _NUMBERS or type_.startswith("DECIMAL")


def _try_on_nulls(connection: duckdb.DuckDBPyConnection, wheres: Sequence[str], trees: Sequence[Node]) -> None:
    """Run the predicates over one row of nulls: constants that cannot be computed fail here and not hours later."""
    try:
        selected = ", ".join(expressions.render(connection, trees)) or "NULL"
        connection.execute(f"SELECT {selected} FROM {TABLE}").fetchall()
    except duckdb.Error as error:
        if len(trees) == 1:
            raise RuleError(f"{wheres[0]}: {first_line(error)}") from error
        for where, tree in zip(wheres, trees, strict=True):
            _try_on_nulls(connection, [where], [tree])
