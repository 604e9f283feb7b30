"""The kept documents of a source, row by row: each as in `curated`, beside what `outcomes` say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.table import query, schema
from pipeline.table.catalog import Catalog
from pipeline.table.errors import ConservationError, ReplacedError, RuleError, UsageError, WorkspaceError, nearest
from pipeline.table.schema import DOC_ID
from pipeline.table.shards import Group, Index, aligned, open_part, read_batches
from pipeline.table.storage import Storage

WHERE = "--where"
OUTCOME, KEPT = "outcome", "kept"


@dataclass(frozen=True, slots=True)
class KeptDocuments:
    """What a source kept, in the order of `curated`, and every column that is known of it."""

    storage: Storage
    source: str
    curated: Index
    outcomes: Index
    schema: pa.Schema
    """The columns of `curated`, then those that `outcomes` have beside them."""
    narrow: frozenset[str]
    """The columns that stand in `outcomes`."""

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.curated.parts)

    def group(self, folder: str) -> Group:
        return Group(self.storage, f"{self.source}/{folder}")


def kept_documents(storage: Storage, source: str) -> KeptDocuments:
    """Return what a source kept; each part is held against its manifest.

    Raises: WorkspaceError when there is no such source, it was not selected yet or kept nothing; ReplacedError when its
    two groups are of different selections; ShardError when a part is damaged.
    """
    catalog = Catalog.read(storage)
    found = {each.name: each for each in catalog.sources}
    if source not in found:
        has = schema.names(found)
        raise WorkspaceError(f"there is no source {source!r} in {storage.url}{nearest(source, found)}; it has {has}")
    groups = found[source].groups
    curated, outcomes = groups.get("curated"), groups.get("outcomes")
    if curated is None or outcomes is None:
        raise WorkspaceError(f"{source} has nothing to export: `select` has not run; `gristmill run CONFIG` does it")
    if curated.key != outcomes.key:
        raise ReplacedError(
            f"{source}: `curated` and `outcomes` are of different selections, a run is at work or was killed; "
            "`gristmill run CONFIG` finishes it"
        )
    if not curated.parts:
        total = found[source].rows("outcomes")
        raise WorkspaceError(f"{source} has nothing to export: none of its {total:,} documents was kept")
    schemas = []
    for folder, index in (("curated", curated), ("outcomes", outcomes)):
        group = Group(storage, f"{source}/{folder}")
        group.verify(index.parts)
        group.memory.save()
        with open_part(group, index.parts[0].name) as file:
            schemas.append(file.schema_arrow.remove_metadata())
    beside = [field for field in schemas[1] if field.name not in schemas[0].names]
    columns = pa.schema([*schemas[0], *beside])
    return KeptDocuments(storage, source, curated, outcomes, columns, frozenset(field.name for field in beside))


def chosen_columns(documents: KeptDocuments, named: Sequence[str] | None) -> list[str]:
    """Return the columns to export: those named, in that order, or all of `curated`.

    Raises: UsageError for one that is not there, or is named twice.
    """
    if named is None:
        return [name for name in documents.schema.names if name not in documents.narrow]
    if not named:
        raise UsageError("--columns: name at least one column, such as `url,text`")
    for number, name in enumerate(named):
        if name not in documents.schema.names:
            known = documents.schema.names
            hint = nearest(name, known) or f"; it has {schema.names(known)}"
            raise UsageError(f"--columns: {documents.source} has no column {name!r}{hint}")
        if name in named[:number]:
            raise UsageError(f"--columns: {name!r} is named twice")
    return list(named)


def checked_where(documents: KeptDocuments, text: str | None) -> query.Expression | None:
    """Return the predicate that documents must meet, bound to their columns. Raises: RuleError."""
    if text is None:
        return None
    return query.check({WHERE: text}, query.column_types(documents.schema))[0]


def read_kept(
    documents: KeptDocuments, columns: Sequence[str], where: query.Expression | None = None
) -> Iterator[pa.Table]:
    """Yield these columns of the documents that meet `where`, in order; memory holds a row group of each group.

    A null is not met.

    Raises: ConservationError when outcomes and documents do not match; RuleError for a value that `where` cannot take;
    ReplacedError when a run replaces what is read.
    """
    read = set(columns) | set(where.columns if where else ())
    texts = [DOC_ID, *(name for name in documents.schema.names if name in read - {DOC_ID} - documents.narrow)]
    ledger = [DOC_ID, OUTCOME, *sorted(read & documents.narrow - {OUTCOME})]
    beside = _decided(documents, ledger)
    held = next(beside)  # there is a part at least
    with query.sandbox() if where is not None else nullcontext() as connection:
        for part in documents.curated.parts:
            for rows in read_batches(documents.group("curated"), part.name, texts):
                while held.num_rows < rows.num_rows and (more := next(beside, None)) is not None:
                    held = pa.concat_tables([held, more])
                about, held = held.slice(0, rows.num_rows), held.slice(rows.num_rows)
                aligned(rows, about, f"{documents.source}/curated/{part.name}")
                for name in ledger[1:]:
                    rows = rows.append_column(about.schema.field(name), about[name])
                if where is not None and connection is not None:
                    rows = rows.filter(_met(connection, where, rows))
                if rows.num_rows:
                    yield rows.select(columns).replace_schema_metadata(None)
    if held.num_rows or any(more.num_rows for more in beside):
        raise ConservationError(f"{documents.source}: `outcomes` keep more documents than `curated` has; run again")


def _decided(documents: KeptDocuments, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the outcomes of the documents that were kept, in the order in which they were curated."""
    group = documents.group("outcomes")
    for part in sorted(documents.outcomes.parts, key=lambda part: part.stem):
        for rows in read_batches(group, part.name, columns):
            yield rows.filter(pc.equal(rows[OUTCOME], KEPT))


def _met(connection: duckdb.DuckDBPyConnection, where: query.Expression, rows: pa.Table) -> pa.ChunkedArray:
    """Return whether each row meets a predicate."""
    connection.register(query.TABLE, rows.select([DOC_ID, *(name for name in where.columns if name != DOC_ID)]))
    try:
        return connection.sql(f"SELECT coalesce({where.sql}, false) AS met FROM {query.TABLE}").to_arrow_table()["met"]
    except duckdb.Error as error:
        raise RuleError(f"{WHERE}: {query.first_line(error)}") from error
    finally:
        connection.unregister(query.TABLE)


def count_values(
    documents: KeptDocuments, by: str, where: query.Expression | None, limit: int
) -> Mapping[str | None, int]:
    """Return how many documents have each value of a column, as text, those that meet `where` alone.

    Raises: UsageError when there are more than `limit` values.
    """
    counts: dict[str | None, int] = {}
    for rows in read_kept(documents, [by], where):
        for pair in pc.value_counts(rows[by].cast(pa.string())).to_pylist():
            counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
        if len(counts) > limit:
            raise UsageError(
                f"--by {by}: more than {limit:,} values, and each would be a folder; choose a column with fewer"
            )
    return counts
