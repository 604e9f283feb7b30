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

    base_url: str = Field(
        description="an OpenAI-compatible server, as in `http://127.0.0.1:8000/v1`. `endpoint` may be a list of "
        "servers with the same model: work is balanced over them"
    )
    model: Annotated[str, Field(min_length=1, max_length=512)] = Field(description="the model that is asked for")
    api_key_env: str | None = Field(
        None, description="name of the environment variable that holds the key; the key itself is nowhere else"
    )
    kind: Literal["chat", "completions"] = Field(
        "chat", description="`completions` for a server that goes on with a text instead of answering messages"
    )
    max_concurrency: Annotated[int, Field(ge=1, le=_MOST_CONCURRENT)] = Field(
        64, description="calls at once; the client finds how many a server bears, up to this"
    )
    timeout_s: Seconds = Field(
        600.0, description="the most that one call may take, from sending to the answer's last byte"
    )
    first_byte_timeout_s: Seconds | None = Field(
        None,
        description="the most that a server may stay silent; null is `timeout_s`: most servers are, until the answer "
        "is complete",
    )
    connect_timeout_s: Seconds = Field(10.0, description="the most that connecting may take")
    max_tokens_as: Literal["max_tokens", "max_completion_tokens"] = Field(
        "max_tokens",
        description="what the server calls the most tokens of an answer; OpenAI's newer models take "
        "`max_completion_tokens` alone",
    )
    omit: tuple[Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,63}$")], ...] = Field(
        (),
        description="parameters that the server does not take, such as `[temperature]`: never sent, whatever a style "
        "says",
    )
    prefill: Literal["message", "continue_final_message", "prefix"] | None = Field(
        None,
        description="how the server goes on with an answer that a style begins: `message` (llama.cpp, OpenRouter), "
        "`continue_final_message` (vLLM, SGLang) or `prefix` (Mistral, DeepSeek); of kind completions "
        "the prompt ends with it; null: it is not sent",
    )
    answers_as: tuple[str, ...] = Field((), description="other names that the server gives the model in its answers")
    price_input: Price | None = Field(None, description="money for a million prompt tokens")
    price_output: Price | None = Field(None, description="money for a million completion tokens")
    revision: str | None = Field(None, description="the model's revision: another one is asked again")
    licence: str | None = Field(
        None, description="SPDX identifier of the model's licence, as far as it binds what the model writes"
    )

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

    requests: Annotated[int, Field(ge=0)] | None = Field(
        None, description="the most requests, stored answers among them"
    )
    tokens: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="the most tokens, prompts and answers; counted before a request is sent by the most that it can "
        "take",
    )


class ClientConfig(StageConfig):
    """How the client waits, tries again and gives up. None of it changes an answer."""

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        8, description="attempts that count against a request before it is set aside as failed"
    )
    start_timeout_s: Seconds = Field(3.0, description="how long every endpoint may be unreachable at the start")
    give_up_s: Seconds = Field(600.0, description="stop when no endpoint gave a usable answer for so long")
    backoff_s: Seconds = Field(0.5, description="first wait after an error; it doubles, with full jitter")
    backoff_cap_s: Seconds = Field(30.0, description="longest wait")
    retry_after_cap_s: Seconds = Field(60.0, description="the most that a server's `Retry-After` is heeded")
    drain_s: Seconds = Field(600.0, description="how long calls under way may go on after a stop")
    max_answer_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(4 << 20, description="largest answer")
    all_failed: Annotated[int, Field(ge=1)] = Field(
        20,
        description="stop when the first so many requests all fail, or all there are: then it is the setting that is "
        "wrong",
    )
    retry_failed: bool = Field(False, description="ask again for what was set aside")


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
