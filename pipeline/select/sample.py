"""Documents to read: a sample of what a source kept, or of what a rule dropped, with the number that decided."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.report import page
from pipeline.select.decide import ResolvedRule, relation
from pipeline.select.explain import SNIPPET_CHARACTERS
from pipeline.select.margins import Comparison, compared
from pipeline.select.policy import Judged, as_reader, doc_ids, named_sources, present
from pipeline.select.wide_table import rows_at, rows_of
from pipeline.table import query
from pipeline.table.catalog import Catalog
from pipeline.table.errors import UsageError, WorkspaceError, nearest
from pipeline.table.format import cell, visible
from pipeline.table.query import TABLE
from pipeline.table.shards import aligned, open_part
from pipeline.table.sql import reading
from pipeline.table.storage import Storage

MAX_DOCUMENTS = 1_000


def check_examples(count: int) -> None:
    """Raises: UsageError for a number of examples that cannot be shown."""
    if not 0 <= count <= MAX_DOCUMENTS:
        raise UsageError(f"--examples {count}: give between 0 and {MAX_DOCUMENTS}")


def shuffled(judged: Judged, seed: int = 1) -> NDArray[np.uint64]:
    """Return a number for each document, which its id and `seed` alone decide: the lowest are a sample."""
    ids = np.array(doc_ids(judged).to_pylist(), "S32").view(np.uint64).reshape(-1, 4)
    key = np.full(len(ids), seed, np.uint64)
    for column in ids.T:  # Source: splitmix64 (Steele, Lea, Flood 2014)
        key = (key ^ column) + np.uint64(0x9E3779B97F4A7C15)
        key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        key ^= key >> np.uint64(31)
    return key


def lowest(keys: NDArray[np.uint64], among: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
    """Return the numbers of the documents with the lowest keys among some, in the order of their keys."""
    places = np.flatnonzero(among)
    if count < len(places):
        places = places[np.argpartition(keys[places], count)[:count]]
    return places[np.argsort(keys[places], kind="stable")]


def comparisons(rows: pa.Table, rules: Sequence[ResolvedRule | None]) -> list[list[dict[str, Any]]]:
    """Return, for each row of a wide table, the comparisons of numbers by which it fails its rule of `rules`."""
    failing = [rule.resolved if rule and {*rule.columns} <= {*rows.column_names} else "" for rule in rules]
    asked = compared({text: text for text in failing if text})  # two policies may have rules of one name
    if not asked.sides:
        return [[] for _ in rules]
    with query.sandbox() as connection:
        connection.register(TABLE, rows)
        values = connection.execute(f"SELECT {asked.asked} FROM {relation(rows.schema)}").fetchall()
    told = (asked.told(row, [text]).get(text, []) for row, text in zip(values, failing, strict=True))
    return [[asdict(comparison) for comparison in each] for each in told]


@dataclass(frozen=True, slots=True)
class Shown:
    """Documents to look at, chosen for one reason."""

    change: str
    rule: str
    rows: NDArray[np.int64]
    resolved: ResolvedRule | None = None
    """The rule as it ran, whose comparisons are shown."""


def example_rows(judged: Judged, shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """Return a row for each document that is shown: why, its id and URL, and the comparisons that it fails."""
    reads = {name for each in shown if each.resolved for name in each.resolved.columns}
    rows = np.concatenate([np.zeros(0, np.int64), *(each.rows for each in shown)])
    found = measured(judged, rows, {"url", *reads})
    why = [each for each in shown for _ in each.rows]
    failed = comparisons(found, [each.resolved for each in why])
    ids = zip(found["doc_id"].to_pylist(), found["url"].to_pylist(), strict=True)
    return [
        {
            "source": judged.source,
            "change": each.change,
            "rule": each.rule,
            "doc_id": doc_id,
            "url": url,
            "comparisons": told,
        }
        for each, (doc_id, url), told in zip(why, ids, failed, strict=True)
    ]


def examples_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return documents below what was done to them, by which rule."""
    lines = []
    for (change, rule), documents in groupby(rows, key=itemgetter("change", "rule")):
        lines.append(f"{change}: {visible(rule)}\n")
        for row in documents:
            lines.append(f"  {row['doc_id']} {cell(row['url'], 160)}\n")
            lines += [f"    {visible(str(Comparison(**each)))}\n" for each in row["comparisons"]]
    return "".join(lines)


def measured(judged: Judged, rows: NDArray[np.int64], names: Collection[str]) -> pa.Table:
    """Return `doc_id` and those of these columns that there are, of some documents, in the order given."""
    if judged.table is not None:
        return rows_at(judged.table, rows, names)
    if not judged.parts:
        return pa.table({name: pa.array([], pa.string()) for name in ("doc_id", "url")})
    with open_part(judged.group, judged.parts[0].name) as file:
        there = [name for name in file.schema_arrow.names if name in {"doc_id", *names}]
    return rows_of(judged.group, judged.parts, rows, there)


@reading
@as_reader()
def sample(
    storage: Storage,
    source: str,
    dropped_by: str | None = None,
    alone: bool = False,
    documents: int = 20,
    seed: int = 1,
) -> list[dict[str, Any]]:
    """Return a row for each of some documents of a source: kept ones, or those that fail the rule `dropped_by`, or fail
    it `alone`, with the comparisons that they fail and the beginning of their texts.

    Which ones depends on their ids and `seed` alone, not on how the source is cut into parts.

    Raises: WorkspaceError for what is not there, UsageError for what cannot be asked.
    """
    if not 1 <= documents <= MAX_DOCUMENTS:
        raise UsageError(f"-n {documents}: give between 1 and {MAX_DOCUMENTS} documents")
    if not 0 <= seed < 1 << 64:
        raise UsageError(f"--seed {seed}: give a number between 0 and 2**64 - 1")
    if alone and dropped_by is None:
        raise UsageError("--alone says of --dropped-by RULE that no other rule dropped the document; give RULE, too")
    catalog = Catalog.read(storage)
    (found,) = named_sources(catalog, [source])
    judged = present(storage, found)
    if judged is None:
        raise WorkspaceError(f"{storage.url}: nothing is decided of {source} yet; `gristmill run CONFIG` selects")
    if dropped_by is not None and dropped_by not in judged.rules:
        raise WorkspaceError(
            f"{storage.url}: no rule {dropped_by!r} decided {source}{nearest(dropped_by, judged.rules)}"
        )
    among = judged.fails(dropped_by, alone) if dropped_by else judged.kept
    rows = lowest(shuffled(judged, seed), among, documents)
    rules = {rule.name: rule for rule in judged.resolved}
    failed = rules.get(dropped_by or "")
    known = measured(judged, rows, set(failed.columns if failed else ()))
    parts = {part.stem: part for part in catalog.group(source, "documents").parts()}
    if any(part.stem not in parts or parts[part.stem].rows != part.rows for part in judged.parts):
        raise WorkspaceError(
            f"{storage.url}: {source} was decided for other documents; `gristmill run CONFIG` decides anew"
        )
    mine = [parts[part.stem] for part in judged.parts]
    columns = ["doc_id", "url", "title", "text"]
    if not len(rows):
        return []
    texts = rows_of(catalog.group(source, "documents"), mine, rows, columns)
    aligned(texts, known, f"{source}/outcomes")
    texts = texts.append_column("text_length", pc.utf8_length(texts["text"]))
    texts = texts.set_column(3, "text", pc.utf8_slice_codeunits(texts["text"], 0, SNIPPET_CHARACTERS))
    told = comparisons(known, [failed] * len(rows))
    tokens = [None] * len(rows) if judged.tokens is None else judged.tokens[rows].tolist()
    return [
        {
            "doc_id": row["doc_id"],
            "url": row["url"],
            "title": row["title"],
            "tokens": count,
            "rule": dropped_by,
            "resolved": failed.resolved if failed else None,
            "comparisons": compared,
            "text_length": row["text_length"],
            "text": row["text"],
        }
        for row, count, compared in zip(texts.to_pylist(), tokens, told, strict=True)
    ]


def sample_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return documents to read as text for people."""
    lines = []
    for row in rows:
        tokens = "" if row["tokens"] is None else f"; {row['tokens']:,.0f} tokens"
        lines += [f"{row['doc_id']} {cell(row['url'], 160)}", f"  {cell(row['title'], 160)}{tokens}"]
        lines += [f"  {visible(str(Comparison(**each)))}" for each in row["comparisons"]]
        more = " …" if row["text_length"] > len(row["text"]) else ""
        lines += [f"    {visible(line)}".rstrip() for line in f"{row['text']}{more}".split("\n")]
    return "".join(f"{line}\n" for line in lines)


def sample_page(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return documents to read as one HTML page; whatever they hold is text."""
    blocks = []
    for row in rows:
        facts = [f"{row['tokens']:,.0f} tokens"] if row["tokens"] is not None else []
        facts += [f"{row['text_length']:,} code points", row["doc_id"]]
        facts += [str(Comparison(**each)) for each in row["comparisons"]]
        said = "".join(page.note(page.text(fact)) for fact in [" · ".join(facts[:3]), *facts[3:]])
        words = "\n".join(page.text(line) for line in row["text"].split("\n"))
        more = " …" if row["text_length"] > len(row["text"]) else ""
        head = page.text(row["title"] or row["url"] or row["doc_id"])
        url = page.note(page.text(row["url"])) if row["url"] else ""
        blocks.append(f'<h3>{head}</h3>{url}{said}<p style="white-space:pre-wrap">{words}{more}</p>')
    rule = next((row["resolved"] for row in rows if row["resolved"]), None)
    lead = f"{len(rows)} documents{f'; the rule: {page.text(rule)}' if rule else ''}"
    return page.page(title, lead, (), [("documents", "Documents", "".join(blocks) or page.note("There are none."))])
