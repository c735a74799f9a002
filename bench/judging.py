"""Two judging workers against one where a worker's CPU is the limit: `python -m bench.judging`.

Measured as `bench.workers` does dialogues: the simulated endpoint, a process of its own, answers at once, and
each worker process is held to a share of one core, so that the endpoint, Postgres and the second worker do
not compete for the cores of a small machine. Verdicts are counted between the moment when every worker has
given some and the moment when 90 % are given. One worker and two take turns, each with another judge on the
same dialogues.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import psutil

from bench.fixture import fresh_store
from bench.workers import SLOTS, TURNS, cpu_of, held_to_share
from dlgforge_core.config import ActorConfig, RayConfig
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.judging.worker_thread import JudgingSpec
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.runtime.cluster.session import RaySession
from dlgforge_core.scheduling.background import Runner
from dlgforge_core.store.run_store import RunStore
from tests.support.judging import generated, judge, judging
from tests.support.ray_runs import job_runner
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

POLL_S = 0.2

_GIVEN = """
SELECT pid, (SELECT sum((tally.value -> 'given')::int) FROM jsonb_each(tallies -> 'judges') tally)
FROM workers WHERE session_id IS NOT NULL AND ended_at IS NULL
"""


@dataclass(frozen=True)
class _Mark:
    """Verdicts, and CPU seconds of all workers, at one moment."""

    at: float
    verdicts: int
    cpu_s: float


@dataclass
class _Watch:
    """Looks on while workers judge, more often than a session reports."""

    store: RunStore
    workers: int
    wanted: int
    pids: list[int] = field(default_factory=list)
    first: _Mark | None = None
    last: _Mark | None = None

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Take the two moments while the block runs."""
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(done,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, done: threading.Event) -> None:
        with self.store.connection() as connection:
            while not done.wait(POLL_S):
                rows = connection.execute(_GIVEN).fetchall()
                if self.first is None:
                    self.pids[:] = [pid for pid, _ in rows]
                self._take([given for _, given in rows if given])

    def _take(self, given: list[int]) -> None:
        if len(given) < self.workers or sum(given) >= 0.9 * self.wanted:
            return
        cpu_s = sum(cpu_of(psutil.Process(pid)) for pid in self.pids)
        mark = _Mark(time.monotonic(), sum(given), cpu_s)
        if self.first is None:
            self.first = mark
        else:
            self.last = mark

    def figures(self) -> tuple[float, float, float]:
        """Verdicts a second, cores that the workers had, verdicts for a CPU second of theirs."""
        if self.first is None or self.last is None:
            raise SystemExit("the session was too short to be measured: raise --dialogues")
        seconds, given = self.last.at - self.first.at, self.last.verdicts - self.first.verdicts
        cpu_s = self.last.cpu_s - self.first.cpu_s
        return given / seconds, cpu_s / seconds, given / cpu_s


def measure(
    store: RunStore, run: PreparedRun, sim: SimulatedEndpoint, judge_name: str, workers: int, share: float
) -> tuple[float, float, float]:
    """Have a judge of that name judge everything, by so many workers."""
    watch = _Watch(store, workers, store.progress(run.run_id).turns)
    config = judging(judges=[{"model": judge_name}], concurrency=SLOTS, patience_s=60.0)

    def make_runner(spec: JudgingSpec) -> Runner:
        endpoints = (Endpoint("simulated", sim.base_url),)
        return job_runner(replace(spec, endpoints=endpoints), replicas=workers)

    with watch.looking(), held_to_share(watch.pids, workers, share):
        report = judge(store, run, config, make_runner=make_runner)
    if report.missing or report.given != report.wanted:
        raise SystemExit(f"not everything was judged once: {report}")
    return watch.figures()


def main() -> None:
    """Print a line for each session, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=1200)
    parser.add_argument("--share", type=float, default=0.2, help="of one core, for each worker; 1: no limit")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[int, list[tuple[float, float, float]]] = {1: [], 2: []}
    with (
        fresh_store("bench") as store,
        simulated_endpoint(answer_words=20) as sim,
        RaySession(RayConfig(address="local", workers=ActorConfig(replicas=2))) as session,
    ):
        session.connect()
        run = generated(store, sim, arguments.dialogues, n_turns=TURNS)
        print("workers  verdicts/s  worker_cores  verdicts/worker_cpu_s", flush=True)
        for n in range(arguments.repeat):
            for workers, figures in found.items():
                seen = measure(store, run, sim, f"judge-{n}-{workers}", workers, arguments.share)
                figures.append(seen)
                print(f"{workers:7}  {seen[0]:10.1f}  {seen[1]:12.2f}  {seen[2]:21.1f}", flush=True)
    one, two = ([statistics.median(column) for column in zip(*rows, strict=True)] for rows in found.values())
    print(
        f"2 workers against 1: {two[0] / one[0]:.2f} x verdicts/s, "
        f"{two[2] / one[2]:.2f} x verdicts per CPU second"
    )


if __name__ == "__main__":
    main()
