"""From a style and a segment to a prompt. What a document says is never looked at again: one pass, literal."""

from __future__ import annotations

import re
from typing import Any

from pipeline.llm.config import EndpointConfig
from pipeline.rephrase.styles import Style
from pipeline.table.errors import ConfigError

Prompt = str | list[dict[str, Any]]
"""Messages for a chat endpoint, a text for a completions endpoint."""

MAX_TITLE_CHARACTERS = 300
_PLACEHOLDER = re.compile(r"\{(text|title)\}")


def render_prompt(style: Style, kind: str, text: str, title: str | None = None, prefill: str | None = None) -> Prompt:
    """Return the prompt of `text` for an endpoint of `kind`; for completions the parts are joined by empty lines.

    It ends with the style's prefill where `prefill`, the endpoint's, says how. A `{title}` inside the text stays as it
    is. A document without a title has an empty one; of a long one the first 300 characters are used, in one line.
    """
    values = {"text": text.strip(), "title": " ".join((title or "").split())[:MAX_TITLE_CHARACTERS]}
    user = _fill(style.user, values)
    system = _fill(style.system, values) if style.system is not None else None
    begun = style.prefill if prefill is not None else None
    if kind == "completions":
        return "\n\n".join(part.strip("\n") for part in (system, user) if part) + "\n\n" + (begun or "")
    messages: list[dict[str, Any]] = [{"role": "system", "content": system.strip()}] if system is not None else []
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


def _fill(template: str, values: dict[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)
