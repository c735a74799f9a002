"""Endpoints: OpenAI-compatible servers, resolved from the configuration and ready to be called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.common.secrets import secret_parts
from dlgforge_core.config import CALL_TIMEOUT_S, EndpointConfig, LlmConfig, ProviderConfig
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
    callers: frozenset[str] = frozenset()
    """Whose calls it takes: roles, and judges with a provider of their own. Empty: everybody's."""

    def serves(self, caller: str) -> bool:
        """Whether it takes the calls of `caller`."""
        return not self.callers or caller in self.callers

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
            **({"roles": sorted(self.callers)} if self.callers else {}),
        }


@dataclass(frozen=True, slots=True)
class CredentialVariables:
    """The variables of the environment that hold an endpoint's credentials; `key` is "" for none."""

    key: str
    headers: Mapping[str, str]
    required: tuple[str, ...]
    """Those that must be set."""


def credential_variables(
    config: EndpointConfig, llm: LlmConfig, provider: ProviderConfig | None = None
) -> CredentialVariables:
    """Return what is sent to an endpoint: one of the whole run or, with `provider`, one of its own."""
    key, headers, required = llm.api_key_env, llm.headers_env, [""]
    own_key, own_headers = config.api_key_env, config.headers_env
    if provider is not None and not provider.has_address:
        # The run's endpoints, asked with credentials of its own.
        own_key, own_headers = "", {}
    if provider is not None and provider.has_credentials:
        key, headers = provider.api_key_env or key, provider.headers_env
        required = [] if own_key else [provider.api_key_env]
    if provider is not None and own_key:
        headers = {}  # what stands beside another key is for another server
    headers = own_headers or headers
    # The common key is not for a server that has one by another header.
    common = "" if KEY_HEADERS & {name.lower() for name in headers} else key
    wanted = dict.fromkeys(name for name in (own_key, *required, *headers.values()) if name)
    return CredentialVariables(own_key or common, headers, tuple(wanted))


def endpoint_configs(llm: LlmConfig, provider: ProviderConfig | None = None) -> list[EndpointConfig]:
    """Return the endpoints of the whole run or, with `provider`, those that its calls go to."""
    if provider is not None and provider.endpoints:
        return provider.endpoints
    if provider is not None and provider.base_url:
        return [EndpointConfig(base_url=provider.base_url)]
    return [*llm.routing.endpoints] or [EndpointConfig(base_url=llm.base_url or OPENAI_BASE_URL)]


def endpoints_from_config(
    llm: LlmConfig, env: Mapping[str, str] = os.environ, provider: ProviderConfig | None = None
) -> list[Endpoint]:
    """Return the endpoints of backends `openai` and `vllm_attach`, with their keys from the environment.

    With `provider` those of a role or judge that has its own.

    Raises ConfigError when the named variable of a key or a header is not set, or the hosted default is used
    without a key.
    """
    configs = endpoint_configs(llm, provider)
    variables = [credential_variables(config, llm, provider) for config in configs]
    missing = [
        f"{config.label}: {name} is not set"
        for config, names in zip(configs, variables, strict=True)
        for name in names.required
        if not env.get(name)
    ]
    if missing:
        raise ConfigError("API keys or headers are missing:\n  " + "\n  ".join(missing))
    endpoints = [
        endpoint_at(config, _credentials(names, env), llm.timeout_s)
        for config, names in zip(configs, variables, strict=True)
    ]
    for endpoint, names in zip(endpoints, variables, strict=True):
        if endpoint.base_url == OPENAI_BASE_URL and not endpoint.has_key:
            raise ConfigError(
                f"{OPENAI_BASE_URL} needs a key: set {names.key}, "
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
        callers=config.callers,
    )


def _credentials(names: CredentialVariables, env: Mapping[str, str]) -> Credentials:
    headers = tuple((name, env[variable]) for name, variable in names.headers.items())
    return Credentials(env.get(names.key, ""), headers)
