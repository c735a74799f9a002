"""Connections that have patience, against a real server that cuts them off."""

from __future__ import annotations

import threading
import time

import psycopg
import pytest

from dlgforge_core.config import PostgresConfig
from dlgforge_core.errors import StoreError
from dlgforge_core.store.connection import AsyncConnection
from dlgforge_core.store.patience import AsyncPatientConnection, PatientConnection
from dlgforge_core.store.run_store import RunStore

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
    connection = PatientConnection(store.dsn, PostgresConfig(), "dlgforge test", 10.0)
    first = connection.run(pid)
    assert connection.run(pid) == first
    cut(store, first)
    assert connection.run(pid) != first
    connection.close()


def test_patience_ends_with_time_or_when_stopping() -> None:
    stopping = threading.Event()
    connection = PatientConnection(AWAY, PostgresConfig(), "dlgforge test", 0.3, stopping)
    started = time.monotonic()
    with pytest.raises(StoreError, match="Postgres failed: "):
        connection.run(pid)
    assert time.monotonic() - started >= 0.3
    long = PatientConnection(AWAY, PostgresConfig(), "dlgforge test", 3600.0, stopping)
    threading.Timer(0.2, stopping.set).start()
    with pytest.raises(StoreError, match="Postgres failed: "):
        long.run(pid)


def test_a_statement_that_takes_too_long_is_not_tried_again(store: RunStore) -> None:
    tried: list[int] = []

    def slow(connection: psycopg.Connection) -> None:
        tried.append(pid(connection))
        connection.execute("SET statement_timeout TO 50; SELECT pg_sleep(30)")

    connection = PatientConnection(store.dsn, PostgresConfig(), "dlgforge test", 60.0)
    with pytest.raises(StoreError, match="statement timeout"):
        connection.run(slow)
    assert len(tried) == 1
    connection.close()


async def async_pid(connection: AsyncConnection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return int(row[0])


async def test_whoever_asked_for_it_is_told_of_every_opened_connection(store: RunStore) -> None:
    told: list[tuple[int, bool]] = []

    async def on_open(connection: AsyncConnection, again: bool) -> None:
        told.append((await async_pid(connection), again))

    connection = AsyncPatientConnection(store.dsn, PostgresConfig(), "dlgforge test", 10.0, on_open)
    first = await connection.run(async_pid)
    cut(store, first)
    second = await connection.run(async_pid)
    assert told == [(first, False), (second, True)]
    await connection.aclose()


async def test_after_a_deadlock_the_connection_is_kept(store: RunStore) -> None:
    pids: list[int] = []

    async def deadlocked_once(connection: AsyncConnection) -> None:
        pids.append(await async_pid(connection))
        if len(pids) == 1:
            raise psycopg.errors.DeadlockDetected("deadlock detected")

    connection = AsyncPatientConnection(store.dsn, PostgresConfig(), "dlgforge test", 10.0)
    await connection.run(deadlocked_once)
    assert len(pids) == 2
    assert pids[0] == pids[1]
    away = AsyncPatientConnection(AWAY, PostgresConfig(), "dlgforge test", 0.2)
    with pytest.raises(StoreError, match="Postgres failed: "):
        await away.run(async_pid)
    await connection.aclose()
