"""Access to the review page: by a token in the address, then by a cookie, and never from another origin.

The address that is printed holds the token, as Jupyter's does. The first request with it is given a cookie
and led to the address without it, so that the token stays out of histories and screenshots. Forms carry a
token of their own besides.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.requests import cookie_parser

from dlgforge_core.common.web_guard import (
    READING,
    App,
    Headers,
    Receive,
    Refused,
    Send,
    check_origin,
    checked_host,
    hosts_of,
    refuse,
    with_headers,
)

TOKEN = "token"
_SAFE = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    # With no-referrer browsers would send forms with the origin "null".
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Access:
    """What lets requests in to `app`, an ASGI application; `env` holds DLGFORGE_UI_HOSTS."""

    def __init__(self, app: App, keys: Keys, env: Mapping[str, str] = os.environ) -> None:
        self._app, self._keys, self._hosts = app, keys, hosts_of(env)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the reason why not."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        sending = with_headers(send, _SAFE)
        try:
            if scope["type"] != "http":
                raise Refused(403, "this server has no such thing")
            headers = Headers(scope)
            host = checked_host(headers, self._hosts)
            if scope["method"] not in READING:
                check_origin(headers, host, self._hosts)
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            if "\0" in scope["path"] or any("\0" in value for _, value in query):
                # Postgres has no such text, and could not look for it.
                raise Refused(400, "no address of this server has a NUL in it")
            given = [value for name, value in query if name == TOKEN]
            if given and scope["method"] in READING and self._keys.is_token(given[0]):
                await self._let_in(scope, sending, [pair for pair in query if pair[0] != TOKEN])
                return
            cookies = cookie_parser(headers.one("cookie") or "")
            if not self._keys.is_session(cookies.get(self._keys.cookie, "")):
                raise Refused(
                    403,
                    "open the address that `make review` has printed: it holds the token that lets you in",
                )
        except Refused as refused:
            await refuse(scope, sending, refused)
            return
        await self._app(scope, receive, sending)

    async def _let_in(self, scope: Mapping[str, Any], send: Send, query: list[tuple[str, str]]) -> None:
        # Of one slash: "//host" would be another host's address.
        path = "/" + quote(scope["path"].lstrip("/"))
        location = path + ("?" + urlencode(query) if query else "")
        cookie = f"{self._keys.cookie}={self._keys.session}; Path=/; HttpOnly; SameSite=Strict"
        headers = [
            (b"location", location.encode()),
            (b"set-cookie", cookie.encode()),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class Keys:
    """What is derived from a token: the session's cookie, and what forms carry."""

    def __init__(self, token: str = "") -> None:
        self.token = token or secrets.token_urlsafe(32)
        # Cookies go to every port of a host: a name of its own, so that two pages do not take each other's.
        self.cookie = f"dlgforge_review_{self._derived('cookie')[:8]}"
        self.session = self._derived("session")
        self.form = self._derived("form")

    def __repr__(self) -> str:
        return "Keys()"

    def is_token(self, given: str) -> bool:
        """Whether this is the token."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def is_session(self, given: str) -> bool:
        """Whether this is the cookie of somebody who had the token."""
        return hmac.compare_digest(given.encode(), self.session.encode())

    def check_form(self, given: str) -> None:
        """Raise Refused for what was not sent by a page of this server."""
        if not hmac.compare_digest(given.encode(), self.form.encode()):
            raise Refused(403, "the form is of another session of this server; load the page again")

    def _derived(self, what: str) -> str:
        return hmac.new(self.token.encode(), what.encode(), hashlib.sha256).hexdigest()
