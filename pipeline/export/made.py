"""How a source's kept documents were made: every identity behind them, from the manifests of the parts used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pipeline.export.rows import KeptDocuments
from pipeline.table.errors import ReplacedError, WorkspaceError, redact
from pipeline.table.shards import THREADS, Manifest, Part, digest, read_batches

_MADE_FROM = {"duplicates": "signatures", "scores": "predictions"}
"""What a group was made from that outcomes do not read themselves."""
_IN_INDEX = ("selection", "components", "ranks")
"""Settings that are keys of a whole group: what they stand for is in its index."""


@dataclass(frozen=True, slots=True)
class Made:
    """What manifests and indexes say of a source's kept documents; rows are JSON-able."""

    recipe: str
    """Digest of all identities: stages, versions, settings, libraries and models, and what was kept by them."""
    stages: list[dict[str, Any]]
    """Rows of stage, group, version, settings, libraries, parts."""
    inputs: list[dict[str, Any]]
    """Rows of where (host and folder), files, bytes; the largest first."""
    rejects: dict[str, int]
    """Units that did not become documents, by reason; the most frequent first."""
    documents: int
    kept: int
    rules: list[dict[str, Any]]
    """Rows of rule, sql, failed, in order; the built-in ones have no SQL."""
    constants: list[dict[str, Any]]
    keep: str
    components: dict[str, int]
    """Counts of what was found by `dedup`, over all sources that it compared; none where it did not run."""
    scope: list[str]
    doubts: list[str]


def how_made(documents: KeptDocuments) -> Made:
    """Return how what a source kept was made.

    Raises: WorkspaceError when a manifest is missing, or what the selection was made from is not current any more.
    """
    found = {"outcomes": _manifests(documents, "outcomes", documents.outcomes.parts)}
    groups: dict[str, dict[str, str]] = {}
    for item in (item for manifest in found["outcomes"] for item in manifest.inputs if "group" in item):
        groups.setdefault(item["group"], {})[item["part"]] = item["content"]
    for folder, parts in groups.items():
        found[folder] = _made_then(documents, folder, parts)
        kind, slash, name = folder.partition("/")
        if kind in _MADE_FROM:
            below = {item["part"]: item["content"] for manifest in found[folder] for item in manifest.inputs}
            folder = f"{_MADE_FROM[kind]}{slash}{name}"
            found[folder] = _made_then(documents, folder, below)
    found["curated"] = _manifests(documents, "curated", documents.curated.parts)
    identities = [[folder, *_identity(manifest)] for folder, each in found.items() for manifest in each]
    distinct = {digest(identity): identity for identity in identities}
    duplicates = documents.group("duplicates").index() if "duplicates" in found else None
    details = duplicates.details if duplicates else {}
    extracted = found.get("documents", [])
    told = documents.outcomes.details
    return Made(
        recipe=digest([documents.source, sorted(distinct)]),
        stages=_stages(found, details),
        inputs=_inputs(extracted),
        rejects=_rejects(documents, {manifest.part.stem for manifest in extracted}),
        documents=sum(part.rows for part in documents.outcomes.parts),
        kept=documents.rows,
        rules=[
            {"rule": each["name"], "sql": each["sql"], "failed": each.get("failed")} for each in told.get("rules", [])
        ],
        constants=list(told.get("constants", [])),
        keep=str(told.get("keep", "")),
        components=dict(duplicates.counts) if duplicates else {},
        scope=list(details.get("scope", [])),
        doubts=_doubts(documents, found),
    )


def _made_then(documents: KeptDocuments, folder: str, wanted: Mapping[str, str]) -> list[Manifest]:
    """Return the manifests of the parts of a group that have a content, by stem."""
    index = documents.group(folder).index()
    parts = [part for part in index.parts if wanted.get(part.stem) == part.content] if index else []
    if len(parts) < len(wanted):
        raise _wrong(
            documents,
            f"{documents.source}/{folder} is not what was selected from any more, so that nothing true can be said of "
            "how the kept documents were made; `gristmill run CONFIG` selects again",
        )
    return _manifests(documents, folder, parts)


def _manifests(documents: KeptDocuments, folder: str, parts: Sequence[Part]) -> list[Manifest]:
    group = documents.group(folder)
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(group.manifest, (part.name for part in parts)))
    manifests = [each for part, each in zip(parts, found, strict=True) if each is not None and each.part == part]
    if len(manifests) < len(parts):
        where = f"{documents.storage.url}: {len(parts) - len(manifests)} manifests of {documents.source}/{folder}"
        raise _wrong(documents, f"{where} are missing or damaged; `gristmill run CONFIG` makes these parts anew")
    return manifests


def _wrong(documents: KeptDocuments, message: str) -> WorkspaceError:
    is_current = documents.group("outcomes").index() == documents.outcomes
    return WorkspaceError(message) if is_current else ReplacedError(message)


def _identity(manifest: Manifest) -> list[Any]:
    return [manifest.stage, manifest.version, manifest.config, manifest.libraries]


def _stages(found: Mapping[str, Sequence[Manifest]], components: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each group and identity, in the order in which groups are made."""
    first = ("documents", "signals", "signatures", "duplicates", "against", "predictions", "scores", "outcomes")
    order = {folder: number for number, folder in enumerate(first)}
    rows: dict[str, dict[str, Any]] = {}
    for folder in sorted(found, key=lambda folder: (order.get(folder.split("/")[0], len(order)), folder)):
        for manifest in found[folder]:
            key = digest([folder, *_identity(manifest)])
            settings = {name: value for name, value in manifest.config.items() if name not in _IN_INDEX}
            if folder == "duplicates":
                settings |= components.get("config", {})
            if folder == "outcomes":
                settings = {}  # its rules, constants and order are told in full
            row = {"stage": manifest.stage, "group": folder, "version": manifest.version, "settings": settings}
            rows.setdefault(key, {**row, "libraries": manifest.libraries, "parts": 0})["parts"] += 1
    return list(rows.values())


def _inputs(manifests: Sequence[Manifest]) -> list[dict[str, Any]]:
    """Return how many files and bytes of input lay at each host and folder; of local folders their names alone."""
    sizes = {item["url"]: int(item.get("size", 0)) for each in manifests for item in each.inputs if "url" in item}
    files: Counter[str] = Counter()
    volume: Counter[str] = Counter()
    for url, size in sizes.items():
        parts = urlsplit(redact(url)) if "://" in url else None
        path = parts.path if parts else url
        folder = path.rpartition("/")[0]
        where = f"{parts.scheme}://{parts.netloc}{folder}/" if parts else f"{folder.rpartition('/')[2]}/"
        files[where] += 1
        volume[where] += size
    rows = [{"where": where, "files": files[where], "bytes": volume[where]} for where in files]
    return sorted(rows, key=lambda row: (-row["bytes"], row["where"]))


def _rejects(documents: KeptDocuments, stems: set[str]) -> dict[str, int]:
    group = documents.group("rejects")
    index = group.index()
    counts: Counter[str] = Counter()
    for part in index.parts if index else []:
        if part.stem in stems:
            for rows in read_batches(group, part.name, ["reason"]):
                counts.update(rows["reason"].to_pylist())
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _doubts(documents: KeptDocuments, found: Mapping[str, Sequence[Manifest]]) -> list[str]:
    doubts = []
    for folder in sorted(folder for folder in found if folder.startswith("scores/")):
        index = documents.group(folder).index()
        name = folder.removeprefix("scores/")
        doubts += [f"classifier {name}: {doubt}" for doubt in (index.details.get("doubts", []) if index else [])]
    return doubts
