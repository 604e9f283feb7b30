"""SQL expressions of a user's over one document: what they read, and what they may not do.

A predicate reads one document alone, as a rule does: no subqueries, no windows, no aggregates, nothing that depends on
clock or chance. Otherwise what it chooses would not stay the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb

from pipeline.table.errors import ConfigError, nearest
from pipeline.table.sql import one_line

MAX_CHARS = 10_000

_REFUSED = {
    "LAMBDA": "lambdas are not allowed",
    "PARAMETER": "parameters are not allowed; write the value",
    "POSITIONAL_REFERENCE": "column numbers are not allowed; write the column's name",
    "STAR": "`*` is not allowed; name the columns",
    "SUBQUERY": "subqueries are not allowed; a predicate reads its own document alone",
    "WINDOW": "window functions are not allowed; a predicate reads its own document alone",
}
_MISSING_COLUMN = re.compile(r'Referenced column "(.+?)" (?:not found|was not found)')


def check_expression(
    connection: duckdb.DuckDBPyConnection,
    text: str,
    where: str,
    relation: str,
    columns: Mapping[str, Any],
    *,
    is_predicate: bool = True,
) -> set[str]:
    """Return the columns of `relation` (in lower case) that one expression reads; `columns` are what it has.

    Raises: ConfigError, beginning with `where`, when it cannot be used.
    """
    tree = _parsed(connection, f"SELECT (\n{text}\n)", text, where)
    _parsed(connection, f"SELECT\n{text}\n", text, where)  # alone, so that its brackets are its own
    for node in _walk(tree):
        kind = str(node.get("class", ""))
        if kind in _REFUSED:
            raise ConfigError(f"{where}: {_REFUSED[kind]}")
        if kind == "FUNCTION":
            _check_function(connection, str(node["function_name"]), where)
    try:
        described = connection.execute(f"DESCRIBE SELECT (\n{text}\n) FROM {relation}").fetchall()
    except duckdb.Error as error:
        missing = _MISSING_COLUMN.search(str(error))
        if missing:
            hint = nearest(missing[1].lower(), columns)
            raise ConfigError(f"{where}: unknown column {missing[1]!r}{hint}") from error
        raise ConfigError(f"{where}: {one_line(error)}") from error
    if is_predicate and described[0][1] != "BOOLEAN":
        raise ConfigError(f"{where}: {shown(text)} gives {described[0][1]}, not true or false; write a comparison")
    return {str(node["column_names"][0]).lower() for node in _walk(tree) if node.get("class") == "COLUMN_REF"}


def shown(text: str) -> str:
    """Return an expression for a message: on one line, cut short."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else line[:77] + "...")


def _parsed(connection: duckdb.DuckDBPyConnection, statement: str, text: str, where: str) -> dict[str, Any]:
    """Return the tree of the one expression that `statement` selects, which holds the user's `text`."""
    if len(text) > MAX_CHARS:
        raise ConfigError(f"{where}: {len(text)} characters; at most {MAX_CHARS} are allowed")
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{where}: expected an SQL expression, got {shown(text)}")
    rows = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [statement]).fetchall()
    try:
        answer = json.loads(rows[0][0])
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply") from error
    if answer["error"]:
        raise ConfigError(f"{where}: {str(answer.get('error_message', 'not SQL')).splitlines()[0]}: {shown(text)}")
    node = answer["statements"][0]["node"] if len(answer["statements"]) == 1 else {}
    clauses = ("where_clause", "group_expressions", "having", "qualify", "sample", "modifiers")
    empty = (node.get("from_table") or {}).get("type") == "EMPTY" and not any(node.get(name) for name in clauses)
    selected = node.get("select_list") or []
    if node.get("type") != "SELECT_NODE" or not empty or len(selected) != 1 or selected[0].get("alias"):
        raise ConfigError(f"{where}: expected one expression, got {shown(text)}")
    tree: dict[str, Any] = selected[0]
    return tree


def _check_function(connection: duckdb.DuckDBPyConnection, name: str, where: str) -> None:
    """Refuse calls that could answer otherwise tomorrow, and those that read more than one document."""
    rows = connection.execute(
        "SELECT function_type = 'aggregate' FROM duckdb_functions() WHERE lower(function_name) = lower($1) AND"
        " (function_type = 'aggregate' OR (function_type = 'scalar' AND stability <> 'CONSISTENT')) LIMIT 1",
        [name],
    ).fetchall()
    if rows:
        why = "reads more than one document" if rows[0][0] else "depends on more than the document"
        raise ConfigError(f"{where}: {name}() {why}, so what it chooses would not stay the same")


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
