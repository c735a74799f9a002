"""What the benches share: an empty run state, a plan, one worker on it, and what it cost this process."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import uvloop

from dlgforge_core.config import GenerationConfig
from dlgforge_core.database.database import Database
from dlgforge_core.database.embedded import embedded_dsn
from dlgforge_core.generation.worker_thread import WorkerSpec, run_worker
from dlgforge_core.store.run_store import RunStore

# Turns of a dialogue, as keys of `run`: Poisson.
TURNS = {"min_turns": 2, "max_turns": 6, "turn_count_mean": 4.0}
# Service times of the simulated endpoint, as its options: lognormal, mean in seconds.
SERVICE = {"latency_s": 0.4, "latency_sigma": 0.6}


@contextlib.contextmanager
def fresh_store(name: str) -> Iterator[RunStore]:
    """Yield an empty run state in an embedded Postgres of the bench's own (fsync on)."""
    # Where Postgres has not ended quite when the folder is removed, what it writes meanwhile stays.
    with tempfile.TemporaryDirectory(prefix="dlgforge-bench-", ignore_cleanup_errors=True) as home:
        server = embedded_dsn(Path(home))
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        store = RunStore(Database(server.replace("/dlgforge?", f"/{name}?")))
        store.migrate()
        yield store


def generation(dialogues: int, concurrency: int, seed: int = 1) -> GenerationConfig:
    """Return the plan that the benches share: English dialogues of so many turns as `TURNS` says."""
    run = {"seed": seed, "total_samples": dialogues, "target_languages": ["en"], "concurrency": concurrency}
    return GenerationConfig.model_validate({"run": {**run, **TURNS}})


@dataclass(frozen=True)
class Cost:
    """What a stretch of work took: seconds of wall clock and of this process's CPU."""

    wall_s: float
    cpu_s: float


def work(spec: WorkerSpec) -> Cost:
    """Run one worker in this process until nothing is left."""
    wall, cpu = time.monotonic(), time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker(spec, lambda _: None))
    return Cost(time.monotonic() - wall, time.process_time() - cpu)


def peak_mb() -> float:
    """Return this process's greatest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
