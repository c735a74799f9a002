"""A guard in front of Dagster's webserver, against requests that other web pages send from a user's browser.

Dagster runs GraphQL mutations that come by GET, or by POST without JSON, and looks at neither `Host` nor
`Origin`; who may launch a run has what the run has. The guard lets in what the UI and programs send:

- `Host` names this machine's loopback, or a host in DLGFORGE_UI_HOSTS: a name that an attacker has pointed at
  this machine (DNS rebinding) is neither;
- what changes something, every GraphQL request and every websocket comes from a page of the same origin, or
  from no page at all, as those of curl and DagsterGraphQLClient do;
- GraphQL by GET is for queries alone, and by POST it is JSON, which no page sends elsewhere unasked;
- no other page may show the UI in a frame, and so have its buttons clicked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

from dlgforge_core.common.hosts import is_loopback

UI_HOSTS = "DLGFORGE_UI_HOSTS"

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Callable[[], Awaitable[Message]], Send], Awaitable[None]]

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_JSON = frozenset({"application/json", "application/graphql"})
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_BRACKETED = re.compile(r"\A\[[^\[\]]+\](?::\d*)?\Z")
_NO_FRAMES = (
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"content-security-policy", b"frame-ancestors 'self'"),
)


class Refused(Exception):
    """A request that is not let in: the status and what its sender is told."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RequestGuard:
    """The guard, as an ASGI application around `app`; `env` holds DLGFORGE_UI_HOSTS."""

    def __init__(self, app: App, env: Mapping[str, str] = os.environ) -> None:
        self._app = app
        self._hosts = frozenset(
            host.strip().lower() for host in env.get(UI_HOSTS, "").split(",") if host.strip()
        )

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Message]], send: Send
    ) -> None:
        """Pass the request on, or answer it with the reason why not."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refused as refused:
            await _answer(scope, send, refused)
            return
        await self._app(scope, receive, _without_frames(send))

    def _check(self, scope: Mapping[str, Any]) -> None:
        headers = _Headers(scope)
        host = self._checked_host(headers.one("host"))
        graphql = scope["path"].rstrip("/").endswith("/graphql")
        if scope["type"] == "websocket":
            self._check_origin(headers, host)
            return
        method = scope["method"]
        if graphql or method not in _READING:
            self._check_origin(headers, host)
        if graphql and method in _READING:
            _check_query(scope)
        elif method not in _READING:
            _check_content(headers, needed=graphql)

    def _checked_host(self, host: str | None) -> str:
        """Return the `Host` header. Raises Refused unless it names this machine, or a host on the list."""
        parts = _split(f"http://{host}") if host else None
        if host is None or parts is None or parts[1] + parts[2] == "":
            raise Refused(400, "the request names no host")
        name = parts[1]
        if is_loopback(name) or name in self._hosts or host.lower() in self._hosts:
            return host
        raise Refused(
            403,
            f"{name} is not a host that this server answers as; if it is yours, add it to {UI_HOSTS} in the "
            "server's environment",
        )

    def _check_origin(self, headers: _Headers, host: str) -> None:
        """Raise Refused for what the page of another origin has sent."""
        site = headers.one("sec-fetch-site")
        if site is not None and site not in ("same-origin", "none"):
            raise Refused(403, "the request comes from a page of another origin")
        origin = headers.one("origin")
        if origin is None:
            return  # no browser; or one that has said that the page is of this origin
        parts = _split(origin)
        if parts is not None:
            scheme, name, port = parts
            there = _split(f"{scheme}://{host}")
            if there == parts or name in self._hosts or f"{name}:{port}" in self._hosts:
                return
        raise Refused(
            403,
            f"the request comes from a page of another origin, {origin[:200]}; behind a proxy, pass on the "
            f"Host header, or name the proxy's host in {UI_HOSTS}",
        )


class _Headers:
    """The headers of a request; one that is there twice is refused, for who knows which one counts."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])

    def one(self, name: str) -> str | None:
        """Return the value of a header; None when it is not there."""
        values = [value for key, value in self._headers if key.lower() == name.encode()]
        if len(values) > 1:
            raise Refused(400, f"the request has several headers {name}")
        return values[0].decode("latin-1").strip() if values else None


def _split(url: str) -> tuple[str, str, str] | None:
    """Scheme, host name and port, each in one spelling; None when it is no origin."""
    try:
        parts = urlsplit(url.lower())
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    if "[" in url and not _BRACKETED.search(parts.netloc):
        return None
    if not parts.hostname or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return parts.scheme, parts.hostname, str(port or "")


def _check_query(scope: Mapping[str, Any]) -> None:
    """Raise Refused for a GraphQL document in the query string that is more than queries."""
    for text in parse_qs(scope["query_string"].decode("latin-1")).get("query", []):
        try:
            definitions = parse(text).definitions
        except (GraphQLError, RecursionError):
            raise Refused(400, "the GraphQL query cannot be read") from None
        for definition in definitions:
            if (
                isinstance(definition, OperationDefinitionNode)
                and definition.operation != OperationType.QUERY
            ):
                raise Refused(
                    405, f"a {definition.operation.value} is sent by POST, as JSON, and never by GET"
                )


def _check_content(headers: _Headers, needed: bool) -> None:
    """Raise Refused for content of a kind that a page may send to any server without being asked."""
    given = headers.one("content-type")
    kind = (given or "").split(";")[0].strip().lower()
    if kind in _JSON or (given is None and not needed):
        return
    raise Refused(415, "send it with Content-Type: application/json")


async def _answer(scope: Mapping[str, Any], send: Send, refused: Refused) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(refused)[:120]})
        return
    body = f"{refused}\n".encode()
    kind = (b"content-type", b"text/plain; charset=utf-8")
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": refused.status, "headers": [kind, length]})
    await send({"type": "http.response.body", "body": body})


def _without_frames(send: Send) -> Send:
    """`send`, with headers that forbid other pages to show the answer in a frame."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_NO_FRAMES]
        await send(message)

    return sending
