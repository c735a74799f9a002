"""What the benches share: a plan in an empty run state, one worker on it, and what it cost this process."""

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

from dlgforge_core.config import GenerationConfig, LlmConfig, PostgresConfig, RoutingConfig
from dlgforge_core.generation.local import WorkerSpec, loop_factory, run_worker
from dlgforge_core.generation.prepare import PreparedRun, prepare_run
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.seeds import read_seeds
from dlgforge_core.store.embedded import embedded_dsn
from dlgforge_core.store.run_store import RunStore

MODEL = "simulated"


@contextlib.contextmanager
def fresh_store(name: str) -> Iterator[RunStore]:
    """An empty run state in an embedded Postgres of the bench's own (fsync on)."""
    with tempfile.TemporaryDirectory(prefix="dlgforge-bench-") as home:
        server = embedded_dsn(Path(home))
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        store = RunStore(server.replace("/dlgforge?", f"/{name}?"))
        store.migrate()
        yield store


def planned(store: RunStore, generation: GenerationConfig) -> PreparedRun:
    """The run of this configuration, planned on the shipped seeds."""
    llm = LlmConfig(backend="openai", model=MODEL, base_url="http://127.0.0.1:1/v1")
    return prepare_run(store, generation, llm, read_seeds("", strict=True))


def worker_spec(store: RunStore, run: PreparedRun, *endpoints: Endpoint) -> WorkerSpec:
    """A worker on these endpoints."""
    return WorkerSpec(
        run=run, dsn=store.dsn, postgres=PostgresConfig(), endpoints=endpoints, routing=RoutingConfig()
    )


@dataclass(frozen=True)
class Cost:
    """What a stretch of work took: seconds of wall clock and of this process's CPU."""

    wall_s: float
    cpu_s: float


def work(spec: WorkerSpec) -> Cost:
    """Run one worker in this process until nothing is left."""
    wall, cpu = time.monotonic(), time.process_time()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run_worker(spec, lambda _: None))
    return Cost(time.monotonic() - wall, time.process_time() - cpu)


def peak_mb() -> float:
    """This process's greatest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
