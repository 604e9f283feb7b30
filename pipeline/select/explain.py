"""Why a document ended as it did: everything that any stage recorded of it, at any stage of completeness."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from pipeline.select.margins import NEAR, Comparison, compared
from pipeline.table.catalog import Source
from pipeline.table.errors import WorkspaceError
from pipeline.table.format import cell, visible
from pipeline.table.query import literal, quote
from pipeline.table.schema import KEEP_COLUMNS
from pipeline.table.sql import Session, connect, read_parts, reading
from pipeline.table.storage import Storage

SNIPPET_CHARACTERS = 500
MAX_MEMBERS = 20
"""Other members of a component that are listed; its size tells how many there are."""
MAX_MATCHES = 100
"""Documents, and rejects, of one source that are explained for one URL; a warning tells when there are more."""

log = logging.getLogger(__name__)

_DOC_ID = re.compile(r"[0-9a-f]{32}")
_IDENTITY = ("doc_id", "source", "url", "title", "date", "licence", "parent_id", "origin", "metadata")


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is known of every document and reject that a doc_id or URL names."""

    query: str
    documents: tuple[dict[str, Any], ...]
    rejects: tuple[dict[str, Any], ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each rule that a document failed, or passed by little; one at least a document or reject.

        `verdict` is failed, near or null; of a reject `rule` is its reason. Numbers are of the comparison that decided.
        """
        rows = []
        for document in self.documents:
            told: list[tuple[dict[str, Any], str | None]] = [(each, "failed") for each in document["failed_rules"]]
            told += [(each, "near") for each in document["near_misses"]]
            for each, verdict in told or [({}, None)]:
                known = {name: document[name] for name in ("doc_id", "source", "url", "outcome")}
                compared: dict[str, Any] = next(iter(each.get("comparisons", ())), {})
                known |= {"rule": each.get("rule"), "verdict": verdict}
                rows.append(
                    known | {name: compared.get(name) for name in ("expression", "value", "wants", "bound", "margin")}
                )
        for reject in self.rejects:
            known = {"doc_id": None, "source": reject["source"], "url": reject["url"], "outcome": "rejected"}
            known |= {"rule": reject["reason"], "verdict": None, "expression": reject["detail"]}
            rows.append(known | dict.fromkeys(("value", "wants", "bound", "margin")))
        return rows

    def as_text(self) -> str:
        """Return a page for people."""
        blocks = [_document_text(document) for document in self.documents]
        blocks += [_reject_text(reject) for reject in self.rejects]
        return "\n\n".join(blocks)


@reading
def explain(storage: Storage, query: str) -> Explanation:
    """Return what every stage recorded of the document with this doc_id, or of all documents and rejects of a URL.

    What has no URL is found by its record's own id, and by the name of its file.

    Raises: WorkspaceError when nothing has this id, URL or name, naming those that come close.
    """
    with connect(storage) as session:
        documents, rejects = [], []
        for column in ("doc_id",) if _DOC_ID.fullmatch(query) else ("url", "origin.record_id", "origin.file"):
            documents = list(_find(session, "documents", column, query))
            rejects = list(_find(session, "rejects", column, query)) if column != "doc_id" else []
            if documents or rejects:
                break
        if not documents and not rejects:
            raise WorkspaceError(f"{storage.url} has no document or reject {query!r}{_hint(session, query)}")
        return Explanation(
            query,
            tuple(_explain_document(session, source, row) for source, row in documents),
            tuple(_with_input(session, source, "rejects", row) for source, row in rejects),
        )


def _find(session: Session, folder: str, column: str, value: str) -> Iterator[tuple[Source, dict[str, Any]]]:
    """Yield the source and row of every match, with the file of its part as `_part`."""
    for source in session.catalog.sources:
        index = source.groups.get(folder)
        if index is None or not index.parts:
            continue
        parts = read_parts(session.catalog.group(source.name, folder), index, ", filename = '_part'")
        columns = "*"
        if folder == "documents":
            columns = f"* EXCLUDE (text), left(text, {SNIPPET_CHARACTERS}) AS _snippet, length(text) AS text_length"
        order = "origin.file, origin.offset"
        rows = session.execute(
            f"SELECT {columns} FROM {parts} WHERE {column} = ? ORDER BY {order} LIMIT {MAX_MATCHES + 1}", [value]
        )
        if len(rows) > MAX_MATCHES:
            log.warning("%s of source %s: only the first %d are explained", folder, source.name, MAX_MATCHES)
        yield from ((source, row) for row in rows[:MAX_MATCHES])


def _explain_document(session: Session, source: Source, row: Mapping[str, Any]) -> dict[str, Any]:
    doc_id = row["doc_id"]
    ledger = _row(session, source, "outcomes", doc_id) or {}
    found = _with_input(session, source, "documents", row)
    document = {name: found[name] for name in _IDENTITY if name in found}
    document["metadata"] = _parsed(row.get("metadata"))
    document["kept"] = {name: found[name] for name in source.groups["documents"].details.get(KEEP_COLUMNS, {})}
    document["input"] = found["input"]
    document["text_length"], document["snippet"] = row["text_length"], row["_snippet"]
    document["outcome"] = ledger.get("outcome")
    document["failed_rules"], document["near_misses"] = _judged(session, source, ledger)
    document["duplicate_of"] = ledger.get("duplicate_of")
    document["component"] = _component(session, source, doc_id, ledger)
    for folder in ("signals", "scores"):
        groups = {name: _row(session, source, f"{folder}_{name}", doc_id) for name in source.nested(folder)}
        document[folder] = {name: _measured(group) for name, group in groups.items() if group is not None}
    return document


def _with_input(session: Session, source: Source, folder: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return `row` with the input that its part's manifest names in place of the part's own file name."""
    result = {name: value for name, value in row.items() if name != "_part"}
    part = PurePosixPath(str(row["_part"])).name.removesuffix(".parquet")
    group = session.catalog.group(source.name, folder)
    manifest = group.manifest(part)
    if manifest is None and session.catalog.storage.exists(group.manifest_path(part)):
        where = session.catalog.storage.sql_path(group.manifest_path(part))
        raise WorkspaceError(f"{where} is damaged; `gristmill run CONFIG` makes it anew")
    first = re.sub(r"-\d+-[0-9a-f]+$", "-00000-", part)
    if manifest and "bucket" in manifest.inputs[0] and not part.startswith(first):  # the first shard names the inputs
        manifest = next((group.manifest(each.name) for each in group.parts() if each.name.startswith(first)), None)
    named = [item for item in (manifest.inputs if manifest else []) if item.get("name") == row["origin"]["file"]]
    result["input"] = dict(named[0]) if named else None
    return result


def _row(session: Session, source: Source, view: str, doc_id: str) -> dict[str, Any] | None:
    """Return a document's row of one view, or None when the view or the row does not exist."""
    name = f"{quote(source.name)}.{quote(view)}"
    folder = view.replace("_", "/", 1) if view.startswith(("signals_", "scores_")) else view
    if folder not in source.groups:
        return None
    rows = session.execute(f"FROM {name} WHERE doc_id = ? LIMIT 1", [doc_id])
    return rows[0] if rows else None


def _measured(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "doc_id"}


def _judged(
    session: Session, source: Source, ledger: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return each failed rule, and those passed by little, the closest first.

    A rule comes with its predicate, as written and with its constants, and with the comparisons that decided it; a
    failed one also with the values that it read.
    """
    index = source.groups.get("outcomes")
    if index is None or not ledger:
        return [], []
    rules = {rule["name"]: rule for rule in index.details.get("rules", [])}
    failures = {failed["rule"]: _parsed(failed["value"]) for failed in ledger["failed_rules"] or []}
    rows: list[dict[str, Any]] = []
    predicates = {name: rule["resolved"] for name, rule in rules.items() if rule.get("resolved")}
    comparisons = compared(predicates)
    with suppress(WorkspaceError):  # a rule of then reads a column that the outcomes of now do not have
        asked = f"SELECT {comparisons.asked or 1} FROM {quote(source.name)}.outcomes WHERE doc_id = ? LIMIT 1"
        rows = session.execute(asked, [ledger["doc_id"]])
    decided = comparisons.told(list(rows[0].values()), failures) if rows else {}

    def described(name: str) -> dict[str, Any]:
        rule, comparisons = rules.get(name, {}), [asdict(each) for each in decided.get(name, [])]
        return {"rule": name, "sql": rule.get("sql"), "resolved": rule.get("resolved"), "comparisons": comparisons}

    passed = {name: each[0].relative for name, each in decided.items() if name not in failures}
    near = sorted((relative, name) for name, relative in passed.items() if relative is not None and relative <= NEAR)
    return [described(name) | {"value": value} for name, value in failures.items()], [described(n) for _, n in near]


def _component(session: Session, source: Source, doc_id: str, ledger: Mapping[str, Any]) -> dict[str, Any] | None:
    row = _row(session, source, "duplicates", doc_id)
    if row is None:
        return None
    component = {name: row[name] for name in ("component_id", "component_size", "method")}
    alone = row["component_size"] == 1
    members = [] if alone else _members(session, row["component_id"], doc_id)
    config = source.groups["duplicates"].details.get("config")
    if members and config:
        members = _compared(session, (source.name, doc_id), members, config)
    keepers = [member["doc_id"] for member in members if member["outcome"] == "kept"]
    keeper = doc_id if ledger.get("outcome") == "kept" else ledger.get("duplicate_of") or next(iter(keepers), None)
    return component | {"keeper": keeper, "members": members}


def _members(session: Session, component_id: str, doc_id: str) -> list[dict[str, Any]]:
    """Return other members of a component, the keeper first, from every source whose duplicates were sought."""
    selects = []
    for source in session.catalog.sources:
        if not {"documents", "duplicates"} <= source.groups.keys():
            continue
        owner = quote(source.name)
        outcome, ledger = "NULL::VARCHAR", ""
        if "outcomes" in source.groups:
            outcome, ledger = "o.outcome", f"LEFT JOIN {owner}.outcomes o USING (doc_id)"
        selects.append(
            f"SELECT c.doc_id, {literal(source.name)} AS source, d.url, {outcome} AS outcome"
            f" FROM {owner}.duplicates c LEFT JOIN {owner}.documents d USING (doc_id) {ledger}"
            f" WHERE c.component_id = $component AND c.doc_id <> $document"
        )
    union = " UNION ALL ".join(selects)
    values = {"component": component_id, "document": doc_id}
    return session.execute(f"{union} ORDER BY (outcome = 'kept') DESC NULLS LAST, doc_id LIMIT {MAX_MEMBERS}", values)


def _compared(
    session: Session, document: tuple[str, str], members: Sequence[dict[str, Any]], config: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return each member with what it shares with a document, as far as signatures and texts are there.

    `estimate` and `similarity` are of their sets of shingles; `joined_by` says what made the two one component:
    equal words, an estimate far from the threshold, the shingles, a band alone (without `verify`), or only others.
    """
    known: dict[tuple[str, str], dict[str, Any]] = {}
    for name in {document[0], *(member["source"] for member in members)}:
        ids = [
            doc_id for source, doc_id in (document, *((m["source"], m["doc_id"]) for m in members)) if source == name
        ]
        known |= {(name, row["doc_id"]): row for row in _signed(session, name, ids, config)}
    mine = known.get(document)
    found = []
    for member in members:
        other = known.get((member["source"], member["doc_id"]))
        found.append(member | _shared(mine, other, config) if mine and other else member)
    return found


def _signed(session: Session, source: str, ids: Sequence[str], config: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the `doc_id`, text hash, signature (num_perm,) and set of shingles of some documents of a source."""
    from pipeline.kernels.minhash import shingle_hashes  # numba: half a second that other answers need not wait for

    index = next((each.groups.get("signatures") for each in session.catalog.sources if each.name == source), None)
    if index is None or not index.parts:
        return
    signatures = read_parts(session.catalog.group(source, "signatures"), index)
    rows = session.execute(
        f"SELECT doc_id, text_hash, signature, text, parent_id, metadata FROM {signatures}"
        f" JOIN {quote(source)}.documents USING (doc_id) WHERE list_contains($ids, doc_id) ORDER BY doc_id",
        {"ids": list(ids)},
    )
    for row in rows:
        written = _parsed(row["metadata"]) if row["parent_id"] else None
        # Of what a model wrote the segment that its style puts before it is not compared.
        text = row["text"][written.get("body_start", 0) if isinstance(written, dict) else 0 :]
        hashes = shingle_hashes(text.encode(), config["shingle_words"], config["numbers"] == "any")
        yield row | {"signature": np.array(row["signature"], np.uint32), "shingles": np.unique(hashes)}


def _shared(left: Mapping[str, Any], right: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return how alike two documents are, and what joined them."""
    from pipeline.kernels.components import common, is_similar, zone
    from pipeline.kernels.minhash import band_keys

    verify, bands = config["verify"], config["num_bands"]
    keys = band_keys(np.stack([left["signature"], right["signature"]]), bands, config["rows_per_band"])
    shared_bands = int(np.count_nonzero(keys[0] == keys[1]))
    equal, num_perm = int(np.count_nonzero(left["signature"] == right["signature"])), left["signature"].size
    both, sizes = common(left["shingles"], right["shingles"]), left["shingles"].size + right["shingles"].size
    sure, close = zone(verify, num_perm) if verify is not None else (0, 0)
    if left["text_hash"] == right["text_hash"]:
        joined = "equal words"
    elif not shared_bands:
        joined = "others"
    elif verify is None:
        joined = "band"
    elif equal >= sure:
        joined = "estimate"
    else:
        joined = "shingles" if equal >= close and is_similar(both, sizes, verify) else "others"
    similarity = round(both / (sizes - both), 4) if sizes > both else None
    return {
        "similarity": similarity,
        "estimate": round(equal / num_perm, 4),
        "shared_bands": shared_bands,
        "joined_by": joined,
    }


def _hint(session: Session, query: str) -> str:
    """Return the ids or URLs that come closest, or what to ask for instead."""
    main = [name for name in ("documents", "rejects") if any(name in s.groups for s in session.catalog.sources)]
    if re.fullmatch(r"[0-9a-f]{4,31}", query):
        rows = session.execute("SELECT doc_id AS near FROM documents WHERE starts_with(doc_id, ?) LIMIT 3", [query])
    else:
        host = re.sub(r"^[a-z]+://(www\.)?", "", query).split("/", 1)[0]
        union = " UNION ALL ".join(f"SELECT url FROM {name}" for name in main)
        rows = session.execute(
            f"SELECT DISTINCT url AS near FROM ({union}) WHERE contains(url, $host)"
            " ORDER BY jaro_winkler_similarity(url, $query) DESC, url LIMIT 3",
            {"host": host, "query": query},
        )
    if rows:
        return f"; near: {', '.join(visible(row['near']) for row in rows)}"
    return "; give a doc_id (32 hex digits) or a URL exactly as `gristmill sql` shows it"


def _parsed(text: str | None) -> Any:
    """Return JSON parsed, or the text itself when it is none."""
    try:
        return json.loads(text) if text is not None else None
    except ValueError:
        return text


def _document_text(document: Mapping[str, Any]) -> str:
    lines = [
        f"document {document['doc_id']} of source {document['source']}: {document['outcome'] or 'not decided yet'}"
    ]
    for failed in document["failed_rules"]:
        lines.append(f"  failed {failed['rule']}: {cell(failed['value'], 200)}")
        lines += [f"    {visible(str(Comparison(**each)))}" for each in failed["comparisons"]]
        rule = failed["resolved"] or failed["sql"]
        if rule:
            lines.append(f"    rule: {visible(rule)}")
        if rule and failed["sql"] not in (None, rule):
            lines.append(f"    written: {visible(failed['sql'])}")
    for near in document["near_misses"]:
        comparison = Comparison(**near["comparisons"][0])
        lines.append(f"  passed by little {visible(near['rule'])}: {visible(str(comparison))}")
    lines += [""] if len(lines) > 1 else []
    told = [name for name in ("url", "title", "date", "licence", "parent_id") if document.get(name) is not None]
    lines += [f"  {name}: {cell(document[name], 200)}" for name in told]
    if document["kept"]:
        lines.append("  " + "  ".join(f"{name}={cell(value)}" for name, value in document["kept"].items()))
    lines.append(_origin_text(document))
    lines += _component_text(document["component"], document["doc_id"])
    for folder in ("signals", "scores"):
        for group, columns in document[folder].items():
            measured = "  ".join(f"{name}={cell(value)}" for name, value in columns.items())
            lines.append(f"  {folder}/{group}: {measured}")
    lines.append(f"  text ({document['text_length']} code points): {cell(document['snippet'], 400)}")
    return "\n".join(lines)


def _component_text(component: Mapping[str, Any] | None, doc_id: str) -> list[str]:
    if component is None or component["component_size"] == 1:
        return []
    keeper = "this document" if component["keeper"] == doc_id else component["keeper"] or "none yet"
    size, method = component["component_size"], component["method"]
    lines = [f"  component {component['component_id']}: {size} documents by {method}, keeper: {keeper}"]
    for member in component["members"]:
        outcome = member["outcome"] or "not decided"
        lines.append(f"    {member['doc_id']} {member['source']} {outcome}: {cell(member['url'], 160)}")
        if "joined_by" in member:
            lines.append(
                f"      similarity {cell(member['similarity'])}, estimated {cell(member['estimate'])}, "
                f"{member['shared_bands']} shared bands; joined by {member['joined_by']}"
            )
    hidden = size - 1 - len(component["members"])
    return lines + ([f"    and {hidden} more"] if hidden > 0 else [])


def _reject_text(reject: Mapping[str, Any]) -> str:
    head = f"reject of source {reject['source']}: {reject['reason']}"
    return "\n".join(
        [head, f"  url: {cell(reject['url'], 200)}", f"  detail: {cell(reject['detail'], 400)}", _origin_text(reject)]
    )


def _origin_text(row: Mapping[str, Any]) -> str:
    origin = row["origin"]
    where = f"  origin: {cell(origin['file'], 200)} at {origin['offset']}, record {cell(origin['record_id'], 200)}"
    return where + (f"; input {cell(row['input'].get('url'), 200)}" if row["input"] and row["input"].get("url") else "")
