"""What another policy would do: rules on what was measured (`what_if`), one rule at many thresholds (`sweep`), and what
changes against what was decided (`diff`). Nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipeline.report import page
from pipeline.report.drawing import BLUE, GREEN, MARKERS, ORANGE, PINK, RED, SKY, draw, legend, new_figure, short
from pipeline.select.decide import Selection
from pipeline.select.policy import Judged, as_reader, judge, matches, named_sources, present, present_rules, selections
from pipeline.select.rules import Rule, RuleSet, constant_function, load_rules
from pipeline.select.sample import Shown, check_examples, example_rows, examples_text, lowest, shuffled
from pipeline.table import query
from pipeline.table.catalog import Catalog, Source
from pipeline.table.errors import UsageError, WorkspaceError, nearest
from pipeline.table.format import cell, text_table, visible
from pipeline.table.query import Node
from pipeline.table.sql import reading
from pipeline.table.storage import Storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_PAIRS = 10
"""Pairs of rules whose overlap people are shown."""
MAX_VALUES = 200
"""Thresholds of one sweep: each has a bit of every document."""
LARGE = 10**15
"""From here on a threshold is written as a float."""
ABSENT = "absent"
"""In place of a rule, where a document is not there, or nothing was decided of it."""
_WHERE = "what-if.rules"
_COLOURS = (BLUE, ORANGE, GREEN, RED, SKY, PINK)
_SIGNS = {
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_LESSTHANOREQUALTO": "<=",
    "COMPARE_LESSTHAN": "<",
}
_MIRRORED = {">=": "<=", ">": "<", "<=": ">=", "<": ">", "=": "="}


# ---- what if?


@dataclass(frozen=True, slots=True)
class WhatIf:
    """What rules would do to the documents of a workspace."""

    rules: str
    """The preset or file, or where the rules stand."""
    funnel: list[dict[str, Any]]
    overlap: list[dict[str, Any]]
    examples: list[dict[str, Any]]


@reading
@as_reader()
def what_if(
    storage: Storage, rules: str | Mapping[str, Any], sources: Sequence[str] | None = None, examples: int = 0
) -> WhatIf:
    """Return the funnel of `rules` on some sources of a workspace (all by default), from what was measured of them.

    `rules` is a preset, a file or a mapping. A row of the funnel for each source and rule: what came in and left in the
    rules' order, what fails the rule at all, and what it alone drops. Overlap: the documents that two rules both fail,
    and their share of the smaller one's. Sources that share components with one of these are judged with it, by the
    rules that they have. Without an order of election of its own the one of the workspace holds.

    Raises: WorkspaceError for what is not there, ConfigError for rules that are not, RuleError for one that does not
    bind to a source's columns.
    """
    check_examples(examples)
    catalog = Catalog.read(storage)
    chosen = named_sources(catalog, sources)
    asked = load_rules(rules, _WHERE)
    names = {source.name for source in chosen}

    def rules_of(source: Source) -> RuleSet:
        index, keep = source.groups.get("outcomes"), None
        if asked.keep_origin.startswith(_WHERE.split(".")[0]) and index is not None:
            keep = index.details.get("keep") or None
        found = load_rules(rules, _WHERE, keep) if keep else asked
        if source.name not in names:
            found = present_rules(source, ", ".join(map(str, found.keep))) or found
        without = "" if source.nested("signals") else ", which has no signals yet"
        where = f" on source {source.name}{without}"
        return replace(found, origin=f"{found.origin}{where}", keep_origin=f"{found.keep_origin}{where}")

    made = WhatIf(rules if isinstance(rules, str) else "rules", [], [], [])
    for selection in selections(catalog, chosen, rules_of):
        (decided,) = judge(storage, selection)
        for judged in decided:
            if judged.source in names:
                funnel, overlap = _counted_by_rule(judged)
                made.funnel.extend(funnel)
                made.overlap.extend(overlap)
                if examples:
                    (source,) = (each for each in chosen if each.name == judged.source)
                    made.examples.extend(_what_changes(judged, present(storage, source), examples))
    return made


def what_if_text(found: WhatIf) -> str:
    """Return a block a source for people. Rules that fail no document are counted."""
    blocks = []
    for source in dict.fromkeys(row["source"] for row in found.funnel):
        funnel, pairs = ([row for row in rows if row["source"] == source] for rows in (found.funnel, found.overlap))
        blocks.append(_block(source, [row for row in funnel if row["fails"]] or funnel[-1:]))
        idle = sum(not row["fails"] for row in funnel)
        if 0 < idle < len(funnel):
            verb = "rule that fails" if idle == 1 else "rules that fail"
            blocks.append(f"  {idle} {verb} no document: JSON has them, too\n")
        if pairs:
            more = f", the largest {MOST_PAIRS} of {len(pairs)}" if len(pairs) > MOST_PAIRS else ""
            blocks.append(_block(f"{source}: documents that two rules both drop{more}", pairs[:MOST_PAIRS]))
        blocks.append(examples_text([row for row in found.examples if row["source"] == source]))
    return "".join(blocks)


def _block(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows of one source as a table below a title, without its name in each."""
    shown = [{name: _cell(name, value) for name, value in row.items() if name != "source"} for row in rows]
    indented = text_table(shown).rstrip("\n").replace("\n", "\n  ")
    return f"{visible(title)}\n  {indented}\n"


def _cell(name: str, value: Any) -> Any:
    """Return a value of a table for people."""
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{100 * value:.1f} %" if name.endswith("share") and value is not None else value


def _counted_by_rule(judged: Judged) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of a source's funnel and of its rules' overlap."""
    count = len(judged.rules)
    tokens = judged.tokens if judged.tokens is not None else np.zeros(len(judged.words))
    sums = {name: np.zeros((2, count)) for name in ("fails", "alone", "first")}
    both = np.zeros((count, count))
    for rows, failed in judged.blocks():
        dropped = failed.any(axis=1)
        failed = failed[dropped].astype(np.float32)
        weights = np.stack([np.ones(len(failed)), tokens[rows][dropped]])
        first, alone = failed.argmax(axis=1), failed.sum(axis=1) == 1
        sums["fails"] += weights @ failed
        for total, weight in enumerate(weights):
            sums["first"][total] += np.bincount(first, weight, count)
            sums["alone"][total] += np.bincount(first[alone], weight[alone], count)
        both += failed.T @ failed  # exact: a block has fewer rows than a float32 has integers
    left = np.array([len(judged.words), tokens.sum()])
    funnel = []
    for number, rule in enumerate(judged.rules):
        took = {name: _pair(judged, values[:, number]) for name, values in sums.items()}
        after = left - sums["first"][:, number]
        (documents_in, tokens_in), (documents_out, tokens_out) = _pair(judged, left), _pair(judged, after)
        left = after
        funnel.append(
            {
                "source": judged.source,
                "rule": rule,
                "documents_in": documents_in,
                "documents_out": documents_out,
                "tokens_in": tokens_in,
                "tokens_out": tokens_out,
                "fails": took["fails"][0],
                "fails_tokens": took["fails"][1],
                "alone": took["alone"][0],
                "alone_tokens": took["alone"][1],
            }
        )
    pairs = [
        {
            "source": judged.source,
            "rule": judged.rules[one],
            "other": judged.rules[other],
            "documents": int(both[one, other]),
            "share": round(float(both[one, other] / min(both[one, one], both[other, other])), 6),
        }
        for one, other in zip(*np.triu_indices(count, 1), strict=True)
        if both[one, other]
    ]
    return funnel, sorted(pairs, key=lambda pair: -pair["documents"])


def _pair(judged: Judged, values: NDArray[np.float64]) -> tuple[int, int | None]:
    """Return documents and tokens as they are told."""
    return int(values[0]), None if judged.tokens is None else round(float(values[1]))


def _what_changes(judged: Judged, before: Judged | None, count: int) -> list[dict[str, Any]]:
    """Return what each rule alone drops, and what each rule of the workspace dropped and these bring back."""
    keys, first = shuffled(judged), judged.first()
    resolved = {rule.name: rule for rule in judged.resolved}
    shown = [
        Shown("dropped alone", rule, lowest(keys, judged.fails(rule, alone=True), count), resolved.get(rule))
        for rule in judged.rules
    ]
    if before is not None:
        place = matches(judged, before)
        took = np.where(place >= 0, before.first()[place] if len(before.words) else -1, -1)
        resolved = {rule.name: rule for rule in before.resolved}
        shown += [
            Shown("brought back", rule, lowest(keys, (first < 0) & (took == number), count), resolved.get(rule))
            for number, rule in enumerate(before.rules)
        ]
    return example_rows(judged, shown)


# ---- one rule at many thresholds


@reading
@as_reader()
def sweep(
    storage: Storage,
    rule: str,
    values: str | Sequence[float],
    sources: Sequence[str] | None = None,
    column: str | None = None,
) -> list[dict[str, Any]]:
    """Return what a workspace would keep with each of `values` in place of the number that a rule compares with,
    everything else as its outcomes were decided: a row for each source that has the rule and each value, in order, the
    number of now among them.

    `values` are numbers, or text: `0.6:0.9:0.02` (none beyond 0.9) or `1,2,5`. `column` chooses among several numbers:
    that which this column, or expression, is compared with.

    Raises: WorkspaceError for what is not there; UsageError for values that are no numbers, or a rule without one such
    number.
    """
    catalog, wanted = Catalog.read(storage), _numbers(values)
    present = {source.name: rules for source in catalog.sources if (rules := present_rules(source))}
    chosen = [source for source in named_sources(catalog, sources) if source.name in present]
    having = [source for source in chosen if rule in {each.name for each in present[source.name].rules}]
    if not chosen:
        raise WorkspaceError(f"{storage.url}: nothing is decided yet, so no rule is in force; `gristmill run CONFIG`")
    if not having:
        known = dict.fromkeys(each.name for source in chosen for each in present[source.name].rules)
        where = ", ".join(source.name for source in chosen)
        raise WorkspaceError(f"{storage.url}: no rule {rule!r} decided {where}{nearest(rule, known)}")
    variants: dict[str, dict[Decimal, RuleSet]] = {}
    now: dict[str, Decimal] = {}
    for source in having:
        try:
            now[source.name], variants[source.name] = _variants(present[source.name], rule, wanted, column)
        except UsageError as error:
            raise UsageError(f"source {source.name}: {error}; --source chooses sources") from error
    every = sorted({*wanted, *now.values()})

    def rules_of(source: Source) -> RuleSet:
        if source.name not in present:
            raise WorkspaceError(f"{storage.url}: nothing is decided of {source.name} yet; `gristmill run CONFIG`")
        return present[source.name]

    rows = []
    for selection in selections(catalog, having, rules_of):
        instead = [{name: each[value] for name, each in variants.items() if value in each} for value in every]
        for value, decided in zip(every, judge(storage, selection, instead), strict=True):
            for judged in decided:
                if value in variants.get(judged.source, ()):
                    is_now = value == now[judged.source]
                    rows.append(
                        {"source": judged.source, "value": float(value), "is_now": is_now} | _kept(judged, rule)
                    )
    return sorted(rows, key=lambda row: (row["source"], row["value"]))


def _numbers(values: str | Sequence[float]) -> list[Decimal]:
    """Return the values of a sweep, each once. Raises: UsageError."""
    try:
        if not isinstance(values, str):
            found = [Decimal(str(value)) for value in values]
        elif ":" in values:
            first, last, step = map(Decimal, values.split(":"))
            count = math.floor((last - first) / step) + 1 if step else 0
            found = [first + step * number for number in range(min(count, MAX_VALUES + 1))]
        else:
            found = list(map(Decimal, values.split(",")))
    except (ArithmeticError, ValueError) as error:
        raise UsageError(f"--values {values!r}: write FIRST:LAST:STEP or numbers with commas between them") from error
    if not 0 < len(found) <= MAX_VALUES or not all(math.isfinite(float(value)) for value in found):
        raise UsageError(f"--values {values!r}: give between 1 and {MAX_VALUES} numbers, finite ones")
    return list(dict.fromkeys(found))


def _variants(
    rules: RuleSet, name: str, values: Sequence[Decimal], column: str | None
) -> tuple[Decimal, dict[Decimal, RuleSet]]:
    """Return the number that a rule compares with, and the rules with each of `values`, and that number, for it."""
    (rule,) = (each for each in rules.rules if each.name == name)
    with query.sandbox() as connection:
        every = list(_compared_numbers(connection, rule.tree))
        found = [each for each in every if column in (None, *each.reads, each.left, f"{each.left} {each.wants}")]
        if len(found) != 1:
            listed = ", ".join(f"'{each.left} {each.wants}' ({_literal(each.node)})" for each in every)
            said = f"name one of its numbers with --column: {listed}" if every else "it compares with no number"
            raise UsageError(f"rule {name!r} ({rule.sql}): {said}")
        (number,) = found
        made = {}
        for value in dict.fromkeys([Decimal(_literal(number.node)), *values]):
            text = format(value, "f") if abs(value) < LARGE else str(float(value))
            kind = "NUMERIC" if "." in text or "e" in text else "INTEGER"
            new: Node = {**number.node, "literal": {"kind": kind, "text": text}}
            tree = query.replaced(rule.tree, partial(_instead, number.node, new))
            (sql,) = query.render(connection, [tree])
            made[value] = replace(
                rules, rules=tuple(Rule(name, sql, tree) if each is rule else each for each in rules.rules)
            )
    return Decimal(_literal(number.node)), made


def _instead(old: Node, new: Node, node: Node) -> Node | None:
    return new if node is old else None


@dataclass(frozen=True, slots=True)
class _Number:
    """A number that a rule compares something with."""

    left: str
    wants: str
    node: Node
    reads: tuple[str, ...]


def _compared_numbers(connection: duckdb.DuckDBPyConnection, tree: Node) -> Iterator[_Number]:
    """Yield the numbers that a rule compares with, and the shares that it keeps, in reading order."""
    for node in query.walk(tree):
        kind = str(node.get("type"))
        if node.get("class") == "COMPARISON":
            sign = _SIGNS.get(kind, "=")
            pairs = [(node["left"], sign, node["right"]), (node["right"], _MIRRORED[sign], node["left"])]
        elif node.get("class") == "BETWEEN":
            pairs = [(node["input"], ">=", node["lower"]), (node["input"], "<=", node["upper"])]
        elif constant_function(node):
            call, share = query.arguments(node)
            pairs = [(call, constant_function(node) or "", share)]
        else:
            continue
        for left, wants, right in pairs:
            if right.get("class") == "CONSTANT" and right["literal"].get("kind") in ("INTEGER", "NUMERIC"):
                (sql,) = query.render(connection, [left])
                yield _Number(sql, wants, right, query.columns_read(left))


def _literal(node: Node) -> str:
    return str(node["literal"]["text"])


def _kept(judged: Judged, rule: str) -> dict[str, Any]:
    """Return what a policy keeps of a source, and what one of its rules does to it."""
    kept = judged.kept
    return {
        "documents": len(kept),
        "kept": int(kept.sum()),
        "kept_share": round(float(kept.mean()), 6) if len(kept) else None,
        "tokens": _tokens(judged, np.ones(len(kept), np.bool_)),
        "kept_tokens": _tokens(judged, kept),
        "fails": int(judged.fails(rule).sum()),
        "alone": int(judged.fails(rule, alone=True).sum()),
    }


def sweep_text(rule: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a table a source for people."""
    sources = dict.fromkeys(row["source"] for row in rows)
    return "".join(_block(f"{name}: {rule}", [row for row in rows if row["source"] == name]) for name in sources)


def sweep_page(rule: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a sweep as one HTML page: a plot of what is kept, and the table."""

    def plot() -> tuple[Figure, str]:
        drawn = new_figure(3.6)
        left, right = drawn.subplots(1, 2)
        for number, source in enumerate(dict.fromkeys(row["source"] for row in rows)):
            mine = [row for row in rows if row["source"] == source]
            colour, marker = _COLOURS[number % len(_COLOURS)], MARKERS[number % len(MARKERS)]
            for axes, name in ((left, "kept"), (right, "kept_tokens")):
                values, kept = [row["value"] for row in mine], [row[name] or 0 for row in mine]
                axes.plot(values, kept, color=colour, marker=marker, markersize=4, label=short(source))
                now = [place for place, row in enumerate(mine) if row["is_now"]]
                axes.plot([values[n] for n in now], [kept[n] for n in now], "o", color=colour, markersize=9, mfc="none")
                axes.set_xlabel("threshold")
                axes.set_title("documents kept" if name == "kept" else "tokens kept")
                axes.set_ylim(bottom=0)
        legend(drawn, left)
        return drawn, "A ring is the threshold of now. Everything else is as the workspace's outcomes were decided."

    plots = draw({"sweep": (f"what is kept, by the threshold of {rule}", plot)})
    head = list(rows[0]) if rows else []
    body = [[page.text(cell(_cell(name, row[name]))) for name in head] for row in rows]
    sections = [
        ("plot", "What is kept", page.figure(plots.get("sweep"))),
        ("table", "Numbers", page.table([page.text(name) for name in head], body)),
    ]
    return page.page(
        f"{rule} at {len(rows)} thresholds", "Nothing was written.", (), [each for each in sections if each[2]]
    )


# ---- against what was decided


@dataclass(frozen=True, slots=True)
class Diff:
    """What one policy keeps and another does not. `sources` has a row a source, `rules` one for each source, change and
    rule: of a gained document the first rule that took it before, of a lost one the first that takes it after.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@reading
@as_reader()
def diff_config(storage: Storage, selections: Sequence[Selection], examples: int = 0) -> Diff:
    """Return what `selections` would keep against the workspace's outcomes; nothing is written.

    Raises: RuleError for a rule that does not bind, WorkspaceError when nothing was decided yet or a part is damaged.
    """
    check_examples(examples)
    known = {source.name: source for source in Catalog.read(storage).sources}
    if not any("outcomes" in source.groups for source in known.values()):
        raise WorkspaceError(
            f"{storage.url}: nothing is decided yet; `gristmill run CONFIG` selects, what-if needs no run"
        )
    found = Diff()
    for selection in selections:
        (decided,) = judge(storage, selection)
        for after in decided:
            before = present(storage, known[after.source]) if after.source in known else None
            if before is None:
                found.notes.append(f"{after.source} is left out: nothing is decided of it yet")
            else:
                _compare(before, after, examples, found)
    return found


@reading
@as_reader()
def diff_workspaces(one: Storage, other: Storage, examples: int = 0) -> Diff:
    """Return what `other` kept against what `one` kept, by `doc_id`; sources that one side lacks are in the notes.

    Raises: WorkspaceError when they have no decided source in common, or a part is damaged.
    """
    check_examples(examples)
    left, right = (
        {source.name: source for source in Catalog.read(storage).sources if "outcomes" in source.groups}
        for storage in (one, other)
    )
    if not left.keys() & right.keys():
        raise WorkspaceError(f"{one.url} and {other.url} have no source in common of which anything is decided")
    found = Diff(notes=[f"{name} is decided in {one.url} alone" for name in left if name not in right])
    found.notes.extend(f"{name} is decided in {other.url} alone" for name in right if name not in left)
    for name in (name for name in left if name in right):
        before, after = present(one, left[name]), present(other, right[name])
        if before and after:
            _compare(before, after, examples, found)
    return found


def diff_text(found: Diff) -> str:
    """Return a block a source for people."""
    blocks = []
    for row in found.sources:
        kinds = ("before", "after", "both", "gained", "lost")
        shown = [{"": kind, "documents": row[kind], "tokens": row[f"{kind}_tokens"]} for kind in kinds]
        blocks.append(_block(row["source"], shown))
        rules, documents = ([e for e in rows if e["source"] == row["source"]] for rows in (found.rules, found.examples))
        if rules:
            title = "by the first rule that took them before (gained) or takes them after (lost)"
            blocks.append(_block(f"{row['source']}: {title}", rules))
        blocks.append(examples_text(documents))
    return "".join(blocks)


def _compare(before: Judged, after: Judged, examples: int, found: Diff) -> None:
    """Add what became of a source's documents."""
    if before.counted != after.counted:
        found.notes.append(f"{after.source}: no tokens, since {before.counted} and {after.counted} count differently")
        before, after = replace(before, tokens=None), replace(after, tokens=None)
    place = matches(after, before)
    there = place >= 0
    first, took = after.first(), np.full(len(after.words), len(before.rules), np.int16)
    took[there] = before.first()[place[there]]
    gone = before.kept  # what was dropped, and is not there any more, is neither lost nor gained
    gone[place[there]] = False
    counts = {
        "before": (before, before.kept),
        "after": (after, first < 0),
        "both": (after, (first < 0) & (took < 0)),
        "gained": (after, (first < 0) & (took >= 0)),
        "lost": (after, (first >= 0) & (took < 0)),
    }
    row: dict[str, Any] = {"source": after.source}
    row |= {name: int(rows.sum()) for name, (_, rows) in counts.items()}
    row |= {f"{name}_tokens": _tokens(judged, rows) for name, (judged, rows) in counts.items()}
    row["lost"] += int(gone.sum())
    if row["lost_tokens"] is not None:
        row["lost_tokens"] += _tokens(before, gone) or 0
    found.sources.append(row)
    cases = [("lost", rule, after, (first == number) & (took < 0)) for number, rule in enumerate(after.rules)]
    cases.append(("lost", ABSENT, before, gone))
    cases += [
        ("gained", rule, after, (first < 0) & (took == number)) for number, rule in enumerate((*before.rules, ABSENT))
    ]
    cases = [case for case in cases if case[3].any()]
    for change, rule, judged, rows in cases:
        told = {"source": after.source, "change": change, "rule": rule}
        found.rules.append(told | {"documents": int(rows.sum()), "tokens": _tokens(judged, rows)})
    for judged in (after, before):
        mine = [case for case in cases if case[2] is judged] if examples else []
        keys = shuffled(judged) if mine else np.zeros(0, np.uint64)
        shown = []
        for change, rule, _, rows in mine:
            resolved = {each.name: each for each in (after if change == "lost" else before).resolved}
            shown.append(Shown(change, rule, lowest(keys, rows, examples), resolved.get(rule)))
        found.examples.extend(example_rows(judged, shown) if shown else [])


def _tokens(judged: Judged, rows: NDArray[np.bool_]) -> int | None:
    return None if judged.tokens is None else round(float(judged.tokens[rows].sum()))
