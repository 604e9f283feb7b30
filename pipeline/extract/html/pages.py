"""Pages to documents through isolated workers: the parent's side of `pipeline.extract.html.text`.

Byte-identical bodies are parsed once; each page keeps its own origin, URL, capture date and HTTP headers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import zstandard

from pipeline.extract.html.messages import (
    ExchangeError,
    Extracted,
    HtmlOptions,
    PageRequest,
    Refusal,
    decode_result,
    encode_request,
)
from pipeline.extract.html.page_metadata import header_date, header_licence
from pipeline.extract.isolation import Answer, WorkerFailure, WorkerPool
from pipeline.extract.units import Document, Page, Raw, Reject
from pipeline.table.schema import REJECT_REASONS

REMEMBERED_BYTES = 4 << 20  # of results, compressed, kept for byte-identical bodies that may still come
_REMEMBERED_EACH = 400  # beside the answer: its key, its objects, its place
_CLOCK_TOLERANCE = timedelta(days=2)  # a page dated further after its capture is not dated


def extract_pages(
    pool: WorkerPool, units: Iterable[Page | Raw | Document | Reject], options: HtmlOptions
) -> Iterator[Document | Reject]:
    """Yield one document or reject for each unit, in order; none can drop. What is no page passes through.

    `pool` runs `HANDLER` and may serve several threads at once. `units` is read lazily, a bounded number ahead.

    Raises: GristmillError when workers cannot be started.
    """
    outcomes: dict[bytes, _Outcome] = {}
    remembered = 0
    for ticket, answer in pool.imap(_requests(units, options, outcomes)):
        if not isinstance(ticket, _Ticket):
            yield ticket
            continue
        if answer is None:
            kept = ticket.outcome.answer
            assert kept is not None, "a page's body comes before its repetitions"
            answer = zstandard.decompress(kept) if isinstance(kept, bytes) else kept
        else:
            ticket.outcome.answer = zstandard.compress(answer) if isinstance(answer, bytes) else answer
            remembered += ticket.outcome.size
            for key in list(outcomes) if remembered > REMEMBERED_BYTES else ():
                if remembered <= REMEMBERED_BYTES:
                    break
                if outcomes[key].answer is not None:
                    remembered -= outcomes.pop(key).size
        yield _finish(ticket.page, _result(answer))


def extract_page(page: Page, options: HtmlOptions) -> Document | Reject:
    """Return the document or reject of one page, in this process and without any net: for tests and for trying out."""
    from pipeline.extract.html.text import extract  # 0.5 s and 40 MB that the parent of workers does not need

    return _finish(page, extract(_request(page, options)))


@dataclass(slots=True)
class _Outcome:
    """What became of a body; whoever waits for it holds it, and the last ones are remembered beyond that.

    The worker's answer is kept, compressed where it is a result: as objects a text alone can take eight times this.
    """

    answer: Answer | None = None

    @property
    def size(self) -> int:
        """About the bytes of memory that remembering it takes."""
        told = self.answer.detail if isinstance(self.answer, WorkerFailure) else self.answer
        return _REMEMBERED_EACH + len(told or "")


@dataclass(frozen=True, slots=True)
class _Ticket:
    """A page whose result is awaited, without its payload."""

    page: Page
    outcome: _Outcome


def _requests(
    units: Iterable[Page | Raw | Document | Reject], options: HtmlOptions, outcomes: dict[bytes, _Outcome]
) -> Iterator[tuple[_Ticket | Document | Reject, bytes | None]]:
    for unit in units:
        if not isinstance(unit, Page):
            assert not isinstance(unit, Raw), "what is no page has a handler of its own"
            yield unit, None
            continue
        request = encode_request(_request(unit, options))
        key = hashlib.sha256(request).digest()  # where the processor has instructions for it, the fastest there is
        known = outcomes.pop(key, None)
        outcomes[key] = outcome = known or _Outcome()  # the last one asked for is forgotten last
        yield _Ticket(replace(unit, payload=b""), outcome), None if known else request


def _request(page: Page, options: HtmlOptions) -> PageRequest:
    url = page.url if options.metadata == "full" else None
    return PageRequest(options, page.payload, page.media_type, page.charset, url)


def _result(answer: Answer) -> Extracted | Refusal:
    if isinstance(answer, WorkerFailure):
        return Refusal(answer.reason, answer.detail)
    try:
        result = decode_result(answer)
    except ExchangeError as error:
        return Refusal("crash", str(error))
    if isinstance(result, Refusal) and result.reason not in REJECT_REASONS:
        return Refusal("crash", "a worker's answer has an unknown reason")
    return result


def _finish(page: Page, result: Extracted | Refusal) -> Document | Reject:
    """Join what the page says with what its record and HTTP headers say."""
    if isinstance(result, Refusal):
        return Reject(page.origin, page.url, result.reason, result.detail)
    date, date_source = _date(page, result)
    metadata: dict[str, object] = {
        "media_type": page.media_type,
        "charset": result.charset,
        "charset_source": result.charset_source,
        "captured": page.captured.isoformat() if page.captured else None,
        "truncated": page.truncated,
        "date_source": date_source,
        "language": result.language,
        "code_lost": result.code_lost or None,
        "formulas_lost": result.formulas_lost or None,
    }
    return Document(
        origin=page.origin,
        url=page.url,
        text=result.text,
        title=result.title,
        date=date,
        licence=result.licence or header_licence(page.headers),
        metadata={key: value for key, value in metadata.items() if value is not None},
        kept=page.kept,
    )


def _date(page: Page, result: Extracted) -> tuple[datetime | None, str | None]:
    """Return the first date that is not after the capture: the page's own, then `Last-Modified`."""
    captured = page.captured
    if captured is not None and captured.tzinfo is None:
        captured = captured.replace(tzinfo=UTC)
    for date, source in ((result.date, result.date_source), (header_date(page.headers), "last-modified")):
        if date is not None and (captured is None or date <= captured + _CLOCK_TOLERANCE):
            return date, source
    return None, None
