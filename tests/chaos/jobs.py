"""The job as a process of its own, alone with its embedded Postgres, to be struck in mid-run."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn, release_embedded
from dlgforge_core.store.run_store import RunStore
from tests.end_to_end.job import Project, run_config
from tests.support.postgres import postmaster_pid
from tests.support.ray_runs import committed
from tests.support.simulated_endpoint import SimulatedEndpoint
from tests.support.waiting import wait_until

SLOTS = 4
"""Calls that may be in flight at once, over all workers."""


class LoneJob:
    """`dagster job execute` in mid-run. Nobody else holds its Postgres."""

    def __init__(self, project: Project, process: subprocess.Popen[bytes], config: Path) -> None:
        self.project = project
        self.process = process
        self.config = config

    @property
    def log(self) -> str:
        """What the job has printed."""
        return (self.project.folder / "job.log").read_text("utf-8", "replace")

    def supervisor(self) -> int:
        """Pid of the embedded Postgres' supervisor."""
        home = os.fsencode(os.path.realpath(self.project.home))
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if any(b"embedded_supervisor" in part for part in arguments) and home in arguments:
                    return int(entry.name)
        raise AssertionError("there is no supervisor")

    def supervised_by_others_than(self, pids: Sequence[int]) -> bool:
        """Say whether the embedded Postgres has a supervisor that is none of these."""
        try:
            return self.supervisor() not in pids
        except AssertionError:
            return False

    def server(self) -> int:
        """Pid of the embedded Postgres."""
        pid = postmaster_pid(self.project.home)
        assert pid is not None
        return pid


def config_of(
    project: Project, sim: SimulatedEndpoint, *, on_ray: bool, total: int, n_turns: int = 2, **run: Any
) -> Path:
    """Return a run config with SLOTS call slots, in the job's process or on two workers of a Ray cluster."""
    workers = 2 if on_ray else 1
    config = run_config(
        {"backend": "openai", "model": "m", "base_url": sim.base_url},
        target_languages=["en"],
        total_samples=total,
        n_turns=n_turns,
        concurrency=SLOTS // workers,
        distributed={"enabled": on_ray},
        **run,
    )
    if on_ray:
        config["resources"]["ray"] = {
            "config": {"address": "local", "workers": {"replicas": workers, "num_cpus": 0.5}}
        }
    return project.config(config)


@contextmanager
def state_of(project: Project) -> Iterator[RunStore]:
    """Yield the run state, with its Postgres held meanwhile."""
    store = RunStore(Database(embedded_dsn(project.home)))
    try:
        store.migrate()
        yield store
    finally:
        release_embedded(project.home)


@contextmanager
def lone_job(project: Project, config: Path, *, turns: int = 4) -> Iterator[LoneJob]:
    """Yield the job, once it has committed so many turns."""
    with (project.folder / "job.log").open("ab") as log, state_of(project) as store:
        process = subprocess.Popen(
            project.command(config),
            cwd=project.folder,
            env=project.env,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        job = LoneJob(project, process, config)
        with ended_at_last(process):
            wait_until(
                lambda: process.poll() is not None or len(committed(store)) >= turns,
                240,
                "turns are committed",
            )
    with ended_at_last(process, always=True):
        assert process.poll() is None, job.log[-3000:]
        yield job


@contextmanager
def ended_at_last(process: subprocess.Popen[bytes], *, always: bool = False) -> Iterator[None]:
    """Kill the process when the block fails, or always."""
    try:
        yield
    except BaseException:
        always = True
        raise
    finally:
        if always:
            process.kill()
            process.wait()


def parts_of(job: LoneJob) -> list[psutil.Process]:
    """Everything of the job: what is below it, and all that runs in its folder or for its home."""
    folder = str(job.project.folder)
    parts = set(psutil.Process(job.process.pid).children(recursive=True))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            mine = process.cwd().startswith(folder) or any(folder in part for part in process.cmdline())
            if mine and process.pid not in (job.process.pid, os.getpid()):
                parts.add(process)
    return list(parts)


def statuses(store: RunStore) -> list[str]:
    """Of all Dagster runs, the first first, as Dagster's tables in the same database have them."""
    with store.connection() as connection:
        rows: Sequence[Any] = connection.execute("SELECT status FROM public.runs ORDER BY id").fetchall()
    return [status for (status,) in rows]
