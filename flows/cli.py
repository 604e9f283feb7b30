"""The `gristmill` command line: what can be typed, what works on a workspace, how a mistake ends. See `flows.commands`.

Exit codes: 0 success; 1 the run failed; 2 anything found before work began; 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from types import TracebackType
from typing import Any, NoReturn

from flows import commands as do
from pipeline.table.errors import UsageError, guard

STAGES = ("extract", "annotate", "dedup", "classify", "select", "rephrase")
MIX_STEPS = {
    "run": "do every step that is not done yet, from slices to token shards",
    "slices": "count and tokenise what is mixed: documents, tokens, natural proportions, caps",
    "swarm": "draw the mixtures that proxies train on",
    "train": "train the proxies that are missing, and measure them on the suite",
    "propose": "choose the mixture that the regression predicts to be best",
    "verify": "train the proposal and the baselines with fresh seeds, and hold them against the prediction",
    "sample": "write token shards of the mixture",
    "report": "write an HTML page with plots of everything that is known so far",
    "explain": "say which tasks pull a slice up or down, by how much, and what changed",
}
MODELS = ("auto", "linear", "log_linear", "effective_data", "gp", "lightgbm")
Argument = tuple[str, dict[str, Any]]


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"gristmill: {' '.join(message.split())}; see `{self.prog} --help`\n")
        sys.exit(2)


def _given(name: str, metavar: str | None, text: str | None = None, **settings: Any) -> Argument:
    return name, {"metavar": metavar, "help": text, **settings}


def _flag(name: str, text: str) -> Argument:
    return name, {"action": "store_true", "help": text}


def _json(what: str) -> Argument:
    return _flag("--json", f"print one JSON {what}")


SET = _given("--set", "A.B=C", "override a key", action="append", default=[], dest="assignments")
WORKSPACE = _given("workspace", "WORKSPACE", "path or URL of the workspace")
DRY_RUN = _flag("--dry-run", "print what would be done, and change nothing")


def _add(commands: Any, function: Callable[..., int], *arguments: Argument, step: str | None = None) -> None:
    """Add the command that a function does: its name is the last word of the function's, its help the first line."""
    name = step or function.__name__.rpartition("_")[2]
    text = MIX_STEPS[step] if step else (function.__doc__ or name).partition("\n")[0]
    command = _described(commands, name, text)
    for flag, settings in arguments:
        command.add_argument(flag, **settings)
    command.set_defaults(do=function, step=step)


def _described(commands: Any, name: str, text: str) -> Any:
    text = text.rstrip(".")
    help_text, description = text[0].lower() + text[1:], f"{text[0].upper()}{text[1:]}."
    return commands.add_parser(name, help=help_text, description=description, allow_abbrev=False)


def _group(commands: Any, name: str, text: str) -> Any:
    return _described(commands, name, text).add_subparsers(title="commands", metavar="COMMAND", required=True)


# What works on a workspace --------------------------------------------------------------------------------------------


def run(given: argparse.Namespace) -> int:
    """Do what the configuration asks for and is not done yet."""
    from flows.launch import curate_workspace, plan, plan_text

    asked = given.config, given.assignments, given.only, given.until
    if not given.dry_run:
        if given.json:
            raise UsageError("--json is for --dry-run; what a run did, `gristmill status WORKSPACE --json` says")
        curate_workspace(*asked, _curate)
        return 0
    rows, lines = plan(*asked)
    return do.say_rows(rows, as_json=True) if given.json else do.say(plan_text(rows, lines))


def _curate() -> Any:
    """Return the Prefect flow of a run. It is imported, and Prefect with it, once the server is known."""
    from flows.curate import curate

    return curate


def serve(given: argparse.Namespace) -> int:
    """Run a configuration on a schedule, until Ctrl-C."""
    from flows.serve import serve

    serve(given.config, given.cron, given.name, _curate)


def rephrase(given: argparse.Namespace) -> int:
    """Let a language model rephrase what a source kept: this stage alone."""
    from flows.launch import rephrase

    with closing(rephrase(given.config, given.assignments, given.sample, given.dry_run)) as texts:
        for text in texts:
            sys.stdout.write(f"{text}\n")
    return 0


def mix(given: argparse.Namespace) -> int:
    """Do a step of a mix, and those before it as far as they are missing."""
    from flows.mix import plan, run_step

    if getattr(given, "dry_run", False):
        return do.say(plan(given.config, given.assignments))
    proposal, part = getattr(given, "proposal", None), getattr(given, "slice", None)
    return do.say(run_step(given.step, given.config, given.assignments, getattr(given, "json", False), proposal, part))


def mix_fit(given: argparse.Namespace) -> int:
    """Fit a regression from mixtures to metrics, of this mix or of anybody's tables.

    Raises: UsageError for tables beside CONFIG, or one that is missing; InputError for what is wrong with a table.
    """
    from flows.mix import fit_text, run_step
    from pipeline.mix.regression.tables import fit_files

    tables = given.ratios, given.metrics, given.out
    if given.config is None and None in tables:
        raise UsageError("mix fit: give CONFIG, or --ratios, --metrics and --out")
    if given.config is None:
        from flows.progress import Reporter

        told = Reporter().line
        return do.say(
            fit_text(fit_files(*tables, model=given.model or "auto", higher=given.higher, progress=told), given.json)
        )
    if any(tables) or given.higher:
        raise UsageError(
            "mix fit: give either CONFIG, or --ratios, --metrics and --out; --higher belongs to these three"
        )
    assignments = [*given.assignments, *([f"fit.model={given.model}"] if given.model else [])]
    return do.say(run_step("fit", given.config, assignments, given.json))


# What can be typed ----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Return the whole command line."""
    top = _Parser(
        prog="gristmill", description="From raw crawls and corpora to curated shards, a reason for every document."
    )
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_runs(commands)
    _add_reading(commands)
    classifier = _group(commands, "classifier", "train and evaluate fastText quality classifiers")
    _add(classifier, do.classifier_train, _given("config", "CONFIG", "YAML configuration of the training"))
    _add(
        classifier,
        do.classifier_evaluate,
        _given("model", "MODEL", "folder of a trained classifier"),
        _given("config", "CONFIG", "YAML with `positives` and `negatives`"),
        _json("object"),
    )
    _add_mix(_group(commands, "mix", "find, by experiment, in which proportions to mix slices of curated text"))
    _add_scaling(_group(commands, "scaling", "fit a scaling law to training runs, predict with it, allocate compute"))
    _add(commands, do.doctor)
    return top


def _add_runs(commands: Any) -> None:
    template = _given("template", None, "what will be curated", nargs="?", choices=("web", "corpus"), default="web")
    _add(commands, do.init, template)
    _add(
        commands,
        run,
        _given("config", "CONFIG", "YAML configuration"),
        SET,
        _given("--only", "SOURCE", "only this source (repeatable)", action="append", default=[]),
        _given("--until", "STAGE", "stop after this stage", choices=STAGES, default="rephrase"),
        DRY_RUN,
        _json("array, with --dry-run"),
    )
    _add(
        commands,
        serve,
        _given("config", "CONFIG", "YAML configuration, read anew for each run"),
        _given("--cron", "CRON", "when, in UTC, such as '0 2 * * *'", required=True),
        _given("--name", "NAME", "name of the deployment; that of the file by default"),
    )
    _add(
        commands,
        rephrase,
        _given("config", "CONFIG", "YAML configuration with the key `rephrase`"),
        SET,
        _given("--sample", "N", "ask for N documents and print each beside its source", type=int),
        _flag("--dry-run", "print requests, tokens and, with prices, money"),
    )
    _add(commands, do.verify, _given("pairs", "PAIRS", "JSON lines with `id`, `source` and `rephrased`"))


def _add_reading(commands: Any) -> None:
    _add(
        commands,
        do.sql,
        WORKSPACE,
        _given("query", "SQL", "one SELECT statement"),
        _given("--format", None, "how to print the result", choices=("table", "csv", "json"), default="table"),
        _flag("--defuse", "CSV: an apostrophe before text that a spreadsheet would run as a formula"),
    )
    _add(commands, do.explain, WORKSPACE, _given("document", "DOC_ID|URL"), _json("object"))
    _add(
        commands,
        do.funnel,
        WORKSPACE,
        _flag("--all", "also rules that took nothing, which JSON always has"),
        _json("array"),
    )
    _add(commands, do.check, WORKSPACE, _json("array"))
    _add(commands, do.status, WORKSPACE, _json("object"))
    config = _given("config", "CONFIG", "YAML configuration with the key `expect`")
    _add(commands, do.test, config, SET, _json("array"))
    rules = _group(commands, "rules", "list and show rules: presets, files, and those of a configuration")
    _add(rules, do.rules_list, _json("array"))
    _add(
        rules,
        do.rules_show,
        _given("rules", "PRESET|FILE|CONFIG", "a preset, a rules file, or a run's configuration"),
        _given("--source", "NAME", "only this source of CONFIG"),
        _json("array"),
    )
    _add(commands, do.gc, WORKSPACE, _flag("--dry-run", "only say what would be deleted"))


def _add_mix(commands: Any) -> None:
    config = _given("config", "CONFIG", "YAML configuration of the mix")
    proposal = _given("--proposal", "NAME", "folder under `proposals` (default: the one written last)")
    own = {
        "run": [DRY_RUN],
        "sample": [proposal],
        "report": [proposal],
        "explain": [
            _given("slice", "SLICE", "one slice at length (default: all)", nargs="?"),
            proposal,
            _json("array, an object a slice"),
        ],
    }
    for step in MIX_STEPS:
        _add(commands, mix, config, SET, *own.get(step, []), step=step)
    _add(
        commands,
        mix_fit,
        _given("config", "CONFIG", "YAML configuration of the mix", nargs="?"),
        SET,
        _given("--ratios", "CSV", "mixtures: `index`, one column a slice, and `seed` if known"),
        _given("--metrics", "CSV", "losses: column `index`, then one column a metric"),
        _given("--higher", "METRIC", "a metric where larger is better (repeatable)", action="append", default=[]),
        _given("--out", "DIR", "folder that the fit is written to"),
        _given("--model", None, "regression model (default: auto, or what CONFIG says)", choices=MODELS),
        _json("array, an object a metric"),
    )
    _add(
        commands,
        do.mix_predict,
        _given("--fit", "DIR", "folder that `mix fit` wrote", required=True),
        _given("--ratios", "CSV", "mixtures: `index`, then one column a slice", required=True),
        _given("--out", "CSV", "file to write (default: standard output)"),
    )


def _add_scaling(scaling: Any) -> None:
    fitted = _given("--fit", "DIR", "folder that `scaling fit` wrote", required=True)
    _add(
        scaling,
        do.scaling_fit,
        _given("--runs", "CSV", "columns `parameters`, `tokens`, `loss`", required=True),
        _given("--out", "DIR", "folder that the fit and its plot are written to", required=True),
        _given("--bootstrap", "N", "refits that intervals rest on", type=int, default=200),
        _given("--seed", "SEED", "seed of the refits", type=int, default=1),
        _json("object"),
    )
    _add(
        scaling,
        do.scaling_predict,
        fitted,
        _given("--parameters", "N", "parameters of the model", type=float, required=True),
        _given("--tokens", "D", "training tokens", type=float, required=True),
        _json("object"),
    )
    _add(
        scaling,
        do.scaling_allocate,
        fitted,
        _given("--flops", "C", "floating-point operations to spend", type=float, required=True),
        _given("--served-tokens", "T", "tokens that the model will serve in its life", type=float, default=0.0),
        _json("object"),
    )


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
    from pipeline.table.errors import GristmillError, redact
    from pipeline.table.interrupts import ending_on_signals

    code: int
    sys.excepthook = _crash
    signals: list[int] = []
    try:
        with ending_on_signals() as signals:
            code = namespace.do(namespace)
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

    from pipeline.table.errors import redact

    sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


if __name__ == "__main__":
    main()
