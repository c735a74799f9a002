"""Locks by purpose: a run's slot at the endpoints, and liveness, shown by a process as long as it lives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dlgforge_core.database import lock_keys
from dlgforge_core.database.connection import Connection
from dlgforge_core.database.database import Database
from dlgforge_core.database.locks import HeldLock, Key


@contextmanager
def generation_slot(database: Database, slots: int, on_wait: Callable[[], None]) -> Iterator[None]:
    """One of `slots` slots for runs that use the endpoints; waits for one, calling `on_wait` once."""
    with database.lock([(lock_keys.SLOTS, slot) for slot in range(slots)], on_wait):
        yield


def hold_liveness_lock(database: Database, name: str) -> HeldLock | None:
    """Show that a process works on `name`, for as long as it lives; None when another one does already."""
    with database.connection() as connection:
        key = _liveness_key(connection, name)
    return database.try_lock([key])


def liveness_lock_is_free(database: Database, name: str) -> bool:
    """Whether no living process works on `name`."""
    with database.connection() as connection, connection.transaction():
        key = _liveness_key(connection, name)
        row = connection.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", key).fetchone()
        return bool(row and row[0])


def _liveness_key(connection: Connection, name: str) -> Key:
    row = connection.execute("SELECT hashtext(%s)", (name,)).fetchone()
    assert row is not None
    return lock_keys.PROCESSES, int(row[0])
