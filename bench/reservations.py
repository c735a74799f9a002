"""Several workers that reserve questions of one dataset: `python -m bench.reservations`.

First one worker, then several, each a process that reserves questions of its own for 128 dialogues at
once, with near-copies refused, after `--kept` questions were kept. Questions are made beforehand. Of one
worker also the share of its time with the lock of the dataset. With `--share` every worker and every one of
its Postgres processes is held to that share of a core, so that all of them have cores for themselves, if slow
ones: eight of 0.2 fit into two. Stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import uvloop

from bench import slow_cores
from bench.fixture import fresh_store
from bench.questions import VOCABULARIES
from dlgforge_core.config import GenerationConfig, RunConfig
from dlgforge_core.database.database import Database
from dlgforge_core.store.reservations import UnlikeQuestions
from dlgforge_core.store.worker_store import WorkerStore
from tests.support.runs import prepared

DIALOGUES = 128
THRESHOLD = 0.8


@dataclass(frozen=True)
class Share:
    """What a worker has done: questions asked, seconds of wall clock, of CPU, and with the lock."""

    asked: int
    wall_s: float
    cpu_s: float
    locked_s: float


class Stopwatch:
    """Seconds of statements that have the lock or wait for it, their way to Postgres included."""

    def __init__(self) -> None:
        self.locked_s = 0.0
        for name in ("_at_once", "_in_turn"):
            setattr(UnlikeQuestions, name, self._timed(getattr(UnlikeQuestions, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return await method(*arguments)
            finally:
                self.locked_s += time.perf_counter() - began

        return timed


async def ask(
    worker: WorkerStore, dialogues: Sequence[str], questions: Sequence[str], first_turn: int
) -> None:
    """Reserve all questions, each dialogue's next one as soon as all have an answer."""
    for turn, begin in enumerate(range(0, len(questions), len(dialogues)), first_turn):
        part = questions[begin : begin + len(dialogues)]
        await asyncio.gather(*[worker.reserve(d, turn, q) for d, q in zip(dialogues, part, strict=False)])


def work(
    dsn: str,
    run_id: str,
    fingerprint: str,
    vocabulary: str,
    seed: int,
    questions: int,
    barrier: Any,
    share: float = 1.0,
) -> Share:
    """Reserve so many questions in this process, once all are ready."""
    draw = random.Random(seed)
    asked = [VOCABULARIES[vocabulary](draw)[1] for _ in range(questions)]
    watch = Stopwatch()

    async def main() -> Share:
        store = WorkerStore(
            Database(dsn),
            run_id=run_id,
            fingerprint=fingerprint,
            lease_s=3600.0,
            similarity_threshold=THRESHOLD,
        )
        async with store as worker:
            dialogues = [claim.plan.dialogue_id for claim in await worker.claim(DIALOGUES)]
            await worker.reserve(dialogues[0], 0, f"Is anybody there, {seed}?")  # which reads the log
            if share < 1:
                slow_cores.hold([os.getpid()], share)
            if await asyncio.to_thread(barrier.wait) == 0 and share < 1:
                slow_cores.hold(backends(dsn), share)
            await asyncio.to_thread(barrier.wait)
            watch.locked_s = 0.0
            started, cpu = time.perf_counter(), time.process_time()
            await ask(worker, dialogues, asked, 1)
            return Share(len(asked), time.perf_counter() - started, time.process_time() - cpu, watch.locked_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def backends(dsn: str) -> list[int]:
    """Return the processes of Postgres that serve this database's sessions."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return [pid for (pid,) in rows]


def measured(workers: int, vocabulary: str, kept: int, questions: int, share: float) -> list[Share]:
    """Return what each of so many workers did, in a run state of their own."""
    with fresh_store("bench") as store:
        plan = RunConfig(total_samples=DIALOGUES * (workers + 1), target_languages=["en"], n_turns=1)
        run = prepared(store, GenerationConfig(run=plan))
        spawn = multiprocessing.get_context("spawn")
        with spawn.Manager() as manager, spawn.Pool(workers) as pool:
            of = (store.database.dsn, run.run_id, run.fingerprint, vocabulary)
            if kept:
                pool.apply(work, (*of, 0, kept, manager.Barrier(1)))
            barrier = manager.Barrier(workers)
            each = [(*of, n + 1, questions, barrier, share) for n in range(workers)]
            return pool.starmap(work, each, chunksize=1)


def main() -> None:
    """Print rates, CPU and the lock's share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--vocabulary", choices=list(VOCABULARIES), default="templates")
    parser.add_argument("--kept", type=int, default=0, help="questions that are there already")
    parser.add_argument("--questions", type=int, default=20_480, help="of each worker")
    parser.add_argument("--share", type=float, default=1.0, help="of a core, for each process")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores")
    print("workers  reservations/s  client_ms  share of the time with the lock")
    for workers in arguments.workers:
        shares = measured(workers, arguments.vocabulary, arguments.kept, arguments.questions, arguments.share)
        slow_cores.let_go()
        asked = sum(share.asked for share in shares)
        rate = asked / max(share.wall_s for share in shares)
        locked = f"{shares[0].locked_s / shares[0].wall_s:.2f}" if workers == 1 else ""
        cpu = 1000 * sum(share.cpu_s for share in shares) / asked
        print(f"{workers:7}  {rate:14.0f}  {cpu:9.2f}  {locked}", flush=True)


if __name__ == "__main__":
    main()
