"""The entries of the reference, collected from where each thing is defined, and how one of them is found and printed.

Commands and options come from argparse, keys from the configurations' models, columns from the tables of the stages,
presets from the headers of their files. Nothing is said here that is said there.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from textwrap import fill
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pyarrow as pa
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from classifiers.config import EvaluateConfig, TrainConfig
from flows.config import EXPECT, STAGES, RunConfig
from flows.reference.files import FILES
from flows.reference.manual import MANUAL
from pipeline import ENVIRONMENT, EXTRAS
from pipeline.dedup.minhash import signature_columns
from pipeline.extract.config import FORMATS, OPTIONS
from pipeline.extract.formats import READERS
from pipeline.inputs.shipped import TEMPLATES, PresetKind, preset_names, preset_path, template_path
from pipeline.mix.config import MixConfig, SuiteConfig
from pipeline.mix.weights.mixture import Mixture
from pipeline.rephrase.output import VERDICT_COLUMNS
from pipeline.rephrase.styles import Style
from pipeline.select.decide import DECIDED_COLUMNS
from pipeline.select.rules import BUILT_IN, CONSTANT_FUNCTIONS, RulesFile, load_rules
from pipeline.select.wide_table import DOCUMENT_COLUMNS
from pipeline.signals import language, recipe_stats, text_stats, tokens
from pipeline.table import schema
from pipeline.table.errors import EXIT_CODES, UsageError, nearest
from pipeline.table.kept import read_config
from pipeline.table.schema import ID_COLUMN, Column

Columns = Mapping[str, Column | text_stats.Statistic]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a user can name: of which `kind` it is, what it belongs to (`of`) and what it means."""

    kind: str
    name: str
    meaning: str
    of: str | None = None
    type: str | None = None
    default: str | None = None
    text: str | None = None
    """What there is to say at length: of a command its help, of a preset its file."""

    @property
    def as_text(self) -> str:
        """The entry for people."""
        if self.kind == "command":
            return self.text or ""
        known = {"type": self.type, "default": self.default, "of": self.of}
        lines = [self.meaning, *(f"{name}: {value}" for name, value in known.items() if value is not None)]
        told = [
            fill(each, 110, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False) for each in lines
        ]
        said = "\n".join([f"{self.kind} {self.name}", *told, ""])
        return f"{said}\n{self.text}" if self.text else said


# Commands -------------------------------------------------------------------------------------------------------------


def leaves(top: argparse.ArgumentParser, name: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield the name (behind `gristmill`) and parser of every command that does something."""
    groups = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield name, top
    for group in groups:
        for word, child in group.choices.items():
            yield from leaves(child, f"{name} {word}".strip())


def commands(top: argparse.ArgumentParser) -> Iterator[Entry]:
    """Yield each command, its arguments and its options behind it."""
    for name, command in leaves(top):
        meaning = (command.description or "").partition("\n")[0].rstrip(".")
        yield Entry("command", name, meaning[0].lower() + meaning[1:], text=command.format_help())
        yield from arguments(name, command)


def arguments(name: str, command: argparse.ArgumentParser) -> Iterator[Entry]:
    """Yield the arguments and options of a command, in their order."""
    for action in command._actions:
        if isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            continue
        given = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else None)
        shown = action.option_strings[-1] if action.option_strings else str(given or action.dest)
        shown = f"[{shown}]" if action.nargs in ("?", "*") else shown
        default = str(action.default) if action.default not in (None, False, [], argparse.SUPPRESS) else None
        yield Entry(
            "option" if action.option_strings else "argument",
            f"{name} {shown}",
            (action.help or "") % {"default": action.default, "prog": command.prog},
            of=f"gristmill {name}",
            type=str(given) if given else None,
            default="required" if action.option_strings and action.required else default,
        )


# Keys -----------------------------------------------------------------------------------------------------------------


def keys(
    model: type[BaseModel], prefix: str = "", given: BaseModel | None = None
) -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    """Yield the dotted path and field of every key of a configuration, and the model inside it, whose keys follow.

    Behind a mapping with free names comes what one of them is, as NAME. `given`: a model whose values are the defaults.
    """
    for name, field in model.model_fields.items():
        if given is not None and (value := getattr(given, name)) != field.get_default(call_default_factory=True):
            field = copy(field)
            field.default, field.default_factory = value, None
        nested, wildcard = _inner(field.annotation)
        yield prefix + name, field, None if wildcard else nested
        if nested is not None:
            path = f"{prefix}{name}.NAME" if wildcard else prefix + name
            if wildcard:
                yield path, FieldInfo(annotation=nested, default_factory=nested), nested
            yield from keys(nested, f"{path}.", field.default if isinstance(field.default, BaseModel) else None)


def _inner(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """Return the model inside an annotation, and whether it is the value of a mapping with free names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    arguments = get_args(annotation)
    wildcard = get_origin(annotation) is dict
    for inner in arguments[1:] if wildcard else arguments:
        model, below = _inner(inner)
        if model is not None:
            return model, wildcard or below
    return None, False


def shown_default(field: FieldInfo) -> str | None:
    """Return the default as YAML, or `required`; None where the machine decides, or where keys below have their own."""
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined:
        if field.default_factory is not dict:
            return None
        value = {}
    if isinstance(value, BaseModel):
        return None
    return str(yaml.safe_dump(value, default_flow_style=True, width=1_000_000).splitlines()[0])


_BASIC = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null", Any: "anything"}


def shown_type(annotation: Any, limits: Sequence[Any] = (), is_inner: bool = False) -> str:
    """Return what a key takes, in words, with the least and the most that it may be; `is_inner`: each of several."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        said = ", ".join(f"`{yaml.safe_dump(value).splitlines()[0]}`" for value in arguments)
    elif hasattr(annotation, "__metadata__"):
        return shown_type(arguments[0], [*limits, *annotation.__metadata__], is_inner)
    elif origin is tuple:
        inner = [shown_type(each, (), True) for each in arguments if each is not Ellipsis]
        said = f"list of {inner[0]}" if Ellipsis in arguments else f"list: {', '.join(inner)}"
    elif origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        said = f"mapping to {shown_type(arguments[1], (), True)}"
    elif arguments:
        bare = [get_args(each)[0] if hasattr(each, "__metadata__") else each for each in arguments]
        limits = [*limits, *(limit for each in arguments for limit in getattr(each, "__metadata__", ()))]
        said = " or ".join(dict.fromkeys(shown_type(each) for each in bare))
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        said = "mapping"
    elif is_dataclass(annotation):
        said = f"mapping of {', '.join(f'`{each.name}`' for each in fields(annotation))}"
    else:
        said = _BASIC[annotation]
    flat = [each for limit in limits for each in (limit.metadata if isinstance(limit, FieldInfo) else (limit,))]
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [f"{words[name]} {getattr(each, name):,}" for name in words for each in flat if hasattr(each, name)]
    told = ", ".join(bounds)
    return said if not bounds else f"{said} ({told})" if is_inner else f"{said}, {told}"


CONFIGURATIONS: dict[str, tuple[type[BaseModel], tuple[str, ...]]] = {
    "run": (
        RunConfig,
        tuple(f"{where}.{stage}" for where in ("sources.NAME", "rephrase") for stage in (*STAGES, EXPECT)),
    ),
    "mix": (MixConfig, ()),
    "mixture": (Mixture, ()),
    "suite": (SuiteConfig, ()),
    "classifier train": (TrainConfig, ("negatives.",)),
    "classifier evaluate": (EvaluateConfig, ("positives", "negatives")),
    "style": (Style, ()),
    "rules": (RulesFile, ()),
}
"""Each kind of configuration with its model, and the beginnings of keys that only repeat others."""


def configuration_keys(of: str) -> Iterator[tuple[str, FieldInfo, type[BaseModel] | None]]:
    """Yield the keys of a configuration, those that may be repeated under a source once, or with another default."""
    model, repeated = CONFIGURATIONS[of]
    common: dict[str, str | None] = {}
    for name, field, inner in keys(model):
        default = shown_default(field)
        common.setdefault(re.sub(r"^(sources\.NAME|rephrase)\.", "", name), default)
        if not name.startswith(repeated) or common[re.sub(r"^(sources\.NAME|rephrase)\.", "", name)] != default:
            yield name, field, inner


def _key(name: str, field: FieldInfo, inner: type[BaseModel] | None, of: str) -> Entry:
    said = " ".join((field.description or (inner.__doc__ if inner else None) or "").split()).rstrip(".")
    meaning = said[:1].lower() + said[1:] if not field.description else said
    kind = shown_type(field.annotation, field.metadata)
    return Entry("key", name, meaning, of=of, type=kind, default=shown_default(field))


def configuration() -> Iterator[Entry]:
    """Yield the keys of every configuration, and the options of every format."""
    for of in CONFIGURATIONS:
        yield from (_key(name, field, inner, of) for name, field, inner in configuration_keys(of))
    for form, model in OPTIONS.items():
        for name, field, inner in keys(model, "sources.NAME.options."):
            yield _key(name, field, inner, f"run, format {form}")


# Columns --------------------------------------------------------------------------------------------------------------

_OF_CLASSIFIERS = {f"NAME_{name}": column for name, column in schema.SCORE_COLUMNS.items() if name not in ID_COLUMN}
_OUTCOMES: Columns = {
    **{name: schema.DOCUMENT_COLUMNS[name] for name in DOCUMENT_COLUMNS},
    **language.COLUMNS,
    **text_stats.COLUMNS,
    **recipe_stats.COLUMNS,
    **tokens.COLUMNS,
    **schema.PAGE_COLUMNS,
    **schema.DUPLICATE_COLUMNS,
    **_OF_CLASSIFIERS,
    **VERDICT_COLUMNS,
    **DECIDED_COLUMNS,
}
VIEWS: dict[str, tuple[str, str, Columns]] = {
    "documents": ("extract", "text, and where it came from; with the source's own columns", schema.DOCUMENT_COLUMNS),
    "rejects": ("extract", "units that did not become documents", schema.REJECT_COLUMNS),
    "signals_pages": (
        "extract",
        "how the pages of PDFs were read: with `format: pdf`, and `extract.pdf`",
        schema.PAGE_COLUMNS,
    ),
    "signals_language": ("annotate", "language of each document", ID_COLUMN | language.COLUMNS),
    "signals_text_stats": (
        "annotate",
        "text statistics by datatrove's formulas, so that thresholds written for it mean the same; a ratio over "
        "nothing is 0",
        {**ID_COLUMN, **text_stats.COLUMNS},
    ),
    "signals_recipe_stats": (
        "annotate",
        "statistics by the formulas of the project whose name they bear, where rules read one or "
        "`annotate.recipe_stats` is set; a ratio over nothing is 0",
        {**ID_COLUMN, **recipe_stats.COLUMNS},
    ),
    "signals_tokens": ("annotate", "token counts, with `annotate.tokenizer`", ID_COLUMN | tokens.COLUMNS),
    "signals_rephrase": ("rephrase", "verdicts on each rephrasing, in the source that it makes", VERDICT_COLUMNS),
    "signatures": ("dedup", "MinHash signatures: a folder, not a view", signature_columns(1)),
    "duplicates": ("dedup", "which documents are copies of one another", schema.DUPLICATE_COLUMNS),
    "scores_NAME": ("classify", "scores of the classifier NAME", schema.SCORE_COLUMNS),
    "outcomes": (
        "select",
        "the ledger, one row a document with its verdict, and all that was measured of it, which rules read",
        _OUTCOMES,
    ),
    "curated": ("select", "the documents that were kept, as in `documents`", schema.DOCUMENT_COLUMNS),
    "everything": (
        "select",
        "`outcomes` with the `text`, `origin` and `metadata` of `documents`",
        {**_OUTCOMES, **schema.DOCUMENT_COLUMNS},
    ),
}
"""Each view of a source: the stage that makes it, what it holds, its columns."""


def arrow_type(kind: pa.DataType) -> str:
    """Return a column's type in Arrow's words; the length of a signature follows from the configuration."""
    return f"list of {kind.value_type}" if pa.types.is_fixed_size_list(kind) else str(kind)


def columns() -> Iterator[Entry]:
    """Yield the views, each column once with the views that have it, and the columns of formats' own."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for view, (stage, meaning, inside) in VIEWS.items():
        yield Entry("view", view, meaning, of=f"stage {stage}")
        for name, column in inside.items():
            found.setdefault((name, arrow_type(column.type), column.meaning), []).append(view)
    for (name, kind, meaning), views in found.items():
        yield Entry("column", name, meaning, of=", ".join(views), type=kind)
    for form, reader in READERS.items():
        for name, own in reader.own.items():
            yield Entry("column", name, own.meaning, of=f"format {form}", type=own.type)


# Closed lists and files -----------------------------------------------------------------------------------------------


def _header(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0].lstrip("# ").rstrip(".")


def presets() -> Iterator[Entry]:
    """Yield the presets of rules and suites, the styles of rephrasing and the starting configurations."""
    listed: Sequence[tuple[str, PresetKind, str]] = (
        ("preset of rules", "rules", "select.rules"),
        ("preset of a suite", "suites", "suite"),
        ("style", "prompts", "rephrase.routes.styles"),
    )
    for kind, folder, of in listed:
        for name in preset_names(folder):
            path = preset_path(folder, name)
            assert path is not None
            yield Entry(kind, name, _header(path), of=of, text=path.read_text("utf-8"))
            for task in read_config(SuiteConfig, str(path)).tasks if folder == "suites" else ():
                yield Entry("task of a suite", f"{name}.{task.name}", task.origin or "", of=f"suite {name}")
            for rule, sql in rules_of(name).items() if folder == "rules" else ():
                yield Entry("rule", f"{name}.{rule}", f"`{sql}`", of=f"preset {name}")
    for name in TEMPLATES:
        path = template_path(name)
        yield Entry("template", name, _header(path), of="gristmill init", text=path.read_text("utf-8"))


def rules_of(preset: str) -> dict[str, str]:
    """Return the rules of a preset by name, in their order."""
    return {rule.name: rule.sql for rule in load_rules(preset, "reference").rules}


def closed_lists() -> Iterator[Entry]:
    """Yield reject reasons, what rules may call, the rules that are always there, formats, exit codes, environment."""
    lists: tuple[tuple[str, Mapping[Any, str], str | None], ...] = (
        ("reject reason", schema.REJECT_REASONS, "rejects.reason"),
        ("rule function", CONSTANT_FUNCTIONS, "select.rules"),
        ("built-in rule", BUILT_IN, "outcomes.failed_rules"),
        ("format", FORMATS, "sources.NAME.format"),
        ("exit code", EXIT_CODES, None),
        ("environment variable", ENVIRONMENT, None),
        ("extra", {f"gristmill[{name}]": meaning for name, meaning in EXTRAS.items()}, None),
    )
    for kind, meanings, of in lists:
        yield from (Entry(kind, str(name), meaning, of=of) for name, meaning in meanings.items())
    for folder, files in FILES.items():
        yield from (Entry("file", path, meaning, of=folder[0].lower() + folder[1:]) for path, meaning in files.items())


def entries(top: argparse.ArgumentParser | None) -> list[Entry]:
    """Return everything that the reference has, by kind; without a command line no more of commands than the manual."""
    if top is not None:
        typed = list(commands(top))
    else:
        typed = [
            Entry("command", name, " ".join(each.about.split()), text=each.examples) for name, each in MANUAL.items()
        ]
    return [*typed, *configuration(), *columns(), *closed_lists(), *presets()]


# One of them ----------------------------------------------------------------------------------------------------------


def find(known: Iterable[Entry], name: str) -> list[Entry]:
    """Return what a name means: all entries of it and keys whose last names it is, else keys and commands below it.

    Failing that the names of a kind, what belongs to a view, the same in another case, or what says the name. Keys that
    lie below one, and options and columns of a format, come along.

    Raises: UsageError with the nearest name.
    """
    listed, wanted = list(known), " ".join(name.split()).removeprefix("gristmill ")
    found = _called(listed, wanted) or _told(listed, wanted) or _called(listed, wanted, re.IGNORECASE)
    if found := found or [entry for entry in listed if f"`{wanted}`" in entry.meaning]:
        inside = tuple(f"{entry.name}." for entry in found if entry.kind == "key")
        below = [entry for entry in listed if entry.kind == "key" and entry.name.startswith(inside)]
        forms = [f"{start}format {entry.name}" for entry in found if entry.kind == "format" for start in ("run, ", "")]
        return list(dict.fromkeys([*found, *below, *(entry for entry in listed if entry.of in forms)]))
    hint = nearest(wanted, {entry.name for entry in listed})
    raise UsageError(f"docs: nothing is called {wanted[:100]!r}{hint}; `gristmill docs` lists what there is")


def _called(listed: Sequence[Entry], wanted: str, flags: int = 0) -> list[Entry]:
    """Return the entries whose names fit, by the first way in which any does."""
    free = (entry.name for entry in listed if entry.kind == "key" and "NAME" in entry.name)
    written = (name for name in free if re.fullmatch(re.escape(name).replace("NAME", r"[a-z]\w*"), wanted, flags))
    common = re.sub(rf"^(sources\.\w+|rephrase)\.(?=({'|'.join((*STAGES, EXPECT))})\b)", "", wanted)
    score = re.sub(r"^[a-z]\w*_(?=(score|probability|rank)$)", "NAME_", wanted)
    exact = re.escape(wanted)
    alike = [re.escape(each) for each in (next(written, wanted), common)]  # `sources.web.format`, `rephrase.dedup.seed`
    last = rf".*(\.{exact}|\[{exact}\])"
    for pattern in (rf"{exact}|{last}", *alike, rf".* {exact}", rf"{exact}[. ].*", re.escape(score)):
        if found := [entry for entry in listed if re.fullmatch(pattern, entry.name, flags)]:
            return found
    return []


def _told(listed: Sequence[Entry], wanted: str) -> list[Entry]:
    """Return what is named by its kind (`exit code 2`, `reject-reasons`), its owner (`web.outcomes.url`) or a glob."""
    kind = re.sub("[-_]", " ", wanted.lower())
    owner, _, last = wanted.rpartition(".")
    owner, file = owner.rpartition(".")[2], wanted.rpartition("/")[2]
    return [
        entry
        for entry in listed
        if f"{entry.kind} {entry.name}" == wanted
        or entry.kind in (kind, kind.removesuffix("s"))
        or (entry.name == last and (entry.kind == "view" or owner in re.split(r"[ ,.]+", entry.of or "")))
        or (entry.kind == "rule" and owner == "rules" and entry.name.endswith(f".{last}"))
        or (entry.kind == "environment variable" and fnmatchcase(wanted, entry.name))
        or (entry.kind == "file" and "/*" not in entry.name and fnmatchcase(file, entry.name.rpartition("/")[2]))
    ]
