"""What to do about each class of error: one table.

| class          | what                                        | then                                                  |
| -------------- | ------------------------------------------- | ----------------------------------------------------- |
| `unreachable`  | no connection was made                      | again, not held against it; the endpoint is left out  |
| `connection`   | reset or closed before the answer           | again, counts a half: a dying server fails many       |
| `timeout`      | a watchdog ended the call                   | again, counts double: it is dear                      |
| `rate_limited` | 429                                         | again after Retry-After, counts a sixty-fourth        |
| `busy`         | 503, 529                                    | again after Retry-After, counts a quarter             |
| `server_error` | other 5xx, 408, 409, 425                    | again, counts one                                     |
| bad answer     | broken, oversize, wrong model or request... | again, counts one                                     |
| `refused`      | other 4xx                                   | this request fails by name                            |
| `unsupported`  | 400, 422: a parameter is not taken          | stops if nothing succeeded yet there, else `refused`  |
| `denied`       | 401, 402, 403, quota used up                | the run stops: no request can succeed                 |
| `unknown`      | 404, 405 and redirects                      | stops if nothing succeeded yet there, else `refused`  |
"""

from __future__ import annotations

import base64
import json
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Literal

from pipeline.table.errors import HIDDEN, redact

Reason = Literal[
    "refused",  # the server says that this request is wrong: 400, 413, 422 and other 4xx
    "timeout",
    "connection",  # reset or closed
    "server_error",
    "rate_limited",
    "broken_answer",  # shorter than announced, no JSON, fields missing
    "oversize_answer",
    "wrong_model",
    "wrong_request",  # an answer to another request
    "impossible_usage",
    "leaked_key",  # the answer repeats our API key
]
Action = Literal["again", "refuse", "stop", "stop_or_refuse"]
_DETAIL = 300
SECRET_LENGTH = 8
"""Characters of a key at least; what is shorter, such as `EMPTY`, is none."""
_SHOWN_BYTES = 1 << 15
"""Bytes of an answer in which keys are sought one by one, where there are some; far less of it is ever shown."""
_BYTES_ESCAPED = 16
"""The most that one character of a key takes when it is escaped and wrapped."""
_ESCAPED = re.compile(rb"(?:%|u00|&#[xX]|x)([0-9a-fA-F]{2});?|&#(\d{1,3});")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_DIGITS = re.compile(r"\d{1,9}(\.\d{1,9})?")
_NOT_TAKEN = re.compile(
    r"unsupported|unrecogni[sz]ed|unknown (?:field|parameter|argument|name)|unexpected|extra inputs|extra[_ ]fields?"
    r"|extra_forbidden|(?:not|n't) (?:be )?(?:support|permit|allow|accept|recogni[sz]|implement)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """`cost` is held against the request; `shrink` multiplies the endpoint's concurrency."""

    name: str
    action: Action
    reason: Reason
    cost: float = 1.0
    shrink: float = 1.0


UNREACHABLE = ErrorPolicy("unreachable", "again", "connection", 0.0, 0.7)
CONNECTION = ErrorPolicy("connection", "again", "connection", 0.5, 0.8)
TIMEOUT = ErrorPolicy("timeout", "again", "timeout", 2.0, 0.7)
RATE_LIMITED = ErrorPolicy("rate_limited", "again", "rate_limited", 1 / 64, 0.7)
BUSY = ErrorPolicy("busy", "again", "server_error", 0.25, 0.7)
SERVER_ERROR = ErrorPolicy("server_error", "again", "server_error", 1.0, 0.9)
REFUSED = ErrorPolicy("refused", "refuse", "refused")
UNSUPPORTED = ErrorPolicy("unsupported", "stop_or_refuse", "refused")
DENIED = ErrorPolicy("denied", "stop", "refused")
UNKNOWN = ErrorPolicy("unknown", "stop_or_refuse", "refused")


def bad_answer(reason: Reason) -> ErrorPolicy:
    """Return the policy for an answer that arrived and cannot be used; it says nothing of the server's load."""
    return ErrorPolicy(reason, "again", reason)


def of_status(status: int, body: bytes) -> ErrorPolicy:
    """Return the policy for an answer with a status other than 200."""
    if status == 429:
        return DENIED if b"insufficient_quota" in body else RATE_LIMITED
    if status in (401, 402, 403):
        return DENIED
    if status in (404, 405) or 300 <= status < 400:
        return UNKNOWN
    if status in (503, 529):
        return BUSY
    if status in (408, 409, 425) or not 400 <= status < 500:
        return SERVER_ERROR
    return REFUSED


def message_of(status: int, body: bytes, key: str | None) -> str:
    """Return one line with the status and what the server says, without our key."""
    return scrub(f"{status} {_said(without_key(body, key))}".strip(), key)


def scrub(text: str, key: str | None) -> str:
    """Return a text as one short line without our key and other secrets."""
    whole = without_key(text.encode("utf-8", "replace"), key).decode("utf-8", "replace")
    line = redact(_CONTROL.sub(" ", whole))
    return line if len(line) <= _DETAIL else line[: _DETAIL - 3] + "..."


def holds_key(body: bytes, key: str | None) -> bool:
    """Tell whether bytes hold our key in one of the usual ways: with characters escaped as in JSON, URLs and HTML, with
    line ends inside, in Base64 (with a user before it, too) or hex. One that is shorter than a secret is never held.
    """
    if not key or len(key) < SECRET_LENGTH:
        return False
    plain = key.encode()
    flat = body.replace(b"\\n", b"").replace(b"\\r", b"").translate(None, b" \t\r\n\\")
    if (
        plain in body
        or plain in flat
        or any(form in flat for form in _encoded(key))
        or plain.hex().encode() in flat.lower()
    ):
        return True
    if not any(mark in flat for mark in (b"%", b"u00", b"&#", b"x")):
        return False
    return plain in _ESCAPED.sub(lambda match: bytes([int(match[1], 16) if match[1] else int(match[2]) % 256]), flat)


def without_key(body: bytes, key: str | None) -> bytes:
    """Return bytes without our key, however it is written; only the first of them where it is in many.

    To be called before anything is cut: a part of a key is not known for one.
    """
    if key and len(key) < SECRET_LENGTH:
        return body.replace(key.encode(), HIDDEN.encode())
    if not key or not holds_key(body, key):
        return body
    begin = _forms(key).sub(HIDDEN.encode(), body[:_SHOWN_BYTES])
    return begin if len(body) <= _SHOWN_BYTES else begin[: -_BYTES_ESCAPED * len(key)]


@lru_cache(maxsize=64)
def _encoded(key: str) -> list[bytes]:
    """Return what is the same in every Base64 of a text that holds the key, for each place in a group of three."""
    forms: list[bytes] = []
    for before, skipped in ((0, 0), (1, 2), (2, 3)):
        whole = b"x" * before + key.encode()
        text = base64.b64encode(whole[: len(whole) // 3 * 3])[skipped:]
        forms += [text, text.translate(bytes.maketrans(b"+/", b"-_"))]
    return forms


@lru_cache(maxsize=64)
def _forms(key: str) -> re.Pattern[bytes]:
    """Return what matches each form of a key that `holds_key` knows."""
    characters = [
        rb"(?:\\{0,4}%s|%%(?i:%02x)|\\{1,4}(?:u00|x)(?i:%02x)|&#(?:%d|[xX](?i:%02x));)"
        % (re.escape(bytes([code])), code, code, code, code)
        for code in key.encode()
    ]
    encoded = [re.escape(form) for form in (*_encoded(key), key.encode().hex().encode())]
    return re.compile(b"|".join([rb"(?:\s|\\{1,4}[nr]){0,4}".join(characters), *encoded]))


def not_taken(status: int, body: bytes, sent: Iterable[str]) -> str | None:
    """Return which of the parameters `sent` a server says that it does not take, or None where it names none."""
    if status not in (400, 422):
        return None
    said = body[:4096].decode("utf-8", "replace")
    if not _NOT_TAKEN.search(said):
        return None
    named = [(match.start(), name) for name in sent if (match := re.search(rf"\b{re.escape(name)}\b", said))]
    return min(named)[1] if named else None


def advice(parameter: str) -> str:
    """Return what to do about a parameter that a server does not take."""
    if parameter == "max_tokens":
        return "set endpoint.max_tokens_as: max_completion_tokens"
    return f"set endpoint.omit: [{parameter}]"


def _said(body: bytes) -> str:
    text = body[:4096].decode("utf-8", "replace")
    try:
        whole: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "message", "detail"):
        if isinstance(whole, dict) and name in whole:
            whole = whole[name]
    return whole if isinstance(whole, str) else text


def retry_after_s(value: str | None, cap_s: float, now: float | None = None) -> float:
    """Return the seconds that a Retry-After header asks for: a number or an HTTP date; 0 for none or nonsense."""
    if not value:
        return 0.0
    value = value.strip()
    if _DIGITS.fullmatch(value):
        return min(float(value), cap_s)
    try:
        moment = parsedate_to_datetime(value[:64]).timestamp()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(0.0, moment - (time.time() if now is None else now)), cap_s)


def backoff_s(failures: int, base_s: float, cap_s: float) -> float:
    """Return a wait drawn evenly from zero to twice as much with every failure (full jitter).

    Source: M. Brooker, "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015).
    """
    return random.uniform(0.0, min(cap_s, base_s * 2.0 ** min(failures, 32)))
