"""The reference as pages of Markdown, as `gristmill docs --to DIR` writes them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from flows.reference.entries import CONFIGURATIONS, VIEWS, Entry, arguments, arrow_type, entries, leaves, rules_of
from flows.reference.files import FILES
from flows.reference.manual import MANUAL
from pipeline.extract.config import FORMATS, OPTIONS
from pipeline.extract.formats import READERS
from pipeline.rephrase.output import REASONS
from pipeline.table.errors import UsageError

_MADE = "<!-- Made by `make docs`: change what the code says of it, and make it again. -->"
_FILES = {
    "run": ("A run", "`gristmill run`, `serve`, `test`, `diff` and `rephrase` read it"),
    "mix": ("A mix", "the commands of `gristmill mix` read it"),
    "mixture": (
        "A mixture",
        "`mixture.yaml`, which `mix propose` and `mix verify` write; `mix sample` and the key `swarm.reuse.mixture` "
        "read it",
    ),
    "suite": ("An evaluation suite", "the key `suite` of a mix names it"),
    "classifier train": ("Training a classifier", "`gristmill classifier train` reads it"),
    "classifier evaluate": (
        "Evaluating a classifier",
        "`gristmill classifier evaluate` reads it, with `positives` and `negatives` as in training",
    ),
    "style": ("A style of rephrasing", "a file in the folder that `rephrase.prompts` names"),
    "rules": ("Rules", "`select.rules` names it, and `extends` in other rules; every preset is one"),
}
"""What each kind of configuration is called, and who reads it."""


def _table(header: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """Return a table in Markdown; nothing without rows."""
    told = [[" ".join(_plain(cell or "").replace("|", r"\|").split()) for cell in row] for row in rows]
    lines = [list(header), ["---"] * len(header), *told]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) if told else ""


def _plain(text: str) -> str:
    """Return text in which nothing but what stands in backticks could be a tag of HTML."""
    return re.sub("(`[^`]*`)|<", lambda match: match[1] or r"\<", text)


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _listed(known: Sequence[Entry], kind: str) -> str:
    return _table((kind, "meaning"), ((_code(each.name), each.meaning) for each in known if each.kind == kind))


def _usage(name: str, command: argparse.ArgumentParser) -> str:
    """Return how a command is typed, without its options."""
    typed = [each.name.removeprefix(f"{name} ") for each in arguments(name, command) if each.kind == "argument"]
    return " ".join(["gristmill", name, *typed])


def _overview(top: argparse.ArgumentParser, above: str = "") -> Iterable[tuple[str, str]]:
    """Yield each command as a link to what is said of it, and each group before its commands."""
    for group in (action for action in top._actions if isinstance(action, argparse._SubParsersAction)):
        helps = {choice.dest: choice.help or "" for choice in group._choices_actions}
        for word, command in group.choices.items():
            name = f"{above}{word}"
            below = list(_overview(command, f"{name} "))
            anchor = re.sub(r"[^\w -]", "", _usage(name, command).lower()).replace(" ", "-")
            yield (_code(name) if below else f"[`{name}`](#{anchor})"), helps.get(word, "")
            yield from below


def _commands(known: Sequence[Entry], top: argparse.ArgumentParser) -> Iterable[str]:
    yield "# Commands\n\nData goes to standard output, everything else to standard error.\n"
    yield "Keys of JSON: [AGENTS.md](../../AGENTS.md).\n"
    yield _table(("command", "what it does"), _overview(top))
    for name, command in leaves(top):
        given = [each for each in known if each.of == f"gristmill {name}" and each.kind in ("argument", "option")]
        yield f"## `{_usage(name, command)}`\n"
        yield f"{_plain(command.description or '')}\n"
        rows = (
            (
                _code(f"{short} {each.type}" if each.kind == "option" and each.type else short),
                each.default,
                each.meaning,
            )
            for each in given
            for short in [each.name.removeprefix(f"{name} ")]
        )
        yield _table(("argument or option", "default", "meaning"), rows)
        yield f"```text\n{MANUAL[name].examples}\n```\n"


def _configuration(known: Sequence[Entry]) -> Iterable[str]:
    yield (
        "# Configuration\n\nOne YAML file. Unknown and repeated keys are refused, with the nearest valid name. "
        "Relative paths count from the working directory. NAME stands for any name.\n\nThe keys of `extract`, "
        "`annotate`, `dedup`, `classify`, `select` and `expect` hold for all sources, and may be repeated under "
        "`sources.NAME`. What is rephrased has the common `annotate`, `dedup` and `classify`, which may be repeated "
        "under `rephrase`, and a `select` and an `expect` of its own there: by default the rules `rephrased`, and "
        "nothing that is expected.\n"
    )
    for of in CONFIGURATIONS:
        title, readers = _FILES[of]
        yield f"## {title}\n\nA file: {readers}.\n"
        keys = [each for each in known if each.kind == "key" and each.of == of]
        rows = ((_code(each.name), _code(each.default), each.type, each.meaning) for each in keys)
        yield _table(("key", "default", "type", "meaning"), rows)


def _columns(known: Sequence[Entry]) -> Iterable[str]:
    yield (
        "# Views and columns\n\nEvery source is an SQL schema with these views, and the schema `main` has each over "
        "all sources. A view is there once its stage has run. Rules read what `outcomes` have before the verdict.\n"
    )
    said: dict[tuple[str, str], str] = {}
    for view, (stage, meaning, columns) in VIEWS.items():
        yield f"## `{view}`\n\nMade by `{stage}`: {meaning}.\n"
        rows, others = [], dict[str, list[str]]()
        for name, column in columns.items():
            where = said.setdefault((name, column.meaning), view)
            if where == view:
                rows.append((_code(name), _code(arrow_type(column.type)), column.meaning))
            else:
                others.setdefault(where, []).append(name)
        yield _table(("column", "type", "meaning"), rows)
        for where, names in others.items():
            is_whole = {*names, "doc_id"} >= VIEWS[where][2].keys()
            told = "all columns" if is_whole and len(names) > 3 else ", ".join(map(_code, names))
            yield f"As in [`{where}`](#{where.lower()}): {told}.\n"


def _formats(known: Sequence[Entry]) -> Iterable[str]:
    yield (
        "# Formats\n\nThe key `sources.NAME.format`; options stand under `sources.NAME.options`, columns in "
        "`documents`, and rules read them as any other. Rejects that are named are the format's own: what is "
        "wrong with a file as such is a [reject](reject-reasons.md) in each.\n"
    )
    for form, meaning in FORMATS.items():
        yield f"## `{form}`\n\n{meaning[0].upper()}{meaning[1:]}.\n"
        if form in OPTIONS:
            options = [each for each in known if each.kind == "key" and each.of == f"run, format {form}"]
            names = ((each, each.name.removeprefix("sources.NAME.options.")) for each in options)
            rows = ((_code(name), _code(each.default), each.type, each.meaning) for each, name in names)
            yield _table(("option", "default", "type", "meaning"), rows)
        if form in READERS:
            own = READERS[form].own.items()
            yield _table(
                ("column", "type", "meaning"), ((_code(name), _code(each.type), each.meaning) for name, each in own)
            )


def _files() -> Iterable[str]:
    yield (
        "# Files\n\nWhat commands write, below a folder that a configuration or an option names. Words in capitals, "
        "and `*`, stand for any name. Keys of `mixture.yaml`: [Configuration](configuration.md#a-mixture); columns "
        "of a workspace's parts: [Views and columns](columns.md).\n"
    )
    for folder, files in FILES.items():
        yield f"## {folder}\n"
        yield _table(("file", "meaning"), ((_code(path), meaning) for path, meaning in files.items()))


def _rules(known: Sequence[Entry]) -> Iterable[str]:
    yield (
        "# Rules\n\nA rule is an SQL predicate over the columns of `outcomes` that a document must pass; null fails. "
        "It may call DuckDB's scalar functions whose result depends on their arguments alone, and these, which become "
        "constants before the first document is judged:\n"
    )
    yield _listed(known, "rule function")
    yield "After all others, the members of a component but its keeper fail one of these:\n"
    yield _listed(known, "built-in rule")
    yield "## Presets\n\nNames for `select.rules`. `gristmill rules show NAME` has sources, dates and deviations.\n"
    for each in (each for each in known if each.kind == "preset of rules"):
        yield f"### `{each.name}`\n\n{each.meaning}.\n"
        yield _table(("rule", "predicate"), ((_code(name), _code(sql)) for name, sql in rules_of(each.name).items()))
    yield "## Other presets\n"
    for kind, of in (
        ("preset of a suite", "of `suite` in a mix"),
        ("task of a suite", "of the tasks in these, with where their items come from"),
        ("style", "of `rephrase.routes.styles`"),
        ("template", "of `gristmill init`"),
    ):
        yield f"Names {of}:\n"
        yield _listed(known, kind)


def pages(top: argparse.ArgumentParser) -> dict[str, str]:
    """Return the pages of the reference by file name."""
    known = entries(top)
    made = {
        "commands.md": _commands(known, top),
        "configuration.md": _configuration(known),
        "columns.md": _columns(known),
        "formats.md": _formats(known),
        "files.md": _files(),
        "reject-reasons.md": [
            "# Reject reasons\n\nWhy a unit did not become a document: `rejects.reason`. What exactly, and mostly what "
            "to do, stands in `rejects.detail`.\n",
            _listed(known, "reject reason"),
            "In a source that rephrasing makes a request without an answer is a reject. `detail` begins with:\n",
            _table(("detail", "reason"), ((_code(detail), _code(reason)) for detail, reason in REASONS.items())),
            "An answer that is blank, or of which nothing is left once it was cleaned, is `empty`.\n",
        ],
        "rules.md": _rules(known),
        "environment.md": [
            "# Extras and environment variables\n\n`pip install 'gristmill[NAME]'` brings what a feature needs. "
            "`https://` and `hf://` need nothing more; other protocols of fsspec need its package, `gs://` `gcsfs`.\n",
            _listed(known, "extra"),
            _listed(known, "environment variable"),
            "The key of a language model is in the variable that its `api_key_env` names, and nowhere else.\n",
        ],
        "exit-codes.md": ["# Exit codes\n", _listed(known, "exit code")],
    }
    texts = {name: "\n".join(part for part in [f"{_MADE}\n", *parts] if part) for name, parts in made.items()}
    titles = {name: re.search(r"^# (.+)$", text, re.MULTILINE) for name, text in texts.items()}
    listed = "".join(f"- [{title[1]}]({name})\n" for name, title in titles.items() if title)
    told = (
        "`gristmill docs NAME` prints one entry, wherever Gristmill is installed; `gristmill COMMAND --help` what "
        "[Commands](commands.md) says of one."
    )
    return {"README.md": f"{_MADE}\n\n# Reference\n\n{told}\n\n{listed}", **texts}


def write(folder: Path, top: argparse.ArgumentParser) -> list[str]:
    """Write the pages into a folder, delete those that are no more, and return their paths.

    Raises: UsageError when the folder is none, or a file would be replaced that is no page of the reference.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"docs: {folder} is no folder; name a new one, or one with the reference")
    folder.mkdir(parents=True, exist_ok=True)
    made = pages(top)
    ours = {path for path in folder.glob("*.md") if path.is_file() and path.read_bytes().startswith(_MADE.encode())}
    for path in (folder / name for name in made):
        if os.path.lexists(path) and path not in ours:
            raise UsageError(f"docs: {path} is no page of the reference; choose another folder, or move it")
    for path in ours:
        path.unlink()
    for name, text in made.items():
        (folder / name).write_text(text, "utf-8")
    return [str(folder / name) for name in made]
