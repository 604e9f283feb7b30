"""Users' SQL expressions as syntax trees: parsed by DuckDB itself, checked node by node, rendered by DuckDB again.

No text of a user's is ever spliced into a statement that runs: what runs is rendered from a tree in which every node is
of an allowed kind. The trees are those of `json_serialize_sql`, without source positions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import duckdb

from pipeline.table.errors import RuleError, nearest

Node = dict[str, Any]
"""An expression in DuckDB's serialised syntax tree."""

TOP_SHARE, TOP_TOKEN_SHARE, QUANTILE = "top_share", "top_token_share", "quantile"
CONSTANT_FUNCTIONS = frozenset({TOP_SHARE, TOP_TOKEN_SHARE, QUANTILE})
"""Calls that become constants before any document is judged."""

MAX_EXPRESSION_CHARS = 10_000
MAX_DEPTH = 100
_ENGINE_MEMORY = "512MiB"

_EXPRESSIONS = frozenset(
    {
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "OPERATOR",
        "TYPE",
    }
)
_REFUSED = {
    "LAMBDA": "lambdas are not allowed",
    "PARAMETER": "parameters are not allowed; write the value",
    "POSITIONAL_REFERENCE": "column numbers are not allowed; write the column's name",
    "STAR": "`*` is not allowed; name the columns",
    "SUBQUERY": "subqueries are not allowed; a rule reads its own document alone",
    "WINDOW": "window functions are not allowed; a rule reads its own document alone",
}
# DuckDB calls these consistent, but they read the clock or the engine; `age` of one argument reads the clock too.
_NOT_CONSISTENT = frozenset({"age", "current_localtime", "current_localtimestamp", "version"})
_MACROS = frozenset(
    {
        *("array_to_string", "date_add", "days_in_month", "fdiv", "fmod", "if", "list_any_value", "list_avg"),
        *("list_count", "list_first", "list_last", "list_max", "list_median", "list_min", "list_reverse", "list_sum"),
        *("map_contains_value", "nullif", "split_part"),
    }
)
_SELECT_KEYS = frozenset({"type", "select_list", "from_table", "aggregate_handling", "cte_map", "modifiers"})
_POSITION_KEYS = frozenset({"query_location", "query_location_length"})


@contextmanager
def sandbox() -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection that reads only the tables registered with it: no files, no network, no settings.

    Each has its own tables. They share one engine, since making an engine takes longer than judging a small part, and
    its queries run in the thread that asks.
    """
    connection = _engine().cursor()
    try:
        yield connection
    finally:
        connection.close()


@lru_cache(maxsize=1)
def _engine() -> duckdb.DuckDBPyConnection:
    engine = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "threads": 1,
            "memory_limit": _ENGINE_MEMORY,
        },
    )
    engine.execute("SET GLOBAL TimeZone = 'UTC'")
    engine.execute("SET GLOBAL python_enable_replacements = false")
    engine.execute("SET lock_configuration = true")
    return engine


def parse_predicates(connection: duckdb.DuckDBPyConnection, predicates: Mapping[str, str]) -> list[Node]:
    """Return the tree of each predicate, in order. The keys say where each stands, for messages.

    Raises: RuleError for what is not exactly one allowed expression.
    """
    trees = []
    for where, select in zip(predicates, _parse(connection, predicates, "SELECT (\n{}\n)"), strict=True):
        expressions = select["select_list"]
        if len(expressions) != 1 or select.get("modifiers") or "alias" in expressions[0]:
            raise RuleError(f"{where}: expected one expression, got {_shown(predicates[where])}")
        check_nodes(expressions[0], where)
        trees.append(expressions[0])
    return trees


def parse_order(connection: duckdb.DuckDBPyConnection, text: str, where: str) -> list[tuple[Node, bool]]:
    """Return (tree, descending) for each term of an ORDER BY list.

    Raises: RuleError for what is not a list of allowed expressions with `asc` or `desc`.
    """
    (select,) = _parse(connection, {where: text}, "SELECT 1 ORDER BY\n{}\n")
    modifiers = select.get("modifiers", [])
    if len(modifiers) != 1 or modifiers[0]["type"] != "ORDER_MODIFIER" or len(select["select_list"]) != 1:
        raise RuleError(f"{where}: expected terms such as `text_length desc, url asc`, got {_shown(text)}")
    terms = []
    for order in modifiers[0]["orders"]:
        if order.get("null_order", "ORDER_DEFAULT") not in {"ORDER_DEFAULT", "NULLS LAST"}:
            raise RuleError(f"{where}: nulls come last always; remove NULLS FIRST from {_shown(text)}")
        check_nodes(order["expression"], where)
        if not column_refs(order["expression"]):
            raise RuleError(f"{where}: every term must read a column, got {_shown(text)}")
        terms.append((order["expression"], order["type"] == "DESCENDING"))
    return terms


def _parse(connection: duckdb.DuckDBPyConnection, texts: Mapping[str, str], template: str) -> list[Node]:
    """Return the SELECT node of each text put into `template`, on lines of its own: no comment hides the end."""
    for where, text in texts.items():
        if not text.strip() or "\0" in text:
            raise RuleError(f"{where}: expected an SQL expression, got {_shown(text)}")
        if len(text) > MAX_EXPRESSION_CHARS:
            raise RuleError(f"{where}: {len(text)} characters; at most {MAX_EXPRESSION_CHARS} are allowed")
    rows = connection.execute(
        "SELECT json_serialize_sql(s, skip_default := true, skip_empty := true, skip_null := true)"
        " FROM (SELECT unnest($1::VARCHAR[]) AS s)",
        [[template.format(text) for text in texts.values()]],
    ).fetchall()
    return [_select_node(where, text, row[0]) for (where, text), row in zip(texts.items(), rows, strict=True)]


def _select_node(where: str, text: str, serialised: str) -> Node:
    try:
        result = json.loads(serialised, object_pairs_hook=_without_positions)
    except RecursionError as error:
        raise RuleError(f"{where}: nested too deeply") from error
    if result["error"]:
        message = str(result.get("error_message", "")).split("\n", 1)[0]
        raise RuleError(f"{where}: {message or 'not SQL'}: {_shown(text)}")
    statements = result["statements"]
    node: Node = statements[0].get("node", {}) if statements else {}
    plain = node.get("type") == "SELECT_NODE" and node.get("from_table") == {"type": "EMPTY"}
    if len(statements) != 1 or not plain or node.get("cte_map") or not _SELECT_KEYS.issuperset(node):
        raise RuleError(f"{where}: expected one expression, got {_shown(text)}")
    return node


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else line[:77] + "...")


def _without_positions(pairs: list[tuple[str, Any]]) -> Node:
    return {key: value for key, value in pairs if key not in _POSITION_KEYS}


def check_nodes(tree: Node, where: str) -> None:
    """Check that a tree reads columns and calls deterministic scalar functions, and nothing else.

    Raises: RuleError naming the first thing that is not allowed.
    """
    for node, depth in _walk(tree):
        if depth > 3 * MAX_DEPTH:  # an argument lies three levels below its call
            raise RuleError(f"{where}: nested too deeply")
        kind = node.get("class")
        if kind is None:
            if node.get("orders"):
                raise RuleError(f"{where}: ORDER BY inside a call is not allowed")
            continue
        if kind not in _EXPRESSIONS:
            raise RuleError(f"{where}: {_REFUSED.get(kind, f'{kind.lower()} expressions are not allowed')}")
        if kind == "FUNCTION":
            _check_function(node, where)


def _check_function(node: Node, where: str) -> None:
    name = str(node["function_name"])
    allowed = name.lower() in CONSTANT_FUNCTIONS or name.lower() in _functions()
    if not allowed or node.get("qualified_name", {}).get("path", [name]) != [name]:
        hint = nearest(name.lower(), [*CONSTANT_FUNCTIONS, *_functions()])
        raise RuleError(
            f"{where}: {name}() is not a function that rules may call{hint}; they may call DuckDB's scalar functions "
            f"whose result depends on their arguments alone, and {', '.join(sorted(CONSTANT_FUNCTIONS))}"
        )
    for key in ("filter", "distinct", "export_state"):
        if node.get(key):
            raise RuleError(f"{where}: {key.upper()} inside {name}() is not allowed")


@lru_cache(maxsize=1)
def _functions() -> frozenset[str]:
    with sandbox() as connection:
        rows = connection.execute(
            "SELECT DISTINCT lower(function_name) FROM duckdb_functions()"
            " WHERE function_type = 'scalar' AND stability = 'CONSISTENT'"
            " AND NOT starts_with(function_name, '__') AND NOT contains(function_name, 'serialize')"
        ).fetchall()
    return frozenset(row[0] for row in rows) - _NOT_CONSISTENT | _MACROS


def walk(tree: Node) -> Iterator[Node]:
    """Yield every node of a tree, parents before children, in reading order."""
    return (node for node, _ in _walk(tree))


def _walk(tree: Node) -> Iterator[tuple[Node, int]]:
    stack: list[tuple[Any, int]] = [(tree, 0)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict):
            yield item, depth
            stack.extend((value, depth + 1) for value in reversed(item.values()))
        elif isinstance(item, list):
            stack.extend((value, depth) for value in reversed(item))


def column_refs(tree: Node) -> list[tuple[str, ...]]:
    """Return the path of every column reference, in reading order."""
    return [tuple(node["column_names"]) for node in walk(tree) if node.get("class") == "COLUMN_REF"]


def constant_calls(tree: Node) -> list[Node]:
    """Return the calls of `top_share`, `top_token_share` and `quantile`, in reading order."""
    return [node for node in walk(tree) if constant_function(node)]


def constant_function(node: Node) -> str | None:
    """Return which of the constant functions a node calls, or None."""
    name = str(node.get("function_name", "")).lower()
    return name if node.get("class") == "FUNCTION" and name in CONSTANT_FUNCTIONS else None


def arguments(call: Node) -> list[Node]:
    """Return the arguments of a call."""
    return [item["expression"] for item in call.get("arguments", [])]


def replaced(tree: Node, replace: Any) -> Node:
    """Return a copy of `tree` in which every node for which `replace(node)` gives a node is that node."""

    def copy(item: Any) -> Any:
        if isinstance(item, dict):
            other = replace(item)
            return other if other is not None else {key: copy(value) for key, value in item.items()}
        return [copy(value) for value in item] if isinstance(item, list) else item

    result: Node = copy(tree)
    return result


def render(connection: duckdb.DuckDBPyConnection, trees: Sequence[Node]) -> list[str]:
    """Return each tree as SQL text."""
    if not trees:
        return []
    statements = [json.dumps(_statement(tree)) for tree in trees]
    rows = connection.execute(
        "SELECT json_deserialize_sql(s::JSON) FROM (SELECT unnest($1::VARCHAR[]) AS s)", [statements]
    ).fetchall()
    return [str(row[0]).removeprefix("SELECT ") for row in rows]


def _statement(tree: Node) -> Node:
    node = {
        "type": "SELECT_NODE",
        "cte_map": {},
        "select_list": [tree],
        "from_table": {"type": "EMPTY"},
        "aggregate_handling": "STANDARD_HANDLING",
    }
    return {"error": False, "statements": [{"node": node}]}


def quoted(name: str) -> str:
    """Return a column's name as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return text as a SQL string."""
    return "'" + text.replace("'", "''") + "'"
