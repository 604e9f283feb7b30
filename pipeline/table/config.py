"""Reading YAML configurations: duplicate keys refused, unknown keys answered with the nearest name and the line."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer, ValidationError

from pipeline.table.errors import ConfigError, check_address, nearest, redact, shown

_MAX_DEPTH = 32
_MAX_DIGITS = 100
_KEY = "[key]"
_UNSHOWN = frozenset({"base_url", "api_key_env"})
"""Keys whose value may be a secret that was put there by mistake: no message shows it."""
_ADDED = re.compile(r"\[key\]|str|int|float|bool|(dict|list|tuple|literal|constrained-\w+|function-\w+|nullable)\[.*\]")
"""What pydantic adds to a problem's location: the mark of a mapping's key that is itself wrong, a union's member."""
_MAPPING = re.compile(r"a (valid )?dictionary( or (an )?instance of \w+)?")

Model = TypeVar("Model", bound=BaseModel)
_Path = tuple[str, ...]
Lines = dict[_Path, int]
Address = Annotated[str, AfterValidator(check_address), PlainSerializer(shown)]
"""A path or URL of a configuration. Whoever writes the configuration down (a manifest, Prefect) gets it redacted."""


class StageConfig(BaseModel):
    """Base of every configuration model: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def parse_yaml(text: str, where: str) -> tuple[dict[str, Any], Lines]:
    """Return the mapping in `text` and the line of each key path; `where` names it in messages.

    Raises: ConfigError when it is not YAML, not a mapping, or repeats a key.
    """
    value, lines = _parse(text, where)
    if value is None:
        raise ConfigError(f"{where} is empty; `gristmill init` prints a configuration of a run")
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a mapping of keys to values, not {type(value).__name__}")
    return value, lines


def _without_excerpt(error: yaml.YAMLError) -> str:
    """Return what is wrong and where. PyYAML's own message quotes the line, cut anywhere: a secret may be in it."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())
    mark = error.problem_mark or error.context_mark
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{', '.join(part for part in (error.context, error.problem) if part)}{place}"


def _parse(text: str, where: str) -> tuple[Any, Lines]:
    """Return the one value in a YAML text, None of an empty one, and the line of each key path."""
    lines: Lines = {}
    try:
        _check_events(text, where)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, lines
        _check(node, (), lines, where)
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {_without_excerpt(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deep") from error
    except UnicodeEncodeError as error:  # an argument that is not UTF-8
        raise ConfigError(f"{where} is not UTF-8 text: {error.reason} at character {error.start}") from error


def _check_events(text: str, where: str) -> None:
    """Refuse aliases and deep nesting before anything is built."""
    depth = 0
    for event in yaml.parse(text, Loader=_PARSER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{where}:{line}: YAML aliases (`*name`) are not read; repeat the value")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ConfigError(f"{where}:{line}: nested deeper than {_MAX_DEPTH}")


# In Python alone a file of 1 MB takes half a minute.
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_PARSER):  # type: ignore[misc]
    """Safe YAML whose integers may have `_` and whose dates stay text."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        kind = node.tag.rsplit(":", 1)[-1]
        try:
            if kind in ("int", "float") and len(node.value) > _MAX_DIGITS:
                raise ValueError
            if isinstance(node, yaml.ScalarNode):
                node.value.encode()  # an escape can spell half a surrogate pair, which is no text
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            # PyYAML takes for granted that a value is what its form or its tag says.
            shown = str(node.value)[:40]
            raise yaml.MarkedYAMLError(None, None, f"{shown!r} is no {kind}; quote it", node.start_mark) from error


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _check(node: yaml.Node, path: tuple[str, ...], lines: Lines, where: str) -> None:
    """Refuse repeated keys; note each key's line."""
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            lines[(*path, str(number))] = item.start_mark.line + 1
            _check(item, (*path, str(number)), lines, where)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in seen:
            raise ConfigError(f"{where}:{line}: key {'.'.join((*path, name))!r} is given twice; keep one")
        seen.add(name)
        lines[(*path, name)] = line
        _check(value, (*path, name), lines, where)


def override(value: dict[str, Any], assignment: str) -> None:
    """Apply one `--set a.b=c` to a raw configuration; the value is read as YAML. `rules.NAME` changes a preset in one.

    Raises: ConfigError when it has no `=` or goes through something that is no mapping.
    """
    path, separator, text = assignment.partition("=")
    keys = [key for key in path.strip().split(".") if key]
    shown = f"--set {path[:100]!r}"  # not the value, which may be a secret
    if not separator or not keys:
        raise ConfigError(f"{shown}: write it as a.b=value")
    if len(keys) > _MAX_DEPTH:
        raise ConfigError(f"{shown}: nested deeper than {_MAX_DEPTH}")
    parsed, _ = _parse(text, shown)
    target = value
    for key in keys[:-1]:
        inner = target.get(key)
        if inner is None:
            inner = target[key] = {}
        if key == "rules" and isinstance(inner, str):  # a preset or a file, of which one rule is to change
            inner = target[key] = {"extends": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{shown}: {key!r} is not a mapping; give the whole: {key}={{...}}")
        target = inner
    target[keys[-1]] = parsed


def validate(model: type[Model], value: Mapping[str, Any], where: str, lines: Lines | None = None) -> Model:
    """Return `value` as `model`.

    Raises: ConfigError with one line for the first mistake: file, line, key, value, nearest name.
    """
    try:
        return model.model_validate(dict(value))
    except ValidationError as error:
        places = lines or {}
        problems: dict[_Path, list[Any]] = {}
        for problem in error.errors(include_url=False, include_context=False):
            problems.setdefault(_path(problem["loc"], places), []).append(problem)
        paths = [path for path in problems if not _is_said_elsewhere(path, problems)]
        first = min(paths, key=lambda path: (path not in places, _line(path, places), -len(path)))
        more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        raise ConfigError(_describe(model, first, problems[first], where, places) + more) from error


def _path(location: tuple[int | str, ...], lines: Lines) -> _Path:
    """Return a problem's keys without what pydantic adds: the member of a union, the mark of a mapping's key."""
    path: _Path = ()
    for item in map(str, location):
        if (*path, item) in lines or not _ADDED.fullmatch(item):
            path = (*path, item)
    return path


def _is_said_elsewhere(path: _Path, problems: Mapping[_Path, Any]) -> bool:
    """Tell whether a problem repeats that of the common settings, which reach every source, or one further inside."""
    is_copy = path[:1] == ("sources",) and path[2:] in problems
    return is_copy or any(other != path and other[: len(path)] == path for other in problems)


def _line(path: _Path, lines: Lines) -> int:
    return next((lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in lines), 0)


def _describe(model: type[BaseModel], path: _Path, problems: list[Any], where: str, lines: Lines) -> str:
    problem = problems[0]
    said = (problem["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list") for problem in problems)
    message = "; or: ".join(dict.fromkeys(_MAPPING.sub("a mapping", text) for text in said))  # YAML's names for types
    named = message.split(" ", 1)[0].rstrip(":").split(".")  # a check over several keys begins with the one to blame
    line = _line((*path, *named), lines)
    place = f"{where}:{line}" if line else where
    key = ".".join(path)
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):  # of a model, of a dataclass
        known = _fields(model, problem["loc"][:-1])
        hint = nearest(path[-1], known) or (f" (known: {', '.join(known)})" if known else "")
        return f"{place}: unknown key {key!r}{hint}"
    if problem["type"] == "missing":
        return f"{place}: key {key!r} is missing"
    if isinstance(problem["input"], Mapping) or problem["loc"][-1:] == (_KEY,) or not key:
        return f"{place}: {key}: {message}" if key else f"{place}: {message}"
    value = repr(problem["input"])
    if path[-1] in _UNSHOWN or redact(value) != value:  # it is cut below, and half a secret is not known for one
        return f"{place}: {key}: {message}"
    shown = value if len(value) <= 60 else value[:57] + "..."
    return f"{place}: {key} = {shown}: {message}"


def _fields(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are valid at `location` inside `model`."""
    for step in location:
        inside = [fields[str(step)] for fields in _models(model) if step in fields]
        # beside fields: a mapping's key, a list's number, or the name that pydantic gives to a union's member
        model = inside[0] if inside else _inner(model, step)
    return sorted({name for fields in _models(model) for name in fields})


def _inner(annotation: Any, step: int | str) -> Any:
    arguments = [a for a in typing.get_args(annotation) if a is not type(None) and a is not Ellipsis]
    if not arguments:
        return annotation
    by_name = [a for a in arguments if getattr(a, "__name__", None) == step]
    return by_name[0] if by_name else arguments[-1]


def _models(annotation: Any) -> list[dict[str, Any]]:
    """Return the fields of the models and dataclasses that an annotation names: a dictionary of annotations each."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [{name: field.annotation for name, field in annotation.model_fields.items()}]
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return [typing.get_type_hints(annotation)]
    return [m for a in typing.get_args(annotation) for m in _models(a)]
