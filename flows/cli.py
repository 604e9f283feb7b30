"""The `gristmill` command. Data goes to stdout, everything else to stderr; imports wait until a command needs them.

Exit codes: 0 success; 1 the run failed; 2 anything found before work began; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from flows.cli_mix import add_mix, add_scaling

STAGES = ("extract", "annotate", "dedup", "classify", "select", "rephrase")


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"gristmill: {message}; see `{self.prog} --help`\n")
        sys.exit(2)


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = _Parser(
        prog="gristmill", description="From raw crawls and corpora to curated shards, a reason for every document."
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_run(commands)
    _add_rephrase(commands)
    _add_reading(commands)
    _add_classifier(commands)
    add_mix(commands, _command)
    add_scaling(commands, _command)

    command = _command(commands, "doctor", "check this machine: versions, language model, caches, Prefect's server")
    command.set_defaults(run=_doctor)
    return top


def _add_run(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "init", "print a commented starting configuration")
    command.add_argument("template", nargs="?", choices=("web", "corpus"), default="web", help="what will be curated")
    command.set_defaults(run=_init)

    command = _command(commands, "run", "do what the configuration asks for and is not done yet")
    command.add_argument("config", metavar="CONFIG", help="YAML configuration")
    command.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], dest="assignments", help="override a key"
    )
    command.add_argument("--only", metavar="SOURCE", action="append", default=[], help="only this source (repeatable)")
    command.add_argument("--until", metavar="STAGE", choices=STAGES, default="rephrase", help="stop after this stage")
    command.add_argument("--dry-run", action="store_true", help="print what would be done, with an estimate")
    command.set_defaults(run=_run)


def _add_rephrase(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "rephrase", "let a language model rephrase what a source kept: this stage alone")
    command.add_argument("config", metavar="CONFIG", help="YAML configuration with the key `rephrase`")
    command.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], dest="assignments", help="override a key"
    )
    command.add_argument("--sample", metavar="N", type=int, help="ask for N documents and print each beside its source")
    command.add_argument("--dry-run", action="store_true", help="print requests, tokens and, with prices, money")
    command.set_defaults(run=_rephrase)

    command = _command(commands, "verify", "judge rephrasings: what they say that their sources do not")
    command.add_argument("pairs", metavar="PAIRS", help="JSON lines with `id`, `source` and `rephrased`")
    command.set_defaults(run=_verify)


def _add_reading(commands: argparse._SubParsersAction[_Parser]) -> None:
    command = _command(commands, "sql", "ask a workspace in DuckDB SQL: <source>.documents, .outcomes, .everything ...")
    command.add_argument("workspace", metavar="WORKSPACE")
    command.add_argument("query", metavar="SQL", help="one SELECT statement")
    command.add_argument("--format", choices=("table", "csv", "json"), default="table", help="how to print the result")
    command.set_defaults(run=_sql)

    command = _command(
        commands, "explain", "say what was measured of a document, and which rules it failed with which values"
    )
    command.add_argument("workspace", metavar="WORKSPACE")
    command.add_argument("document", metavar="DOC_ID|URL")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_explain)

    command = _command(commands, "funnel", "show how many documents and tokens each stage and each rule left")
    command.add_argument("workspace", metavar="WORKSPACE")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.set_defaults(run=_funnel)

    command = _command(commands, "check", "read every part and hold it against what its manifest says")
    command.add_argument("workspace", metavar="WORKSPACE", help="path or URL of the workspace")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.set_defaults(run=_check)

    command = _command(commands, "gc", "delete the parts that no index lists: superseded ones and unfinished ones")
    command.add_argument("workspace", metavar="WORKSPACE")
    command.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    command.set_defaults(run=_gc)


def _add_classifier(commands: argparse._SubParsersAction[_Parser]) -> None:
    group = _command(commands, "classifier", "train and evaluate fastText quality classifiers")
    classifier = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    command = _command(classifier, "train", "train a classifier and save it as one folder")
    command.add_argument("config", metavar="CONFIG", help="YAML configuration of the training")
    command.set_defaults(run=_classifier_train)

    command = _command(classifier, "evaluate", "print a classifier's AUC on labelled documents, with its interval")
    command.add_argument("model", metavar="MODEL", help="folder of a trained classifier")
    command.add_argument("config", metavar="CONFIG", help="YAML with `positives` and `negatives`")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_classifier_evaluate)


def _command(commands: argparse._SubParsersAction[_Parser], name: str, text: str) -> _Parser:
    return commands.add_parser(
        name, help=text, description=text[0].upper() + text[1:].rstrip(".") + ".", allow_abbrev=False
    )


def _init(arguments: argparse.Namespace) -> int:
    from importlib.resources import files

    sys.stdout.write(files("configs").joinpath(f"{arguments.template}.yaml").read_text("utf-8"))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from flows.launch import dry_run, launch

    start = dry_run if arguments.dry_run else launch
    return start(arguments.config, arguments.assignments, arguments.only, arguments.until)


def _rephrase(arguments: argparse.Namespace) -> int:
    from flows.rephrase_command import rephrase

    return rephrase(arguments.config, arguments.assignments, arguments.sample, arguments.dry_run)


def _verify(arguments: argparse.Namespace) -> int:
    from flows.rephrase_command import verify_pairs

    return verify_pairs(arguments.pairs)


def _sql(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_query

    return print_query(arguments.workspace, arguments.query, arguments.format)


def _explain(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_explanation

    return print_explanation(arguments.workspace, arguments.document, arguments.json)


def _funnel(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_funnel

    return print_funnel(arguments.workspace, arguments.json)


def _check(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_check

    return print_check(arguments.workspace, arguments.json)


def _gc(arguments: argparse.Namespace) -> int:
    from flows.inspection import collect_garbage

    return collect_garbage(arguments.workspace, arguments.dry_run)


def _doctor(arguments: argparse.Namespace) -> int:
    from flows.doctor import examine

    return examine()


def _classifier_train(arguments: argparse.Namespace) -> int:
    from flows.classifier import train_from

    return train_from(arguments.config)


def _classifier_evaluate(arguments: argparse.Namespace) -> int:
    from flows.classifier import evaluate_from

    return evaluate_from(arguments.model, arguments.config, arguments.json)


def _os_failure(error: OSError) -> str:
    """Return one line for what the machine refused: what, where, what to do."""
    where = f"{error.filename}: " if error.filename else ""
    what = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}disk full; free space (TMPDIR names the temporary folder) and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}{what}; change its permissions, or choose another place"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{where}{what}; raise the limit (`ulimit -n`) or lower engine.workers"
    return f"{where}{what}; run the same command again, finished work is kept"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line: every foreseeable mistake becomes one line and an exit code, never a traceback."""
    namespace = parser().parse_args(arguments)
    from pipeline.table.errors import GristmillError

    try:
        code = namespace.run(namespace)
        sys.stdout.flush()
    except GristmillError as error:
        sys.stderr.write(f"gristmill: {' '.join(str(error).split())}\n")
        code = error.exit_code
    except MemoryError:
        sys.stderr.write("gristmill: out of memory; lower engine.workers or engine.memory_mb and run it again\n")
        code = 1
    except BrokenPipeError:  # `gristmill sql ... | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        sys.stderr.write(f"gristmill: {' '.join(_os_failure(error).split())}\n")
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write("gristmill: stopped\n")
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
