"""Runs on a real local Ray cluster against simulated endpoints: sharing, env overrides, errors, stopping."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import psycopg
import pytest
import ray

from dlgforge_core.config import SpawnConfig
from dlgforge_core.database.database import Database
from dlgforge_core.errors import RunStoppedError
from dlgforge_core.generation.run import Status, generate
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.definitions import defs
from tests.support.ray_runs import carry, committed, local_cluster, runner
from tests.support.run_state import leased, worker_processes
from tests.support.runs import MODEL, planned, spec
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.alone

N = 16
PLAN: dict[str, Any] = {"concurrency": 2, "max_open_dialogues": 2, "min_turns": 1, "max_turns": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RaySession]:
    """Yield a local cluster of seven CPU slots, shared by these tests."""
    with local_cluster(replicas=5) as session:
        yield session


@pytest.fixture(scope="module")
def reference(server_dsn: str) -> dict[str, int]:
    """Turn by dialogue of the plan, made in this process."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE reference")
    store = RunStore(Database(server_dsn.replace("/dlgforge?", "/reference?")))
    store.migrate()
    run = planned(store, N, **PLAN)
    with simulated_endpoint() as sim:
        generate(store, run.run_id, lambda: WorkerThread(spec(store, run, endpoint(sim))), lambda _: None)
    return turn_counts(store, run.run_id)


def endpoint(sim: SimulatedEndpoint, **options: Any) -> Endpoint:
    return Endpoint("simulated", sim.base_url, **options)


def turn_counts(store: RunStore, run_id: str) -> dict[str, int]:
    return {d.plan.dialogue_id: len(d.turns) for d in store.dialogues(run_id)}


def coordinator(run_id: str) -> Any:
    """Return the coordinator of the run, found by its name as anyone on the cluster can."""
    return ray.get_actor(f"coordinator-{run_id}", namespace="dlgforge")


@pytest.mark.parametrize("in_actor", [True, False])
@pytest.mark.parametrize("workers", [True, False])
def test_each_spawn_switch_gives_the_same_dialogues_with_the_same_calls(
    cluster: RaySession, reference: dict[str, int], store: RunStore, in_actor: bool, workers: bool
) -> None:
    run = planned(store, N, **PLAN)
    message: list[str] = []
    with simulated_endpoint(latency_s=0.1 if workers else 0.0) as sim:
        report = carry(
            store,
            run,
            endpoint(sim),
            spawn=SpawnConfig(coordinator=in_actor, workers=workers),
            message=message,
        )
        assert sim.stats()["calls"] == 3 * sum(reference.values())
    assert report.progress.complete
    assert report.stop_reason is None
    assert report.calls.total().calls == 3 * sum(reference.values())
    assert turn_counts(store, run.run_id) == reference
    places = {number: (host, pid) for number, host, pid in worker_processes(store, run.run_id)}
    assert {host for host, _ in places.values()} == {socket.gethostname()}
    pids = {pid for _, pid in places.values()}
    by_worker = [worker for _, _, worker in committed(store).values()]
    if workers:
        assert len(pids) == len(places) == 2
        assert os.getpid() not in pids
        assert min(by_worker.count(number) for number in places) >= sum(reference.values()) / 5
        assert sum("a worker runs on" in line for line in message) == 2
    else:
        assert len(pids) == 1
        assert (pids == {os.getpid()}) is not in_actor
    with pytest.raises(ValueError, match="coordinator-"):
        coordinator(run.run_id)


def test_a_worker_added_while_it_runs_shares_the_load(cluster: RaySession, store: RunStore) -> None:
    run = planned(store, 24, concurrency=2, max_open_dialogues=2)
    added: list[float] = []

    def add(status: Status) -> None:
        if status.progress.turns and not added:
            added.append(time.monotonic())
            ray.get(coordinator(run.run_id).add_workers.remote(1), timeout=10)

    message: list[str] = []
    with simulated_endpoint(latency_s=0.12) as sim:
        carry(store, run, endpoint(sim), replicas=1, on_status=add, message=message)
        assert sim.stats()["calls"] == 24 * 6
    assert added
    assert "1 more workers asked for" in message
    by_worker = [worker for _, _, worker in committed(store).values()]
    shares = sorted(by_worker.count(number) for number in set(by_worker))
    assert len(shares) == 2
    assert shares[0] >= 5, shares


@pytest.mark.parametrize("reported_by", ["key", "header"])
def test_the_actors_see_the_overrides_and_nobody_sees_a_secret(
    cluster: RaySession, store: RunStore, reported_by: str
) -> None:
    marks = ("sk-mark-of-the-key", "mark-of-the-password")
    reported = {"api_key": marks[0]} if reported_by == "key" else {"headers": (("api-key", marks[0]),)}
    secret_store = RunStore(Database(f"{store.database.dsn}&password={marks[1]}"))
    run = planned(secret_store, 12, concurrency=2, max_open_dialogues=2)
    seen: dict[str, Any] = {}

    def look(status: Status) -> None:
        if seen or len(worker_processes(store, run.run_id)) < 2 or not status.progress.turns:
            return
        actor = coordinator(run.run_id)
        environment, actors = ray.get(
            actor.__ray_call__.remote(
                lambda self: (dict(__import__("os").environ), [w.actor for w in self._workers])
            ),
            timeout=20,
        )
        refs = [a.__ray_call__.remote(lambda _: dict(__import__("os").environ)) for a in actors]
        seen["environments"] = [environment, *ray.get(refs, timeout=20)]
        accessor = ray._private.state.state._connect_and_get_accessor()
        seen["gcs"] = b"".join(accessor.get_actor_table(None, None))
        seen["pids"] = [pid for _, _, pid in worker_processes(store, run.run_id)]
        seen["argv"] = " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in seen["pids"])
        sim.configure(latency_s=0.0)

    with simulated_endpoint(latency_s=1.0, api_key=marks[0]) as sim:
        carry(secret_store, run, endpoint(sim, **reported), on_status=look)
        base_url = sim.base_url
    assert secret_store.progress(run.run_id).done == 12
    assert len(seen["environments"]) == 3
    for environment in seen["environments"]:
        assert environment["DLGFORGE_RUN_BOOTSTRAPPED"] == "1"
        assert environment["LLM_BACKEND"] == "openai"
        assert environment["LLM_ROUTING_STRATEGY"] == "weighted_least_inflight"
        assert base_url in environment["LLM_ROUTING_ENDPOINTS_JSON"]
        assert not [mark for mark in marks if mark in str(environment)]
    assert "DLGFORGE_RUN_BOOTSTRAPPED" not in os.environ
    assert b"DLGFORGE_RUN_BOOTSTRAPPED" in seen["gcs"], "the cluster's own table shows the environment"
    node: Any = ray._private.worker._global_node
    logs = Path(node.get_session_dir_path())
    texts = [seen["gcs"], seen["argv"].encode()]
    texts += [path.read_bytes() for path in logs.rglob("*") if path.is_file()]
    assert len(texts) > 10
    for mark in marks:
        assert not [text for text in texts if mark.encode() in text]


@pytest.mark.parametrize(
    ("options", "key", "reason"),
    [
        ({"down": True}, "", "simulated"),
        ({"api_key": "right"}, "wrong-secret", "key"),
    ],
)
def test_what_stops_the_workers_reaches_the_driver(
    cluster: RaySession, store: RunStore, options: dict[str, Any], key: str, reason: str
) -> None:
    run = planned(store, 6, patience_s=1.0)
    with simulated_endpoint(**options) as sim:
        started = time.monotonic()
        with pytest.raises(RunStoppedError) as stopped:
            carry(store, run, endpoint(sim, api_key=key))
        assert time.monotonic() - started < 25
        assert reason in str(stopped.value)
        assert f"Run the same configuration again to resume run {run.run_id}" in str(stopped.value)
        assert "wrong-secret" not in str(stopped.value)
        record = store.run(run.run_id)
        assert record is not None
        assert record.status == "stopped"
        assert leased(store, run.run_id) == 0


@pytest.mark.parametrize("in_actor", [True, False])
def test_an_interrupt_ends_everything_soon_and_can_be_resumed(
    cluster: RaySession, store: RunStore, in_actor: bool
) -> None:
    run = planned(store, 8, n_turns=3, concurrency=2)
    interrupted: list[float] = []

    def interrupt(status: Status) -> None:
        if status.progress.turns and len(worker_processes(store, run.run_id)) == 2:
            interrupted.append(time.monotonic())
            raise KeyboardInterrupt

    with simulated_endpoint(latency_s=0.2) as sim:
        with pytest.raises(KeyboardInterrupt):
            carry(store, run, endpoint(sim), on_status=interrupt, spawn=SpawnConfig(coordinator=in_actor))
        assert time.monotonic() - interrupted[0] < 30
        assert leased(store, run.run_id) == 0, "they were let go in order"
        pids = [pid for _, _, pid in worker_processes(store, run.run_id)]
        wait_until(lambda: not any(map(psutil.pid_exists, pids)), 30, "the workers' processes end")
        before = committed(store)
        assert 0 < len(before) < 24
        sim.configure(latency_s=0.0)
        carry(store, run, endpoint(sim), spawn=SpawnConfig(coordinator=False, workers=False))
        assert sim.stats()["calls"] <= 24 * 3 + 4, "no more than the calls in flight were made again"
    after = committed(store)
    assert len(after) == 24
    assert {key: after[key] for key in before} == before


def test_workers_without_a_place_hold_nothing_up(cluster: RaySession, store: RunStore) -> None:
    run = planned(store, 4)
    with simulated_endpoint() as sim:
        # Two of them do not fit at once: the other one does all.
        report = carry(store, run, endpoint(sim), num_cpus=4.0)
    assert report.progress.done == 4
    assert len(worker_processes(store, run.run_id)) == 1


def test_when_no_worker_can_be_placed_it_is_reported_and_ends(
    cluster: RaySession, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlgforge_core.runtime.distributed.coordinator.PLACEMENT_PROGRESS_S", 0.5)
    run = planned(store, 4)
    message: list[str] = []
    with pytest.raises(RunStoppedError, match=r"no worker got a place .* within 2 s; each asks for 99 CPU"):
        carry(
            store,
            run,
            Endpoint("none", "http://127.0.0.1:9/v1"),
            spawn=SpawnConfig(coordinator=False),
            num_cpus=99.0,
            placement_timeout_s=2.0,
            message=message,
        )
    assert any("2 of 2 workers wait for a place on the cluster" in line for line in message)
    assert any("of 7 CPUs" in line for line in message)


def test_a_second_session_of_the_same_run_shares_it(cluster: RaySession, store: RunStore) -> None:
    run = planned(store, 8, concurrency=2, max_open_dialogues=2)
    with simulated_endpoint(latency_s=0.1) as sim:
        first = runner(store, run, endpoint(sim), replicas=1)
        first.start()
        try:
            wait_until(lambda: first.wait(0.1) or committed(store), 30, "the first commits a turn")
            report = carry(store, run, endpoint(sim), replicas=1)
            assert report.progress.done == 8
            assert first.wait(20)
            assert first.result().stop_reason is None
        finally:
            first.stop("the test ends")
        assert sim.stats()["calls"] == 8 * 6


# The same job, by Dagster, with every backend that needs no GPU

_FEW_TOKENS = {
    "qa_generator": {"max_tokens": 24},
    "kb_responder": {"max_tokens": 32},
    "qa_judge": {"max_tokens": 64},
}


def run_job(dsn: str, llm: dict[str, Any], *, total: int, distributed: bool) -> dg.ExecuteInProcessResult:
    run = {
        "total_samples": total,
        "target_languages": ["en"],
        "n_turns": 1,
        "patience_s": 3.0,
        "concurrency": 2,
        "distributed": {"enabled": distributed},
    }
    config = {
        "ops": {"dialogues": {"config": {"run": run}}},
        "resources": {
            "llm": {"config": llm},
            "store": {"config": {"postgres": {"dsn": dsn}}},
            "ray": {"config": {"workers": {"num_cpus": 0.5}}},
        },
    }
    job = defs.resolve_job_def("generate_dialogues")
    with dg.DagsterInstance.ephemeral() as instance:
        return job.execute_in_process(
            run_config=config,
            instance=instance,
            asset_selection=[dg.AssetKey("seed_topics"), dg.AssetKey("dialogues")],
            raise_on_error=False,
        )


def last_run(store: RunStore) -> str:
    (run_id,) = store.run_ids()
    return run_id


@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize("backend", ["openai", "vllm_attach"])
def test_the_job_with_endpoints_that_are_there(
    cluster: RaySession, store: RunStore, backend: str, distributed: bool
) -> None:
    with simulated_endpoint(models=[MODEL], api_key="sk-1") as sim, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-1")
        llm = {"backend": backend, "model": MODEL, "base_url": sim.base_url}
        assert run_job(store.database.dsn, llm, total=6, distributed=distributed).success
        assert sim.stats()["calls"] == 6 * 3
    run_id = last_run(store)
    assert store.progress(run_id).done == 6
    pids = {pid for _, _, pid in worker_processes(store, run_id)}
    assert (os.getpid() in pids) is not distributed


def test_the_job_with_the_embedded_model_on_ray(cluster: RaySession, store: RunStore) -> None:
    llm = {"backend": "embedded", "agents": _FEW_TOKENS}
    assert run_job(store.database.dsn, llm, total=2, distributed=True).success
    progress = store.progress(last_run(store))
    assert progress.complete
    assert progress.done + progress.dropped == 2
    assert progress.turns >= 1
    assert os.getpid() not in {pid for _, _, pid in worker_processes(store, last_run(store))}


def test_a_bootstrapped_process_does_not_bootstrap_again(
    cluster: RaySession, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside: no actors, no servers, and the endpoints that the overrides name, whatever the config says."""
    with simulated_endpoint() as sim:
        monkeypatch.setenv("DLGFORGE_RUN_BOOTSTRAPPED", "1")
        monkeypatch.setenv("LLM_BACKEND", "vllm_managed")
        monkeypatch.setenv("LLM_MODEL", "served")
        monkeypatch.setenv("LLM_ROUTING_ENDPOINTS_JSON", f'[{{"base_url": "{sim.base_url}"}}]')
        llm = {"vllm": {"model": "org/model", "served_model_name": "served"}}
        assert run_job(store.database.dsn, llm, total=2, distributed=True).success
        assert sim.stats()["calls"] == 2 * 3
    assert {pid for _, _, pid in worker_processes(store, last_run(store))} == {os.getpid()}


def test_an_executor_other_than_ray_is_refused_by_the_job_naming_the_choice() -> None:
    config = {"ops": {"dialogues": {"config": {"run": {"distributed": {"executor": "dask"}}}}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match=r"(?s)executor.*ray"):
        dg.validate_run_config(defs.resolve_job_def("generate_dialogues"), config)
