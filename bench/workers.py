"""Two workers against one where a worker's CPU is the limit: `python -m bench.workers`.

A simulated endpoint without latency answers at once and has room for every call, so that a worker is as fast
as its CPU. Each worker process is held to a share of one core (stopped and continued many times a second, as
cpulimit does), so that the endpoint, Postgres and the second worker do not compete for the cores of a small
machine; `--share 1` leaves them alone. Turns are counted between the moment when every worker has committed
some and the moment when 90 % of the plan is done.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil

from bench.fixture import fresh_store
from dlgforge_core.config import ActorConfig, GenerationConfig, RayConfig, RunConfig
from dlgforge_core.generation.run import Status, generate
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.store.run_store import RunStore
from tests.support.ray_runs import runner
from tests.support.run_state import worker_processes
from tests.support.runs import prepared
from tests.support.simulated_endpoint import simulated_endpoint

SLOTS = 32  # of each worker
TURNS = 4
PERIOD_S = 0.04


@dataclass
class Figures:
    """What was seen between the two moments."""

    turns_per_s: float
    cores: float
    """CPU seconds of all workers together for each second of wall clock."""
    turns_per_cpu_s: float
    endpoint_cores: float


@dataclass
class _Marks:
    """CPU and turns at one moment."""

    at: float
    turns: int
    worker_cpu: float
    endpoint_cpu: float


@dataclass
class _Watch:
    """Looks on while a run goes, and holds its workers to their share."""

    store: RunStore
    run_id: str
    workers: int
    endpoint: psutil.Process
    turns_planned: int
    pids: list[int] = field(default_factory=list)
    first: _Marks | None = None
    last: _Marks | None = None

    def on_status(self, status: Status) -> None:
        turns = status.progress.turns
        if self.first is None:
            places = worker_processes(self.store, self.run_id)
            self.pids[:] = [pid for _, _, pid in places]
            with self.store.connection() as connection:
                row = connection.execute("SELECT count(DISTINCT worker_id) FROM turns").fetchone()
            if row is not None and row[0] == self.workers:
                self.first = self._marks(turns)
        elif turns < 0.9 * self.turns_planned:
            self.last = self._marks(turns)

    def _marks(self, turns: int) -> _Marks:
        cpu = sum(cpu_of(psutil.Process(pid)) for pid in self.pids)
        return _Marks(time.monotonic(), turns, cpu, cpu_of(self.endpoint))

    def figures(self) -> Figures:
        if self.first is None or self.last is None:
            raise SystemExit("the run was too short to be measured: raise --dialogues")
        first, last = self.first, self.last
        seconds, turns = last.at - first.at, last.turns - first.turns
        cpu = last.worker_cpu - first.worker_cpu
        return Figures(
            turns / seconds, cpu / seconds, turns / cpu, (last.endpoint_cpu - first.endpoint_cpu) / seconds
        )


@contextlib.contextmanager
def held_to_share(pids: list[int], workers: int, share: float) -> Iterator[None]:
    """Hold every process of `pids`, a list that grows to `workers`, to its share of a core meanwhile."""
    done = threading.Event()
    thread = threading.Thread(target=_hold, args=(pids, workers, share, done), daemon=True)
    if share < 1:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.ident is not None:
            thread.join()


def _hold(pids: list[int], workers: int, share: float, done: threading.Event) -> None:
    # One after the other, so that on a small machine they do not run at the same moment.
    on, off = PERIOD_S * share, PERIOD_S * (1 - workers * share)
    while not done.is_set():
        held = list(pids)
        for pid in held:
            _signal(pid, signal.SIGSTOP)
        for pid in held:
            _signal(pid, signal.SIGCONT)
            time.sleep(on)
            _signal(pid, signal.SIGSTOP)
        time.sleep(max(0.0, off) if len(held) == workers else PERIOD_S * (1 - share))
    for pid in pids:
        _signal(pid, signal.SIGCONT)


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def measure(workers: int, dialogues: int, share: float) -> Figures:
    """One run with so many workers, on a cluster that is connected."""
    settings = RunConfig(total_samples=dialogues, target_languages=["en"], n_turns=TURNS, concurrency=SLOTS)
    with fresh_store("bench") as store, simulated_endpoint(answer_words=20) as sim:
        run = prepared(store, GenerationConfig(run=settings))
        watch = _Watch(store, run.run_id, workers, psutil.Process(sim.process.pid), dialogues * TURNS)
        endpoint = Endpoint("simulated", sim.base_url)
        with held_to_share(watch.pids, workers, share):
            report = generate(
                store,
                run.run_id,
                lambda: runner(store, run, endpoint, replicas=workers),
                watch.on_status,
                poll_s=0.2,
                first_report_s=0.2,
            )
        if report.progress.done != dialogues or sim.stats()["calls"] != 3 * dialogues * TURNS:
            raise SystemExit(f"the plan was not made exactly: {report.progress}")
        return watch.figures()


def main() -> None:
    """Print a line for each run, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=250, help="for each worker")
    parser.add_argument("--share", type=float, default=0.2, help="of one core, for each worker; 1: no limit")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[int, list[Figures]] = {1: [], 2: []}
    print("workers  turns/s  worker_cores  turns/worker_cpu_s  endpoint_cores")
    with RaySession(RayConfig(address="local", workers=ActorConfig(replicas=2))) as session:
        session.connect()
        for _ in range(arguments.repeat):
            for workers, figures in found.items():
                seen = measure(workers, workers * arguments.dialogues, arguments.share)
                figures.append(seen)
                print(
                    f"{workers:7}  {seen.turns_per_s:7.1f}  {seen.cores:12.2f}  {seen.turns_per_cpu_s:18.1f}"
                    f"  {seen.endpoint_cores:14.2f}",
                    flush=True,
                )
    one, two = (
        (
            statistics.median(f.turns_per_s for f in figures),
            statistics.median(f.turns_per_cpu_s for f in figures),
        )
        for figures in found.values()
    )
    print(
        f"2 workers against 1: {two[0] / one[0]:.2f} x turns/s, {two[1] / one[1]:.2f} x turns per CPU second"
    )


if __name__ == "__main__":
    main()
