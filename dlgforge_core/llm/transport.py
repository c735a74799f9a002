"""HTTP to one endpoint: httpx requests over aiohttp's connection pool.

The transport is called directly, without `httpx.AsyncClient`: at 64 calls in flight that costs 0.26 ms of
CPU a call, against 0.5 ms with the client on top and 3 ms with httpx's own pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
import httpx
import orjson
from httpx_aiohttp import AiohttpTransport

from dlgforge_core.common.bodies import BodyError, read_body, read_json
from dlgforge_core.common.proxies import proxy_for
from dlgforge_core.common.secrets import holds_secret, redact, redact_body, sendable
from dlgforge_core.common.tls import client_context
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.stats import FailureKind

CONNECT_TIMEOUT_S = 10.0
# Below the 5 s after which uvicorn, and so vLLM, closes an idle connection under our feet.
KEEP_ALIVE_S = 4.0
MAX_BODY_BYTES = 8 * 1024 * 1024
"""Of an answer: some forty times as long as the longest that models give."""


class HttpAnswer(NamedTuple):
    """An answer of any status, body read whole, without the key should the server have repeated it.

    `leaked` is whether it was in what the model wrote.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    leaked: bool = False


class TransportError(Exception):
    """No whole answer came back. `kind` is TIMEOUT or CONNECTION; the message never holds the key."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class EndpointTransport:
    """The connections to one endpoint. HTTP/1.1, kept alive, no redirects, no cookies.

    Proxies named in the environment (HTTPS_PROXY, NO_PROXY, ...) are used, but never for loopback.
    Raises ConfigError when the key or a value of the headers cannot be sent in one, or the environment names
    a proxy or certificates that cannot be used.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        base = httpx.URL(endpoint.base_url)
        self._chat_url = _below(base, "/chat/completions")
        self._models_url = _below(base, "/models")
        self._headers = _headers(endpoint, base)
        connect = min(CONNECT_TIMEOUT_S, endpoint.timeout_s)
        # `pool` is aiohttp's time-out for getting a connection, making a new one included.
        self._timeout = {"connect": connect, "pool": None, "read": None, "write": None}
        context = client_context() if base.scheme == "https" else None
        proxy = proxy_for(endpoint.base_url)
        self._transport = AiohttpTransport(
            verify=context or False,
            proxy=httpx.Proxy(proxy) if proxy else None,
            client=_session_factory(context, endpoint.max_in_flight),
        )

    async def post_chat(self, body: bytes, timeout_s: float | None = None) -> HttpAnswer:
        """`POST /chat/completions`, within `timeout_s` or the endpoint's own. Raises TransportError."""
        return await self._send("POST", self._chat_url, body, timeout_s or self.endpoint.timeout_s)

    async def get_models(self, timeout_s: float) -> HttpAnswer:
        """`GET /models`. Raises TransportError."""
        return await self._send("GET", self._models_url, None, timeout_s)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def redact(self, text: str) -> str:
        """`text` without the key and other secrets."""
        return redact(text, self.endpoint.secrets)

    def holds_secret(self, text: str) -> bool:
        """Whether the key or another secret is in a text."""
        return holds_secret(text, self.endpoint.secrets)

    def _answer(self, response: httpx.Response, body: bytes) -> HttpAnswer:
        """Read the answer: what a model writes stays as it is, unless it holds a secret."""
        secrets, leaked = self.endpoint.secrets, False
        if response.status_code != 200 or holds_secret(body, secrets):
            leaked = response.status_code == 200 and holds_secret(_written(body), secrets)
            body = redact_body(body, secrets)
        return HttpAnswer(response.status_code, response.headers, body, leaked)

    async def _send(self, method: str, url: httpx.URL, body: bytes | None, timeout_s: float) -> HttpAnswer:
        request = httpx.Request(
            method, url, headers=self._headers, content=body, extensions={"timeout": self._timeout}
        )
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._transport.handle_async_request(request)
                try:
                    return self._answer(response, await read_body(response, MAX_BODY_BYTES))
                finally:
                    # A body that was read whole gives its connection back; any other loses it.
                    with contextlib.suppress(httpx.HTTPError, aiohttp.ClientError):
                        await response.aclose()
        # Never chained: aiohttp's errors carry the request, and with it the Authorization header.
        except TimeoutError:
            raise TransportError(FailureKind.TIMEOUT, f"no answer within {timeout_s:g} s") from None
        except (httpx.HTTPError, aiohttp.ClientError, OSError, ValueError) as error:
            raise TransportError(FailureKind.CONNECTION, self.redact(_explain(error))) from None


def _written(body: bytes) -> bytes:
    """Return the part of an answer that the model wrote; all of it where that cannot be told apart."""
    try:
        return orjson.dumps(read_json(body)["choices"])
    except (BodyError, ValueError, TypeError, KeyError, RecursionError):
        return body


def _explain(error: BaseException) -> str:
    # httpx-aiohttp names several unlike errors ConnectTimeout; aiohttp's own error tells them apart.
    cause = error.__cause__ or error
    if isinstance(cause, BodyError):
        return str(cause)
    if isinstance(cause, aiohttp.ClientConnectorDNSError):
        return f"the host name cannot be resolved ({cause.os_error})"
    if isinstance(cause, aiohttp.ClientSSLError):
        return _explain_tls(cause)
    if isinstance(cause, aiohttp.ClientConnectorError):
        # asyncio's own text is "Connect call failed"; the number says why.
        code = cause.os_error.errno
        return f"cannot connect ({os.strerror(code) if code else cause.os_error})"
    if isinstance(cause, aiohttp.ConnectionTimeoutError):
        return "cannot connect in time"
    if isinstance(cause, aiohttp.ServerDisconnectedError):
        return "the server closed the connection without an answer"
    if isinstance(cause, aiohttp.ClientPayloadError):
        return "the answer was cut short"
    if isinstance(cause, ConnectionResetError):
        return "the connection was reset"
    text = str(cause).strip()
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _explain_tls(error: aiohttp.ClientSSLError) -> str:
    # OpenSSL's errors have numbers of their own, which are no errno.
    cause = (
        error.certificate_error
        if isinstance(error, aiohttp.ClientConnectorCertificateError)
        else error.os_error
    )
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"its certificate cannot be verified ({cause.verify_message}); for an authority of your own set "
            "SSL_CERT_FILE to a file with its certificate"
        )
    reason = (getattr(cause, "reason", None) or str(cause)).replace("_", " ").lower()
    return f"no TLS connection can be made ({reason}); does the server speak https at this port?"


class _SilentHeaders(httpx.Headers):
    """Headers without a repr of their values: httpx leaves out only the header Authorization."""

    def __repr__(self) -> str:
        return f"<headers {', '.join(self)}>"


def _headers(endpoint: Endpoint, base: httpx.URL) -> httpx.Headers:
    headers = _SilentHeaders(
        {
            "Host": base.netloc.decode("ascii"),
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "User-Agent": "dlgforge",
        }
    )
    for name, value in endpoint.headers:
        headers[name] = sendable(value, f"the header {name} of endpoint {endpoint.name}")
    if key := sendable(endpoint.api_key, f"the key of endpoint {endpoint.name}"):
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _below(base: httpx.URL, path: str) -> httpx.URL:
    # A query (Azure's api-version) stays behind the path.
    return base.copy_with(path=base.path.rstrip("/") + path)


def _session_factory(context: ssl.SSLContext | None, connections: int) -> Callable[[], aiohttp.ClientSession]:
    def make() -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            # One more than calls may be in flight: the health probe must not wait behind hung calls.
            limit=connections + 1,
            keepalive_timeout=KEEP_ALIVE_S,
            ssl=context if context is not None else True,
        )
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())

    return make
