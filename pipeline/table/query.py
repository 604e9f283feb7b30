"""A user's SQL, read in one place: rules, orders of election, slices and their `by`, routes, and whole statements.

An expression reads one document and nothing else: columns, constants, and functions whose answer depends on their
arguments alone. It is parsed by DuckDB itself, checked node by node against a list of what is allowed, bound to typed
columns, tried on one row of nulls, and rendered by DuckDB from the tree that was checked. The trees are those of
`json_serialize_sql`, without source positions. A whole statement may read whatever its connection reaches; it may not
write, and a connection that was closed off reaches nothing but the folders that it was given.
"""

from __future__ import annotations

import difflib
import json
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.table.errors import QueryError, RuleError, nearest

Node = dict[str, Any]
"""An expression in DuckDB's serialised syntax tree."""

TABLE = "documents"
"""The table that expressions are checked against; it holds one row of nulls."""

MAX_EXPRESSION_CHARS = 10_000
MAX_STATEMENT_CHARS = 1_000_000
MAX_DEPTH = 100
MAX_BRACKETS = 200
"""How deep brackets may lie in one another: for thousands that are not closed DuckDB parses for minutes."""
MAX_SIZE = 10_000
"""The most that a call may ask for that makes text or a list as long as it is told."""
CHECK_S = 10.0
_SANDBOX_MEMORY = "512MiB"

_EXPRESSIONS = frozenset(
    {
        *("BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION"),
        *("OPERATOR", "TYPE"),
    }
)
_REFUSED = {
    "LAMBDA": "lambdas are not allowed",
    "PARAMETER": "parameters are not allowed; write the value",
    "POSITIONAL_REFERENCE": "column numbers are not allowed; write the column's name",
    "STAR": "`*` is not allowed; name the columns",
    "SUBQUERY": "subqueries are not allowed; an expression reads its own document alone",
    "WINDOW": "window functions are not allowed; an expression reads its own document alone",
}
# DuckDB calls these consistent, but they read the clock or the engine; `age` of one argument reads the clock too.
_NOT_CONSISTENT = frozenset({"age", "current_localtime", "current_localtimestamp", "version"})
_MACROS = frozenset(
    {
        *("array_to_string", "date_add", "days_in_month", "fdiv", "fmod", "if", "list_any_value", "list_avg"),
        *("list_count", "list_first", "list_last", "list_max", "list_median", "list_min", "list_reverse", "list_sum"),
        *("map_contains_value", "nullif", "split_part"),
    }
)
# What these make is as long as they are told, and DuckDB's memory limit does not count it.
_FORMATS = ("fmt", "format", "printf")
# By the arguments that say so.
_SIZED = {
    **dict.fromkeys(("array_resize", "bitstring", "list_resize", "lpad", "repeat", "rpad"), slice(1, 2)),
    **{"generate_series": slice(3), "range": slice(3), "bar": slice(3, 4), "to_base": slice(2, 3)},
    **dict.fromkeys(_FORMATS, slice(1)),
}
_SELECT_KEYS = frozenset({"type", "select_list", "from_table", "aggregate_handling", "cte_map", "modifiers"})
_POSITION_KEYS = frozenset({"query_location", "query_location_length"})

_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL.*")
_TEMPORAL = re.compile(r"DATE|TIME.*|INTERVAL")
_EQUALITIES = frozenset({"COMPARE_EQUAL", "COMPARE_NOTEQUAL"})

_ADVICE = (
    (
        re.compile(r"(\w+)_(?:score|probability|rank)", re.IGNORECASE),
        r"; if it is a classifier's, add `classify: {\1: {model: FOLDER}}`, FOLDER from `gristmill classifier train`",
    ),
    (
        re.compile(r"(?:refinedweb|dolma3?|mc4)_\w+", re.IGNORECASE),
        "; if it is of signals_recipe_stats: `gristmill run CONFIG --set annotate.recipe_stats=true --until annotate`",
    ),
    (
        re.compile(r"page_count|ocr_pages|ocr_confidence|failed_pages", re.IGNORECASE),
        "; it is of signals_pages, which `format: pdf` makes, and `extract.pdf: true` where `format` is warc or auto",
    ),
)
"""Of columns that only some configurations have, what makes them."""

_EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(?=\w)", re.IGNORECASE)
_ONE_SELECT = "one SELECT statement is allowed (also WITH, FROM, VALUES, DESCRIBE, SUMMARIZE, SHOW, EXPLAIN)"
# DuckDB calls a statement SELECT even when its WITH clause copies to a file or inserts: the plan tells.
_WRITES = re.compile(r"COPY|INSERT|DELETE|UPDATE|MERGE|EXECUTE|CREATE|ATTACH|EXPORT")


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that binds: its SQL as DuckDB renders it, and which columns it reads, in reading order."""

    sql: str
    columns: tuple[str, ...]
    tree: Node = field(repr=False, compare=False)


def quote(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """Return `value` as an SQL string."""
    return "'" + value.replace("'", "''") + "'"


def shown(text: str) -> str:
    """Return a user's SQL for a message: on one line, cut short."""
    line = " ".join(text.split())
    return repr(line if len(line) <= 80 else line[:77] + "...")


def one_line(error: Exception) -> str:
    """Return DuckDB's message without its excerpt of the statement, in one line."""
    return " ".join(str(error).split("\n\nLINE ", 1)[0].split())


def first_line(error: BaseException) -> str:
    """Return DuckDB's message without its kind, hints and excerpt."""
    return re.sub(r"^[A-Z][A-Za-z ]+ Error: ", "", str(error).split("\n", 1)[0]).strip()


def is_number(type_: str) -> bool:
    """Tell whether a type of DuckDB's is a number."""
    return _NUMBER.fullmatch(type_) is not None


# ---- connections


def open_database(**config: str | int) -> duckdb.DuckDBPyConnection:
    """Return a database in memory that speaks UTC, loads no extension and takes no Python variable for a table.

    `config` are settings of DuckDB's, such as `memory_limit`, `threads` and `temp_directory`.
    """
    fixed = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    connection = duckdb.connect(":memory:", config={**fixed, **config})
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # for cursors, too
    connection.execute("SET GLOBAL python_enable_replacements = false")
    return connection


def close_off(connection: duckdb.DuckDBPyConnection, folders: Sequence[str] = ()) -> None:
    """Leave a connection nothing to reach but `folders` (SQL strings), for good."""
    if folders:
        connection.execute(f"SET allowed_directories = [{', '.join(folders)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


@contextmanager
def sandbox() -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection that reads only the tables registered with it: no files, no network, no settings.

    Each has its own tables. They share one engine, since making an engine takes longer than judging a small part, and
    its queries run in the thread that asks.
    """
    connection = _engine().cursor()
    try:
        yield connection
    finally:
        connection.close()


@lru_cache(maxsize=1)
def _engine() -> duckdb.DuckDBPyConnection:
    engine = open_database(memory_limit=_SANDBOX_MEMORY, threads=1)
    close_off(engine)
    return engine


@contextmanager
def checking(columns: Mapping[str, str], where: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a sandbox whose table has `columns` (name to DuckDB type) and one row of nulls, for `CHECK_S` seconds.

    Raises: RuleError, beginning with `where`, when what is checked takes longer.
    """
    started = time.monotonic()
    with sandbox() as connection:
        described = ", ".join(f"{quote(name)} {type_}" for name, type_ in columns.items())
        connection.execute(f"CREATE TEMP TABLE {TABLE} ({described})")
        connection.execute(f"INSERT INTO {TABLE} ({quote(next(iter(columns)))}) VALUES (NULL)")
        timer = threading.Timer(CHECK_S, connection.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield connection
            is_late = time.monotonic() - started > CHECK_S  # an interrupt between two statements is lost
        except duckdb.InterruptException:
            is_late = True
        finally:
            timer.cancel()
            timer.join()
    if is_late:
        raise RuleError(f"{where}: takes more than {CHECK_S:g} s for one document; simplify it")


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Return the DuckDB type of each column of an Arrow schema."""
    with sandbox() as connection:
        connection.register(TABLE, schema.empty_table())
        rows = connection.execute(f"DESCRIBE {TABLE}").fetchall()
    return {row[0]: row[1] for row in rows}


# ---- expressions: parsed and checked


def check(texts: Mapping[str, str], columns: Mapping[str, str], *, predicates: bool = True) -> list[Expression]:
    """Return expressions bound to `columns` (name to DuckDB type), in order; no document is read.

    The keys of `texts` say where each stands, for messages. Those that are not `predicates` may give any type.

    Raises: RuleError in one line for what is not allowed, does not bind or cannot mean what it says.
    """
    with checking(columns, ", ".join(texts)) as connection:
        trees = parse(connection, texts)
        canonical = {where: spelled(tree, columns, where) for where, tree in zip(texts, trees, strict=True)}
        check_bound(connection, canonical, predicates=predicates)
        rendered = render(connection, list(canonical.values()))
    return [Expression(sql, columns_read(tree), tree) for sql, tree in zip(rendered, canonical.values(), strict=True)]


def parse(connection: duckdb.DuckDBPyConnection, texts: Mapping[str, str], calls: Collection[str] = ()) -> list[Node]:
    """Return the tree of each expression, in order. The keys say where each stands, for messages.

    `calls` are functions that may be called besides DuckDB's.

    Raises: RuleError for what is not exactly one allowed expression.
    """
    trees = []
    # Between two others nothing but one whole expression parses, with its own brackets and no DISTINCT or ALL.
    for where, select in zip(texts, _selects(connection, texts, "SELECT 1,\n{}\n, 2"), strict=True):
        expressions = select["select_list"]
        if len(expressions) != 3 or select.get("modifiers") or "alias" in expressions[1]:
            raise RuleError(f"{where}: expected one expression, got {shown(texts[where])}")
        _check_nodes(expressions[1], where, calls)
        trees.append(expressions[1])
    return trees


def parse_order(
    connection: duckdb.DuckDBPyConnection, text: str, where: str, calls: Collection[str] = ()
) -> list[tuple[Node, bool]]:
    """Return (tree, descending) for each term of an ORDER BY list.

    Raises: RuleError for what is not a list of allowed expressions with `asc` or `desc`.
    """
    (select,) = _selects(connection, {where: text}, "SELECT 1 ORDER BY\n{}\n")
    modifiers = select.get("modifiers", [])
    if len(modifiers) != 1 or modifiers[0]["type"] != "ORDER_MODIFIER" or len(select["select_list"]) != 1:
        raise RuleError(f"{where}: expected terms such as `text_length desc, url asc`, got {shown(text)}")
    terms = []
    for order in modifiers[0]["orders"]:
        if order.get("null_order", "ORDER_DEFAULT") not in {"ORDER_DEFAULT", "NULLS LAST"}:
            raise RuleError(f"{where}: nulls come last always; remove NULLS FIRST from {shown(text)}")
        _check_nodes(order["expression"], where, calls)
        if not columns_read(order["expression"]):
            raise RuleError(f"{where}: every term must read a column, got {shown(text)}")
        terms.append((order["expression"], order["type"] == "DESCENDING"))
    return terms


def _selects(connection: duckdb.DuckDBPyConnection, texts: Mapping[str, str], template: str) -> Iterator[Node]:
    """Yield the SELECT node of each text put into `template`, on lines of its own: no comment hides the end."""
    for where, text in texts.items():
        if not text.strip() or "\0" in text:
            raise RuleError(f"{where}: expected an SQL expression, got {shown(text)}")
        if len(text) > MAX_EXPRESSION_CHARS:
            raise RuleError(f"{where}: {len(text)} characters; at most {MAX_EXPRESSION_CHARS} are allowed")
        if _nesting(text) > MAX_BRACKETS:
            raise RuleError(f"{where}: nested too deeply: {shown(text)}")
    rows = connection.execute(
        "SELECT json_serialize_sql(s, skip_default := true, skip_empty := true, skip_null := true)"
        " FROM (SELECT unnest($1::VARCHAR[]) AS s)",
        [[template.format(text) for text in texts.values()]],
    ).fetchall()
    for (where, text), row in zip(texts.items(), rows, strict=True):
        try:
            result = json.loads(row[0], object_pairs_hook=_without_positions)
        except RecursionError as error:
            raise RuleError(f"{where}: nested too deeply") from error
        if result["error"]:
            message = str(result.get("error_message", "")).split("\n", 1)[0]
            raise RuleError(f"{where}: {message or 'not SQL'}: {shown(text)}")
        statements = result["statements"]
        node: Node = statements[0].get("node", {}) if statements else {}
        plain = node.get("type") == "SELECT_NODE" and node.get("from_table") == {"type": "EMPTY"}
        if len(statements) != 1 or not plain or node.get("cte_map") or not _SELECT_KEYS.issuperset(node):
            raise RuleError(f"{where}: expected one expression, got {shown(text)}")
        yield node


def _nesting(sql: str) -> int:
    """Return how deep brackets lie in one another, those in strings left out."""
    depth = deepest = 0
    for bracket in re.findall(r"[][(){}]", re.sub(r"'[^']*'", "", sql)):
        depth = depth + 1 if bracket in "([{" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest


def _without_positions(pairs: list[tuple[str, Any]]) -> Node:
    return {key: value for key, value in pairs if key not in _POSITION_KEYS}


def _check_nodes(tree: Node, where: str, calls: Collection[str]) -> None:
    """Refuse whatever is not a column, a constant, an operator or a call of a function that depends on nothing else."""
    for node, depth in _walk(tree):
        if depth > 3 * MAX_DEPTH:  # an argument lies three levels below its call
            raise RuleError(f"{where}: nested too deeply")
        kind = node.get("class")
        if kind is None:
            if node.get("orders"):
                raise RuleError(f"{where}: ORDER BY inside a call is not allowed")
        elif kind not in _EXPRESSIONS:
            raise RuleError(f"{where}: {_REFUSED.get(kind, f'{kind.lower()} expressions are not allowed')}")
        elif kind == "FUNCTION":
            _check_function(node, where, calls)


def _check_function(node: Node, where: str, calls: Collection[str]) -> None:
    name = str(node["function_name"])
    why = _functions().get(name.lower(), "is not a function that may be called here")
    if node.get("qualified_name", {}).get("path", [name]) != [name]:
        why = "must be called by its name alone"
    if why and name.lower() not in calls:
        known = [*calls, *(function for function, reason in _functions().items() if not reason)]
        raise RuleError(
            f"{where}: {name}() {why}{nearest(name.lower(), known)}; expressions may call DuckDB's scalar functions "
            f"whose result depends on their arguments alone{', and ' + ', '.join(sorted(calls)) if calls else ''}"
        )
    for key in ("filter", "distinct", "export_state"):
        if node.get(key):
            raise RuleError(f"{where}: {key.upper()} inside {name}() is not allowed")
    if name.lower() in _SIZED:
        if not all(_is_small(size, name.lower()) for size in arguments(node)[_SIZED[name.lower()]]):
            raise RuleError(f"{where}: {name}() must be given its size as a number between 0 and {MAX_SIZE}")
        if any(inner is not node and str(inner.get("function_name", "")).lower() in _SIZED for inner in walk(node)):
            raise RuleError(f"{where}: {name}() cannot contain another call that makes a value of a given size")


def _is_small(node: Node, function: str) -> bool:
    """Tell whether an argument is a small number, or a format whose widths are."""
    value = node.get("literal", {})
    text = str(value.get("text", ""))
    if function in _FORMATS:  # a width could also be an argument
        return (
            value.get("kind") == "STRING"
            and all(len(number) < 5 for number in re.findall(r"\d+", text))
            and not re.search(r"\*|\{[^}]*\{", text)
        )
    return value.get("kind") == "INTEGER" and len(text) <= 6 and 0 <= int(text) <= MAX_SIZE


@lru_cache(maxsize=1)
def _functions() -> dict[str, str]:
    """Return every function of DuckDB's by its name in lower case, and why it may not be called: nothing if it may."""
    with sandbox() as connection:
        rows = connection.execute(
            "SELECT lower(function_name), bool_or(function_type = 'aggregate'),"
            " bool_or(function_type = 'scalar' AND stability = 'CONSISTENT'"
            " AND NOT starts_with(function_name, '__') AND NOT contains(function_name, 'serialize'))"
            " FROM duckdb_functions() GROUP BY ALL"
        ).fetchall()
    known = {}
    for name, is_aggregate, is_consistent in rows:
        may_be_called = (is_consistent and name not in _NOT_CONSISTENT) or name in _MACROS
        refused = "reads more than one document" if is_aggregate else "depends on more than the document"
        known[name] = "" if may_be_called else refused
    return known


# ---- trees


def walk(tree: Any) -> Iterator[Node]:
    """Yield every node of a tree, parents before children, in reading order."""
    return (node for node, _ in _walk(tree))


def _walk(tree: Any) -> Iterator[tuple[Node, int]]:
    stack: list[tuple[Any, int]] = [(tree, 0)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict):
            yield item, depth
            stack.extend((value, depth + 1) for value in reversed(item.values()))
        elif isinstance(item, list):
            stack.extend((value, depth) for value in reversed(item))


def columns_read(tree: Node) -> tuple[str, ...]:
    """Return the columns that an expression reads, each once, in reading order."""
    return tuple(dict.fromkeys(node["column_names"][0] for node in walk(tree) if node.get("class") == "COLUMN_REF"))


def arguments(call: Node) -> list[Node]:
    """Return the arguments of a call."""
    return [item["expression"] for item in call.get("arguments", [])]


def replaced(tree: Node, replace: Callable[[Node], Node | None]) -> Node:
    """Return a copy of `tree` in which every node for which `replace(node)` gives a node is that node."""

    def copy(item: Any) -> Any:
        if isinstance(item, dict):
            other = replace(item)
            return other if other is not None else {key: copy(value) for key, value in item.items()}
        return [copy(value) for value in item] if isinstance(item, list) else item

    result: Node = copy(tree)
    return result


def render(connection: duckdb.DuckDBPyConnection, trees: Sequence[Node]) -> list[str]:
    """Return each tree as SQL text."""
    if not trees:
        return []
    around = {"type": "SELECT_NODE", "cte_map": {}, "from_table": {"type": "EMPTY"}}
    nodes = [{**around, "aggregate_handling": "STANDARD_HANDLING", "select_list": [tree]} for tree in trees]
    rows = connection.execute(
        "SELECT json_deserialize_sql(s::JSON) FROM (SELECT unnest($1::VARCHAR[]) AS s)",
        [[json.dumps({"error": False, "statements": [{"node": node}]}) for node in nodes]],
    ).fetchall()
    return [str(row[0]).removeprefix("SELECT ") for row in rows]


# ---- expressions against columns


def spelled(
    tree: Node, columns: Mapping[str, str], where: str, instead: Mapping[str, str] = MappingProxyType({})
) -> Node:
    """Return the tree with every column spelled as the schema spells it.

    `instead` says of columns that are not there what to do instead of reading them.

    Raises: RuleError for a column that is not there, naming the nearest.
    """
    spelling = {name.lower(): name for name in columns}

    def spell(node: Node) -> Node | None:
        if node.get("class") != "COLUMN_REF":
            return None
        path = node["column_names"]
        name = spelling.get(path[0].lower())
        if name is None or (len(path) > 1 and not columns[name].startswith("STRUCT")):
            if path[0].lower() in instead:
                raise RuleError(f"{where}: rules do not read {path[0]!r}; {instead[path[0].lower()]}")
            near = difflib.get_close_matches(path[-1].lower(), list(spelling), n=1, cutoff=0.0)
            advice = "".join(found.expand(text) for made, text in _ADVICE if (found := made.fullmatch(path[0])))
            hint = f" (nearest: {spelling[near[0]]!r})" if near and "signals_" not in advice else ""
            raise RuleError(f"{where}: unknown column {'.'.join(path)!r}{hint}{advice}")
        return {**node, "column_names": [name, *path[1:]]}

    return replaced(tree, spell)


def types_of(connection: duckdb.DuckDBPyConnection, trees: Mapping[str, Node]) -> list[str]:
    """Return the type of each expression. The keys say where each stands.

    Raises: RuleError with DuckDB's own complaint, in one line, when one does not bind.
    """
    return [str(row[1]) for row in _tried(connection, "DESCRIBE SELECT {} FROM " + TABLE, trees)]


def check_bound(connection: duckdb.DuckDBPyConnection, trees: Mapping[str, Node], *, predicates: bool = True) -> None:
    """Check expressions whose columns are there. Those that are not `predicates` may give any type.

    Raises: RuleError when one does not bind, is no predicate, compares what cannot be compared, or cannot be computed:
    they are run over one row of nulls, so that constants fail here and not hours later.
    """
    for where, type_ in zip(trees, types_of(connection, trees), strict=True):
        if predicates and type_ != "BOOLEAN":
            raise RuleError(f"{where}: gives {type_}, not true or false; write a comparison")
    _check_comparisons(connection, trees)
    _tried(connection, "SELECT {} FROM " + TABLE, trees)


def _tried(connection: duckdb.DuckDBPyConnection, statement: str, trees: Mapping[str, Node]) -> list[Any]:
    """Return the rows of a statement that selects expressions; where it fails, they are tried one by one."""
    if not trees:
        return []
    try:
        selected = ", ".join(render(connection, list(trees.values())))
        return connection.execute(statement.format(selected)).fetchall()
    except duckdb.InterruptException:
        raise
    except duckdb.Error as error:
        if len(trees) == 1:
            raise RuleError(f"{next(iter(trees))}: {first_line(error)}") from error
        return [row for where, tree in trees.items() for row in _tried(connection, statement, {where: tree})]


def _check_comparisons(connection: duckdb.DuckDBPyConnection, trees: Mapping[str, Node]) -> None:
    """Refuse comparisons that DuckDB binds but that cannot mean what they say."""
    pairs = [(where, *pair) for where, tree in trees.items() for pair in _compared(tree)]
    if not pairs:
        return
    sides = render(connection, [side for _, _, *both in pairs for side in both])
    types = [row[1] for row in connection.execute(f"DESCRIBE SELECT {', '.join(sides)} FROM {TABLE}").fetchall()]
    for number, (where, kind, left, right) in enumerate(pairs):
        (left_type, right_type), said = types[2 * number : 2 * number + 2], sides[2 * number : 2 * number + 2]
        if kind in _EQUALITIES and (_is_null(left) or _is_null(right)):
            both = " and ".join(said)
            raise RuleError(f"{where}: a comparison with NULL is never true ({both}); write IS NULL or IS NOT NULL")
        text_first = left_type == "VARCHAR"
        text, other, other_type = (left, right, right_type) if text_first else (right, left, left_type)
        if "VARCHAR" not in (left_type, right_type) or other_type == "VARCHAR" or _is_null(other):
            continue
        instead = f"write TRY_CAST({said[not text_first]} AS {other_type})"
        if is_number(other_type):
            both = f"{' and '.join(said)} ({left_type} and {right_type})"
            instead = "write it without quotes" if text.get("class") == "CONSTANT" else instead
            raise RuleError(f"{where}: compares text with a number: {both}; {instead}")
        if other_type != "BOOLEAN" and not _TEMPORAL.fullmatch(other_type):
            continue
        if text.get("class") != "CONSTANT":
            raise RuleError(f"{where}: compares text with {other_type}: {said[not text_first]}; {instead}")
        reads = f"SELECT TRY_CAST({said[not text_first]} AS {other_type}) IS NOT NULL"
        if not connection.execute(reads).fetchall()[0][0]:
            raise RuleError(f"{where}: {said[not text_first]} does not read as {other_type}, with which it is compared")


def _compared(tree: Node) -> Iterator[tuple[str, Node, Node]]:
    """Yield (kind, left, right) for every two expressions that are compared with one another."""
    for node in walk(tree):
        kind = str(node.get("type"))
        if node.get("class") == "COMPARISON":
            yield kind, node["left"], node["right"]
        elif node.get("class") == "BETWEEN":
            yield kind, node["input"], node["lower"]
            yield kind, node["input"], node["upper"]
        elif node.get("class") == "OPERATOR" and kind in {"COMPARE_IN", "COMPARE_NOT_IN"}:
            first, *others = node["children"]
            yield from ((kind, first, other) for other in others)


def _is_null(node: Node) -> bool:
    return node.get("class") == "CONSTANT" and node.get("literal", {}).get("kind") == "NULL_LITERAL"


# ---- whole statements


def check_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    """Refuse whatever is not one statement that only reads.

    Raises: QueryError; duckdb.Error when it cannot be planned.
    """
    if len(sql) > MAX_STATEMENT_CHARS:
        raise QueryError(f"{len(sql)} characters of SQL; at most {MAX_STATEMENT_CHARS} are allowed")
    if "\0" in sql:
        raise QueryError("the statement has a NUL character; remove it")
    if _nesting(sql) > MAX_BRACKETS:
        raise QueryError(f"brackets lie more than {MAX_BRACKETS} deep in one another; simplify the statement")
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"{len(statements)} statements given, but {_ONE_SELECT}")
    kind = statements[0].type
    inner = explained(sql) or sql
    if kind == duckdb.StatementType.EXPLAIN and inner is not sql:
        kind = connection.extract_statements(inner)[0].type
    if kind != duckdb.StatementType.SELECT:
        raise QueryError(f"{kind.name} statement refused: {_ONE_SELECT}")
    plan = json.loads(connection.execute(f"EXPLAIN (FORMAT json) {inner}").fetchall()[0][1])
    for operator in walk(plan):
        if "children" in operator and _WRITES.search(str(operator.get("name", ""))):
            raise QueryError(f"the statement could write ({operator['name']}): {_ONE_SELECT}")


def explained(sql: str) -> str | None:
    """Return the statement that an EXPLAIN is about, or None when `sql` is none."""
    match = _EXPLAIN.match(sql)
    return sql[match.end() :] if match else None


def named_tables(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[list[tuple[str, str]], bool]:
    """Return (schema or '', table) for every table that a statement names, in reading order, and whether it reads no
    others: a table function may read any, and a name may be a file's.
    """
    text = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [explained(sql) or sql]).fetchall()[0][0]
    try:
        nodes = list(walk(json.loads(text)))
    except RecursionError:
        return [], False
    named = [
        (str(node.get("schema_name", "")), str(node["table_name"]))
        for node in nodes
        if node.get("type") in ("BASE_TABLE", "SHOW_REF") and node.get("table_name")  # of a column it is a mapping
    ]
    functions = {node["function"]["function_name"] for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    are_all = not any(node.get("error") for node in nodes) and not any("." in table for _, table in named)
    return named, are_all and functions <= {"range", "generate_series", "unnest"}
