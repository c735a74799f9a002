"""Faults at random over one long run, one after the other: nothing is lost, nothing made twice.

Ten of them, or as many as DLGFORGE_FAULTS says, 70 at most; DLGFORGE_FAULTS_SEED has the same come again.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from dlgforge_core.runtime.cluster.head import LOST_AFTER_S
from dlgforge_core.store.run_store import RunStore
from tests.chaos.harness import Book, SharedSeedError, repeated
from tests.cluster.cluster import Cluster, Running, driver
from tests.cluster.machines import Machine
from tests.support.postgres import TcpPostgres
from tests.support.runs import planned
from tests.support.simulated_endpoint import SimulatedEndpoint
from tests.support.waiting import wait_until

FAULTS = int(os.environ.get("DLGFORGE_FAULTS", "10"))
SEED = int(os.environ.get("DLGFORGE_FAULTS_SEED") or random.randrange(10**6))
CALLS = 4
"""Of each worker at once."""
MOST_S = 240.0
"""Within which the run goes on after a fault."""
RECORDED = 10_000
"""Calls that the endpoint remembers."""

_WORKS = re.compile(r"(a worker|the coordinator) runs on (\S+), process (\d+)$")
_LOST = re.compile(r"(a worker|the coordinator) on (\S+), process (\d+), was lost ")
_BEGINS = "using the Ray cluster"

pytestmark = [pytest.mark.timeout(900 + 300 * FAULTS), pytest.mark.nightly]


@dataclass(frozen=True)
class Actor:
    """A worker or the coordinator, as messages name it: its process as it is on its machine."""

    kind: str
    host: str
    pid: int

    @property
    def coordinates(self) -> bool:
        """Whether workers go with it."""
        return self.kind == "the coordinator"


def actors(pattern: re.Pattern[str], log: str) -> list[Actor]:
    """Return whom the lines that match name, in their order."""
    found = filter(None, map(pattern.match, log.splitlines()))
    return [Actor(match[1], match[2], int(match[3])) for match in found]


def at_work(log: str) -> set[Actor]:
    """Return who works, by what the latest driver has printed."""
    working: set[Actor] = set()
    for line in log.rpartition(_BEGINS)[2].splitlines():
        working |= set(actors(_WORKS, line))
        lost = actors(_LOST, line)
        working -= set(lost)
        if line.startswith("the coordinator was lost") or any(actor.coordinates for actor in lost):
            working.clear()
    return working


@dataclass(frozen=True)
class Fault:
    """What has happened, whose loss the driver must report, and how many calls it may cost."""

    name: str
    whom: str = ""
    lost: frozenset[Actor] = frozenset()
    calls: int = 2 * CALLS

    def reported(self, messages: str) -> bool:
        """Whether they name who was lost; of a coordinator's workers they say nothing."""
        named = actors(_LOST, messages)
        return self.lost <= set(named) or any(actor.coordinates for actor in named)

    def __str__(self) -> str:
        return f"{self.name} {self.whom}".strip()


class Drivers:
    """A driver of the run, and the next one when it was killed, or there were too many losses for one."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start, self._stack = start, ExitStack()
        self.running: Running = self._stack.enter_context(start())
        self.gave_up = 0

    @property
    def log(self) -> str:
        """What all of them have printed."""
        return self.running.log

    def look(self) -> None:
        """Run the same again when it has given up, which it may for one reason only."""
        if self.running.process.poll() in (None, 0):
            return
        end = self.log[-3000:]
        assert "again and again" in end, end
        print(f"a driver gave up: {end.strip().splitlines()[-1]}", flush=True)
        self.gave_up += 1
        self.replace()

    def replace(self) -> None:
        """Kill it, if it lives, and run the same again; what it cannot reach as it begins may end it."""
        self._stack.close()
        printed_before = len(self.log)
        self.running = self._stack.enter_context(self._start())
        process = self.running.process

        def begun() -> bool:
            assert process.poll() is None, self.log[-3000:]
            return bool(actors(_WORKS, self.log[printed_before:]))

        wait_until(begun, MOST_S, "the driver has begun")

    @contextmanager
    def held(self) -> Iterator[None]:
        """End the driver afterwards."""
        try:
            yield
        finally:
            self._stack.close()


@dataclass
class Faults:
    """What may happen to a run; each ends when it is undone, or left to the product to undo."""

    cluster: Cluster
    desk: Machine
    database: Machine
    postgres: TcpPostgres
    drivers: Drivers
    chance: random.Random
    done: list[Fault] = field(default_factory=list)

    def strike(self) -> Fault:
        """Have one happen."""
        every: list[Callable[[], Fault]] = [
            self.worker_killed,
            self.coordinator_killed,
            self.machine_lost,
            self.machine_cut_off,
            self.postgres_cut_off,
            self.postgres_restarted,
            self.postgres_crashed,
            self.driver_killed,
            self.driver_cut_off,
        ]
        fault = self.chance.choice(every)()
        self.done.append(fault)
        return fault

    def worker_killed(self) -> Fault:
        """End the process of a worker."""
        victim = self._kill(lambda actor: not actor.coordinates)
        return Fault("worker_killed", f"on {victim.host}", frozenset({victim}), CALLS)

    def coordinator_killed(self) -> Fault:
        """End the process of the coordinator, and with it its workers."""
        victim = self._kill(lambda actor: actor.coordinates)
        return Fault("coordinator_killed", f"on {victim.host}", frozenset({victim}))

    def machine_lost(self) -> Fault:
        """Have a machine vanish, and a new one come at its address."""
        node = self._node()
        there = self._at_work_on(node)
        self.cluster.lan.lose(node)
        self._last()
        self._bring_back(node)
        return Fault("machine_lost", node.name, there)

    def machine_cut_off(self) -> Fault:
        """Cut a machine off for a while; one that the cluster has given up by then starts anew."""
        node = self._node()
        there = self._at_work_on(node)
        with self.cluster.lan.without(node):
            lasted = f"{node.name} {self._last():.0f} s"
        try:
            wait_until(lambda: node.name in self.cluster.living(), 40)
        except AssertionError:
            self.cluster.lan.lose(node)
            self._bring_back(node)
            return Fault("machine_cut_off", f"{lasted}, given up", there)
        return Fault("machine_cut_off", lasted)

    def postgres_cut_off(self) -> Fault:
        """Cut the machine of Postgres off for a while."""
        with self.cluster.lan.without(self.database):
            return Fault("postgres_cut_off", f"{self._last():.0f} s")

    def postgres_restarted(self) -> Fault:
        """Stop Postgres, and start it anew."""
        self.postgres.stop()
        self.postgres.start()
        return Fault("postgres_restarted")

    def postgres_crashed(self) -> Fault:
        """Kill Postgres, and have it recover."""
        self.postgres.crash()
        self.postgres.start()
        return Fault("postgres_crashed")

    def driver_killed(self) -> Fault:
        """End the driver's process, and run the same again."""
        self.drivers.replace()
        return Fault("driver_killed")

    def driver_cut_off(self) -> Fault:
        """Cut the driver off from the cluster and Postgres, for less than what counts as a lost head."""
        with self.cluster.lan.without(self.desk):
            return Fault("driver_cut_off", f"{self._last(LOST_AFTER_S / 2):.0f} s")

    def _kill(self, wanted: Callable[[Actor], bool]) -> Actor:
        def try_one() -> Actor | None:
            self.drivers.look()
            victims = [actor for actor in at_work(self.drivers.log) if wanted(actor)]
            victim = self.chance.choice(sorted(victims, key=str)) if victims else None
            return victim if victim and self._end_process(victim) else None

        return wait_until(try_one, MOST_S, "somebody to kill is at work")

    def _end_process(self, actor: Actor) -> bool:
        """Whether it was there to be killed: the fault before may have ended it, unnoticed yet."""
        (node,) = (node for node in self.cluster.nodes if node.name == actor.host)
        for process in node.processes():
            if node.pid_on_it(process) == actor.pid:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    return False
                return True
        return False

    def _at_work_on(self, node: Machine) -> frozenset[Actor]:
        """Return whose loss is reported when the machine is lost: all of it, or the coordinator's alone."""
        there = {actor for actor in at_work(self.drivers.log) if actor.host == node.name}
        return frozenset({actor for actor in there if actor.coordinates} or there)

    def _node(self) -> Machine:
        return self.chance.choice(self.cluster.nodes)

    def _last(self, most_s: float = 20.0) -> float:
        seconds = self.chance.uniform(1, most_s)
        time.sleep(seconds)
        return seconds

    def _bring_back(self, node: Machine) -> None:
        self.cluster.lan.start(node)
        self.cluster.start_node(node)


def booked(store: RunStore, plan: dict[str, Any]) -> Book:
    """Return the book of the first plan, from its seed on, whose calls can be told apart."""
    while True:
        with suppress(SharedSeedError):
            return Book(store, planned(store, **plan))
        plan["seed"] += 1


def test_faults_at_random_lose_nothing(
    cluster: Cluster,
    desk: Machine,
    database: Machine,
    postgres: TcpPostgres,
    store: RunStore,
    sim: SimulatedEndpoint,
    tmp_path: Path,
) -> None:
    print(f"DLGFORGE_FAULTS={FAULTS} DLGFORGE_FAULTS_SEED={SEED}", flush=True)
    plan: dict[str, Any] = {
        "total": 40 + 12 * FAULTS,  # more than are made meanwhile
        "n_turns": 3,
        "seed": SEED,
        "concurrency": CALLS,
        "max_open_dialogues": 2 * CALLS,
        "patience_s": 60.0,
        "lease_s": 6.0,
        "distributed": {"enabled": True},
    }
    sim.configure(latency_s=2.0, record_requests=RECORDED)
    book = booked(store, plan)
    dsn = store.database.dsn

    def start() -> Any:
        address = cluster.client_address
        return driver(cluster, desk, tmp_path, address=address, dsn=dsn, plan=plan, sim=sim)

    chance = random.Random(SEED)
    drivers = Drivers(start)
    with drivers.held():
        faults = Faults(cluster, desk, database, postgres, drivers, chance)
        committed = go_on(book, drivers)
        for number in range(1, FAULTS + 1):
            time.sleep(chance.uniform(0, 5))
            messages_before = len(drivers.log)
            fault = faults.strike()
            since = time.monotonic()
            now = go_on(book, drivers)
            assert committed.items() <= now.items(), f"{fault}: what was committed is not as it was"
            committed = now
            took_s = time.monotonic() - since
            wait_for_report(fault, drivers, messages_before)
            reported_s = time.monotonic() - since
            print(
                f"{number:3} {fault}: on after {took_s:.1f} s, {len(now)} turns, "
                f"{len(fault.lost)} losses reported after {reported_s:.1f} s",
                flush=True,
            )
        sim.configure(latency_s=0.05)
        wait_until(lambda: finished(drivers), MOST_S + FAULTS * 6, "the run ends")
    book.check_complete()
    assert committed.items() <= book.turns().items()
    calls = book.accepted(sim)
    again = sum(repeated(calls).values())
    kinds = dict(Counter(fault.name for fault in faults.done))
    print(f"{kinds}: {again} of {len(calls)} calls made again, {drivers.gave_up} drivers gave up", flush=True)
    assert len(calls) < RECORDED, "some calls are forgotten: use fewer faults"
    assert again <= sum(fault.calls for fault in faults.done) + 2 * CALLS * drivers.gave_up


def go_on(book: Book, drivers: Drivers) -> dict[Any, Any]:
    """Wait until the run has committed more turns than at this moment, and return them."""
    at_once = len(book.turns())

    def look() -> dict[Any, Any]:
        drivers.look()
        assert drivers.running.process.poll() is None, "the run ended before its faults: plan more"
        turns = book.turns()
        return turns if len(turns) > at_once else {}

    try:
        return wait_until(look, MOST_S, f"more than {at_once} turns")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{drivers.log[-6000:]}") from None


def wait_for_report(fault: Fault, drivers: Drivers, messages_before: int) -> None:
    """Wait until the driver has reported who was lost, on which machine."""
    gave_up = drivers.gave_up

    def look() -> bool:
        drivers.look()
        # One that gives up has another reason to print.
        return drivers.gave_up > gave_up or fault.reported(drivers.log[messages_before:])

    try:
        wait_until(look, MOST_S, f"{fault}: {fault.lost} are reported as lost")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{drivers.log[-6000:]}") from None


def finished(drivers: Drivers) -> bool:
    """Whether a driver has come to the end of the run."""
    drivers.look()
    return drivers.running.process.poll() == 0
