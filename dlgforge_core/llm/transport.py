"""HTTP to one endpoint, over aiohttp's connection pool; httpx on top of it would cost a fifth more CPU."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import aiohttp
import orjson
from multidict import CIMultiDict
from yarl import URL

from dlgforge_core.common.bodies import BodyError, decoded, read_json
from dlgforge_core.common.proxies import proxy_for
from dlgforge_core.common.secrets import holds_secret, redact, redact_body, sendable
from dlgforge_core.common.tls import client_context
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.stats import FailureKind

CONNECT_TIMEOUT_S = 10.0
# Below the 5 s after which uvicorn, and so vLLM, closes an idle connection under our feet.
KEEP_ALIVE_S = 4.0
# A server that no packet reaches any more is found out within a minute: its answer may take longer, so its
# kernel is asked whether it is there, after so many seconds of silence, so often, so many times. Else calls
# under way at a machine that has vanished would hold their slots for as long as a call may take.
_PROBES = {
    "TCP_KEEPIDLE": 15,
    "TCP_KEEPINTVL": 10,
    "TCP_KEEPCNT": 4,
    "TCP_USER_TIMEOUT": 55_000,  # of what was sent, without which there are no probes; in milliseconds
}
MAX_BODY_BYTES = 8 * 1024 * 1024
"""Of an answer: some forty times as long as the longest that models give."""


class HttpAnswer(NamedTuple):
    """An answer of any status, body read whole, without the key should the server have repeated it.

    Names of headers are in lower case. `leaked` is whether the key was in what the model wrote.
    """

    status: int
    headers: Mapping[str, str]
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
        self._secrets = _Secrets(endpoint.secrets)
        base = URL(endpoint.base_url)
        self._chat_url = _below(base, "/chat/completions")
        self._models_url = _below(base, "/models")
        self._headers = headers = _headers(endpoint, base)
        self._tls = client_context() if base.scheme == "https" else True
        proxy = proxy_for(endpoint.base_url)
        self.proxy = URL(proxy).with_user(None) if proxy else None
        """Where requests go on their way, without the password."""
        pass_on = _proxy_headers(proxy)
        if base.scheme == "http":  # the proxy reads the request itself
            headers.update(pass_on)
        self._options: _Options = {
            # `_send` limits the whole; getting a connection, a new one or not, has no limit of its own.
            "timeout": aiohttp.ClientTimeout(sock_connect=min(CONNECT_TIMEOUT_S, endpoint.timeout_s)),
            "proxy": self.proxy,
            "proxy_headers": pass_on,
            "allow_redirects": False,
            "auto_decompress": False,
        }
        self._session: aiohttp.ClientSession | None = None

    async def post_chat(self, body: bytes, timeout_s: float | None = None) -> HttpAnswer:
        """`POST /chat/completions`, within `timeout_s` or the endpoint's own. Raises TransportError."""
        return await self._send("POST", self._chat_url, body, timeout_s or self.endpoint.timeout_s)

    async def get_models(self, timeout_s: float) -> HttpAnswer:
        """`GET /models`. Raises TransportError."""
        return await self._send("GET", self._models_url, None, timeout_s)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def redact(self, text: str) -> str:
        """`text` without the key and other secrets."""
        return redact(text, self._secrets)

    @property
    def has_secrets(self) -> bool:
        """Whether there is anything that an answer must not repeat."""
        return bool(self._secrets)

    def holds_secret(self, text: str) -> bool:
        """Whether the key or another secret is in a text."""
        return holds_secret(text, self._secrets)

    def _answer(self, response: aiohttp.ClientResponse, body: bytes) -> HttpAnswer:
        """Read the answer: what a model writes stays as it is, unless it holds a secret."""
        secrets, leaked, status = self._secrets, False, response.status
        if status != 200 or holds_secret(body, secrets):
            leaked = status == 200 and holds_secret(_written(body), secrets)
            body = redact_body(body, secrets)
        headers = {name.lower(): _header_text(value) for name, value in response.headers.items()}
        return HttpAnswer(status, headers, body, leaked)

    async def _send(self, method: str, url: URL, body: bytes | None, timeout_s: float) -> HttpAnswer:
        if self._session is None:  # belongs to the running event loop
            self._session = _session(self._tls, self.endpoint.max_in_flight)
        data = aiohttp.BytesPayload(body) if body is not None else None  # aiohttp need not look for its kind
        request = self._session.request(method, url, headers=self._headers, data=data, **self._options)
        try:
            async with asyncio.timeout(timeout_s):
                response = await request
                try:
                    encoding = response.headers.get("content-encoding", "")
                    parts = response.content.iter_any()
                    return self._answer(response, await decoded(parts, encoding, MAX_BODY_BYTES))
                finally:
                    # A body that was read whole gives its connection back; any other loses it.
                    response.release()
        # Never chained: aiohttp's errors carry the request, and with it the Authorization header.
        except TimeoutError:
            raise TransportError(FailureKind.TIMEOUT, f"no answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise TransportError(FailureKind.CONNECTION, self.redact(_explain(error))) from None


def _header_text(value: str) -> str:
    """Return what a header says; aiohttp leaves lone surrogates for what is no UTF-8."""
    return value if value.isascii() else value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _written(body: bytes) -> bytes:
    """Return the part of an answer that the model wrote; all of it where that cannot be told apart."""
    try:
        return orjson.dumps(read_json(body)["choices"])
    except (BodyError, ValueError, TypeError, KeyError, RecursionError):
        return body


def _explain(cause: BaseException) -> str:
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


class _Secrets(tuple[str, ...]):
    """Secrets without a repr of them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<secrets>"


class _SilentHeaders(CIMultiDict[str]):
    """Headers without a repr of their values."""

    def __repr__(self) -> str:
        return f"<headers {', '.join(self)}>"


def _headers(endpoint: Endpoint, base: URL) -> _SilentHeaders:
    headers = _SilentHeaders(
        {
            "Host": base.host_port_subcomponent or "",
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


def _below(base: URL, path: str) -> URL:
    # A query (Azure's api-version) stays behind the path.
    return base.with_path(base.raw_path.rstrip("/") + path, encoded=True, keep_query=True)


class _Options(TypedDict):
    """What every request of an endpoint is made with."""

    timeout: aiohttp.ClientTimeout
    proxy: URL | None
    proxy_headers: _SilentHeaders
    allow_redirects: bool
    auto_decompress: bool


def _proxy_headers(proxy: str | None) -> _SilentHeaders:
    address = URL(proxy or "")
    if not address.user and not address.password:
        return _SilentHeaders()
    name_and_password = base64.b64encode(f"{address.user or ''}:{address.password or ''}".encode()).decode()
    return _SilentHeaders({"Proxy-Authorization": f"Basic {name_and_password}"})


def _watched_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket whose connection breaks when the other machine has vanished."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES.items():
        if hasattr(socket, name):  # not all systems have all of them
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made


def _session(tls: ssl.SSLContext | bool, connections: int) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        # One more than calls may be in flight: the health probe must not wait behind hung calls.
        limit=connections + 1,
        keepalive_timeout=KEEP_ALIVE_S,
        ssl=tls,
        socket_factory=_watched_socket,
    )
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
