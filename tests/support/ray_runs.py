"""Runs on a Ray cluster that this process is connected to, as the tests need them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from dlgforge_core.config import ActorConfig, CoordinatorConfig, LlmConfig, RayConfig, SpawnConfig
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.run import RunReport, Status, generate
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.runtime.distributed.bootstrap import overrides
from dlgforge_core.runtime.distributed.job import Job
from dlgforge_core.runtime.distributed.ray_runner import RayRunner
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import MODEL, spec


@contextlib.contextmanager
def local_cluster(replicas: int) -> Iterator[RaySession]:
    """Yield a cluster of this machine with room for that many workers; this process is connected to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        with RaySession(RayConfig(address="local", workers=ActorConfig(replicas=replicas))) as session:
            session.connect()
            yield session


def runner(
    store: RunStore,
    run: PreparedRun,
    *endpoints: Endpoint,
    spawn: SpawnConfig | None = None,
    message: list[str] | None = None,
    placement_timeout_s: float | None = None,
    **workers: Any,
) -> RayRunner:
    """Return a runner of this run; `workers` are fields of `ray.workers`: two of half a CPU by default."""
    return job_runner(
        spec(store, run, *endpoints),
        spawn=spawn,
        message=message,
        placement_timeout_s=placement_timeout_s,
        **workers,
    )


def job_runner(
    job: Job,
    *,
    spawn: SpawnConfig | None = None,
    message: list[str] | None = None,
    placement_timeout_s: float | None = None,
    **workers: Any,
) -> RayRunner:
    """Return a runner of dialogues or of judging, as `runner` does."""
    llm = LlmConfig(backend="openai", model=MODEL, base_url="http://127.0.0.1:1/v1")
    size = {"replicas": 2, "num_cpus": 0.5, **workers}
    return RayRunner(
        job,
        RayConfig(workers=ActorConfig(**size), coordinator=CoordinatorConfig()),
        spawn or SpawnConfig(),
        environment=overrides(llm, job.endpoints),
        fleet=None,
        progress=(message if message is not None else []).append,
        placement_timeout_s=placement_timeout_s,
    )


def carry(
    store: RunStore,
    run: PreparedRun,
    *endpoints: Endpoint,
    on_status: Callable[[Status], None] = lambda _: None,
    poll_s: float = 0.2,
    **options: Any,
) -> RunReport:
    """Work on the run until it ends; `on_status` is called about every `poll_s` seconds at first."""
    return generate(
        store,
        run.run_id,
        lambda: runner(store, run, *endpoints, **options),
        on_status,
        poll_s=poll_s,
        first_report_s=poll_s,
    )


def committed(store: RunStore) -> dict[tuple[str, int], tuple[str, str, int]]:
    """Every committed turn: user, assistant and the number of the worker that made it."""
    with store.connection() as connection:
        rows: Sequence[Any] = connection.execute(
            "SELECT dialogue_id, turn_index, user_text, assistant_text, worker_id FROM turns"
        ).fetchall()
    return {(dialogue, index): (user, assistant, worker) for dialogue, index, user, assistant, worker in rows}
