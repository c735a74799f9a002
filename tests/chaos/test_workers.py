"""Workers that die, sleep or lose Postgres or an endpoint in the middle of a run."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from dlgforge_core.database.database import Database
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.take_over import LOCK_GRACE_S
from tests.chaos.harness import Book, driver, repeated
from tests.support.postgres import tcp_postgres, wait_for_sessions_to_end
from tests.support.runs import MODEL, planned, spec
from tests.support.simulated_endpoint import SimulatedEndpoint, simulated_endpoint
from tests.support.waiting import wait_until

CONCURRENCY = 8


def plan(total: int, **settings: Any) -> dict[str, Any]:
    return {
        "total": total,
        "n_turns": 3,
        "concurrency": CONCURRENCY,
        "max_open_dialogues": 2 * CONCURRENCY,
        "patience_s": 30.0,
        "lease_s": 600.0,
        **settings,
    }


def wait_until_half_way(store: RunStore, run_id: str) -> None:
    def half_way() -> bool:
        progress = store.progress(run_id)
        return progress.turns >= progress.turns_planned / 2

    wait_until(half_way, 30, "half of the turns are committed")


def test_what_a_killed_worker_held_is_finished_by_the_other_soon(store: RunStore) -> None:
    settings = plan(60)
    run = planned(store, **settings)
    book = Book(store, run)
    with simulated_endpoint(models=[MODEL], latency_s=0.05, record_requests=10_000) as sim:
        with driver(store, settings, sim=sim) as victim, driver(store, settings, sim=sim) as other:
            for each in (victim, other):
                each.expect("ready")
            wait_until_half_way(store, run.run_id)
            victim.kill()
            wait_for_sessions_to_end(store, n_left=2)
            in_flight = set(book.accepted(sim)) - book.durable()
            turns = book.turns()
            started = time.monotonic()
            other.finish()
            took_s = time.monotonic() - started
        made = book.accepted(sim)
    book.check_complete()
    assert turns.items() <= book.turns().items()
    # Its lease would have held for ten minutes: its lock told that it is dead.
    assert took_s < 20
    again = repeated(made)
    assert set(again) <= in_flight, "only calls in flight at the kill are made again"
    assert max(again.values(), default=0) <= 1
    assert sum(again.values()) <= 2 * CONCURRENCY
    assert len({worker for _, _, _, worker, _ in turns.values()}) == 2, "both had worked"


def test_a_worker_that_slept_beyond_its_lease_writes_nothing_more_under_it(store: RunStore) -> None:
    settings = plan(60, lease_s=2.0)
    run = planned(store, **settings)
    book = Book(store, run)
    with simulated_endpoint(models=[MODEL], latency_s=0.1, record_requests=10_000) as sim:
        with driver(store, settings, sim=sim) as sleeper, driver(store, settings, sim=sim) as other:
            for each in (sleeper, other):
                each.expect("ready")
            wait_until(lambda: len(book.turns()) >= 20, 30, "some turns are committed")
            sleeper.stop()
            in_flight = set(book.accepted(sim)) - book.durable()
            with store.connection() as connection:
                held = connection.execute(
                    "SELECT worker_id, dialogue_id FROM dialogues WHERE worker_id IS NOT NULL"
                ).fetchall()
            wait_until(lambda: _ended(store) == 1, 30, "the lease has expired and was taken over")
            (lost,) = _ended_workers(store)
            before = {key for key, turn in book.turns().items() if turn[3] == lost}
            was_held = {dialogue_id for worker, dialogue_id in held if worker == lost}
            assert was_held, "it held dialogues when it was stopped"
            wait_until(lambda: _held_by_others(store, lost, was_held), 30, "the other is at its dialogues")
            sleeper.go_on()
            for each in (sleeper, other):
                each.finish()
        made = book.accepted(sim)
    book.check_complete()
    after = {key for key, turn in book.turns().items() if turn[3] == lost}
    assert after == before, "no turn was committed under the lost lease"
    again = repeated(made)
    assert set(again) <= in_flight, "only calls in flight when it was stopped are made again"
    assert max(again.values(), default=0) <= 1


def _ended_workers(store: RunStore) -> list[int]:
    with store.connection() as connection:
        rows = connection.execute("SELECT worker_id FROM workers WHERE ended_at IS NOT NULL").fetchall()
    return [row[0] for row in rows]


def _ended(store: RunStore) -> int:
    return len(_ended_workers(store))


def _held_by_others(store: RunStore, worker_id: int, dialogues: set[str]) -> bool:
    with store.connection() as connection:
        row = connection.execute(
            "SELECT count(*) FROM dialogues WHERE worker_id <> %s AND dialogue_id = ANY(%s)",
            (worker_id, list(dialogues)),
        ).fetchone()
    return bool(row and row[0])


def test_a_run_rides_through_a_restart_of_postgres_without_repeating_a_call() -> None:
    with tcp_postgres() as server, simulated_endpoint(models=[MODEL], latency_s=0.05) as sim:
        store = RunStore(Database(server.dsn))
        store.migrate()
        run = planned(store, **plan(60))
        book = Book(store, run)
        worker = WorkerThread(spec(store, run, Endpoint("sim", sim.base_url)))
        worker.start()
        try:
            wait_until_half_way(store, run.run_id)
            server.stop()
            time.sleep(1.0)
            assert not worker.wait(0)
            server.start()
            assert worker.wait(60)
            worker.result()
        finally:
            worker.stop("the test is over")
            worker.wait(10)
        book.check_complete()
        assert sim.stats()["calls"] == book.needed


def test_a_restarted_postgres_which_has_forgotten_all_locks_makes_nobody_dead() -> None:
    with tcp_postgres() as server, simulated_endpoint(models=[MODEL], latency_s=0.05) as sim:
        store = RunStore(Database(server.dsn))
        store.migrate()
        settings = plan(80, lease_s=9.0)  # so that each looks for dead ones every three seconds
        run = planned(store, **settings)
        book = Book(store, run)
        with driver(store, settings, sim=sim) as slow, driver(store, settings, sim=sim) as other:
            for each in (slow, other):
                each.expect("ready")
            wait_until_half_way(store, run.run_id)
            server.stop()
            slow.stop()
            server.start()
            time.sleep(3.5)  # `slow` has not connected again, `other` has looked for dead ones
            with store.connection() as connection:
                locks = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
                assert locks.fetchone() == (1,)
            assert _ended(store) == 0
            slow.go_on()
            for each in (slow, other):
                each.finish()
        book.check_complete()
        assert sim.stats()["calls"] == book.needed


def test_postgres_recovering_from_a_crash_makes_nobody_dead() -> None:
    """One backend is killed, as when memory is short, and one worker is slow to come back.

    The server ends all sessions and begins anew, but its start time stays.
    """
    with tcp_postgres() as server, simulated_endpoint(models=[MODEL], latency_s=0.1) as sim:
        store = RunStore(Database(server.dsn))
        store.migrate()
        settings = plan(100, lease_s=9.0)
        run = planned(store, **settings)
        book = Book(store, run)
        started = time.monotonic()
        with driver(store, settings, sim=sim) as slow, driver(store, settings, sim=sim) as other:
            for each in (slow, other):
                each.expect("ready")
            wait_until_half_way(store, run.run_id)
            time.sleep(max(0.0, started + LOCK_GRACE_S + 0.5 - time.monotonic()))
            assert store.progress(run.run_id).pending, "there is something left to do"
            slow.stop()
            with store.connection() as connection:
                victim = connection.execute(
                    "SELECT min(pid) FROM pg_stat_activity WHERE application_name = 'dlgforge worker'"
                ).fetchone()
            assert victim is not None
            os.kill(victim[0], signal.SIGKILL)
            time.sleep(3.5)  # `other` has connected again and looked for dead ones, `slow` has not
            assert _ended(store) == 0
            slow.go_on()
            for each in (slow, other):
                each.finish()
        book.check_complete()
        assert sim.stats()["calls"] == book.needed


def test_one_of_two_endpoints_killed_in_mid_run_costs_no_dialogue_and_at_most_twice_the_time(
    store: RunStore,
) -> None:
    options: dict[str, Any] = {"models": [MODEL], "latency_s": 0.1, "slots": CONCURRENCY}

    def timed(seed: int, *, kill: bool) -> float:
        settings = plan(60, seed=seed, concurrency=2 * CONCURRENCY, max_open_dialogues=4 * CONCURRENCY)
        with simulated_endpoint(**options) as a, simulated_endpoint(**options) as b:
            run = planned(store, **settings)
            endpoints = [_endpoint("a", a), _endpoint("b", b)]
            worker = WorkerThread(spec(store, run, *endpoints))
            started = time.monotonic()
            worker.start()
            try:
                if kill:
                    wait_until(lambda: b.stats()["calls"] >= 20, 30, "the second endpoint is at work")
                    b.kill()
                assert worker.wait(90)
                worker.result()
            finally:
                worker.stop("the test is over")
                worker.wait(10)
            assert store.progress(run.run_id).done == 60
            return time.monotonic() - started

    both = timed(1, kill=False)
    one = timed(2, kill=True)
    assert one <= 2.5 * both, f"{one:.1f} s with one endpoint, {both:.1f} s with both"


def _endpoint(name: str, sim: SimulatedEndpoint) -> Endpoint:
    return Endpoint(name, sim.base_url, max_in_flight=CONCURRENCY)
