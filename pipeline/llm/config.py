"""Configuration of endpoints, budgets and the client."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.table.config import StageConfig
from pipeline.table.errors import ConfigError, UsageError

_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_MOST_CONCURRENT = 1 << 12

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class EndpointConfig(StageConfig):
    """One OpenAI-compatible server and the model that is asked for there."""

    base_url: str
    """As in `http://127.0.0.1:8000/v1`: `/chat/completions` is appended."""
    model: Annotated[str, Field(min_length=1, max_length=512)]
    api_key_env: str | None = None
    """The *name* of the environment variable that holds the key."""
    kind: Literal["chat", "completions"] = "chat"
    max_concurrency: Annotated[int, Field(ge=1, le=_MOST_CONCURRENT)] = 64
    timeout_s: Seconds = 600.0
    """The most that one call may take, from sending to the answer's last byte."""
    first_byte_timeout_s: Seconds | None = None
    """The most that a server may stay silent; none is `timeout_s`: most servers are, until the answer is complete."""
    connect_timeout_s: Seconds = 10.0
    max_tokens_as: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the most tokens of an answer; OpenAI's newer models take `max_completion_tokens` alone."""
    omit: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,63}$")], ...] = ()
    """Parameters that the server does not take, such as `temperature`: they are never sent, whatever a style says."""
    prefill: Literal["message", "continue_final_message", "prefix"] | None = None
    """How the server goes on with an answer that a style's `prefill` begins: when it is the last message (llama.cpp,
    OpenRouter), with `continue_final_message` beside it (vLLM, SGLang), or with `prefix` in it (Mistral, DeepSeek). Of
    kind completions the prompt ends with it. None: it is not sent."""
    answers_as: tuple[str, ...] = ()
    """Other names that the server gives to the model in its answers."""
    price_input: Price | None = None
    """Money for a million prompt tokens."""
    price_output: Price | None = None
    """Money for a million completion tokens."""
    revision: str | None = None
    """The model's revision: part of the cache's key, so that another revision is asked again."""
    licence: str | None = None
    """SPDX identifier of the model's licence, as far as it binds what the model writes."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        # Never with the value in the message: it may hold a password.
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError("is not a URL; write it like http://127.0.0.1:8000/v1") from error
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            raise ValueError("a URL holds no user, password, query or fragment; name the key's variable in api_key_env")
        if parts.scheme not in ("http", "https") or not host:
            raise ValueError("must begin with http:// or https:// and a host, like http://127.0.0.1:8000/v1")
        if not _PRINTABLE.fullmatch(value):
            raise ValueError("a URL holds printable ASCII without spaces")
        return value.rstrip("/")

    @field_validator("omit")
    @classmethod
    def _can_be_omitted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name in ("model", "messages", "prompt", "stream", "max_tokens", "max_completion_tokens"):
                raise ValueError(f"{name} cannot be left out; for another name of max_tokens set max_tokens_as")
        return value

    @field_validator("api_key_env")
    @classmethod
    def _is_name(cls, value: str | None) -> str | None:
        if value is not None and not _ENVIRONMENT_NAME.fullmatch(value):
            raise ValueError("is the name of an environment variable such as LLM_API_KEY, never the key itself")
        return value

    def money(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return what so many tokens cost, in the currency of the prices; none unless both prices are given."""
        if self.price_input is None or self.price_output is None:
            return None
        return (prompt_tokens * self.price_input + completion_tokens * self.price_output) / 1e6

    def api_key(self) -> str | None:
        """Return the key from the environment, or none where no variable is named.

        Raises: UsageError when the variable is unset, empty, or holds what no header can (the value is not shown).
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UsageError(
                f"endpoint {self.base_url}: the environment variable {self.api_key_env} is not set; set it"
            )
        if not _PRINTABLE.fullmatch(key):
            raise UsageError(f"endpoint {self.base_url}: {self.api_key_env} holds characters that no API key has")
        return key


class BudgetConfig(StageConfig):
    """The most that a set of requests may ask for; see `pipeline.llm.budget` for what counts."""

    requests: Annotated[int, Field(ge=0)] | None = None
    tokens: Annotated[int, Field(ge=0)] | None = None


class ClientConfig(StageConfig):
    """How the client waits, tries again and gives up. None of it changes an answer."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = 8
    """Attempts that count against a request before it is set aside; see the policies for what counts how much."""
    start_timeout_s: Seconds = 3.0
    """How long every endpoint may be unreachable at the start."""
    give_up_s: Seconds = 600.0
    """Stop when no endpoint has given any usable answer for so long."""
    backoff_s: Seconds = 0.5
    backoff_cap_s: Seconds = 30.0
    retry_after_cap_s: Seconds = 60.0
    drain_s: Seconds = 600.0
    """How long calls under way may go on after a stop was asked for."""
    max_answer_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = 4 << 20
    all_failed: Annotated[int, Field(ge=1)] = 20
    """Stop when the first so many requests have all failed: then it is the setting that is wrong, not a request."""
    retry_failed: bool = False
    """Ask again for what an earlier run set aside as failed."""


def check_endpoints(endpoints: tuple[EndpointConfig, ...]) -> None:
    """Check that several endpoints serve the same thing, as any of them may answer any request.

    Raises: ConfigError.
    """
    if not endpoints:
        raise ConfigError("no endpoint is given; name at least one base_url and model")
    first = endpoints[0]
    for other in endpoints[1:]:
        for name in ("model", "kind", "revision", "max_tokens_as", "omit", "prefill"):
            ours, theirs = getattr(first, name), getattr(other, name)
            if ours != theirs:
                raise ConfigError(f"endpoints {first.base_url} and {other.base_url}: {name} {ours!r} is not {theirs!r}")
    urls = [endpoint.base_url for endpoint in endpoints]
    if len(set(urls)) < len(urls):
        raise ConfigError(f"endpoint {max(urls, key=urls.count)} is given twice; raise its max_concurrency instead")
