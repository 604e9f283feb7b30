"""Reading a workspace from the command line: `sql`, `explain`, `funnel`, `check`, `gc`. Never starts Prefect."""

from __future__ import annotations

import sys
from typing import Literal

from pipeline.table.storage import Storage


def print_query(workspace: str, sql: str, form: Literal["table", "csv", "json"]) -> int:
    """Print the rows of one SELECT; their number goes to stderr. Returns the exit code.

    Raises: WorkspaceError, QueryError.
    """
    from pipeline.table.format import write
    from pipeline.table.sql import connect, reading

    if form == "csv":
        sys.stdout.reconfigure(newline="")  # type: ignore[union-attr]  # RFC 4180 wants its own line ends

    @reading
    def ask() -> int:
        with connect(Storage.at(workspace)) as session:
            return write(session.query(sql), form, sys.stdout)

    rows = ask()
    if form == "table":
        sys.stderr.write(f"{rows:,} {'row' if rows == 1 else 'rows'}\n")
    return 0


def print_explanation(workspace: str, document: str, as_json: bool) -> int:
    """Print what is known of a document or URL. Returns the exit code.

    Raises: WorkspaceError when nothing has this id or URL.
    """
    from pipeline.select.explain import explain

    explanation = explain(Storage.at(workspace), document)
    sys.stdout.write((explanation.as_json() if as_json else explanation.as_text()) + "\n")
    return 0


def print_funnel(workspace: str, as_json: bool) -> int:
    """Print what each stage and each rule left. Returns the exit code.

    Raises: WorkspaceError.
    """
    from pipeline.select import funnel

    storage = Storage.at(workspace)
    rows = funnel.funnel(storage)
    text = funnel.as_json(rows) if as_json else funnel.as_text(rows, funnel.reject_reasons(storage))
    sys.stdout.write(text + "\n")
    if not as_json:
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
