"""Where the text comes from, as a Dagster resource."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import dagster as dg
from pydantic import PrivateAttr

from dlgforge_core.config import LlmConfig, llm_from_environment, validate
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.provisioners import Provisioner, provisioner_for
from dlgforge_core.runtime.vllm_fleet import VllmFleet, VllmManagedProvisioner
from dlgforge_core.runtime.vllm_metrics import ReplicaMetrics
from dlgforge_dagster.config import config_class, plain
from dlgforge_dagster.resources.ray import RayResource

_Base: Any = config_class(LlmConfig, dg.ConfigurableResource)


class LlmResource(_Base):  # type: ignore[misc]
    """OpenAI-compatible endpoints: hosted, attached, managed on Ray, or the embedded model.

    Setting it up only arms it: checks and the end of a run set resources up as well, and must not start a
    fleet. `endpoints` provisions on first use; teardown stops what was started.
    """

    _cleanup: ExitStack | None = PrivateAttr(default=None)
    _endpoints: list[Endpoint] | None = PrivateAttr(default=None)
    _provisioner: Provisioner | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        with ExitStack() as cleanup:
            self._cleanup = cleanup
            try:
                yield self
            finally:
                self._cleanup, self._endpoints, self._provisioner = None, None, None

    @property
    def settings(self) -> LlmConfig:
        """The settings in force, the environment's included. Raises ConfigError."""
        data = llm_from_environment(plain(self, LlmConfig), os.environ)
        return validate(LlmConfig, data, "resources.llm.config (with LLM_* of the environment)")

    def endpoints(self, slots: int, progress: Callable[[str], None], ray: RayResource) -> list[Endpoint]:
        """Ready endpoints for `slots` calls at once; `progress` is told what happens meanwhile.

        Managed servers run on `ray`, and end before it does. Raises BackendError when they cannot be had,
        ConfigError when they are misconfigured.
        """
        if self._endpoints is None:
            if self._cleanup is None:
                raise RuntimeError("LlmResource is used outside of a Dagster run")
            provisioner = provisioner_for(self.settings, slots=slots, ray_session=ray.session(progress))
            # Both, as Dagster may tear resources down in any order; stopping twice does no harm.
            ray.before_teardown(provisioner.stop)
            self._cleanup.callback(provisioner.stop)
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
