"""The `gristmill` command. Data goes to stdout, everything else to stderr; imports wait until a command needs them.

Exit codes: 0 success; 1 the run failed; 2 anything found before work began; 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NoReturn

from pipeline.table.terminal import guard

STAGES = ("extract", "annotate", "dedup", "classify", "select", "rephrase")
MIX_STEPS = {
    "slices": "count and tokenise what is mixed: documents, tokens, natural proportions, caps",
    "swarm": "draw the mixtures that proxies train on",
    "train": "train the proxies that are missing, and measure them on the suite",
    "propose": "choose the mixture that the regression predicts to be best",
    "verify": "train the proposal and the baselines with fresh seeds, and hold them against the prediction",
    "sample": "write token shards of the mixture",
    "report": "write an HTML page with plots of everything that is known so far",
}
MODELS = ("auto", "linear", "log_linear", "effective_data", "gp", "lightgbm")


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"gristmill: {' '.join(message.split())}; see `{self.prog} --help`\n")
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
    _add_mix(commands)
    _add_scaling(commands)

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

    command = _command(commands, "serve", "run a configuration on a schedule, until Ctrl-C")
    command.add_argument("config", metavar="CONFIG", help="YAML configuration, read anew for each run")
    command.add_argument("--cron", metavar="CRON", required=True, help="when, in UTC, such as '0 2 * * *'")
    command.add_argument("--name", metavar="NAME", help="name of the deployment; that of the file by default")
    command.set_defaults(run=_serve)


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
    command.add_argument(
        "--defuse", action="store_true", help="CSV: an apostrophe before text that a spreadsheet would run as a formula"
    )
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
    command.add_argument("--all", action="store_true", help="also rules that took nothing, which JSON always has")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.set_defaults(run=_funnel)

    command = _command(commands, "check", "read every part and hold it against what its manifest says")
    command.add_argument("workspace", metavar="WORKSPACE", help="path or URL of the workspace")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.set_defaults(run=_check)

    group = _command(commands, "rules", "list and show rules: presets, files, and those of a configuration")
    rules = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = _command(rules, "list", "list the presets of rules")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.set_defaults(run=_rules_list)
    command = _command(rules, "show", "print rules as they are in force, in their order")
    command.add_argument("rules", metavar="PRESET|FILE|CONFIG", help="a preset, a rules file, or a run's configuration")
    command.add_argument("--source", metavar="NAME", help="only this source of CONFIG")
    command.add_argument("--json", action="store_true", help="print one JSON array")
    command.set_defaults(run=_rules_show)

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


def _add_mix(commands: Any) -> None:
    """Add `gristmill mix` and its commands."""
    group = _command(commands, "mix", "find, by experiment, in which proportions to mix slices of curated text")
    mix = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(mix, "run", "do every step that is not done yet, from slices to token shards")
    _config(run)
    run.add_argument("--dry-run", action="store_true", help="print what would be done, and change nothing")
    run.set_defaults(run=_step, step="run")
    for name, text in MIX_STEPS.items():
        step = _command(mix, name, text)
        _config(step)
        if name in ("sample", "report"):
            _proposal(step)
        step.set_defaults(run=_step, step=name)
    explain = _command(mix, "explain", "say which tasks pull a slice up or down, by how much, and what changed")
    _config(explain)
    explain.add_argument("slice", metavar="SLICE", nargs="?", help="one slice at length (default: all)")
    _proposal(explain)
    explain.add_argument("--json", action="store_true", help="print one JSON array, an object a slice")
    explain.set_defaults(run=_step, step="explain")
    _add_tables(mix)


def _add_tables(mix: Any) -> None:
    fit = _command(mix, "fit", "fit a regression from mixtures to metrics, of this mix or of anybody's tables")
    _config(fit, optional=True)
    fit.add_argument("--ratios", metavar="CSV", help="mixtures: `index`, one column a slice, and `seed` if known")
    fit.add_argument("--metrics", metavar="CSV", help="losses: column `index`, then one column a metric")
    fit.add_argument(
        "--higher", metavar="METRIC", action="append", default=[], help="a metric where larger is better (repeatable)"
    )
    fit.add_argument("--out", metavar="DIR", help="folder that the fit is written to")
    fit.add_argument("--model", choices=MODELS, help="regression model (default: auto, or what CONFIG says)")
    fit.add_argument("--json", action="store_true", help="print one JSON array, an object a metric")
    fit.set_defaults(run=_fit)

    predict = _command(mix, "predict", "predict the metrics of mixtures, with 90-percent intervals")
    predict.add_argument("--fit", metavar="DIR", required=True, help="folder that `mix fit` wrote")
    predict.add_argument("--ratios", metavar="CSV", required=True, help="mixtures: `index`, then one column a slice")
    predict.add_argument("--out", metavar="CSV", help="file to write (default: standard output)")
    predict.set_defaults(run=_predict)


def _config(parser: Any, optional: bool = False) -> None:
    if optional:
        parser.add_argument("config", metavar="CONFIG", nargs="?", help="YAML configuration of the mix")
    else:
        parser.add_argument("config", metavar="CONFIG", help="YAML configuration of the mix")
    parser.add_argument(
        "--set", metavar="A.B=C", action="append", default=[], dest="assignments", help="override a key"
    )


def _proposal(parser: Any) -> None:
    parser.add_argument("--proposal", metavar="NAME", help="folder under `proposals` (default: the one written last)")


def _add_scaling(commands: Any) -> None:
    """Add `gristmill scaling` and its commands."""
    group = _command(commands, "scaling", "fit a scaling law to training runs, predict with it, allocate compute")
    scaling = group.add_subparsers(title="commands", metavar="COMMAND", required=True)

    fit = _command(scaling, "fit", "fit L(N, D) = E + A/N^a + B/D^b to runs")
    fit.add_argument("--runs", metavar="CSV", required=True, help="columns `parameters`, `tokens`, `loss`")
    fit.add_argument("--out", metavar="DIR", required=True, help="folder that the fit and its plot are written to")
    fit.add_argument("--bootstrap", metavar="N", type=int, default=200, help="refits that intervals rest on")
    fit.add_argument("--seed", metavar="SEED", type=int, default=1, help="seed of the refits")
    fit.add_argument("--json", action="store_true", help="print one JSON object")
    fit.set_defaults(run=_scaling, step="fit")

    predict = _command(scaling, "predict", "predict a model's loss, with its 90-percent interval")
    predict.add_argument("--fit", metavar="DIR", required=True, help="folder that `scaling fit` wrote")
    predict.add_argument("--parameters", metavar="N", type=float, required=True, help="parameters of the model")
    predict.add_argument("--tokens", metavar="D", type=float, required=True, help="training tokens")
    predict.add_argument("--json", action="store_true", help="print one JSON object")
    predict.set_defaults(run=_scaling, step="predict")

    allocate = _command(scaling, "allocate", "divide compute between parameters and tokens")
    allocate.add_argument("--fit", metavar="DIR", required=True, help="folder that `scaling fit` wrote")
    allocate.add_argument("--flops", metavar="C", type=float, required=True, help="floating-point operations to spend")
    allocate.add_argument(
        "--served-tokens", metavar="T", type=float, default=0.0, help="tokens that the model will serve in its life"
    )
    allocate.add_argument("--json", action="store_true", help="print one JSON object")
    allocate.set_defaults(run=_scaling, step="allocate")


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


def _serve(arguments: argparse.Namespace) -> int:
    from flows.serve import serve

    serve(arguments.config, arguments.cron, arguments.name)


def _rephrase(arguments: argparse.Namespace) -> int:
    from flows.rephrase_command import rephrase

    return rephrase(arguments.config, arguments.assignments, arguments.sample, arguments.dry_run)


def _verify(arguments: argparse.Namespace) -> int:
    from flows.rephrase_command import verify_pairs

    return verify_pairs(arguments.pairs)


def _sql(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_query

    return print_query(arguments.workspace, arguments.query, arguments.format, arguments.defuse)


def _explain(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_explanation

    return print_explanation(arguments.workspace, arguments.document, arguments.json)


def _funnel(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_funnel

    return print_funnel(arguments.workspace, arguments.json, arguments.all)


def _rules_list(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_presets

    return print_presets(arguments.json)


def _rules_show(arguments: argparse.Namespace) -> int:
    from flows.inspection import print_rules

    return print_rules(arguments.rules, arguments.source, arguments.json)


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


def _step(arguments: argparse.Namespace) -> int:
    from flows.mix import run_step

    return run_step(
        arguments.step,
        arguments.config,
        arguments.assignments,
        dry_run=getattr(arguments, "dry_run", False),
        as_json=getattr(arguments, "json", False),
        proposal=getattr(arguments, "proposal", None),
        slice_name=getattr(arguments, "slice", None),
    )


def _fit(arguments: argparse.Namespace) -> int:
    from flows.mix import run_step
    from flows.tables import fit_tables

    tables = (arguments.ratios, arguments.metrics, arguments.out)
    if arguments.config is None:
        return fit_tables(*tables, arguments.model or "auto", arguments.higher, arguments.json)
    if any(tables) or arguments.higher:
        from pipeline.table.errors import UsageError

        raise UsageError(
            "mix fit: give either CONFIG, or --ratios, --metrics and --out; --higher belongs to these three"
        )
    assignments = [*arguments.assignments, *([f"fit.model={arguments.model}"] if arguments.model else [])]
    return run_step("fit", arguments.config, assignments, as_json=arguments.json)


def _predict(arguments: argparse.Namespace) -> int:
    from flows.tables import predict_tables

    return predict_tables(arguments.fit, arguments.ratios, arguments.out)


def _scaling(arguments: argparse.Namespace) -> int:
    from flows import tables

    if arguments.step == "fit":
        return tables.fit(arguments.runs, arguments.out, arguments.bootstrap, arguments.seed, arguments.json)
    if arguments.step == "predict":
        return tables.predict(arguments.fit, arguments.parameters, arguments.tokens, arguments.json)
    return tables.allocate(arguments.fit, arguments.flops, arguments.served_tokens, arguments.json)


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
    with guard():
        sys.exit(_main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    for argument in sys.argv[1:] if arguments is None else arguments:
        if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
            hint = "it is not UTF-8 text; where it is a name, rename the file, or set PYTHONUTF8=1"
            sys.stderr.write(f"gristmill: argument {argument[:100]!r}: {hint}\n")
            return 2
    namespace = parser().parse_args(arguments)
    from pipeline.table.errors import GristmillError
    from pipeline.table.interrupts import ending_on_signals
    from pipeline.table.redaction import redact

    code: int
    sys.excepthook = _crash
    signals: list[int] = []
    try:
        with ending_on_signals() as signals:
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
        sys.stderr.write(f"gristmill: {' '.join(redact(_os_failure(error)).split())}\n")
        code = 1
    except KeyboardInterrupt:
        sys.stderr.write("gristmill: stopped\n")
        code = 128 + (signals[0] if signals else signal.SIGINT)
    except UnicodeEncodeError as error:
        wrong = error.object[error.start : error.end][:20]
        sys.stderr.write(f"gristmill: {error.encoding} cannot hold {wrong!r}; set PYTHONUTF8=1, or print JSON\n")
        code = 2
    return code


def _crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of what nobody foresaw; it is pasted into reports, so without secrets."""
    import traceback

    from pipeline.table.redaction import redact

    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


if __name__ == "__main__":
    main()
