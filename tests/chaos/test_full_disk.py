"""A disk that is full in mid-run: the job ends in plain words, and its run has an end."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlgforge_core.database.embedded import release_embedded
from tests.chaos.harness import Book
from tests.chaos.jobs import config_of, lone_job, state_of, statuses
from tests.end_to_end.job import Project
from tests.support.postgres import wait_until_stopped
from tests.support.simulated_endpoint import simulated_endpoint

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Yield a project whose Postgres has a small disk of its own; that takes the right to mount one."""
    made = Project(tmp_path)
    made.home.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", str(made.home)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root, with the right to mount, can have a disk that is full")
    try:
        yield made
    finally:
        release_embedded(made.home)
        wait_until_stopped(made.home, 30)
        subprocess.run(["umount", "-l", str(made.home)], check=True)


def fill(ballast: Path) -> None:
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            return


@pytest.mark.nightly
def test_a_full_disk_ends_the_job_in_plain_words_and_with_a_status(project: Project) -> None:
    with simulated_endpoint(latency_s=0.1, models=["m"], record_requests=10_000) as sim:
        config = config_of(project, sim, on_ray=False, total=60, patience_s=5.0)
        ballast = project.home / "ballast"
        with lone_job(project, config) as job:
            fill(ballast)
            code = job.process.wait(240)
            assert code == 1, job.log[-4000:]
            assert "disk is full: free space on it" in job.log, job.log[-4000:]
            assert "sqlalchemy" not in job.log, job.log[-6000:]
        ballast.unlink()
        with state_of(project) as store:
            assert statuses(store) == ["FAILURE"]
        code, output = project.execute(config)
        assert code == 0, output[-4000:]
        with state_of(project) as store:
            Book.of_job(store).check_complete()
