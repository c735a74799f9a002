"""Ten times SIGKILL in one run: the plan is made exactly, and only calls in flight are made again."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from dlgforge_core.store.run_store import RunStore
from tests.chaos.harness import Book, kill_and_resume
from tests.support.runs import MODEL, planned
from tests.support.simulated_endpoint import simulated_endpoint

CONCURRENCY = 16
PLAN: dict[str, Any] = {
    "total": 120,
    "min_turns": 2,
    "max_turns": 6,
    "concurrency": CONCURRENCY,
    "patience_s": 30.0,
    "lease_s": 600.0,  # so that only its lock tells that a worker is dead
}


def test_ten_kills_cost_the_calls_in_flight_and_no_more(store: RunStore) -> None:
    draw = random.Random(20)
    moments = [draw.uniform(0.0, 0.7) for _ in range(10)]
    run = planned(store, **PLAN)
    book = Book(store, run)
    with simulated_endpoint(models=[MODEL], latency_s=0.05, latency_sigma=0.6, record_requests=10_000) as sim:
        kills, last_session = kill_and_resume(store, PLAN, book, sim, moments)
        total = sim.stats()["calls"]

    book.check_complete()
    final = book.turns()
    assert sum(bool(kill.accepted) for kill in kills) >= 7, "most kills came while calls were being made"
    assert kills[-1].turns.keys() != final.keys(), "the last kill came before the end"
    sessions = [*[kill.accepted for kill in kills], last_session]
    for i, kill in enumerate(kills):
        # What was committed stays as it is, to the letter, and is never asked for again.
        assert kill.turns.items() <= final.items()
        assert not kill.durable & {call for session in sessions[i + 1 :] for call in session}
        assert kill.serving <= CONCURRENCY
        # Every answer is durable before its dialogue makes the next call.
        assert len({call.dialogue_id for call in kill.in_flight}) == len(kill.in_flight)
    for session in sessions:
        assert len(set(session)) == len(session), "no call is made twice in one session"

    # Every call was made once, and once more for each kill it was in flight at: exactly.
    made = Counter(call for session in sessions for call in session)
    excused = Counter(call for kill in kills for call in kill.in_flight)
    assert made == Counter(dict.fromkeys(made, 1)) + excused
    assert len(made) == book.needed
    assert total - book.needed == sum(len(kill.in_flight) for kill in kills)
