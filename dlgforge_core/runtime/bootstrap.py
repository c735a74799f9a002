"""The seams of the bootstrap: what is checked before anything starts, and what the actors are told.

The stages themselves belong to those who hold their resources: `RaySession` (1), `RunStore` (2), the
provisioners (3), `RayRunner` (4), `generation.session.generate` (5); stopping in reverse order (6) is theirs,
too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from dlgforge_core.config import GenerationConfig, LlmConfig, RayConfig
from dlgforge_core.dialogue import Role
from dlgforge_core.errors import ConfigError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.ray_session import RaySession
from dlgforge_core.store.dsn import is_local_only

BOOTSTRAPPED = "DLGFORGE_RUN_BOOTSTRAPPED"


def is_bootstrapped(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is already inside a bootstrapped run and must not bootstrap again."""
    return env.get(BOOTSTRAPPED) == "1"


def overrides(llm: LlmConfig, endpoints: Sequence[Endpoint]) -> dict[str, str]:
    """The environment of the actors that generate, as the seed lists it. It holds no keys."""
    env = {BOOTSTRAPPED: "1", "LLM_BACKEND": llm.backend}
    if endpoints:
        env["LLM_ROUTING_STRATEGY"] = llm.routing.strategy
        env["LLM_ROUTING_ENDPOINTS_JSON"] = json.dumps([endpoint.public() for endpoint in endpoints])
    if llm.backend == "vllm_managed" and not llm.model:
        env["LLM_MODEL"] = llm.model_of(Role.ASSISTANT)
    return env


def check_reach(session: RaySession, dsn: str, dsn_source: str, llm: LlmConfig) -> None:
    """Raises ConfigError when workers on other machines could not reach what only this one can.

    To be called once the session is connected, before anything else is started.
    """
    if session.single_machine:
        return
    if is_local_only(dsn):
        raise ConfigError(
            f"the run state's Postgres ({dsn_source}) can be reached from this machine only, and the Ray "
            "cluster has others: set store.postgres.dsn or DLGFORGE_POSTGRES_DSN to an address that the "
            "workers can reach, or ray.address to 'local'"
        )
    if llm.backend == "embedded":
        raise ConfigError(
            "the embedded model can be reached from this machine only, and the Ray cluster has others: "
            "choose llm.backend openai, vllm_attach or vllm_managed, or set ray.address to 'local'"
        )


def call_slots(generation: GenerationConfig, ray: RayConfig) -> int:
    """LLM calls that may be under way at once, over all workers."""
    distributed = generation.run.distributed
    workers = ray.workers.replicas if distributed.enabled and distributed.spawn.workers else 1
    return generation.run.concurrency * workers
