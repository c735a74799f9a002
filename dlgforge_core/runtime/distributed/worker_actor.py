"""A worker in a Ray actor, and how it tells its end."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from dlgforge_core.config import RoutingConfig, RoutingEndpointConfig, validate
from dlgforge_core.errors import DlgforgeError, RunRefusedError, RunStoppedError, StoreError
from dlgforge_core.llm.endpoints import Credentials, endpoint_at
from dlgforge_core.runtime.cluster.calls import cause_of
from dlgforge_core.runtime.distributed.job import Job
from dlgforge_core.runtime.serving.vllm_fleet import VllmFleet
from dlgforge_core.scheduling.background import Runner, WorkResult

_POLL_S = 0.5

J = TypeVar("J", bound=Job)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one worker, or all together, ended; what failed is told in words, so that it travels anywhere."""

    result: WorkResult | None = None
    error: str = ""
    error_kind: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Outcome:
        """Return the outcome of something that raised."""
        return cls(error=str(error) or type(error).__name__, error_kind=type(error).__name__)

    @classmethod
    def stopped(cls, reason: str) -> Outcome:
        """Return the outcome of a run that cannot go on."""
        return cls(error=reason, error_kind=RunStoppedError.__name__)

    def unwrap(self) -> WorkResult:
        """Return the result. Raises RunStoppedError, StoreError or DlgforgeError when it failed."""
        if self.result is not None:
            return self.result
        kinds: Mapping[str, type[DlgforgeError]] = {
            RunStoppedError.__name__: RunStoppedError,
            RunRefusedError.__name__: RunRefusedError,
            StoreError.__name__: StoreError,
        }
        raise kinds.get(self.error_kind, DlgforgeError)(self.error)


def spec_with_credentials(spec: J, credentials: Mapping[str, Credentials], env: Mapping[str, str]) -> J:
    """Return the spec with what an actor's environment says of routing; `credentials` are by endpoint name.

    A spec that names its endpoints is taken as it is: the environment may then be the user's own.
    """
    if spec.endpoints:
        return spec
    changes: dict[str, Any] = {}
    if text := env.get("LLM_ROUTING_ENDPOINTS_JSON"):
        name = "LLM_ROUTING_ENDPOINTS_JSON"
        configs = [validate(RoutingEndpointConfig, item, name) for item in json.loads(text)]
        changes["endpoints"] = tuple(
            endpoint_at(config, credentials.get(config.label, Credentials())) for config in configs
        )
    if strategy := env.get("LLM_ROUTING_STRATEGY"):
        settings = {**spec.routing.model_dump(), "strategy": strategy}
        changes["routing"] = validate(RoutingConfig, settings, "LLM_ROUTING_STRATEGY")
    return replace(spec, **changes)


class WorkerActor:
    """One worker in a process of its own, anywhere on the cluster.

    `work` blocks; the other methods may be called meanwhile from other threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: Runner | None = None
        self._stop_reason: str | None = None

    def work(self, spec: Job, credentials: Mapping[str, Credentials], fleet: VllmFleet | None) -> Outcome:
        """Work until nothing is left or `stop` is called; never raises."""
        try:
            refresh = fleet.endpoints if fleet is not None else None
            thread = spec_with_credentials(spec, credentials, os.environ).thread(refresh)
            with self._lock:  # `stop` may come before, while this process is still starting
                if self._stop_reason is not None:
                    return Outcome(WorkResult(self._stop_reason))
                self._thread = thread
                thread.start()
            while not thread.wait(_POLL_S):
                pass
            return Outcome(thread.result())
        except Exception as error:
            return Outcome.of(error)

    def where(self) -> tuple[str, int]:
        """Host and pid, once the actor has its place."""
        return socket.gethostname(), os.getpid()

    def stop(self, reason: str) -> None:
        """Cut off the calls and let go of what is claimed."""
        with self._lock:
            self._stop_reason = self._stop_reason or reason
            if self._thread is not None:
                self._thread.stop(reason)


def loss_reason(error: BaseException) -> str:
    """Why an actor was lost, in one line."""
    cause = cause_of(error)
    lines = [line.strip() for line in str(cause).strip().splitlines() if line.strip()]
    if not lines:
        return type(cause).__name__
    # Ray begins with what happened and, when code failed, ends with the exception.
    summary = lines[0] if len(lines) == 1 or "Error" not in lines[-1] else f"{lines[0]} {lines[-1]}"
    if "ModuleNotFoundError" in summary or "No module named" in summary:
        summary += "; is this version of dlgforge installed on every Ray node?"
    return summary[:600]
