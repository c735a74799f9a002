"""Embedding and reranking servers: where they are, and JSON calls to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.common.secrets import redact, sendable
from dlgforge_core.config import EmbeddingConfig, RerankConfig
from dlgforge_core.errors import BackendError, ConfigError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.server_errors import excerpt

ATTEMPTS = 4
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


def embedding_endpoint(config: EmbeddingConfig, env: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The server of an embedding section, with its key; None when no server makes the embeddings.

    Raises ConfigError when the variable that should hold the key is not set.
    """
    if config.backend != "endpoint":
        return None
    return _endpoint("embedding", config.base_url, config.api_key_env, config.timeout_s, env)


def rerank_endpoint(config: RerankConfig, env: Mapping[str, str] = os.environ) -> Endpoint | None:
    """The server of `retrieval.rerank`, with its key; None when it is off.

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
    """JSON calls to one server. Its key goes into the Authorization header and nowhere else."""

    def __init__(self, endpoint: Endpoint, *, attempts: int = ATTEMPTS) -> None:
        self.endpoint = endpoint
        self._attempts = attempts
        key = sendable(endpoint.api_key, f"the key of the {endpoint.name} endpoint")
        base = httpx.URL(endpoint.base_url)
        self._base = base
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=endpoint.timeout_s,
            trust_env=not is_loopback(base.host),  # a proxy is never asked for this machine itself
            verify=base.scheme == "https",
        )

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to `POST <base_url><path>`. Raises BackendError, after a few tries where that helps."""
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        content = orjson.dumps(body)
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(self._attempts),
                wait=wait_random_exponential(multiplier=0.2, max=5.0),
                retry=retry_if_exception(_helps_to_retry),
                reraise=True,
            ):
                with attempt:
                    response = await self._client.post(
                        url, content=content, headers={"Content-Type": "application/json"}
                    )
                    response.raise_for_status()
                    return orjson.loads(response.content)
        # Never chained: httpx's errors carry the request, and with it the Authorization header.
        except httpx.HTTPStatusError as error:
            said = excerpt(redact(error.response.content, self._key))
            raise self._error(f"status {error.response.status_code}: {said}") from None
        except httpx.TimeoutException:
            raise self._error(f"no answer within {self.endpoint.timeout_s:g} s") from None
        except (httpx.HTTPError, ValueError) as error:
            raise self._error(redact(f"{type(error).__name__}: {error}", self._key)) from None
        raise AssertionError("the retries ended without an outcome")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    @property
    def _key(self) -> str:  # no attribute: a dump of those shows no key
        return self.endpoint.api_key.strip()

    def _error(self, reason: str) -> BackendError:
        return BackendError(f"the {self.endpoint.name} endpoint {self.endpoint.base_url}: {reason}")


def _helps_to_retry(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _RETRIED
    return isinstance(error, httpx.TransportError)
