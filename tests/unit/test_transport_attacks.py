"""What a hostile server may send: no key follows a redirect, and nothing is read without end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from dlgforge_core.llm import transport
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.transport import EndpointTransport, TransportError

KEY = "sk-transport-secret-1"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNK = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
TIMEOUT_S = 0.5


@asynccontextmanager
async def server(
    head: bytes, drip: bytes = b"", pause_s: float = 0.0
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Yield the port of a server that answers `head` and then `drip` without end, and what it was sent."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(head)
            while drip:
                writer.write(drip)
                await writer.drain()
                await asyncio.sleep(pause_s)
        writer.close()

    started = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield started.sockets[0].getsockname()[1], seen
    finally:
        started.close()


async def asked(port: int) -> transport.HttpAnswer:
    endpoint = Endpoint("e", f"http://127.0.0.1:{port}/v1", api_key=KEY, timeout_s=TIMEOUT_S, max_in_flight=1)
    link = EndpointTransport(endpoint)
    try:
        return await asyncio.wait_for(link.post_chat(b"{}"), 5)
    finally:
        await link.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_no_request_and_no_key_follows_a_redirect(status: int) -> None:
    async with server(OK + b"Content-Length: 2\r\n\r\n{}") as (elsewhere, seen):
        location = f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:{elsewhere}/v1\r\n"
        async with server(location.encode() + b"Content-Length: 0\r\n\r\n") as (port, asked_first):
            answer = await asked(port)
    assert answer.status == status
    assert KEY.encode() in asked_first[0]
    assert not seen


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("head", "drip", "pause_s"),
    [
        (b"", b"HTTP/1.1 200 OK\r\n"[:1], 0.2),
        (OK, b"X-A: b\r\n", 0.0),
        (OK, b"X-A: b\r\n", 0.05),
        (OK + b"X-A: ", b"a" * 1000, 0.0),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK, 0.0),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.05),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1" * 1000, 0.0),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"ext" * 1000, 0.0),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X-Trailer: b\r\n", 0.0),
        (OK + b"Content-Type: text/event-stream\r\n\r\ndata: ", b"a" * 65536, 0.0),
        (OK + b"Content-Length: 99999999999999\r\n\r\n", b"a" * 65536, 0.0),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", 0.0),
        (OK + b"Content-Encoding: zstd\r\n\r\n", b"a", 0.05),
        (OK + b"Content-Encoding: br\r\n\r\n", b"a", 0.05),
    ],
)
async def test_an_answer_without_end_is_given_up(
    head: bytes, drip: bytes, pause_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1 << 20)
    async with server(head, drip, pause_s) as (port, _):
        with pytest.raises(TransportError) as caught:
            await asked(port)
    assert KEY not in str(caught.value)
    assert len(str(caught.value)) < 10_000
