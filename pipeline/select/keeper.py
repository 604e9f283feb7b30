"""One keeper a component: elected among the members that pass all rules, out of core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.select import expressions
from pipeline.select.constants import MapParts, Resources, files, work_database
from pipeline.select.evaluate import Policy, answer, passing, relation
from pipeline.select.expressions import literal
from pipeline.select.narrow import AlignedPart, NarrowSource, read_narrow
from pipeline.table.errors import ShardError
from pipeline.table.shards import Group, read_batches
from pipeline.table.storage import Storage

VERDICTS = pa.schema(
    [
        ("part", pa.int32()),
        ("row", pa.int64()),
        ("doc_id", pa.string()),
        ("keeper", pa.string()),
        ("exact", pa.bool_()),
    ]
)
"""One row for each member of a component that has a keeper: who it is, and whether the text is the same."""

_KEPT_BEFORE = pa.schema([("doc_id", pa.string()), ("component_id", pa.string()), ("text_hash", pa.uint64())])
_ROW_GROUP = 20_000
_NEEDED = ("doc_id", "component_id", "component_size", "text_hash")
_POSITION = "_position"  # no column of a corpus's own begins like this


@dataclass(frozen=True, slots=True)
class Candidates:
    """A job: write the members of components that one part holds."""

    narrow: NarrowSource
    part: AlignedPart
    policy: Policy
    number: int
    """The part's number among all parts of the scope."""
    priority: int
    """The source's place in the scope: 0 wins."""
    path: str


@dataclass(frozen=True, slots=True)
class KeptBefore:
    """Another source, decided already, whose kept documents come first in every component that they are in.

    `folder` is the group with the components that its documents share with those of the sources to be decided.
    """

    source: str
    folder: str


def elect(
    jobs: Sequence[Candidates],
    descending: Sequence[bool],
    resources: Resources,
    map_parts: MapParts,
    kept_before: Sequence[str] = (),
) -> str:
    """Return the path of the verdicts, sorted by part and row. Only members of components of two or more are gathered.

    The first passing member wins by its source's place in the scope, then by the order's terms (nulls last), then by
    `doc_id`. Where no member passes there is no keeper and no verdict. `kept_before` are files of documents that were
    kept before: one of them wins in its component, and gets no verdict itself.

    Raises: ShardError when a term cannot be computed or the scratch folder cannot hold the members.
    """
    paths = [path for path in map_parts(_write_candidates, jobs) if path]
    target = f"{resources.folder}/verdicts.parquet"
    if not paths:
        pq.write_table(VERDICTS.empty_table(), target)
        return target
    terms = [f"k{number} {'DESC' if down else 'ASC'} NULLS LAST" for number, down in enumerate(descending)]
    order = ", ".join(["priority", *terms, "doc_id"])
    members = files(paths)
    own = f"""
        SELECT component_id, doc_id, text_hash FROM {members} WHERE passing
        QUALIFY row_number() OVER (PARTITION BY component_id ORDER BY {order}) = 1
    """
    with work_database(resources) as connection:
        try:
            connection.execute(
                f"""
                COPY (
                    WITH keepers AS ({_with_kept_before(own, kept_before)})
                    SELECT m.part, m.row, m.doc_id, k.doc_id AS keeper, m.text_hash = k.text_hash AS exact
                    FROM {members} m JOIN keepers k USING (component_id)
                    ORDER BY m.part, m.row
                ) TO {literal(target)} (FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP})
                """
            )
        except duckdb.Error as error:
            raise ShardError(f"electing keepers: {error}; free disk space or raise the memory limit") from error
    return target


def _with_kept_before(own: str, paths: Sequence[str]) -> str:
    """Return the statement of keepers where documents of other sources were kept before."""
    if not paths:
        return own
    places = [f"SELECT {place} AS place, * FROM {files([path])}" for place, path in enumerate(paths)]
    return f"""
        WITH before AS (
            SELECT component_id, doc_id, text_hash FROM ({" UNION ALL ".join(places)})
            QUALIFY row_number() OVER (PARTITION BY component_id ORDER BY place, doc_id) = 1
        )
        SELECT * FROM before
        UNION ALL SELECT * FROM ({own}) WHERE component_id NOT IN (SELECT component_id FROM before)
    """


def _write_candidates(job: Candidates) -> str:
    """Write a part's members of components; return the file, or nothing when the part has none."""
    terms = [f"{sql} AS k{number}" for number, (sql, _) in enumerate(job.policy.keep)]
    sql = (
        f"SELECT {', '.join([*_NEEDED, f'{passing(job.policy.rules)} AS passing', *terms, _POSITION])}"
        f" FROM {relation(_with_position(job.policy))} WHERE component_size > 1"
    )
    writer: pq.ParquetWriter | None = None
    where, start = f"{job.narrow.source}/{job.part.documents.stem}", 0
    try:
        with expressions.sandbox() as connection:
            for chunk in read_narrow(job.narrow, job.part):
                positions = pa.array(range(start, start + chunk.num_rows), pa.int64())
                start += chunk.num_rows
                table = answer(connection, chunk.append_column(_POSITION, positions), sql, job.policy.rules, where)
                if table.num_rows:
                    table = _numbered(table, job)
                    writer = writer or pq.ParquetWriter(job.path, table.schema, compression="zstd")
                    writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return job.path if writer is not None else ""


def _with_position(policy: Policy) -> dict[str, str]:
    return {**policy.columns, _POSITION: "BIGINT"}


def _numbered(members: pa.Table, job: Candidates) -> pa.Table:
    rows = members.num_rows
    members = members.rename_columns(["row" if name == _POSITION else name for name in members.column_names])
    members = members.append_column("part", pa.repeat(pa.scalar(job.number, pa.int32()), rows))
    return members.append_column("priority", pa.repeat(pa.scalar(job.priority, pa.int32()), rows))


def write_kept_before(storage: Storage, before: KeptBefore, path: str) -> str:
    """Write the kept documents of another source that share a component, and return the file.

    Raises: ShardError when a part cannot be read.
    """
    outcomes = Group(storage, f"{before.source}/outcomes")
    kept = [
        table.filter(pc.equal(table["outcome"], "kept"))["doc_id"].combine_chunks()
        for part in outcomes.parts()
        for table in read_batches(outcomes, part.name, ["doc_id", "outcome"])
    ]
    known = pa.concat_arrays([pa.array([], pa.string()), *kept])
    columns = ["doc_id", "component_id", "component_size", "text_hash"]
    shared = Group(storage, before.folder)
    with pq.ParquetWriter(path, _KEPT_BEFORE, compression="zstd") as writer:
        for part in shared.parts():
            for table in read_batches(shared, part.name, columns):
                joined = table.filter(pc.greater(table["component_size"], 1))
                chosen = joined.filter(pc.is_in(joined["doc_id"], known))
                writer.write_table(chosen.select(_KEPT_BEFORE.names).cast(_KEPT_BEFORE))
    return path


def verdicts(path: str, number: int) -> pa.Table:
    """Return one part's verdicts, in row order."""
    return pq.read_table(path, filters=[("part", "=", number)], partitioning=None).cast(VERDICTS).combine_chunks()
