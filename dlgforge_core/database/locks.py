"""Locks that a dead holder cannot keep: Postgres session advisory locks, held on connections of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import psycopg

from dlgforge_core.database.connection import Connection

_CHECK_S = 5.0

Key = tuple[int, int]
"""A lock: what it is for, of `lock_keys`, and which one."""


class HeldLock:
    """A lock held until `release` or the end of the process; taken again when the connection was lost."""

    def __init__(self, connect: Callable[[], Connection], key: Key, connection: Connection) -> None:
        self._connect, self._key, self._connection = connect, key, connection
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lock-{key[1]}", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Release the lock; doing so twice does no harm."""
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
            fresh = self._connect()
        except psycopg.Error:
            return  # the server is away; the next check tries again
        if self._released.is_set() or not _try(fresh, self._key):
            fresh.close()
        else:
            self._connection = fresh


def try_lock(connect: Callable[[], Connection], keys: Sequence[Key]) -> HeldLock | None:
    """Return the first of these locks that is free, held on a connection of its own; None without one."""
    connection = connect()
    try:
        for key in keys:
            if _try(connection, key):
                return HeldLock(connect, key, connection)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _try(connection: Connection, key: Key) -> bool:
    row = connection.execute("SELECT pg_try_advisory_lock(%s, %s)", key).fetchone()
    return bool(row and row[0])
