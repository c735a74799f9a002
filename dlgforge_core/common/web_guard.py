"""Guards of web servers on this machine, against what other web pages send from a user's browser.

Parts that the guard of Dagster's webserver and that of the review page share: which host a request may name,
which origin it may come from, and how it is refused. ASGI without a framework.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from dlgforge_core.common.hosts import is_loopback

UI_HOSTS = "DLGFORGE_UI_HOSTS"
"""The variable that names hosts, beside this machine's loopback, that the servers answer as."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

READING = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that change nothing."""
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_BRACKETED = re.compile(r"\A\[[^\[\]]+\](?::\d*)?\Z")


class Refused(Exception):
    """A request that is not let in: the status and what its sender is told."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Headers:
    """The headers of a request; one that is there twice is refused, for who knows which one counts."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self._headers: list[tuple[bytes, bytes]] = list(scope["headers"])

    def one(self, name: str) -> str | None:
        """Return the value of a header; None when it is not there."""
        values = [value for key, value in self._headers if key.lower() == name.encode()]
        if len(values) > 1:
            raise Refused(400, f"the request has several headers {name}")
        return values[0].decode("latin-1").strip() if values else None


def hosts_of(env: Mapping[str, str]) -> frozenset[str]:
    """Return the hosts in DLGFORGE_UI_HOSTS."""
    return frozenset(host.strip().lower() for host in env.get(UI_HOSTS, "").split(",") if host.strip())


def checked_host(headers: Headers, hosts: Collection[str]) -> str:
    """Return the `Host` header. Raises Refused unless it names this machine, or one of `hosts`.

    A name that an attacker has pointed at this machine (DNS rebinding) is neither.
    """
    host = headers.one("host")
    parts = _split(f"http://{host}") if host else None
    if host is None or parts is None or parts[1] + parts[2] == "":
        raise Refused(400, "the request names no host")
    name = parts[1]
    if is_loopback(name) or name in hosts or host.lower() in hosts:
        return host
    raise Refused(
        403,
        f"{name} is not a host that this server answers as; if it is yours, add it to {UI_HOSTS} in the "
        "server's environment",
    )


def check_origin(headers: Headers, host: str, hosts: Collection[str]) -> None:
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
        if there == parts or name in hosts or f"{name}:{port}" in hosts:
            return
    raise Refused(
        403,
        f"the request comes from a page of another origin, {origin[:200]}; behind a proxy, pass on the "
        f"Host header, or name the proxy's host in {UI_HOSTS}",
    )


async def refuse(scope: Mapping[str, Any], send: Send, refused: Refused) -> None:
    """Answer a request with the reason why it is not let in."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": str(refused)[:120]})
        return
    body = f"{refused}\n".encode()
    kind = (b"content-type", b"text/plain; charset=utf-8")
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": refused.status, "headers": [kind, length]})
    await send({"type": "http.response.body", "body": body})


def with_headers(send: Send, headers: Sequence[tuple[bytes, bytes]]) -> Send:
    """`send`, with these headers in each answer."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *headers]
        await send(message)

    return sending


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
