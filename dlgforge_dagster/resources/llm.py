"""Where the text comes from, as a Dagster resource."""

import os
from collections.abc import Callable
from typing import Any

from pydantic import PrivateAttr

from dlgforge_core.config import LlmConfig, addresses_replaced, llm_from_environment, validate
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.providers import Callers, endpoints_of
from dlgforge_core.runtime.serving.provisioners import Provisioner, provisioner_for
from dlgforge_core.runtime.serving.vllm_fleet import VllmFleet
from dlgforge_core.runtime.serving.vllm_metrics import ReplicaMetrics
from dlgforge_core.runtime.serving.vllm_provisioner import VllmManagedProvisioner
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.resources.ray import RayResource
from dlgforge_dagster.resources.run_scoped import RunScopedResource

_Base: Any = config_class(LlmConfig, RunScopedResource)


class LlmResource(_Base):  # type: ignore[misc]
    """OpenAI-compatible endpoints: hosted, attached, managed on Ray, or the embedded model.

    `endpoints` provisions on first use; teardown stops what was started.
    """

    _endpoints: list[Endpoint] | None = PrivateAttr(default=None)
    _provisioner: Provisioner | None = PrivateAttr(default=None)

    def _forget(self) -> None:
        self._endpoints, self._provisioner = None, None

    @property
    def settings(self) -> LlmConfig:
        """The settings in force, the environment's included. Raises ConfigError."""
        data = llm_from_environment(plain(self, LlmConfig), os.environ)
        return validate(LlmConfig, data, "resources.llm.config (with LLM_* of the environment)")

    def endpoints(
        self, callers: Callers, slots: int, progress: Callable[[str], None], ray: RayResource
    ) -> list[Endpoint]:
        """Ready endpoints of these callers, for `slots` calls at once; `progress` is told what happens.

        Managed servers run on `ray`, and end before it does. They are started when a caller's calls go there.
        Raises BackendError when they cannot be had, ConfigError when they are misconfigured.
        """
        return endpoints_of(self.settings, callers, lambda: self._provisioned(slots, progress, ray))

    def _provisioned(self, slots: int, progress: Callable[[str], None], ray: RayResource) -> list[Endpoint]:
        if self._endpoints is None:
            provisioner = provisioner_for(self.settings, slots=slots, ray_session=ray.session(progress))
            if problem := addresses_replaced(plain(self, LlmConfig), os.environ):
                progress(problem)
            # Both, as Dagster may tear resources down in any order; stopping twice does no harm.
            ray.before_teardown(provisioner.stop)
            self.before_teardown(provisioner.stop)
            self._provisioner = provisioner
            self._endpoints = provisioner.start(progress)
        return self._endpoints

    @property
    def fleet(self) -> VllmFleet | None:
        """The managed servers, once `endpoints` has started them."""
        provisioner = self._provisioner
        return provisioner.fleet if isinstance(provisioner, VllmManagedProvisioner) else None

    def replica_metrics(self) -> list[ReplicaMetrics]:
        """Prefix-cache hits and throughput of every managed server; empty for other backends."""
        fleet = self.fleet
        return fleet.metrics() if fleet is not None else []
