"""The `gristmill` command. Data goes to stdout, everything else to stderr; heavy imports wait until a command needs them.

Exit codes: 0 success; 1 the run failed; 2 anything found before work began; 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from click.exceptions import ClickException, Exit

from pipeline.table.errors import GristmillError

app = typer.Typer(
    name="gristmill",
    help="From raw crawls and corpora to curated shards, with a reason for every document.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
classifier_app = typer.Typer(help="Train and evaluate fastText quality classifiers.", no_args_is_help=True)
app.add_typer(classifier_app, name="classifier")


class Stage(StrEnum):
    """The stages of a run, in order."""

    extract = "extract"
    annotate = "annotate"
    dedup = "dedup"
    classify = "classify"
    select = "select"


class Template(StrEnum):
    """The starting configurations that `init` prints."""

    web = "web"
    corpus = "corpus"


class Format(StrEnum):
    """How `sql` prints its result."""

    table = "table"
    csv = "csv"
    json = "json"


Config = Annotated[str, typer.Argument(help="YAML configuration of the run.", metavar="CONFIG")]
Workspace = Annotated[str, typer.Argument(help="Workspace: a path or an fsspec URL.", metavar="WORKSPACE")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def init(template: Annotated[Template, typer.Argument(help="What will be curated.")] = Template.web) -> None:
    """Print a commented starting configuration: redirect it to a file and edit that."""
    from importlib.resources import files

    sys.stdout.write(files("configs").joinpath(f"{template.value}.yaml").read_text("utf-8"))


@app.command()
def run(
    config: Config,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: a.b=c.", metavar="A.B=C")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this source (repeatable).", metavar="SOURCE")] = None,
    until: Annotated[Stage, typer.Option(help="Stop after this stage.")] = Stage.select,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, with an estimate.")] = False,
) -> None:
    """Bring the workspace up to date with the configuration: do what is not done, skip what is."""
    from flows.config import load
    from flows.launch import launch, plan

    loaded = load(config, assignments or ())
    if dry_run:
        plan(loaded, only or (), until.value)
    else:
        launch(loaded, only or (), until.value, config)


@app.command()
def sql(
    workspace: Workspace,
    query: Annotated[str, typer.Argument(help="One SELECT statement.", metavar="SQL")],
    output: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.table,
) -> None:
    """Ask the workspace in DuckDB SQL: views <source>.documents, .outcomes, .everything ...; over all sources without."""
    from flows.inspect import print_query

    print_query(workspace, query, output.value)


@app.command()
def explain(
    workspace: Workspace,
    document: Annotated[str, typer.Argument(help="A doc_id or a URL.", metavar="DOC_ID|URL")],
    as_json: AsJson = False,
) -> None:
    """Say what was measured of a document, which rules it failed with which values, and what it duplicates."""
    from flows.inspect import print_explanation

    print_explanation(workspace, document, as_json)


@app.command()
def funnel(workspace: Workspace, as_json: AsJson = False) -> None:
    """Show how many documents and tokens each stage and each rule left."""
    from flows.inspect import print_funnel

    print_funnel(workspace, as_json)


@app.command()
def gc(
    workspace: Workspace,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete the parts that no index lists: superseded ones, and those of unfinished runs."""
    from flows.inspect import collect_garbage

    collect_garbage(workspace, dry_run)


@app.command()
def doctor() -> None:
    """Check this machine: versions, language model, caches, Prefect's server."""
    from flows.doctor import examine

    if not examine():
        raise Exit(1)


@classifier_app.command("train")
def classifier_train(config: Config) -> None:
    """Train a classifier from positives and negatives and save it as one folder."""
    from flows.classifier import train_from

    train_from(config)


@classifier_app.command("evaluate")
def classifier_evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a trained classifier.", metavar="MODEL")],
    config: Annotated[str, typer.Argument(help="YAML with `positives` and `negatives`.", metavar="CONFIG")],
    as_json: AsJson = False,
) -> None:
    """Print a classifier's AUC with its 95 % interval on labelled documents."""
    from flows.classifier import evaluate_from

    evaluate_from(model, config, as_json)


def main() -> None:
    """Run the command line: every foreseeable mistake becomes one line and an exit code, never a traceback."""
    sys.exit(run_command(app))


def run_command(command: Any, arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        result = command(arguments, standalone_mode=False)
    except Exit as error:
        return int(error.exit_code)
    except ClickException as error:
        error.show()
        return 2
    except GristmillError as error:
        _complain(str(error))
        return error.exit_code
    except BrokenPipeError:  # `gristmill sql ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _complain("stopped")
        return 130
    return result if isinstance(result, int) else 0


def _complain(message: str) -> None:
    sys.stderr.write(f"gristmill: {' '.join(message.split())}\n")
