"""A server that has lost the locks of living workers makes nobody dead, in whatever way it lost them."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest

from dlgforge_core.database.database import Database
from dlgforge_core.generation.prepare import PreparedRun
from dlgforge_core.store.run_store import RunStore
from dlgforge_core.store.take_over import LOCK_GRACE_S
from dlgforge_core.store.worker_store import WorkerStore
from tests.support.postgres import TcpPostgres, tcp_postgres
from tests.support.runs import planned

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[TcpPostgres]:
    with tcp_postgres() as made:
        wait_until_up(made)
        RunStore(Database(made.dsn)).migrate()
        yield made


def wait_until_up(server: TcpPostgres) -> None:
    connection = Database(server.dsn).reconnecting("dlgforge test", 60.0)
    connection.run(lambda opened: opened.execute("SELECT 1"))
    connection.close()


def backends(server: TcpPostgres) -> list[int]:
    with psycopg.connect(server.dsn) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'dlgforge worker' ORDER BY pid"
        )
        return [pid for (pid,) in rows.fetchall()]


def crash_recovery(server: TcpPostgres) -> None:
    """One backend is killed, as by the kernel when memory is short: all are ended, the server recovers."""
    os.kill(backends(server)[0], signal.SIGKILL)


def killed_and_started(server: TcpPostgres) -> None:
    server.crash()
    server.start()


def clean_restart(server: TcpPostgres) -> None:
    server.stop()
    server.start()


def sessions_terminated(server: TcpPostgres) -> None:
    with psycopg.connect(server.dsn) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE application_name = 'dlgforge worker'"
        )


def worker_of(server: TcpPostgres, run: PreparedRun) -> WorkerStore:
    return WorkerStore(
        Database(server.dsn),
        run_id=run.run_id,
        fingerprint=run.fingerprint,
        lease_s=600.0,
    )


@pytest.mark.parametrize(
    "lose", [crash_recovery, killed_and_started, clean_restart, sessions_terminated], ids=lambda f: f.__name__
)
async def test_a_lease_outlives_its_lost_lock_for_the_grace(
    server: TcpPostgres, lose: Callable[[TcpPostgres], None]
) -> None:
    run = planned(RunStore(Database(server.dsn)), 4, seed=hash(lose.__name__) % 1000)
    async with worker_of(server, run) as sleeper, worker_of(server, run) as other:
        held = await sleeper.claim(4)
        assert held
        assert await other.take_over() == 0
        lose(server)
        wait_until_up(server)
        started = time.monotonic()
        # `sleeper` has not connected again yet, as if it were slower: its lock is free, its process lives.
        while time.monotonic() - started < LOCK_GRACE_S - 2.5:
            assert await other.take_over() == 0
            await asyncio.sleep(0.3)
        await asyncio.sleep(max(0.0, started + LOCK_GRACE_S + 1.0 - time.monotonic()))
        assert await other.take_over() == len(held), "the grace is over"


async def test_whoever_takes_its_lock_again_within_the_grace_is_left_alone(server: TcpPostgres) -> None:
    run = planned(RunStore(Database(server.dsn)), 4, seed=7)
    async with worker_of(server, run) as one, worker_of(server, run) as other:
        assert await one.claim(4)
        crash_recovery(server)
        wait_until_up(server)
        assert await other.take_over() == 0
        assert not one.lease.holds, "no call is made before Postgres has been asked"
        assert await one.heartbeat({})
        assert one.lease.holds
        await asyncio.sleep(LOCK_GRACE_S + 0.5)
        assert await other.take_over() == 0


async def test_a_worker_that_died_is_taken_over_at_once(server: TcpPostgres) -> None:
    run = planned(RunStore(Database(server.dsn)), 4, seed=8)
    await asyncio.sleep(LOCK_GRACE_S + 0.5)  # from what the tests before have done to the server
    dead = worker_of(server, run)
    await dead.register()
    assert await dead.claim(4)
    async with worker_of(server, run) as other:
        assert await other.take_over() == 0
        await dead._control.aclose()
        await dead._writing.aclose()
        await asyncio.sleep(0.2)
        assert await other.take_over() > 0
