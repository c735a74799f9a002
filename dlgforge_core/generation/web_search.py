"""Searching the web by Serper, or a service that answers as it does."""

from __future__ import annotations

from typing import Any

import httpx
from pydantic import SecretStr

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.common.secrets import redact
from dlgforge_core.knowledge.types import Chunk, Hit
from dlgforge_core.llm.server_errors import excerpt

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_SNIPPET_CHARS = 1000


class WebSearchError(Exception):
    """No results came back; the message says why, and never holds the key."""


class WebSearch:
    """`POST <url>` with the key in X-API-KEY. Proxies in the environment are used, but never for loopback."""

    def __init__(self, url: str, key: SecretStr, timeout_s: float) -> None:
        self._url = httpx.URL(url)
        self._key = key
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def search(self, query: str, *, k: int) -> list[Hit]:
        """The `k` best results at most: title, snippet and address, `document` being the address.

        Raises WebSearchError.
        """
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=self._timeout_s, trust_env=not is_loopback(self._url.host)
            )
        try:
            async with self._client.stream(
                "POST",
                self._url,
                json={"q": query, "num": k},
                headers={"X-API-KEY": self._key.get_secret_value()},
            ) as response:
                body = redact(await _read(response), self._key.get_secret_value())
        except httpx.HTTPError as error:
            # Not chained: the error carries the request, and with it the key.
            said = redact(f"{type(error).__name__} {error}", self._key.get_secret_value())
            raise WebSearchError(said.strip()) from None
        if response.status_code != 200:
            raise WebSearchError(f"status {response.status_code}: {excerpt(body)}")
        return read_results(body, k)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


async def _read(response: httpx.Response) -> bytes:
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise WebSearchError(f"the answer is longer than {MAX_BODY_BYTES} bytes")
    return body


def read_results(body: bytes, k: int) -> list[Hit]:
    """The results in an answer of Serper's, its direct answer first. Raises WebSearchError for any other."""
    try:
        data: Any = httpx.Response(200, content=body).json()
    except ValueError:
        raise WebSearchError(f"the answer is no JSON: {excerpt(body)}") from None
    organic = data.get("organic", []) if isinstance(data, dict) else None
    if not isinstance(organic, list):
        raise WebSearchError(f"the answer holds no list of results: {excerpt(body)}")
    items = [data.get("answerBox"), *organic]
    hits: list[Hit] = []
    for item in items:
        if isinstance(item, dict) and (text := _text(item)) and len(hits) < k:
            link = _string(item, "link")
            ordinal = len(hits)
            hits.append(Hit(Chunk(f"web:{link or ordinal}", link, ordinal, text, ""), 1.0 / (ordinal + 1)))
    return hits


def _text(item: dict[str, Any]) -> str:
    snippet = (_string(item, "answer") or _string(item, "snippet"))[:MAX_SNIPPET_CHARS]
    lines = (_string(item, "title")[:MAX_SNIPPET_CHARS], snippet, _string(item, "link")[:MAX_SNIPPET_CHARS])
    return "\n".join(line for line in lines if line) if snippet else ""


def _string(item: dict[str, Any], key: str) -> str:
    value = item.get(key)
    return " ".join(value.split()) if isinstance(value, str) else ""
