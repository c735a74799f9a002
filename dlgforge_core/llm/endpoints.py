"""Endpoints: OpenAI-compatible servers, resolved from the configuration and ready to be called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.common.secrets import secret_parts
from dlgforge_core.config import CALL_TIMEOUT_S, EndpointConfig, LlmConfig
from dlgforge_core.errors import ConfigError

OPENAI_BASE_URL = "https://api.openai.com/v1"
_DEFAULTS = EndpointConfig.model_fields
# Headers that carry a key, each in place of a bearer token.
KEY_HEADERS = frozenset({"authorization", "api-key", "x-api-key"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an endpoint is told and nobody else: the key, and headers by name. Neither shows in its repr."""

    api_key: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that answers `POST <base_url>/chat/completions`.

    `api_key`, sent as a bearer token, and the values of `headers` never show in its repr.
    """

    name: str
    base_url: str
    api_key: str = field(default="", repr=False)
    weight: float = _DEFAULTS["weight"].default
    max_in_flight: int = _DEFAULTS["max_in_flight"].default
    timeout_s: float = CALL_TIMEOUT_S
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def credentials(self) -> Credentials:
        """What never shows, on its own."""
        return Credentials(self.api_key, self.headers)

    @property
    def has_key(self) -> bool:
        """Whether it is told a key, in whatever header."""
        return bool(self.api_key) or any(name.lower() in KEY_HEADERS for name, _ in self.headers)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be in no log and no error: the key, and what may be one in the headers."""
        return tuple(
            part
            for value in (self.api_key, *(value for _, value in self.headers))
            for part in secret_parts(value)
        )

    def public(self) -> dict[str, Any]:
        """Return what may be shown, logged, sent as LLM_ROUTING_ENDPOINTS_JSON: all but the credentials."""
        return {
            "name": self.name,
            "base_url": self.base_url,
            "weight": self.weight,
            "max_in_flight": self.max_in_flight,
            "timeout_s": self.timeout_s,
        }


def endpoints_from_config(llm: LlmConfig, env: Mapping[str, str] = os.environ) -> list[Endpoint]:
    """Return the endpoints of backends `openai` and `vllm_attach`, with their keys from the environment.

    Raises ConfigError when the named variable of a key or a header is not set, or the hosted default is used
    without a key.
    """
    configs = llm.routing.endpoints or [EndpointConfig(base_url=llm.base_url or OPENAI_BASE_URL)]
    missing = [
        f"{c.label}: {name} is not set"
        for c in configs
        for name in (c.api_key_env, *(c.headers_env or llm.headers_env).values())
        if name and not env.get(name)
    ]
    if missing:
        raise ConfigError("API keys or headers are missing:\n  " + "\n  ".join(missing))
    endpoints = [endpoint_at(c, _credentials(c, llm, env), llm.timeout_s) for c in configs]
    if any(e.base_url == OPENAI_BASE_URL and not e.has_key for e in endpoints):
        raise ConfigError(
            f"{OPENAI_BASE_URL} needs a key: set {llm.api_key_env}, "
            "or llm.base_url to the address of your own server"
        )
    return endpoints


def endpoint_at(
    config: EndpointConfig, credentials: Credentials, timeout_s: float = CALL_TIMEOUT_S
) -> Endpoint:
    """Return the endpoint of one configuration; `timeout_s` is for one without its own."""
    return Endpoint(
        name=config.label,
        base_url=config.base_url.rstrip("/"),
        api_key=credentials.api_key,
        weight=config.weight,
        max_in_flight=config.max_in_flight,
        timeout_s=config.timeout_s or timeout_s,
        headers=credentials.headers,
    )


def _credentials(config: EndpointConfig, llm: LlmConfig, env: Mapping[str, str]) -> Credentials:
    headers = {name: env[variable] for name, variable in (config.headers_env or llm.headers_env).items()}
    # The common key is not for a server that has one by another header.
    common = "" if KEY_HEADERS & {name.lower() for name in headers} else llm.api_key_env
    return Credentials(env.get(config.api_key_env or common, ""), tuple(headers.items()))
