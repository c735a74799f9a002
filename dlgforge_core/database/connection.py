"""Connections to Postgres: how they are opened, and how long they wait for a server that stands still."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from dlgforge_core.config import PostgresConfig
from dlgforge_core.database.failures import CannotConnectError
from dlgforge_core.database.privileges import SCHEMA

T = TypeVar("T")

SILENCE_GRACE_S = 10.0
"""How much longer than a statement may take its answer is waited for, in seconds."""
_CANCEL_S = 5.0
# A peer that has vanished, or that no packet reaches, is found out within half a minute: keep-alives of an
# idle connection begin after so many seconds and come so often, and what was sent is acknowledged within so
# many milliseconds, or the connection is broken.
_IDLE_S, _INTERVAL_S, _COUNT = 10, 5, 3
_UNACKNOWLEDGED_MS = 30_000


class Connection(psycopg.Connection[Any]):
    """A connection that gives up on a server that stands still; see `_until_silent`."""

    silence_s = float("inf")

    def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        """Wait for an answer as psycopg does, for `silence_s` at most."""
        return super().wait(_until_silent(gen, self.pgconn, self.silence_s), *args, **options)


class AsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for an event loop."""

    silence_s = float("inf")

    async def wait(self, gen: PQGen[T], *args: Any, **options: Any) -> T:
        """Wait for an answer as psycopg does, for `silence_s` at most."""
        return await super().wait(_until_silent(gen, self.pgconn, self.silence_s), *args, **options)


def connect_arguments(config: PostgresConfig, application: str) -> dict[str, Any]:
    """Keyword arguments for psycopg's connect, common to all connections.

    TCP keep-alives find out within about half a minute that the peer of an idle connection has vanished;
    while something is unacknowledged the kernel sends none, and TCP_USER_TIMEOUT does that. Neither finds out
    that the server's process stands still, for its kernel goes on answering: `_until_silent` does. The other
    direction is `session_setup`'s.
    """
    return {
        "connect_timeout": max(1, round(config.connect_timeout_s)),
        "application_name": application,
        "keepalives_idle": _IDLE_S,
        "keepalives_interval": _INTERVAL_S,
        "keepalives_count": _COUNT,
        "tcp_user_timeout": _UNACKNOWLEDGED_MS,
    }


def session_setup(config: PostgresConfig) -> str:
    """Return SQL each new session starts with; a statement, not `options`, which poolers refuse.

    The server looks after us as we do after it: of a machine that vanished it would else keep the session,
    with its locks and what it had open, for two hours. Over a socket TCP's settings stay without effect.
    """
    settings = {
        "search_path": SCHEMA,
        "statement_timeout": round(config.statement_timeout_s * 1000),
        "tcp_keepalives_idle": _IDLE_S,
        "tcp_keepalives_interval": _INTERVAL_S,
        "tcp_keepalives_count": _COUNT,
        "tcp_user_timeout": _UNACKNOWLEDGED_MS,
    }
    return "; ".join([*(f"SET {name} TO {value}" for name, value in settings.items()), "SET TIME ZONE 'UTC'"])


def connect(dsn: str, config: PostgresConfig, application: str = "dlgforge") -> Connection:
    """Return a connection in autocommit mode, set to the run state's schema. Raises CannotConnectError.

    What runs on it fails with OperationalError when the server sends nothing for the time a statement may
    take and `SILENCE_GRACE_S` more.
    """
    try:
        made = Connection.connect(dsn, autocommit=True, **connect_arguments(config, application))
    except psycopg.OperationalError as error:
        raise CannotConnectError(str(error)) from None
    made.silence_s = config.statement_timeout_s + SILENCE_GRACE_S
    made.execute(session_setup(config).encode())
    return made


async def connect_async(dsn: str, config: PostgresConfig, application: str = "dlgforge") -> AsyncConnection:
    """Return an asynchronous connection, as `connect` opens them."""
    try:
        made = await AsyncConnection.connect(dsn, autocommit=True, **connect_arguments(config, application))
    except psycopg.OperationalError as error:
        raise CannotConnectError(str(error)) from None
    made.silence_s = config.statement_timeout_s + SILENCE_GRACE_S
    await made.execute(session_setup(config).encode())
    return made


async def timeline_of(connection: AsyncConnection) -> str:
    """Return which history of the database a server writes; another one after a fail-over or a restore.

    PostgreSQL's "Continuous Archiving", section Timelines: the first eight digits of a WAL file's name. Empty
    where the server does not say. Raises psycopg.OperationalError on a standby.
    """
    try:
        cursor = await connection.execute("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
        row = await cursor.fetchone()
    except (psycopg.ProgrammingError, psycopg.NotSupportedError):
        return ""
    return str(row[0]) if row else ""


def _until_silent(gen: PQGen[T], pgconn: psycopg.pq.abc.PGconn, limit_s: float) -> PQGen[T]:
    """Yield from a conversation, ended by OperationalError after `limit_s` seconds of silence.

    The server's own time-out of statements is no help against one that stands still: a stopped process, a
    disk that hangs. The connection is closed then: nobody waits for what would come later.
    """
    last_sign = time.monotonic()
    try:
        waits_for = next(gen)
        while True:
            ready = yield waits_for
            now = time.monotonic()
            if ready is None:  # psycopg was interrupted, and waits again for the statement to be cancelled
                last_sign, limit_s, ready = now, min(limit_s, _CANCEL_S), psycopg.waiting.READY_NONE
            elif ready & psycopg.waiting.READY_R:
                last_sign = now
            elif now - last_sign > limit_s:
                pgconn.finish()
                raise psycopg.OperationalError(f"the server is there but has sent nothing for {limit_s:g} s")
            waits_for = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
    yield from _sent(pgconn, limit_s)
    return result


def _sent(pgconn: psycopg.pq.abc.PGconn, limit_s: float) -> PQGen[None]:
    """Wait until all that a pipeline has queued is with the kernel.

    In a pipeline psycopg tries to send once, and then waits for an answer to what a long statement's rest,
    still here, has not asked yet.
    """
    began = time.monotonic()
    while (
        pgconn.status == psycopg.pq.ConnStatus.OK
        and pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF
        and pgconn.flush()
    ):
        ready = yield psycopg.waiting.WAIT_RW
        if ready and ready & psycopg.waiting.READY_R:
            pgconn.consume_input()
        elif time.monotonic() - began > limit_s:
            pgconn.finish()
            raise psycopg.OperationalError(f"the server has read nothing for {limit_s:g} s")
