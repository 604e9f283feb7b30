"""Small workspaces for the tests of `select`: rows as dictionaries, cut into parts as a test likes."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from flows.engine import LocalEngine
from flows.progress import Reporter
from pipeline.select.decide import Selection, SourceSelection
from pipeline.select.rules import load_rules
from pipeline.select.stage import select_stage
from pipeline.table import schema
from pipeline.table.shards import Group, Identity, Index, Part, PartWriter, Tally, Work, digest
from pipeline.table.stages import Context, StageReport, run_stage
from pipeline.table.storage import Storage

STATS = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        ("text_length", pa.int64()),
        ("word_count", pa.int32()),
        ("estimated_tokens", pa.float64()),
        ("language", pa.string()),
        ("language_score", pa.float32()),
    ]
)
FOLDERS = ("signals/stats", "duplicates", "scores/quality")
Row = Mapping[str, Any]


def doc_id(number: int) -> str:
    return f"{number:032x}"


def row(number: int, **values: Any) -> dict[str, Any]:
    """Return a document with everything that is measured about it; `values` replaces what a test cares about."""
    text = values.get("text", f"text of {number}")
    defaults = {
        "doc_id": doc_id(number),
        "url": f"https://example.org/{number}",
        "text": text,
        "title": None,
        "date": None,
        "licence": None,
        "parent_id": None,
        "metadata": None,
        "text_length": len(text),
        "word_count": len(text.split()),
        "estimated_tokens": len(text.encode()) / 4,
        "language": "en",
        "language_score": 0.9,
        "component_id": doc_id(number),
        "component_size": 1,
        "method": None,
        "text_hash": number,
        "score": 0.5,
        "probability": 0.5,
        "rank": 10,
    }
    return defaults | values


def component(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows as members of one component."""
    smallest = min(item["doc_id"] for item in rows)
    return [item | {"component_id": smallest, "component_size": len(rows), "method": "minhash"} for item in rows]


def write(storage: Storage, source: str, parts: Mapping[str, Sequence[Row]]) -> None:
    """Write a source's documents, statistics, duplicates and scores; `parts` gives the rows of each stem."""
    for folder, columns in (
        ("documents", schema.DOCUMENTS),
        ("signals/stats", STATS),
        ("duplicates", schema.DUPLICATES),
        ("scores/quality", schema.SCORES),
    ):
        group = Group(storage, f"{source}/{folder}")
        written = [_part(group, stem, source, rows, columns) for stem, rows in parts.items()]
        group.complete(written, Index(stage="test"))


def _part(group: Group, stem: str, source: str, rows: Sequence[Row], columns: pa.Schema) -> Part:
    values = [
        {"source": source, "origin": {"file": "crawl.warc.gz", "offset": 0, "record_id": None}} | {**item}
        for item in rows
    ]
    table = pa.Table.from_pylist([{name: item[name] for name in columns.names} for item in values], columns)
    work = Work(stem, Identity("test", "1"), ({"content": digest(values)},))
    with PartWriter(group, work, columns) as writer:
        writer.write(table)
    return writer.finish(Tally(rows_in=table.num_rows))


class Request(NamedTuple):
    """What `select_stage` takes."""

    context: Context
    selection: Selection


def request(
    storage: Storage, rules: Mapping[str, str], keep: str | None = None, sources: Sequence[str] = ("web",), **more: Any
) -> Request:
    """Return a request with the same rules for every source."""
    rule_set = load_rules(rules, "select.rules", keep)
    return selecting(storage, *(SourceSelection(name, rule_set, FOLDERS) for name in sources), **more)


def selecting(storage: Storage, *sources: SourceSelection, workers: int = 1, **more: Any) -> Request:
    """Return a request for these sources."""
    stop = threading.Event()
    context = Context(storage, LocalEngine(workers, stop), Reporter(), stop, workers, memory_mb=1024)
    return Request(context, Selection(sources, **more))


def select(request: Request) -> StageReport:
    """Decide about the documents of a request."""
    return run_stage(select_stage(*request), request.context)


def is_done(request: Request) -> bool:
    """Tell whether `select` would find nothing to do."""
    return not select_stage(*request).shards_to_do


def index(storage: Storage, source: str = "web") -> Index:
    """Return what the stage says of a source as a whole."""
    found = Group(storage, f"{source}/outcomes").index()
    assert found is not None
    return found


def read(storage: Storage, source: str, folder: str) -> list[dict[str, Any]]:
    """Return the rows of a group's current parts, in part order."""
    group = Group(storage, f"{source}/{folder}")
    return [
        item
        for part in group.parts()
        for item in pq.read_table(storage.open(group.path(part.name)), partitioning=None).to_pylist()
    ]


def ledger(storage: Storage, source: str = "web") -> dict[str, dict[str, Any]]:
    """Return outcomes by doc_id, with failed rules as a mapping of rule to parsed value."""
    rows = read(storage, source, "outcomes")
    found = {
        item["doc_id"]: item
        | {"failed": {failure["rule"]: json.loads(failure["value"]) for failure in item["failed_rules"]}}
        for item in rows
    }
    assert len(found) == len(rows)
    return found
