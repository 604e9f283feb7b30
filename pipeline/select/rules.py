"""Rules: named SQL predicates that a document must pass, and the order in which a component's keeper is elected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.table import query
from pipeline.table.config import read_yaml
from pipeline.table.errors import ConfigError, RuleError, nearest
from pipeline.table.presets import preset_names, preset_path
from pipeline.table.query import Node

TOP_SHARE, TOP_TOKEN_SHARE, QUANTILE = "top_share", "top_token_share", "quantile"
CONSTANT_FUNCTIONS = frozenset({TOP_SHARE, TOP_TOKEN_SHARE, QUANTILE})
"""Calls that become constants before any document is judged."""

NEAR_DUPLICATE, EXACT_DUPLICATE = "near_duplicate", "exact_duplicate"
BUILT_IN = (NEAR_DUPLICATE, EXACT_DUPLICATE)
"""The rules that a component's members other than its keeper fail."""

DEFAULT_KEEP = "text_length desc, url asc"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FILE_KEYS = ("rules", "keep")


@dataclass(frozen=True, slots=True)
class Rule:
    """A predicate and its name; a document for which it is false or null fails it."""

    name: str
    sql: str
    tree: Node = field(repr=False, compare=False)


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


def load_rules(spec: str | Mapping[str, Any], where: str, keep: str | None = None) -> RuleSet:
    """Return the rules that `select.rules` names: a preset, a YAML file (`rules:`, optional `keep:`) or a mapping.

    `where` is the config key of the rules, for messages; `keep` is the config's own order and wins over a file's.

    Raises: ConfigError for an unknown preset or file, RuleError for a predicate or an order that is not allowed.
    """
    file_keep = None
    origin, predicates = where, spec
    if isinstance(spec, str):
        path = _path(spec, where)
        origin = str(path)
        predicates, file_keep = _read_file(path)
    checked = _checked(predicates, origin)
    keep_origin = f"{where.rsplit('.', 1)[0]}.keep" if keep is not None or file_keep is None else f"{origin}: keep"
    order = keep if keep is not None else file_keep if file_keep is not None else DEFAULT_KEEP
    with query.sandbox() as connection:
        named = {rule_at(origin, name): predicate for name, predicate in checked.items()}
        trees = query.parse(connection, named, CONSTANT_FUNCTIONS)
        terms = query.parse_order(connection, order, keep_origin, CONSTANT_FUNCTIONS)
        texts = query.render(connection, [tree for tree, _ in terms])
    if any(constant_calls(tree) for tree, _ in terms):
        raise RuleError(f"{keep_origin}: {order!r} calls a function that only rules may call; write its column instead")
    rules = tuple(
        Rule(name, predicate.strip(), tree) for (name, predicate), tree in zip(checked.items(), trees, strict=True)
    )
    ordered = tuple(OrderTerm(text, descending, tree) for text, (tree, descending) in zip(texts, terms, strict=True))
    return RuleSet(rules, ordered, origin, keep_origin)


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


def _read_file(path: Path) -> tuple[Any, str | None]:
    """Return the rules and the order of a rules file."""
    content, lines = read_yaml(path)
    for key in content:
        if key not in _FILE_KEYS:
            line = lines.get((str(key),), 1)
            hint = nearest(str(key), _FILE_KEYS) or f" (known: {', '.join(_FILE_KEYS)})"
            raise ConfigError(f"{path}:{line}: unknown key {key!r}{hint}")
    if "rules" not in content:
        raise ConfigError(f"{path}: key 'rules' is missing: a mapping of names to predicates")
    keep = content.get("keep")
    if keep is not None and not isinstance(keep, str):
        raise ConfigError(f"{path}:{lines.get(('keep',), 1)}: keep must be text such as {DEFAULT_KEEP!r}, got {keep!r}")
    return content["rules"], keep


def _checked(predicates: Any, origin: str) -> dict[str, str]:
    """Return the predicates by name once names and types are as they must be."""
    if not isinstance(predicates, Mapping):
        raise RuleError(f"{origin}: rules must be a mapping of names to SQL predicates, got {predicates!r}")
    for name, predicate in predicates.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RuleError(
                f"{origin}: rule name {name!r} must be letters, digits and _ (quote words YAML reads: 'on')"
            )
        if name in BUILT_IN:
            raise RuleError(f"{origin}: rule name {name!r} is built in; choose another")
        if not isinstance(predicate, str):
            raise RuleError(f"{rule_at(origin, name)}: expected an SQL predicate as text, got {predicate!r}")
    return dict(predicates)
