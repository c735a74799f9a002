"""The `vllm_managed` backend: vLLM servers in Ray actors, placed, awaited and stopped."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from dlgforge_core.config import CALL_TIMEOUT_S, RayConfig, VllmConfig
from dlgforge_core.errors import BackendError, RayError
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.calls import (
    ask_all,
    cluster_line,
    first_line,
    kill_quietly,
    largest_node,
    reported_again_after,
)
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.serving.vllm_actor import CONCURRENT_CALLS, Placement, VllmReplica
from dlgforge_core.runtime.serving.vllm_fleet import VllmFleet
from dlgforge_core.runtime.serving.vllm_server import ReplicaState, ReplicaStatus, missing_binary
from dlgforge_core.runtime.serving.vllm_settings import check_settings

PROGRESS_S = 5.0
STOP_TIMEOUT_S = 30.0
# When the head is lost Ray will soon end this process.
HEADLESS_STOP_TIMEOUT_S = 8.0
# Enough that the server goes to a node that gives CPUs to actors, too little to stand in the workers' way.
REPLICA_CPUS = 0.1
# Times Ray may place the actor anew after it, or its node, was lost.
ACTOR_RESTARTS = 3
# An actor that does not answer may be slow, or be placed anew; after this long the start has failed.
LOST_S = 60.0
_POLL_S = 0.5


class VllmManagedProvisioner:
    """Starts `llm.vllm.replicas` servers on the Ray cluster of `session`, and stops them.

    Without a session it uses the Ray connection that this process has. Servers end with this process unless
    `auto_stop_on_exit` is false; then they stay on a borrowed cluster, and the next run with the same
    settings uses them. `timeout_s` is that of one call to them.
    """

    def __init__(
        self, config: VllmConfig, session: RaySession | None = None, *, timeout_s: float = CALL_TIMEOUT_S
    ) -> None:
        check_settings(config)
        self._config = config
        self._session = session
        self._timeout_s = timeout_s
        self._names = [f"vllm-{i}" for i in range(config.replicas)]
        self._actors: list[Any] = []
        self._asked_to_start = False

    @property
    def fleet(self) -> VllmFleet:
        """The servers, to be asked from anywhere in the cluster."""
        names = tuple(self._names[: len(self._actors)])
        return VllmFleet(self._config, names, tuple(self._actors), self._timeout_s)

    def start(self, progress: Callable[[str], None]) -> list[Endpoint]:
        """Place the actors, check that vLLM is there, start the servers, and await them healthy.

        Raises BackendError: replicas that cannot be placed, a node without vLLM (before any server is
        started), a server that ends early or is not healthy in time, with the end of its log. RayError when
        there is no Ray cluster. Call `stop` after an error, too.
        """
        import ray

        if self._actors:
            raise BackendError("the vLLM servers were started already; stop() them before another start()")
        if self._session is not None:
            self._session.connect(serves_models=True)
        elif not ray.is_initialized():
            raise RayError("backend vllm_managed needs Ray; connect first (RaySession.connect)")
        self._check_capacity(progress)
        deadline = time.monotonic() + self._config.health_timeout_s
        for name in self._names:
            self._actors.append(self._actor(name))
        placements = self._await_placed(deadline, progress)
        without = sorted({p.node for p in placements if not p.binary})
        if without:
            raise BackendError("\n".join(missing_binary(node) for node in without))
        for name, placement in zip(self._names, placements, strict=True):
            progress(f"{name} is placed on {placement.node}")
        self._asked_to_start = True
        for problem in ask_all(self._actors, "start"):
            if isinstance(problem, Exception):
                raise BackendError(first_line(problem)) from problem
        return self._await_healthy(progress)

    def stop(self) -> None:
        """End all servers: in order, then by force; 30 s at most. Idempotent; never raises."""
        import ray

        actors, self._actors = self._actors, []
        if not actors or not ray.is_initialized() or self._stays():
            return
        if self._asked_to_start:  # else no server runs, and an actor without a place never answers
            ask_all(actors, "stop", HEADLESS_STOP_TIMEOUT_S if self._head_lost() else STOP_TIMEOUT_S)
        self._asked_to_start = False
        for actor in actors:
            kill_quietly(actor)  # an actor that is gone takes its server along

    def _is_local(self) -> bool:
        """Whether the cluster is a local one of our own, which ends with us and cannot grow."""
        return self._session is not None and self._session.owned

    def _head_lost(self) -> str:
        return self._session.head_lost if self._session is not None else ""

    def _stays(self) -> bool:
        return not self._config.auto_stop_on_exit and not self._is_local()

    def _actor(self, name: str) -> Any:
        import ray

        options: dict[str, Any] = {
            "num_cpus": REPLICA_CPUS,
            "num_gpus": self._config.num_gpus_per_replica,
            "max_concurrency": CONCURRENT_CALLS,
            "max_restarts": ACTOR_RESTARTS,
            "scheduling_strategy": "SPREAD",
        }
        if self._stays():
            namespace = (self._session.config if self._session else RayConfig()).namespace
            full_name = f"{name}-{self._config.served_name}"
            with contextlib.suppress(ValueError):  # there is none yet
                actor = ray.get_actor(full_name, namespace=namespace)
                if self._usable(actor):
                    return actor
                ask_all([actor], "stop", STOP_TIMEOUT_S)
                ray.kill(actor)
            options |= {"name": full_name, "namespace": namespace, "lifetime": "detached"}
        replica: Any = ray.remote(VllmReplica)
        return replica.options(**options).remote(self._config, name)

    def _usable(self, actor: Any) -> bool:
        """Whether an earlier run's server serves what this one wants."""
        (config,), (status,) = ask_all([actor], "config"), ask_all([actor], "status")
        return (
            config == self._config
            and isinstance(status, ReplicaStatus)
            and status.state not in (ReplicaState.FAILED, ReplicaState.STOPPED)
        )

    def _check_capacity(self, progress: Callable[[str], None]) -> None:
        """Raise BackendError when a cluster of our own, which cannot grow, has too few GPUs."""
        import ray

        wanted = self._config.num_gpus_per_replica
        available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        if self._is_local() and wanted * self._config.replicas > available.get("GPU", 0.0):
            raise BackendError(self._not_placed(0))
        if too_large := self._too_large():  # it may yet grow
            progress(f"no node of the cluster can hold a vLLM server now: {too_large}")

    def _await_placed(self, deadline: float, progress: Callable[[str], None]) -> list[Placement]:
        import ray

        started = reported = time.monotonic()
        refs = [actor.placement.remote() for actor in self._actors]
        while True:
            ready, pending = ray.wait(refs, num_returns=len(refs), timeout=_POLL_S)
            if not pending:
                break
            now = time.monotonic()
            if reason := self._head_lost():
                raise BackendError(reason)
            if now > deadline:
                raise BackendError(self._not_placed(len(ready)))
            if now - reported >= reported_again_after(PROGRESS_S, now - started):
                reported = now
                progress(
                    f"{len(pending)} of {len(refs)} vLLM servers wait for a place on the cluster, for "
                    f"{now - started:.0f} s ({self._asked()}; {self._room()})"
                )
        placements: list[Placement] = []
        for name, ref in zip(self._names, refs, strict=True):
            try:
                placements.append(ray.get(ref))
            except Exception as error:  # the worker process could not run our code
                raise BackendError(
                    f"{name}: its Ray actor could not start: {first_line(error)}; is this version of "
                    "dlgforge installed on every Ray node?"
                ) from error
        return placements

    def _await_healthy(self, progress: Callable[[str], None]) -> list[Endpoint]:
        reported: dict[str, float] = {}
        seen: dict[str, ReplicaState] = {}
        answered: dict[str, float] = {}
        while True:
            if reason := self._head_lost():
                raise BackendError(reason)
            statuses = self.fleet.statuses()
            for status in statuses:
                now = time.monotonic()
                if status.state is not ReplicaState.LOST:
                    answered[status.name] = now
                lost = now - answered.setdefault(status.name, now) > LOST_S
                if lost or status.state in (ReplicaState.FAILED, ReplicaState.STOPPED):
                    raise BackendError(f"{status.name} on {status.node or 'its node'}: {status.error}")
                if seen.get(status.name) is not status.state or (
                    status.state is not ReplicaState.HEALTHY
                    and now - reported[status.name] >= reported_again_after(PROGRESS_S, status.seconds)
                ):
                    reported[status.name], seen[status.name] = now, status.state
                    progress(status.line())
            if all(status.state is ReplicaState.HEALTHY for status in statuses):
                return [self.fleet.endpoint(status) for status in statuses]
            time.sleep(_POLL_S)

    def _asked(self) -> str:
        each = f"{self._config.num_gpus_per_replica:g} GPU and {REPLICA_CPUS:g} CPU"
        return f"llm.vllm asks for {self._config.replicas} replicas of {each}"

    def _too_large(self) -> str:
        """Why no node there is now could hold a server; empty when one could."""
        largest = largest_node("GPU")
        if self._config.num_gpus_per_replica <= largest:
            return ""
        return (
            f"a server runs on one node, the one with most GPUs has {largest:g} of them, and "
            f"llm.vllm.num_gpus_per_replica = {self._config.num_gpus_per_replica:g}"
        )

    def _room(self) -> str:
        return "; ".join(part for part in (cluster_line(), self._too_large()) if part)

    def _not_placed(self, placed: int) -> str:
        return (
            f"the vLLM servers cannot be placed ({placed} of {self._config.replicas} were): {self._asked()}; "
            f"{self._room()}. Lower llm.vllm.replicas or llm.vllm.num_gpus_per_replica (0 for a CPU build "
            "of vLLM), or give the cluster more nodes"
        )
