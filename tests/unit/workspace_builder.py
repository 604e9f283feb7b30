"""Small workspaces made by hand: the groups that stages write, without running a stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.table import schema
from pipeline.table.shards import Group, Identity, Index, Part, PartWriter, Tally, Work
from pipeline.table.storage import Storage

OUTCOMES = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        ("url", pa.string()),
        ("source", pa.string()),
        ("word_count", pa.int32()),
        ("estimated_tokens", pa.int64()),
        ("language", pa.string()),
        ("outcome", pa.string()),
        ("failed_rules", pa.list_(pa.struct([("rule", pa.string()), ("value", pa.string())]))),
        ("component_id", pa.string()),
        ("duplicate_of", pa.string()),
    ]
)
TEXT_STATS = pa.schema(
    [pa.field("doc_id", pa.string(), nullable=False), ("word_count", pa.int32()), ("estimated_tokens", pa.int64())]
)
LANGUAGE = pa.schema(
    [pa.field("doc_id", pa.string(), nullable=False), ("language", pa.string()), ("language_score", pa.float32())]
)
RULES = [
    {"name": "language", "sql": "language = 'en'", "resolved": "language = 'en'"},
    {"name": "words", "sql": "word_count >= 3", "resolved": "word_count >= 3"},
]


def doc_id(number: int) -> str:
    """Return a 32-digit id."""
    return f"{number:032x}"


def document(number: int, source: str = "web", text: str = "one two three", **columns: Any) -> dict[str, Any]:
    """Return a row of `documents`."""
    origin = {"file": "a.warc.gz", "offset": number * 100, "record_id": f"<urn:{number}>"}
    row = dict.fromkeys(schema.DOCUMENTS.names) | {
        "doc_id": doc_id(number),
        "source": source,
        "url": f"https://example.org/page/{number}",
        "text": text,
        "origin": origin,
    }
    return row | columns


def reject(number: int, reason: str, source: str = "web") -> dict[str, Any]:
    """Return a row of `rejects`."""
    origin = {"file": "a.warc.gz", "offset": number * 100, "record_id": f"<urn:{number}>"}
    url = f"https://example.org/bad/{number}"
    return {"source": source, "url": url, "reason": reason, "detail": f"detail {number}", "origin": origin}


def write_part(
    group: Group, stem: str, rows: Sequence[Mapping[str, Any]], table_schema: pa.Schema, stage: str = "test"
) -> Part:
    """Write one part with its manifest; no index lists it yet."""
    inputs = ({"name": "a.warc.gz", "url": "/crawl/a.warc.gz"},)
    work = Work(stem, Identity(stage, "1"), inputs)
    with PartWriter(group, work, table_schema) as writer:
        if rows:
            writer.write(pa.Table.from_pylist([dict(row) for row in rows], schema=table_schema))
    return writer.finish(Tally(rows_in=len(rows)))


def write_group(
    storage: Storage,
    folder: str,
    parts: Sequence[Sequence[Mapping[str, Any]]],
    table_schema: pa.Schema,
    details: Mapping[str, Any] | None = None,
) -> Group:
    """Write a completed group: a part for each list of rows, and the index."""
    group = Group(storage, folder)
    written = [write_part(group, f"part-{number}", rows, table_schema) for number, rows in enumerate(parts)]
    group.complete(written, Index(stage="test", details=dict(details or {})))
    return group


def outcome(number: int, failed: Sequence[tuple[str, Mapping[str, Any]]] = (), **columns: Any) -> dict[str, Any]:
    """Return a row of `outcomes`; dropped when it failed a rule."""
    row = {
        "doc_id": doc_id(number),
        "url": f"https://example.org/page/{number}",
        "source": "web",
        "word_count": 3,
        "estimated_tokens": 10,
        "language": "en",
        "outcome": "dropped" if failed else "kept",
        "failed_rules": [{"rule": rule, "value": json.dumps(value)} for rule, value in failed],
        "component_id": doc_id(number),
        "duplicate_of": None,
    }
    return row | columns


def build(url: str, source: str = "web", until: str = "select") -> Storage:
    """Write a workspace of one source: eight units, six documents in two parts, two rejects, two documents kept.

    Document 1 is in French, 2 too short, 3 both; 5 is a near duplicate of 4; 4 and 6 are kept.
    """
    storage = Storage.at(url)
    stages = ("extract", "annotate", "dedup", "classify", "select")
    writers = (_extract, _annotate, _dedup, _classify, _select)
    for stage, writer in zip(stages, writers, strict=True):
        writer(storage, source)
        if stage == until:
            break
    return storage


def _extract(storage: Storage, source: str) -> None:
    documents = [document(n, source) for n in range(1, 7)]
    write_group(storage, f"{source}/documents", [documents[:3], documents[3:]], schema.DOCUMENTS)
    rejects = [reject(7, "not_html", source), reject(8, "empty", source)]
    write_group(storage, f"{source}/rejects", [rejects, []], schema.REJECTS)


def _annotate(storage: Storage, source: str) -> None:
    words = {2: 2, 3: 1}
    stats = [{"doc_id": doc_id(n), "word_count": words.get(n, 3), "estimated_tokens": 10 * n} for n in range(1, 7)]
    write_group(storage, f"{source}/signals/text_stats", [stats[:3], stats[3:]], TEXT_STATS)
    french = {1, 3}
    language = [
        {"doc_id": doc_id(n), "language": "fr" if n in french else "en", "language_score": 0.5} for n in range(1, 7)
    ]
    write_group(storage, f"{source}/signals/language", [language[:3], language[3:]], LANGUAGE)


def _dedup(storage: Storage, source: str) -> None:
    rows = [
        {
            "doc_id": doc_id(n),
            "component_id": doc_id(4 if n == 5 else n),
            "component_size": 2 if n in (4, 5) else 1,
            "method": "minhash" if n in (4, 5) else None,
            "text_hash": n,
        }
        for n in range(1, 7)
    ]
    write_group(storage, f"{source}/duplicates", [rows], schema.DUPLICATES)


def _classify(storage: Storage, source: str) -> None:
    rows = [{"doc_id": doc_id(n), "score": n / 10, "probability": n / 10, "rank": n} for n in range(1, 7)]
    write_group(storage, f"{source}/scores/quality", [rows], schema.SCORES)


def _select(storage: Storage, source: str) -> None:
    language, words = ("language", {"language": "fr"}), ("words", {"word_count": 2})
    rows = [
        outcome(1, [language], language="fr", source=source, estimated_tokens=10),
        outcome(2, [words], word_count=2, source=source, estimated_tokens=20),
        outcome(
            3, [language, ("words", {"word_count": 1})], language="fr", word_count=1, source=source, estimated_tokens=30
        ),
        outcome(4, source=source, estimated_tokens=40),
        outcome(
            5,
            [("near_duplicate", {"duplicate_of": doc_id(4)})],
            source=source,
            estimated_tokens=50,
            component_id=doc_id(4),
            duplicate_of=doc_id(4),
        ),
        outcome(6, source=source, estimated_tokens=60),
    ]
    write_group(storage, f"{source}/outcomes", [rows], OUTCOMES, {"rules": RULES})
    curated = [document(4, source), document(6, source)]
    write_group(storage, f"{source}/curated", [curated], schema.DOCUMENTS)
