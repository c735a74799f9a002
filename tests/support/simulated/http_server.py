"""HTTP/1.1 for the simulated endpoint, on a bare asyncio protocol: a call has to cost little CPU."""

from __future__ import annotations

import asyncio
import dataclasses
import http
import socket
import struct
from collections import deque
from typing import cast

import httptools
import orjson

from tests.support.simulated import retrieval
from tests.support.simulated.errors import RequestError, error_body
from tests.support.simulated.service import Call, Service

_STATUS_LINES = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in http.HTTPStatus}
_JSON = b"content-type: application/json\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: closing sends RST, not FIN


class Connection(asyncio.Protocol):
    """One client connection: requests are answered in order, one at a time."""

    __slots__ = (
        "_authorization", "_body", "_busy", "_call", "_keep_alive", "_parser", "_path", "_pending",
        "_search_key", "_server", "_transport",
    )  # fmt: skip

    def __init__(self, server: Server) -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[tuple[str, bytes, bytes, bytes, bytes, bool]] = deque()
        self._busy = False
        self._keep_alive = True
        self._call: Call | None = None

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._server.service.stats.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._call is not None:
            call, self._call = self._call, None
            self._server.service.abandon(call)
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._transport.close()
        except httptools.HttpParserError:
            self._transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self._transport.close()

    # httptools

    def on_message_begin(self) -> None:
        self._path = b""
        self._body = b""
        self._authorization = b""
        self._search_key = b""

    def on_url(self, url: bytes) -> None:
        self._path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        wanted = self._server.service.options.key_header
        if wanted and len(name) in (7, 13) and name.lower() != wanted.encode():
            return
        if len(name) == 13 and name.lower() == b"authorization":
            self._authorization = value
        elif len(name) == 7 and name.lower() == b"api-key":  # Azure's way
            self._authorization = b"Bearer " + value
        elif len(name) == 9 and name.lower() == b"x-api-key":
            self._search_key = value

    def on_body(self, body: bytes) -> None:
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        keep_alive = self._parser.should_keep_alive()
        request = (method, self._path, self._body, self._authorization, self._search_key, keep_alive)
        if self._busy:
            self._pending.append(request)
        else:
            self._handle(*request)

    def _handle(
        self,
        method: str,
        path: bytes,
        body: bytes,
        authorization: bytes,
        search_key: bytes,
        keep_alive: bool,
    ) -> None:
        self._busy, self._keep_alive = True, keep_alive
        path = self._server.plain_path(path)
        if method == "POST" and path == b"/v1/chat/completions" and not self._server.service.options.down:
            self._call = self._server.service.chat(self, body, authorization)
        else:
            self._server.route(self, method, path, body, authorization, search_key)

    # What the service calls

    def reply(self, status: int, body: bytes, headers: bytes = b"", sent: int | None = None) -> None:
        """Send an answer; with `sent`, only that many bytes of the body, and close."""
        self._call = None
        if self._transport.is_closing():
            return
        closing = sent is not None or not self._keep_alive
        head = b"%scontent-length: %d\r\n%s%s%s\r\n" % (
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d Simulated\r\n" % status,
            len(body),
            headers,
            b"" if b"content-type:" in headers else _JSON,
            b"connection: close\r\n" if closing else b"",
        )
        self._transport.write(head + (body if sent is None else body[:sent]))
        if closing:
            self._transport.close()
        elif self._pending:
            # Not at once: the request that is being answered may still be on the stack.
            self._server.loop.call_soon(self._handle_pending)
        else:
            self._busy = False

    def _handle_pending(self) -> None:
        if self._pending:
            self._handle(*self._pending.popleft())

    def reset(self) -> None:
        """Close at once without an answer, with a TCP reset."""
        if not self._transport.is_closing():
            sock: socket.socket = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()


class Server:
    """The routes other than chat completions, and the open connections."""

    def __init__(self, service: Service, loop: asyncio.AbstractEventLoop) -> None:
        self.service = service
        self.loop = loop
        self.connections: set[Connection] = set()

    def plain_path(self, path: bytes) -> bytes:
        """Return a path below the base path as one below /v1; what is not there is left as it is."""
        options = self.service.options
        path, _, query = path.partition(b"?")
        base = options.base_path.encode()
        if base == b"/v1" and not options.query:
            return path
        if query != options.query.encode() or not path.startswith(base + b"/"):
            return path if path.startswith(b"/admin/") else b"/nothing-here"
        return b"/v1" + path[len(base) :]

    def route(
        self,
        client: Connection,
        method: str,
        path: bytes,
        body: bytes,
        authorization: bytes,
        search_key: bytes,
    ) -> None:
        """Answer a request that is not a chat completion."""
        service = self.service
        if path.startswith(b"/admin/"):
            self._admin(client, method, path, body)
        elif service.options.down:
            client.reset()
        elif method == "POST" and path in retrieval.ROUTES:
            service.retrieve(client, path, body, authorization, search_key)
        elif method == "GET" and path == b"/v1/models":
            self._models(client, authorization)
        elif method == "GET" and path == b"/health":
            client.reply(200, b"{}")
        elif method == "GET" and path == b"/metrics":
            client.reply(200, self._metrics(), b"content-type: text/plain; version=0.0.4\r\n")
        else:
            self._refuse(client, 404, f"Unknown request: {method} {path.decode('latin-1')}")

    def _models(self, client: Connection, authorization: bytes) -> None:
        try:
            self.service.authorize(authorization)
        except RequestError as error:
            client.reply(error.status, error_body(error))
            return
        names = self.service.options.models or ("simulated",)
        more = {"object": "model", "created": 0, "owned_by": "simulated", **self.service.options.listed}
        models = [{"id": name, **more} for name in names]
        client.reply(200, orjson.dumps({"object": "list", "data": models}))

    def _metrics(self) -> bytes:
        """Return a few of the figures vLLM gives to Prometheus, under its names."""
        service, stats = self.service, self.service.stats
        figures = {
            "vllm:num_requests_running": service.serving,
            "vllm:num_requests_waiting": service.in_flight - service.serving,
            "vllm:prompt_tokens_total": stats.prompt_tokens,
            "vllm:generation_tokens_total": stats.completion_tokens,
            "vllm:prefix_cache_queries_total": stats.prompt_tokens,
            "vllm:prefix_cache_hits_total": stats.cached_tokens,
        }
        return "".join(f"{name} {value}\n" for name, value in figures.items()).encode()

    def _admin(self, client: Connection, method: str, path: bytes, body: bytes) -> None:
        service = self.service
        if (method, path) == ("GET", b"/admin/stats"):
            stats = service.stats.to_json(service.options.slots)
            client.reply(
                200, orjson.dumps(stats | {"in_flight": service.in_flight, "serving": service.serving})
            )
        elif (method, path) == ("GET", b"/admin/requests"):
            client.reply(200, orjson.dumps({"requests": list(service.stats.requests)}))
        elif (method, path) == ("POST", b"/admin/reset"):
            service.reset()
            client.reply(200, b"{}")
        elif (method, path) == ("POST", b"/admin/configure"):
            self._configure(client, body)
        else:
            self._refuse(client, 404, f"Unknown request: {method} {path.decode('latin-1')}")

    def _configure(self, client: Connection, body: bytes) -> None:
        try:
            options = self.service.options.updated(orjson.loads(body))
        except ValueError as error:
            self._refuse(client, 400, str(error))
            return
        self.service.configure(options)
        if options.down:
            for connection in [c for c in self.connections if c is not client]:
                connection.reset()
        shown = dataclasses.asdict(options)
        shown["api_key"] = bool(options.api_key)
        shown["search_key"] = bool(options.search_key)
        client.reply(200, orjson.dumps(shown))

    @staticmethod
    def _refuse(client: Connection, status: int, message: str) -> None:
        client.reply(status, error_body(RequestError(status, message, None)))
