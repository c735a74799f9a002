"""Locks that a dead holder cannot keep: Postgres session advisory locks, held on connections of their own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import psycopg

from dlgforge_core.config import PostgresConfig
from dlgforge_core.database import lock_keys
from dlgforge_core.database.connection import connect
from dlgforge_core.errors import StoreError

_CHECK_S = 5.0
_POLL_S = 1.0


class HeldLock:
    """A lock held until `release` or the end of the process; taken again when the connection was lost."""

    def __init__(
        self, dsn: str, config: PostgresConfig, keys: tuple[int, int], connection: psycopg.Connection
    ):
        self._dsn, self._config, self._keys, self._connection = dsn, config, keys, connection
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lock-{keys[1]}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let go; doing so twice does no harm."""
        self._released.set()
        self._connection.close()

    def _keep(self) -> None:
        while not self._released.wait(_CHECK_S):
            try:
                self._connection.execute("SELECT 1")
            except psycopg.Error:
                self._connection.close()
                if not self._released.is_set():
                    self._take_again()

    def _take_again(self) -> None:
        try:
            fresh = _open(self._dsn, self._config)
        except (psycopg.Error, StoreError):
            return  # the server is away; the next check tries again
        if self._released.is_set() or not _try(fresh, self._keys):
            fresh.close()
        else:
            self._connection = fresh


def try_lock(dsn: str, config: PostgresConfig, choices: Sequence[tuple[int, int]]) -> HeldLock | None:
    """The first of these locks that is free, held; None when none is. Raises StoreError."""
    connection = _open(dsn, config)
    try:
        for keys in choices:
            if _try(connection, keys):
                return HeldLock(dsn, config, keys, connection)
    except psycopg.Error as error:
        connection.close()
        raise StoreError(f"Postgres failed while taking a lock: {error}") from None
    connection.close()
    return None


@contextmanager
def generation_slot(
    dsn: str, config: PostgresConfig, slots: int, on_wait: Callable[[], None]
) -> Iterator[None]:
    """One of `slots` places for runs that use the endpoints; waits for one, `on_wait` is told so once."""
    told = False
    while (lock := try_lock(dsn, config, [(lock_keys.SLOTS, slot) for slot in range(slots)])) is None:
        if not told:
            on_wait()
            told = True
        time.sleep(_POLL_S)
    try:
        yield
    finally:
        lock.release()


def process_keys(connection: psycopg.Connection, name: str) -> tuple[int, int]:
    """The lock that says that the process working on `name` lives."""
    row = connection.execute("SELECT hashtext(%s)", (name,)).fetchone()
    assert row is not None
    return lock_keys.PROCESSES, int(row[0])


def hold_process_lock(dsn: str, config: PostgresConfig, name: str) -> HeldLock | None:
    """Show that a process works on `name`, for as long as it lives; None when another one does already."""
    with _open(dsn, config) as connection:
        keys = process_keys(connection, name)
    return try_lock(dsn, config, [keys])


def process_lock_is_free(dsn: str, config: PostgresConfig, name: str) -> bool:
    """Whether no living process works on `name`."""
    with _open(dsn, config) as connection, connection.transaction():
        row = connection.execute(
            "SELECT pg_try_advisory_xact_lock(%s, %s)", process_keys(connection, name)
        ).fetchone()
        return bool(row and row[0])


def _open(dsn: str, config: PostgresConfig) -> psycopg.Connection:
    try:
        return connect(dsn, config)
    except psycopg.OperationalError as error:
        raise StoreError(f"Postgres cannot be reached: {str(error).strip()}") from None


def _try(connection: psycopg.Connection, keys: tuple[int, int]) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", keys).fetchone()
    return bool(row and row[0])
