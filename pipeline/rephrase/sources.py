"""The kept documents of a source in the order of their ids, with the routes that each meets.

Predicates are over the kept rows of `<source>.everything`, texts are the curated ones. A predicate reads one document
alone, as a rule does; a null in it means that the document does not meet the route.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import duckdb

from pipeline.rephrase.config import RouteConfig
from pipeline.rephrase.plan import SourceDocument
from pipeline.table.errors import ConfigError, WorkspaceError
from pipeline.table.predicates import check_expression
from pipeline.table.sql import Session, one_line, quote

_KEPT = "outcome = 'kept'"


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
        read |= check_expression(session.connection, route.where, f"rephrase.routes.{number}.where", table, columns)
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
            check_expression(connection, route.where, f"rephrase.routes.{number}.where", "everything", known)


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
