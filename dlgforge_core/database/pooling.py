"""Poolers that lend one session of Postgres to several connections, which the run state cannot live with."""

from __future__ import annotations

from collections.abc import Callable

from dlgforge_core.database.connection import Connection
from dlgforge_core.errors import StoreError

# A pooler in use by others may lend another session at times.
_TRIES = 3

SHARED_SESSIONS = (
    "a connection pooler is between that gives every transaction another session (PgBouncer's pool_mode "
    "transaction or statement), and the run state needs sessions of its own; name Postgres itself in the "
    "DSN, or set pool_mode = session in the pooler"
)


def check_sessions(connection: Connection, connect: Callable[[], Connection]) -> None:
    """Raise StoreError when a second connection, open at the same time, is served by the same session."""
    with connect() as other:
        for _ in range(_TRIES):
            if _session(connection) == _session(other):
                raise StoreError(SHARED_SESSIONS, transient=False)


def _session(connection: Connection) -> int:
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    assert row is not None
    return int(row[0])
