"""Where the text comes from, as a Dagster resource."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import dagster as dg
from pydantic import PrivateAttr

from dlgforge_core.config import LlmConfig, llm_from_environment, validate
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.provisioners import provisioner_for
from dlgforge_dagster.config import config_class, plain

_Base: Any = config_class(LlmConfig, dg.ConfigurableResource)


class LlmResource(_Base):  # type: ignore[misc]
    """OpenAI-compatible endpoints: hosted, attached, managed on Ray, or the embedded model.

    Setting it up only arms it: checks and the end of a run set resources up as well, and must not start a
    fleet. `endpoints` provisions on first use; teardown stops what was started.
    """

    _cleanup: ExitStack | None = PrivateAttr(default=None)
    _endpoints: list[Endpoint] | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        with ExitStack() as cleanup:
            self._cleanup = cleanup
            try:
                yield self
            finally:
                self._cleanup, self._endpoints = None, None

    @property
    def settings(self) -> LlmConfig:
        """The settings in force, the environment's included. Raises ConfigError."""
        data = llm_from_environment(plain(self, LlmConfig), os.environ)
        return validate(LlmConfig, data, "resources.llm.config (with LLM_* of the environment)")

    def endpoints(self, slots: int, progress: Callable[[str], None]) -> list[Endpoint]:
        """Ready endpoints for `slots` calls at once; `progress` is told what happens meanwhile.

        Raises BackendError when they cannot be had, ConfigError when they are misconfigured.
        """
        if self._endpoints is None:
            if self._cleanup is None:
                raise RuntimeError("LlmResource is used outside of a Dagster run")
            provisioner = provisioner_for(self.settings, slots=slots)
            self._cleanup.callback(provisioner.stop)
            self._endpoints = provisioner.start(progress)
        return self._endpoints
