"""What the environment says about the configuration; it wins over the file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from dlgforge_core.config.backends import BACKENDS, DEFAULT_BACKEND, backend_of
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError

BOOTSTRAPPED = "DLGFORGE_RUN_BOOTSTRAPPED"


_WHERE = frozenset({"base_url", "endpoints", "api_key_env", "headers_env"})
ROLE_VARIABLES = {"LLM_USER": Role.USER_SIMULATOR, "LLM_ASSISTANT": Role.ASSISTANT, "LLM_JUDGE": Role.JUDGE}
"""The roles by what the variables of their own begin with."""


def is_bootstrapped(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is already inside a bootstrapped run and must not bootstrap again."""
    return env.get(BOOTSTRAPPED) == "1"


def llm_from_environment(data: Mapping[str, Any], env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """`llm` settings with the environment's overrides applied; the environment wins over the file.

    Reads LLM_BACKEND, LLM_MODEL, LLM_ROUTING_STRATEGY, LLM_ROUTING_ENDPOINTS_JSON and OPENAI_BASE_URL, and
    for the roles LLM_USER_BASE_URL, LLM_USER_API_KEY, LLM_USER_MODEL, and so with ASSISTANT and JUDGE.
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
    if agents := _agents(llm, env):
        llm["agents"] = agents
    return llm


def _agents(llm: Mapping[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Return `llm.agents` with what the environment says of each role."""
    agents = dict(llm.get("agents") or {})
    for prefix, role in ROLE_VARIABLES.items():
        agent = dict(agents.get(role.value) or {})
        if is_bootstrapped(env) and env.get("LLM_ROUTING_ENDPOINTS_JSON"):
            # It names the endpoints of every role.
            agent = {key: value for key, value in agent.items() if key not in _WHERE}
        else:
            agent = _with_provider(agent, prefix, llm, env)
        if model := env.get(f"{prefix}_MODEL"):
            agent["model"] = model
        if agent or role.value in agents:
            agents[role.value] = agent
    return agents


def _with_provider(
    agent: dict[str, Any], prefix: str, llm: Mapping[str, Any], env: Mapping[str, str]
) -> dict[str, Any]:
    """Return a role's settings with the address and the key that the environment has for it."""
    if url := env.get(f"{prefix}_BASE_URL"):
        # The key of another server is not for this one.
        agent = {key: value for key, value in agent.items() if key not in _WHERE} | {"base_url": url}
    key = f"{prefix}_API_KEY"
    if env.get(key) and (agent.get("base_url") or agent.get("endpoints") or _has_addresses(llm)):
        agent |= {"api_key_env": key, "headers_env": {}}
    return agent


def _has_addresses(llm: Mapping[str, Any]) -> bool:
    """Whether the endpoints of the whole run are addresses, which take a key that is set for them."""
    name = llm.get("backend", DEFAULT_BACKEND)
    return name in BACKENDS and backend_of(name).configured_endpoints


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
    apart = any(
        agent.get(key) for agent in (data.get("agents") or {}).values() for key in ("base_url", "endpoints")
    )
    calls = "all calls but those of roles with endpoints of their own" if apart else "all calls"
    return f"OPENAI_BASE_URL is set in the environment and replaces {replaced}: {calls} go to {url}"


def _openai_base_url(llm: Mapping[str, Any], env: Mapping[str, str]) -> str:
    name = llm.get("backend", DEFAULT_BACKEND)
    reads = name in BACKENDS and backend_of(name).reads_openai_base_url
    return env.get("OPENAI_BASE_URL", "") if reads else ""
