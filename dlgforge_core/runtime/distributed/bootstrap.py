"""The seams of the bootstrap: what is checked before anything starts, and what the actors are told.

The stages themselves belong to those who hold their resources: `RaySession` (1), `RunStore` (2), the
provisioners (3), `RayRunner` (4), `generation.session.generate` (5); stopping in reverse order (6) is theirs,
too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import urlsplit

from dlgforge_core.common.hosts import is_loopback
from dlgforge_core.config import (
    DistributedConfig,
    GenerationConfig,
    LlmConfig,
    RayConfig,
    SpawnConfig,
    ToolsConfig,
)
from dlgforge_core.config.backends import BACKENDS, backend_of
from dlgforge_core.config.environment import BOOTSTRAPPED
from dlgforge_core.database.dsn import is_local_only
from dlgforge_core.errors import ConfigError
from dlgforge_core.generation.worker_thread import KnowledgeAccess
from dlgforge_core.llm.endpoints import Endpoint, endpoint_configs
from dlgforge_core.llm.providers import Callers, uses_backend


def overrides(llm: LlmConfig, endpoints: Sequence[Endpoint]) -> dict[str, str]:
    """Return the environment of the actors that generate, as the seed lists it. It holds no keys."""
    env = {BOOTSTRAPPED: "1", "LLM_BACKEND": llm.backend}
    if endpoints:
        env["LLM_ROUTING_STRATEGY"] = llm.routing.strategy
        env["LLM_ROUTING_ENDPOINTS_JSON"] = json.dumps([endpoint.public() for endpoint in endpoints])
    backend = backend_of(llm.backend)
    if backend.serves_one_model and not llm.model:
        env["LLM_MODEL"] = backend.own_model(llm)
    return env


def worker_addresses(tools: ToolsConfig, knowledge: KnowledgeAccess | None) -> dict[str, str]:
    """Return what workers call beside the LLM, as far as the run uses it: the addresses by their keys."""
    embedding = knowledge.embedding if knowledge is not None else None
    reranker = knowledge.reranker if knowledge is not None else None
    found = {
        "knowledge.embedding.base_url": embedding.base_url if embedding is not None else "",
        "retrieval.rerank.base_url": reranker.base_url if reranker is not None else "",
        "tools.web_search_url": tools.web_search_url if tools.web_search else "",
        **{f"tools.mcp_servers.{name}.url": server.url for name, server in tools.mcp_servers.items()},
        **{f"tools.functions: {one.called}.http.url": one.http.url for one in tools.functions},
    }
    return {key: url for key, url in found.items() if url}


class Machines(Protocol):
    """What is known of the machines of a cluster; a `RaySession` that is connected is one."""

    @property
    def single_machine(self) -> bool:
        """Whether all nodes are on this machine, and so reach its loopback."""


def check_reach(
    session: Machines,
    dsn: str,
    dsn_source: str,
    llm: LlmConfig,
    callers: Callers,
    spawn: SpawnConfig | None = None,
    *,
    addresses: Mapping[str, str],
) -> None:
    """Raise ConfigError when workers on other machines could not reach what only this one can.

    `callers` are those whose calls the workers make, `addresses` those of `worker_addresses`.

    To be called once the session is connected, before anything else is started. With neither actor spawned
    everything is in this process, and nothing needs to be reached from elsewhere.
    """
    if session.single_machine or (spawn is not None and not spawn.coordinator and not spawn.workers):
        return
    if is_local_only(dsn):
        raise ConfigError(
            f"the run state's Postgres ({dsn_source}) can be reached from this machine only, and the Ray "
            "cluster has others: set store.postgres.dsn or DLGFORGE_POSTGRES_DSN to an address that the "
            "workers can reach, or ray.address to 'local'"
        )
    backend = backend_of(llm.backend)
    if backend.local_only and uses_backend(callers):
        others = [name for name in BACKENDS if not backend_of(name).local_only]
        raise ConfigError(
            f"the model of llm.backend {llm.backend} can be reached from this machine only, and the Ray "
            f"cluster has others: choose llm.backend {' or '.join(others)}, or set ray.address to 'local'"
        )
    for key, urls in _llm_addresses(llm, callers).items():
        if loopback := [url for url in urls if is_loopback(urlsplit(url).hostname or "")]:
            raise ConfigError(
                f"{', '.join(loopback)} can be reached from this machine only, and the Ray cluster has "
                f"others: give {key} addresses that the workers can reach, or set ray.address to 'local'"
            )
    for key, url in addresses.items():
        if is_loopback(urlsplit(url).hostname or ""):
            raise ConfigError(
                f"{key} = {url} can be reached from this machine only, and the Ray cluster has others: give "
                "an address that the workers can reach, or set ray.address to 'local'"
            )


def _llm_addresses(llm: LlmConfig, callers: Callers) -> dict[str, list[str]]:
    """Return the addresses of endpoints that are configured, by the keys that name them."""
    found: dict[str, list[str]] = {}
    if uses_backend(callers) and backend_of(llm.backend).configured_endpoints:
        found["llm.base_url or llm.routing.endpoints"] = [e.base_url for e in endpoint_configs(llm)]
    for caller, provider in callers.items():
        if provider.has_address:
            key = f"llm.agents.{caller}.{'endpoints' if provider.endpoints else 'base_url'}"
            found[key] = [e.base_url for e in endpoint_configs(llm, provider)]
    return found


def worker_count(distributed: DistributedConfig, ray: RayConfig) -> int:
    """How many workers a run has."""
    return ray.workers.replicas if distributed.enabled and distributed.spawn.workers else 1


def call_slots(generation: GenerationConfig, ray: RayConfig) -> int:
    """LLM calls that may be under way at once, over all workers."""
    return generation.run.concurrency * worker_count(generation.run.distributed, ray)
