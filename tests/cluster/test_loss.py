"""Machines that vanish, links that fail for a while: nothing is lost, nothing made twice, nobody hangs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dlgforge_core.store.run_store import RunStore
from tests.chaos.harness import Book, repeated
from tests.cluster.cluster import Cluster, Running, driver
from tests.cluster.machines import Machine
from tests.support.processes import command_line
from tests.support.run_state import worker_processes
from tests.support.runs import planned
from tests.support.simulated_endpoint import SimulatedEndpoint
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(900)

CALLS = 4
"""Of each worker at once."""
SECONDS_OF_CALLS = 0.3


class Run:
    """A run of two workers on two machines, whose driver is on the desk."""

    def __init__(self, cluster: Cluster, store: RunStore, sim: SimulatedEndpoint, book: Book) -> None:
        self.cluster, self.store, self.sim, self.book = cluster, store, sim, book
        self.driver: Running

    def wait_until_both_work(self) -> None:
        """Wait until workers on two machines have committed turns."""

        def look() -> bool:
            by = {turn[3] for turn in self.book.turns().values()}
            found = {h for n, h, _ in worker_processes(self.store, self.book.run_id) if n in by}
            return len(found) == 2

        wait_until(look, 120, "two machines have committed turns")

    def node(self, *, coordinates: bool) -> Machine:
        """Return the machine that the coordinator is on, or the other."""
        here = [_coordinates(node) for node in self.cluster.nodes]
        assert here.count(True) == 1
        return self.cluster.nodes[here.index(coordinates)]

    def finish(self, before: dict[Any, Any], *, lost_calls: int) -> str:
        """Let it finish, hold it against the plan, and return what the driver printed.

        What was committed `before` is there as it was, and at most so many calls were made again.
        """
        log = self.driver.finish(300)
        self.book.check_complete()
        assert before.items() <= self.book.turns().items()
        again = repeated(self.book.accepted(self.sim))
        assert sum(again.values()) <= lost_calls, again
        return log


def _coordinates(node: Machine) -> bool:
    return any("Coordinator" in command_line(process) for process in node.processes())


@contextmanager
def run(
    cluster: Cluster,
    machine: Machine,
    store: RunStore,
    sim: SimulatedEndpoint,
    folder: Path,
    total: int,
    **settings: Any,
) -> Iterator[Run]:
    """Yield a run of so many dialogues in its midst."""
    plan = {
        "total": total,
        "n_turns": 3,
        "concurrency": CALLS,
        "max_open_dialogues": 2 * CALLS,
        "patience_s": 60.0,
        "lease_s": 6.0,
        "distributed": {"enabled": True},
        **settings,
    }
    sim.configure(latency_s=SECONDS_OF_CALLS)
    made = Run(cluster, store, sim, Book(store, planned(store, **plan)))
    inside = machine in (cluster.head, *cluster.nodes)
    address = cluster.address if inside else cluster.client_address
    dsn = store.database.dsn
    with driver(cluster, machine, folder, address=address, dsn=dsn, plan=plan, sim=sim) as running:
        made.driver = running
        made.wait_until_both_work()
        yield made


def stay_away(seconds: float) -> None:
    """Let a fault last: there is nothing to wait for."""
    time.sleep(seconds)


def test_postgres_is_cut_off_and_comes_back(
    cluster: Cluster, database: Machine, store: RunStore, sim: SimulatedEndpoint, tmp_path: Path
) -> None:
    with run(cluster, cluster.head, store, sim, tmp_path, 24) as running:
        before = running.book.turns()
        with cluster.lan.without(database):
            stay_away(25)
        running.finish(before, lost_calls=2 * CALLS)


@pytest.mark.parametrize("role", ["worker", pytest.param("coordinator", marks=pytest.mark.nightly)])
def test_a_machine_that_vanishes_costs_the_calls_in_flight(
    cluster: Cluster, desk: Machine, store: RunStore, sim: SimulatedEndpoint, tmp_path: Path, role: str
) -> None:
    with run(cluster, desk, store, sim, tmp_path, 36) as running:
        victim = running.node(coordinates=role == "coordinator")
        before = running.book.turns()
        cluster.lan.lose(victim)
        # A worker's calls in flight, and as many whose results were on their way to Postgres.
        log = running.finish(before, lost_calls=2 * CALLS if role == "worker" else 4 * CALLS)
    assert f"on {victim.name}, process" in log
    assert "lost" in log


@pytest.mark.parametrize("seconds", [30, pytest.param(300, marks=pytest.mark.nightly)])
def test_a_machine_that_is_cut_off_and_comes_back(
    cluster: Cluster, desk: Machine, store: RunStore, sim: SimulatedEndpoint, tmp_path: Path, seconds: int
) -> None:
    with run(cluster, desk, store, sim, tmp_path, 50 if seconds < 60 else 400) as running:
        victim = running.node(coordinates=False)
        before = running.book.turns()
        with cluster.lan.without(victim):
            stay_away(seconds)
        log = running.finish(before, lost_calls=2 * CALLS)
    assert f"the worker on {victim.name}, process" in log


@pytest.mark.nightly
def test_the_driver_is_cut_off_and_comes_back(
    cluster: Cluster, desk: Machine, store: RunStore, sim: SimulatedEndpoint, tmp_path: Path
) -> None:
    with run(cluster, desk, store, sim, tmp_path, 60) as running:
        before = running.book.turns()
        with cluster.lan.without(desk):
            stay_away(15)
        running.finish(before, lost_calls=2 * CALLS)


@pytest.mark.nightly
def test_a_driver_that_is_cut_off_for_good_ends_with_the_reason(
    cluster: Cluster, desk: Machine, store: RunStore, sim: SimulatedEndpoint, tmp_path: Path
) -> None:
    with run(cluster, desk, store, sim, tmp_path, 400) as running, cluster.lan.without(desk):
        log = running.driver.fail(300)
    address = cluster.client_address.removeprefix("ray://")
    assert f"failed: the head of the Ray cluster at {address} has been out of reach for " in log
    assert "Run the same configuration again to resume run " in log
