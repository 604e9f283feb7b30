"""How many documents and tokens each stage and each rule left. Every number is counted, none is estimated."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.select.rules import BUILT_IN
from pipeline.table.catalog import Catalog, Source
from pipeline.table.format import visible
from pipeline.table.query import quote
from pipeline.table.schema import TOKEN_COLUMNS
from pipeline.table.sql import Session, connect, reading
from pipeline.table.storage import Storage

_SHARE = re.compile(r"\btop_(token_)?share\s*\(", re.IGNORECASE)
_FAILED = "list_transform(failed_rules, lambda failure: failure.rule)"
_MEASURING = (("annotate", "signals/"), ("dedup", "duplicates"), ("classify", "scores/"))


@dataclass(frozen=True, slots=True)
class FunnelRow:
    """What entered and left one stage or rule; tokens are None where nothing has counted them."""

    source: str
    stage: str
    rule: str | None
    documents_in: int
    documents_out: int
    tokens_in: int | None
    tokens_out: int | None

    @property
    def took(self) -> bool:
        return self.documents_out < self.documents_in


@reading
def funnel(storage: Storage) -> list[FunnelRow]:
    """Return the funnel of every source, from units to curated documents, for the stages that have run.

    Each row takes what the one before left. `extract` is one row (units in, documents out); `annotate`, `dedup` and
    `classify` only measure. `select` has a row a rule, in the rules' order: a document leaves at the first rule that it
    fails, a non-keeper at the end.

    Raises: WorkspaceError when there is no workspace or a part cannot be read.
    """
    with connect(storage) as session:
        return [row for source in session.catalog.sources for row in _source_rows(session, source)]


@reading
def reject_reasons(storage: Storage) -> dict[str, dict[str, int]]:
    """Return how many rejects each source has by reason, most frequent first.

    Raises: WorkspaceError when there is no workspace or a part cannot be read.
    """
    query = "SELECT reason, count(*) AS units FROM {}.rejects GROUP BY reason ORDER BY units DESC, reason"
    with connect(storage) as session:
        return {
            source.name: {row["reason"]: row["units"] for row in session.execute(query.format(quote(source.name)))}
            for source in session.catalog.sources
            if source.rows("rejects")
        }


@reading
def kept_by_shares(storage: Storage) -> dict[str, list[str]]:
    """Return a line for every rule of a source that keeps a share: what share of documents and of tokens it keeps.

    The whole is what the rule counts among: documents that pass every rule without a share, copies included.

    Raises: WorkspaceError when there is no workspace or a part cannot be read.
    """
    with connect(storage) as session:
        return {
            source.name: [_kept_by(session, source, str(name)) for name in shares]
            for source in session.catalog.sources
            if "outcomes" in source.groups
            and (shares := [rule["name"] for rule in _rules(source) if _takes_share(rule)])
        }


@reading
def doubts(storage: Storage) -> dict[str, list[str]]:
    """Return, for each source, a line for every reason not to rely on the scores that its classifiers gave.

    Raises: WorkspaceError when there is no workspace.
    """
    return {
        source.name: [
            f"warning: classifier {visible(name)}: {visible(str(doubt))}"
            for name in source.nested("scores")
            for doubt in source.groups[f"scores/{name}"].details.get("doubts", [])
        ]
        for source in Catalog.read(storage).sources
    }


def as_text(
    rows: Sequence[FunnelRow],
    reasons: Mapping[str, Mapping[str, int]],
    notes: Mapping[str, Sequence[str]] | None = None,
    everything: bool = False,
) -> str:
    """Return a table for people, a block a source, with what each row kept of its own input and of the units.

    Rules that took nothing are left out and counted, unless `everything` is asked for. `reasons` are those of
    `reject_reasons`, `notes` lines such as those of `kept_by_shares` and `doubts`.
    """
    blocks = []
    for source in dict.fromkeys(row.source for row in rows):
        all_rows = [row for row in rows if row.source == source]
        shown = [row for row in all_rows if everything or row.stage != "select" or row is all_rows[-1] or row.took]
        lines = list(notes.get(source, ()) if notes else ())
        if len(shown) < len(all_rows):
            hidden = len(all_rows) - len(shown)
            lines.append(f"{hidden} {'rule' if hidden == 1 else 'rules'} that took nothing: --all shows them, too")
        rejects = ", ".join(f"{visible(reason)} {units:,}" for reason, units in reasons.get(source, {}).items())
        lines += [f"rejects: {rejects}"] if rejects else []
        blocks.append("\n  ".join([_block(source, shown), *lines]))
    return "\n\n".join(blocks)


def _rules(source: Source) -> list[Mapping[str, str | None]]:
    """Return the rules that a source's outcomes were decided by, as the index has them."""
    return list(source.groups["outcomes"].details.get("rules", []))


def _takes_share(rule: Mapping[str, str | None]) -> bool:
    return _SHARE.search(rule["sql"] or "") is not None


def _kept_by(session: Session, source: Source, name: str) -> str:
    counted = _token_column(session, source)
    others = [rule["name"] for rule in _rules(source) if rule["name"] not in BUILT_IN and not _takes_share(rule)]
    (found,) = session.execute(
        f"""
        WITH counted AS (
            SELECT {counted or 0} AS tokens, list_contains({_FAILED}, $name) AS failed
            FROM {quote(source.name)}.outcomes WHERE NOT list_has_any({_FAILED}, $others::VARCHAR[])
        )
        SELECT
            count(*) AS documents, count(*) FILTER (NOT failed) AS documents_kept,
            coalesce(sum(tokens), 0)::DOUBLE AS tokens,
            coalesce(sum(tokens) FILTER (NOT failed), 0)::DOUBLE AS tokens_kept
        FROM counted
        """,
        {"name": name, "others": others},
    )
    of_tokens = f" and {_percent(found['tokens_kept'], found['tokens'])} of their {found['tokens']:,.0f} tokens"
    share = f"{_percent(found['documents_kept'], found['documents'])} of {found['documents']:,} documents"
    return f"{visible(name)} keeps {share}{of_tokens if counted else ''}, of those that pass every rule without a share"


def _source_rows(session: Session, source: Source) -> Iterator[FunnelRow]:
    counted = _token_column(session, source)
    documents, tokens = source.rows("documents"), _tokens(session, source, counted)
    units = documents + source.rows("rejects")
    first = "rephrase" if "signals/rephrase" in source.groups else "extract"
    yield FunnelRow(source.name, first, None, units, documents, None, tokens)
    for stage, folder in _MEASURING:
        if any(path.startswith(folder) for path in source.groups):
            yield FunnelRow(source.name, stage, None, documents, documents, tokens, tokens)
    if "outcomes" not in source.groups:
        return
    written = [str(rule["name"]) for rule in _rules(source) if rule["name"] not in BUILT_IN]
    lost = _lost_by_first_rule(session, source, written, counted)
    left, left_tokens = sum(each[0] for each in lost.values()), sum(each[1] for each in lost.values())
    last = [name for name in BUILT_IN if name in lost or "duplicates" in source.groups]
    names: list[str | None] = [
        *written,
        *sorted(name for name in lost if name and name not in {*written, *last}),
        *last,
    ]
    for name in names or [None]:
        took, took_tokens = lost.get(name, (0, 0)) if name else (0, 0)
        told = (round(left_tokens), round(left_tokens - took_tokens)) if counted else (None, None)
        yield FunnelRow(source.name, "select", name, left, left - took, *told)
        left, left_tokens = left - took, left_tokens - took_tokens


def _lost_by_first_rule(
    session: Session, source: Source, written: Sequence[str], counted: str | None
) -> dict[str | None, tuple[int, float]]:
    """Return how many documents and tokens each rule took as the first that a document fails, under None what none
    took.
    """
    rows = session.execute(
        f"""
        WITH failed AS (
            SELECT {counted or 0} AS tokens, {_FAILED} AS names FROM {quote(source.name)}.outcomes
        )
        SELECT
            coalesce(
                list_filter($written::VARCHAR[], lambda name: list_contains(names, name))[1],
                list_filter(names, lambda name: NOT list_contains($last::VARCHAR[], name))[1],
                list_filter($last::VARCHAR[], lambda name: list_contains(names, name))[1]
            ) AS rule,
            count(*) AS documents,
            coalesce(sum(tokens), 0)::DOUBLE AS tokens
        FROM failed GROUP BY rule
        """,
        {"written": list(written), "last": list(BUILT_IN)},
    )
    return {row["rule"]: (row["documents"], row["tokens"]) for row in rows}


def _token_column(session: Session, source: Source) -> str | None:
    """Return the best column that counts tokens both in the signals and, where there is one, in the ledger."""
    views = [f"signals_{name}" for name in source.nested("signals")]
    present = {column for view in views for column in _columns(session, source, view)}
    if "outcomes" in source.groups:
        present &= _columns(session, source, "outcomes")
    return next((name for name in TOKEN_COLUMNS if name in present), None)


def _tokens(session: Session, source: Source, counted: str | None) -> int | None:
    """Return the tokens of all documents of a source."""
    for view in (f"signals_{name}" for name in source.nested("signals")):
        if counted and counted in _columns(session, source, view):
            where = f"{quote(source.name)}.{quote(view)}"
            (found,) = session.execute(f"SELECT coalesce(sum({counted}), 0)::DOUBLE AS tokens FROM {where}")
            return round(float(found["tokens"]))
    return None


def _columns(session: Session, source: Source, view: str) -> set[str]:
    return {row["column_name"] for row in session.execute(f"DESCRIBE {quote(source.name)}.{quote(view)}")}


def _block(source: str, rows: Sequence[FunnelRow]) -> str:
    units = rows[0].documents_in
    header = ("stage", "rule", "in", "out", "kept", "of units", "tokens in", "tokens out")
    table: list[tuple[str, ...]] = [header]
    for row in rows:
        shares = (_percent(row.documents_out, whole) for whole in (row.documents_in, units))
        tokens = ("-" if number is None else f"{number:,}" for number in (row.tokens_in, row.tokens_out))
        counts = (f"{row.documents_in:,}", f"{row.documents_out:,}")
        table.append((row.stage, visible(row.rule or ""), *counts, *shares, *tokens))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]
    return "\n".join([f"{visible(source)}", *(f"  {line}" for line in lines)])


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
