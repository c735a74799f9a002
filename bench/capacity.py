"""What a call, a dialogue and a lease cost Postgres, and where it ends: `python -m bench.capacity calls`.

Real workers, several to a process, each with its own sessions, call a simulated endpoint. A replica has 256
slots and calls of 5 s; here time is scaled down to calls of `--call-s` with as many fewer slots, so that each
worker still makes 51.2 calls a second: the groups in which it writes are as small as they would be. `calls`
measures unit costs, or with several numbers of workers where calls a second stop to grow and what is waited
for; with `--done` or `--held` beside rows at rest, or dialogues that others hold. `model` prints what the
figures of docs/capacity.md come to.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import uvloop

from bench.capacity_model import CALL_S, MEASURED, SLOTS, tables
from bench.rows_at_rest import fill, hold
from bench.server_cost import Cost, Server, measured_server, sampled_waits
from bench.workers import cpu_of
from dlgforge_core.config import CoverageConfig, GenerationConfig, RunConfig
from dlgforge_core.database.database import Database
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.generation.worker_thread import WorkerSpec, run_worker
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.worker_store import WorkerStore
from tests.support.runs import MODEL, prepared, spec
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

TURNS = 4
ANSWER_WORDS = 150
WORKERS_A_PROCESS = 4


@dataclass(frozen=True)
class Figures:
    """What was seen while so many workers made calls."""

    workers: int
    calls: float
    server: Cost
    client_cpu_s: float
    endpoint_cpu_s: float
    waits: dict[str, float]
    """How many sessions, on average, were at work, by what they waited for."""
    connections: int

    def line(self) -> str:
        """Return a line of the table."""
        cost, n = self.server, self.calls
        ms = [1e3 * cpu / n for cpu in (cost.cpu_s, cost.other_cpu_s, self.client_cpu_s, self.endpoint_cpu_s)]
        rows = (cost.inserted + cost.updated + cost.deleted) / n
        return (
            f"{self.workers:7}  {n / cost.seconds:7.1f}  {ms[0]:10.3f}  {ms[1]:11.3f}  {ms[2]:9.2f}  "
            f"{ms[3]:11.2f}  {cost.commits / n:7.2f}  {rows:4.2f}  {cost.wal_bytes / n:9.0f}  "
            f"{self.connections:11}  {', '.join(f'{name} {share:.2f}' for name, share in self.waits.items())}"
        )


HEAD = (
    "workers  calls/s  PG ms/call  of it other  worker ms  endpoint ms  commits  rows  WAL bytes  "
    "connections  sessions at work"
)


def replica_slots(call_s: float) -> int:
    """Return with how many slots a worker keeps a replica's rate."""
    return max(1, round(SLOTS * call_s / CALL_S))


def capacity_run(store: RunStore, dialogues: int, slots: int, near_copies: bool) -> PreparedRun:
    """Return a run of dialogues of four turns, for workers of so many slots."""
    run = RunConfig(
        total_samples=dialogues,
        target_languages=["en"],
        n_turns=TURNS,
        concurrency=slots,
    )
    coverage = {} if near_copies else {"question_similarity_threshold": 1.0}
    return prepared(store, GenerationConfig(run=run, coverage=CoverageConfig.model_validate(coverage)))


def _work(worker: WorkerSpec, n: int) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(run_worker(worker, lambda _: None) for _ in range(n)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_them())


@contextlib.contextmanager
def working(worker: WorkerSpec, n: int) -> Iterator[list[psutil.Process]]:
    """Have `n` workers at work, a few in each process; they are killed at the end."""
    context = multiprocessing.get_context("spawn")
    shares = [min(WORKERS_A_PROCESS, n - first) for first in range(0, n, WORKERS_A_PROCESS)]
    processes = [context.Process(target=_work, args=(worker, share), daemon=True) for share in shares]
    for process in processes:
        process.start()
    try:
        yield [psutil.Process(process.pid) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def measure(
    server: Server,
    store: RunStore,
    worker: WorkerSpec,
    n: int,
    sim: SimulatedEndpoint,
    warm_s: float,
    s: float,
) -> Figures:
    """Return what `n` workers came to in `s` seconds, after they have all begun and `warm_s` have passed."""

    def marks() -> tuple[float, Cost, float, float]:
        client = sum(cpu_of(process) for process in processes)
        return sim.stats()["calls"], server.cost(), client, cpu_of(psutil.Process(sim.process.pid))

    with working(worker, n) as processes:
        while server.connections() < 2 * n:
            time.sleep(0.2)
        time.sleep(warm_s)
        first = marks()
        with sampled_waits(server) as waits:
            time.sleep(s)
        last, connections = marks(), server.connections()
    samples = max(1, waits.pop("samples", 0))
    return Figures(
        n,
        last[0] - first[0],
        last[1].minus(first[1]),
        last[2] - first[2],
        last[3] - first[3],
        {name: round(count / samples, 2) for name, count in waits.most_common(4)},
        connections,
    )


@contextlib.contextmanager
def empty_store(*settings: str) -> Iterator[tuple[Server, RunStore]]:
    """Yield a server with an empty run state in it."""
    with measured_server(*settings) as server:
        store = RunStore(Database(server.postgres.dsn))
        store.migrate()
        yield server, store


def calls(
    workers: Sequence[int],
    call_s: float,
    seconds: float,
    near_copies: bool,
    done: int = 0,
    held: int = 0,
    slots: int = 0,
) -> None:
    """Print a line for each number of workers, and what is at rest in the end.

    With so many dialogues done before, and so many held by others. Without `slots` as many as a replica's
    rate takes.
    """
    slots = slots or replica_slots(call_s)
    options: dict[str, Any] = {"latency_s": call_s, "latency_sigma": 0.6, "models": [MODEL]}
    print(HEAD)
    with (
        empty_store("autovacuum=off" if held else "autovacuum=on") as (server, store),
        simulated_endpoint(answer_words=ANSWER_WORDS, **options) as sim,
    ):
        planned = round(sum(workers) * slots / call_s / 12 * (seconds + 60 * call_s + 30))
        run = capacity_run(store, planned, slots, near_copies)
        if done or held:
            fill(server.watch, run.fingerprint, done)
            # Statistics are of before workers have claimed: in a large plan they stay so for hours.
            server.watch.execute("VACUUM ANALYZE")
            hold(server.watch, run.run_id, done, held)
            queries(store, run)
        worker = spec(store, run, Endpoint("simulated", sim.base_url))
        for n in workers:
            figures = measure(server, store, worker, n, sim, 48 * call_s, seconds)
            print(figures.line(), flush=True)
        if not done and not held:
            sizes(server)
    print(f"load average {os.getloadavg()[0]:.1f}")


def queries(store: RunStore, run: PreparedRun) -> None:
    """Print how long what is asked of a run while it goes takes."""

    async def asked() -> None:
        async with (
            WorkerStore(
                store.database, run_id=run.run_id, fingerprint=run.fingerprint, lease_s=60.0
            ) as worker,
            WorkerStore(
                store.database,
                run_id=run.run_id,
                fingerprint=run.fingerprint,
                lease_s=60.0,
                max_dialogues=10**9,
            ) as limited,
        ):
            asks: dict[str, Callable[[], Awaitable[object]]] = {
                "taking over": worker.take_over,
                "claim of 64": lambda: worker.claim(64),
                "claim of 64 under a budget": lambda: limited.claim(64),
                "renewal of a lease": lambda: worker.heartbeat({}),
                "unfinished": worker.unfinished,
                "has a verdict": worker.has_verdict,
            }
            for name, ask in asks.items():
                await ask()
                started = time.monotonic()
                await ask()
                print(f"  {name}: {1e3 * (time.monotonic() - started):.1f} ms")

    asyncio.run(asked())
    looks: dict[str, Callable[[str], object]] = {
        "progress": store.progress,
        "fault of the judge": store.judge_fault,
    }
    for name, look in looks.items():
        started = time.monotonic()
        look(run.run_id)
        print(f"  {name}: {1e3 * (time.monotonic() - started):.1f} ms")


def sizes(server: Server) -> None:
    """Print what dialogues take at rest."""
    server.watch.execute("VACUUM")
    row = server.watch.execute(
        "SELECT count(*) FILTER (WHERE status = 'done'), (SELECT count(*) FROM questions), "
        "(SELECT count(*) FROM dialogues), (SELECT count(*) FROM turns) FROM dialogues"
    ).fetchone()
    assert row is not None
    rows = {"dialogues": row[2], "turns": row[3], "questions": row[1]}
    print(f"{row[0]} dialogues done")
    for name, (table, indexes) in sorted(server.sizes().items(), key=lambda item: -sum(item[1])):
        if table + indexes > 100_000:
            per = f", {(table + indexes) / rows[name]:.0f} a row" if rows.get(name) else ""
            print(f"  {name}: {table / 1e6:.1f} MB, indexes {indexes / 1e6:.1f} MB{per}")


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("calls")
    one.add_argument("--workers", type=int, nargs="+", default=[4])
    one.add_argument("--call-s", type=float, default=0.5)
    one.add_argument("--seconds", type=float, default=24.0)
    one.add_argument("--exact-repeats", action="store_true", help="no refusal of near-copies")
    one.add_argument("--done", type=int, default=0, help="dialogues that were done before")
    one.add_argument("--held", type=int, default=0, help="dialogues that others hold meanwhile")
    one.add_argument("--slots", type=int, default=0, help="of each worker, in place of a replica's rate")
    commands.add_parser("model")
    arguments = parser.parse_args()
    if arguments.command == "model":
        print(tables(MEASURED))
    if arguments.command == "calls":
        calls(
            arguments.workers,
            arguments.call_s,
            arguments.seconds,
            not arguments.exact_repeats,
            arguments.done,
            arguments.held,
            arguments.slots,
        )


if __name__ == "__main__":
    main()
