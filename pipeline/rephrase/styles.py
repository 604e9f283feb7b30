"""Styles: one YAML file each, which says what is asked of the model and what becomes of its answer.

    name: list                      # the file's name
    version: 1                      # raise it to ask again although the wording is the same
    description: ...
    kind: any                       # chat or completions, when the wording fits one alone
    system: ...                     # optional
    user: ... {text} ...            # {text} the segment, {title} its document's title; replaced literally, once
    input_tokens: 1000              # a longer document is split into segments of at most so many tokens
    output_tokens: 600              # max_tokens of the request
    sampling: {temperature: 0.5, top_p: 0.9}
    marker: {text: "Key facts:", at: start}
    prefill: "Key facts:\n-"        # optional: how the answer begins, where the endpoint goes on with it
    post: [strip_marker, list_items]
    length_ratio: [0.05, 1.2]       # what is usual: code points of the rephrasing by those of the segment
    format: {items: 2}              # the least that the answer must hold: different items, complete pairs, words
    waive: [complete, copied]       # rules of the preset `rephrased` that its texts need not pass

A user adds a style by adding a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.inputs.shipped import preset_names, preset_path
from pipeline.llm.config import EndpointConfig
from pipeline.table.config import StageConfig, validate
from pipeline.table.errors import ConfigError, nearest
from pipeline.table.kept import read_yaml
from pipeline.table.shards import digest

Step = Literal[
    "strip_code_fence",
    "strip_marker",
    "list_items",
    "qa_pairs",
    "trim_to_last_sentence",
    "append_to_source",
]
Waivable = Literal[
    "complete",
    "language",
    "meta_phrase",
    "overlap",
    "copied",
    "repetition",
    "numbers",
    "dates",
    "units",
    "names",
    "negation",
    "roles",
]
PLACEHOLDERS = ("text", "title")

Prompt = str | list[dict[str, Any]]
"""Messages for a chat endpoint, a text for a completions endpoint."""
MAX_TITLE_CHARACTERS = 300

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_BRACED = re.compile(r"\{([a-z_]{1,40})\}")
_PLACEHOLDER = re.compile(r"\{(text|title)\}")
_Template = Annotated[str, Field(min_length=1, max_length=64 << 10)]


class SamplingConfig(StageConfig):
    """Sampling parameters; what is none is left to whoever is asked next: the style, then the server."""

    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = Field(
        None, description="0 is greedy; under `rephrase` it goes over every style's own"
    )
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="share of the probability that is drawn from; under `rephrase` it goes over every style's own"
    )
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        (), max_length=16, description="texts that end an answer"
    )
    extra: Mapping[str, Any] = Field(
        default_factory=dict,
        description="fields that your server knows beyond these, such as `top_k` or `repetition_penalty`",
    )

    def over(self, other: SamplingConfig) -> SamplingConfig:
        """Return `other` with what is given here on top."""
        return SamplingConfig(
            temperature=other.temperature if self.temperature is None else self.temperature,
            top_p=other.top_p if self.top_p is None else self.top_p,
            stop=self.stop or other.stop,
            extra={**other.extra, **self.extra},
        )


class Marker(StageConfig):
    """What an answer must carry to be one: its first words, or a line somewhere."""

    text: str = Field(min_length=1, max_length=200, description="one line that the answer must have")
    at: Literal["start", "line"] = Field(
        "start", description="where it stands: `start`, the first words, or `line`, a line somewhere"
    )

    @field_validator("text")
    @classmethod
    def _is_one_line(cls, value: str) -> str:
        if value != value.strip() or len(value.splitlines()) != 1 or not any(map(str.isalnum, value)):
            raise ValueError("a marker is one line with a letter or digit, without space around it")
        return value


class Format(StageConfig):
    """The least that an answer must hold once it is post-processed; what is none is not asked for."""

    pairs: int | None = Field(None, ge=1, description="different questions that have an answer")
    items: int | None = Field(None, ge=1, description="different items of a list")
    words: int | None = Field(None, ge=1, description="words, or characters of scripts without spaces")

    @model_validator(mode="after")
    def _asks_for_something(self) -> Format:
        if not self.model_fields_set:
            raise ValueError("format: give pairs, items or words, or leave it out")
        return self


class Style(StageConfig):
    """One way of rephrasing."""

    name: str = Field(description="the file's name")
    version: int = Field(1, ge=1, description="raise it to ask again although the wording is the same")
    description: str = Field("", description="one line for people")
    kind: Literal["any", "chat", "completions"] = Field(
        "any", description="`chat` or `completions` where the wording fits one alone"
    )
    system: _Template | None = Field(None, description="the system message")
    user: _Template = Field(description="what is asked: `{text}` is the segment, `{title}` its document's title")
    input_tokens: int = Field(
        ge=16, le=1 << 20, description="a longer document is split into segments of at most so many tokens"
    )
    output_tokens: int = Field(ge=1, le=1 << 20, description="the most tokens of an answer")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    marker: Marker | None = None
    prefill: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None, description="how the answer begins, where the endpoint goes on with it"
    )
    post: tuple[Step, ...] = Field((), description="how the answer is cleaned, step by step")
    length_ratio: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        (0.0, 10.0), description="what is usual: code points of the rephrasing by those of the segment, least and most"
    )
    format: Format | None = None
    waive: tuple[Waivable, ...] = Field((), description="rules of the preset `rephrased` that its texts need not pass")

    @field_validator("name")
    @classmethod
    def _is_identifier(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise ValueError("a style's name is an identifier in lower case, of at most 40 characters")
        return value

    @field_validator("system", "user")
    @classmethod
    def _placeholders_are_known(cls, value: str | None) -> str | None:
        for name in _BRACED.findall(value or ""):
            if name not in PLACEHOLDERS and (hint := nearest(name, PLACEHOLDERS)):
                raise ValueError(f"unknown placeholder {{{name}}}{hint}; known: {{text}} and {{title}}")
        return value

    @field_validator("prefill")
    @classmethod
    def _ends_in_text(cls, value: str | None) -> str | None:
        if value is not None and value != value.strip():
            raise ValueError("a prefill has no space around it: tokenizers join a space to the word after it")
        return value

    @model_validator(mode="after")
    def _is_consistent(self) -> Style:
        if "{text}" not in self.user:
            raise ValueError("user must hold {text}: the segment that is rephrased stands there")
        if self.marker is None and "strip_marker" in self.post:
            raise ValueError("post: strip_marker needs a marker")
        if len(set(self.post)) < len(self.post) or "append_to_source" in self.post[:-1]:
            raise ValueError("post: each step once, and append_to_source last")
        if self.length_ratio[0] >= self.length_ratio[1]:
            raise ValueError("length_ratio: the first number must be below the second")
        return self

    @cached_property
    def prompt_hash(self) -> str:
        """32 hex digits over what decides the question: a part of every request's key.

        Budgets and sampling are in the request itself; the treatment of the answer asks nothing again.
        """
        return digest({"name": self.name, "version": self.version, "system": self.system, "user": self.user})

    @cached_property
    def content_hash(self) -> str:
        """32 hex digits over everything that decides the rows made with this style."""
        return digest(self.model_dump(mode="json", exclude={"description"}))

    @cached_property
    def instructions(self) -> str:
        """What every prompt holds besides its document."""
        return re.sub(r"\{(?:text|title)\}", "\n", f"{self.system or ''}\n{self.user}")

    @property
    def is_appended(self) -> bool:
        """Whether the answer is put after its segment."""
        return "append_to_source" in self.post


def load_styles(names: Iterable[str], folder: str | None = None) -> dict[str, Style]:
    """Return the styles of these names; a file of `folder` goes before a shipped one of the same name.

    Raises: ConfigError for an unknown style (with the nearest name), a missing folder, or a file that is no style.
    """
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"rephrase.prompts: {folder} is not a folder; correct the path")
    return {name: load_style(name, folder) for name in dict.fromkeys(names)}


def load_style(name: str, folder: str | None = None) -> Style:
    """Return one style. Raises: ConfigError as `load_styles`."""
    path = _path(name, folder)
    if path is None:
        known = style_names(folder)
        where = f"add {folder or '<prompts>'}/{name}.yaml" if _NAME.fullmatch(name) else "names are identifiers"
        raise ConfigError(
            f"rephrase.routes: no style is named {name!r}{nearest(name, known)}; styles: {', '.join(known)}; {where}"
        )
    content, lines = read_yaml(path)
    style = validate(Style, content, str(path), lines)
    if style.name != name:
        raise ConfigError(f"{path}: name is {style.name!r}, but the file is {name}.yaml; make them the same")
    return style


def style_names(folder: str | None = None) -> list[str]:
    """Return the names of all styles that can be used, sorted."""
    own = {path.stem for path in Path(folder).glob("*.yaml")} if folder is not None else set()
    return sorted(own | set(preset_names("prompts")))


def render_prompt(style: Style, kind: str, text: str, title: str | None = None, prefill: str | None = None) -> Prompt:
    """Return the prompt of `text` for an endpoint of `kind`; for completions the parts are joined by empty lines.

    It ends with the style's prefill where `prefill`, the endpoint's, says how. A `{title}` inside the text stays as it
    is. A document without a title has an empty one; of a long one the first 300 characters are used, in one line.
    """
    values = {"text": text.strip(), "title": " ".join((title or "").split())[:MAX_TITLE_CHARACTERS]}
    # One pass, literal: what a document says is never looked at again.
    user, system = (_PLACEHOLDER.sub(lambda found: values[found[1]], part or "") for part in (style.user, style.system))
    begun = style.prefill if prefill is not None else None
    if kind == "completions":
        return "\n\n".join(part.strip("\n") for part in (system, user) if part) + "\n\n" + (begun or "")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system.strip()}] if style.system else []
    messages.append({"role": "user", "content": user.strip()})
    if begun is not None:
        messages.append({"role": "assistant", "content": begun} | ({"prefix": True} if prefill == "prefix" else {}))
    return messages


def check_kind(style: Style, endpoint: EndpointConfig) -> None:
    """Check that a style may be asked of an endpoint.

    Raises: ConfigError when its wording is for the other kind.
    """
    if style.kind not in ("any", endpoint.kind):
        raise ConfigError(
            f"style {style.name!r} is for {style.kind} endpoints, but {endpoint.base_url} has kind {endpoint.kind!r}; "
            "change `kind` of one of them"
        )


def _path(name: str, folder: str | None) -> Path | None:
    if not _NAME.fullmatch(name):
        return None
    if folder is not None and (own := Path(folder) / f"{name}.yaml").is_file():
        return own
    return preset_path("prompts", name)
