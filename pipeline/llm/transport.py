"""An endpoint at work: a request goes out, an answer or a named error comes back, within limits of time and size."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from pipeline.llm.answers import BadAnswer, check_echo, read_answer, request_id
from pipeline.llm.config import ClientConfig, EndpointConfig
from pipeline.llm.limiter import Limiter
from pipeline.llm.policies import (
    CONNECTION,
    DENIED,
    TIMEOUT,
    UNREACHABLE,
    UNSUPPORTED,
    ErrorPolicy,
    advice,
    bad_answer,
    holds_key,
    message_of,
    not_taken,
    of_status,
    retry_after_s,
    scrub,
)
from pipeline.llm.types import Answer, Request
from pipeline.table.errors import MissingDependencyError, UsageError

_NO_PARAMETERS = frozenset({"model", "messages", "prompt", "stream"})
_RECONNECT_S = 0.25
_PATHS = {"chat": "/chat/completions", "completions": "/completions"}
_log = logging.getLogger(__name__)


class CallError(Exception):
    """A call that brought no answer."""

    def __init__(self, policy: ErrorPolicy, detail: str, pause_s: float = 0.0) -> None:
        super().__init__(detail)
        self.policy, self.detail, self.pause_s = policy, detail, pause_s


class Endpoint:
    """Connections to one endpoint and how many calls it gets. Made and closed inside a running event loop.

    The API key lives in the session's headers and nowhere else; every text that leaves this class is scrubbed of it.
    """

    def __init__(self, endpoint: EndpointConfig, config: ClientConfig, now: float) -> None:
        """Raises: UsageError when the key's variable is not set; MissingDependencyError without aiohttp."""
        try:
            import aiohttp
            from yarl import URL
        except ImportError as error:
            raise MissingDependencyError(
                "asking a language model needs aiohttp, which comes with Gristmill: pip install aiohttp"
            ) from error
        self._aiohttp: Any = aiohttp
        self.config, self._client = endpoint, config
        self.limiter = Limiter(endpoint.max_concurrency, now)
        self.calls = self.answers = 0
        self._names = frozenset((endpoint.model, *endpoint.answers_as))
        self._key = endpoint.api_key()
        self._url = URL(endpoint.base_url + _PATHS[endpoint.kind])
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        # Servers that use the id as their own (vLLM) take none twice while the first call may still be under way.
        self._run_id = uuid.uuid4().hex[:8]
        self._session = aiohttp.ClientSession(
            # Shorter than the five seconds of uvicorn, or a server would close what we are about to use.
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=4.0),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=endpoint.timeout_s,
                sock_connect=endpoint.connect_timeout_s,
                sock_read=endpoint.first_byte_timeout_s,
            ),
            headers=headers,
            auto_decompress=False,  # a bomb stays packed: what is packed all the same is no JSON
        )

    async def close(self) -> None:
        await self._session.close()

    async def connect(self) -> str | None:
        """Try to connect; return what goes wrong, or none."""
        port = self._url.port
        try:
            opening = asyncio.open_connection(self._url.host, port)
            _, writer = await asyncio.wait_for(opening, self._client.start_timeout_s)
        except TimeoutError:
            return f"no connection within {self._client.start_timeout_s:g} s"
        except OSError as error:
            return scrub(error.strerror or str(error), self._key)
        writer.close()
        return None

    async def ask(self, request: Request, attempt: int) -> Answer:
        """Return the answer to one request, given at that attempt.

        Raises: CallError, whose policy says what to do next.
        """
        aiohttp = self._aiohttp
        try:
            async with self._session.post(
                self._url,
                data=request.body,
                headers={"X-Request-ID": f"{request_id(request)}-{self._run_id}-{attempt}"},
                allow_redirects=False,
            ) as response:
                body = await self._read(response)
                status, headers = response.status, response.headers
        except aiohttp.ClientConnectorCertificateError as error:
            self._fail(DENIED, f"its certificate is not accepted: {error.certificate_error}")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._fail(UNREACHABLE, str(error))
        except TimeoutError:
            self._fail(TIMEOUT, f"no answer within {self._timeout_shown()}")
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            self._fail(bad_answer("broken_answer"), f"ends before its announced length or is no HTTP: {error}")
        except (aiohttp.ClientError, OSError) as error:
            self._fail(CONNECTION, f"closed before the answer: {error}")
        if status == 200 and holds_key(body, self._key):  # answers are stored
            self._fail(bad_answer("leaked_key"), "repeats the API key")
        if status != 200:
            pause_s = retry_after_s(headers.get("Retry-After"), self._client.retry_after_cap_s)
            detail = message_of(status, body, self._key)
            if parameter := not_taken(status, body, json.loads(request.body).keys() - _NO_PARAMETERS):
                raise CallError(UNSUPPORTED, f"{detail}; the server does not take `{parameter}`: {advice(parameter)}")
            raise CallError(of_status(status, body), detail, pause_s)
        try:
            check_echo(headers.get("X-Request-ID"), request)
            answer = read_answer(body, request, self.config.base_url, self._names)
            if attempt > 1:
                answer = replace(answer, attempts=attempt)
        except BadAnswer as error:
            self._fail(bad_answer(error.reason), error.detail)
        return answer

    async def _read(self, response: Any) -> bytes:
        """Return the whole body, at most `max_answer_bytes`."""
        most = self._client.max_answer_bytes
        if (response.content_length or 0) > most:
            response.close()
            self._fail(bad_answer("oversize_answer"), f"announces {response.content_length} bytes; the limit is {most}")
        content = response.content
        body: bytes = await content.readany()
        if content.at_eof() and len(body) <= most:  # nearly always
            return body
        parts, size = [body], len(body)
        while size <= most and (part := await content.readany()):
            parts.append(part)
            size += len(part)
        if size > most:
            response.close()
            self._fail(bad_answer("oversize_answer"), f"is longer than {most} bytes")
        return b"".join(parts)

    def _fail(self, policy: ErrorPolicy, detail: str) -> NoReturn:
        raise CallError(policy, scrub(detail, self._key))

    def _timeout_shown(self) -> str:
        first = self.config.first_byte_timeout_s
        silent = f" ({first:g} s of silence)" if first else ""
        return f"{self.config.timeout_s:g} s{silent}"


def freest(endpoints: Sequence[Endpoint], now: float) -> Endpoint | None:
    """Return the endpoint with the most free slots, or none when none has one."""
    endpoint = endpoints[0]
    if len(endpoints) > 1:
        endpoint = max(endpoints, key=lambda endpoint: endpoint.limiter.free(now))
    return endpoint if endpoint.limiter.free(now) >= 1.0 else None


async def check_reachable(endpoints: Sequence[Endpoint], patience_s: float) -> None:
    """Try to connect to every endpoint; those that cannot be reached are left out until a probe reaches them.

    Raises: UsageError when none can be reached within `patience_s`.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + patience_s
    while all(problems := await asyncio.gather(*(endpoint.connect() for endpoint in endpoints))):
        if loop.time() > give_up_at:
            shown = "; ".join(f"{e.config.base_url}: {problem}" for e, problem in zip(endpoints, problems, strict=True))
            raise UsageError(f"no endpoint is reachable ({shown}); start the server or correct base_url")
        await asyncio.sleep(_RECONNECT_S)
    for endpoint, problem in zip(endpoints, problems, strict=True):
        if problem:
            endpoint.limiter.leave_out(loop.time())
            _log.warning("endpoint %s: %s; going on without it", endpoint.config.base_url, problem)
