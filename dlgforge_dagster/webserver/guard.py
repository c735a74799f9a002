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
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse

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

_JSON = frozenset({"application/json", "application/graphql"})
_NO_FRAMES = (
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"content-security-policy", b"frame-ancestors 'self'"),
)


class RequestGuard:
    """The guard, as an ASGI application around `app`; `env` holds DLGFORGE_UI_HOSTS."""

    def __init__(self, app: App, env: Mapping[str, str] = os.environ) -> None:
        self._app = app
        self._hosts = hosts_of(env)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the reason why not."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refused as refused:
            await refuse(scope, send, refused)
            return
        await self._app(scope, receive, with_headers(send, _NO_FRAMES))

    def _check(self, scope: Mapping[str, Any]) -> None:
        headers = Headers(scope)
        host = checked_host(headers, self._hosts)
        graphql = scope["path"].rstrip("/").endswith("/graphql")
        if scope["type"] == "websocket":
            check_origin(headers, host, self._hosts)
            return
        method = scope["method"]
        if graphql or method not in READING:
            check_origin(headers, host, self._hosts)
        if graphql and method in READING:
            _check_query(scope)
        elif method not in READING:
            _check_content(headers, needed=graphql)


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


def _check_content(headers: Headers, needed: bool) -> None:
    """Raise Refused for content of a kind that a page may send to any server without being asked."""
    given = headers.one("content-type")
    kind = (given or "").split(";")[0].strip().lower()
    if kind in _JSON or (given is None and not needed):
        return
    raise Refused(415, "send it with Content-Type: application/json")
