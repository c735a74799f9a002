"""ASGI middleware for `vllm serve --middleware`: every route but /health and /metrics needs the API key.

vLLM asks for its key under /v1 and a few other prefixes only; /invocations, for one, generates text without
any. This file is put on the server's PYTHONPATH alone, so it imports nothing of dlgforge.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

OPEN_PATHS = ("/health", "/metrics")


class RequireKey:
    """Answers 401 unless the request carries `Authorization: Bearer $VLLM_API_KEY`."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app
        self.wanted = hashlib.sha256(("Bearer " + os.environ["VLLM_API_KEY"]).encode()).digest()

    async def __call__(
        self, scope: dict[str, Any], receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]
    ) -> None:
        """Pass a request on when it carries the key, or is for an open path."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in OPEN_PATHS:
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if secrets.compare_digest(hashlib.sha256(given).digest(), self.wanted):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            body = json.dumps({"error": "Unauthorized"}).encode()
            await send({"type": "http.response.body", "body": body})
