"""How near the engine keeps an endpoint to its limit: `python -m bench.utilisation --dialogues 192`.

One simulated endpoint with 64 slots and lognormal service times (mean 0.4 s, sigma 0.6); dialogues of 2 to 6
turns (Poisson, mean 4), three calls a turn. Utilisation is the sum of service times over span x slots.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import psutil

from bench.fixture import SERVICE, fresh_store, generation, peak_mb, work
from dlgforge_core.llm.endpoints import Endpoint
from tests.support.runs import MODEL, prepared, spec
from tests.support.simulated_endpoint import simulated_endpoint

SLOTS = 64


def measure(dialogues: int, seed: int) -> dict[str, float]:
    """One run of the fixture."""
    options: dict[str, Any] = {**SERVICE, "slots": SLOTS, "seed": seed, "models": [MODEL]}
    with fresh_store("bench") as store, simulated_endpoint(**options) as sim:
        run = prepared(store, generation(dialogues, SLOTS, seed))
        before = psutil.cpu_times()
        cost = work(spec(store, run, Endpoint("simulated", sim.base_url)))
        stats, progress = sim.stats(), store.progress(run.run_id)
        if not (progress.complete and progress.done == dialogues):
            raise SystemExit(f"the plan was not finished: {progress}")
        return {
            "calls": stats["calls"],
            "utilisation": stats["utilisation"],
            "span_s": stats["span_s"],
            "cpu_ms_per_call": 1000 * cost.cpu_s / stats["calls"],
            "peak_mb": peak_mb(),
            "idle": _idle(before, psutil.cpu_times()),
        }


def main() -> None:
    """Print a line for each seed, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dialogues", type=int, default=192)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    rows = [measure(arguments.dialogues, seed) for seed in arguments.seeds]
    print(f"{arguments.dialogues} dialogues, {SLOTS} slots")
    print("seed  calls  utilisation  span_s  cpu_ms/call  peak_mb  machine_idle")
    for seed, row in [*zip(map(str, arguments.seeds), rows, strict=True), ("mean", _mean(rows))]:
        print(
            f"{seed:>4}  {row['calls']:5.0f}  {row['utilisation']:11.3f}  {row['span_s']:6.2f}  "
            f"{row['cpu_ms_per_call']:11.2f}  {row['peak_mb']:7.0f}  {row['idle']:12.0%}"
        )


def _idle(before: Any, after: Any) -> float:
    """Return the share of the machine's CPU that nobody used; a busy machine stretches the span."""
    return float((after.idle - before.idle) / (sum(after) - sum(before)))


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}


if __name__ == "__main__":
    main()
