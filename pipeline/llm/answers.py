"""From an answer's bytes to an `Answer`, or to the reason why they are none. Nothing in them is trusted."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from pipeline.llm.policies import Reason
from pipeline.llm.types import TOKENS_A_MESSAGE, Answer, Request

REQUEST_ID = re.compile(r"gristmill-[0-9a-f]{32}")
_MAX_NAME = 512
_MAX_FINISH = 64
_SPARE_TOKENS = 64
"""A server may count the end of text, or some tokens of its template, beyond `max_tokens`."""
_TEMPLATE_TOKENS = 8192
"""What a chat template may add to a prompt: some carry a system prompt of their own."""
_BYTES_A_TOKEN = 1024

Ending = Literal["complete", "cut_off", "other"]


_SAID: Mapping[Ending, str] = {
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
_ENDINGS = {reason: how for how, reasons in _SAID.items() for reason in reasons.split()}


def ending(finish_reason: str) -> Ending | None:
    """Return how an answer ended: by itself, cut off by a limit, or otherwise; None for an unknown reason."""
    return _ENDINGS.get("".join(filter(str.isalpha, finish_reason.lower())).removeprefix("finishreason"))


class BadAnswer(Exception):
    """An answer that cannot be used; `reason` is of the closed list."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail


def request_id(request: Request) -> str:
    """Return what the id that is sent along begins with, and that an answer must not contradict."""
    return f"gristmill-{request.key.hex()}"


def read_answer(body: bytes, request: Request, endpoint: str, names: frozenset[str]) -> Answer:
    """Return the answer in `body` as given for the first attempt; `names` are the model's.

    Raises: BadAnswer when it is no JSON, lacks fields, is of another model or for another request, or cannot be true.
    """
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadAnswer("broken_answer", f"is not JSON: {_start(body)}") from error
    if not isinstance(whole, dict):
        raise BadAnswer("broken_answer", f"is no JSON object: {_start(body)}")
    _check_request(whole, request)
    model = _model(whole, names)
    choices = whole.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise BadAnswer("broken_answer", "does not have exactly one choice")
    text, finish = _text(choices[0]), choices[0].get("finish_reason")
    if not isinstance(finish, str) or not finish or len(finish) > _MAX_FINISH:
        raise BadAnswer("broken_answer", f"has finish_reason {finish!r:.60}")
    prompt_tokens, completion_tokens = _usage(whole.get("usage"), request, text)
    return Answer(request.key, text, finish, prompt_tokens, completion_tokens, model, endpoint, 1)


def check_echo(echoed: str | None, request: Request) -> None:
    """Compare the request id that came back. One that is not of our form is the server's own and says nothing.

    Raises: BadAnswer when it is the id of another of our requests.
    """
    if echoed and "gristmill-" in echoed:
        ours = REQUEST_ID.search(echoed)
        if ours and ours.group() != request_id(request):
            raise BadAnswer("wrong_request", f"is for request {ours.group()}")


def _check_request(whole: dict[str, Any], request: Request) -> None:
    metadata = whole.get("metadata")
    inner = metadata.get("request_id") if isinstance(metadata, dict) else None
    for value in (whole.get("id"), whole.get("request_id"), whole.get("user"), inner):
        if isinstance(value, str):
            check_echo(value[:_MAX_NAME], request)


def _model(whole: dict[str, Any], names: frozenset[str]) -> str | None:
    model = whole.get("model")
    if model is None:
        return None
    if not isinstance(model, str) or len(model) > _MAX_NAME:
        raise BadAnswer("broken_answer", f"has model {model!r:.60}")
    if model not in names and not any(is_same_model(model, name) for name in names):
        raise BadAnswer("wrong_model", f"is from model {model[:80]!r}, not {min(names)!r}")
    return model


def is_same_model(answered: str, asked: str) -> bool:
    """Tell whether a server's name for a model is the one asked for.

    Servers shorten a path or a hub's name to its last part, and add a date or a revision (`gpt-4o-2024-08-06`,
    `name@main`, `name:latest`).
    """
    if answered == asked or answered.rsplit("/", 1)[-1] == asked.rstrip("/").rsplit("/", 1)[-1]:
        return True
    added = answered.removeprefix(asked)
    return added != answered and re.fullmatch(r"@[\w.-]+|:[\w.-]+|-\d{4}(-\d{2}){0,2}|-\d{8}", added) is not None


def _text(choice: dict[str, Any]) -> str:
    holder: Any = choice
    name = "text"
    if "message" in choice:
        holder, name = choice["message"], "content"
    if not isinstance(holder, dict) or name not in holder:
        raise BadAnswer("broken_answer", f"has a choice without {name}")
    text = holder[name]
    if text is None:  # a refusal, or a model that spent its tokens on thinking
        return ""
    if not isinstance(text, str):
        raise BadAnswer("broken_answer", f"has {name} of type {type(text).__name__}")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise BadAnswer("broken_answer", "holds half of a surrogate pair, which is no text")
    return text


def _usage(usage: Any, request: Request, text: str) -> tuple[int | None, int | None]:
    """Return (prompt, completion) tokens; none where the server counts nothing."""
    if usage is None:
        return None, None
    if not isinstance(usage, dict):
        raise BadAnswer("broken_answer", f"has usage of type {type(usage).__name__}")
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    for value in (prompt, completion):
        if value is not None and (type(value) is not int or value < 0):
            raise BadAnswer("impossible_usage", f"counts {value!r:.40} tokens")
    if not prompt and not completion:
        return None, None
    most = request.prompt_bytes + TOKENS_A_MESSAGE * request.messages + _TEMPLATE_TOKENS
    if prompt is not None and prompt > most:
        raise BadAnswer("impossible_usage", f"counts {prompt} prompt tokens for {request.prompt_bytes} bytes")
    if completion is not None:
        if completion > request.max_tokens + _SPARE_TOKENS:
            raise BadAnswer(
                "impossible_usage", f"counts {completion} completion tokens; max_tokens {request.max_tokens}"
            )
        if len(text) > _BYTES_A_TOKEN * (completion + 1):
            raise BadAnswer("impossible_usage", f"counts {completion} completion tokens for {len(text)} characters")
    return prompt, completion


def _start(body: bytes) -> str:
    return repr(body[:60].decode("utf-8", "replace")) if body else "nothing"
