"""Provisioners: what turns `llm.backend` into endpoints that answer, and takes down what that took."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, assert_never

from dlgforge_core.config import LlmConfig
from dlgforge_core.config.environment import is_bootstrapped
from dlgforge_core.errors import BackendError
from dlgforge_core.llm.check import check_endpoints
from dlgforge_core.llm.endpoints import Endpoint, endpoints_from_config
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.embedded_model import EmbeddedModelServer
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner

ATTACH_TIMEOUT_S = 10.0


class Provisioner(Protocol):
    """Makes a backend's endpoints ready for use."""

    def start(self, progress: Callable[[str], None]) -> list[Endpoint]:
        """Ready endpoints, at least one; `progress` is told in a line now and then what is waited for.

        Raises BackendError or ConfigError, with the cause and the remedy. Call `stop` after an error, too.
        """
        ...

    def stop(self) -> None:
        """Take down whatever `start` started, also when it failed or was interrupted. Idempotent."""
        ...


class OpenAiProvisioner:
    """Backend `openai`: the endpoints of the configuration, and nothing to start."""

    def __init__(self, llm: LlmConfig, env: Mapping[str, str]) -> None:
        self._llm = llm
        self._env = env

    def start(self, progress: Callable[[str], None]) -> list[Endpoint]:
        """Return the configured endpoints. Raises ConfigError when a key is missing."""
        return endpoints_from_config(self._llm, self._env)

    def stop(self) -> None:
        """Leave the servers alone: none was started."""


class AttachProvisioner(OpenAiProvisioner):
    """Backend `vllm_attach`: the configured servers, each known to serve the models that are asked for."""

    def start(self, progress: Callable[[str], None]) -> list[Endpoint]:
        """Return the endpoints, checked. Raises BackendError that lists every bad one with its reason."""
        endpoints = super().start(progress)
        models = [self._models_at(endpoint) for endpoint in endpoints]
        named = ", ".join(sorted(set().union(*models)))
        progress(f"checking {len(endpoints)} endpoints for {named}")
        problems = asyncio.run(_problems(endpoints, models))
        if problems:
            raise BackendError(
                f"{len(problems)} of {len(endpoints)} endpoints of backend vllm_attach cannot be used:\n"
                + "\n".join(f"  {problem}" for problem in problems)
            )
        return endpoints

    def _models_at(self, endpoint: Endpoint) -> set[str]:
        """Return the models that an endpoint is asked for, by the roles that it serves."""
        roles = [role for role in self._llm.roles_of_backend if endpoint.serves(role.value)]
        return {self._llm.model_of(role) for role in roles}


async def _problems(endpoints: Sequence[Endpoint], models: Sequence[set[str]]) -> list[str]:
    found = await asyncio.gather(
        *(
            check_endpoints([endpoint], wanted, ATTACH_TIMEOUT_S)
            for endpoint, wanted in zip(endpoints, models, strict=True)
        )
    )
    return [problem for problems in found for problem in problems]


class EmbeddedProvisioner:
    """Backend `embedded`: a small model served on this machine."""

    def __init__(self, llm: LlmConfig, slots: int) -> None:
        self._slots = slots
        self._server = EmbeddedModelServer(llm.embedded)

    def start(self, progress: Callable[[str], None]) -> list[Endpoint]:
        """Its one endpoint. Raises BackendError when the model is not installed or cannot be served."""
        progress("starting the embedded model")
        return [self._server.start(self._slots, progress)]

    def stop(self) -> None:
        """End the server."""
        self._server.stop()


def provisioner_for(
    llm: LlmConfig,
    *,
    slots: int,
    ray_session: RaySession | None = None,
    env: Mapping[str, str] = os.environ,
) -> Provisioner:
    """Return the provisioner of `llm.backend`, not started yet.

    `slots`: LLM calls that may be under way at once.

    Backend `vllm_managed` connects `ray_session` when it starts; without one it uses this process's Ray
    connection. In a process that is bootstrapped already the endpoints it was told of are taken as they are.
    Raises ConfigError for settings that cannot work.
    """
    if is_bootstrapped(env) and llm.routing.endpoints:
        return OpenAiProvisioner(llm, env)
    match llm.backend:
        case "openai":
            return OpenAiProvisioner(llm, env)
        case "vllm_attach":
            return AttachProvisioner(llm, env)
        case "embedded":
            return EmbeddedProvisioner(llm, slots)
        case "vllm_managed":
            return VllmManagedProvisioner(llm.vllm, ray_session, timeout_s=llm.timeout_s)
        case unknown:
            assert_never(unknown)
