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
from pipeline.table.query import Expression, check, first_line, quote
from pipeline.table.sql import Session

_KEPT = "outcome = 'kept'"


@dataclass(frozen=True, slots=True)
class RoutedSource:
    """A source whose routes are known to work: and where their columns are."""

    source: str
    routes: tuple[str, ...]
    """SQL, rendered from what was checked."""
    relation: str
    has_language: bool


def check_routes(routes: Sequence[RouteConfig], columns: Mapping[str, str]) -> list[Expression]:
    """Return the predicates of routes, checked against the columns that their source has or will have, name to type.

    Raises: ConfigError for a predicate that cannot be used.
    """
    return check({f"rephrase.routes.{number}.where": route.where for number, route in enumerate(routes)}, columns)


def resolve_routes(session: Session, source: str, routes: Sequence[RouteConfig]) -> RoutedSource:
    """Return a source's routes, every predicate checked against its columns.

    Raises: ConfigError for a predicate that cannot be used; WorkspaceError when the source has not been selected, or
    its curated documents are not those that its outcomes keep; QueryError when it is not there.
    """
    table = f"{quote(source)}.everything"
    checked = check_routes(routes, {row[0]: str(row[1]) for row in session.query(f"DESCRIBE FROM {table}").rows})
    narrow = {row[0] for row in session.query(f"DESCRIBE FROM {quote(source)}.outcomes").rows}
    kept = session.execute(f"SELECT count(*) AS kept FROM {quote(source)}.outcomes WHERE {_KEPT}")[0]["kept"]
    curated = session.execute(f"SELECT count(*) AS rows FROM {quote(source)}.curated")[0]["rows"]
    if kept != curated:
        raise WorkspaceError(
            f"{source}: {kept} documents are kept, but {curated} are curated; run `gristmill run CONFIG` again so that "
            "both come from one selection"
        )
    # Both relations have the same rows; `everything` joins the documents for their text, which few predicates read.
    read = {column for expression in checked for column in expression.columns}
    relation = f"{quote(source)}.outcomes" if read <= narrow else table
    return RoutedSource(source, tuple(expression.sql for expression in checked), relation, "language" in narrow)


def kept_documents(session: Session, routed: RoutedSource, limit: int | None = None) -> Iterator[SourceDocument]:
    """Yield the kept documents that meet a route, in the order of their ids; with `limit` the first so many.

    Ids are hashes, so the first ones are a sample as good as any, and the same in every run. The order is made by an
    external sort within the session's memory.

    Raises: ConfigError when the data makes a predicate fail; WorkspaceError, QueryError when a part cannot be read.
    """
    count_routes(session, routed)  # what fails on the data is named
    met = ", ".join(f"CASE WHEN {where} THEN {number} END" for number, where in enumerate(routed.routes))
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
    """Return how many kept documents meet each route; one that meets two counts for both.

    Raises: ConfigError when the data makes a predicate fail, such as a cast; WorkspaceError when a part cannot be read.
    """
    counts = []
    for number, where in enumerate(routed.routes):
        try:
            found = session.execute(f"SELECT count_if({where}) AS met FROM {routed.relation} WHERE {_KEPT}")
        except WorkspaceError as error:
            if error.__cause__ is None or isinstance(error.__cause__, duckdb.IOException):
                raise
            raise ConfigError(f"rephrase.routes.{number}.where: {first_line(error.__cause__)}") from error
        counts.append(int(found[0]["met"]))
    return counts
