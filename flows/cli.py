"""The `gristmill` command line: what can be typed, how an answer is printed, how a mistake ends.

What a command answers is in `flows.commands`; here are those that start runs, or print as they go.

Exit codes: 0 success; 1 the run failed; 2 anything found before work began; 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import argparse
import errno
import inspect
import os
import re
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from textwrap import indent
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from flows import commands as do
from flows.reference.manual import MANUAL
from pipeline.inputs.shipped import TEMPLATES
from pipeline.table.errors import guard
from pipeline.table.format import Answer, Format

if TYPE_CHECKING:
    from pipeline.mix.config import ModelName

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
EXPORTS = ("parquet", "jsonl.zst", "hf", "partitioned")
MIX_JSON = {
    **dict.fromkeys(("slices", "explain"), "array, an object a slice"),
    "swarm": "array, an object a run",
    "train": "array, an object a task",
}
MODELS = ("auto", "linear", "log_linear", "effective_data", "gp", "lightgbm")
QUERY_BYTES = 2 << 30
"""Memory that `gristmill sql` may take beside the program's own: DuckDB's limit, and text that it does not count."""
Argument = tuple[str, dict[str, Any]]


class _Parser(argparse.ArgumentParser):
    """A parser whose mistakes are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"gristmill: {' '.join(message.split())}; see `{self.prog} --help`\n")
        sys.exit(2)


def _given(name: str, metavar: str | None, text: str | None = None, **settings: Any) -> Argument:
    return name, {"metavar": metavar, "help": text, **settings}


def _flag(name: str, text: str, **settings: Any) -> Argument:
    return name, {"action": "store_true", "help": text, **settings}


def _json(what: str) -> Argument:
    return _flag("--json", f"print one JSON {what}")


SET = _given(
    "--set",
    "A.B=C",
    "override a key; the value is read as YAML (repeatable)",
    action="append",
    default=[],
    dest="assignments",
)
WORKSPACE = _given("workspace", "WORKSPACE", "path or URL of the workspace")
DRY_RUN = _flag("--dry-run", "print what would be done, and change nothing")


def _add(commands: Any, function: Callable[..., Answer | int], *arguments: Argument, step: str | None = None) -> None:
    """Add the command that a function does: its name is the last word of the function's, its help the first line."""
    name = step or function.__name__.rpartition("_")[2]
    text = MIX_STEPS[step] if step in MIX_STEPS else (function.__doc__ or name).partition("\n")[0]
    command = _described(commands, name, text)
    for flag, settings in arguments:
        command.add_argument(flag, **settings)
    command.set_defaults(do=function, step=step)


def _do(given: argparse.Namespace) -> int:
    """Do what was typed, print the answer and return the exit code."""
    wanted = inspect.signature(given.do).parameters
    answer: Answer | int = given.do(**{name: value for name, value in vars(given).items() if name in wanted})
    if isinstance(answer, int):
        return answer
    text = answer.json() if getattr(given, "json", False) else answer.text
    sys.stdout.write(text.rstrip("\n") + "\n" if text else "")
    for note in answer.notes:
        sys.stderr.write(f"{note}\n")
    return answer.exit_code


def _described(commands: Any, name: str, text: str) -> Any:
    text = text.rstrip(".")
    command = commands.add_parser(
        name,
        help=text[0].lower() + text[1:],
        description=f"{text[0].upper()}{text[1:]}.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if said := MANUAL.get(command.prog.partition(" ")[2]):
        command.description += f"\n\n{said.about}"
        command.epilog = f"examples:\n{indent(said.examples, '  ')}"
    return command


def _group(commands: Any, name: str, text: str) -> Any:
    return _described(commands, name, text).add_subparsers(title="commands", metavar="COMMAND", required=True)


# What starts a run, or prints as it goes ------------------------------------------------------------------------------


def run(
    config: str, assignments: Sequence[str], only: Sequence[str], until: str, dry_run: bool, json: bool
) -> Answer | int:
    """Do what the configuration asks for and is not done yet."""
    from flows.launch import curate_workspace, plan
    from pipeline.table.errors import UsageError

    if dry_run:
        return plan(config, assignments, only, until)
    if json:
        raise UsageError("run: --json is for --dry-run; `gristmill status WORKSPACE --json` says what a run did")
    curate_workspace(config, assignments, only, until)
    return 0


def test(config: str, assignments: Sequence[str]) -> Answer:
    """Hold the workspace of a configuration against what it expects."""
    from flows.launch import expectations

    return expectations(config, assignments)


def diff(config: str, other: str | None, assignments: Sequence[str], examples: int) -> Answer:
    """Show what another policy keeps: of a configuration against its workspace's outcomes, or of two workspaces."""
    from flows.launch import diff

    return diff(config, assignments, other, examples)


def extract(
    file: str, form: str, assignments: Sequence[str], n: int | None, pages: bool, html: str | None, as_json: bool
) -> int:
    """Print the documents that a run would make of one file, before running.

    Raises: InputError for what cannot be read; UsageError, ConfigError, WorkspaceError.
    """
    from flows.launch import extracted
    from pipeline.extract.units import Reject
    from pipeline.peek.pages import marked, sheet
    from pipeline.report.page import write_one
    from pipeline.table.format import Result, visible, write_json

    rejects: Counter[str] = Counter()
    details: dict[str, str] = {}
    documents = 0
    seen = []
    with extracted(file, form, assignments, n, do.MAX_PICTURES if html else 0) as results:

        def rows() -> Iterator[Mapping[str, Any]]:
            nonlocal documents
            for result in results:
                seen.extend([result] if html else [])
                documents += not isinstance(result, Reject)
                if isinstance(result, Reject):
                    rejects[result.reason] += 1
                    details.setdefault(result.reason, visible(result.detail))
                row = do.extracted_row(result)
                yield row if isinstance(result, Reject) or not pages else row | {"text": marked(result)}

        if as_json:
            cells = (tuple(row.values()) for row in rows())
            write_json(Result(list(do.EXTRACTED), [""] * len(do.EXTRACTED), cells), sys.stdout)
        else:
            for row in rows():
                if row["reason"] is None:
                    date = row["date"].date().isoformat() if row["date"] else None
                    name = row["title"] or row["origin"]["record_id"] or row["origin"]["file"]
                    known = [name, row["url"], date, row["licence"]]
                    head = " | ".join(visible(each) for each in known if each)
                    sys.stdout.write(f"=== {documents} {head}\n{row['text'].rstrip()}\n\n")
    if html:
        write_one(html, sheet(file, seen))
    why = ", ".join(
        f"{reason} {count:,} ({'first: ' if count > 1 else ''}{details[reason]})"
        for reason, count in rejects.most_common()
    )
    sys.stderr.write(
        f"{documents:,} documents, {rejects.total():,} rejects{f' (--json has them): {why}' if why else ''}\n"
    )
    return 0


def serve(config: str, cron: str, name: str | None) -> NoReturn:
    """Run a configuration on a schedule, until Ctrl-C."""
    from flows.serve import serve

    serve(config, cron, name)


def rephrase(config: str, assignments: Sequence[str], sample: int | None, dry_run: bool, as_json: bool) -> int:
    """Let a language model rephrase what a source kept: this stage alone."""
    from flows.launch import rephrase

    with closing(rephrase(config, assignments, sample, dry_run, as_json)) as texts:
        for text in texts:
            sys.stdout.write(f"{text}\n")
    return 0


def verify(pairs: str) -> int:
    """Judge rephrasings: what they say that their sources do not.

    Raises: InputError naming file and line.
    """
    from pipeline.rephrase.verify import verify_file
    from pipeline.table.format import encode

    for row in verify_file(pairs):
        sys.stdout.write(f"{encode(row)}\n")
    return 0


def doctor(as_json: bool) -> int:
    """Check this machine: versions, language model, caches, Prefect's server."""
    from flows.doctor import examine
    from pipeline.table.format import encode

    code = 0
    for row in examine():
        code = 1 if row["state"] == "FAIL" else code
        line = encode(row) if as_json else f"{row['state']:<5}{row['check']:<16}{row['said']}"
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    return code


def sql(workspace: str, query: str, form: Format, defuse: bool) -> int:
    """Ask a workspace in DuckDB SQL: <source>.documents, .outcomes, .everything and others.

    Raises: WorkspaceError, QueryError; UsageError to `defuse` anything but CSV.
    """
    from pipeline.table.errors import WorkspaceError
    from pipeline.table.format import write
    from pipeline.table.sql import connect, reading
    from pipeline.table.storage import Storage

    if form == "csv":
        # RFC 4180 wants its own line ends, and has no way to write what the encoding lacks.
        sys.stdout.reconfigure(newline="", errors="strict")  # type: ignore[union-attr]
    words = r"\s*(select|with|from|describe|summarize|show|explain|values)\s+\S"
    if re.match(words, workspace, re.IGNORECASE) and not Path(workspace).exists():
        raise WorkspaceError(f"{workspace!r} is SQL and not a workspace: gristmill sql WORKSPACE SQL, in this order")

    @reading
    def ask() -> int:
        with connect(Storage.at(workspace)) as session, _limited_memory():
            return write(session.query(query), form, sys.stdout, defuse=defuse)

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


def _count_rows() -> Callable[[int], None]:
    """Return what counts rows as they pass, and says on standard error every ten seconds how many there were."""
    rows, told = 0, time.monotonic()

    def count(more: int) -> None:
        nonlocal rows, told
        rows += more
        if time.monotonic() - told > 10:
            told = time.monotonic()
            sys.stderr.write(f"{rows:,} documents written\n")

    return count


def mix(
    step: str,
    config: str,
    assignments: Sequence[str],
    dry_run: bool = False,
    proposal: str | None = None,
    slice_name: str | None = None,
) -> Answer:
    """Do a step of a mix, and those before it as far as they are missing."""
    from flows.mix import plan, run_step

    return plan(config, assignments) if dry_run else run_step(step, config, assignments, proposal, slice_name)


def mix_fit(
    config: str | None,
    assignments: Sequence[str],
    ratios: str | None,
    metrics: str | None,
    higher: Sequence[str],
    out: str | None,
    model: ModelName | None,
) -> Answer:
    """Fit a regression from mixtures to metrics, of this mix or of anybody's tables.

    Raises: UsageError for tables beside CONFIG, or one that is missing; InputError for what is wrong with a table.
    """
    from flows.mix import fit_tables, run_step
    from pipeline.table.errors import UsageError

    if config is None:
        if ratios is None or metrics is None or out is None:
            raise UsageError("mix fit: give CONFIG, or --ratios, --metrics and --out")
        return fit_tables(ratios, metrics, out, model or "auto", higher)
    if ratios or metrics or out or higher:
        raise UsageError(
            "mix fit: give either CONFIG, or --ratios, --metrics and --out; --higher belongs to these three"
        )
    return run_step("fit", config, [*assignments, *([f"fit.model={model}"] if model else [])])


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
    _add(
        classifier,
        do.classifier_train,
        _given("config", "CONFIG", "YAML configuration of the training"),
        _json("object"),
    )
    _add(
        classifier,
        do.classifier_evaluate,
        _given("model", "MODEL", "folder of a trained classifier"),
        _given("config", "CONFIG", "YAML with `positives` and `negatives`"),
        _json("object"),
    )
    _add(
        classifier,
        do.classifier_report,
        _given("model", "MODEL", "folder of a trained classifier"),
        _given(
            "--on",
            "WORKSPACE|FILE",
            "documents to look at: a workspace, or files of texts (a path, glob or URL)",
            required=True,
        ),
        _given("--source", "NAME", "only this source of the workspace"),
        _given("--columns", "OURS=THEIRS", "a file's names of text, url, language, label: text=content,url=link"),
        _given("--n", "N", "look at about so many documents at most", type=int),
        _given("--at", "SCORE", "also ten documents around this cut of the raw score, and what it keeps", type=float),
        _given("--html", "FILE", "also write one page with plots, which loads nothing and runs nothing"),
        _json("object"),
    )
    _add_mix(_group(commands, "mix", "find, by experiment, in which proportions to mix slices of curated text"))
    _add_scaling(_group(commands, "scaling", "fit a scaling law to training runs, predict with it, allocate compute"))
    _add(
        commands,
        do.docs,
        _given("name", "NAME", "what is asked for (default: all)", nargs="*"),
        _given("--to", "DIR", "write the whole reference into this folder, as pages of Markdown"),
        _json("array"),
    )
    commands.choices["docs"].set_defaults(top=top)
    _add(commands, doctor, _flag("--json", "print one JSON object a line", dest="as_json"))
    return top


def _add_runs(commands: Any) -> None:
    named = f"what will be curated: {', '.join(TEMPLATES)}"
    template = _given("template", "TEMPLATE", named, nargs="?", choices=TEMPLATES, default="web")
    _add(commands, do.init, template)
    _add(
        commands,
        run,
        _given("config", "CONFIG", "YAML configuration"),
        SET,
        _given(
            "--only",
            "SOURCE",
            "only this source, and those that dedup.scope joins to it (repeatable)",
            action="append",
            default=[],
        ),
        _given("--until", "STAGE", f"stop after this stage: {', '.join(STAGES)}", choices=STAGES, default="rephrase"),
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
        _given(
            "--sample",
            "N",
            "ask for the first N documents only, and print each segment beside its rephrasing",
            type=int,
        ),
        _flag("--dry-run", "print requests, tokens and, with prices, money"),
        _flag("--json", "print one JSON object, with --dry-run", dest="as_json"),
    )
    _add(commands, verify, _given("pairs", "PAIRS", "JSON lines with `id`, `source` and `rephrased`"))


def _add_reading(commands: Any) -> None:
    _add(
        commands,
        sql,
        WORKSPACE,
        _given("query", "SQL", "one SELECT statement"),
        _given(
            "--format",
            None,
            "how to print the result: table (for people: cells cut at 60 characters, control characters made visible), "
            "csv (RFC 4180) or json, nothing cut",
            choices=("table", "csv", "json"),
            default="table",
            dest="form",
        ),
        ("--json", {"action": "store_const", "const": "json", "dest": "form", "help": "the same as --format json"}),
        _flag(
            "--defuse",
            "CSV: an apostrophe before text that a spreadsheet would run as a formula (begins with =, +, -, @)",
        ),
    )
    file = _given("file", "FILE", "path or URL of one file")
    _add(commands, do.peek, file, _json("object"))
    _add(
        commands,
        extract,
        file,
        _given("--format", "F", "how it is read (default: auto, as `peek` says)", dest="form", default="auto"),
        _given(
            "--set",
            "A.B=C",
            "override a key of the source, as in options.comments=true",
            action="append",
            default=[],
            dest="assignments",
        ),
        _given("-n", "N", "the first N documents (default: all)", type=int),
        _flag("--pages", "a line before each page of a PDF: its number, how it was read and how sure that is"),
        _given(
            "--html",
            "FILE",
            "also a page that loads nothing: pictures of each PDF's first 200 pages beside their texts",
        ),
        _flag("--json", "print one JSON array", dest="as_json"),
    )
    _add(
        commands,
        do.explain,
        WORKSPACE,
        _given("document", "DOC_ID|URL", "the document's id, or its address"),
        _json("object"),
    )
    _add(
        commands,
        do.funnel,
        WORKSPACE,
        _flag("--all", "also rules that took nothing, which JSON always has", dest="every_rule"),
        _json("array"),
    )
    sources = _given("--source", "NAME", "only this source (repeatable)", action="append", default=[], dest="sources")
    _add(
        commands,
        do.what_if,
        WORKSPACE,
        _given("rules", "RULES", "a rules file or a preset"),
        sources,
        _given("--examples", "N", "show N documents that each rule alone drops, or brings back", type=int, default=0),
        _json("object"),
        step="what-if",
    )
    _add(
        commands,
        do.sweep,
        WORKSPACE,
        _given("--rule", "NAME", "the rule whose number is varied", required=True),
        _given(
            "--values", "A:B:STEP", "from A to B, both among them, or numbers with commas between them", required=True
        ),
        _given(
            "--column",
            "NAME",
            "where the rule compares with several numbers: that of this column, or of 'word_count >='",
        ),
        sources,
        _given("--html", "FILE", "write a page with a plot, too; the plot needs gristmill[plots]"),
        _json("array"),
    )
    _add(
        commands,
        diff,
        _given("config", "CONFIG|WORKSPACE", "a run's configuration, or a workspace"),
        _given("other", "WORKSPACE", "the workspace that is held against the first", nargs="?"),
        SET,
        _given("--examples", "N", "show N documents of each change", type=int, default=0),
        _json("object"),
    )
    _add(
        commands,
        do.sample,
        WORKSPACE,
        _given("source", "SOURCE", "the source whose documents are shown"),
        _given(
            "--dropped-by",
            "RULE",
            "documents that fail this rule, near_duplicate among them (default: those that were kept)",
        ),
        _flag("--alone", "of those, the ones that no other rule dropped"),
        _given("-n", "N", "how many", type=int, default=20),
        _given("--seed", "SEED", "another seed, another sample", type=int, default=1),
        _given("--html", "FILE", "write them as a page, too: one file without a script, whatever they hold escaped"),
        _json("array"),
    )
    _add(commands, do.check, WORKSPACE, _json("array"))
    _add(commands, do.status, WORKSPACE, _json("object"))
    _add(commands, test, _given("config", "CONFIG", "YAML configuration with the key `expect`"), SET, _json("array"))
    rules = _group(commands, "rules", "list and show rules: presets, files, and those of a configuration")
    _add(rules, do.rules_list, _json("array"))
    _add(
        rules,
        do.rules_show,
        _given("rules", "PRESET|FILE|CONFIG", "a preset, a rules file, or a run's configuration"),
        _given("--source", "NAME", "only this source of CONFIG"),
        _json("array"),
    )
    _add(commands, do.gc, WORKSPACE, _flag("--dry-run", "only say what would be deleted"), _json("object"))
    _add(
        commands,
        do.export,
        WORKSPACE,
        _given("source", "SOURCE", "source whose kept documents are written"),
        _given("--to", "DIR", "new or empty folder, or URL", required=True),
        _given("--as", None, f"what is written: {', '.join(EXPORTS)}", dest="form", choices=EXPORTS, default="parquet"),
        _given(
            "--by",
            "COLUMN",
            "partitioned: a folder for each of its values, at most 1,000: text, whole numbers or true and false",
        ),
        _given("--columns", "A,B,C", "columns of `curated` and `outcomes`, in this order (default: all of `curated`)"),
        _given(
            "--where",
            "SQL",
            "only documents that meet this predicate over the same columns, as rules have them, and `text`",
        ),
        _given(
            "--shard-size",
            "SIZE",
            "about how large a file is at most, in KB, MB, GB, KiB, MiB or GiB; it ends before the row group (16 MiB "
            "of text, an eighth of small sizes) that would take it past SIZE",
            default="512MB",
        ),
        _flag("--overwrite", "replace another export in DIR; only what its manifest lists is deleted"),
        _json("object"),
    )
    commands.choices["export"].set_defaults(progress=_count_rows())


def _add_mix(commands: Any) -> None:
    config = _given("config", "CONFIG", "YAML configuration of the mix")
    proposal = _given("--proposal", "NAME", "folder under `proposals` (default: the one written last)")
    own = {
        "run": [DRY_RUN],
        "sample": [proposal],
        "report": [proposal],
        "explain": [
            _given("slice_name", "SLICE", "one slice at length (default: all)", nargs="?"),
            proposal,
        ],
    }
    for step in MIX_STEPS:
        _add(
            commands, mix, config, SET, *own.get(step, []), _json(MIX_JSON.get(step, "object: the weights")), step=step
        )
    _add(
        commands,
        mix_fit,
        _given("config", "CONFIG", "YAML configuration of the mix", nargs="?"),
        SET,
        _given(
            "--ratios",
            "CSV",
            "mixtures: `index`, one column a slice (rows are normalised; one of zeros is refused), and `seed` if known",
        ),
        _given("--metrics", "CSV", "losses: column `index`, then one column a metric"),
        _given(
            "--higher",
            "METRIC",
            "a metric where larger is better; of the others the direction is found (repeatable)",
            action="append",
            default=[],
        ),
        _given("--out", "DIR", "folder that the fit is written to"),
        _given(
            "--model",
            None,
            f"regression model: {', '.join(MODELS)} (default: auto, or what CONFIG says)",
            choices=MODELS,
        ),
        _json("array, an object a metric"),
    )
    _add(
        commands,
        do.mix_predict,
        _given("--fit", "DIR", "folder that `mix fit` wrote", required=True),
        _given("--ratios", "CSV", "mixtures: `index`, then one column a slice, in any order", required=True),
        _given("--out", "CSV", "file to write (default: standard output)"),
        _json("array"),
    )


def _add_scaling(scaling: Any) -> None:
    fitted = _given("--fit", "DIR", "folder that `scaling fit` wrote", required=True)
    _add(
        scaling,
        do.scaling_fit,
        _given("--runs", "CSV", "columns `parameters`, `tokens`, `loss` (or N, D, L)", required=True),
        _given("--out", "DIR", "folder that the fit and its plot are written to", required=True),
        _given("--bootstrap", "N", "refits that intervals rest on", type=int, default=200),
        _given("--seed", "SEED", "seed of the refits", type=int, default=1),
        _json("object"),
    )
    _add(
        scaling,
        do.scaling_predict,
        fitted,
        _given("--parameters", "N", "parameters of the model, as in 1e9", type=float, required=True),
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
    top = parser()
    namespace, more = top.parse_known_args(arguments)
    if more and namespace.do is not do.docs:
        top.error(f"unrecognized arguments: {' '.join(more)}")
    if more:  # `gristmill docs run --until` asks for the option of another command
        namespace.name = [*namespace.name, *more]
    from pipeline.table.errors import GristmillError, redact
    from pipeline.table.interrupts import ending_on_signals

    code: int
    sys.excepthook = _crash
    signals: list[int] = []
    try:
        with ending_on_signals() as signals:
            code = _do(namespace)
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
