"""Endpoints: OpenAI-compatible servers, resolved from the configuration and ready to be called."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlgforge_core.config import EndpointConfig, LlmConfig
from dlgforge_core.errors import ConfigError

OPENAI_BASE_URL = "https://api.openai.com/v1"
_DEFAULTS = EndpointConfig.model_fields


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that answers `POST <base_url>/chat/completions`. `api_key` never shows in its repr."""

    name: str
    base_url: str
    api_key: str = field(default="", repr=False)
    weight: float = _DEFAULTS["weight"].default
    max_in_flight: int = _DEFAULTS["max_in_flight"].default
    timeout_s: float = _DEFAULTS["timeout_s"].default

    def public(self) -> dict[str, Any]:
        """What may be shown, logged and sent as LLM_ROUTING_ENDPOINTS_JSON: everything but the key."""
        return {
            "name": self.name,
            "base_url": self.base_url,
            "weight": self.weight,
            "max_in_flight": self.max_in_flight,
            "timeout_s": self.timeout_s,
        }


def endpoints_from_config(llm: LlmConfig, env: Mapping[str, str] = os.environ) -> list[Endpoint]:
    """The endpoints of backends `openai` and `vllm_attach`, with their keys from the environment.

    Raises ConfigError when a named key variable is not set, or the hosted default is used without a key.
    """
    configs = llm.routing.endpoints or [EndpointConfig(base_url=llm.base_url or OPENAI_BASE_URL)]
    missing = [
        f"{c.label}: {c.api_key_env} is not set"
        for c in configs
        if c.api_key_env and not env.get(c.api_key_env)
    ]
    if missing:
        raise ConfigError("API keys are missing:\n  " + "\n  ".join(missing))
    endpoints = [
        Endpoint(
            name=c.label,
            base_url=c.base_url.rstrip("/"),
            api_key=env.get(c.api_key_env or llm.api_key_env, ""),
            weight=c.weight,
            max_in_flight=c.max_in_flight,
            timeout_s=c.timeout_s,
        )
        for c in configs
    ]
    if any(e.base_url == OPENAI_BASE_URL and not e.api_key for e in endpoints):
        raise ConfigError(
            f"{OPENAI_BASE_URL} needs a key: set {llm.api_key_env}, "
            "or llm.base_url to the address of your own server"
        )
    return endpoints
