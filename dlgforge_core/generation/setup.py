"""The set-up that answers a run's calls: with another one, dialogues that were dropped may succeed."""

from __future__ import annotations

import hashlib
import json

from dlgforge_core.config import LlmConfig
from dlgforge_core.dialogue import OPTIONAL_ROLES, DropReason, Role
from dlgforge_core.llm.endpoints import endpoint_configs

DEPEND_ON_SETUP = frozenset({DropReason.CONTEXT_OVERFLOW, DropReason.INVALID_OUTPUT})
"""Reasons that another server, a longer context or other arguments may do away with."""


def setup_of(llm: LlmConfig) -> str:
    """Return a digest of what answers the calls: backend, addresses, models, how servers are started.

    How many servers there are, and how hard they work, makes no difference.
    """
    endpoints = [endpoint.base_url for endpoint in llm.routing.endpoints] or [llm.base_url]
    parts = {
        "backend": llm.backend,
        "endpoints": sorted(endpoints),
        "models": {
            role.value: llm.model_of(role)
            for role in Role
            if role not in OPTIONAL_ROLES or llm.agents.of(role).model
        },
        "vllm": llm.vllm.model_dump(mode="json", include={"model", "max_model_len", "extra_args", "env"}),
        "embedded": llm.embedded.model_dump(mode="json", include={"model_path", "context_tokens"}),
        "words": [llm.routing.finish_reasons, llm.routing.error_words],
    }
    own = {role.value: llm.agents.of(role) for role in Role if llm.agents.of(role).has_address}
    if own:
        parts["own"] = {
            role: sorted(endpoint.base_url for endpoint in endpoint_configs(llm, provider))
            for role, provider in own.items()
        }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
