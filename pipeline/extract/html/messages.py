"""What the parent and an extraction worker say to each other: options and a page there, text or a refusal back.

Light on purpose: a worker imports this module, so neither pyarrow nor the schema is imported here. What comes back is
read with care, because a hostile page may have taken the worker over: JSON whose every field is checked, no pickle.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from pipeline.table.errors import GristmillError

if TYPE_CHECKING:
    from pipeline.table.schema import RejectReason

HANDLER = "pipeline.extract.html.text:make_handler"
"""What the workers of pages run."""
_LENGTH = struct.Struct("<I")
# The types of an answer's fields; text or nothing where none are named.
_KINDS: dict[str, set[type]] = {
    **{name: {str} for name in ("text", "charset", "charset_source")},
    **{name: {int} for name in ("code_lost", "formulas_lost")},
}
_OPTIONAL: set[type] = {str, type(None)}


class ExchangeError(GristmillError):
    """A worker's answer is not what a worker writes."""


@dataclass(frozen=True, slots=True)
class HtmlOptions:
    """How HTML becomes text. The three limits decide what is refused, the same on every machine.

    A page with `max_nodes` elements takes trafilatura about 10 s, well below the net for CPU time; few real pages have
    more than 10,000. libxml2 cuts a page off at 256 levels, where text is lost unseen: a higher `max_depth` means 255.
    """

    engine: Literal["trafilatura", "resiliparse"] = "trafilatura"
    favor: Literal["precision", "balanced", "recall"] = "balanced"
    language_gate: tuple[str, ...] | None = None
    metadata: Literal["light", "full"] = "light"
    max_payload_bytes: int = 10 * 1024 * 1024
    max_nodes: int = 100_000
    max_depth: int = 255


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A page as a worker needs it; `url` only for `metadata: full`, where it can name the date."""

    options: HtmlOptions
    payload: bytes
    media_type: str | None = None
    charset: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Extracted:
    """Text of a page and what the page says about itself. `date` is in UTC.

    `code_lost` and `formulas_lost` count the blocks of code and the formulas of the page that the text does not hold.
    """

    text: str
    charset: str
    charset_source: str
    title: str | None = None
    date: datetime | None = None
    date_source: str | None = None
    licence: str | None = None
    language: str | None = None
    code_lost: int = 0
    formulas_lost: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a page gave no text."""

    reason: RejectReason
    detail: str


def encode_request(request: PageRequest) -> bytes:
    """Return a request as bytes: the length of a JSON header, the header, the payload."""
    head = {"charset": request.charset, "media_type": request.media_type, "url": request.url}
    header = json.dumps({**head, "options": asdict(request.options)}).encode()
    return b"".join((_LENGTH.pack(len(header)), header, request.payload))


def decode_request(message: bytes) -> PageRequest:
    """Return the request that `encode_request` made bytes of; both ends are this program."""
    (length,) = _LENGTH.unpack_from(message)
    header = json.loads(message[_LENGTH.size : _LENGTH.size + length])
    options = header.pop("options")
    gate = options.pop("language_gate")
    return PageRequest(
        options=HtmlOptions(language_gate=tuple(gate) if gate is not None else None, **options),
        payload=message[_LENGTH.size + length :],
        **header,
    )


def encode_result(result: Extracted | Refusal) -> bytes:
    """Return a result as UTF-8 JSON."""
    fields = asdict(result)
    if isinstance(result, Extracted) and result.date is not None:
        fields["date"] = result.date.isoformat()
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "replace")


def decode_result(message: bytes) -> Extracted | Refusal:
    """Return the result in a worker's answer.

    Raises: ExchangeError when the answer is not exactly a result: not JSON, a wrong type, a lone surrogate.
    """
    try:
        text = message.decode("utf-8")
        fields = json.loads(text)
        if "\\u" in text:  # an escaped lone surrogate fails here, not in Arrow
            json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"a worker's answer is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ExchangeError("a worker's answer is not an object")
    if fields.keys() == {"reason", "detail"} and all(isinstance(value, str) for value in fields.values()):
        return Refusal(fields["reason"], fields["detail"])
    if fields.keys() != set(Extracted.__slots__):
        raise ExchangeError(f"a worker's answer has the keys {sorted(fields)}")
    wrong = [name for name, value in fields.items() if type(value) not in _KINDS.get(name, _OPTIONAL)]
    if wrong or min(fields["code_lost"], fields["formulas_lost"]) < 0:
        raise ExchangeError(f"a worker's answer has fields of a wrong type or value: {wrong}")
    try:
        fields["date"] = datetime.fromisoformat(fields["date"]) if fields["date"] else None
    except ValueError as error:
        raise ExchangeError(f"a worker's answer has the date {fields['date']!r}") from error
    return Extracted(**fields)
