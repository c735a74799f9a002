"""Runners: what carries a run's workers, in this process or on a Ray cluster, with what they need started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dlgforge_core.config import DistributedConfig, LlmConfig, RayConfig
from dlgforge_core.config.backends import backend_of
from dlgforge_core.config.environment import is_bootstrapped
from dlgforge_core.generation.prepare import callers_of_run, models_of_run
from dlgforge_core.generation.worker_thread import WorkerSpec
from dlgforge_core.judging.worker_thread import JudgingSpec
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.prices import price_list
from dlgforge_core.llm.providers import own_endpoints, uses_backend
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.distributed.bootstrap import (
    check_reach,
    overrides,
    worker_addresses,
    worker_count,
)
from dlgforge_core.runtime.distributed.job import Job, Needs
from dlgforge_core.runtime.distributed.needs_head import NeedsHead
from dlgforge_core.runtime.distributed.ray_runner import PLACEMENT_TIMEOUT_S, RayRunner
from dlgforge_core.runtime.serving.vllm_fleet import VllmFleet
from dlgforge_core.scheduling.background import Runner


def needs_of_run(spec: WorkerSpec, llm: LlmConfig) -> Needs:
    """Return what a run of dialogues needs."""
    run = spec.run.generation.run
    return Needs(
        distributed=run.distributed,
        concurrency=run.concurrency,
        callers=callers_of_run(spec.run.generation, llm),
        models=models_of_run(spec.run),
        budget=("run.max_cost", run.max_cost),
        addresses=worker_addresses(spec.run.generation.tools, spec.knowledge),
    )


def needs_of_judging(spec: JudgingSpec, distributed: DistributedConfig) -> Needs:
    """Return what a session of judging needs."""
    callers = {judge.caller: judge.agent for judge in spec.judges}
    return Needs(
        distributed=distributed,
        concurrency=spec.config.concurrency,
        callers=callers,
        models={
            caller: [judge.model for judge in spec.judges if judge.caller == caller] for caller in callers
        },
        budget=("judge.max_cost", spec.config.max_cost),
    )


def start_runner(
    job: Job,
    needs: Needs,
    session: RaySession,
    ray: RayConfig,
    llm: LlmConfig,
    *,
    dsn: str,
    dsn_source: str,
    endpoints: Callable[[int], list[Endpoint]],
    fleet: Callable[[], VllmFleet | None],
    progress: Callable[[str], None],
) -> Runner:
    """Return the runner of `job`, with the cluster and the endpoints that it needs started.

    `session` is connected when the run is distributed. `endpoints` provisions, once, for so many calls at a
    time; `fleet` are the managed servers, once that is done. `dsn_source` says where the DSN came from.
    Raises ConfigError, BackendError and RayError.
    """
    distributed = needs.distributed.enabled and not is_bootstrapped()
    slots = needs.concurrency * worker_count(needs.distributed, ray)
    spawn, callers = needs.distributed.spawn, needs.callers
    # What is wrong with endpoints that are there is known before Ray starts.
    if backend_of(llm.backend).configured_endpoints or not uses_backend(callers):
        endpoints(slots)
    else:
        own_endpoints(llm, callers)
    if distributed:
        session.connect(serves_models=uses_backend(callers) and backend_of(llm.backend).serves_on_ray)
        check_reach(session, dsn, dsn_source, llm, callers, spawn, addresses=needs.addresses)
    ready = endpoints(slots)
    for endpoint in ready:
        progress(f"endpoint {endpoint.name}: {endpoint.base_url}")
    prices = price_list(llm, callers, needs.models, ready)
    for problem in prices.check(*needs.budget):
        progress(problem)
    job = replace(job, endpoints=tuple(ready), prices=prices)
    servers = fleet()
    if not distributed:
        if servers is None:
            return job.thread()
        return NeedsHead(job.thread(servers.endpoints), lambda: session.head_lost, session.shutdown)
    return RayRunner(
        job,
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
