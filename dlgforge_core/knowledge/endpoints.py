"""Embedding and reranking servers: where they are, and JSON calls to them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import orjson
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dlgforge_core.common.bodies import MAX_VALUES, BodyError, read_body, read_json
from dlgforge_core.common.http_client import http_client
from dlgforge_core.common.secrets import redact, redact_body, sendable
from dlgforge_core.config import EmbeddingConfig, RerankConfig
from dlgforge_core.errors import BackendError, ConfigError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.server_errors import excerpt

ATTEMPTS = 4
MAX_BYTES = 8 * 1024 * 1024
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def embedding_endpoint(config: EmbeddingConfig, env: Mapping[str, str] = os.environ) -> Endpoint | None:
    """Return the server of an embedding section, with its key; None when no server makes the embeddings.

    Raises ConfigError when the variable that should hold the key is not set.
    """
    if config.backend != "endpoint":
        return None
    return _endpoint("embedding", config.base_url, config.api_key_env, config.timeout_s, env)


def rerank_endpoint(config: RerankConfig, env: Mapping[str, str] = os.environ) -> Endpoint | None:
    """Return the server of `retrieval.rerank`, with its key; None when it is off.

    Raises ConfigError when the variable that should hold the key is not set.
    """
    if config.backend != "endpoint":
        return None
    return _endpoint("rerank", config.base_url, config.api_key_env, config.timeout_s, env)


def _endpoint(name: str, base_url: str, key_env: str, timeout_s: float, env: Mapping[str, str]) -> Endpoint:
    if key_env and not env.get(key_env):
        raise ConfigError(f"the key of the {name} endpoint is missing: {key_env} is not set")
    key = env.get(key_env, "") if key_env else ""
    return Endpoint(name=name, base_url=base_url.rstrip("/"), api_key=key, timeout_s=timeout_s)


class JsonClient:
    """JSON calls to one server. Its key goes into the Authorization header and nowhere else.

    Raises ConfigError for a key that no header can hold, and when the environment names a proxy or
    certificates that cannot be used.
    """

    def __init__(self, endpoint: Endpoint, *, attempts: int = ATTEMPTS) -> None:
        self.endpoint = endpoint
        self._attempts = attempts
        key = sendable(endpoint.api_key, f"the key of the {endpoint.name} endpoint")
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._client = http_client(endpoint.base_url, timeout_s=endpoint.timeout_s, headers=headers)

    async def post(
        self, path: str, body: Mapping[str, Any], *, max_bytes: int = MAX_BYTES, max_values: int = MAX_VALUES
    ) -> Any:
        """Return the answer to `POST <base_url><path>`, of `max_bytes` and `max_values` at most.

        Each try may take the endpoint's time-out as a whole. Raises BackendError, after a few tries where
        that helps.
        """
        import httpx

        content = orjson.dumps(body)
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self._attempts),
                wait=wait_random_exponential(multiplier=0.2, max=5.0),
                retry=retry_if_exception(_helps_to_retry),
                reraise=True,
            ):
                with attempt:
                    async with asyncio.timeout(self.endpoint.timeout_s):
                        answer = await self._post(path, content, max_bytes)
                    return read_json(answer, max_values=max_values)
        # Never chained: httpx's errors carry the request, and with it the Authorization header.
        except (TimeoutError, httpx.TimeoutException):
            raise self._error(f"no answer within {self.endpoint.timeout_s:g} s") from None
        except (_StatusError, BodyError) as error:
            raise self._error(redact(str(error), self._key)) from None
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise self._error(redact(f"{type(error).__name__}: {error}", self._key)) from None
        raise AssertionError("the retries ended without an outcome")

    async def _post(self, path: str, content: bytes, max_bytes: int) -> bytes:
        import httpx

        base = httpx.URL(self.endpoint.base_url)
        url = base.copy_with(path=base.path.rstrip("/") + path)
        async with self._client.stream("POST", url, content=content) as response:
            answer = await read_body(response, max_bytes)
            if not response.is_success:
                raise _StatusError(response.status_code, excerpt(redact_body(answer, [self._key])))
            return answer

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @property
    def _key(self) -> str:  # no attribute: a dump of those shows no key
        return self.endpoint.api_key.strip()

    def _error(self, reason: str) -> BackendError:
        return BackendError(f"the {self.endpoint.name} endpoint {self.endpoint.base_url}: {reason}")


class _StatusError(Exception):
    """An answer with a status that is no success."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"status {status}: {reason}")
        self.status = status


def _helps_to_retry(error: BaseException) -> bool:
    import httpx

    if isinstance(error, _StatusError):
        return error.status in _RETRIED
    return isinstance(error, httpx.TransportError | TimeoutError)
