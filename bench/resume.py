"""What ten `kill -9` at random moments cost: `python -m bench.resume`.

One worker process at a time works on one run and is killed with SIGKILL; the last one finishes the plan. A
call is in flight at a kill when the endpoint has accepted it and its result is not durable in Postgres once
the dead worker's sessions are gone; tests/chaos/harness.py says how that is known for each single call.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

from bench.fixture import SERVICE, TURNS, fresh_store
from tests.chaos.harness import Book, kill_and_resume
from tests.support.runs import MODEL, planned
from tests.support.simulated_endpoint import simulated_endpoint


def main() -> None:
    """Print a line for each kill, and the sums."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dialogues", type=int, default=192)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument(
        "--latency", type=float, default=SERVICE["latency_s"], help="mean service time in seconds"
    )
    parser.add_argument("--longest", type=float, default=2.5, help="longest life of a worker, in seconds")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    moments = [draw.uniform(0.0, arguments.longest) for _ in range(arguments.kills)]
    plan: dict[str, Any] = {
        "total": arguments.dialogues,
        "seed": arguments.seed,
        **TURNS,
        "concurrency": arguments.slots,
        "patience_s": 30.0,
        "lease_s": 600.0,  # so that only its lock tells that a worker is dead
    }
    options = {**SERVICE, "latency_s": arguments.latency, "slots": arguments.slots}
    with (
        fresh_store("bench") as store,
        simulated_endpoint(models=[MODEL], record_requests=10_000, **options) as sim,
    ):
        run = planned(store, **plan)
        book = Book(store, run)
        time.sleep(5.0)  # for so long a Postgres that was just started takes nobody for dead by a lock
        started = time.monotonic()
        kills, last = kill_and_resume(store, plan, book, sim, moments)
        elapsed = time.monotonic() - started
        book.check_complete()
        print("kill  after_s  calls  durable  being served  in flight")
        for number, kill in enumerate(kills, 1):
            print(
                f"{number:>4}  {kill.after_s:7.2f}  {len(kill.accepted):5}  {len(kill.durable):7}  "
                f"{kill.serving:12}  {len(kill.in_flight):9}"
            )
        made = sum(len(kill.accepted) for kill in kills) + len(last)
        print(
            f"{book.needed} calls needed, {made} made, {made - book.needed} repeated; in flight at the "
            f"kills: {sum(len(kill.in_flight) for kill in kills)}; plan complete after {elapsed:.1f} s"
        )
        for kill in kills:
            if not kill.turns.items() <= book.turns().items():
                raise SystemExit("a committed turn has changed")


if __name__ == "__main__":
    main()
