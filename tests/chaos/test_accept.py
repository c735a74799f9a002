"""Ten times SIGKILL among workers whose judge refuses half: exactly what was asked for is accepted."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest

from dlgforge_core.store.run_store import RunStore
from tests.chaos.harness import driver
from tests.support.attempts import assert_exactly, attempts
from tests.support.runs import MODEL, planned
from tests.support.simulated_endpoint import simulated_endpoint
from tests.support.waiting import wait_until

CONCURRENCY = 4
KILLS = 10
PLAN: dict[str, Any] = {
    "total": 100,
    "n_turns": 1,
    "target_languages": ["en", "fr", "es"],
    "accept": {"min_score": 5.5},
    "max_attempts_per_sample": 40,
    "concurrency": CONCURRENCY,
    "patience_s": 30.0,
    "lease_s": 600.0,  # so that only its lock tells that a worker is dead
}


def have_ended(store: RunStore, run_id: str, n: int) -> bool:
    return store.progress(run_id).made >= n


@pytest.mark.nightly
@pytest.mark.parametrize("workers", [1, 4])
def test_ten_kills_change_nothing_of_how_many_are_accepted_and_made(store: RunStore, workers: int) -> None:
    run = planned(store, **PLAN)
    with (
        simulated_endpoint(models=[MODEL], latency_s=0.3, latency_sigma=0.5) as sim,
        contextlib.ExitStack() as stack,
    ):
        alive = [stack.enter_context(driver(store, PLAN, sim=sim)) for _ in range(workers)]
        for nth in range(KILLS):
            wait_until(
                functools.partial(have_ended, store, run.run_id, 15 * (nth + 1)), 60, "some have ended"
            )
            alive.pop(0).kill()
            alive.append(stack.enter_context(driver(store, PLAN, sim=sim)))
        before = store.progress(run.run_id)
        for one in alive:
            one.expect("ready")
            one.finish()
        calls = sim.stats()["calls"]
    assert before.pending, "the last kill came before the end"
    assert_exactly(store, run, 100)
    progress = store.progress(run.run_id)
    assert progress.done_by_language == {"en": 34, "fr": 33, "es": 33}
    made = sum(map(len, attempts(store, run).values()))
    assert 0 <= calls - 3 * made <= KILLS * 2 * CONCURRENCY, "only calls in flight were made again"
