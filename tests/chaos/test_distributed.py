"""Distributed runs whose parts are killed: a node, a worker, the coordinator, the raylet, the job itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from dlgforge_core.config import RayConfig, SpawnConfig
from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn, release_embedded
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.run import Status
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.store.run_store import RunStore
from tests.end_to_end.job import Project, run_config
from tests.support.postgres import postmaster_pid
from tests.support.processes import alive, command_line
from tests.support.ray_runs import carry, committed, local_cluster
from tests.support.run_state import leased, worker_processes
from tests.support.runs import planned
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.timeout(400), pytest.mark.usefixtures("no_ray_address")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RaySession]:
    with local_cluster(replicas=4) as session:
        yield session


CommittedTurns = dict[tuple[str, int], tuple[str, str, int]]


def whole(
    store: RunStore,
    run: PreparedRun,
    sim: SimulatedEndpoint,
    before: CommittedTurns,
    lost_calls: int,
) -> None:
    """Check that the plan is finished, committed turns stayed, nothing is double, little was made again."""
    progress = store.progress(run.run_id)
    assert progress.complete
    assert progress.done == progress.planned
    after = committed(store)
    assert len(after) == progress.turns_planned
    assert {key: after[key] for key in before} == before
    questions = [question for question, _, _ in after.values()]
    assert len(set(questions)) == len(questions)
    calls = sim.stats()["calls"]
    assert 3 * len(after) <= calls <= 3 * len(after) + lost_calls, calls


# Several nodes on this machine


@contextmanager
def three_nodes() -> Iterator[Any]:
    """Yield a cluster of a head without room for workers and two nodes with room for one each."""
    from ray.cluster_utils import Cluster

    quiet = {"include_dashboard": False, "object_store_memory": 100 * 1024 * 1024}
    with pytest.MonkeyPatch.context() as patch:
        # Else it is recorded as this machine's cluster, for every `auto` to take, in place of the user's.
        patch.setattr(ray._private.utils, "write_ray_address", lambda *_: None)
        patch.setattr(ray._common.utils, "reset_ray_address", lambda *_: None)
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **quiet})
        try:
            for _ in range(2):
                nodes.add_node(num_cpus=2, object_store_memory=quiet["object_store_memory"])
            nodes.wait_for_nodes()
            yield nodes
        finally:
            nodes.shutdown()  # type: ignore[no-untyped-call]


@pytest.mark.nightly  # tests/cluster has whole machines vanish
def test_a_node_killed_in_mid_run_costs_the_calls_in_flight(store: RunStore) -> None:
    assert not ray.is_initialized(), "this test comes before those that share a cluster"
    run = planned(store, 60, n_turns=3, concurrency=3, max_open_dialogues=3)
    before: dict[Any, Any] = {}
    message: list[str] = []
    with three_nodes() as nodes, simulated_endpoint(latency_s=0.3) as sim:

        def strike(status: Status) -> None:
            if before or len({worker for _, _, worker in committed(store).values()}) < 2:
                return
            before.update(committed(store))
            nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)

        with RaySession(RayConfig(address=nodes.address), progress=message.append) as session:
            session.connect()
            assert not session.owned
            assert session.single_machine
            carry(
                store,
                run,
                Endpoint("s", sim.base_url),
                on_status=strike,
                message=message,
                num_cpus=2.0,
            )
        assert before
        whole(store, run, sim, before, lost_calls=12)
        assert len([node for node in ray_nodes(nodes.address) if node["Alive"]]) == 2, "it is borrowed"
    assert any("borrowed" in line for line in message)


def ray_nodes(address: str) -> list[dict[str, Any]]:
    with RaySession(RayConfig(address=address)) as session:
        session.connect()
        return list(ray.nodes())  # type: ignore[no-untyped-call]


# One local cluster: workers and the coordinator


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_killed_or_frozen_in_mid_run_costs_the_calls_in_flight(
    cluster: RaySession, store: RunStore, blow: signal.Signals
) -> None:
    run = planned(store, 40, n_turns=3, concurrency=3, max_open_dialogues=3, lease_s=3.0)
    before: dict[Any, Any] = {}
    message: list[str] = []

    def strike(status: Status) -> None:
        places = worker_processes(store, run.run_id)
        if before or len(places) < 2 or len({worker for _, _, worker in committed(store).values()}) < 2:
            return
        before.update(committed(store))
        os.kill(places[0][2], blow)

    with simulated_endpoint(latency_s=0.2) as sim:
        carry(store, run, Endpoint("s", sim.base_url), on_status=strike, message=message)
        assert before
        whole(store, run, sim, before, lost_calls=6)
    assert any("was lost" in line and "starting another" in line for line in message), message
    places = worker_processes(store, run.run_id)
    assert len({pid for _, _, pid in places}) == 3
    wait_until(lambda: not psutil.pid_exists(places[0][2]), 30, "the worker's process is gone")
    if blow is signal.SIGSTOP:
        assert any("gives no sign of life" in line for line in message)


def test_the_coordinator_killed_in_mid_run_is_replaced(cluster: RaySession, store: RunStore) -> None:
    run = planned(store, 30, n_turns=3, concurrency=3, max_open_dialogues=3)
    before: dict[Any, Any] = {}
    message: list[str] = []
    killed: list[int] = []

    def strike(status: Status) -> None:
        reported = sum("a worker runs on" in line for line in message)
        if before or status.progress.turns < 5 or reported < 2:
            return
        before.update(committed(store))
        actor = ray.get_actor(f"coordinator-{run.run_id}", namespace="dlgforge")
        pid: Any = ray.get(actor.__ray_call__.remote(lambda _: __import__("os").getpid()))
        killed.append(pid)
        os.kill(pid, signal.SIGKILL)

    with simulated_endpoint(latency_s=0.15) as sim:
        carry(store, run, Endpoint("s", sim.base_url), on_status=strike, message=message)
        assert before
        whole(store, run, sim, before, lost_calls=12)
    lost = f"the coordinator on {socket.gethostname()}, process {killed[0]}, was lost"
    assert sum(lost in line for line in message) == 1, message
    assert sum("a worker runs on" in line for line in message) == 4, "events before and after are told"


def test_workers_that_die_at_once_end_the_run_with_the_reason(
    cluster: RaySession, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlgforge_core.runtime.distributed.coordinator.WORKER_RESTARTS", 2)
    run = planned(store, 40, n_turns=3, concurrency=1)
    killed: set[int] = set()

    def strike() -> None:
        while not done.wait(0.1):
            for _, _, pid in worker_processes(store, run.run_id):
                if pid not in killed:
                    killed.add(pid)
                    os.kill(pid, signal.SIGKILL)

    done = threading.Event()
    thread = threading.Thread(target=strike, daemon=True)
    with simulated_endpoint(latency_s=0.3) as sim:
        thread.start()
        try:
            with pytest.raises(
                Exception,
                match=r"workers were lost again and again, the last one( on \S+, process \d+,)? so: .+",
            ):
                carry(
                    store,
                    run,
                    Endpoint("s", sim.base_url),
                    spawn=SpawnConfig(coordinator=False),
                    replicas=1,
                )
        finally:
            done.set()
            thread.join(10)
    assert len(killed) == 3


# The process of the job itself


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    release_embedded(made.home)


@contextmanager
def running_job(project: Project, llm: dict[str, Any], **run: Any) -> Iterator[tuple[Any, RunStore, Path]]:
    """Yield the distributed job in mid-run: its process, its run state (held by us, too), its config."""
    config = run_config(llm, target_languages=["en"], distributed={"enabled": True}, **run)
    config["resources"]["ray"] = {"config": {"address": "local", "workers": {"replicas": 2, "num_cpus": 0.5}}}
    path = project.config(config)
    store = RunStore(Database(embedded_dsn(project.home)))
    store.migrate()
    with (project.folder / "job.log").open("wb") as log:
        job = subprocess.Popen(
            project.command(path),
            cwd=project.folder,
            env=project.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(lambda: job.poll() is not None or len(committed(store)) >= 4, 300, "turns are committed")
        assert job.poll() is None, (project.folder / "job.log").read_text()[-3000:]
        yield job, store, path
    finally:
        job.kill()
        job.wait()


def parts_of(job: subprocess.Popen[bytes], project: Project) -> list[psutil.Process]:
    """Return everything the job started, but for the Postgres that we hold, too.

    That is what is below it, and what lives in its folder.
    """
    below = psutil.Process(job.pid).children(recursive=True)
    ours = {p.pid for p in psutil.Process().children(recursive=True)} - {p.pid for p in below} - {job.pid}
    if (postgres := postmaster_pid(project.home)) is not None:
        ours |= {postgres, *(p.pid for p in psutil.Process(postgres).children(recursive=True))}
    beside = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.cwd().startswith(str(project.folder)):
                beside.append(process)
    return [p for p in {*below, *beside} if p.pid not in ours and p.pid != job.pid]


def run_statuses(store: RunStore) -> list[str]:
    """Return the statuses of all Dagster runs, as Dagster's tables in the same database have them."""
    with store.connection() as connection:
        rows = connection.execute("SELECT status FROM public.runs ORDER BY id").fetchall()
    return [status for (status,) in rows]


def named(parts: list[psutil.Process], text: str) -> list[psutil.Process]:
    return [p for p in alive(parts) if text in command_line(p)]


SLOW = {"total_samples": 20, "n_turns": 3, "concurrency": 2}


def finishes(
    project: Project,
    path: Path,
    store: RunStore,
    sim: SimulatedEndpoint,
    before: CommittedTurns,
) -> None:
    """Check that running the job again completes the plan and keeps every committed turn."""
    sim.configure(latency_s=0.0)
    code, output = project.execute(path)
    assert code == 0, output
    after = committed(store)
    assert len(after) == 60
    assert {key: after[key] for key in before} == before
    assert sim.stats()["calls"] <= 3 * 60 + 12


@pytest.mark.parametrize("victim", ["job", pytest.param("raylet", marks=pytest.mark.nightly)])
def test_after_kill_dash_nine_nothing_lives_on_and_running_again_completes(
    project: Project, victim: str
) -> None:
    with simulated_endpoint(latency_s=0.3, models=["m"]) as sim:
        llm = {"backend": "openai", "model": "m", "base_url": sim.base_url}
        with running_job(project, llm, **SLOW) as (job, store, path):
            parts = parts_of(job, project)
            assert named(parts, "gcs_server")
            assert len(named(parts, "WorkerActor")) == 2
            assert len(named(parts, "Coordinator")) == 1
            before = committed(store)
            if victim == "job":
                job.kill()
                job.wait()
            else:
                (raylet,) = named(parts, "raylet/raylet")
                raylet.kill()
            wait_until(lambda: not named(parts, "ray::"), 30, "the actors are gone")
            if victim == "raylet":
                log = project.folder / "job.log"
                message = "the local Ray cluster of this run has died"
                wait_until(lambda: message in log.read_text(), 30, "the reason is told")
                job.kill()  # the step would be tried once more
                job.wait()
            wait_until(lambda: not alive(parts), 30, f"all are gone ({alive(parts)})")
            before |= committed(store)
        finishes(project, path, store, sim, before)


@pytest.mark.nightly
def test_when_the_head_is_lost_the_step_ends_in_order_and_goes_on_with_another(project: Project) -> None:
    with simulated_endpoint(latency_s=0.3, models=["m"]) as sim:
        llm = {"backend": "openai", "model": "m", "base_url": sim.base_url}
        # Enough to do for some minutes.
        with running_job(project, llm, **{**SLOW, "total_samples": 600}) as (job, store, _):
            parts = parts_of(job, project)
            (head,) = named(parts, "gcs_server")
            head.kill()
            started = time.monotonic()
            run_id = store.run_ids()[0]

            def stopped() -> bool:
                record = store.run(run_id)
                assert record is not None
                return record.status == "stopped" and "out of reach for" in str(record.stop_reason)

            wait_until(stopped, 50, "the run has stopped, with the reason")
            print(f"stopped {time.monotonic() - started:.1f} s after the head")
            assert leased(store, run_id) == 0, "dialogues were let go in order"
            assert "the head of the Ray cluster at 127.0.0.1:" in (project.folder / "job.log").read_text()
            wait_until(lambda: not named(parts, "ray::"), 30, "its actors are gone")
            before = len(committed(store))
            # Ray would have ended the job by now.
            wait_until(lambda: len(committed(store)) > before + 4, 120, "it goes on, on a cluster of its own")
            assert time.monotonic() - started > 60
            assert job.poll() is None


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.nightly), signal.SIGTERM])
def test_an_interrupted_job_tears_down_and_can_be_resumed(project: Project, number: signal.Signals) -> None:
    with simulated_endpoint(latency_s=0.3, models=["m"]) as sim:
        llm = {"backend": "openai", "model": "m", "base_url": sim.base_url}
        with running_job(project, llm, **SLOW) as (job, store, path):
            parts = parts_of(job, project)
            assert len(named(parts, "WorkerActor")) == 2
            job.send_signal(number)
            started = time.monotonic()
            code = job.wait(60)
            took = time.monotonic() - started
            log = (project.folder / "job.log").read_text()
            assert code == 1, log[-3000:]
            assert took < 40, log[-3000:]
            assert run_statuses(store) in (["CANCELED"], ["FAILURE"]), log[-3000:]
            wait_until(lambda: not alive(parts), 30, "all are gone")
            assert leased(store, store.run_ids()[0]) == 0, "dialogues were let go in order"
            record = store.run()
            assert record is not None
            assert record.status == "stopped"
            before = committed(store)
        print(f"torn down {took:.1f} s after {number.name}")
        finishes(project, path, store, sim, before)


@pytest.mark.nightly
def test_kill_dash_nine_of_a_distributed_job_takes_the_embedded_model_along(project: Project) -> None:
    llm = {
        "backend": "embedded",
        "agents": {
            "qa_generator": {"max_tokens": 24},
            "kb_responder": {"max_tokens": 32},
            "qa_judge": {"max_tokens": 48},
        },
    }
    with running_job(project, llm, total_samples=8, n_turns=3, concurrency=1) as (job, _, _):
        parts = parts_of(job, project)
        assert named(parts, "embedded_server.py")
        job.kill()
        job.wait()
        wait_until(lambda: not alive(parts), 30, "all are gone")


def test_kill_dash_nine_of_the_only_process_ends_the_embedded_postgres(project: Project) -> None:
    with simulated_endpoint(latency_s=0.3, models=["m"]) as sim:
        llm = {"backend": "openai", "model": "m", "base_url": sim.base_url}
        with running_job(project, llm, **SLOW) as (job, _, _):
            release_embedded(project.home)
            assert postmaster_pid(project.home) is not None, "the job holds it"
            job.kill()
            job.wait()
            wait_until(lambda: postmaster_pid(project.home) is None, 30, "the embedded Postgres ends")
