"""Requests, what became of them, and the report of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from pipeline.llm.config import EndpointConfig
from pipeline.llm.policies import Reason
from pipeline.table.config import StageConfig
from pipeline.table.errors import UsageError

REASONS: tuple[str, ...] = get_args(Reason)
"""Why a request has no answer."""
KEY_BYTES = 16
TOKENS_A_MESSAGE = 8
TOKENS_A_REQUEST = 16
BYTES_A_TOKEN = 4
_OWN_FIELDS = ("max_tokens", "max_completion_tokens", "temperature", "top_p", "stop", "seed")
_RESERVED = frozenset((*_OWN_FIELDS, "model", "messages", "prompt", "stream", "n"))

Ending = Literal["complete", "cut_off", "other"]
Stopped = Literal["budget_requests", "budget_tokens", "asked"]


_FINISH_REASONS: Mapping[Ending, str] = {
    "complete": """stop stopped stopsequence stoptoken stopword eos eostoken eot eottoken eotid imend endturn endofturn
    endoftext endofsequence endofsentence end complete completed completion done finish finished normal success""",
    "cut_off": """length lengthlimit limit maxtokens maxtoken maxlength maxnewtokens maxoutputtokens maxcompletiontokens
    tokenlimit modellength contextlength modelcontextwindowexceeded truncated incomplete""",
    "other": """contentfilter contentfiltered filtered safety recitation blocklist prohibitedcontent spii language
    refusal toolcalls toolcall tooluse functioncall malformedfunctioncall guardrailintervened error errortoxic
    errorlimit abort aborted cancel cancelled canceled usercancel timeout pauseturn other unspecified
    insufficientsystemresource""",
}
"""What servers say when an answer ends, in lower case without punctuation. Sources: the APIs of OpenAI, Anthropic,
Cohere, DeepSeek, Gemini, Mistral and Bedrock, and the servers vLLM, SGLang, llama.cpp and text-generation-inference."""
_ENDINGS = {reason: how for how, reasons in _FINISH_REASONS.items() for reason in reasons.split()}


def ending(finish_reason: str) -> Ending | None:
    """Return how an answer ended: by itself, cut off by a limit, or otherwise; None for an unknown reason."""
    return _ENDINGS.get("".join(filter(str.isalpha, finish_reason.lower())).removeprefix("finishreason"))


class Parameters(StageConfig):
    """Sampling parameters. What is none is not sent, and the server's default holds."""

    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)]
    temperature: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    extra: Mapping[str, Any] = Field(default_factory=dict)
    """Fields that a server knows beyond these, such as `top_k`, `min_p`, `repetition_penalty`."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call: what is sent, and the key under which its answer is kept."""

    key: bytes  # 16 bytes
    order: str  # where it stands: requests come, and a budget admits them, in this order
    body: bytes  # JSON
    prompt_bytes: int  # of the prompt's text in UTF-8
    messages: int
    max_tokens: int

    @property
    def reserved_tokens(self) -> int:
        """The most tokens that an answer can be charged with: a token has at least one byte."""
        return self.prompt_bytes + TOKENS_A_MESSAGE * self.messages + TOKENS_A_REQUEST + self.max_tokens

    @property
    def estimated_prompt_tokens(self) -> int:
        """About how many tokens the prompt has, at four bytes a token."""
        return -(-self.prompt_bytes // BYTES_A_TOKEN) + TOKENS_A_MESSAGE * self.messages


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote. Token counts are none where the server gives none."""

    key: bytes
    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    model: str | None  # as the server names it
    endpoint: str  # base_url
    attempts: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that ended without an answer."""

    key: bytes
    reason: Reason
    detail: str  # one line, without secrets
    attempts: int


@dataclass(slots=True)
class Counts:
    """What happened so far. `seen`, the admitted requests, is cached + answered + failed + repeated + under way."""

    seen: int = 0
    cached: int = 0  # stored before this run, answers and failures
    cached_failures: int = 0  # of `cached`
    answered: int = 0  # stored by this run
    failed: int = 0  # set aside by this run
    repeated: int = 0  # the same request again in this run
    calls: int = 0
    retries: dict[str, int] = field(default_factory=dict)  # failed attempts by class of error
    failures: dict[str, int] = field(default_factory=dict)  # `failed` by reason
    prompt_tokens: int = 0  # of the answers of this run, as the servers count them
    completion_tokens: int = 0
    charged_tokens: int = 0  # against a budget of tokens, stored answers too; 0 without one


@dataclass(frozen=True, slots=True)
class EndpointReport:
    base_url: str
    calls: int
    answers: int
    limit: float  # concurrency when the run ended
    highest_limit: float


@dataclass(frozen=True, slots=True)
class Report:
    """How a run ended. `stopped` is none when every request has an answer or a failure."""

    counts: Counts
    stopped: Stopped | None
    stopped_at: str | None  # the `order` of the first request that was not admitted
    endpoints: tuple[EndpointReport, ...]
    wall_s: float


def make_request(
    endpoint: EndpointConfig,
    prompt: str | Sequence[Mapping[str, Any]],
    parameters: Parameters,
    *,
    prompt_hash: str = "",
    order: str = "",
) -> Request:
    """Return the request for `prompt`: messages for a chat endpoint, a text for a completions endpoint.

    The key is a hash of the model, its revision, the messages, the parameters with the seed, and `prompt_hash` (of the
    prompt file). Samples of the same prompt differ in their seed. Lone surrogates, which are no text, become `?`.

    Raises: UsageError when the prompt does not fit the endpoint's kind or `extra` sets what has its own field.
    """
    is_chat = not isinstance(prompt, str)
    if is_chat != (endpoint.kind == "chat"):
        raise UsageError(f"endpoint {endpoint.base_url}: kind {endpoint.kind} does not take {type(prompt).__name__}")
    if taken := ", ".join(sorted(_RESERVED & parameters.extra.keys())):
        raise UsageError(
            f"parameters.extra sets {taken}; these have fields of their own or are the client's; what a server does "
            "not take is named in endpoint.omit, another name of max_tokens in endpoint.max_tokens_as"
        )
    content: dict[str, Any] = {"model": endpoint.model, "stream": False, **sent_parameters(endpoint, parameters)}
    content["messages" if is_chat else "prompt"] = prompt
    body = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8", "replace")
    salt = f"{endpoint.kind}\0{endpoint.revision or ''}\0{prompt_hash}\0".encode()
    key = hashlib.blake2b(salt + body, digest_size=KEY_BYTES).digest()
    texts = [prompt] if isinstance(prompt, str) else [_text(message.get("content")) for message in prompt]
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return Request(key, order, body, size, len(texts), parameters.max_tokens)


def sent_parameters(endpoint: EndpointConfig, parameters: Parameters) -> dict[str, Any]:
    """Return the parameters that a request to `endpoint` carries, under the names that it knows."""
    given = {name: getattr(parameters, name) for name in ("temperature", "top_p", "seed")}
    sent: dict[str, Any] = {endpoint.max_tokens_as: parameters.max_tokens}
    sent |= {name: value for name, value in given.items() if value is not None}
    sent |= {"stop": list(parameters.stop)} if parameters.stop else {}
    return {name: value for name, value in {**sent, **parameters.extra}.items() if name not in endpoint.omit}


def _text(content: Any) -> str:
    """Return a message's text; parts that are no text (images) are counted by their length as JSON."""
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(content)
