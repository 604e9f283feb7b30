"""Gristmill from Python: what the command line does, as functions and tables.

    import gristmill as gm

    gm.run("curate.yaml", {"select.rules.words": "word_count > 60"})
    ws = gm.open("ws")
    ws.funnel().df()
    ws.source("web").curated.scan().to_table(columns=["url"])

Each command is a function of its name (`gristmill classifier train` is `classifier_train`); those about a workspace are
methods of what `open` returns. All answer with an `Answer`: rows to iterate over, `df()`, `pl()`, `arrow()`, the `text`
that the command prints and the `json()` that it prints with `--json`. A foreseeable mistake raises a `GristmillError`
whose message is the command line's; `exit_code` is what it would have ended with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NoReturn, TypeAlias

from gristmill import _ours  # noqa: F401  # the packages below have to be ours

# isort: split
from flows import commands
from flows.commands import (
    classifier_evaluate,
    classifier_report,
    classifier_train,
    docs,
    mix_predict,
    peek,
    rules_list,
    rules_show,
    scaling_allocate,
    scaling_fit,
    scaling_predict,
)
from gristmill.workspace import Parts, Source, Workspace, open  # noqa: A004
from pipeline.mix.config import ModelName
from pipeline.table.errors import (
    ConfigError,
    ConservationError,
    GristmillError,
    GuardrailError,
    InputError,
    MissingDependencyError,
    QueryError,
    RuleError,
    SchemaError,
    ShardError,
    UsageError,
    WorkspaceError,
)
from pipeline.table.format import Answer

__all__ = [
    "Answer",
    "ConfigError",
    "ConservationError",
    "GristmillError",
    "GuardrailError",
    "InputError",
    "MissingDependencyError",
    "Parts",
    "QueryError",
    "RuleError",
    "SchemaError",
    "ShardError",
    "Source",
    "UsageError",
    "Workspace",
    "WorkspaceError",
    "classifier_evaluate",
    "classifier_report",
    "classifier_train",
    "diff",
    "docs",
    "doctor",
    "extract",
    "init",
    "mix",
    "mix_fit",
    "mix_predict",
    "open",
    "peek",
    "plan",
    "rephrase",
    "rules_list",
    "rules_show",
    "run",
    "scaling_allocate",
    "scaling_fit",
    "scaling_predict",
    "serve",
    "test",
    "verify",
]

Config: TypeAlias = str | os.PathLike[str]
"""The path of a YAML file."""
Overrides: TypeAlias = Mapping[str, Any] | None
"""Keys of a configuration with other values, as for `--set`: `{"select.rules.words": "word_count > 60"}`."""


def run(
    config: Config, overrides: Overrides = None, *, only: str | Sequence[str] = (), until: str = "rephrase"
) -> Answer:
    """Do what a configuration asks for and is not done yet; return a row a stage.

    `only` names sources; `until` is the last stage.

    Raises: UsageError for what is found before work begins; GristmillError when the run failed.
    """
    from flows.launch import curate_workspace

    reports = curate_workspace(os.fspath(config), _assigned(overrides), _listed(only), until)
    return Answer([asdict(report) for report in reports])


def plan(
    config: Config, overrides: Overrides = None, *, only: str | Sequence[str] = (), until: str = "rephrase"
) -> Answer:
    """Return what `run` would do, a row a stage; nothing is changed.

    Raises: UsageError for what `run` would refuse.
    """
    from flows.launch import plan

    return plan(os.fspath(config), _assigned(overrides), _listed(only), until)


def test(config: Config, overrides: Overrides = None) -> Answer:  # noqa: PT028
    """Hold a workspace against what its configuration expects: a row an expectation, with its `outcome`.

    Raises: UsageError, also when the workspace is not up to date with the configuration.
    """
    from flows.launch import expectations

    return expectations(os.fspath(config), _assigned(overrides))


def diff(config: Config, overrides: Overrides = None, *, other: str | None = None, examples: int = 0) -> Answer:
    """Return what a configuration would keep that its workspace does not, and the reverse: a row a source, change and
    rule; `value` has the sources and the examples. With `other`, `config` is a workspace and that another one.

    Raises: UsageError for what cannot be compared.
    """
    from flows.launch import diff

    return diff(os.fspath(config), _assigned(overrides), other, examples)


def extract(file: Config, overrides: Overrides = None, *, format: str = "auto", n: int | None = None) -> Answer:  # noqa: A002
    """Return the documents and rejects that a run would make of one file, in order: at most `n` documents.

    `overrides` are keys of a source, as in `{"options.min_answer_score": 1}`. All rows are in memory.

    Raises: UsageError for what cannot be read.
    """
    from flows.launch import extracted

    with extracted(os.fspath(file), format, _assigned(overrides), n) as results:
        rows = [commands.extracted_row(result) for result in results]
    text = "\n\n".join(row["text"] for row in rows if row["reason"] is None)
    return Answer(rows, text, columns=commands.EXTRACTED)


def serve(config: Config, cron: str, name: str | None = None) -> NoReturn:
    """Run a configuration on a schedule (in UTC), until Ctrl-C.

    Raises: UsageError for what would stop a run; InterruptedRunError in the end.
    """
    from flows.serve import serve

    serve(os.fspath(config), cron, name)


def rephrase(
    config: Config, overrides: Overrides = None, *, sample: int | None = None, dry_run: bool = False
) -> Answer:
    """Let a language model rephrase what a source kept: this stage alone.

    With `sample` so many documents beside their rephrasings, with `dry_run` what it would take, as `text`.

    Raises: UsageError for what is found before work begins; GristmillError when the stage failed.
    """
    from flows.launch import rephrase

    lines = list(rephrase(os.fspath(config), _assigned(overrides), sample, dry_run))
    return Answer([{"said": line} for line in lines], "\n".join(lines))


def mix(
    config: Config,
    overrides: Overrides = None,
    step: str = "run",
    *,
    proposal: str | None = None,
    slice_name: str | None = None,
) -> Answer:
    """Do a step of a mix, and those before it as far as they are missing.

    `step` is a command of `gristmill mix`. Returns rows of slices (`slices`, `explain`), of the swarm's runs (`swarm`),
    of tasks (`train`, `fit`), or of the weights that are written.

    Raises: UsageError for what is wrong before work begins; GristmillError when work failed.
    """
    from flows.mix import run_step

    return run_step(step, os.fspath(config), _assigned(overrides), proposal, slice_name)


def mix_fit(
    ratios: Config, metrics: Config, out: Config, model: ModelName = "auto", higher: Sequence[str] = ()
) -> Answer:
    """Fit a regression from mixtures to metrics to two CSV tables; return its quality, a row a metric.

    Raises: InputError for what is wrong with a table.
    """
    from flows.mix import fit_tables

    return fit_tables(os.fspath(ratios), os.fspath(metrics), os.fspath(out), model, higher)


def verify(pairs: Config) -> Answer:
    """Judge rephrasings in JSON lines with `id`, `source` and `rephrased`; return their verdicts, a row a line.

    Raises: InputError naming file and line.
    """
    from pipeline.rephrase.verify import verify_file

    return Answer(list(verify_file(os.fspath(pairs))))


def doctor() -> Answer:
    """Check this machine, a row a check: `check`, `state` (ok or FAIL), `said`."""
    from flows.doctor import examine

    rows = list(examine())
    return Answer(rows, exit_code=int(any(row["state"] == "FAIL" for row in rows)))


def init(template: str = "web") -> str:
    """Return a commented starting configuration, `web` and others. Raises: UsageError, which lists them."""
    return commands.init(template).text


def _listed(names: str | Sequence[str]) -> Sequence[str]:
    """Return names; a single one may be given alone."""
    return [names] if isinstance(names, str) else names


def _assigned(overrides: Overrides) -> list[str]:
    """Return overrides as `--set` takes them: every JSON value is YAML."""
    return [f"{key}={json.dumps(value, default=os.fspath)}" for key, value in (overrides or {}).items()]
