"""Reading a workspace or rules: `sql`, `explain`, `funnel`, `rules`, `check`, `gc`. Never starts Prefect."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pipeline.table.errors import WorkspaceError
from pipeline.table.storage import Storage

QUERY_BYTES = 2 << 30
"""Memory that `gristmill sql` may take beside the program's own: DuckDB's limit, and text that it does not count."""


def print_query(workspace: str, sql: str, form: Literal["table", "csv", "json"], defuse: bool = False) -> int:
    """Print the rows of one SELECT; their number goes to stderr. Returns the exit code.

    Raises: WorkspaceError, QueryError; UsageError to `defuse` anything but CSV.
    """
    from pipeline.table.format import write
    from pipeline.table.sql import connect, reading

    if form == "csv":
        # RFC 4180 wants its own line ends, and has no way to write what the encoding lacks.
        sys.stdout.reconfigure(newline="", errors="strict")  # type: ignore[union-attr]

    is_sql = re.match(r"\s*(select|with|from|describe|summarize|show|explain|values)\s+\S", workspace, re.IGNORECASE)
    if is_sql and not Path(workspace).exists():
        raise WorkspaceError(f"{workspace!r} is SQL and not a workspace: gristmill sql WORKSPACE SQL, in this order")

    @reading
    def ask() -> int:
        with connect(Storage.at(workspace)) as session, _limited_memory():
            return write(session.query(sql), form, sys.stdout, defuse=defuse)

    rows = ask()
    if form == "table":
        sys.stderr.write(f"{rows:,} {'row' if rows == 1 else 'rows'}\n")
    return 0


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Let this process allocate no more than twice DuckDB's limit, whose functions on text do not ask it."""
    used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [limit for limit in (used + QUERY_BYTES, soft, hard) if limit >= 0]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def print_explanation(workspace: str, document: str, as_json: bool) -> int:
    """Print what is known of a document or URL. Returns the exit code.

    Raises: WorkspaceError when nothing has this id or URL.
    """
    from pipeline.select.explain import explain

    explanation = explain(Storage.at(workspace), document)
    sys.stdout.write((explanation.as_json() if as_json else explanation.as_text()) + "\n")
    return 0


def print_funnel(workspace: str, as_json: bool, everything: bool) -> int:
    """Print what each stage and each rule left; in JSON, or with `everything`, also rules that took nothing.

    Returns the exit code.

    Raises: WorkspaceError.
    """
    from pipeline.select import funnel

    storage = Storage.at(workspace)
    rows = funnel.funnel(storage)
    if as_json:
        sys.stdout.write(funnel.as_json(rows) + "\n")
        return 0
    shares, doubts = funnel.kept_by_shares(storage), funnel.doubts(storage)
    notes = {source: [*shares.get(source, []), *doubts[source]] for source in doubts}
    sys.stdout.write(funnel.as_text(rows, funnel.reject_reasons(storage), notes, everything) + "\n")
    _print_collapse(storage)
    return 0


def _print_collapse(storage: Storage) -> None:
    """Print how alike the rephrasings of each source that has some are."""
    from pipeline.table.catalog import Catalog

    rephrased = [source for source in Catalog.read(storage).sources if "signals/rephrase" in source.groups]
    if not rephrased:
        return
    from pipeline.rephrase.collapse import as_text, measure_collapse

    for source in rephrased:
        rows = measure_collapse(Catalog.read(storage).group(source.name, "documents"))
        sys.stdout.write(f"\n{source.name}: how alike the rephrasings are\n{as_text(rows)}\n")


def print_check(workspace: str, as_json: bool) -> int:
    """Print what is damaged or missing in a workspace. Returns the exit code: 1 when anything is.

    Raises: WorkspaceError when there is none.
    """
    from dataclasses import asdict

    from pipeline.table.check import check
    from pipeline.table.format import encode, text_table

    checked = check(Storage.at(workspace))
    problems = [problem for group in checked for problem in group.problems]
    if as_json:
        sys.stdout.write("[\n" + ",\n".join(encode(asdict(group)) for group in checked) + "\n]\n")
    else:
        rows = [asdict(group) | {"problems": len(group.problems)} for group in checked]
        sys.stdout.write(text_table(rows) + "".join(f"{problem}\n" for problem in problems))
    sys.stderr.write(f"{len(checked):,} groups checked, {len(problems):,} problems\n")
    return 1 if problems else 0


def collect_garbage(workspace: str, dry_run: bool) -> int:
    """Delete what no index lists and say what it was. Returns the exit code.

    Raises: WorkspaceError when a run holds the workspace, or it is none.
    """
    from pipeline.table.catalog import Catalog
    from pipeline.table.gc import collect
    from pipeline.table.lock import hold

    storage = Storage.at(workspace)
    Catalog.read(storage)  # a mistyped path must not become a new workspace
    with hold(storage, f"gristmill gc {workspace}"):
        report = collect(storage, dry_run)
    for path in report.files:
        sys.stdout.write(path + "\n")
    verb = "would be deleted" if dry_run else "deleted"
    sys.stderr.write(f"{len(report.files):,} files {verb}, {report.bytes:,} bytes\n")
    for path in report.unknown:
        sys.stderr.write(f"left alone, not made by Gristmill: {path}\n")
    return 0


def print_presets(as_json: bool) -> int:
    """Print the presets of rules. Returns the exit code."""
    from pipeline.select.rules import load_rules
    from pipeline.table.format import encode, text_table
    from pipeline.table.presets import preset_names

    rows = []
    for name in preset_names("rules"):
        rules = load_rules(name, "rules")
        about = Path(rules.origin).read_text("utf-8").split("\n", 1)[0].lstrip("# ")
        rows.append({"preset": name, "rules": len(rules.rules), "about": about})
    sys.stdout.write(encode(rows) + "\n" if as_json else text_table(rows))
    return 0


def print_rules(named: str, source: str | None, as_json: bool) -> int:
    """Print the rules of a preset, a rules file, or the sources of a run's configuration. Returns the exit code.

    Raises: ConfigError, RuleError.
    """
    import yaml

    from flows.config import load
    from flows.stages import rules_of
    from pipeline.select.rules import load_rules
    from pipeline.table.config import read_yaml
    from pipeline.table.errors import ConfigError, nearest
    from pipeline.table.format import encode, visible
    from pipeline.table.presets import preset_path

    preset = preset_path("rules", named)
    is_file = named.endswith((".yaml", ".yml")) or "/" in named
    if is_file and not read_yaml(named)[0].keys() <= {"rules", "keep"}:
        config = load(named)
        sources = [*config.sources, *([config.rephrase.output_source] if config.rephrase else [])]
        if source is not None and source not in sources:
            raise ConfigError(f"--source {source}: {named} has no such source{nearest(source, sources)}")
        found = {name: rules_of(name, config.settings(name)) for name in sources if source in (None, name)}
    elif source is not None:
        raise ConfigError(f"--source {source}: {named} is no configuration of a run; leave the option out")
    else:
        found = {named: load_rules(named, "gristmill rules show")}
    if as_json:
        rows = [
            {"of": name, "rule": rule.name, "sql": rule.sql} for name, rules in found.items() for rule in rules.rules
        ]
        sys.stdout.write(encode(rows) + "\n")
    elif preset is not None:  # as it is, with what its comments say
        sys.stdout.write(preset.read_text("utf-8"))
    else:
        for name, rules in found.items():
            written = {
                "rules": {rule.name: rule.sql for rule in rules.rules},
                "keep": ", ".join(map(str, rules.keep)),
            }
            text = yaml.safe_dump(written, sort_keys=False, width=120)
            sys.stdout.write(f"--- # {visible(name)}\n{text}")
    return 0
