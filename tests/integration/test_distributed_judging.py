"""Judging on a real local Ray cluster against simulated endpoints: sharing, a killed worker, the asset."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest
import ray

from dlgforge_core.judging.run import JudgingStatus
from dlgforge_core.judging.sessions import session_tallies
from dlgforge_core.judging.tallies import Tallies
from dlgforge_core.judging.worker_thread import JudgingSpec
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.assets.judgements import build_judgements
from dlgforge_dagster.dataset import DatasetSpec
from dlgforge_dagster.resources import LlmResource, RayResource, StoreResource
from tests.support.judging import generated, judge, judging, verdicts
from tests.support.ray_runs import job_runner, local_cluster
from tests.support.simulated_endpoint import simulated_endpoint

pytestmark = pytest.mark.alone

N, TURNS, SLOTS = 20, 3, 4
TWO = [{"name": "strict", "model": "judge-a"}, {"name": "kind", "model": "judge-b"}]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RaySession]:
    """Yield a local cluster with room for three workers, shared by these tests."""
    with local_cluster(replicas=3) as session:
        yield session


def session_workers(store: RunStore) -> list[tuple[int, int, bool]]:
    """Return number, pid and whether it works of every worker of the one session."""
    with store.connection() as connection:
        return connection.execute(
            "SELECT worker_id, pid, ended_at IS NULL FROM workers WHERE session_id IS NOT NULL ORDER BY 1"
        ).fetchall()


def left_behind(store: RunStore) -> int:
    """How many rows of sessions, claims and workers there are."""
    with store.connection() as connection:
        row = connection.execute(
            "SELECT (SELECT count(*) FROM judging_sessions) + (SELECT count(*) FROM judging_claims) "
            "+ (SELECT count(*) FROM workers WHERE session_id IS NOT NULL)"
        ).fetchone()
    return int(row[0]) if row else 0


def test_a_killed_workers_dialogues_are_judged_by_the_others(cluster: RaySession, store: RunStore) -> None:
    key = "sk-mark-of-the-key"
    message: list[str] = []
    killed: list[int] = []
    durable: dict[Any, Any] = {}
    seen: list[str] = []

    def make_runner(spec: JudgingSpec) -> Runner:
        endpoints = (Endpoint("simulated", sim.base_url, key),)
        return job_runner(replace(spec, endpoints=endpoints), message=message)

    def kill_one(status: JudgingStatus) -> None:
        workers = [pid for _, pid, alive in session_workers(store) if alive]
        if killed or len(workers) < 2 or status.judged < 20:
            return
        with store.connection() as connection:
            held = connection.execute("SELECT DISTINCT worker_id FROM judging_claims").fetchall()
        if len(held) < 2:
            return
        seen.append(" ".join(psutil.Process(workers[0]).cmdline()))
        accessor = ray._private.state.state._connect_and_get_accessor()
        seen.append(str(b"".join(accessor.get_actor_table(None, None))))
        os.kill(workers[0], signal.SIGKILL)
        killed.append(workers[0])
        durable.update(verdicts(store))

    with simulated_endpoint(record_requests=10_000) as sim:
        run = generated(store, sim, N, n_turns=TURNS)
        sim.configure(latency_s=0.4, api_key=key)
        config = judging(concurrency=SLOTS, judges=TWO, patience_s=30.0)
        report = judge(
            store, run, config, make_runner=make_runner, on_status=kill_one, first_report_s=0.1, lease_s=10.0
        )
        stats = sim.stats()
        seeds = Counter((r["body"]["model"], r["body"]["seed"]) for r in stats["requests"])
    wanted = 2 * N * TURNS
    assert killed
    assert any("was lost" in line and f"process {killed[0]}" in line for line in message), message
    assert (report.wanted, report.given, report.kept, report.missing) == (wanted, wanted, 0, 0)
    assert [tally.given for tally in report.tallies.values()] == [wanted // 2] * 2
    after = verdicts(store)
    assert len(after) == len(seeds) == wanted
    assert durable.items() <= after.items(), "what was committed stays as it is"
    assert sum(seeds.values()) <= wanted + SLOTS, "a kill costs the calls in flight"
    assert left_behind(store) == 0
    assert "DLGFORGE_RUN_BOOTSTRAPPED" in seen[1]
    assert not [text for text in seen if key in text]


def test_the_asset_judges_on_ray_as_its_run_was_made(cluster: RaySession, store: RunStore) -> None:
    pids: set[int] = set()

    def look(connection: psycopg.Connection, session_id: str) -> Tallies:
        pids.update(pid for _, pid, _ in session_workers(store))
        return session_tallies(connection, session_id)

    with simulated_endpoint() as sim:
        generated(store, sim, 6, distributed={"enabled": True})
        sim.configure(latency_s=0.05)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dlgforge_core.judging.run.session_tallies", look)
            result = dg.materialize(
                [build_judgements(DatasetSpec())],
                resources={
                    "ray": RayResource(workers={"replicas": 2, "num_cpus": 0.5}),
                    "store": StoreResource(postgres={"dsn": store.database.dsn}),
                    "llm": LlmResource(backend="openai", model="simulated", base_url=sim.base_url),
                },
                run_config={"ops": {"judgements": {"config": {"patience_s": 30.0, "mode": "offline"}}}},
            )
        assert sim.stats()["calls"] == 12
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["verdicts_given"].value == 12
    assert pids
    assert os.getpid() not in pids
