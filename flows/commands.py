"""What each command answers that starts no run. The command line prints it, `import gristmill` hands it over.

A function's docstring has the command's help in its first line, its parameters are called as the command's arguments.
Imports wait until a command needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.inputs.shipped import TEMPLATES, preset_names, preset_path, template_path
from pipeline.table.format import Answer

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from classifiers.artefact import Measured
    from pipeline.export.export import Form
    from pipeline.extract.units import Document, Reject
    from pipeline.select.rules import RuleSet
    from pipeline.table.storage import Storage


def init(template: str = "web") -> Answer:
    """Print a commented starting configuration.

    Raises: UsageError for an unknown template.
    """
    from pipeline.table.errors import UsageError, nearest

    if template not in TEMPLATES:
        raise UsageError(
            f"init: no template {template!r}{nearest(template, TEMPLATES)}; there are {', '.join(TEMPLATES)}"
        )
    return Answer([], template_path(template).read_text("utf-8"))


def docs(name: str | Sequence[str] = (), to: str | None = None, top: ArgumentParser | None = None) -> Answer:
    """Say what a command, key, column, reject reason, rule, preset, format, exit code, variable or extra is.

    Without a name all entries. With `to` the whole reference is written into that folder, as pages of Markdown. Options
    are those of the command line `top`.

    Raises: UsageError with the nearest name, or for a file in the folder that is not of the reference.
    """
    from textwrap import fill

    from flows.reference.entries import entries, find

    words = (name if isinstance(name, str) else " ".join(name)).strip()
    known = entries(top)
    if to is not None:
        from flows.reference.pages import write
        from pipeline.table.errors import UsageError

        if top is None or words:
            raise UsageError("docs: --to writes the whole reference, from the command line: leave NAME out")
        if not to.strip():
            raise UsageError("docs: --to names no folder")
        return Answer([{"file": path} for path in write(Path(to), top)], f"{to}: the reference")
    if words:
        found = find(known, words)
        return Answer([asdict(entry) for entry in found], "\n".join(entry.as_text for entry in found))
    kinds: dict[str, list[str]] = {}
    for entry in known:
        kinds.setdefault(entry.kind, []).append(entry.name)
    margin = {"initial_indent": "  ", "subsequent_indent": "  "}
    told = {kind: fill(", ".join(dict.fromkeys(each)), 118, **margin) for kind, each in kinds.items()}  # type: ignore[arg-type]
    return Answer([asdict(entry) for entry in known], "".join(f"{kind}\n{each}\n" for kind, each in told.items()))


# A file -------------------------------------------------------------------------------------------------------------


def peek(file: str) -> Answer:
    """Say what a file is: its format, its schema, its first rows, and a source that reads it.

    Rows are its columns.

    Raises: InputError when there is no such file, or more than one.
    """
    from pipeline.peek.peek import peek

    found = peek(file)
    return Answer(found.columns, found.as_text, asdict(found), columns=("name", "type", "example"))


MAX_PICTURES = 200
"""Pages of a document of which `extract --html` shows pictures."""
EXTRACTED = ("url", "title", "date", "licence", "text", "origin", "kept", "metadata", "pages", "reason", "detail")
"""Keys of what `extract` prints: `text` is null in rejects, `reason` in documents."""


def extracted_row(result: Document | Reject) -> dict[str, Any]:
    """Return a document or a reject as `extract` prints it."""
    found = dict.fromkeys(EXTRACTED) | {name: getattr(result, name) for name in EXTRACTED if hasattr(result, name)}
    if found["pages"] is not None:
        found["pages"] = [asdict(each) for each in found["pages"]]
    return found | {"origin": asdict(result.origin)}


# A workspace ----------------------------------------------------------------------------------------------------------


def sql(workspace: str, query: str) -> Answer:
    """Ask a workspace in DuckDB SQL: <source>.documents, .outcomes, .everything and others.

    All rows are in memory; `gristmill sql` prints them as they come.

    Raises: WorkspaceError, QueryError.
    """
    import pyarrow as pa

    from pipeline.table.format import FrameRows, distinct
    from pipeline.table.sql import run_sql

    frame = pa.Table.from_batches(list(run_sql(workspace, query)))
    return Answer(FrameRows(frame.rename_columns(distinct(frame.column_names))))


def explain(workspace: str, document: str) -> Answer:
    """Say what was measured of a document, and which rules it failed with which values.

    Raises: WorkspaceError when nothing has this id or URL.
    """
    from pipeline.select.explain import explain
    from pipeline.table.storage import Storage

    found = explain(Storage.at(workspace), document)
    return Answer(found.rows(), found.as_text, asdict(found))


def funnel(workspace: str, every_rule: bool = False) -> Answer:
    """Show how many documents and tokens each stage and each rule left."""
    from pipeline.select import funnel
    from pipeline.table.storage import Storage

    storage = Storage.at(workspace)
    rows = funnel.funnel(storage)

    def told() -> str:
        shares, doubts = funnel.kept_by_shares(storage), funnel.doubts(storage)
        notes = {source: [*shares.get(source, []), *doubts[source]] for source in doubts}
        return funnel.as_text(rows, funnel.reject_reasons(storage), notes, every_rule) + _collapse(storage)

    return Answer([asdict(row) for row in rows], told)


def _collapse(storage: Storage) -> str:
    """Return how alike the rephrasings of each rephrased source are."""
    from pipeline.table.catalog import Catalog

    catalog, blocks = Catalog.read(storage), []
    for name in (source.name for source in catalog.sources if "signals/rephrase" in source.groups):
        from pipeline.rephrase.collapse import as_text, measure_collapse

        alike = as_text(measure_collapse(catalog.group(name, "documents")))
        blocks.append(f"\n{name}: how alike the rephrasings are\n{alike}\n")
    return "".join(blocks)


def what_if(workspace: str, rules: str | Mapping[str, Any], sources: Sequence[str] = (), examples: int = 0) -> Answer:
    """Show what other rules would drop and keep, from what was measured; nothing is written.

    Rows are those of the funnel. `rules` is a preset, a file or a mapping of names to predicates.

    Raises: WorkspaceError, ConfigError, RuleError.
    """
    from pipeline.select.what_if import what_if, what_if_text
    from pipeline.table.storage import Storage

    found = what_if(Storage.at(workspace), rules, sources, examples)
    return Answer(found.funnel, lambda: what_if_text(found), asdict(found))


def sweep(
    workspace: str,
    rule: str,
    values: str | Sequence[float],
    sources: Sequence[str] = (),
    column: str | None = None,
    html: str | None = None,
) -> Answer:
    """Show what would be kept with other numbers in place of the one that a rule compares with.

    `html` is a file that a page with a plot is written to.

    Raises: WorkspaceError, UsageError.
    """
    from pipeline.report.page import write_one
    from pipeline.select.what_if import sweep, sweep_page, sweep_text
    from pipeline.table.storage import Storage

    rows = sweep(Storage.at(workspace), rule, values, sources, column)
    if html is not None:
        write_one(html, sweep_page(rule, rows))
    return Answer(rows, lambda: sweep_text(rule, rows))


def sample(
    workspace: str,
    source: str,
    dropped_by: str | None = None,
    alone: bool = False,
    n: int = 20,
    seed: int = 1,
    html: str | None = None,
) -> Answer:
    """Show documents to read: some that a source kept, or that a rule dropped.

    `html` is a file that a page of them is written to.

    Raises: WorkspaceError, UsageError.
    """
    from pipeline.report.page import write_one
    from pipeline.select.sample import sample, sample_page, sample_text
    from pipeline.table.storage import Storage

    rows = sample(Storage.at(workspace), source, dropped_by, alone, n, seed)
    what = f"{source}: {f'dropped by {dropped_by}' if dropped_by else 'kept'}{' alone' if alone else ''}"
    if html is not None:
        write_one(html, sample_page(what, rows))
    said = f"{what}, {len(rows):,} document{'s' * (len(rows) != 1)}"
    return Answer(rows, lambda: sample_text(rows), notes=(said,), columns=("doc_id", "url", "title", "tokens", "text"))


def check(workspace: str) -> Answer:
    """Read every part and hold it against what its manifest says.

    The exit code is 1 when anything is damaged or missing.

    Raises: WorkspaceError when there is no workspace.
    """
    from pipeline.table.catalog import check
    from pipeline.table.format import text_table
    from pipeline.table.storage import Storage

    checked = check(Storage.at(workspace))
    problems = [problem for group in checked for problem in group.problems]
    counted = text_table([asdict(group) | {"problems": len(group.problems)} for group in checked])
    told = counted + "\n".join(problems)
    said = f"{len(checked):,} groups checked, {len(problems):,} problems"
    return Answer([asdict(group) for group in checked], told, notes=(said,), exit_code=1 if problems else 0)


def status(workspace: str) -> Answer:
    """Say what ran when, what the workspace holds, and what of it is superseded or out of date.

    Raises: WorkspaceError when there is no workspace.
    """
    from pipeline.status.status import status
    from pipeline.table.storage import Storage

    found = status(Storage.at(workspace))
    return Answer(found.groups, found.as_text, found.plain())


def gc(workspace: str, dry_run: bool = False) -> Answer:
    """Delete the parts that no index lists: superseded ones and unfinished ones.

    Raises: WorkspaceError when a run holds the workspace, or it is none.
    """
    from pipeline.table.catalog import Catalog, collect
    from pipeline.table.storage import Storage, hold

    storage = Storage.at(workspace)
    Catalog.read(storage)  # a mistyped path must not become a new workspace
    with hold(storage, f"gristmill gc {workspace}"):
        report = collect(storage, dry_run)
    verb = "would be deleted" if dry_run else "deleted"
    notes = [f"{len(report.files):,} files {verb}, {report.bytes:,} bytes"]
    notes += [f"left alone, not made by Gristmill: {path}" for path in report.unknown]
    rows = [{"file": path} for path in report.files]
    return Answer(rows, "\n".join(report.files), asdict(report), tuple(notes))


def export(
    workspace: str,
    source: str,
    to: str,
    form: Form = "parquet",
    by: str | None = None,
    columns: str | Sequence[str] | None = None,
    where: str | None = None,
    shard_size: str = "512MB",
    overwrite: bool = False,
    progress: Callable[[int], None] = lambda rows: None,
) -> Answer:
    """Write what a source kept as files for other programs, with a data-set card and a manifest.

    `progress` is told of rows as they pass.

    Raises: UsageError for options that cannot be used; WorkspaceError when there is nothing to export; ShardError when
    a part is damaged or a file cannot be written.
    """
    from pipeline.export.export import export, size_bytes
    from pipeline.table.storage import Storage

    named = [name.strip() for name in columns.split(",")] if isinstance(columns, str) else columns
    done = export(
        Storage.at(workspace),
        source,
        to,
        form,
        by=by,
        columns=named,
        where=where,
        shard_bytes=size_bytes(shard_size),
        overwrite=overwrite,
        progress=progress,
    )
    tokens = "" if done.tokens is None else f", {done.tokens:,} tokens"
    files = f"{len(done.files):,} {'file' if len(done.files) == 1 else 'files'}"
    verb = "" if done.is_new else "nothing to do, it holds "
    told = f"{done.folder}: {verb}{done.rows:,} documents{tokens}, {done.bytes:,} bytes in {files}"
    return Answer([{"file": name} for name in done.files], told, asdict(done))


def rules_list() -> Answer:
    """List the presets of rules."""
    from pipeline.select.rules import load_rules

    rows = []
    for name in preset_names("rules"):
        rules = load_rules(name, "rules")
        about = Path(rules.origin).read_text("utf-8").split("\n", 1)[0].lstrip("# ")
        rows.append({"preset": name, "rules": len(rules.rules), "about": about})
    return Answer(rows)


def rules_show(rules: str, source: str | None = None) -> Answer:
    """Print rules as they are in force, in their order.

    Raises: ConfigError, RuleError.
    """
    import yaml

    from pipeline.table.format import visible

    found = rules_in_force(rules, source)
    rows = [{"of": name, "rule": rule.name, "sql": rule.sql} for name, each in found.items() for rule in each.rules]
    preset = preset_path("rules", rules)
    if preset is not None:  # as it is, with what its comments say
        return Answer(rows, preset.read_text("utf-8"))
    blocks = []
    for name, each in found.items():
        written = {"rules": {rule.name: rule.sql for rule in each.rules}, "keep": ", ".join(map(str, each.keep))}
        blocks.append(f"--- # {visible(name)}\n{yaml.safe_dump(written, sort_keys=False, width=120)}")
    return Answer(rows, "".join(blocks))


def rules_in_force(named: str, source: str | None) -> dict[str, RuleSet]:
    """Return the rules of a preset, a rules file, or each source (or one) of a run's configuration, by name.

    Raises: ConfigError, RuleError.
    """
    from flows.config import load
    from flows.stages import rules_of
    from pipeline.select.rules import load_rules
    from pipeline.table.errors import ConfigError, nearest
    from pipeline.table.kept import read_yaml

    is_file = named.endswith((".yaml", ".yml")) or "/" in named
    if is_file and not read_yaml(named)[0].keys() <= {"rules", "keep"}:
        config = load(named)
        sources = [*config.sources, *([config.rephrase.output_source] if config.rephrase else [])]
        if source is not None and source not in sources:
            raise ConfigError(f"--source {source}: {named} has no such source{nearest(source, sources)}")
        return {name: rules_of(name, config.settings(name)) for name in sources if source in (None, name)}
    if source is not None:
        raise ConfigError(f"--source {source}: {named} is no configuration of a run; leave the option out")
    return {named: load_rules(named, "gristmill rules show")}


# Classifiers ----------------------------------------------------------------------------------------------------------


def classifier_train(config: str) -> Answer:
    """Train a classifier and save it as one folder.

    Raises: ConfigError, InputError, QueryError.
    """
    from classifiers.config import TrainConfig
    from classifiers.train import train
    from pipeline.table.kept import read_config
    from pipeline.table.sql import run_sql

    report = train(read_config(TrainConfig, config), run_sql)
    found = _measured(report.folder, report.evaluation)
    told = (
        f"{report.folder}: trained on {report.trained_positives:,} positives and {report.trained_negatives:,} negatives"
        f" ({report.conflicting:,} texts stood in both classes and were left out), content {report.content_hash}\n"
        f"held out, never trained on: {found.text}"
    )
    counts = ("content_hash", "trained_positives", "trained_negatives", "conflicting")
    row = {"folder": str(report.folder)} | {name: getattr(report, name) for name in counts} | dict(found.rows[0])
    return Answer([row], told, row, found.notes)


def classifier_evaluate(model: str, config: str) -> Answer:
    """Print a classifier's AUC on labelled documents, with its interval.

    Raises: ConfigError, InputError, QueryError.
    """
    from classifiers.artefact import load
    from classifiers.config import evaluation
    from classifiers.evaluate import evaluate_corpora
    from pipeline.table.kept import read_yaml
    from pipeline.table.sql import run_sql

    value, lines = read_yaml(config)
    return _measured(model, evaluate_corpora(load(model), evaluation(value, config, lines), run_sql))


def classifier_report(
    model: str,
    on: str,
    source: str | None = None,
    columns: Mapping[str, str] | str | None = None,
    n: int | None = None,
    at: float | None = None,
    html: str | None = None,
) -> Answer:
    """Show what a classifier does to texts: scores, what a cut keeps, what they follow, words, pages to read.

    Rows are the cuts that keep 1 to 50 % of the documents. `html` is a file that the page is written to.

    Raises: InputError, WorkspaceError, UsageError.
    """
    from classifiers.report import report
    from classifiers.report_page import as_text, write_html
    from pipeline.table.errors import UsageError

    if isinstance(columns, str):
        pairs = [pair.strip().partition("=") for pair in columns.split(",")]
        if wrong := [ours for ours, _, theirs in pairs if not theirs]:
            raise UsageError(f"--columns {wrong[0]}: write OURS=THEIRS, as in text=content,url=link")
        columns = {ours: theirs for ours, _, theirs in pairs}
    found = report(model, on, source=source, columns=columns, n=n, at=at)
    if html is not None:
        write_html(found, html)
    return Answer(found.thresholds, lambda: as_text(found), asdict(found))


def _measured(folder: str | Path, result: Measured) -> Answer:
    """Return a classifier's quality."""
    interval = f"{result.auc_low:.4f} to {result.auc_high:.4f}"
    texts = f"{result.n_positives:,} positives, {result.n_negatives:,} negatives"
    told = f"AUC {result.auc:.4f} (95 % interval {interval}; {texts}), Brier score {result.brier:.4f}"
    doubts = tuple(f"warning: {folder}: {doubt}" for doubt in result.doubts())
    row = result.model_dump()
    return Answer([row], told, row, doubts)


# Mixtures and scaling laws --------------------------------------------------------------------------------------------


def mix_predict(fit: str, ratios: str, out: str | None = None) -> Answer:
    """Predict the metrics of mixtures, with 90-percent intervals.

    With `out` the CSV is written there, and nothing told.

    Raises: InputError for what is wrong with the fit or the table.
    """
    import csv
    import io

    from pipeline.mix.regression.tables import predict_files

    stream = io.StringIO()
    predict_files(fit, ratios, stream if out is None else out)
    stream.seek(0)
    rows = [
        {name: cell if name == "index" else float(cell) for name, cell in row.items()} for row in csv.DictReader(stream)
    ]
    return Answer(rows, stream.getvalue())


def scaling_fit(runs: str, out: str, bootstrap: int = 200, seed: int = 1) -> Answer:
    """Fit L(N, D) = E + A/N^a + B/D^b to runs.

    Raises: InputError, ConfigError for what is wrong with the table; UsageError for a number of refits out of range.
    """
    from pipeline.mix.scaling import table
    from pipeline.table.errors import UsageError
    from pipeline.table.kept import read_json

    if not 8 <= bootstrap <= 10_000:
        raise UsageError(f"--bootstrap {bootstrap}: give between 8 and 10000 refits")
    text = table.fit_file(Path(runs), Path(out), bootstrap, seed)
    written = read_json(Path(out) / "fit.json") or {}
    return Answer([{"name": name} | value for name, value in written["values"].items()], text, written)


def scaling_predict(fit: str, parameters: float, tokens: float) -> Answer:
    """Predict a model's loss, with its 90-percent interval.

    Raises: InputError when the fit cannot be read or a number not used.
    """
    from pipeline.mix.scaling import table

    values, text = table.predict_file(fit, parameters, tokens)
    row = {"parameters": parameters, "tokens": tokens} | values
    return Answer([row], text, row)


def scaling_allocate(fit: str, flops: float, served_tokens: float = 0.0) -> Answer:
    """Divide compute between parameters and tokens.

    Raises: InputError when the fit cannot be read or a number not used.
    """
    from pipeline.mix.scaling import table

    found = table.allocate(Path(fit), flops, served_tokens)
    value = {name: allocation.plain() for name, allocation in found.items()}
    rows = [{"allocation": name, "number": key} | each for name, one in value.items() for key, each in one.items()]
    return Answer(rows, table.describe_allocations(Path(fit), found, served_tokens), value)
