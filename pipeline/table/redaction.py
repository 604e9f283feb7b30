"""Secrets in addresses and texts: one function takes them out of whatever is stored, compared, logged or printed.

An address of a configuration may carry a signature or a token in its query, which requests need; everything else sees
the redacted form, so that the same file under a new signature is the same file. A user and password are refused at
once: they would be in shell histories and in the configuration itself. Addresses *in* documents are data and stay.
"""

from __future__ import annotations

import re

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
