"""What bad endpoints cost: `python -m bench.faults`.

First a run in which one answer in ten is faulty (429, 500, 503, garbage, cut, empty in equal shares); then
the same run on two endpoints, and with one of the two killed soon after the start.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from bench.fixture import SERVICE, fresh_store, generation
from dlgforge_core.config import GenerationConfig
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.llm.stats import merged_calls
from dlgforge_core.store.run_records import Progress
from dlgforge_core.store.run_store import RunStore
from tests.support.runs import MODEL, prepared, spec
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint

FAULTS = ("429", "500", "503", "garbage", "cut", "empty")
SLOTS = 32  # of each endpoint


def timed(
    store: RunStore, config: GenerationConfig, *sims: SimulatedEndpoint, kill: bool = False
) -> tuple[float, Progress, dict[str, int]]:
    """Seconds, outcome, and failures by kind of a run; with `kill` the last endpoint dies after a second."""
    run = prepared(store, config)
    endpoints = [Endpoint(f"endpoint-{i}", sim.base_url, max_in_flight=SLOTS) for i, sim in enumerate(sims)]
    worker = WorkerThread(spec(store, run, *endpoints))
    started = time.monotonic()
    worker.start()
    if kill and not worker.wait(1.0):
        sims[-1].kill()
    while not worker.wait(1.0):
        pass
    elapsed = time.monotonic() - started
    worker.result()
    failures = merged_calls(store.worker_stats(run.run_id)).total().failures
    return elapsed, store.progress(run.run_id), dict(failures)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=192)
    dialogues = parser.parse_args().dialogues
    options: dict[str, Any] = {"models": [MODEL], **SERVICE, "slots": SLOTS, "seed": 1}
    shares = dict.fromkeys(FAULTS, 0.1 / len(FAULTS))
    with fresh_store("bench") as store, simulated_endpoint(**options, faults=shares, retry_after_s=0) as sim:
        elapsed, progress, failures = timed(store, generation(dialogues, SLOTS), sim)
        injected = sum(sim.stats()["faults"].values())
    print(f"one answer in ten faulty: {elapsed:.1f} s, {injected} faults injected, counted {failures}")
    print(
        f"  planned {progress.planned}, done {progress.done}, dropped {dict(progress.drop_reasons)}, "
        f"left {progress.pending}"
    )
    times = []
    for kill in (False, True):
        with (
            fresh_store("bench") as store,
            simulated_endpoint(**options) as a,
            simulated_endpoint(**options) as b,
        ):
            elapsed, progress, _ = timed(store, generation(dialogues, 2 * SLOTS), a, b, kill=kill)
        times.append(elapsed)
        what = "one killed after 1 s" if kill else "both alive"
        print(f"two endpoints, {what}: {elapsed:.1f} s, done {progress.done} of {progress.planned}")
    print(f"ratio {times[1] / times[0]:.2f}")


if __name__ == "__main__":
    main()
