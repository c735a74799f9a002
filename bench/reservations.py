"""Several workers that reserve questions of one dataset: `python -m bench.reservations`.

First one worker, then several, each a process that reserves questions of its own for 128 dialogues at
once, with near-copies refused, after `--kept` questions were kept. Questions are made beforehand. Of one
worker also the share of its time with the lock of the dataset: one by that share is how many times its rate
several workers can come to where there are cores for them. Stops by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import uvloop

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
    """Seconds from the request for the lock to the end of the transaction; of one worker that never waits."""

    def __init__(self) -> None:
        self.locked_s = 0.0
        lock, results = UnlikeQuestions.lock, UnlikeQuestions.results

        async def timed_lock(unlike: UnlikeQuestions, *arguments: Any) -> None:
            self.locked_s -= time.perf_counter()
            await lock(unlike, *arguments)

        async def timed_results(unlike: UnlikeQuestions, *arguments: Any) -> Any:
            self.locked_s += time.perf_counter()
            return await results(unlike, *arguments)

        UnlikeQuestions.lock = timed_lock  # type: ignore[method-assign,assignment]
        UnlikeQuestions.results = timed_results  # type: ignore[method-assign,assignment]


async def ask(
    worker: WorkerStore, dialogues: Sequence[str], questions: Sequence[str], first_turn: int
) -> None:
    """Reserve all questions, each dialogue's next one as soon as all have an answer."""
    for turn, begin in enumerate(range(0, len(questions), len(dialogues)), first_turn):
        part = questions[begin : begin + len(dialogues)]
        await asyncio.gather(*[worker.reserve(d, turn, q) for d, q in zip(dialogues, part, strict=False)])


def work(
    dsn: str, run_id: str, fingerprint: str, vocabulary: str, seed: int, questions: int, barrier: Any
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
            await asyncio.to_thread(barrier.wait)
            watch.locked_s = 0.0
            started, cpu = time.perf_counter(), time.process_time()
            await ask(worker, dialogues, asked, 1)
            return Share(len(asked), time.perf_counter() - started, time.process_time() - cpu, watch.locked_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def measured(workers: int, vocabulary: str, kept: int, questions: int) -> list[Share]:
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
            return pool.starmap(work, [(*of, n + 1, questions, barrier) for n in range(workers)], chunksize=1)


def main() -> None:
    """Print rates, CPU and the lock's share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--vocabulary", choices=list(VOCABULARIES), default="templates")
    parser.add_argument("--kept", type=int, default=0, help="questions that are there already")
    parser.add_argument("--questions", type=int, default=20_480, help="of each worker")
    arguments = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f}; {os.cpu_count()} cores")
    print("workers  reservations/s  client_ms  share of the time with the lock")
    for workers in arguments.workers:
        shares = measured(workers, arguments.vocabulary, arguments.kept, arguments.questions)
        asked = sum(share.asked for share in shares)
        rate = asked / max(share.wall_s for share in shares)
        locked = f"{shares[0].locked_s / shares[0].wall_s:.2f}" if workers == 1 else ""
        cpu = 1000 * sum(share.cpu_s for share in shares) / asked
        print(f"{workers:7}  {rate:14.0f}  {cpu:9.2f}  {locked}", flush=True)


if __name__ == "__main__":
    main()
