"""Every error that Gristmill raises on purpose, and what nothing that it says may hold.

The errors are one tree, so that a caller can catch one class.

The command line turns each into one line on stderr and an exit code: 2 for what is found before work begins, 1 for a
run that failed. Messages say what, the offending value, where (shard, doc_id, config key) and what to do next.

Secrets in addresses and texts: one function takes them out of whatever is stored, compared, logged or printed. An
address of a configuration may carry a signature or a token in its query, which requests need; everything else sees the
redacted form, so that the same file under a new signature is the same file. A user and password are refused at once:
they would be in shell histories and in the configuration itself. Addresses *in* documents are data and stay.

What a terminal would obey, whatever is in data, file names, paths and messages: the command line puts `guard` around
its streams once, so that no place that prints has to think of it.
"""

from __future__ import annotations

import codecs
import difflib
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

HIDDEN = "***"
_WHERE_THEY_BELONG = (
    "put them into the environment or fsspec's configuration, as in "
    """FSSPEC_HTTPS='{"client_kwargs": {"headers": {"Authorization": "..."}}}'"""
)
_NAMED_BEFORE_AT = frozenset(
    {"abfs", "abfss", "wasb", "wasbs", "github", "git", "hdfs", "webhdfs", "sftp", "ssh", "smb"}
)
"""Protocols that write a container, a repository or a login name before the `@`: no secret, unless a `:` follows."""
_SECRET_NAME = re.compile(
    r"x-(amz|goog|oss|ms|cos|obs|bce)-.+|q-(sign|ak|key|signature).*|key-pair-id|(aws|google|oss)access(keyid|id)"
    r"|(.*[-_.\[])?(sig|signature|token|secret|password|passwd|passphrase|pass|pwd|key|apikey|auth|authorization"
    r"|credentials?|jwt|sas|hmac|bearer)\]?"
    r"|.*(secret|signature|password|passwd|credential|api_?key|access_?key|private_?key).*"
    r"|(access|api|auth|bearer|csrf|id|refresh|session|security)_?token",
    re.IGNORECASE,
)
_SECRET_ENDING = re.compile(r"[a-z0-9](Sig|Token|Key|Auth|Pwd|Jwt|Sas)")
_SIGNATURE = re.compile(r"(?i)(\?|&|;|#|%3F|%26)([\w.-]*[-_.])?(sig|signature)(=|%3D)")
_OF_A_SIGNATURE = re.compile(r"(?i)expires|expiry|exp|policy|s[etvprs]|srt|spr|sip|skoid|sktid|sk[etsv]|sdd|ses")
"""Parameters that a signature covers: another signature has others, so that beside one they say nothing of the file."""
_USERINFO = re.compile(
    r"(?i)\b(?P<protocol>[a-z][a-z0-9+.-]{0,30})://"
    r"(?:(?P<info>[^\s/?#]{0,1024})|(?P<odd>[^\s/?#:@\[\]]{1,256}:(?!\d{0,5}(?:[/?#'\"),;]|$))(?:(?!://)\S){0,1024}))@"
)
"""What stands before the `@` of a URL. `odd`: with a `/`, `?` or `#` that should have been percent-encoded."""
_ENCODED_USERINFO = re.compile(r"(?i)%3A%2F%2F(?:(?!%2F|%40)[^\s/?#&=]){1,1024}%40")
_PARAMETER = re.compile(
    r"(?i)(?:[?&;#]|%3F|%26)(?P<name>(?:(?!%3D|%26)[\w.~%\[\]-]){1,80}?)(?:=|(?P<encoded>%3D))",
)
_TO, _ENCODED_TO = re.compile(r"[&\s]"), re.compile(r"(?i)[&\s]|%26")
_HEADER = re.compile(r"(?i)(authorization\W{1,6}(?:basic|bearer|token|aws4-hmac-sha256)\s+)[^\s'\"]+")
_PLAIN = re.compile(r"[\n -~]*+")
_OBEYED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control, formatting (writing direction, zero width, tags), halves of surrogate pairs, line and paragraph ends."""
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")
"""Letters and marks that show as nothing."""


class GristmillError(Exception):
    """Base of all errors raised on purpose. Its text holds no secret of an address, whoever wrote it."""

    exit_code = 1

    def __init__(self, text: str = "") -> None:
        super().__init__(redact(text))


EXIT_CODES = {
    0: "it is done, or there was nothing to do",
    1: "the run failed, or what was checked is not sound (`check`, `doctor`, `test`); the same command goes on",
    2: "something was wrong before work began: usage, configuration, SQL, a missing file or model, a workspace in use; "
    "nothing was changed",
    129: "the terminal was closed (SIGHUP); the same command goes on",
    130: "stopped by Ctrl-C (SIGINT); the same command goes on",
    143: "stopped by SIGTERM; the same command goes on",
}
"""What the command line ends with."""


class UsageError(GristmillError):
    """Something is wrong before work begins: the command, the configuration, SQL, a missing file."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration cannot be used: unknown key, wrong type, impossible combination."""


class InputError(UsageError):
    """An input is missing, empty or not what its format says."""


class MissingDependencyError(UsageError):
    """A feature needs an extra or a file that is not installed; the message has the line that installs it."""


class RuleError(ConfigError):
    """An SQL expression of the configuration does not bind: unknown column, wrong types, not a predicate."""


class QueryError(UsageError):
    """A user's SQL cannot be run."""


class WorkspaceError(UsageError):
    """The workspace is unreadable, locked by another run, or lacks what was asked for."""


class ReplacedError(WorkspaceError):
    """A run replaced parts while they were read: whoever reads may begin again, with the index of now."""


class SchemaError(GristmillError):
    """A table lacks a column or has one of another type than the schema says."""


class ConservationError(GristmillError):
    """A stage's rows do not add up: something vanished or was counted twice."""


class ShardError(GristmillError):
    """A shard could not be read, computed or written; the message names it."""


class UnreadableInputError(ShardError):
    """One input cannot be opened, and that will not pass by itself; the others are read."""


class GuardrailError(GristmillError):
    """A guardrail stopped the run (for example `dedup.max_removed`)."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` (nearest: 'x')` for the known name closest to `name`, or an empty string when none is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (nearest: {matches[0]!r})" if matches else ""


# Secrets --------------------------------------------------------------------------------------------------------------


def redact(text: str) -> str:
    """Return a URL, or a text with URLs in it, without its secrets: `***` stands for each.

    Deterministic, and the same again for what it returns. Whether a value is a secret is decided by its parameter's
    name, and the parameters that belong to a signature go with it.
    """
    if "://" not in text and "=" not in text and "%3" not in text and "uthorization" not in text:
        return text
    text = _HEADER.sub(rf"\g<1>{HIDDEN}", _ENCODED_USERINFO.sub(f"%3A%2F%2F{HIDDEN}%40", text))
    text = _USERINFO.sub(lambda match: match[0] if _is_a_name(match) else f"{match['protocol']}://{HIDDEN}@", text)
    signed = _SIGNATURE.search(text) is not None
    parts, done = [], 0
    for begin in _PARAMETER.finditer(text):
        name = begin["name"].replace("%5B", "[").replace("%5D", "]")
        secret = _SECRET_NAME.fullmatch(name) or _SECRET_ENDING.search(name[-7:])
        if begin.start() < done or not (secret or (signed and _OF_A_SIGNATURE.fullmatch(name))):
            continue
        end = (_ENCODED_TO if begin["encoded"] else _TO).search(text, begin.end())
        value = text[begin.end() : end.start() if end else None]
        parts += [text[done : begin.end()], HIDDEN]
        done = begin.end() + len(value.rstrip("\"')]}>,;."))  # which a sentence puts behind an address
    return "".join([*parts, text[done:]])


def shown(address: str) -> str:
    """Return an address as it is stored and compared: a path as it is, a URL redacted."""
    return redact(address) if "://" in address else address


def check_address(address: str) -> str:
    """Return an address as it is.

    Raises: ValueError when it is a URL with a user or password in it, which the message does not show.
    """
    if "://" in address and any(not _is_a_name(match) for match in _USERINFO.finditer(address)):
        raise ValueError(f"a URL here holds no user and no password; {_WHERE_THEY_BELONG}")
    if shown(address) != address and any(character.isspace() for character in address):
        raise ValueError("a URL with a signature or token holds no spaces; percent-encode them as %20")
    return address


def _is_a_name(match: re.Match[str]) -> bool:
    """Tell whether what stands before a URL's `@` is no secret."""
    protocol = match["protocol"].lower()
    return (
        match["info"] is not None
        and protocol in _NAMED_BEFORE_AT
        and (":" not in match["info"] or protocol == "github")
    )


# Terminals ------------------------------------------------------------------------------------------------------------


def escaped(text: str) -> str:
    r"""Return `text` with all but line feeds escaped that a terminal would obey or show as nothing, as `\u001b`.

    In JSON, where such characters can only be inside strings, it stays the same value.
    """
    if _PLAIN.fullmatch(text):
        return text
    obeyed = {c for c in set(text) - {"\n"} if unicodedata.category(c) in _OBEYED or c in _INVISIBLE}
    return "".join(_escape(c) if c in obeyed else c for c in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))


def _escape_unencodable(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escape, error.object[error.start : error.end])), error.end


class _Guarded:
    """A text stream that escapes what is written to it."""

    def __init__(self, stream: Any) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        self.raw.write(escaped(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextmanager
def guard() -> Iterator[None]:
    """Escape what is printed: on stderr always, on stdout when it is a terminal; data in a file or pipe stays exact.

    What a stream's encoding cannot hold (`LC_ALL=C`) is escaped, too, and ends no command.
    """
    codecs.register_error("gristmill", _escape_unencodable)
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="gristmill")
    sys.stderr = _Guarded(sys.stderr)
    if sys.stdout.isatty():
        sys.stdout = _Guarded(sys.stdout)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams


def raw(stream: Any) -> Any:
    """Return the stream behind a guard, for who draws bars with escape sequences and escapes the text itself."""
    return getattr(stream, "raw", stream)
