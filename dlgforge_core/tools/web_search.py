"""Searching the web by Serper, or a service that answers as it does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from dlgforge_core.common.bodies import BodyError, read_body, read_json
from dlgforge_core.common.http_client import http_client
from dlgforge_core.common.secrets import redact, redact_body
from dlgforge_core.errors import ConfigError
from dlgforge_core.knowledge.types import Chunk, Hit
from dlgforge_core.llm.server_errors import excerpt

if TYPE_CHECKING:
    import httpx

MAX_BODY_BYTES = 2 * 1024 * 1024
MAX_SNIPPET_CHARS = 1000
_MAX_VALUES = 100_000


class WebSearchError(Exception):
    """No results came back; the message says why, and never holds the key."""


class WebSearch:
    """`POST <url>` with the key in X-API-KEY. Proxies in the environment are used, but never for loopback."""

    def __init__(self, url: str, key: SecretStr, timeout_s: float) -> None:
        self._url = url
        self._key = key
        self._timeout_s = timeout_s
        self._client: httpx.AsyncClient | None = None

    async def search(self, query: str, *, k: int) -> list[Hit]:
        """Return the `k` best results at most: title, snippet and address, `document` being the address.

        Raises WebSearchError.
        """
        import httpx

        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._post({"q": query, "num": k})
        except TimeoutError:
            raise WebSearchError(f"no answer within {self._timeout_s:g} s") from None
        except BodyError as error:
            raise WebSearchError(str(error)) from None
        except (httpx.HTTPError, httpx.InvalidURL, ConfigError, ValueError) as error:
            # Not chained: the error carries the request, and with it the key.
            reason = redact(f"{type(error).__name__} {error}", self._key.get_secret_value())
            raise WebSearchError(reason.strip()) from None
        body = redact_body(body, [self._key.get_secret_value()])
        if status != 200:
            raise WebSearchError(f"status {status}: {excerpt(body)}")
        return read_results(body, k)

    async def _post(self, query: dict[str, Any]) -> tuple[int, bytes]:
        if self._client is None:
            self._client = http_client(self._url, timeout_s=self._timeout_s)
        headers = {"X-API-KEY": self._key.get_secret_value(), "Accept-Encoding": "identity"}
        async with self._client.stream("POST", self._url, json=query, headers=headers) as response:
            return response.status_code, await read_body(response, MAX_BODY_BYTES)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None


def read_results(body: bytes, k: int) -> list[Hit]:
    """Return the results in an answer of Serper's, its direct answer first.

    Raises WebSearchError for any other.
    """
    try:
        data: Any = read_json(body, max_values=_MAX_VALUES)
    except BodyError as error:
        raise WebSearchError(f"the answer cannot be used: {error}") from None
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
