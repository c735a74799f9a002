"""What the leases of many workers cost Postgres: `python -m bench.leases --workers 10 50 100`.

Each worker is the store and the keeper of a lease as in use, with its two sessions; it has claimed as many
dialogues as a replica of 256 slots has open, and makes no call. One worker has ended before, as in any run
that was resumed. CPU is that of the server's processes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import Iterator

import uvloop

from bench.capacity import capacity_run, empty_store
from bench.capacity_model import SLOTS
from bench.rows_at_rest import leave_open
from dlgforge_core.config.run import OPEN_PER_SLOT
from dlgforge_core.database.database import Database
from dlgforge_core.scheduling.call_slots import CallSlots
from dlgforge_core.scheduling.lease_keeper import LeaseKeeper
from dlgforge_core.scheduling.rolling import Rolling
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.worker_store import Claim, WorkerStore

OPEN = OPEN_PER_SLOT * SLOTS
WORKERS_A_PROCESS = 25
LEASE_S = 60.0
# As long as what a worker with one endpoint publishes.
STATS = {"tokens": 1, "dollars": 0.5, "calls": [{"role": "qa_judge", "latency": list(range(300))}]}


async def keep(dsn: str, run_id: str, budget: bool) -> None:
    """Hold a lease for what was claimed until this is cancelled."""

    async def carry(claim: Claim) -> None:
        await asyncio.Event().wait()

    async def never() -> bool:
        return False

    async with WorkerStore(Database(dsn), run_id=run_id, fingerprint="", lease_s=LEASE_S) as store:
        store.counts_usage = budget
        slots = CallSlots(SLOTS, lambda caller: ("", SLOTS))
        rolling: Rolling[Claim] = Rolling(carry, slots, OPEN)
        keeper = LeaseKeeper(store, rolling, LEASE_S, lambda: STATS, lambda used: None)
        await keeper.run(store.claim, never)


def _keep_all(dsn: str, run_id: str, n: int, budget: bool) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(keep(dsn, run_id, budget) for _ in range(n)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_them())


@contextlib.contextmanager
def kept(dsn: str, run_id: str, workers: int, budget: bool) -> Iterator[None]:
    """Have so many leases kept, by a few processes; they are killed at the end."""
    context = multiprocessing.get_context("spawn")
    shares = [min(WORKERS_A_PROCESS, workers - first) for first in range(0, workers, WORKERS_A_PROCESS)]
    processes = [
        context.Process(target=_keep_all, args=(dsn, run_id, share, budget), daemon=True) for share in shares
    ]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def end_one(store: RunStore, run_id: str) -> None:
    """Have a worker of the run that has ended."""
    with store.connection() as connection:
        connection.execute(
            "INSERT INTO workers (run_id, host, pid, expires_at, ended_at) VALUES (%s, 'x', 1, now(), now())",
            (run_id,),
        )


def measure(workers: int, seconds: float, budget: bool) -> None:
    """Print a line for so many workers."""
    with empty_store() as (server, store):
        run = capacity_run(store, 200, SLOTS, near_copies=False)
        leave_open(server.watch, workers * OPEN)
        server.watch.execute("VACUUM ANALYZE dialogues")
        end_one(store, run.run_id)
        held = "SELECT count(*) FROM dialogues WHERE worker_id IS NOT NULL"
        with kept(server.postgres.dsn, run.run_id, workers, budget):
            deadline = time.monotonic() + 90.0
            while (row := server.watch.execute(held).fetchone()) is None or row[0] < 0.8 * workers * OPEN:
                if time.monotonic() > deadline:
                    raise SystemExit("the workers did not claim what there is")
                time.sleep(1.0)
            time.sleep(10.0)  # so long free locks say nothing, and plans are made
            before = server.cost()
            time.sleep(seconds)
            cost = server.cost().minus(before)
    each = 1e3 * cost.backends_cpu_s / cost.seconds / workers
    print(
        f"{workers:7}  {cost.backends_cpu_s / cost.seconds:10.4f}  {each:13.3f}  "
        f"{cost.commits / cost.seconds / workers:18.2f}  {cost.wal_bytes / cost.seconds / workers:18.0f}",
        flush=True,
    )


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--budget", action="store_true", help="the run has one, for all workers together")
    arguments = parser.parse_args()
    print("workers  cores of PG  ms a worker and s  commits a worker, s  WAL bytes a worker, s")
    for workers in arguments.workers:
        measure(workers, arguments.seconds, arguments.budget)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
