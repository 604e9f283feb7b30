"""What each command does that starts no run: it calls a function that returns something, and prints that.

Each takes what was typed and returns the exit code; its docstring's first line is its help. Imports wait until a
command needs them.
"""

from __future__ import annotations

import re
import resource
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classifiers.artefact import Measured
    from pipeline.select.rules import RuleSet

QUERY_BYTES = 2 << 30
"""Memory that `gristmill sql` may take beside the program's own: DuckDB's limit, and text that it does not count."""


def say(text: str) -> int:
    """Print an answer on standard output, and return the exit code of success."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0


def say_rows(rows: list[dict[str, Any]], as_json: bool) -> int:
    """Print rows of the same keys as a table or one JSON array, and return the exit code of success."""
    from pipeline.table.format import encode, text_table

    return say("[\n" + ",\n".join(map(encode, rows)) + "\n]" if as_json else text_table(rows))


def init(given: Namespace) -> int:
    """Print a commented starting configuration."""
    from importlib.resources import files

    return say(files("configs").joinpath(f"{given.template}.yaml").read_text("utf-8"))


def verify(given: Namespace) -> int:
    """Judge rephrasings: what they say that their sources do not.

    Raises: InputError naming file and line.
    """
    from pipeline.rephrase.verify import verify_file
    from pipeline.table.format import encode

    for row in verify_file(given.pairs):
        say(encode(row))
    return 0


def doctor(given: Namespace) -> int:
    """Check this machine: versions, language model, caches, Prefect's server."""
    from flows.doctor import examine

    return examine()


# A workspace ----------------------------------------------------------------------------------------------------------


def sql(given: Namespace) -> int:
    """Ask a workspace in DuckDB SQL: <source>.documents, .outcomes, .everything and others.

    Raises: WorkspaceError, QueryError; UsageError to `defuse` anything but CSV.
    """
    from pipeline.table.errors import WorkspaceError
    from pipeline.table.format import write
    from pipeline.table.sql import connect, reading
    from pipeline.table.storage import Storage

    if given.format == "csv":
        # RFC 4180 wants its own line ends, and has no way to write what the encoding lacks.
        sys.stdout.reconfigure(newline="", errors="strict")  # type: ignore[union-attr]
    words = r"\s*(select|with|from|describe|summarize|show|explain|values)\s+\S"
    if re.match(words, given.workspace, re.IGNORECASE) and not Path(given.workspace).exists():
        raise WorkspaceError(
            f"{given.workspace!r} is SQL and not a workspace: gristmill sql WORKSPACE SQL, in this order"
        )

    @reading
    def ask() -> int:
        with connect(Storage.at(given.workspace)) as session, _limited_memory():
            return write(session.query(given.query), given.format, sys.stdout, defuse=given.defuse)

    rows = ask()
    if given.format == "table":
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


def explain(given: Namespace) -> int:
    """Say what was measured of a document, and which rules it failed with which values.

    Raises: WorkspaceError when nothing has this id or URL.
    """
    from pipeline.select.explain import explain
    from pipeline.table.storage import Storage

    explanation = explain(Storage.at(given.workspace), given.document)
    return say(explanation.as_json() if given.json else explanation.as_text())


def funnel(given: Namespace) -> int:
    """Show how many documents and tokens each stage and each rule left."""
    from pipeline.select import funnel
    from pipeline.table.catalog import Catalog
    from pipeline.table.storage import Storage

    storage = Storage.at(given.workspace)
    rows = funnel.funnel(storage)
    if given.json:
        return say(funnel.as_json(rows))
    shares, doubts = funnel.kept_by_shares(storage), funnel.doubts(storage)
    notes = {source: [*shares.get(source, []), *doubts[source]] for source in doubts}
    say(funnel.as_text(rows, funnel.reject_reasons(storage), notes, given.all))
    catalog = Catalog.read(storage)
    for name in (source.name for source in catalog.sources if "signals/rephrase" in source.groups):
        from pipeline.rephrase.collapse import as_text, measure_collapse

        alike = as_text(measure_collapse(catalog.group(name, "documents")))
        say(f"\n{name}: how alike the rephrasings are\n{alike}")
    return 0


def check(given: Namespace) -> int:
    """Read every part and hold it against what its manifest says.

    Raises: WorkspaceError when there is no workspace. The exit code is 1 when anything is damaged or missing.
    """
    from dataclasses import asdict

    from pipeline.table.catalog import check
    from pipeline.table.storage import Storage

    checked = check(Storage.at(given.workspace))
    problems = [problem for group in checked for problem in group.problems]
    rows = [asdict(group) | ({} if given.json else {"problems": len(group.problems)}) for group in checked]
    say_rows(rows, given.json)
    if problems and not given.json:
        say("\n".join(problems))
    sys.stderr.write(f"{len(checked):,} groups checked, {len(problems):,} problems\n")
    return 1 if problems else 0


def status(given: Namespace) -> int:
    """Say what ran when, what the workspace holds, and what of it is superseded or out of date.

    Raises: WorkspaceError when there is no workspace.
    """
    from pipeline.status.status import status
    from pipeline.table.storage import Storage

    found = status(Storage.at(given.workspace))
    return say(found.as_json() if given.json else found.as_text())


def test(given: Namespace) -> int:
    """Hold the workspace of a configuration against what it expects.

    Raises: UsageError. The exit code is 1 when an expectation is missed, or cannot be told.
    """
    from flows.launch import expectations
    from pipeline.table.format import visible

    rows = expectations(given.config, given.assignments)
    shown = [
        {**row, "found": _figure(row["found"]), "details": row["details"][0] if len(row["details"]) == 1 else ""}
        for row in rows
    ]
    say_rows(rows if given.json else shown, given.json)
    for row in rows if not given.json else ():
        if len(row["details"]) > 1:
            say("\n  ".join([f"{row['source']} {row['expectation']}:", *map(visible, row["details"])]))
    met = sum(row["outcome"] == "met" for row in rows)
    sys.stderr.write(f"{len(rows):,} expectations, {met:,} met\n")
    return 0 if met == len(rows) else 1


def _figure(number: float | None) -> str:
    """Return a count or a share as a person reads it."""
    if number is None:
        return "-"
    return f"{number:,.0f}" if number >= 1000 or number == int(number) else f"{number:.3g}"


def gc(given: Namespace) -> int:
    """Delete the parts that no index lists: superseded ones and unfinished ones.

    Raises: WorkspaceError when a run holds the workspace, or it is none.
    """
    from pipeline.table.catalog import Catalog, collect
    from pipeline.table.storage import Storage, hold

    storage = Storage.at(given.workspace)
    Catalog.read(storage)  # a mistyped path must not become a new workspace
    with hold(storage, f"gristmill gc {given.workspace}"):
        report = collect(storage, given.dry_run)
    for path in report.files:
        say(path)
    verb = "would be deleted" if given.dry_run else "deleted"
    sys.stderr.write(f"{len(report.files):,} files {verb}, {report.bytes:,} bytes\n")
    for path in report.unknown:
        sys.stderr.write(f"left alone, not made by Gristmill: {path}\n")
    return 0


def rules_list(given: Namespace) -> int:
    """List the presets of rules."""
    from pipeline.inputs.shipped import preset_names
    from pipeline.select.rules import load_rules

    rows = []
    for name in preset_names("rules"):
        rules = load_rules(name, "rules")
        about = Path(rules.origin).read_text("utf-8").split("\n", 1)[0].lstrip("# ")
        rows.append({"preset": name, "rules": len(rules.rules), "about": about})
    return say_rows(rows, given.json)


def rules_show(given: Namespace) -> int:
    """Print rules as they are in force, in their order.

    Raises: ConfigError, RuleError.
    """
    import yaml

    from pipeline.inputs.shipped import preset_path
    from pipeline.table.format import visible

    found = rules_in_force(given.rules, given.source)
    preset = preset_path("rules", given.rules)
    if given.json:
        rows = [{"of": name, "rule": rule.name, "sql": rule.sql} for name, each in found.items() for rule in each.rules]
        return say_rows(rows, as_json=True)
    if preset is not None:  # as it is, with what its comments say
        return say(preset.read_text("utf-8"))
    for name, rules in found.items():
        written = {"rules": {rule.name: rule.sql for rule in rules.rules}, "keep": ", ".join(map(str, rules.keep))}
        say(f"--- # {visible(name)}\n{yaml.safe_dump(written, sort_keys=False, width=120)}")
    return 0


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


def classifier_train(given: Namespace) -> int:
    """Train a classifier and save it as one folder.

    Raises: ConfigError, InputError, QueryError.
    """
    from classifiers.config import TrainConfig
    from classifiers.train import train
    from pipeline.table.kept import read_config
    from pipeline.table.sql import run_sql

    report = train(read_config(TrainConfig, given.config), run_sql)
    say(
        f"{report.folder}: trained on {report.trained_positives:,} positives and {report.trained_negatives:,} negatives"
        f" ({report.conflicting:,} texts stood in both classes and were left out), content {report.content_hash}\n"
        f"held out, never trained on: {_measured(report.folder, report.evaluation)}"
    )
    return 0


def classifier_evaluate(given: Namespace) -> int:
    """Print a classifier's AUC on labelled documents, with its interval.

    Raises: ConfigError, InputError, QueryError.
    """
    from classifiers.artefact import load
    from classifiers.config import evaluation
    from classifiers.evaluate import evaluate_corpora
    from pipeline.table.format import encode
    from pipeline.table.kept import read_yaml
    from pipeline.table.sql import run_sql

    value, lines = read_yaml(given.config)
    result = evaluate_corpora(load(given.model), evaluation(value, given.config, lines), run_sql)
    text = _measured(given.model, result)
    return say(encode(result.model_dump()) if given.json else text)


def _measured(folder: str | Path, result: Measured) -> str:
    """Return a classifier's quality in words; doubts about it go to standard error."""
    for doubt in result.doubts():
        sys.stderr.write(f"warning: {folder}: {doubt}\n")
    interval = f"{result.auc_low:.4f} to {result.auc_high:.4f}"
    texts = f"{result.n_positives:,} positives, {result.n_negatives:,} negatives"
    return f"AUC {result.auc:.4f} (95 % interval {interval}; {texts}), Brier score {result.brier:.4f}"


# Mixtures and scaling laws --------------------------------------------------------------------------------------------


def mix_predict(given: Namespace) -> int:
    """Predict the metrics of mixtures, with 90-percent intervals.

    Raises: InputError for what is wrong with the fit or the table.
    """
    from pipeline.mix.regression.tables import predict_files

    predict_files(given.fit, given.ratios, given.out if given.out is not None else sys.stdout)
    return 0


def scaling_fit(given: Namespace) -> int:
    """Fit L(N, D) = E + A/N^a + B/D^b to runs.

    Raises: InputError, ConfigError for what is wrong with the table.
    """
    from pipeline.mix.scaling import table
    from pipeline.table.errors import UsageError

    if not 8 <= given.bootstrap <= 10_000:
        raise UsageError(f"--bootstrap {given.bootstrap}: give between 8 and 10000 refits")
    text = table.fit_file(Path(given.runs), Path(given.out), given.bootstrap, given.seed)
    return say((Path(given.out) / "fit.json").read_text("utf-8") if given.json else text)


def scaling_predict(given: Namespace) -> int:
    """Predict a model's loss, with its 90-percent interval.

    Raises: InputError when the fit cannot be read or a number not used.
    """
    from pipeline.mix.scaling import table
    from pipeline.table.format import encode

    values, text = table.predict_file(given.fit, given.parameters, given.tokens)
    return say(encode({"parameters": given.parameters, "tokens": given.tokens} | values) if given.json else text)


def scaling_allocate(given: Namespace) -> int:
    """Divide compute between parameters and tokens.

    Raises: InputError when the fit cannot be read or a number not used.
    """
    from dataclasses import asdict

    from pipeline.mix.scaling import table
    from pipeline.table.format import encode

    folder = Path(given.fit)
    found = table.allocate(folder, given.flops, given.served_tokens)
    if given.json:
        return say(encode({name: asdict(allocation) for name, allocation in found.items()}))
    return say(table.describe_allocations(folder, found, given.served_tokens))
