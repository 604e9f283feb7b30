"""SQL over a workspace: DuckDB views of what the indexes list, for reading only.

A view names its parts one by one and never a glob, so that a run beside a query changes nothing under its feet. A
user's statement can neither write a file nor read one outside the workspace.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import duckdb
import pyarrow as pa

from pipeline.table import schema
from pipeline.table.catalog import Catalog, Source
from pipeline.table.errors import QueryError, ReplacedError, ShardError, UsageError, WorkspaceError, nearest
from pipeline.table.format import Result
from pipeline.table.query import (
    check_statement,
    close_off,
    explained,
    is_number,
    literal,
    named_tables,
    one_line,
    open_database,
    quote,
)
from pipeline.table.shards import Group, Index
from pipeline.table.storage import Storage, scratch_folder

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

Value = TypeVar("Value")
Named = dict[tuple[str, str], Value]
"""Something of each view, by schema and name."""
Behind = tuple[Group, Index]

MAIN = "main"
ATTEMPTS = 10
"""How often a reader begins before it gives up on a workspace that changes all the time."""
MEMORY_LIMIT = "1GB"
BATCH_ROWS = 2048
"""Rows fetched at a time: with their text some ten megabytes."""

_FROM_DOCUMENTS = ("text", "title", "date", "licence", "origin", "metadata", "parent_id")
_WITH_KEPT = ("documents", "outcomes", "curated")
"""Views with the columns of a corpus's own."""
_OUTCOMES = pa.schema(
    [
        *((name, pa.string()) for name in ("doc_id", "url", "source", "outcome")),
        ("failed_rules", pa.list_(pa.struct([("rule", pa.string()), ("value", pa.string())]))),
        *((name, pa.string()) for name in ("component_id", "duplicate_of")),
    ]
)
_MADE_BY = {
    "documents": ("extract", schema.DOCUMENTS),
    "rejects": ("extract", schema.REJECTS),
    "signals": ("annotate", pa.schema([("doc_id", pa.string())])),
    "duplicates": ("dedup", schema.DUPLICATES),
    "scores": ("classify", schema.SCORES),
    "outcomes": ("select", _OUTCOMES),
    "curated": ("select", schema.DOCUMENTS),
    "everything": ("select", _OUTCOMES),
}
"""The stage that makes a view, and its columns while there are no rows, by the first word of its name."""

_TIME_TYPE = re.compile(r"(DATE|TIMESTAMP(_\w+| WITH TIME ZONE)?)(?P<lists>(\[\d*\])*)")
_POINT_IN_TIME = re.compile(r"(?P<date>\d{4,}-\d\d-\d\d) (?P<time>\d\d:\d\d:\d\d)(\.(?P<fraction>\d+))?(?P<zone>\+00)?")
_PATTERN_CHARACTERS = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class Session:
    """An open workspace. `connection` is for the project's own statements; users' go through `query` or `batches`."""

    connection: duckdb.DuckDBPyConnection
    catalog: Catalog
    broken: Named[str] = field(default_factory=dict)
    """Views that could not be made, by schema and name, and why."""
    unverified: Named[list[Behind]] = field(default_factory=dict)
    """What stands behind each view, by schema and name, until a statement reads it."""

    def verify(self, sql: str) -> None:
        """Hold what a statement reads against its manifests, once; views that it does not name cost nothing.

        Raises: WorkspaceError when a part is damaged, or cannot be read.
        """
        if not self.unverified:
            return
        named, are_all = named_tables(self.connection, sql)
        views = {(owner.lower(), table.lower()) for owner, table in named}
        for owner, view in list(self.unverified):
            if not are_all or views & {(owner.lower(), view), (MAIN, view), ("", view)}:
                for group, index in self.unverified[owner, view]:
                    verify_parts(group, index)
                del self.unverified[owner, view]

    def query(self, sql: str) -> Result:
        """Run a user's statement and return its rows.

        Raises: QueryError, also while rows are read, in one line that keeps DuckDB's candidates.
        """
        cursor = self.connection.cursor()
        try:
            check_statement(self.connection, sql)
            self.verify(sql)
            times: list[int] = []
            if explained(sql) is not None:
                answer = cursor.execute(sql)
            else:
                described = cursor.execute(f"DESCRIBE {sql}").fetchall()
                times = [number for number, row in enumerate(described) if _TIME_TYPE.fullmatch(row[1])]
                answer = _with_times_as_text(cursor, sql, described) if times else cursor.execute(sql)
            description = answer.description or []
            head = answer.fetchmany(BATCH_ROWS)  # nothing is told before the parts are open: it may be read again
        except WorkspaceError as error:
            raise QueryError(str(error)) from error
        except duckdb.Error as error:
            raise self._query_error(error, sql) from error
        rows = self._rows(head, answer, sql)
        rows = (tuple(_iso(v) if n in times else v for n, v in enumerate(row)) for row in rows) if times else rows
        return Result([c[0] for c in description], [str(c[1]) for c in description], rows)

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """Run a user's statement and yield its rows as record batches; one without rows if there are none.

        Raises: QueryError.
        """
        try:
            check_statement(self.connection, sql)
            self.verify(sql)
            reader = self.connection.cursor().sql(sql).to_arrow_reader(BATCH_ROWS)
            empty = True
            for batch in reader:
                empty = False
                yield batch
            if empty:
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)
        except WorkspaceError as error:
            raise QueryError(str(error)) from error
        except (duckdb.Error, OSError, pa.ArrowException) as error:
            # Through Arrow's C stream an error of DuckDB arrives as an OSError.
            raise self._query_error(error, sql) from error

    def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """Run a statement of ours, with values for `?` or `$name`, and return its rows as dictionaries.

        Raises: WorkspaceError when a part cannot be read.
        """
        try:
            self.verify(sql)
            answer = self.connection.execute(sql, values if isinstance(values, dict) else list(values))
            columns = [column[0] for column in answer.description or []]
            return [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
        except duckdb.Error as error:
            raise self._replaced(error) or WorkspaceError(_unreadable(self.catalog.storage, error)) from error

    def _rows(
        self, head: list[tuple[Any, ...]], answer: duckdb.DuckDBPyConnection, sql: str
    ) -> Iterator[tuple[Any, ...]]:
        try:
            rows = head
            while rows:
                yield from rows
                rows = answer.fetchmany(BATCH_ROWS)
        except duckdb.Error as error:
            raise QueryError(str(self._query_error(error, sql))) from error
        finally:
            answer.close()

    def _replaced(self, error: Exception) -> ReplacedError | None:
        """Return what to raise when a part is gone because the index does not list it any more."""
        if not isinstance(error, (duckdb.IOException, OSError)) or Catalog.read(self.catalog.storage) == self.catalog:
            return None
        return ReplacedError(f"workspace {self.catalog.storage.url}: a run replaced what was read; ask again")

    def _query_error(self, error: Exception, sql: str) -> UsageError:
        if replaced := self._replaced(error):
            return replaced
        if isinstance(error, duckdb.CatalogException) and str(error).startswith("Catalog Error: Table with name"):
            for owner, table in named_tables(self.connection, sql)[0]:
                if message := _absent(self, owner, table):
                    return QueryError(message)
        if isinstance(error, duckdb.IOException):
            return QueryError(_unreadable(self.catalog.storage, error))
        return QueryError(one_line(error))


@contextmanager
def connect(storage: Storage, memory_limit: str = MEMORY_LIMIT) -> Iterator[Session]:
    """Open a workspace for SQL: views of every source, in a sandbox that reads below the workspace alone.

    Raises: WorkspaceError when there is no workspace or a source's name cannot be an SQL schema.
    """
    catalog = Catalog.read(storage)
    # Not in the workspace: it may be read-only, and a run clears its temporary files.
    with scratch_folder("gristmill-sql-") as scratch:
        connection = open_database(memory_limit=memory_limit, temp_directory=scratch)
        try:
            folders = [f"{storage.sql_path('')}/" if storage.is_local else f"{storage.url}/"]
            if not storage.is_local:
                connection.register_filesystem(storage.fs)
                # DuckDB asks with the path as the file system spells it, which may begin with a slash.
                folders.append(f"{storage.url.split('://', 1)[0]}:///{storage.root.lstrip('/')}/")
            # A pattern that escapes the folder's name is checked against the list as it is written.
            close_off(connection, list(dict.fromkeys(f(folder) for folder in folders for f in (literal, literal_path))))
            broken, behind = _create_views(connection, catalog)
            if broken and Catalog.read(storage) != catalog:
                raise ReplacedError(f"workspace {storage.url}: a run replaced what was read; ask again")
            yield Session(connection, catalog, broken, behind)
        finally:
            connection.close()


def run_sql(workspace: str, sql: str) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a statement over the workspace at a path or URL; the first batch always tells the columns.

    Raises: WorkspaceError, QueryError.
    """
    told, attempts = False, 0
    while True:
        try:
            with connect(Storage.at(workspace)) as session:
                for batch in session.batches(sql):
                    told = True
                    yield batch
            return
        except ReplacedError:
            attempts += 1
            if told or attempts == ATTEMPTS:
                raise


def reading(read: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """Let a function that reads a workspace begin again when a run replaced what it was reading."""

    @wraps(read)
    def again(*given: Given.args, **named: Given.kwargs) -> Answer:
        for _ in range(ATTEMPTS - 1):
            with suppress(ReplacedError):
                return read(*given, **named)
        return read(*given, **named)

    return again


def literal_path(path: str) -> str:
    """Return a path or URL as an SQL string that DuckDB reads as this file alone, whatever its folders are called.

    A path with a backslash is left as it is: DuckDB has no way to escape one.
    """
    return literal(path if "\\" in path else _PATTERN_CHARACTERS.sub(r"[\g<0>]", path))


def read_parts(group: Group, index: Index, options: str = "") -> str:
    """Return the table function that reads exactly the parts of `index`, of which there must be one at least.

    Raises: WorkspaceError when one of them is damaged.
    """
    verify_parts(group, index)
    return _table_of(group, index, options)


def verify_parts(group: Group, index: Index) -> None:
    """Hold the parts of `index` against their manifests. Raises: WorkspaceError when one is damaged or missing."""
    try:
        group.verify(index.parts)
        group.memory.save()
    except ShardError as error:
        raise WorkspaceError(str(error)) from error
    except OSError as error:
        raise WorkspaceError(_unreadable(group.storage, error)) from error


def _table_of(group: Group, index: Index, options: str = "") -> str:
    paths = ", ".join(literal_path(group.storage.sql_path(group.path(part.name))) for part in index.parts)
    return f"read_parquet([{paths}], hive_partitioning = false{options})"


def _create_views(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> tuple[Named[str], Named[list[Behind]]]:
    """Create every view that can exist; return why for those whose files cannot be read, and what is behind each."""
    broken: Named[str] = {}
    behind: Named[list[Behind]] = {}
    owners: dict[str, list[str]] = {}
    for source in catalog.sources:
        try:
            connection.execute(f"CREATE SCHEMA {quote(source.name)}")
        except duckdb.CatalogException as error:
            raise WorkspaceError(f"source {source.name!r} cannot be an SQL schema: {one_line(error)}") from error
        for view, folder in _views(source).items():
            stands_on = ["outcomes", "documents"] if view == "everything" else [folder]
            behind[source.name, view] = [(catalog.group(source.name, each), source.groups[each]) for each in stands_on]
            try:
                _create_view(connection, source, view, behind[source.name, view][0])
                owners.setdefault(view, []).append(source.name)
            except (duckdb.Error, WorkspaceError) as error:
                # A view over all sources must not leave one out in silence.
                told = str(error) if isinstance(error, WorkspaceError) else _unreadable(catalog.storage, error)
                below = (broken.get((source.name, each)) for each in stands_on)
                broken[source.name, view] = broken[MAIN, view] = next(filter(None, below), told)
    rows = connection.execute("SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns()").fetchall()
    types: Named[dict[str, str]] = {}
    for owner, view, column, kind in rows:
        types.setdefault((owner, view), {})[column] = kind
    for view, names in owners.items():
        if (MAIN, view) in broken:
            continue
        union = " UNION ALL BY NAME ".join(_joinable(types, view, names))
        try:
            connection.execute(f"CREATE VIEW {MAIN}.{quote(view)} AS {union}")
        except duckdb.Error as error:
            broken[MAIN, view] = f"{view} cannot join all sources ({one_line(error)}); name one: {names[0]}.{view}"
    return broken, behind


def _joinable(types: Named[dict[str, str]], view: str, sources: Sequence[str]) -> Iterator[str]:
    """Yield what to join of each source's view. A column that is not of one type in all of them is text in the union,
    unless it is a number everywhere: a corpus's own columns may have one name and mean different things.
    """
    kinds: dict[str, set[str]] = {}
    for source in sources:
        for column, kind in types[source, view].items():
            kinds.setdefault(column, set()).add("a number" if is_number(kind) else kind)
    for source in sources:
        mixed = [quote(column) for column in types[source, view] if len(kinds[column]) > 1]
        texts = ", ".join(f"CAST({column} AS VARCHAR) AS {column}" for column in mixed)
        yield f"SELECT *{f' REPLACE ({texts})' if texts else ''} FROM {quote(source)}.{quote(view)}"


def _views(source: Source) -> dict[str, str]:
    """Return the views that a source has, and the folder of each."""
    flat = ("documents", "rejects", "duplicates", "outcomes", "curated")
    views = {name: name for name in flat if name in source.groups}
    for folder in ("signals", "scores"):
        views.update({f"{folder}_{name}": f"{folder}/{name}" for name in source.nested(folder)})
    if "outcomes" in views and "documents" in views:
        views["everything"] = "outcomes"
    return views


def _create_view(connection: duckdb.DuckDBPyConnection, source: Source, view: str, behind: Behind) -> None:
    name, (group, index) = f"{quote(source.name)}.{quote(view)}", behind
    if view == "everything":
        ledger = f"{quote(source.name)}.outcomes"
        present = {row[0] for row in connection.execute(f"DESCRIBE {ledger}").fetchall()}
        added = "".join(f", d.{column}" for column in _FROM_DOCUMENTS if column not in present)
        documents = f"{quote(source.name)}.documents"
        connection.execute(f"CREATE VIEW {name} AS SELECT o.*{added} FROM {ledger} o JOIN {documents} d USING (doc_id)")
    elif index.parts:
        try:
            connection.execute(f"CREATE VIEW {name} AS FROM {_table_of(group, index)}")
        except duckdb.Error:
            verify_parts(group, index)  # says which file it is, and what to do
            raise
    else:
        kept = source.groups["documents"].details.get(schema.KEEP_COLUMNS, {}) if "documents" in source.groups else {}
        own = list(schema.documents_schema(kept))[len(schema.DOCUMENTS) :] if view in _WITH_KEPT else []
        connection.register("_empty", pa.schema([*_MADE_BY[view.split("_")[0]][1], *own]).empty_table())
        connection.execute(f"CREATE TABLE {name} AS FROM _empty")
        connection.unregister("_empty")


def _absent(session: Session, owner: str, table: str) -> str | None:
    """Return one line for a view that does not exist, or None when it does."""
    catalog = session.catalog
    sources = {source.name.lower(): source for source in catalog.sources}
    if owner.lower() not in {"", MAIN, *sources}:
        return (
            f"there is no source {owner!r} in {catalog.storage.url}{nearest(owner, sources)}; it has {_list(sources)}"
        )
    source = sources.get(owner.lower())
    chosen = [source] if source else list(catalog.sources)
    if message := session.broken.get((source.name if source else MAIN, table.lower())):
        return message
    known = {view for item in chosen for view in _views(item)}
    if table.lower() in known:
        return None
    shown = f"{owner}.{table}" if owner else table
    stage, _ = _MADE_BY.get(table.lower().partition("_")[0], (None, None))
    done = {_MADE_BY[view.partition("_")[0]][0] for view in known}
    if stage is None or stage in done:
        return f"there is no view {shown}{nearest(table, known)}; there are {_list(known)}"
    whom = f"source `{source.name}`" if source else "any source"
    return f"{shown} does not exist yet: stage `{stage}` has not run for {whom}; run `gristmill run CONFIG`"


def _with_times_as_text(cursor: duckdb.DuckDBPyConnection, sql: str, described: Sequence[Any]) -> Any:
    """Run a statement with its dates and times as text: as Python values, infinity would be a day of the year 9999."""
    names = [f"c{number}" for number in range(len(described))]
    # A view takes any comment or semicolon behind the statement, and keeps its order of rows.
    cursor.execute(f"CREATE TEMP VIEW _statement ({', '.join(names)}) AS {sql}")
    kinds = [_TIME_TYPE.fullmatch(row[1]) for row in described]
    casts = [f"::VARCHAR{kind['lists']}" if kind else "" for kind in kinds]
    cells = [f"{name}{cast} AS {quote(row[0])}" for name, cast, row in zip(names, casts, described, strict=True)]
    return cursor.execute(f"SELECT {', '.join(cells)} FROM _statement")


def _iso(value: Any) -> Any:
    """Return DuckDB's text of a date or time in UTC in ISO 8601; what has no such form (BC, infinity) as it is."""
    if isinstance(value, (list, tuple)):
        return [_iso(item) for item in value]
    match = _POINT_IN_TIME.fullmatch(value) if value is not None else None
    if match is None:
        return value
    fraction = f".{match['fraction'].ljust(6, '0')}" if match["fraction"] else ""
    return f"{match['date']}T{match['time']}{fraction}{'+00:00' if match['zone'] else ''}"


def _list(names: Sequence[str] | set[str] | dict[str, Source]) -> str:
    return schema.names(sorted(names))


def _unreadable(storage: Storage, error: Exception) -> str:
    return f"workspace {storage.url}: {one_line(error)}; run `gristmill run CONFIG` to make the part anew"
