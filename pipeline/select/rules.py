"""Rules: named SQL predicates that a document must pass, and the order in which a component's keeper is elected.

They are parsed when they are loaded, and bound to columns before anything runs: every mistake is found by then.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import duckdb
from pydantic import Field

from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.table import query
from pipeline.table.config import StageConfig, validate
from pipeline.table.errors import ConfigError, RuleError, nearest
from pipeline.table.kept import read_yaml
from pipeline.table.query import Node
from pipeline.table.schema import TOKEN_COLUMNS

TOP_SHARE, TOP_TOKEN_SHARE, QUANTILE = "top_share", "top_token_share", "quantile"
CONSTANT_FUNCTIONS = {
    TOP_SHARE: "`top_share(x, p)` is true for the share p of documents with the largest x, counted among the documents "
    "of the source that pass all rules without a share. Ties at the border are kept; documents whose x is null count "
    "in the whole, and fail. Copies count, too: shares are taken before duplicates are dropped",
    TOP_TOKEN_SHARE: "`top_token_share(x, p)` is `top_share` by tokens (`token_count`, or else `estimated_tokens`) "
    "instead of documents",
    QUANTILE: "`quantile(x, p)` is the least value of x that at least a share p of the documents with an x do not "
    "exceed, over all documents of the source, as in `word_count >= quantile(word_count, 0.05)`",
}
"""Calls that become constants before any document is judged, and what each means."""

NEAR_DUPLICATE, EXACT_DUPLICATE = "near_duplicate", "exact_duplicate"
BUILT_IN = {
    EXACT_DUPLICATE: "another member of the component with the same normalised words was kept",
    NEAR_DUPLICATE: "another member of the component was kept, whose words are alike",
}
"""The rules that a component's members other than its keeper fail, after all others; the first failed one took them."""

DEFAULT_KEEP = "text_length desc, url asc"
EXTENDS = "extends"
"""The key of a mapping of rules that names the preset or file which it changes; no rule can have that name."""
_TOO_LIKE = 0.75
"""A new rule whose name is this much like one of the preset's is taken for a slip: both would be in force."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NOT_READ = {
    "text": "they run over what was measured of it (text_length, word_count, a classifier's score); where a phrase "
    "decides, choose by it in `gristmill sql` or in a slice of a mix, which read `everything`",
    "metadata": "make a column of the field: `sources.NAME.keep_columns: {lang: meta.lang}`, then `lang = 'en'`",
    "origin": "they read `source` and `url`; the input's name is in `origin.file` of `everything`",
}
"""Columns of `documents` that rules do not read, and what to do instead."""


class RulesFile(StageConfig):
    """Rules, and the order in which a component's keeper is elected, for `select.rules` to name."""

    rules: Mapping[Any, Any] = Field(
        description="names to SQL predicates that a document must pass; `extends` names a preset or a file whose rules "
        "these change and add to, null takes one of them away"
    )
    keep: str | None = Field(
        None, description="order in which a component's keeper is elected, unless `select.keep` says one"
    )


@dataclass(frozen=True, slots=True)
class Constant:
    """A call that becomes a constant: `top_share(argument, share)` and its kin."""

    function: str
    argument: str
    """Canonical SQL."""
    type: str
    """The argument's type in DuckDB."""
    share: Fraction
    columns: tuple[str, ...]
    """What the argument reads."""

    def node(self, connection: duckdb.DuckDBPyConnection, value: str | None) -> Node:
        """Return `value` (as DuckDB prints it; None for null) as a node of the constant's type."""
        text = "NULL" if value is None else query.literal(value)
        (node,) = query.parse(connection, {self.function: f"CAST({text} AS {self.type})"})
        return node


@dataclass(frozen=True, slots=True)
class Rule:
    """A predicate and its name; a document for which it is false or null fails it."""

    name: str
    sql: str
    tree: Node = field(repr=False, compare=False)
    constants: tuple[Constant, ...] = ()
    """What its constant calls ask for, in reading order, once it is bound."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What the predicate reads, in reading order; spelled as the schema does once it is bound."""
        return query.columns_read(self.tree)

    @property
    def takes_share(self) -> bool:
        """Whether it looks at the documents that pass all other rules."""
        return any(constant.function != QUANTILE for constant in self.constants)


@dataclass(frozen=True, slots=True)
class OrderTerm:
    """One term of the order of election; nulls come last whichever its direction."""

    sql: str
    descending: bool
    tree: Node = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.sql} {'desc' if self.descending else 'asc'}"


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The whole policy of a source: parsed, not yet checked against columns."""

    rules: tuple[Rule, ...]
    keep: tuple[OrderTerm, ...]
    origin: str
    """Where the rules stand, for messages: a file or a config key."""
    keep_origin: str


@dataclass(frozen=True, slots=True)
class BoundRules:
    """Rules and order of election as they were `written`, checked against `columns` (name to DuckDB type)."""

    written: RuleSet
    rules: tuple[Rule, ...]
    keep: tuple[OrderTerm, ...]
    columns: Mapping[str, str]

    @property
    def constants(self) -> tuple[Constant, ...]:
        """Each constant once, in the order of the rules."""
        return tuple(dict.fromkeys(constant for rule in self.rules for constant in rule.constants))

    def on(self, columns: Mapping[str, str]) -> BoundRules:
        """Return the rules bound to `columns`: these, unless the columns are other ones.

        Raises: RuleError.
        """
        return self if list(columns.items()) == list(self.columns.items()) else check_rules(self.written, columns)


def load_rules(spec: str | Mapping[str, Any], where: str, keep: str | None = None) -> RuleSet:
    """Return the rules that `select.rules` names: a preset, a YAML file (`rules:`, optional `keep:`) or a mapping.

    A mapping whose key `extends` names a preset or a file has that one's rules, in their order; a name of theirs with
    another predicate replaces it, with null takes it away, and a name of its own is one more rule at the end.

    `where` is the config key of the rules, for messages; `keep` is the config's own order and wins over a file's.

    Raises: ConfigError for an unknown preset or file, RuleError for a predicate or an order that is not allowed.
    """
    predicates, found, keep_origin = _read(spec, where, ())
    origin = str(_path(spec, where)) if isinstance(spec, str) else where
    if keep is not None or found is None:
        keep_origin = f"{where.rsplit('.', 1)[0]}.keep"
    order = keep if keep is not None else found if found is not None else DEFAULT_KEEP
    with query.sandbox() as connection:
        named = {rule_at(origin, name): predicate for name, predicate in predicates.items()}
        trees = query.parse(connection, named, CONSTANT_FUNCTIONS)
        terms = query.parse_order(connection, order, keep_origin, CONSTANT_FUNCTIONS)
        texts = query.render(connection, [tree for tree, _ in terms])
    if any(constant_calls(tree) for tree, _ in terms):
        raise RuleError(f"{keep_origin}: {order!r} calls a function that only rules may call; write its column instead")
    rules = tuple(
        Rule(name, predicate.strip(), tree) for (name, predicate), tree in zip(predicates.items(), trees, strict=True)
    )
    ordered = tuple(OrderTerm(text, descending, tree) for text, (tree, descending) in zip(texts, terms, strict=True))
    return RuleSet(rules, ordered, origin, keep_origin)


def names_in(spec: str | Mapping[str, Any], where: str, keep: str | None = None) -> set[str]:
    """Return each name of the rules and their order, in lower case: columns, functions, constants. Nothing is parsed.

    Raises: as `load_rules` for presets, files and `extends`.
    """
    predicates, found, _ = _read(spec, where, ())
    return set(re.findall(r"\w+", " ".join([*predicates.values(), keep or found or ""]).lower()))


def check_rules(rules: RuleSet, columns: Mapping[str, str]) -> BoundRules:
    """Return the rules bound to `columns`; no document is read.

    Raises: RuleError in one line: which rule of which file or config key, what is wrong, the nearest column.
    """
    bound: list[Rule] = []
    unresolved: dict[str, Node] = {}
    with query.checking(columns, rules.origin) as connection:
        for rule in rules.rules:
            where = rule_at(rules.origin, rule.name)
            tree = query.spelled(rule.tree, columns, where, _NOT_READ)
            constants = tuple(_constant(connection, call, where, columns) for call in constant_calls(tree))
            bound.append(Rule(rule.name, rule.sql, tree, constants))
            unresolved[where] = resolved_tree(
                bound[-1], {constant: constant.node(connection, None) for constant in constants}
            )
        places = [f"{rules.keep_origin} ({term})" for term in rules.keep]
        trees = [query.spelled(t.tree, columns, place, _NOT_READ) for t, place in zip(rules.keep, places, strict=True)]
        query.check_bound(connection, unresolved)
        query.check_bound(connection, dict(zip(places, trees, strict=True)), predicates=False)
    keep = tuple(OrderTerm(t.sql, t.descending, tree) for t, tree in zip(rules.keep, trees, strict=True))
    return BoundRules(rules, tuple(bound), keep, dict(columns))


def check_one_order(bound: Mapping[str, BoundRules]) -> None:
    """Check that what the order of election reads has one type in all sources that share components, by their names.

    Raises: RuleError: numbers and text would be compared as text.
    """
    owners: dict[str, dict[str, str]] = {}
    for source, rules in bound.items():
        for name in (name for term in rules.keep for name in query.columns_read(term.tree)):
            kind = rules.columns[name]
            owners.setdefault(name, {}).setdefault("a number" if query.is_number(kind) else kind, source)
    for name, by_kind in owners.items():
        if len(by_kind) > 1:
            shown = " and ".join(f"{kind} in {source}" for kind, source in by_kind.items())
            raise RuleError(f"select.keep: {name!r} is {shown}, which share components; give it one type, or two names")


def _constant(connection: duckdb.DuckDBPyConnection, call: Node, where: str, columns: Mapping[str, str]) -> Constant:
    """Return what a call of a constant function asks for."""
    function = constant_function(call) or ""
    given = query.arguments(call)
    if len(given) != 2:
        raise RuleError(
            f"{where}: {function} takes an expression and a share, for example {function}(text_length, 0.1)"
        )
    if constant_calls(given[0]):
        raise RuleError(f"{where}: {function} cannot contain another call of its kind")
    if not query.columns_read(given[0]):
        raise RuleError(f"{where}: the first argument of {function} must read a column")
    (argument,) = query.render(connection, given[:1])
    (type_,) = query.types_of(connection, {where: given[0]})
    is_exact = query.is_number(type_) and "HUGE" not in type_  # a huge integer leaves DuckDB as a float
    if not is_exact and not type_.startswith(("DATE", "TIMESTAMP")):
        raise RuleError(f"{where}: {function} needs a number or a date, but {argument} is {type_}")
    if function == TOP_TOKEN_SHARE and not columns.keys() & set(TOKEN_COLUMNS):
        raise RuleError(f"{where}: {function} needs a column of tokens: {' or '.join(TOKEN_COLUMNS)}")
    return Constant(function, argument, type_, _share(given[1], function, where), query.columns_read(given[0]))


def _share(node: Node, function: str, where: str) -> Fraction:
    literal = node.get("literal", {})
    text = str(literal.get("text", ""))
    if node.get("class") == "CONSTANT" and literal.get("kind") in {"INTEGER", "NUMERIC"} and len(text) <= 20:
        try:
            share = Fraction(text)
        except ValueError:
            share = Fraction(0)
        if 0 < share <= 1:
            return share
    raise RuleError(f"{where}: the second argument of {function} must be a number above 0 and at most 1")


def resolved_tree(rule: Rule, values: Mapping[Constant, Node]) -> Node:
    """Return a bound rule's tree with its constant calls replaced by what their values make of them."""
    remaining = iter(rule.constants)

    def constant(node: Node) -> Node | None:
        if not constant_function(node):
            return None
        found = next(remaining)
        if found.function == QUANTILE:
            return values[found]
        left = query.arguments(node)[0]
        return {"class": "COMPARISON", "type": "COMPARE_GREATERTHANOREQUALTO", "left": left, "right": values[found]}

    return query.replaced(rule.tree, constant)


def constant_calls(tree: Node) -> list[Node]:
    """Return the calls of `top_share`, `top_token_share` and `quantile`, in reading order."""
    return [node for node in query.walk(tree) if constant_function(node)]


def constant_function(node: Node) -> str | None:
    """Return which of the constant functions a node calls, or None."""
    name = str(node.get("function_name", "")).lower()
    return name if node.get("class") == "FUNCTION" and name in CONSTANT_FUNCTIONS else None


def rule_at(origin: str, name: str) -> str:
    """Return how messages name a rule."""
    return f"{origin}: rule {name!r}"


def _read(spec: str | Mapping[str, Any], where: str, above: tuple[Path, ...]) -> tuple[dict[str, str], str | None, str]:
    """Return the predicates by name, the order of election where one is written, and where that stands.

    `above`: the files that extend what is read.
    """
    if not isinstance(spec, str):
        return _extended(spec, where, above)
    path = _path(spec, where)
    if path.resolve() in above:
        raise ConfigError(f"{where}: {path} would extend itself; let one of the files extend nothing")
    content, lines = read_yaml(path)
    file = validate(RulesFile, content, str(path), lines)
    predicates, inherited, keep_origin = _extended(file.rules, str(path), (*above, path.resolve()))
    return (predicates, inherited, keep_origin) if file.keep is None else (predicates, file.keep, f"{path}: keep")


def _extended(predicates: Any, origin: str, above: tuple[Path, ...]) -> tuple[dict[str, str], str | None, str]:
    """Return the rules of a mapping laid over those that its key `extends` names, with their order of election."""
    own = _checked(predicates, origin)
    if EXTENDS not in predicates:
        for name, predicate in own.items():
            if predicate is None:
                hint = f"remove it, or name with `{EXTENDS}` what it is taken from"
                raise RuleError(f"{rule_at(origin, name)}: null takes a rule away, and there is none to take; {hint}")
        return {name: predicate for name, predicate in own.items() if predicate is not None}, None, ""
    named = predicates[EXTENDS]
    if not isinstance(named, str):
        raise RuleError(f"{origin}: {EXTENDS} must be one preset's name or one file's path, got {named!r}")
    base, keep, keep_origin = _read(named, f"{origin}.{EXTENDS}", above)
    for name, predicate in own.items():
        if name in base:
            continue
        if predicate is None:
            hint = nearest(name, base) or f"; `gristmill rules show {named}` lists them"
            raise RuleError(f"{rule_at(origin, name)}: {named} has no such rule to take away{hint}")
        if near := difflib.get_close_matches(name, base, n=1, cutoff=_TOO_LIKE):
            hint = "correct the name, or call a rule of your own something less like it"
            raise RuleError(f"{rule_at(origin, name)}: {named} has no such rule (nearest: {near[0]!r}); {hint}")
    changed = {**base, **own}
    return {name: predicate for name, predicate in changed.items() if predicate is not None}, keep, keep_origin


def _path(spec: str, where: str) -> Path:
    """Return the file of a preset's name or path."""
    if spec.endswith((".yaml", ".yml")) or "/" in spec:
        if not Path(spec).is_file():
            raise ConfigError(f"{where}: {spec} is not a file; correct the path (it counts from the working directory)")
        return Path(spec)
    path = preset_path("rules", spec)
    if path is None:
        names = preset_names("rules")
        hint = nearest(spec, names)
        raise ConfigError(
            f"{where}: no preset is named {spec!r}{hint}; presets: {', '.join(names) or 'none'}; "
            "a file's path ends in .yaml"
        )
    return path


def _checked(predicates: Any, origin: str) -> dict[str, str | None]:
    """Return the predicates by name, without `extends`, once names and types are as they must be."""
    if not isinstance(predicates, Mapping):
        raise RuleError(f"{origin}: rules must be a mapping of names to SQL predicates, got {predicates!r}")
    for name, predicate in predicates.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RuleError(
                f"{origin}: rule name {name!r} must be letters, digits and _ (quote words YAML reads: 'on')"
            )
        if name in BUILT_IN:
            raise RuleError(f"{origin}: rule name {name!r} is built in; choose another")
        if name != EXTENDS and predicate is not None and not isinstance(predicate, str):
            raise RuleError(f"{rule_at(origin, name)}: expected an SQL predicate as text, got {predicate!r}")
    return {name: predicate for name, predicate in predicates.items() if name != EXTENDS}
