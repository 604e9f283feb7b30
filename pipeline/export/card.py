"""The data-set card of an export: what was counted while it was written, and what manifests say of how it was made."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from pipeline.export.made import Made
from pipeline.table.format import cut, visible
from pipeline.table.schema import TIMESTAMP, TOKEN_COLUMNS

MAX_LISTED = 20
MAX_VALUES = 10_000
"""Values that are counted one by one, those that come first; the rest are counted together."""
CELL_WIDTH = 400
_OTHERS = "(others)"
PATTERNS = {
    "parquet": "data/*.parquet",
    "jsonl.zst": "data/*.jsonl.zst",
    "hf": "data/train-*.parquet",
    "partitioned": "data/*/*.parquet",
}
"""The files of each form, for `load_dataset`."""
_DTYPES = {"double": "float64", "float": "float32", "halffloat": "float16"}
_MEANING = {
    "doc_id": "128-bit hash of source, origin and text, in hexadecimal digits",
    "source": "source of the workspace",
    "url": "where the document was",
    "text": "the text, as in `curated`",
    "title": "title that the document gives itself",
    "date": "date that the document gives itself, in UTC",
    "licence": "licence that the document or its corpus states, as SPDX; null: none is known",
    "parent_id": "`doc_id` of the document that this one was made from",
    "origin": "input file, offset and record that it was read from",
    "metadata": "what else its corpus says of it, a JSON object",
    "failed_rules": "rules that it failed: none, or it would not be here",
}
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]<>|#~"} | {"&": "&amp;"})


class Counted:
    """What is counted of the rows of an export as they pass."""

    def __init__(self, columns: pa.Schema) -> None:
        self.token_column = next((name for name in TOKEN_COLUMNS if name in columns.names), None)
        self.shares = [
            name
            for name in ("licence", "language")
            if name in columns.names and columns.field(name).type == pa.string()
        ]
        self.columns = [*self.shares, *(["date"] if "date" in columns.names else [])]
        self.columns += [self.token_column] if self.token_column else []
        self.rows, self._tokens = 0, 0.0
        self.dated, self.first, self.last = 0, None, None
        self._counts: dict[str, dict[str | None, list[float]]] = {name: {} for name in self.shares}

    def add(self, table: pa.Table) -> None:
        """Count rows, of which `columns` are needed."""
        self.rows += table.num_rows
        tokens = (
            table[self.token_column].cast(pa.float64()) if self.token_column else pa.nulls(table.num_rows, pa.float64())
        )
        self._tokens += pc.sum(tokens).as_py() or 0.0
        for name, counts in self._counts.items():
            grouped = pa.table({"value": table[name], "tokens": tokens}).group_by("value", use_threads=False)
            for row in grouped.aggregate([([], "count_all"), ("tokens", "sum")]).to_pylist():
                key = row["value"] if row["value"] in counts or len(counts) < MAX_VALUES else _OTHERS
                at = counts.setdefault(key, [0, 0.0])
                at[0], at[1] = at[0] + row["count_all"], at[1] + (row["tokens_sum"] or 0.0)
        if "date" in self.columns:
            dates = table["date"].drop_null()
            self.dated += len(dates)
            bounds = pc.min_max(dates)
            ends = [(self.first, bounds["min"], min), (self.last, bounds["max"], max)]
            self.first, self.last = (
                better([at for at in (before, found.cast(pa.int64()).as_py()) if at is not None], default=None)
                for before, found, better in ends
            )

    @property
    def tokens(self) -> int | None:
        """Tokens of all rows, rounded; None where nothing counted them."""
        return round(self._tokens) if self.token_column else None

    def by(self, name: str) -> list[tuple[str | None, int, int]]:
        """Return (value, documents, tokens), the most frequent first."""
        rows = [(value, int(count), round(tokens)) for value, (count, tokens) in self._counts[name].items()]
        return sorted(rows, key=lambda row: (row[0] == _OTHERS, -row[1], row[0] or ""))

    def dates(self) -> tuple[str, str] | None:
        """Return the first and the last date, in ISO 8601."""
        if self.first is None:
            return None
        ends = (pa.scalar(at, pa.int64()).cast(TIMESTAMP).cast(pa.string()).as_py() for at in (self.first, self.last))
        first, last = (str(end).partition(" ")[0] for end in ends)
        return first, last


def card(export: Mapping[str, Any], columns: pa.Schema, made: Made, counted: Counted) -> str:
    """Return the card, Markdown behind the YAML header that the Hub and `load_dataset` read.

    `export` is the manifest of the export, `columns` are those of its files.
    """
    sections = [
        _header(export, columns, counted),
        _what(export, made, counted),
        _columns(export),
        *(_shares(name, counted) for name in counted.shares),
        _from(made),
        _how(made),
        _left_out(made),
        _limits(made, counted),
        _reading(export),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _header(export: Mapping[str, Any], columns: pa.Schema, counted: Counted) -> str:
    told: dict[str, Any] = {"pretty_name": visible(export["source"])}
    if "licence" in counted.shares:
        licences = {value for value, _, _ in counted.by("licence")}
        only = next(iter(licences)) if len(licences) == 1 else None
        told["license"] = "unknown" if licences == {None} else only.lower() if only else "other"
    if "language" in counted.shares:
        often = [value for value, rows, _ in counted.by("language") if 100 * rows >= counted.rows and _is_code(value)]
        told |= {"language": often} if often else {}
    told["size_categories"] = [_size_category(counted.rows)]
    told |= {"task_categories": ["text-generation"], "tags": ["gristmill"]}
    form = export["options"]["as"]
    told["dataset_info"] = {"features": [_feature(field, form) for field in columns]}
    told["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": PATTERNS[form]}]}]
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True)}---"


def _feature(field: pa.Field, form: str) -> dict[str, Any]:
    """Return a column's type as `datasets` reads it from a card."""
    if form == "jsonl.zst" and field.name == "metadata":
        return {"name": field.name, "dtype": "json"}
    if pa.types.is_list(field.type):
        item = _feature(field.type.value_field, form)
        return {"name": field.name, "list": item.get("dtype") or item["struct"]}
    if pa.types.is_struct(field.type):
        return {"name": field.name, "struct": [_feature(each, form) for each in field.type]}
    return {"name": field.name, "dtype": _DTYPES.get(str(field.type), str(field.type))}


def _size_category(rows: int) -> str:
    """Return the Hub's name of a size: `10K<n<100K`."""
    names = [f"{10**power}{unit}" for unit in "KMBT" for power in range(3)][:10]  # 1K to 1T
    power = max(len(str(rows)) - 4, -1)
    if power < 0 or power > 8:
        return "n<1K" if power < 0 else "n>1T"
    return f"{names[power]}<n<{names[power + 1]}"


def _is_code(value: str | None) -> bool:
    return value is not None and value.isascii() and value.isalpha() and value.islower() and len(value) in (2, 3)


def _what(export: Mapping[str, Any], made: Made, counted: Counted) -> str:
    size = "" if counted.tokens is None else f" with {counted.tokens:,} {_tokens(counted)}"
    files = f"{len(export['files']):,} {'file' if len(export['files']) == 1 else 'files'}"
    where = export["options"]["where"]
    here = "all of them are here" if where is None else f"here are those that meet {_code(where)}"
    kept = (
        f"{made.kept:,} of the {made.documents:,} documents of its source {_code(export['source'])} were kept "
        f"(what the others failed stands below); {here}."
    )
    lines = [
        f"# {_text(export['source'])}",
        f"{counted.rows:,} documents{size}, curated by Gristmill {export['gristmill']}, in {files} of "
        f"{export['bytes']:,} bytes. {kept}",
    ]
    if dates := counted.dates():
        lines.append(f"{counted.dated:,} of the documents have a date; the dates are from {dates[0]} to {dates[1]}.")
    lines.append(
        f"Recipe: `{export['recipe']}`, a digest of every stage, version, setting, library and model below and of the "
        "content that they worked on. `manifest.json` has it too, with rows, bytes and SHA-256 of each file."
    )
    return "\n\n".join(lines)


def _tokens(counted: Counted) -> str:
    return "tokens" if counted.token_column == "token_count" else "estimated tokens (UTF-8 bytes of text / 4)"


def _columns(export: Mapping[str, Any]) -> str:
    rows = [
        (_code(column["name"]), _code(column["type"]), column["from"], _MEANING.get(column["name"], ""))
        for column in export["columns"]
    ]
    by, note = export["options"]["by"], ""
    if export["options"]["as"] == "jsonl.zst":
        note = "\n\nIn the files points in time are ISO 8601 text, and `metadata` is an object."
    if by is not None:
        note = f"\n\n{_code(by)} is in the names of the folders, as in Hive: DuckDB, Polars, pyarrow and Spark make a "
        note += "column of it, `datasets` does not."
    return f"## Columns\n\n{_table(('column', 'type', 'of', 'what it is'), rows)}{note}"


def _shares(name: str, counted: Counted) -> str:
    found = counted.by(name)
    rows = [_share(value, documents, tokens, counted) for value, documents, tokens in found[:MAX_LISTED]]
    rest = found[MAX_LISTED:]
    if rest:
        documents, tokens = sum(each[1] for each in rest), sum(each[2] for each in rest)
        rows.append((f"{len(rest):,} others", *_share(None, documents, tokens, counted)[1:]))
    head = (name, "documents", "share", *(() if counted.tokens is None else ("tokens", "share of tokens")))
    title = "Licences" if name == "licence" else "Languages"
    return f"## {title}\n\n{_table(head, rows)}"


def _share(value: str | None, documents: int, tokens: int, counted: Counted) -> tuple[str, ...]:
    named = "not known (null)" if value is None else _text(value)
    cells = (named, f"{documents:,}", _percent(documents, counted.rows))
    return cells if counted.tokens is None else (*cells, f"{tokens:,}", _percent(tokens, counted.tokens))


def _from(made: Made) -> str:
    rows = [(_code(row["where"]), f"{row['files']:,}", f"{row['bytes']:,}") for row in made.inputs[:MAX_LISTED]]
    rest = made.inputs[MAX_LISTED:]
    if rest:
        files, size = sum(row["files"] for row in rest), sum(row["bytes"] for row in rest)
        rows.append((f"{len(rest):,} others", f"{files:,}", f"{size:,}"))
    if not rows:
        return ""
    return f"## Where it comes from\n\n{_table(('host and folder', 'input files', 'bytes'), rows)}"


def _how(made: Made) -> str:
    rows = [
        (
            row["stage"],
            _code(row["group"]),
            _text(row["version"]),
            _settings(row["settings"]),
            _settings(row["libraries"]),
        )
        for row in made.stages
    ]
    doubts = "".join(f"\n\nA doubt: {_text(doubt)}." for doubt in made.doubts)
    return (
        "## How it was made\n\nThe stages in their order; settings in full are in `manifest.json`.\n\n"
        f"{_table(('stage', 'wrote', 'version', 'settings', 'libraries and models'), rows)}{doubts}"
    )


def _left_out(made: Made) -> str:
    units = made.documents + sum(made.rejects.values())
    parts = ["## What was left out"]
    if made.rejects:
        rows = [(_code(reason), f"{count:,}", _percent(count, units)) for reason, count in made.rejects.items()]
        parts.append(
            f"Of {units:,} units that were read, {units - made.documents:,} did not become documents:\n\n"
            f"{_table(('reason', 'units', 'share'), rows)}"
        )
    rules = [rule for rule in made.rules if rule["sql"] is not None]
    if rules:
        judged = [
            (_code(rule["rule"]), _code(rule["sql"]), _count(rule["failed"]), _percent(rule["failed"], made.documents))
            for rule in rules
        ]
        fixed = "".join(
            f"\n\n{_code(each['call'])} came out as {_text(str(each['value']))}, over {_text(each['counts'])}."
            for each in made.constants
        )
        parts.append(
            f"Every document must pass every rule; of the {made.documents:,} documents, so many fail each (one may "
            f"fail several):\n\n{_table(('rule', 'predicate', 'fail it', 'share'), judged)}{fixed}"
        )
    copies = {rule["rule"]: rule["failed"] for rule in made.rules if rule["sql"] is None}
    if made.components:
        scope = f" among the sources {', '.join(map(_code, made.scope))} together" if len(made.scope) > 1 else ""
        which = "of the first of these sources that has one, by" if len(made.scope) > 1 else "the first by"
        removed = ", ".join(f"{_count(count)} by {_code(name)}" for name, count in copies.items())
        parts.append(
            f"Duplicates: {made.components['documents']:,} documents have {made.components['components']:,} different "
            f"texts{scope}, near copies taken as one. Of the documents that pass all rules, one of each stays "
            f"({which} {_code(made.keep)}); removed from this source were {removed}."
        )
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _limits(made: Made, counted: Counted) -> str:
    limits = []
    if "licence" in counted.shares:
        unknown = sum(rows for value, rows, _ in counted.by("licence") if value is None)
        limits.append(
            f"A licence is what the document or its corpus states, and was not checked. {unknown:,} of "
            f"{counted.rows:,} documents have none that is known: null means unknown, not free."
        )
    else:
        limits.append("Nothing is said of licences: the column was not there to count.")
    if "language" in counted.shares:
        limits.append("The language is a classifier's guess at the whole document.")
    if "date" in counted.columns:
        limits.append("A date is what the document or its corpus says; it can be wrong.")
    limits.append(
        "Nothing was checked but what the rules above say. Unless one names them, personal data and harmful content "
        "were not looked for."
    )
    return "## Limits\n\n" + "\n".join(f"- {limit}" for limit in limits)


def _reading(export: Mapping[str, Any]) -> str:
    form = export["options"]["as"]
    scan = "scan_ndjson" if form == "jsonl.zst" else "scan_parquet"
    hive = ", hive_partitioning=True" if form == "partitioned" else ""
    return f"""## Reading it

```python
datasets.load_dataset("DIR", split="train")
duckdb.sql("FROM 'DIR/{PATTERNS[form]}'")
polars.{scan}("DIR/{PATTERNS[form]}"{hive})
```"""


# Markdown -------------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: str) -> str:
    """Return a value as Markdown that shows it, whatever is in it."""
    return cut(visible(value[:CELL_WIDTH]), CELL_WIDTH).translate(_MARKDOWN)


def _code(value: str) -> str:
    """Return a value as code that shows it, whatever is in it, also in a cell of a table."""
    shown = cut(visible(value[: 4 * CELL_WIDTH]), CELL_WIDTH).replace("|", "\\|")
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    space = " " if "`" in shown or not shown.strip() else ""
    return f"{fence}{space}{shown}{space}{fence}"


def _settings(values: Mapping[str, Any]) -> str:
    return _code(json.dumps(values, ensure_ascii=False)[1:-1]) if values else ""


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _percent(part: int | None, whole: int) -> str:
    return "" if part is None or not whole else f"{100 * part / whole:.1f} %"
