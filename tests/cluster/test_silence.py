"""What a machine that has vanished leaves behind: its kernel has told nobody that its connections end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from dlgforge_core.config.endpoints import CALL_TIMEOUT_S
from dlgforge_core.database.locks import Key
from dlgforge_core.generation.worker_thread import WorkerThread
from dlgforge_core.llm.endpoints import Endpoint
from dlgforge_core.store.run_store import RunStore
from tests.chaos.harness import Book
from tests.cluster.machines import Machine, Network
from tests.end_to_end.job import ROOT
from tests.support.runs import MODEL, planned, spec
from tests.support.simulated_endpoint import simulated_endpoint
from tests.support.waiting import seconds_until, wait_until

pytestmark = [pytest.mark.timeout(400), pytest.mark.nightly]

KEY: Key = (1, 2)

HOLDS = """
import sys, time
from dlgforge_core.database.database import Database
database = Database(sys.stdin.readline().strip())
held = database.try_lock([(1, 2)])
with database.connection() as connection, connection.transaction():
    connection.execute("CREATE TABLE half (x int)")
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def guest(lan: Network) -> Iterator[Machine]:
    """Yield a machine to lose."""
    machine = lan.machine("guest")
    yield machine
    machine.power_off()


def test_what_it_held_in_postgres_is_free_within_a_minute(
    lan: Network, guest: Machine, store: RunStore
) -> None:
    holder = guest.popen(
        [sys.executable, "-c", HOLDS], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(store.database.dsn.encode() + b"\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == b"held\n"
    assert store.database.try_lock([KEY]) is None
    lan.lose(guest)

    def free() -> bool:
        held = store.database.try_lock([KEY])
        if held is not None:
            held.release()
        return held is not None

    print(f"free after {seconds_until(free, 60, 'its lock is free'):.0f} s")
    with store.connection() as connection:
        connection.execute("CREATE TABLE half (x int)")  # would wait for one that is being made


def test_calls_under_way_at_it_are_made_elsewhere_before_their_time_is_over(
    lan: Network, guest: Machine, models: Machine, store: RunStore
) -> None:
    run = planned(store, 40, n_turns=2, concurrency=8, max_open_dialogues=16)
    with (
        simulated_endpoint(host=guest.address, enter=guest.enter, models=[MODEL], latency_s=0.3) as lost,
        simulated_endpoint(host=models.address, enter=models.enter, models=[MODEL], latency_s=0.3) as other,
    ):
        endpoints = [
            Endpoint(name, sim.base_url, max_in_flight=4) for name, sim in (("a", lost), ("b", other))
        ]
        worker = WorkerThread(spec(store, run, *endpoints))
        worker.start()
        try:
            wait_until(lambda: lost.stats()["calls"] > 20, 60, "it is at work")
            lan.cut(guest)
            took_s = seconds_until(lambda: worker.wait(0.1), CALL_TIMEOUT_S - 30, "the run ends")
            worker.result()
        finally:
            worker.stop("the test is over")
            worker.wait(30)
            lan.mend(guest)
        print(f"done {took_s:.0f} s after")
    Book(store, run).check_complete()
