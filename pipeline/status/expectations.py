"""Whether a workspace is as its configuration expects: a row an expectation, `met`, `missed` or `cannot be told`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.status.config import ExpectConfig, bounds
from pipeline.status.runs import Kept, RunRecord, kept_now, records
from pipeline.table.catalog import Source
from pipeline.table.errors import ConfigError, InputError, ShardError, WorkspaceError, nearest
from pipeline.table.format import text_table, visible
from pipeline.table.query import literal, quote
from pipeline.table.schema import HOST, TOKEN_COLUMNS
from pipeline.table.sql import Session, connect, reading
from pipeline.table.storage import Storage, read_file

MET, MISSED, UNKNOWN = "met", "missed", "cannot be told"
MAX_FILE_BYTES = 1 << 28
MAX_NAMED = 10
"""Lines of a file that a missed expectation names."""
_DOC_ID = re.compile(r"[0-9a-fA-F]{32}")
_HOST = f"regexp_extract(lower(url), {literal(HOST)}, 1)"


@reading
def judge(storage: Storage, expected: Mapping[str, ExpectConfig]) -> list[dict[str, Any]]:
    """Return a row for each expectation of each source.

    Its keys are `source`, `expectation`, `wanted`, `found` (a number or None), `outcome` and `details` (lines).

    A file of documents that several sources name is one row, of them all: a document is in one of them.

    Raises: ConfigError for a rule that no source has; InputError for a file that cannot be read; WorkspaceError.
    """
    lists = _lists(expected)
    with connect(storage) as session:
        sources = {source.name: source for source in session.catalog.sources}
        _check_rules(sources, expected)
        try:
            kept, (runs, _) = kept_now(storage, {}), records(storage)  # a record is no proof
        except ShardError as error:
            raise WorkspaceError(str(error)) from error
        rows: list[dict[str, Any]] = []
        for name, config in expected.items():
            facts = _Facts(session, sources.get(name, Source(name, {})), kept.get(name), runs)
            rows += facts.rows(config)
        for (key, path), (names, lines) in lists.items():
            rows.append(_listed(session, [sources[name] for name in names if name in sources], key, path, lines))
        return rows


def as_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `judge` as a table for people, and below it what takes several lines."""
    shown = [
        {**row, "found": _figure(row["found"]), "details": row["details"][0] if len(row["details"]) == 1 else ""}
        for row in rows
    ]
    more = [row for row in rows if len(row["details"]) > 1]
    lines = ["\n  ".join([f"{row['source']} {row['expectation']}:", *map(visible, row["details"])]) for row in more]
    return text_table(shown) + "\n".join(lines)


def _figure(number: float | None) -> str:
    """Return a count or a share as a person reads it."""
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 1000 or number == int(number) else f"{number:.3g}"


@dataclass
class _Facts:
    """What is known of a source; queries are asked once, when an expectation needs them."""

    session: Session
    source: Source
    kept: Kept | None
    runs: Sequence[RunRecord]
    hosts: dict[str, Any] | None = None

    def rows(self, config: ExpectConfig) -> list[dict[str, Any]]:
        """Return the rows of all expectations but the files of documents."""
        kept, source = self.kept, self.source
        units, documents = source.rows("documents") + source.rows("rejects"), source.rows("documents")
        found: list[tuple[str, str | None, float | None, list[str]]] = [
            ("kept_share", config.kept_share, _share(kept.kept, kept.documents) if kept else None, []),
            ("kept_documents", config.kept_documents, kept.kept if kept else None, []),
            ("kept_tokens", config.kept_tokens, kept.kept_tokens if kept else None, []),
            ("rejects_share", config.rejects_share, _share(units - documents, units), []),
        ]
        failed = {rule["name"]: rule["failed"] for rule in _rules(source)}
        found += [
            (f"rule_share.{rule}", wanted_share, _share(failed[rule], kept.documents), [])
            for rule, wanted_share in config.rule_share.items()
            if rule in failed and kept is not None  # another source has the rule otherwise
        ]
        spoken = self._languages() if config.languages else {}
        found += [
            (f"languages.{name}", wanted_share, _share(spoken.get(name, 0), sum(spoken.values())), [])
            for name, wanted_share in config.languages.items()
        ]
        for key, measure in (("no_host_above", "documents"), ("no_host_tokens_above", "tokens")):
            if (wanted := getattr(config, key)) is not None:
                found.append((key, wanted, *self._largest_host(measure)))
        before = self._before()
        for key, change in (
            ("changed_kept_share", _change_of_share(before, kept)),
            ("changed_kept_tokens", _change_of_tokens(before, kept)),
        ):
            said = "no earlier run has counts to compare" if before is None else "nothing was kept to compare with"
            if before is not None and kept is not None and key.endswith("tokens") and not _same_unit(before, kept):
                said = f"tokens were counted by {before.counted_by}, and now by {kept.counted_by}"
            why = [] if change is not None else [said]
            found.append((key, getattr(config, key), change, why))
        nothing = "it has no documents" if not documents else "nothing was kept" if kept and not kept.kept else None
        return [
            _row(source.name, key, wanted, value, details or ([nothing] if value is None and nothing else []))
            for key, wanted, value, details in found
            if wanted
        ]

    def _before(self) -> Kept | None:
        """Return what the run before the last one kept; where the last one left no record, what is recorded last."""
        counted = [run.kept[self.source.name] for run in self.runs if self.source.name in run.kept]
        if counted and self.kept is not None and counted[-1].selection == self.kept.selection:
            counted.pop()
        return counted[-1] if counted else None

    def _columns(self) -> set[str]:
        if "outcomes" not in self.source.groups:
            return set()
        rows = self.session.execute(f"DESCRIBE {quote(self.source.name)}.outcomes")
        return {row["column_name"] for row in rows}

    def _languages(self) -> dict[str, int]:
        """Return the kept documents by language; none where nothing tells languages."""
        if "language" not in self._columns():
            return {}
        rows = self.session.execute(
            f"SELECT language, count(*) AS documents FROM {quote(self.source.name)}.outcomes"
            " WHERE outcome = 'kept' GROUP BY language"
        )
        return {str(row["language"]): row["documents"] for row in rows}

    def _largest_host(self, measure: str) -> tuple[float | None, list[str]]:
        """Return the share of the host with the most kept documents or tokens, and which it is."""
        columns = self._columns()
        counted = next((name for name in TOKEN_COLUMNS if name in columns), None)
        if not columns or (measure == "tokens" and counted is None):
            return None, []
        if self.hosts is None:
            (self.hosts,) = self.session.execute(
                f"""
                WITH hosts AS (
                    SELECT {_HOST} AS host, count(*) AS documents, sum({counted or 0})::DOUBLE AS tokens
                    FROM {quote(self.source.name)}.outcomes WHERE outcome = 'kept' GROUP BY host
                )
                SELECT sum(documents) AS all_documents, sum(tokens) AS all_tokens,
                    max(documents) FILTER (host <> '') AS documents, max(tokens) FILTER (host <> '') AS tokens,
                    min(host) FILTER (documents = most_documents AND host <> '') AS documents_host,
                    min(host) FILTER (tokens = most_tokens AND host <> '') AS tokens_host
                FROM (
                    SELECT *, max(documents) FILTER (host <> '') OVER () AS most_documents,
                        max(tokens) FILTER (host <> '') OVER () AS most_tokens FROM hosts
                )
                """
            )
        share = _share(self.hosts[measure] or 0, self.hosts[f"all_{measure}"] or 0)
        host = self.hosts[f"{measure}_host"]
        return share, [f"the largest is {host}"] if host else []


def _row(source: str, key: str, wanted: str, found: float | None, details: list[str]) -> dict[str, Any]:
    low, high = bounds(wanted)
    outcome = UNKNOWN if found is None else MET if low <= found <= high else MISSED
    row = {"source": source, "expectation": key, "wanted": wanted, "found": found, "outcome": outcome}
    return row | {"details": details if outcome != MET else []}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _change_of_share(before: Kept | None, now: Kept | None) -> float | None:
    shares = [_share(each.kept, each.documents) if each else None for each in (before, now)]
    return None if shares[0] is None or shares[1] is None else abs(shares[1] - shares[0])


def _same_unit(before: Kept, now: Kept) -> bool:
    return before.counted_by in (None, now.counted_by)  # a record of before does not say


def _change_of_tokens(before: Kept | None, now: Kept | None) -> float | None:
    if before is None or now is None or before.kept_tokens is None or now.kept_tokens is None:
        return None
    if not _same_unit(before, now):
        return None
    return _share(abs(now.kept_tokens - before.kept_tokens), before.kept_tokens)


def _rules(source: Source) -> list[Mapping[str, Any]]:
    return list(source.groups["outcomes"].details.get("rules", ())) if "outcomes" in source.groups else []


def _check_rules(sources: Mapping[str, Source], expected: Mapping[str, ExpectConfig]) -> None:
    """Refuse a rule that no source has."""
    known = {rule["name"] for source in sources.values() for rule in _rules(source)}
    for name, config in expected.items():
        for rule in config.rule_share:
            if known and rule not in known:
                raise ConfigError(
                    f"sources.{name}.expect.rule_share.{rule}: no source has such a rule{nearest(rule, known)}"
                )


# Files of documents ---------------------------------------------------------------------------------------------------

_Lists = dict[tuple[str, str], tuple[list[str], list[str]]]
"""Sources and lines by key and path."""


def _lists(expected: Mapping[str, ExpectConfig]) -> _Lists:
    """Read each file of documents once. Raises: InputError."""
    found: _Lists = {}
    for name, config in expected.items():
        for key, path in (("must_keep", config.must_keep), ("must_drop", config.must_drop)):
            if path is None:
                continue
            if (key, path) not in found:
                found[key, path] = [], _lines(key, path)
            found[key, path][0].append(name)
    return found


def _lines(key: str, path: str) -> list[str]:
    """Return the URLs and ids of a file in order, each once. Raises: InputError."""
    try:
        text = read_file(path, MAX_FILE_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"expect.{key}: {path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise InputError(f"expect.{key}: {path}: {error.strerror or error}; name a file of URLs, one a line") from error
    lines = (line.strip() for line in text.splitlines())
    named = (line.lower() if _DOC_ID.fullmatch(line) else line for line in lines)
    found = list(dict.fromkeys(line for line in named if line and not line.startswith("#")))
    if not found:
        raise InputError(f"expect.{key}: {path} names no URL and no doc_id; write one a line")
    return found


def _listed(session: Session, sources: Sequence[Source], key: str, path: str, lines: Sequence[str]) -> dict[str, Any]:
    """Return the row of a file of documents. A URL that several documents have is kept when one of them is."""
    kept: set[str] = set()
    why: dict[str, str] = {}
    for source in sources:
        for row in _found(session, source, lines):
            if row["outcome"] == "kept":
                kept.add(row["line"])
            else:
                why.setdefault(row["line"], row["why"])
    wrong = [line for line in lines if (line in kept) != (key == "must_keep")]
    details = [f"{line}: {why.get(line, 'not in the workspace') if key == 'must_keep' else 'kept'}" for line in wrong]
    details = [*details[:MAX_NAMED], *([f"{len(wrong) - MAX_NAMED:,} more"] if len(wrong) > MAX_NAMED else [])]
    unknown = sum(line not in kept and line not in why for line in lines)
    if key == "must_drop" and unknown:  # a misspelt one would pass for ever
        details.append(f"{unknown:,} of {len(lines):,} lines name nothing in the workspace")
    decided = all("outcomes" in source.groups for source in sources) and sources
    outcome = UNKNOWN if not decided else MISSED if wrong else MET
    wanted = f"{'all' if key == 'must_keep' else 'none'} of {len(lines):,} in {path}"
    name = "+".join(source.name for source in sources)
    row = {"source": name, "expectation": key, "wanted": wanted, "found": len(kept & set(lines))}
    return row | {"outcome": outcome, "details": details}


def _found(session: Session, source: Source, lines: Sequence[str]) -> list[dict[str, Any]]:
    """Return `line`, `outcome` and `why` of every document and reject that the lines name."""
    ids = [line for line in lines if _DOC_ID.fullmatch(line)]
    urls = [line for line in lines if not _DOC_ID.fullmatch(line)]
    name, asked = quote(source.name), []
    dropped = (
        "'dropped by ' || array_to_string(list_transform(failed_rules, lambda failure: failure.rule), ', ')"
        " || coalesce(', a copy of ' || duplicate_of, '')"
    )
    if "outcomes" in source.groups:
        for column, given in (("url", "urls"), ("doc_id", "ids")):
            asked.append(
                f"SELECT line, outcome, {dropped} AS why FROM (SELECT unnest(${given}::VARCHAR[]) AS line)"
                f" JOIN {name}.outcomes ON {column} = line"
            )
    if "rejects" in source.groups:
        asked.append(
            "SELECT line, 'rejected' AS outcome, 'rejected: ' || reason AS why"
            f" FROM (SELECT unnest($urls::VARCHAR[]) AS line) JOIN {name}.rejects ON url = line"
        )
    if not asked:
        return []
    values = {"urls": urls, "ids": ids} if "outcomes" in source.groups else {"urls": urls}
    return session.execute(f"{' UNION ALL '.join(asked)} ORDER BY ALL", values)
