"""A `dagster job execute` that is killed beside `dagster dev` is resumed, and so is what resumes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dlgforge_core.database.embedded import release_embedded
from dlgforge_core.store.run_store import RunStore
from dlgforge_dagster.tags import RESUME_NUMBER_TAG, RESUMES_TAG
from tests.chaos.harness import Book, repeated
from tests.chaos.jobs import SLOTS, config_of, lone_job, state_of
from tests.end_to_end.job import Project
from tests.support.dagster_dev import FINISHED, dagster_dev, run_workers
from tests.support.postgres import wait_until_stopped
from tests.support.ray_runs import committed
from tests.support.simulated_endpoint import simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.timeout(900), pytest.mark.usefixtures("no_ray_address")]

KILLS = 3


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    release_embedded(made.home)
    wait_until_stopped(made.home, 30)


def worker_beside(store: RunStore, dead: set[int]) -> psutil.Process | None:
    """Return a process that makes dialogues, and is none of those killed before."""
    return next((process for process in run_workers(store) if process.pid not in dead), None)


def wait_for_turns(store: RunStore, n: int) -> None:
    wait_until(lambda: len(committed(store)) >= n, 60, "it goes on")


@pytest.mark.nightly
def test_a_killed_job_beside_dagster_dev_is_resumed_time_and_again(project: Project) -> None:
    with simulated_endpoint(latency_s=0.3, models=["m"], record_requests=10_000) as sim:
        config = config_of(project, sim, on_ray=False, total=60, n_turns=3)
        with (
            dagster_dev(project, DLGFORGE_SENSOR_INTERVAL_S="1") as dev,
            lone_job(project, config) as job,
            state_of(project) as store,
        ):
            job.process.kill()
            job.process.wait()
            dead = {job.process.pid}
            # The second time Dagster's own run retries go on, the third time they have had enough.
            for number in range(2, KILLS + 1):
                enough = len(committed(store)) + 2
                worker = wait_until(lambda: worker_beside(store, dead), 180, "the run is resumed")
                wait_for_turns(store, enough)
                dead.add(worker.pid)
                print(f"resumed {number - 1} times; killed again")
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
            sim.configure(latency_s=0.02)
            wait_until(
                lambda: len(dev.runs()) > KILLS and all(run["status"] in FINISHED for run in dev.runs()),
                300,
                "all runs end",
            )
            runs = list(reversed(dev.runs()))
            assert [run["status"] for run in runs] == ["FAILURE"] * KILLS + ["SUCCESS"], runs
            assert runs[1]["tags"][RESUMES_TAG] == runs[0]["runId"]
            assert runs[KILLS]["tags"][RESUME_NUMBER_TAG] == "2"
            book = Book.of_job(store)
            book.check_complete()
            again = repeated(book.accepted(sim))
    print(f"made again: {sum(again.values())} calls at {KILLS} kills, of {SLOTS} slots")
    assert sum(again.values()) <= KILLS * (SLOTS + SLOTS // 2)
