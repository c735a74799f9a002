"""Whether memory grows with the number of dialogues: `python -m bench.memory`.

20,000 dialogues on a simulated endpoint without latency, in one worker in this process. To bound the time,
dialogues have one turn and no judge: two calls each (`--turns`, `--judge` for more).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from pathlib import Path

import uvloop

from bench.fixture import fresh_store, peak_mb
from dlgforge_core.config import GenerationConfig, JudgeConfig, RunConfig
from dlgforge_core.generation.worker import Worker
from dlgforge_core.generation.worker_thread import WorkerSpec, run_worker
from dlgforge_core.llm.endpoints import Endpoint
from tests.support.runs import MODEL, prepared, spec
from tests.support.simulated_endpoint import simulated_endpoint

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20
_SAMPLE_S = 0.1


def rss_mb() -> float:
    """Return this process's resident memory, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB


async def sampled(spec: WorkerSpec, marks: list[int]) -> list[tuple[int, float, float]]:
    """Work to the end; (dialogues done, seconds, RSS in MB) as each of `marks` is passed, and at the end."""
    workers: list[Worker] = []
    started = time.monotonic()
    work = asyncio.create_task(run_worker(spec, workers.append))
    rows = []
    while not work.done():
        await asyncio.wait([work], timeout=_SAMPLE_S)
        done = workers[0].stats()["counts"]["done"] if workers else 0
        if marks and done >= marks[0]:
            rows.append((done, time.monotonic() - started, rss_mb()))
            marks = [mark for mark in marks if mark > done]
    work.result()
    gc.collect()
    rows.append((workers[0].stats()["counts"]["done"], time.monotonic() - started, rss_mb()))
    return rows


def main() -> None:
    """Print the planning's cost, then RSS along the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--slots", type=int, default=64)
    arguments = parser.parse_args()
    generation = GenerationConfig(
        run=RunConfig(
            total_samples=arguments.dialogues,
            target_languages=["en"],
            n_turns=arguments.turns,
            concurrency=arguments.slots,
        ),
        judge=JudgeConfig(mode="online" if arguments.judge else "off"),
    )
    with fresh_store("bench") as store, simulated_endpoint(models=[MODEL]) as sim:
        before, started = rss_mb(), time.monotonic()
        run = prepared(store, generation)
        took, grown = time.monotonic() - started, rss_mb() - before
        with store.connection() as connection:
            row = connection.execute("SELECT pg_total_relation_size('dialogues')").fetchone()
        assert row is not None
        print(
            f"planning {arguments.dialogues} dialogues: {took:.1f} s, RSS +{grown:.1f} MB, "
            f"{row[0] / arguments.dialogues / 1024:.2f} kB each in Postgres"
        )
        worker = spec(store, run, Endpoint("simulated", sim.base_url))
        marks = [1000, *range(5000, arguments.dialogues, 5000)]
        cpu = time.process_time()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows = runner.run(sampled(worker, marks))
        cpu = time.process_time() - cpu
        calls = sim.stats()["calls"]
        if store.progress(run.run_id).done != arguments.dialogues:
            raise SystemExit(f"the plan was not finished: {store.progress(run.run_id)}")
    print("  done  seconds  rss_mb  since the first 1,000")
    for done, seconds, rss in rows:
        print(f"{done:6}  {seconds:7.1f}  {rss:6.1f}  {rss - rows[0][2]:+.1f}")
    seconds = rows[-1][1]
    print(
        f"{calls} calls in {seconds:.1f} s: {calls / seconds:.0f} a second, "
        f"{1000 * cpu / calls:.2f} ms of CPU each; peak {peak_mb():.0f} MB"
    )


if __name__ == "__main__":
    main()
