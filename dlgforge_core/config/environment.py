"""What the environment says about the configuration; it wins over the file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from dlgforge_core.config.backends import BACKENDS, DEFAULT_BACKEND, backend_of
from dlgforge_core.errors import ConfigError

BOOTSTRAPPED = "DLGFORGE_RUN_BOOTSTRAPPED"


def is_bootstrapped(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is already inside a bootstrapped run and must not bootstrap again."""
    return env.get(BOOTSTRAPPED) == "1"


def llm_from_environment(data: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`llm` settings with the environment's overrides applied; the environment wins over the file.

    Reads LLM_BACKEND, LLM_MODEL, LLM_ROUTING_STRATEGY, LLM_ROUTING_ENDPOINTS_JSON and OPENAI_BASE_URL.
    Raises ConfigError when LLM_ROUTING_ENDPOINTS_JSON is not a JSON list.
    """
    llm = dict(data)
    routing = dict(llm.get("routing") or {})
    if backend := env.get("LLM_BACKEND"):
        llm["backend"] = backend
    if model := env.get("LLM_MODEL"):
        llm["model"] = model
    if strategy := env.get("LLM_ROUTING_STRATEGY"):
        routing["strategy"] = strategy
    if text := env.get("LLM_ROUTING_ENDPOINTS_JSON"):
        try:
            endpoints = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"LLM_ROUTING_ENDPOINTS_JSON is not JSON: {error}") from None
        if not isinstance(endpoints, list):
            raise ConfigError(
                'LLM_ROUTING_ENDPOINTS_JSON must be a list, like [{"base_url": "http://gpu-1:8000/v1"}]'
            )
        routing["endpoints"] = endpoints
        llm["base_url"] = ""
    elif url := _openai_base_url(llm, env):
        llm["base_url"] = url
        routing["endpoints"] = []
    if routing:
        llm["routing"] = routing
    return llm


def addresses_replaced(data: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> str:
    """Return what to tell of addresses in `data` that OPENAI_BASE_URL takes the place of.

    Empty when it does not.

    A shell may have that variable for other programs. Give it settings that were found to be right.
    """
    backend = {"backend": env.get("LLM_BACKEND") or data.get("backend", DEFAULT_BACKEND)}
    url = "" if env.get("LLM_ROUTING_ENDPOINTS_JSON") else _openai_base_url(backend, env)
    if not url:
        return ""
    endpoints = (data.get("routing") or {}).get("endpoints") or []
    configured = data.get("base_url") or ""
    if endpoints:
        replaced = f"llm.routing.endpoints ({len(endpoints)})"
    elif configured and configured != url:
        replaced = "llm.base_url"  # not checked, now that it is replaced: it may hold a password
    else:
        return ""
    return f"OPENAI_BASE_URL is set in the environment and replaces {replaced}: all calls go to {url}"


def _openai_base_url(llm: Mapping[str, Any], env: Mapping[str, str]) -> str:
    name = llm.get("backend", DEFAULT_BACKEND)
    reads = name in BACKENDS and backend_of(name).reads_openai_base_url
    return env.get("OPENAI_BASE_URL", "") if reads else ""
