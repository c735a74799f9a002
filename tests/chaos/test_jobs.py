"""The job struck in mid-run: what it goes on with, what is left behind, made again, and told."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dlgforge_core.database.embedded import release_embedded
from tests.chaos.harness import Book, repeated
from tests.chaos.jobs import SLOTS, LoneJob, config_of, lone_job, parts_of, state_of, statuses
from tests.end_to_end.job import Project
from tests.support.postgres import postmaster_pid, wait_until_stopped
from tests.support.processes import alive
from tests.support.simulated_endpoint import simulated_endpoint
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("no_ray_address")]

LEFT_BEHIND_S = 30.0


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = Project(tmp_path)
    yield made
    release_embedded(made.home)


def nothing_is_left(job: LoneJob, parts: list[psutil.Process]) -> None:
    wait_until_stopped(job.project.home, LEFT_BEHIND_S)
    wait_until(lambda: not alive(parts), LEFT_BEHIND_S, f"all are gone ({alive(parts)})")


@pytest.mark.parametrize(
    "both",
    [pytest.param(False, marks=pytest.mark.nightly), True],
    ids=["supervisor", "supervisor and server"],
)
@pytest.mark.parametrize(
    "on_ray", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["in process", "on Ray"]
)
def test_a_job_whose_postgres_loses_its_supervisor_goes_on(
    project: Project, on_ray: bool, both: bool
) -> None:
    with simulated_endpoint(latency_s=0.3, models=["m"], record_requests=10_000) as sim:
        config = config_of(project, sim, on_ray=on_ray, total=16)
        with lone_job(project, config) as job:
            victims = [job.supervisor(), *([job.server()] if both else [])]
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: job.supervised_by_others_than(victims), 60, "another supervisor runs")
            wait_until(lambda: postmaster_pid(project.home) not in (None, *victims), 60, "a server runs")
            parts = parts_of(job)
            code = job.process.wait(240)
            assert code == 0, job.log[-4000:]
            nothing_is_left(job, parts)
        with state_of(project) as store:
            book = Book.of_job(store)
            book.check_complete()
            made = book.accepted(sim)
            assert not repeated(made), "the workers lived on, with what they had"
            assert len(made) == book.needed
            assert statuses(store) == ["SUCCESS"]


def test_kill_dash_nine_of_a_lone_job_on_ray_costs_the_calls_in_flight(project: Project) -> None:
    """Its Postgres ends with it, a second before the workers do: they make no call that nobody could save."""
    with simulated_endpoint(latency_s=0.3, models=["m"], record_requests=10_000) as sim:
        config = config_of(project, sim, on_ray=True, total=24)
        with lone_job(project, config) as job:
            parts = parts_of(job)
            job.process.kill()
            job.process.wait()
            nothing_is_left(job, parts)
        sim.configure(latency_s=0.0)
        code, output = project.execute(config)
        assert code == 0, output[-4000:]
        with state_of(project) as store:
            book = Book.of_job(store)
            book.check_complete()
            again = repeated(book.accepted(sim))
    print(f"made again: {sum(again.values())} calls, of {SLOTS} slots")
    assert max(again.values(), default=0) <= 1
    # In flight are those being served, and the answers on their way to Postgres.
    assert sum(again.values()) <= SLOTS + SLOTS // 2, again
