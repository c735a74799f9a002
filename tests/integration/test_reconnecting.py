"""Reconnecting, against a real server that cuts connections off."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from dlgforge_core.config import PostgresConfig
from dlgforge_core.database import connection as connections
from dlgforge_core.database.connection import AsyncConnection
from dlgforge_core.database.database import Database
from dlgforge_core.errors import StoreError
from dlgforge_core.store.run_store import RunStore
from tests.support.postgres import TcpPostgres, tcp_postgres

pytestmark = pytest.mark.anyio

AWAY = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pid(connection: psycopg.Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])


def cut(store: RunStore, backend: int) -> None:
    with store.connection() as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (backend,))


def test_work_runs_again_on_a_new_connection(store: RunStore) -> None:
    connection = store.database.reconnecting("dlgforge test", 10.0)
    first = connection.run(pid)
    assert connection.run(pid) == first
    cut(store, first)
    assert connection.run(pid) != first
    connection.close()


def test_patience_ends_with_time_or_when_stopping() -> None:
    stopping = threading.Event()
    connection = Database(AWAY).reconnecting("dlgforge test", 0.3, stopping)
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"no connection to .*/none: no server listens"):
        connection.run(pid)
    assert time.monotonic() - started >= 0.3
    long = Database(AWAY).reconnecting("dlgforge test", 3600.0, stopping)
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(StoreError, match=r"no connection to .*/none: no server listens"):
        long.run(pid)


def test_a_statement_that_takes_too_long_is_not_tried_again(store: RunStore) -> None:
    tried: list[int] = []

    def slow(connection: psycopg.Connection) -> None:
        tried.append(pid(connection))
        connection.execute("SET statement_timeout TO 50; SELECT pg_sleep(30)")

    connection = store.database.reconnecting("dlgforge test", 60.0)
    with pytest.raises(StoreError, match="statement timeout"):
        connection.run(slow)
    assert len(tried) == 1
    connection.close()


async def async_pid(connection: AsyncConnection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return int(row[0])


async def test_whoever_asked_for_it_is_informed_of_every_opened_connection(store: RunStore) -> None:
    reported: list[tuple[int, bool]] = []

    async def on_open(connection: AsyncConnection, again: bool) -> None:
        reported.append((await async_pid(connection), again))

    connection = store.database.reconnecting_async("dlgforge test", 10.0, on_open)
    first = await connection.run(async_pid)
    cut(store, first)
    second = await connection.run(async_pid)
    assert reported == [(first, False), (second, True)]
    await connection.aclose()


async def test_after_a_deadlock_the_connection_is_kept(store: RunStore) -> None:
    pids: list[int] = []

    async def deadlocked_once(connection: AsyncConnection) -> None:
        pids.append(await async_pid(connection))
        if len(pids) == 1:
            raise psycopg.errors.DeadlockDetected("deadlock detected")

    connection = store.database.reconnecting_async("dlgforge test", 10.0)
    await connection.run(deadlocked_once)
    assert len(pids) == 2
    assert pids[0] == pids[1]
    away = Database(AWAY).reconnecting_async("dlgforge test", 0.2)
    with pytest.raises(StoreError, match=r"no connection to .*/none: no server listens"):
        await away.run(async_pid)
    await connection.aclose()


# A server that stands still

SOON = PostgresConfig(connect_timeout_s=1.0, statement_timeout_s=0.5)


@pytest.fixture(scope="module")
def server() -> Iterator[TcpPostgres]:
    with tcp_postgres() as made:
        connection = Database(made.dsn).reconnecting("dlgforge test", 30.0)
        connection.run(pid)  # it listens before it is up
        connection.close()
        RunStore(Database(made.dsn)).migrate()
        yield made


@pytest.fixture
def little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE_GRACE_S", 0.5)


def test_the_server_looks_after_its_clients_too(server: TcpPostgres) -> None:
    """Else it keeps for two hours what a vanished machine held; see tests/cluster/test_silence.py."""
    with Database(server.dsn).connection() as connection:
        rows = connection.execute(
            "SELECT name, setting::int FROM pg_settings WHERE name ~ '^tcp_(keepalives|user)'"
        ).fetchall()
    found: dict[str, int] = dict(rows)
    probes_s = found["tcp_keepalives_interval"] * found["tcp_keepalives_count"]
    assert 0 < found["tcp_keepalives_idle"] + probes_s <= 30
    assert 0 < found["tcp_user_timeout"] <= 30_000


@pytest.mark.usefixtures("little_grace")
def test_a_server_that_stands_still_is_given_up(server: TcpPostgres) -> None:
    connection = Database(server.dsn, SOON).reconnecting("dlgforge test", 1.0)
    store = RunStore(Database(server.dsn, SOON))
    connection.run(pid)
    with store.connection() as opened:
        with server.frozen():
            started = time.monotonic()
            with pytest.raises(psycopg.OperationalError, match="is there but has sent nothing for 1 s"):
                opened.execute("SELECT 1")
            assert opened.closed
            with pytest.raises(StoreError, match="no answer within 1 s"):
                connection.run(pid)
            with pytest.raises(StoreError, match="no answer within 1 s"):
                store.run_ids()
            assert time.monotonic() - started < 30
        assert connection.run(pid) > 0, "it goes on when the server does"
    connection.close()


@pytest.mark.usefixtures("little_grace")
@pytest.mark.parametrize("opened_before", [False, True])
async def test_a_server_that_stands_still_for_a_while_is_waited_for(
    server: TcpPostgres, opened_before: bool
) -> None:
    connection = Database(server.dsn, SOON).reconnecting_async("dlgforge test", 30.0)

    async def written(opened: AsyncConnection) -> int:
        async with opened.pipeline(), opened.transaction():
            cursors = [await opened.execute("SELECT generate_series(1, 1000)") for _ in range(3)]
        return sum([len(await cursor.fetchall()) for cursor in cursors])

    if opened_before:
        assert await connection.run(written) == 3000
    with server.frozen():
        work = asyncio.create_task(connection.run(written))
        await asyncio.sleep(3.0)
        assert not work.done()
    assert await work == 3000
    await connection.aclose()


async def test_work_on_a_server_that_stands_still_can_be_cancelled(server: TcpPostgres) -> None:
    connection = Database(server.dsn).reconnecting_async("dlgforge test", 3600.0)
    await connection.run(async_pid)
    with server.frozen():
        work = asyncio.create_task(connection.run(async_pid))
        await asyncio.sleep(0.5)
        started = time.monotonic()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert time.monotonic() - started < 40
    assert await connection.run(async_pid) > 0
    await connection.aclose()


async def test_an_answer_that_comes_bit_by_bit_is_no_silence(
    server: TcpPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "SILENCE_GRACE_S", -59.0)
    opened = await connections.connect_async(server.dsn, PostgresConfig())
    # A sign of life every half second, and in all more time than silence may last.
    await opened.execute(
        "DO $$ BEGIN FOR i IN 1..4 LOOP PERFORM pg_sleep(0.5); RAISE NOTICE 'still at it'; END LOOP; END $$"
    )
    with pytest.raises(psycopg.OperationalError, match="sent nothing for 1 s"):
        await opened.execute("SELECT pg_sleep(2)")
