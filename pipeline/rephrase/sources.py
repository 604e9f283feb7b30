"""The kept documents of a source in the order of their ids, with the routes that each meets.

Predicates are over the kept rows of `<source>.everything`, texts are the curated ones. A predicate reads one document
alone, as a rule does; a null in it means that the document does not meet the route.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from pipeline.rephrase.config import RouteConfig
from pipeline.rephrase.plan import SourceDocument
from pipeline.table.errors import ConfigError, WorkspaceError, nearest
from pipeline.table.sql import Session, one_line, quote

_KEPT = "outcome = 'kept'"
_REFUSED = {
    "LAMBDA": "lambdas are not allowed",
    "PARAMETER": "parameters are not allowed; write the value",
    "POSITIONAL_REFERENCE": "column numbers are not allowed; write the column's name",
    "STAR": "`*` is not allowed; name the columns",
    "SUBQUERY": "subqueries are not allowed; a route's predicate reads its own document alone",
    "WINDOW": "window functions are not allowed; a route's predicate reads its own document alone",
}
_MISSING_COLUMN = re.compile(r'Referenced column "(.+?)" (?:not found|was not found)')


@dataclass(frozen=True, slots=True)
class RoutedSource:
    """A source whose routes are known to work: where their columns are, and how many documents are kept."""

    source: str
    routes: tuple[str, ...]  # SQL
    relation: str
    has_language: bool
    kept: int


def resolve_routes(session: Session, source: str, routes: Sequence[RouteConfig]) -> RoutedSource:
    """Return a source's routes, every predicate checked against its columns.

    Raises: ConfigError for a predicate that cannot be used; WorkspaceError when the source has not been selected, or
    its curated documents are not those that its outcomes keep; QueryError when it is not there.
    """
    table = f"{quote(source)}.everything"
    columns = {row[0].lower(): row[0] for row in session.query(f"DESCRIBE FROM {table}").rows}
    narrow = {row[0].lower() for row in session.query(f"DESCRIBE FROM {quote(source)}.outcomes").rows}
    read: set[str] = set()
    for number, route in enumerate(routes):
        read |= _check(session.connection, route.where, f"rephrase.routes.{number}.where", table, columns)
    kept = session.execute(f"SELECT count(*) AS kept FROM {quote(source)}.outcomes WHERE {_KEPT}")[0]["kept"]
    curated = session.execute(f"SELECT count(*) AS rows FROM {quote(source)}.curated")[0]["rows"]
    if kept != curated:
        raise WorkspaceError(
            f"{source}: {kept} documents are kept, but {curated} are curated; run `gristmill run CONFIG` again so that "
            "both come from one selection"
        )
    # Both relations have the same rows; `everything` joins the documents for their text, which few predicates read.
    relation = f"{quote(source)}.outcomes" if read <= narrow else table
    return RoutedSource(source, tuple(route.where for route in routes), relation, "language" in narrow, kept)


def check_routes(routes: Sequence[RouteConfig], columns: Mapping[str, str]) -> None:
    """Check predicates before their source is there, against the columns that it will have: name to DuckDB type.

    Raises: ConfigError for a predicate that cannot be used.
    """
    described = ", ".join(f"{quote(name)} {kind}" for name, kind in columns.items())
    with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as connection:
        connection.execute(f"CREATE TABLE everything ({described})")
        known = {name.lower(): name for name in columns}
        for number, route in enumerate(routes):
            _check(connection, route.where, f"rephrase.routes.{number}.where", "everything", known)


def kept_documents(session: Session, routed: RoutedSource, limit: int | None = None) -> Iterator[SourceDocument]:
    """Yield the kept documents that meet a route, in the order of their ids; with `limit` the first so many.

    Ids are hashes, so the first ones are a sample as good as any, and the same in every run. The order is made by an
    external sort within the session's memory.

    Raises: ConfigError when the data makes a predicate fail; QueryError when a part cannot be read.
    """
    _try_on_data(session, routed)
    met = ", ".join(f"CASE WHEN (\n{where}\n) THEN {number} END" for number, where in enumerate(routed.routes))
    language = "language" if routed.has_language else "NULL::VARCHAR"
    routes = f"list_filter([{met}], lambda number: number IS NOT NULL)"
    sql = f"""
        SELECT c.doc_id, c.text, c.title, c.licence, c.date, m.spoken, m.routes
        FROM (SELECT doc_id, {language} AS spoken, {routes} AS routes FROM {routed.relation} WHERE {_KEPT}) m
        JOIN {quote(routed.source)}.curated c USING (doc_id)
        WHERE len(m.routes) > 0 ORDER BY c.doc_id {"" if limit is None else f"LIMIT {limit}"}
    """
    for batch in session.batches(sql):
        for row in batch.to_pylist():
            yield SourceDocument(
                doc_id=row["doc_id"],
                text=row["text"],
                routes=tuple(row["routes"]),
                title=row["title"],
                licence=row["licence"],
                date=row["date"],
                language=row["spoken"],
            )


def count_routes(session: Session, routed: RoutedSource) -> list[int]:
    """Return how many kept documents meet each route; one that meets two counts for both."""
    _try_on_data(session, routed)
    counts = ", ".join(f"count(*) FILTER (WHERE (\n{where}\n)) AS r{n}" for n, where in enumerate(routed.routes))
    row = session.execute(f"SELECT {counts} FROM {routed.relation} WHERE {_KEPT}")
    return [row[0][f"r{number}"] for number in range(len(routed.routes))]


def _try_on_data(session: Session, routed: RoutedSource) -> None:
    """Raise what a predicate fails with on a row, such as a cast, naming its route."""
    for number, where in enumerate(routed.routes):
        try:
            session.connection.execute(
                f"SELECT count(*) FILTER (WHERE (\n{where}\n)) FROM {routed.relation} WHERE {_KEPT}"
            )
        except (duckdb.ConversionException, duckdb.OutOfRangeException, duckdb.InvalidInputException) as error:
            raise ConfigError(f"rephrase.routes.{number}.where: {one_line(error)}") from error


def _check(
    connection: duckdb.DuckDBPyConnection, text: str, where: str, table: str, columns: Mapping[str, str]
) -> set[str]:
    """Return the columns (in lower case) that a predicate reads. Raises: ConfigError when it cannot be used."""
    _parsed(connection, f"SELECT\n{text}\n", text, where)  # alone, so that its brackets are its own
    tree = _parsed(connection, f"SELECT (\n{text}\n)", text, where)
    for node in _walk(tree):
        kind = str(node.get("class", ""))
        if kind in _REFUSED:
            raise ConfigError(f"{where}: {_REFUSED[kind]}")
        if kind == "FUNCTION":
            _check_function(connection, str(node["function_name"]), where)
    try:
        described = connection.execute(f"DESCRIBE SELECT (\n{text}\n) FROM {table}").fetchall()
    except duckdb.Error as error:
        missing = _MISSING_COLUMN.search(str(error))
        if missing:
            hint = nearest(missing[1].lower(), columns)
            raise ConfigError(f"{where}: unknown column {missing[1]!r}{hint}") from error
        raise ConfigError(f"{where}: {one_line(error)}") from error
    if described[0][1] != "BOOLEAN":
        raise ConfigError(f"{where}: {text[:80]!r} gives {described[0][1]}, not true or false; write a comparison")
    return {str(node["column_names"][0]).lower() for node in _walk(tree) if node.get("class") == "COLUMN_REF"}


def _parsed(connection: duckdb.DuckDBPyConnection, select: str, text: str, where: str) -> dict[str, Any]:
    """Return the tree of the one expression that `select` selects, which holds the user's `text`."""
    if not text.strip() or "\0" in text:
        raise ConfigError(f"{where}: expected an SQL expression, got {text[:80]!r}")
    rows = connection.execute("SELECT json_serialize_sql($1::VARCHAR)", [select]).fetchall()
    try:
        answer = json.loads(rows[0][0])
    except RecursionError as error:
        raise ConfigError(f"{where}: nested too deeply") from error
    if answer["error"]:
        reason = str(answer.get("error_message", "not SQL")).splitlines()[0]
        raise ConfigError(f"{where}: {reason}: {text[:80]!r}")
    node = answer["statements"][0]["node"] if len(answer["statements"]) == 1 else {}
    clauses = ("where_clause", "group_expressions", "having", "qualify", "sample", "modifiers")
    empty = (node.get("from_table") or {}).get("type") == "EMPTY" and not any(node.get(name) for name in clauses)
    selected = node.get("select_list") or []
    if node.get("type") != "SELECT_NODE" or not empty or len(selected) != 1 or selected[0].get("alias"):
        raise ConfigError(f"{where}: expected one expression, got {text[:80]!r}")
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
        raise ConfigError(f"{where}: {name}() {why}, so a route cannot call it")


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
