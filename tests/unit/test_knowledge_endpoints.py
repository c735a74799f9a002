"""Calls to embedding, reranking and search servers: bounded in size and in time."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr

from dlgforge_core.errors import BackendError
from dlgforge_core.knowledge.embedding import EndpointEmbedder
from dlgforge_core.knowledge.endpoints import JsonClient
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.tools.web_search import WebSearch, WebSearchError

Send = Callable[[asyncio.StreamWriter], object]


@asynccontextmanager
async def server(body: bytes, headers: str = "", *, drip_s: float = 0.0) -> AsyncIterator[str]:
    """Answers every request with `body`, a byte every `drip_s`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{headers}connection: close\r\n\r\n"
        writer.write(head.encode())
        try:
            for n in range(len(body)) if drip_s else ():
                writer.write(body[n : n + 1])
                await writer.drain()
                await asyncio.sleep(drip_s)
            if not drip_s:
                writer.write(body)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()

    made = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with made:
        yield f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"


async def post(url: str, timeout_s: float = 5.0) -> object:
    client = JsonClient(Endpoint("rerank", url, timeout_s=timeout_s), attempts=1)
    try:
        return await client.post("/rerank", {})
    finally:
        await client.aclose()


async def search(url: str, timeout_s: float = 5.0) -> object:
    web = WebSearch(url, SecretStr("key-of-the-search"), timeout_s)
    try:
        return await web.search("x", k=1)
    finally:
        await web.aclose()


CALLS = [pytest.param(post, BackendError, id="json"), pytest.param(search, WebSearchError, id="search")]


@pytest.mark.parametrize(("call", "error"), CALLS)
@pytest.mark.parametrize(
    ("body", "headers", "reported"),
    [
        (
            gzip.compress(gzip.compress(bytes(1_000_000), mtime=0), mtime=0),
            "content-encoding: gzip, gzip\r\n",
            "encoded as",
        ),
        (gzip.compress(bytes(64_000_000), mtime=0), "content-encoding: gzip\r\n", "longer than"),
        (b"[" * 9_000_000, "", "longer than"),
        (b"[" + b"[]," * 600_000 + b"[]]", "", "more than"),
        (b"<html><title>Log in</title>", "", "web page"),
        (b'{"results": [{"ind', "", "cut short"),
    ],
)
def test_an_answer_is_no_bomb(
    call: Callable[..., object], error: type[Exception], body: bytes, headers: str, reported: str
) -> None:
    async def main() -> None:
        async with server(body, headers) as url:
            await call(url)  # type: ignore[misc]

    with pytest.raises(error, match=reported):
        asyncio.run(main())


@pytest.mark.parametrize(("call", "error"), CALLS)
def test_an_answer_that_drips_ends_with_the_time_out_of_the_whole(
    call: Callable[..., object], error: type[Exception]
) -> None:
    async def main() -> None:
        async with server(b'{"results": []}' + b" " * 500, drip_s=0.02) as url:
            await call(url, 0.3)  # type: ignore[misc]

    started = time.monotonic()
    with pytest.raises(error, match=r"no answer within 0\.3 s"):
        asyncio.run(main())
    assert time.monotonic() - started < 9


def test_embeddings_of_a_batch_are_as_long_as_they_may_be() -> None:
    row = "[" + ", ".join(["-0.0123456789012345"] * 4096) + "]"
    items = ", ".join(f'{{"index": {n}, "embedding": {row}}}' for n in range(16))

    async def main() -> tuple[int, ...]:
        async with server(f'{{"data": [{items}]}}'.encode()) as url:
            embedder = EndpointEmbedder(Endpoint("embedding", url), "m")
            try:
                return (await embedder.embed(["x"] * 16)).shape
            finally:
                await embedder.aclose()

    assert asyncio.run(main()) == (16, 4096)


def test_a_proxy_is_asked_and_odd_exemptions_harm_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with server(b'{"results": []}') as proxy:
            monkeypatch.setenv("http_proxy", proxy)
            monkeypatch.setenv("no_proxy", "[::1],fd00::/8,*.corp,10.0.0.0/8")
            assert await post("http://rerank.invalid/v1") == {"results": []}
            with pytest.raises(BackendError):
                await post("http://10.255.255.1/v1", 0.3)

    asyncio.run(main())
