"""One keeper a component: elected among the members that pass all rules, out of core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.select import expressions
from pipeline.select.constants import MapParts, Resources, files, work_database
from pipeline.select.evaluate import Policy, answer, passing, relation
from pipeline.select.expressions import literal
from pipeline.select.narrow import AlignedPart, NarrowSource, read_narrow
from pipeline.table.errors import ShardError

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

_ROW_GROUP = 20_000
_NEEDED = ("doc_id", "component_id", "component_size", "text_hash")


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


def elect(jobs: Sequence[Candidates], descending: Sequence[bool], resources: Resources, map_parts: MapParts) -> str:
    """Return the path of the verdicts, sorted by part and row. Only members of components of two or more are gathered.

    The first passing member wins by its source's place in the scope, then by the order's terms (nulls last), then by
    `doc_id`. Where no member passes there is no keeper and no verdict.

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
    with work_database(resources) as connection:
        try:
            connection.execute(
                f"""
                COPY (
                    WITH keepers AS (
                        SELECT component_id, doc_id, text_hash FROM {members} WHERE passing
                        QUALIFY row_number() OVER (PARTITION BY component_id ORDER BY {order}) = 1
                    )
                    SELECT m.part, m.row, m.doc_id, k.doc_id AS keeper, m.text_hash = k.text_hash AS exact
                    FROM {members} m JOIN keepers k USING (component_id)
                    ORDER BY m.part, m.row
                ) TO {literal(target)} (FORMAT parquet, ROW_GROUP_SIZE {_ROW_GROUP})
                """
            )
        except duckdb.Error as error:
            raise ShardError(f"electing keepers: {error}; free disk space or raise the memory limit") from error
    return target


def _write_candidates(job: Candidates) -> str:
    """Write a part's members of components; return the file, or nothing when the part has none."""
    terms = [f"{sql} AS k{number}" for number, (sql, _) in enumerate(job.policy.keep)]
    sql = (
        f"SELECT {', '.join([*_NEEDED, f'{passing(job.policy.rules)} AS passing', *terms, 'position'])}"
        f" FROM {relation(_with_position(job.policy))} WHERE component_size > 1"
    )
    writer: pq.ParquetWriter | None = None
    where, start = f"{job.narrow.source}/{job.part.documents.stem}", 0
    try:
        with expressions.sandbox() as connection:
            for chunk in read_narrow(job.narrow, job.part):
                positions = pa.array(range(start, start + chunk.num_rows), pa.int64())
                start += chunk.num_rows
                table = answer(connection, chunk.append_column("position", positions), sql, job.policy.rules, where)
                if table.num_rows:
                    table = _numbered(table, job)
                    writer = writer or pq.ParquetWriter(job.path, table.schema, compression="zstd")
                    writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()
    return job.path if writer is not None else ""


def _with_position(policy: Policy) -> dict[str, str]:
    return {**policy.columns, "position": "BIGINT"}


def _numbered(members: pa.Table, job: Candidates) -> pa.Table:
    rows = members.num_rows
    members = members.rename_columns(["row" if name == "position" else name for name in members.column_names])
    members = members.append_column("part", pa.repeat(pa.scalar(job.number, pa.int32()), rows))
    return members.append_column("priority", pa.repeat(pa.scalar(job.priority, pa.int32()), rows))


def verdicts(path: str, number: int) -> pa.Table:
    """Return one part's verdicts, in row order."""
    return pq.read_table(path, filters=[("part", "=", number)], partitioning=None).cast(VERDICTS).combine_chunks()
