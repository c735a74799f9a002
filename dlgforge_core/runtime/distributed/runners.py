"""Runners: what carries a run's workers, in this process or on a Ray cluster, with what they need started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dlgforge_core.config import LlmConfig, RayConfig
from dlgforge_core.config.backends import backend_of
from dlgforge_core.config.environment import is_bootstrapped
from dlgforge_core.generation.prepare import callers_of_run
from dlgforge_core.generation.run import Runner
from dlgforge_core.generation.worker_thread import WorkerSpec, WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.providers import own_endpoints, uses_backend
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.distributed.bootstrap import call_slots, check_reach, overrides, worker_addresses
from dlgforge_core.runtime.distributed.needs_head import NeedsHead
from dlgforge_core.runtime.distributed.ray_runner import PLACEMENT_TIMEOUT_S, RayRunner
from dlgforge_core.runtime.serving.vllm_fleet import VllmFleet


def start_runner(
    spec: WorkerSpec,
    session: RaySession,
    ray: RayConfig,
    llm: LlmConfig,
    *,
    dsn_source: str,
    endpoints: Callable[[int], list[Endpoint]],
    fleet: Callable[[], VllmFleet | None],
    progress: Callable[[str], None],
) -> Runner:
    """Return the runner of `spec`, with the cluster and the endpoints that it needs started.

    `session` is connected when the run is distributed. `endpoints` provisions, once, for so many calls at a
    time; `fleet` are the managed servers, once that is done. `dsn_source` says where the DSN came from.
    Raises ConfigError, BackendError and RayError.
    """
    generation = spec.run.generation
    distributed = generation.run.distributed.enabled and not is_bootstrapped()
    slots = call_slots(generation, ray)
    spawn = generation.run.distributed.spawn
    callers = callers_of_run(generation, llm)
    # What is wrong with endpoints that are there is known before Ray starts.
    if backend_of(llm.backend).configured_endpoints or not uses_backend(callers):
        endpoints(slots)
    else:
        own_endpoints(llm, callers)
    if distributed:
        session.connect(serves_models=uses_backend(callers) and backend_of(llm.backend).serves_on_ray)
        check_reach(
            session, spec.database.dsn, dsn_source, llm, callers, spawn, addresses=worker_addresses(spec)
        )
    ready = endpoints(slots)
    for endpoint in ready:
        progress(f"endpoint {endpoint.name}: {endpoint.base_url}")
    spec = replace(spec, endpoints=tuple(ready))
    servers = fleet()
    if not distributed:
        if servers is None:
            return WorkerThread(spec)
        thread = WorkerThread(spec, servers.endpoints)
        return NeedsHead(thread, lambda: session.head_lost, session.shutdown)
    return RayRunner(
        spec,
        ray,
        spawn,
        environment=overrides(llm, ready),
        fleet=servers,
        progress=progress,
        placement_timeout_s=PLACEMENT_TIMEOUT_S if session.owned else None,
        alive=lambda: session.alive,
        head_lost=lambda: session.head_lost,
        disconnect=session.shutdown,
    )
